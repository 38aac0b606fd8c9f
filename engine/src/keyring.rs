//! The keys one batch works with: an immutable snapshot, taken once per batch as `Arc<Keyring>`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};

/// An immutable set of keys of one tenant. Data keys of subjects are not kept here (there may be millions): the caller
/// hands them to the transformer or revealer as it asks for them.
#[derive(Debug, Default)]
pub struct Keyring {
    tenant: Arc<str>,
    by_id: HashMap<KeyId, Arc<Key>>,
    sealing: HashMap<(KeyKind, Scope), Arc<Key>>,
    erased: Arc<HashSet<SubjectRef>>,
}

impl Keyring {
    /// A keyring of `tenant` with `keys`. Of several active keys of one (kind, scope) the highest version seals; of one version, the later in `keys`.
    #[must_use]
    pub fn new(tenant: impl Into<Arc<str>>, keys: impl IntoIterator<Item = Arc<Key>>) -> Self {
        let mut ring = Self { tenant: tenant.into(), ..Self::default() };
        for key in keys {
            if key.state == KeyState::Active {
                let slot = (key.kind, key.scope.clone());
                match ring.sealing.get(&slot) {
                    Some(older) if older.version > key.version => {}
                    _ => {
                        ring.sealing.insert(slot, key.clone());
                    }
                }
            }
            ring.by_id.insert(key.id, key);
        }
        ring
    }

    /// The same, with data subjects who were erased so lately that their keys may still be in somebody's hand.
    #[must_use]
    pub fn with_erased(mut self, erased: Arc<HashSet<SubjectRef>>) -> Self {
        self.erased = erased;
        self
    }

    /// Data subjects whose keys must be forgotten by whoever takes this snapshot.
    #[must_use]
    pub fn erased(&self) -> &HashSet<SubjectRef> {
        &self.erased
    }

    /// Whose keys these are; part of every token's associated data.
    #[must_use]
    pub fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    /// The key of that id, whatever its state (also shredded markers, which have no secret).
    #[must_use]
    pub fn get(&self, id: &KeyId) -> Option<&Arc<Key>> {
        self.by_id.get(id)
    }

    /// The key that seals for (kind, scope).
    #[must_use]
    pub fn sealing(&self, kind: KeyKind, scope: &Scope) -> Option<&Arc<Key>> {
        self.sealing.get(&(kind, scope.clone()))
    }

    /// Whether both hold the same keys in the same states, and the same erased subjects.
    #[must_use]
    pub fn same_keys(&self, other: &Self) -> bool {
        let as_there = |key: &Arc<Key>| other.by_id.get(&key.id).is_some_and(|k| k.state == key.state);
        self.by_id.len() == other.by_id.len() && self.by_id.values().all(as_there) && self.erased == other.erased
    }

    /// Every key of a kind.
    pub fn of_kind(&self, kind: KeyKind) -> impl Iterator<Item = &Arc<Key>> {
        self.by_id.values().filter(move |k| k.kind == kind)
    }
}
