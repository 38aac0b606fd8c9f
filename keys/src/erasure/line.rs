//! A line of the erasure ledger, form 2 (docs/formats.md, "Erasure: receipt and ledger"): canonical
//! JSON under a MAC, with the hash of the line before.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use veilstream_engine::key::{KeyId, SubjectRef};

use super::ledger::{Erasure, LedgerError, Recorded, Wrong};
use crate::store::{Head, StoreKeys};
use crate::time;

const FORM: u32 = 2;

/// Line 0.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    veilstream_ledger: u32,
    seq: u64,
    store: String,
    time: String,
    prev: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
}

/// Every other line.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    veilstream_ledger: u32,
    seq: u64,
    store: String,
    time: String,
    tenant: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    subject: String,
    kids: Vec<String>,
    may_return: bool,
    reason: String,
    prev: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    mac: Option<String>,
}

/// Where a ledger is: behind the line of this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Random id that store and ledger share.
    pub store: [u8; 16],
    /// Number of the last line, from 0.
    pub seq: u64,
    /// SHA-256 of that line, without its line feed.
    pub sha256: [u8; 32],
}

impl Position {
    /// The position of a store's head.
    #[must_use]
    pub fn of(head: &Head) -> Self {
        Self { store: head.store, seq: head.seq, sha256: head.sha256 }
    }

    /// `{"store":<hex>,"seq":<number>,"sha256":<hex>}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "store": hex(&self.store), "seq": self.seq, "sha256": hex(&self.sha256) })
    }
}

/// Line 0 of a new ledger, and the position behind it.
#[must_use]
pub fn first_line(keys: &StoreKeys, store: [u8; 16], now: u64) -> (String, Position) {
    let mut line = First {
        veilstream_ledger: FORM,
        seq: 0,
        store: hex(&store),
        time: time::text(now),
        prev: hex(&[0; 32]),
        mac: None,
    };
    line.mac = Some(hex(&keys.line_mac(&canonical(&line))));
    finished(&line, store, 0)
}

/// The line of an erasure that follows `last`, and the position behind it.
#[must_use]
pub fn next_line(keys: &StoreKeys, last: &Position, erasure: &Erasure) -> (String, Position) {
    let mut kids: Vec<KeyId> = erasure.kids.clone();
    kids.sort_unstable();
    kids.dedup();
    let mut line = Line {
        veilstream_ledger: FORM,
        seq: last.seq + 1,
        store: hex(&last.store),
        time: time::text(erasure.time),
        tenant: erasure.tenant.clone(),
        domain: erasure.domain.clone(),
        subject: erasure.subject.to_string(),
        kids: kids.iter().map(KeyId::to_string).collect(),
        may_return: erasure.may_return,
        reason: erasure.reason.clone(),
        prev: hex(&last.sha256),
        mac: None,
    };
    line.mac = Some(hex(&keys.line_mac(&canonical(&line))));
    finished(&line, last.store, last.seq + 1)
}

fn finished<T: Serialize>(line: &T, store: [u8; 16], seq: u64) -> (String, Position) {
    let bytes = canonical(line);
    let sha256 = Sha256::digest(&bytes).into();
    (String::from_utf8(bytes).unwrap_or_default(), Position { store, seq, sha256 })
}

/// Texts, flags and small numbers: nothing that could fail.
fn canonical<T: Serialize>(line: &T) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(line).unwrap_or_default()
}

/// Follows a ledger line by line.
pub struct Verifier<'k> {
    keys: &'k StoreKeys,
    store: [u8; 16],
    last: Option<Position>,
}

impl<'k> Verifier<'k> {
    /// Begins before line 0.
    #[must_use]
    pub fn new(keys: &'k StoreKeys, store: [u8; 16]) -> Self {
        Self { keys, store, last: None }
    }

    /// From behind a line that was verified.
    #[must_use]
    pub fn behind(keys: &'k StoreKeys, last: Position) -> Self {
        Self { keys, store: last.store, last: Some(last) }
    }

    /// Number of the next line.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.last.map_or(0, |last| last.seq + 1)
    }

    /// Behind the last line that was taken; `None`: none was.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.last
    }

    /// Takes the next line, without its line feed. `None`: line 0, which names nobody. Of a line
    /// form, `seq`, `store`, `prev` and `mac` hold, in this order.
    ///
    /// # Errors
    /// [`Wrong`]: the first thing that does not hold.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Option<Recorded>, Wrong> {
        let expected = self.next();
        let (seq, store, prev, mac, unsigned, recorded) =
            if expected == 0 { read_first(bytes) } else { read_line(bytes) }.ok_or(Wrong::Form)?;
        if seq != expected {
            return Err(Wrong::Seq);
        }
        if store != self.store {
            return Err(Wrong::Store);
        }
        if prev != self.last.map_or([0; 32], |last| last.sha256) {
            return Err(Wrong::Prev);
        }
        if !self.keys.holds_line(&unsigned, &mac) {
            return Err(Wrong::Mac);
        }
        let position = Position { store, seq, sha256: Sha256::digest(bytes).into() };
        self.last = Some(position);
        Ok(recorded.map(|erasure| Recorded { position, erasure }))
    }

    /// Takes every line up to the head and those behind it, and gives out the erasures.
    ///
    /// # Errors
    /// [`LedgerError::Wrong`] names the first line that is not as it should be; a missing one too.
    pub fn take_all(
        &mut self,
        place: &str,
        lines: &[Vec<u8>],
        head: &Position,
    ) -> Result<Vec<Recorded>, LedgerError> {
        let wrong = |line, why| LedgerError::Wrong { place: place.to_owned(), line, why };
        let mut recorded = Vec::new();
        for bytes in lines {
            let line = self.next();
            recorded.extend(self.take(bytes).map_err(|why| wrong(line, why))?);
            if line == head.seq && self.last != Some(*head) {
                return Err(wrong(line, Wrong::Head));
            }
        }
        if self.next() <= head.seq {
            return Err(wrong(self.next(), Wrong::Missing));
        }
        Ok(recorded)
    }
}

type LineFields = (u64, [u8; 16], [u8; 32], [u8; 32], Vec<u8>, Option<Erasure>);

fn read_first(bytes: &[u8]) -> Option<LineFields> {
    let mut line: First = serde_json::from_slice(bytes).ok()?;
    let is_canonical = line.veilstream_ledger == FORM && canonical(&line) == bytes;
    let mac = unhex(&line.mac.take()?)?;
    time::seconds(&line.time).filter(|_| is_canonical)?;
    Some((line.seq, unhex(&line.store)?, unhex(&line.prev)?, mac, canonical(&line), None))
}

fn read_line(bytes: &[u8]) -> Option<LineFields> {
    let mut line: Line = serde_json::from_slice(bytes).ok()?;
    let is_canonical = line.veilstream_ledger == FORM && canonical(&line) == bytes;
    let mac = unhex(&line.mac.take()?)?;
    let kids: Vec<KeyId> =
        line.kids.iter().map(|kid| unhex(kid).map(KeyId)).collect::<Option<_>>()?;
    let is_sorted = kids.windows(2).all(|pair| pair[0] < pair[1]);
    let are_names = is_name(&line.tenant) && line.domain.as_deref().is_none_or(is_name);
    let erasure = Erasure {
        time: time::seconds(&line.time)?,
        tenant: line.tenant.clone(),
        domain: line.domain.clone(),
        subject: SubjectRef(unhex(&line.subject)?),
        kids,
        may_return: line.may_return,
        reason: line.reason.clone(),
    };
    let parts =
        (line.seq, unhex(&line.store)?, unhex(&line.prev)?, mac, canonical(&line), Some(erasure));
    (is_canonical && is_sorted && are_names).then_some(parts)
}

/// `[a-z][a-z0-9_-]{0,63}`.
fn is_name(text: &str) -> bool {
    let rest = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_' || c == b'-';
    text.len() <= 64
        && text.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && text.bytes().all(rest)
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let mut digits = vec![0; 2 * bytes.len()];
    write_hex(bytes, &mut digits);
    String::from_utf8(digits).unwrap_or_default()
}

/// Writes bytes as lower-case hex where their digits are to stand, two for each byte.
pub fn write_hex(bytes: &[u8], digits: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
    }
}

/// The reverse of [`hex`]; upper case is refused.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}
