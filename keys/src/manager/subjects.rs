//! Keys of data subjects: one look into the store and one write for a batch of them, unwrapped here
//! under a wrapping key, kept for a while.

mod cache;

use std::collections::HashMap;
use std::sync::Arc;

use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};

use super::Settings;
use super::minter::Wrapper;
use super::rotation::is_due;
use super::shared::{SharedKeys, key_of, not_active};
use crate::KeyError;
use crate::store::KeyRecord;
use cache::SubjectCache;

/// Seconds it is remembered that a subject is erased.
const ERASED_AGE: u64 = 60;

/// Makes keys of data subjects, hands them out for a while and forgets them.
pub(super) struct SubjectKeys {
    cache: SubjectCache,
    /// Seconds that a key is kept at most.
    lookup_age: u64,
    /// Seconds after which a key is replaced; `None`: by hand alone.
    rotation: Option<u64>,
}

impl SubjectKeys {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            cache: SubjectCache::new(settings.subject_cache),
            lookup_age: settings.lookup_age,
            rotation: settings.rotation,
        }
    }

    /// Seconds that a key is kept at most.
    pub(super) fn lookup_age(&self) -> u64 {
        self.lookup_age
    }

    /// The sealing keys of data subjects. A subject that was erased has a shredded key without a
    /// secret.
    pub(super) fn sealing(
        &self,
        shared: &SharedKeys,
        mut wanted: Vec<SubjectRef>,
        now: u64,
    ) -> Result<HashMap<SubjectRef, Arc<Key>>, KeyError> {
        wanted.sort_unstable();
        wanted.dedup();
        let mut keys = HashMap::with_capacity(wanted.len());
        loop {
            wanted.retain(|subject| match self.cache.sealing(subject, now) {
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
            let generation = self.cache.generation();
            for record in self.load_or_mint(shared, &wanted, now)? {
                let Scope::Subject(subject) = record.scope else { continue };
                if !matches!(record.state, KeyState::Active | KeyState::Shredded) {
                    continue;
                }
                let key = self.for_a_while(shared, &record, now)?;
                if self.cache.keep_sealing(subject, key.clone(), generation) {
                    keys.insert(subject, key);
                }
            }
            wanted.retain(|subject| !keys.contains_key(subject));
        }
    }

    /// The newest key of each, as the store has it after those that lack one got one.
    fn load_or_mint(
        &self,
        shared: &SharedKeys,
        wanted: &[SubjectRef],
        now: u64,
    ) -> Result<Vec<KeyRecord>, KeyError> {
        let scopes: Vec<Scope> = wanted.iter().map(|subject| Scope::Subject(*subject)).collect();
        let mut newest = newest(shared.store().find(shared.tenant(), KeyKind::Data, &scopes)?);
        let (mut usable, mut new, mut replaced) =
            (Vec::with_capacity(scopes.len()), Vec::new(), Vec::new());
        let wrapping = shared.wrapping_key(now)?;
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
                shared
                    .minter()
                    .mint(KeyKind::Data, scope, version, now, &Wrapper::Key(&wrapping))?
                    .0,
            );
        }
        if !new.is_empty() {
            usable.extend(shared.store().insert(&new)?);
        }
        if !replaced.is_empty() {
            shared.store().set_state(&replaced, KeyState::DecryptOnly, None)?;
        }
        Ok(usable)
    }

    /// Whether the newest key of a subject is the one to use: it seals and is not due, or it says
    /// that the subject is erased.
    fn stays(&self, newest: &KeyRecord, now: u64) -> bool {
        match newest.state {
            KeyState::Shredded => true,
            KeyState::Active => {
                self.rotation.is_none_or(|interval| !is_due(interval, newest.created, now))
            }
            KeyState::DecryptOnly | KeyState::Retired | KeyState::Compromised => false,
        }
    }

    /// A subject's key as it is handed out: its holder forgets it in time, so that an erasure
    /// takes effect.
    fn for_a_while(
        &self,
        shared: &SharedKeys,
        record: &KeyRecord,
        now: u64,
    ) -> Result<Arc<Key>, KeyError> {
        let unwrapped = shared.unwrap(record)?;
        let Key { state, ref secret, .. } = *unwrapped;
        // A person who was erased may have been let back.
        let age = if state == KeyState::Shredded { ERASED_AGE } else { self.lookup_age };
        Ok(Arc::new(Key { seal_until: Some(now + age), ..key_of(record, state, secret.clone()) }))
    }

    /// The key of that id, whatever its state, if it was looked up lately.
    pub(super) fn looked_up(&self, kid: &KeyId, now: u64) -> Option<Arc<Key>> {
        self.cache.looked_up(kid, now)
    }

    /// To be asked before a key is read that is to be kept.
    pub(super) fn generation(&self) -> u64 {
        self.cache.generation()
    }

    /// Keeps a key that was read at that generation, unless keys were forgotten since; tells
    /// whether it did.
    pub(super) fn keep_lookup(&self, key: Arc<Key>, now: u64, generation: u64) -> bool {
        self.cache.keep_lookup(key, now + self.lookup_age, generation)
    }

    /// Forgets keys, also those that somebody is about to keep.
    pub(super) fn forget(&self, which: impl Fn(&Key) -> bool) {
        self.cache.forget(which);
    }

    /// Drops what is over. Nobody else does for keys that are not asked for again.
    pub(super) fn sweep(&self, now: u64) {
        self.cache.sweep(now);
    }
}

/// The newest record of each scope.
fn newest(records: Vec<KeyRecord>) -> HashMap<Scope, KeyRecord> {
    let mut newest: HashMap<Scope, KeyRecord> = HashMap::new();
    for record in records {
        match newest.get(&record.scope) {
            Some(known) if known.version > record.version => {}
            _ => drop(newest.insert(record.scope.clone(), record)),
        }
    }
    newest
}
