//! Kinds of paths, and events that grow: what `benches/growth.rs` measures and `memory.rs` bounds.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use veilstream_engine::key::{KeyKind, Scope};
use veilstream_engine::subject::subject_reference;

use super::support::{Bench, TENANT, key};

/// (kind, path of field n, members of the document)
pub type Kind = (&'static str, fn(usize) -> String, &'static str);

pub const KINDS: [Kind; 13] = [
    ("`$.x[*].f`", |n| format!("$.x[*].f{n}"), r#""residue":"off""#),
    ("`$..f`", |n| format!("$..f{n}"), r#""residue":"off""#),
    ("`[?@.f].f`", |n| format!("$.x[?@.f{n}].f{n}"), r#""residue":"off""#),
    ("`[?@.k == 'text'].f`", |n| format!("$.x[?@.k == 'k{n}z'].f{n}"), r#""residue":"off""#),
    ("`$..[?@.k == 'text'].f`", |n| format!("$..[?@.k == 'k{n}z'].f{n}"), r#""residue":"off""#),
    ("`[?@.n == 1.5].f`", |n| format!("$.x[?@.n == {n}.5].f{n}"), r#""residue":"off""#),
    (
        "`[?search(@.k, 'pattern')].f`",
        |n| format!("$.x[?search(@.k, 'k{n}[a-z]')].f{n}"),
        r#""residue":"off""#,
    ),
    (
        "`[?match(@.k, 'pattern')].f`",
        |n| format!("$.x[?match(@.k, 'k{n}[a-z]')].f{n}"),
        r#""residue":"off""#,
    ),
    ("`[?length(@.k) > 2].f`", |n| format!("$.x[?length(@.k) > 2].f{n}"), r#""residue":"off""#),
    ("`[?count(@..a) == 1].f`", |n| format!("$.x[?count(@.t..a) == 1].f{n}"), r#""residue":"off""#),
    ("`[?@.t == $.t].f`", |n| format!("$.x[?@.t == $.t].f{n}"), r#""residue":"off""#),
    ("`$.x[*].f`, residue counted", |n| format!("$.x[*].f{n}"), r#""residue":"count""#),
    (
        "`$.x[*].f`, with a subject",
        |n| format!("$.x[*].f{n}"),
        r#""residue":"off","subject":"$.id""#,
    ),
];

/// An event of some 100 bytes an item; every item has the field of its number, up to `fields` of
/// them.
pub fn event(bytes: usize, fields: usize) -> String {
    let mut out = String::from(r#"{"id":1,"t":{"a":[1,"b"]},"x":["#);
    let mut i = 0;
    while out.len() < bytes || i < fields {
        let n = i % fields;
        out.push_str(&format!(r#"{{"k":"k{n}z","n":{n}.5,"t":{{"a":[1,"b"]}},"f{n}":"value {i} of somebody","o":"text {i}"}},"#));
        i += 1;
    }
    out.pop();
    out + "]}"
}

/// With the key of the person that events name.
pub fn bench(kind: &Kind, fields: usize) -> Bench {
    let mut bench = Bench::new(&schema(kind, fields));
    let scope = Scope::Subject(
        subject_reference(&key(KeyKind::SubjectRef, "v1"), TENANT, None, b"1").unwrap(),
    );
    bench.transformer.add_subject_keys([Arc::new(key(KeyKind::Data, &scope.to_string()))]);
    // What every transformer has is not the event's.
    bench.protect(r#"{"id":1,"x":[]}"#);
    bench
}

fn schema(kind: &Kind, fields: usize) -> String {
    let fields: Vec<String> = (0..fields)
        .map(|n| {
            format!(r#"{{"id":"f{n}","path":{}}}"#, serde_json::to_string(&(kind.1)(n)).unwrap())
        })
        .collect();
    format!(r#"{},"fields":[{}]"#, kind.2, fields.join(","))
}
