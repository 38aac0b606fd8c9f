//! Where what became of an event differs from what must.

use serde_json::Value;

/// Says where two values differ, by JSON pointer.
pub(super) fn compare(
    at: &str,
    expected: Option<&Value>,
    actual: Option<&Value>,
    differences: &mut Vec<String>,
) {
    match (expected, actual) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            for name in a.keys().chain(b.keys().filter(|name| !a.contains_key(*name))) {
                let step = name.replace('~', "~0").replace('/', "~1");
                compare(&format!("{at}/{step}"), a.get(name), b.get(name), differences);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            (0..a.len().max(b.len()))
                .for_each(|i| compare(&format!("{at}/{i}"), a.get(i), b.get(i), differences));
        }
        (a, b) if a == b => {}
        (a, b) => {
            let show = |value: Option<&Value>| {
                value.map_or_else(|| "nothing".to_owned(), Value::to_string)
            };
            differences.push(format!("{at}: expected {}, got {}", show(a), show(b)));
        }
    }
}
