//! Maps by names that are hashes: their bytes are as good as a hash of them.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// A map by ids of keys, references of data subjects or ids of fields. Key ids and references come
/// out of secret keys, and nobody can choose those of keys that exist; field ids are hashes of
/// names that schemas give. Ids that a caller chose may stand in it as far as their number is
/// bounded.
pub type UniformMap<K, V> = HashMap<K, V, UniformState>;

/// Makes the hashers of such a map.
pub type UniformState = BuildHasherDefault<Uniform>;

/// The first 8 bytes of each name, folded.
#[derive(Debug, Default)]
pub struct Uniform(u64);

impl Hasher for Uniform {
    fn write(&mut self, bytes: &[u8]) {
        let mut first = [0; 8];
        let length = bytes.len().min(8);
        first[..length].copy_from_slice(&bytes[..length]);
        self.0 = self.0.rotate_left(20) ^ u64::from_le_bytes(first);
    }

    /// Lengths, which are those of all of them, and variants, of which there are few.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::hash::BuildHasher as _;

    use super::UniformState;
    use crate::key::KeyId;
    use crate::token::FieldId;

    #[test]
    fn names_are_told_apart_alone_and_together() {
        let hash = UniformState::default();
        let (a, b) = (KeyId([1; 16]), KeyId([2; 16]));
        assert_ne!(hash.hash_one(a), hash.hash_one(b));
        let (email, ssn): (FieldId, FieldId) = (*b"email0", *b"ssn000");
        assert_ne!(hash.hash_one((a, email)), hash.hash_one((b, email)));
        assert_ne!(hash.hash_one((a, email)), hash.hash_one((a, ssn)));
    }
}
