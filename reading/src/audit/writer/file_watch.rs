//! Whether the log's own file takes lines, for its operator.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::audit::sink::SinkObserver;

/// What observers know the file by.
const NAME: &str = "file";

/// Tells the observer of the file as of a place that is required.
pub(super) struct FileWatch {
    observer: Arc<dyn SinkObserver>,
    is_away: AtomicBool,
    /// When the writer began what it does to the file now.
    since: Mutex<Option<Instant>>,
}

impl FileWatch {
    pub(super) fn new(observer: Arc<dyn SinkObserver>) -> Self {
        Self { observer, is_away: AtomicBool::new(false), since: Mutex::default() }
    }

    /// Does something to the file. The writer's thread calls it.
    pub(super) fn during<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        *self.since() = Some(Instant::now());
        let done = work().inspect_err(|error| self.away(&error.to_string()));
        *self.since() = None;
        done
    }

    /// Lines are durable.
    pub(super) fn back(&self) {
        if self.is_away.swap(false, Ordering::SeqCst) {
            self.observer.back(NAME);
        }
    }

    pub(super) fn is_away(&self) -> bool {
        self.is_away.load(Ordering::SeqCst)
    }

    /// Somebody has waited in vain for so long. Where it was for the file, it hangs.
    pub(super) fn waited(&self, time: Duration) {
        // Second places take their time too, and tell of it themselves.
        let hangs = self.since().is_some_and(|since| since.elapsed() > time / 2);
        if hangs {
            self.away("it hangs");
        }
    }

    fn away(&self, why: &str) {
        if !self.is_away.swap(true, Ordering::SeqCst) {
            self.observer.away(NAME, true, why);
        }
    }

    fn since(&self) -> MutexGuard<'_, Option<Instant>> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
