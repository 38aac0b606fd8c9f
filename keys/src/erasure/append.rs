//! How the ledger grows: under the lock of the store's head, replaying first what stands behind it,
//! so that appends of several processes never fork.

use std::collections::BTreeMap;
use std::ops::Range;

use veilstream_engine::key::{KeyId, SubjectRef};

use super::{Erasure, Ledger, LedgerError, Position, Recorded, Verifier, Wrong, marker, next_line};
use crate::KeyError;
use crate::store::{Head, KeyRecord, Planned, Shred, StoreKeys};

/// One append. Asked again after a store that failed, it finds what it wrote and writes it no
/// second time.
pub(super) struct Appender<'a> {
    keys: &'a StoreKeys,
    ledger: &'a dyn Ledger,
    tenant: &'a str,
    now: u64,
    wanted: &'a [Erasure],
    /// Keys that the ledger named before, by subject.
    named: &'a BTreeMap<SubjectRef, Vec<KeyId>>,
    /// Up to here the store and this process knew the ledger.
    start: Position,
    /// Up to here it was verified.
    position: Position,
    /// Lines that were found behind it, and those that were written.
    learned: Vec<Recorded>,
    /// Which of them are the wanted ones; others may have followed when the plan is asked again.
    /// Empty until they are durable.
    written: Range<usize>,
}

impl<'a> Appender<'a> {
    pub(super) fn new(
        keys: &'a StoreKeys,
        ledger: &'a dyn Ledger,
        tenant: &'a str,
        now: u64,
        wanted: &'a [Erasure],
        named: &'a BTreeMap<SubjectRef, Vec<KeyId>>,
        start: Position,
    ) -> Self {
        Self {
            keys,
            ledger,
            tenant,
            now,
            wanted,
            named,
            start,
            position: start,
            learned: Vec::new(),
            written: 0..0,
        }
    }

    /// Asked with the head locked: reads on to the ledger's end, writes the wanted lines, and says
    /// what the store must do.
    pub(super) fn plan(
        &mut self,
        head: &Head,
        records: &[KeyRecord],
    ) -> Result<Planned, LedgerError> {
        let behind = self.catch_up(head)?;
        if self.written.is_empty() && !self.wanted.is_empty() {
            self.write(records)?;
        }
        let start = if self.written.is_empty() { behind } else { behind.min(self.written.start) };
        let shreds = self.shreds(start)?;
        let Position { store, seq, sha256 } = self.position;
        Ok(Planned { shreds, head: self.keys.head(self.tenant, store, seq, sha256) })
    }

    /// What the ledger says beyond what was known, which of it was wanted, and where it ends now.
    pub(super) fn finish(self) -> (Vec<Recorded>, Range<usize>, Position) {
        (self.learned, self.written, self.position)
    }

    /// Reads the lines that were added; the index of the first that the store has not done.
    fn catch_up(&mut self, head: &Head) -> Result<usize, LedgerError> {
        let wrong = |line, why| LedgerError::Wrong { place: self.ledger.place(), line, why };
        if head.store != self.position.store {
            return Err(wrong(0, Wrong::Store));
        }
        if head.seq < self.start.seq {
            let message = "the key store knows less of it than a moment ago: an older store has \
                its place; start this process again"
                .to_owned();
            return Err(LedgerError::Unusable { place: self.ledger.place(), message });
        }
        let lines = self.ledger.read(self.position.seq + 1)?;
        let mut verifier = Verifier::behind(self.keys, self.position);
        let known = Position::of(head);
        if known.seq <= self.position.seq {
            let at = self
                .learned
                .iter()
                .map(|line| line.position)
                .find(|position| position.seq == known.seq);
            if at
                .or((known.seq == self.position.seq).then_some(self.position))
                .is_some_and(|at| at != known)
            {
                return Err(wrong(known.seq, Wrong::Head));
            }
            self.learned.extend(verifier.take_all(&self.ledger.place(), &lines, &self.position)?);
        } else {
            self.learned.extend(verifier.take_all(&self.ledger.place(), &lines, &known)?);
        }
        if let Some(position) = verifier.position() {
            self.position = position;
        }
        Ok(self
            .learned
            .iter()
            .position(|line| line.position.seq > head.seq)
            .unwrap_or(self.learned.len()))
    }

    fn write(&mut self, records: &[KeyRecord]) -> Result<(), LedgerError> {
        let (mut last, mut lines, mut recorded) = (self.position, Vec::new(), Vec::new());
        for wanted in self.wanted {
            let with_wraps = records.iter().filter(|record| {
                record.scope == veilstream_engine::Scope::Subject(wanted.subject)
                    && !record.wraps.is_empty()
            });
            let mut kids: Vec<KeyId> =
                wanted.kids.iter().copied().chain(with_wraps.map(|record| record.kid)).collect();
            // Those of earlier erasures too: the receipt of the run after an interrupted one names
            // all.
            kids.extend(self.named.get(&wanted.subject).into_iter().flatten());
            kids.extend(
                self.learned
                    .iter()
                    .filter(|line| line.erasure.subject == wanted.subject)
                    .flat_map(|line| &line.erasure.kids),
            );
            kids.sort_unstable();
            kids.dedup();
            let erasure = Erasure { kids, ..wanted.clone() };
            let (line, position) = next_line(self.keys, &last, &erasure);
            lines.push(line);
            recorded.push(Recorded { position, erasure });
            last = position;
        }
        self.ledger.append(self.position.seq + 1, &lines)?;
        self.written = self.learned.len()..self.learned.len() + recorded.len();
        self.learned.extend(recorded);
        self.position = last;
        Ok(())
    }

    /// Of several erasures of one subject the last says whether it may come back; the keys of all
    /// of them are gone.
    fn shreds(&self, start: usize) -> Result<Vec<Shred>, LedgerError> {
        shreds_of(&self.learned[start..], self.wanted, self.tenant, self.now).map_err(|error| {
            LedgerError::Unusable { place: self.ledger.place(), message: error.to_string() }
        })
    }
}

/// What the lines ask of the store. A subject of `now` is erased whole; one of a line that is
/// replayed and lets it come back may have done so.
pub(super) fn shreds_of(
    lines: &[Recorded],
    now_wanted: &[Erasure],
    tenant: &str,
    now: u64,
) -> Result<Vec<Shred>, KeyError> {
    let mut subjects: BTreeMap<SubjectRef, (bool, Vec<KeyId>)> = BTreeMap::new();
    for Recorded { erasure, .. } in lines.iter().filter(|line| line.erasure.tenant == tenant) {
        let (may_return, kids) = subjects.entry(erasure.subject).or_default();
        *may_return = erasure.may_return;
        kids.extend(&erasure.kids);
    }
    let is_wanted =
        |subject: &SubjectRef| now_wanted.iter().any(|wanted| wanted.subject == *subject);
    subjects
        .into_iter()
        .map(|(subject, (may_return, kids))| {
            let all = !may_return || is_wanted(&subject);
            Ok(Shred { subject, all, kids, marker: marker(tenant, subject, may_return, now)? })
        })
        .collect()
}
