//! A topic read by a command: from where to where is the command's choice, no group is joined.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::client::{self, Consumer, Registered};
use super::error::is_authorization;
use crate::config::Kafka;

/// One request to the brokers.
pub(crate) const REQUEST: Duration = Duration::from_secs(10);
/// Brokers of which nothing is heard for so long are gone.
pub(crate) const SILENCE: Duration = Duration::from_secs(60);
/// One wait for a record.
const POLL: Duration = Duration::from_millis(100);

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

impl OffsetRange {
    /// Where to go on behind what was committed, and from where retention took what was never read.
    /// `None`: the partition ends before it.
    pub(crate) fn resumed(&self, committed: Option<i64>) -> Option<(i64, Option<i64>)> {
        match committed {
            None => Some((self.low, None)),
            Some(committed) if committed > self.high => None,
            Some(committed) => {
                Some((committed.max(self.low), Some(committed).filter(|at| *at < self.low)))
            }
        }
    }
}

/// Offsets of a topic, by partition, as librdkafka takes them.
///
/// # Errors
/// librdkafka refuses one.
pub(crate) fn offset_list(
    topic: &str,
    offsets: impl IntoIterator<Item = (i32, i64)>,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    }
    Ok(list)
}

/// Why a topic cannot be read to its end.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// Records that were about to be read are gone.
    Expired,
    /// Nothing was heard of the brokers for a long time.
    Silent,
    /// Kafka does not answer as it should.
    Kafka(KafkaError),
}

/// A topic read up to the ends that its partitions had when the reading began.
pub(crate) struct BoundedRead {
    /// The offset after the last, by partition.
    ends: BTreeMap<i32, i64>,
    /// Partitions that are not at their end.
    open: BTreeSet<i32>,
    heard: Instant,
}

impl BoundedRead {
    /// Nothing is read yet. `ends`: the offset after the last, by partition.
    pub(crate) fn new(ends: BTreeMap<i32, i64>) -> Self {
        Self { ends, open: BTreeSet::new(), heard: Instant::now() }
    }

    /// Reads from these offsets on.
    ///
    /// # Errors
    /// librdkafka refuses one.
    pub(crate) fn assign(
        &mut self,
        consumer: &Consumer,
        topic: &str,
        starts: impl Iterator<Item = (i32, i64)>,
    ) -> Result<(), KafkaError> {
        let Self { ends, .. } = self;
        let starts: BTreeMap<i32, i64> = starts
            .filter(|(partition, start)| ends.get(partition).is_some_and(|end| start < end))
            .collect();
        self.open = starts.keys().copied().collect();
        consumer.assign(&offset_list(topic, starts)?)?;
        self.heard = Instant::now();
        Ok(())
    }

    /// Whether every partition is at its end.
    pub(crate) fn is_over(&self) -> bool {
        self.open.is_empty()
    }

    /// Waits a moment for the next record before its partition's end.
    ///
    /// # Errors
    /// [`ReadError`]. What passes by itself is waited for.
    pub(crate) fn poll<'c>(
        &mut self,
        consumer: &'c Consumer,
    ) -> Result<Option<BorrowedMessage<'c>>, ReadError> {
        match consumer.poll(if self.is_over() { Duration::ZERO } else { POLL }) {
            Some(Ok(message)) => {
                self.heard = Instant::now();
                let (partition, offset) = (message.partition(), message.offset());
                let end = self.ends.get(&partition).copied().unwrap_or(0);
                if offset + 1 >= end {
                    self.open.remove(&partition);
                }
                return Ok(Some(message).filter(|_| offset < end));
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                self.heard = Instant::now();
                self.open.remove(&partition);
            }
            Some(Err(error)) if is_expired(&error) => return Err(ReadError::Expired),
            Some(Err(error)) if error.rdkafka_error_code().is_some_and(is_authorization) => {
                return Err(ReadError::Kafka(error));
            }
            _ if self.heard.elapsed() > SILENCE => return Err(ReadError::Silent),
            _ => {}
        }
        Ok(None)
    }
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
