//! Keys that live as long as the process: for the demo and for cases of schemas. Never written
//! anywhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{Budget, Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::transform::NeededKey;
use veilstream_engine::{Keyring, kdf};
use zeroize::Zeroizing;

use crate::keys::{KeyFault, KeySource};

const TENANT: &str = "default";
/// 2^30 uses with random nonces (docs/formats.md).
const USES: u64 = 1 << 30;

/// Random keys, in memory alone.
#[derive(Default)]
pub struct EphemeralKeys(Mutex<HashMap<(KeyKind, Scope), Arc<Key>>>);

impl EphemeralKeys {
    fn get(&self, kind: KeyKind, scope: &Scope) -> Result<Arc<Key>, KeyFault> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = keys.get(&(kind, scope.clone())) {
            return Ok(key.clone());
        }
        let key = Arc::new(mint(kind, scope.clone())?);
        keys.insert((kind, scope.clone()), key.clone());
        Ok(key)
    }
}

impl KeySource for EphemeralKeys {
    fn keyring(&self) -> Arc<Keyring> {
        let keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Subjects' keys are asked for one by one.
        Arc::new(Keyring::new(
            TENANT,
            keys.values().filter(|key| !matches!(key.scope, Scope::Subject(_))).cloned(),
        ))
    }

    fn fetch(&self, needed: &[NeededKey]) -> Result<Vec<Arc<Key>>, KeyFault> {
        needed.iter().map(|key| self.get(key.kind, &key.scope)).collect()
    }

    fn lookup(&self, id: &KeyId) -> Result<Option<Arc<Key>>, KeyFault> {
        Ok(self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .values()
            .find(|key| key.id == *id)
            .cloned())
    }

    fn prepare(&self, schemas: &SchemaSet) -> Result<(), KeyFault> {
        for kind in
            [KeyKind::Index, KeyKind::Deterministic, KeyKind::DeadLetter, KeyKind::SubjectRef]
        {
            self.get(kind, &Scope::Version(1))?;
        }
        for schema in schemas.schemas() {
            self.get(KeyKind::Data, &Scope::Schema(schema.name.clone()))?;
        }
        Ok(())
    }

    fn maintain(&self) {}
}

fn mint(kind: KeyKind, scope: Scope) -> Result<Key, KeyFault> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut())
        .map_err(|_| KeyFault("the system gives no random bytes".to_owned()))?;
    let secret = SecretKey::new(*bytes);
    let kcv = kdf::key_check_value(&secret);
    Ok(Key {
        id: kdf::key_id(&kcv),
        kcv,
        kind,
        tenant: TENANT.into(),
        scope,
        version: 1,
        state: KeyState::Active,
        seal_until: None,
        secret: Some(secret),
        budget: Budget::new(USES),
    })
}
