//! The JSON Schema for editors accepts and refuses what the compiler does.
#![allow(clippy::unwrap_used)]

#[path = "support/feed.rs"]
mod feed;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use veilstream::registry;
use veilstream_engine::compile::{Grants, compile};

use feed::feed;

#[test]
fn the_json_schema_accepts_the_shipped_documents() {
    let validator = validator();
    for file in registry::documents_in(&folder()).unwrap() {
        let faults: Vec<String> =
            validator.iter_errors(&read(&file)).map(|e| e.to_string()).collect();
        assert_eq!(faults, [""; 0], "{}", file.display());
    }
}

/// One change each, which the compiler refuses too.
#[test]
fn the_json_schema_refuses_what_the_compiler_refuses() {
    let validator = validator();
    let mut good = read(&folder().join("customers.json"));
    good["envelope"] = "connect".into();
    let changes: [(&str, Value); 53] = [
        ("/veilstream", json!(2)),
        ("/name", json!("Customers")),
        ("/name", json!("dead_letter")),
        ("/version", json!(0)),
        ("/topics/from", json!("customers raw")),
        ("/topics/from", Value::Null),
        ("/when", json!({ "$.type": [1] })),
        ("/when", json!({ "header:type": 1 })),
        ("/subject", json!("customer.id")),
        ("/subject", json!([])),
        ("/subject", json!(["$.customer.id", 1])),
        ("/subject", json!(["$.customer.id", "$.customer.id"])),
        ("/subject_domain", json!("Customers")),
        ("/fields/0/index", json!({ "normalize": "email", "distinct": 0 })),
        ("/fields/4", json!({ "id": "dob", "path": "$.dob", "epoch": "days" })),
        (
            "/fields/4",
            json!({ "id": "dob", "path": "$.dob", "protect": "generalize", "to": "year", "epoch": "seconds" }),
        ),
        ("/envelope", json!("avro")),
        ("/envelope", json!({ "output": "connect" })),
        ("/envelope", json!({ "output": "connect", "schema": { "type": "string" } })),
        (
            "/envelope",
            json!({ "output": "connect", "schema": { "type": "struct", "fields": [{ "type": "string" }] } }),
        ),
        (
            "/envelope",
            json!({ "output": "connect", "schema": { "type": "struct", "fields": [{ "field": "a", "type": "array" }] } }),
        ),
        ("/undeclared", json!("keep")),
        ("/fields/0/id", json!("E-Mail")),
        ("/fields/0/path", json!("email")),
        ("/fields/3/protect", json!("encript")),
        (
            "/fields/0",
            json!({ "id": "email", "path": "$.email", "protect": "drop", "index": { "normalize": "email" } }),
        ),
        ("/fields/1/mask", json!({})),
        ("/fields/1/mask", json!(4)),
        ("/fields/1/mask/keep_last", json!(0)),
        ("/fields/1/mask/keep_last", json!(1025)),
        ("/fields/1/mask", json!({ "keep_last": 4, "with": "#" })),
        ("/fields/1/tags", json!("contact")),
        ("/fields/1/tags", json!(["Contact"])),
        ("/fields/1/tags", json!([1])),
        ("/fields/1/tags", json!(["a", "a"])),
        ("/fields/1/tags", (0..33).map(|i| format!("t{i}")).collect()),
        (
            "/fields/4",
            json!({ "id": "dob", "path": "$.dob", "protect": "drop", "mask": { "keep_last": 4 } }),
        ),
        (
            "/fields/5",
            json!({ "id": "age", "path": "$.age", "type": "integer", "mask": { "keep_last": 4 } }),
        ),
        ("/fields/5", json!({ "id": "a", "path": "$.a", "format": "vault" })),
        ("/fields/5", json!({ "id": "a", "path": "$.a", "keys_file": "a" })),
        (
            "/fields/5",
            json!({ "id": "a", "path": "$.a", "format": "fernet", "passphrases_file": "a" }),
        ),
        ("/fields/5", json!({ "id": "a", "path": "$.a", "format": "fernet", "domain": "d" })),
        ("/fields/5", json!({ "id": "a", "path": "$.a", "format": "fernet", "keys_file": "" })),
        ("/fields/0/index/bits", json!(100)),
        ("/fields/0/index/normalize", json!("phone-USA")),
        ("/fields/1/type", json!("text")),
        ("/fields/1/bind/0", json!({ "path": "$.customer.id" })),
        ("/fields/3/root", json!(0)),
        ("/fields/4/to", json!("decade")),
        ("/fields/4/protect", json!("encrypt")),
        ("/key", json!({ "protect": "hash", "normalize": "exact" })),
        ("/key", json!({ "protect": "hash", "root": 1 })),
        ("/headers/x-user-email", json!({ "protect": "mask" })),
    ];
    for (pointer, value) in changes {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer} is not there")) =
            value.clone();
        assert!(!validator.is_valid(&bad), "the JSON Schema accepts {pointer} = {value}");
        assert!(
            compile(bad.to_string().as_bytes(), &Grants::local()).is_err(),
            "the compiler accepts {pointer} = {value}"
        );
    }
    for (place, member) in [
        ("", "feilds"),
        ("/fields/0", "indexes"),
        ("/fields/0/index", "bit"),
        ("/topics", "via"),
        ("/key", "salt"),
    ] {
        let mut bad = good.clone();
        bad.pointer_mut(place)
            .unwrap()
            .as_object_mut()
            .unwrap()
            .insert(member.to_owned(), json!(1));
        assert!(!validator.is_valid(&bad), "the JSON Schema accepts {place}/{member}");
        assert!(
            compile(bad.to_string().as_bytes(), &Grants::local()).is_err(),
            "the compiler accepts {place}/{member}"
        );
    }
}

#[test]
fn the_json_schema_accepts_forms_of_other_systems() {
    let document = json!({ "veilstream": 1, "name": "other", "fields": [
        { "id": "a", "path": "$.a", "format": "fernet", "type": "string", "keys_file": "keys/a" },
        { "id": "b", "path": "$.b", "format": "pgcrypto", "type": "integer", "null": "encrypt",
          "passphrases_file": "b", "index": { "normalize": "number" } },
        { "id": "c", "path": "$.c", "format": "fernet" }] });
    assert!(validator().is_valid(&document));
    compile(document.to_string().as_bytes(), &Grants::local()).unwrap();
}

/// Whatever the compiler knows, the JSON Schema lets through too.
#[test]
fn the_json_schema_accepts_every_kind() {
    let document = json!({
        "veilstream": 1, "name": "all", "subject": ["$.id", "$.old.id"], "subject_domain": "people", "subject_optional": true, "undeclared": "drop", "residue": "off", "clear": ["$.n"],
        "when": { "$.t": null, "header:kind": "x" },
        "fields": [
            { "id": "a", "path": "$.a", "pad": 0, "null": "encrypt", "format": "veilstream", "description": "a" },
            { "id": "b", "path": "$.b", "protect": "hash", "tags": ["a", "b-c_1"], "index": { "normalize": "number", "bits": 64, "domain": "d", "distinct": 1_000_000 } },
            { "id": "c", "path": "$.c", "protect": "mask", "keep_first": 1, "keep_last": 0, "with": "#" },
            { "id": "d", "path": "$.d", "protect": "generalize", "to": "bucket:10" },
            { "id": "dd", "path": "$.dd", "protect": "generalize", "to": "month", "epoch": "microseconds" },
            { "id": "e", "path": "$.e", "protect": "redact", "with": 0 },
            { "id": "f", "path": "$.f", "protect": "deterministic", "root": 2, "domain": "d", "type": "string", "mask": { "keep_first": 1, "keep_last": 1024 }, "tags": [] },
            { "id": "g", "path": "$.g", "index": { "normalize": "phone-de", "of": ["$.g", "$.h"], "into": "gh" } }
        ],
        "key": { "protect": "deterministic", "root": 1 },
        "headers": { "h": {}, "i": { "protect": "hash", "normalize": "exact", "root": 1 }, "j": { "protect": "drop" } }
    });
    let written = json!({
        "veilstream": 1, "name": "written", "fields": [{ "id": "a", "path": "$.a" }],
        "envelope": { "output": "connect", "schema": { "type": "struct", "optional": false, "name": "n", "version": 1, "fields": [
            { "field": "a", "type": "int32", "optional": true, "doc": "d", "parameters": {}, "default": 1 },
            { "field": "b", "type": "array", "items": { "type": "bytes" } },
            { "field": "c", "type": "map", "keys": { "type": "string" }, "values": { "type": "float" } }
        ] } }
    });
    for document in [document, written] {
        let faults: Vec<String> =
            validator().iter_errors(&document).map(|e| e.to_string()).collect();
        assert_eq!(faults, [""; 0]);
        compile(document.to_string().as_bytes(), &Grants::local()).unwrap();
    }
}

const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"fields":[
    {"id":"email","path":"$.email","required":true,"index":{"normalize":"email"}},
    {"id":"age","path":"$.age","type":"integer"},
    {"id":"city","path":"$.city","index":{"normalize":"text","bits":8}},
    {"id":"cards","path":"$.cards[*].number"},
    {"id":"born","path":"$.born","protect":"generalize","to":"year"},
    {"id":"legacy","path":"$.legacy","format":"fernet"},
    {"id":"sealed","path":"$.sealed","format":"pgcrypto"},
    {"id":"note","path":"$.note","protect":"drop"}]}"#;
const CONFIG: &str = r#"
[keys]
store = "sqlite:keys/keys.db"
[keys.file]
path = "keys/kek"
[interop.fernet]
keys_file = "fernet.keys"
[interop.pgcrypto]
passphrases_file = "passphrases"
"#;

/// What the command prints is true of what `transform` writes, while a root rotates too.
#[test]
fn sanitized_records_are_valid_under_the_json_schema_that_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let run = |args: &[&str], input: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
        command.args(args).current_dir(dir.path());
        let output = feed(command, input);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    // Short and long texts: ciphertexts of other systems have no least length but their own.
    let text = |n: usize| "x".repeat(n);
    let events: Vec<Value> = (0..50)
        .map(|n| match n % 5 {
            0 => json!({ "email": format!("{n}@x.org"), "age": n, "city": "Bonn", "n": n }),
            3 => json!({ "email": "b@x.org", "legacy": text(n - 3), "sealed": text(n - 3) }),
            1 => json!({ "email": "a@x.org", "city": null, "cards": [], "note": "gone" }),
            2 => json!({ "email": "-", "born": "1990-05-17", "cards": [{ "number": "41" }, {}] }),
            _ => json!({ "email": "b@x.org", "age": null, "more": { "list": [1, 2] }, "n": 1.5 }),
        })
        .collect();
    let events: String = events.iter().map(|event| format!("{event}\n")).collect();
    std::fs::write(dir.path().join("people.json"), DOCUMENT).unwrap();
    std::fs::write(dir.path().join("raw.ndjson"), &events).unwrap();
    for (name, content) in [
        ("veilstream.toml", CONFIG),
        ("fernet.keys", "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=\n"),
        ("passphrases", "correct horse\n"),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
    }
    run(&["keys", "init", "--keys", "keys"], "");

    let of = ["--schema", "people.json"];
    let printed =
        run(&[&["schema", "sanitized"], &of[..], &["--sample", "raw.ndjson"]].concat(), "");
    let schema: Value = serde_json::from_str(&printed).unwrap();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let transform = [&["transform", "--config", "veilstream.toml"], &of[..]].concat();
    let before = run(&transform, &events);
    run(&["keys", "rotate", "--keys", "keys", "--index"], "");
    let after = run(&transform, &events);
    assert!(after.contains("email_bidx_prev"), "one root is written");
    for line in before.lines().chain(after.lines()) {
        let faults: Vec<String> = validator
            .iter_errors(&serde_json::from_str(line).unwrap())
            .map(|fault| format!("{} {}", fault.instance_path(), fault.schema_path()))
            .collect();
        assert_eq!(faults, [""; 0], "{line}");
    }

    // What is not protected is found.
    let good: Value = serde_json::from_str(before.lines().next().unwrap()).unwrap();
    for (member, clear) in [
        ("email", json!("0@x.org")),
        ("email", json!(null)),
        ("age", json!(36)),
        ("city", json!("Bonn")),
        ("city_bidx", json!("Bonn")),
        ("cards", json!([{ "number": "41" }])),
        ("born", json!(["1990-05-17"])),
    ] {
        let mut bad = good.clone();
        bad[member] = clear;
        assert!(!validator.is_valid(&bad), "{member} in clear is valid");
    }
    let mut bad = good;
    bad.as_object_mut().unwrap().remove("email");
    assert!(!validator.is_valid(&bad), "the required field is missing");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas")
}

fn read(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn validator() -> jsonschema::Validator {
    let schema = read(&folder().join("veilstream.schema.json"));
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::draft202012::new(&schema).unwrap()
}
