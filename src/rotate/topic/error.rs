//! Why a topic cannot be rotated. No payload, ever.

use std::fmt;

use rdkafka::error::KafkaError;

use crate::kafka::error::Fault;
use crate::kafka::reader::ReadError;
use crate::kafka::topics::TopicError;
use crate::kafka::writer::WriterError;
use crate::keys::KeyFault;

/// Where a record stands in the topic that is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordPlace {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

impl fmt::Display for RecordPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

/// Why a rotation ends before the end of its topic.
#[derive(Debug, thiserror::Error)]
pub enum TopicRotationError {
    /// Kafka does not answer as it should.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The topic that is read cannot be examined.
    #[error("kafka: {0}")]
    Topics(#[from] TopicError),
    /// The topic that is written cannot be examined.
    #[error("{error}; this makes it: {command}")]
    Target {
        /// Why.
        error: TopicError,
        /// What makes it.
        command: String,
    },
    /// Nothing can be written.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// Records were not delivered.
    #[error("records were not delivered: {0}; run it again, it continues")]
    Undelivered(Fault),
    /// Keys are not available now.
    #[error(transparent)]
    Keys(#[from] KeyFault),
    /// There is no such topic.
    #[error("topic {0} does not exist")]
    NoTopic(String),
    /// Both topics are one.
    #[error("--from and --to are both {0}; name a new topic to write to")]
    SameTopic(String),
    /// The topic has records that no run of this rotation wrote.
    #[error("topic {0} has records, and no rotation into it was begun: name a new topic")]
    NotEmpty(String),
    /// A record keeps its partition, so the other topic has as many.
    #[error(
        "the topic that is written has {to} partitions, the one that is read has {from}; this adds \
        them: {command}"
    )]
    Partitions {
        /// Of the topic that is read.
        from: i32,
        /// Of the topic that is written.
        to: i32,
        /// What adds them.
        command: String,
    },
    /// The topic ends before the place where the last run ended.
    #[error(
        "partition {partition} ends at {end}, before {committed}, where the last run ended: the \
        topic was made again or cut; rotate it into a new topic"
    )]
    Behind {
        /// The partition.
        partition: i32,
        /// Its end.
        end: i64,
        /// Where the last run ended.
        committed: i64,
    },
    /// Records that were about to be read are gone.
    #[error("the topic's retention took records while they were read; run it again, it continues")]
    Expired,
    /// Nothing was heard of the brokers for a long time.
    #[error("the brokers stopped answering; run it again, it continues")]
    Silent,
    /// A value in clear in a sanitized topic.
    #[error(
        "record {place}: {field} stands in clear where a token is expected. Anyone who writes to \
        the topic may have put it there; --seal-clear seals such values too"
    )]
    Clear {
        /// The record.
        place: RecordPlace,
        /// The field.
        field: String,
    },
    /// A hashed record key cannot move.
    #[error(
        "record {place}: its key is a hash under index root {found}, and the document pins root \
        {pinned}. A hash cannot be opened: keep root {found}, or produce the topic again from the \
        raw one"
    )]
    KeyRoot {
        /// The record.
        place: RecordPlace,
        /// The version of the key's root.
        found: u32,
        /// The version that the document pins.
        pinned: u32,
    },
    /// The other topic does not take a record of this size.
    #[error(
        "record {place}: is too large for topic {topic}; raise max.message.bytes, run it again"
    )]
    TooLarge {
        /// The record.
        place: RecordPlace,
        /// The topic.
        topic: String,
    },
    /// The topic that is read grew meanwhile.
    #[error("record {place}: topic {topic} has no such partition; add it, run it again")]
    NoPartition {
        /// The record.
        place: RecordPlace,
        /// The topic.
        topic: String,
    },
    /// The other topic does not take a record of this time.
    #[error(
        "record {place}: its timestamp is further ahead than topic {topic} allows; raise \
        message.timestamp.after.max.ms, run it again"
    )]
    TooFarAhead {
        /// The record.
        place: RecordPlace,
        /// The topic.
        topic: String,
    },
    /// The other topic takes no record without a key.
    #[error(
        "record {place}: has no key, and topic {topic} is compacted; rotate into a topic with the \
        cleanup.policy of the one that is read"
    )]
    NullKey {
        /// The record.
        place: RecordPlace,
        /// The topic.
        topic: String,
    },
    /// librdkafka is out of memory.
    #[error("out of memory")]
    OutOfMemory,
}

impl From<ReadError> for TopicRotationError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Expired => Self::Expired,
            ReadError::Silent => Self::Silent,
            ReadError::Kafka(error) => Self::Kafka(error),
        }
    }
}

impl TopicRotationError {
    /// Whether the caller named something that does not fit.
    #[must_use]
    pub fn is_usage(&self) -> bool {
        matches!(
            self,
            Self::NoTopic(_)
                | Self::SameTopic(_)
                | Self::NotEmpty(_)
                | Self::Partitions { .. }
                | Self::Target { .. }
        )
    }
}
