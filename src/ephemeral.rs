//! Keys that live as long as the process: for the demo and for cases of schemas. Never written
//! anywhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::interop::fernet::FernetKey;
use veilstream_engine::interop::{
    FernetKeys, InteropForm, InteropKeySet, InteropKeys, Passphrases,
};
use veilstream_engine::key::{Budget, Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::transform::NeededKey;
use veilstream_engine::{Keyring, kdf};
use veilstream_keys::interop;
use zeroize::Zeroizing;

use crate::keys::{KeyFault, KeySource};

const TENANT: &str = "default";
/// 2^30 uses with random nonces (docs/formats.md).
const USES: u64 = 1 << 30;

/// Random keys, in memory alone.
#[derive(Default)]
pub struct EphemeralKeys(Mutex<HashMap<(KeyKind, Scope), Arc<Key>>>, Mutex<Arc<InteropKeys>>);

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
        let shared = keys.values().filter(|key| !matches!(key.scope, Scope::Subject(_))).cloned();
        let interop = self.1.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Arc::new(Keyring::new(TENANT, shared).with_interop(interop))
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

    fn take_interop(&self, schemas: &SchemaSet) -> Result<(), KeyFault> {
        let mut held = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        let lacks = interop::places(schemas).into_iter().filter(|place| held.get(place).is_none());
        let made = lacks.map(|place| Ok((place.clone(), Arc::new(interop_keys(place.form)?))));
        let made = made.collect::<Result<Vec<_>, KeyFault>>()?;
        if !made.is_empty() {
            *held = Arc::new(held.joined(InteropKeys::new(made)));
        }
        Ok(())
    }

    fn prepare(&self, schemas: &SchemaSet) -> Result<(), KeyFault> {
        self.take_interop(schemas)?;
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

    fn follow(&self) {}

    fn renew(&self) {}
}

fn interop_keys(form: InteropForm) -> Result<InteropKeySet, KeyFault> {
    let mut bytes = Zeroizing::new(vec![0; 32]);
    getrandom::fill(&mut bytes)
        .map_err(|_| KeyFault("the system gives no random bytes".to_owned()))?;
    let set = match form {
        InteropForm::Fernet => FernetKey::of_bytes(&bytes)
            .and_then(|key| FernetKeys::new(vec![key]))
            .map(InteropKeySet::Fernet),
        InteropForm::Pgcrypto => Passphrases::new(vec![bytes]).map(InteropKeySet::Pgcrypto),
    };
    set.ok_or_else(|| KeyFault("no key was made".to_owned()))
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
