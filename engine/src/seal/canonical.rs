//! Canonical JSON (RFC 8785) for deterministic fields, with the stricter rules of docs/formats.md,
//! from the node table.

use crate::scan::{Kind, Node, Tape, canonical_escapes, unescape};

/// Largest integer whose double is exact: 2^53 - 1.
const MAX_SAFE: u64 = (1 << 53) - 1;

/// Writes the canonical form of the JSON text `text` to `out`, or says `false` for what is outside
/// the rules: a number that is no integer within plus or minus 2^53 - 1, `-0`, a duplicate member,
/// a lone surrogate, or no JSON text at all.
pub fn canonical_json(text: &[u8], tape: &mut Tape, out: &mut Vec<u8>) -> bool {
    out.clear();
    tape.scan(text).is_ok() && canonical_node(text, tape, 0, out)
}

/// [`canonical_json`] of one node of a scanned document; replaces the content of `out`.
pub(crate) fn canonical_node(doc: &[u8], tape: &Tape, node: u32, out: &mut Vec<u8>) -> bool {
    out.clear();
    Writer { doc, tape, names: Vec::new() }.value(node, out)
}

struct Writer<'d> {
    doc: &'d [u8],
    tape: &'d Tape,
    /// Unescaped names of the objects being written, one after another.
    names: Vec<u8>,
}

/// A member of an object: its name in `Writer::names`, and its node.
struct Member {
    start: usize,
    end: usize,
    node: u32,
}

impl Writer<'_> {
    /// Depth is bounded by the scanner. Scalars allocate nothing: most deterministic fields are
    /// scalars.
    fn value(&mut self, index: u32, out: &mut Vec<u8>) -> bool {
        let node = &self.tape.nodes()[index as usize];
        match node.kind {
            Kind::Object => self.object(index, out),
            Kind::Array => self.array(index, out),
            Kind::String => string(&self.doc[node.inner()], out),
            Kind::Number if !is_safe_integer(&self.doc[node.span()]) => false,
            Kind::Number | Kind::Bool | Kind::Null => {
                out.extend_from_slice(&self.doc[node.span()]);
                true
            }
        }
    }

    fn array(&mut self, index: u32, out: &mut Vec<u8>) -> bool {
        out.push(b'[');
        for (i, element) in self.tape.children(index).enumerate() {
            if i > 0 {
                out.push(b',');
            }
            if !self.value(element, out) {
                return false;
            }
        }
        out.push(b']');
        true
    }

    fn object(&mut self, index: u32, out: &mut Vec<u8>) -> bool {
        let start = self.names.len();
        let Some(members) = self.members(index) else { return false };
        out.push(b'{');
        for (i, member) in members.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            let Node { name_start, name_end, .. } = self.tape.nodes()[member.node as usize];
            if !string(&self.doc[name_start as usize..name_end as usize], out) {
                return false;
            }
            out.push(b':');
            if !self.value(member.node, out) {
                return false;
            }
        }
        out.push(b'}');
        self.names.truncate(start);
        true
    }

    /// The members in the order of RFC 8785; `None` for a name that stands twice or has no text.
    fn members(&mut self, index: u32) -> Option<Vec<Member>> {
        let mut members = Vec::with_capacity(self.tape.nodes()[index as usize].count as usize);
        for node in self.tape.children(index) {
            let start = self.names.len();
            if !unescape(&self.doc[self.tape.nodes()[node as usize].name()], &mut self.names) {
                return None;
            }
            members.push(Member { start, end: self.names.len(), node });
        }
        let name = |m: &Member| &self.names[m.start..m.end];
        members.sort_unstable_by(|a, b| utf16_order(name(a)).cmp(utf16_order(name(b))));
        let twice = members.windows(2).any(|pair| name(&pair[0]) == name(&pair[1]));
        (!twice).then_some(members)
    }
}

/// The bytes of UTF-8 so that they sort as UTF-16 does (RFC 8785, section 3.2.3): characters beyond
/// U+FFFF are surrogates there, which come before U+E000 to U+FFFF.
fn utf16_order(utf8: &[u8]) -> impl Iterator<Item = u8> {
    // First bytes 0xee and 0xef begin U+E000 to U+FFFF, 0xf0 to 0xf4 what lies beyond; none of
    // these is ever a later byte.
    utf8.iter().map(|b| match b {
        0xee | 0xef => b + 0x10,
        0xf0..=0xf4 => b - 2,
        b => *b,
    })
}

fn string(inner: &[u8], out: &mut Vec<u8>) -> bool {
    out.push(b'"');
    let whole = canonical_escapes(inner, out);
    out.push(b'"');
    whole
}

fn is_safe_integer(text: &[u8]) -> bool {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if text == b"-0" || digits.len() > 16 || !digits.iter().all(u8::is_ascii_digit) {
        return false;
    }
    let value = digits.iter().fold(0_u64, |n, d| n * 10 + u64::from(d - b'0'));
    value <= MAX_SAFE
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn canonical(text: &str) -> Option<String> {
        let mut out = b"left over".to_vec();
        canonical_json(text.as_bytes(), &mut Tape::default(), &mut out)
            .then(|| String::from_utf8(out).unwrap())
    }

    #[test]
    fn what_is_outside_the_rules_has_no_form() {
        for text in [
            "1.0",
            "1e2",
            "-0",
            "9007199254740992",
            r#"{"a":1,"a":1}"#,
            r#"{"a":[{"b":1,"\u0062":2}]}"#,
            r#""\ud800""#,
            r#"{"\udc00":1}"#,
            r#"[{"a":[0.5]}]"#,
            "",
            "{",
        ] {
            assert_eq!(canonical(text), None, "{text}");
        }
    }

    /// A name that some library reads as a value of its own is a name like any other.
    #[test]
    fn every_name_is_a_name() {
        for text in [
            r#"{"$serde_json::private::RawValue":"1.5"}"#,
            r#"{"$serde_json::private::Number":"7"}"#,
        ] {
            assert_eq!(canonical(text).as_deref(), Some(text));
        }
        assert_eq!(canonical(r#"{"$serde_json::private::RawValue":1.5}"#), None);
    }

    #[test]
    fn names_sort_as_utf_16_does() {
        let text = "{\"\u{fb33}\":1,\"\u{1f600}\":2,\"\u{20ac}\":3,\"\\u000d\":4,\"1\":5,\"\u{f6}\":6,\"\u{e000}\":7,\"\":8}";
        assert_eq!(
            canonical(text).unwrap(),
            "{\"\":8,\"\\r\":4,\"1\":5,\"\u{f6}\":6,\"\u{20ac}\":3,\"\u{1f600}\":2,\"\u{e000}\":7,\"\u{fb33}\":1}"
        );
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-(1_i64 << 53) + 1..1 << 53).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(
                    "[a\\n\u{e9}\u{e000}-\u{ffff}\u{10000}-\u{10ffff}]{0,3}",
                    inner,
                    0..5
                )
                .prop_map(|m| Value::Object(Map::from_iter(m))),
            ]
        })
    }

    proptest! {
        /// An implementation of the same rules that is not ours.
        #[test]
        fn as_the_library_writes_it(value in value()) {
            let text = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(canonical(text.trim()).map(String::into_bytes), serde_json_canonicalizer::to_vec(&value).ok());
        }
    }
}
