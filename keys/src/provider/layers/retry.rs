//! Tries a request again that no answer came to.

use std::sync::Arc;
use std::time::Duration;

use super::interceptor::Interceptor;
use crate::provider::{Clock, ProviderError};

/// How a request that no answer came to is tried again.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// Longest pause before the second try; it doubles from try to try.
    pub first: Duration,
    /// Longest pause at all.
    pub most: Duration,
    /// No try begins later than this after the first one.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    /// Short enough for a caller that waits for a record: the caller comes again.
    fn default() -> Self {
        Self {
            first: Duration::from_millis(100),
            most: Duration::from_secs(2),
            deadline: Duration::from_secs(10),
        }
    }
}

pub(super) struct Retry {
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
}

impl Retry {
    pub(super) fn new(policy: RetryPolicy, clock: Arc<dyn Clock>) -> Self {
        Self { policy, clock }
    }
}

impl Interceptor for Retry {
    fn intercept<T>(
        &self,
        _: &'static str,
        _: &'static str,
        ask: &dyn Fn() -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        let start = self.clock.now();
        let mut longest = self.policy.first;
        loop {
            let error = match ask() {
                Err(error) if error.is_retryable() => error,
                answer => return answer,
            };
            let asked_for = if let ProviderError::Unavailable { retry_after, .. } = &error {
                *retry_after
            } else {
                None
            };
            // Anywhere up to the longest pause: processes that failed together must not come back
            // together.
            let pause = asked_for.unwrap_or_default().max(longest.mul_f64(fraction()));
            if (self.clock.now() + pause).saturating_sub(start) > self.policy.deadline {
                return Err(error);
            }
            self.clock.sleep(pause);
            longest = (longest * 2).min(self.policy.most);
        }
    }
}

/// Between 0 and 1. Without random bytes 1: nothing secret depends on it.
fn fraction() -> f64 {
    getrandom::u32().map_or(1.0, |n| f64::from(n) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::provider::clock::TestClock;

    fn away(retry_after: Option<Duration>) -> ProviderError {
        ProviderError::Unavailable { provider: "test", message: String::new(), retry_after }
    }

    fn denied() -> ProviderError {
        ProviderError::Denied { provider: "test", message: String::new() }
    }

    fn retry(clock: &Arc<TestClock>) -> Retry {
        Retry::new(RetryPolicy::default(), clock.clone())
    }

    #[test]
    fn tries_again_until_it_works() {
        let (clock, tries) = (Arc::new(TestClock::default()), Cell::new(0));
        let ask = || {
            tries.set(tries.get() + 1);
            if tries.get() < 4 { Err(away(None)) } else { Ok(7) }
        };
        assert_eq!(retry(&clock).intercept("test", "wrap", &ask).unwrap(), 7);
        assert!(clock.now() <= Duration::from_millis(100 + 200 + 400));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let (clock, tries) = (Arc::new(TestClock::default()), Cell::new(0));
        let ask = || -> Result<(), _> {
            tries.set(tries.get() + 1);
            Err(denied())
        };
        assert!(retry(&clock).intercept("test", "wrap", &ask).is_err());
        assert_eq!(tries.get(), 1);
    }

    #[test]
    fn gives_up_by_the_deadline_also_when_each_try_is_slow() {
        let (clock, tries) = (Arc::new(TestClock::default()), Cell::new(0));
        let ask = || -> Result<(), _> {
            tries.set(tries.get() + 1);
            clock.sleep(Duration::from_secs(2));
            Err(away(None))
        };
        assert!(retry(&clock).intercept("test", "wrap", &ask).is_err());
        assert!((4..=6).contains(&tries.get()), "{tries:?}");
        assert!(clock.now() <= Duration::from_secs(12));
    }

    #[test]
    fn waits_as_long_as_the_service_asks_for_but_not_beyond_the_deadline() {
        let (clock, tries) = (Arc::new(TestClock::default()), Cell::new(0));
        let ask = || {
            tries.set(tries.get() + 1);
            if tries.get() == 1 { Err(away(Some(Duration::from_secs(3)))) } else { Ok(()) }
        };
        retry(&clock).intercept("test", "wrap", &ask).unwrap();
        assert!(clock.now() >= Duration::from_secs(3));
        let ask = || -> Result<(), _> { Err(away(Some(Duration::from_secs(60)))) };
        let before = clock.now();
        assert!(retry(&clock).intercept("test", "wrap", &ask).is_err());
        assert_eq!(clock.now(), before);
    }
}
