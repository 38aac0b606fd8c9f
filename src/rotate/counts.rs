//! What stands in a table: tokens by key, indexes by root, and what is no token.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use veilstream_engine::key::KeyId;

/// A key, or the keys of data subjects together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyGroup {
    /// No newer key has taken its place.
    pub is_newest: bool,
    /// Its scope: `shared:customers`, `subject`, or `unknown` where the key store has no such key.
    pub scope: String,
    /// `None`: data subjects' keys, too many to list.
    pub kid: Option<KeyId>,
}

/// What stands in the columns of one field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldCounts {
    /// Tokens by key.
    pub keys: BTreeMap<KeyGroup, u64>,
    /// Rows, or elements of a list, without a value.
    pub nulls: u64,
    /// Tokens of erased data subjects: nothing opens them again.
    pub erased: u64,
    /// What does not open, by class; `clear` is no token at all.
    pub failed: BTreeMap<&'static str, u64>,
    /// Blind indexes by version of their root.
    pub indexes: BTreeMap<u32, u64>,
    /// Values without an index, where there is a column for it.
    pub without_index: u64,
    /// Tokens that are tied to no data subject, where the schema has one.
    pub without_subject: u64,
    /// Tokens that are bound to nothing, where the field is bound.
    pub without_binding: u64,
}

/// What stands in a table, by id of the field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Rows that were seen.
    pub rows: u64,
    /// By id of the field.
    pub fields: BTreeMap<String, FieldCounts>,
}

/// Tokens of one field while rows are read.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Of keys but data subjects'.
    pub(super) keys: HashMap<KeyId, u64>,
    /// Under data subjects' newest keys, and under older ones.
    pub(super) subjects: [u64; 2],
    pub(super) counts: FieldCounts,
}

impl FieldCounts {
    /// Tokens under keys that newer ones have taken the place of.
    #[must_use]
    pub fn old(&self) -> u64 {
        self.keys.iter().filter(|(key, _)| !key.is_newest).map(|(_, count)| count).sum()
    }

    /// Values that do not open.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// All that was looked at: each stands in one of the counts.
    pub(super) fn cells(&self) -> u64 {
        self.keys.values().sum::<u64>() + self.nulls + self.erased + self.failures()
    }

    fn json(&self) -> Value {
        let keys = self.keys.iter().map(|(key, tokens)| {
            json!({ "kid": key.kid.map(|kid| kid.to_string()), "scope": key.scope,
                "newest": key.is_newest, "tokens": tokens })
        });
        let indexes: BTreeMap<String, u64> =
            self.indexes.iter().map(|(version, count)| (version.to_string(), *count)).collect();
        json!({ "keys": keys.collect::<Vec<_>>(), "old": self.old(), "null": self.nulls,
            "erased": self.erased, "failed": self.failed, "indexes": indexes,
            "without_index": self.without_index, "without_subject": self.without_subject,
            "without_binding": self.without_binding })
    }
}

impl Counts {
    /// Tokens under old keys.
    #[must_use]
    pub fn old(&self) -> u64 {
        self.fields.values().map(FieldCounts::old).sum()
    }

    /// Values that do not open.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.fields.values().map(FieldCounts::failures).sum()
    }

    /// As JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let fields: BTreeMap<&String, Value> =
            self.fields.iter().map(|(id, counts)| (id, counts.json())).collect();
        json!({ "rows": self.rows, "fields": fields })
    }

    /// As lines of text.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (id, counts) in &self.fields {
            lines.push(id.clone());
            let mut line = |count: u64, what: &str| {
                if count > 0 {
                    lines.push(format!("  {count:>12}  {what}"));
                }
            };
            for (key, tokens) in &counts.keys {
                let name = key.kid.map_or_else(
                    || "keys of data subjects".to_owned(),
                    |kid| format!("{kid} {}", key.scope),
                );
                line(*tokens, &format!("{name}{}", if key.is_newest { "" } else { ", old" }));
            }
            line(counts.nulls, "null");
            line(counts.erased, "of erased data subjects");
            for (class, count) in &counts.failed {
                line(*count, &format!("do not open: {class}"));
            }
            for (version, count) in &counts.indexes {
                line(*count, &format!("indexes under root {version}"));
            }
            line(counts.without_index, "values without an index");
            line(counts.without_subject, "tied to no data subject");
            line(counts.without_binding, "bound to nothing");
        }
        lines
    }
}

/// The version of the root that an index is under.
pub(super) fn root_version(index: &[u8]) -> Option<u32> {
    let end = index.iter().position(|byte| *byte == b'~')?;
    std::str::from_utf8(&index[..end]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_old_is_told() {
        let key = |kid, is_newest| KeyGroup {
            is_newest,
            scope: "shared:people".to_owned(),
            kid: Some(KeyId([kid; 16])),
        };
        let people = KeyGroup { is_newest: false, scope: "subject".to_owned(), kid: None };
        let email = FieldCounts {
            keys: [(key(1, false), 3), (key(2, true), 4), (people, 5)].into(),
            failed: [("corrupt", 1)].into(),
            indexes: [(1, 2)].into(),
            ..FieldCounts::default()
        };
        let counts = Counts { rows: 13, fields: [("email".to_owned(), email)].into() };
        assert_eq!((counts.old(), counts.failures()), (8, 1));
        assert_eq!(
            counts.lines(),
            [
                "email",
                "             3  01010101010101010101010101010101 shared:people, old",
                "             5  keys of data subjects, old",
                "             4  02020202020202020202020202020202 shared:people",
                "             1  do not open: corrupt",
                "             2  indexes under root 1",
            ]
        );
        assert_eq!(counts.json()["fields"]["email"]["old"], 8);
        assert_eq!(
            [&b"12~ab"[..], b"~", b"x~", b"1"].map(root_version),
            [Some(12), None, None, None]
        );
    }
}
