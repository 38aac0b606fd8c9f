//! The writer's thread: its chain, its file, and what happens when one of them ends.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use veilstream_keys::time;
use zeroize::Zeroizing;

use super::copier::{Behind, Copiers};
use super::file_watch::FileWatch;
use super::queue::{Queue, Request, Ticket, Work};
use super::span::{Span, lacking};
use super::{Durable, START, Settings, start};
use crate::audit::AuditError;
use crate::audit::chain::{Beginning, Chain};
use crate::audit::file::{LogFile, Tail};
use crate::audit::hex::Hex;
use crate::audit::line::{Drafts, Entry, Event, Predecessor};
use crate::audit::side_file::References;

/// Requests in one batch. Each has one line most of the time.
const BATCH: usize = 4096;
/// How long requests that are likely to come are waited for: no longer than the last write took, and
/// no longer than this.
const GATHER: Duration = Duration::from_millis(1);
/// What a clock may jump by without a line about it.
const JUMP: u64 = 60;
const DAY: u64 = 86_400;
/// Time between two tries of a file that takes no lines, where nobody asks for one.
const RETRY: Duration = Duration::from_secs(5);

/// What the thread has in hand.
pub(super) struct State {
    settings: Settings,
    open: Option<Open>,
    /// What the next chain names.
    predecessor: Option<Predecessor>,
    /// A file that is to be renamed before the next chain begins, and the chain that it ends with.
    over: Option<(LogFile, Hex<16>)>,
    /// When the clock was last looked at, and what it said.
    looked: Option<(Instant, u64)>,
    checkpoint_due: Instant,
    copiers: Copiers,
    /// Required places for which lines were refused, and of which no line tells yet.
    paused: BTreeSet<&'static str>,
    watch: Arc<FileWatch>,
    /// Names of files for which it is known what earlier processes left to the second places.
    adopted: HashSet<PathBuf>,
    /// A first chain has its first line where it must be.
    is_started: bool,
}

/// A chain in its file.
struct Open {
    file: LogFile,
    chain: Chain,
    /// As of the last durable line.
    durable: Predecessor,
    /// Days since 1970.
    day: u64,
}

/// Lines that become durable together.
struct Batch<'c> {
    chain: &'c mut Chain,
    time: &'c str,
    /// Lines that a checkpoint covers at most.
    most: usize,
    bytes: Vec<u8>,
    lines: u64,
    has_checkpoint: bool,
}

impl Batch<'_> {
    /// Adds lines; where they begin.
    fn add(&mut self, lines: &Drafts) -> Durable {
        let mut first = None;
        for draft in lines.iter() {
            if self.chain.uncovered() >= self.most {
                self.checkpoint();
            }
            first.get_or_insert(self.chain.seq() + 1);
            self.chain.line(draft, self.time, &mut self.bytes);
            self.end_line();
        }
        let seq = first.unwrap_or_else(|| self.chain.seq());
        Durable { chain: Hex(self.chain.id()), seq }
    }

    fn checkpoint(&mut self) {
        self.chain.checkpoint(self.time, &mut self.bytes);
        self.end_line();
        self.has_checkpoint = true;
    }

    fn end_line(&mut self) {
        self.bytes.push(b'\n');
        self.lines += 1;
    }
}

impl State {
    /// Starts the threads of second places.
    pub(super) fn new(
        mut settings: Settings,
        queue: &Arc<Queue>,
        watch: Arc<FileWatch>,
    ) -> io::Result<Self> {
        let sinks = std::mem::take(&mut settings.sinks);
        let copiers = Copiers::start(sinks, settings.observer.clone(), &settings.file, queue)?;
        Ok(Self {
            checkpoint_due: Instant::now() + settings.checkpoint_every,
            settings,
            open: None,
            predecessor: None,
            over: None,
            looked: None,
            copiers,
            paused: BTreeSet::new(),
            watch,
            adopted: HashSet::new(),
            is_started: false,
        })
    }

    /// Works until it is told to stop.
    pub(super) fn run(&mut self, queue: &Queue) {
        let mut took = Duration::ZERO;
        loop {
            match queue.next(self.checkpoint_due, took.min(GATHER), BATCH) {
                Work::Requests(requests) => {
                    let began = Instant::now();
                    self.commit(requests);
                    took = began.elapsed();
                }
                Work::Stop(ticket) => {
                    self.stop(&ticket);
                    return;
                }
            }
        }
    }

    /// Makes requests durable with one fsync, and tells who waits.
    fn commit(&mut self, mut requests: Vec<Request>) {
        requests.retain(|request| match self.write_side_files(&request.lines) {
            Ok(()) => true,
            Err(error) => {
                let error = AuditError::unavailable(&self.settings.file, error);
                request.ticket.finish(Err(error));
                false
            }
        });
        let (lines, tickets): (Vec<Drafts>, Vec<Arc<Ticket>>) =
            requests.into_iter().map(|request| (request.lines, request.ticket)).unzip();
        match self.write(&lines) {
            Ok(durable) => {
                for (ticket, durable) in tickets.iter().zip(durable) {
                    ticket.finish(Ok(durable));
                }
            }
            Err(error) => {
                let every = self.settings.checkpoint_every;
                let pause = if self.watch.is_away() { every.min(RETRY) } else { every };
                self.checkpoint_due = Instant::now() + pause;
                let error = AuditError::unavailable(&self.settings.file, error);
                tickets.iter().for_each(|ticket| ticket.finish(Err(error.clone())));
            }
        }
    }

    /// Writes the side files of a request, before its lines. One that fails is this request's alone:
    /// the file of lines may be well.
    fn write_side_files(&self, lines: &Drafts) -> io::Result<()> {
        let write = |references: &References| {
            self.watch.during(|| Ok(references.write(&self.settings.file)))?
        };
        lines.references.iter().try_for_each(write)
    }

    fn stop(&mut self, ticket: &Ticket) {
        let entry = Entry {
            actor: Some(self.settings.actor.clone()),
            // Near the end of the file, where the next start looks.
            ledger: (self.settings.ledger)(),
            ..Entry::new(Event::Stop)
        };
        // Nobody's answer waits for it, and the next process may be long in coming.
        let patience = self.settings.deadline.max(START).mul_f32(0.4);
        self.copiers.drain(Instant::now() + patience);
        let mut entries: Vec<Entry> = self.copiers.give_up().into_iter().map(gap).collect();
        entries.push(entry);
        // Without a chain there is nothing to end.
        let result = match &self.open {
            None => Ok(Vec::new()),
            Some(_) => self.write_lines(&[entries.into_iter().collect()], true),
        };
        self.copiers.drain(Instant::now() + patience);
        // Anyone who waits may open the log again: its file must be free by then.
        (self.open, self.over) = (None, None);
        let first = Durable { chain: Hex([0; 16]), seq: 0 };
        ticket.finish(
            result
                .map(|durable| durable.first().copied().unwrap_or(first))
                .map_err(|error| AuditError::unavailable(&self.settings.file, error)),
        );
    }

    /// Writes each request's lines; where each begins. What a required place lacks goes before: else
    /// the log would fill with disclosures that were refused.
    fn write(&mut self, requests: &[Drafts]) -> io::Result<Vec<Durable>> {
        let until = Instant::now() + self.patience();
        if self.open.is_some() {
            self.wait_for_copies(until)?;
        }
        let watch = self.watch.clone();
        watch.during(|| self.open_file())?;
        self.wait_for_copies(until)?;
        self.is_started = true;
        let durable = watch.during(|| self.write_lines(requests, false))?;
        watch.back();
        self.wait_for_copies(until)?;
        Ok(durable)
    }

    /// Sees to a chain in a file that may be written to.
    fn open_file(&mut self) -> io::Result<()> {
        // A chain whose first line finds no place would disclose nothing: the present one goes on.
        if self.open.is_none() || self.copiers.take_first_lines() {
            self.end_what_is_over()?;
        }
        if self.open.is_none() {
            self.open = Some(self.begin()?);
            self.checkpoint_due = Instant::now() + self.settings.checkpoint_every;
        }
        Ok(())
    }

    /// How long a batch waits for second places: those who wait for it have the last word.
    fn patience(&self) -> Duration {
        let deadline = self.settings.deadline;
        if self.is_started { deadline } else { deadline.max(START) }.mul_f32(0.9)
    }

    fn wait_for_copies(&mut self, until: Instant) -> io::Result<()> {
        self.copiers.wait(until).map_err(|behind: Behind| {
            self.paused.extend(behind.required());
            behind.to_error()
        })
    }

    fn write_lines(&mut self, requests: &[Drafts], is_last: bool) -> io::Result<Vec<Durable>> {
        let now = (self.settings.clock)();
        let (time, jump) = (time::text(now), self.jump(now));
        let Some(open) = &mut self.open else { return Err(io::Error::other("it has no chain")) };
        let most = self.settings.checkpoint_lines;
        let mut batch = Batch {
            chain: &mut open.chain,
            time: &time,
            most,
            bytes: Vec::new(),
            lines: 0,
            has_checkpoint: false,
        };
        let gaps = self.copiers.take_gaps();
        // Such a place is caught up before anything is written, but for the end of the log.
        let paused = self.paused.iter().map(|place| (*place, 0));
        batch.add(&jump.into_iter().chain(paused.chain(gaps.iter().copied()).map(gap)).collect());
        let durable = requests.iter().map(|lines| batch.add(lines)).collect();
        if is_last || Instant::now() >= self.checkpoint_due || batch.chain.uncovered() >= most {
            batch.checkpoint();
        }
        let Batch { bytes, lines, has_checkpoint, .. } = batch;
        if !bytes.is_empty() {
            let from = open.file.len();
            if let Err(error) = open.file.write(&bytes) {
                self.copiers.give_back(&gaps);
                self.fail();
                return Err(error);
            }
            open.durable = open.chain.as_predecessor();
            self.paused.clear();
            self.copiers.give(&span(&open.file, from, lines), false);
        }
        if has_checkpoint {
            self.checkpoint_due = Instant::now() + self.settings.checkpoint_every;
        }
        Ok(durable)
    }

    /// Ends the chain after a write that failed: whether its lines are there cannot be known, and
    /// asking for an fsync again would answer for other bytes. The next chain has a new file.
    fn fail(&mut self) {
        let Some(Open { mut file, chain, mut durable, .. }) = self.open.take() else { return };
        durable.torn = file.take_back();
        self.predecessor = Some(durable);
        self.over = Some((file, Hex(chain.id())));
    }

    /// Ends a file that is full, of another day, or failed.
    fn end_what_is_over(&mut self) -> io::Result<()> {
        let now = (self.settings.clock)();
        let is_over = self.open.as_ref().is_some_and(|open| {
            open.day != now / DAY || open.file.len() >= self.settings.file_bytes
        });
        if is_over {
            if self.open.as_ref().is_some_and(|open| open.chain.uncovered() > 0) {
                self.write_lines(&[], true)?;
            }
            if let Some(Open { file, durable, .. }) = self.open.take() {
                let chain = durable.chain;
                self.predecessor = Some(durable);
                self.over = Some((file, chain));
            }
        }
        if let Some((file, chain)) = &self.over {
            file.end(chain, now)?;
            self.over = None;
        }
        Ok(())
    }

    /// A new chain in a file, with its first line durable.
    fn begin(&mut self) -> io::Result<Open> {
        let now = (self.settings.clock)();
        let mut file = LogFile::acquire(&self.settings.file)?;
        let mut is_open = false;
        if let Some(tail) = self.tail(&mut file)? {
            self.check_ledger(&tail)?;
            let is_over = tail.seconds / DAY != now / DAY || file.len() >= self.settings.file_bytes;
            let chain = tail.last.chain;
            self.predecessor = Some(tail.last);
            if is_over {
                file.end(&chain, now)?;
                file = LogFile::acquire(&self.settings.file)?;
                if file.len() > 0 {
                    return Err(io::Error::other("another process took its place; try again"));
                }
            } else {
                is_open = tail.is_open;
            }
        } else if self.predecessor.is_none() {
            self.predecessor = file.last_ended()?;
        }
        let time = time::text(now);
        let (chain, line) = Chain::begin(
            self.beginning()?,
            start(&self.settings),
            &time,
            self.settings.signer.clone(),
        );
        let line_feed: &[u8] = if is_open { b"\n" } else { b"" };
        self.adopt(&file)?;
        let from = file.len() + line_feed.len() as u64;
        if let Err(error) = file.write(&[line_feed, &line, b"\n"].concat()) {
            self.give_up(file);
            return Err(error);
        }
        self.copiers.give(&span(&file, from, 1), true);
        self.looked = None;
        self.predecessor = None;
        let durable = chain.as_predecessor();
        Ok(Open { file, chain, durable, day: now / DAY })
    }

    /// Hands what an earlier process left to the required places over, before this one's lines.
    fn adopt(&mut self, file: &LogFile) -> io::Result<()> {
        if self.adopted.insert(file.path().to_owned()) {
            for name in self.copiers.required() {
                self.copiers.give_lacking(name, lacking(file.path(), name)?);
            }
        }
        Ok(())
    }

    /// How a file ends that is to be followed; `None`: it is empty.
    fn tail(&self, file: &mut LogFile) -> io::Result<Option<Tail>> {
        if file.len() == 0 || file.clear_half_line()? {
            return Ok(None);
        }
        file.tail()?.map(Some).ok_or_else(|| {
            io::Error::other(format!(
                "{} has no line of an audit log; move it away, or name another audit.file",
                file.path().display()
            ))
        })
    }

    /// Refuses an erasure ledger that is older than what the log says of it: an old ledger with an
    /// old key store looks like the truth, and the erased would be back.
    fn check_ledger(&self, tail: &Tail) -> io::Result<()> {
        match (self.settings.ledger)() {
            Some(head) if tail.is_ahead_of(&head) => Err(io::Error::other(format!(
                "its lines know more of the erasure ledger than line {}, where the ledger ends \
                now. Restore the present ledger and key store",
                head.seq
            ))),
            _ => Ok(()),
        }
    }

    /// After a first line that failed: a new file is removed, another one ends.
    fn give_up(&mut self, mut file: LogFile) {
        let is_torn = file.take_back();
        if file.len() == 0 {
            // It holds no line that anybody relies on; one that stays is found again.
            let _ = file.discard();
        } else if let Some(predecessor) = &mut self.predecessor {
            predecessor.torn |= is_torn;
            self.over = Some((file, predecessor.chain));
        }
    }

    fn beginning(&self) -> io::Result<Beginning> {
        let (mut id, mut k1) = ([0; 16], Zeroizing::new([0; 32]));
        getrandom::fill(&mut id).map_err(io::Error::other)?;
        getrandom::fill(&mut *k1).map_err(io::Error::other)?;
        let sealed = self.settings.recipient.seal(id, &k1).map_err(io::Error::other)?;
        Ok(Beginning { id, k1, sealed, predecessor: self.predecessor.clone() })
    }

    /// A line about a clock that went back, or jumped by more than a minute.
    fn jump(&mut self, now: u64) -> Option<Entry> {
        let instant = Instant::now();
        let looked = self.looked.replace((instant, now));
        let (then, said) = looked?;
        let expected = said + instant.duration_since(then).as_secs();
        let what = if now + 1 < said {
            format!("the clock went back by {} s", said - now)
        } else if now.abs_diff(expected) > JUMP {
            format!("the clock jumped by {} s", now.abs_diff(expected))
        } else {
            return None;
        };
        Some(Entry { reason: Some(what), ..Entry::new(Event::Clock) })
    }
}

/// Lines that were just written to a file, from there on.
fn span(file: &LogFile, from: u64, lines: u64) -> Span {
    Span { file: file.reader(), slot: file.path().into(), from, to: file.len(), lines }
}

/// The line about what a place missed; of a required one that was away: nothing.
fn gap((place, missed): (&'static str, u64)) -> Entry {
    Entry { reason: Some(place.to_owned()), items: Some(missed), ..Entry::new(Event::Gap) }
}
