//! The verifier's key pair. A chain's first key is sealed to its public half, so that who writes
//! the log cannot recompute the MACs of lines that were written.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use veilstream_engine::kdf;
use zeroize::Zeroizing;

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type Encapped = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Bytes of an encapsulated key.
const ENCAPPED: usize = 32;

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no key; it is 43 characters, as `veilstream audit keygen` writes them")]
pub struct KeyTextError;

/// The public half: whom chains' first keys are sealed to. Text: base64url without padding.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient([u8; 32]);

impl Recipient {
    /// `b64(enc | ciphertext)` of a chain's first key.
    ///
    /// # Errors
    /// [`KeyTextError`]: the public key is of no use (a point of small order).
    pub(super) fn seal(&self, chain: [u8; 16], k1: &[u8; 32]) -> Result<String, KeyTextError> {
        let key = PublicKey::from_bytes(&self.0).map_err(|_| KeyTextError)?;
        let (encapped, ciphertext) = hpke::single_shot_seal::<
            AesGcm256,
            HkdfSha256,
            X25519HkdfSha256,
        >(&OpModeS::Base, &key, &info(chain), k1, b"")
        .map_err(|_| KeyTextError)?;
        Ok(URL_SAFE_NO_PAD.encode([&encapped.to_bytes()[..], &ciphertext].concat()))
    }
}

impl FromStr for Recipient {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        let recipient = Self(*key_bytes(text)?);
        // A key that cannot be sealed to is refused where it is named, not at the first line.
        recipient.seal([0; 16], &[0; 32])?;
        Ok(recipient)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The private half. Only the verifier has it. `Debug` prints `VerifierKey(..)`.
#[derive(Clone)]
pub struct VerifierKey(Zeroizing<[u8; 32]>);

impl VerifierKey {
    /// A new key of the operating system's random bytes.
    ///
    /// # Errors
    /// The random source fails.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *bytes)?;
        Ok(Self(bytes))
    }

    /// The text of the private half, for its file and nothing else.
    #[must_use]
    pub fn expose(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(*self.0))
    }

    /// The public half.
    ///
    /// # Errors
    /// [`KeyTextError`].
    pub fn recipient(&self) -> Result<Recipient, KeyTextError> {
        let public = X25519HkdfSha256::sk_to_pk(&self.private()?);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(&public.to_bytes());
        Ok(Recipient(bytes))
    }

    /// A chain's first key; `None`: it was not sealed to this key for this chain.
    pub(super) fn open(&self, chain: [u8; 16], sealed: &str) -> Option<Zeroizing<[u8; 32]>> {
        let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
        let (encapped, ciphertext) = sealed.split_at_checked(ENCAPPED)?;
        let opened = Zeroizing::new(
            hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
                &OpModeR::Base,
                &self.private().ok()?,
                &Encapped::from_bytes(encapped).ok()?,
                &info(chain),
                ciphertext,
                b"",
            )
            .ok()?,
        );
        Some(Zeroizing::new(opened.as_slice().try_into().ok()?))
    }

    fn private(&self) -> Result<PrivateKey, KeyTextError> {
        PrivateKey::from_bytes(&*self.0).map_err(|_| KeyTextError)
    }
}

impl FromStr for VerifierKey {
    type Err = KeyTextError;

    fn from_str(text: &str) -> Result<Self, KeyTextError> {
        Ok(Self(key_bytes(text)?))
    }
}

impl fmt::Debug for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifierKey(..)")
    }
}

/// `"vs1/audit/k1" | LP(chain)`
fn info(chain: [u8; 16]) -> Vec<u8> {
    [b"vs1/audit/k1".as_slice(), &kdf::length_prefix(chain.len()), &chain].concat()
}

fn key_bytes(text: &str) -> Result<Zeroizing<[u8; 32]>, KeyTextError> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| KeyTextError)?);
    bytes.as_slice().try_into().map(Zeroizing::new).map_err(|_| KeyTextError)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens_for_its_chain_and_key_alone() {
        let key = VerifierKey::generate().unwrap();
        let sealed = key.recipient().unwrap().seal([1; 16], &[2; 32]).unwrap();
        assert_eq!(*key.open([1; 16], &sealed).unwrap(), [2; 32]);
        assert!(key.open([3; 16], &sealed).is_none());
        assert!(VerifierKey::generate().unwrap().open([1; 16], &sealed).is_none());
        assert!(key.open([1; 16], &sealed[1..]).is_none());
        assert_eq!(format!("{key:?}"), "VerifierKey(..)");
    }

    #[test]
    fn keys_have_one_text() {
        let key = VerifierKey::generate().unwrap();
        let recipient = key.recipient().unwrap();
        let again: VerifierKey = key.expose().parse().unwrap();
        assert_eq!(again.recipient().unwrap(), recipient);
        assert_eq!(recipient.to_string().parse::<Recipient>().unwrap(), recipient);
        assert!("".parse::<Recipient>().is_err());
        assert!(recipient.to_string()[1..].parse::<Recipient>().is_err());
        assert!(URL_SAFE_NO_PAD.encode([0; 32]).parse::<Recipient>().is_err(), "of small order");
    }
}
