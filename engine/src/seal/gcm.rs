//! AES-256-GCM (NIST SP 800-38D) for one field: what its messages have in common is computed once.

use aes_gcm::aead::array::Array;
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aes::Aes256Enc;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use aes_gcm::{AeadInOut, AesGcm, KeyInit, Tag};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use zeroize::Zeroize;

use super::SealError;
use super::nonce::SHORT;
use crate::token::TAG_LEN;

type Block = Array<u8, U16>;

/// Longest text of a short message: with the counter block of its tag it fills four blocks.
const SHORT_TEXT: usize = 48;

/// A key with the associated data of its messages hashed.
///
/// Most values are short. The library computes the counter block of the tag, the key stream and
/// each block of the hash one after the other, and hashes the associated data again. Here a short
/// message is one call for all blocks of the cipher and one for those of the hash.
pub(super) struct Gcm {
    library: AesGcm<Aes256Enc, U12>,
    aes: Aes256Enc,
    /// The hash after the associated data.
    associated: GHash,
    /// Its length in bits.
    associated_bits: u64,
}

impl Gcm {
    /// A key; nothing is associated with its messages yet.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let aes = Aes256Enc::new(key.into());
        let associated = hash(&aes);
        Self { library: AesGcm::from(aes.clone()), aes, associated, associated_bits: 0 }
    }

    /// From now on `data` is associated with the messages of [`Gcm::encrypt`].
    pub(super) fn associate(&mut self, data: &[u8]) {
        self.associated = hash(&self.aes);
        self.associated.update_padded(data);
        self.associated_bits = 8 * data.len() as u64;
    }

    /// Encrypts in place under the data that [`Gcm::associate`] was given; the tag. `None`: the
    /// text is too long for this way, and unchanged.
    pub(super) fn encrypt_short(
        &self,
        nonce: &[u8; SHORT],
        text: &mut [u8],
    ) -> Option<[u8; TAG_LEN]> {
        if text.len() > SHORT_TEXT {
            return None;
        }
        // E(K, J0) for the tag, then the key stream: counters 1 to 4.
        let mut stream = [[0; 16]; 4];
        for (counter, block) in (1_u32..).zip(&mut stream) {
            block[..SHORT].copy_from_slice(nonce);
            block[SHORT..].copy_from_slice(&counter.to_be_bytes());
        }
        self.aes.encrypt_blocks(Array::cast_slice_from_core_mut(&mut stream));
        text.iter_mut().zip(stream[1..].as_flattened()).for_each(|(byte, key)| *byte ^= key);

        // The text, padded with zeros to whole blocks, and both lengths in bits.
        let mut hashed = [[0; 16]; 4];
        hashed.as_flattened_mut()[..text.len()].copy_from_slice(text);
        let lengths = text.len().div_ceil(16);
        hashed[lengths][..8].copy_from_slice(&self.associated_bits.to_be_bytes());
        hashed[lengths][8..].copy_from_slice(&(8 * text.len() as u64).to_be_bytes());
        let mut hash = self.associated.clone();
        hash.update(Array::cast_slice_from_core(&hashed[..=lengths]));
        let mut tag: [u8; TAG_LEN] = hash.finalize().into();
        tag.iter_mut().zip(&stream[0]).for_each(|(byte, key)| *byte ^= key);
        Some(tag)
    }

    /// Encrypts a text of any length in place under any associated data; the tag.
    pub(super) fn encrypt(
        &self,
        nonce: &[u8; SHORT],
        data: &[u8],
        text: InOutBuf<'_, '_, u8>,
    ) -> Result<[u8; TAG_LEN], SealError> {
        let tag = self.library.encrypt_inout_detached(nonce.into(), data, text);
        tag.map(Into::into).map_err(|_| SealError::TooLong)
    }

    /// Decrypts in place, as the library does.
    pub(super) fn decrypt(
        &self,
        nonce: &[u8; SHORT],
        data: &[u8],
        text: InOutBuf<'_, '_, u8>,
        tag: &Tag,
    ) -> Result<(), aes_gcm::Error> {
        self.library.decrypt_inout_detached(nonce.into(), data, text, tag)
    }
}

/// GHASH under `H = E(K, 0)`, of nothing yet.
fn hash(aes: &Aes256Enc) -> GHash {
    let mut key = Block::default();
    aes.encrypt_block(&mut key);
    let hash = GHash::new(&key);
    key.zeroize();
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known answers are in `engine/tests/vectors.rs`.
    #[test]
    fn short_messages_are_as_the_library_encrypts_them() {
        let mut gcm = Gcm::new(&[7; 32]);
        let data: Vec<u8> = (0..100).collect();
        for associated in 0..data.len() {
            gcm.associate(&data[..associated]);
            for length in 0..=SHORT_TEXT {
                let nonce = [length as u8; SHORT];
                let mut text: Vec<u8> = (1..=length as u8).collect();
                let mut expected = text.clone();
                let tag = gcm.encrypt_short(&nonce, &mut text).unwrap();
                let by_library = gcm
                    .encrypt(&nonce, &data[..associated], expected.as_mut_slice().into())
                    .unwrap();
                assert_eq!((text, tag), (expected, by_library), "{associated} {length}");
            }
        }
        let mut long = [5; SHORT_TEXT + 1];
        assert!(gcm.encrypt_short(&[0; SHORT], &mut long).is_none());
        assert_eq!(long, [5; SHORT_TEXT + 1], "unchanged");
    }
}
