//! What authenticates the store's records, its head and the lines of the erasure ledger
//! (docs/formats.md, "Records are authenticated").

use veilstream_engine::kdf;
use veilstream_engine::key::{KeyId, SecretKey};
use veilstream_engine::mac::HmacSha256;

use super::{Head, KeyRecord};
use crate::credential::Credential;
use crate::time;

/// The tenant of the store key: no tenant can be called that.
pub const STORE_TENANT: &str = "-";

/// The members of a key record that its MAC covers, as the format writes them.
#[derive(Debug, Clone, Copy)]
pub struct RecordFields<'a> {
    /// The 16 bytes of the id.
    pub kid: &'a [u8],
    /// The 32 bytes of the check value.
    pub kcv: &'a [u8],
    /// Name of the kind, such as `data`.
    pub kind: &'a str,
    /// Name of the tenant.
    pub tenant: &'a str,
    /// The scope as text, such as `shared:orders`.
    pub scope: &'a str,
    /// Number of the version.
    pub version: u64,
    /// Name of the state, such as `active`.
    pub state: &'a str,
    /// When it was made, `YYYY-MM-DDTHH:MM:SSZ`.
    pub created: &'a str,
    /// When it stopped being of use; empty where it did not.
    pub retired: &'a str,
}

/// `K_rec`, `K_led` and `K_cred`, derived from a store key.
#[derive(Debug, Clone)]
pub struct StoreKeys {
    kid: KeyId,
    record: SecretKey,
    ledger: SecretKey,
    credential: SecretKey,
}

impl StoreKeys {
    /// `K_rec = expand(store key, "vs1/store/record", 32)`, `K_led = expand(store key,
    /// "vs1/store/ledger", 32)`, `K_cred = expand(store key, "vs1/store/credential", 32)`.
    #[must_use]
    pub fn of(store_key: &SecretKey) -> Self {
        Self {
            kid: kdf::key_id(&kdf::key_check_value(store_key)),
            record: derived(store_key, b"vs1/store/record"),
            ledger: derived(store_key, b"vs1/store/ledger"),
            credential: derived(store_key, b"vs1/store/credential"),
        }
    }

    /// The id of the store key.
    #[must_use]
    pub fn kid(&self) -> KeyId {
        self.kid
    }

    /// `HMAC-SHA-256(K_rec, "vs1/record" | LP(kid) | LP(kcv) | LP(kind) | LP(tenant) | LP(scope) |
    /// u64 version | LP(state) | LP(created) | LP(retired or ""))`.
    #[must_use]
    pub fn record_mac(&self, fields: &RecordFields<'_>) -> [u8; 32] {
        record(&self.record, fields).publish()
    }

    /// The record with its MAC.
    #[must_use]
    pub fn signed(&self, record: &KeyRecord) -> KeyRecord {
        KeyRecord {
            mac: Some(with_fields(record, |fields| self.record_mac(fields))),
            ..record.clone()
        }
    }

    /// Whether the record has its MAC. Compared in constant time.
    #[must_use]
    pub fn holds(&self, record_: &KeyRecord) -> bool {
        record_.mac.is_some_and(|mac| {
            with_fields(record_, |fields| record(&self.record, fields).verify(&mac))
        })
    }

    /// `HMAC-SHA-256(K_led, the canonical line without mac)`.
    #[must_use]
    pub fn line_mac(&self, line: &[u8]) -> [u8; 32] {
        self.line(line).publish()
    }

    /// Whether it is the MAC of a line. Compared in constant time.
    #[must_use]
    pub fn holds_line(&self, line: &[u8], mac: &[u8; 32]) -> bool {
        self.line(line).verify(mac)
    }

    /// `HMAC-SHA-256(K_cred, LP(id) | LP(SHA-256) | LP(name) | LP(roles) | LP(created) |
    /// LP(expires) | LP(revoked or ""))`.
    #[must_use]
    pub fn credential_mac(&self, credential: &Credential) -> [u8; 32] {
        self.credential(credential).publish()
    }

    /// Whether it is the MAC of an API key's record. Compared in constant time.
    #[must_use]
    pub fn holds_credential(&self, credential: &Credential, mac: &[u8; 32]) -> bool {
        self.credential(credential).verify(mac)
    }

    fn credential(&self, credential: &Credential) -> HmacSha256 {
        let mut mac = HmacSha256::new(self.credential.expose());
        mac.update_part(&credential.id.0);
        mac.update_part(&credential.sha256);
        let revoked = credential.revoked.map_or_else(String::new, time::text);
        for text in [
            credential.name.as_str(),
            &credential.roles.join(","),
            &time::text(credential.created),
            &time::text(credential.expires),
            &revoked,
        ] {
            mac.update_part(text.as_bytes());
        }
        mac
    }

    fn line(&self, line: &[u8]) -> HmacSha256 {
        let mut mac = HmacSha256::new(self.ledger.expose());
        mac.update(line);
        mac
    }

    /// A head with its MAC, `HMAC-SHA-256(K_led, "vs1/ledger/head" | LP(store) | u64 seq |
    /// LP(SHA-256))`.
    #[must_use]
    pub fn head(&self, tenant: &str, store: [u8; 16], seq: u64, sha256: [u8; 32]) -> Head {
        let mac = self.head_mac(&store, seq, &sha256).publish();
        Head { store, tenant: tenant.into(), seq, sha256, mac }
    }

    /// Whether the head has its MAC. Compared in constant time.
    #[must_use]
    pub fn holds_head(&self, head: &Head) -> bool {
        self.head_mac(&head.store, head.seq, &head.sha256).verify(&head.mac)
    }

    fn head_mac(&self, store: &[u8; 16], seq: u64, sha256: &[u8; 32]) -> HmacSha256 {
        let mut mac = HmacSha256::new(self.ledger.expose());
        mac.update(b"vs1/ledger/head");
        mac.update_part(store);
        mac.update(&seq.to_be_bytes());
        mac.update_part(sha256);
        mac
    }
}

fn derived(store_key: &SecretKey, info: &[u8]) -> SecretKey {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    kdf::expand(store_key.expose(), &[info], &mut *bytes);
    SecretKey::new(*bytes)
}

fn record(key: &SecretKey, fields: &RecordFields<'_>) -> HmacSha256 {
    let mut mac = HmacSha256::new(key.expose());
    mac.update(b"vs1/record");
    for bytes in [
        fields.kid,
        fields.kcv,
        fields.kind.as_bytes(),
        fields.tenant.as_bytes(),
        fields.scope.as_bytes(),
    ] {
        mac.update_part(bytes);
    }
    mac.update(&fields.version.to_be_bytes());
    for text in [fields.state, fields.created, fields.retired] {
        mac.update_part(text.as_bytes());
    }
    mac
}

fn with_fields<T>(record: &KeyRecord, work: impl FnOnce(&RecordFields<'_>) -> T) -> T {
    let (scope, created) = (record.scope.to_string(), time::text(record.created));
    let retired = record.retired.map_or_else(String::new, time::text);
    work(&RecordFields {
        kid: &record.kid.0,
        kcv: &record.kcv,
        kind: record.kind.as_str(),
        tenant: &record.tenant,
        scope: &scope,
        version: u64::from(record.version),
        state: record.state.as_str(),
        created: &created,
        retired: &retired,
    })
}
