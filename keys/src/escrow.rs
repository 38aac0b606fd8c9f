//! Keys on their way to a safe place and back: the wraps as they stand, signed. Never keys of data subjects: an escrow of those would undo erasures.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use serde_json::{Value, json};
use veilstream_engine::kdf;
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope};

use crate::erasure::signer;
use crate::store::{KeyRecord, RecordJson};
use crate::{KeyError, Manager, time};

/// Why an escrow is not made or taken.
#[derive(Debug, thiserror::Error)]
pub enum EscrowError {
    /// A data subject's key was asked for.
    #[error("key {kid} is a data subject's: it is not exported, or an erasure would not be one")]
    Subject {
        /// The key.
        kid: KeyId,
    },
    /// It is not what `keys export` writes.
    #[error("this is no export of keys: {what}")]
    Malformed {
        /// Where it is not.
        what: &'static str,
    },
    /// It was changed, or another store's key signed it.
    #[error("the export was changed after it was signed")]
    Signature,
    /// It is of another tenant.
    #[error("the export is of tenant {found}, this is {expected}")]
    Tenant {
        /// In the export.
        found: String,
        /// Here.
        expected: String,
    },
    /// The store has other keys in their places.
    #[error("this store has other keys in the place of {kids:?}, so these were left out and the rest imported; import into a new store")]
    Taken {
        /// The keys.
        kids: Vec<KeyId>,
    },
    /// A key cannot be had.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl Manager {
    /// Every key but those of data subjects, or the ones listed, as they are wrapped, signed with the audit key (which is among them).
    ///
    /// # Errors
    /// [`EscrowError`].
    pub fn export(&self, kids: &[KeyId], now: u64) -> Result<Value, EscrowError> {
        let signer = self.signing_key(now)?;
        let mut records =
            if kids.is_empty() { self.store().list(self.tenant()).map_err(KeyError::from)? } else { self.store().get(kids).map_err(KeyError::from)? };
        if let Some(subject) = records.iter().find(|record| matches!(record.scope, Scope::Subject(_))) {
            return Err(EscrowError::Subject { kid: subject.kid });
        }
        if let Some(missing) = kids.iter().find(|kid| !records.iter().any(|record| record.kid == **kid)) {
            return Err(KeyError::NoSuchKey { kid: *missing }.into());
        }
        if !records.iter().any(|record| record.kind == KeyKind::Audit) {
            let audit = self.store().find(self.tenant(), KeyKind::Audit, &[Scope::Version(1)]).map_err(KeyError::from)?;
            records.extend(audit);
        }
        let keys: Vec<RecordJson> = records.iter().map(|record| RecordJson::from(&KeyRecord { uses: None, ..record.clone() })).collect();
        let export = json!({ "veilstream_escrow": 1, "tenant": &**self.tenant(), "time": time::text(now), "keys": keys });
        let signature = signer.sign(&message(&export)?);
        Ok(json!({
            "export": export,
            "public_key": URL_SAFE_NO_PAD.encode(signer.verifying_key().as_bytes()),
            "signature": URL_SAFE_NO_PAD.encode(signature.to_bytes()),
        }))
    }

    /// Takes up the keys of an export that was signed with the audit key in it, which the provider or the recovery provider must open. Keys of processes
    /// only open from then on. Returns how many there were.
    ///
    /// # Errors
    /// [`EscrowError`]; nothing was taken, but for what [`EscrowError::Taken`] does not name.
    pub fn import(&self, text: &[u8]) -> Result<usize, EscrowError> {
        let malformed = |what| EscrowError::Malformed { what };
        let mut value: Value = serde_json::from_slice(text).map_err(|_| malformed("not JSON"))?;
        let bytes = |name: &str| value[name].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let public_key = bytes("public_key").and_then(|b| VerifyingKey::try_from(&*b).ok()).ok_or_else(|| malformed("public_key"))?;
        let signature = bytes("signature").and_then(|b| Signature::from_slice(&b).ok()).ok_or_else(|| malformed("signature"))?;
        let export = value["export"].take();
        if export["veilstream_escrow"] != 1 {
            return Err(malformed("veilstream_escrow"));
        }
        let tenant = export["tenant"].as_str().unwrap_or_default();
        if *tenant != **self.tenant() {
            return Err(EscrowError::Tenant { found: tenant.to_owned(), expected: self.tenant().to_string() });
        }
        let message = message(&export)?;
        let keys: Vec<RecordJson> = serde_json::from_value(export["keys"].clone()).map_err(|_| malformed("keys"))?;
        let mut records: Vec<KeyRecord> = keys.iter().map(RecordJson::record).collect::<Result<_, _>>().map_err(malformed)?;
        if let Some(subject) = records.iter().find(|record| matches!(record.scope, Scope::Subject(_))) {
            return Err(EscrowError::Subject { kid: subject.kid });
        }
        // Whoever could change the export could sign it with a key of their own: only the audit key that our provider opens counts.
        let audit = records.iter().find(|record| record.kind == KeyKind::Audit && record.tenant == *self.tenant()).ok_or_else(|| malformed("no audit key"))?;
        let signer = signer(&self.secret_or_recovered(audit)?);
        if signer.verifying_key() != public_key || public_key.verify_strict(&message, &signature).is_err() {
            return Err(EscrowError::Signature);
        }
        for record in records.iter_mut().filter(|record| matches!(record.scope, Scope::Schema(_)) && record.state == KeyState::Active) {
            record.state = KeyState::DecryptOnly;
        }
        let taken = self.store().import(&records).map_err(KeyError::from)?;
        if taken.is_empty() { Ok(records.len()) } else { Err(EscrowError::Taken { kids: taken }) }
    }
}

/// `"vs1/escrow" | LP(canonical JSON)` (RFC 8785).
fn message(export: &Value) -> Result<Vec<u8>, EscrowError> {
    let canonical = serde_json_canonicalizer::to_vec(export).map_err(|_| EscrowError::Malformed { what: "not canonical" })?;
    let mut message = b"vs1/escrow".to_vec();
    message.extend_from_slice(&kdf::length_prefix(canonical.len()));
    message.extend_from_slice(&canonical);
    Ok(message)
}
