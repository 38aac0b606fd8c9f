//! Parts that are closed around a fork, and opened again when they are needed next.
//!
//! A copied process would have the nonces, the audit chain and the SQLite locks of its parent, and
//! none of its threads. So nothing is open while Python forks: calls under way end, the audit chain
//! gets its end, keys and connections go. Parent and child each open again at their next call.

use std::sync::{Condvar, Mutex, PoisonError, RwLock};

use crate::fault::VeilFault;

/// Whether parts may be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Usable,
    /// A fork is under way.
    Forking,
    Closed,
}

/// Parts of one process.
pub(crate) struct Gate<P> {
    pid: u32,
    phase: Mutex<Phase>,
    changed: Condvar,
    parts: RwLock<Option<P>>,
}

impl<P> Gate<P> {
    /// Nothing is open yet.
    pub(crate) fn new() -> Self {
        Self {
            pid: std::process::id(),
            phase: Mutex::new(Phase::Usable),
            changed: Condvar::new(),
            parts: RwLock::new(None),
        }
    }

    /// Works with the parts, which `open` opens where they are not.
    ///
    /// # Errors
    /// They are closed for good or belong to another process, or do not open.
    pub(crate) fn with<T>(
        &self,
        open: impl Fn() -> Result<P, VeilFault>,
        work: impl FnOnce(&P) -> Result<T, VeilFault>,
    ) -> Result<T, VeilFault> {
        self.check_process()?;
        loop {
            {
                let parts = self.parts.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(parts) = &*parts {
                    return work(parts);
                }
            }
            self.wait()?;
            let mut parts = self.parts.write().unwrap_or_else(PoisonError::into_inner);
            // A fork that began meanwhile waits for this lock, to close what is open.
            if parts.is_none() && self.phase() == Phase::Usable {
                *parts = Some(open()?);
            }
        }
    }

    /// # Errors
    /// The parts belong to another process.
    pub(crate) fn check_process(&self) -> Result<(), VeilFault> {
        if std::process::id() == self.pid { Ok(()) } else { Err(VeilFault::Forked) }
    }

    /// Closes the parts once calls under way have ended, until [`Gate::after_fork`].
    pub(crate) fn before_fork(&self) {
        self.turn(|phase| if phase == Phase::Closed { phase } else { Phase::Forking });
        self.drop_parts();
    }

    /// The parent goes on.
    pub(crate) fn after_fork(&self) {
        self.turn(|phase| if phase == Phase::Forking { Phase::Usable } else { phase });
    }

    /// Closes the parts for good.
    pub(crate) fn close(&self) {
        if std::process::id() == self.pid {
            self.turn(|_| Phase::Closed);
            self.drop_parts();
        }
    }

    fn phase(&self) -> Phase {
        *self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self, next: impl FnOnce(Phase) -> Phase) {
        let mut phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        *phase = next(*phase);
        self.changed.notify_all();
    }

    /// Waits until no fork is under way.
    fn wait(&self) -> Result<(), VeilFault> {
        let phase = self.phase.lock().unwrap_or_else(PoisonError::into_inner);
        let phase = self
            .changed
            .wait_while(phase, |phase| *phase == Phase::Forking)
            .unwrap_or_else(PoisonError::into_inner);
        if *phase == Phase::Closed { Err(VeilFault::Closed) } else { Ok(()) }
    }

    fn drop_parts(&self) {
        drop(self.parts.write().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl<P> Drop for Gate<P> {
    fn drop(&mut self) {
        // What another process opened is left as it is: its threads are not here to end.
        if std::process::id() != self.pid {
            let parts = self.parts.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            std::mem::forget(parts);
        }
    }
}
