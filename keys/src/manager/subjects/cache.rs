//! Keys of data subjects in hand, and others that were looked up by their id.

use std::hash::{BuildHasher, Hash};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use veilstream_engine::key::{Key, KeyId, SubjectRef};
use veilstream_engine::uniform::UniformState;

type LookedUp = LruCache<KeyId, (Arc<Key>, u64), UniformState>;

/// Keys that are kept for a while; the least used go first, and each in its time.
pub(super) struct SubjectCache {
    sealing: Mutex<LruCache<SubjectRef, Arc<Key>>>,
    /// Each with the time until which it is kept, in Unix seconds.
    looked_up: Mutex<LookedUp>,
    /// Counts how often keys were forgotten: what was read before is not kept after it.
    generation: AtomicU64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SubjectCache {
    pub(super) fn new(size: usize) -> Self {
        let size = NonZeroUsize::new(size).unwrap_or(NonZeroUsize::MIN);
        Self {
            sealing: Mutex::new(LruCache::new(size)),
            looked_up: Mutex::new(LruCache::with_hasher(size, Default::default())),
            generation: AtomicU64::new(0),
        }
    }

    pub(super) fn sealing(&self, subject: &SubjectRef, now: u64) -> Option<Arc<Key>> {
        lock(&self.sealing)
            .get(subject)
            .filter(|key| key.seal_until.is_some_and(|until| now < until))
            .cloned()
    }

    /// To be asked before a key is read that is to be kept.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Keeps a key that was read at that generation, unless keys were forgotten since; tells
    /// whether it did.
    pub(super) fn keep_sealing(&self, subject: SubjectRef, key: Arc<Key>, generation: u64) -> bool {
        let mut sealing = lock(&self.sealing);
        let is_current = self.generation() == generation;
        if is_current {
            sealing.put(subject, key);
        }
        is_current
    }

    pub(super) fn looked_up(&self, kid: &KeyId, now: u64) -> Option<Arc<Key>> {
        lock(&self.looked_up).get(kid).filter(|(_, until)| now < *until).map(|(key, _)| key.clone())
    }

    /// As [`SubjectCache::keep_sealing`].
    pub(super) fn keep_lookup(&self, key: Arc<Key>, until: u64, generation: u64) -> bool {
        let mut looked_up = lock(&self.looked_up);
        let is_current = self.generation() == generation;
        if is_current {
            looked_up.put(key.id, (key, until));
        }
        is_current
    }

    /// Forgets keys. Counted first: a holder that keeps one between that and the look finds it
    /// counted, and one that kept one before it finds it dropped.
    pub(super) fn forget(&self, which: impl Fn(&Key) -> bool) {
        self.generation.fetch_add(1, Ordering::SeqCst);
        drop_where(&mut lock(&self.sealing), |key| which(key));
        drop_where(&mut lock(&self.looked_up), |(key, _)| which(key));
    }

    /// Drops what is over. Nobody else does for keys that are not asked for again.
    pub(super) fn sweep(&self, now: u64) {
        drop_where(&mut lock(&self.sealing), |key| key.seal_until.is_none_or(|until| until <= now));
        drop_where(&mut lock(&self.looked_up), |(_, until)| *until <= now);
    }
}

fn drop_where<K: Copy + Eq + Hash, V, S: BuildHasher>(
    cache: &mut LruCache<K, V, S>,
    over: impl Fn(&V) -> bool,
) {
    let gone: Vec<K> = cache.iter().filter(|(_, value)| over(value)).map(|(key, _)| *key).collect();
    for key in gone {
        cache.pop(&key);
    }
}
