//! Keys on their way to a safe place and back: the wraps as they stand, signed. Never keys of data
//! subjects: an escrow of those would undo erasures.

mod import;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};
use veilstream_engine::kdf;
use veilstream_engine::key::{KeyId, KeyKind, Scope};

use crate::erasure::{LedgerError, Position};
use crate::store::{Authentic, KeyRecord, RecordJson, StoreError, store_key_record};
use crate::{KeyError, time};

pub(crate) use import::import;

/// Why an escrow is not made or taken.
#[derive(Debug, thiserror::Error)]
pub enum EscrowError {
    /// A data subject's key was asked for.
    #[error("key {kid} is a data subject's: it is not exported, or an erasure would not be one")]
    Subject {
        /// The first such key.
        kid: KeyId,
    },
    /// It is not what `keys export` writes.
    #[error("this is no export of keys: {what}")]
    Malformed {
        /// The member that is not as it should be.
        what: &'static str,
    },
    /// It was changed, or another store's key signed it.
    #[error("the export was changed after it was signed")]
    Signature,
    /// It is of another tenant.
    #[error("the export is of tenant {found}, this is {expected}")]
    Tenant {
        /// The tenant that the export names.
        found: String,
        /// The tenant that imports.
        expected: String,
    },
    /// The store has a store key and a head already, and they are others.
    #[error(
        "this store is another one (its store key or its ledger differs); import into a new store \
        (`veilstream keys init --empty`)"
    )]
    OtherStore,
    /// The store has other keys in their places.
    #[error(
        "this store has other keys in the place of {kids:?}, so these were left out and the rest \
        imported; import into a new store"
    )]
    Taken {
        /// The keys of the export that were left out.
        kids: Vec<KeyId>,
    },
    /// A key, the store or the ledger is not available.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl From<StoreError> for EscrowError {
    fn from(error: StoreError) -> Self {
        Self::Keys(error.into())
    }
}

impl From<LedgerError> for EscrowError {
    fn from(error: LedgerError) -> Self {
        Self::Keys(error.into())
    }
}

/// Makes exports of a store.
pub(crate) struct Escrow<'a> {
    store: &'a Authentic,
    /// Signs with the audit key of the store.
    signer: &'a SigningKey,
}

impl<'a> Escrow<'a> {
    pub(crate) fn new(store: &'a Authentic, signer: &'a SigningKey) -> Self {
        Self { store, signer }
    }

    /// Every key but those of data subjects, or the ones listed, as they are wrapped, signed with
    /// the audit key (which is among them).
    pub(crate) fn export(&self, kids: &[KeyId], now: u64) -> Result<Value, EscrowError> {
        let head = self.store.head()?;
        let store_key = store_key_record(self.store.unverified())?;
        let keys: Vec<RecordJson> = self
            .records(kids)?
            .iter()
            .map(|record| RecordJson::from(&KeyRecord { uses: None, ..record.clone() }))
            .collect();
        let export = json!({
            "veilstream_escrow": 2,
            "tenant": self.store.tenant(),
            "time": time::text(now),
            "store_key": RecordJson::from(&store_key),
            "head": Position::of(&head).to_json(),
            "keys": keys,
        });
        let signature = self.signer.sign(&message(&export)?);
        Ok(json!({
            "export": export,
            "public_key": URL_SAFE_NO_PAD.encode(self.signer.verifying_key().as_bytes()),
            "signature": URL_SAFE_NO_PAD.encode(signature.to_bytes()),
        }))
    }

    /// The records to export. `kids`: these and the audit key's; empty: all that may be exported.
    fn records(&self, kids: &[KeyId]) -> Result<Vec<KeyRecord>, EscrowError> {
        let tenant = self.store.tenant();
        let mut records =
            if kids.is_empty() { self.store.list(tenant)? } else { self.store.get(kids)? };
        refuse_subjects(&records)?;
        // Another tenant's key is none of this store's.
        records.retain(|record| *record.tenant == *tenant);
        if let Some(missing) =
            kids.iter().find(|kid| !records.iter().any(|record| record.kid == **kid))
        {
            return Err(KeyError::NoSuchKey { kid: *missing }.into());
        }
        if !records.iter().any(|record| record.kind == KeyKind::Audit) {
            records.extend(self.store.find(tenant, KeyKind::Audit, &[Scope::Version(1)])?);
        }
        Ok(records)
    }
}

fn refuse_subjects(records: &[KeyRecord]) -> Result<(), EscrowError> {
    match records.iter().find(|record| matches!(record.scope, Scope::Subject(_))) {
        Some(subject) => Err(EscrowError::Subject { kid: subject.kid }),
        None => Ok(()),
    }
}

/// `"vs1/escrow" | LP(canonical JSON)` (RFC 8785).
fn message(export: &Value) -> Result<Vec<u8>, EscrowError> {
    let canonical = serde_json_canonicalizer::to_vec(export)
        .map_err(|_| EscrowError::Malformed { what: "not canonical" })?;
    let mut message = b"vs1/escrow".to_vec();
    message.extend_from_slice(&kdf::length_prefix(canonical.len()));
    message.extend_from_slice(&canonical);
    Ok(message)
}
