//! Plain values become envelopes of Kafka Connect, and come back plain.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use serde_json::{Value, json};
use support::{Bench, document};
use veilstream_engine::RejectCode;
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::reveal::{Decision, Revealer};

const FIELDS: &str = r#""fields":[
    {"id":"email","path":"$.email","required":true,"index":{"normalize":"email"}},
    {"id":"age","path":"$.age"},
    {"id":"phones","path":"$.phones[*]","index":{"normalize":"digits","bits":24}},
    {"id":"born","path":"$.born","protect":"generalize","to":"year"}]"#;

/// Of the values as they come.
fn schema() -> Value {
    json!({ "type": "struct", "fields": [
        { "field": "id", "type": "int64" },
        { "field": "email", "type": "string" },
        { "field": "age", "type": "int32" },
        { "field": "phones", "type": "array", "items": { "type": "int64" }, "optional": true },
        { "field": "born", "type": "int32", "optional": true },
        { "field": "vip", "type": "boolean", "optional": true },
        { "field": "score", "type": "double", "optional": true },
        { "field": "home", "type": "struct", "optional": true, "fields": [{ "field": "city", "type": "string" }] },
        { "field": "notes", "type": "map", "optional": true, "keys": { "type": "string" }, "values": { "type": "int8" } }
    ] })
}

fn members() -> String {
    format!(r#""envelope":{{"output":"connect","schema":{}}},{FIELDS}"#, schema())
}

const VALUE: &str = r#"{ "id":7,"email" : "Ada@x.example", "age":36,"phones":[4155550101],"vip":true,
    "home":{"city":"London"},"notes":{"a":1},"more":[1.50] }"#;

#[test]
fn a_plain_value_is_written_in_an_envelope_and_comes_back_byte_for_byte() {
    let mut bench = Bench::new(&members());
    let out = bench.protect(VALUE);
    let written: Value = serde_json::from_str(&out).unwrap();
    let text = |field: &str| json!({ "type": "string", "optional": true, "field": field });
    let mut expected = schema();
    let fields = expected["fields"].as_array_mut().unwrap();
    fields[4] = text("born");
    fields[3]["items"] = json!({ "type": "string", "optional": true });
    let index = json!({ "type": "array", "items": { "type": "string", "optional": true }, "optional": true, "field": "phones_bidx" });
    fields.insert(4, index);
    fields[2] = text("age");
    fields[1] = text("email");
    fields.insert(2, text("email_bidx"));
    assert_eq!(written["schema"], expected);
    for token in ["/email", "/age", "/phones/0"] {
        assert!(written["payload"].pointer(token).unwrap().as_str().unwrap().starts_with("vs1."));
    }
    assert_eq!(written.as_object().unwrap().len(), 2);
    assert_eq!(bench.reveal(&out).0, VALUE);

    // A row of a table has no envelope any more, and somebody may have written it in another way.
    let row = written["payload"].to_string();
    let (opened, report) = bench.reveal(&row);
    assert_eq!(
        serde_json::from_str::<Value>(&opened).unwrap(),
        serde_json::from_str::<Value>(VALUE).unwrap()
    );
    assert_eq!(report.unexpected_tokens, 0);
    assert_eq!(bench.reveal(&written.to_string()).0, opened);
}

#[test]
fn readers_are_told_paths_of_the_value() {
    let mut bench = Bench::new(&members());
    let value = VALUE.replace("[4155550101]", "[1,null,2]");
    let written: Value = serde_json::from_str(&bench.protect(&value)).unwrap();
    let mut row = written["payload"].clone();
    row["phones"][2] = json!("vs1.broken");
    row["more"] = written["payload"]["age"].clone();
    let (read, report) = bench.disclose(&row.to_string(), &[Decision::Reveal; 4]);
    let read: Value = serde_json::from_str(&read).unwrap();
    assert_eq!((&read["email"], &read["age"]), (&json!("Ada@x.example"), &json!(36)));
    assert_eq!(read["phones"], json!([1, null, null]));
    assert_eq!(report.unexpected_tokens, ["$['more']"]);
    let places: Vec<&str> =
        report.places.iter().filter_map(|place| place.path.as_deref()).collect();
    assert_eq!(places, ["$['phones'][0]", "$['phones'][1]", "$['phones'][2]"]);
}

/// Spans are those of the value that was given, in an envelope or without.
#[test]
fn places_are_told_where_they_stand() {
    let mut bench = Bench::new(&members());
    let out = bench.protect(VALUE);
    let row = serde_json::from_str::<Value>(&out).unwrap()["payload"].to_string();
    let text = document(&members());
    let schema = compile(text.as_bytes(), &Grants::local()).unwrap().schema;
    for value in [out, row] {
        let places = Revealer::default().places(&schema, value.as_bytes()).unwrap();
        let paths: Vec<&str> = places.iter().map(|place| &*place.path).collect();
        assert!(paths.contains(&"$['email']") && paths.contains(&"$['phones'][0]"), "{paths:?}");
        for place in places {
            assert!(value[place.span].starts_with("\"vs1."), "{}", place.path);
        }
        assert!(Revealer::default().claims(&schema, value.as_bytes()).unwrap());
    }
}

/// A sink stores 0 or false for what is of another type, without an error.
#[test]
fn a_value_of_another_type_is_rejected() {
    let mut bench = Bench::new(&members());
    for (from, to) in [
        ("\"id\":7,", "\"id\":\"7\","),
        ("\"id\":7,", "\"id\":7.5,"),
        ("\"id\":7,", "\"id\":9223372036854775808,"),
        ("\"vip\":true", "\"vip\":\"true\""),
        ("\"vip\":true", "\"score\":\"1\""),
        ("{\"city\":\"London\"}", "{\"city\":1}"),
        ("{\"city\":\"London\"}", "{\"city\":null}"),
        ("{\"city\":\"London\"}", "{}"),
        ("{\"city\":\"London\"}", "[]"),
        ("{\"a\":1}", "{\"a\":128}"),
        ("{\"a\":1}", "[1]"),
    ] {
        assert!(VALUE.contains(from));
        let rejected = bench.rejected(&VALUE.replace(from, to));
        assert_eq!(rejected, RejectCode::ConnectEnvelope, "{to}");
    }
    for (from, to) in [
        ("\"age\":36", "\"age\":null"),
        ("\"age\":36,", ""),
        ("\"age\":36", "\"age\":\"old\""),
        ("\"vip\":true", "\"vip\":null"),
        ("\"vip\":true,", ""),
        ("\"vip\":true", "\"score\":1"),
    ] {
        bench.there_and_back(&VALUE.replace(from, to));
    }
}

#[test]
fn what_is_no_plain_value_is_rejected() {
    let mut bench = Bench::new(&members());
    let envelope = bench.protect(VALUE);
    for (value, code) in [
        (&*envelope, RejectCode::ConnectEnvelope),
        ("null", RejectCode::MissingRequired),
        ("7", RejectCode::MissingRequired),
        ("", RejectCode::NotJson),
        (r#"{"id":7,"email":"a@x.example"}}"#, RejectCode::NotJson),
        (r#"{"id":7,"email":"a@x.example"},"payload":{"id":7}"#, RejectCode::NotJson),
        (r#"{"id":7,"#, RejectCode::NotJson),
    ] {
        assert_eq!(bench.rejected(value), code, "{value}");
    }
}

/// Documents of one topic may differ in whether they write envelopes.
#[test]
fn each_document_of_a_topic_writes_as_it_says() {
    let of = |name: &str, envelope: &str| {
        format!(
            r#"{{"veilstream":1,"name":"{name}","version":1,"when":{{"$.kind":"{name}"}}{envelope},
            "fields":[{{"id":"email","path":"$.email"}}]}}"#
        )
    };
    let schema = |field: &str| {
        format!(
            r#","envelope":{{"output":"connect","schema":{{"type":"struct","fields":[
            {{"field":"{field}","type":"string","optional":true}},{{"field":"email","type":"string"}}]}}}}"#
        )
    };
    let documents = [of("a", &schema("one")), of("b", ""), of("c", &schema("two"))];
    let mut bench = Bench::with(
        &documents.iter().map(|text| &**text).collect::<Vec<_>>(),
        support::keyring_of(
            ["a", "b", "c"]
                .map(|name| {
                    support::key(veilstream_engine::key::KeyKind::Data, &format!("schema:{name}"))
                })
                .into(),
        ),
    );
    for (kind, has) in [("a", Some("one")), ("b", None), ("c", Some("two"))] {
        let out = bench.protect(&format!(r#"{{"kind":"{kind}","email":"ada@x.example"}}"#));
        let out: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(out["schema"]["fields"][0]["field"].as_str(), has, "{out}");
    }
}

#[test]
fn what_an_envelope_cannot_say_is_a_fault() {
    let faults = |envelope: Value, fields: &str| -> Vec<String> {
        let text = document(&format!(r#""envelope":{envelope},"fields":[{fields}]"#));
        let faults = compile(text.as_bytes(), &Grants::local()).err().unwrap_or_default();
        faults.iter().map(|fault| format!("{}: {}", fault.pointer, fault.message)).collect()
    };
    let one = |envelope: Value, fields: &str, words: &str| {
        let found = faults(envelope.clone(), fields);
        assert!(found.len() == 1 && found[0].contains(words), "{envelope}: {found:?}");
    };
    let of = |fields: Value| json!({ "output": "connect", "schema": { "type": "struct", "fields": fields } });
    let email = r#"{"id":"email","path":"$.email","index":{"normalize":"email"}}"#;
    let good = of(json!([{ "field": "email", "type": "int64" }]));
    assert_eq!(faults(good.clone(), email), [""; 0]);
    one(
        json!({ "output": "connect" }),
        email,
        "/envelope: has no schema; `veilstream schema envelope`",
    );
    one(json!({ "schema": good["schema"] }), email, "/envelope: has no output; add");
    one(json!({ "output": "avro", "schema": good["schema"] }), email, "/envelope/output");
    one(
        json!({ "output": "connect", "schema": { "type": "string" } }),
        email,
        "must be \"struct\"",
    );
    one(of(json!({})), email, "/envelope/schema/fields: must be a list");
    one(
        of(json!([{ "field": "email", "type": "text" }])),
        email,
        "/envelope/schema/fields/0/type: must be one of",
    );
    one(of(json!([{ "type": "string" }])), email, "/envelope/schema/fields/0: has no field");
    one(
        of(json!([{ "field": "email", "type": "string" }, { "field": "email", "type": "string" }])),
        email,
        "/envelope/schema/fields/1/field: is there twice",
    );
    one(
        of(json!([{ "field": "email", "type": "string" }, { "field": "tags", "type": "array" }])),
        email,
        "/envelope/schema/fields/1: has no items",
    );
    one(
        of(
            json!([{ "field": "email", "type": "string" }, { "field": "m", "type": "map", "keys": { "type": "int8" }, "values": { "type": "int8" } }]),
        ),
        email,
        "/envelope/schema/fields/1/keys: must be of type \"string\"",
    );
    one(
        of(json!([{ "field": "mail", "type": "string" }])),
        email,
        "/fields/0/path: selects nothing that /envelope/schema describes",
    );
    one(
        of(
            json!([{ "field": "email", "type": "string" }, { "field": "email_bidx", "type": "string" }]),
        ),
        email,
        "/envelope/schema: describes a member that an index is written to",
    );
    one(
        good,
        r#"{"id":"email","path":"$.email","protect":"redact","with":0}"#,
        "/fields/0/with: has another type",
    );
}
