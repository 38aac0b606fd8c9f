//! One transaction of a replay: what it holds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::error::KafkaError;

use super::{PassedBy, Replayed};
use crate::dead_letters::error::LetterFault;
use crate::dead_letters::letter::Letter;
use crate::dead_letters::read::LetterPlace;
use crate::kafka::reader::offset_list;

/// Most letters of one transaction.
const LETTERS: usize = 500;
/// Bytes, read and written, after which a transaction takes no further letter: with what the
/// consumer reads ahead, what a replay holds in memory.
const BYTES: usize = 8 << 20;
/// An open transaction of this age commits: its time-out is not far, and readers of its topics wait
/// for it.
const AGE: Duration = Duration::from_secs(5);

/// The letters of one transaction.
pub(super) struct LetterBatch {
    /// Where to go on if it fails, by partition.
    base: BTreeMap<i32, i64>,
    /// Where to go on once it is committed.
    next: BTreeMap<i32, i64>,
    letters: usize,
    bytes: usize,
    last: Option<LetterPlace>,
    begun: Option<Instant>,
    pub(super) done: Replayed,
    passed_by: Vec<PassedBy>,
}

impl LetterBatch {
    pub(super) fn new(starts: impl Iterator<Item = (i32, i64)>) -> Self {
        Self {
            base: starts.collect(),
            next: BTreeMap::new(),
            letters: 0,
            bytes: 0,
            last: None,
            begun: None,
            done: Replayed::default(),
            passed_by: Vec::new(),
        }
    }

    /// Where to go on, by partition, as of the last commit.
    pub(super) fn base(&self) -> &BTreeMap<i32, i64> {
        &self.base
    }

    pub(super) fn is_empty(&self) -> bool {
        self.letters == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.letters >= LETTERS
            || self.bytes >= BYTES
            || self.begun.is_some_and(|begun| begun.elapsed() >= AGE)
    }

    pub(super) fn letters(&self) -> usize {
        self.letters
    }

    /// The letter of a transaction that holds one.
    pub(super) fn only_letter(&self) -> Option<LetterPlace> {
        self.last.filter(|_| self.letters == 1)
    }

    /// A letter is worked on, or left out.
    pub(super) fn add(&mut self, place: LetterPlace, bytes: usize) {
        self.next.insert(place.partition, place.offset + 1);
        self.letters += 1;
        self.last = Some(place);
        self.begun.get_or_insert_with(Instant::now);
        self.count(bytes);
    }

    /// Bytes are held until the commit.
    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub(super) fn pass_by(
        &mut self,
        place: LetterPlace,
        fault: LetterFault,
        letter: Option<&Letter>,
    ) {
        let origin = letter.map(|letter| (letter.topic.clone(), letter.partition, letter.offset));
        self.passed_by.push(PassedBy { place, fault, origin });
        self.done.passed_by += 1;
    }

    /// The offsets to commit.
    pub(super) fn offsets(&self, topic: &str) -> Result<TopicPartitionList, KafkaError> {
        offset_list(topic, self.next.iter().map(|(partition, offset)| (*partition, *offset)))
    }

    /// It is committed: what it did.
    pub(super) fn committed(&mut self) -> (Replayed, Vec<PassedBy>) {
        let next = std::mem::take(&mut self.next);
        self.base.extend(next);
        let result = (self.done, std::mem::take(&mut self.passed_by));
        self.failed();
        result
    }

    /// It is aborted: nothing of it happened.
    pub(super) fn failed(&mut self) {
        self.next.clear();
        (self.letters, self.bytes, self.last, self.begun, self.done) =
            (0, 0, None, None, Replayed::default());
        self.passed_by.clear();
    }
}
