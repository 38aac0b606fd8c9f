//! XAES-256-GCM (C2SP) with its subkeys in sight.
//!
//! The library's cipher derives one for every message. A subject's values in one record share the
//! first half of their nonces ([`super::NoncePool`]), so that here a field with several values pays
//! for it once.

use aes_gcm::aead::array::Array;
use aes_gcm::aead::consts::U12;
use aes_gcm::aes::Aes256Enc;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use aes_gcm::{AeadInOut, AesGcm, KeyInit};
use zeroize::{Zeroize, Zeroizing};

use super::gcm::decrypt_once;
use super::nonce::SHORT;
use crate::token::TAG_LEN;

/// AES-256-GCM without the round keys that only decrypting a block would need.
pub(super) type Gcm = AesGcm<Aes256Enc, U12>;

/// A key: the first half of a nonce chooses a subkey, the second half is the nonce under it.
pub(super) struct Xaes {
    aes: Aes256Enc,
    /// CMAC's first subkey, as a big-endian number.
    k1: Zeroizing<u128>,
}

impl Xaes {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let aes = Aes256Enc::new(key.into());
        let mut block = Zeroizing::new([0; 16]);
        aes.encrypt_block((&mut *block).into());
        let l = Zeroizing::new(u128::from_be_bytes(*block));
        // Doubled in GF(2^128), with no branch on the bit that falls out.
        let k1 = Zeroizing::new((*l << 1) ^ ((*l >> 127) * 0x87));
        Self { aes, k1 }
    }

    /// The cipher of messages whose nonces begin with `first`.
    pub(super) fn subkey(&self, first: &[u8; SHORT]) -> Gcm {
        self.schedule(first).into()
    }

    /// Decrypts in place the one message whose nonce begins with `first`.
    pub(super) fn decrypt(
        &self,
        [first, second]: &[[u8; SHORT]; 2],
        data: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG_LEN],
    ) -> Result<(), aes_gcm::Error> {
        let aes = self.schedule(first);
        decrypt_once(&aes, second, data, text, tag).unwrap_or_else(|| {
            Gcm::from(aes).decrypt_inout_detached(second.into(), data, text.into(), tag.into())
        })
    }

    /// The subkey of nonces that begin with `first`: `AES(K, M1 ^ K1) | AES(K, M2 ^ K1)` with `Mi =
    /// 0 | i | "X" | 0 | first`.
    fn schedule(&self, first: &[u8; SHORT]) -> Aes256Enc {
        let mut message = [0; 16];
        message[2] = b'X';
        message[4..].copy_from_slice(first);
        let message = u128::from_be_bytes(message) ^ *self.k1;
        let mut key = [0; 32];
        let (blocks, _) = key.as_chunks_mut::<16>();
        blocks[0] = (message ^ (1 << 112)).to_be_bytes();
        blocks[1] = (message ^ (2 << 112)).to_be_bytes();
        self.aes.encrypt_blocks(Array::cast_slice_from_core_mut(blocks));
        let aes = Aes256Enc::new((&key).into());
        // As a slice: arrays are cleared byte by byte.
        key.as_mut_slice().zeroize();
        aes
    }
}

#[cfg(test)]
mod tests;
