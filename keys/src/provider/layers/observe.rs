//! Tells an observer of each request: its operation, its outcome and the time it took.

use std::sync::Arc;
use std::time::Duration;

use super::interceptor::Interceptor;
use crate::provider::{Clock, ProviderError};

/// Learns of every request to a provider, each try by itself.
pub trait Observer: Send + Sync {
    /// `outcome` is `ok` or [`ProviderError::outcome`].
    fn asked(
        &self,
        provider: &'static str,
        operation: &'static str,
        outcome: &'static str,
        took: Duration,
    );
}

pub(super) struct Observe {
    observer: Arc<dyn Observer>,
    clock: Arc<dyn Clock>,
}

impl Observe {
    pub(super) fn new(observer: Arc<dyn Observer>, clock: Arc<dyn Clock>) -> Self {
        Self { observer, clock }
    }
}

impl Interceptor for Observe {
    fn intercept<T>(
        &self,
        provider: &'static str,
        operation: &'static str,
        ask: &dyn Fn() -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        let start = self.clock.now();
        let answer = ask();
        let outcome = answer.as_ref().map_or_else(ProviderError::outcome, |_| "ok");
        self.observer.asked(provider, operation, outcome, self.clock.now().saturating_sub(start));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::provider::clock::TestClock;

    fn denied() -> ProviderError {
        ProviderError::Denied { provider: "test", message: String::new() }
    }

    #[test]
    fn every_try_is_observed() {
        type Asked = (&'static str, &'static str, &'static str, Duration);
        struct Seen(Mutex<Vec<Asked>>);
        impl Observer for Seen {
            fn asked(
                &self,
                provider: &'static str,
                operation: &'static str,
                outcome: &'static str,
                took: Duration,
            ) {
                self.0.lock().unwrap().push((provider, operation, outcome, took));
            }
        }
        let (clock, seen) = (Arc::new(TestClock::default()), Arc::new(Seen(Mutex::default())));
        let observe = Observe::new(seen.clone(), clock.clone());
        let _ = observe.intercept("test", "wrap", &|| -> Result<(), _> {
            clock.sleep(Duration::from_secs(1));
            Err(denied())
        });
        let _ = observe.intercept("test", "unwrap", &|| Ok(()));
        assert_eq!(
            *seen.0.lock().unwrap(),
            [
                ("test", "wrap", "denied", Duration::from_secs(1)),
                ("test", "unwrap", "ok", Duration::ZERO)
            ]
        );
    }
}
