//! Checkpoints: what a chain holds up to here, signed, so that anyone with the public key can
//! check it.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};
use veilstream_engine::kdf;

use super::hex::Hex;
use super::line::Line;
use super::recipient::KeyTextError;

/// What a checkpoint signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Covered {
    pub(super) chain: [u8; 16],
    /// The first line.
    pub(super) from: u64,
    /// The last line.
    pub(super) to: u64,
    /// SHA-256 of the last line.
    pub(super) sha256: [u8; 32],
    /// The Merkle root of all of them.
    pub(super) root: [u8; 32],
}

impl Covered {
    /// What a checkpoint line says that it covers; `None`: it is none. All of it stands in the
    /// line, so that one who holds only this line can check it.
    pub(super) fn of(line: &Line) -> Option<Self> {
        Some(Self {
            chain: line.chain.0,
            from: line.from?,
            to: line.seq.checked_sub(1)?,
            sha256: line.prev.0,
            root: line.root?.0,
        })
    }

    /// `"vs1/audit/checkpoint" | LP(chain) | u64 from | u64 to | SHA-256(last line) | root`
    fn message(&self) -> Vec<u8> {
        [
            b"vs1/audit/checkpoint".as_slice(),
            &kdf::length_prefix(self.chain.len()),
            &self.chain,
            &self.from.to_be_bytes(),
            &self.to.to_be_bytes(),
            &self.sha256,
            &self.root,
        ]
        .concat()
    }
}

/// Signs checkpoints. Its seed is `expand(audit key, "vs1/audit/checkpoint", 32)`
/// ([`veilstream_keys::Manager::checkpoint_signing_key`]).
#[derive(Clone)]
pub struct Signer {
    key: SigningKey,
    id: [u8; 16],
}

impl Signer {
    /// A signer with this key.
    #[must_use]
    pub fn new(key: SigningKey) -> Self {
        let id = CheckpointKey(key.verifying_key()).id();
        Self { key, id }
    }

    /// The public half.
    #[must_use]
    pub fn checkpoint_key(&self) -> CheckpointKey {
        CheckpointKey(self.key.verifying_key())
    }

    /// `signer` and `signature` of a checkpoint line.
    pub(super) fn sign(&self, covered: &Covered) -> (Hex<16>, Hex<64>) {
        (Hex(self.id), Hex(self.key.sign(&covered.message()).to_bytes()))
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", Hex(self.id))
    }
}

/// The public key of checkpoints. Text: base64url without padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointKey(VerifyingKey);

impl CheckpointKey {
    /// The first 16 bytes of its SHA-256: `signer` in lines.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&Sha256::digest(self.0.as_bytes())[..16]);
        id
    }

    pub(super) fn holds(&self, covered: &Covered, signature: &Hex<64>) -> bool {
        let signature = Signature::from_bytes(&signature.0);
        // Strict: one signature has one spelling.
        self.0.verify_strict(&covered.message(), &signature).is_ok()
    }
}

impl FromStr for CheckpointKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let bytes = URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| KeyTextError)?;
        VerifyingKey::try_from(&*bytes).map(Self).map_err(|_| KeyTextError)
    }
}

impl fmt::Display for CheckpointKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.as_bytes()))
    }
}
