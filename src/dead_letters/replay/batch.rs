//! One transaction of a replay: what it holds, and the producer that writes it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::{PassedBy, Replayed, Stop};
use crate::config::Config;
use crate::dead_letters::error::{DeadLetterError, LetterFault};
use crate::dead_letters::letter::Letter;
use crate::dead_letters::read::{LetterPlace, SILENCE};
use crate::kafka::client::Consumer;
use crate::kafka::ffi::{Destination, GroupMetadata, Headers};
use crate::kafka::producer::{Producer, Recipe, Unproduced};

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
        let mut offsets = TopicPartitionList::new();
        for (partition, offset) in &self.next {
            offsets.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
        }
        Ok(offsets)
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

/// The producer of a replay. One id for all: a second replay fences the first.
pub(super) struct Writer {
    recipe: Recipe,
    /// `None` after a call that did not return.
    producer: Option<Producer>,
    open: bool,
}

impl Writer {
    /// `sizes`: the `max.message.bytes` of the topics it writes to.
    pub(super) fn new(
        config: &Config,
        sizes: impl Iterator<Item = usize> + Clone,
    ) -> Result<Self, DeadLetterError> {
        let limits = sizes.clone().min().zip(sizes.max());
        let mut writer = Self {
            recipe: Recipe::shared(&config.kafka, "dlq", limits),
            producer: None,
            open: false,
        };
        writer.renew()?;
        Ok(writer)
    }

    /// A new producer, which aborts what the old one left open.
    pub(super) fn renew(&mut self) -> Result<(), DeadLetterError> {
        self.producer = None;
        self.open = false;
        let producer = self.recipe.create().map_err(DeadLetterError::Client)?;
        producer.init_transactions(SILENCE)?;
        self.producer = Some(producer);
        Ok(())
    }

    /// Aborts what is open, if that can be done now; otherwise the next replay does it.
    pub(super) fn abort(&mut self) {
        if let Some(error) =
            self.producer.as_ref().filter(|_| self.open).and_then(|producer| producer.abort().err())
        {
            tracing::warn!(code = %error, "the open transaction was not aborted; its time-out or \
                the next replay ends it");
        }
        self.open = false;
    }

    fn alive(&mut self) -> Result<&mut Producer, DeadLetterError> {
        self.producer.as_mut().ok_or(DeadLetterError::Unanswered)
    }

    /// Begins a transaction, unless one is open.
    pub(super) fn begin(&mut self) -> Result<(), DeadLetterError> {
        if !self.open {
            self.alive()?.begin()?;
            self.open = true;
        }
        Ok(())
    }

    /// Queues a record; `false`: the client refuses its size.
    pub(super) fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers,
    ) -> Result<bool, Stop> {
        let producer = self.alive()?;
        let topic = producer.topic(topic).ok_or(DeadLetterError::OutOfMemory)?;
        match producer.produce(
            Destination { topic, partition, timestamp },
            key,
            value,
            headers,
            || true,
        ) {
            Ok(()) => Ok(true),
            Err(Unproduced::TooLarge) => Ok(false),
            Err(Unproduced::Failed(fault)) => Err(Stop::Transaction(fault)),
        }
    }

    /// Commits what was written, with the offsets of `consumer`'s group.
    pub(super) fn commit(
        &mut self,
        consumer: &Consumer,
        offsets: Option<TopicPartitionList>,
    ) -> Result<(), Stop> {
        self.begin()?;
        self.alive()?.flush(|| true).map_err(Stop::Transaction)?;
        let committed = match offsets {
            None => self.alive()?.commit_records(),
            Some(offsets) => {
                // It names no member, for nobody joins the group: the transactional id is what
                // keeps a second replay out.
                let group = GroupMetadata::of(consumer).ok_or(DeadLetterError::OutOfMemory)?;
                let producer = self.alive()?;
                let committed = producer.commit(offsets, Arc::new(group));
                if producer.is_hung() {
                    self.producer = None;
                }
                committed
            }
        };
        match committed {
            Ok(false) => self.open = false,
            // The broker may still act on a request that it did not answer: not on the next
            // transaction.
            Ok(true) => self.renew()?,
            Err(error) => {
                return Err(Stop::Transaction(
                    self.alive()?.delivery_fault().unwrap_or_else(|| error.fault()),
                ));
            }
        }
        Ok(())
    }
}
