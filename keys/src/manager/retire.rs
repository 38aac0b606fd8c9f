//! The end of a key that nothing needs any more. Its wraps stay: a key that was retired too early
//! comes back.

mod references;

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope};

use super::SCHEMA_KEY_LIFE;
use super::rotation::Rotator;
use super::shared::SharedKeys;
use super::subjects::SubjectKeys;
use crate::KeyError;
use crate::store::{KeyRecord, StoreError};
use references::references;

/// Why a key is not retired.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// Something refers to it, or may.
    #[error("key {kid} ({what}) is left as it is: {why}")]
    Referred {
        /// The key that stays in its state.
        kid: KeyId,
        /// Kind and scope of that key.
        what: String,
        /// What refers to it, and what to do.
        why: String,
    },
    /// The store or a provider is not available.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl From<StoreError> for RetireError {
    fn from(error: StoreError) -> Self {
        Self::Keys(error.into())
    }
}

/// Moves keys to the states in which they seal no more, and back.
pub(super) struct Retirement<'a> {
    shared: &'a SharedKeys,
    subjects: &'a SubjectKeys,
}

impl<'a> Retirement<'a> {
    pub(super) fn new(shared: &'a SharedKeys, subjects: &'a SubjectKeys) -> Self {
        Self { shared, subjects }
    }

    /// [`Manager::retire`](super::Manager::retire).
    pub(super) fn retire(
        &self,
        kid: &KeyId,
        schemas: &SchemaSet,
        unreferenced: bool,
        now: u64,
    ) -> Result<(), RetireError> {
        let record = self.record(kid)?;
        if let Some(why) = references(self.shared, &record, schemas, unreferenced, now)? {
            return Err(referred(&record, why));
        }
        self.shared.store().set_state(&[*kid], KeyState::Retired, Some(now))?;
        self.shared.reload()?;
        Ok(())
    }

    /// [`Manager::unretire`](super::Manager::unretire).
    pub(super) fn unretire(&self, kid: &KeyId) -> Result<(), RetireError> {
        let record = self.record(kid)?;
        if record.state != KeyState::Retired || record.wraps.is_empty() {
            let why = format!("it is {}, so there is nothing to take back", record.state.as_str());
            return Err(referred(&record, why));
        }
        let state =
            if record.kind == KeyKind::Index { KeyState::Active } else { KeyState::DecryptOnly };
        self.shared.store().set_state(&[*kid], state, None)?;
        self.shared.reload()?;
        Ok(())
    }

    /// [`Manager::compromise`](super::Manager::compromise).
    pub(super) fn compromise(&self, kid: &KeyId, now: u64) -> Result<(), RetireError> {
        let record = self.record(kid)?;
        if let Some(why) = self.irreplaceable(&record, now)? {
            return Err(referred(&record, why.to_owned()));
        }
        if matches!(record.scope, Scope::Shared(_))
            && record.state == KeyState::Active
            && is_newest(self.shared, &record)?
        {
            // A process that seals goes on, under another key.
            Rotator::new(self.shared, self.subjects).next_version(
                &self.shared.turn(),
                &record,
                now,
            )?;
        }
        self.shared.store().set_state(&[*kid], KeyState::Compromised, Some(now))?;
        self.subjects.forget(|key| key.id == *kid);
        self.shared.reload()?;
        Ok(())
    }

    /// Why the key cannot be taken out of use; `None`: it can.
    fn irreplaceable(
        &self,
        record: &KeyRecord,
        now: u64,
    ) -> Result<Option<&'static str>, KeyError> {
        Ok(match (record.kind, record.state) {
            (_, KeyState::Shredded) => Some("it is shredded, which is for ever"),
            (KeyKind::Wrapping, _) => Some(
                "it seals nothing: `veilstream keys rotate --wrapping`, then `rewrap`, move \
                what it wraps under another one",
            ),
            (KeyKind::SubjectRef | KeyKind::Audit | KeyKind::DeadLetter | KeyKind::Store, _) => {
                Some(
                    "there is one key of this kind and no other can take its place: make a new \
                    store and seal what is stored again",
                )
            }
            (KeyKind::Index | KeyKind::Deterministic, KeyState::Active)
                if is_newest(self.shared, record)? =>
            {
                Some("it is the newest root; rotate first (`veilstream keys rotate`)")
            }
            (KeyKind::Data, _)
                if matches!(record.scope, Scope::Schema(_)) && may_seal(record, now) =>
            {
                Some(
                    "a running process may seal with it; stop the process, which ends it, and run \
                    this again",
                )
            }
            _ => None,
        })
    }

    /// The record of that id.
    fn record(&self, kid: &KeyId) -> Result<KeyRecord, KeyError> {
        self.shared
            .store()
            .get(std::slice::from_ref(kid))?
            .pop()
            .filter(|r| r.tenant == *self.shared.tenant())
            .ok_or(KeyError::NoSuchKey { kid: *kid })
    }
}

fn referred(record: &KeyRecord, why: String) -> RetireError {
    let what = format!("{} {}", record.kind.as_str(), record.scope);
    RetireError::Referred { kid: record.kid, what, why }
}

/// Whether a process may seal with its key of this record.
fn may_seal(record: &KeyRecord, now: u64) -> bool {
    record.state == KeyState::Active && now.saturating_sub(record.created) < SCHEMA_KEY_LIFE
}

/// Whether no later version of it is active.
fn is_newest(shared: &SharedKeys, record: &KeyRecord) -> Result<bool, KeyError> {
    let same = |other: &KeyRecord| {
        other.kind == record.kind && (record.kind != KeyKind::Data || other.scope == record.scope)
    };
    let later = |other: &KeyRecord| {
        same(other) && other.version > record.version && other.state == KeyState::Active
    };
    Ok(!shared.store().shared(shared.tenant())?.iter().any(later))
}
