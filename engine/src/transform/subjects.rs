//! Data keys of subjects in hand: two generations, so that what is used stays and what is not goes.
//! How long a key may stay is its `seal_until`.

use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use super::may_seal;
use crate::key::{Key, KeyId, KeyState, Scope, SubjectRef};
use crate::seal::{SealError, Sealer};
use crate::token::{FieldId, Suite};
use crate::uniform::UniformMap;

/// Subjects in one generation.
const GENERATION: usize = 8192;

/// A subject's key, and one sealer per field and header, as they are needed.
pub(super) struct SubjectSealers {
    key: Arc<Key>,
    sealers: Vec<Sealer>,
    /// Where a field's sealer stands, from the [`FEW`]th on: those before are looked at one by one.
    places: UniformMap<FieldId, usize>,
}

/// Sealers that are found faster by looking than by hashing.
const FEW: usize = 8;

impl SubjectSealers {
    fn new(key: Arc<Key>) -> Self {
        Self { key, sealers: Vec::new(), places: UniformMap::default() }
    }

    /// The subject whose key it is.
    pub(super) fn scope(&self) -> Scope {
        self.key.scope.clone()
    }

    /// The sealer of a field.
    fn sealer(&mut self, fid: FieldId) -> Result<&mut Sealer, SealError> {
        let near = self.sealers.iter().take(FEW).position(|s| s.field_id() == fid);
        let at = match near.or_else(|| self.places.get(&fid).copied()) {
            Some(at) => at,
            None => {
                self.sealers.push(Sealer::new(self.key.clone(), Suite::XaesGcm, fid)?);
                let at = self.sealers.len() - 1;
                if at >= FEW {
                    self.places.insert(fid, at);
                }
                at
            }
        };
        Ok(&mut self.sealers[at])
    }
}

/// The sealer of a field or header: the subject's, or without a subject the schema's own.
#[inline]
pub(super) fn sealer<'s>(
    subject: &'s mut Option<&mut SubjectSealers>,
    own: &'s mut Option<Sealer>,
    fid: FieldId,
) -> Result<&'s mut Sealer, SealError> {
    match subject {
        Some(subject) => subject.sealer(fid),
        None => own.as_mut().ok_or(SealError::Key),
    }
}

/// What is known of a subject.
pub(super) enum Known<'k> {
    /// Its key is here and seals.
    Seals(&'k mut SubjectSealers),
    /// It was erased: nothing is sealed for it.
    Erased,
    /// Nothing: ask for its key.
    Nothing,
}

/// Sealers by subject.
type Sealers = UniformMap<SubjectRef, SubjectSealers>;

#[derive(Default)]
pub(super) struct SubjectKeys {
    young: Sealers,
    old: Sealers,
}

impl SubjectKeys {
    pub(super) fn insert(&mut self, key: Arc<Key>) {
        let Scope::Subject(subject) = key.scope else { return };
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(subject, SubjectSealers::new(key));
    }

    /// Forgets keys that others ended.
    pub(super) fn forget(&mut self, ended: &HashSet<KeyId>) {
        if !ended.is_empty() {
            self.young.retain(|_, entry| !ended.contains(&entry.key.id));
            self.old.retain(|_, entry| !ended.contains(&entry.key.id));
        }
    }

    /// What is known of a subject, now. What is not good any more is forgotten.
    pub(super) fn look(&mut self, subject: &SubjectRef, now: u64) -> Known<'_> {
        let entry = match self.young.entry(*subject) {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(vacant) => match self.old.remove(subject) {
                Some(entry) => vacant.insert_entry(entry),
                None => return Known::Nothing,
            },
        };
        let key = &entry.get().key;
        if may_seal(key, now) {
            return Known::Seals(entry.into_mut());
        }
        if key.state == KeyState::Shredded && key.seal_until.is_none_or(|until| now < until) {
            return Known::Erased;
        }
        entry.remove();
        Known::Nothing
    }
}
