//! Who reads which partition: the assignment's shell over the consumer and the lanes' inboxes.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::consumer::{Consumer as _, RebalanceProtocol};
use rdkafka::{Offset, TopicPartitionList};

use super::{KafkaConsumer, lock};
use crate::kafka::ffi::{self, GroupMetadata};
use crate::pipeline::core::assignment::{Assignment, AssignmentAction, Question};
use crate::pipeline::core::partition::{
    Assigned, Block, BlockReason, Position, Target, TopicPartition,
};
use crate::pipeline::runtime::{LaneHandle, Runtime, ToLane};
use crate::telemetry::events::{Event as _, ProducerRecycled, Rebalanced};

/// Requests to the client's own threads, and to the transaction coordinator.
const REQUEST: Duration = Duration::from_secs(5);

/// Lanes, and the partitions that this process owns.
pub(super) struct Router {
    lanes: Vec<LaneHandle>,
    pub(super) assignment: Assignment,
    /// Partitions that the client fetches.
    fetched: BTreeSet<TopicPartition>,
    /// What the observing thread looks at.
    owned: Arc<Mutex<Vec<TopicPartition>>>,
}

impl Router {
    pub(super) fn new(lanes: Vec<LaneHandle>, owned: Arc<Mutex<Vec<TopicPartition>>>) -> Self {
        let assignment = Assignment::new(lanes.len());
        Self { lanes, assignment, fetched: BTreeSet::new(), owned }
    }

    pub(super) fn publish(&self, runtime: &Runtime, consumer: &KafkaConsumer) {
        runtime.membership.publish(GroupMetadata::of(consumer), self.assignment.epochs());
    }

    fn publish_owned(&self) {
        *lock(&self.owned) = self.assignment.iter().map(|seen| seen.at.clone()).collect();
    }

    // ---- the group ----

    /// The group gives partitions: where each begins is found out first.
    pub(super) fn assigned(
        &mut self,
        runtime: &Runtime,
        consumer: &KafkaConsumer,
        partitions: Vec<TopicPartition>,
    ) {
        let is_eager = matches!(consumer.rebalance_protocol(), RebalanceProtocol::Eager);
        let nothing = TopicPartitionList::new();
        let done = if is_eager {
            consumer.assign(&nothing)
        } else {
            consumer.incremental_assign(&nothing)
        };
        report(done, "an assignment could not be taken");
        Rebalanced { assigned: partitions.len(), revoked: 0, lost: false }.emit(&runtime.metrics);
        self.assignment.assigned(partitions, is_eager, Instant::now());
        self.publish(runtime, consumer);
        self.publish_owned();
    }

    /// Returns when nothing of the partitions can commit any more. `None`: all partitions.
    pub(super) fn revoked(
        &mut self,
        runtime: &Runtime,
        consumer: &KafkaConsumer,
        partitions: Option<Vec<TopicPartition>>,
        is_lost: bool,
    ) {
        let list = partitions.as_deref();
        let readings = self.assignment.readings(list);
        let count = list.map_or(self.assignment.len(), <[_]>::len);
        if is_lost {
            // Before anyone can start to commit.
            self.assignment.forget(list);
            self.publish(runtime, consumer);
            self.tell_epochs(runtime, &readings, ToLane::Lose);
        } else {
            self.publish(runtime, consumer);
            self.tell_epochs(runtime, &readings, ToLane::Revoke);
            self.assignment.forget(list);
        }
        Rebalanced { assigned: 0, revoked: count, lost: is_lost }.emit(&runtime.metrics);
        let gone: Vec<TopicPartition> =
            self.fetched.iter().filter(|at| list.is_none_or(|l| l.contains(at))).cloned().collect();
        if matches!(consumer.rebalance_protocol(), RebalanceProtocol::Eager) {
            report(consumer.unassign(), "an assignment could not be given back");
        } else {
            // One that is not fetched would make the client refuse the whole list.
            report(
                consumer.incremental_unassign(&names(&gone)),
                "partitions could not be given back",
            );
        }
        self.stopped(consumer, &gone);
        self.publish(runtime, consumer);
        self.publish_owned();
    }

    /// Tells lanes about epochs and waits until each has answered; a lane that is too slow loses
    /// its producer.
    fn tell_epochs(
        &self,
        runtime: &Runtime,
        readings: &[(usize, u64)],
        message: fn(Vec<u64>, super::super::runtime::Ack) -> ToLane,
    ) {
        let mut epochs: HashMap<usize, Vec<u64>> = HashMap::new();
        for (lane, epoch) in readings {
            epochs.entry(*lane).or_default().push(*epoch);
        }
        let (ack, acks) = mpsc::sync_channel(self.lanes.len());
        let mut waiting = Vec::new();
        for (lane, epochs) in epochs {
            self.tell(lane, message(epochs, ack.clone()), &mut waiting);
        }
        drop(ack);
        wait_for(&acks, &mut waiting, runtime.options.revoke_wait);
        for lane in waiting {
            // Too slow: whatever its producer does from here on is refused.
            let handle = &self.lanes[lane];
            handle.overrun();
            if let Err(error) = handle.recipe.fence(REQUEST) {
                tracing::warn!(lane, code = %error, "the producer of a lane that overran a \
                    rebalance could not be fenced; its metadata is stale");
            }
            ProducerRecycled { lane, reason: "rebalance_overrun" }.emit(&runtime.metrics);
        }
    }

    /// Another topic has the name: nothing more of the old reading commits.
    pub(super) fn recreated(&mut self, runtime: &Runtime, topic: &str, id: &str) {
        let readings = self.assignment.recreated(topic, id);
        if readings.is_empty() {
            return;
        }
        tracing::warn!(topic, "the raw topic was deleted and created again");
        for (_, epoch) in &readings {
            self.assignment.blocked(
                *epoch,
                Block::new(BlockReason::TopicRecreated, "the topic was deleted and created again"),
                Instant::now(),
            );
        }
        self.tell_epochs(runtime, &readings, ToLane::Lose);
    }

    /// Partitions whose records cannot be written by what is known now: their lanes let them go.
    pub(super) fn block_unroutable(&self, runtime: &Runtime) {
        let snapshot = runtime.snapshots.load();
        for (lane, epoch) in self.assignment.readings(None) {
            let Some(at) = self.assignment.of_epoch(epoch) else { continue };
            if let Some(block) = snapshot.problem(&at.topic, at.partition) {
                self.lanes[lane].is_called.store(true, Ordering::Release);
                self.tell(lane, ToLane::Block(epoch, block), &mut Vec::new());
            }
        }
    }

    // ---- lanes ----

    fn tell(&self, lane: usize, message: ToLane, waiting: &mut Vec<usize>) {
        let handle = &self.lanes[lane];
        // A lane that has ended holds nothing.
        if handle.inbox.send(message).is_ok() {
            waiting.push(lane);
            handle.queue.wake();
        }
    }

    pub(super) fn tell_all(&self, message: impl Fn() -> ToLane) {
        for lane in 0..self.lanes.len() {
            self.tell(lane, message(), &mut Vec::new());
        }
    }

    /// The partition of an epoch, for logs.
    pub(super) fn name_of(&self, epoch: u64) -> String {
        self.assignment.of_epoch(epoch).map_or_else(String::new, ToString::to_string)
    }

    // ---- the client ----

    /// Does what the assignment says until it says nothing more.
    pub(super) fn act(
        &mut self,
        runtime: &Runtime,
        consumer: &KafkaConsumer,
        questions: &Sender<Vec<Question>>,
    ) {
        while let Some(action) = self.assignment.next_action() {
            match action {
                AssignmentAction::Resolve(list) => {
                    // The thread that answers ends after this one.
                    let _ = questions.send(list);
                }
                AssignmentAction::Read { partitions, whole } => {
                    self.read(runtime, consumer, &partitions, whole)
                }
                AssignmentAction::Stop(at) => {
                    if self.fetched.contains(&at)
                        && !matches!(consumer.rebalance_protocol(), RebalanceProtocol::Eager)
                    {
                        report(
                            consumer.incremental_unassign(&names(std::slice::from_ref(&at))),
                            "a blocked partition could not be given back",
                        );
                        self.stopped(consumer, &[at]);
                    }
                }
                AssignmentAction::Recall(readings) => {
                    self.tell_epochs(runtime, &readings, ToLane::Revoke);
                    report(
                        consumer.assign(&TopicPartitionList::new()),
                        "an assignment could not be changed",
                    );
                    let all: Vec<TopicPartition> = self.fetched.iter().cloned().collect();
                    self.stopped(consumer, &all);
                }
            }
            self.publish(runtime, consumer);
        }
    }

    /// Lanes take their partitions before they read a record of them.
    fn read(
        &mut self,
        runtime: &Runtime,
        consumer: &KafkaConsumer,
        partitions: &[(usize, Assigned)],
        whole: bool,
    ) {
        for lane in 0..self.lanes.len() {
            let assigned: Vec<Assigned> =
                partitions.iter().filter(|(l, _)| *l == lane).map(|(_, a)| a.clone()).collect();
            for one in &assigned {
                if !self.lanes[lane].queue.take_partition(&one.at.topic, one.at.partition) {
                    tracing::error!(
                        topic = &*one.at.topic,
                        partition = one.at.partition,
                        "the partition's queue cannot be opened"
                    );
                }
            }
            if !assigned.is_empty() {
                self.lanes[lane].announce();
                self.tell(lane, ToLane::Assign(assigned), &mut Vec::new());
            }
        }
        let places: Vec<(&TopicPartition, Position)> =
            partitions.iter().map(|(_, a)| (&a.at, a.start)).collect();
        let list = positions(&places);
        let done = if whole { consumer.assign(&list) } else { consumer.incremental_assign(&list) };
        if let Err(error) = done {
            let text = format!(
                "the client does not fetch it ({})",
                error.rdkafka_error_code().map_or_else(String::new, |code| code.to_string())
            );
            let readings: Vec<(usize, u64)> =
                partitions.iter().map(|(lane, a)| (*lane, a.epoch)).collect();
            self.tell_epochs(runtime, &readings, ToLane::Lose);
            for (_, epoch) in readings {
                self.assignment.blocked(
                    epoch,
                    Block::new(BlockReason::Fetch, text.clone()),
                    Instant::now(),
                );
            }
            return;
        }
        self.fetched.extend(partitions.iter().map(|(_, a)| a.at.clone()));
        // A seek validates the epoch of the leader that wrote the last record: fetching alone would
        // not.
        let unsure = partitions.iter().filter(|(_, a)| !a.is_validated && a.start.offset > 0);
        let known: Vec<(&TopicPartition, Position)> =
            unsure.map(|(_, a)| (&a.at, a.start)).collect();
        if !known.is_empty()
            && let Err(error) = consumer.seek_partitions(positions(&known), REQUEST)
        {
            tracing::warn!(code = ?error.rdkafka_error_code(), "it cannot be checked whether logs \
                were truncated");
        }
    }

    /// Moves the partitions that the lane still has; answers one by one.
    pub(super) fn rewind(&mut self, consumer: &KafkaConsumer, lane: usize, targets: Vec<Target>) {
        let targets: Vec<Target> =
            targets.into_iter().filter(|t| self.assignment.is_read(&t.at, t.epoch)).collect();
        if targets.is_empty() {
            return;
        }
        // Without an epoch: what was read a moment ago need not be validated, which takes as long
        // as the fetch that is under way.
        let places: Vec<(&TopicPartition, Position)> = targets
            .iter()
            .map(|t| (&t.at, Position { leader_epoch: None, ..t.position }))
            .collect();
        let moved = consumer.seek_partitions(positions(&places), REQUEST);
        #[cfg(feature = "inject")]
        crate::inject::slow_move();
        for target in &targets {
            // A partition whose fetcher an error has stopped refuses.
            let element = moved
                .as_ref()
                .ok()
                .and_then(|list| list.find_partition(&target.at.topic, target.at.partition));
            let position = element.filter(|e| e.error().is_ok()).map(|_| target.position);
            if position.is_none() {
                tracing::info!(
                    topic = &*target.at.topic,
                    partition = target.at.partition,
                    "a partition cannot be moved back; it is assigned again"
                );
            }
            self.tell(lane, ToLane::Moved(target.epoch, position), &mut Vec::new());
        }
    }

    /// Returns when librdkafka has stopped the fetchers of these partitions. Unassigning only asks
    /// its main thread for it, and stopping clears the forwarding of the partition's queue
    /// (`rd_kafka_toppar_fetch_stop`). A partition that came back at once would be forwarded to its
    /// lane before that, and its records then wait where nobody reads. The main thread works
    /// through the requests of a partition in order: once it has refused this seek (nothing is
    /// fetched there), it has stopped the fetcher.
    fn stopped(&mut self, consumer: &KafkaConsumer, partitions: &[TopicPartition]) {
        self.fetched.retain(|at| !partitions.contains(at));
        let places: Vec<(&TopicPartition, Position)> =
            partitions.iter().map(|at| (at, Position { offset: 0, leader_epoch: None })).collect();
        if !places.is_empty()
            && let Err(error) = consumer.seek_partitions(positions(&places), REQUEST)
        {
            tracing::warn!(code = ?error.rdkafka_error_code(), "it cannot be told whether \
                partitions that were taken away are stopped");
        }
    }
}

/// Gives everything back: nothing is fetched any more.
pub(super) fn unassign_all(consumer: &KafkaConsumer) {
    let done = match consumer.rebalance_protocol() {
        RebalanceProtocol::Cooperative => {
            consumer.assignment().and_then(|all| consumer.incremental_unassign(&all))
        }
        _ => consumer.unassign(),
    };
    report(done, "an assignment could not be given back");
}

fn report(done: Result<(), rdkafka::error::KafkaError>, what: &str) {
    if let Err(error) = done {
        tracing::warn!(code = ?error.rdkafka_error_code(), "{what}");
    }
}

fn names(partitions: &[TopicPartition]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for at in partitions {
        list.add_partition(&at.topic, at.partition);
    }
    list
}

fn positions(places: &[(&TopicPartition, Position)]) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(places.len());
    for (at, position) in places {
        // Offsets come from brokers and records: none is negative.
        if list
            .add_partition_offset(&at.topic, at.partition, Offset::Offset(position.offset))
            .is_err()
        {
            tracing::error!(
                topic = &*at.topic,
                partition = at.partition,
                offset = position.offset,
                "an offset is out of range"
            );
        }
        if let Some(epoch) = position.leader_epoch {
            ffi::set_leader_epoch(&mut list, &at.topic, at.partition, epoch);
        }
    }
    list
}

/// Takes lanes off `waiting` as they answer.
fn wait_for(acks: &Receiver<usize>, waiting: &mut Vec<usize>, most: Duration) {
    let end = Instant::now() + most;
    while !waiting.is_empty() {
        match acks.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(lane) => waiting.retain(|l| *l != lane),
            // All senders dropped: the lanes that did not answer have ended.
            Err(mpsc::RecvTimeoutError::Disconnected) => waiting.clear(),
            Err(mpsc::RecvTimeoutError::Timeout) => return,
        }
    }
}
