//! The shipped schema documents: their cases hold, and cases can fail.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use veilstream::cases::{self, CaseReading, Cases, Runner};
use veilstream::registry;
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::reveal::Decision;

#[test]
fn every_shipped_document_has_cases_and_they_hold() {
    let mut files = registry::documents_in(&folder()).unwrap();
    files.iter_mut().for_each(|f| *f = f.file_name().unwrap().into());
    assert_eq!(
        files,
        ["customers.json", "debezium-customers.json", "github-webhooks.json", "orders.json"]
            .map(PathBuf::from)
    );
    for file in files.iter().map(|name| folder().join(name)) {
        let schema = compile(&std::fs::read(&file).unwrap(), &Grants::local()).unwrap().schema;
        let mut runner = Runner::new(Arc::new(schema)).unwrap();
        let cases = Cases::parse(&std::fs::read(cases::file_of(&file)).unwrap()).unwrap();
        for case in &cases.cases {
            assert_eq!(runner.run(case).unwrap(), [""; 0], "{}: {}", file.display(), case.name);
        }
    }
}

#[test]
fn the_shipped_documents_work_together() {
    let loaded =
        registry::open_files(&registry::documents_in(&folder()).unwrap(), &Grants::local())
            .unwrap();
    assert_eq!(loaded.warnings, []);
}

/// What a case misses must show: a schema that protects less fails its cases.
#[test]
fn cases_see_what_is_not_protected() {
    let document =
        |fields: &str| format!(r#"{{"veilstream":1,"name":"people","fields":[{fields}]}}"#);
    let case = |out: &str| {
        format!(r#"{{"cases":[{{"name":"c","in":{{"value":{{"email":"A@b.c"}}}},{out}}}]}}"#)
    };
    let run = |fields: &str, out: &str| {
        let schema =
            Arc::new(compile(document(fields).as_bytes(), &Grants::local()).unwrap().schema);
        Runner::new(schema)
            .unwrap()
            .run(&Cases::parse(case(out).as_bytes()).unwrap().cases[0])
            .unwrap()
    };
    let indexed = r#"{"id":"email","path":"$.email","index":{"normalize":"email"}}"#;
    let whole = r#""out":{"value":{"email":{"$token":"A@b.c"},"email_bidx":{"$index":"a@b.c"}}}"#;
    assert_eq!(run(indexed, whole), [""; 0]);
    let plain = r#"{"id":"email","path":"$.email"}"#;
    assert_eq!(
        run(plain, whole),
        [r#"/out/value/email_bidx: expected {"$index":"a@b.c"}, got nothing"#]
    );
    let elsewhere = r#"{"id":"email","path":"$.mail"}"#;
    assert_eq!(
        run(elsewhere, r#""out":{"value":{"email":{"$token":"A@b.c"}}}"#),
        [r#"/out/value/email: expected {"$token":"A@b.c"}, got "A@b.c""#]
    );
    assert_eq!(
        run(plain, r#""out":{"value":{"email":{"$token":"a@b.c"}}}"#),
        [r#"/out/value/email/$token: expected "a@b.c", got "A@b.c""#]
    );
    assert_eq!(
        run(plain, r#""reject":"wrong_type""#),
        [
            r#"/reject: expected "wrong_type", got nothing"#,
            r#"/out: expected nothing, got {"value":{"email":{"$token":"A@b.c"}}}"#
        ]
    );
}

/// What readers of the shipped customers see of the first case.
#[test]
fn cases_are_read_under_decisions() {
    let file = folder().join("customers.json");
    let schema = compile(&std::fs::read(&file).unwrap(), &Grants::local()).unwrap().schema;
    let fields = schema.fields.len();
    let mut runner = Runner::new(Arc::new(schema)).unwrap();
    let cases = Cases::parse(&std::fs::read(cases::file_of(&file)).unwrap()).unwrap().cases;
    let mut read = |case, decision| runner.read(case, &vec![decision; fields]).unwrap();
    let support = read(&cases[0], Decision::Mask).unwrap();
    assert_eq!(
        support.value["customer"],
        json!({ "id": 17, "email": null, "ssn": "********1120", "phone": "********1111", "dob": null, "address": null })
    );
    assert_eq!(support.value["payments"][0]["card"], "********1111");
    let statuses = |reading: &CaseReading| {
        let told: Vec<String> =
            reading.fields.iter().map(|(id, s)| format!("{id} {}", s.as_str())).collect();
        told.join(", ")
    };
    assert_eq!(
        statuses(&support),
        "email denied, ssn masked, phone masked, card masked, dob denied, address denied, notes denied"
    );
    let fraud = read(&cases[0], Decision::Reveal).unwrap();
    assert_eq!(fraud.value["customer"]["email"], "Ada.Lovelace@EXAMPLE.com");
    assert_eq!(fraud.value["customer"]["address"], json!({ "city": "London" }));
    assert_eq!(
        statuses(&fraud),
        "email revealed, ssn revealed, phone revealed, card revealed, dob absent, address revealed, notes absent"
    );
    let rejected = cases.iter().find(|case| case.name == "no ssn").unwrap();
    assert_eq!(read(rejected, Decision::Reveal), None);
    let tombstone = cases.iter().find(|case| case.name == "a tombstone").unwrap();
    assert_eq!(read(tombstone, Decision::Reveal), None);
}

#[test]
fn faulty_cases_are_refused() {
    for (text, said) in [
        ("{", "is no file of cases"),
        (r#"{"cases":[]}"#, "is empty"),
        (r#"{"cases":[{"name":"c","in":{}}]}"#, "/cases/0: needs either"),
        (
            r#"{"cases":[{"name":"c","in":{},"reject":"odd"}]}"#,
            "/cases/0/reject: must be one of not_json",
        ),
        (
            r#"{"cases":[{"name":"c","in":{"value":1,"text":"1"},"reject":"not_json"}]}"#,
            "/cases/0/in",
        ),
        (r#"{"cases":[{"name":"c","in":{},"out":{},"field":"email"}]}"#, "/cases/0/field"),
        (r#"{"cases":[{"name":"c","in":{},"output":{}}]}"#, "unknown field `output`"),
    ] {
        let error = Cases::parse(text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}
