//! AES-256-GCM (NIST SP 800-38D) for one field: what its messages have in common is computed once.

use aes_gcm::aead::array::Array;
use aes_gcm::aead::consts::{U12, U16};
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::aes::Aes256Enc;
use aes_gcm::aes::cipher::BlockCipherEncrypt;
use aes_gcm::{AeadInOut, AesGcm, KeyInit, Tag};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;
use subtle::ConstantTimeEq;
use zeroize::Zeroize;

use super::SealError;
use super::nonce::SHORT;
use crate::token::TAG_LEN;

type Block = Array<u8, U16>;

/// Blocks that cipher and hash take at once.
const AT_ONCE: usize = 4;
/// Longest text of a short message: the cipher's block for the tag, or the hash's with the lengths,
/// stands beside it.
const SHORT_TEXT: usize = 16 * (AT_ONCE - 1);

/// A key with the associated data of its messages hashed.
///
/// Most values are short. The library computes the cipher's block for the tag, the key stream and
/// each block of the hash one after the other, and hashes the associated data again. Here a short
/// message is one call of four blocks for the cipher and one for the hash.
pub(super) struct Gcm {
    library: AesGcm<Aes256Enc, U12>,
    aes: Aes256Enc,
    /// The last blocks of the associated data, padded with zeros: they fill up the call of the hash.
    last: Vec<[u8; 16]>,
    /// The hash of the associated data without so many of its last blocks; none before
    /// [`Gcm::associate`].
    hashes: Vec<GHash>,
    /// Bytes of the associated data.
    associated: usize,
}

impl Gcm {
    /// A key; no data is associated with its messages yet.
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let aes = Aes256Enc::new(key.into());
        let library = AesGcm::from(aes.clone());
        Self { library, aes, last: Vec::new(), hashes: Vec::new(), associated: 0 }
    }

    /// From now on `data` is associated with the messages of [`Gcm::encrypt_short`].
    pub(super) fn associate(&mut self, data: &[u8]) {
        let mut padded = data.to_vec();
        padded.resize(data.len().next_multiple_of(16), 0);
        let (blocks, _) = padded.as_chunks();
        self.last = blocks[blocks.len().saturating_sub(AT_ONCE - 1)..].to_vec();
        let without_last = |count| {
            let mut hash = hash(&self.aes);
            hash.update(Array::cast_slice_from_core(&blocks[..blocks.len() - count]));
            hash
        };
        self.hashes = (0..=self.last.len()).map(without_last).collect();
        self.associated = data.len();
    }

    /// Encrypts in place under the data that [`Gcm::associate`] was given; the tag. `None`: nothing
    /// was given, or the text is too long for this way. It is unchanged then.
    pub(super) fn encrypt_short(
        &self,
        nonce: &[u8; SHORT],
        text: &mut [u8],
    ) -> Option<[u8; TAG_LEN]> {
        if text.len() > SHORT_TEXT || self.hashes.is_empty() {
            return None;
        }
        // E(K, J0) for the tag, then the key stream: counters 1 to 4.
        let mut stream = [[0; 16]; AT_ONCE];
        count(nonce, &mut stream);
        self.aes.encrypt_blocks(Array::cast_slice_from_core_mut(&mut stream));
        xor(text, stream[1..].as_flattened());

        // As much of the associated data as there is room for, the text padded with zeros, and both
        // lengths in bits.
        let text_blocks = text.len().div_ceil(16);
        let held = (AT_ONCE - 1 - text_blocks).min(self.last.len());
        let lengths = held + text_blocks;
        let mut hashed = [[0; 16]; AT_ONCE];
        hashed[..held].copy_from_slice(&self.last[self.last.len() - held..]);
        hashed[held..].as_flattened_mut()[..text.len()].copy_from_slice(text);
        hashed[lengths] = in_bits(self.associated, text.len());
        let mut hash = self.hashes[held].clone();
        hash.update(Array::cast_slice_from_core(&hashed[..=lengths]));
        let mut tag: [u8; TAG_LEN] = hash.finalize().into();
        xor(&mut tag, &stream[0]);
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

/// Most blocks of a message that [`decrypt_once`] takes: of the cipher, and of the hash.
const ONCE: usize = 8;

/// Decrypts a short message in place under a key that has no other one: cipher and hash are called
/// once. `None`: text or data are too long for this way. The text is unchanged then.
pub(super) fn decrypt_once(
    aes: &Aes256Enc,
    nonce: &[u8; SHORT],
    data: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> Option<Result<(), aes_gcm::Error>> {
    let (held, text_blocks) = (data.len().div_ceil(16), text.len().div_ceil(16));
    let lengths = held + text_blocks;
    if lengths >= ONCE || text_blocks > ONCE - 2 {
        return None;
    }
    // The hash's key E(K, 0), E(K, J0) for the tag, then the key stream.
    let mut stream = [[0; 16]; ONCE];
    count(nonce, &mut stream[1..]);
    aes.encrypt_blocks(Array::cast_slice_from_core_mut(&mut stream[..2 + text_blocks]));

    let mut hashed = [[0; 16]; ONCE];
    hashed.as_flattened_mut()[..data.len()].copy_from_slice(data);
    hashed[held..].as_flattened_mut()[..text.len()].copy_from_slice(text);
    hashed[lengths] = in_bits(data.len(), text.len());
    let mut hash = GHash::new((&stream[0]).into());
    hash.update(Array::cast_slice_from_core(&hashed[..=lengths]));
    let mut expected: [u8; TAG_LEN] = hash.finalize().into();
    xor(&mut expected, &stream[1]);
    let is_right = bool::from(expected.ct_eq(tag));
    if is_right {
        xor(text, stream[2..].as_flattened());
    }
    // As a slice: arrays are cleared byte by byte.
    stream[..2 + text_blocks].as_flattened_mut().zeroize();
    Some(if is_right { Ok(()) } else { Err(aes_gcm::Error) })
}

/// Counter blocks, from J0 on.
fn count(nonce: &[u8; SHORT], blocks: &mut [[u8; 16]]) {
    for (counter, block) in (1_u32..).zip(blocks) {
        block[..SHORT].copy_from_slice(nonce);
        block[SHORT..].copy_from_slice(&counter.to_be_bytes());
    }
}

/// The last block of the hash: the bits of associated data and text.
fn in_bits(data: usize, text: usize) -> [u8; 16] {
    (((8 * data as u128) << 64) | (8 * text as u128)).to_be_bytes()
}

fn xor(text: &mut [u8], key: &[u8]) {
    text.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
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
        assert!(gcm.encrypt_short(&[0; SHORT], &mut [0]).is_none(), "nothing is associated");
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
