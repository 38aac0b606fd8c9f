//! The end of a key that nothing needs any more. Its wraps stay: a key that was retired too early
//! comes back.

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope};
use veilstream_engine::schema::Schema;

use super::{Manager, SCHEMA_KEY_LIFE, pinned};
use crate::KeyError;
use crate::store::{KeyRecord, StoreError};
use crate::wraps::BY_KEY;

/// Why a key is not retired.
#[derive(Debug, thiserror::Error)]
pub enum RetireError {
    /// Something refers to it, or may.
    #[error("key {kid} ({what}) is left as it is: {why}")]
    Referred {
        /// The key.
        kid: KeyId,
        /// Kind and scope.
        what: String,
        /// What refers to it, and what to do.
        why: String,
    },
    /// It cannot be told.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl From<StoreError> for RetireError {
    fn from(error: StoreError) -> Self {
        Self::Keys(error.into())
    }
}

impl Manager {
    /// Retires a key: tokens under it answer `key_unavailable`, its indexes are written no more.
    /// `schemas`: those in use, for what they pin. `unreferenced`: the caller has looked through
    /// what is stored, which nobody can do here, and found no token or index of it.
    ///
    /// # Errors
    /// [`RetireError`]; the key is as it was.
    pub fn retire(
        &self,
        kid: &KeyId,
        schemas: &SchemaSet,
        unreferenced: bool,
        now: u64,
    ) -> Result<(), RetireError> {
        let record = self.record(kid)?;
        let why = self.references(&record, schemas, unreferenced, now)?;
        if let Some(why) = why {
            return Err(RetireError::Referred {
                kid: *kid,
                what: format!("{} {}", record.kind.as_str(), record.scope),
                why,
            });
        }
        self.shared.store().set_state(&[*kid], KeyState::Retired, Some(now))?;
        self.shared.reload()?;
        Ok(())
    }

    /// Takes a retirement back: the key opens again, and an index root is written again.
    ///
    /// # Errors
    /// [`RetireError`]: it is not retired.
    pub fn unretire(&self, kid: &KeyId) -> Result<(), RetireError> {
        let record = self.record(kid)?;
        if record.state != KeyState::Retired || record.wraps.is_empty() {
            let why = format!("it is {}, so there is nothing to take back", record.state.as_str());
            return Err(RetireError::Referred {
                kid: *kid,
                what: format!("{} {}", record.kind.as_str(), record.scope),
                why,
            });
        }
        let state =
            if record.kind == KeyKind::Index { KeyState::Active } else { KeyState::DecryptOnly };
        self.shared.store().set_state(&[*kid], state, None)?;
        self.shared.reload()?;
        Ok(())
    }

    /// Marks a key that others may know: it seals nothing any more, and opens only for who says so.
    /// Where it was in use another one is made.
    ///
    /// # Errors
    /// [`RetireError`]: it is shredded, one that cannot be replaced, or not there.
    pub fn compromise(&self, kid: &KeyId, now: u64) -> Result<(), RetireError> {
        let record = self.record(kid)?;
        let refused = |why: &str| {
            Err(RetireError::Referred {
                kid: *kid,
                what: format!("{} {}", record.kind.as_str(), record.scope),
                why: why.to_owned(),
            })
        };
        match (record.kind, record.state) {
            (_, KeyState::Shredded) => return refused("it is shredded, which is for ever"),
            (KeyKind::Wrapping, _) => {
                return refused(
                    "it seals nothing: `veilstream keys rotate --wrapping`, then `rewrap`, move \
                    what it wraps under another one",
                );
            }
            (KeyKind::SubjectRef | KeyKind::Audit | KeyKind::DeadLetter | KeyKind::Store, _) => {
                return refused(
                    "there is one key of this kind and no other can take its place: make a new \
                    store and seal what is stored again",
                );
            }
            (KeyKind::Index | KeyKind::Deterministic, KeyState::Active)
                if self.is_newest(&record)? =>
            {
                return refused("it is the newest root; rotate first (`veilstream keys rotate`)");
            }
            (KeyKind::Data, KeyState::Active)
                if matches!(record.scope, Scope::Schema(_))
                    && now.saturating_sub(record.created) < SCHEMA_KEY_LIFE =>
            {
                return refused(
                    "a running process may seal with it; stop the process, which ends it, and run \
                    this again",
                );
            }
            _ => {}
        }
        if matches!(record.scope, Scope::Shared(_))
            && record.state == KeyState::Active
            && self.is_newest(&record)?
        {
            // A process that seals goes on, under another key.
            self.next_version(&self.shared.turn(), &record, now)?;
        }
        self.shared.store().set_state(&[*kid], KeyState::Compromised, Some(now))?;
        self.subjects.forget(|key| key.id == *kid);
        self.shared.reload()?;
        Ok(())
    }

    /// The schemas that seal or index with an active root: those that pin it, and of an index root
    /// those that pin none.
    #[must_use]
    pub fn used_by(root: &KeyRecord, schemas: &SchemaSet) -> Vec<String> {
        let follows = |schema: &Schema| {
            root.kind == KeyKind::Index
                && schema
                    .fields
                    .iter()
                    .any(|f| f.index.as_ref().is_some_and(|index| index.root.is_none()))
        };
        names(schemas, |schema| pins(schema, root) || follows(schema))
    }

    fn record(&self, kid: &KeyId) -> Result<KeyRecord, KeyError> {
        self.shared
            .store()
            .get(std::slice::from_ref(kid))?
            .pop()
            .filter(|r| r.tenant == *self.shared.tenant())
            .ok_or(KeyError::NoSuchKey { kid: *kid })
    }

    /// What stands against it.
    fn references(
        &self,
        record: &KeyRecord,
        schemas: &SchemaSet,
        unreferenced: bool,
        now: u64,
    ) -> Result<Option<String>, KeyError> {
        let because = |why: &str| Ok(Some(why.to_owned()));
        match record.state {
            KeyState::Shredded => return because("it is shredded, which is for ever"),
            KeyState::Retired => return because("it is retired already"),
            KeyState::Active | KeyState::DecryptOnly | KeyState::Compromised => {}
        }
        let pinning = names(schemas, |schema| pins(schema, record));
        if !pinning.is_empty() {
            return Ok(Some(format!("schema {} pins root {}", pinning.join(", "), record.version)));
        }
        let newest = self.is_newest(record)?;
        let checked = |what: &str| {
            if unreferenced {
                None
            } else {
                Some(format!(
                    "{what}; look through all that is stored, then say so with --unreferenced"
                ))
            }
        };
        match (record.kind, &record.scope) {
            (KeyKind::DeadLetter | KeyKind::SubjectRef | KeyKind::Audit | KeyKind::Store, _) => {
                because("there is one key of this kind and it is needed for ever")
            }
            (_, Scope::Subject(_)) => {
                because("a data subject's key is ended by `veilstream shred`")
            }
            (KeyKind::Wrapping, _) if newest => {
                because("it wraps new keys; rotate first (`veilstream keys rotate --wrapping`)")
            }
            (KeyKind::Wrapping, _) => {
                let wrapped =
                    self.shared.store().count_wrapped_by(&format!("{BY_KEY}{}", record.kid))?;
                Ok((wrapped > 0).then(|| {
                    format!(
                        "{wrapped} keys of data subjects are wrapped \
                    under it; move them first (`veilstream keys rewrap`)"
                    )
                }))
            }
            (KeyKind::Index, _) if newest => because(
                "it is the newest index root; rotate first (`veilstream keys rotate --index`)",
            ),
            (KeyKind::Index, _) => Ok(checked(
                "stored records may be found by its indexes alone (they begin with its version and \
                ~)",
            )),
            (KeyKind::Deterministic, _) => Ok(checked("stored records may hold values under it")),
            (KeyKind::Data, Scope::Schema(_))
                if record.state == KeyState::Active
                    && now.saturating_sub(record.created) < SCHEMA_KEY_LIFE =>
            {
                because("a running process may seal with it")
            }
            (KeyKind::Data, Scope::Shared(_)) if newest && record.state == KeyState::Active => {
                because("it seals; rotate first (`veilstream keys rotate --shared`)")
            }
            (KeyKind::Data, _) => Ok(checked(
                "stored records may hold tokens under it (its id is characters 8 to 28 of the \
                token; docs/formats.md)",
            )),
        }
    }

    /// Whether no later version of it is active.
    fn is_newest(&self, record: &KeyRecord) -> Result<bool, KeyError> {
        let same = |other: &KeyRecord| {
            other.kind == record.kind
                && (record.kind != KeyKind::Data || other.scope == record.scope)
        };
        let later = |other: &KeyRecord| {
            same(other) && other.version > record.version && other.state == KeyState::Active
        };
        Ok(!self.shared.store().shared(self.shared.tenant())?.iter().any(later))
    }
}

fn pins(schema: &Schema, root: &KeyRecord) -> bool {
    pinned(schema).contains(&(root.kind, root.version))
}

fn names(schemas: &SchemaSet, which: impl Fn(&Schema) -> bool) -> Vec<String> {
    schemas
        .schemas()
        .iter()
        .filter(|schema| which(schema))
        .map(|schema| schema.name.to_string())
        .collect()
}
