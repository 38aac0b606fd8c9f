//! Filters: one container as a small tree that jsonpath-rust judges.

use jsonpath_rust::parser::model::JpQuery;
use jsonpath_rust::query::js_path_process;
use jsonpath_rust::query::queryable::Queryable;

use crate::scan::{Kind, Tape, unescape};

/// A value with the index of the node it was made from.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    node: u32,
    value: Value,
}

#[derive(Debug, Clone, Default)]
enum Value {
    #[default]
    Null,
    Bool(bool),
    Integer(i64),
    Float(f64),
    String(String),
    Array(Vec<Tree>),
    Object(Vec<(String, Tree)>),
}

impl Tree {
    /// The tree below a node. Depth is bounded by the scanner.
    pub(super) fn new(doc: &[u8], tape: &Tape, node: u32) -> Self {
        let n = &tape.nodes()[node as usize];
        let text = std::str::from_utf8(&doc[n.span()]).unwrap_or_default();
        let value = match n.kind {
            Kind::Null => Value::Null,
            Kind::Bool => Value::Bool(text == "true"),
            Kind::Number => text.parse().map_or_else(|_| Value::Float(text.parse().unwrap_or(f64::NAN)), Value::Integer),
            Kind::String => Value::String(string(&doc[n.inner()])),
            Kind::Array => Value::Array(tape.children(node).map(|c| Self::new(doc, tape, c)).collect()),
            Kind::Object => Value::Object(tape.children(node).map(|c| (string(&doc[tape.nodes()[c as usize].name()]), Self::new(doc, tape, c))).collect()),
        };
        Self { node, value }
    }

    /// The nodes `query` selects in this tree, appended to `out`.
    pub(super) fn select(&self, query: &JpQuery, out: &mut Vec<u32>) {
        // jsonpath-rust answers an error only for a query that yields a value, which a path never does.
        if let Ok(found) = js_path_process(query, self) {
            out.extend(found.iter().map(|f| f.val.node));
        }
    }
}

/// Unescaped text; a lone surrogate, which no filter can name, becomes U+FFFD.
fn string(inner: &[u8]) -> String {
    let mut out = Vec::new();
    if !unescape(inner, &mut out) {
        out.extend_from_slice("\u{fffd}".as_bytes());
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl PartialEq for Tree {
    /// JSON equality: the order of members says nothing.
    fn eq(&self, other: &Self) -> bool {
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(a), Value::Bool(b)) => a == b,
            (Value::Integer(a), Value::Integer(b)) => a == b,
            (Value::Float(a), Value::Float(b)) => a == b,
            (Value::String(a), Value::String(b)) => a == b,
            (Value::Array(a), Value::Array(b)) => a == b,
            (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(name, tree)| other.get(name) == Some(tree)),
            _ => false,
        }
    }
}

macro_rules! from {
    ($($t:ty, $make:expr);* $(;)?) => {$(
        impl From<$t> for Tree {
            fn from(v: $t) -> Self {
                Self { node: 0, value: $make(v) }
            }
        }
    )*};
}
from! {
    bool, Value::Bool;
    i64, Value::Integer;
    f64, Value::Float;
    String, Value::String;
    Vec<Tree>, Value::Array;
}

impl From<&str> for Tree {
    fn from(text: &str) -> Self {
        Self::from(text.to_owned())
    }
}

impl Queryable for Tree {
    fn get(&self, key: &str) -> Option<&Self> {
        // The last of two equal names, like serde_json; such documents are rejected when it matters.
        let Value::Object(members) = &self.value else { return None };
        members.iter().rev().find(|(name, _)| name == key).map(|(_, tree)| tree)
    }

    fn as_array(&self) -> Option<&Vec<Self>> {
        if let Value::Array(items) = &self.value { Some(items) } else { None }
    }

    fn as_object(&self) -> Option<Vec<(&str, &Self)>> {
        let Value::Object(members) = &self.value else { return None };
        Some(members.iter().map(|(name, tree)| (name.as_str(), tree)).collect())
    }

    fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = &self.value { Some(text) } else { None }
    }

    fn as_i64(&self) -> Option<i64> {
        if let Value::Integer(n) = self.value { Some(n) } else { None }
    }

    fn as_f64(&self) -> Option<f64> {
        match self.value {
            Value::Integer(n) => Some(n as f64),
            Value::Float(n) => Some(n),
            _ => None,
        }
    }

    fn as_bool(&self) -> Option<bool> {
        if let Value::Bool(b) = self.value { Some(b) } else { None }
    }

    fn null() -> Self {
        Self::default()
    }
}
