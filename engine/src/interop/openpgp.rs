//! The OpenPGP messages of pgcrypto (RFC 4880): a passphrase, a symmetric cipher in CFB, one
//! literal text.
//!
//! We write one shape: SKESK version 4 with an iterated and salted S2K of SHA-256 and AES-256,
//! SEIPD version 1 with its modification detection code, no compression, literal UTF-8. Fields are
//! read under [`Rules::FIELD`]; only `migrate` reads every shape that `pgp_sym_encrypt` writes,
//! with [`Legacy`] at hand.

mod cipher;
mod packet;
mod read;
mod s2k;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};
use zeroize::Zeroizing;

pub use cipher::BlockCipher;
pub use read::{Legacy, Literal, Message, PgpError, Rules};
pub use sha2::digest::DynDigest;

use crate::EntropyError;
use crate::error::OpenError;
use crate::seal::NoncePool;
use cipher::{AES_256, Aes, encrypt};
use s2k::{SHA_256, Specifier};

/// Bytes hashed to derive a key when sealing: the least that pgcrypto draws from.
pub(super) const SEAL_COUNT: u64 = 65_536;
/// How RFC 4880 writes [`SEAL_COUNT`].
const SEAL_COUNT_CODE: u8 = 0x60;
/// Most bytes hashed to derive a key when a field is read.
const MOST_COUNT: u64 = 1 << 20;
/// pgcrypto refuses packets that are longer.
const LONGEST_TEXT: usize = 15 << 20;
/// Random bytes before the text, of which the last two come again.
const PREFIX: usize = 16;
const SALT: usize = 8;

/// Passphrases in order: the first seals, all open. At least one. Zeroized when dropped; `Debug`
/// hides them.
#[derive(Clone)]
pub struct Passphrases(Vec<Zeroizing<Vec<u8>>>);

impl Passphrases {
    /// `None`: there is no passphrase, or an empty one.
    #[must_use]
    pub fn new(passphrases: Vec<Zeroizing<Vec<u8>>>) -> Option<Self> {
        let is_whole = !passphrases.is_empty() && passphrases.iter().all(|one| !one.is_empty());
        is_whole.then_some(Self(passphrases))
    }

    /// Each of them, for code that reads what fields do not have.
    pub fn each(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(|one| one.as_slice())
    }

    /// Whether a passphrase is in both.
    #[must_use]
    pub fn shares_one(&self, other: &Self) -> bool {
        self.0.iter().any(|one| other.0.contains(one))
    }

    /// Appends the base64 of a message of `text` to `out`.
    pub(super) fn seal(
        &self,
        text: &[u8],
        time: u64,
        nonces: &mut NoncePool,
        out: &mut Vec<u8>,
    ) -> Result<(), EntropyError> {
        let (mut salt, mut prefix) = ([0; SALT], Zeroizing::new([0; PREFIX]));
        nonces.bytes(&mut salt)?;
        nonces.bytes(&mut *prefix)?;
        let message = write(&self.0[0], salt, &prefix, text, time);
        let start = out.len();
        out.resize(start + base64::encoded_len(message.len(), true).unwrap_or_default(), 0);
        let written = STANDARD.encode_slice(&message, &mut out[start..]).unwrap_or_default();
        out.truncate(start + written);
        Ok(())
    }

    /// Opens the base64 of a message under [`Rules::FIELD`]; the text replaces the content of
    /// `out`.
    pub(super) fn open(&self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
        out.clear();
        let raw = decode(sealed).ok_or(OpenError::Malformed)?;
        let message = Message::parse(&raw).map_err(OpenError::from)?;
        let mut failed = OpenError::Corrupt;
        for passphrase in self.each() {
            match message.open(passphrase, &Rules::FIELD) {
                Ok(literal) => {
                    out.extend_from_slice(&literal.text);
                    return Ok(());
                }
                Err(error) => failed = error.into(),
            }
        }
        Err(failed)
    }

    /// Bytes to be hashed at most to open a message.
    pub(super) fn derived_bytes(&self, sealed: &[u8]) -> u64 {
        let most = |raw: Vec<u8>| {
            let count = Message::parse(&raw).map_or(0, |message| message.derived_bytes());
            if count > MOST_COUNT { 0 } else { count * self.0.len() as u64 }
        };
        decode(sealed).map_or(0, most)
    }
}

impl fmt::Debug for Passphrases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrases(..)")
    }
}

impl From<PgpError> for OpenError {
    fn from(error: PgpError) -> Self {
        match error {
            PgpError::Malformed => Self::Malformed,
            PgpError::Unsupported | PgpError::TooCostly => Self::Unsupported,
            PgpError::Key | PgpError::Corrupt => Self::Corrupt,
        }
    }
}

/// Whether a text is so long that pgcrypto would refuse its message.
#[must_use]
pub fn is_too_long(text: &[u8]) -> bool {
    text.len() > LONGEST_TEXT
}

/// Bytes of a message of a text.
pub(super) fn sealed_bytes(text: usize) -> usize {
    let with_head = |body: usize| body + if body > 191 { 6 } else { 2 };
    with_head(13) + with_head(1 + PREFIX + 2 + with_head(6 + text) + packet::MDC_HEAD.len() + 20)
}

/// Whether a text is the base64 of such a message, under any passphrase.
pub(super) fn recognises(text: &[u8]) -> bool {
    // The first six bits of a packet of either format: most other texts end here.
    matches!(text.first(), Some(b'w' | b'j'))
        && decode(text).is_some_and(|raw| Message::parse(&raw).is_ok())
}

/// The bytes of a text in base64, which PostgreSQL's `encode` breaks into lines.
#[must_use]
pub fn decode(text: &[u8]) -> Option<Vec<u8>> {
    if memchr::memchr2(b'\n', b'\r', text).is_none() {
        return STANDARD.decode(text).ok();
    }
    let joined: Vec<u8> = text.iter().filter(|b| !matches!(b, b'\n' | b'\r')).copied().collect();
    STANDARD.decode(joined).ok()
}

/// One message. Its literal says UTF-8 and the time, and no name.
fn write(
    passphrase: &[u8],
    salt: [u8; SALT],
    prefix: &[u8; PREFIX],
    text: &[u8],
    time: u64,
) -> Vec<u8> {
    let specifier = Specifier::iterated(SHA_256, salt, SEAL_COUNT_CODE);
    let key = specifier.key_of_sha256(passphrase);
    let mut session = vec![4, AES_256];
    specifier.write(&mut session);
    let mut plain = Zeroizing::new(Vec::with_capacity(PREFIX + text.len() + 64));
    plain.extend_from_slice(prefix);
    plain.extend_from_slice(&prefix[PREFIX - 2..]);
    // RFC 4880 has times of 32 bits.
    let time = u32::try_from(time).unwrap_or(u32::MAX).to_be_bytes();
    packet::write_head(packet::LITERAL, 6 + text.len(), &mut plain);
    plain.extend_from_slice(&[b'u', 0]);
    plain.extend_from_slice(&time);
    plain.extend_from_slice(text);
    plain.extend_from_slice(&packet::MDC_HEAD);
    let code = Sha1::digest(&*plain);
    plain.extend_from_slice(&code);
    encrypt(&Aes::of_256(&key), &mut plain);
    let mut out = Vec::with_capacity(plain.len() + 32);
    packet::write_head(packet::SESSION_KEY, session.len(), &mut out);
    out.extend_from_slice(&session);
    packet::write_head(packet::SEALED_WITH_CODE, 1 + plain.len(), &mut out);
    out.push(1);
    out.extend_from_slice(&plain);
    out
}

#[cfg(test)]
mod tests;
