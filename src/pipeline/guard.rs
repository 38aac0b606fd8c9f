//! The reject guard: a wrong schema must not send a whole topic to the dead letters in silence.
//! When too many of the last records of a topic were rejected, the topic stops until the schemas
//! change or the process starts again; nothing is lost.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use veilstream_engine::compile::SchemaSet;

use super::core::partition::{Block, BlockReason};
use crate::config::RejectGuard;

/// Outcomes of every topic, shared by the lanes.
pub(super) struct Guard {
    limit: Option<RejectGuard>,
    topics: Mutex<HashMap<Arc<str>, TopicWindow>>,
}

#[derive(Default)]
struct TopicWindow {
    /// `true`: rejected.
    last: VecDeque<bool>,
    rejected: u32,
    tripped: Option<(Arc<SchemaSet>, Tripped)>,
}

/// A stopped topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tripped {
    pub(super) rejected: u32,
    pub(super) window: u32,
}

impl Tripped {
    /// What stops its partitions.
    pub(super) fn block(self) -> Block {
        let text = format!(
            "{} of the last {} records were rejected: mend the schema",
            self.rejected, self.window
        );
        Block::new(BlockReason::Guard, text)
    }
}

impl Guard {
    pub(super) fn new(limit: Option<RejectGuard>) -> Self {
        Self { limit, topics: Mutex::default() }
    }

    /// Adds the outcomes of records of `topic` that went by `schemas`.
    pub(super) fn add(
        &self,
        topic: &Arc<str>,
        outcomes: impl Iterator<Item = bool>,
        schemas: &Arc<SchemaSet>,
    ) -> Option<Tripped> {
        let limit = self.limit?;
        let window = limit.window as usize;
        let mut topics = self.lock();
        let entry = topics.entry(topic.clone()).or_default();
        for rejected in outcomes {
            if entry.last.len() == window && entry.last.pop_front() == Some(true) {
                entry.rejected -= 1;
            }
            entry.last.push_back(rejected);
            entry.rejected += u32::from(rejected);
        }
        let over = entry.last.len() == window
            && u64::from(entry.rejected) * 100 > u64::from(limit.percent) * window as u64;
        if !over || entry.tripped.is_some() {
            return None;
        }
        let tripped = Tripped { rejected: entry.rejected, window: limit.window };
        entry.tripped = Some((schemas.clone(), tripped));
        Some(tripped)
    }

    /// Why the topic is stopped, if it is.
    pub(super) fn tripped(&self, topic: &str) -> Option<Tripped> {
        self.limit?;
        self.lock().get(topic)?.tripped.as_ref().map(|(_, tripped)| *tripped)
    }

    /// Lets topics go that were stopped under other schemas than these; returns them.
    pub(super) fn release(&self, now: &Arc<SchemaSet>) -> Vec<Arc<str>> {
        let mut topics = self.lock();
        let mut released = Vec::new();
        for (name, topic) in topics.iter_mut() {
            if topic.tripped.as_ref().is_some_and(|(then, _)| !Arc::ptr_eq(then, now)) {
                *topic = TopicWindow::default();
                released.push(name.clone());
            }
        }
        released
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, TopicWindow>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_at_more_than_the_limit_and_goes_on_with_other_schemas() {
        let guard = Guard::new(Some(RejectGuard { percent: 50, window: 10 }));
        let (topic, schemas): (Arc<str>, _) = ("t".into(), Arc::new(SchemaSet::default()));
        assert_eq!(
            guard.add(&topic, [true; 9].into_iter(), &schemas),
            None,
            "the window is not full"
        );
        assert_eq!(guard.add(&topic, [false; 5].into_iter(), &schemas), None, "5 of 10");
        assert!(guard.tripped("t").is_none());
        assert_eq!(
            guard.add(&topic, [true; 6].into_iter(), &schemas),
            Some(Tripped { rejected: 6, window: 10 })
        );
        assert!(guard.tripped("t").is_some() && guard.tripped("other").is_none());
        assert_eq!(guard.add(&topic, [true].into_iter(), &schemas), None, "said once");
        assert!(guard.release(&schemas).is_empty());
        assert_eq!(guard.release(&Arc::new(SchemaSet::default())), std::slice::from_ref(&topic));
        assert!(guard.tripped("t").is_none());
    }

    #[test]
    fn off_is_off() {
        let guard = Guard::new(None);
        assert_eq!(guard.add(&"t".into(), [true; 5000].into_iter(), &Arc::default()), None);
    }
}
