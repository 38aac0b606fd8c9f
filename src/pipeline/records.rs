//! Records through the engine into the producer: the part of a lane that costs time. No allocation
//! per record, one snapshot of schemas and keys per transaction.

mod counts;
mod produce;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use prometheus::local::LocalHistogram;
use rdkafka::types::RDKafkaErrorCode;
use veilstream_engine::key::Key;
use veilstream_engine::record::{Header, Record};
use veilstream_engine::seal::NoncePool;
use veilstream_engine::transform::{Limits, NeededKey};

use super::core::lane::{Lane, Offer};
use super::core::partition::{Block, BlockReason, TopicPartition};
use super::guard::Tripped;
use super::lane::ReadBatch;
use super::runtime::Runtime;
use super::snapshot::Snapshot;
use crate::clock::{unix_millis, unix_seconds};
use crate::kafka::error::{Fault, is_authorization};
use crate::kafka::ffi::{Message, TopicId};
use crate::kafka::producer::Producer;
use crate::keys::KeyFault;
use crate::outgoing::TopicLimits;
use crate::protect::Protector;
use crate::telemetry::counters::{SchemaCounters, TopicCounters};
pub(super) use counts::OpenTransaction;
use produce::{Done, RecordPlace};
use veilstream_keys::OsEntropy;

/// Looks at the clock every so many records.
const CLOCK: usize = 64;

/// Why the path stopped.
pub(super) enum Stopped {
    /// The batch is done.
    Batch,
    /// The transaction must end first: it is full, or what comes next stands alone.
    Full,
    /// Keys are missing for the partition at this place: [`RecordPath::needed`].
    Keys(usize),
    /// The partition at this place must not be read on.
    Blocked(usize, Block),
    /// The client reports an error of the partition at this place.
    FetchFailed(usize, Block),
    /// Producing failed.
    Failed(Fault),
}

/// Where records of a raw topic go.
#[derive(Clone, Copy)]
struct LaneRoute {
    /// The sanitized topic; `None`: no schema routes the raw topic any more.
    to: Option<TopicId>,
    /// Index of the route's counters.
    counters: usize,
    /// What the sanitized topic takes.
    limits: TopicLimits,
}

/// Counters of one raw topic within this lane.
struct LaneTopic {
    name: Arc<str>,
    counters: TopicCounters,
    /// Outcomes for the guard since its last look; `true`: rejected.
    outcomes: Vec<bool>,
    tripped: Option<Tripped>,
}

/// The working state of one lane.
pub(super) struct RecordPath {
    runtime: Arc<Runtime>,
    pub(super) transaction: OpenTransaction,
    protector: Protector,
    nonces: NoncePool,
    snapshot: Arc<Snapshot>,
    needed: Vec<NeededKey>,
    topics: Vec<LaneTopic>,
    /// Per schema of `schemas` that was used.
    counters: Vec<Option<SchemaCounters>>,
    latency: LocalHistogram,
    dead_letters: Option<(TopicId, TopicLimits)>,
    /// Per raw topic, as of the snapshot and producer in hand.
    routes: HashMap<Arc<str>, LaneRoute>,
    /// A partition came back that was blocked: the producer may know its topics from before the
    /// cure.
    needs_refresh: bool,
}

impl RecordPath {
    pub(super) fn new(runtime: Arc<Runtime>) -> Self {
        let snapshot = runtime.snapshots.load_full();
        let limits = Limits { input: runtime.pipeline.max_record_bytes, ..Limits::default() };
        Self {
            transaction: OpenTransaction::default(),
            protector: Protector::new(snapshot.schemas.clone(), runtime.keys.keyring())
                .with_limits(limits)
                .with_metrics(runtime.metrics.clone()),
            nonces: NoncePool::new(Box::new(OsEntropy)),
            snapshot,
            needed: Vec::new(),
            topics: Vec::new(),
            counters: Vec::new(),
            latency: runtime.metrics.record_latency.local(),
            dead_letters: None,
            routes: HashMap::new(),
            needs_refresh: false,
            runtime,
        }
    }

    /// Takes the snapshots of a new transaction.
    pub(super) fn take_snapshots(&mut self) {
        let snapshot = self.runtime.snapshots.load_full();
        if !Arc::ptr_eq(&snapshot, &self.snapshot) {
            if !Arc::ptr_eq(&snapshot.schemas, &self.snapshot.schemas) {
                self.counters.clear();
            }
            self.snapshot = snapshot;
            self.forget_topics();
        }
        self.protector.take_snapshots(self.snapshot.schemas.clone(), self.runtime.keys.keyring());
    }

    /// Topic handles belong to a producer.
    pub(super) fn forget_topics(&mut self) {
        self.dead_letters = None;
        self.routes.clear();
    }

    /// A partition came back that was blocked.
    pub(super) fn refresh_topics(&mut self) {
        self.needs_refresh = true;
    }

    /// Works through the batch until something stops it. `go_on`: nobody waits for this lane.
    pub(super) fn run(
        &mut self,
        batch: &ReadBatch,
        lane: &mut Lane,
        producer: &mut Producer,
        go_on: &dyn Fn() -> bool,
    ) -> Stopped {
        let bytes_before = self.transaction.bytes;
        for topic in &mut self.topics {
            topic.tripped = self.runtime.guard.tripped(&topic.name);
        }
        let stopped = self.records(batch, lane, producer, go_on);
        self.runtime.metrics.inflight_bytes.add((self.transaction.bytes - bytes_before) as i64);
        self.judge();
        stopped
    }

    fn records(
        &mut self,
        batch: &ReadBatch,
        lane: &mut Lane,
        producer: &mut Producer,
        go_on: &dyn Fn() -> bool,
    ) -> Stopped {
        let mut headers: Vec<Header<'_>> = Vec::new();
        // Of the partition of the record before: the place in the lane, and where its records go.
        let mut last: Option<(usize, i32, Option<usize>, Option<LaneRoute>)> = None;
        let (mut now, mut now_ms) = (unix_seconds(), unix_millis());
        while let Some(message) = batch.current() {
            if self.transaction.records >= self.runtime.pipeline.max_batch_records
                || self.transaction.bytes >= self.runtime.pipeline.max_batch_bytes
            {
                return Stopped::Full;
            }
            if batch.cursor().is_multiple_of(CLOCK) {
                (now, now_ms) = (unix_seconds(), unix_millis());
                if !go_on() {
                    return Stopped::Full;
                }
            }
            let (topic, partition) = (message.topic_id(), message.partition());
            if last.is_none_or(|(t, p, ..)| (t, p) != (topic, partition)) {
                last = Some((topic, partition, lane.find(message.topic(), partition), None));
            }
            let Some((.., Some(place), route)) = &mut last else {
                batch.advance();
                continue;
            };
            let place = *place;
            match offered(&message, place, batch, lane) {
                Ok(true) => {}
                Ok(false) => {
                    batch.advance();
                    continue;
                }
                Err(stopped) => return stopped,
            }
            let topic = lane.assigned(place).at.topic.clone();
            let route = match route {
                Some(route) => *route,
                None => match self.route(&topic, producer) {
                    Some(found) => *route.insert(found),
                    None => return Stopped::Failed(Fault::OutcomeUnknown),
                },
            };
            if let Some(block) = self.obstacle(&topic, partition, &route) {
                return Stopped::Blocked(place, block);
            }
            headers.clear();
            message.headers(&mut headers);
            let refused = lane.refused(place, message.offset());
            let record = RecordPlace {
                topic: &topic,
                route: &route,
                message: &message,
                headers: &headers,
                now,
                now_ms,
                refused,
            };
            match self.record(&record, producer, go_on) {
                Ok(Done::Keys(needed)) => {
                    self.gather(needed, batch, lane);
                    return Stopped::Keys(place);
                }
                Ok(done) => {
                    self.protector.done();
                    lane.done(place, message.offset(), message.leader_epoch());
                    self.count(&route, &message, &headers, matches!(done, Done::DeadLettered));
                }
                Err(fault) => return Stopped::Failed(fault),
            }
            batch.advance();
        }
        Stopped::Batch
    }

    /// Why records of this partition cannot go on, as far as it is known before they are produced.
    fn obstacle(&self, topic: &Arc<str>, partition: i32, route: &LaneRoute) -> Option<Block> {
        if let Some(tripped) = &self.topics[route.counters].tripped {
            return Some(tripped.block());
        }
        if route.to.is_some() && partition >= route.limits.partitions {
            return self.snapshot.problem(topic, partition);
        }
        None
    }

    fn route(&mut self, topic: &Arc<str>, producer: &mut Producer) -> Option<LaneRoute> {
        if let Some(route) = self.routes.get(topic) {
            return Some(*route);
        }
        let to_name = self.snapshot.target(topic).map(ToOwned::to_owned);
        let to = match &to_name {
            Some(name) => Some(producer.topic(name)?),
            None => None,
        };
        if std::mem::take(&mut self.needs_refresh) {
            producer.refresh();
        }
        let facts = to_name.as_ref().and_then(|name| self.snapshot.facts.get(name));
        let limits =
            facts.map_or(TopicLimits { partitions: 0, ..TopicLimits::UNKNOWN }, TopicLimits::from);
        let counters = match self.topics.iter().position(|t| t.name == *topic) {
            Some(i) => i,
            None => {
                let counters =
                    self.runtime.metrics.topic_counters(topic, to_name.as_deref().unwrap_or(""));
                self.topics.push(LaneTopic {
                    name: topic.clone(),
                    counters,
                    outcomes: Vec::new(),
                    tripped: self.runtime.guard.tripped(topic),
                });
                self.topics.len() - 1
            }
        };
        let route = LaneRoute { to, counters, limits };
        self.routes.insert(topic.clone(), route);
        Some(route)
    }

    /// What the rest of the batch lacks too, so that one fetch serves all.
    fn gather(&mut self, first: Vec<NeededKey>, batch: &ReadBatch, lane: &Lane) {
        let mut needed: HashSet<NeededKey> = first.into_iter().collect();
        let mut headers: Vec<Header<'_>> = Vec::new();
        let now = unix_seconds();
        for message in batch.following().filter(|m| m.error().is_none()) {
            let Some(place) = lane.find(message.topic(), message.partition()) else { continue };
            headers.clear();
            message.headers(&mut headers);
            let record = Record {
                key: message.key(),
                value: message.value(),
                headers: &headers,
                topic: Some(&lane.assigned(place).at.topic),
                now,
                ..Record::default()
            };
            needed.extend(self.protector.look_ahead(&record));
        }
        self.needed = needed.into_iter().collect();
    }

    /// What the last run lacked.
    ///
    /// # Errors
    /// It was fetched before, again and again.
    pub(super) fn needed(&mut self) -> Result<Vec<NeededKey>, KeyFault> {
        self.protector.request(std::mem::take(&mut self.needed))
    }

    /// Takes what was fetched.
    pub(super) fn take_keys(&mut self, keys: Vec<Arc<Key>>) {
        self.protector.add_keys(keys, &*self.runtime.keys);
    }
}

/// Whether the message is a record for this lane now; `false`: it was read under an older
/// assignment.
fn offered(
    message: &Message<'_>,
    place: usize,
    batch: &ReadBatch,
    lane: &mut Lane,
) -> Result<bool, Stopped> {
    if let Some(code) = message.error() {
        if !lane.is_active(place, batch.number()) {
            return Ok(false);
        }
        let block = fetch_block(&lane.assigned(place).at, code, &message.error_text());
        batch.advance();
        return Err(Stopped::FetchFailed(place, block));
    }
    match lane.offer(place, message.offset(), batch.number()) {
        Offer::Take => Ok(true),
        Offer::Stale => Ok(false),
        Offer::Backwards => {
            let text = format!(
                "offset {} came after later ones: the log is not the one that it was",
                message.offset()
            );
            batch.advance();
            Err(Stopped::Blocked(place, Block::new(BlockReason::Fetch, text)))
        }
        Offer::Close => Err(Stopped::Full),
    }
}

/// Passes by what was read under older assignments. `true`: something is left to be done.
pub(super) fn skip_stale(batch: &ReadBatch, lane: &Lane) -> bool {
    while let Some(message) = batch.current() {
        if lane
            .find(message.topic(), message.partition())
            .is_some_and(|place| lane.is_active(place, batch.number()))
        {
            return true;
        }
        batch.advance();
    }
    false
}

/// Why a partition cannot be fetched.
fn fetch_block(at: &TopicPartition, code: RDKafkaErrorCode, text: &str) -> Block {
    match code {
        code if is_authorization(code) => Block::new(
            BlockReason::NotAuthorized,
            format!("{code}: grant Read and Describe on {}", at.topic),
        ),
        RDKafkaErrorCode::AutoOffsetReset => {
            // librdkafka tells where a log was cut in words only.
            let diverged_at = text
                .split_once("broker end offset is ")
                .and_then(|(_, rest)| rest.split(' ').next()?.parse().ok())
                .filter(|at: &i64| *at >= 0);
            let is_cut = text.contains("truncat") || text.contains("No epoch found");
            let diverged_at = if is_cut { Some(diverged_at.unwrap_or(0)) } else { None };
            Block {
                diverged_at,
                ..Block::new(
                    BlockReason::OffsetLost,
                    "the log does not hold the next offset any more",
                )
            }
        }
        code => Block::new(BlockReason::Fetch, format!("it cannot be fetched ({code})")),
    }
}
