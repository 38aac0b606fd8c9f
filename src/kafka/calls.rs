//! Calls that may not return: each runs on a thread beside the caller, who goes on without it after
//! a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

type Call = Box<dyn FnOnce() + Send>;

/// A thread for calls of one caller, one after another.
pub(crate) struct Calls {
    calls: Sender<Call>,
    is_hung: AtomicBool,
}

impl Calls {
    /// Its thread ends with it, or when the call it is in returns.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub(crate) fn start(name: &str) -> std::io::Result<Self> {
        let (calls, queue) = mpsc::channel::<Call>();
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || queue.into_iter().for_each(|call| call()))?;
        Ok(Self { calls, is_hung: AtomicBool::new(false) })
    }

    /// The call's result; `None`: it did not return within `limit`, or one before it did not. It
    /// goes on, and nobody waits for it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        limit: Duration,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> Option<T> {
        let (answer, answered) = mpsc::sync_channel(1);
        let call = move || {
            // Too late, and nobody listens any more.
            let _ = answer.send(call());
        };
        // Queued behind a call that hangs, too: what it holds is dropped in order.
        self.calls.send(Box::new(call)).ok()?;
        if self.is_hung() {
            return None;
        }
        match answered.recv_timeout(limit) {
            Ok(result) => Some(result),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.is_hung.store(true, Ordering::Release);
                None
            }
        }
    }

    /// A call did not return.
    pub(crate) fn is_hung(&self) -> bool {
        self.is_hung.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(20);
    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn a_call_that_does_not_return_is_left_behind_and_keeps_what_it_holds() {
        let calls = Calls::start("test").unwrap();
        assert_eq!(calls.run(LONG, || 7), Some(7));
        let (release, held) = mpsc::channel::<()>();
        let (done, is_done) = mpsc::channel();
        assert_eq!(calls.run(SHORT, move || held.recv().is_ok()), None);
        assert!(calls.is_hung());
        assert_eq!(
            calls.run(LONG, move || done.send(()).unwrap()),
            None,
            "nobody waits behind a call that hangs"
        );
        drop(calls);
        assert!(is_done.recv_timeout(SHORT).is_err());
        release.send(()).unwrap();
        is_done.recv_timeout(LONG).unwrap();
    }
}
