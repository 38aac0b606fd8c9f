//! Kafka Connect's envelope: the payload is protected, the schema part says so, and nothing
//! enveloped passes by accident.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use serde_json::{Value, json};
use support::{Bench, document, key, keyring, keyring_of};
use veilstream_engine::RejectCode;
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::key::KeyKind;

const FIELDS: &str = r#""envelope":"connect","fields":[
    {"id":"email","path":"$.after.email","index":{"normalize":"email"}},
    {"id":"age","path":"$.after.age"},
    {"id":"phones","path":"$.after.phones[*]","index":{"normalize":"digits","bits":24}},
    {"id":"tags","path":"$.after.tags.*"},
    {"id":"born","path":"$.after.born","protect":"generalize","to":"year","epoch":"days"},
    {"id":"zip","path":"$.after.zip","protect":"generalize","to":"bucket:100"},
    {"id":"query","path":"$.source.query","protect":"drop"}]"#;

fn schema() -> Value {
    json!({ "type": "struct", "optional": false, "name": "db.Envelope", "fields": [
        { "type": "struct", "optional": true, "field": "after", "name": "db.Value", "fields": [
            { "type": "int32", "optional": false, "default": 0, "field": "id" },
            { "type": "string", "optional": false, "default": "nobody", "field": "email" },
            { "type": "int32", "optional": false, "default": 0, "field": "age" },
            { "type": "array", "items": { "type": "int64", "optional": false }, "optional": false, "field": "phones" },
            { "type": "map", "keys": { "type": "string", "optional": false }, "values": { "type": "boolean", "optional": false }, "optional": true, "field": "tags" },
            { "type": "int32", "optional": true, "name": "io.debezium.time.Date", "version": 1, "field": "born" },
            { "type": "int32", "optional": true, "field": "zip" }
        ] },
        { "type": "struct", "optional": false, "field": "source", "fields": [
            { "type": "string", "optional": false, "default": "none", "field": "query" },
            { "type": "string", "optional": false, "field": "table" }
        ] }
    ] })
}

fn mended() -> Value {
    let text = |field: &str| json!({ "type": "string", "optional": true, "field": field });
    json!({ "type": "struct", "optional": false, "name": "db.Envelope", "fields": [
        { "type": "struct", "optional": true, "field": "after", "name": "db.Value", "fields": [
            { "type": "int32", "optional": false, "default": 0, "field": "id" },
            text("email"), text("email_bidx"), text("age"),
            { "type": "array", "items": { "type": "string", "optional": true }, "optional": false, "field": "phones" },
            { "type": "array", "items": { "type": "string", "optional": true }, "optional": true, "field": "phones_bidx" },
            { "type": "map", "keys": { "type": "string", "optional": false }, "values": { "type": "string", "optional": true }, "optional": true, "field": "tags" },
            text("born"),
            { "type": "int32", "optional": true, "field": "zip" }
        ] },
        { "type": "struct", "optional": false, "field": "source", "fields": [
            { "type": "string", "field": "query", "optional": true },
            { "type": "string", "optional": false, "field": "table" }
        ] }
    ] })
}

fn payload() -> Value {
    json!({ "after": { "id": 7, "email": "Ada@example.com", "age": 36, "phones": [4155550101_u64, 0], "tags": { "vip": false }, "born": 1819, "zip": 94103 },
        "source": { "query": "insert into people", "table": "people" } })
}

fn wrapped(schema: &Value, payload: &Value) -> String {
    format!("{{\"schema\":{schema}, \"payload\" : {payload}}}")
}

fn parts(text: &str) -> (Value, Value) {
    let mut value: Value = serde_json::from_str(text).unwrap();
    (value["schema"].take(), value["payload"].take())
}

#[test]
fn the_schema_part_says_what_stands_in_the_payload() {
    let mut bench = Bench::new(FIELDS);
    for event in [
        wrapped(&schema(), &payload()),
        format!("{{\"payload\":{},\n\"schema\":{}}}", payload(), schema()),
    ] {
        let out = bench.protect(&event);
        let (schema_out, payload_out) = parts(&out);
        assert_eq!(schema_out, mended());
        let after = &payload_out["after"];
        for token in [
            &after["email"],
            &after["age"],
            &after["phones"][0],
            &after["phones"][1],
            &after["tags"]["vip"],
        ] {
            assert!(token.as_str().unwrap().starts_with("vs1."), "{token}");
        }
        assert_eq!(
            (&after["born"], &after["zip"], &after["id"]),
            (&json!("1974"), &json!(94100), &json!(7))
        );
        assert!(
            after["email_bidx"].is_string() && after["phones_bidx"].as_array().unwrap().len() == 2
        );
        assert_eq!(payload_out["source"], json!({ "table": "people" }));
        // Back comes the payload; what was said of its types stays mended.
        let (revealed, report) = bench.reveal(&out);
        let (schema_back, payload_back) = parts(&revealed);
        assert_eq!(schema_back, mended());
        let mut expected = payload();
        (expected["after"]["born"], expected["after"]["zip"]) = (json!("1974"), json!(94100));
        expected["source"].as_object_mut().unwrap().remove("query");
        assert_eq!(payload_back, expected);
        assert_eq!(report.unexpected_tokens, 0);
    }
}

/// What a record has not says nothing of its type: a sink must not see a topic's schema change from
/// record to record.
#[test]
fn records_of_one_schema_keep_one() {
    let mut bench = Bench::new(FIELDS);
    for payload in [
        json!(null),
        json!({ "after": null, "source": { "table": "t" } }),
        json!({ "after": { "email": null, "phones": [], "tags": {} } }),
        payload(),
    ] {
        assert_eq!(parts(&bench.protect(&wrapped(&schema(), &payload))).0, mended(), "{payload}");
    }
    // Another schema in between is mended for itself.
    let other = json!({ "type": "struct", "fields": [{ "type": "struct", "field": "after", "fields": [{ "type": "bytes", "field": "age" }] }] });
    let out = bench.protect(&wrapped(&other, &json!({ "after": { "age": "AA==" } })));
    assert_eq!(
        parts(&out).0["fields"][0]["fields"],
        json!([{ "type": "string", "optional": true, "field": "age" }])
    );
    assert_eq!(parts(&bench.protect(&wrapped(&schema(), &payload()))).0, mended());
    assert_eq!(
        parts(&bench.protect(r#"{"schema":null,"payload":{"after":{"age":1}}}"#)).0,
        Value::Null
    );
}

#[test]
fn the_bytes_of_the_payload_come_back() {
    let mut bench = Bench::new(
        r#""envelope":"connect","fields":[{"id":"a","path":"$..a","index":{"normalize":"exact"}},{"id":"w","path":"$.w"}]"#,
    );
    let payload = r#"{ "a" : 1.50 ,"x":[{"a":"\u0061"},{"a":null}], "w":{"a": [ ]} }"#;
    let schema = r#"{"type":"struct","fields":[{"type":"double","field":"a"},{"type":"array","items":{"type":"struct","fields":[{"type":"string","field":"a"}]},"field":"x"},{"type":"struct","fields":[],"field":"w"}]}"#;
    let out = bench.protect(&format!(r#"{{"schema":{schema},"payload":{payload}}}"#));
    let back = bench.reveal(&out).0;
    assert_eq!(back.split_once("\"payload\":").unwrap().1, format!("{payload}}}"));
    let text = |field: &str| json!({ "type": "string", "optional": true, "field": field });
    let items = json!({ "type": "struct", "fields": [text("a"), text("a_bidx")] });
    assert_eq!(
        parts(&out).0,
        json!({ "type": "struct", "fields": [text("a"), text("a_bidx"), { "type": "array", "items": items, "field": "x" }, text("w")] })
    );
}

#[test]
fn both_indexes_are_described_while_a_root_rotates() {
    let members = r#""envelope":"connect","fields":[{"id":"a","path":"$.a","index":{"normalize":"exact","into":"i"}},{"id":"b","path":"$.b","index":{"normalize":"exact","bits":8}}]"#;
    let mut bench = Bench::with(
        &[&document(members)],
        keyring_of(vec![key(KeyKind::Data, "schema:t"), key(KeyKind::Index, "v2")]),
    );
    let schema = json!({ "type": "struct", "fields": [{ "type": "string", "field": "a" }, { "type": "string", "field": "b" }] });
    let out = bench.protect(&wrapped(&schema, &json!({ "a": "x", "b": "y" })));
    let (schema, payload) = parts(&out);
    let mut described: Vec<&str> =
        schema["fields"].as_array().unwrap().iter().map(|f| f["field"].as_str().unwrap()).collect();
    described.sort_unstable();
    let mut written: Vec<&str> = payload.as_object().unwrap().keys().map(String::as_str).collect();
    written.sort_unstable();
    assert_eq!(described, written);
    assert_eq!(written, ["a", "b", "b_bidx", "i", "i_prev"]);
}

#[test]
fn an_envelope_nobody_declared_is_refused_with_a_reason_of_its_own() {
    let event = wrapped(&schema(), &payload());
    for members in [
        r#""fields":[{"id":"a","path":"$..email"}]"#,
        r#""fields":[{"id":"a","path":"$.payload.after.email"}]"#,
        r#""when":{"$.source.table":"people"},"fields":[]"#,
        r#""when":{"$.payload.source.table":"people"},"fields":[]"#,
    ] {
        let mut bench = Bench::new(members);
        assert_eq!(bench.rejected(&event), RejectCode::ConnectEnvelope, "{members}");
        assert_eq!(
            bench.rejected(r#"{"schema":null,"payload":{"email":"a"}}"#),
            RejectCode::ConnectEnvelope
        );
    }
    let mut bench = Bench::new(r#""fields":[{"id":"a","path":"$.a"}]"#);
    for natural in [
        r#"{"schema":"v1","payload":1}"#,
        r#"{"schema":{"types":"x"},"payload":1}"#,
        r#"{"schema":{"type":"x"},"payload":1,"more":2}"#,
        r#"{"payload":{"type":"x"}}"#,
    ] {
        bench.there_and_back(natural);
    }
}

/// Its paths would find nothing, and all would pass in clear.
#[test]
fn what_is_no_envelope_is_refused_where_one_is_declared() {
    let mut bench = Bench::new(FIELDS);
    for bare in [
        payload().to_string(),
        "{}".to_owned(),
        "1".to_owned(),
        r#"{"schema":{"type":"struct"},"payload":{},"x":1}"#.to_owned(),
    ] {
        assert_eq!(bench.rejected(&bare), RejectCode::ConnectEnvelope, "{bare}");
    }
    let mut other =
        Bench::new(r#""envelope":"connect","when":{"$.source.table":"people"},"fields":[]"#);
    other.protect(&wrapped(&schema(), &payload()));
    assert_eq!(
        other.rejected(&wrapped(&schema(), &json!({ "source": { "table": "orders" } }))),
        RejectCode::NoSchema
    );
}

/// One description stands for all elements: where some are no strings afterwards, none can be said
/// to be.
#[test]
fn a_schema_part_that_cannot_be_mended_rejects() {
    let list = |items: Value| json!({ "type": "struct", "fields": [{ "type": "array", "items": items, "optional": true, "field": "l" }] });
    let entry = |kind: &str| json!({ "type": "struct", "fields": [{ "type": "string", "field": "kind" }, { "type": kind, "field": "v" }] });
    let mut bench = Bench::new(
        r#""envelope":"connect","fields":[{"id":"v","path":"$.l[?@.kind == 'secret'].v"}]"#,
    );
    let numbers = json!({ "l": [{ "kind": "secret", "v": 1 }, { "kind": "open", "v": 2 }] });
    assert_eq!(
        bench.rejected(&wrapped(&list(entry("int32")), &numbers)),
        RejectCode::ConnectEnvelope
    );
    bench.protect(&wrapped(
        &list(entry("int32")),
        &json!({ "l": [{ "kind": "secret", "v": 1 }, { "kind": "open", "v": null }] }),
    ));
    bench.protect(&wrapped(
        &list(entry("string")),
        &json!({ "l": [{ "kind": "secret", "v": "1" }, { "kind": "open", "v": "2" }] }),
    ));
    let mut bench = Bench::new(r#""envelope":"connect","fields":[{"id":"v","path":"$.l[0]"}]"#);
    assert_eq!(
        bench.rejected(&wrapped(&list(json!({ "type": "int32" })), &json!({ "l": [1, 2] }))),
        RejectCode::ConnectEnvelope
    );
    bench.protect(&wrapped(&list(json!({ "type": "int32" })), &json!({ "l": [1] })));
    // It has the index's name itself.
    let mut bench = Bench::new(
        r#""envelope":"connect","fields":[{"id":"a","path":"$.a","index":{"normalize":"exact"}}]"#,
    );
    let taken = json!({ "type": "struct", "fields": [{ "type": "string", "field": "a" }, { "type": "int8", "field": "a_bidx" }] });
    assert_eq!(bench.rejected(&wrapped(&taken, &json!({ "a": "x" }))), RejectCode::ConnectEnvelope);
}

#[test]
fn the_schema_part_is_declared_and_no_residue() {
    let members = r#""envelope":"connect","undeclared":"reject","residue":"reject","clear":["$.id"],"fields":[{"id":"a","path":"$.a"}]"#;
    let mut bench = Bench::new(members);
    let schema = json!({ "type": "struct", "fields": [{ "type": "int32", "field": "id" }, { "type": "string", "default": "struct", "field": "a" }] });
    bench.protect(&wrapped(&schema, &json!({ "id": 1, "a": "string" })));
    assert_eq!(
        bench.rejected(&wrapped(&schema, &json!({ "id": 1, "b": "x" }))),
        RejectCode::UndeclaredMember
    );
    assert_eq!(
        bench.rejected(&wrapped(&schema, &json!({ "id": "a string", "a": "string" }))),
        RejectCode::Residue
    );
}

#[test]
fn a_root_inside_a_filter_is_the_payload() {
    let mut bench = Bench::new(
        r#""envelope":"connect","fields":[{"id":"m","path":"$.l[?@.r == $['h$ome'] && @.q == '$'].m"}]"#,
    );
    let out = bench.protect(r#"{"schema":null,"payload":{"h$ome":"EU","l":[{"r":"EU","q":"$","m":"a"},{"r":"US","q":"$","m":"b"}]}}"#);
    let (_, payload) = parts(&out);
    assert!(
        payload["l"][0]["m"].as_str().unwrap().starts_with("vs1.") && payload["l"][1]["m"] == "b",
        "{out}"
    );
}

#[test]
fn what_the_schema_part_cannot_say_is_a_fault() {
    for (members, pointer) in [
        (r#""envelope":"avro","fields":[]"#, "/envelope"),
        (r#""envelope":"connect","undeclared":"drop","fields":[]"#, "/undeclared"),
        (
            r#""envelope":"connect","fields":[{"id":"a","path":"$","protect":"drop"}]"#,
            "/fields/0/path",
        ),
        (
            r#""envelope":"connect","fields":[{"id":"a","path":"$","index":{"normalize":"exact"}}]"#,
            "/fields/0/index",
        ),
        (
            r#""envelope":"connect","fields":[{"id":"a","path":"$[*]","index":{"normalize":"exact"}}]"#,
            "/fields/0/index",
        ),
        (
            r#""envelope":"connect","fields":[{"id":"a","path":"$.a","protect":"redact","with":0}]"#,
            "/fields/0/with",
        ),
        (r#""envelope":"connect","fields":[{"id":"a","path":"$.a["}]"#, "/fields/0/path"),
    ] {
        let faults = compile(document(members).as_bytes(), &Grants::local()).unwrap_err();
        assert!(matches!(&faults[..], [one] if one.pointer == pointer), "{members}: {faults:?}");
    }
    Bench::with(
        &[&document(r#""envelope":"connect","fields":[{"id":"a","path":"$"}]"#)],
        keyring("t"),
    )
    .protect(r#"{"schema":{"type":"int8"},"payload":7}"#);
}

/// A description with many fields, held against many objects, or with an index beside each: the
/// time would grow with the product.
#[test]
fn an_envelope_that_takes_too_much_work_is_rejected() {
    let fields: Vec<String> =
        (0..20_000).map(|i| format!(r#"{{"type":"string","field":"f{i}"}}"#)).collect();
    let described = |path: &str| {
        format!(
            r#""envelope":"connect","residue":"off","fields":[{{"id":"f","path":"{path}","index":{{"normalize":"exact"}}}}]"#
        )
    };
    let of_list = |count: usize, objects: usize| {
        let items = format!(r#"{{"type":"struct","fields":[{}]}}"#, fields[..count].join(","));
        let payload = vec!["{}"; objects].join(",");
        format!(
            r#"{{"schema":{{"type":"struct","fields":[{{"type":"array","items":{items},"field":"list"}}]}},"payload":{{"list":[{payload}]}}}}"#
        )
    };
    let mut bench = Bench::new(&described("$.list[*].f0"));
    bench.protect(&of_list(100, 1_000));
    assert_eq!(bench.rejected(&of_list(20_000, 20_000)), RejectCode::TooComplex);
    let flat = |count: usize| {
        let a =
            format!(r#"{{"type":"struct","fields":[{}],"field":"a"}}"#, fields[..count].join(","));
        format!(r#"{{"schema":{{"type":"struct","fields":[{a}]}},"payload":{{"a":{{}}}}}}"#)
    };
    let mut bench = Bench::new(&described("$.a.*"));
    bench.protect(&flat(1_000));
    assert_eq!(bench.rejected(&flat(20_000)), RejectCode::TooComplex);
}
