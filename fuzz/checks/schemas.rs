//! Schema documents: arbitrary bytes compile or are refused with faults that have places.

use serde_json::Value;
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::error::{Fault, Severity};
use veilstream_engine::scan::Tape;

/// No value longer than this is quoted in a message.
const LONGEST_QUOTED: usize = 64;

/// Input: a schema document, perhaps. Whether it compiles.
pub fn schemas(data: &[u8]) -> bool {
    let judged = |grants: &Grants| match compile(data, grants) {
        Ok(compiled) => {
            assert!(compiled.warnings.iter().all(|fault| fault.severity == Severity::Warning));
            (true, compiled.warnings)
        }
        Err(faults) => {
            assert!(
                faults.iter().any(|fault| fault.severity == Severity::Error),
                "refused for nothing"
            );
            (false, faults)
        }
    };
    let (compiles, faults) = judged(&Grants::local());
    assert_eq!(judged(&Grants::local()).1, faults, "the same document, other faults");
    let (strictly, strict) = judged(&Grants::default());
    assert!(compiles || !strictly, "granting more refuses it");
    for faults in [&faults, &strict] {
        for (i, fault) in faults.iter().enumerate() {
            assert!(!faults[..i].contains(fault), "told twice: {fault:?}");
            check(fault, data);
        }
    }
    compiles
}

fn check(fault: &Fault, document: &[u8]) {
    assert!(!fault.message.is_empty(), "{fault:?}");
    assert!(fault.pointer.is_empty() || fault.pointer.starts_with('/'), "{fault:?}");
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let Ok(value) = serde_json::from_slice::<Value>(document) else {
        assert!(fault.pointer.is_empty() && fault.message.starts_with("is not JSON"), "{fault:?}");
        return;
    };
    let mut tape = Tape::default();
    // Below the first of two equal names serde_json sees nothing.
    if tape.scan(document).is_ok() && !tape.any_duplicate_member(document) {
        // A member that lacks is named by its own pointer; what it should stand in is there.
        let (parent, _) = fault.pointer.rsplit_once('/').unwrap_or_default();
        assert!(value.pointer(parent).is_some(), "{fault:?} points nowhere");
    }
    let mut long = Vec::new();
    long_texts(&value, &mut long);
    let quoted = long.iter().find(|text| fault.message.contains(**text));
    assert_eq!(quoted, None, "{fault:?} quotes too much");
}

fn long_texts<'v>(value: &'v Value, out: &mut Vec<&'v str>) {
    let mut add = |text: &'v str| {
        if text.chars().count() > LONGEST_QUOTED {
            out.push(text);
        }
    };
    match value {
        Value::String(text) => add(text),
        Value::Array(items) => items.iter().for_each(|v| long_texts(v, out)),
        Value::Object(map) => {
            map.keys().for_each(|name| add(name));
            map.values().for_each(|v| long_texts(v, out));
        }
        _ => {}
    }
}
