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
fn scanner_reference() {
    assert_most(replay("scanner_reference", checks::scanner_reference), 4);
    assert_most(replay("scanner", checks::scanner_reference), 5);
}

/// A hundred thousand texts near the seeds. Two scanners differ, if at all, at the ends of blocks
/// and in what is no JSON.
#[test]
fn scanner_reference_of_changed_seeds() {
    let seed: u64 = std::env::var("SCANNER_SEED").map_or(1, |seed| seed.parse().unwrap());
    eprintln!("SCANNER_SEED={seed}");
    const ODD: &[u8] = b"\"\\{}[]:, \n\x01\x1f\x7f\xc3\xff09-+.eEtfnu/";
    let seeds: Vec<Vec<u8>> = ["scanner", "scanner_reference"]
        .iter()
        .flat_map(|target| {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds").join(target);
            std::fs::read_dir(folder).unwrap()
        })
        .map(|file| std::fs::read(file.unwrap().path()).unwrap())
        .collect();
    let mut random = Random(seed);
    let documents = (0..100_000).filter(|_| {
        let mut text = seeds[random.below(seeds.len())].clone();
        // Moved against the blocks.
        let spaces = random.below(65);
        text.splice(..0, std::iter::repeat_n(b' ', spaces));
        for _ in 0..random.below(3) {
            let byte = ODD[random.below(ODD.len())];
            let at = random.below(text.len() + 1);
            match random.below(4) {
                0 => text.truncate(at),
                1 => text.insert(at, byte),
                2 if at < text.len() => text[at] = byte,
                _ if at < text.len() => drop(text.remove(at)),
                _ => {}
            }
        }
        checks::scanner_reference(&text)
    });
    let documents = documents.count();
    assert!((25_000..90_000).contains(&documents), "{documents} of 100,000 were JSON");
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
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
