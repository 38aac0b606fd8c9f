//! Known answers of format version 1 (`tests/vectors/v1.json`, made by an independent
//! implementation): every case, byte for byte.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use proptest::prelude::*;
use serde_json::Value;
use support::{OsRandom, hex};
use veilstream_engine::index::Indexer;
use veilstream_engine::key::{Budget, Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::keyring::Keyring;
use veilstream_engine::normalize::{Input, Normalizer, Scratch};
use veilstream_engine::record::Header;
use veilstream_engine::seal::{
    Expected, LetterMetadata, LetterParts, LetterRecord, NoncePool, Opener, Owner, PayloadKind,
    Sealer, append_bound, open_dead_letter, seal_dead_letter, sealed_len, stub_digest, verify_stub,
};
use veilstream_engine::token::Suite;
use veilstream_engine::wrap::{WrapContext, unwrap_local, wrap_local};
use veilstream_engine::{Entropy, EntropyError, OpenError, kdf, subject};

static VECTORS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../tests/vectors/v1.json")).unwrap());

/// What came after version 1's first file; sections are added and tested one by one.
static ADDITIONS: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("../../tests/vectors/v1-additions.json")).unwrap()
});

/// A section's cases; their number is asserted, so that none is lost on the way.
fn cases(section: &Value, count: usize) -> &Vec<Value> {
    let cases = section.as_array().unwrap();
    assert_eq!(cases.len(), count);
    cases
}

fn text<'a>(case: &'a Value, name: &str) -> &'a str {
    case[name].as_str().unwrap_or_else(|| panic!("no text {name} in {case}"))
}

fn bytes<const N: usize>(case: &Value, name: &str) -> [u8; N] {
    hex(text(case, name)).try_into().unwrap()
}

fn suite(case: &Value) -> Suite {
    Suite::from_id(u8::try_from(case["suite"].as_u64().unwrap()).unwrap()).unwrap()
}

/// An active key of these bytes.
fn key(secret: [u8; 32], kind: KeyKind, tenant: &str, scope: Scope) -> Arc<Key> {
    let secret = SecretKey::new(secret);
    let kcv = kdf::key_check_value(&secret);
    Arc::new(Key {
        id: kdf::key_id(&kcv),
        kcv,
        kind,
        tenant: tenant.into(),
        scope,
        version: 1,
        state: KeyState::Active,
        seal_until: None,
        secret: Some(secret),
        budget: Budget::new(1 << 30),
    })
}

/// The encoded bound values of a case; `None` when it has none.
fn bound(case: &Value) -> Option<Vec<u8>> {
    let values: BTreeMap<&str, &str> =
        case["bind"].as_object()?.iter().map(|(k, v)| (k.as_str(), v.as_str().unwrap())).collect();
    let mut out = Vec::new();
    values.iter().for_each(|(name, value)| append_bound(name, value.as_bytes(), &mut out));
    (!out.is_empty()).then_some(out)
}

/// Opens a case's token with one key of those given.
fn open(case: &Value, keys: &[Arc<Key>], out: &mut Vec<u8>) -> Result<PayloadKind, OpenError> {
    let binding = bound(case);
    let expected = Expected {
        fid: kdf::field_id(text(case, "field")),
        tenant: text(case, "tenant"),
        binding: binding.as_deref(),
        owner: Owner::Any,
    };
    Opener::default().open(
        text(case, "token").as_bytes(),
        &expected,
        |kid| keys.iter().find(|k| k.id == *kid).cloned(),
        out,
    )
}

#[test]
fn no_section_is_left_out() {
    let mut names: Vec<&str> = VECTORS.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    let tested = [
        "env_kek",
        "format",
        "indexes",
        "not_a_subject",
        "note",
        "password_kek",
        "rejected",
        "subject_refs",
        "tokens",
        "wrapped_keys",
        "wrong_kind",
    ];
    assert_eq!(names, tested);
}

#[test]
fn tokens_seal_and_open() {
    for case in cases(&VECTORS["tokens"], 66) {
        let name = text(case, "name");
        let suite = suite(case);
        let (kind, scope) = match suite {
            Suite::AesGcm => (KeyKind::Data, "schema:customers"),
            Suite::XaesGcm => (KeyKind::Data, "shared:customers"),
            Suite::AesSiv => (KeyKind::Deterministic, "v1"),
        };
        let key = key(bytes(case, "key"), kind, text(case, "tenant"), scope.parse().unwrap());
        let fid = kdf::field_id(text(case, "field"));
        assert_eq!(key.id.to_string(), text(case, "kid"), "{name}");
        assert_eq!(fid[..], hex(text(case, "fid")), "{name}");
        let mut subkey = vec![0; suite.key_len()];
        kdf::expand(&bytes(case, "key"), &[b"vs1/enc", &[suite.id()], &fid], &mut subkey);
        assert_eq!(subkey, hex(text(case, "subkey")), "{name}");

        let payload_kind =
            if text(case, "kind") == "J" { PayloadKind::Json } else { PayloadKind::Bytes };
        let payload = hex(text(case, "payload_hex"));
        let nonce = hex(case["nonce"].as_str().unwrap_or_default());
        let pad = u16::try_from(case["pad"].as_u64().unwrap()).unwrap();
        let mut sealer = Sealer::new(key.clone(), suite, fid).unwrap();
        // Appended: what stands in the buffer stays.
        let mut token = b"<".to_vec();
        sealer
            .seal_with(payload_kind, &payload, pad, bound(case).as_deref(), &nonce, &mut token)
            .unwrap();
        assert_eq!(String::from_utf8(token).unwrap()[1..], *text(case, "token"), "{name}");

        let mut opened = Vec::new();
        assert_eq!(open(case, &[key], &mut opened), Ok(payload_kind), "{name}");
        assert_eq!(opened, payload, "{name}");
    }
}

#[test]
fn bad_tokens_are_rejected_for_the_right_reason() {
    let section = &VECTORS["rejected"];
    let keys: Vec<Arc<Key>> = cases(&section["keys"], 2)
        .iter()
        .map(|k| {
            key(
                hex(k.as_str().unwrap()).try_into().unwrap(),
                KeyKind::Data,
                "default",
                Scope::Version(1),
            )
        })
        .collect();
    for case in cases(&section["cases"], 38) {
        let mut out = Vec::new();
        let error = open(case, &keys, &mut out).expect_err(text(case, "name"));
        assert_eq!(error.to_string(), text(case, "error"), "{}", text(case, "name"));
        assert!(out.is_empty(), "{}: nothing comes out", text(case, "name"));
    }
}

#[test]
fn a_key_of_another_kind_does_not_open() {
    let case = &VECTORS["wrong_kind"];
    let key = key(
        bytes(case, "key"),
        text(case, "kind").parse().unwrap(),
        text(case, "tenant"),
        Scope::Version(1),
    );
    let error = open(case, std::slice::from_ref(&key), &mut Vec::new()).unwrap_err();
    assert_eq!(error.to_string(), text(case, "error"));
    for suite in [Suite::AesGcm, Suite::XaesGcm, Suite::AesSiv] {
        assert!(Sealer::new(key.clone(), suite, [0; 6]).is_err(), "nor does it seal");
    }
}

#[test]
fn indexes_and_their_normal_forms() {
    let mut scratch = Scratch::default();
    for case in cases(&VECTORS["indexes"], 25) {
        let name = text(case, "name");
        let normalizer: Normalizer = text(case, "normalizer").parse().unwrap();
        assert_eq!(normalizer.to_string(), text(case, "normalizer"));
        let inputs = match &case["input"] {
            Value::Array(parts) => parts.clone(),
            one => vec![one.clone()],
        };
        let mut parts = Vec::new();
        for input in &inputs {
            let json = serde_json::to_vec(input).unwrap();
            let mut out = Vec::new();
            assert!(normalizer.normalize(Input::Json(&json), &mut scratch, &mut out), "{name}");
            if let Value::String(raw) = input {
                let mut from_raw = Vec::new();
                assert!(
                    normalizer.normalize(Input::Raw(raw.as_bytes()), &mut scratch, &mut from_raw),
                    "{name}"
                );
                assert_eq!(from_raw, out, "{name}: a record key and a value have one index");
            }
            parts.push(out);
        }
        let normalized: Vec<&[u8]> = case["normalized"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n.as_str().unwrap().as_bytes())
            .collect();
        assert_eq!(parts, normalized, "{name}");

        let version = u32::try_from(case["version"].as_u64().unwrap()).unwrap();
        let root =
            key(bytes(case, "irk"), KeyKind::Index, text(case, "tenant"), Scope::Version(version));
        let bits = u16::try_from(case["bits"].as_u64().unwrap()).unwrap();
        let count = u16::try_from(parts.len()).unwrap();
        let indexer = Indexer::new(
            &root,
            text(case, "tenant"),
            text(case, "domain"),
            text(case, "normalizer"),
            bits,
            count,
        )
        .unwrap();
        let mut tag = b"<".to_vec();
        indexer.write(parts.iter().map(Vec::as_slice), &mut tag);
        assert_eq!(String::from_utf8(tag).unwrap()[1..], *text(case, "index"), "{name}");
    }
}

#[test]
fn wrapped_keys_wrap_and_unwrap() {
    for case in cases(&VECTORS["wrapped_keys"], 4) {
        let kek = SecretKey::new(bytes(case, "kek"));
        let secret = SecretKey::new(bytes(case, "key"));
        let kcv = kdf::key_check_value(&secret);
        assert_eq!(kcv[..], hex(text(case, "kcv")));
        assert_eq!(kdf::key_id(&kcv).to_string(), text(case, "kid"));
        let (scope, kid): (Scope, KeyId) =
            (text(case, "scope").parse().unwrap(), text(case, "kid").parse().unwrap());
        let context = WrapContext {
            kid,
            kind: text(case, "kind").parse().unwrap(),
            tenant: text(case, "tenant"),
            scope: &scope,
        };
        let wrapped = wrap_local(&kek, bytes(case, "nonce"), &secret, &context);
        assert_eq!(wrapped, hex(text(case, "wrapped_hex")));
        assert_eq!(unwrap_local(&kek, &wrapped, &context).unwrap().expose(), secret.expose());

        let other = Scope::Version(99);
        assert!(
            unwrap_local(&kek, &wrapped, &WrapContext { scope: &other, ..context }).is_err(),
            "moved to another row"
        );
        assert!(
            unwrap_local(&kek, &wrapped, &WrapContext { tenant: "another", ..context }).is_err()
        );
        for bit in 0..wrapped.len() * 8 {
            let mut edited = wrapped.clone();
            edited[bit / 8] ^= 1 << (bit % 8);
            assert!(unwrap_local(&kek, &edited, &context).is_err(), "bit {bit} flipped");
        }
    }
}

/// Hands out the vector's nonce, again and again.
struct Given([u8; 24]);

impl Entropy for Given {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EntropyError> {
        buf.chunks_mut(24).for_each(|chunk| chunk.copy_from_slice(&self.0[..chunk.len()]));
        Ok(())
    }
}

/// Metadata of a vector's letter.
fn metadata(letter: &Value) -> LetterMetadata<'_> {
    LetterMetadata {
        reason: text(letter, "reason"),
        topic: text(letter, "topic"),
        partition: i32::try_from(letter["partition"].as_i64().unwrap()).unwrap(),
        offset: letter["offset"].as_i64().unwrap(),
        time: letter["time"].as_i64(),
        schema: text(letter, "schema"),
    }
}

fn letter_key(case: &Value) -> Arc<Key> {
    key(
        bytes(case, "key"),
        KeyKind::DeadLetter,
        case["tenant"].as_str().unwrap_or("default"),
        Scope::Version(1),
    )
}

#[test]
fn dead_letters_seal_and_open() {
    let section = &ADDITIONS["dead_letters"];
    for case in cases(&section["cases"], 15) {
        let (name, letter, key) = (text(case, "name"), &case["letter"], letter_key(case));
        assert_eq!(key.id.to_string(), text(case, "kid"), "{name}");
        let record = &case["record"];
        let bytes_of = |value: &Value| value.as_str().map(hex);
        let (record_key, value) = (bytes_of(&record["key_hex"]), bytes_of(&record["value_hex"]));
        let headers: Vec<(Vec<u8>, Option<Vec<u8>>)> = record["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|h| (bytes_of(&h[0]).unwrap(), bytes_of(&h[1])))
            .collect();
        let headers: Vec<Header<'_>> =
            headers.iter().map(|(n, v)| (n.as_slice(), v.as_deref())).collect();
        let record =
            LetterRecord { key: record_key.as_deref(), value: value.as_deref(), headers: &headers };
        let (payload, metadata) = (record.payload().unwrap(), metadata(letter));
        assert_eq!(*payload, hex(text(case, "payload_hex")), "{name}");
        assert_eq!(
            (payload.len(), payload.capacity()),
            (record.payload_len(), record.payload_len()),
            "{name}: no copy of it grew"
        );
        assert_eq!(metadata.binding(), hex(text(case, "binding_hex")), "{name}");
        let parts = LetterParts::parse(&payload).unwrap();
        assert_eq!(
            (parts.key, parts.value, parts.headers.as_slice()),
            (record.key, record.value, record.headers),
            "{name}"
        );

        let keys = Keyring::new(text(case, "tenant"), [key.clone()]);
        if letter["form"] == "stub" {
            let digest = stub_digest(&key, &metadata, &payload).unwrap();
            assert_eq!(URL_SAFE_NO_PAD.encode(digest), text(letter, "digest"), "{name}");
            assert_eq!(letter["length"], payload.len(), "{name}");
            assert_eq!(
                verify_stub(&Opener::default(), &keys, &key.id, &metadata, &payload, &digest),
                Ok(()),
                "{name}"
            );
            continue;
        }
        let (mut token, mut opened) = (Vec::new(), Vec::new());
        let mut nonces = NoncePool::new(Box::new(Given(bytes(case, "nonce"))));
        seal_dead_letter(&key, &metadata, &payload, &mut nonces, &mut token).unwrap();
        assert_eq!(String::from_utf8(token.clone()).unwrap(), text(letter, "sealed"), "{name}");
        assert_eq!(token.len(), sealed_len(payload.len()), "{name}");
        open_dead_letter(&mut Opener::default(), &keys, &metadata, &token, &mut opened).unwrap();
        assert_eq!(opened, *payload, "{name}");
    }
}

#[test]
fn payloads_come_back_and_have_one_spelling() {
    let part = || proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20));
    let headers =
        proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..8), part()), 0..5);
    proptest!(|(key in part(), value in part(), headers in headers, cut in any::<proptest::sample::Index>(), more in any::<u8>())| {
        let headers: Vec<Header<'_>> = headers.iter().map(|(n, v)| (n.as_slice(), v.as_deref())).collect();
        let record = LetterRecord { key: key.as_deref(), value: value.as_deref(), headers: &headers };
        let payload = record.payload().unwrap();
        let parts = LetterParts::parse(&payload).unwrap();
        prop_assert_eq!((parts.key, parts.value, parts.headers.as_slice()), (record.key, record.value, record.headers));
        prop_assert_eq!(LetterParts::parse(&payload[..cut.index(payload.len())]), Err(OpenError::Corrupt));
        let longer = [payload.as_slice(), &[more]].concat();
        prop_assert_eq!(LetterParts::parse(&longer), Err(OpenError::Corrupt));
    });
}

#[test]
fn edited_dead_letters_do_not_open() {
    let section = &ADDITIONS["dead_letters"];
    for case in cases(&section["rejected"], 15) {
        let (name, letter) = (text(case, "name"), &case["letter"]);
        let keys = Keyring::new(text(case, "tenant"), [letter_key(case)]);
        let mut payload = Vec::new();
        let opened = open_dead_letter(
            &mut Opener::default(),
            &keys,
            &metadata(letter),
            text(letter, "sealed").as_bytes(),
            &mut payload,
        );
        // Where the token is right, its payload is not.
        let error = match text(case, "why") {
            "token" => opened.expect_err(name),
            _ => opened.and_then(|()| LetterParts::parse(&payload).map(drop)).expect_err(name),
        };
        assert_eq!(opened.is_ok(), text(case, "why") == "payload", "{name}");
        assert_eq!(error.to_string(), text(case, "error"), "{name}");
    }
}

#[test]
fn a_stub_stands_for_one_record_and_one_place() {
    let section = &ADDITIONS["dead_letters"];
    for case in cases(&section["stubs_rejected"], 6) {
        let (letter, key) = (&case["letter"], letter_key(case));
        let digest = URL_SAFE_NO_PAD.decode(text(letter, "digest")).unwrap();
        let kid: KeyId = text(letter, "kid").parse().unwrap();
        let verify = |keys: &Keyring| {
            verify_stub(
                &Opener::default(),
                keys,
                &kid,
                &metadata(letter),
                &hex(text(case, "payload_hex")),
                &digest,
            )
        };
        let error = verify(&Keyring::new("default", [key.clone()])).expect_err(text(case, "name"));
        assert_eq!(error.to_string(), text(case, "error"), "{}", text(case, "name"));
        assert_eq!(
            verify(&Keyring::new("default", [])),
            Err(OpenError::KeyUnavailable),
            "no such key"
        );
        assert_eq!(
            verify(&Keyring::new("another", [key])),
            Err(OpenError::Corrupt),
            "another tenant's key"
        );
    }
    // A key of another kind makes none.
    let data = key([7; 32], KeyKind::Data, "default", Scope::Shared("people".into()));
    let metadata = LetterMetadata {
        reason: "no_schema",
        topic: "t",
        partition: 0,
        offset: 0,
        time: None,
        schema: "",
    };
    assert!(stub_digest(&data, &metadata, b"").is_err());
}

#[test]
fn subjects_have_references() {
    let mut scalar = Vec::new();
    for case in cases(&VECTORS["subject_refs"], 5) {
        let tenant = text(case, "tenant");
        let key = key(bytes(case, "key"), KeyKind::SubjectRef, tenant, Scope::Version(1));
        assert!(subject::scalar_text(text(case, "subject_json").as_bytes(), &mut scalar));
        assert_eq!(scalar, text(case, "scalar_text").as_bytes());
        assert_eq!(
            subject::subject_ref(&key, tenant, &scalar).unwrap().to_string(),
            text(case, "ref")
        );
    }
    for case in cases(&VECTORS["not_a_subject"], 8) {
        assert!(!subject::scalar_text(case.as_str().unwrap().as_bytes(), &mut scalar), "{case}");
    }
}

#[test]
fn key_encryption_keys_of_environment_and_password() {
    let env = &VECTORS["env_kek"];
    let secret: [u8; 32] =
        STANDARD.decode(text(env, "encryption_key")).unwrap().try_into().unwrap();
    assert_eq!(URL_SAFE.decode(text(env, "encryption_key_urlsafe")).unwrap(), secret);
    let mut kek = [0; 32];
    kdf::expand(&secret, &[b"vs1/kek"], &mut kek);
    assert_eq!(kek[..], hex(text(env, "kek")));

    let password = &VECTORS["password_kek"];
    assert_eq!(text(password, "kdf"), "PBKDF2-HMAC-SHA-256");
    let iterations = u32::try_from(password["iterations"].as_u64().unwrap()).unwrap();
    pbkdf2::pbkdf2_hmac::<sha2::Sha256>(
        text(password, "password").as_bytes(),
        &hex(text(password, "salt")),
        iterations,
        &mut kek,
    );
    assert_eq!(kek[..], hex(text(password, "kek")));
}

#[test]
fn the_nonce_pool_never_repeats_and_refuses_without_entropy() {
    let mut pool = NoncePool::new(Box::new(OsRandom));
    let mut drawn = Vec::new();
    for round in 0..4096 {
        pool.short(&mut drawn).unwrap();
        pool.long(&mut drawn).unwrap();
        // No record was begun: both halves are new.
        pool.long_of_record(&mut drawn).unwrap();
        if round % 100 == 0 {
            pool.discard();
        }
    }
    let halves = drawn.as_chunks::<12>().0;
    assert_eq!(halves.len(), 5 * 4096);
    assert_eq!(halves.iter().collect::<HashSet<_>>().len(), halves.len());

    struct Broken;
    impl Entropy for Broken {
        fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
            Err(EntropyError)
        }
    }
    let mut pool = NoncePool::new(Box::new(Broken));
    pool.begin_record();
    for _ in 0..2 {
        drawn.clear();
        assert!(
            pool.short(&mut drawn).is_err()
                && pool.long(&mut drawn).is_err()
                && pool.long_of_record(&mut drawn).is_err(),
            "and goes on refusing"
        );
        assert!(drawn.is_empty());
    }
}

#[test]
fn long_nonces_of_one_record_share_their_first_half_and_nothing_else() {
    let mut pool = NoncePool::new(Box::new(OsRandom));
    let mut drawn = Vec::new();
    let mut long = |pool: &mut NoncePool| -> [[u8; 12]; 2] {
        drawn.clear();
        pool.long_of_record(&mut drawn).unwrap();
        drawn.as_chunks().0.try_into().unwrap()
    };
    let (mut firsts, mut seconds) = (HashSet::new(), HashSet::new());
    for record in 0..2000 {
        pool.begin_record();
        let [first, second] = long(&mut pool);
        firsts.insert(first);
        seconds.insert(second);
        for _ in 0..3 {
            let [again, second] = long(&mut pool);
            assert_eq!(again, first, "record {record}");
            seconds.insert(second);
        }
        // A copied process does not go on with the half it was copied with.
        pool.discard();
        let [first, second] = long(&mut pool);
        firsts.insert(first);
        seconds.insert(second);
        pool.end_record();
        for _ in 0..2 {
            let [first, second] = long(&mut pool);
            firsts.insert(first);
            seconds.insert(second);
        }
    }
    assert_eq!((firsts.len(), seconds.len()), (4 * 2000, 7 * 2000));
}
