//! New versions of keys, by age or by hand. Old versions go on opening; what they seal or wrap no
//! more, `rewrap` and `retire` deal with.

use std::collections::BTreeMap;
use std::sync::Arc;

use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};

use super::minter::Wrapper;
use super::shared::{SharedKeys, Turn, not_active};
use super::subjects::SubjectKeys;
use crate::KeyError;
use crate::provider::Rotation;
use crate::store::KeyRecord;

/// Seconds between two questions to the provider about the age of its key-encrypting key.
const KEK_LOOK: u64 = 3600;

/// Which key gets a new version.
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

/// A version that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// Kind and scope of the key, or the `kek_uri`.
    pub what: String,
    /// Id of the new key; `None`: it is a key-encrypting key.
    pub kid: Option<KeyId>,
    /// Number of the version; of a key-encrypting key in the words of its provider.
    pub version: String,
}

/// Makes new versions of keys.
pub(super) struct Rotator<'a> {
    shared: &'a SharedKeys,
    subjects: &'a SubjectKeys,
}

impl<'a> Rotator<'a> {
    pub(super) fn new(shared: &'a SharedKeys, subjects: &'a SubjectKeys) -> Self {
        Self { shared, subjects }
    }

    /// [`Manager::rotate`](super::Manager::rotate).
    pub(super) fn rotate(&self, what: &Rotate, now: u64) -> Result<Vec<Rotated>, KeyError> {
        let turn = self.shared.turn();
        match what {
            Rotate::Kek => {
                let kek = self.shared.provider().rotate(now)?;
                Ok(vec![Rotated { what: kek.uri, kid: None, version: kek.version }])
            }
            Rotate::Wrapping => Ok(vec![self.next_epoch(&turn, now)?]),
            Rotate::Index => Ok(vec![self.next_root(&turn, KeyKind::Index, now)?]),
            Rotate::Deterministic => {
                Ok(vec![self.next_root(&turn, KeyKind::Deterministic, now)?])
            }
            Rotate::Shared(name) => {
                let newest = newest_active(self.shared.store().shared(self.shared.tenant())?);
                let wanted = |record: &&KeyRecord| {
                    matches!(&record.scope, Scope::Shared(schema)
                        if name.as_ref().is_none_or(|name| name == schema))
                };
                newest
                    .values()
                    .filter(wanted)
                    .map(|record| self.next_version(&turn, record, now))
                    .collect()
            }
            Rotate::Subject(subject) => Ok(vec![self.next_of_subject(&turn, *subject, now)?]),
        }
    }

    /// Rotates what is older than `interval` seconds, and the key-encrypting key where a running
    /// process may.
    pub(super) fn rotate_due(
        &self,
        turn: &mut Turn<'_>,
        interval: u64,
        now: u64,
    ) -> Result<(), KeyError> {
        for record in newest_active(self.shared.store().shared(self.shared.tenant())?)
            .values()
            .filter(|record| is_due(interval, record.created, now))
        {
            match record.scope {
                Scope::Epoch(_) => self.next_epoch(turn, now).map(drop)?,
                Scope::Shared(_) => self.next_version(turn, record, now).map(drop)?,
                _ => {}
            }
        }
        if now.abs_diff(turn.kek_looked) >= KEK_LOOK {
            turn.kek_looked = now;
            let kek = self.shared.provider().describe()?;
            if kek.rotation == Rotation::Here
                && kek.since.is_some_and(|since| is_due(interval, since, now))
            {
                self.shared.provider().rotate(now)?;
            }
        }
        Ok(())
    }

    fn next_epoch(&self, turn: &Turn<'_>, now: u64) -> Result<Rotated, KeyError> {
        let known = self.shared.store().shared(self.shared.tenant())?;
        let epochs: Vec<&KeyRecord> =
            known.iter().filter(|record| record.kind == KeyKind::Wrapping).collect();
        let number = epochs.iter().map(|record| record.version).max().unwrap_or(0) + 1;
        let new = self.shared.mint(
            turn,
            KeyKind::Wrapping,
            &Scope::Epoch(number),
            number,
            now,
            &Wrapper::Providers,
        )?;
        self.shared.take(&new)?;
        let old: Vec<KeyId> = epochs
            .iter()
            .filter(|record| record.state == KeyState::Active)
            .map(|record| record.kid)
            .collect();
        self.shared.only_opens(&old)?;
        Ok(rotated(&new))
    }

    /// The next version of a shared data key.
    pub(super) fn next_version(
        &self,
        turn: &Turn<'_>,
        newest: &KeyRecord,
        now: u64,
    ) -> Result<Rotated, KeyError> {
        let new = self.shared.mint(
            turn,
            newest.kind,
            &newest.scope,
            newest.version + 1,
            now,
            &Wrapper::Providers,
        )?;
        self.shared.take(&new)?;
        self.shared.only_opens(&[newest.kid])?;
        Ok(rotated(&new))
    }

    fn next_root(&self, turn: &Turn<'_>, kind: KeyKind, now: u64) -> Result<Rotated, KeyError> {
        let known = self.shared.store().shared(self.shared.tenant())?;
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
        let new = self.shared.mint(
            turn,
            kind,
            &Scope::Version(number),
            number,
            now,
            &Wrapper::Providers,
        )?;
        self.shared.take(&new)?;
        Ok(rotated(&new))
    }

    fn next_of_subject(
        &self,
        turn: &Turn<'_>,
        subject: SubjectRef,
        now: u64,
    ) -> Result<Rotated, KeyError> {
        let scope = Scope::Subject(subject);
        let found = self.shared.store().find(
            self.shared.tenant(),
            KeyKind::Data,
            std::slice::from_ref(&scope),
        )?;
        let newest = found
            .iter()
            .max_by_key(|record| record.version)
            .ok_or(KeyError::NoSuchSubject { subject })?;
        if newest.state == KeyState::Shredded {
            return Err(not_active(KeyKind::Data, &scope, newest.state));
        }
        let wrapping = self.shared.wrapping_key_in_turn(turn, now)?;
        let new = self.shared.mint(
            turn,
            KeyKind::Data,
            &scope,
            newest.version + 1,
            now,
            &Wrapper::Key(&wrapping),
        )?;
        self.shared.only_opens(&[newest.kid])?;
        self.subjects.forget(|key| key.scope == scope);
        Ok(rotated(&new))
    }
}

/// Whether a key is `interval` seconds old.
pub(super) fn is_due(interval: u64, created: u64, now: u64) -> bool {
    now.saturating_sub(created) >= interval
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
