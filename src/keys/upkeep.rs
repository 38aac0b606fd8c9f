//! Keys of a command that may run for long, fed from a pipe: it hears of erasures and rotations as
//! soon as the sidecar does.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use super::KeySource;

/// Between two looks at what others did to keys.
const LOOK: Duration = Duration::from_secs(1);

/// Looks after keys until it is dropped.
#[derive(Debug)]
pub struct Upkeep {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Upkeep {
    /// Looks after these keys.
    ///
    /// # Errors
    /// No thread can be made.
    pub fn of(keys: &Arc<dyn KeySource>) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let keys = keys.clone();
        let look = move || {
            while stopped.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                keys.maintain();
            }
        };
        let thread = std::thread::Builder::new().name("keys".to_owned()).spawn(look)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
