//! The way back: tokens open at the declared places only, each failure by its own name, indexes go
//! first.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;

use support::{Bench, OsRandom, key, keyring_of, shape};
use veilstream_engine::key::{Key, KeyKind, KeyState};
use veilstream_engine::reveal::{KeySource, Report, RevealOptions, Revealer, Status};
use veilstream_engine::seal::{NoncePool, PayloadKind, Sealer};
use veilstream_engine::token::Suite;
use veilstream_engine::{OpenError, inspect};

const FIELDS: &str = r#""fields":[{"id":"a","path":"$.a","index":{"normalize":"exact"}},{"id":"b","path":"$.b[*]","index":{"normalize":"exact","into":"bi"}},
    {"id":"m","path":"$.m","protect":"mask"}]"#;

fn statuses(report: &Report) -> Vec<(usize, &'static str)> {
    report.fields.iter().map(|(field, status)| (*field, status.as_str())).collect()
}

/// A bench that seals with `schema:t` and, afterwards, reveals with `after`.
fn sealed_then(value: &str, after: Vec<Key>) -> (Bench, String) {
    let mut bench = Bench::new(FIELDS);
    let out = bench.protect(value);
    bench.keys = keyring_of(after);
    (bench, out)
}

#[test]
fn everything_comes_back_and_indexes_go() {
    let mut bench = Bench::new(FIELDS);
    let value = r#"{ "x":1, "a":"v", "b":["p", null, {"q":[1.0]}], "m":"12345678" }"#;
    let out = bench.protect(value);
    assert_eq!(
        shape(&out),
        r#"{ "x":1, "a":<1.1>,"a_bidx":<index>, "b":[<1.1>, null, <1.1>],"bi":[<index>,null,null], "m":"****5678" }"#
    );
    let (revealed, report) = bench.reveal(&out);
    assert_eq!(revealed, value.replace("12345678", "****5678"));
    assert_eq!(
        statuses(&report),
        [(0, "revealed"), (1, "revealed"), (1, "no_token"), (1, "revealed"), (2, "no_token")]
    );
    assert_eq!(report.unexpected_tokens, 0);
}

#[test]
fn only_what_is_asked_for_is_opened() {
    let mut bench = Bench::new(FIELDS);
    let out = bench.protect(r#"{"a":"v","b":["p"]}"#);
    let ids = ["b".to_owned()];
    let (revealed, report) =
        bench.reveal_with(&out, &RevealOptions { fields: Some(&ids), keep_indexes: true });
    assert_eq!(shape(&revealed), r#"{"a":<1.1>,"a_bidx":<index>,"b":["p"],"bi":[<index>]}"#);
    assert_eq!(statuses(&report), [(0, "skipped"), (1, "revealed")]);
    let (revealed, _) =
        bench.reveal_with(&out, &RevealOptions { fields: Some(&ids), keep_indexes: false });
    assert_eq!(shape(&revealed), r#"{"a":<1.1>,"b":["p"]}"#);
}

#[test]
fn erased_unavailable_and_corrupt_stay_different() {
    let gone = |state| Key { state, secret: None, ..key(KeyKind::Data, "schema:t") };
    let value = r#"{"a":"v"}"#;
    for (keys, status) in [
        (vec![], "key_unavailable"),
        (vec![gone(KeyState::Shredded)], "erased"),
        (vec![gone(KeyState::Retired)], "key_unavailable"),
        (
            vec![Key { state: KeyState::Compromised, ..key(KeyKind::Data, "schema:t") }],
            "key_unavailable",
        ),
        (vec![Key { tenant: "other".into(), ..key(KeyKind::Data, "schema:t") }], "corrupt"),
        (vec![Key { kind: KeyKind::DeadLetter, ..key(KeyKind::Data, "schema:t") }], "corrupt"),
        (vec![Key { state: KeyState::DecryptOnly, ..key(KeyKind::Data, "schema:t") }], "revealed"),
    ] {
        let (bench, out) = sealed_then(value, keys);
        let (revealed, report) = bench.reveal(&out);
        assert_eq!(statuses(&report), [(0, status)]);
        let left = if status == "revealed" {
            value.to_owned()
        } else {
            out.split(",\"a_bidx\"").next().unwrap().to_owned() + "}"
        };
        assert_eq!(revealed, left, "{status}: a token that does not open stays");
    }
}

#[test]
fn every_changed_character_of_a_token_is_noticed() {
    let mut bench = Bench::new(r#""fields":[{"id":"a","path":"$.a"}]"#);
    let out = bench.protect(r#"{"a":"v"}"#);
    let start = out.find("vs1.").unwrap();
    let end = out.rfind('"').unwrap();
    for at in start..end {
        let mut changed = out.clone().into_bytes();
        changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        let (revealed, report) = bench.reveal(&changed);
        assert_eq!(revealed, changed);
        let status = report.fields[0].1;
        let expected = match at - start {
            0..4 => Status::Clear,
            // suite and flags; then kid, fid, body
            4..6 => Status::Failed(OpenError::Unsupported),
            _ => status,
        };
        assert!(status == expected && status != Status::Revealed, "{status:?} at {}", at - start);
    }
    let cut = out.replace(&out[end - 4..end], "");
    assert!(matches!(bench.reveal(&cut).1.fields[0].1, Status::Failed(_)));
}

#[test]
fn a_token_opens_in_its_own_field_only_and_is_reported_elsewhere() {
    let mut bench = Bench::new(FIELDS);
    let out = bench.protect(r#"{"a":"v","b":["p"]}"#);
    let token =
        |n: usize| out.split('"').filter(|t| t.starts_with("vs1.")).nth(n).unwrap().to_owned();
    let swapped = format!(r#"{{"a":"{}","b":["{}"]}}"#, token(1), token(0));
    let (revealed, report) = bench.reveal(&swapped);
    assert_eq!(revealed, swapped);
    assert_eq!(statuses(&report), [(0, "field_mismatch"), (1, "field_mismatch")]);
    let moved = format!(r#"{{"elsewhere":"{0}","deep":[{{"er":"{0}"}}],"a":"{0}"}}"#, token(0));
    let (revealed, report) = bench.reveal(&moved);
    assert_eq!(revealed, moved.replacen(&format!("\"a\":\"{}\"", token(0)), "\"a\":\"v\"", 1));
    assert_eq!(report.unexpected_tokens, 2);
    // Text that only begins like one is nobody's business.
    assert_eq!(bench.reveal(r#"{"x":"vs1. is our format"}"#).1.unexpected_tokens, 0);
}

#[test]
fn a_value_that_was_a_token_comes_back_as_one_and_is_opened_once() {
    let mut bench = Bench::new(r#""fields":[{"id":"a","path":"$.a"}]"#);
    let inner = bench.protect(r#"{"a":"v"}"#);
    let outer = bench.protect(&inner);
    assert_eq!(bench.reveal(&outer).0, inner);
}

/// A record of the bench's schema with a honey token.
fn baited(bench: &Bench, payload: &[u8]) -> String {
    let field = &bench.schemas.schemas()[0].fields[0];
    let mut token = Vec::new();
    let key = Arc::new(key(KeyKind::Data, "schema:t"));
    let mut sealer = Sealer::new(key, Suite::AesGcm, field.fid).unwrap();
    sealer
        .seal(
            PayloadKind::Honey,
            payload,
            16,
            None,
            &mut NoncePool::new(Box::new(OsRandom)),
            &mut token,
        )
        .unwrap();
    format!(r#"{{"a":"{}"}}"#, String::from_utf8(token).unwrap())
}

/// Anyone who opens a honey token sees what they would see of a token whose key is not available;
/// the caller sees the alarm.
#[test]
fn a_honey_token_stays_where_it_is() {
    let bench = Bench::new(FIELDS);
    let value = baited(&bench, b"\"mary@example.org\"");
    let (revealed, report) = bench.reveal(&value);
    assert_eq!((revealed, &report.fields[..]), (value, &[(0, Status::Honey)][..]));
    assert_eq!(statuses(&report), [(0, "denied")]);
}

/// Who seals it again gets bait that can stand in a document.
#[test]
fn a_honey_token_opens_to_be_sealed_again() {
    let bench = Bench::new(FIELDS);
    let mut revealer = Revealer::default();
    revealer.open_to_seal();
    let mut opened = |payload: &[u8]| {
        let (value, mut out, mut report) = (baited(&bench, payload), Vec::new(), Report::default());
        let (schema, options) = (&bench.schemas.schemas()[0], RevealOptions::default());
        let keys = KeySource::of(&bench.keys);
        revealer.reveal(schema, keys, value.as_bytes(), &options, &mut out, &mut report).unwrap();
        (String::from_utf8(out).unwrap() == value, report.fields, report.honey)
    };
    assert_eq!(opened(b"\"bait\""), (false, vec![(0, Status::Revealed)], vec![5]));
    let corrupt = vec![(0, Status::Failed(OpenError::Corrupt))];
    assert_eq!(opened(b"1,\"b\":2"), (true, corrupt, vec![]));
}

#[test]
fn keys_outside_the_keyring_are_looked_up_by_id() {
    let (bench, out) = sealed_then(r#"{"a":"v"}"#, vec![]);
    let data = Arc::new(key(KeyKind::Data, "schema:t"));
    let (mut text, mut report) = (Vec::new(), Report::default());
    let lookup = |id: &veilstream_engine::KeyId| (*id == data.id).then(|| data.clone());
    let schema = &bench.schemas.schemas()[0];
    Revealer::default()
        .reveal(
            schema,
            KeySource { keyring: &bench.keys, lookup: &lookup },
            out.as_bytes(),
            &RevealOptions::default(),
            &mut text,
            &mut report,
        )
        .unwrap();
    assert_eq!(text, br#"{"a":"v"}"#);
}

#[test]
fn inspecting_needs_no_key() {
    let mut bench =
        Bench::new(r#""fields":[{"id":"a","path":"$.a","bind":[{"name":"n","path":"$.n"}]}]"#);
    let out = bench.protect(r#"{"a":"v","n":1}"#);
    let token = out.split('"').find(|t| t.starts_with("vs1.")).unwrap();
    let header = inspect::inspect(token.as_bytes()).unwrap();
    assert_eq!((header.suite.id(), header.padded(), header.bound()), (1, true, true));
    assert_eq!(header.kid, key(KeyKind::Data, "schema:t").id);
    assert_eq!(header.fid, bench.schemas.schemas()[0].fields[0].fid);
    assert_eq!(inspect::inspect(b"vs1.AAAA"), Err(OpenError::Malformed));
}

#[test]
fn what_is_no_document_is_refused() {
    let bench = Bench::new(FIELDS);
    let mut revealer = Revealer::default();
    let (mut out, mut report) = (Vec::new(), Report::default());
    for doc in [&b""[..], b"{", b"\"\xff\"", br#"{"a":1,"a":2}"#] {
        let schema = &bench.schemas.schemas()[0];
        let result = revealer.reveal(
            schema,
            KeySource::of(&bench.keys),
            doc,
            &RevealOptions::default(),
            &mut out,
            &mut report,
        );
        assert!(result.is_err());
        assert!(out.is_empty());
    }
}

#[test]
fn indexes_go_wherever_a_sink_has_sorted_them() {
    let mut bench = Bench::new(FIELDS);
    let out = bench.protect(r#"{"a":"v","b":["p"]}"#);
    let mut members: Vec<&str> = out.trim_matches(['{', '}']).split(",\"").collect();
    members.reverse();
    let sorted = format!("{{\"{}}}", members.join(",\"").replace("\"\"a\"", "\"a\""));
    assert_eq!(bench.reveal(&sorted).0, r#"{"b":["p"],"a":"v"}"#, "{sorted}");
}
