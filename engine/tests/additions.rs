//! Known answers that were added to format version 1 (`tests/vectors/v1-additions.json`, made by an independent implementation): what the engine has of
//! them, byte for byte.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use support::hex;
use veilstream_engine::key::{Budget, Key, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::{kdf, subject};

static VECTORS: LazyLock<Value> = LazyLock::new(|| serde_json::from_str(include_str!("../../tests/vectors/v1-additions.json")).unwrap());

/// A section's cases; their number is asserted, so that none is lost on the way.
fn cases(section: &str, count: usize) -> &'static Vec<Value> {
    let cases = VECTORS[section].as_array().unwrap();
    assert_eq!(cases.len(), count);
    cases
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_else(|| panic!("no text {name} in {case}"))
}

/// An active key of a case's bytes.
fn key(case: &Value, name: &str, kind: KeyKind, scope: Scope) -> Arc<Key> {
    let secret = SecretKey::new(hex(text(case, name)).try_into().unwrap());
    let kcv = kdf::key_check_value(&secret);
    Arc::new(Key {
        id: kdf::key_id(&kcv),
        kcv,
        kind,
        tenant: text(case, "tenant").into(),
        scope,
        version: 1,
        state: KeyState::Active,
        seal_until: None,
        secret: Some(secret),
        budget: Budget::new(1 << 30),
    })
}

#[test]
fn subjects_have_references_in_their_domains() {
    let mut scalar = Vec::new();
    for case in cases("subject_refs", 15) {
        let (tenant, domain) = (text(case, "tenant"), case["domain"].as_str());
        let key = key(case, "key", KeyKind::SubjectRef, Scope::Version(1));
        assert!(subject::scalar_text(text(case, "subject_json").as_bytes(), &mut scalar));
        assert_eq!(scalar, text(case, "scalar_text").as_bytes());
        let reference = |domain| subject::subject_reference(&key, tenant, domain, &scalar).unwrap().to_string();
        assert_eq!(reference(domain), text(case, "ref"), "{case}");
        assert_eq!(reference(None), reference(Some("")), "no domain and the empty one are one formula");
    }
}
