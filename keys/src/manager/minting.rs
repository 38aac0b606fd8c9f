//! Loading and unwrapping keys that are stored, and storing new ones.

use std::sync::Arc;

use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::wrap::WrapContext;

use super::minter::Wrapper;
use super::{Manager, Turn, key_of, not_active};
use crate::KeyError;
use crate::store::KeyRecord;
use crate::wraps::{by_provider, checked, context_of, other_provider, unwrap_under, wrapping_kid};

impl Manager {
    /// The sealing key of a scope that processes share: the newest active one, or a first one. Of
    /// two processes that mint at once, both get the key of the first.
    pub(super) fn load_or_mint(
        &self,
        _: &Turn<'_>,
        kind: KeyKind,
        scope: &Scope,
        now: u64,
    ) -> Result<Arc<Key>, KeyError> {
        let of_scope = |key: &&Arc<Key>| {
            key.kind == kind && key.scope == *scope && key.state == KeyState::Active
        };
        if let Some(key) = self.held().keys.values().filter(of_scope).max_by_key(|key| key.version)
        {
            return Ok(key.clone());
        }
        let found = self.store.find(&self.settings.tenant, kind, std::slice::from_ref(scope))?;
        let active = found
            .iter()
            .filter(|record| record.state == KeyState::Active)
            .max_by_key(|record| record.version);
        let record = match (active, found.iter().max_by_key(|record| record.version)) {
            (Some(record), _) => record.clone(),
            // A scope whose keys may not seal any more gets no new one behind its back.
            (None, Some(record)) => return Err(not_active(kind, scope, record.state)),
            (None, None) => {
                self.insert_one(self.minter().mint(kind, scope, 1, now, &Wrapper::Providers)?.0)?
            }
        };
        self.take(&record)
    }

    /// The audit key, made if it is not there. It signs and seals nothing else, so it is not kept
    /// in hand.
    pub(crate) fn audit_key(&self, now: u64) -> Result<Arc<Key>, KeyError> {
        let _turn = self.turn();
        let scope = Scope::Version(1);
        let record = match self
            .store
            .find(&self.settings.tenant, KeyKind::Audit, std::slice::from_ref(&scope))?
            .pop()
        {
            Some(record) => record,
            None => self.insert_one(
                self.minter().mint(KeyKind::Audit, &scope, 1, now, &Wrapper::Providers)?.0,
            )?,
        };
        self.unwrap(&record)
    }

    /// Stores a new key; what the store holds in its place.
    pub(super) fn insert_one(&self, record: KeyRecord) -> Result<KeyRecord, KeyError> {
        let Some(stored) = self.store.insert(&[record])?.pop() else {
            unreachable!("a store answers for each record")
        };
        Ok(stored)
    }

    /// Takes a shared key in hand; it must be active.
    pub(super) fn take(&self, record: &KeyRecord) -> Result<Arc<Key>, KeyError> {
        let key = self.unwrap(record)?;
        if key.state != KeyState::Active {
            return Err(not_active(key.kind, &key.scope, key.state));
        }
        Ok(self.change(|held| held.keys.entry(key.id).or_insert(key).clone()))
    }

    /// The key of a record, checked against it. Keys of other processes only open here.
    pub(crate) fn unwrap(&self, record: &KeyRecord) -> Result<Arc<Key>, KeyError> {
        let state = match (&record.scope, record.state) {
            (Scope::Schema(_), KeyState::Active) => KeyState::DecryptOnly,
            (_, state) => state,
        };
        if matches!(state, KeyState::Retired | KeyState::Shredded) {
            return Ok(Arc::new(key_of(record, state, None)));
        }
        let context = context_of(record);
        Ok(Arc::new(key_of(
            record,
            state,
            Some(checked(record, self.unwrap_any(record, &context)?)?),
        )))
    }

    fn unwrap_any(
        &self,
        record: &KeyRecord,
        context: &WrapContext<'_>,
    ) -> Result<SecretKey, KeyError> {
        if let Some(wrap) = by_provider(record, &*self.provider) {
            return Ok(self.provider.unwrap(wrap, context)?);
        }
        for wrap in &record.wraps {
            if let Some(kid) = wrapping_kid(wrap)
                && let Some(wrapping) = self.wrapping_key(&kid)?
            {
                return unwrap_under(&wrapping, wrap, context);
            }
        }
        Err(other_provider(record, &*self.provider))
    }

    pub(super) fn wrapping_key(&self, kid: &KeyId) -> Result<Option<Arc<Key>>, KeyError> {
        if let Some(key) = self.held().keys.get(kid) {
            return Ok(Some(key.clone()));
        }
        // Made by another process since the last look. Wrapping keys are wrapped by providers
        // alone, so this goes no deeper.
        let opens_here = |record: &KeyRecord| {
            record.kind == KeyKind::Wrapping && by_provider(record, &*self.provider).is_some()
        };
        let Some(record) = self.store.get(std::slice::from_ref(kid))?.pop().filter(opens_here)
        else {
            return Ok(None);
        };
        let key = self.unwrap(&record)?;
        Ok(Some(self.change(|held| held.keys.entry(key.id).or_insert(key).clone())))
    }
}
