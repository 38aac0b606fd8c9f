//! Reading a JSON document by hand, so that every fault is found and each has its place.

use serde_json::{Map, Value};

use crate::error::{Fault, Severity};
use crate::scan::{Kind, NO_PARENT, Tape, unescape};

/// Collects faults.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) faults: Vec<Fault>,
}

impl Reader {
    pub(super) fn error(&mut self, pointer: &str, message: impl Into<String>) {
        self.push(pointer, message, Severity::Error);
    }

    pub(super) fn warning(&mut self, pointer: &str, message: impl Into<String>) {
        self.push(pointer, message, Severity::Warning);
    }

    fn push(&mut self, pointer: &str, message: impl Into<String>, severity: Severity) {
        self.faults.push(Fault { pointer: pointer.to_owned(), message: message.into(), severity });
    }

    /// The value as an object with no members but `known`.
    pub(super) fn object<'v>(
        &mut self,
        at: &str,
        value: &'v Value,
        known: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let Some(map) = value.as_object() else {
            self.error(at, format!("must be an object, not {}", kind(value)));
            return None;
        };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            let hint = closest(name, known).map_or_else(
                || format!("known members are {}", known.join(", ")),
                |k| format!("did you mean {k}?"),
            );
            self.error(&join(at, name), format!("unknown member; {hint}"));
        }
        Some(map)
    }

    pub(super) fn string<'v>(
        &mut self,
        at: &str,
        map: &'v Map<String, Value>,
        name: &str,
    ) -> Option<&'v str> {
        let value = map.get(name)?;
        let text = value.as_str();
        if text.is_none() {
            self.error(&join(at, name), format!("must be a string, not {}", kind(value)));
        }
        text
    }

    pub(super) fn required_string<'v>(
        &mut self,
        at: &str,
        map: &'v Map<String, Value>,
        name: &str,
        example: &str,
    ) -> Option<&'v str> {
        if !map.contains_key(name) {
            self.error(at, format!("has no {name}; add \"{name}\": {example}"));
        }
        self.string(at, map, name)
    }

    pub(super) fn boolean(&mut self, at: &str, map: &Map<String, Value>, name: &str) -> bool {
        match map.get(name) {
            None => false,
            Some(Value::Bool(b)) => *b,
            Some(other) => {
                self.error(&join(at, name), format!("must be true or false, not {}", kind(other)));
                false
            }
        }
    }

    /// An integer in `range`, or `default` when absent.
    pub(super) fn integer(
        &mut self,
        at: &str,
        map: &Map<String, Value>,
        name: &str,
        range: std::ops::RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        let Some(value) = map.get(name) else { return default };
        match value.as_u64().filter(|n| range.contains(n)) {
            Some(n) => n,
            None => {
                self.error(
                    &join(at, name),
                    format!("must be a whole number from {} to {}", range.start(), range.end()),
                );
                default
            }
        }
    }

    /// One of a closed set of words; `default` (the first) when absent or wrong.
    pub(super) fn choice<T: Copy>(
        &mut self,
        at: &str,
        map: &Map<String, Value>,
        name: &str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let value = map.get(name)?;
        let found = value.as_str().and_then(|text| choices.iter().find(|c| c.0 == text));
        if found.is_none() {
            let words: Vec<String> = choices.iter().map(|c| format!("\"{}\"", c.0)).collect();
            self.error(&join(at, name), format!("must be one of {}", words.join(", ")));
        }
        found.map(|c| c.1)
    }

    /// A name by the grammar of names and ids.
    pub(super) fn name(&mut self, at: &str, text: &str) -> bool {
        let good = is_name(text);
        if !good {
            self.error(
                at,
                "must match [a-z][a-z0-9_-]{0,63}: lower-case letters, digits, _ and -, \
                starting with a letter",
            );
        }
        good
    }
}

/// `[a-z][a-z0-9_-]{0,63}`.
pub(super) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// Parses the document; a duplicate member is a fault, because readers disagree about which one
/// counts.
pub(super) fn parse(document: &[u8], reader: &mut Reader) -> Option<Value> {
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    let value = match serde_json::from_slice::<Value>(document) {
        Ok(mut value) => {
            // What a document means and how its faults are told must not depend on which crates
            // a build has: some switch on `preserve_order`.
            value.sort_all_objects();
            value
        }
        Err(e) => {
            reader.error(
                "",
                format!(
                    "is not JSON: line {}, column {}; write one JSON object",
                    e.line(),
                    e.column()
                ),
            );
            return None;
        }
    };
    let mut tape = Tape::default();
    if tape.scan(document).is_ok() {
        report_duplicates(document, &tape, reader);
    }
    Some(value)
}

fn report_duplicates(document: &[u8], tape: &Tape, reader: &mut Reader) {
    let name = |index: u32| {
        let mut name = Vec::new();
        unescape(&document[tape.nodes()[index as usize].name()], &mut name);
        String::from_utf8_lossy(&name).into_owned()
    };
    for (index, _) in tape.nodes().iter().enumerate().filter(|(_, n)| n.kind == Kind::Object) {
        let mut seen = std::collections::HashSet::new();
        for child in tape.children(index as u32) {
            if !seen.insert(name(child)) {
                reader.error(&pointer(tape, child, &name), "stands twice in this object; keep one");
            }
        }
    }
}

fn pointer(tape: &Tape, index: u32, name: &dyn Fn(u32) -> String) -> String {
    let node = &tape.nodes()[index as usize];
    if node.parent == NO_PARENT {
        return String::new();
    }
    let step = if node.is_member() {
        name(index)
    } else {
        tape.children(node.parent).position(|c| c == index).unwrap_or_default().to_string()
    };
    join(&pointer(tape, node.parent, name), &step)
}

/// A JSON pointer one step longer (RFC 6901).
pub(super) fn join(at: &str, step: &str) -> String {
    format!("{at}/{}", step.replace('~', "~0").replace('/', "~1"))
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The known name at most two edits away.
pub(super) fn closest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    known
        .iter()
        .copied()
        .map(|k| (edits(name, k), k))
        .filter(|(d, _)| *d <= 2)
        .min()
        .map(|(_, k)| k)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
