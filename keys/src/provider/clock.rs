//! Time as providers' layers see it.

use std::time::{Duration, Instant};

/// Time that passes, from some start on.
pub trait Clock: Send + Sync {
    /// Monotonic time since a start of its own.
    fn now(&self) -> Duration;

    /// Blocks the calling thread.
    fn sleep(&self, time: Duration);
}

/// The system's monotonic clock.
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn sleep(&self, time: Duration) {
        std::thread::sleep(time);
    }
}

/// A clock that stands still but for its sleepers, for tests.
#[cfg(test)]
#[derive(Default)]
pub(super) struct TestClock(pub(super) std::sync::Mutex<Duration>);

#[cfg(test)]
impl Clock for TestClock {
    fn now(&self) -> Duration {
        *self.0.lock().unwrap()
    }

    fn sleep(&self, time: Duration) {
        *self.0.lock().unwrap() += time;
    }
}
