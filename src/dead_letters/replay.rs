//! Dead letters through the schemas in force, letter by letter: each into its sanitized topic, or
//! back to the end of the dead-letter topic with its new reason, or passed by. What a transaction
//! holds and how far the replay is commit together.

mod batch;
mod span;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use rdkafka::Message as _;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::error::RejectCode;
use veilstream_engine::record::Record;
use veilstream_engine::seal::{LetterMetadata, LetterRecord, NoncePool, Opener};
use veilstream_engine::transform::Limits;
use veilstream_keys::OsEntropy;

use super::error::{DeadLetterError, LetterFault};
use super::letter::{self, DeadLetterReason, Letter};
use super::origin::Origins;
use super::read::{self, LetterPlace};
use crate::clock::{unix_millis, unix_seconds};
use crate::config::Config;
use crate::kafka::client::{Consumer, Registered};
use crate::kafka::error::{Fault, Obstacle};
use crate::kafka::ffi::Headers;
use crate::kafka::producer::Recipe;
use crate::kafka::reader::{BoundedRead, committed};
use crate::kafka::topics::Topics;
use crate::kafka::writer::{TransactionWriter, WriteFailure};
use crate::keys::{KeyFault, KeySource};
use crate::outgoing::{Outgoing, TopicLimits, Unfit, native};
use crate::preflight;
use crate::protect::Protector;
use batch::LetterBatch;
pub use span::Selection;
use span::Span;

/// The group whose offsets say where the last replay ended.
const GROUP: &str = "dlq-replay";

/// What a replay did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Records now in their sanitized topics.
    pub protected: usize,
    /// Records rejected again: they are at the end of the dead-letter topic, with their new reason.
    pub rejected: usize,
    /// Letters that do not go: they stay where they are, and the replay is past them.
    pub passed_by: usize,
    /// Letters that were to be skipped.
    pub skipped: usize,
}

/// A letter that does not go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PassedBy {
    /// Where it is.
    pub place: LetterPlace,
    /// Why.
    pub fault: LetterFault,
    /// The topic, partition and offset that it says it is from. It may be forged.
    pub origin: Option<(String, i32, i64)>,
}

/// Replays what `selection` names. Outputs and the replay group's offsets commit together: a replay
/// that is interrupted or run twice brings no record twice, `selection.only` and `selection.from`
/// apart, which say what to bring whatever was brought before. `progress` hears of each commit and
/// of the letters that it passed by.
///
/// # Errors
/// [`DeadLetterError`]; what committed before stays.
pub fn replay(
    config: &Config,
    schemas: &Arc<SchemaSet>,
    keys: &dyn KeySource,
    selection: &Selection,
    progress: &mut dyn FnMut(&Replayed, &[PassedBy]),
) -> Result<Replayed, DeadLetterError> {
    let topic = &config.pipeline.dead_letter_topic;
    // A topic that is missing or does not fit is a matter of its letters.
    let topics = Topics::connect(&config.kafka)?;
    let facts = preflight::examine(&topics, schemas, topic)?.facts;
    let limits: HashMap<String, TopicLimits> =
        facts.iter().map(|(name, facts)| (name.clone(), TopicLimits::from(facts))).collect();
    let dead_letters = *limits.get(topic).ok_or_else(|| DeadLetterError::NoTopic(topic.clone()))?;
    // Fenced in before the offsets are read: no other replay commits afterwards.
    let sizes = facts.values().map(|f| f.max_message_bytes);
    let limits_of_topics = sizes.clone().min().zip(sizes.max());
    let writer = TransactionWriter::new(Recipe::shared(&config.kafka, "dlq", limits_of_topics))?;
    let consumer = read::consumer(config, GROUP)?;
    let ranges = read::ranges(&consumer, topic)?;
    let spans = span::spans(&ranges, &committed(&consumer, topic, &ranges)?, selection)?;
    for span in &spans {
        if let Some(from) = span.expired_from {
            tracing::warn!(
                partition = span.partition,
                from,
                to = span.start,
                "the topic's retention took dead letters that were never replayed"
            );
        }
    }
    let limit = Limits { input: config.pipeline.max_record_bytes, ..Limits::default() };
    let mut replay = Replay {
        config,
        keys,
        selection,
        consumer,
        writer,
        limits,
        dead_letters,
        protector: Protector::new(schemas.clone(), keys.keyring()).with_limits(limit).one_shot(),
        nonces: NoncePool::new(Box::new(OsEntropy)),
        opener: Opener::default(),
        origins: Origins::new(config),
        named: selection.only.clone(),
        done: Replayed::default(),
        batch: LetterBatch::new(spans.iter().map(|span| (span.partition, span.start))),
        condemned: HashMap::new(),
        singles: 0,
    };
    let ended = replay.run(&spans, progress);
    if ended.is_err() {
        // Readers of the topics would wait for its time-out.
        replay.writer.abort();
    }
    ended?;
    replay.name_absent(progress);
    Ok(replay.done)
}

/// What becomes of a letter whose record the broker refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// A dead letter again, as `broker_refused`.
    Again,
    /// Passed by.
    PassBy(LetterFault),
}

/// Why a letter could not be worked on.
enum Stop {
    /// The transaction failed.
    Transaction(Fault),
    /// The replay ends.
    Error(DeadLetterError),
}

impl<E: Into<DeadLetterError>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

impl From<WriteFailure> for Stop {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Transaction(fault) => Self::Transaction(fault),
            WriteFailure::Error(error) => Self::Error(error.into()),
        }
    }
}

/// A replay under way.
struct Replay<'a> {
    config: &'a Config,
    keys: &'a dyn KeySource,
    selection: &'a Selection,
    consumer: Registered<Consumer>,
    writer: TransactionWriter,
    /// Of every topic that is there.
    limits: HashMap<String, TopicLimits>,
    /// Of the dead-letter topic.
    dead_letters: TopicLimits,
    protector: Protector,
    nonces: NoncePool,
    opener: Opener,
    origins: Origins<'a>,
    /// Of [`Selection::only`] what was not met yet.
    named: BTreeSet<LetterPlace>,
    /// As of the last commit.
    done: Replayed,
    batch: LetterBatch,
    /// Letters that a transaction of their own failed for.
    condemned: HashMap<LetterPlace, Verdict>,
    /// So many letters get a transaction of their own, to find the one that is refused.
    singles: usize,
}

impl Replay<'_> {
    fn run(
        &mut self,
        spans: &[Span],
        progress: &mut dyn FnMut(&Replayed, &[PassedBy]),
    ) -> Result<(), DeadLetterError> {
        let ends = spans.iter().map(|span| (span.partition, span.end)).collect();
        let consumer = self.consumer.shared().clone();
        // What is rejected again comes behind the end: it is for the next replay.
        let mut reading = BoundedRead::new(ends);
        self.read_from_base(&mut reading)?;
        while !reading.is_over() || !self.batch.is_empty() {
            let mut stop = None;
            if let Some(message) = reading.poll(&consumer)? {
                let place =
                    LetterPlace { partition: message.partition(), offset: message.offset() };
                stop = self.letter(place, message.payload().unwrap_or_default()).err();
            }
            if stop.is_none() && (reading.is_over() || self.is_full()) {
                stop = self.commit(progress).err();
            }
            match stop {
                None => {}
                Some(Stop::Error(error)) => return Err(error),
                Some(Stop::Transaction(fault)) => {
                    self.give_back(fault)?;
                    self.read_from_base(&mut reading)?;
                }
            }
        }
        Ok(())
    }

    /// Reads on from what is committed.
    fn read_from_base(&self, reading: &mut BoundedRead) -> Result<(), DeadLetterError> {
        let base = self.batch.base().iter().map(|(partition, offset)| (*partition, *offset));
        Ok(reading.assign(&self.consumer, &self.config.pipeline.dead_letter_topic, base)?)
    }

    fn is_full(&self) -> bool {
        self.batch.is_full() || (self.singles > 0 && !self.batch.is_empty())
    }

    // ---- one letter ----

    fn letter(&mut self, place: LetterPlace, value: &[u8]) -> Result<(), Stop> {
        self.named.remove(&place);
        if !self.selection.takes(place) {
            let skipped = self.selection.skip.contains(&place);
            self.batch.done.skipped += usize::from(skipped);
            self.batch.add(place, 0);
            return Ok(());
        }
        self.writer.begin()?;
        self.batch.add(place, value.len());
        let Some(letter) = Letter::parse(value) else {
            self.batch.pass_by(place, LetterFault::NotALetter, None);
            return Ok(());
        };
        match self.one(place, &letter)? {
            Ok(()) => {}
            Err(fault) => self.batch.pass_by(place, fault, Some(&letter)),
        }
        Ok(())
    }

    /// `Err` within: it does not go.
    fn one(
        &mut self,
        place: LetterPlace,
        letter: &Letter,
    ) -> Result<Result<(), LetterFault>, Stop> {
        let verdict = self.condemned.get(&place).copied();
        if let Some(Verdict::PassBy(fault)) = verdict {
            return Ok(Err(fault));
        }
        let opened = match self.origins.record(letter, &self.keys.keyring(), &mut self.opener)? {
            Ok(opened) => opened,
            Err(fault) => return Ok(Err(fault)),
        };
        let headers = opened.headers();
        let record = Record {
            key: opened.key.as_deref(),
            value: opened.value.as_deref(),
            headers: &headers,
            topic: Some(&letter.topic),
            now: unix_seconds(),
            ..Record::default()
        };
        if verdict == Some(Verdict::Again) {
            return self.again(letter, &record, DeadLetterReason::BrokerRefused, "").map(Ok);
        }
        match self.protector.protect(&record, std::iter::empty(), self.keys)? {
            Ok(schema) => self.produce(letter, &record, schema),
            Err(reject) => self
                .again(
                    letter,
                    &record,
                    DeadLetterReason::Rejected(reject.code),
                    reject.schema.as_deref().unwrap_or(""),
                )
                .map(Ok),
        }
    }

    fn produce(
        &mut self,
        letter: &Letter,
        record: &Record<'_>,
        schema: usize,
    ) -> Result<Result<(), LetterFault>, Stop> {
        let schemas = self.protector.schemas().clone();
        let label = &schemas.schemas()[schema].label;
        let Some(to) = schemas.routes().find(|(from, _)| *from == letter.topic).map(|(_, to)| to)
        else {
            return self
                .again(letter, record, DeadLetterReason::Rejected(RejectCode::NoSchema), "")
                .map(Ok);
        };
        let Some(limits) = self.limits.get(to) else { return Ok(Err(LetterFault::NoTopic)) };
        let shown = self.config.pipeline.schema_header.then_some(&**label);
        let outgoing = Outgoing::new(record, self.protector.output(), shown, letter.time);
        match outgoing.unfit(limits, letter.partition, unix_millis()) {
            None => {}
            Some(Unfit::Partition) => return Ok(Err(LetterFault::NoPartition)),
            Some(Unfit::TooLarge) => {
                return self
                    .again(
                        letter,
                        record,
                        DeadLetterReason::Rejected(RejectCode::OutputTooLarge),
                        label,
                    )
                    .map(Ok);
            }
            Some(Unfit::TooFarAhead | Unfit::NullKey) => {
                return self.again(letter, record, DeadLetterReason::BrokerRefused, label).map(Ok);
            }
        }
        let headers = outgoing
            .native_headers(|| native(record.headers))
            .ok_or(DeadLetterError::OutOfMemory)?;
        let bytes = outgoing.value.map_or(0, <[u8]>::len);
        if self.writer.produce(
            to,
            letter.partition,
            outgoing.timestamp().0,
            outgoing.key,
            outgoing.value,
            headers,
        )? {
            self.batch.count(bytes);
            self.batch.done.protected += 1;
            return Ok(Ok(()));
        }
        self.again(letter, record, DeadLetterReason::Rejected(RejectCode::OutputTooLarge), label)
            .map(Ok)
    }

    /// Rejected again: a new letter at the end of the topic, from the same origin, with the new
    /// reason.
    fn again(
        &mut self,
        letter: &Letter,
        record: &Record<'_>,
        reason: DeadLetterReason,
        schema: &str,
    ) -> Result<(), Stop> {
        let ring = self.keys.keyring();
        let key = letter::sealing_key(&ring)
            .ok_or_else(|| KeyFault("there is no key for dead letters".to_owned()))?;
        let Letter { topic, partition, offset, time, .. } = letter;
        let metadata = LetterMetadata {
            reason: reason.as_str(),
            topic,
            partition: *partition,
            offset: *offset,
            time: *time,
            schema,
        };
        let original =
            LetterRecord { key: record.key, value: record.value, headers: record.headers };
        let mut sealed = letter::seal(
            key,
            &metadata,
            &original,
            self.dead_letters.max_message_bytes,
            &mut self.nonces,
        )?;
        let name = &self.config.pipeline.dead_letter_topic;
        let to = letter.partition % self.dead_letters.partitions.max(1);
        let no_headers = || Headers::new(0).ok_or(DeadLetterError::OutOfMemory);
        let mut produced =
            self.writer.produce(name, to, 0, None, Some(&sealed.value), no_headers()?)?;
        if !produced && !sealed.stub {
            // The client takes less than the topic: a setting of the user's.
            sealed = letter::stub(key, &metadata, &original)?;
            produced =
                self.writer.produce(name, to, 0, None, Some(&sealed.value), no_headers()?)?;
        }
        if !produced {
            return Err(Stop::Transaction(Fault::Refused));
        }
        if sealed.stub {
            letter::warn_of_stub(&metadata);
        }
        self.batch.count(sealed.value.len());
        self.batch.done.rejected += 1;
        Ok(())
    }

    // ---- transactions ----

    fn commit(&mut self, progress: &mut dyn FnMut(&Replayed, &[PassedBy])) -> Result<(), Stop> {
        if self.batch.is_empty() {
            return Ok(());
        }
        // Letters that are named one by one leave the place where the next replay starts.
        let offsets = if self.selection.only.is_empty() {
            Some(self.batch.offsets(&self.config.pipeline.dead_letter_topic)?)
        } else {
            None
        };
        self.writer.commit(&self.consumer, offsets)?;
        self.singles = self.singles.saturating_sub(self.batch.letters());
        let (done, passed) = self.batch.committed();
        self.done.protected += done.protected;
        self.done.rejected += done.rejected;
        self.done.passed_by += done.passed_by;
        self.done.skipped += done.skipped;
        progress(&self.done, &passed);
        Ok(())
    }

    /// The transaction failed: its letters are read again, one in each transaction if the topic
    /// refuses one of them.
    fn give_back(&mut self, fault: Fault) -> Result<(), DeadLetterError> {
        let verdict = match fault {
            Fault::Refused => Verdict::Again,
            Fault::Blocked(Obstacle::TopicDenied | Obstacle::TopicMissing) => {
                Verdict::PassBy(LetterFault::NoTopic)
            }
            fault => return Err(DeadLetterError::Undelivered(fault)),
        };
        match self.batch.only_letter() {
            Some(place) => {
                let verdict = if self.condemned.contains_key(&place) {
                    Verdict::PassBy(LetterFault::Refused)
                } else {
                    verdict
                };
                self.condemned.insert(place, verdict);
                self.singles = self.singles.max(1);
            }
            None => self.singles = self.batch.letters(),
        }
        self.batch.failed();
        Ok(self.writer.renew()?)
    }

    /// Letters that were named and are not there.
    fn name_absent(&mut self, progress: &mut dyn FnMut(&Replayed, &[PassedBy])) {
        let absent: Vec<PassedBy> = self
            .named
            .iter()
            .map(|place| PassedBy { place: *place, fault: LetterFault::NotThere, origin: None })
            .collect();
        if !absent.is_empty() {
            self.done.passed_by += absent.len();
            progress(&self.done, &absent);
        }
    }
}
