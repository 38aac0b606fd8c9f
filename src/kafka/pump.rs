//! Records through the engine into the producer: the part of a lane that costs time. No allocation per record, one snapshot of schemas and keys
//! per transaction.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use prometheus::local::LocalHistogram;
use rdkafka::types::RDKafkaErrorCode;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::error::RejectCode;
use veilstream_engine::key::Key;
use veilstream_engine::keyring::Keyring;
use veilstream_engine::record::{Header, HeaderOutput, KeyOutput, Output, Record};
use veilstream_engine::seal::{NoncePool, Origin};
use veilstream_engine::transform::{Limits, NeededKey, Outcome, Transformer};

use super::dead_letter::{self, Original, Reason};
use super::error::Fault;
use super::ffi::{Batch, Destination, Headers, Message, TopicId};
use super::producer::{Producer, Unproduced};
use super::shared::{KeyFault, Shared, unix_millis, unix_seconds};
use super::slot::{Route, Slots};
use crate::telemetry::counters::{SchemaCounters, TopicCounters};
use crate::telemetry::events::{Event as _, RoutePaused};
use veilstream_keys::OsEntropy;

/// The header every sanitized record carries: `<schema>/<version>`.
const SCHEMA_HEADER: &[u8] = b"veilstream-schema";
/// A record that lacks keys after so many successful fetches lacks something else.
const FETCHES: u32 = 3;
/// Looks at the clock every so many records.
const CLOCK: usize = 64;

/// Why the pump stopped.
pub(super) enum Stopped {
    /// The batch is done.
    Batch,
    /// The transaction is full.
    Full,
    /// Keys are missing: [`Pump::needed`].
    Keys,
    /// The guard stopped the topic of this epoch.
    Tripped(u64),
    /// Producing failed.
    Failed(Fault),
}

/// What the open transaction holds.
#[derive(Default)]
pub(super) struct Transaction {
    pub(super) records: usize,
    pub(super) bytes: usize,
    pub(super) dead_letters: usize,
    pub(super) begun: Option<Instant>,
    times: Vec<i64>,
    refused: Vec<Arc<str>>,
    /// Where its first record came from.
    first: Option<(Arc<str>, i32, i64)>,
}

impl Transaction {
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0
    }

    fn clear(&mut self) {
        (self.records, self.bytes, self.dead_letters, self.begun, self.first) = (0, 0, 0, None, None);
        self.times.clear();
        self.refused.clear();
    }
}

/// Counters of one raw topic within this lane.
struct Topic {
    name: Arc<str>,
    counters: TopicCounters,
    /// Outcomes for the guard since its last look; `true`: rejected.
    outcomes: Vec<bool>,
    tripped: bool,
}

/// The working state of one lane.
pub(super) struct Pump {
    shared: Arc<Shared>,
    pub(super) transaction: Transaction,
    /// The next record of the batch.
    pub(super) cursor: usize,
    /// Number of the batch in hand: partitions assigned later do not own its records.
    pub(super) fill: u64,
    transformer: Transformer,
    nonces: NoncePool,
    output: Output,
    schemas: Arc<SchemaSet>,
    keys: Arc<Keyring>,
    needed: Vec<NeededKey>,
    fetches: u32,
    topics: Vec<Topic>,
    /// Per schema of `schemas` that was used.
    counters: Vec<Option<SchemaCounters>>,
    latency: LocalHistogram,
    dead_letters: Option<(TopicId, i32)>,
    condemned: HashSet<(Arc<str>, i32, i64)>,
}

/// What one record led to.
enum Done {
    Produced,
    DeadLettered,
    Keys(Vec<NeededKey>),
}

impl Pump {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let limits = Limits { input: shared.pipeline.max_record_bytes, ..Limits::default() };
        Self {
            transaction: Transaction::default(),
            cursor: 0,
            fill: 0,
            transformer: Transformer::new(Box::new(OsEntropy)).with_limits(limits),
            nonces: NoncePool::new(Box::new(OsEntropy)),
            output: Output::default(),
            schemas: shared.registry.current(),
            keys: shared.keys.keyring(),
            needed: Vec::new(),
            fetches: 0,
            topics: Vec::new(),
            counters: Vec::new(),
            latency: shared.metrics.record_latency.local(),
            dead_letters: None,
            condemned: HashSet::new(),
            shared,
        }
    }

    /// Takes the snapshots of a new transaction.
    pub(super) fn take_snapshots(&mut self, slots: &mut Slots) {
        let schemas = self.shared.registry.current();
        if !Arc::ptr_eq(&schemas, &self.schemas) {
            self.schemas = schemas;
            self.counters.clear();
            slots.iter_mut().for_each(|s| s.route = None);
        }
        self.keys = self.shared.keys.keyring();
    }

    /// Topic handles belong to a producer.
    pub(super) fn new_producer(&mut self, slots: &mut Slots) {
        self.dead_letters = None;
        slots.iter_mut().for_each(|s| s.route = None);
    }

    /// Works through the batch until something stops it. `go_on`: nobody waits for this lane.
    pub(super) fn run(&mut self, batch: &Batch, slots: &mut Slots, producer: &mut Producer, limit: usize, go_on: &dyn Fn() -> bool) -> Stopped {
        let bytes_before = self.transaction.bytes;
        for topic in &mut self.topics {
            topic.tripped = self.shared.guard.is_tripped(&topic.name);
        }
        let stopped = self.records(batch, slots, producer, limit, go_on);
        self.shared.metrics.inflight_bytes.add((self.transaction.bytes - bytes_before) as i64);
        self.judge();
        stopped
    }

    fn records(&mut self, batch: &Batch, slots: &mut Slots, producer: &mut Producer, limit: usize, go_on: &dyn Fn() -> bool) -> Stopped {
        let mut headers: Vec<Header<'_>> = Vec::new();
        let mut last: Option<(usize, i32, Option<usize>)> = None;
        let (mut now, mut now_ms) = (unix_seconds(), unix_millis());
        while let Some(message) = batch.get(self.cursor) {
            if self.transaction.records >= limit || self.transaction.bytes >= self.shared.pipeline.max_batch_bytes {
                return Stopped::Full;
            }
            if self.cursor.is_multiple_of(CLOCK) {
                (now, now_ms) = (unix_seconds(), unix_millis());
                if !go_on() {
                    return Stopped::Full;
                }
            }
            let key = (message.topic_id(), message.partition());
            let slot = match last {
                Some((topic, partition, slot)) if (topic, partition) == key => slot,
                _ => {
                    let slot = slots.find(message.topic(), key.1);
                    last = Some((key.0, key.1, slot));
                    slot
                }
            };
            let Some(slot) = slot.and_then(|i| slots.get_mut(i)).filter(|s| s.since <= self.fill && !s.parked) else {
                self.cursor += 1;
                continue;
            };
            if let Some(code) = message.error() {
                tracing::warn!(topic = &*slot.assigned.topic, partition = slot.assigned.partition, %code, "partition event");
                self.cursor += 1;
                continue;
            }
            if slot.next.is_some_and(|next| message.offset() < next) {
                self.cursor += 1;
                continue;
            }
            if slot.route.is_none() {
                slot.route = self.route(&slot.assigned.topic, producer);
            }
            let Some(route) = slot.route else { return Stopped::Failed(Fault::Doubt) };
            if self.topics[route.counters].tripped {
                return Stopped::Tripped(slot.assigned.epoch);
            }
            headers.clear();
            message.headers(&mut headers);
            let place = Place { topic: &slot.assigned.topic, route: &route, message: &message, headers: &headers, now, now_ms };
            match self.record(&place, producer, go_on) {
                Ok(Done::Keys(needed)) => {
                    self.gather(needed, batch, slots);
                    return Stopped::Keys;
                }
                Ok(done) => {
                    self.fetches = 0;
                    slot.next = Some(message.offset() + 1);
                    self.count(&route, &message, matches!(done, Done::DeadLettered));
                    if self.transaction.first.is_none() {
                        self.transaction.first = Some((slot.assigned.topic.clone(), message.partition(), message.offset()));
                    }
                }
                Err(fault) => return Stopped::Failed(fault),
            }
            self.cursor += 1;
        }
        Stopped::Batch
    }

    fn route(&mut self, topic: &Arc<str>, producer: &mut Producer) -> Option<Route> {
        let to_name = self.schemas.routes().find(|(from, _)| **from == **topic).map(|(_, to)| to.to_owned());
        let to = match &to_name {
            Some(name) => Some(producer.topic(name)?),
            None => None,
        };
        let facts = self.shared.facts.load();
        let facts = to_name.as_ref().and_then(|name| facts.get(name));
        let counters = match self.topics.iter().position(|t| t.name == *topic) {
            Some(i) => i,
            None => {
                let counters = self.shared.metrics.topic_counters(topic, to_name.as_deref().unwrap_or(""));
                self.topics.push(Topic { name: topic.clone(), counters, outcomes: Vec::new(), tripped: self.shared.guard.is_tripped(topic) });
                self.topics.len() - 1
            }
        };
        let (compacted, ahead_ms) = facts.map_or((false, i64::MAX), |f| (f.compacted, f.ahead_ms));
        Some(Route { to, counters, compacted, ahead_ms })
    }

    /// One record: protected into the sanitized topic, or sealed into the dead letters.
    fn record(&mut self, place: &Place<'_>, producer: &mut Producer, go_on: &dyn Fn() -> bool) -> Result<Done, Fault> {
        let message = place.message;
        if !self.condemned.is_empty() {
            let origin = (place.topic.clone(), message.partition(), message.offset());
            if self.condemned.contains(&origin) {
                return self.dead_letter(place, Reason::BrokerRefused, "", producer, go_on);
            }
        }
        let record = Record { key: message.key(), value: message.value(), headers: place.headers, topic: Some(place.topic), now: place.now };
        let index = match self.transformer.transform(&self.schemas, &self.keys, &record, &mut self.output) {
            Outcome::Protected(index) => index,
            Outcome::Rejected(reject) => {
                return self.dead_letter(place, Reason::Rejected(reject.code), reject.schema.as_deref().unwrap_or(""), producer, go_on);
            }
            Outcome::NeedKeys(needed) => return Ok(Done::Keys(needed)),
        };
        let Some(to) = place.route.to else {
            return self.dead_letter(place, Reason::Rejected(RejectCode::NoSchema), "", producer, go_on);
        };
        let key = match self.output.key {
            KeyOutput::Same => message.key(),
            KeyOutput::Replaced => Some(self.output.key_bytes.as_slice()),
        };
        let late = message.timestamp().is_some_and(|time| time.saturating_sub(place.now_ms) > place.route.ahead_ms);
        if late || (key.is_none() && place.route.compacted) {
            return self.dead_letter(place, Reason::BrokerRefused, &self.label(index), producer, go_on);
        }
        let headers = self.headers(place, &self.schemas.schemas()[index].label).ok_or(Fault::Doubt)?;
        let value = if self.output.tombstone { None } else { Some(self.output.value.as_slice()) };
        let to = Destination { topic: to, partition: message.partition(), timestamp: self.timestamp(message) };
        match producer.produce(to, key, value, headers, go_on) {
            Ok(()) => {}
            Err(Unproduced::TooLarge) => return self.dead_letter(place, Reason::Rejected(RejectCode::OutputTooLarge), &self.label(index), producer, go_on),
            Err(Unproduced::Failed(fault)) => return Err(fault),
        }
        if let Some(time) = message.timestamp() {
            self.transaction.times.push(time);
        }
        self.schema_counters(index);
        // librdkafka has its copy.
        self.output.shrink();
        Ok(Done::Produced)
    }

    fn label(&self, schema: usize) -> Arc<str> {
        self.schemas.schemas()[schema].label.clone()
    }

    /// The input's headers, then the schema's.
    fn headers(&self, place: &Place<'_>, label: &str) -> Option<Headers> {
        let untouched = self.output.headers.len() == place.headers.len() && self.output.headers.iter().all(|h| matches!(h, HeaderOutput::Same(_)));
        // librdkafka would read the message once more to find that there are none.
        let mut headers = if untouched && !place.headers.is_empty() {
            place.message.copy_headers()?
        } else {
            let mut headers = Headers::new(self.output.headers.len() + 1)?;
            for header in &self.output.headers {
                match header {
                    HeaderOutput::Same(i) => headers.add(place.headers[*i].0, place.headers[*i].1),
                    HeaderOutput::Replaced(i, range) => headers.add(place.headers[*i].0, Some(&self.output.header_bytes[range.clone()])),
                }
            }
            headers
        };
        headers.add(SCHEMA_HEADER, Some(label.as_bytes()));
        Some(headers)
    }

    /// librdkafka takes 0 for "now": the nearest it can write is 1.
    fn timestamp(&self, message: &Message<'_>) -> i64 {
        match message.timestamp() {
            None => 0,
            Some(0) => {
                self.shared.raised_timestamps.fetch_add(1, Ordering::Relaxed);
                1
            }
            Some(time) => time,
        }
    }

    fn dead_letter(&mut self, place: &Place<'_>, reason: Reason, schema: &str, producer: &mut Producer, go_on: &dyn Fn() -> bool) -> Result<Done, Fault> {
        let Some(key) = dead_letter::sealing_key(&self.keys) else { return Ok(Done::Keys(vec![dead_letter::needed_key()])) };
        let message = place.message;
        let origin = Origin { topic: place.topic, partition: message.partition(), offset: message.offset(), schema };
        let original = Original { key: message.key(), value: message.value(), headers: place.headers, time: message.timestamp() };
        let Ok(sealed) = dead_letter::seal(key, reason, &origin, &original, &mut self.nonces) else {
            // No randomness or a spent key: the record waits.
            return Ok(Done::Keys(vec![dead_letter::needed_key()]));
        };
        let (topic, partitions) = match self.dead_letters {
            Some(known) => known,
            None => {
                let name = &self.shared.pipeline.dead_letter_topic;
                let partitions = self.shared.facts.load().get(name).map_or(1, |f| f.partitions.max(1));
                let topic = producer.topic(name).ok_or(Fault::Doubt)?;
                *self.dead_letters.insert((topic, partitions))
            }
        };
        let to = Destination { topic, partition: message.partition() % partitions, timestamp: 0 };
        let headers = Headers::new(0).ok_or(Fault::Doubt)?;
        producer.produce(to, sealed.key.as_deref(), Some(&sealed.value), headers, go_on).map_err(|fault| match fault {
            // Nothing is lost: the record waits until the dead-letter topic takes it.
            Unproduced::TooLarge => Fault::Blocked(RDKafkaErrorCode::MessageSizeTooLarge),
            Unproduced::Failed(fault) => fault,
        })?;
        let counters = &self.topics[place.route.counters].counters;
        match reason {
            Reason::Rejected(code) => counters.dead_lettered(code),
            Reason::BrokerRefused => self.transaction.refused.push(place.topic.clone()),
        }
        Ok(Done::DeadLettered)
    }

    fn count(&mut self, route: &Route, message: &Message<'_>, dead_letter: bool) {
        let topic = &mut self.topics[route.counters];
        topic.counters.consumed(1);
        if dead_letter {
            self.transaction.dead_letters += 1;
        } else {
            topic.counters.produced(1);
        }
        topic.outcomes.push(dead_letter);
        self.transaction.records += 1;
        self.transaction.bytes += message.value().map_or(0, <[u8]>::len) + message.key().map_or(0, <[u8]>::len);
    }

    fn schema_counters(&mut self, schema: usize) {
        if self.counters.len() <= schema {
            self.counters.resize_with(schema + 1, || None);
        }
        let counters = self.counters[schema].get_or_insert_with(|| {
            let schema = &self.schemas.schemas()[schema];
            self.shared.metrics.schema_counters(&schema.name, schema.fields.iter().map(|f| &*f.id))
        });
        counters.add(&self.output);
    }

    /// Tells the guard what became of the records.
    fn judge(&mut self) {
        for topic in self.topics.iter_mut().filter(|t| !t.outcomes.is_empty()) {
            if let Some(tripped) = self.shared.guard.add(&topic.name, topic.outcomes.drain(..), &self.schemas) {
                RoutePaused { topic: &topic.name, rejected: tripped.rejected, window: tripped.window }.emit(&self.shared.metrics);
                let reason = format!("paused: {} of the last {} records were rejected; mend the schema", tripped.rejected, tripped.window);
                self.shared.status.unready(&format!("topic {}", topic.name), reason);
            }
        }
    }

    // ---- keys ----

    /// What the rest of the batch lacks too, so that one fetch serves all.
    fn gather(&mut self, first: Vec<NeededKey>, batch: &Batch, slots: &Slots) {
        let mut needed: HashSet<NeededKey> = first.into_iter().collect();
        let mut headers: Vec<Header<'_>> = Vec::new();
        let now = unix_seconds();
        for message in (self.cursor + 1..batch.len()).filter_map(|i| batch.get(i)).filter(|m| m.error().is_none()) {
            let Some(slot) = slots.find(message.topic(), message.partition()).and_then(|i| slots.iter().nth(i)) else { continue };
            headers.clear();
            message.headers(&mut headers);
            let record = Record { key: message.key(), value: message.value(), headers: &headers, topic: Some(&slot.assigned.topic), now };
            if let Outcome::NeedKeys(keys) = self.transformer.transform(&self.schemas, &self.keys, &record, &mut self.output) {
                needed.extend(keys);
            }
        }
        self.needed = needed.into_iter().collect();
    }

    /// What the last run lacked.
    ///
    /// # Errors
    /// It was fetched before, again and again.
    pub(super) fn needed(&mut self) -> Result<Vec<NeededKey>, KeyFault> {
        if self.fetches >= FETCHES {
            self.fetches = 0;
            return Err(KeyFault("keys are there and do not seal; see the logs of the key store and the random source".to_owned()));
        }
        Ok(std::mem::take(&mut self.needed))
    }

    /// Takes what was fetched.
    pub(super) fn take_keys(&mut self, keys: Vec<Arc<Key>>) {
        self.fetches += 1;
        self.transformer.add_subject_keys(keys);
        // Other kinds come with a new snapshot.
        self.keys = self.shared.keys.keyring();
    }

    // ---- the end of a transaction ----

    pub(super) fn committed(&mut self) {
        let now = unix_millis();
        for time in &self.transaction.times {
            self.latency.observe((now - time).max(0) as f64 / 1000.0);
        }
        self.latency.flush();
        for topic in &self.topics {
            topic.counters.flush();
        }
        for counters in self.counters.iter().flatten() {
            counters.flush();
        }
        for topic in &self.transaction.refused {
            self.shared.metrics.records_dead_lettered.with_label_values(&[topic, Reason::BrokerRefused.as_str()]).inc();
        }
        self.shared.metrics.inflight_bytes.sub(self.transaction.bytes as i64);
        self.transaction.clear();
    }

    pub(super) fn aborted(&mut self) {
        for topic in &mut self.topics {
            topic.counters.forget();
            topic.outcomes.clear();
        }
        for counters in self.counters.iter().flatten() {
            counters.forget();
        }
        self.shared.metrics.inflight_bytes.sub(self.transaction.bytes as i64);
        self.transaction.clear();
    }

    /// The only record of the transaction is what the broker refuses: it becomes a dead letter. `false`: it was one already.
    pub(super) fn condemn(&mut self) -> bool {
        match self.transaction.first.take() {
            Some(origin) => self.condemned.insert(origin),
            None => false,
        }
    }
}

/// One record and where it is.
struct Place<'a> {
    topic: &'a Arc<str>,
    route: &'a Route,
    message: &'a Message<'a>,
    headers: &'a [Header<'a>],
    now: u64,
    now_ms: i64,
}
