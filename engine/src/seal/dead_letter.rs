//! Dead letters, form 2 (docs/formats.md, "Dead letters"): key kind `dead_letter`, suite 2, one
//! token over key, value and headers, bound to every member that the letter shows; and the keyed
//! digest that stands for a record too long for its topic.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Expected, NoncePool, Opener, Owner, PayloadKind, SealError, Sealer, append_part};
use crate::error::OpenError;
use crate::kdf;
use crate::key::{Key, KeyId, KeyKind};
use crate::keyring::Keyring;
use crate::mac::HmacSha256;
use crate::record::Header;
use crate::token::{self, Suite};

/// The field of the one token.
const FIELD: &str = "dead_letter.record";
/// Every payload is padded to a multiple of this.
const PAD: u16 = 16;
/// First byte of a payload.
const FORM: u8 = 2;
/// First byte of a part that is null.
const NULL: u8 = 0;
/// First byte of a part that is there.
const PRESENT: u8 = 1;
/// The longest payload, in bytes: its lengths are 32 bits wide.
const LONGEST: usize = u32::MAX as usize;

/// What a dead letter shows of its record, and what the record is bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterMetadata<'a> {
    /// Why the record is a dead letter, a code.
    pub reason: &'a str,
    /// Topic it was read from.
    pub topic: &'a str,
    /// Partition it was read from.
    pub partition: i32,
    /// Offset it was read from.
    pub offset: i64,
    /// The record's timestamp in milliseconds since the epoch; `None`: it had none.
    pub time: Option<i64>,
    /// `name/version` of the schema that claimed it, or "".
    pub schema: &'a str,
}

impl LetterMetadata<'_> {
    /// The binding: names sorted by bytes, values as their scalar text, "" where there is none.
    #[must_use]
    pub fn binding(&self) -> Vec<u8> {
        let (offset, partition) = (self.offset.to_string(), self.partition.to_string());
        let time = self.time.map_or_else(String::new, |time| time.to_string());
        let members = [
            ("offset", &*offset),
            ("partition", &*partition),
            ("reason", self.reason),
            ("schema", self.schema),
            ("time", &*time),
            ("topic", self.topic),
        ];
        let mut out = Vec::new();
        for (name, text) in members {
            super::append_bound(name, text.as_bytes(), &mut out);
        }
        out
    }
}

/// A record as a dead letter keeps it, borrowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LetterRecord<'a> {
    /// Its key, raw.
    pub key: Option<&'a [u8]>,
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers in order, duplicates and empty values too.
    pub headers: &'a [Header<'a>],
}

impl LetterRecord<'_> {
    /// Length of [`LetterRecord::payload`], in bytes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        let part = |bytes: Option<&[u8]>| bytes.map_or(1, |b| 5 + b.len());
        let headers: usize =
            self.headers.iter().map(|(name, value)| 4 + name.len() + part(*value)).sum();
        1 + part(self.key) + part(self.value) + 4 + headers
    }

    /// The payload: `0x02 | part(key) | part(value) | u32 number of headers | for each LP(name)
    /// part(value)`. In clear: zeroized when dropped.
    ///
    /// # Errors
    /// [`SealError::TooLong`] beyond 4 GiB.
    pub fn payload(&self) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let len = self.payload_len();
        if len > LONGEST {
            return Err(SealError::TooLong);
        }
        // With room for all of it, so that no copy stays behind where it grew.
        let mut out = Zeroizing::new(Vec::with_capacity(len));
        out.push(FORM);
        append_nullable(self.key, &mut out);
        append_nullable(self.value, &mut out);
        out.extend_from_slice(&kdf::length_prefix(self.headers.len()));
        for (name, value) in self.headers {
            append_part(name, &mut out);
            append_nullable(*value, &mut out);
        }
        Ok(out)
    }
}

/// `part(x)`: `0x00` for null, else `0x01 | LP(x)`.
fn append_nullable(part: Option<&[u8]>, out: &mut Vec<u8>) {
    match part {
        None => out.push(NULL),
        Some(bytes) => {
            out.push(PRESENT);
            append_part(bytes, out);
        }
    }
}

/// The parts of a payload, borrowed from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterParts<'a> {
    /// The record's key.
    pub key: Option<&'a [u8]>,
    /// Its value.
    pub value: Option<&'a [u8]>,
    /// Its headers in order.
    pub headers: Vec<Header<'a>>,
}

impl<'a> LetterParts<'a> {
    /// Reads a payload.
    ///
    /// # Errors
    /// [`OpenError::Corrupt`]: another first byte, a part cut short or of an unknown kind, a byte
    /// left over.
    pub fn parse(payload: &'a [u8]) -> Result<Self, OpenError> {
        let mut rest = Rest(payload);
        if rest.byte()? != FORM {
            return Err(OpenError::Corrupt);
        }
        let (key, value, count) = (rest.nullable()?, rest.nullable()?, rest.number()?);
        // The number is not trusted with memory: a header takes five bytes at least.
        let mut headers = Vec::with_capacity(count.min(rest.0.len() / 5));
        for _ in 0..count {
            headers.push((rest.sized()?, rest.nullable()?));
        }
        if rest.0.is_empty() { Ok(Self { key, value, headers }) } else { Err(OpenError::Corrupt) }
    }
}

/// What of a payload is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], OpenError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(OpenError::Corrupt)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, OpenError> {
        self.take(1).map(|b| b[0])
    }

    fn number(&mut self) -> Result<usize, OpenError> {
        let (bytes, rest) = self.0.split_first_chunk::<4>().ok_or(OpenError::Corrupt)?;
        self.0 = rest;
        usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| OpenError::Corrupt)
    }

    /// `LP(x)`.
    fn sized(&mut self) -> Result<&'a [u8], OpenError> {
        let len = self.number()?;
        self.take(len)
    }

    /// `part(x)`.
    fn nullable(&mut self) -> Result<Option<&'a [u8]>, OpenError> {
        match self.byte()? {
            NULL => Ok(None),
            PRESENT => self.sized().map(Some),
            _ => Err(OpenError::Corrupt),
        }
    }
}

/// Length of the token that [`seal_dead_letter`] makes of a payload, in bytes.
#[must_use]
pub fn sealed_len(payload_len: usize) -> usize {
    // Kind byte, payload, padding mark.
    let frame = payload_len.saturating_add(2).next_multiple_of(usize::from(PAD));
    let raw = token::HEADER_LEN + Suite::XaesGcm.prefix_len() + frame + token::TAG_LEN;
    token::PREFIX.len() + raw.saturating_mul(4).div_ceil(3)
}

/// Appends the token of a payload to `out`.
///
/// # Errors
/// [`SealError`]; nothing was appended then.
pub fn seal_dead_letter(
    key: &Arc<Key>,
    metadata: &LetterMetadata<'_>,
    payload: &[u8],
    nonces: &mut NoncePool,
    out: &mut Vec<u8>,
) -> Result<(), SealError> {
    let mut sealer = Sealer::new(key.clone(), Suite::XaesGcm, kdf::field_id(FIELD))?;
    sealer.seal(PayloadKind::Bytes, payload, PAD, Some(&metadata.binding()), nonces, out)
}

/// Opens the token of a dead letter; its payload replaces the content of `out`. Read it with
/// [`LetterParts::parse`].
///
/// # Errors
/// [`OpenError`]; `corrupt` also when the metadata was edited.
pub fn open_dead_letter(
    opener: &mut Opener,
    keys: &Keyring,
    metadata: &LetterMetadata<'_>,
    token: &[u8],
    out: &mut Vec<u8>,
) -> Result<(), OpenError> {
    let binding = metadata.binding();
    let expected = Expected {
        fid: kdf::field_id(FIELD),
        tenant: keys.tenant(),
        binding: Some(&binding),
        owner: Owner::Any,
    };
    let kind = opener.open(token, &expected, |kid| keys.get(kid).cloned(), out)?;
    if kind == PayloadKind::Bytes { Ok(()) } else { Err(OpenError::Corrupt) }
}

/// The digest of a record that stays where it is. Published in the topic.
///
/// # Errors
/// [`SealError::Key`]: the key is no `dead_letter` key, or has no secret here.
pub fn stub_digest(
    key: &Key,
    metadata: &LetterMetadata<'_>,
    payload: &[u8],
) -> Result<[u8; 32], SealError> {
    Ok(stub_mac(key, metadata, payload).ok_or(SealError::Key)?.publish())
}

/// Whether the payload is the one that a stub was made of. `kid` and `digest` are the stub's.
///
/// # Errors
/// [`OpenError`]: `key_unavailable` or `erased` when there is no such key, `corrupt` when the
/// record is another or the metadata was edited.
pub fn verify_stub(
    opener: &Opener,
    keys: &Keyring,
    kid: &KeyId,
    metadata: &LetterMetadata<'_>,
    payload: &[u8],
    digest: &[u8],
) -> Result<(), OpenError> {
    let key = keys.get(kid).ok_or(OpenError::KeyUnavailable)?;
    opener.check(key, kid, keys.tenant())?;
    let mac = stub_mac(key, metadata, payload).ok_or(OpenError::Corrupt)?;
    if mac.verify(digest) { Ok(()) } else { Err(OpenError::Corrupt) }
}

/// `HMAC-SHA-256(expand(dead_letter key, "vs1/letter/digest", 32), LP(binding) | LP(payload))`.
fn stub_mac(key: &Key, metadata: &LetterMetadata<'_>, payload: &[u8]) -> Option<HmacSha256> {
    let secret = key.secret.as_ref().filter(|_| key.kind == KeyKind::DeadLetter)?;
    let mut digest_key = Zeroizing::new([0; 32]);
    kdf::expand(secret.expose(), &[b"vs1/letter/digest"], &mut digest_key[..]);
    let mut mac = HmacSha256::new(&digest_key);
    for part in [metadata.binding().as_slice(), payload] {
        mac.update_part(part);
    }
    Some(mac)
}
