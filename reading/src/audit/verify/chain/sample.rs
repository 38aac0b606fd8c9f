//! A long chain with one change: every change of a sample is found. The verifier is taken up near
//! the change, from where it stood in the unchanged chain: so a sample of a thousand needs no
//! thousand passes. `tests/log.rs` makes the same changes to whole files, of fewer lines.

use std::sync::atomic::{AtomicU64, Ordering};

use ed25519_dalek::SigningKey;
use veilstream_engine::key::SubjectRef;
use zeroize::Zeroizing;

use super::*;
use crate::audit::chain::{Beginning, Chain};
use crate::audit::{Entry, Signer, VerifierKey};

/// Lines of the chain, those between two checkpoints, and those behind the last copied one.
const LINES: usize = 100_000;
const SEGMENT: usize = 1000;
const TAIL: usize = 700;
/// Changes of the sample, of all kinds in turn.
const CHANGES: usize = 1000;
/// Lines between two places at which the verifier can be taken up.
const STEP: usize = 50;
const KINDS: usize = 8;
const TIME: &str = "2026-11-29T12:00:00Z";

fn signer() -> Signer {
    Signer::new(SigningKey::from_bytes(&[7; 32]))
}

/// A chain of so many lines, a checkpoint among every [`SEGMENT`].
fn chain(id: u8, verifier: &VerifierKey, lines: usize) -> Vec<Vec<u8>> {
    let (id, k1) = ([id; 16], Zeroizing::new([id; 32]));
    let sealed = verifier.recipient().unwrap().seal(id, &k1).unwrap();
    let beginning = Beginning { id, k1, sealed, predecessor: None };
    let (mut chain, first) = Chain::begin(beginning, Entry::new(Event::Start), TIME, signer());
    let mut written = vec![first];
    while written.len() < lines {
        let n = written.len();
        let mut line = Vec::new();
        if n % SEGMENT == SEGMENT - 1 {
            chain.checkpoint(TIME, &mut line);
        } else {
            let subject = SubjectRef([u8::try_from(n % 256).unwrap(); 16]);
            let fields = [("email".to_owned(), "revealed".to_owned())].into();
            let entry = Entry {
                subject: Some(subject.into()),
                attempt: Some(n as u64),
                fields,
                ..Entry::new(Event::Reveal)
            };
            chain.entry(entry, TIME, &mut line);
        }
        written.push(line);
    }
    written
}

/// A chain with one change, from the first line on that is another.
struct Change<'l> {
    from: usize,
    /// What stands at a place of the changed chain.
    at: Box<dyn Fn(usize) -> Option<Vec<u8>> + 'l>,
}

/// One change of a kind at line `k` (from 0): a bit, a value that keeps the form, a line deleted,
/// swapped or doubled, the tail cut, lines of another chain, a value whose followers name it.
fn change<'l>(
    kind: usize,
    k: usize,
    lines: &'l [Vec<u8>],
    others: &'l [Vec<u8>],
    below: &dyn Fn(usize) -> usize,
) -> Change<'l> {
    let whole = move |at: usize| lines.get(at).cloned();
    let edited = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut line = lines[k].clone();
        edit(&mut line);
        assert_ne!(line, lines[k]);
        line
    };
    let later = |line: &mut Vec<u8>| {
        let text = String::from_utf8(line.clone()).unwrap();
        *line = text.replace("T12:00:00Z", "T12:00:01Z").into_bytes();
    };
    match kind {
        0 => {
            let (place, bit) = (below(lines[k].len()), below(7));
            let line = edited(&|line| line[place] ^= 1 << bit);
            Change {
                from: k,
                at: Box::new(move |at| if at == k { Some(line.clone()) } else { whole(at) }),
            }
        }
        1 => {
            let line = edited(&later);
            Change {
                from: k,
                at: Box::new(move |at| if at == k { Some(line.clone()) } else { whole(at) }),
            }
        }
        2 => Change { from: k, at: Box::new(move |at| whole(at + usize::from(at >= k))) },
        3 => {
            let with = (k + 1 + below(LINES - TAIL - 1)) % (LINES - TAIL);
            let swapped = move |at| {
                if at == k {
                    with
                } else if at == with {
                    k
                } else {
                    at
                }
            };
            Change { from: k.min(with), at: Box::new(move |at| whole(swapped(at))) }
        }
        4 => {
            let to = below(LINES - TAIL);
            let source = move |at| match at {
                at if at == to => k,
                at => at - usize::from(at > to),
            };
            Change { from: to, at: Box::new(move |at| whole(source(at))) }
        }
        5 => Change { from: k, at: Box::new(move |at| whole(at).filter(|_| at < k)) },
        6 => {
            let (first, count) = (below(others.len() - 20), 1 + below(20));
            let spliced = move |at: usize| match at.checked_sub(k) {
                Some(n) if n < count => others.get(first + n).cloned(),
                _ => whole(at),
            };
            Change { from: k, at: Box::new(spliced) }
        }
        _ => {
            // All that one can do who holds no key: the lines behind name the line before them.
            let mut line = edited(&later);
            let mut rewritten = vec![line.clone()];
            for follower in lines.iter().skip(k + 1).take(SEGMENT + 1) {
                let mut next = Line::read(follower).unwrap();
                next.prev = Hex(Line::hash(&line));
                line = next.to_bytes();
                rewritten.push(line.clone());
            }
            let at = move |at: usize| match at.checked_sub(k) {
                Some(n) if n < rewritten.len() => Some(rewritten[n].clone()),
                _ => whole(at),
            };
            Change { from: k, at: Box::new(at) }
        }
    }
}

/// Whether a verifier that stands at a line finds the change.
fn finds(mut verifier: ChainVerifier<'_>, from: usize, change: &Change<'_>) -> bool {
    for at in from..change.from + 2 * SEGMENT {
        match (change.at)(at) {
            None => return verifier.is_short(),
            Some(line) if verifier.take(&line).is_err() => return true,
            Some(_) => {}
        }
    }
    false
}

fn seeded() -> AtomicU64 {
    let given = std::env::var("VEILSTREAM_AUDIT_SEED").ok().and_then(|text| text.parse().ok());
    let mut random = [0; 8];
    getrandom::fill(&mut random).unwrap();
    AtomicU64::new(given.unwrap_or_else(|| u64::from_le_bytes(random)))
}

/// SplitMix64.
fn next(state: &AtomicU64) -> u64 {
    let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[test]
fn every_change_of_a_sample_of_a_long_chain_is_found() {
    let verifier = VerifierKey::generate().unwrap();
    let (lines, others) = (chain(1, &verifier, LINES), chain(2, &verifier, 3 * SEGMENT));
    let mut copies = Copies::default();
    let is_copied = |at: &usize| at % SEGMENT == SEGMENT - 1 && *at < LINES - TAIL;
    (0..LINES).filter(is_copied).for_each(|at| copies.add(&lines[at]).unwrap());
    let known = (0..LINES).rfind(is_copied).unwrap();
    let checkpoint = signer().checkpoint_key();
    let (private, public) =
        (Keys { checkpoint, verifier: vec![verifier] }, Keys { checkpoint, verifier: Vec::new() });
    // The unchanged chain holds; where the verifier stood on the way is kept.
    let id = Hex([1; 16]);
    let mut whole = ChainVerifier::new(id, &private, &copies, None, Heads::default());
    let mut stood = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        if at % STEP == 0 {
            stood.push(whole.clone());
        }
        whole.take(line).unwrap();
    }
    assert_eq!((whole.known_to(), whole.copied), (LINES as u64, known as u64 + 1));
    let seed = seeded();
    println!("VEILSTREAM_AUDIT_SEED={}", seed.load(Ordering::Relaxed));
    let below = |bound: usize| usize::try_from(next(&seed) % bound as u64).unwrap();
    for number in 0..CHANGES {
        let kind = number % KINDS;
        let change = change(kind, below(known), &lines, &others, &below);
        let from = change.from / STEP * STEP;
        let with_key = stood[from / STEP].clone();
        // Without the private key the verifier would stand there too, and know no MAC.
        let in_public = ChainVerifier { keys: &public, key: None, ..with_key.clone() };
        let what = format!("change {number} of kind {kind} at line {}", change.from + 1);
        assert!(finds(with_key, from, &change), "{what} is not found with the key");
        // Lines behind the last copy are nobody's to prove without it.
        assert!(change.from > known || finds(in_public, from, &change), "{what} is not found");
    }
    // Unchanged, nothing is found: the sample can fail.
    let unchanged = Change { from: 0, at: Box::new(|at| lines.get(at).cloned()) };
    assert!(!finds(stood[0].clone(), 0, &unchanged));
}
