//! Keys of data subjects: one look into the store and one write for a batch of them, unwrapped here
//! under a wrapping key, kept for a while.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};

use super::minter::Wrapper;
use super::{Manager, key_of, not_active};
use crate::KeyError;
use crate::store::KeyRecord;

/// Seconds it is remembered that a subject is erased.
const ERASED_AGE: u64 = 60;

impl Manager {
    /// The sealing keys of data subjects. A subject that was erased has a shredded key without a
    /// secret.
    pub(super) fn subject_keys(
        &self,
        mut wanted: Vec<SubjectRef>,
        now: u64,
    ) -> Result<HashMap<SubjectRef, Arc<Key>>, KeyError> {
        wanted.sort_unstable();
        wanted.dedup();
        let mut keys = HashMap::with_capacity(wanted.len());
        loop {
            wanted.retain(|subject| match self.subjects.sealing(subject, now) {
                Some(key) => {
                    keys.insert(*subject, key);
                    false
                }
                None => true,
            });
            if wanted.is_empty() {
                return Ok(keys);
            }
            // Where keys were forgotten since, these may be among them; where the place of a new
            // key had a marker, the next one is free.
            let generation = self.subjects.generation();
            for record in self.load_or_mint_subjects(&wanted, now)? {
                let Scope::Subject(subject) = record.scope else { continue };
                if !matches!(record.state, KeyState::Active | KeyState::Shredded) {
                    continue;
                }
                let key = self.for_a_while(&record, now)?;
                if self.subjects.keep_sealing(subject, key.clone(), generation) {
                    keys.insert(subject, key);
                }
            }
            wanted.retain(|subject| !keys.contains_key(subject));
        }
    }

    /// The newest key of each, as the store has it after those that lack one got one.
    fn load_or_mint_subjects(
        &self,
        wanted: &[SubjectRef],
        now: u64,
    ) -> Result<Vec<KeyRecord>, KeyError> {
        let scopes: Vec<Scope> = wanted.iter().map(|subject| Scope::Subject(*subject)).collect();
        let mut newest: HashMap<Scope, KeyRecord> = HashMap::new();
        for record in self.store.find(&self.settings.tenant, KeyKind::Data, &scopes)? {
            match newest.get(&record.scope) {
                Some(known) if known.version > record.version => {}
                _ => drop(newest.insert(record.scope.clone(), record)),
            }
        }
        let (mut usable, mut new, mut replaced) =
            (Vec::with_capacity(scopes.len()), Vec::new(), Vec::new());
        let wrapping = self
            .wrapping_key_in_use()
            .map_or_else(|| self.first_wrapping_key(&self.turn(), now), Ok)?;
        for scope in &scopes {
            let version = match newest.remove(scope) {
                Some(record) if self.stays(&record, now) => {
                    usable.push(record);
                    continue;
                }
                Some(record) => {
                    replaced.extend((record.state == KeyState::Active).then_some(record.kid));
                    record
                        .version
                        .checked_add(1)
                        .ok_or_else(|| not_active(KeyKind::Data, scope, record.state))?
                }
                None => 1,
            };
            new.push(
                self.minter().mint(KeyKind::Data, scope, version, now, &Wrapper::Key(&wrapping))?.0,
            );
        }
        if !new.is_empty() {
            usable.extend(self.store.insert(&new)?);
        }
        if !replaced.is_empty() {
            self.store.set_state(&replaced, KeyState::DecryptOnly, None)?;
        }
        Ok(usable)
    }

    /// Whether the newest key of a subject is the one to use: it seals and is not due, or it says
    /// that the subject is erased.
    fn stays(&self, newest: &KeyRecord, now: u64) -> bool {
        match newest.state {
            KeyState::Shredded => true,
            KeyState::Active => !self.is_due(newest.created, now),
            KeyState::DecryptOnly | KeyState::Retired | KeyState::Compromised => false,
        }
    }

    /// A subject's key as it is handed out: its holder forgets it in time, so that an erasure
    /// takes effect.
    fn for_a_while(&self, record: &KeyRecord, now: u64) -> Result<Arc<Key>, KeyError> {
        let unwrapped = self.unwrap(record)?;
        let Key { state, ref secret, .. } = *unwrapped;
        // A person who was erased may have been let back.
        let age = if state == KeyState::Shredded { ERASED_AGE } else { self.settings.lookup_age };
        Ok(Arc::new(Key { seal_until: Some(now + age), ..key_of(record, state, secret.clone()) }))
    }
}

/// Keys of data subjects in hand, and others that were looked up by their id; the least used go
/// first, and each in its time.
pub(super) struct SubjectCache {
    sealing: Mutex<LruCache<SubjectRef, Arc<Key>>>,
    looked_up: Mutex<LruCache<KeyId, (Arc<Key>, u64)>>,
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
            looked_up: Mutex::new(LruCache::new(size)),
            generation: AtomicU64::new(0),
        }
    }

    fn sealing(&self, subject: &SubjectRef, now: u64) -> Option<Arc<Key>> {
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
    fn keep_sealing(&self, subject: SubjectRef, key: Arc<Key>, generation: u64) -> bool {
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

fn drop_where<K: Copy + Eq + std::hash::Hash, V>(
    cache: &mut LruCache<K, V>,
    over: impl Fn(&V) -> bool,
) {
    let gone: Vec<K> = cache.iter().filter(|(_, value)| over(value)).map(|(key, _)| *key).collect();
    for key in gone {
        cache.pop(&key);
    }
}
