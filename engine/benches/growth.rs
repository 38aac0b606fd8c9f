//! How time grows with the size of an event and the number of fields, by kind of path (docs/performance.md has the tables).
//!
//! `cargo bench -p veilstream-engine --bench growth`
#![allow(clippy::print_stdout, missing_docs, clippy::unwrap_used, reason = "a bench")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use support::{Bench, value_record};
use veilstream_engine::transform::Outcome;

/// (kind, path of field n, residue)
type Kind = (&'static str, fn(usize) -> String, &'static str);

const KINDS: [Kind; 12] = [
    ("`$.x[*].f`", |n| format!("$.x[*].f{n}"), "off"),
    ("`$..f`", |n| format!("$..f{n}"), "off"),
    ("`[?@.f].f`", |n| format!("$.x[?@.f{n}].f{n}"), "off"),
    ("`[?@.k == 'text'].f`", |n| format!("$.x[?@.k == 'k{n}z'].f{n}"), "off"),
    ("`$..[?@.k == 'text'].f`", |n| format!("$..[?@.k == 'k{n}z'].f{n}"), "off"),
    ("`[?@.n == 1.5].f`", |n| format!("$.x[?@.n == {n}.5].f{n}"), "off"),
    ("`[?search(@.k, 'pattern')].f`", |n| format!("$.x[?search(@.k, 'k{n}[a-z]')].f{n}"), "off"),
    ("`[?match(@.k, 'pattern')].f`", |n| format!("$.x[?match(@.k, 'k{n}[a-z]')].f{n}"), "off"),
    ("`[?length(@.k) > 2].f`", |n| format!("$.x[?length(@.k) > 2].f{n}"), "off"),
    ("`[?count(@..a) == 1].f`", |n| format!("$.x[?count(@.t..a) == 1].f{n}"), "off"),
    ("`[?@.t == $.t].f`", |n| format!("$.x[?@.t == $.t].f{n}"), "off"),
    ("`$.x[*].f`, residue counted", |n| format!("$.x[*].f{n}"), "count"),
];

/// An event of some 100 bytes an item; every item has the field of its number, up to `fields` of them.
fn event(bytes: usize, fields: usize) -> String {
    let mut out = String::from(r#"{"t":{"a":[1,"b"]},"x":["#);
    let mut i = 0;
    while out.len() < bytes || i < fields {
        let n = i % fields;
        out.push_str(&format!(r#"{{"k":"k{n}z","n":{n}.5,"t":{{"a":[1,"b"]}},"f{n}":"value {i} of somebody","o":"text {i}"}},"#));
        i += 1;
    }
    out.pop();
    out + "]}"
}

fn schema(kind: &Kind, fields: usize) -> String {
    let fields: Vec<String> = (0..fields).map(|n| format!(r#"{{"id":"f{n}","path":{}}}"#, serde_json::to_string(&(kind.1)(n)).unwrap())).collect();
    format!(r#""residue":"{}","fields":[{}]"#, kind.2, fields.join(","))
}

/// The shortest of several.
fn time(bench: &mut Bench, event: &str) -> Option<(Duration, usize)> {
    let (mut best, mut rounds) = (Duration::MAX, 0);
    let started = Instant::now();
    while rounds < 3 || started.elapsed() < Duration::from_millis(200) && rounds < 2_000 {
        let started = Instant::now();
        let outcome = bench.record(&value_record(event.as_bytes()));
        best = best.min(started.elapsed());
        if !matches!(outcome, Outcome::Protected(_)) {
            return None;
        }
        rounds += 1;
    }
    let sealed = bench.out.value.windows(5).filter(|w| w == b"\"vs1.").count();
    Some((best, sealed))
}

/// A cell, in nanoseconds per byte.
fn cell(bench: &mut Bench, event: &str) -> String {
    time(bench, event).map_or_else(
        || "rejected".to_owned(),
        |(took, sealed)| {
            assert!(sealed >= 1);
            format!("{:.1}", took.as_nanos() as f64 / event.len() as f64)
        },
    )
}

fn main() {
    println!("ns per byte, 10 fields, every item of some 100 bytes has one value sealed\n");
    let sizes = [("1 KB", 1 << 10), ("16 KB", 16 << 10), ("256 KB", 256 << 10), ("4 MB", 4 << 20), ("16 MB", (16 << 20) - 256)];
    println!("| path | {} |\n|---|{}", sizes.map(|(name, _)| name).join(" | "), "---:|".repeat(sizes.len()));
    for kind in &KINDS {
        let mut bench = Bench::new(&schema(kind, 10));
        let cells = sizes.map(|(_, bytes)| {
            let event = event(bytes, 10);
            cell(&mut bench, &event)
        });
        println!("| {} | {} |", kind.0, cells.join(" | "));
    }
    println!("\nthe same, an event of 256 KB, by the number of fields\n");
    let counts = [1, 10, 100, 500, 2_000];
    println!("| path | {} |\n|---|{}", counts.map(|n| n.to_string()).join(" | "), "---:|".repeat(counts.len()));
    for kind in &KINDS {
        let cells = counts.map(|fields| {
            let mut bench = Bench::new(&schema(kind, fields));
            let event = event(256 << 10, fields);
            cell(&mut bench, &event)
        });
        println!("| {} | {} |", kind.0, cells.join(" | "));
    }
}
