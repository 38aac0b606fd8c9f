//! Known answers that were added to format version 1 (`tests/vectors/v1-additions.json`, made by an
//! independent implementation): what the engine has of them, byte for byte.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::{Arc, LazyLock};

use serde_json::Value;
use support::hex;
use veilstream_engine::index::Indexer;
use veilstream_engine::key::{Budget, Key, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::normalize::{Input, Normalizer, Scratch};
use veilstream_engine::seal::{Expected, Opener, Owner, PayloadKind, Sealer, append_bound};
use veilstream_engine::token::Suite;
use veilstream_engine::{Keyring, kdf, subject};

static VECTORS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../tests/vectors/v1-additions.json")).unwrap()
});

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
        let reference =
            |domain| subject::subject_reference(&key, tenant, domain, &scalar).unwrap().to_string();
        assert_eq!(reference(domain), text(case, "ref"), "{case}");
        assert_eq!(
            reference(None),
            reference(Some("")),
            "no domain and the empty one are one formula"
        );
    }
}

#[test]
fn indexes_and_their_normal_forms() {
    let mut scratch = Scratch::default();
    for case in cases("indexes", 32) {
        let (name, input) = (text(case, "name"), text(case, "input"));
        let normalizer: Normalizer = text(case, "normalizer").parse().unwrap();
        let expected = case["normalized"].as_array().unwrap();
        let json = serde_json::to_string(input).unwrap();
        for input in [Input::Json(json.as_bytes()), Input::Raw(input.as_bytes())] {
            let mut normal = b"left over".to_vec();
            let indexed = normalizer.normalize(input, &mut scratch, &mut normal);
            let forms: Vec<&str> =
                if indexed { vec![std::str::from_utf8(&normal).unwrap()] } else { Vec::new() };
            assert_eq!(
                forms,
                expected.iter().map(|form| form.as_str().unwrap()).collect::<Vec<_>>(),
                "{name}"
            );
            if !indexed {
                assert!(case["index"].is_null(), "{name}");
                continue;
            }
            let version = u32::try_from(case["version"].as_u64().unwrap()).unwrap();
            let root = key(case, "irk", KeyKind::Index, Scope::Version(version));
            let bits = u16::try_from(case["bits"].as_u64().unwrap()).unwrap();
            let indexer = Indexer::new(
                &root,
                text(case, "tenant"),
                text(case, "domain"),
                text(case, "normalizer"),
                bits,
                1,
            )
            .unwrap();
            let mut tag = Vec::new();
            indexer.write([normal.as_slice()], &mut tag);
            assert_eq!(String::from_utf8(tag).unwrap(), text(case, "index"), "{name}");
        }
    }
}

/// A honey token looks like its neighbours. Opening it raises the alarm and gives nothing.
#[test]
fn honey_seals_and_opens_as_an_alarm() {
    for case in cases("honey", 4) {
        let name = text(case, "name");
        let suite = Suite::from_id(u8::try_from(case["suite"].as_u64().unwrap()).unwrap()).unwrap();
        let (kind, scope) = match suite {
            Suite::AesGcm => (KeyKind::Data, "schema:customers"),
            Suite::XaesGcm => (KeyKind::Data, "shared:customers"),
            Suite::AesSiv => (KeyKind::Deterministic, "v1"),
        };
        let key = key(case, "key", kind, scope.parse().unwrap());
        let fid = kdf::field_id(text(case, "field"));
        let pad = u16::try_from(case["pad"].as_u64().unwrap()).unwrap();
        let mut binding = Vec::new();
        case["bind"].as_object().unwrap().iter().for_each(|(name, value)| {
            append_bound(name, value.as_str().unwrap().as_bytes(), &mut binding)
        });
        let binding = (!binding.is_empty()).then_some(binding);
        let mut sealer = Sealer::new(key.clone(), suite, fid).unwrap();
        let keys = Keyring::new(text(case, "tenant"), [key.clone()]);
        let expected =
            Expected { fid, tenant: keys.tenant(), binding: binding.as_deref(), owner: Owner::Any };
        let mut seal_and_open = |payload_kind, case: &Value, payload: &[u8]| {
            let (mut token, mut opened) = (Vec::new(), b"left over".to_vec());
            sealer
                .seal_with(
                    payload_kind,
                    payload,
                    pad,
                    binding.as_deref(),
                    &hex(text(case, "nonce")),
                    &mut token,
                )
                .unwrap();
            assert_eq!(String::from_utf8(token.clone()).unwrap(), text(case, "token"), "{name}");
            (
                Opener::default().open(
                    &token,
                    &expected,
                    |kid| keys.get(kid).cloned(),
                    &mut opened,
                ),
                opened,
            )
        };
        let payload = hex(text(case, "payload_hex"));
        assert_eq!(payload, text(case, "payload_text").as_bytes());
        assert_eq!(
            seal_and_open(PayloadKind::Honey, case, &payload),
            (Ok(PayloadKind::Honey), Vec::new()),
            "{name}: bait stays where it is"
        );
        assert_eq!((text(case, "opens_as"), &case["alarm"]), ("denied", &Value::Bool(true)));
        let neighbour = &case["neighbour"];
        let payload = text(neighbour, "payload_text").as_bytes();
        assert_eq!(
            seal_and_open(PayloadKind::Json, neighbour, payload),
            (Ok(PayloadKind::Json), payload.to_vec()),
            "{name}"
        );
    }
}
