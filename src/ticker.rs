//! Something that is done every now and then, on a thread of its own: what blocks there keeps
//! nothing else waiting.

use std::io;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long the end of a tick is waited for.
const LEAVE: Duration = Duration::from_secs(5);

/// Does it until it is dropped.
#[derive(Debug)]
#[must_use = "it ends when it is dropped"]
pub struct Ticker {
    stop: Option<Sender<()>>,
    /// By when it must have ended. `None`: nobody asked for the end.
    leave: Option<Instant>,
    ended: Mutex<Receiver<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Ticker {
    /// Does `tick` again and again, `every` time after it ended.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        name: &str,
        every: Duration,
        mut tick: impl FnMut() + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while stopped.recv_timeout(every) == Err(RecvTimeoutError::Timeout) {
                tick();
            }
            drop(end);
        })?;
        let ended = Mutex::new(ended);
        Ok(Self { stop: Some(stop), leave: None, ended, thread: Some(thread) })
    }

    /// Asks for the end without waiting for it, for anyone who ends several.
    pub fn ask_to_end(&mut self) {
        drop(self.stop.take());
        self.leave.get_or_insert_with(|| Instant::now() + LEAVE);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.ask_to_end();
        let left = self.leave.map_or(LEAVE, |at| at.saturating_duration_since(Instant::now()));
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Nobody waits for a tick that waits for a server.
        if ended.recv_timeout(left) != Err(RecvTimeoutError::Timeout)
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
