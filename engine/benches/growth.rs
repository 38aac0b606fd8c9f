//! How time grows with the size of an event and the number of fields, by kind of path
//! (docs/performance.md has the tables).
//!
//! `cargo bench -p veilstream-engine --bench growth`; a word after `--` chooses the kinds whose
//! names have it.
#![allow(clippy::print_stdout, missing_docs, clippy::unwrap_used, reason = "a bench")]

#[path = "../tests/growth/mod.rs"]
mod growth;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use allocation_counter::measure;
use growth::{KINDS, event};
use support::{Bench, value_record};
use veilstream_engine::transform::Outcome;

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

/// The most memory that an event takes at one time, in bytes for each of its own, with what comes
/// of it.
fn room(bench: &mut Bench, event: &str) -> String {
    let used = measure(|| {
        assert!(matches!(bench.record(&value_record(event.as_bytes())), Outcome::Protected(_)))
    });
    format!("{:.1}", used.bytes_max as f64 / event.len() as f64)
}

fn main() {
    let word = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).unwrap_or_default();
    let kinds = || KINDS.iter().filter(|kind| kind.0.contains(&word));
    println!("ns per byte, 10 fields, every item of some 100 bytes has one value sealed\n");
    let sizes = [
        ("1 KB", 1 << 10),
        ("16 KB", 16 << 10),
        ("256 KB", 256 << 10),
        ("4 MB", 4 << 20),
        ("16 MB", (16 << 20) - 256),
    ];
    println!(
        "| path | {} |\n|---|{}",
        sizes.map(|(name, _)| name).join(" | "),
        "---:|".repeat(sizes.len())
    );
    for kind in kinds() {
        let mut bench = growth::bench(kind, 10);
        let cells = sizes.map(|(_, bytes)| {
            let event = event(bytes, 10);
            cell(&mut bench, &event)
        });
        println!("| {} | {} |", kind.0, cells.join(" | "));
    }
    println!("\nthe most memory at one time, in bytes for each byte of the event\n");
    println!(
        "| path | {} |\n|---|{}",
        sizes.map(|(name, _)| name).join(" | "),
        "---:|".repeat(sizes.len())
    );
    for kind in kinds() {
        let cells = sizes.map(|(_, bytes)| room(&mut growth::bench(kind, 10), &event(bytes, 10)));
        println!("| {} | {} |", kind.0, cells.join(" | "));
    }
    println!("\nthe same times, an event of 256 KB, by the number of fields\n");
    let counts = [1, 10, 100, 500, 2_000];
    println!(
        "| path | {} |\n|---|{}",
        counts.map(|n| n.to_string()).join(" | "),
        "---:|".repeat(counts.len())
    );
    for kind in kinds() {
        let cells = counts.map(|fields| {
            let mut bench = growth::bench(kind, fields);
            let event = event(256 << 10, fields);
            cell(&mut bench, &event)
        });
        println!("| {} | {} |", kind.0, cells.join(" | "));
    }
}
