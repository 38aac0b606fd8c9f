//! What an independent implementation made: record MACs, the erasure ledger with every way of being
//! wrong.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

use std::collections::BTreeSet;

use serde_json::Value;
use veilstream_engine::SecretKey;
use veilstream_engine::key::{KeyId, SubjectRef};
use veilstream_keys::erasure::{
    Erasure, LedgerError, Position, Verifier, Wrong, first_line, hex, next_line, unhex,
};
use veilstream_keys::store::{Erased, Head, KeyRecord, RecordFields, RecordJson, StoreKeys};

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../tests/vectors/v1-additions.json")).unwrap()
}

fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_default()
}

fn bytes<const N: usize>(value: &Value, name: &str) -> [u8; N] {
    unhex(text(value, name)).unwrap()
}

fn keys(case: &Value) -> StoreKeys {
    StoreKeys::of(&SecretKey::new(bytes(case, "store_key")))
}

fn mac(case: &Value) -> String {
    let (kid, kcv): ([u8; 16], [u8; 32]) = (bytes(case, "kid"), bytes(case, "kcv"));
    hex(&keys(case).record_mac(&RecordFields {
        kid: &kid,
        kcv: &kcv,
        kind: text(case, "kind"),
        tenant: text(case, "tenant"),
        scope: text(case, "scope"),
        version: case["version"].as_u64().unwrap(),
        state: text(case, "state"),
        created: text(case, "created"),
        retired: text(case, "retired"),
    }))
}

/// The case as a record; `None` where it is none already, as a time in another spelling.
fn record(case: &Value) -> Option<KeyRecord> {
    let mut json = case.clone();
    for other in ["name", "store_key", "error", "created_timestamptz"] {
        json.as_object_mut().unwrap().remove(other);
    }
    json["wraps"] = Value::Array(Vec::new());
    serde_json::from_value::<RecordJson>(json).unwrap().record().ok()
}

#[test]
fn records_have_the_macs_of_the_format() {
    let vectors = vectors();
    let cases = vectors["record_macs"]["cases"].as_array().unwrap();
    let mut as_records = 0;
    for case in cases {
        assert_eq!(mac(case), text(case, "mac"), "{}", case["name"]);
        // A version beyond 32 bits is the format's, not this program's.
        if let Some(record) = record(case) {
            as_records += 1;
            assert!(keys(case).holds(&record), "{}", case["name"]);
            assert_eq!(
                hex(&keys(case).signed(&record).mac.unwrap()),
                text(case, "mac"),
                "{}",
                case["name"]
            );
        }
    }
    assert_eq!((cases.len(), as_records), (8, 7));
    let rejected = vectors["record_macs"]["rejected"].as_array().unwrap();
    assert_eq!(rejected.len(), 11);
    for case in rejected {
        assert!(record(case).is_none_or(|record| !keys(case).holds(&record)), "{}", case["name"]);
    }
}

fn head(value: &Value) -> Head {
    let (store, sha256, mac) = (bytes(value, "store"), bytes(value, "sha256"), bytes(value, "mac"));
    Head { store, tenant: "default".into(), seq: value["seq"].as_u64().unwrap(), sha256, mac }
}

/// Whole lines, as every ledger gives them out.
fn lines(file: &str) -> Vec<Vec<u8>> {
    file.split_inclusive('\n')
        .filter_map(|line| line.strip_suffix('\n'))
        .map(|line| line.as_bytes().to_vec())
        .collect()
}

fn why(wrong: Wrong) -> &'static str {
    match wrong {
        Wrong::Form => "form",
        Wrong::Seq => "seq",
        Wrong::Store => "store",
        Wrong::Prev => "prev",
        Wrong::Mac => "mac",
        Wrong::Head => "head",
        Wrong::Missing => "missing",
    }
}

#[test]
fn the_ledger_is_judged_as_the_format_says() {
    let vectors = vectors();
    let ledger = &vectors["ledger"];
    let keys = keys(ledger);
    let cases = ledger["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 31);
    for case in cases {
        let (name, head, refused) =
            (text(case, "name"), head(&case["head"]), case["verdict"] == "refused");
        if !keys.holds_head(&head) {
            assert!(refused && case["why"] == "head_mac", "{name}");
            continue;
        }
        match Verifier::new(&keys, head.store).take_all(
            "place",
            &lines(text(case, "file")),
            &Position::of(&head),
        ) {
            Ok(recorded) => {
                assert!(!refused, "{name}");
                let replay: Vec<u64> = recorded
                    .iter()
                    .map(|line| line.position.seq)
                    .filter(|seq| *seq > head.seq)
                    .collect();
                assert_eq!(serde_json::json!(replay), case["replay"], "{name}");
            }
            Err(LedgerError::Wrong { line, why: wrong, .. }) => {
                assert_eq!(
                    (refused, Some(line), why(wrong)),
                    (true, case["line"].as_u64(), text(case, "why")),
                    "{name}"
                );
            }
            Err(other) => panic!("{name}: {other}"),
        }
    }
}

#[test]
fn lines_are_written_byte_for_byte_and_say_who_is_erased() {
    let vectors = vectors();
    let ledger = &vectors["ledger"];
    let (keys, store) = (keys(ledger), bytes(ledger, "store"));
    let expected: Vec<&str> =
        ledger["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    let (first, mut last) = first_line(&keys, store, 1_795_860_000);
    assert_eq!(first, expected[0]);
    let mut verifier = Verifier::new(&keys, store);
    assert_eq!(verifier.take(first.as_bytes()).unwrap(), None);
    let (mut closed, mut kids) = (BTreeSet::new(), BTreeSet::new());
    let mut erased = Erased::default();
    for expected in &expected[1..] {
        let recorded = verifier.take(expected.as_bytes()).unwrap().unwrap();
        let (line, position) = next_line(&keys, &last, &recorded.erasure);
        assert_eq!((line.as_str(), position), (*expected, recorded.position));
        // Kids in another order, and twice, are the same line.
        let shuffled = Erasure {
            kids: recorded
                .erasure
                .kids
                .iter()
                .rev()
                .chain(&recorded.erasure.kids)
                .copied()
                .collect(),
            ..recorded.erasure.clone()
        };
        assert_eq!(next_line(&keys, &last, &shuffled).0, *expected);
        last = position;
        erased.take(&recorded, "default");
        let Erasure { tenant, subject, may_return, .. } = &recorded.erasure;
        if !may_return {
            closed.insert((tenant.clone(), subject.to_string()));
        }
        kids.extend(recorded.erasure.kids.iter().map(KeyId::to_string));
    }
    let head = keys.head("default", store, last.seq, last.sha256);
    assert_eq!(
        (hex(&head.sha256), hex(&head.mac)),
        (text(&ledger["head"], "sha256").to_owned(), text(&ledger["head"], "mac").to_owned())
    );
    assert_eq!(serde_json::json!(kids), ledger["erased_kids"]);
    let expected: BTreeSet<(String, String)> =
        serde_json::from_value(ledger["closed_subjects"].clone()).unwrap();
    assert_eq!(closed, expected);
    // Subjects of another tenant are none of this store's.
    for (tenant, subject) in expected {
        assert_eq!(erased.is_closed(&SubjectRef(unhex(&subject).unwrap())), tenant == "default");
    }
}
