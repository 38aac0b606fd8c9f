use serde_json::{Value, json};
use veilstream_engine::key::{Budget, SecretKey};

use super::*;

fn key_of(secret: [u8; 32]) -> Arc<Key> {
    let secret = SecretKey::new(secret);
    let kcv = veilstream_engine::kdf::key_check_value(&secret);
    Arc::new(Key {
        id: veilstream_engine::kdf::key_id(&kcv),
        kcv,
        kind: KeyKind::DeadLetter,
        tenant: "default".into(),
        scope: Scope::Version(1),
        version: 1,
        state: KeyState::Active,
        seal_until: None,
        secret: Some(secret),
        budget: Budget::new(1 << 20),
    })
}

const METADATA: LetterMetadata<'static> = LetterMetadata {
    reason: "wrong_type",
    topic: "people.raw",
    partition: 3,
    offset: 42,
    time: Some(1_700_000_000_000),
    schema: "people/1",
};
const HEADERS: [Header<'static>; 3] =
    [(b"x-user", Some(b"canary-h")), (b"\xff", Some(b"")), (b"null", None)];
const RECORD: LetterRecord<'static> = LetterRecord {
    key: Some(b"canary-k"),
    value: Some(b"{\"a\":\"canary-v\"}"),
    headers: &HEADERS,
};

fn sealed(record: &LetterRecord<'_>, limit: usize) -> Sealed {
    seal(
        &key_of([7; 32]),
        &METADATA,
        record,
        limit,
        &mut NoncePool::new(Box::new(veilstream_keys::OsEntropy)),
    )
    .unwrap()
}

#[test]
fn letters_are_written_as_the_vectors_have_them() {
    let vectors: Value =
        serde_json::from_str(include_str!("../../../tests/vectors/v1-additions.json")).unwrap();
    let cases = vectors["dead_letters"]["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 15);
    let hex = |value: &Value| -> Option<Vec<u8>> {
        let text = value.as_str()?;
        Some(
            (0..text.len())
                .step_by(2)
                .map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap())
                .collect(),
        )
    };
    for case in cases {
        let (name, record) = (&case["name"], &case["record"]);
        let (record_key, value) = (hex(&record["key_hex"]), hex(&record["value_hex"]));
        let headers: Vec<_> = record["headers"]
            .as_array()
            .unwrap()
            .iter()
            .map(|h| (hex(&h[0]).unwrap(), hex(&h[1])))
            .collect();
        let opened = Opened { key: record_key, value, headers };
        let headers = opened.headers();
        let record = LetterRecord {
            key: opened.key.as_deref(),
            value: opened.value.as_deref(),
            headers: &headers,
        };

        let expected = serde_json::to_vec(&case["letter"]).unwrap();
        let letter = Letter::parse(&expected).unwrap();
        let key = key_of(hex(&case["key"]).unwrap().try_into().unwrap());
        let keys = Keyring::new("default", [key.clone()]);
        match &letter.content {
            Content::Whole { .. } => assert_eq!(
                letter.open(&keys, &mut Opener::default()).unwrap().as_ref(),
                Some(&opened),
                "{name}"
            ),
            Content::Stub { .. } => {
                letter.verify(&record, &keys, &Opener::default()).unwrap();
                let made = stub(&key, &letter.metadata(), &record).unwrap();
                assert_eq!(
                    serde_json::from_slice::<Value>(&made.value).unwrap(),
                    case["letter"],
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn the_shape_is_the_interfaces() {
    let sealed = sealed(&RECORD, 1 << 20);
    let text = std::str::from_utf8(&sealed.value).unwrap();
    let start = r#"{"veilstream_dead_letter":2,"reason":"wrong_type","topic":"people.raw","partition":3,"offset":42,"time":1700000000000,"schema":"people/1","form":"whole","sealed":"vs1."#;
    assert!(text.starts_with(start) && text.ends_with("\"}") && !sealed.stub, "{text}");
    assert!(!text.contains("canary") && !text.contains("x-user"), "{text}");

    let stub = super::stub(&key_of([7; 32]), &METADATA, &RECORD).unwrap();
    let text = std::str::from_utf8(&stub.value).unwrap();
    let start = r#"{"veilstream_dead_letter":2,"reason":"wrong_type","topic":"people.raw","partition":3,"offset":42,"time":1700000000000,"schema":"people/1","form":"stub","length":"#;
    assert!(text.starts_with(start) && stub.stub && stub.value.len() < 400, "{text}");
}

#[test]
fn opens_to_the_same_bytes_and_only_as_it_was_sealed() {
    let keys = Keyring::new("default", [key_of([7; 32])]);
    let whole = Letter::parse(&sealed(&RECORD, 1 << 20).value).unwrap();
    let stub =
        Letter::parse(&super::stub(&key_of([7; 32]), &METADATA, &RECORD).unwrap().value).unwrap();
    let opened = whole.open(&keys, &mut Opener::default()).unwrap().unwrap();
    assert_eq!(
        (opened.key.as_deref(), opened.value.as_deref(), opened.headers().as_slice()),
        (RECORD.key, RECORD.value, RECORD.headers)
    );
    assert_eq!(stub.open(&keys, &mut Opener::default()), Ok(None));
    assert_eq!(stub.verify(&RECORD, &keys, &Opener::default()), Ok(()));
    let edits: [fn(&mut Letter); 6] = [
        |l| l.reason = "no_schema".to_owned(),
        |l| l.topic = "people.other".to_owned(),
        |l| l.partition += 1,
        |l| l.offset += 1,
        |l| l.time = None,
        |l| l.schema.clear(),
    ];
    for edit in edits {
        for letter in [&whole, &stub] {
            let mut edited = letter.clone();
            edit(&mut edited);
            let result = match edited.content {
                Content::Whole { .. } => edited.open(&keys, &mut Opener::default()).map(drop),
                Content::Stub { .. } => edited.verify(&RECORD, &keys, &Opener::default()),
            };
            assert_eq!(result, Err(OpenError::Corrupt), "{edited:?}");
        }
    }
    let mut longer = stub;
    if let Content::Stub { length, .. } = &mut longer.content {
        *length += 1;
    }
    assert_eq!(
        longer.verify(&RECORD, &keys, &Opener::default()),
        Err(OpenError::Corrupt),
        "another length"
    );
}

#[test]
fn a_letter_always_fits() {
    let value = vec![b'x'; 70_000];
    let record = LetterRecord { value: Some(&value), ..RECORD };
    let whole = sealed(&record, usize::MAX);
    let size = record_size(None, Some(&whole.value), std::iter::empty());
    // To the byte.
    let fitting = sealed(&record, size);
    assert_eq!((fitting.stub, fitting.value.len()), (false, whole.value.len()));
    let above = sealed(&record, size - 1);
    assert!(
        above.stub && record_size(None, Some(&above.value), std::iter::empty()) < 600,
        "{}",
        above.value.len()
    );
    // 13,500 headers are one token, and no longer than the formats say.
    let many: Vec<Header<'_>> = (0..13_500).map(|_| (b"abcd".as_slice(), None)).collect();
    let record = LetterRecord { headers: &many, ..RECORD };
    assert!(sealed(&record, 1 << 20).value.len() <= (record.payload_len() + 100) * 4 / 3 + 300);
}

#[test]
fn what_is_no_letter_of_this_form_is_none() {
    let whole: Value = serde_json::from_slice(&sealed(&RECORD, 1 << 20).value).unwrap();
    assert!(Letter::parse(whole.to_string().as_bytes()).is_some());
    let edits: [fn(&mut Value); 8] = [
        |l| l["veilstream_dead_letter"] = json!(1),
        |l| l["veilstream_dead_letter"] = json!(3),
        |l| l["form"] = json!("half"),
        |l| l["form"] = json!("stub"),
        |l| l["length"] = json!(3),
        |l| l["note"] = json!("unbound"),
        |l| drop(l.as_object_mut().unwrap().remove("time")),
        |l| drop(l.as_object_mut().unwrap().remove("sealed")),
    ];
    for edit in edits {
        let mut edited = whole.clone();
        edit(&mut edited);
        assert_eq!(Letter::parse(edited.to_string().as_bytes()), None, "{edited}");
    }
    assert_eq!(Letter::parse(b"{"), None);
}
