//! One record to its topic: protected, or as a dead letter.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use veilstream_engine::error::RejectCode;
use veilstream_engine::record::{Header, Record};
use veilstream_engine::seal::{LetterMetadata, LetterRecord};
use veilstream_engine::transform::{NeededKey, Outcome};

use super::{LaneRoute, RecordPath};
use crate::dead_letters::letter::{self, DeadLetterReason, Sealed};
use crate::kafka::error::{Fault, Obstacle};
use crate::kafka::ffi::{Destination, Headers, Message};
use crate::kafka::producer::{Producer, Unproduced};
use crate::outgoing::{Outgoing, TopicLimits, Unfit};

/// One record and where it is.
pub(super) struct RecordPlace<'a> {
    pub(super) topic: &'a Arc<str>,
    pub(super) route: &'a LaneRoute,
    pub(super) message: &'a Message<'a>,
    pub(super) headers: &'a [Header<'a>],
    pub(super) now: u64,
    pub(super) now_ms: i64,
    /// How often the broker refused it: once as it was, then as a dead letter.
    pub(super) refused: u32,
}

/// What one record led to.
pub(super) enum Done {
    Produced,
    DeadLettered,
    Keys(Vec<NeededKey>),
}

/// Why a record is not in its sanitized topic.
enum NotProduced {
    /// It becomes a dead letter, of the schema with this label if it has one.
    Letter(DeadLetterReason, Option<Arc<str>>),
    /// Nothing became of it.
    Failed(Fault),
}

impl From<Fault> for NotProduced {
    fn from(fault: Fault) -> Self {
        Self::Failed(fault)
    }
}

impl RecordPath {
    /// One record: protected into the sanitized topic, or sealed into the dead letters.
    pub(super) fn record(
        &mut self,
        place: &RecordPlace<'_>,
        producer: &mut Producer,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Done, Fault> {
        match self.protected(place, producer, go_on) {
            Ok(done) => Ok(done),
            Err(NotProduced::Letter(reason, schema)) => {
                self.dead_letter(place, reason, schema.as_deref().unwrap_or(""), producer, go_on)
            }
            Err(NotProduced::Failed(fault)) => Err(fault),
        }
    }

    /// One record, protected into the sanitized topic.
    fn protected(
        &mut self,
        place: &RecordPlace<'_>,
        producer: &mut Producer,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Done, NotProduced> {
        use DeadLetterReason::{BrokerRefused, Rejected};
        let message = place.message;
        if place.refused > 0 {
            return Err(NotProduced::Letter(BrokerRefused, None));
        }
        let record = Record {
            key: message.key(),
            value: message.value(),
            headers: place.headers,
            topic: Some(place.topic),
            now: place.now,
            time: message.timestamp().and_then(|time| u64::try_from(time / 1000).ok()),
            ..Record::default()
        };
        let index = match self.protector.transform(&record) {
            Outcome::Protected(index) => index,
            Outcome::Rejected(reject) => {
                return Err(NotProduced::Letter(Rejected(reject.code), reject.schema));
            }
            Outcome::NeedKeys(needed) => return Ok(Done::Keys(needed)),
        };
        let Some(to) = place.route.to else {
            return Err(NotProduced::Letter(Rejected(RejectCode::NoSchema), None));
        };
        // Borrowed: lanes would take turns at its reference count, record by record.
        let label = &self.protector.schemas().schemas()[index].label;
        let letter = |reason| Err(NotProduced::Letter(reason, Some(label.clone())));
        let shown = self.runtime.pipeline.schema_header.then_some(&**label);
        let outgoing = Outgoing::new(&record, self.protector.output(), shown, message.timestamp());
        match outgoing.unfit(&place.route.limits, message.partition(), place.now_ms) {
            None => {}
            Some(Unfit::Partition) => return Err(Fault::Blocked(Obstacle::TopicMissing).into()),
            Some(Unfit::TooLarge) => return letter(Rejected(RejectCode::OutputTooLarge)),
            Some(Unfit::TooFarAhead | Unfit::NullKey) => return letter(BrokerRefused),
        }
        let headers =
            outgoing.native_headers(|| message.copy_headers()).ok_or(Fault::OutcomeUnknown)?;
        let (timestamp, raised) = outgoing.timestamp();
        let to = Destination { topic: to, partition: message.partition(), timestamp };
        match producer.produce(to, outgoing.key, outgoing.value, headers, go_on) {
            Ok(()) => {}
            Err(Unproduced::TooLarge) => return letter(Rejected(RejectCode::OutputTooLarge)),
            Err(Unproduced::Failed(fault)) => return Err(fault.into()),
        }
        if raised {
            self.runtime.raised_timestamps.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(time) = message.timestamp() {
            self.transaction.times.push(time);
        }
        self.schema_counters(index);
        // librdkafka has its copy.
        self.protector.shrink_output();
        Ok(Done::Produced)
    }

    fn dead_letter(
        &mut self,
        place: &RecordPlace<'_>,
        reason: DeadLetterReason,
        schema: &str,
        producer: &mut Producer,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Done, Fault> {
        let (topic, limits) = match self.dead_letters {
            Some(known) => known,
            None => {
                let name = &self.runtime.pipeline.dead_letter_topic;
                let limits = self.snapshot.facts.get(name).map_or(
                    TopicLimits { partitions: 1, ..TopicLimits::UNKNOWN },
                    TopicLimits::from,
                );
                let topic = producer.topic(name).ok_or(Fault::OutcomeUnknown)?;
                *self.dead_letters.insert((topic, limits))
            }
        };
        let Some(key) = letter::sealing_key(self.protector.keys()) else {
            return Ok(Done::Keys(vec![letter::needed_key()]));
        };
        let message = place.message;
        let (partition, offset, time) =
            (message.partition(), message.offset(), message.timestamp());
        let metadata = LetterMetadata {
            reason: reason.as_str(),
            topic: place.topic,
            partition,
            offset,
            time,
            schema,
        };
        let record =
            LetterRecord { key: message.key(), value: message.value(), headers: place.headers };
        let to =
            Destination { topic, partition: partition % limits.partitions.max(1), timestamp: 0 };
        let produce = |sealed: &Sealed| {
            let headers = Headers::new(0).ok_or(Unproduced::Failed(Fault::OutcomeUnknown))?;
            producer.produce(to, None, Some(&sealed.value), headers, go_on)
        };
        // The topic may take less than was known of it: what it refused whole it gets as a stub.
        let limit = if place.refused > 1 { 0 } else { limits.max_message_bytes };
        let Ok(sealed) = letter::seal(key, &metadata, &record, limit, &mut self.nonces) else {
            // No randomness or a spent key: the record waits.
            return Ok(Done::Keys(vec![letter::needed_key()]));
        };
        let (produced, stub) = match produce(&sealed) {
            // The client takes less than the topic: a setting of the user's.
            Err(Unproduced::TooLarge) if !sealed.stub => {
                match letter::stub(key, &metadata, &record) {
                    Ok(stub) => (produce(&stub), true),
                    Err(_) => return Ok(Done::Keys(vec![letter::needed_key()])),
                }
            }
            produced => (produced, sealed.stub),
        };
        if stub {
            letter::warn_of_stub(&metadata);
        }
        produced.map_err(|fault| match fault {
            // Nothing is lost: the record waits until the dead-letter topic takes its stub.
            Unproduced::TooLarge => Fault::Refused,
            Unproduced::Failed(fault) => fault,
        })?;
        let counters = &self.topics[place.route.counters].counters;
        match reason {
            DeadLetterReason::Rejected(code) => counters.dead_lettered(code),
            DeadLetterReason::BrokerRefused => self.transaction.refused.push(place.topic.clone()),
        }
        Ok(Done::DeadLettered)
    }
}
