//! Records that are protected already are opened and sealed again: what opens moves, all else stays.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;

use serde_json::Value;
use support::{Bench, OsRandom, document, key, keyring, keyring_of, value_record};
use veilstream_engine::compile::{Compiled, Grants, SchemaSet, compile_rotation};
use veilstream_engine::key::KeyKind;
use veilstream_engine::record::{Output, Record};
use veilstream_engine::reveal::{KeySource, Report, RevealOptions, Revealer, Status};
use veilstream_engine::transform::{Outcome, Transformer};

fn rotation(members: &str) -> Compiled {
    compile_rotation(document(members).as_bytes(), &Grants::local()).unwrap()
}

/// The protected value, opened and sealed again under another data key and another index root.
fn rotated(bench: &Bench, members: &str, protected: &str) -> String {
    let schema = Arc::new(rotation(members).schema);
    let (mut clear, mut report) = (Vec::new(), Report::default());
    let keys = KeySource::of(&bench.keys);
    let options = RevealOptions::default();
    let mut revealer = Revealer::default();
    revealer.open_to_seal();
    revealer
        .reveal(&schema, keys, protected.as_bytes(), &options, &mut clear, &mut report)
        .unwrap();
    let set = SchemaSet::new(vec![schema]).unwrap();
    let newer = newer(members).keys;
    let (mut transformer, mut out) =
        (Transformer::new(Box::new(OsRandom)).one_shot(), Output::default());
    let record = Record { honey: &report.honey, ..value_record(&clear) };
    match transformer.transform(&set, &newer, &record, &mut out) {
        Outcome::Protected(0) => String::from_utf8(out.value).unwrap(),
        other => panic!("{}: {other:?}", String::from_utf8_lossy(&clear)),
    }
}

/// What the rotated value opens to, under the newer keys.
fn opened(members: &str, value: &str) -> Value {
    serde_json::from_str(&newer(members).reveal(value).0).unwrap()
}

fn newer(members: &str) -> Bench {
    let keys = keyring_of(vec![key(KeyKind::Data, "shared:t"), key(KeyKind::Index, "v2")]);
    Bench::with(&[&document(members)], keys)
}

const FIELDS: &str = r#""undeclared":"drop","residue":"reject","clear":["$.id","$.items"],"fields":[
    {"id":"name","path":"$.name","protect":"mask","keep_last":0,"required":true,"index":{"normalize":"text"}},
    {"id":"email","path":"$.email","required":true,"type":"string","index":{"normalize":"email"}},
    {"id":"pin","path":"$.pin","protect":"hash","index":{"normalize":"exact"}},
    {"id":"born","path":"$.born","protect":"generalize","to":"year"},
    {"id":"gone","path":"$.gone","protect":"drop","required":true},
    {"id":"card","path":"$.items[*].card","index":{"normalize":"digits","bits":24}},
    {"id":"all","path":"$..secret"},
    {"id":"pair","path":"$.pair","index":{"normalize":"text","of":["$.email","$.pair"]}},
    {"id":"coarse","path":"$.coarse","index":{"normalize":"text","of":["$.born","$.email"]}}]"#;

const VALUE: &str = r#"{ "id":1, "name":"Ada Lovelace","email":"Ada@x.example","pin":"4711","born":"1815-12-10",
    "gone":"away","items":[{"card":"4111 1"},{"card":null}],"pair":"p","coarse":"c","unnamed":"u" }"#;

#[test]
fn what_opens_moves_and_all_else_stays() {
    let mut bench = Bench::new(FIELDS);
    let before = bench.protect(VALUE);
    let after = rotated(&bench, FIELDS, &before);
    let (was, is): (Value, Value) =
        (serde_json::from_str(&before).unwrap(), serde_json::from_str(&after).unwrap());
    for stays in ["id", "name", "name_bidx", "pin", "born", "coarse_bidx"] {
        assert!(!was[stays].is_null() && was[stays] == is[stays], "{stays}: {was} {is}");
    }
    for moves in ["email", "pair", "coarse"] {
        assert_ne!(was[moves], is[moves], "{moves}");
    }
    assert_ne!(was["items"][0]["card"], is["items"][0]["card"]);
    for index in [&is["email_bidx"], &is["pair_bidx"], &is["items"][0]["card_bidx"]] {
        assert!(index.as_str().unwrap().starts_with("2~"), "{is}");
    }
    assert!(is["email_bidx_prev"].as_str().unwrap().starts_with("1~"));
    assert!(is.get("gone").is_none() && is.get("unnamed").is_none());
    let clear = opened(FIELDS, &after);
    assert_eq!((&clear["email"], &clear["coarse"]), (&"Ada@x.example".into(), &"c".into()));
    // Members and white space stand where they stood.
    assert!(after.starts_with("{ \"id\":1, \"name\":\"************\""), "{after}");
}

#[test]
fn indexes_that_cannot_be_made_again_are_named() {
    let warnings = rotation(FIELDS).warnings;
    let places: Vec<&str> = warnings.iter().map(|warning| warning.pointer.as_str()).collect();
    assert_eq!(places, ["/fields/8/index/of"], "{warnings:?}");
}

#[test]
fn the_schema_part_of_an_envelope_stays() {
    const PLAIN: &str = r#""fields":[
        {"id":"email","path":"$.email","index":{"normalize":"email"}},
        {"id":"born","path":"$.born","protect":"generalize","to":"year"}]"#;
    const SCHEMA: &str = r#"{"type":"struct","fields":[{"field":"email","type":"string"},
        {"field":"born","type":"string"}]}"#;
    const RECORD: &str = r#"{"email":"ada@x.example","born":"1815-12-10"}"#;
    let written = format!(r#""envelope":{{"output":"connect","schema":{SCHEMA}}},{PLAIN}"#);
    let enveloped = format!(r#""envelope":"connect",{PLAIN}"#);
    let in_envelope = format!(r#"{{"schema":{SCHEMA},"payload":{RECORD}}}"#);
    for (members, value) in [(&written, RECORD), (&enveloped, in_envelope.as_str())] {
        let mut bench = Bench::new(members);
        let before = bench.protect(value);
        let after = rotated(&bench, members, &before);
        let (was, is): (Value, Value) =
            (serde_json::from_str(&before).unwrap(), serde_json::from_str(&after).unwrap());
        assert_eq!(was["schema"], is["schema"]);
        assert_eq!(was["payload"]["born"], is["payload"]["born"]);
        assert_ne!(was["payload"]["email"], is["payload"]["email"]);
        assert!(is["payload"]["email_bidx"].as_str().unwrap().starts_with("2~"));
        let clear = opened(members, &after);
        let payload = clear.get("payload").unwrap_or(&clear);
        assert_eq!(payload["email"], "ada@x.example");
    }
}

#[test]
fn a_record_without_anything_to_open_stays_byte_for_byte() {
    let mut bench = Bench::with(&[&document(FIELDS)], keyring("t"));
    let value = r#"{"name":"A","email":"a@x.example","pin":null,"born":null,"gone":1,"items":[]}"#;
    let protected = bench.protect(value);
    let members =
        FIELDS.replace(r#"{"id":"email","path":"$.email","#, r#"{"id":"email","path":"$.other","#);
    assert_eq!(rotated(&bench, &members, &protected), protected);
}

#[test]
fn honey_tokens_move_and_stay_what_they_are() {
    const FIELDS: &str = r#""fields":[{"id":"a","path":"$.a[*]","index":{"normalize":"exact"}},
        {"id":"b","path":"$.b","protect":"deterministic","root":1},
        {"id":"c","path":"$.c","protect":"deterministic","root":1}]"#;
    const VALUE: &str =
        r#"{"a":["bait",2,{"a":["bait"]},"bait"],"x":"bait","b":"bait","c":"value"}"#;
    let bait = [r#""bait",2"#, r#"{"a":["bait"]}"#, r#""bait","c""#];
    let honey = bait.map(|bait| VALUE.find(bait).unwrap());
    let mut bench = Bench::new(FIELDS);
    let record = Record { honey: &honey, ..value_record(VALUE.as_bytes()) };
    assert!(matches!(bench.record(&record), Outcome::Protected(0)));
    let before = String::from_utf8(bench.out.value.clone()).unwrap();
    let (of_bait, of_values) = ((0, Status::Honey), (0, Status::Revealed));
    let statuses =
        [of_bait, of_values, of_bait, of_values, (1, Status::Honey), (2, Status::Revealed)];
    assert_eq!(bench.reveal(&before).1.fields, statuses);
    let after = rotated(&bench, FIELDS, &before);
    let (shown, report) = newer(FIELDS).reveal(&after);
    assert_eq!((&report.fields[..], &report.honey[..]), (&statuses[..], &[][..]));
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["a"][1], &shown["a"][3]), (&2.into(), &"bait".into()));
    assert_eq!((&shown["x"], &shown["c"]), (&"bait".into(), &"value".into()));
}
