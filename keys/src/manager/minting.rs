//! Making, storing and unwrapping keys.

use std::collections::HashMap;
use std::sync::Arc;

use veilstream_engine::kdf;
use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::wrap::{WrapContext, unwrap_local, wrap_local};
use zeroize::Zeroizing;

use super::{Held, Manager, key_of};
use crate::KeyError;
use crate::provider::ProviderError;
use crate::store::{KeyRecord, Wrap};

/// `kek_uri` of a wrap under a wrapping key.
const BY_KEY: &str = "kid:";

impl Manager {
    /// The sealing key of a scope that processes share: the newest active one, or a first one. Of two processes that mint at once, both get the
    /// key of whoever was first.
    pub(super) fn load_or_mint(&self, held: &mut Held, kind: KeyKind, scope: &Scope, now: u64) -> Result<Arc<Key>, KeyError> {
        if let Some(key) = held.keys.values().find(|key| key.kind == kind && key.scope == *scope && key.state == KeyState::Active) {
            return Ok(key.clone());
        }
        let found = self.store.find(&self.tenant, kind, std::slice::from_ref(scope))?;
        let record = match newest_active(kind, scope, &found)? {
            Some(record) => record.clone(),
            None => {
                let record = self.mint(kind, scope, now, None)?.0;
                let Some(stored) = self.store.insert(&[record])?.pop() else { unreachable!("a store answers for each record") };
                stored
            }
        };
        let key = self.unwrap(held, &record)?;
        active(&key)?;
        held.keys.insert(key.id, key.clone());
        Ok(key)
    }

    /// The sealing keys of data subjects: one look into the store, one write for the new ones.
    pub(super) fn subject_keys(&self, held: &mut Held, scopes: &[&Scope], now: u64) -> Result<HashMap<Scope, Arc<Key>>, KeyError> {
        let mut wanted: Vec<Scope> = scopes.iter().map(|scope| (*scope).clone()).collect();
        wanted.sort();
        wanted.dedup();
        let mut keys = HashMap::with_capacity(wanted.len());
        if wanted.is_empty() {
            return Ok(keys);
        }
        let mut stored: HashMap<Scope, Vec<KeyRecord>> = HashMap::new();
        for record in self.store.find(&self.tenant, KeyKind::Data, &wanted)? {
            stored.entry(record.scope.clone()).or_default().push(record);
        }
        let wrapping = self.load_or_mint(held, KeyKind::Wrapping, &Scope::Epoch(1), now)?;
        let mut new = Vec::new();
        for scope in &wanted {
            match newest_active(KeyKind::Data, scope, stored.get(scope).map_or(&[], Vec::as_slice))? {
                Some(record) => {
                    keys.insert(scope.clone(), self.unwrap(held, record)?);
                }
                None => new.push(self.mint(KeyKind::Data, scope, now, Some(&wrapping))?.0),
            }
        }
        if !new.is_empty() {
            for record in self.store.insert(&new)? {
                let key = self.unwrap(held, &record)?;
                active(&key)?;
                keys.insert(record.scope, key);
            }
        }
        Ok(keys)
    }

    /// A fresh key and its record, not stored yet: it must not seal before it is.
    pub(super) fn mint(&self, kind: KeyKind, scope: &Scope, now: u64, wrapping: Option<&Key>) -> Result<(KeyRecord, SecretKey), KeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes).map_err(|_| KeyError::Random)?;
        let secret = SecretKey::new(*bytes);
        let kcv = kdf::key_check_value(&secret);
        let kid = kdf::key_id(&kcv);
        let context = WrapContext { kid, kind, tenant: &self.tenant, scope };
        let wrap = match wrapping {
            Some(wrapping) => wrap_under(wrapping, &secret, &context)?,
            None => self.provider.wrap(&secret, &context)?,
        };
        let record = KeyRecord {
            kid,
            kcv,
            kind,
            tenant: self.tenant.clone(),
            scope: scope.clone(),
            // A root's scope is its version.
            version: if let Scope::Version(version) = scope { *version } else { 1 },
            state: KeyState::Active,
            created: now,
            retired: None,
            wraps: vec![wrap],
            uses: None,
        };
        Ok((record, secret))
    }

    /// The key of a record, checked against it. Keys of other processes only open here.
    pub(super) fn unwrap(&self, held: &mut Held, record: &KeyRecord) -> Result<Arc<Key>, KeyError> {
        let state = match (&record.scope, record.state) {
            (Scope::Schema(_), KeyState::Active) => KeyState::DecryptOnly,
            (_, state) => state,
        };
        if matches!(state, KeyState::Retired | KeyState::Shredded) {
            return Ok(Arc::new(key_of(record, state, None)));
        }
        let context = WrapContext { kid: record.kid, kind: record.kind, tenant: &record.tenant, scope: &record.scope };
        let secret = self.unwrap_any(held, record, &context)?;
        // The wrap is bound to the id; this compares the whole check value.
        if kdf::key_check_value(&secret) != record.kcv {
            return Err(KeyError::CheckValue { kid: record.kid });
        }
        Ok(Arc::new(key_of(record, state, Some(secret))))
    }

    fn unwrap_any(&self, held: &mut Held, record: &KeyRecord, context: &WrapContext<'_>) -> Result<SecretKey, KeyError> {
        if let Some(wrap) = record.wraps.iter().find(|wrap| self.provider.opens(&wrap.kek_uri)) {
            return Ok(self.provider.unwrap(wrap, context)?);
        }
        for wrap in &record.wraps {
            if let Some(kid) = wrap.kek_uri.strip_prefix(BY_KEY).and_then(|hex| hex.parse::<KeyId>().ok())
                && let Some(wrapping) = self.wrapping_key(held, &kid)?
            {
                return unwrap_under(&wrapping, wrap, context);
            }
        }
        Err(KeyError::OtherProvider {
            kid: record.kid,
            kind: record.kind,
            scope: record.scope.clone(),
            wrapped_by: record.wraps.first().map_or_else(|| "nobody".to_owned(), |wrap| wrap.kek_uri.clone()),
            provider: self.provider.name(),
        })
    }

    fn wrapping_key(&self, held: &mut Held, kid: &KeyId) -> Result<Option<Arc<Key>>, KeyError> {
        if let Some(key) = held.keys.get(kid) {
            return Ok(Some(key.clone()));
        }
        // Made by another process since the start. Wrapping keys are wrapped by providers alone, so this goes no deeper.
        let Some(record) = self.store.get(kid)?.filter(|r| r.kind == KeyKind::Wrapping && r.wraps.iter().any(|w| self.provider.opens(&w.kek_uri))) else {
            return Ok(None);
        };
        let key = self.unwrap(held, &record)?;
        held.keys.insert(key.id, key.clone());
        Ok(Some(key))
    }
}

/// The newest active version; `None` where there is no key at all. A scope whose keys may not seal any more gets no new one behind its back.
fn newest_active<'a>(kind: KeyKind, scope: &Scope, found: &'a [KeyRecord]) -> Result<Option<&'a KeyRecord>, KeyError> {
    let active = found.iter().filter(|record| record.state == KeyState::Active).max_by_key(|record| record.version);
    match (active, found.iter().max_by_key(|record| record.version)) {
        (None, Some(record)) => Err(KeyError::NotActive { kind, scope: scope.clone(), state: record.state }),
        (active, _) => Ok(active),
    }
}

fn active(key: &Key) -> Result<(), KeyError> {
    if key.state == KeyState::Active {
        return Ok(());
    }
    Err(KeyError::NotActive { kind: key.kind, scope: key.scope.clone(), state: key.state })
}

fn wrap_under(wrapping: &Key, secret: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, KeyError> {
    let mut nonce = [0; 24];
    getrandom::fill(&mut nonce).map_err(|_| KeyError::Random)?;
    let key = usable(wrapping)?;
    Ok(Wrap { kek_uri: format!("{BY_KEY}{}", wrapping.id), kek_version: wrapping.version.to_string(), wrapped: wrap_local(key, nonce, secret, context) })
}

fn unwrap_under(wrapping: &Key, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, KeyError> {
    let refused = ProviderError::Refused { provider: "wrapping key", kid: context.kid, what: "another wrapping key" };
    unwrap_local(usable(wrapping)?, &wrap.wrapped, context).map_err(|_| refused.into())
}

fn usable(wrapping: &Key) -> Result<&SecretKey, KeyError> {
    wrapping.secret.as_ref().ok_or_else(|| KeyError::NotActive { kind: wrapping.kind, scope: wrapping.scope.clone(), state: wrapping.state })
}
