//! Erasure ledger `kafka:<topic>`, for hosts that share a key store: one partition, kept for ever, each entry with the hash of the one before.

use std::sync::{Mutex, MutexGuard, PoisonError};

use veilstream_keys::erasure::{Chain, Erasure, Ledger, LedgerError, Recorded};

use super::error::KeyTopicError;
use super::single_writer::{self, Reader, SingleWriter};
use crate::config::Kafka;
use crate::kafka::topics::{Retention, Topics, alter_command};

/// Settings of a topic that keeps everything.
const FOR_EVER: [(&str, &str); 3] = [("cleanup.policy", "delete"), ("retention.ms", "-1"), ("retention.bytes", "-1")];

/// A topic that is never cleaned.
pub struct KafkaLedger {
    place: String,
    inner: Mutex<Inner>,
}

struct Inner {
    topic: SingleWriter,
    chain: Chain,
}

impl KafkaLedger {
    /// Makes the topic, if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(kafka: &Kafka, topic: &str) -> Result<(), LedgerError> {
        let make = |topics: Topics| single_writer::make(&topics, topic, &FOR_EVER);
        Topics::connect(kafka).map_err(KeyTopicError::from).and_then(make).map_err(|e| unusable(topic, &e))
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
                return Err(KeyTopicError::Forgets(alter_command(topics.servers(), topic, &FOR_EVER)));
            }
            SingleWriter::new(kafka, topic)
        };
        let inner = Inner { topic: topic_of().map_err(|e| unusable(topic, &e))?, chain: Chain::default() };
        Ok(Self { place: format!("kafka:{topic}"), inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
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

    fn append(&self, erasures: &[Erasure]) -> Result<Vec<u64>, LedgerError> {
        let inner = &mut *self.lock();
        // An attempt whose answer was lost may have written them: found again they are not written twice.
        let start = std::cell::Cell::new(None);
        let positions = inner.topic.write(&mut inner.chain, |chain| {
            let first = start.get().unwrap_or_else(|| chain.recorded().len());
            start.set(Some(first));
            let known = chain.recorded().get(first..).unwrap_or_default();
            let found: Vec<u64> = known.iter().filter(|entry| erasures.contains(&entry.erasure)).map(|entry| entry.position).collect();
            if !erasures.is_empty() && found.len() == erasures.len() {
                return (Vec::new(), found);
            }
            let lines = chain.following(erasures);
            let positions = (1..=lines.len()).map(|i| (chain.recorded().len() + i) as u64).collect();
            (lines.into_iter().zip(&positions).map(|(line, position): (String, &u64)| (position.to_string(), line)).collect(), positions)
        });
        inner.chain.check(&self.place)?;
        positions.map_err(|error| self.unusable(&error))
    }

    fn read(&self) -> Result<Vec<Recorded>, LedgerError> {
        let inner = &mut *self.lock();
        inner.topic.catch_up(&mut inner.chain).map_err(|error| self.unusable(&error))?;
        inner.chain.check(&self.place)?;
        Ok(inner.chain.recorded().to_vec())
    }
}

fn unusable(topic: &str, error: &KeyTopicError) -> LedgerError {
    LedgerError::Unusable { place: format!("kafka:{topic}"), message: error.to_string() }
}

impl Reader for Chain {
    fn take(&mut self, key: &[u8], value: Option<&[u8]>) {
        let position: Option<usize> = std::str::from_utf8(key).ok().and_then(|text| text.parse().ok());
        if position.is_none_or(|position| position > self.recorded().len()) {
            Chain::take(self, &String::from_utf8_lossy(value.unwrap_or_default()));
        }
    }
}
