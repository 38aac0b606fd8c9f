//! Schemas in force together with what the brokers say of their topics: neither comes into force without the other.

use std::collections::HashMap;
use std::sync::Arc;

use veilstream_engine::compile::SchemaSet;

use super::core::partition::{Block, BlockReason};
use crate::config::Kafka;
use crate::kafka::preflight::{self, Found, TopicFacts};

/// Taken once per transaction.
pub(super) struct Snapshot {
    pub(super) schemas: Arc<SchemaSet>,
    /// By topic, for every topic that is there.
    pub(super) facts: HashMap<String, TopicFacts>,
}

impl Snapshot {
    /// Asks the brokers about the topics of `schemas`. Blocks.
    ///
    /// # Errors
    /// They do not answer: what is in force stays.
    pub(super) fn examine(kafka: &Kafka, schemas: Arc<SchemaSet>, dead_letters: &str) -> Result<Self, String> {
        let found = preflight::examine(kafka, &schemas, dead_letters)?;
        Ok(Self::of(schemas, found))
    }

    pub(super) fn of(schemas: Arc<SchemaSet>, found: Found) -> Self {
        Self { schemas, facts: found.facts }
    }

    /// The sanitized topic of a raw topic.
    pub(super) fn target(&self, raw: &str) -> Option<&str> {
        self.schemas.routes().find(|(from, _)| *from == raw).map(|(_, to)| to)
    }

    /// The raw topics, sorted.
    pub(super) fn raw_topics(&self) -> Vec<String> {
        let mut topics: Vec<String> = self.schemas.routes().map(|(from, _)| from.to_owned()).collect();
        topics.sort();
        topics
    }

    /// Only this raw topic is written there.
    pub(super) fn is_alone(&self, target: &str) -> bool {
        self.schemas.routes().filter(|(_, to)| *to == target).count() == 1
    }

    /// Why records of a raw partition cannot be written.
    pub(super) fn problem(&self, raw: &str, partition: i32) -> Option<Block> {
        let target = self.target(raw)?;
        let text = match self.facts.get(target) {
            None => format!("the sanitized topic {target} is missing: create it (`veilstream check --preflight` prints the command)"),
            Some(facts) if partition >= facts.partitions => {
                let needed = self.facts.get(raw).map_or(partition + 1, |f| f.partitions.max(partition + 1));
                format!("the sanitized topic {target} has {} partitions and needs {needed}: add partitions", facts.partitions)
            }
            Some(_) => return None,
        };
        Some(Block::new(BlockReason::SanitizedTopic, text))
    }

    /// The least and the greatest `max.message.bytes` of the topics that are written.
    pub(super) fn limits(&self, dead_letters: &str) -> Option<(usize, usize)> {
        let written = self.schemas.routes().map(|(_, to)| to).chain([dead_letters]);
        let limits: Vec<usize> = written.filter_map(|topic| self.facts.get(topic)).map(|f| f.max_message_bytes).collect();
        limits.iter().min().copied().zip(limits.iter().max().copied())
    }
}
