//! Known answers of an independent implementation (`tests/vectors/v1-additions.json`).

use std::sync::LazyLock;

use ed25519_dalek::SigningKey;
use serde_json::Value;
use veilstream_engine::key::SubjectRef;
use veilstream_keys::erasure::{hex, unhex};
use zeroize::Zeroizing;

use super::*;
use crate::audit::chain::{Beginning, Chain};
use crate::audit::prove::Proof;
use crate::audit::side_file::References;
use crate::audit::{CheckpointKey, Signer, VerifierKey, side_file};

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    let all: Value =
        serde_json::from_str(include_str!("../../../../../tests/vectors/v1-additions.json"))
            .unwrap();
    all["audit"].clone()
});

fn bytes<const N: usize>(name: &str) -> [u8; N] {
    unhex(VECTORS[name].as_str().unwrap()).unwrap()
}

fn lines() -> Vec<&'static [u8]> {
    VECTORS["lines"].as_array().unwrap().iter().map(|l| l.as_str().unwrap().as_bytes()).collect()
}

fn signer() -> Signer {
    Signer::new(SigningKey::from_bytes(&bytes("signing_seed")))
}

fn verifier() -> VerifierKey {
    use base64::Engine as _;
    let private: [u8; 32] = bytes("verifier_private_x25519");
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(private).parse().unwrap()
}

fn keys(verifier: Vec<VerifierKey>) -> Keys {
    Keys { checkpoint: signer().checkpoint_key(), verifier }
}

#[test]
fn the_signing_key_is_derived_from_the_audit_key() {
    let mut seed = [0; 32];
    let audit: [u8; 32] = bytes("audit_key");
    veilstream_engine::kdf::expand(&audit, &[b"vs1/audit/checkpoint"], &mut seed);
    assert_eq!(seed, bytes("signing_seed"));
    assert_eq!(hex(&signer().checkpoint_key().id()), VECTORS["signer"].as_str().unwrap());
}

#[test]
fn the_lines_are_written_byte_for_byte() {
    let lines = lines();
    let first = Line::read(lines[0]).unwrap();
    let sealed = first.k1.clone().unwrap();
    let k1 = verifier().open(bytes("chain"), &sealed).unwrap();
    assert_eq!(*k1, bytes("k1"));
    let beginning = Beginning {
        id: bytes("chain"),
        k1: Zeroizing::new(*k1),
        sealed,
        predecessor: first.predecessor.clone(),
    };
    let (mut chain, written) = Chain::begin(beginning, first.entry, &first.time, signer());
    assert_eq!(written, lines[0]);
    for (at, expected) in lines.iter().enumerate().skip(1) {
        let line = Line::read(expected).unwrap();
        if at == 11 {
            assert_eq!(chain.key(), bytes("k12"));
        }
        let mut written = Vec::new();
        match line.entry.event {
            Event::Checkpoint => chain.checkpoint(&line.time, &mut written),
            _ => chain.entry(line.entry, &line.time, &mut written),
        }
        assert_eq!(String::from_utf8_lossy(&written), String::from_utf8_lossy(expected));
    }
    for (line, leaf) in lines.iter().zip(VECTORS["leaf_hashes"].as_array().unwrap()) {
        assert_eq!(hex(&merkle::leaf(line)), leaf.as_str().unwrap());
    }
}

/// What verifying gives: up to which line all is known, or the first line that is wrong and why.
fn verdict(file: &str, copies: &Value, verifier: Vec<VerifierKey>) -> Result<u64, (u64, Wrong)> {
    let mut known = Copies::default();
    for copy in copies.as_array().unwrap() {
        known.add(copy.as_str().unwrap().as_bytes()).unwrap();
    }
    let keys = keys(verifier);
    let mut chain = ChainVerifier::new(Hex(bytes("chain")), &keys, &known, None, Heads::default());
    let whole = file.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
    for (at, line) in whole.enumerate() {
        chain.take(line.as_bytes()).map_err(|why| (at as u64 + 1, why))?;
    }
    if chain.is_short() { Err((chain.last() + 1, Wrong::Missing)) } else { Ok(chain.known_to()) }
}

#[test]
fn what_verifies_and_what_does_not() {
    let cases = VECTORS["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 32);
    for case in cases {
        let file = case["file"].as_str().unwrap();
        for (name, verifier) in [("mac_key", vec![verifier()]), ("public_key", vec![])] {
            let expected = &case[name];
            let found = match verdict(file, &case["copies"], verifier) {
                Ok(known_to) => serde_json::json!({ "verdict": "ok", "known_to": known_to }),
                Err((line, why)) => {
                    serde_json::json!({ "verdict": "refused", "line": line, "why": why.as_str() })
                }
            };
            assert_eq!(found, *expected, "{} with {name}", case["name"]);
        }
    }
}

#[test]
fn another_private_key_opens_no_chain() {
    let file = VECTORS["cases"][0]["file"].as_str().unwrap();
    let other = VerifierKey::generate().unwrap();
    let none = Value::Array(Vec::new());
    assert_eq!(verdict(file, &none, vec![other.clone()]), Err((1, Wrong::Recipient)));
    assert_eq!(verdict(file, &none, vec![other, verifier()]), Ok(12));
}

#[test]
fn proofs_hold_or_do_not() {
    let proofs = VECTORS["proofs"].as_array().unwrap();
    assert_eq!(proofs.len(), 10);
    let key: CheckpointKey = signer().checkpoint_key();
    for case in proofs {
        let mut proof = case.clone();
        proof.as_object_mut().unwrap().retain(|name, _| name != "name" && name != "verdict");
        let proof: Proof = serde_json::from_value(proof).unwrap();
        assert_eq!(
            proof.check(&key).is_ok(),
            case["verdict"] == "ok",
            "{}: {:?}",
            case["name"],
            proof.check(&key)
        );
    }
}

#[test]
fn a_side_file_is_named_by_its_hash() {
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("audit.jsonl");
    let text = VECTORS["side_file_hex"].as_str().unwrap();
    let mut refs: Vec<SubjectRef> = (0..text.len() / 32)
        .map(|at| SubjectRef(unhex(&text[at * 32..at * 32 + 32]).unwrap()))
        .collect();
    refs.reverse();
    let refs = References::new(refs);
    refs.write(&base).unwrap();
    let (count, sha256) = (refs.count(), refs.sha256);
    let line = Line::read(lines()[6]).unwrap();
    assert_eq!((Some(count), Some(sha256)), (line.entry.subjects, line.entry.subjects_sha256));
    assert_eq!(hex(&std::fs::read(side_file::path(&base, &sha256)).unwrap()), text);
}
