//! Steps as a path that an author can write.

use std::fmt::Write;

use super::model::{Selector, Step};

/// A path that selects what the steps select; where they have a filter, more.
pub(crate) fn path(steps: &[Step]) -> String {
    let mut out = String::from("$");
    for step in steps {
        let selectors: Vec<String> = step.selectors.iter().map(selector).collect();
        match &step.selectors[..] {
            [Selector::Name(name)] if is_plain(name) => {
                out.push_str(if step.descendant { ".." } else { "." })
            }
            _ => out.push_str(if step.descendant { "..[" } else { "[" }),
        }
        match &step.selectors[..] {
            [Selector::Name(name)] if is_plain(name) => out.push_str(name),
            _ => out.extend([selectors.join(",").as_str(), "]"]),
        }
    }
    out
}

/// As the shorthand `.name` takes it.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn selector(selector: &Selector) -> String {
    let number = |n: &Option<i64>| n.map(|n| n.to_string()).unwrap_or_default();
    match selector {
        Selector::Name(name) => quoted(name),
        Selector::Index(index) => index.to_string(),
        Selector::Slice(start, end, None) => format!("{}:{}", number(start), number(end)),
        Selector::Slice(start, end, step) => {
            format!("{}:{}:{}", number(start), number(end), number(step))
        }
        Selector::Wildcard | Selector::Filter(_) => "*".to_owned(),
    }
}

/// A name in quotes, as a path takes it.
pub(super) fn quoted(name: &str) -> String {
    let mut quoted = String::from("'");
    for c in name.chars() {
        match c {
            '\'' | '\\' => quoted.extend(['\\', c]),
            // RFC 9535 takes no bare control characters. Writing to a string never fails.
            c if c < ' ' => drop(write!(quoted, "\\u{:04x}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    quoted + "'"
}
