//! Looks at the brokers every few seconds, on a thread of its own: ends of the owned partitions, ids of their topics, schemas and their topics' facts.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::core::partition::TopicPartition;
use super::core::progress::Ends;
use super::poll::KafkaConsumer;
use super::runtime::{Observed, Runtime, ToPoll};
use super::snapshot::Snapshot;
use crate::kafka::ffi::{self, LogEnd};

/// How often ends are asked for.
const ENDS: Duration = Duration::from_secs(5);
/// How often facts about topics are asked for again; sooner where a partition waits for them.
const FACTS: Duration = Duration::from_secs(10);
/// How often it is looked whether schemas have changed.
const LOOK: Duration = Duration::from_millis(250);
/// One question to the brokers.
const REQUEST: Duration = Duration::from_secs(5);

/// The thread's work.
pub(super) struct Observer {
    pub(super) runtime: Arc<Runtime>,
    pub(super) consumer: Arc<KafkaConsumer>,
    pub(super) owned: Arc<Mutex<Vec<TopicPartition>>>,
    pub(super) poll: Sender<ToPoll>,
    pub(super) is_over: Arc<AtomicBool>,
}

impl Observer {
    /// Looks until the session is over.
    pub(super) fn run(self) {
        let (mut next_ends, mut next_facts) = (Instant::now(), Instant::now() + FACTS);
        while !self.is_over.load(Ordering::Acquire) {
            let now = Instant::now();
            let mut observed = Observed::default();
            let current = self.runtime.registry.current();
            let is_changed = !Arc::ptr_eq(&current, &self.runtime.snapshots.load().schemas);
            if is_changed || now >= next_facts || (now >= next_ends && self.is_waiting_for_facts()) {
                match Snapshot::examine(&self.runtime.kafka, current, &self.runtime.pipeline.dead_letter_topic) {
                    Ok(snapshot) => {
                        let is_same = snapshot.facts == self.runtime.snapshots.load().facts && !is_changed;
                        if !is_same {
                            self.runtime.snapshots.store(Arc::new(snapshot));
                            observed.is_snapshot_new = true;
                        }
                    }
                    Err(why) if is_changed => observed.failures.push(format!("changed schemas wait for facts about their topics: {why}")),
                    Err(why) => observed.failures.push(why),
                }
                next_facts = Instant::now() + FACTS;
            }
            let is_time = now >= next_ends;
            if is_time {
                self.look(&mut observed);
                next_ends = Instant::now() + ENDS;
            }
            if (is_time || observed.is_snapshot_new || !observed.failures.is_empty()) && self.poll.send(ToPoll::Observed(observed)).is_err() {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// A partition's sanitized topic was missing or too small when it was last asked.
    fn is_waiting_for_facts(&self) -> bool {
        let snapshot = self.runtime.snapshots.load();
        self.partitions().iter().any(|at| snapshot.problem(&at.topic, at.partition).is_some())
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look(&self, observed: &mut Observed) {
        let partitions = self.partitions();
        if partitions.is_empty() {
            // Nothing to ask about; whether brokers answer shows all the same.
            if let Err(code) = ffi::topic_ids(&self.consumer, &[], REQUEST) {
                observed.failures.push(code.to_string());
            }
            return;
        }
        let names: Vec<(&str, i32)> = partitions.iter().map(|at| (&*at.topic, at.partition)).collect();
        let mut ends: HashMap<TopicPartition, [i64; 3]> = HashMap::new();
        for (i, end) in [LogEnd::Start, LogEnd::Stable, LogEnd::High].into_iter().enumerate() {
            match ffi::leader_offsets(&self.consumer, &names, end, REQUEST) {
                Ok(found) => {
                    for answer in found {
                        let at = TopicPartition::new(answer.topic.as_str(), answer.partition);
                        match answer.result {
                            Ok((offset, _)) => ends.entry(at).or_insert([-1; 3])[i] = offset,
                            Err(code) => tracing::debug!(topic = answer.topic, partition = answer.partition, %code, "no end of log"),
                        }
                    }
                }
                Err(code) => observed.failures.push(code.to_string()),
            }
        }
        let known = ends.into_iter().filter(|(_, offsets)| offsets.iter().all(|offset| *offset >= 0));
        observed.ends = known.map(|(at, [start, stable, high])| (at, Ends { start, stable, high })).collect();
        let topics: BTreeSet<&str> = partitions.iter().map(|at| &*at.topic).collect();
        let topics: Vec<&str> = topics.into_iter().collect();
        match ffi::topic_ids(&self.consumer, &topics, REQUEST) {
            Ok(ids) => observed.topic_ids = ids,
            Err(code) => tracing::debug!(%code, "no topic ids"),
        }
    }
}
