//! The handle that lines are handed to, and the thread that makes them durable.

mod copier;
mod file_watch;
mod queue;
mod span;
mod state;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use file_watch::FileWatch;
use queue::{Queue, Ticket};
use state::State;

use super::checkpoint::Signer;
use super::hex::Hex;
use super::line::{Drafts, Entry, Event, LedgerHead};
use super::recipient::Recipient;
use super::sink::{NoObserver, SinkObserver, SinkSettings};
use super::{AuditError, side_file};

/// Where the erasure ledger's head is asked for. Must not block.
pub type LedgerSource = Arc<dyn Fn() -> Option<LedgerHead> + Send + Sync>;
/// Unix seconds.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How long the first line of all may take, for which connections are made, and the last ones.
const START: Duration = Duration::from_secs(10);

/// How a log is written.
pub struct Settings {
    /// The file; `.1` to `.63` are put behind its name where others write to it.
    pub file: PathBuf,
    /// Whom chains' first keys are sealed to.
    pub recipient: Recipient,
    /// Signs checkpoints.
    pub signer: Signer,
    /// Who writes: `actor` of the lines `start` and `stop`.
    pub actor: String,
    /// The head that the line `start` names.
    pub ledger: LedgerSource,
    /// The time.
    pub clock: Clock,
    /// A line that is not durable after this time is refused.
    pub deadline: Duration,
    /// A checkpoint covers at most so many lines.
    pub checkpoint_lines: usize,
    /// The longest time between checkpoints.
    pub checkpoint_every: Duration,
    /// A file of so many bytes ends.
    pub file_bytes: u64,
    /// Second places. With one at least, a chain discloses nothing before its first line is there.
    pub sinks: Vec<SinkSettings>,
    /// Hears of them, and of the file as of one that is required.
    pub observer: Arc<dyn SinkObserver>,
}

impl Settings {
    /// A log as docs/formats.md has it: 2 s, 1,000 lines, 60 s, 1 GiB, no ledger and no second
    /// place.
    #[must_use]
    pub fn new(file: PathBuf, recipient: Recipient, signer: Signer, actor: String) -> Self {
        Self {
            file,
            recipient,
            signer,
            actor,
            ledger: Arc::new(|| None),
            clock: Arc::new(|| {
                std::time::SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs())
            }),
            deadline: Duration::from_secs(2),
            checkpoint_lines: 1000,
            checkpoint_every: Duration::from_secs(60),
            file_bytes: 1 << 30,
            sinks: Vec::new(),
            observer: Arc::new(NoObserver),
        }
    }
}

/// Lines that are durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Durable {
    /// The chain they are in.
    pub chain: Hex<16>,
    /// The number of the first; the others follow it, but for a checkpoint in between.
    pub seq: u64,
}

/// The audit log of this process. Cheap to clone; for threads that may block, and by
/// [`AuditLog::submit`] for tasks. When the last one is dropped, the log stops as by
/// [`AuditLog::stop`].
#[derive(Clone)]
pub struct AuditLog(Arc<Handle>);

struct Handle {
    queue: Arc<Queue>,
    watch: Arc<FileWatch>,
    file: PathBuf,
    deadline: Duration,
    /// The writer's; `None`: somebody has waited for its end.
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl AuditLog {
    /// Starts a writer. Its chain has its first line when this returns.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`].
    pub fn open(settings: Settings) -> Result<Self, AuditError> {
        let queue = Arc::new(Queue::default());
        let (file, deadline) = (settings.file.clone(), settings.deadline);
        let watch = Arc::new(FileWatch::new(settings.observer.clone()));
        let mut state = State::new(settings, &queue, watch.clone())
            .map_err(|error| AuditError::unavailable(&file, error))?;
        let its_queue = queue.clone();
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || {
                // However the thread ends, nobody waits for it.
                let _closed = its_queue.close_at_end();
                state.run(&its_queue);
            })
            .map_err(|error| AuditError::unavailable(&file, error))?;
        let thread = Mutex::new(Some(thread));
        let log = Self(Arc::new(Handle { queue, watch, file, deadline, thread }));
        let ticket =
            log.0.queue.push(Drafts::default()).map_err(|refused| refused.to_error(log.file()))?;
        log.wait_for(&ticket, deadline.max(START))?;
        Ok(log)
    }

    /// Adds lines, in order and in one chain, and waits until they are durable: at most for the
    /// deadline of [`Settings`]. What the entries tell of may happen when this returned `Ok`, and
    /// not before. References in [`Entry::bulk`] are written to a side file first.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`]: the lines are not durable, or not in time. They may be in the
    /// log all the same; what they tell of must not happen. [`AuditError::Line`]: an entry is no
    /// line, and none was written.
    pub fn append(&self, entries: Vec<Entry>) -> Result<Durable, AuditError> {
        self.submit(entries)?.wait()
    }

    /// The first half of [`AuditLog::append`]: hands the lines over, and returns at once. The second
    /// is what it returns: a thread waits for it, or a task.
    ///
    /// # Errors
    /// As [`AuditLog::append`].
    pub fn submit(&self, entries: Vec<Entry>) -> Result<Pending, AuditError> {
        entries.iter().try_for_each(Entry::check)?;
        let ticket = self
            .0
            .queue
            .push(entries.into_iter().collect())
            .map_err(|refused| refused.to_error(&self.0.file))?;
        Ok(Pending { log: self.clone(), ticket })
    }

    /// Keeps a set of policies beside the log, under the hash that lines name it by: later it says
    /// what was in force. Durable when it returns.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`]: the set must not decide anything.
    pub fn keep_policy(&self, document: &str) -> Result<Hex<32>, AuditError> {
        side_file::write_policy(&self.0.file, document)
            .map_err(|error| AuditError::unavailable(&self.0.file, error))
    }

    /// Writes the line `stop` and a checkpoint, and ends the writer. Later lines are refused. Second
    /// places have ten seconds for the last lines; a required one gets what it lacks from the next
    /// process.
    ///
    /// # Errors
    /// [`AuditError::Unavailable`].
    pub fn stop(&self) -> Result<(), AuditError> {
        let ticket = self.0.queue.stop();
        self.wait_for(&ticket, self.0.deadline.max(START)).map(drop)
    }

    /// As [`AuditLog::stop`], and returns when the writer's thread is gone: with its file, its lock,
    /// and what it held of the key store. A process that is about to be copied waits for that.
    ///
    /// # Errors
    /// As [`AuditLog::stop`]; the thread is gone all the same.
    pub fn end(&self) -> Result<(), AuditError> {
        let stopped = self.stop();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // One that panicked is gone too.
            let _ = thread.join();
        }
        stopped
    }

    /// The file as configured.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.0.file
    }

    fn wait_for(&self, ticket: &Ticket, time: Duration) -> Result<Durable, AuditError> {
        ticket.wait(Instant::now() + time).unwrap_or_else(|| Err(self.late(time)))
    }

    fn late(&self, time: Duration) -> AuditError {
        self.0.watch.waited(time);
        let why = format_args!("it took longer than {} s", time.as_secs_f32());
        AuditError::unavailable(&self.0.file, why)
    }
}

/// Lines that are on their way. As a future it has no deadline of its own. Dropped, they are written
/// all the same.
#[must_use = "what the lines tell of must not happen before they are durable"]
pub struct Pending {
    log: AuditLog,
    ticket: Arc<Ticket>,
}

impl Pending {
    /// Waits until they are durable: at most for the deadline of [`Settings`]. Blocks.
    ///
    /// # Errors
    /// As [`AuditLog::append`].
    pub fn wait(self) -> Result<Durable, AuditError> {
        self.log.wait_for(&self.ticket, self.deadline())
    }

    /// The deadline of [`Settings`].
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.log.0.deadline
    }

    /// Gives them up after the deadline, with the error that tells so. What is not being written yet
    /// will not be.
    #[must_use]
    pub fn give_up(self) -> AuditError {
        self.ticket.abandon();
        self.log.late(self.deadline())
    }
}

impl Future for Pending {
    type Output = Result<Durable, AuditError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.ticket.poll(cx)
    }
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pending({})", self.log.file().display())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.queue.stop());
    }
}

impl fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AuditLog({})", self.0.file.display())
    }
}

/// The entry of a chain's first line.
fn start(settings: &Settings) -> Entry {
    Entry {
        actor: Some(settings.actor.clone()),
        ledger: (settings.ledger)(),
        ..Entry::new(Event::Start)
    }
}
