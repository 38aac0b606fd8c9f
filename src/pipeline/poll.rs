//! The polling thread and the one consumer: rebalances, group metadata, who is fetched from where.
//! Nobody else touches the consumer but to read the queues that its partitions are forwarded to,
//! and to ask brokers.

mod report;
mod router;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Message as _, TopicPartitionList};

use super::End;
use super::core::assignment::Question;
use super::core::partition::TopicPartition;
use super::core::progress::Progress;
use super::runtime::{LaneHandle, Lost, Observed, Resolved, Runtime, ToLane, ToPoll};
use crate::kafka::access::{Member, Reporter};
use crate::kafka::client::{self, Registered};
use crate::kafka::error::is_authorization;
use crate::kafka::ffi::GroupMetadata;
use crate::kafka::settings;
use crate::telemetry::events::{Event as _, OffsetLost, ProducerRecycled};
use report::PartitionReport;
use router::Router;

/// The consumer as this crate knows it.
pub(super) type KafkaConsumer = BaseConsumer<PollContext>;

/// A poll waits so long: the longest a lane's request waits.
const POLL: Duration = Duration::from_millis(20);
/// How often the state of partitions is looked at and told.
const HOUSEKEEPING: Duration = Duration::from_millis(500);

/// Receives librdkafka's callbacks.
pub(super) struct PollContext {
    runtime: Arc<Runtime>,
    reporter: Arc<Reporter>,
    router: Mutex<Option<Router>>,
    are_brokers_down: AtomicBool,
    denied: Mutex<Option<RDKafkaErrorCode>>,
}

impl ClientContext for PollContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client::log(level, facility, text);
    }

    fn error(&self, error: KafkaError, text: &str) {
        client::report(&self.reporter, &error, text);
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AllBrokersDown) => {
                self.are_brokers_down.store(true, Ordering::Release)
            }
            Some(code) if is_authorization(code) => *lock(&self.denied) = Some(code),
            _ => {}
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ConsumerContext for PollContext {
    /// Partitions are assigned to the client when it is known where each begins; here it only
    /// learns that the callback ran.
    fn rebalance(
        &self,
        consumer: &KafkaConsumer,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let mut router = lock(&self.router);
        let partitions: Vec<TopicPartition> =
            list.elements().iter().map(|e| TopicPartition::new(e.topic(), e.partition())).collect();
        match (router.as_mut(), event) {
            (Some(router), RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS) => {
                router.assigned(&self.runtime, consumer, partitions)
            }
            (Some(router), RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS) => {
                router.revoked(
                    &self.runtime,
                    consumer,
                    Some(partitions),
                    consumer.assignment_lost(),
                );
            }
            (Some(router), _) => router.revoked(&self.runtime, consumer, None, true),
            // The lanes have ended, there is nothing to commit or abort.
            (None, _) => router::unassign_all(consumer),
        }
    }
}

/// Makes the consumer; it joins no group yet.
pub(super) fn create(runtime: &Arc<Runtime>) -> Result<Registered<KafkaConsumer>, KafkaError> {
    let own = |config: &mut ClientConfig| {
        config.extend(settings::consumer(&runtime.kafka, &runtime.pipeline));
        config.set_log_level(RDKafkaLogLevel::Warning);
    };
    let context = |reporter| PollContext {
        runtime: runtime.clone(),
        reporter,
        router: Mutex::default(),
        are_brokers_down: AtomicBool::new(false),
        denied: Mutex::default(),
    };
    client::consumer_with(&runtime.kafka, "consumer", own, context)
}

/// The polling thread.
pub(super) struct Poller {
    consumer: Arc<KafkaConsumer>,
    /// Gives the consumer new credentials. [`Member::is_outdated`] tells that its certificates have
    /// changed: the session ends, and the next one has the new ones.
    member: Member,
    runtime: Arc<Runtime>,
    requests: Receiver<ToPoll>,
    stop: Receiver<Instant>,
    /// Partitions whose start is to be found out.
    questions: Sender<Vec<Question>>,
    topics: Vec<String>,
    progress: Progress,
    report: PartitionReport,
    next_look: Instant,
    has_joined: bool,
}

/// Why the consumer cannot be polled on.
#[derive(Debug, thiserror::Error)]
enum PollError {
    /// librdkafka refuses the list of raw topics.
    #[error("the raw topics cannot be subscribed to: {0}")]
    Subscribe(KafkaError),
    /// A record of this topic and partition came without a lane: a fault of this program. The next
    /// start reads it.
    #[error("{0} [{1}]: a record came outside the lanes")]
    StrayRecord(String, i32),
}

/// What a poller is made of.
pub(super) struct PollParts {
    pub(super) consumer: Registered<KafkaConsumer>,
    pub(super) runtime: Arc<Runtime>,
    pub(super) requests: Receiver<ToPoll>,
    pub(super) stop: Receiver<Instant>,
    pub(super) questions: Sender<Vec<Question>>,
    pub(super) owned: Arc<Mutex<Vec<TopicPartition>>>,
    pub(super) lanes: Vec<LaneHandle>,
}

impl Poller {
    pub(super) fn new(parts: PollParts) -> Self {
        let PollParts { consumer, runtime, requests, stop, questions, owned, lanes } = parts;
        let (consumer, member) = consumer.into_parts();
        *lock(&consumer.context().router) = Some(Router::new(lanes, owned));
        Self {
            member,
            consumer,
            report: PartitionReport::new(runtime.clone()),
            runtime,
            requests,
            stop,
            questions,
            topics: Vec::new(),
            progress: Progress::default(),
            next_look: Instant::now(),
            has_joined: false,
        }
    }

    /// Polls until all lanes have ended; then leaves the group. The lanes have fenced older
    /// producers before.
    pub(super) fn run(mut self, lanes: usize) -> End {
        let (mut left, mut end) = (lanes, End::Stopped);
        let mut is_stopping = false;
        if let Err(why) = self.subscribe() {
            end = End::Failed(why.to_string());
            is_stopping = self.stop_lanes(Instant::now());
        }
        self.tell_unseen_topics();
        while left > 0 {
            while let Ok(request) = self.requests.try_recv() {
                if let ToPoll::Ended(why) = request {
                    left -= 1;
                    if why != End::Stopped && end == End::Stopped {
                        end = why;
                        is_stopping =
                            self.stop_lanes(Instant::now() + self.runtime.pipeline.drain_timeout);
                    }
                } else {
                    self.take(request);
                }
            }
            if !is_stopping && let Ok(deadline) = self.stop.try_recv() {
                is_stopping = self.stop_lanes(deadline);
            }
            if let (Err(why), false) = (self.poll(), is_stopping) {
                end = End::Failed(why.to_string());
                is_stopping = self.stop_lanes(Instant::now());
            }
            if !is_stopping && let Some(why) = self.fatal() {
                end = why;
                is_stopping = self.stop_lanes(Instant::now() + self.runtime.pipeline.drain_timeout);
            }
            if !is_stopping {
                self.act();
            }
            self.housekeeping();
        }
        // Lanes hold nothing any more: leaving the group revokes without them.
        *lock(&self.consumer.context().router) = None;
        self.report.clear();
        end
    }

    /// Why the consumer or this process cannot go on.
    fn fatal(&self) -> Option<End> {
        if let Some((code, _)) = self.consumer.client().fatal_error() {
            return Some(match code {
                // Who has been the member has lost its place to another process.
                RDKafkaErrorCode::UnreleasedInstanceId if !self.has_joined => {
                    End::MemberTaken(self.runtime.static_member())
                }
                RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::UnreleasedInstanceId => {
                    End::MemberFenced(self.runtime.static_member())
                }
                RDKafkaErrorCode::GroupAuthorizationFailed if !self.has_joined => {
                    End::NotAuthorized(report::denial(&self.runtime, code))
                }
                RDKafkaErrorCode::GroupAuthorizationFailed => End::Restart(format!(
                    "the consumer is refused ({code}): grant Read on group {}",
                    self.runtime.kafka.group_id
                )),
                code => End::Restart(format!("the consumer cannot go on ({code})")),
            });
        }
        if self.member.is_outdated() {
            for lane in 0..self.runtime.lanes() {
                ProducerRecycled { lane, reason: "certificates_changed" }
                    .emit(&self.runtime.metrics);
            }
            return Some(End::Restart(
                "certificates have changed, which a client reads once".to_owned(),
            ));
        }
        // A topic is one route's: the preflight ended the start if there was none that may be
        // described.
        let denied = lock(&self.consumer.context().denied)
            .filter(|code| *code != RDKafkaErrorCode::TopicAuthorizationFailed);
        denied
            .filter(|_| !self.has_joined)
            .map(|code| End::NotAuthorized(report::denial(&self.runtime, code)))
    }

    fn take(&mut self, request: ToPoll) {
        let context = self.consumer.context();
        let mut guard = lock(&context.router);
        let Some(router) = guard.as_mut() else { return };
        let now = Instant::now();
        match request {
            ToPoll::Rewind { lane, targets } => router.rewind(&self.consumer, lane, targets),
            ToPoll::Reread(epochs) => {
                epochs.into_iter().for_each(|epoch| router.assignment.reread(epoch))
            }
            ToPoll::Block(epoch, block) => {
                tracing::warn!(
                    reason = block.reason.as_str(),
                    partition = router.name_of(epoch),
                    "partition blocked: {}",
                    block.text
                );
                router.assignment.blocked(epoch, block, now);
            }
            ToPoll::Resolved(answers) => {
                answers.into_iter().for_each(|answer| resolved(router, &self.runtime, answer, now))
            }
            ToPoll::Observed(observed) => {
                drop(guard);
                self.observed(observed, now);
            }
            ToPoll::Ended(_) => {}
        }
    }

    fn observed(&mut self, observed: Observed, now: Instant) {
        let context = self.consumer.context();
        let mut guard = lock(&context.router);
        let Some(router) = guard.as_mut() else { return };
        for (at, ends) in &observed.ends {
            self.progress.ends(at, *ends, now);
        }
        if observed.failures.is_empty() {
            context.are_brokers_down.store(false, Ordering::Release);
        }
        self.report.failures(observed.failures);
        for (topic, id) in &observed.topic_ids {
            router.recreated(&self.runtime, topic, id);
        }
        if observed.is_snapshot_new {
            for topic in self.runtime.guard.release(&self.runtime.snapshots.load().schemas) {
                tracing::info!(topic = &*topic, "schemas changed, the route goes on");
            }
            router.block_unroutable(&self.runtime);
            router.assignment.retry_all(now);
            drop(guard);
            report::in_force(&self.runtime);
            if let Err(why) = self.subscribe() {
                self.runtime.status.unready("routes", why.to_string());
            } else {
                self.tell_unseen_topics();
            }
        }
    }

    fn stop_lanes(&self, deadline: Instant) -> bool {
        if let Some(router) = lock(&self.consumer.context().router).as_ref() {
            router.tell_all(|| ToLane::Stop(deadline));
        }
        true
    }

    /// A raw topic that the brokers do not show has no partition that could say so.
    fn tell_unseen_topics(&self) {
        let snapshot = self.runtime.snapshots.load();
        let reasons: Vec<&str> = snapshot.unseen_topics().values().map(String::as_str).collect();
        match &*reasons {
            [] => self.runtime.status.ready("routes"),
            reasons => self.runtime.status.unready("routes", reasons.join("; ")),
        }
    }

    fn subscribe(&mut self) -> Result<(), PollError> {
        // A topic that appears later changes the list: librdkafka itself would look for it only
        // every 5 minutes.
        let snapshot = self.runtime.snapshots.load();
        let (mut topics, unseen) = (snapshot.raw_topics(), snapshot.unseen_topics());
        topics.retain(|topic| !unseen.contains_key(topic) || self.topics.contains(topic));
        if topics != self.topics {
            let names: Vec<&str> = topics.iter().map(String::as_str).collect();
            self.consumer.subscribe(&names).map_err(PollError::Subscribe)?;
            tracing::info!(topics = topics.join(" "), "subscribed");
            report::begin(&self.runtime, &topics);
            report::in_force(&self.runtime);
            self.topics = topics;
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<(), PollError> {
        match self.consumer.poll(POLL) {
            // Every partition is forwarded to a lane before it is assigned: this one was not. Its
            // lane may be beyond this record already, and must not commit: the next start reads it.
            Some(Ok(message)) => {
                return Err(PollError::StrayRecord(
                    message.topic().to_owned(),
                    message.partition(),
                ));
            }
            Some(Err(error)) => match error.rdkafka_error_code() {
                Some(code) if is_authorization(code) => {
                    *lock(&self.consumer.context().denied) = Some(code)
                }
                code => tracing::debug!(?code, "consumer event"),
            },
            None => {}
        }
        if let Some(router) = lock(&self.consumer.context().router).as_ref() {
            router.publish(&self.runtime, &self.consumer);
        }
        if !self.has_joined
            && GroupMetadata::of(&self.consumer).is_some_and(|metadata| metadata.has_joined())
        {
            self.has_joined = true;
            self.runtime.status.ready("kafka");
        }
        Ok(())
    }

    /// Does what the assignment says until it says nothing more.
    fn act(&self) {
        let context = self.consumer.context();
        let mut guard = lock(&context.router);
        let Some(router) = guard.as_mut() else { return };
        router.assignment.tick(Instant::now());
        router.act(&self.runtime, &self.consumer, &self.questions);
    }

    fn housekeeping(&mut self) {
        let now = Instant::now();
        if now < self.next_look {
            return;
        }
        self.next_look = now + HOUSEKEEPING;
        let context = self.consumer.context();
        let guard = lock(&context.router);
        let Some(router) = guard.as_ref() else { return };
        let denied = lock(&context.denied).take();
        let are_brokers_down = context.are_brokers_down.load(Ordering::Acquire);
        self.report.look(&router.assignment, &mut self.progress, denied, are_brokers_down, now);
    }
}

fn resolved(router: &mut Router, runtime: &Runtime, answer: Resolved, now: Instant) {
    let Resolved { question, resolution, committed, lost } = answer;
    if let Some(offset) = committed {
        router.assignment.committed(&question.at, question.epoch, offset);
    }
    if let Some(Lost { loss, missed, goes_on }) = lost {
        let (topic, partition) = (&*question.at.topic, question.at.partition);
        OffsetLost { topic, partition, reason: loss.as_str(), missed, committed, goes_on }
            .emit(&runtime.metrics);
    }
    router.assignment.resolved(&question.at, question.epoch, resolution, now);
}
