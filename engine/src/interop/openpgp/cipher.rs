//! Block ciphers, and CFB over them as OpenPGP has it: the first register is zero.

use aes::cipher::{Array, BlockCipherEncrypt as _, KeyInit as _};
use aes::{Aes128, Aes192, Aes256};

/// Ids of RFC 4880, section 9.2.
pub(super) const AES_128: u8 = 7;
pub(super) const AES_192: u8 = 8;
pub(super) const AES_256: u8 = 9;

/// A block cipher with its key.
pub trait BlockCipher {
    /// Bytes of a block: 8 or 16.
    fn block_size(&self) -> usize;

    /// Encrypts one block in its place.
    fn encrypt_block(&self, block: &mut [u8]);
}

/// AES, in any of its sizes.
pub(super) enum Aes {
    Of128(Aes128),
    Of192(Aes192),
    Of256(Aes256),
}

impl Aes {
    pub(super) fn of_256(key: &[u8; 32]) -> Self {
        Self::Of256(Aes256::new(&Array::from(*key)))
    }

    /// `None`: another cipher, or a key of another length.
    pub(super) fn new(algorithm: u8, key: &[u8]) -> Option<Self> {
        match algorithm {
            AES_128 => Aes128::new_from_slice(key).ok().map(Self::Of128),
            AES_192 => Aes192::new_from_slice(key).ok().map(Self::Of192),
            AES_256 => Aes256::new_from_slice(key).ok().map(Self::Of256),
            _ => None,
        }
    }

    /// Bytes of its key.
    pub(super) fn key_len(algorithm: u8) -> Option<usize> {
        match algorithm {
            AES_128 => Some(16),
            AES_192 => Some(24),
            AES_256 => Some(32),
            _ => None,
        }
    }
}

impl BlockCipher for Aes {
    fn block_size(&self) -> usize {
        16
    }

    fn encrypt_block(&self, block: &mut [u8]) {
        let Ok(block) = block.try_into() else { return };
        match self {
            Self::Of128(aes) => aes.encrypt_block(block),
            Self::Of192(aes) => aes.encrypt_block(block),
            Self::Of256(aes) => aes.encrypt_block(block),
        }
    }
}

/// Encrypts in place.
pub(super) fn encrypt(cipher: &dyn BlockCipher, data: &mut [u8]) {
    let mut register = vec![0; cipher.block_size()];
    for part in data.chunks_mut(register.len()) {
        cipher.encrypt_block(&mut register);
        part.iter_mut().zip(&register).for_each(|(byte, key)| *byte ^= key);
        register[..part.len()].copy_from_slice(part);
    }
}

/// Decrypts in place, with `register` before the first block.
pub(super) fn decrypt_after(cipher: &dyn BlockCipher, register: &[u8], data: &mut [u8]) {
    let mut register = register.to_vec();
    let mut sealed = vec![0; register.len()];
    for part in data.chunks_mut(register.len()) {
        cipher.encrypt_block(&mut register);
        sealed[..part.len()].copy_from_slice(part);
        part.iter_mut().zip(&register).for_each(|(byte, key)| *byte ^= key);
        std::mem::swap(&mut register, &mut sealed);
    }
}

/// Decrypts in place.
pub(super) fn decrypt(cipher: &dyn BlockCipher, data: &mut [u8]) {
    decrypt_after(cipher, &vec![0; cipher.block_size()], data);
}
