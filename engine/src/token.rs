//! The text form of a token: `vs1.` and base64url of header and body (docs/formats.md, "Tokens").

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::error::OpenError;
use crate::key::{KeyId, KeyKind, Scope};

/// What every token starts with.
pub const PREFIX: &[u8] = b"vs1.";
/// Bytes of a header: suite, flags, kid, fid.
pub const HEADER_LEN: usize = 24;
/// Bytes of an authentication tag or synthetic IV.
pub const TAG_LEN: usize = 16;

/// Flag bit 0: the plaintext is padded.
pub const FLAG_PADDED: u8 = 1;
/// Flag bit 1: the token is bound to other fields.
pub const FLAG_BOUND: u8 = 2;

/// Names a field inside a token: the first 6 bytes of a hash of its name
/// ([`crate::kdf::field_id`]).
pub type FieldId = [u8; 6];

/// The cipher of a token. Numbers are append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// 1: AES-256-GCM, keys sealed by one process only, uses counted.
    AesGcm,
    /// 2: XAES-256-GCM, keys that several processes or runs share.
    XaesGcm,
    /// 3: AES-256-SIV, deterministic.
    AesSiv,
}

impl Suite {
    /// The number in the header.
    #[must_use]
    pub fn id(self) -> u8 {
        match self {
            Self::AesGcm => 1,
            Self::XaesGcm => 2,
            Self::AesSiv => 3,
        }
    }

    /// The suite of that number.
    #[must_use]
    pub fn from_id(id: u8) -> Option<Self> {
        [Self::AesGcm, Self::XaesGcm, Self::AesSiv].into_iter().find(|s| s.id() == id)
    }

    /// Bytes between header and ciphertext: the nonce, or the synthetic IV.
    #[must_use]
    pub fn prefix_len(self) -> usize {
        match self {
            Self::AesGcm => 12,
            Self::XaesGcm => 24,
            Self::AesSiv => TAG_LEN,
        }
    }

    /// Bytes of a cipher key.
    #[must_use]
    pub fn key_len(self) -> usize {
        if self == Self::AesSiv { 64 } else { 32 }
    }

    /// Characters of the token of a JSON text of `value` bytes, padded to multiples of `pad`
    /// (docs/formats.md, "Size of a token"). Header values count without quotes.
    #[must_use]
    pub fn token_chars(self, pad: u16, value: usize) -> usize {
        // The frame has one byte for its kind, and one more where it is padded.
        let frame =
            if pad == 0 { value + 1 } else { (value + 2).next_multiple_of(usize::from(pad)) };
        let tag = if self == Self::AesSiv { 0 } else { TAG_LEN };
        PREFIX.len() + base64_chars(HEADER_LEN + self.prefix_len() + frame + tag)
    }

    /// The shortest body: a one-byte frame.
    fn min_body(self) -> usize {
        match self {
            Self::AesGcm => 29,
            Self::XaesGcm => 41,
            Self::AesSiv => 17,
        }
    }

    /// Whether keys of `kind` may open (and, but for [`Suite::seals_under`], seal) with this suite.
    #[must_use]
    pub fn fits(self, kind: KeyKind) -> bool {
        match self {
            Self::AesGcm => kind == KeyKind::Data,
            Self::XaesGcm => matches!(kind, KeyKind::Data | KeyKind::DeadLetter),
            Self::AesSiv => kind == KeyKind::Deterministic,
        }
    }

    /// Whether a key of that kind and scope may seal with this suite. Suite 1 has short random
    /// nonces: its keys belong to one process, which counts their uses. What others share takes
    /// another suite.
    #[must_use]
    pub fn seals_under(self, kind: KeyKind, scope: &Scope) -> bool {
        self.fits(kind) && (self != Self::AesGcm || matches!(scope, Scope::Schema(_)))
    }
}

/// What stands in the clear at the front of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The cipher.
    pub suite: Suite,
    /// [`FLAG_PADDED`] and [`FLAG_BOUND`].
    pub flags: u8,
    /// Names the key.
    pub kid: KeyId,
    /// Names the field.
    pub fid: FieldId,
}

impl Header {
    /// `suite u8 | flags u8 | kid 16 | fid 6`.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        out[0] = self.suite.id();
        out[1] = self.flags;
        out[2..18].copy_from_slice(&self.kid.0);
        out[18..].copy_from_slice(&self.fid);
        out
    }

    /// Whether the plaintext is padded.
    #[must_use]
    pub fn padded(&self) -> bool {
        self.flags & FLAG_PADDED != 0
    }

    /// Whether the token is bound to other fields.
    #[must_use]
    pub fn bound(&self) -> bool {
        self.flags & FLAG_BOUND != 0
    }
}

/// A token that was decoded before it is opened: its header says which key to look for.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// What it says without a key.
    pub header: Header,
    /// Header and body.
    raw: Vec<u8>,
}

impl Decoded {
    /// Decodes a token.
    ///
    /// # Errors
    /// As [`decode`].
    pub fn new(token: &[u8]) -> Result<Self, OpenError> {
        let mut raw = Vec::new();
        Ok(Self { header: decode(token, &mut raw)?, raw })
    }

    /// Header and body.
    pub(crate) fn raw(&self) -> &[u8] {
        &self.raw
    }
}

/// Characters of base64url without padding.
pub(crate) fn base64_chars(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

/// Decodes a token into `raw` (header and body) and reads its header. The first two checks of
/// opening: `malformed`, `unsupported`.
///
/// # Errors
/// [`OpenError::Malformed`], [`OpenError::Unsupported`].
pub fn decode(token: &[u8], raw: &mut Vec<u8>) -> Result<Header, OpenError> {
    raw.clear();
    let text = token.strip_prefix(PREFIX).ok_or(OpenError::Malformed)?;
    // The engine refuses padding, foreign characters and non-zero trailing bits: one token has one
    // spelling.
    URL_SAFE_NO_PAD.decode_vec(text, raw).map_err(|_| OpenError::Malformed)?;
    if raw.len() < HEADER_LEN {
        return Err(OpenError::Malformed);
    }
    let suite = Suite::from_id(raw[0]);
    // An unknown suite has no known shortest body; the shortest of all is the least that can be
    // asked of it.
    let min_body = suite.map_or(17, Suite::min_body);
    if raw.len() < HEADER_LEN + min_body {
        return Err(OpenError::Malformed);
    }
    let flags = raw[1];
    let suite =
        suite.filter(|_| flags & !(FLAG_PADDED | FLAG_BOUND) == 0).ok_or(OpenError::Unsupported)?;
    let mut kid = [0; 16];
    kid.copy_from_slice(&raw[2..18]);
    let mut fid = [0; 6];
    fid.copy_from_slice(&raw[18..HEADER_LEN]);
    Ok(Header { suite, flags, kid: KeyId(kid), fid })
}

/// Appends the token of `raw` (header and body) to `out`.
pub fn encode(raw: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(PREFIX);
    append_base64(raw, out);
}

/// Appends canonical base64url of `bytes` to `out`: unpadded, trailing bits zero.
pub(crate) fn append_base64(bytes: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(6) * 8, 0);
    let (whole, rest) = bytes.as_chunks::<6>();
    let (eights, _) = out[start..].as_chunks_mut::<8>();
    for (six, eight) in whole.iter().zip(eights.iter_mut()) {
        encode_six(six, eight);
    }
    if let (false, Some(eight)) = (rest.is_empty(), eights.last_mut()) {
        let mut last = [0; 6];
        last[..rest.len()].copy_from_slice(rest);
        encode_six(&last, eight);
    }
    out.truncate(start + (bytes.len() * 4).div_ceil(3));
}

#[inline(always)]
fn encode_six(six: &[u8; 6], eight: &mut [u8; 8]) {
    let [a, b, c, d, e, f] = *six;
    let bits =
        u64::from(u32::from_be_bytes([a, b, c, d])) << 16 | u64::from(u16::from_be_bytes([e, f]));
    let (pairs, _) = eight.as_chunks_mut::<2>();
    for (pair, shift) in pairs.iter_mut().zip([36, 24, 12, 0]) {
        *pair = PAIRS[(bits >> shift & 0xfff) as usize];
    }
}

/// Two characters for every twelve bits. The base64 crate looks up one at a time, and has vectors
/// from 128 bytes on only: more than most tokens have.
static PAIRS: [[u8; 2]; 1 << 12] = {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut pairs = [[0; 2]; 1 << 12];
    let mut i = 0;
    while i < pairs.len() {
        pairs[i] = [ALPHABET[i >> 6], ALPHABET[i & 63]];
        i += 1;
    }
    pairs
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_as_the_crate_writes_it() {
        let bytes: Vec<u8> = (0..=255).cycle().step_by(7).take(300).collect();
        for length in 0..bytes.len() {
            let mut out = b"before".to_vec();
            append_base64(&bytes[..length], &mut out);
            assert_eq!(
                out,
                format!("before{}", URL_SAFE_NO_PAD.encode(&bytes[..length])).as_bytes(),
                "{length}"
            );
        }
    }
}
