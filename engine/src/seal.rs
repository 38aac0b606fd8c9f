//! Sealing and opening one value (docs/formats.md, "Tokens").

mod bare;
mod canonical;
mod dead_letter;
mod gcm;
mod nonce;
mod open;
mod xaes;

use std::sync::Arc;

use aes_gcm::{AeadInOut, KeyInit};
use aes_siv::siv::Aes256Siv;
use zeroize::Zeroizing;

pub use bare::BarePayload;
pub use canonical::canonical_json;
pub(crate) use canonical::canonical_node;
pub use dead_letter::{
    LetterMetadata, LetterParts, LetterRecord, open_dead_letter, seal_dead_letter, sealed_len,
    stub_digest, verify_stub,
};
use gcm::Gcm;
pub use nonce::NoncePool;
pub use open::{Expected, Opener, Owner, PayloadKind};
use xaes::Xaes;

use crate::EntropyError;
use crate::kdf;
use crate::key::{Key, KeyId, Scope};
use crate::token::{self, FieldId, Header, Suite, TAG_LEN};

/// Uses are taken from a key's budget in blocks of this many, so that lanes rarely touch the shared
/// counter.
const BUDGET_BLOCK: u64 = 1 << 12;

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The key has no uses left: ask for a new one.
    #[error("the key's uses are spent")]
    Spent,
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The key has no secret, or is of a kind or scope the suite does not take.
    #[error("the key does not fit")]
    Key,
    /// The payload is longer than the cipher takes (64 GiB).
    #[error("the payload is too long")]
    TooLong,
}

/// `K = expand(key, "vs1/enc" | suite | fid, 32)`, 64 bytes for suite 3.
fn cipher_key(secret: &[u8; 32], suite: Suite, fid: &FieldId) -> Zeroizing<[u8; 64]> {
    let mut key = Zeroizing::new([0; 64]);
    kdf::expand(secret, &[b"vs1/enc", &[suite.id()], fid], &mut key[..suite.key_len()]);
    key
}

/// A key schedule, kept per key and field. Each zeroizes itself.
enum Cipher {
    Gcm(Box<Gcm>),
    Xaes(Box<Xaes>),
    Siv(Box<Aes256Siv>),
}

impl Cipher {
    fn new(secret: &[u8; 32], suite: Suite, fid: &FieldId) -> Self {
        let key = cipher_key(secret, suite, fid);
        let mut half = Zeroizing::new([0; 32]);
        half.copy_from_slice(&key[..32]);
        match suite {
            Suite::AesGcm => Self::Gcm(Box::new(Gcm::new(&half))),
            Suite::XaesGcm => Self::Xaes(Box::new(Xaes::new(&half))),
            Suite::AesSiv => Self::Siv(Box::new(Aes256Siv::new((&*key).into()))),
        }
    }
}

/// Seals the values of one field with one key. Not shared between threads: it holds a reserved
/// block of the key's uses.
pub struct Sealer {
    key: Arc<Key>,
    cipher: Cipher,
    suite: Suite,
    fid: FieldId,
    tenant: Arc<str>,
    uses_left: u64,
    raw: Vec<u8>,
    aad: Vec<u8>,
    /// What the tokens of one set of flags have in common, kept from value to value.
    front: Front,
}

/// The start of a token (32 characters stand for the header's 24 bytes exactly) and the associated
/// data up to the binding.
#[derive(Default)]
struct Front {
    flags: Option<u8>,
    text: Vec<u8>,
    aad: Vec<u8>,
}

impl Sealer {
    /// A sealer of field `fid` with `key`.
    ///
    /// # Errors
    /// [`SealError::Key`] when the key has no secret here or its kind or scope does not fit the
    /// suite.
    pub fn new(key: Arc<Key>, suite: Suite, fid: FieldId) -> Result<Self, SealError> {
        let secret = key
            .secret
            .as_ref()
            .filter(|_| suite.seals_under(key.kind, &key.scope))
            .ok_or(SealError::Key)?;
        let cipher = Cipher::new(secret.expose(), suite, &fid);
        let tenant = key.tenant.clone();
        Ok(Self {
            key,
            cipher,
            suite,
            fid,
            tenant,
            uses_left: 0,
            raw: Vec::new(),
            aad: Vec::new(),
            front: Front::default(),
        })
    }

    /// The key it seals with.
    #[must_use]
    pub fn key_id(&self) -> KeyId {
        self.key.id
    }

    /// The field whose values it seals.
    pub(crate) fn field_id(&self) -> FieldId {
        self.fid
    }

    /// Appends the token of `payload` to `out`, without quotes. `pad` is 0 or a multiple of 16;
    /// `binding` the encoded bound values ([`append_bound`]).
    ///
    /// # Errors
    /// [`SealError`]; nothing was appended then.
    pub fn seal(
        &mut self,
        kind: PayloadKind,
        payload: &[u8],
        pad: u16,
        binding: Option<&[u8]>,
        nonces: &mut NoncePool,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        self.take_use()?;
        self.raw.clear();
        match self.suite {
            Suite::AesGcm => nonces.short(&mut self.raw)?,
            // Its id links a subject's tokens anyway; under a key that many share, half a nonce
            // would be news.
            Suite::XaesGcm if matches!(self.key.scope, Scope::Subject(_)) => {
                nonces.long_of_record(&mut self.raw)?
            }
            Suite::XaesGcm => nonces.long(&mut self.raw)?,
            Suite::AesSiv => {}
        }
        self.seal_drawn(kind, payload, pad, binding, Some(nonces), out)
    }

    /// [`Sealer::seal`] with a given nonce: known answers only.
    #[doc(hidden)]
    pub fn seal_with(
        &mut self,
        kind: PayloadKind,
        payload: &[u8],
        pad: u16,
        binding: Option<&[u8]>,
        nonce: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        self.raw.clear();
        self.raw.extend_from_slice(nonce);
        self.seal_drawn(kind, payload, pad, binding, None, out)
    }

    /// Seals with the nonce in `raw`, which `drawn_from` may know the subkey of.
    fn seal_drawn(
        &mut self,
        kind: PayloadKind,
        payload: &[u8],
        pad: u16,
        binding: Option<&[u8]>,
        drawn_from: Option<&mut NoncePool>,
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let flags = if pad > 0 { token::FLAG_PADDED } else { 0 }
            | if binding.is_some() { token::FLAG_BOUND } else { 0 };
        self.prepare(flags);
        if let Some(binding) = binding {
            self.aad.clear();
            self.aad.extend_from_slice(&self.front.aad[..self.front.aad.len() - 4]);
            append_part(binding, &mut self.aad);
        }
        if self.suite == Suite::AesSiv {
            self.raw.resize(TAG_LEN, 0);
        }
        frame(kind, payload, pad, &mut self.raw);
        let sealed = self.encrypt(binding.is_some(), drawn_from);
        if sealed.is_ok() {
            out.extend_from_slice(&self.front.text);
            token::append_base64(&self.raw, out);
        } else {
            // What could not be sealed must not linger in clear in a buffer that lives on.
            zeroize::Zeroize::zeroize(&mut self.raw);
        }
        sealed
    }

    /// Makes what tokens with these flags have in common, when the last one had others.
    fn prepare(&mut self, flags: u8) {
        if self.front.flags == Some(flags) {
            return;
        }
        let header = Header { suite: self.suite, flags, kid: self.key.id, fid: self.fid }.encode();
        self.front.flags = Some(flags);
        self.front.text.clear();
        token::encode(&header, &mut self.front.text);
        associated_data(&header, &self.tenant, &[], &mut self.front.aad);
        if let Cipher::Gcm(gcm) = &mut self.cipher {
            gcm.associate(&self.front.aad);
        }
    }

    /// Encrypts the frame in `raw`, behind the nonce or the place of the synthetic IV.
    fn encrypt(
        &mut self,
        bound: bool,
        drawn_from: Option<&mut NoncePool>,
    ) -> Result<(), SealError> {
        let aad = if bound { &self.aad } else { &self.front.aad };
        let (prefix, text) =
            self.raw.split_at_mut_checked(self.suite.prefix_len()).ok_or(SealError::Key)?;
        let tag = match &mut self.cipher {
            Cipher::Gcm(gcm) => {
                let nonce = (&*prefix).try_into().map_err(|_| SealError::Key)?;
                let short = if bound { None } else { gcm.encrypt_short(nonce, text) };
                short.map_or_else(|| gcm.encrypt(nonce, aad, text.into()), Ok)?
            }
            Cipher::Xaes(xaes) => {
                let [first, second]: &[_; 2] =
                    prefix.as_chunks().0.try_into().map_err(|_| SealError::Key)?;
                let shared = drawn_from.and_then(|pool| {
                    pool.subkey(first, self.key.id, self.fid, || xaes.subkey(first))
                });
                let own;
                let gcm = match shared {
                    Some(gcm) => gcm,
                    None => {
                        own = xaes.subkey(first);
                        &own
                    }
                };
                gcm.encrypt_inout_detached(second.into(), aad, text.into())
                    .map_err(|_| SealError::TooLong)?
                    .into()
            }
            Cipher::Siv(siv) => {
                let iv = siv
                    .encrypt_inout_detached([aad], text.into())
                    .map_err(|_| SealError::TooLong)?;
                prefix.copy_from_slice(&iv);
                return Ok(());
            }
        };
        self.raw.extend_from_slice(&tag);
        Ok(())
    }

    fn take_use(&mut self) -> Result<(), SealError> {
        if self.uses_left == 0 {
            self.uses_left = self.key.budget.reserve(BUDGET_BLOCK);
        }
        self.uses_left = self.uses_left.checked_sub(1).ok_or(SealError::Spent)?;
        Ok(())
    }
}

/// Appends the plaintext frame: `kind | payload`, then `0x80 | 0x00*` up to a multiple of `pad`
/// when that is not 0.
fn frame(kind: PayloadKind, payload: &[u8], pad: u16, out: &mut Vec<u8>) {
    let start = out.len();
    out.push(kind.byte());
    out.extend_from_slice(payload);
    if pad > 0 {
        out.push(0x80);
        let framed = out.len() - start;
        out.resize(start + framed.next_multiple_of(usize::from(pad)), 0);
    }
}

/// `AAD = "vs1/aad" | LP(header) | LP(tenant) | LP(binding)`.
fn associated_data(header: &[u8], tenant: &str, binding: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(b"vs1/aad");
    for part in [header, tenant.as_bytes(), binding] {
        append_part(part, out);
    }
}

/// `LP(part)`.
fn append_part(part: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&kdf::length_prefix(part.len()));
    out.extend_from_slice(part);
}

/// Appends one bound value to a binding: `LP(name) | LP(scalar text)`. Names come sorted by bytes,
/// each once.
pub fn append_bound(name: &str, text: &[u8], out: &mut Vec<u8>) {
    append_part(name.as_bytes(), out);
    append_part(text, out);
}
