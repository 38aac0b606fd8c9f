//! A folder with an audit log, and a verifier for it.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::print_stdout, reason = "a seed, to repeat a failure")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use veilstream_engine::key::SubjectRef;
use veilstream_reading::audit::verify::{Copies, Keys, Verdict, verify};
use veilstream_reading::audit::{Entry, Event, Line, LogParts, Settings, Signer, VerifierKey};

/// 2026-11-29T12:00:00Z
pub const NOON: u64 = 1_795_953_600;

pub struct Lab {
    pub dir: tempfile::TempDir,
    pub verifier: VerifierKey,
    pub clock: Arc<AtomicU64>,
}

impl Lab {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            verifier: VerifierKey::generate().unwrap(),
            clock: Arc::new(AtomicU64::new(NOON)),
        }
    }

    pub fn file(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    pub fn settings(&self) -> Settings {
        let clock = self.clock.clone();
        Settings {
            clock: Arc::new(move || clock.load(Ordering::SeqCst)),
            deadline: Duration::from_secs(20),
            ..settings(self.file(), &self.verifier)
        }
    }

    /// The names of the log's files.
    pub fn files(&self) -> Vec<String> {
        let log = LogParts::of(&self.file()).unwrap();
        let name = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
        log.files().iter().map(name).collect()
    }

    /// Every line that can be read.
    pub fn lines(&self) -> Vec<Line> {
        let mut lines = Vec::new();
        let log = LogParts::of(&self.file()).unwrap();
        log.each(|_, _, line| {
            lines.push(line);
            Ok(())
        })
        .unwrap();
        lines
    }

    pub fn checkpoints(&self) -> Vec<Line> {
        let lines = self.lines().into_iter();
        lines.filter(|line| line.entry.event == Event::Checkpoint).collect()
    }

    pub fn copies_of_checkpoints(&self) -> Copies {
        let mut copies = Copies::default();
        for line in self.checkpoints() {
            copies.add(&line.to_bytes()).unwrap();
        }
        copies
    }

    pub fn keys(&self, verifier: Vec<VerifierKey>) -> Keys {
        Keys { checkpoint: signer().checkpoint_key(), verifier }
    }

    pub fn verify(&self, copies: &Copies) -> Verdict {
        self.verify_with(vec![self.verifier.clone()], copies)
    }

    pub fn verify_publicly(&self, copies: &Copies) -> Verdict {
        self.verify_with(Vec::new(), copies)
    }

    fn verify_with(&self, verifier: Vec<VerifierKey>, copies: &Copies) -> Verdict {
        verify(&LogParts::of(&self.file()).unwrap(), &self.keys(verifier), copies).unwrap()
    }

    /// Waits until it is so.
    pub fn until(&self, mut is_so: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so() {
            assert!(Instant::now() < end, "it did not become so within a minute");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

pub fn signer() -> Signer {
    Signer::new(SigningKey::from_bytes(&[7; 32]))
}

pub fn settings(file: PathBuf, verifier: &VerifierKey) -> Settings {
    Settings::new(file, verifier.recipient().unwrap(), signer(), "tester@host".to_owned())
}

/// The entry number `n`.
pub fn entry(n: u64) -> Entry {
    Entry {
        actor: Some("ana@corp".to_owned()),
        subject: Some(SubjectRef([u8::try_from(n % 256).unwrap(); 16]).into()),
        schema: Some("customers".to_owned()),
        fields: [("email".to_owned(), "revealed".to_owned())].into(),
        attempt: Some(n),
        outcome: Some("ok".to_owned()),
        ..Entry::new(Event::Reveal)
    }
}

/// A seed, printed so that a failure can be repeated.
pub fn seed() -> u64 {
    let seed = std::env::var("VEILSTREAM_AUDIT_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or_else(|| {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
        since.as_secs() ^ u64::from(since.subsec_nanos())
    });
    println!("VEILSTREAM_AUDIT_SEED={seed}");
    seed
}

/// SplitMix64.
pub fn next(state: &AtomicU64) -> u64 {
    let mut z = state.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Kinds of [`change`].
pub const KINDS: usize = 7;

/// A file with one change: a byte, a value that keeps the form, a line deleted, swapped or doubled,
/// the tail cut, lines of another chain.
pub fn change(
    kind: usize,
    lines: &[&[u8]],
    others: &[&[u8]],
    below: &dyn Fn(usize) -> usize,
) -> Vec<u8> {
    let at = below(lines.len());
    let mut changed: Vec<Vec<u8>> = lines.iter().map(|line| line.to_vec()).collect();
    match kind {
        0 => {
            let place = below(changed[at].len() - 1);
            let bit = 1 << below(7);
            changed[at][place] ^= bit;
        }
        1 => {
            let text = String::from_utf8(changed[at].clone()).unwrap();
            let now = text.replace("T12:00:00Z", "T12:00:01Z");
            assert_ne!(now, text);
            changed[at] = now.into_bytes();
        }
        2 => drop(changed.remove(at)),
        3 => {
            let with = (at + 1 + below(lines.len() - 1)) % lines.len();
            changed.swap(at, with);
        }
        4 => changed.insert(below(lines.len() + 1), lines[at].to_vec()),
        5 => changed.truncate(at),
        _ => {
            let from = below(others.len());
            let count = 1 + below((others.len() - from).min(lines.len() - at));
            let lines = others[from..from + count].iter().map(|line| line.to_vec());
            changed.splice(at..at + count, lines);
        }
    }
    changed.concat()
}
