//! The seeds of the fuzz targets, and every input that once failed, through the same checks
//! (fuzz/README.md). Needs nothing that fuzzing needs.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::Path;

#[path = "../../fuzz/checks/lib.rs"]
mod checks;

/// Runs a check over the files of its target; how many came to something.
fn replay(target: &str, check: impl Fn(&[u8]) -> bool) -> usize {
    let mut some = 0;
    for folder in ["seeds", "found"] {
        let folder =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(folder).join(target);
        // Not every target has found something.
        let Ok(files) = std::fs::read_dir(folder) else { continue };
        for file in files.map(|entry| entry.unwrap().path()) {
            // Shown when it fails: an assertion says what is wrong, not with which file.
            eprintln!("{}", file.display());
            some += usize::from(check(&std::fs::read(file).unwrap()));
        }
    }
    some
}

/// A check that looks at nothing passes as well: most seeds must come to something.
#[track_caller]
fn assert_most(some: usize, at_least: usize) {
    assert!(
        some >= at_least,
        "only {some} inputs came to anything, {at_least} did when this was written"
    );
}

#[test]
fn round_trips() {
    assert_most(replay("round_trip", |data| checks::round_trip(data) > 0), 20);
}

#[test]
fn scanner() {
    assert_most(replay("scanner", checks::scanner), 5);
}

#[test]
fn tokens() {
    assert_most(replay("tokens", checks::tokens), 13);
}

#[test]
fn schemas() {
    assert_most(replay("schemas", checks::schemas), 6);
}

#[test]
fn selection() {
    assert_most(replay("selection", |data| checks::selection(data) > 0), 38);
}

#[test]
fn normalisers() {
    assert_most(replay("normalisers", checks::normalisers), 26);
}

#[test]
fn cost() {
    assert_most(replay("cost", checks::cost), 12);
}
