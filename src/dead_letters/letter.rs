//! The value of a dead letter, form 2: what it shows, and the record sealed whole or, above the
//! topic's limit, a stub of it.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize};
use veilstream_engine::error::{OpenError, RejectCode};
use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope};
use veilstream_engine::keyring::Keyring;
use veilstream_engine::record::Header;
use veilstream_engine::seal::{
    LetterMetadata, LetterParts, LetterRecord, NoncePool, Opener, SealError, open_dead_letter,
    seal_dead_letter, sealed_len, stub_digest, verify_stub,
};
use veilstream_engine::transform::NeededKey;
use zeroize::Zeroizing;

use crate::outgoing::record_size;

/// The form that is written and read.
const FORM: u32 = 2;

/// Why a record is in the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterReason {
    /// The engine rejected it.
    Rejected(RejectCode),
    /// The broker refuses its protected form: timestamp, missing key or size.
    BrokerRefused,
}

impl DeadLetterReason {
    /// The stable name, as in dead letters and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rejected(code) => code.as_str(),
            Self::BrokerRefused => "broker_refused",
        }
    }
}

/// A dead letter as it stands in the topic. Nothing of the record is in clear but where it came
/// from, when, and why it is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// [`DeadLetterReason::as_str`].
    pub reason: String,
    /// Topic it was read from.
    pub topic: String,
    /// Partition it was read from.
    pub partition: i32,
    /// Offset it was read from.
    pub offset: i64,
    /// The record's own timestamp, milliseconds since the epoch; `None` when it had none.
    pub time: Option<i64>,
    /// `name/version` of the schema that claimed it, or "".
    pub schema: String,
    /// The record, or what stands for it.
    pub content: Content,
}

/// The record of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The token of the whole record.
    Whole {
        /// `vs1.`...
        sealed: String,
    },
    /// The record is longer than the topic takes: it stays in the raw topic as long as that keeps
    /// it.
    Stub {
        /// Length of its payload, in bytes.
        length: u64,
        /// The key of the digest.
        kid: KeyId,
        /// The keyed digest of metadata and payload.
        digest: Vec<u8>,
    },
}

impl Content {
    /// The member `form`.
    #[must_use]
    pub fn form(&self) -> &'static str {
        match self {
            Self::Whole { .. } => "whole",
            Self::Stub { .. } => "stub",
        }
    }
}

/// The members, in the order in which they are written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LetterDocument {
    veilstream_dead_letter: u32,
    reason: String,
    topic: String,
    partition: i32,
    offset: i64,
    #[serde(deserialize_with = "present")]
    time: Option<i64>,
    schema: String,
    form: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sealed: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

/// A member that may be null and may not be absent.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    Option::deserialize(deserializer)
}

impl Letter {
    /// Reads the value of a dead letter; `None`: it is none, or of another form.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let document: LetterDocument = serde_json::from_slice(value).ok()?;
        let LetterDocument {
            veilstream_dead_letter,
            reason,
            topic,
            partition,
            offset,
            time,
            schema,
            form,
            sealed,
            length,
            kid,
            digest,
        } = document;
        let content = match (form.as_str(), sealed, length, kid, digest) {
            ("whole", Some(sealed), None, None, None) => Content::Whole { sealed },
            ("stub", None, Some(length), Some(kid), Some(digest)) => Content::Stub {
                length,
                kid: kid.parse().ok()?,
                digest: URL_SAFE_NO_PAD.decode(digest).ok()?,
            },
            _ => return None,
        };
        (veilstream_dead_letter == FORM).then_some(Self {
            reason,
            topic,
            partition,
            offset,
            time,
            schema,
            content,
        })
    }

    /// What the record is bound to.
    #[must_use]
    pub fn metadata(&self) -> LetterMetadata<'_> {
        let Self { reason, topic, partition, offset, time, schema, .. } = self;
        LetterMetadata {
            reason,
            topic,
            partition: *partition,
            offset: *offset,
            time: *time,
            schema,
        }
    }

    /// Opens the record; `None`: it is a stub, whose record stands elsewhere ([`Letter::verify`]).
    ///
    /// # Errors
    /// [`OpenError`]; `corrupt` also when the letter was edited.
    pub fn open(&self, keys: &Keyring, opener: &mut Opener) -> Result<Option<Opened>, OpenError> {
        let Content::Whole { sealed } = &self.content else { return Ok(None) };
        let mut payload = Zeroizing::new(Vec::new());
        open_dead_letter(opener, keys, &self.metadata(), sealed.as_bytes(), &mut payload)?;
        let LetterParts { key, value, headers } = LetterParts::parse(&payload)?;
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        let headers =
            headers.into_iter().map(|(name, value)| (name.to_vec(), owned(value))).collect();
        Ok(Some(Opened { key: owned(key), value: owned(value), headers }))
    }

    /// Whether the record is the one that this stub was made of.
    ///
    /// # Errors
    /// [`OpenError`]: `corrupt` when it is another, or the stub was edited; `malformed` when this
    /// is no stub.
    pub fn verify(
        &self,
        record: &LetterRecord<'_>,
        keys: &Keyring,
        opener: &Opener,
    ) -> Result<(), OpenError> {
        let Content::Stub { length, kid, digest } = &self.content else {
            return Err(OpenError::Malformed);
        };
        let payload = record.payload().map_err(|_| OpenError::Corrupt)?;
        verify_stub(opener, keys, kid, &self.metadata(), &payload, digest)?;
        // Not bound by itself, but of the payload that is.
        if usize::try_from(*length).is_ok_and(|length| length == payload.len()) {
            Ok(())
        } else {
            Err(OpenError::Corrupt)
        }
    }
}

/// The record of a dead letter, in clear. For authorised eyes, and for replay.
#[derive(Debug, PartialEq, Eq)]
pub struct Opened {
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Opened {
    /// The headers, borrowed.
    #[must_use]
    pub fn headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|(name, value)| (name.as_slice(), value.as_deref())).collect()
    }
}

/// A sealed dead letter, ready to be produced: without key and headers.
#[derive(Debug)]
pub struct Sealed {
    /// Record value.
    pub value: Vec<u8>,
    /// The record was too long: this is its stub.
    pub stub: bool,
}

/// What seals dead letters.
#[must_use]
pub fn needed_key() -> NeededKey {
    NeededKey { kind: KeyKind::DeadLetter, scope: Scope::Version(1) }
}

/// The key that seals dead letters, the newest there is.
#[must_use]
pub fn sealing_key(keys: &Keyring) -> Option<&Arc<Key>> {
    keys.of_kind(KeyKind::DeadLetter)
        .filter(|k| k.state == KeyState::Active)
        .max_by_key(|k| k.version)
}

/// Seals a record; a stub of it where the whole is longer than `limit`, the dead-letter topic's
/// `max.message.bytes`.
///
/// # Errors
/// [`SealError`]: nothing must be produced then.
pub fn seal(
    key: &Arc<Key>,
    metadata: &LetterMetadata<'_>,
    record: &LetterRecord<'_>,
    limit: usize,
    nonces: &mut NoncePool,
) -> Result<Sealed, SealError> {
    // The token goes between the quotes of an empty one.
    let frame = document(metadata, Content::Whole { sealed: String::new() })?;
    let whole = frame.len().saturating_add(sealed_len(record.payload_len()));
    // Key and headers are null; the value's length alone counts.
    if record_size(None, Some(&[]), std::iter::empty()).saturating_add(whole) > limit {
        return stub(key, metadata, record);
    }
    let payload = record.payload()?;
    let mut value = Vec::with_capacity(whole);
    let end = frame.len().saturating_sub(END.len());
    value.extend_from_slice(&frame[..end]);
    seal_dead_letter(key, metadata, &payload, nonces, &mut value)?;
    value.extend_from_slice(END);
    Ok(Sealed { value, stub: false })
}

/// The stub of a record, whatever its length.
///
/// # Errors
/// [`SealError`]: nothing must be produced then.
pub fn stub(
    key: &Arc<Key>,
    metadata: &LetterMetadata<'_>,
    record: &LetterRecord<'_>,
) -> Result<Sealed, SealError> {
    let payload = record.payload()?;
    let digest = stub_digest(key, metadata, &payload)?;
    let content =
        Content::Stub { length: payload.len() as u64, kid: key.id, digest: digest.to_vec() };
    Ok(Sealed { value: document(metadata, content)?, stub: true })
}

/// Tells the operator that the raw topic alone has the record.
pub(crate) fn warn_of_stub(metadata: &LetterMetadata<'_>) {
    let LetterMetadata { topic, partition, offset, reason, .. } = *metadata;
    tracing::warn!(
        topic,
        partition,
        offset,
        reason,
        "a record is too large for the dead-letter topic: a stub stands for it; replay it before \
        its raw topic's retention takes it"
    );
}

/// How a document with an empty token ends, behind the place of the token.
const END: &[u8] = b"\"}";

fn document(metadata: &LetterMetadata<'_>, content: Content) -> Result<Vec<u8>, SealError> {
    let form = content.form().to_owned();
    let (sealed, stub) = match content {
        Content::Whole { sealed } => (Some(sealed), None),
        Content::Stub { length, kid, digest } => {
            (None, Some((length, kid.to_string(), URL_SAFE_NO_PAD.encode(digest))))
        }
    };
    let (length, kid, digest) = stub.map_or((None, None, None), |(length, kid, digest)| {
        (Some(length), Some(kid), Some(digest))
    });
    let document = LetterDocument {
        veilstream_dead_letter: FORM,
        reason: metadata.reason.to_owned(),
        topic: metadata.topic.to_owned(),
        partition: metadata.partition,
        offset: metadata.offset,
        time: metadata.time,
        schema: metadata.schema.to_owned(),
        form,
        sealed,
        length,
        kid,
        digest,
    };
    // Texts, numbers and nulls: there is nothing that JSON cannot say.
    serde_json::to_vec(&document).map_err(|_| SealError::TooLong)
}

#[cfg(test)]
mod tests;
