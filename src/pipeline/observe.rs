//! Looks at the brokers every few seconds, on a thread of its own: ends of the owned partitions,
//! ids of their topics, schemas and their topics' facts.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::Consumer as _;

use super::core::partition::TopicPartition;
use super::core::progress::Ends;
use super::poll::KafkaConsumer;
use super::resolve::ids_of;
use super::runtime::{Observed, Runtime, ToPoll};
use super::snapshot::Snapshot;
use crate::kafka::ffi::admin::Requests;
use crate::kafka::topics::Topics;

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
    pub(super) topics: Topics,
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
            if is_changed || now >= next_facts || (now >= next_ends && self.is_waiting_for_facts())
            {
                let before = self.runtime.snapshots.load_full();
                match Snapshot::examine(
                    &self.topics,
                    current,
                    &self.runtime.pipeline.dead_letter_topic,
                )
                .map(|found| found.go_on(&before))
                {
                    Ok(snapshot) if snapshot.is_same(&before) => {}
                    Ok(snapshot) => {
                        self.runtime.snapshots.store(Arc::new(snapshot));
                        observed.is_snapshot_new = true;
                    }
                    Err(error) if is_changed => observed.failures.push(format!(
                        "changed schemas wait for facts about their topics: {error}"
                    )),
                    Err(error) => observed.failures.push(error.to_string()),
                }
                next_facts = Instant::now() + FACTS;
            }
            let is_time = now >= next_ends;
            if is_time {
                self.look(&mut observed);
                next_ends = Instant::now() + ENDS;
            }
            if (is_time || observed.is_snapshot_new || !observed.failures.is_empty())
                && self.poll.send(ToPoll::Observed(observed)).is_err()
            {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// A raw topic was not shown, or a partition's sanitized topic missing or too small, when they
    /// were last asked.
    fn is_waiting_for_facts(&self) -> bool {
        let snapshot = self.runtime.snapshots.load();
        !snapshot.unseen_topics().is_empty()
            || self
                .partitions()
                .iter()
                .any(|at| snapshot.problem(&at.topic, at.partition).is_some())
    }

    fn partitions(&self) -> Vec<TopicPartition> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn look(&self, observed: &mut Observed) {
        let partitions = self.partitions();
        if partitions.is_empty() {
            // Nothing to ask about; whether brokers answer shows all the same.
            if let Err(error) = self.topics.brokers() {
                observed.failures.push(error.to_string());
            }
            return;
        }
        let names: Vec<(&str, i32)> =
            partitions.iter().map(|at| (&*at.topic, at.partition)).collect();
        let mut ends: HashMap<TopicPartition, [i64; 3]> = HashMap::new();
        let requests = Requests::of(self.consumer.client(), REQUEST);
        for (i, (at, is_stable)) in
            [(Offset::Beginning, false), (Offset::End, true), (Offset::End, false)]
                .into_iter()
                .enumerate()
        {
            match requests.offsets(&names, at, is_stable) {
                Ok(found) => {
                    for (topic, partition, answer) in found {
                        match answer {
                            Ok(listed) => {
                                ends.entry(TopicPartition::new(topic.as_str(), partition))
                                    .or_insert([-1; 3])[i] = listed.offset
                            }
                            Err(code) => tracing::debug!(topic, partition, %code, "no end of log"),
                        }
                    }
                }
                Err(code) => observed.failures.push(code.to_string()),
            }
        }
        let known =
            ends.into_iter().filter(|(_, offsets)| offsets.iter().all(|offset| *offset >= 0));
        observed.ends =
            known.map(|(at, [start, stable, high])| (at, Ends { start, stable, high })).collect();
        let topics: BTreeSet<&str> = partitions.iter().map(|at| &*at.topic).collect();
        let topics: Vec<&str> = topics.into_iter().collect();
        match requests.topics(&topics) {
            Ok(found) => {
                let told = |(name, id): (String, Result<Option<_>, _>)| Some((name, id.ok()??));
                observed.topic_ids = ids_of(found).into_iter().filter_map(told).collect();
            }
            Err(code) => tracing::debug!(%code, "no topic ids"),
        }
    }
}
