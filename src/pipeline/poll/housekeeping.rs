//! What the polling thread looks at about once a second: lag, brokers, committed offsets, schemas.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;

use super::{Poller, lock};
use crate::kafka::preflight;
use crate::pipeline::shared::{Assigned, Target, ToLane};

/// No refusal for so long: what was missing has been granted.
const GRANTED: Duration = Duration::from_secs(30);
/// A partition of which nothing was read for so long may wait for its committed offset. Restarted instances end their own open transactions sooner.
const UNREAD: Duration = Duration::from_secs(15);
/// How often it is asked whether it does.
const QUESTION: Duration = Duration::from_secs(10);
/// How long the answer may take: nothing is polled meanwhile.
const ANSWER: Duration = Duration::from_secs(2);
/// How often lag, schemas and brokers are looked at.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

impl Poller {
    /// Goes on with topics that the guard had stopped.
    fn release(&mut self) {
        let set = self.shared.registry.current();
        for topic in self.shared.guard.release(&set) {
            let (back, stay): (Vec<_>, Vec<_>) = std::mem::take(&mut self.parked).into_iter().partition(|t| t.topic == topic);
            self.parked = stay;
            let context = self.consumer.context();
            let guard = lock(&context.router);
            let Some(router) = guard.as_ref() else { return };
            let back: Vec<Target> = back.into_iter().filter(|t| router.owns(t)).collect();
            let mut list = TopicPartitionList::new();
            for t in &back {
                list.add_partition(&t.topic, t.partition);
            }
            let resumed = self.consumer.resume(&list);
            tracing::info!(topic = &*topic, ok = resumed.is_ok(), "schemas changed, route goes on");
            self.shared.status.ready(&format!("topic {topic}"));
            router.tell_all(|| ToLane::Released(topic.clone()));
        }
    }

    /// About once a second.
    pub(super) fn housekeeping(&mut self) {
        if Instant::now() < self.next_look {
            return;
        }
        self.next_look = Instant::now() + HOUSEKEEPING;
        if self.joined && self.denied.is_some_and(|at| at.elapsed() > GRANTED) {
            self.denied = None;
            self.shared.status.ready("kafka");
        }
        if self.member.is_outdated() && !std::mem::replace(&mut self.is_outdated, true) {
            tracing::warn!("certificates have changed, and the consumer keeps the old ones as long as it lives; restart before they end");
        }
        self.look_at_brokers();
        self.look_at_offsets();
        self.look_at_schemas();
        self.release();
        let context = self.consumer.context();
        if let Some(router) = lock(&context.router).as_ref() {
            for (lane, assigned) in router.assigned.values() {
                let (at, end) = (assigned.progress.load(Ordering::Relaxed), router.lanes[*lane].1.end_of(&assigned.topic, assigned.partition));
                if let (true, Some(end)) = (at >= 0, end) {
                    let gauge = self.shared.metrics.consumer_lag.with_label_values(&[&*assigned.topic, assigned.partition.to_string().as_str()]);
                    gauge.set((end - at).max(0));
                }
            }
            let raised = self.shared.raised_timestamps.load(Ordering::Relaxed);
            let detail = serde_json::json!({ "partitions": router.assigned.len(), "lanes": router.lanes.len(), "timestamps_raised_to_1": raised });
            self.shared.status.detail("kafka", detail);
        }
    }

    fn look_at_brokers(&self) {
        let down = &self.consumer.context().brokers_down;
        if down.load(Ordering::Acquire) {
            if self.consumer.fetch_metadata(self.topics.first().map(String::as_str), Duration::from_millis(200)).is_ok() {
                down.store(false, Ordering::Release);
                self.shared.status.ready("brokers");
            } else {
                self.shared.status.unready("brokers", "no broker answers");
            }
        }
    }

    /// librdkafka starts no partition of an assignment before it has the committed offsets of all, and the broker withholds those that an open transaction is about to
    /// change. One that never ends would stop everything in silence.
    fn look_at_offsets(&mut self) {
        let assigned: Vec<Assigned> = match lock(&self.consumer.context().router).as_ref() {
            Some(router) => router.assigned.values().map(|(_, assigned)| assigned.clone()).collect(),
            None => return,
        };
        self.readable.retain(|epoch| assigned.iter().any(|a| a.epoch == *epoch));
        let is_unread = |a: &&Assigned| a.progress.load(Ordering::Relaxed) < 0 && a.since.elapsed() > UNREAD && !self.readable.contains(&a.epoch);
        let unread: Vec<&Assigned> = assigned.iter().filter(is_unread).collect();
        if unread.is_empty() {
            return self.pending.clear(&self.shared.status);
        }
        if Instant::now() < self.next_question || self.consumer.context().brokers_down.load(Ordering::Acquire) {
            return;
        }
        let mut list = TopicPartitionList::new();
        for assigned in &unread {
            list.add_partition(&assigned.topic, assigned.partition);
        }
        let answer = self.consumer.committed_offsets(list, ANSWER);
        self.next_question = Instant::now() + QUESTION;
        if answer.is_ok_and(|offsets| offsets.elements().iter().all(|offset| offset.error().is_ok())) {
            self.readable.extend(unread.iter().map(|a| a.epoch));
        } else {
            let mut names: Vec<String> = unread.iter().map(|a| format!("{} [{}]", a.topic, a.partition)).collect();
            names.sort();
            let reason = format!(
                "committed offsets cannot be read ({}): a transaction has not ended; if it never does, see \"Hanging transactions\" in docs/operations.md",
                names.join(", ")
            );
            self.pending.raise(&self.shared.status, &reason);
        }
    }

    /// New raw topics are subscribed to once their topics are as they must be.
    fn look_at_schemas(&mut self) {
        let set = self.shared.registry.current();
        let mut topics: Vec<&str> = set.routes().map(|(from, _)| from).collect();
        topics.sort_unstable();
        if topics == self.topics || self.topics.is_empty() {
            return;
        }
        match preflight::examine(&self.kafka, &set, &self.shared.pipeline.dead_letter_topic) {
            Ok(found) if found.problems.is_empty() => {
                self.shared.facts.store(Arc::new(found.facts));
                if let Err(error) = self.subscribe() {
                    self.shared.status.unready("routes", error);
                } else {
                    self.shared.status.ready("routes");
                }
            }
            Ok(found) => self.shared.status.unready("routes", found.problems.join("; ")),
            Err(error) => self.shared.status.unready("routes", error),
        }
    }
}
