//! A topic read by a command: from where to where is the command's choice, no group is joined.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{self, Consumer, Registered};
use crate::config::Kafka;

/// One request to the brokers.
pub(crate) const REQUEST: Duration = Duration::from_secs(10);
/// Brokers of which nothing is heard for so long are gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);

/// A consumer that joins no group and decides itself where to read: an offset that is not there is
/// an error. `group`: behind the configured group's name, for the offsets that it commits.
///
/// # Errors
/// librdkafka refuses the properties.
pub(crate) fn reader(
    kafka: &Kafka,
    group: &str,
    name: &str,
) -> Result<Registered<Consumer>, KafkaError> {
    let group = format!("{}.{group}", kafka.group_id);
    let mut own = vec![("group.id", &*group), ("enable.partition.eof", "true")];
    // Records may be large and many: what waits in memory is bounded, unless the user says
    // otherwise.
    for (name, value) in [("queued.max.messages.kbytes", "16384"), ("fetch.max.bytes", "16777216")]
    {
        if !kafka.consumer.contains_key(name) {
            own.push((name, value));
        }
    }
    client::consumer(kafka, name, &own)
}

/// Whether an offset that was asked for is no longer there.
pub(crate) fn is_expired(error: &KafkaError) -> bool {
    matches!(error.rdkafka_error_code(), Some(Code::AutoOffsetReset | Code::OffsetOutOfRange))
}

/// A partition and the offsets it holds: from the first, included, to the last, not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OffsetRange {
    pub(crate) partition: i32,
    pub(crate) low: i64,
    pub(crate) high: i64,
}

/// What each partition of a topic holds now; `None`: there is no such topic.
///
/// # Errors
/// The brokers do not answer.
pub(crate) fn ranges(
    consumer: &Consumer,
    topic: &str,
) -> Result<Option<Vec<OffsetRange>>, KafkaError> {
    // All topics: asking for one by name may create it.
    let metadata = consumer.fetch_metadata(None, REQUEST)?;
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else {
        return Ok(None);
    };
    let mut ranges = Vec::with_capacity(found.partitions().len());
    for partition in found.partitions() {
        let (low, high) = consumer.fetch_watermarks(topic, partition.id(), REQUEST)?;
        ranges.push(OffsetRange { partition: partition.id(), low, high });
    }
    Ok(Some(ranges))
}

/// The offsets that the consumer's group committed, by partition.
///
/// # Errors
/// The brokers do not answer.
pub(crate) fn committed(
    consumer: &Consumer,
    topic: &str,
    ranges: &[OffsetRange],
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for range in ranges {
        list.add_partition(topic, range.partition);
    }
    if list.count() == 0 {
        return Ok(BTreeMap::new());
    }
    let mut offsets = BTreeMap::new();
    for element in consumer.committed_offsets(list, REQUEST)?.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert(element.partition(), offset);
        }
    }
    Ok(offsets)
}
