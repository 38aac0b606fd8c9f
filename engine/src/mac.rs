//! HMAC-SHA-256 under secret keys (RFC 2104), and how what it computes becomes public.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::kdf;

/// An HMAC-SHA-256 in progress. A secret like its key until [`HmacSha256::publish`]; the state is
/// zeroized when dropped.
#[derive(Clone)]
pub struct HmacSha256(Hmac<Sha256>);

impl HmacSha256 {
    /// Begins under a key of 32 bytes.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        // HMAC takes keys of every length.
        Self(Hmac::new_from_slice(key).unwrap_or_else(|_| unreachable!("a key of 32 bytes")))
    }

    /// Takes bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Takes `LP(part)` in.
    pub fn update_part(&mut self, part: &[u8]) {
        self.0.update(&kdf::length_prefix(part.len()));
        self.0.update(part);
    }

    /// The tag, for everybody to see. The one place where what was computed from a secret key stops
    /// being secret: a tag that is to stay secret is no use of this type.
    #[must_use]
    pub fn publish(self) -> [u8; 32] {
        self.0.finalize().into_bytes().into()
    }

    /// Whether `tag` is the tag. Compared in constant time.
    #[must_use]
    pub fn verify(self, tag: &[u8]) -> bool {
        self.0.verify_slice(tag).is_ok()
    }
}
