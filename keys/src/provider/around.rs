//! Layers that do the same around every request: observing it, and trying it again.

use std::sync::Arc;
use std::time::Duration;

use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::WrapContext;

use super::{Clock, Kek, Provider, ProviderError};
use crate::store::Wrap;

/// Learns of every request to a provider, each try by itself.
pub trait Observer: Send + Sync {
    /// `outcome` is `ok` or [`ProviderError::outcome`].
    fn asked(&self, provider: &'static str, operation: &'static str, outcome: &'static str, took: Duration);
}

/// What is done around a request.
pub(super) trait Around: Send + Sync {
    fn around<T>(&self, provider: &'static str, operation: &'static str, ask: &dyn Fn() -> Result<T, ProviderError>) -> Result<T, ProviderError>;
}

/// A provider with something around each of its requests.
pub(super) struct Layer<A> {
    inner: Box<dyn Provider>,
    layer: A,
}

impl<A: Around> Layer<A> {
    pub(super) fn new(inner: Box<dyn Provider>, layer: A) -> Self {
        Self { inner, layer }
    }

    fn ask<T>(&self, operation: &'static str, ask: impl Fn() -> Result<T, ProviderError>) -> Result<T, ProviderError> {
        self.layer.around(self.inner.name(), operation, &ask)
    }
}

impl<A: Around> Provider for Layer<A> {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn opens(&self, kek_uri: &str) -> bool {
        self.inner.opens(kek_uri)
    }

    fn describe(&self) -> Result<Kek, ProviderError> {
        self.ask("describe", || self.inner.describe())
    }

    fn health(&self) -> Result<(), ProviderError> {
        self.ask("health", || self.inner.health())
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        self.ask("wrap", || self.inner.wrap(key, context))
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        self.ask("unwrap", || self.inner.unwrap(wrap, context))
    }

    fn rewrap(&self, wraps: &[(&Wrap, WrapContext<'_>)]) -> Result<Vec<Result<Wrap, ProviderError>>, ProviderError> {
        self.ask("rewrap", || self.inner.rewrap(wraps))
    }

    fn rotate(&self, now: u64) -> Result<Kek, ProviderError> {
        self.ask("rotate", || self.inner.rotate(now))
    }
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

impl Around for Observe {
    fn around<T>(&self, provider: &'static str, operation: &'static str, ask: &dyn Fn() -> Result<T, ProviderError>) -> Result<T, ProviderError> {
        let start = self.clock.now();
        let answer = ask();
        let outcome = answer.as_ref().map_or_else(ProviderError::outcome, |_| "ok");
        self.observer.asked(provider, operation, outcome, self.clock.now().saturating_sub(start));
        answer
    }
}

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
    /// Short enough for whoever waits for a record: the caller comes again.
    fn default() -> Self {
        Self { first: Duration::from_millis(100), most: Duration::from_secs(2), deadline: Duration::from_secs(10) }
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

impl Around for Retry {
    fn around<T>(&self, _: &'static str, _: &'static str, ask: &dyn Fn() -> Result<T, ProviderError>) -> Result<T, ProviderError> {
        let start = self.clock.now();
        let mut longest = self.policy.first;
        loop {
            let error = match ask() {
                Err(error) if error.is_retryable() => error,
                answer => return answer,
            };
            let asked_for = if let ProviderError::Unavailable { retry_after, .. } = &error { *retry_after } else { None };
            // Anywhere up to the longest pause: processes that failed together must not come back together.
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
    use std::sync::Mutex;

    use super::super::clock::TestClock;
    use super::*;

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
        assert_eq!(retry(&clock).around("test", "wrap", &ask).unwrap(), 7);
        assert!(clock.now() <= Duration::from_millis(100 + 200 + 400));
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        let (clock, tries) = (Arc::new(TestClock::default()), Cell::new(0));
        let ask = || -> Result<(), _> {
            tries.set(tries.get() + 1);
            Err(denied())
        };
        assert!(retry(&clock).around("test", "wrap", &ask).is_err());
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
        assert!(retry(&clock).around("test", "wrap", &ask).is_err());
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
        retry(&clock).around("test", "wrap", &ask).unwrap();
        assert!(clock.now() >= Duration::from_secs(3));
        let ask = || -> Result<(), _> { Err(away(Some(Duration::from_secs(60)))) };
        let before = clock.now();
        assert!(retry(&clock).around("test", "wrap", &ask).is_err());
        assert_eq!(clock.now(), before);
    }

    #[test]
    fn every_try_is_observed() {
        type Asked = (&'static str, &'static str, &'static str, Duration);
        struct Seen(Mutex<Vec<Asked>>);
        impl Observer for Seen {
            fn asked(&self, provider: &'static str, operation: &'static str, outcome: &'static str, took: Duration) {
                self.0.lock().unwrap().push((provider, operation, outcome, took));
            }
        }
        let (clock, seen) = (Arc::new(TestClock::default()), Arc::new(Seen(Mutex::default())));
        let observe = Observe::new(seen.clone(), clock.clone());
        let _ = observe.around("test", "wrap", &|| -> Result<(), _> {
            clock.sleep(Duration::from_secs(1));
            Err(denied())
        });
        let _ = observe.around("test", "unwrap", &|| Ok(()));
        assert_eq!(*seen.0.lock().unwrap(), [("test", "wrap", "denied", Duration::from_secs(1)), ("test", "unwrap", "ok", Duration::ZERO)]);
    }
}
