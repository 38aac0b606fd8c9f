//! Wrapping keys with keys: local key-encrypting keys and wrapping keys (docs/formats.md, "Keys").

use aes_gcm::{AeadInOut, KeyInit};
use xaes_256_gcm::Xaes256Gcm;
use zeroize::{Zeroize, Zeroizing};

use crate::kdf;
use crate::key::{Key, KeyId, KeyKind, Scope, SecretKey};

/// Bytes of a wrapped key: nonce, key, tag.
pub const WRAPPED_LEN: usize = 24 + 32 + 16;

/// What a wrap is tied to. A wrap moved to another row does not open.
#[derive(Debug, Clone, Copy)]
pub struct WrapContext<'a> {
    /// Names the wrapped key.
    pub kid: KeyId,
    /// Its kind.
    pub kind: KeyKind,
    /// Its tenant.
    pub tenant: &'a str,
    /// Its scope.
    pub scope: &'a Scope,
}

impl<'a> WrapContext<'a> {
    /// The context of a key.
    #[must_use]
    pub fn of(key: &'a Key) -> Self {
        Self { kid: key.id, kind: key.kind, tenant: &key.tenant, scope: &key.scope }
    }

    /// `AAD = "vs1/wrap" | LP(kid) | LP(kind) | LP(tenant) | LP(scope)`.
    #[must_use]
    pub fn associated_data(&self) -> Vec<u8> {
        let scope = self.scope.to_string();
        let mut out = b"vs1/wrap".to_vec();
        for part in [
            &self.kid.0[..],
            self.kind.as_str().as_bytes(),
            self.tenant.as_bytes(),
            scope.as_bytes(),
        ] {
            out.extend_from_slice(&kdf::length_prefix(part.len()));
            out.extend_from_slice(part);
        }
        out
    }
}

/// The wrap does not open with this key-encrypting key and context.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the wrapped key does not open: another key-encrypting key, or its row was changed")]
pub struct UnwrapError;

/// `nonce24 | XAES-256-GCM(kek, nonce24, key, AAD)`. The nonce is fresh from the operating system,
/// given by the caller.
#[must_use]
pub fn wrap_local(
    kek: &SecretKey,
    nonce: [u8; 24],
    key: &SecretKey,
    context: &WrapContext<'_>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(WRAPPED_LEN);
    out.extend_from_slice(&nonce);
    out.extend_from_slice(key.expose());
    let cipher = Xaes256Gcm::new(kek.expose().into());
    match cipher.encrypt_inout_detached(
        &nonce.into(),
        &context.associated_data(),
        (&mut out[24..]).into(),
    ) {
        Ok(tag) => out.extend_from_slice(&tag),
        Err(_) => unreachable!("32 bytes are within the cipher's limits"),
    }
    out
}

/// The reverse of [`wrap_local`]; checks the key's check value too.
///
/// # Errors
/// [`UnwrapError`] for another key-encrypting key, an edited wrap or another context.
pub fn unwrap_local(
    kek: &SecretKey,
    wrapped: &[u8],
    context: &WrapContext<'_>,
) -> Result<SecretKey, UnwrapError> {
    if wrapped.len() != WRAPPED_LEN {
        return Err(UnwrapError);
    }
    let (nonce, rest) = wrapped.split_at(24);
    let (text, tag) = rest.split_at(32);
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(text);
    let nonce = nonce.try_into().map_err(|_| UnwrapError)?;
    let tag = tag.try_into().map_err(|_| UnwrapError)?;
    let cipher = Xaes256Gcm::new(kek.expose().into());
    if cipher
        .decrypt_inout_detached(nonce, &context.associated_data(), (&mut key[..]).into(), tag)
        .is_err()
    {
        key.zeroize();
        return Err(UnwrapError);
    }
    let key = SecretKey::new(*key);
    if kdf::key_id(&kdf::key_check_value(&key)) == context.kid { Ok(key) } else { Err(UnwrapError) }
}
