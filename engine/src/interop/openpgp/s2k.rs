//! From a passphrase to a key: string-to-key specifiers (RFC 4880, section 3.7).

use sha1::Sha1;
use sha2::digest::DynDigest;
use sha2::{Sha224, Sha256, Sha384, Sha512};
use zeroize::Zeroizing;

use super::packet::take;

const SHA_1: u8 = 2;
pub(super) const SHA_256: u8 = 8;
const SHA_384: u8 = 9;
const SHA_512: u8 = 10;
const SHA_224: u8 = 11;

/// Bytes hashed at once.
const STRETCH: usize = 8 << 10;

/// How a passphrase becomes a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Specifier {
    pub(super) digest: u8,
    salt: Option<[u8; 8]>,
    /// As the message writes the count; `None`: salt and passphrase are hashed once.
    count: Option<u8>,
}

impl Specifier {
    pub(super) fn iterated(digest: u8, salt: [u8; 8], count: u8) -> Self {
        Self { digest, salt: Some(salt), count: Some(count) }
    }

    /// Takes a specifier off; `None`: there is none that RFC 4880 has.
    pub(super) fn read(bytes: &mut &[u8]) -> Option<Self> {
        let (kind, digest) = (take(bytes, 1)?[0], take(bytes, 1)?[0]);
        let salt = match kind {
            0 => None,
            1 | 3 => Some(take(bytes, 8)?.try_into().ok()?),
            _ => return None,
        };
        let count = if kind == 3 { Some(take(bytes, 1)?[0]) } else { None };
        Some(Self { digest, salt, count })
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[3, self.digest]);
        out.extend_from_slice(&self.salt.unwrap_or_default());
        out.push(self.count.unwrap_or_default());
    }

    /// Bytes to be hashed for each digest that the key takes.
    pub(super) fn count(&self) -> u64 {
        self.count.map_or(0, |code| (16 + u64::from(code & 15)) << ((code >> 4) + 6))
    }

    /// The key of a passphrase, `length` bytes long.
    pub(super) fn key(
        &self,
        passphrase: &[u8],
        digest: &mut dyn DynDigest,
        length: usize,
    ) -> Zeroizing<Vec<u8>> {
        let mut salted = Zeroizing::new(Vec::with_capacity(8 + passphrase.len()));
        salted.extend_from_slice(self.salt.as_ref().map_or(&[][..], |salt| salt));
        salted.extend_from_slice(passphrase);
        // Whole repetitions, so that a stretch begins where the one before ended.
        let times = (STRETCH / salted.len().max(1)).max(1);
        let stretch = Zeroizing::new(salted.repeat(times));
        let count = usize::try_from(self.count()).unwrap_or(usize::MAX).max(salted.len());
        let mut key = Zeroizing::new(Vec::with_capacity(length + 64));
        let mut zeros = 0;
        while key.len() < length {
            digest.reset();
            // A longer key goes on with digests that begin with more and more zeros.
            digest.update(&vec![0; zeros]);
            let mut left = count;
            while left > 0 && !stretch.is_empty() {
                let part = left.min(stretch.len());
                digest.update(&stretch[..part]);
                left -= part;
            }
            key.extend_from_slice(&Zeroizing::new(digest.finalize_reset().into_vec()));
            zeros += 1;
        }
        key.truncate(length);
        key
    }

    /// The key of 32 bytes that SHA-256 gives.
    pub(super) fn key_of_sha256(&self, passphrase: &[u8]) -> Zeroizing<[u8; 32]> {
        let key = self.key(passphrase, &mut Sha256::default(), 32);
        let mut array = Zeroizing::new([0; 32]);
        array.copy_from_slice(&key);
        array
    }
}

/// The digest of that id, of those that fields are read with.
pub(super) fn digest(id: u8) -> Option<Box<dyn DynDigest>> {
    Some(match id {
        SHA_1 => Box::new(Sha1::default()),
        SHA_224 => Box::new(Sha224::default()),
        SHA_256 => Box::new(Sha256::default()),
        SHA_384 => Box::new(Sha384::default()),
        SHA_512 => Box::new(Sha512::default()),
        _ => return None,
    })
}
