//! Dead letters: what could not be protected, sealed whole and bound to where it came from (README, "Dead letters").

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use veilstream_engine::error::{OpenError, RejectCode};
use veilstream_engine::key::{Key, KeyKind, Scope};
use veilstream_engine::keyring::Keyring;
use veilstream_engine::record::Header;
use veilstream_engine::seal::{NoncePool, Opener, Origin, Part, SealError, open_dead_letter, seal_dead_letter};
use veilstream_engine::transform::NeededKey;

/// Why a record is in the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The engine rejected it.
    Rejected(RejectCode),
    /// The broker refuses its protected form: timestamp, missing key or size.
    BrokerRefused,
}

impl Reason {
    /// The stable name, as in dead letters and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected(code) => code.as_str(),
            Self::BrokerRefused => "broker_refused",
        }
    }
}

/// The value of a dead letter, as it stands in the topic. Nothing of the record is in clear but where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// Version of this shape: 1.
    #[serde(rename = "veilstream_dead_letter")]
    pub version: u32,
    /// [`Reason::as_str`].
    pub reason: String,
    /// Topic it was read from.
    pub topic: String,
    /// Partition it was read from.
    pub partition: i32,
    /// Offset it was read from.
    pub offset: i64,
    /// The record's own timestamp, milliseconds since the epoch; null when it had none.
    pub time: Option<i64>,
    /// `name/version` of the schema that claimed it, or "".
    pub schema: String,
    /// The sealed value; null for a tombstone.
    pub sealed_value: Option<String>,
    /// Header names and their sealed values; null values stay null.
    pub sealed_headers: Vec<(HeaderName, Option<String>)>,
}

/// A header's name: a text, or `{"base64url": ".."}` where it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderName {
    /// UTF-8.
    Text(String),
    /// Any other bytes.
    Bytes {
        /// The name in base64url without padding.
        base64url: String,
    },
}

impl HeaderName {
    fn new(name: &[u8]) -> Self {
        match std::str::from_utf8(name) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes { base64url: URL_SAFE_NO_PAD.encode(name) },
        }
    }

    /// The bytes; `None`: not base64url.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Bytes { base64url } => URL_SAFE_NO_PAD.decode(base64url).ok(),
        }
    }
}

/// A record as it was read.
#[derive(Debug, Clone, Copy)]
pub struct Original<'a> {
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [Header<'a>],
    /// Its timestamp in milliseconds.
    pub time: Option<i64>,
}

/// A sealed dead letter, ready to be produced.
#[derive(Debug)]
pub struct Sealed {
    /// Record key.
    pub key: Option<Vec<u8>>,
    /// Record value.
    pub value: Vec<u8>,
}

/// What seals dead letters.
#[must_use]
pub fn needed_key() -> NeededKey {
    NeededKey { kind: KeyKind::DeadLetter, scope: Scope::Version(1) }
}

/// The key that seals dead letters, the newest there is.
#[must_use]
pub fn sealing_key(keys: &Keyring) -> Option<&Arc<Key>> {
    keys.of_kind(KeyKind::DeadLetter).filter(|k| k.state == veilstream_engine::KeyState::Active).max_by_key(|k| k.version)
}

/// Seals a record.
///
/// # Errors
/// [`SealError`]: nothing must be produced then.
pub fn seal(key: &Arc<Key>, reason: Reason, origin: &Origin<'_>, record: &Original<'_>, nonces: &mut NoncePool) -> Result<Sealed, SealError> {
    let mut token = |part, bytes: Option<&[u8]>| -> Result<Option<String>, SealError> {
        let Some(bytes) = bytes else { return Ok(None) };
        let mut out = Vec::with_capacity(bytes.len() * 4 / 3 + 128);
        seal_dead_letter(key, part, origin, bytes, nonces, &mut out)?;
        // Tokens are ASCII.
        Ok(Some(String::from_utf8(out).unwrap_or_default()))
    };
    let mut sealed_headers = Vec::with_capacity(record.headers.len());
    for (name, value) in record.headers {
        sealed_headers.push((HeaderName::new(name), token(Part::Header, *value)?));
    }
    let letter = Letter {
        version: 1,
        reason: reason.as_str().to_owned(),
        topic: origin.topic.to_owned(),
        partition: origin.partition,
        offset: origin.offset,
        time: record.time,
        schema: origin.schema.to_owned(),
        sealed_value: token(Part::Value, record.value)?,
        sealed_headers,
    };
    let key = token(Part::Key, record.key)?.map(String::into_bytes);
    // Texts, numbers and nulls: there is nothing that JSON cannot say.
    let value = serde_json::to_vec(&letter).map_err(|_| SealError::TooLong)?;
    Ok(Sealed { key, value })
}

/// A dead letter opened again. For authorised eyes, and for replay.
#[derive(Debug)]
pub struct Opened {
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Letter {
    /// Reads the value of a dead letter; `None`: it is none, or of a later version.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        serde_json::from_slice::<Self>(value).ok().filter(|letter| letter.version == 1)
    }

    /// Opens the record; `key` is the dead letter's record key.
    ///
    /// # Errors
    /// The first part that does not open; `corrupt` also when the origin was edited.
    pub fn open(&self, key: Option<&[u8]>, keys: &Keyring, opener: &mut Opener) -> Result<Opened, OpenError> {
        let origin = Origin { topic: &self.topic, partition: self.partition, offset: self.offset, schema: &self.schema };
        let mut part = |part, token: Option<&[u8]>| -> Result<Option<Vec<u8>>, OpenError> {
            let Some(token) = token else { return Ok(None) };
            let mut out = Vec::new();
            open_dead_letter(opener, keys, part, &origin, token, &mut out)?;
            Ok(Some(out))
        };
        let key = part(Part::Key, key)?;
        let value = part(Part::Value, self.sealed_value.as_deref().map(str::as_bytes))?;
        let mut headers = Vec::with_capacity(self.sealed_headers.len());
        for (name, token) in &self.sealed_headers {
            let name = name.bytes().ok_or(OpenError::Malformed)?;
            headers.push((name, part(Part::Header, token.as_deref().map(str::as_bytes))?));
        }
        Ok(Opened { key, value, headers })
    }
}

#[cfg(test)]
mod tests {
    use veilstream_engine::key::{Budget, KeyState, SecretKey};

    use super::*;

    fn key() -> Arc<Key> {
        let secret = SecretKey::new([7; 32]);
        let kcv = veilstream_engine::kdf::key_check_value(&secret);
        let id = veilstream_engine::kdf::key_id(&kcv);
        Arc::new(Key {
            id,
            kcv,
            kind: KeyKind::DeadLetter,
            tenant: "default".into(),
            scope: Scope::Version(1),
            version: 1,
            state: KeyState::Active,
            seal_until: None,
            secret: Some(secret),
            budget: Budget::new(1 << 20),
        })
    }

    const ORIGIN: Origin<'static> = Origin { topic: "people.raw", partition: 3, offset: 42, schema: "people/1" };
    const HEADERS: [Header<'static>; 3] = [(b"x-user", Some(b"canary-h")), (b"\xff", Some(b"")), (b"null", None)];

    fn sealed(record: &Original<'_>) -> Sealed {
        let mut nonces = NoncePool::new(Box::new(veilstream_keys::OsEntropy));
        seal(&key(), Reason::Rejected(RejectCode::WrongType), &ORIGIN, record, &mut nonces).unwrap()
    }

    fn record() -> Original<'static> {
        Original { key: Some(b"canary-k"), value: Some(b"{\"a\":\"canary-v\"}"), headers: &HEADERS, time: Some(1_700_000_000_000) }
    }

    #[test]
    fn the_shape_is_the_interfaces() {
        let sealed = sealed(&record());
        let text = std::str::from_utf8(&sealed.value).unwrap();
        let start = r#"{"veilstream_dead_letter":1,"reason":"wrong_type","topic":"people.raw","partition":3,"offset":42,"time":1700000000000,"schema":"people/1","sealed_value":"vs1."#;
        assert!(text.starts_with(start), "{text}");
        assert!(text.contains(r#""sealed_headers":[["x-user","vs1."#), "{text}");
        assert!(text.contains(r#"[{"base64url":"_w"},"vs1."#), "{text}");
        assert!(text.ends_with(r#"["null",null]]}"#), "{text}");
        assert!(sealed.key.as_ref().unwrap().starts_with(b"vs1."));
        assert!(!text.contains("canary") && !sealed.key.unwrap().windows(6).any(|w| w == b"canary"));
    }

    #[test]
    fn nulls_stay_null() {
        let sealed = sealed(&Original { key: None, value: None, headers: &[], time: None });
        assert_eq!(sealed.key, None);
        let text = String::from_utf8(sealed.value).unwrap();
        assert!(text.ends_with(r#""time":null,"schema":"people/1","sealed_value":null,"sealed_headers":[]}"#), "{text}");
    }

    #[test]
    fn opens_to_the_same_bytes_and_only_with_its_own_origin() {
        let keys = Keyring::new("default", [key()]);
        let sealed = sealed(&record());
        let mut letter = Letter::parse(&sealed.value).unwrap();
        let opened = letter.open(sealed.key.as_deref(), &keys, &mut Opener::default()).unwrap();
        assert_eq!(opened.key.as_deref(), record().key);
        assert_eq!(opened.value.as_deref(), record().value);
        let headers: Vec<_> = opened.headers.iter().map(|(n, v)| (n.as_slice(), v.as_deref())).collect();
        assert_eq!(headers, HEADERS);
        letter.offset += 1;
        assert_eq!(letter.open(sealed.key.as_deref(), &keys, &mut Opener::default()).err(), Some(OpenError::Corrupt));
    }
}
