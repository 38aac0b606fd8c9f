//! Schemas in force together with what the brokers say of their topics: neither comes into force
//! without the other.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use veilstream_engine::compile::SchemaSet;

use super::core::partition::{Block, BlockReason};
use crate::kafka::topics::{TopicError, TopicFacts, Topics};
use crate::preflight::{self, Findings, Problem};

/// Taken once per transaction.
pub(super) struct Snapshot {
    pub(super) schemas: Arc<SchemaSet>,
    /// By topic, for every topic that is there.
    pub(super) facts: HashMap<String, TopicFacts>,
    /// Raw topics whose route does not run as a whole, each with why.
    unfit: HashMap<String, Block>,
    /// Raw topics that the brokers do not show, each with why: they are not there, or may not be
    /// described.
    unseen: BTreeMap<String, String>,
}

impl Snapshot {
    /// Asks the brokers about the topics of `schemas`. Blocks.
    ///
    /// # Errors
    /// They do not answer: what is in force stays.
    pub(super) fn examine(
        topics: &Topics,
        schemas: Arc<SchemaSet>,
        dead_letters: &str,
    ) -> Result<Self, TopicError> {
        let found = preflight::examine(topics, &schemas, dead_letters)?;
        Ok(Self::of(schemas, found))
    }

    /// What was found, route by route.
    pub(super) fn of(schemas: Arc<SchemaSet>, found: Findings) -> Self {
        // Missing topics and partitions are the partitions' problems: others of the route may run.
        let is_whole = |problem: &&Problem| {
            let is_partial = matches!(
                problem,
                Problem::NoRawTopic { .. }
                    | Problem::NoTopic { .. }
                    | Problem::FewPartitions { .. }
            );
            !is_partial && !matches!(problem, Problem::Topic(TopicError::Missing { .. }))
        };
        let block = |problems: &[Problem]| {
            let whole: Vec<&Problem> = problems.iter().filter(is_whole).collect();
            let is_denied = whole.iter().any(|problem| problem.is_authorization());
            let reason =
                if is_denied { BlockReason::NotAuthorized } else { BlockReason::SanitizedTopic };
            (!whole.is_empty()).then(|| Block::new(reason, texts(&mut whole.into_iter())))
        };
        let unfit = found
            .unfit()
            .filter_map(|route| Some((route.raw.clone(), block(&route.problems)?)))
            .collect();
        let unseen = found.unfit().filter(|route| !found.facts.contains_key(&route.raw));
        let unseen =
            unseen.map(|route| (route.raw.clone(), texts(&mut route.problems.iter()))).collect();
        Self { schemas, unfit, unseen, facts: found.facts }
    }

    /// A route that runs goes on when its topics come to fit less well: what they refuse is
    /// dead-lettered. One that has not run waits.
    pub(super) fn go_on(mut self, before: &Self) -> Self {
        self.unfit.retain(|raw, _| {
            before.unfit.contains_key(raw)
                || before.target(raw)
                    != self
                        .schemas
                        .routes()
                        .find(|(from, _)| *from == raw.as_str())
                        .map(|(_, to)| to)
        });
        self
    }

    /// Nothing has changed.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.schemas, &other.schemas)
            && self.facts == other.facts
            && self.unfit == other.unfit
            && self.unseen == other.unseen
    }

    /// The sanitized topic of a raw topic.
    pub(super) fn target(&self, raw: &str) -> Option<&str> {
        self.schemas.routes().find(|(from, _)| *from == raw).map(|(_, to)| to)
    }

    /// The raw topics, sorted.
    pub(super) fn raw_topics(&self) -> Vec<String> {
        let mut topics: Vec<String> =
            self.schemas.routes().map(|(from, _)| from.to_owned()).collect();
        topics.sort();
        topics
    }

    /// Raw topics that the brokers do not show, each with why.
    pub(super) fn unseen_topics(&self) -> &BTreeMap<String, String> {
        &self.unseen
    }

    /// Only this raw topic is written there.
    pub(super) fn is_alone(&self, target: &str) -> bool {
        self.schemas.routes().filter(|(_, to)| *to == target).count() == 1
    }

    /// Why records of a raw partition cannot be written.
    pub(super) fn problem(&self, raw: &str, partition: i32) -> Option<Block> {
        let target = self.target(raw)?;
        if let Some(block) = self.unfit.get(raw) {
            return Some(block.clone());
        }
        let text = match self.facts.get(target) {
            None => format!(
                "the sanitized topic {target} is missing: create it (`veilstream check \
                --preflight` prints the command)"
            ),
            Some(facts) if partition >= facts.partitions => {
                let needed =
                    self.facts.get(raw).map_or(partition + 1, |f| f.partitions.max(partition + 1));
                format!(
                    "the sanitized topic {target} has {} partitions and needs {needed}: add \
                    partitions",
                    facts.partitions
                )
            }
            Some(_) => return None,
        };
        Some(Block::new(BlockReason::SanitizedTopic, text))
    }

    /// The least and the greatest `max.message.bytes` of the topics that are written.
    pub(super) fn limits(&self, dead_letters: &str) -> Option<(usize, usize)> {
        let written = self.schemas.routes().map(|(_, to)| to).chain([dead_letters]);
        let limits: Vec<usize> = written
            .filter_map(|topic| self.facts.get(topic))
            .map(|f| f.max_message_bytes)
            .collect();
        limits.iter().min().copied().zip(limits.iter().max().copied())
    }
}

fn texts(problems: &mut dyn Iterator<Item = &Problem>) -> String {
    problems.map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
