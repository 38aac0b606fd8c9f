//! Reading a message: within the rules of fields, or with all that `migrate` knows.

use std::borrow::Cow;

use sha1::{Digest as _, Sha1};
use sha2::digest::DynDigest;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::MOST_COUNT;
use super::cipher::{Aes, BlockCipher, decrypt, decrypt_after};
use super::packet::{self, MDC_HEAD, Packet, take};
use super::s2k::{self, Specifier};

/// Bytes of the modification detection code, with its head.
const CODE: usize = 22;

/// Ciphers, digests and compressions that only `migrate` reads, by their ids in RFC 4880.
pub trait Legacy {
    /// A cipher, and how many bytes its key has.
    fn key_len(&self, algorithm: u8) -> Option<usize>;
    /// A cipher with its key.
    fn cipher(&self, algorithm: u8, key: &[u8]) -> Option<Box<dyn BlockCipher>>;
    /// A digest.
    fn digest(&self, id: u8) -> Option<Box<dyn DynDigest>>;
    /// What was compressed; `None`: it cannot be read, or is longer than allowed.
    fn decompress(&self, algorithm: u8, compressed: &[u8]) -> Option<Vec<u8>>;
}

/// What is read.
pub struct Rules<'a> {
    /// Most bytes that are hashed to derive a key.
    pub most_count: u64,
    /// Reads messages without a code, and all that this has.
    pub legacy: Option<&'a dyn Legacy>,
}

impl Rules<'_> {
    /// Of fields: AES, a code, no compression, at most 2^20 bytes hashed.
    pub const FIELD: Self = Self { most_count: MOST_COUNT, legacy: None };
}

/// Why a message was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PgpError {
    /// No message, or not one of a passphrase.
    #[error("it is no message under a passphrase")]
    Malformed,
    /// A shape that these rules do not read.
    #[error("its shape is not read here")]
    Unsupported,
    /// Deriving its key would take too long.
    #[error("its key takes more hashing than is allowed")]
    TooCostly,
    /// Another passphrase's.
    #[error("it is under another passphrase")]
    Key,
    /// Under that passphrase, perhaps, and changed.
    #[error("it is damaged")]
    Corrupt,
}

/// A message whose packets were told apart. No key is needed for it.
pub struct Message<'a> {
    /// The cipher that the passphrase's own key is for.
    algorithm: u8,
    specifier: Specifier,
    /// A session key under the passphrase's own key; empty: that is the session key.
    wrapped: Vec<u8>,
    sealed: Cow<'a, [u8]>,
    has_code: bool,
}

/// A text that a message held.
#[derive(Debug)]
pub struct Literal {
    /// `b`, `t` or `u`.
    pub kind: u8,
    /// The text.
    pub text: Zeroizing<Vec<u8>>,
}

impl<'a> Message<'a> {
    /// Tells the packets of a message apart: one session key, one sealed packet.
    ///
    /// # Errors
    /// [`PgpError::Malformed`], [`PgpError::Unsupported`].
    pub fn parse(mut bytes: &'a [u8]) -> Result<Self, PgpError> {
        let first = packet::next(&mut bytes).ok_or(PgpError::Malformed)?;
        if first.tag != packet::SESSION_KEY {
            return Err(PgpError::Malformed);
        }
        let mut session = &*first.body;
        let head = take(&mut session, 2).ok_or(PgpError::Malformed)?;
        if head[0] != 4 {
            return Err(PgpError::Unsupported);
        }
        let specifier = Specifier::read(&mut session).ok_or(PgpError::Malformed)?;
        let (algorithm, wrapped) = (head[1], session.to_vec());
        let Packet { tag, body } = packet::next(&mut bytes).ok_or(PgpError::Malformed)?;
        let (sealed, has_code) = match (tag, body) {
            (packet::SEALED, body) => (body, false),
            (packet::SEALED_WITH_CODE, body) if body.first() == Some(&1) => {
                (without_first(body), true)
            }
            _ => return Err(PgpError::Malformed),
        };
        if !bytes.is_empty() {
            return Err(PgpError::Malformed);
        }
        Ok(Self { algorithm, specifier, wrapped, sealed, has_code })
    }

    /// Id of the cipher (RFC 4880) that the passphrase's own key is for.
    #[must_use]
    pub fn algorithm(&self) -> u8 {
        self.algorithm
    }

    /// Bytes hashed to derive its key, at most.
    #[must_use]
    pub fn derived_bytes(&self) -> u64 {
        // AES-256 takes two of SHA-1.
        self.specifier.count() * 2
    }

    /// Opens it.
    ///
    /// # Errors
    /// [`PgpError`].
    pub fn open(&self, passphrase: &[u8], rules: &Rules<'_>) -> Result<Literal, PgpError> {
        if !self.has_code && rules.legacy.is_none() {
            return Err(PgpError::Unsupported);
        }
        if self.specifier.count() > rules.most_count {
            return Err(PgpError::TooCostly);
        }
        let cipher = self.cipher(passphrase, rules)?;
        self.open_with(&*cipher, rules)
    }

    /// Opens it with a cipher that has its session key already.
    ///
    /// # Errors
    /// [`PgpError`].
    pub fn open_with(
        &self,
        cipher: &dyn BlockCipher,
        rules: &Rules<'_>,
    ) -> Result<Literal, PgpError> {
        let block = cipher.block_size();
        let mut plain = Zeroizing::new(self.sealed.to_vec());
        if plain.len() < block + 2 {
            return Err(PgpError::Malformed);
        }
        let end = if self.has_code {
            decrypt(cipher, &mut plain);
            let end = plain.len().checked_sub(CODE).filter(|end| *end >= block + 2);
            end.ok_or(PgpError::Malformed)?
        } else {
            let (head, rest) = plain.split_at_mut(block + 2);
            // The register begins again with what was sealed last.
            let register = head[2..].to_vec();
            decrypt(cipher, head);
            decrypt_after(cipher, &register, rest);
            plain.len()
        };
        if plain[block - 2..block] != plain[block..block + 2] {
            return Err(PgpError::Key);
        }
        if self.has_code {
            let code = Sha1::digest(&plain[..end + 2]);
            let holds = bool::from(code.as_slice().ct_eq(&plain[end + 2..]));
            if plain[end..end + 2] != MDC_HEAD || !holds {
                return Err(PgpError::Corrupt);
            }
        }
        literal(&plain[block + 2..end], rules, true)
    }

    fn cipher(
        &self,
        passphrase: &[u8],
        rules: &Rules<'_>,
    ) -> Result<Box<dyn BlockCipher>, PgpError> {
        let legacy = rules.legacy;
        let length = key_len(self.algorithm, legacy).ok_or(PgpError::Unsupported)?;
        let id = self.specifier.digest;
        let digest = s2k::digest(id).or_else(|| legacy.and_then(|legacy| legacy.digest(id)));
        let mut digest = digest.ok_or(PgpError::Unsupported)?;
        let own = self.specifier.key(passphrase, &mut *digest, length);
        let cipher = keyed(self.algorithm, &own, legacy).ok_or(PgpError::Unsupported)?;
        if self.wrapped.is_empty() {
            return Ok(cipher);
        }
        let mut session = Zeroizing::new(self.wrapped.clone());
        decrypt(&*cipher, &mut session);
        // Under another passphrase the first byte is any.
        let (algorithm, key) = session.split_first().ok_or(PgpError::Malformed)?;
        keyed(*algorithm, key, legacy).ok_or(PgpError::Key)
    }
}

fn without_first(body: Cow<'_, [u8]>) -> Cow<'_, [u8]> {
    match body {
        Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[1..]),
        Cow::Owned(mut bytes) => {
            bytes.remove(0);
            bytes.into()
        }
    }
}

fn key_len(algorithm: u8, legacy: Option<&dyn Legacy>) -> Option<usize> {
    Aes::key_len(algorithm).or_else(|| legacy?.key_len(algorithm))
}

fn keyed(algorithm: u8, key: &[u8], legacy: Option<&dyn Legacy>) -> Option<Box<dyn BlockCipher>> {
    match Aes::new(algorithm, key) {
        Some(aes) => Some(Box::new(aes)),
        None => legacy?.cipher(algorithm, key),
    }
}

/// The one literal packet; compressed once at most.
fn literal(mut plain: &[u8], rules: &Rules<'_>, may_inflate: bool) -> Result<Literal, PgpError> {
    let Packet { tag, body } = packet::next(&mut plain).ok_or(PgpError::Corrupt)?;
    if !plain.is_empty() {
        return Err(PgpError::Corrupt);
    }
    match (tag, rules.legacy) {
        (packet::LITERAL, _) => {
            let mut rest = &*body;
            let head = take(&mut rest, 2).ok_or(PgpError::Corrupt)?;
            take(&mut rest, usize::from(head[1]) + 4).ok_or(PgpError::Corrupt)?;
            Ok(Literal { kind: head[0], text: Zeroizing::new(rest.to_vec()) })
        }
        (packet::COMPRESSED, Some(legacy)) if may_inflate => {
            let (algorithm, compressed) = body.split_first().ok_or(PgpError::Corrupt)?;
            let inflated = legacy.decompress(*algorithm, compressed).ok_or(PgpError::Corrupt)?;
            literal(&Zeroizing::new(inflated), rules, false)
        }
        (packet::COMPRESSED, _) => Err(PgpError::Unsupported),
        _ => Err(PgpError::Corrupt),
    }
}
