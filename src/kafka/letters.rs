//! The dead-letter topic read by an operator: listed, shown, replayed. Not on the data path.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::error::OpenError;
use veilstream_engine::record::{Header, HeaderOutput, KeyOutput, Output, Record};
use veilstream_engine::seal::{NoncePool, Opener, Origin};
use veilstream_engine::transform::{Limits, Outcome, Transformer};

use super::client::{self, Consumer, Registered};
use super::dead_letter::{self, Letter, Opened, Original, Reason};
use super::ffi::{Destination, GroupMetadata, Headers};
use super::preflight::{self, TopicFacts};
use super::producer::{Producer, Recipe, Unproduced};
use crate::config::Config;
use crate::pipeline::{KeyFault, KeySource, unix_seconds};
use veilstream_keys::OsEntropy;

/// One request to the brokers.
const REQUEST: Duration = Duration::from_secs(10);
/// Dead letters of one transaction.
const BATCH: usize = 500;
/// A group is joined within this time, or another replay holds it.
const JOIN: Duration = Duration::from_secs(60);

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum LettersError {
    /// Kafka does not do as asked.
    #[error("{0}")]
    Kafka(String),
    /// A letter does not open; its place follows.
    #[error("dead letter {partition}:{offset} does not open: {error}")]
    Open {
        /// Partition of the dead letter.
        partition: i32,
        /// Offset of the dead letter.
        offset: i64,
        /// Why.
        error: OpenError,
    },
    /// Keys cannot be had.
    #[error(transparent)]
    Keys(#[from] KeyFault),
    /// The writer of the result is gone.
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

impl From<KafkaError> for LettersError {
    fn from(error: KafkaError) -> Self {
        Self::Kafka(error.to_string())
    }
}

/// One record of the dead-letter topic.
#[derive(Debug)]
pub struct Found {
    /// Partition of the dead-letter topic.
    pub partition: i32,
    /// Offset in the dead-letter topic.
    pub offset: i64,
    /// Its record key: the sealed key.
    pub key: Option<Vec<u8>>,
    /// What it says; `None`: no dead letter of a version known here.
    pub letter: Option<Letter>,
}

fn consumer(config: &Config, group: &str) -> Result<Registered<Consumer>, LettersError> {
    let own = [("group.id", &*format!("{}.{group}", config.kafka.group_id)), ("enable.partition.eof", "true")];
    Ok(client::consumer(&config.kafka, "reader of dead letters", &own)?)
}

/// Where each partition ends now.
fn ends(consumer: &Consumer, topic: &str) -> Result<Vec<(i32, i64, i64)>, LettersError> {
    // All topics: asking for one by name may create it.
    let metadata = consumer.fetch_metadata(None, REQUEST)?;
    let topic_metadata = metadata.topics().iter().find(|t| t.name() == topic);
    let partitions = topic_metadata.ok_or_else(|| LettersError::Kafka(format!("topic {topic} does not exist")))?.partitions();
    let mut ends = Vec::with_capacity(partitions.len());
    for partition in partitions {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), REQUEST)?;
        ends.push((partition.id(), low, high));
    }
    Ok(ends)
}

/// Reads every committed dead letter there is now, partition by partition in order of offset.
///
/// # Errors
/// [`LettersError`], `each`'s included.
pub fn read(config: &Config, from: Option<(i32, i64)>, mut each: impl FnMut(Found) -> Result<bool, LettersError>) -> Result<(), LettersError> {
    let topic = &config.pipeline.dead_letter_topic;
    let consumer = consumer(config, "dlq-list")?;
    let mut list = TopicPartitionList::new();
    for (partition, low, high) in ends(&consumer, topic)? {
        let start = match from {
            Some((wanted, _)) if wanted != partition => continue,
            Some((_, offset)) => offset,
            None => low,
        };
        if start < high {
            list.add_partition_offset(topic, partition, Offset::Offset(start))?;
        }
    }
    let mut open = list.count();
    if open == 0 {
        return Ok(());
    }
    consumer.assign(&list)?;
    let mut heard = Instant::now();
    while open > 0 {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let letter = message.payload().and_then(Letter::parse);
                let found = Found { partition: message.partition(), offset: message.offset(), key: message.key().map(<[u8]>::to_vec), letter };
                if !each(found)? {
                    return Ok(());
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) if heard.elapsed() > REQUEST => return Err(error.into()),
            None if heard.elapsed() > JOIN => return Err(LettersError::Kafka("the brokers stopped answering".to_owned())),
            _ => {}
        }
    }
    Ok(())
}

/// The dead letter at a place.
///
/// # Errors
/// [`LettersError`]; there is none at that place.
pub fn find(config: &Config, partition: i32, offset: i64) -> Result<(Found, Letter), LettersError> {
    let mut result = None;
    read(config, Some((partition, offset)), |found| {
        result = (found.offset == offset).then_some(found);
        Ok(false)
    })?;
    let mut found = result.ok_or_else(|| LettersError::Kafka(format!("there is no dead letter at {partition}:{offset}")))?;
    let letter = found.letter.take().ok_or_else(|| LettersError::Kafka(format!("the record at {partition}:{offset} is no dead letter of this version")))?;
    Ok((found, letter))
}

/// Opens a letter.
///
/// # Errors
/// [`LettersError::Open`].
pub fn open(found: &Found, letter: &Letter, keys: &dyn KeySource) -> Result<Opened, LettersError> {
    letter.open(found.key.as_deref(), &keys.keyring(), &mut Opener::default()).map_err(|error| LettersError::Open {
        partition: found.partition,
        offset: found.offset,
        error,
    })
}

/// What a replay did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Replayed {
    /// Records now in their sanitized topics.
    pub protected: usize,
    /// Records rejected again: they are at the end of the dead-letter topic, with their new reason.
    pub rejected: usize,
    /// Records of the topic that are no dead letters of this version: left.
    pub foreign: usize,
}

/// Runs every dead letter since the last replay through the engine into its sanitized topic. Outputs and the replay group's offsets commit
/// together: a replay that is interrupted or run twice brings no record twice. `progress` hears of each commit.
///
/// # Errors
/// [`LettersError`]; what committed before stays.
pub fn replay(config: &Config, schemas: &Arc<SchemaSet>, keys: &dyn KeySource, mut progress: impl FnMut(Replayed)) -> Result<Replayed, LettersError> {
    let topic = &config.pipeline.dead_letter_topic;
    let found = preflight::examine(&config.kafka, schemas, topic).map_err(LettersError::Kafka)?;
    if let Some(problem) = found.denied.first().or(found.problems.first()) {
        return Err(LettersError::Kafka(problem.clone()));
    }
    // One id for all: a second replay fences the first.
    let written = found.facts.values().map(|f| f.max_message_bytes);
    let limits = written.clone().min().zip(written.max());
    let recipe = Recipe::shared(&config.kafka, "dlq", limits);
    let producer = recipe.create().map_err(LettersError::Kafka)?;
    producer.fence_in(JOIN).map_err(|e| LettersError::Kafka(format!("{}: {e}", recipe.id())))?;
    let consumer = consumer(config, "dlq-replay")?;
    let ends: HashMap<i32, i64> = ends(&consumer, topic)?.into_iter().map(|(partition, _, end)| (partition, end)).collect();
    consumer.subscribe(&[topic])?;
    let mut replay = Replay {
        config,
        schemas,
        keys,
        producer: Some(producer),
        facts: found.facts,
        transformer: Transformer::new(Box::new(OsEntropy)).with_limits(Limits { input: config.pipeline.max_record_bytes, ..Limits::default() }).one_shot(),
        nonces: NoncePool::new(Box::new(OsEntropy)),
        opener: Opener::default(),
        output: Output::default(),
        done: Replayed::default(),
    };
    let mut open: HashMap<i32, i64> = ends.iter().filter(|(_, end)| **end > 0).map(|(p, e)| (*p, *e)).collect();
    let mut batch: Vec<Found> = Vec::new();
    let mut heard = Instant::now();
    while !open.is_empty() || !batch.is_empty() {
        let drained = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let (partition, offset) = (message.partition(), message.offset());
                let end = ends.get(&partition).copied().unwrap_or(0);
                if offset < end {
                    let letter = message.payload().and_then(Letter::parse);
                    batch.push(Found { partition, offset, key: message.key().map(<[u8]>::to_vec), letter });
                }
                // Letters rejected again come behind the end: they are for the next replay.
                if offset + 1 >= end {
                    open.remove(&partition);
                }
                batch.len() >= BATCH || open.is_empty()
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                heard = Instant::now();
                open.remove(&partition);
                open.is_empty()
            }
            Some(Err(error)) if error.rdkafka_error_code().is_some_and(super::error::is_authorization) => return Err(error.into()),
            _ if heard.elapsed() > JOIN => return Err(LettersError::Kafka("no dead letters came; does another replay run?".to_owned())),
            _ => open.is_empty(),
        };
        if drained && !batch.is_empty() {
            replay.transaction(&consumer, &batch)?;
            batch.clear();
            progress(replay.done);
        }
    }
    Ok(replay.done)
}

/// A replay under way.
struct Replay<'a> {
    config: &'a Config,
    schemas: &'a Arc<SchemaSet>,
    keys: &'a dyn KeySource,
    /// `None` after a call that did not return.
    producer: Option<Producer>,
    facts: HashMap<String, TopicFacts>,
    transformer: Transformer,
    nonces: NoncePool,
    opener: Opener,
    output: Output,
    done: Replayed,
}

impl Replay<'_> {
    fn transaction(&mut self, consumer: &Consumer, batch: &[Found]) -> Result<(), LettersError> {
        let before = self.done;
        let kafka = |e: super::error::TxnError| LettersError::Kafka(e.to_string());
        alive(&mut self.producer)?.begin().map_err(kafka)?;
        let result = self.fill(batch).and_then(|()| {
            alive(&mut self.producer)?.flush(|| true).map_err(|fault| LettersError::Kafka(format!("records were not delivered ({fault:?})")))?;
            let group = GroupMetadata::of(consumer).filter(GroupMetadata::has_member);
            let group = group.ok_or_else(|| LettersError::Kafka("the replay's group was lost; run it again".to_owned()))?;
            let mut next: HashMap<i32, i64> = HashMap::new();
            for found in batch {
                let entry = next.entry(found.partition).or_default();
                *entry = (*entry).max(found.offset + 1);
            }
            let mut offsets = TopicPartitionList::new();
            for (partition, offset) in next {
                offsets.add_partition_offset(&self.config.pipeline.dead_letter_topic, partition, Offset::Offset(offset))?;
            }
            let (producer, committed) = self.producer.take().ok_or_else(ended)?.commit(offsets, Arc::new(group));
            self.producer = Some(producer.ok_or_else(ended)?);
            committed.map(drop).map_err(kafka)
        });
        if result.is_err() {
            self.done = before;
            // The next replay's fence aborts it otherwise.
            let _ = alive(&mut self.producer).map(|producer| producer.abort());
        }
        result
    }

    fn fill(&mut self, batch: &[Found]) -> Result<(), LettersError> {
        for found in batch {
            match &found.letter {
                None => self.done.foreign += 1,
                Some(letter) => self.one(found, letter)?,
            }
        }
        Ok(())
    }

    fn one(&mut self, found: &Found, letter: &Letter) -> Result<(), LettersError> {
        let opened = letter.open(found.key.as_deref(), &self.keys.keyring(), &mut self.opener).map_err(|error| LettersError::Open {
            partition: found.partition,
            offset: found.offset,
            error,
        })?;
        let headers: Vec<Header<'_>> = opened.headers.iter().map(|(n, v)| (n.as_slice(), v.as_deref())).collect();
        let record = Record { key: opened.key.as_deref(), value: opened.value.as_deref(), headers: &headers, topic: Some(&letter.topic), now: unix_seconds() };
        let mut tries = 0;
        let outcome = loop {
            match self.transformer.transform(self.schemas, &self.keys.keyring(), &record, &mut self.output) {
                Outcome::NeedKeys(needed) if tries < 3 => {
                    tries += 1;
                    let keys = self.keys.fetch(&needed)?;
                    self.transformer.add_subject_keys(keys);
                }
                Outcome::NeedKeys(_) => return Err(KeyFault("keys are there and do not seal".to_owned()).into()),
                other => break other,
            }
        };
        let to = self.schemas.routes().find(|(from, _)| *from == letter.topic).map(|(_, to)| to.to_owned());
        let (schema, to) = match (outcome, to) {
            (Outcome::Protected(schema), Some(to)) => (&self.schemas.schemas()[schema], to),
            (Outcome::Rejected(reject), _) => return self.again(letter, &record, Reason::Rejected(reject.code), reject.schema.as_deref()),
            _ => return self.again(letter, &record, Reason::Rejected(veilstream_engine::RejectCode::NoSchema), None),
        };
        let facts = self.facts.get(&to);
        if facts.is_none_or(|f| letter.partition >= f.partitions) {
            return Err(LettersError::Kafka(format!("{to} has no partition {}; give it as many as {} has", letter.partition, letter.topic)));
        }
        let now = i64::try_from(unix_seconds()).unwrap_or(i64::MAX).saturating_mul(1000);
        let late = facts.is_some_and(|f| letter.time.is_some_and(|time| time.saturating_sub(now) > f.ahead_ms));
        let mut out = Headers::new(self.output.headers.len() + 1).ok_or_else(out_of_memory)?;
        for header in &self.output.headers {
            match header {
                HeaderOutput::Same(i) => out.add(headers[*i].0, headers[*i].1),
                HeaderOutput::Replaced(i, range) => out.add(headers[*i].0, Some(&self.output.header_bytes[range.clone()])),
            }
        }
        out.add(b"veilstream-schema", Some(schema.label.as_bytes()));
        let key = match self.output.key {
            KeyOutput::Same => record.key,
            KeyOutput::Replaced => Some(self.output.key_bytes.as_slice()),
        };
        if late || (key.is_none() && facts.is_some_and(|f| f.compacted)) {
            return self.again(letter, &record, Reason::BrokerRefused, Some(&schema.label));
        }
        let value = (!self.output.tombstone).then_some(self.output.value.as_slice());
        let topic = alive(&mut self.producer)?.topic(&to).ok_or_else(out_of_memory)?;
        let destination = Destination { topic, partition: letter.partition, timestamp: letter.time.map_or(0, |t| t.max(1)) };
        match alive(&mut self.producer)?.produce(destination, key, value, out, || true) {
            Ok(()) => {
                self.done.protected += 1;
                Ok(())
            }
            Err(Unproduced::TooLarge) => self.again(letter, &record, Reason::Rejected(veilstream_engine::RejectCode::OutputTooLarge), Some(&schema.label)),
            Err(Unproduced::Failed(fault)) => Err(LettersError::Kafka(format!("a record cannot be produced ({fault:?})"))),
        }
    }

    /// Rejected again: a new letter at the end of the topic, from the same origin, with the new reason.
    fn again(&mut self, letter: &Letter, record: &Record<'_>, reason: Reason, schema: Option<&str>) -> Result<(), LettersError> {
        let ring = self.keys.keyring();
        let key = dead_letter::sealing_key(&ring).ok_or_else(|| KeyFault("there is no key for dead letters".to_owned()))?;
        let origin = Origin { topic: &letter.topic, partition: letter.partition, offset: letter.offset, schema: schema.unwrap_or("") };
        let original = Original { key: record.key, value: record.value, headers: record.headers, time: letter.time };
        let sealed = dead_letter::seal(key, reason, &origin, &original, &mut self.nonces).map_err(|e| KeyFault(e.to_string()))?;
        let name = &self.config.pipeline.dead_letter_topic;
        let partitions = self.facts.get(name).map_or(1, |f| f.partitions.max(1));
        let topic = alive(&mut self.producer)?.topic(name).ok_or_else(out_of_memory)?;
        let destination = Destination { topic, partition: letter.partition % partitions, timestamp: 0 };
        let headers = Headers::new(0).ok_or_else(out_of_memory)?;
        alive(&mut self.producer)?
            .produce(destination, sealed.key.as_deref(), Some(&sealed.value), headers, || true)
            .map_err(|fault| LettersError::Kafka(format!("a dead letter cannot be produced ({fault:?})")))?;
        self.done.rejected += 1;
        Ok(())
    }
}

fn alive(producer: &mut Option<Producer>) -> Result<&mut Producer, LettersError> {
    producer.as_mut().ok_or_else(ended)
}

fn ended() -> LettersError {
    LettersError::Kafka("the group coordinator does not take the offsets; run it again".to_owned())
}

fn out_of_memory() -> LettersError {
    LettersError::Kafka(RDKafkaErrorCode::CriticalSystemResource.to_string())
}
