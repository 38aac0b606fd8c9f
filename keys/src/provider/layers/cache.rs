//! Unwrapped keys kept for a while: asked for again ahead of their end, gone at it whatever
//! happens.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::WrapContext;

use crate::provider::{Clock, Kek, Provider, ProviderError};
use crate::store::Wrap;

/// A wrap with all it is tied to.
pub(super) type WrapId = [u8; 32];

pub(super) fn wrap_id(wrap: &Wrap, context: &WrapContext<'_>) -> WrapId {
    let mut digest = Sha256::new();
    for part in [
        wrap.kek_uri.as_bytes(),
        wrap.kek_version.as_bytes(),
        &wrap.wrapped,
        &context.associated_data(),
    ] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

/// How long unwrapped keys are kept.
#[derive(Debug, Clone, Copy)]
pub struct CachePolicy {
    /// From this age on a key is unwrapped again, beside its use.
    pub refresh: Duration,
    /// At this age a key that could not be unwrapped again is gone: access taken away at the key
    /// service takes effect within this time.
    pub max_age: Duration,
}

impl Default for CachePolicy {
    /// A day without the key service, as long as a process key seals.
    fn default() -> Self {
        Self { refresh: Duration::from_secs(3600), max_age: Duration::from_secs(24 * 3600) }
    }
}

/// How long a refusal is remembered, and the pause between two tries to unwrap a key again.
const REFUSED: Duration = Duration::from_secs(30);

struct Entry {
    answer: Result<SecretKey, ProviderError>,
    loaded: Duration,
    /// The last try to unwrap it again.
    tried: Duration,
}

type Entries = HashMap<WrapId, Entry>;

pub(super) struct Cache {
    inner: Arc<dyn Provider>,
    policy: CachePolicy,
    clock: Arc<dyn Clock>,
    entries: Arc<Mutex<Entries>>,
}

fn lock(entries: &Mutex<Entries>) -> MutexGuard<'_, Entries> {
    entries.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Cache {
    pub(super) fn new(
        inner: Arc<dyn Provider>,
        policy: CachePolicy,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self { inner, policy, clock, entries: Arc::default() }
    }

    /// Unwraps a key again on a thread of its own: its users need not wait.
    fn refresh(&self, id: WrapId, wrap: &Wrap, context: &WrapContext<'_>) {
        let (inner, clock, entries) =
            (self.inner.clone(), self.clock.clone(), self.entries.clone());
        let (wrap, kid, kind, tenant, scope) = (
            wrap.clone(),
            context.kid,
            context.kind,
            context.tenant.to_owned(),
            context.scope.clone(),
        );
        let ask = move || {
            let answer =
                inner.unwrap(&wrap, &WrapContext { kid, kind, tenant: &tenant, scope: &scope });
            if let (Ok(key), Some(entry)) = (answer, lock(&entries).get_mut(&id)) {
                (entry.answer, entry.loaded) = (Ok(key), clock.now());
            }
        };
        // Without a thread the next use tries again.
        let _ = std::thread::Builder::new().name("key-refresh".to_owned()).spawn(ask);
    }
}

impl Provider for Cache {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn opens(&self, kek_uri: &str) -> bool {
        self.inner.opens(kek_uri)
    }

    fn describe(&self) -> Result<Kek, ProviderError> {
        self.inner.describe()
    }

    fn health(&self) -> Result<(), ProviderError> {
        self.inner.health()
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        self.inner.wrap(key, context)
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        let (id, now) = (wrap_id(wrap, context), self.clock.now());
        let mut entries = lock(&self.entries);
        // All of them, not this one alone: what nobody asks for any more must not stay either.
        entries.retain(|_, entry| {
            now.saturating_sub(entry.loaded)
                < if entry.answer.is_ok() { self.policy.max_age } else { REFUSED }
        });
        if let Some(entry) = entries.get_mut(&id) {
            let due = entry.answer.is_ok()
                && now.saturating_sub(entry.loaded) >= self.policy.refresh
                && now.saturating_sub(entry.tried) >= REFUSED;
            let answer = entry.answer.clone();
            if due {
                entry.tried = now;
                drop(entries);
                self.refresh(id, wrap, context);
            }
            return answer;
        }
        drop(entries);
        let answer = self.inner.unwrap(wrap, context);
        if !answer.as_ref().is_err_and(ProviderError::is_retryable) {
            let now = self.clock.now();
            lock(&self.entries)
                .insert(id, Entry { answer: answer.clone(), loaded: now, tried: now });
        }
        answer
    }

    fn rewrap(
        &self,
        wraps: &[(&Wrap, WrapContext<'_>)],
    ) -> Result<Vec<Result<Wrap, ProviderError>>, ProviderError> {
        self.inner.rewrap(wraps)
    }

    fn rotate(&self, now: u64) -> Result<Kek, ProviderError> {
        self.inner.rotate(now)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use veilstream_engine::key::{KeyId, KeyKind, Scope};

    use super::*;
    use crate::provider::clock::TestClock;

    const HOUR: Duration = Duration::from_secs(3600);

    pub(crate) fn wrap() -> Wrap {
        Wrap { kek_uri: "test".to_owned(), kek_version: "1".to_owned(), wrapped: vec![7; 40] }
    }

    pub(crate) fn context() -> WrapContext<'static> {
        WrapContext {
            kid: KeyId([1; 16]),
            kind: KeyKind::Index,
            tenant: "default",
            scope: &Scope::Version(1),
        }
    }

    /// Unwraps everything to one key, or fails as told; counts, and waits while its gate is held.
    #[derive(Default)]
    pub(crate) struct Scripted {
        pub(crate) asked: Arc<AtomicUsize>,
        pub(crate) gate: Arc<Mutex<()>>,
        fails: Arc<Mutex<Option<ProviderError>>>,
    }

    impl Provider for Scripted {
        fn name(&self) -> &'static str {
            "test"
        }

        fn opens(&self, _: &str) -> bool {
            true
        }

        fn describe(&self) -> Result<Kek, ProviderError> {
            unreachable!()
        }

        fn wrap(&self, _: &SecretKey, _: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
            unreachable!()
        }

        fn unwrap(&self, _: &Wrap, _: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
            let _open = self.gate.lock().unwrap();
            let fails = self.fails.lock().unwrap().clone();
            self.asked.fetch_add(1, Ordering::SeqCst);
            fails.map_or(Ok(SecretKey::new([9; 32])), Err)
        }

        fn rotate(&self, _: u64) -> Result<Kek, ProviderError> {
            unreachable!()
        }
    }

    struct Test {
        cache: Cache,
        clock: Arc<TestClock>,
        asked: Arc<AtomicUsize>,
        fails: Arc<Mutex<Option<ProviderError>>>,
    }

    impl Test {
        fn new() -> Self {
            let (inner, clock) = (Scripted::default(), Arc::new(TestClock::default()));
            let (asked, fails) = (inner.asked.clone(), inner.fails.clone());
            Self {
                cache: Cache::new(Arc::new(inner), CachePolicy::default(), clock.clone()),
                clock,
                asked,
                fails,
            }
        }

        fn works(&self) -> bool {
            self.cache.unwrap(&wrap(), &context()).is_ok()
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }

        /// Waits for a refresh under way.
        fn asked_becomes(&self, n: usize) {
            while self.asked() < n {
                std::thread::yield_now();
            }
        }
    }

    fn away() -> ProviderError {
        ProviderError::Unavailable { provider: "test", message: String::new(), retry_after: None }
    }

    fn refused() -> ProviderError {
        ProviderError::Refused { provider: "test", kid: KeyId([1; 16]), what: "another" }
    }

    #[test]
    fn a_key_is_unwrapped_once_and_again_ahead_of_its_end() {
        let test = Test::new();
        for _ in 0..3 {
            assert!(test.works());
        }
        assert_eq!(test.asked(), 1);
        test.clock.sleep(HOUR);
        assert!(test.works());
        test.asked_becomes(2);
        test.clock.sleep(HOUR * 23 + HOUR / 2);
        assert!(test.works(), "24.5 h after the first, 23.5 h after the second");
    }

    #[test]
    fn an_outage_is_survived_until_the_end_and_not_beyond() {
        let test = Test::new();
        assert!(test.works());
        *test.fails.lock().unwrap() = Some(away());
        for hour in 1..24 {
            test.clock.sleep(HOUR);
            assert!(test.works(), "hour {hour}");
            test.asked_becomes(1 + hour);
        }
        test.clock.sleep(HOUR);
        assert!(!test.works());
        *test.fails.lock().unwrap() = None;
        assert!(test.works(), "a failure worth another try is not kept");
    }

    /// Also a key service that refuses takes the key away no later than one that is away.
    #[test]
    fn a_refusal_ends_a_key_at_its_end() {
        let test = Test::new();
        assert!(test.works());
        *test.fails.lock().unwrap() = Some(refused());
        test.clock.sleep(HOUR * 2);
        assert!(test.works());
        test.asked_becomes(2);
        test.clock.sleep(HOUR * 22);
        assert!(!test.works());
    }

    #[test]
    fn a_refusal_is_remembered_for_half_a_minute() {
        let test = Test::new();
        *test.fails.lock().unwrap() = Some(refused());
        assert!(!test.works() && !test.works());
        assert_eq!(test.asked(), 1);
        *test.fails.lock().unwrap() = None;
        test.clock.sleep(Duration::from_secs(29));
        assert!(!test.works());
        test.clock.sleep(Duration::from_secs(1));
        assert!(test.works());
    }

    #[test]
    fn one_wrap_with_another_context_is_another_question() {
        let test = Test::new();
        assert!(test.works());
        let other = WrapContext { scope: &Scope::Version(2), ..context() };
        test.cache.unwrap(&wrap(), &other).unwrap();
        assert_eq!(test.asked(), 2);
    }

    #[test]
    fn what_nobody_asks_for_goes_too() {
        let test = Test::new();
        assert!(test.works());
        test.clock.sleep(HOUR * 24);
        let other = WrapContext { scope: &Scope::Version(2), ..context() };
        test.cache.unwrap(&wrap(), &other).unwrap();
        assert_eq!(lock(&test.cache.entries).len(), 1);
    }
}
