//! serde_json and jsonpath-rust as second opinions.

use std::collections::HashMap;

use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use serde_json::Value;
use veilstream_engine::scan::Tape;

/// The document as serde_json reads it, where both readers mean the same by it: no name stands
/// twice.
pub(super) fn value(doc: &[u8]) -> Option<Value> {
    let value = serde_json::from_slice(doc).ok()?;
    let mut tape = Tape::default();
    tape.scan(doc).expect("serde_json takes no wrong document");
    (!tape.any_duplicate_member(doc)).then_some(value)
}

/// Addresses of the nodes a path selects.
pub(super) fn selected(path: &str, value: &Value) -> Vec<*const Value> {
    let query = parse_json_path(path).expect("the engine parses with it");
    js_path_process(&query, value)
        .expect("a path")
        .into_iter()
        .map(|found| std::ptr::from_ref(found.val()))
        .collect()
}

/// JSON pointers of all nodes by their address.
pub(super) fn pointers(value: &Value) -> HashMap<*const Value, String> {
    let mut out = HashMap::new();
    note(value, String::new(), &mut out);
    out
}

fn note(value: &Value, at: String, out: &mut HashMap<*const Value, String>) {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| note(v, format!("{at}/{i}"), out))
        }
        Value::Object(map) => map.iter().for_each(|(k, v)| note(v, step(&at, k), out)),
        _ => {}
    }
    out.insert(value, at);
}

/// A JSON pointer one member longer.
pub(super) fn step(at: &str, name: &str) -> String {
    format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"))
}
