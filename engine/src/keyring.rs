//! The keys one batch works with: an immutable snapshot, taken once per batch as `Arc<Keyring>`.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::interop::InteropKeys;
use crate::key::{Key, KeyId, KeyKind, KeyState, Scope};
use crate::uniform::UniformMap;

/// An immutable set of keys of one tenant. Data keys of subjects are not kept here (there may be
/// millions): the caller hands them to the transformer or revealer as it asks for them.
#[derive(Debug, Default)]
pub struct Keyring {
    tenant: Arc<str>,
    by_id: UniformMap<KeyId, Arc<Key>>,
    sealing: HashMap<(KeyKind, Scope), Arc<Key>>,
    ended: Arc<HashSet<KeyId>>,
    interop: Arc<InteropKeys>,
}

impl Keyring {
    /// A keyring of `tenant` with `keys`. Of several active keys of one (kind, scope) the highest
    /// version seals; of one version, the later in `keys`.
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

    /// The same, with keys that were shredded, retired or found compromised so lately that they may
    /// still be in somebody's hand.
    #[must_use]
    pub fn with_ended(mut self, ended: Arc<HashSet<KeyId>>) -> Self {
        self.ended = ended;
        self
    }

    /// The same, with keys of other systems.
    #[must_use]
    pub fn with_interop(mut self, interop: Arc<InteropKeys>) -> Self {
        self.interop = interop;
        self
    }

    /// Keys of other systems, of fields in their forms.
    #[must_use]
    pub fn interop(&self) -> &Arc<InteropKeys> {
        &self.interop
    }

    /// Keys that a holder of this snapshot must forget.
    #[must_use]
    pub fn ended(&self) -> &HashSet<KeyId> {
        &self.ended
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

    /// Whether both hold the same keys in the same states, the same ended ones, and one set of
    /// keys of other systems.
    #[must_use]
    pub fn same_keys(&self, other: &Self) -> bool {
        let as_there =
            |key: &Arc<Key>| other.by_id.get(&key.id).is_some_and(|k| k.state == key.state);
        self.by_id.len() == other.by_id.len()
            && self.by_id.values().all(as_there)
            && self.ended == other.ended
            && Arc::ptr_eq(&self.interop, &other.interop)
    }

    /// Every key of a kind.
    pub fn of_kind(&self, kind: KeyKind) -> impl Iterator<Item = &Arc<Key>> {
        self.by_id.values().filter(move |k| k.kind == kind)
    }
}
