//! The kit of malformed events in `tests/malformed`: each file's name says what becomes of it.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::path::Path;

use serde_json::Value;
use support::Bench;
use veilstream_engine::RejectCode;
use veilstream_engine::scan::Tape;
use veilstream_engine::transform::Outcome;

/// Every string or value named `email`, wherever it stands, with an index where one can be.
const SCHEMA: &str = r#""fields":[{"id":"email","path":"$..email","index":{"normalize":"email"}}]"#;

/// Grammatical documents that serde_json refuses: its depth limit is one lower, numbers must fit a
/// double, strings must have UTF-8 text.
const SERDE_REFUSES: [&str; 9] = [
    "y_depth_128_arrays",
    "y_depth_128_objects",
    "y_name_lone_surrogate",
    "y_number_huge_exponent",
    "y_number_many_digits",
    "y_string_high_then_plain",
    "y_string_lone_high_surrogate",
    "y_string_lone_low_surrogate",
    "y_string_reversed_surrogates",
];

fn kit() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/malformed");
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| {
            (
                path.file_stem().unwrap().to_string_lossy().into_owned(),
                std::fs::read(&path).unwrap(),
            )
        })
        .collect();
    // Too large to keep as files.
    let large = [
        ("y_string_1mb", format!("{{\"email\":\"{}\"}}", "x".repeat(1 << 20))),
        ("y_escapes_1mb", format!("{{\"email\":\"{}\"}}", "\\n".repeat(1 << 19))),
        (
            "y_members_100000",
            format!(
                "{{\"email\":1{}}}",
                (0..100_000).map(|i| format!(",\"m{i}\":{i}")).collect::<String>()
            ),
        ),
        ("n_too_deep_arrays_unclosed", "[".repeat(1 << 20)),
        ("n_too_deep_objects_unclosed", "{\"a\":".repeat(1 << 18)),
        ("n_not_json_string_unclosed_1mb", format!("\"{}", "x".repeat(1 << 20))),
    ];
    files.extend(large.map(|(name, text)| (name.to_owned(), text.into_bytes())));
    files.sort();
    assert!(files.len() > 190, "the kit is not here");
    files
}

#[test]
fn each_file_gets_its_verdict() {
    let mut bench = Bench::new(SCHEMA);
    for (name, bytes) in kit() {
        if name.starts_with("y_") {
            bench.there_and_back(std::str::from_utf8(&bytes).unwrap());
            continue;
        }
        let verdict = RejectCode::ALL
            .iter()
            .find(|code| {
                name.strip_prefix("n_").is_some_and(|rest| rest.starts_with(&format!("{code}_")))
            })
            .unwrap();
        match bench.outcome(&bytes) {
            Outcome::Rejected(reject) => assert_eq!(reject.code, *verdict, "{name}: {reject}"),
            other => panic!("{name}: {other:?}"),
        }
        assert!(bench.out.value.is_empty(), "{name} left something in the output");
    }
}

#[test]
fn serde_json_agrees_but_for_the_known_places() {
    let verdict = |bytes: &[u8]| {
        (Tape::default().scan(bytes).is_ok(), serde_json::from_slice::<Value>(bytes).is_ok())
    };
    let differ: Vec<String> = kit()
        .into_iter()
        .filter(|(_, bytes)| verdict(bytes).0 != verdict(bytes).1)
        .map(|(name, _)| name)
        .collect();
    assert_eq!(differ, SERDE_REFUSES);
}

#[test]
fn nothing_is_half_right_when_cut_short() {
    // No proper prefix of an object or array is a document; none may panic or pass.
    let mut bench = Bench::new(SCHEMA);
    for (name, bytes) in
        kit().into_iter().filter(|(name, bytes)| name.starts_with("y_") && bytes.len() < 2000)
    {
        let bytes = bytes.trim_ascii();
        if !bytes.starts_with(b"{") && !bytes.starts_with(b"[") {
            continue;
        }
        for end in 0..bytes.len() {
            assert!(
                matches!(bench.outcome(&bytes[..end]), Outcome::Rejected(_)),
                "{name} cut at {end}"
            );
        }
    }
}
