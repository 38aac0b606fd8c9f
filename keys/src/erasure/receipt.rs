//! The signed receipt of an erasure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde_json::{Value, json};
use veilstream_engine::kdf;
use veilstream_engine::key::{KeyId, SecretKey, SubjectRef};
use zeroize::Zeroizing;

use super::{CANARY_FIELD, Position};
use crate::{KeyError, time};

/// A token that was sealed under the erased key: it must never open again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canary {
    /// The token, of the field `receipt#canary`.
    pub token: String,
}

/// What was erased, and what was not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// Tenant of the destroyed keys.
    pub tenant: String,
    /// The domain that the subject's id counts in; `None`: the one without a name.
    pub domain: Option<String>,
    /// Reference of the data subject.
    pub subject: SubjectRef,
    /// Ids of the destroyed keys, sorted; never empty.
    pub kids: Vec<KeyId>,
    /// When the erasure was asked for, in Unix seconds.
    pub time: u64,
    /// Whether a later record gets a new key.
    pub may_return: bool,
    /// `None`: the subject had no key that opened.
    pub canary: Option<Canary>,
    /// Its line in the erasure ledger.
    pub line: Position,
    /// The last line of the erasure ledger when it was signed.
    pub head: Position,
    /// Where the key store may still hold wraps, and until when; what else keys do not reach.
    pub remains: Vec<String>,
    /// Unix seconds until which backups of the stored records are kept; `None`: nobody said.
    pub backups_until: Option<u64>,
}

/// What an erasure by keys never reaches.
const REMAINS: [&str; 4] = [
    "blind indexes of the subject's values in stored records",
    "values of deterministic, hashed, masked and generalized fields in stored records",
    "dead letters of the subject's records, until their topic drops them",
    "backups of the key store; the erasure ledger erases again what a restored one brings back",
];

impl Receipt {
    /// The signed members (docs/formats.md, "Erasure: receipt and ledger").
    #[must_use]
    pub fn to_json(&self) -> Value {
        let remains: Vec<String> = REMAINS
            .iter()
            .map(|text| (*text).to_owned())
            .chain(self.remains.iter().cloned())
            .collect();
        let mut receipt = json!({
            "veilstream_receipt": 2,
            "tenant": self.tenant,
            "subject": self.subject.to_string(),
            "kids": self.kids.iter().map(KeyId::to_string).collect::<Vec<_>>(),
            "time": time::text(self.time),
            "may_return": self.may_return,
            "canary": self.canary.as_ref().map(|canary| json!({ "field": CANARY_FIELD, "token": canary.token })),
            "ledger": self.line.to_json(),
            "head": self.head.to_json(),
            "remains": remains,
            "backups_until": self.backups_until.map(time::text),
        });
        if let Some(domain) = &self.domain {
            receipt["domain"] = domain.as_str().into();
        }
        receipt
    }

    pub(crate) fn sign(self, key: &SigningKey) -> Result<SignedReceipt, KeyError> {
        let receipt = self.to_json();
        let message = message(&receipt).ok_or(KeyError::Receipt(ReceiptError::Malformed))?;
        Ok(SignedReceipt {
            receipt,
            public_key: key.verifying_key(),
            signature: key.sign(&message),
        })
    }
}

/// `"vs1/receipt" | LP(canonical JSON)` (RFC 8785).
fn message(receipt: &Value) -> Option<Vec<u8>> {
    let canonical = serde_json_canonicalizer::to_vec(receipt).ok()?;
    let mut message = b"vs1/receipt".to_vec();
    message.extend_from_slice(&kdf::length_prefix(canonical.len()));
    message.extend_from_slice(&canonical);
    Some(message)
}

/// A receipt with its signature.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedReceipt {
    /// [`Receipt::to_json`].
    pub receipt: Value,
    /// The key that claims to have signed; compare it with
    /// [`Manager::receipt_key`](crate::Manager::receipt_key).
    pub public_key: VerifyingKey,
    signature: Signature,
}

/// It is no receipt, or not this key's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Not the JSON of a signed receipt.
    #[error("this is no receipt of an erasure")]
    Malformed,
    /// The signature is not of the key that the receipt names, or the receipt was changed.
    #[error("the receipt was changed after it was signed")]
    Signature,
    /// Another key than the trusted one signed.
    #[error("the receipt is signed with another key than the one trusted here")]
    OtherKey,
}

impl SignedReceipt {
    /// The document that `shred` gives out: receipt, public key and signature.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "receipt": self.receipt,
            "public_key": URL_SAFE_NO_PAD.encode(self.public_key.as_bytes()),
            "signature": URL_SAFE_NO_PAD.encode(self.signature.to_bytes()),
        })
    }

    /// Reads one; its signature is not checked yet.
    ///
    /// # Errors
    /// [`ReceiptError::Malformed`].
    pub fn parse(text: &[u8]) -> Result<Self, ReceiptError> {
        let mut value: Value = serde_json::from_slice(text).map_err(|_| ReceiptError::Malformed)?;
        let bytes =
            |name: &str| value[name].as_str().and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        let public_key = bytes("public_key")
            .and_then(|b| VerifyingKey::try_from(&*b).ok())
            .ok_or(ReceiptError::Malformed)?;
        let signature = bytes("signature")
            .and_then(|b| Signature::from_slice(&b).ok())
            .ok_or(ReceiptError::Malformed)?;
        let receipt = value["receipt"].take();
        if receipt["veilstream_receipt"] != 2 {
            return Err(ReceiptError::Malformed);
        }
        Ok(Self { receipt, public_key, signature })
    }

    /// Whether the receipt stands as `trusted` signed it.
    ///
    /// # Errors
    /// [`ReceiptError`].
    pub fn verify(&self, trusted: &VerifyingKey) -> Result<(), ReceiptError> {
        let message = message(&self.receipt).ok_or(ReceiptError::Malformed)?;
        self.public_key
            .verify_strict(&message, &self.signature)
            .map_err(|_| ReceiptError::Signature)?;
        if self.public_key == *trusted { Ok(()) } else { Err(ReceiptError::OtherKey) }
    }

    /// The keys it says were destroyed.
    #[must_use]
    pub fn kids(&self) -> Option<Vec<KeyId>> {
        self.receipt["kids"].as_array()?.iter().map(|kid| kid.as_str()?.parse().ok()).collect()
    }
}

/// The signing key of an audit key: `expand(audit key, "vs1/audit/sign", 32)` is the seed
/// (docs/formats.md).
pub(crate) fn signer(audit: &SecretKey) -> SigningKey {
    derived(audit, b"vs1/audit/sign")
}

/// The signing key of the audit log's checkpoints: `expand(audit key, "vs1/audit/checkpoint", 32)`
/// is the seed (docs/formats.md).
pub(crate) fn checkpoint_signer(audit: &SecretKey) -> SigningKey {
    derived(audit, b"vs1/audit/checkpoint")
}

fn derived(audit: &SecretKey, purpose: &[u8]) -> SigningKey {
    let mut seed = Zeroizing::new([0; 32]);
    kdf::expand(audit.expose(), &[purpose], &mut *seed);
    SigningKey::from_bytes(&seed)
}

/// One thing that a later check of a receipt looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Which check it was, such as `keys destroyed`.
    pub what: &'static str,
    /// What does not hold; `None`: it holds.
    pub wrong: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::erasure::{hex, unhex};

    #[test]
    fn checkpoints_have_a_signing_key_of_their_own() {
        let vectors: serde_json::Value =
            serde_json::from_str(include_str!("../../../tests/vectors/v1-additions.json")).unwrap();
        let audit = &vectors["audit"];
        let key = SecretKey::new(unhex(audit["audit_key"].as_str().unwrap()).unwrap());
        let public = |key: SigningKey| hex(key.verifying_key().as_bytes());
        assert_eq!(public(checkpoint_signer(&key)), audit["public_key"].as_str().unwrap());
        assert_ne!(public(signer(&key)), public(checkpoint_signer(&key)));
    }
}
