//! Opening: strict, in the order of docs/formats.md, never a second key tried.

use std::borrow::Borrow;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Weak};

use subtle::ConstantTimeEq;

use super::{Cipher, associated_data};
use crate::error::OpenError;
use crate::kdf;
use crate::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};
use crate::scan;
use crate::token::{self, Decoded, FieldId, HEADER_LEN, Header, Suite, TAG_LEN};
use crate::uniform::UniformMap;

/// The first byte of a plaintext frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadKind {
    /// `J`: one JSON text.
    Json,
    /// `B`: raw bytes.
    Bytes,
    /// `H`: a honey token; opening raises an alarm.
    Honey,
}

impl PayloadKind {
    /// The byte in the frame.
    #[must_use]
    pub fn byte(self) -> u8 {
        match self {
            Self::Json => b'J',
            Self::Bytes => b'B',
            Self::Honey => b'H',
        }
    }
}

/// What a token must be to open here.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The field it was read from.
    pub fid: FieldId,
    /// Whose keys open it.
    pub tenant: &'a str,
    /// The encoded bound values of the record, if the field is bound.
    pub binding: Option<&'a [u8]>,
    /// Whose data key it must be under.
    pub owner: Owner,
}

/// Whose data key a token must be under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// Nobody asks: the schema has no `subject`.
    Any,
    /// The record has no subject: no subject's key.
    Nobody,
    /// This subject's key.
    Subject(SubjectRef),
}

impl Owner {
    fn permits(self, key: &Key) -> bool {
        match (self, &key.scope) {
            (Self::Any, _) => true,
            // Deterministic keys belong to nobody.
            _ if key.kind != KeyKind::Data => true,
            (Self::Nobody, scope) => !matches!(scope, Scope::Subject(_)),
            (Self::Subject(expected), Scope::Subject(found)) => expected == *found,
            (Self::Subject(_), _) => false,
        }
    }
}

/// Ciphers kept at most; more are forgotten all at once, which costs a few derivations.
const CACHE: usize = 1024;

/// A cipher with the key it was made from, whose check value was right.
type Ciphers = UniformMap<(KeyId, Suite, FieldId), (Weak<Key>, Cipher)>;

/// Opens tokens. Keeps key schedules and buffers from token to token.
#[derive(Default)]
pub struct Opener {
    raw: Vec<u8>,
    aad: Vec<u8>,
    ciphers: Ciphers,
    /// Open keys marked compromised. Off unless the operator says so.
    pub allow_compromised: bool,
}

impl Opener {
    /// Opens `token`, handing the key id to `lookup`. The payload replaces the content of `out`; of
    /// a honey token there is none: callers raise the alarm and answer as if the key were not
    /// available.
    ///
    /// A caller that holds the key returns a reference to it from `lookup`: threads that clone one
    /// `Arc` for each token wait for each other.
    ///
    /// # Errors
    /// The first [`OpenError`] that applies, in the order of docs/formats.md.
    pub fn open<K: Borrow<Arc<Key>>>(
        &mut self,
        token: &[u8],
        expected: &Expected<'_>,
        lookup: impl FnOnce(&KeyId) -> Option<K>,
        out: &mut Vec<u8>,
    ) -> Result<PayloadKind, OpenError> {
        let kind = self.open_to_seal(token, expected, lookup, out)?;
        Ok(without_bait(kind, out))
    }

    /// [`Opener::open`] of a token that was decoded before.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub fn open_decoded<K: Borrow<Arc<Key>>>(
        &mut self,
        token: &Decoded,
        expected: &Expected<'_>,
        lookup: impl FnOnce(&KeyId) -> Option<K>,
        out: &mut Vec<u8>,
    ) -> Result<PayloadKind, OpenError> {
        out.clear();
        self.raw.clear();
        self.raw.extend_from_slice(token.raw());
        let kind = self.open_raw(&token.header, expected, lookup, out)?;
        Ok(without_bait(kind, out))
    }

    /// [`Opener::open`] for anyone who seals the payload again and shows it to nobody: a honey
    /// token gives its payload too, or it would stay behind when its neighbours move to another
    /// key, and stand out.
    ///
    /// # Errors
    /// As [`Opener::open`].
    pub fn open_to_seal<K: Borrow<Arc<Key>>>(
        &mut self,
        token: &[u8],
        expected: &Expected<'_>,
        lookup: impl FnOnce(&KeyId) -> Option<K>,
        out: &mut Vec<u8>,
    ) -> Result<PayloadKind, OpenError> {
        out.clear();
        let header = token::decode(token, &mut self.raw)?;
        self.open_raw(&header, expected, lookup, out)
    }

    /// Opens what stands in `raw`: the checks that follow decoding.
    fn open_raw<K: Borrow<Arc<Key>>>(
        &mut self,
        header: &Header,
        expected: &Expected<'_>,
        lookup: impl FnOnce(&KeyId) -> Option<K>,
        out: &mut Vec<u8>,
    ) -> Result<PayloadKind, OpenError> {
        if header.fid != expected.fid {
            return Err(OpenError::FieldMismatch);
        }
        let key = lookup(&header.kid).ok_or(OpenError::KeyUnavailable)?;
        let key = key.borrow();
        check_key(key, header, expected.tenant, self.allow_compromised)?;
        let cipher = kept_cipher(&mut self.ciphers, key, header)?;
        if header.bound() != expected.binding.is_some() || !expected.owner.permits(key) {
            return Err(OpenError::Binding);
        }
        associated_data(
            &self.raw[..HEADER_LEN],
            expected.tenant,
            expected.binding.unwrap_or_default(),
            &mut self.aad,
        );
        let frame = decrypt(cipher, header.suite, &self.aad, &mut self.raw[HEADER_LEN..])?;
        let (kind, payload) = unframe(header, frame)?;
        out.extend_from_slice(payload);
        Ok(kind)
    }

    /// Whether a key that verifies and does not decrypt may be used, as strictly as one that opens.
    pub(super) fn check(&self, key: &Key, kid: &KeyId, tenant: &str) -> Result<(), OpenError> {
        check_state(key, self.allow_compromised)?;
        if *key.tenant != *tenant {
            return Err(OpenError::Corrupt);
        }
        check_value(key, kid)
    }
}

/// What is known of the key without cryptography: erased and unavailable first, then kind and
/// tenant.
fn check_key(
    key: &Key,
    header: &Header,
    tenant: &str,
    allow_compromised: bool,
) -> Result<(), OpenError> {
    check_state(key, allow_compromised)?;
    if header.suite.fits(key.kind) && *key.tenant == *tenant {
        Ok(())
    } else {
        Err(OpenError::Corrupt)
    }
}

/// What a honey token holds is bait: anyone who opens it gets the alarm and nothing else.
fn without_bait(kind: PayloadKind, payload: &mut Vec<u8>) -> PayloadKind {
    if kind == PayloadKind::Honey {
        payload.clear();
    }
    kind
}

/// Whether the key's state lets it open.
fn check_state(key: &Key, allow_compromised: bool) -> Result<(), OpenError> {
    match key.state {
        KeyState::Shredded => return Err(OpenError::Erased),
        KeyState::Retired => return Err(OpenError::KeyUnavailable),
        KeyState::Compromised if !allow_compromised => return Err(OpenError::KeyUnavailable),
        KeyState::Active | KeyState::DecryptOnly | KeyState::Compromised => {}
    }
    if key.secret.is_none() { Err(OpenError::KeyUnavailable) } else { Ok(()) }
}

/// Whether the key is the one that its id commits to.
fn check_value(key: &Key, kid: &KeyId) -> Result<(), OpenError> {
    let kcv = kdf::key_check_value(key.secret.as_ref().ok_or(OpenError::KeyUnavailable)?);
    if bool::from(kcv.ct_eq(&key.kcv) & kcv[..16].ct_eq(&kid.0)) {
        Ok(())
    } else {
        Err(OpenError::Corrupt)
    }
}

/// The cipher of key and field, made once the key's check value has been found right. It is taken
/// from `ciphers` only for the very key it was made from: another key of the same id is checked
/// again. (While a `Weak` points to it, no other key can take its address.)
fn kept_cipher<'c>(
    ciphers: &'c mut Ciphers,
    key: &Arc<Key>,
    header: &Header,
) -> Result<&'c mut Cipher, OpenError> {
    let slot = (header.kid, header.suite, header.fid);
    if ciphers.len() >= CACHE && !ciphers.contains_key(&slot) {
        ciphers.clear();
    }
    let made_from = |(from, _): &(Weak<Key>, Cipher)| std::ptr::eq(from.as_ptr(), Arc::as_ptr(key));
    let kept = match ciphers.entry(slot) {
        Entry::Occupied(kept) if made_from(kept.get()) => kept.into_mut(),
        slot => {
            let secret = key.secret.as_ref().ok_or(OpenError::KeyUnavailable)?;
            check_value(key, &header.kid)?;
            let cipher = Cipher::new(secret.expose(), header.suite, &header.fid);
            slot.insert_entry((Arc::downgrade(key), cipher)).into_mut()
        }
    };
    Ok(&mut kept.1)
}

/// Decrypts the body in place; the plaintext frame.
fn decrypt<'b>(
    cipher: &mut Cipher,
    suite: Suite,
    aad: &[u8],
    body: &'b mut [u8],
) -> Result<&'b [u8], OpenError> {
    let (prefix, text) = body.split_at_mut(suite.prefix_len());
    match cipher {
        Cipher::Gcm(gcm) => open_gcm(prefix, text, |[nonce], text, tag| {
            gcm.decrypt(nonce, aad, text.into(), tag.into())
        }),
        Cipher::Xaes(xaes) => {
            open_gcm(prefix, text, |nonce, text, tag| xaes.decrypt(nonce, aad, text, tag))
        }
        Cipher::Siv(siv) => {
            let iv = (&*prefix).try_into().map_err(|_| OpenError::Corrupt)?;
            siv.decrypt_inout_detached([aad], (&mut *text).into(), iv)
                .map_err(|_| OpenError::Corrupt)?;
            Ok(text)
        }
    }
}

/// Decrypts what ends in a tag; `decrypt` takes the nonce in parts of 12 bytes.
fn open_gcm<'t, const PARTS: usize>(
    nonce: &[u8],
    text: &'t mut [u8],
    decrypt: impl FnOnce(&[[u8; 12]; PARTS], &mut [u8], &[u8; TAG_LEN]) -> Result<(), aes_gcm::Error>,
) -> Result<&'t [u8], OpenError> {
    let (body, tag) = text.split_last_chunk_mut::<TAG_LEN>().ok_or(OpenError::Corrupt)?;
    let nonce = nonce.as_chunks().0.try_into().map_err(|_| OpenError::Corrupt)?;
    decrypt(nonce, body, tag).map_err(|_| OpenError::Corrupt)?;
    Ok(body)
}

/// The payload of a frame: padding off, kind known, and a `J` payload exactly one JSON text.
fn unframe<'p>(header: &Header, frame: &'p [u8]) -> Result<(PayloadKind, &'p [u8]), OpenError> {
    let frame = if header.padded() { unpad(frame)? } else { frame };
    let (&kind, payload) = frame.split_first().ok_or(OpenError::Corrupt)?;
    match kind {
        b'J' if scan::is_json_text(payload) => Ok((PayloadKind::Json, payload)),
        b'B' => Ok((PayloadKind::Bytes, payload)),
        b'H' => Ok((PayloadKind::Honey, payload)),
        _ => Err(OpenError::Corrupt),
    }
}

/// Cuts `0x80 | 0x00*` off the end. The frame was authenticated, so this leaks nothing to anyone
/// who cannot open it.
fn unpad(frame: &[u8]) -> Result<&[u8], OpenError> {
    let end = frame.iter().rposition(|b| *b != 0).ok_or(OpenError::Corrupt)?;
    // A padded frame is a multiple of 16 and its padding at most the largest pad.
    let well_formed =
        frame[end] == 0x80 && frame.len().is_multiple_of(16) && frame.len() - end <= 4096;
    if well_formed { Ok(&frame[..end]) } else { Err(OpenError::Corrupt) }
}
