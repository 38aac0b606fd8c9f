//! The one consumer and the thread that polls it: rebalances, group metadata, seeks, pauses. Nobody else touches the consumer but to read the
//! queues that its partitions are forwarded to.

mod housekeeping;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext, Rebalance, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::End;
use super::shared::{Assigned, LaneHandle, Latch, Shared, Target, ToLane, ToPoll};
use crate::config;
use crate::kafka::access::{Member, Reporter};
use crate::kafka::client::{self, Registered};
use crate::kafka::error::is_authorization;
use crate::kafka::ffi::{GroupMetadata, Queue};
use crate::kafka::producer::Recipe;
use crate::kafka::settings;
use crate::telemetry::events::{Event as _, ProducerRecycled, Rebalanced};

/// The consumer as this crate knows it.
pub(super) type KafkaConsumer = BaseConsumer<Context>;

/// A poll waits so long: the longest a lane's request waits.
const POLL: Duration = Duration::from_millis(20);
/// A lane that does not acknowledge an assignment within this time is inside a call to the broker, not reading: it looks at its inbox before
/// it reads again.
const ASSIGN_WAIT: Duration = Duration::from_secs(1);
/// Requests to the group coordinator and to partition leaders.
const REQUEST: Duration = Duration::from_secs(5);

/// Receives librdkafka's callbacks.
pub(super) struct Context {
    shared: Arc<Shared>,
    reporter: Arc<Reporter>,
    router: Mutex<Option<Router>>,
    brokers_down: AtomicBool,
    denied: Mutex<Option<RDKafkaErrorCode>>,
}

/// Who reads which partition.
struct Router {
    lanes: Vec<(LaneHandle, Arc<Queue>, Recipe)>,
    assigned: HashMap<(Arc<str>, i32), (usize, Assigned)>,
    next_epoch: u64,
    /// Partitions that this rebalance takes away: librdkafka is about to stop their fetchers.
    stopping: Vec<(Arc<str>, i32)>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client::log(level, facility, text);
    }

    fn error(&self, error: KafkaError, text: &str) {
        client::report(&self.reporter, &error, text);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => self.brokers_down.store(true, Ordering::Release),
            Some(code) if is_authorization(code) => *lock(&self.denied) = Some(code),
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ConsumerContext for Context {
    fn pre_rebalance(&self, consumer: &KafkaConsumer, rebalance: &Rebalance<'_>) {
        let mut router = lock(&self.router);
        // Gone: the lanes have ended, there is nothing to commit or abort.
        let Some(router) = router.as_mut() else { return };
        match rebalance {
            Rebalance::Assign(partitions) => router.assign(&self.shared, consumer, partitions),
            Rebalance::Revoke(partitions) => router.revoke(&self.shared, consumer, Some(partitions), consumer.assignment_lost()),
            Rebalance::Error(_) => router.revoke(&self.shared, consumer, None, true),
        }
    }

    fn post_rebalance(&self, consumer: &KafkaConsumer, _: &Rebalance<'_>) {
        if let Some(router) = lock(&self.router).as_mut() {
            wait_for_stop(consumer, std::mem::take(&mut router.stopping));
            router.publish(&self.shared, consumer);
        }
    }
}

impl Router {
    fn publish(&self, shared: &Shared, consumer: &KafkaConsumer) {
        shared.membership.publish(GroupMetadata::of(consumer), self.assigned.values().map(|(_, a)| a.epoch));
    }

    /// Spreads new partitions over the lanes and tells them, before the first record is fetched.
    fn assign(&mut self, shared: &Shared, consumer: &KafkaConsumer, partitions: &TopicPartitionList) {
        let mut news: Vec<Vec<Assigned>> = self.lanes.iter().map(|_| Vec::new()).collect();
        for element in partitions.elements() {
            let (topic, partition): (Arc<str>, i32) = (element.topic().into(), element.partition());
            let load = |lane: &usize| {
                (self.assigned.values().filter(|(l, a)| l == lane && a.topic == topic).count(), self.assigned.values().filter(|(l, _)| l == lane).count())
            };
            let Some(lane) = (0..self.lanes.len()).min_by_key(load) else { continue };
            if !self.lanes[lane].1.take_partition(&topic, partition) {
                tracing::error!(topic = &*topic, partition, "partition queue cannot be had");
            }
            self.next_epoch += 1;
            let assigned = Assigned { topic: topic.clone(), partition, epoch: self.next_epoch, progress: Arc::new(AtomicI64::new(-1)), since: Instant::now() };
            news[lane].push(assigned.clone());
            self.assigned.insert((topic, partition), (lane, assigned));
        }
        self.publish(shared, consumer);
        let (ack, acks) = mpsc::sync_channel(self.lanes.len());
        let mut waiting = Vec::new();
        for (lane, assigned) in news.into_iter().enumerate().filter(|(_, a)| !a.is_empty()) {
            self.tell(lane, ToLane::Assign(assigned, ack.clone()), &mut waiting);
        }
        drop(ack);
        wait_for(&acks, &mut waiting, ASSIGN_WAIT);
        Rebalanced { assigned: partitions.count(), revoked: 0, lost: false }.emit(&shared.metrics);
    }

    /// Returns when nothing of the partitions can commit any more. `None`: all partitions.
    fn revoke(&mut self, shared: &Shared, consumer: &KafkaConsumer, partitions: Option<&TopicPartitionList>, lost: bool) {
        let gone: Vec<(Arc<str>, i32)> = match partitions {
            Some(list) => list.elements().iter().map(|e| (Arc::from(e.topic()), e.partition())).collect(),
            None => self.assigned.keys().cloned().collect(),
        };
        let mut epochs: Vec<Vec<u64>> = self.lanes.iter().map(|_| Vec::new()).collect();
        for (lane, assigned) in gone.iter().filter_map(|key| self.assigned.get(key)) {
            epochs[*lane].push(assigned.epoch);
        }
        if lost {
            // Before anyone can start to commit.
            self.forget(shared, &gone);
        }
        self.publish(shared, consumer);
        let (ack, acks) = mpsc::sync_channel(self.lanes.len());
        let mut waiting = Vec::new();
        for (lane, epochs) in epochs.into_iter().enumerate().filter(|(_, e)| !e.is_empty()) {
            let message = if lost { ToLane::Lost(epochs, ack.clone()) } else { ToLane::Revoke(epochs, ack.clone()) };
            self.tell(lane, message, &mut waiting);
        }
        drop(ack);
        wait_for(&acks, &mut waiting, shared.options.revoke_wait);
        for lane in waiting {
            // Too slow: whatever its producer does from here on is refused.
            let (handle, _, recipe) = &self.lanes[lane];
            handle.overrun();
            if let Err(error) = recipe.fence(REQUEST) {
                tracing::warn!(lane, code = %error, "the producer of a lane that overran a rebalance could not be fenced; its metadata is stale");
            }
            ProducerRecycled { lane, reason: "rebalance_overrun" }.emit(&shared.metrics);
        }
        self.forget(shared, &gone);
        Rebalanced { assigned: 0, revoked: gone.len(), lost }.emit(&shared.metrics);
        self.stopping = gone;
    }

    fn forget(&mut self, shared: &Shared, gone: &[(Arc<str>, i32)]) {
        for key in gone {
            if self.assigned.remove(key).is_some() {
                // Absent when it was never set.
                let _ = shared.metrics.consumer_lag.remove_label_values(&[&*key.0, key.1.to_string().as_str()]);
            }
        }
    }

    fn tell(&self, lane: usize, message: ToLane, waiting: &mut Vec<usize>) {
        let (handle, queue, _) = &self.lanes[lane];
        // A lane that has ended holds nothing.
        if handle.inbox.send(message).is_ok() {
            waiting.push(lane);
            queue.wake();
        }
    }

    fn tell_all(&self, message: impl Fn() -> ToLane) {
        for lane in 0..self.lanes.len() {
            self.tell(lane, message(), &mut Vec::new());
        }
    }

    fn owns(&self, target: &Target) -> bool {
        self.assigned.get(&(target.topic.clone(), target.partition)).is_some_and(|(_, a)| a.epoch == target.epoch)
    }
}

/// Returns when librdkafka has stopped the fetchers of these partitions. Unassigning only asks its main thread for it, and stopping clears the forwarding of
/// the partition's queue (`rd_kafka_toppar_fetch_stop`). A partition that came back at once would be forwarded to its lane before that, and its records then wait
/// where nobody reads. The main thread works through the requests of a partition in order: once it has refused this seek (nothing is fetched there), it has stopped
/// the fetcher.
fn wait_for_stop(consumer: &KafkaConsumer, partitions: Vec<(Arc<str>, i32)>) {
    let mut list = TopicPartitionList::new();
    for (topic, partition) in &partitions {
        // Every offset is refused alike.
        let _ = list.add_partition_offset(topic, *partition, Offset::Offset(0));
    }
    if list.count() > 0
        && let Err(error) = consumer.seek_partitions(list, REQUEST)
    {
        tracing::warn!(code = ?error.rdkafka_error_code(), "it cannot be told whether partitions that were taken away are stopped");
    }
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

/// Makes the consumer; it joins no group yet.
pub(super) fn create(kafka: &config::Kafka, shared: &Arc<Shared>) -> Result<Registered<KafkaConsumer>, KafkaError> {
    let own = |config: &mut ClientConfig| config.extend(settings::consumer(kafka, &shared.pipeline));
    let context =
        |reporter| Context { shared: shared.clone(), reporter, router: Mutex::default(), brokers_down: AtomicBool::new(false), denied: Mutex::default() };
    client::consumer_with(kafka, "consumer", own, context)
}

/// The polling thread.
pub(super) struct Poller {
    /// Gives the consumer new credentials. [`Member::is_outdated`] tells that its certificates have changed: only another consumer has the new ones.
    member: Member,
    /// The operator knows that they have.
    is_outdated: bool,
    pub(super) consumer: Arc<KafkaConsumer>,
    pub(super) shared: Arc<Shared>,
    pub(super) kafka: config::Kafka,
    pub(super) requests: Receiver<ToPoll>,
    pub(super) stop: Receiver<Instant>,
    topics: Vec<String>,
    parked: Vec<Target>,
    next_look: Instant,
    joined: bool,
    /// When Kafka last refused something.
    denied: Option<Instant>,
    /// Assignments whose committed offset can be read.
    readable: HashSet<u64>,
    next_question: Instant,
    /// Offsets of a transaction that does not end.
    pending: Latch,
}

impl Poller {
    pub(super) fn new(
        consumer: Registered<KafkaConsumer>,
        shared: Arc<Shared>,
        kafka: config::Kafka,
        requests: Receiver<ToPoll>,
        stop: Receiver<Instant>,
    ) -> Self {
        let now = Instant::now();
        let (consumer, member) = consumer.into_parts();
        Self {
            member,
            is_outdated: false,
            consumer,
            shared,
            kafka,
            requests,
            stop,
            topics: Vec::new(),
            parked: Vec::new(),
            next_look: now,
            joined: false,
            denied: None,
            readable: HashSet::new(),
            next_question: now,
            pending: Latch::new("offsets"),
        }
    }

    /// Hands the lanes to the rebalance callbacks.
    pub(super) fn route(&self, lanes: Vec<(LaneHandle, Arc<Queue>, Recipe)>) {
        *lock(&self.consumer.context().router) = Some(Router { lanes, assigned: HashMap::new(), next_epoch: 0, stopping: Vec::new() });
    }

    /// Polls until all lanes have ended; then leaves the group. The lanes have fenced in their producers before.
    pub(super) fn run(mut self, lanes: usize) -> End {
        let (mut left, mut end) = (lanes, End::Stopped);
        let mut stopping = false;
        if let Err(why) = self.subscribe() {
            end = End::Failed(why);
            stopping = self.stop_lanes(Instant::now());
        }
        while left > 0 {
            while let Ok(request) = self.requests.try_recv() {
                match request {
                    ToPoll::Rewind { lane, targets, reread } => self.rewind(lane, targets, reread),
                    ToPoll::Park(target) => self.park(target),
                    ToPoll::Ended(why) => {
                        left -= 1;
                        if why != End::Stopped && end == End::Stopped {
                            end = why;
                            stopping = self.stop_lanes(Instant::now() + self.shared.pipeline.drain_timeout);
                        }
                    }
                }
            }
            if !stopping && let Ok(deadline) = self.stop.try_recv() {
                stopping = self.stop_lanes(deadline);
            }
            if let (Err(why), false) = (self.poll(), stopping) {
                end = End::Failed(why);
                stopping = self.stop_lanes(Instant::now());
            }
            if let (false, Some((code, _))) = (stopping, self.consumer.client().fatal_error()) {
                end = End::Failed(format!("the consumer cannot go on ({code})"));
                stopping = self.stop_lanes(Instant::now() + self.shared.pipeline.drain_timeout);
            }
            if let Some(code) = lock(&self.consumer.context().denied).take() {
                self.denied = Some(Instant::now());
                self.shared.status.unready("kafka", format!("{code}: grant Read on the raw topics and on the group"));
                if !self.joined && !stopping {
                    end = End::NotAuthorized(format!("{code}: grant Read on the raw topics and on group {}", self.kafka.group_id));
                    stopping = self.stop_lanes(Instant::now());
                }
            }
            self.housekeeping();
        }
        // Lanes hold nothing any more: leaving the group revokes without them.
        *lock(&self.consumer.context().router) = None;
        end
    }

    fn stop_lanes(&self, deadline: Instant) -> bool {
        if let Some(router) = lock(&self.consumer.context().router).as_ref() {
            router.tell_all(|| ToLane::Stop(deadline));
        }
        true
    }

    fn subscribe(&mut self) -> Result<(), String> {
        let set = self.shared.registry.current();
        let mut topics: Vec<String> = set.routes().map(|(from, _)| from.to_owned()).collect();
        topics.sort();
        if topics != self.topics {
            let names: Vec<&str> = topics.iter().map(String::as_str).collect();
            self.consumer.subscribe(&names).map_err(|e| e.to_string())?;
            tracing::info!(topics = topics.join(" "), "subscribed");
            self.topics = topics;
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<(), String> {
        match self.consumer.poll(POLL) {
            // Every partition is forwarded to a lane before it is assigned: this one was not. Its lane may be beyond this record already, and must not commit:
            // the next start reads it.
            Some(Ok(message)) => return Err(format!("{} [{}]: a record came outside the lanes", message.topic(), message.partition())),
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(code) if is_authorization(code) => *lock(&self.consumer.context().denied) = Some(code),
                code => tracing::debug!(?code, "consumer event"),
            },
            None => {}
        }
        let context = self.consumer.context();
        if let Some(router) = lock(&context.router).as_ref() {
            router.publish(&self.shared, &self.consumer);
            if !self.joined && !matches!(self.consumer.rebalance_protocol(), RebalanceProtocol::None) {
                self.joined = true;
                self.shared.status.ready("kafka");
            }
        }
        Ok(())
    }

    /// Moves the partitions that are still the lane's; answers with where they are read from.
    fn rewind(&self, lane: usize, mut targets: Vec<Target>, reread: bool) {
        let context = self.consumer.context();
        let guard = lock(&context.router);
        let Some(router) = guard.as_ref() else { return };
        targets.retain(|t| router.owns(t));
        let moved = self.seek(targets, reread);
        if let Err(why) = moved {
            tracing::warn!(lane, why, "rewind failed, tried again");
        }
        router.tell(lane, ToLane::Moved(moved), &mut Vec::new());
    }

    fn seek(&self, mut targets: Vec<Target>, reread: bool) -> Result<Vec<Target>, &'static str> {
        if targets.is_empty() {
            return Ok(targets);
        }
        let mut list = TopicPartitionList::new();
        for t in &targets {
            list.add_partition(&t.topic, t.partition);
        }
        if reread {
            let committed = self.consumer.committed_offsets(list, REQUEST).map_err(|_| "committed offsets cannot be read")?;
            for t in &mut targets {
                let found = committed.find_partition(&t.topic, t.partition).ok_or("committed offsets are incomplete")?;
                found.error().map_err(|_| "committed offsets cannot be read")?;
                // Nothing committed yet: where reading began is where it begins again.
                if let Offset::Offset(offset) = found.offset() {
                    t.offset = offset;
                }
            }
        }
        targets.retain(|t| t.offset >= 0);
        let mut list = TopicPartitionList::new();
        for t in &targets {
            list.add_partition_offset(&t.topic, t.partition, Offset::Offset(t.offset)).map_err(|_| "offset out of range")?;
        }
        if !targets.is_empty() {
            let done = self.consumer.seek_partitions(list, REQUEST).map_err(|_| "seek failed")?;
            for element in done.elements() {
                element.error().map_err(|_| "seek failed")?;
            }
        }
        Ok(targets)
    }

    fn park(&mut self, target: Target) {
        let mut list = TopicPartitionList::new();
        list.add_partition(&target.topic, target.partition);
        if let Err(error) = self.consumer.pause(&list) {
            tracing::warn!(topic = &*target.topic, partition = target.partition, code = ?error.rdkafka_error_code(), "pause failed");
        }
        self.parked.push(target);
    }
}
