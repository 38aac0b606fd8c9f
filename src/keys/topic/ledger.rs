//! Erasure ledger `kafka:<topic>`, for hosts that share a key store: one partition, kept for ever,
//! one line a record.

use std::sync::{Mutex, MutexGuard, PoisonError};

use veilstream_keys::erasure::{Ledger, LedgerError};

use super::error::KeyTopicError;
use super::single_writer::{self, Reader, SingleWriter};
use crate::config::Kafka;
use crate::kafka::topics::{Retention, Topics, alter_command};

/// Settings of a topic that keeps everything.
const FOR_EVER: [(&str, &str); 3] =
    [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];

/// A topic that is never cleaned.
pub struct KafkaLedger {
    place: String,
    inner: Mutex<LedgerState>,
}

struct LedgerState {
    topic: SingleWriter,
    lines: LedgerLines,
}

/// Lines in their order; a record's key is its line's number.
#[derive(Default)]
struct LedgerLines(Vec<Vec<u8>>);

impl KafkaLedger {
    /// Makes the topic, if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(kafka: &Kafka, topic: &str) -> Result<(), LedgerError> {
        let make = |topics: Topics| single_writer::make(&topics, topic, &FOR_EVER);
        Topics::connect(kafka)
            .map_err(KeyTopicError::from)
            .and_then(make)
            .map_err(|e| unusable(topic, &e))
    }

    /// Opens the topic.
    ///
    /// # Errors
    /// It is not there, or would forget entries.
    pub fn open(kafka: &Kafka, topic: &str) -> Result<Self, LedgerError> {
        let topic_of = || {
            let topics = Topics::connect(kafka)?;
            let facts = single_writer::described(&topics, topic)?;
            if facts.compacted || facts.keeps() != Retention::UNLIMITED {
                return Err(KeyTopicError::Forgets(alter_command(
                    topics.servers(),
                    topic,
                    &FOR_EVER,
                )));
            }
            SingleWriter::new(kafka, topic)
        };
        let inner = LedgerState {
            topic: topic_of().map_err(|e| unusable(topic, &e))?,
            lines: LedgerLines::default(),
        };
        Ok(Self { place: format!("kafka:{topic}"), inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, LedgerState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unusable(&self, error: &KeyTopicError) -> LedgerError {
        LedgerError::Unusable { place: self.place.clone(), message: error.to_string() }
    }
}

impl Ledger for KafkaLedger {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn read(&self, from: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        let inner = &mut *self.lock();
        inner.topic.catch_up(&mut inner.lines).map_err(|error| self.unusable(&error))?;
        Ok(inner
            .lines
            .0
            .iter()
            .skip(usize::try_from(from).unwrap_or(usize::MAX))
            .cloned()
            .collect())
    }

    fn append(&self, count: u64, lines: &[String]) -> Result<(), LedgerError> {
        let inner = &mut *self.lock();
        let is_end = inner.topic.write(&mut inner.lines, |known| {
            let start = usize::try_from(count).unwrap_or(usize::MAX);
            // A try whose answer was lost may have written them: found again they are not written
            // twice.
            let is_there = known.0.get(start..).is_some_and(|rest| {
                rest.len() == lines.len() && rest.iter().zip(lines).all(|(a, b)| a == b.as_bytes())
            });
            if is_there && !lines.is_empty() {
                return (Vec::new(), (true, false));
            }
            if known.0.len() != start {
                return (Vec::new(), (false, false));
            }
            (
                (count..)
                    .zip(lines)
                    .map(|(number, line)| (number.to_string(), line.clone()))
                    .collect(),
                (true, true),
            )
        });
        let (is_end, is_new) = is_end.map_err(|error| self.unusable(&error))?;
        if is_new {
            // The store is about to name these lines as its head: a process that sees that must
            // find them.
            inner.topic.catch_up(&mut inner.lines).map_err(|error| self.unusable(&error))?;
        }
        match is_end {
            true => Ok(()),
            false if count == 0 => Err(LedgerError::Exists { place: self.place() }),
            false => Err(LedgerError::Moved { place: self.place() }),
        }
    }

    /// A topic forgets nothing: the new ledger takes another one.
    fn replace(&self, lines: &[String], _: u64) -> Result<Option<String>, LedgerError> {
        match self.append(0, lines) {
            Err(LedgerError::Exists { .. }) => Err(self.unusable(&KeyTopicError::NotEmpty)),
            done => done.map(|()| None),
        }
    }
}

fn unusable(topic: &str, error: &KeyTopicError) -> LedgerError {
    LedgerError::Unusable { place: format!("kafka:{topic}"), message: error.to_string() }
}

impl Reader for LedgerLines {
    fn take(&mut self, key: &[u8], value: Option<&[u8]>) {
        // What this process wrote comes twice. Whatever else stands in the topic is a line that is
        // not as it should be.
        let number: Option<usize> =
            std::str::from_utf8(key).ok().and_then(|text| text.parse().ok());
        let line = value.unwrap_or_default();
        let is_known =
            number.and_then(|number| self.0.get(number)).is_some_and(|known| known == line);
        if !is_known {
            self.0.push(line.to_vec());
        }
    }
}
