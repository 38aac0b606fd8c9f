//! Rotation of a topic: each of its records opened, sealed again and written to another topic, in
//! the same partition, in the same order, exactly once.
//!
//! ```text
//!  topic ── batch ── record: key, headers, value ── open ── seal, index ──┐
//!                            a value that does not open: as it stands ────┴► the other topic
//!                                       records and offsets of a batch commit together
//! ```

mod error;
mod record;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rdkafka::Message as _;
use rdkafka::message::{BorrowedMessage, Headers as _};
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::KeyId;
use veilstream_engine::record::{Header, Record};
use veilstream_engine::transform::Limits;

pub use error::{RecordPlace, TopicRotationError};
use record::{ERASED, Fate, Held, Opens, RecordError, RecordRotator};

use crate::clock::{unix_millis, unix_seconds};
use crate::config::Config;
use crate::kafka::client::{Consumer, Registered};
use crate::kafka::producer::Recipe;
use crate::kafka::reader::{BoundedRead, OffsetRange, committed, offset_list, ranges, reader};
use crate::kafka::topics::{NewTopic, TopicFacts, Topics, grow_command};
use crate::kafka::writer::{TransactionWriter, WriteFailure};
use crate::keys::{KeyLookup, KeySource};
use crate::outgoing::{Outgoing, TopicLimits, Unfit, native};
use crate::progress::Progress;

/// Most records of a transaction.
const RECORDS: usize = 2000;
/// Bytes read after which a transaction takes no further record.
const BYTES: usize = 8 << 20;
/// Records that stay and are named at most; all are counted.
const NAMED: usize = 100;

/// What a rotation moves, and from where to where.
pub struct TopicOptions<'a> {
    /// The topic that is read.
    pub from: &'a str,
    /// The topic that is written.
    pub to: &'a str,
    /// Count what would move, and write nothing.
    pub dry_run: bool,
    /// Seal values in clear where tokens are expected; else the first one ends the rotation.
    pub seal_clear: bool,
    /// Bind tokens that are bound to nothing to their record.
    pub trust_records: bool,
    /// Open what compromised keys sealed.
    pub allow_compromised: bool,
    /// Set: end after the batch in hand.
    pub stop: &'a AtomicBool,
}

/// The schemas of a topic: as they protect, and as records move to newer keys.
#[derive(Debug, Clone, Copy)]
pub struct TopicSchemas<'a> {
    /// As they protect.
    pub documents: &'a Arc<SchemaSet>,
    /// Of the same documents ([`crate::registry::open_rotation`]).
    pub rotation: &'a Arc<SchemaSet>,
}

/// What a rotation did.
#[derive(Debug, Default)]
pub struct TopicRotated {
    /// Records that were read.
    pub records: u64,
    /// Records that were sealed again.
    pub sealed: u64,
    /// Tokens that were sealed again, by schema, field and the key that they leave.
    pub moved: BTreeMap<(String, String, KeyId), u64>,
    /// Values that stood in clear and are sealed now, by field.
    pub clear: BTreeMap<String, u64>,
    /// Records that stay as they stand, by schema, field and class.
    pub kept: BTreeMap<(String, String, &'static str), u64>,
    /// The first of them, but those of erased data subjects: place, field and class.
    pub named: Vec<(RecordPlace, String, &'static str)>,
    /// Tokens at places that no schema declares: they stay under their keys.
    pub unexpected_tokens: u64,
    /// Records that came into the topic meanwhile.
    pub behind: u64,
    /// It was asked to stop before its end.
    pub stopped: bool,
}

impl TopicRotated {
    /// Records of erased data subjects.
    #[must_use]
    pub fn erased(&self) -> u64 {
        self.kept.iter().filter(|((.., class), _)| *class == ERASED).map(|(_, n)| n).sum()
    }

    /// Records with a value that does not open, but erased ones.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.kept.values().sum::<u64>() - self.erased()
    }

    /// Whether everything that was read is under the newest keys, but what nobody can open again.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.failures() == 0 && self.unexpected_tokens == 0 && !self.stopped
    }

    fn add(&mut self, place: &RecordPlace, schema: &str, fate: &Fate, held: Held) {
        self.records += 1;
        self.unexpected_tokens += u64::from(held.unexpected);
        for (field, kid) in held.tokens {
            *self.moved.entry((schema.to_owned(), field, kid)).or_default() += 1;
        }
        for field in held.clear {
            *self.clear.entry(field).or_default() += 1;
        }
        match fate {
            Fate::Sealed(_) => self.sealed += 1,
            Fate::Kept(kept) => {
                let what = (schema.to_owned(), kept.field.clone(), kept.class);
                *self.kept.entry(what).or_default() += 1;
                if kept.class != ERASED && self.named.len() < NAMED {
                    self.named.push((*place, kept.field.clone(), kept.class));
                }
            }
        }
    }
}

/// Seals the records of a topic again, into another one. What committed before it ends stays; the
/// next run goes on behind it.
///
/// # Errors
/// [`TopicRotationError`].
pub fn rotate_topic(
    config: &Config,
    schemas: TopicSchemas<'_>,
    keys: &dyn KeySource,
    options: &TopicOptions<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<TopicRotated, TopicRotationError> {
    if options.from == options.to {
        return Err(TopicRotationError::SameTopic(options.to.to_owned()));
    }
    let target = examine(config, options)?;
    let writer = if options.dry_run {
        None
    } else {
        let size = target.max_message_bytes;
        let name = format!("rotate-{}-{}", options.from, options.to);
        // Fenced in before the offsets are read: no other rotation commits afterwards.
        Some(TransactionWriter::new(Recipe::shared(&config.kafka, &name, Some((size, size))))?)
    };
    let group = format!("rotate.{}.{}", options.from, options.to);
    let consumer = reader(&config.kafka, &group, "reader of a rotation")?;
    let spans = spans(&consumer, options)?;
    let limits = Limits { input: config.pipeline.max_record_bytes, ..Limits::default() };
    let opens = Opens {
        seal_clear: options.seal_clear,
        trust_records: options.trust_records,
        allow_compromised: options.allow_compromised,
        schema_header: config.pipeline.schema_header,
    };
    let rotator =
        RecordRotator::new(schemas.documents, schemas.rotation.clone(), keys, limits, opens);
    let mut rotation = Rotation {
        options,
        schemas: schemas.rotation,
        keys,
        limits: TopicLimits::from(&target),
        consumer,
        writer,
        rotator,
        done: TopicRotated::default(),
    };
    let ended = rotation.run(&spans, progress);
    if let (Err(_), Some(writer)) = (&ended, &mut rotation.writer) {
        // Readers of the topic would wait for its time-out.
        writer.abort();
    }
    ended?;
    let read: BTreeMap<i32, i64> = spans.iter().map(|span| (span.partition, span.high)).collect();
    let now = ranges(&rotation.consumer, options.from)?.unwrap_or_default();
    rotation.done.behind = now
        .iter()
        .map(|range| range.high - read.get(&range.partition).copied().unwrap_or(range.high))
        .map(|came| u64::try_from(came).unwrap_or_default())
        .sum();
    Ok(rotation.done)
}

/// What the other topic takes, once it fits.
fn examine(config: &Config, options: &TopicOptions<'_>) -> Result<TopicFacts, TopicRotationError> {
    let topics = Topics::connect(&config.kafka)?;
    let mut described = topics.describe([options.from, options.to])?;
    let mut take = |name: &str| {
        described.remove(name).ok_or_else(|| TopicRotationError::NoTopic(name.to_owned()))
    };
    let (from, to) = (take(options.from)??, take(options.to)?);
    let to = to.map_err(|error| {
        let settings = [("cleanup.policy", from.cleanup_policy().to_owned())];
        let new = NewTopic {
            name: options.to.to_owned(),
            partitions: from.partitions,
            replicas: None,
            settings: settings.into(),
        };
        TopicRotationError::Target { error, command: new.command(topics.servers()) }
    })?;
    if to.partitions < from.partitions {
        return Err(TopicRotationError::Partitions {
            from: from.partitions,
            to: to.partitions,
            command: grow_command(topics.servers(), options.to, from.partitions),
        });
    }
    warn_of(options, &from, &to);
    Ok(to)
}

/// What the other topic would lose.
fn warn_of(options: &TopicOptions<'_>, from: &TopicFacts, to: &TopicFacts) {
    let topic = options.to;
    if from.compacted != to.compacted {
        let (from, to) = (from.cleanup_policy(), to.cleanup_policy());
        tracing::warn!(topic, from, to, "the topics differ in cleanup.policy");
    }
    if to.keeps().larger(from.keeps()) != to.keeps() {
        tracing::warn!(
            topic,
            "the topic keeps less than the one that is read: records older than its retention are \
            deleted once they are written; raise retention.ms and retention.bytes"
        );
    }
    if to.log_append_time {
        tracing::warn!(topic, "the broker writes its own timestamps into the topic");
    }
}

/// What is read: from where the last run ended to the end as it is now.
fn spans(
    consumer: &Consumer,
    options: &TopicOptions<'_>,
) -> Result<Vec<OffsetRange>, TopicRotationError> {
    let missing = |topic: &str| TopicRotationError::NoTopic(topic.to_owned());
    let from = ranges(consumer, options.from)?.ok_or_else(|| missing(options.from))?;
    let to = ranges(consumer, options.to)?.ok_or_else(|| missing(options.to))?;
    let committed = committed(consumer, options.from, &from)?;
    if committed.is_empty() && !options.dry_run && to.iter().any(|range| range.high > range.low) {
        return Err(TopicRotationError::NotEmpty(options.to.to_owned()));
    }
    let mut spans = Vec::new();
    for range in from {
        let OffsetRange { partition, high, .. } = range;
        let committed = committed.get(&partition).copied();
        let Some((low, expired_from)) = range.resumed(committed) else {
            let committed = committed.unwrap_or_default();
            return Err(TopicRotationError::Behind { partition, end: high, committed });
        };
        if let Some(from) = expired_from {
            tracing::warn!(partition, from, to = low, "the topic deleted records that no run read");
        }
        spans.push(OffsetRange { low, ..range });
    }
    Ok(spans)
}

/// A rotation under way.
struct Rotation<'a> {
    options: &'a TopicOptions<'a>,
    schemas: &'a SchemaSet,
    keys: &'a dyn KeySource,
    limits: TopicLimits,
    consumer: Registered<Consumer>,
    /// `None`: a dry run.
    writer: Option<TransactionWriter>,
    rotator: RecordRotator,
    /// As of the last commit.
    done: TopicRotated,
}

/// A record that was read.
struct ReadRecord {
    place: RecordPlace,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    time: Option<i64>,
}

impl ReadRecord {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers
            .map(|header| (header.key.as_bytes().to_vec(), header.value.map(<[u8]>::to_vec)));
        Self {
            place: RecordPlace { partition: message.partition(), offset: message.offset() },
            key: message.key().map(<[u8]>::to_vec),
            value: message.payload().map(<[u8]>::to_vec),
            headers: headers.collect(),
            time: message.timestamp().to_millis(),
        }
    }

    fn bytes(&self) -> usize {
        let len = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        len(&self.key)
            + len(&self.value)
            + self.headers.iter().map(|(name, value)| name.len() + len(value)).sum::<usize>()
    }

    fn headers(&self) -> Vec<Header<'_>> {
        self.headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect()
    }

    fn record<'a>(&'a self, headers: &'a [Header<'a>]) -> Record<'a> {
        Record {
            key: self.key.as_deref(),
            value: self.value.as_deref(),
            headers,
            now: unix_seconds(),
            time: self.time.and_then(|ms| u64::try_from(ms / 1000).ok()),
            ..Record::default()
        }
    }
}

impl Rotation<'_> {
    fn run(
        &mut self,
        spans: &[OffsetRange],
        progress: &mut dyn FnMut(Progress),
    ) -> Result<(), TopicRotationError> {
        let begun = Instant::now();
        let ends = spans.iter().map(|span| (span.partition, span.high)).collect();
        let estimate = spans.iter().map(|span| span.high - span.low).sum::<i64>();
        let estimate = u64::try_from(estimate).unwrap_or_default();
        // What came since this run began is for the next one.
        let mut reading = BoundedRead::new(ends);
        let starts = spans.iter().map(|span| (span.partition, span.low));
        reading.assign(&self.consumer, self.options.from, starts)?;
        while !reading.is_over() {
            self.done.stopped = self.options.stop.load(Ordering::Relaxed);
            if self.done.stopped {
                return Ok(());
            }
            let batch = self.read(&mut reading)?;
            if !batch.is_empty() {
                self.write(&batch)?;
                let (records, elapsed) = (self.done.records, begun.elapsed());
                progress(Progress { items: "records", done: records, estimate, elapsed });
            }
        }
        Ok(())
    }

    /// The records of one transaction: as many as there are without a wait.
    fn read(&self, reading: &mut BoundedRead) -> Result<Vec<ReadRecord>, TopicRotationError> {
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while !reading.is_over() && batch.len() < RECORDS && bytes < BYTES {
            match reading.poll(&self.consumer)? {
                Some(message) => {
                    let record = ReadRecord::of(&message);
                    bytes += record.bytes();
                    batch.push(record);
                }
                None if !batch.is_empty() => break,
                None => {}
            }
        }
        Ok(batch)
    }

    /// Rotates the records of a batch, and commits them with their offsets.
    fn write(&mut self, batch: &[ReadRecord]) -> Result<(), TopicRotationError> {
        let headers: Vec<Vec<Header<'_>>> = batch.iter().map(ReadRecord::headers).collect();
        let records = || batch.iter().zip(&headers).map(|(read, headers)| read.record(headers));
        let lookup = KeyLookup::new(self.keys);
        for (i, read) in batch.iter().enumerate() {
            let record = read.record(&headers[i]);
            let mut held = Held::default();
            let ahead = records().skip(i + 1);
            let fate = self
                .rotator
                .rotate(&record, ahead, &lookup, &mut held)
                .map_err(|error| self.ended(&read.place, error))?;
            self.produce(read, &record, &fate)?;
            let schema = match &fate {
                Fate::Sealed(index) => &*self.schemas.schemas()[*index].name,
                Fate::Kept(kept) => kept.schema.as_deref().unwrap_or_default(),
            };
            self.done.add(&read.place, schema, &fate, held);
        }
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let ends: BTreeMap<i32, i64> =
            batch.iter().map(|read| (read.place.partition, read.place.offset + 1)).collect();
        let offsets = offset_list(self.options.from, ends)?;
        Ok(writer.commit(&self.consumer, Some(offsets))?)
    }

    fn produce(
        &mut self,
        read: &ReadRecord,
        record: &Record<'_>,
        fate: &Fate,
    ) -> Result<(), TopicRotationError> {
        let Self { rotator, writer, limits, options, .. } = self;
        let place = read.place;
        let topic = || options.to.to_owned();
        let (mut clear, partition) = (Vec::new(), place.partition);
        let outgoing = match fate {
            Fate::Sealed(index) => rotator.outgoing(record, &mut clear, *index, read.time),
            Fate::Kept(kept) => rotator.kept(record, kept, read.time),
        };
        match outgoing.unfit(limits, partition, unix_millis()) {
            None => {}
            Some(Unfit::Partition) => {
                return Err(TopicRotationError::NoPartition { place, topic: topic() });
            }
            Some(Unfit::TooLarge) => {
                return Err(TopicRotationError::TooLarge { place, topic: topic() });
            }
            Some(Unfit::TooFarAhead) => {
                return Err(TopicRotationError::TooFarAhead { place, topic: topic() });
            }
            Some(Unfit::NullKey) => {
                return Err(TopicRotationError::NullKey { place, topic: topic() });
            }
        }
        let Some(writer) = writer else { return Ok(()) };
        writer.begin()?;
        let headers = outgoing
            .native_headers(|| native(outgoing.input()))
            .ok_or(TopicRotationError::OutOfMemory)?;
        let time = outgoing.timestamp().0;
        let Outgoing { key, value, .. } = outgoing;
        if writer.produce(options.to, partition, time, key, value, headers)? {
            Ok(())
        } else {
            Err(TopicRotationError::TooLarge { place, topic: topic() })
        }
    }

    fn ended(&self, place: &RecordPlace, error: RecordError) -> TopicRotationError {
        match error {
            RecordError::Clear(field) => TopicRotationError::Clear { place: *place, field },
            RecordError::KeyRoot { found, pinned } => {
                TopicRotationError::KeyRoot { place: *place, found, pinned }
            }
            RecordError::Keys(fault) => TopicRotationError::Keys(fault),
        }
    }
}

impl From<WriteFailure> for TopicRotationError {
    fn from(failure: WriteFailure) -> Self {
        match failure {
            WriteFailure::Transaction(fault) => Self::Undelivered(fault),
            WriteFailure::Error(error) => Self::Writer(error),
        }
    }
}
