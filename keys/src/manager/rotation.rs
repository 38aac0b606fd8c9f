//! New versions of keys, by age or by hand. Old versions go on opening; what they seal or wrap no
//! more, `rewrap` and `retire` deal with.

use std::collections::BTreeMap;
use std::sync::Arc;

use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};

use super::minter::Wrapper;
use super::{Manager, Turn, not_active};
use crate::KeyError;
use crate::provider::Rotation;
use crate::store::KeyRecord;

/// Seconds between two questions to the provider about the age of its key-encrypting key.
const KEK_LOOK: u64 = 3600;

/// What to rotate by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rotate {
    /// The key-encrypting key.
    Kek,
    /// The wrapping key of data subjects' keys.
    Wrapping,
    /// The shared data keys, of all schemas or of one.
    Shared(Option<Arc<str>>),
    /// The key of one data subject.
    Subject(SubjectRef),
    /// The index root: both versions are written until the old one is retired.
    Index,
    /// The deterministic root: for schemas to pin.
    Deterministic,
}

/// A new version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// What has it: a scope, or the `kek_uri`.
    pub what: String,
    /// The new key; `None` for a key-encrypting key.
    pub kid: Option<KeyId>,
    /// The new version.
    pub version: String,
}

impl Manager {
    /// Makes new versions, which seal from now on, here and, a few seconds later, in every process.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn rotate(&self, what: &Rotate, now: u64) -> Result<Vec<Rotated>, KeyError> {
        let turn = self.turn();
        match what {
            Rotate::Kek => {
                let kek = self.provider.rotate(now)?;
                Ok(vec![Rotated { what: kek.uri, kid: None, version: kek.version }])
            }
            Rotate::Wrapping => Ok(vec![self.next_epoch(&turn, now)?]),
            Rotate::Index => Ok(vec![self.next_root(&turn, KeyKind::Index, now)?]),
            Rotate::Deterministic => {
                Ok(vec![self.next_root(&turn, KeyKind::Deterministic, now)?])
            }
            Rotate::Shared(name) => {
                let newest = newest_active(self.store.shared(&self.settings.tenant)?);
                let wanted = |record: &&KeyRecord| matches!(&record.scope, Scope::Shared(n) if name.as_ref().is_none_or(|name| name == n));
                newest
                    .values()
                    .filter(wanted)
                    .map(|record| self.next_version(&turn, record, now))
                    .collect()
            }
            Rotate::Subject(subject) => Ok(vec![self.next_of_subject(&turn, *subject, now)?]),
        }
    }

    /// Rotates what is older than the interval, and the key-encrypting key where a running process
    /// may.
    pub(super) fn rotate_due(&self, turn: &mut Turn<'_>, now: u64) -> Result<(), KeyError> {
        let Some(interval) = self.settings.rotation else { return Ok(()) };
        for record in newest_active(self.store.shared(&self.settings.tenant)?)
            .values()
            .filter(|record| self.is_due(record.created, now))
        {
            match record.scope {
                Scope::Epoch(_) => self.next_epoch(turn, now).map(drop)?,
                Scope::Shared(_) => self.next_version(turn, record, now).map(drop)?,
                _ => {}
            }
        }
        if now.abs_diff(turn.kek_looked) >= KEK_LOOK {
            turn.kek_looked = now;
            let kek = self.provider.describe()?;
            if kek.rotation == Rotation::Here
                && kek.since.is_some_and(|since| now.saturating_sub(since) >= interval)
            {
                self.provider.rotate(now)?;
            }
        }
        Ok(())
    }

    /// Whether a key of this age is to be rotated.
    pub(super) fn is_due(&self, created: u64, now: u64) -> bool {
        self.settings.rotation.is_some_and(|interval| now.saturating_sub(created) >= interval)
    }

    /// The wrapping key of new keys of data subjects. There may be none yet, and making one takes a
    /// turn.
    pub(super) fn wrapping_key_in_use(&self) -> Option<Arc<Key>> {
        let held = self.held();
        let active = held
            .keys
            .values()
            .filter(|key| key.kind == KeyKind::Wrapping && key.state == KeyState::Active);
        active.max_by_key(|key| key.version).cloned()
    }

    pub(super) fn first_wrapping_key(
        &self,
        turn: &Turn<'_>,
        now: u64,
    ) -> Result<Arc<Key>, KeyError> {
        self.load_or_mint(turn, KeyKind::Wrapping, &Scope::Epoch(1), now)
    }

    fn next_epoch(&self, _: &Turn<'_>, now: u64) -> Result<Rotated, KeyError> {
        let known = self.store.shared(&self.settings.tenant)?;
        let epochs: Vec<&KeyRecord> =
            known.iter().filter(|record| record.kind == KeyKind::Wrapping).collect();
        let number = epochs.iter().map(|record| record.version).max().unwrap_or(0) + 1;
        let new = self.insert_one(
            self.minter()
                .mint(KeyKind::Wrapping, &Scope::Epoch(number), number, now, &Wrapper::Providers)?
                .0,
        )?;
        self.take(&new)?;
        let old: Vec<KeyId> = epochs
            .iter()
            .filter(|record| record.state == KeyState::Active)
            .map(|record| record.kid)
            .collect();
        self.only_opens(&old)?;
        Ok(rotated(&new))
    }

    /// The next version of a shared data key.
    pub(super) fn next_version(
        &self,
        _: &Turn<'_>,
        newest: &KeyRecord,
        now: u64,
    ) -> Result<Rotated, KeyError> {
        let new = self.insert_one(
            self.minter()
                .mint(newest.kind, &newest.scope, newest.version + 1, now, &Wrapper::Providers)?
                .0,
        )?;
        self.take(&new)?;
        self.only_opens(&[newest.kid])?;
        Ok(rotated(&new))
    }

    fn next_root(&self, _: &Turn<'_>, kind: KeyKind, now: u64) -> Result<Rotated, KeyError> {
        let known = self.store.shared(&self.settings.tenant)?;
        let active: Vec<&KeyRecord> = known
            .iter()
            .filter(|record| record.kind == kind && record.state == KeyState::Active)
            .collect();
        if kind == KeyKind::Index && active.len() > 1 {
            let versions = active.iter().map(|record| record.version).collect();
            return Err(KeyError::RootRotates { versions });
        }
        let number = known
            .iter()
            .filter(|record| record.kind == kind)
            .map(|record| record.version)
            .max()
            .unwrap_or(0)
            + 1;
        let new = self.insert_one(
            self.minter().mint(kind, &Scope::Version(number), number, now, &Wrapper::Providers)?.0,
        )?;
        self.take(&new)?;
        Ok(rotated(&new))
    }

    fn next_of_subject(
        &self,
        turn: &Turn<'_>,
        subject: SubjectRef,
        now: u64,
    ) -> Result<Rotated, KeyError> {
        let scope = Scope::Subject(subject);
        let found =
            self.store.find(&self.settings.tenant, KeyKind::Data, std::slice::from_ref(&scope))?;
        let newest = found
            .iter()
            .max_by_key(|record| record.version)
            .ok_or(KeyError::NoSuchSubject { subject })?;
        if newest.state == KeyState::Shredded {
            return Err(not_active(KeyKind::Data, &scope, newest.state));
        }
        let wrapping =
            self.wrapping_key_in_use().map_or_else(|| self.first_wrapping_key(turn, now), Ok)?;
        let new = self.insert_one(
            self.minter()
                .mint(KeyKind::Data, &scope, newest.version + 1, now, &Wrapper::Key(&wrapping))?
                .0,
        )?;
        self.only_opens(&[newest.kid])?;
        self.subjects.forget(|key| key.scope == scope);
        Ok(rotated(&new))
    }

    fn only_opens(&self, kids: &[KeyId]) -> Result<(), KeyError> {
        self.store.set_state(kids, KeyState::DecryptOnly, None)?;
        self.reload()
    }
}

/// The newest active key of each scope.
fn newest_active(records: Vec<KeyRecord>) -> BTreeMap<(KeyKind, Option<Scope>), KeyRecord> {
    let mut newest: BTreeMap<(KeyKind, Option<Scope>), KeyRecord> = BTreeMap::new();
    for record in records.into_iter().filter(|record| record.state == KeyState::Active) {
        // Epochs and roots are versions of one thing, each with a scope of its own.
        let scope = if matches!(record.scope, Scope::Shared(_)) {
            Some(record.scope.clone())
        } else {
            None
        };
        match newest.get(&(record.kind, scope.clone())) {
            Some(known) if known.version > record.version => {}
            _ => drop(newest.insert((record.kind, scope), record)),
        }
    }
    newest
}

fn rotated(record: &KeyRecord) -> Rotated {
    Rotated {
        what: format!("{} {}", record.kind.as_str(), record.scope),
        kid: Some(record.kid),
        version: record.version.to_string(),
    }
}
