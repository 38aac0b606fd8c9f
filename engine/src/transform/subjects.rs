//! Data keys of subjects in hand: two generations, so that what is used stays and what is not goes. How long a key may stay is its `seal_until`.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::may_seal;
use crate::key::{Key, KeyId, KeyState, Scope, SubjectRef};
use crate::seal::{SealError, Sealer};
use crate::token::{FieldId, Suite};

/// Subjects in one generation.
const GENERATION: usize = 8192;

struct Entry {
    key: Arc<Key>,
    /// One sealer per field, as they are needed.
    sealers: Vec<(FieldId, Sealer)>,
}

/// What is known of a subject.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// Its key is here and seals.
    Seals,
    /// It was erased: nothing is sealed for it.
    Erased,
    /// Nothing: ask for its key.
    Nothing,
}

type Generation = HashMap<SubjectRef, Entry, BuildHasherDefault<Uniform>>;

#[derive(Default)]
pub(super) struct SubjectKeys {
    young: Generation,
    old: Generation,
}

/// References are HMACs under a secret key: any 8 bytes of one are as good as a hash, and nobody can choose them.
#[derive(Default)]
struct Uniform(u64);

impl Hasher for Uniform {
    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    /// The length, which is that of all of them.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

impl SubjectKeys {
    pub(super) fn insert(&mut self, key: Arc<Key>) {
        let Scope::Subject(subject) = key.scope else { return };
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(subject, Entry { key, sealers: Vec::new() });
    }

    /// Forgets keys shredded elsewhere.
    pub(super) fn forget(&mut self, shredded: &HashSet<KeyId>) {
        if !shredded.is_empty() {
            self.young.retain(|_, entry| !shredded.contains(&entry.key.id));
            self.old.retain(|_, entry| !shredded.contains(&entry.key.id));
        }
    }

    /// What is known of a subject, now. What is not good any more is forgotten.
    pub(super) fn look(&mut self, subject: &SubjectRef, now: u64) -> Known {
        if !self.young.contains_key(subject) {
            let Some(entry) = self.old.remove(subject) else { return Known::Nothing };
            self.young.insert(*subject, entry);
        }
        let known = match self.young.get(subject) {
            Some(entry) if may_seal(&entry.key, now) => return Known::Seals,
            Some(entry) if entry.key.state == KeyState::Shredded && entry.key.seal_until.is_none_or(|until| now < until) => return Known::Erased,
            _ => Known::Nothing,
        };
        self.young.remove(subject);
        known
    }

    /// The sealer of a subject's field; call [`SubjectKeys::look`] first.
    pub(super) fn sealer(&mut self, subject: &SubjectRef, fid: FieldId) -> Result<&mut Sealer, SealError> {
        let entry = self.young.get_mut(subject).ok_or(SealError::Key)?;
        let at = match entry.sealers.iter().position(|s| s.0 == fid) {
            Some(at) => at,
            None => {
                entry.sealers.push((fid, Sealer::new(entry.key.clone(), Suite::XaesGcm, fid)?));
                entry.sealers.len() - 1
            }
        };
        Ok(&mut entry.sealers[at].1)
    }
}
