//! Keys on their way to a safe place and back: the wraps as they stand, signed. Never keys of data
//! subjects: an escrow of those would undo erasures.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use serde_json::{Value, json};
use veilstream_engine::kdf;
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope};

use crate::erasure::{LedgerCursor, LedgerError, Position, Verifier, erase_again, signer, unhex};
use crate::store::{Authentic, KeyRecord, RecordJson, StoreKeys, store_key_record};
use crate::wraps::secret_of;
use crate::{KeyError, Manager, Parts, Settings, time};

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
        /// The keys.
        kids: Vec<KeyId>,
    },
    /// A key is not available.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl Manager {
    /// Every key but those of data subjects, or the ones listed, as they are wrapped, signed with
    /// the audit key (which is among them).
    ///
    /// # Errors
    /// [`EscrowError`].
    pub fn export(&self, kids: &[KeyId], now: u64) -> Result<Value, EscrowError> {
        let signer = self.signing_key(now)?;
        let head = self.store().head().map_err(KeyError::from)?;
        let store_key = store_key_record(self.store().unverified()).map_err(KeyError::from)?;
        let mut records = if kids.is_empty() {
            self.store().list(self.tenant()).map_err(KeyError::from)?
        } else {
            self.store().get(kids).map_err(KeyError::from)?
        };
        if let Some(subject) =
            records.iter().find(|record| matches!(record.scope, Scope::Subject(_)))
        {
            return Err(EscrowError::Subject { kid: subject.kid });
        }
        // Another tenant's key is none of this store's.
        records.retain(|record| record.tenant == *self.tenant());
        if let Some(missing) =
            kids.iter().find(|kid| !records.iter().any(|record| record.kid == **kid))
        {
            return Err(KeyError::NoSuchKey { kid: *missing }.into());
        }
        if !records.iter().any(|record| record.kind == KeyKind::Audit) {
            let audit = self
                .store()
                .find(self.tenant(), KeyKind::Audit, &[Scope::Version(1)])
                .map_err(KeyError::from)?;
            records.extend(audit);
        }
        let keys: Vec<RecordJson> = records
            .iter()
            .map(|record| RecordJson::from(&KeyRecord { uses: None, ..record.clone() }))
            .collect();
        let export = json!({
            "veilstream_escrow": 2, "tenant": &**self.tenant(), "time": time::text(now), "store_key": RecordJson::from(&store_key),
            "head": Position::of(&head).to_json(), "keys": keys,
        });
        let signature = signer.sign(&message(&export)?);
        Ok(json!({
            "export": export,
            "public_key": URL_SAFE_NO_PAD.encode(signer.verifying_key().as_bytes()),
            "signature": URL_SAFE_NO_PAD.encode(signature.to_bytes()),
        }))
    }

    /// Imports the keys of an export that was signed with the audit key in it, which the provider
    /// or the recovery provider must open. A store without store key and head gets the export's:
    /// the ledger is checked as a whole, up to the exported head at least, and who is in it is
    /// erased here too. Keys of processes only open from then on. Returns how many there were.
    ///
    /// # Errors
    /// [`EscrowError`]; nothing was taken, but for what [`EscrowError::Taken`] does not name.
    pub fn import(
        settings: Settings,
        parts: Parts,
        text: &[u8],
        now: u64,
    ) -> Result<usize, EscrowError> {
        let Export { store_key, head, records } = Export::read(text, &settings, &parts)?;
        let keys =
            StoreKeys::of(&secret_of(&store_key, &*parts.provider, parts.recovery.as_deref())?);
        let position = match parts.store.head().map_err(KeyError::from)? {
            Some(here) => {
                let known = store_key_record(&*parts.store).map_err(KeyError::from)?;
                if known.kid != store_key.kid || here.store != head.store {
                    return Err(EscrowError::OtherStore);
                }
                if !keys.holds_head(&here) {
                    return Err(
                        KeyError::from(LedgerError::Head { place: parts.store.place() }).into()
                    );
                }
                Position::of(&here)
            }
            None => {
                let lines = parts.ledger.read(0).map_err(KeyError::from)?;
                let mut verifier = Verifier::new(&keys, head.store);
                verifier.take_all(&parts.ledger.place(), &lines, &head).map_err(KeyError::from)?;
                let end = verifier.position().unwrap_or(head);
                parts
                    .store
                    .found(&store_key, &keys.head(&settings.tenant, end.store, end.seq, end.sha256))
                    .map_err(KeyError::from)?;
                end
            }
        };
        let store = Authentic::new(parts.store, keys, &settings.tenant);
        let taken = store.import(&records).map_err(KeyError::from)?;
        let lines = parts.ledger.read(0).map_err(KeyError::from)?;
        let recorded = Verifier::new(store.keys(), position.store)
            .take_all(&parts.ledger.place(), &lines, &position)
            .map_err(KeyError::from)?;
        store.learn(&recorded);
        LedgerCursor::new(parts.ledger, position).append(&store, &[], now)?;
        erase_again(&store, now)?;
        if taken.is_empty() { Ok(records.len()) } else { Err(EscrowError::Taken { kids: taken }) }
    }
}

/// What an export holds, after its signature was checked.
struct Export {
    store_key: KeyRecord,
    head: Position,
    records: Vec<KeyRecord>,
}

impl Export {
    fn read(text: &[u8], settings: &Settings, parts: &Parts) -> Result<Self, EscrowError> {
        let malformed = |what| EscrowError::Malformed { what };
        let mut value: Value = serde_json::from_slice(text).map_err(|_| malformed("not JSON"))?;
        let bytes =
            |name: &str| value[name].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let public_key = bytes("public_key")
            .and_then(|b| VerifyingKey::try_from(&*b).ok())
            .ok_or_else(|| malformed("public_key"))?;
        let signature = bytes("signature")
            .and_then(|b| Signature::from_slice(&b).ok())
            .ok_or_else(|| malformed("signature"))?;
        let export = value["export"].take();
        if export["veilstream_escrow"] != 2 {
            return Err(malformed("veilstream_escrow"));
        }
        let tenant = export["tenant"].as_str().unwrap_or_default();
        if *tenant != *settings.tenant {
            return Err(EscrowError::Tenant {
                found: tenant.to_owned(),
                expected: settings.tenant.to_string(),
            });
        }
        let message = message(&export)?;
        let keys: Vec<RecordJson> =
            serde_json::from_value(export["keys"].clone()).map_err(|_| malformed("keys"))?;
        let mut records: Vec<KeyRecord> =
            keys.iter().map(RecordJson::record).collect::<Result<_, _>>().map_err(malformed)?;
        if let Some(subject) =
            records.iter().find(|record| matches!(record.scope, Scope::Subject(_)))
        {
            return Err(EscrowError::Subject { kid: subject.kid });
        }
        // Anyone who could change the export could sign it with a key of their own: only the audit
        // key that our provider opens counts.
        let audit = records
            .iter()
            .find(|record| record.kind == KeyKind::Audit && record.tenant == settings.tenant)
            .ok_or_else(|| malformed("no audit key"))?;
        let signer = signer(&secret_of(audit, &*parts.provider, parts.recovery.as_deref())?);
        if signer.verifying_key() != public_key
            || public_key.verify_strict(&message, &signature).is_err()
        {
            return Err(EscrowError::Signature);
        }
        for record in &mut records {
            record.mac = None;
            if matches!(record.scope, Scope::Schema(_)) && record.state == KeyState::Active {
                record.state = KeyState::DecryptOnly;
            }
        }
        let store_key: RecordJson = serde_json::from_value(export["store_key"].clone())
            .map_err(|_| malformed("store_key"))?;
        let store_key = store_key.record().map_err(malformed)?;
        if store_key.kind != KeyKind::Store
            || store_key.state != KeyState::Active
            || store_key.version != 1
        {
            return Err(malformed("store_key"));
        }
        let member = |name: &str| export["head"][name].as_str();
        let head = || {
            Some(Position {
                store: unhex(member("store")?)?,
                seq: export["head"]["seq"].as_u64()?,
                sha256: unhex(member("sha256")?)?,
            })
        };
        Ok(Self { store_key, head: head().ok_or_else(|| malformed("head"))?, records })
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
