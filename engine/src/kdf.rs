//! The formulas that name and derive keys (docs/formats.md, "Names and keys" and "Keys"). One
//! function each.

use hkdf::Hkdf;
use sha2::{Digest, Sha256};

use crate::key::{KeyId, SecretKey};

/// `expand(key, info, n)`: HKDF-Expand (RFC 5869 section 2.3) with SHA-256. `out` is at most 8,160
/// bytes long.
pub fn expand(key: &[u8; 32], info: &[&[u8]], out: &mut [u8]) {
    // Both bounds are static: a 32-byte key is a valid PRK and no caller asks for more than 64
    // bytes.
    if let Ok(hkdf) = Hkdf::<Sha256>::from_prk(key)
        && hkdf.expand_multi_info(info, out).is_ok()
    {
        return;
    }
    unreachable!("HKDF-Expand with a 32-byte key and at most 8,160 bytes of output");
}

/// `kcv = expand(key, "vs1/kcv", 32)`: the check value, stored whole in the key store.
#[must_use]
pub fn key_check_value(key: &SecretKey) -> [u8; 32] {
    let mut kcv = [0; 32];
    expand(key.expose(), &[b"vs1/kcv"], &mut kcv);
    kcv
}

/// `kid` = first 16 bytes of `kcv`.
#[must_use]
pub fn key_id(kcv: &[u8; 32]) -> KeyId {
    let mut kid = [0; 16];
    kid.copy_from_slice(&kcv[..16]);
    KeyId(kid)
}

/// `fid` = first 6 bytes of `SHA-256("vs1/fid" | LP(field name))`.
#[must_use]
pub fn field_id(field: &str) -> [u8; 6] {
    let mut hash = Sha256::new();
    hash.update(b"vs1/fid");
    hash.update(length_prefix(field.len()));
    hash.update(field.as_bytes());
    let mut fid = [0; 6];
    fid.copy_from_slice(&hash.finalize()[..6]);
    fid
}

/// The length part of `LP(x)`: u32 big-endian.
///
/// # Panics
/// When `len` does not fit 32 bits; every caller holds a bounded record.
#[must_use]
pub fn length_prefix(len: usize) -> [u8; 4] {
    u32::try_from(len).map_or_else(
        |_| unreachable!("length-prefixed parts are bounded below 4 GiB"),
        u32::to_be_bytes,
    )
}
