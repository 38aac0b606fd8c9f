//! Threads that ask the key store and the key service. A caller waits for them, and not for ever: a
//! server may hang without an error.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::fault::RequestFault;
use super::prepared::blocking;
use crate::keys::KeyFault;

/// A key service is tried for ten seconds, and its last request may take five.
const DEADLINE: Duration = Duration::from_secs(15);
/// What waits for a server that hangs is bounded. Callers beyond it wait for a place first.
const MOST: usize = 64;

/// See the module.
pub(super) struct KeyThreads {
    places: Arc<Semaphore>,
    deadline: Duration,
}

impl Default for KeyThreads {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), deadline: DEADLINE }
    }
}

impl KeyThreads {
    /// [`KeyThreads::run`], for a thread that waits.
    pub(super) fn wait_for<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RequestFault> + Send + 'static,
    ) -> Result<T, RequestFault> {
        let runtime = Handle::current();
        blocking(|| runtime.block_on(self.run(work)))
    }

    /// What came of it. Late work is not stopped; nobody hears of it.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, RequestFault> + Send + 'static,
    ) -> Result<T, RequestFault> {
        let places = self.places.clone();
        let done = async move {
            let place = places.acquire_owned().await;
            let with_place = move || {
                let _place = place;
                work()
            };
            spawn_blocking(with_place).await.unwrap_or_else(|error| {
                tracing::error!(%error, "a request failed; it was answered with 500");
                Err(RequestFault::Internal)
            })
        };
        timeout(self.deadline, done).await.unwrap_or_else(|_| {
            let waited = self.deadline.as_secs();
            Err(KeyFault(format!("key store and key service do not answer within {waited} s")))?
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn who_waits_for_what_hangs_is_told_in_time() {
        let deadline = Duration::from_millis(50);
        let threads = KeyThreads { places: Arc::new(Semaphore::new(1)), deadline };
        let (release, held) = mpsc::channel::<()>();
        let hanging = threads.run(move || Ok(held.recv().is_err())).await;
        assert!(matches!(hanging, Err(RequestFault::Keys(_))));
        let waiting = threads.run(|| Ok(true)).await;
        assert!(matches!(waiting, Err(RequestFault::Keys(_))), "the place is taken");
        drop(release);
        while !threads.run(|| Ok(true)).await.is_ok_and(|is_done| is_done) {}
    }
}
