//! Keys back from an export, and the store they go to.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::Value;
use veilstream_engine::key::{KeyKind, KeyState, Scope, SecretKey};

use super::{EscrowError, message, refuse_subjects};
use crate::erasure::{LedgerCursor, LedgerError, Position, Verifier, erase_again, signer, unhex};
use crate::store::{Authentic, KeyRecord, RecordJson, StoreKeys, store_key_record};
use crate::wraps::secret_of;
use crate::{KeyError, Parts};

/// [`Manager::import`](crate::Manager::import).
pub(crate) fn import(
    tenant: &str,
    parts: Parts,
    text: &[u8],
    now: u64,
) -> Result<usize, EscrowError> {
    let open = |record: &KeyRecord| secret_of(record, &*parts.provider, parts.recovery.as_deref());
    let export = Export::read(text, tenant, open)?;
    let keys = StoreKeys::of(&open(&export.store_key)?);
    let known = join(tenant, &parts, &export, &keys)?;
    let store = Authentic::new(parts.store, keys, tenant);
    let taken = store.import(&export.records)?;
    let lines = parts.ledger.read(0)?;
    let recorded =
        Verifier::new(store.keys(), known.store).take_all(&parts.ledger.place(), &lines, &known)?;
    store.learn(&recorded);
    LedgerCursor::new(parts.ledger, known).append(&store, &[], now)?;
    erase_again(&store, now)?;
    if taken.is_empty() {
        Ok(export.records.len())
    } else {
        Err(EscrowError::Taken { kids: taken })
    }
}

/// Up to where the store knows the ledger. One that has a store key and a head must be the exported
/// one; another gets them, after the whole ledger was checked.
fn join(
    tenant: &str,
    parts: &Parts,
    export: &Export,
    keys: &StoreKeys,
) -> Result<Position, EscrowError> {
    let store = &*parts.store;
    let Export { store_key, head, .. } = export;
    if let Some(here) = store.head()? {
        if store_key_record(store)?.kid != store_key.kid || here.store != head.store {
            return Err(EscrowError::OtherStore);
        }
        return if keys.holds_head(&here) {
            Ok(Position::of(&here))
        } else {
            Err(LedgerError::Head { place: store.place() }.into())
        };
    }
    let lines = parts.ledger.read(0)?;
    let mut verifier = Verifier::new(keys, head.store);
    verifier.take_all(&parts.ledger.place(), &lines, head)?;
    let end = verifier.position().unwrap_or(*head);
    store.found(store_key, &keys.head(tenant, end.store, end.seq, end.sha256))?;
    Ok(end)
}

/// What an export holds, after its signature was checked.
struct Export {
    store_key: KeyRecord,
    head: Position,
    records: Vec<KeyRecord>,
}

impl Export {
    /// Reads an export of `tenant`. `open` opens the audit key in it.
    fn read(
        text: &[u8],
        tenant: &str,
        open: impl Fn(&KeyRecord) -> Result<SecretKey, KeyError>,
    ) -> Result<Self, EscrowError> {
        let signed = Signed::parse(text)?;
        let export = &signed.export;
        let found = export["tenant"].as_str().unwrap_or_default();
        if found != tenant {
            let (found, expected) = (found.to_owned(), tenant.to_owned());
            return Err(EscrowError::Tenant { found, expected });
        }
        let message = message(export)?;
        let mut records = records(export)?;
        // Anyone who could change the export could sign it with a key of their own: only the audit
        // key that our provider opens counts.
        let audit = records
            .iter()
            .find(|record| record.kind == KeyKind::Audit && *record.tenant == *tenant)
            .ok_or(EscrowError::Malformed { what: "no audit key" })?;
        signed.verify(&signer(&open(audit)?).verifying_key(), &message)?;
        for record in &mut records {
            record.mac = None;
            if matches!(record.scope, Scope::Schema(_)) && record.state == KeyState::Active {
                record.state = KeyState::DecryptOnly;
            }
        }
        Ok(Self { store_key: store_key(export)?, head: head(export)?, records })
    }
}

/// An export and what claims to be its signature.
struct Signed {
    export: Value,
    public_key: VerifyingKey,
    signature: Signature,
}

impl Signed {
    fn parse(text: &[u8]) -> Result<Self, EscrowError> {
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
        Ok(Self { export, public_key, signature })
    }

    fn verify(&self, trusted: &VerifyingKey, message: &[u8]) -> Result<(), EscrowError> {
        if *trusted == self.public_key
            && self.public_key.verify_strict(message, &self.signature).is_ok()
        {
            Ok(())
        } else {
            Err(EscrowError::Signature)
        }
    }
}

fn records(export: &Value) -> Result<Vec<KeyRecord>, EscrowError> {
    let malformed = |what| EscrowError::Malformed { what };
    let keys: Vec<RecordJson> =
        serde_json::from_value(export["keys"].clone()).map_err(|_| malformed("keys"))?;
    let records: Vec<KeyRecord> =
        keys.iter().map(RecordJson::record).collect::<Result<_, _>>().map_err(malformed)?;
    refuse_subjects(&records)?;
    Ok(records)
}

fn store_key(export: &Value) -> Result<KeyRecord, EscrowError> {
    let malformed = |what| EscrowError::Malformed { what };
    let json: RecordJson =
        serde_json::from_value(export["store_key"].clone()).map_err(|_| malformed("store_key"))?;
    let record = json.record().map_err(malformed)?;
    let is_store_key =
        record.kind == KeyKind::Store && record.state == KeyState::Active && record.version == 1;
    if is_store_key { Ok(record) } else { Err(malformed("store_key")) }
}

fn head(export: &Value) -> Result<Position, EscrowError> {
    let member = |name: &str| export["head"][name].as_str();
    let head = || {
        Some(Position {
            store: unhex(member("store")?)?,
            seq: export["head"]["seq"].as_u64()?,
            sha256: unhex(member("sha256")?)?,
        })
    };
    head().ok_or(EscrowError::Malformed { what: "head" })
}
