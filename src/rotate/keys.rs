//! Keys of tokens: which there are, and which is the newest.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use veilstream_engine::Keyring;
use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_engine::transform::NeededKey;
use veilstream_keys::store::KeyRecord;
use veilstream_keys::{KeyError, Manager, SCHEMA_KEY_LIFE};

use crate::keys::now;

/// Keys of records asked for at once.
const RECORDS: usize = 1000;

/// Looks keys up for a rotation.
pub(super) struct RotationKeys {
    manager: Arc<Manager>,
    /// The shared key of the schema: what is no data subject's is sealed under its newest version.
    scope: Scope,
    /// Keys but data subjects', and whether they are the newest of their scope.
    newest: HashMap<KeyId, bool>,
    sealing: Option<KeyId>,
}

/// The keys of a page of rows.
pub(super) struct PageKeys {
    /// By id; a key that the store does not have is not there.
    found: HashMap<KeyId, Arc<Key>>,
    newest: HashMap<KeyId, bool>,
    subjects: HashMap<SubjectRef, Arc<Key>>,
    /// What is no data subject's is sealed with it.
    pub(super) own: Arc<Key>,
    pub(super) keyring: Arc<Keyring>,
}

impl RotationKeys {
    pub(super) fn new(manager: Arc<Manager>, schema: &Arc<str>) -> Self {
        let scope = Scope::Shared(schema.clone());
        Self { manager, scope, newest: HashMap::new(), sealing: None }
    }

    pub(super) fn keyring(&self) -> Arc<Keyring> {
        self.manager.keyring()
    }

    /// The keys of tokens, the newest keys of their data subjects, and those of `rows`.
    pub(super) fn page(
        &mut self,
        kids: &BTreeSet<KeyId>,
        rows: &BTreeSet<SubjectRef>,
    ) -> Result<PageKeys, KeyError> {
        let mut found = HashMap::new();
        for kid in kids {
            if let Some(key) = self.manager.lookup(kid, now())? {
                found.insert(*kid, key);
            }
        }
        let of_subject = |key: &Arc<Key>| match key.scope {
            Scope::Subject(subject) => Some(subject),
            _ => None,
        };
        let mut subjects: BTreeSet<SubjectRef> = rows.clone();
        // Of somebody erased there is no key to ask for.
        let open = found.values().filter(|key| key.state != KeyState::Shredded);
        subjects.extend(open.filter_map(of_subject));
        let mut needed = vec![NeededKey { kind: KeyKind::Data, scope: self.scope.clone() }];
        needed.extend(
            subjects
                .iter()
                .map(|subject| NeededKey { kind: KeyKind::Data, scope: Scope::Subject(*subject) }),
        );
        let mut fetched = self.manager.fetch(&needed, now())?.into_iter();
        let own = fetched.next().ok_or_else(|| KeyError::NoSuchRoot {
            kind: KeyKind::Data,
            scope: self.scope.clone(),
        })?;
        // Somebody rotated: what was the newest may not be it any more.
        if self.sealing.replace(own.id) != Some(own.id) {
            self.newest.clear();
        }
        let subjects: HashMap<SubjectRef, Arc<Key>> = subjects.into_iter().zip(fetched).collect();
        let others: Vec<KeyId> = found
            .values()
            .filter(|key| of_subject(key).is_none() && !self.newest.contains_key(&key.id))
            .map(|key| key.id)
            .collect();
        if !others.is_empty() {
            for record in self.manager.store().get(&others)? {
                let newest = is_newest(&self.manager, &record)?;
                self.newest.insert(record.kid, newest);
            }
        }
        let newest = kids.iter().filter_map(|kid| Some((*kid, *self.newest.get(kid)?))).collect();
        Ok(PageKeys { found, newest, subjects, own, keyring: self.manager.keyring() })
    }
}

/// Whether a key but a data subject's is what its scope seals with: the newest version of a shared
/// key, the key of a process that may still run.
pub(super) fn is_newest(manager: &Manager, record: &KeyRecord) -> Result<bool, KeyError> {
    if record.state != KeyState::Active {
        return Ok(false);
    }
    if matches!(record.scope, Scope::Schema(_)) {
        return Ok(now().saturating_sub(record.created) < SCHEMA_KEY_LIFE);
    }
    Ok(newest_versions(manager, record.kind, std::slice::from_ref(&record.scope))?
        .contains(&record.kid))
}

/// The newest active keys of scopes.
pub(super) fn newest_versions(
    manager: &Manager,
    kind: KeyKind,
    scopes: &[Scope],
) -> Result<BTreeSet<KeyId>, KeyError> {
    let mut newest: HashMap<Scope, KeyRecord> = HashMap::new();
    for scopes in scopes.chunks(RECORDS) {
        for record in manager.store().find(manager.tenant(), kind, scopes)? {
            let is_newer =
                newest.get(&record.scope).is_none_or(|known| known.version < record.version);
            if record.state == KeyState::Active && is_newer {
                newest.insert(record.scope.clone(), record);
            }
        }
    }
    Ok(newest.into_values().map(|record| record.kid).collect())
}

impl PageKeys {
    pub(super) fn get(&self, kid: &KeyId) -> Option<&Arc<Key>> {
        self.found.get(kid)
    }

    /// The newest key of a data subject; shredded where the subject was erased.
    pub(super) fn of_subject(&self, subject: &SubjectRef) -> Option<&Arc<Key>> {
        self.subjects.get(subject)
    }

    /// Whether no newer key has taken its place.
    pub(super) fn is_newest(&self, key: &Key) -> bool {
        match key.scope {
            Scope::Subject(subject) => {
                self.subjects.get(&subject).is_some_and(|newest| newest.id == key.id)
            }
            _ => self.newest.get(&key.id).copied().unwrap_or(false),
        }
    }
}
