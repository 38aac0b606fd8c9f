//! Data keys of subjects in hand: two generations, so that what is used stays and what is not goes, with a hard maximum age.

use std::collections::HashMap;
use std::sync::Arc;

use super::may_seal;
use crate::key::{Key, Scope, SubjectRef};
use crate::seal::{SealError, Sealer};
use crate::token::{FieldId, Suite};

/// Seconds a subject's key is kept at most: an erasure elsewhere takes effect within this time.
const MAX_AGE: u64 = 600;
/// Subjects in one generation.
const GENERATION: usize = 8192;

struct Entry {
    key: Arc<Key>,
    loaded: u64,
    /// One sealer per field, as they are needed.
    sealers: Vec<(FieldId, Sealer)>,
}

#[derive(Default)]
pub(super) struct SubjectKeys {
    young: HashMap<SubjectRef, Entry>,
    old: HashMap<SubjectRef, Entry>,
}

impl SubjectKeys {
    pub(super) fn insert(&mut self, key: Arc<Key>, now: u64) {
        let Scope::Subject(subject) = key.scope else { return };
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(subject, Entry { key, loaded: now, sealers: Vec::new() });
    }

    /// Whether the subject's key is here, fresh and able to seal.
    pub(super) fn has(&mut self, subject: &SubjectRef, now: u64) -> bool {
        if !self.young.contains_key(subject) {
            let Some(entry) = self.old.remove(subject) else { return false };
            self.young.insert(*subject, entry);
        }
        let fresh = self.young.get(subject).is_some_and(|e| now < e.loaded.saturating_add(MAX_AGE) && may_seal(&e.key, now));
        if !fresh {
            self.young.remove(subject);
        }
        fresh
    }

    /// The sealer of a subject's field; call [`SubjectKeys::has`] first.
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
