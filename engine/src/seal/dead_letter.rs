//! Dead letters: key kind `dead_letter`, suite 2, raw bytes, bound to where the record came from.

use super::{Expected, NoncePool, Opener, Owner, PayloadKind, SealError, Sealer};
use crate::error::OpenError;
use crate::kdf;
use crate::key::Key;
use crate::keyring::Keyring;
use crate::token::Suite;

/// Default pad of every sealed part.
const PAD: u16 = 16;

/// Where a rejected record came from; part of what its tokens are bound to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Topic it was read from.
    pub topic: &'a str,
    /// Partition it was read from.
    pub partition: i32,
    /// Offset it was read from.
    pub offset: i64,
    /// `name/version` of the schema that claimed it, or "".
    pub schema: &'a str,
}

/// Which part of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The record's value.
    Value,
    /// The record's key.
    Key,
    /// One header's value.
    Header,
}

impl Part {
    fn field(self) -> &'static str {
        match self {
            Self::Value => "dead_letter.value",
            Self::Key => "dead_letter.key",
            Self::Header => "dead_letter.header",
        }
    }
}

impl Origin<'_> {
    /// The binding: `offset`, `partition`, `schema`, `topic`, sorted by bytes as they stand here.
    fn binding(&self) -> Vec<u8> {
        let (offset, partition) = (self.offset.to_string(), self.partition.to_string());
        let mut out = Vec::new();
        for (name, text) in [("offset", &*offset), ("partition", &*partition), ("schema", self.schema), ("topic", self.topic)] {
            super::append_bound(name, text.as_bytes(), &mut out);
        }
        out
    }
}

/// Appends the token of one part of a rejected record to `out`.
///
/// # Errors
/// [`SealError`]; nothing was appended then.
pub fn seal_dead_letter(
    key: &std::sync::Arc<Key>,
    part: Part,
    origin: &Origin<'_>,
    payload: &[u8],
    nonces: &mut NoncePool,
    out: &mut Vec<u8>,
) -> Result<(), SealError> {
    let mut sealer = Sealer::new(key.clone(), Suite::XaesGcm, kdf::field_id(part.field()))?;
    sealer.seal(PayloadKind::Bytes, payload, PAD, Some(&origin.binding()), nonces, out)
}

/// Opens one part of a dead letter; its bytes replace the content of `out`.
///
/// # Errors
/// [`OpenError`]; `corrupt` also when `origin` was edited.
pub fn open_dead_letter(opener: &mut Opener, keys: &Keyring, part: Part, origin: &Origin<'_>, token: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
    let binding = origin.binding();
    let expected = Expected { fid: kdf::field_id(part.field()), tenant: keys.tenant(), binding: Some(&binding), owner: Owner::Any };
    let kind = opener.open(token, &expected, |kid| keys.get(kid).cloned(), out)?;
    if kind == PayloadKind::Bytes { Ok(()) } else { Err(OpenError::Corrupt) }
}
