//! What only `migrate` reads of OpenPGP: every shape that `pgp_sym_encrypt` writes by its options.

use std::io::Read;

use blowfish::Blowfish;
use blowfish::cipher::{Array, BlockCipherEncrypt, BlockSizeUser, KeyInit};
use cast5::Cast5;
use des::TdesEde3;
use flate2::read::{DeflateDecoder, ZlibDecoder};
use md5::Md5;
use veilstream_engine::interop::openpgp::{BlockCipher, DynDigest, Legacy, Rules};

/// Ids of RFC 4880.
const TRIPLE_DES: u8 = 2;
const CAST5: u8 = 3;
const BLOWFISH: u8 = 4;
const MD5: u8 = 1;
const ZIP: u8 = 1;
const ZLIB: u8 = 2;

/// Most bytes hashed to derive a key: all that a message can say.
const MOST_COUNT: u64 = 65_011_712;
/// Longest text that a compressed message may hold.
const LONGEST_TEXT: u64 = 64 << 20;

/// Reads all of it.
pub(super) struct AllShapes;

/// The rules of `migrate`.
pub(super) const RULES: Rules<'static> = Rules { most_count: MOST_COUNT, legacy: Some(&AllShapes) };

/// A cipher of another generation, with its key.
struct Keyed<C>(C);

impl<C: BlockCipherEncrypt + BlockSizeUser> BlockCipher for Keyed<C> {
    fn block_size(&self) -> usize {
        C::block_size()
    }

    fn encrypt_block(&self, block: &mut [u8]) {
        if let Ok(block) = <&mut Array<u8, C::BlockSize>>::try_from(block) {
            self.0.encrypt_block(block);
        }
    }
}

fn keyed<C: KeyInit + BlockCipherEncrypt + 'static>(key: &[u8]) -> Option<Box<dyn BlockCipher>> {
    Some(Box::new(Keyed(C::new_from_slice(key).ok()?)))
}

impl Legacy for AllShapes {
    fn key_len(&self, algorithm: u8) -> Option<usize> {
        match algorithm {
            TRIPLE_DES => Some(24),
            CAST5 | BLOWFISH => Some(16),
            _ => None,
        }
    }

    fn cipher(&self, algorithm: u8, key: &[u8]) -> Option<Box<dyn BlockCipher>> {
        match algorithm {
            TRIPLE_DES => keyed::<TdesEde3>(key),
            CAST5 => keyed::<Cast5>(key),
            BLOWFISH => keyed::<Blowfish>(key),
            _ => None,
        }
    }

    fn digest(&self, id: u8) -> Option<Box<dyn DynDigest>> {
        (id == MD5).then(|| Box::new(Md5::default()) as Box<dyn DynDigest>)
    }

    fn decompress(&self, algorithm: u8, compressed: &[u8]) -> Option<Vec<u8>> {
        let mut reader: Box<dyn Read + '_> = match algorithm {
            ZIP => Box::new(DeflateDecoder::new(compressed)),
            ZLIB => Box::new(ZlibDecoder::new(compressed)),
            _ => return None,
        };
        let mut text = Vec::new();
        let read = reader.by_ref().take(LONGEST_TEXT + 1).read_to_end(&mut text).ok()?;
        (read as u64 <= LONGEST_TEXT).then_some(text)
    }
}

/// The cipher of a server whose library has not the one that was asked for: its pgcrypto went on
/// without, so the text stands in the row as it is (CVE-2026-14663).
pub(super) struct NoCipher(usize);

impl NoCipher {
    /// Of messages for that cipher.
    pub(super) fn of(algorithm: u8) -> Self {
        Self(if matches!(algorithm, TRIPLE_DES | CAST5 | BLOWFISH) { 8 } else { 16 })
    }
}

impl BlockCipher for NoCipher {
    fn block_size(&self) -> usize {
        self.0
    }

    fn encrypt_block(&self, block: &mut [u8]) {
        block.fill(0);
    }
}
