//! What can go wrong with dead letters. No payload, ever.

use rdkafka::error::KafkaError;
use veilstream_engine::error::OpenError;
use veilstream_engine::seal::SealError;

use super::read::LetterPlace;
use crate::kafka::error::Fault;
use crate::kafka::reader::ReadError;
use crate::kafka::topics::TopicError;
use crate::kafka::writer::WriterError;
use crate::keys::KeyFault;

/// Why a command ends before its work is done.
#[derive(Debug, thiserror::Error)]
pub enum DeadLetterError {
    /// Kafka does not answer as it should.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// Nothing can be written.
    #[error(transparent)]
    Writer(#[from] WriterError),
    /// Records were not delivered.
    #[error("records were not delivered ({0:?}); run it again")]
    Undelivered(Fault),
    /// Topics cannot be examined.
    #[error("kafka: {0}")]
    Topics(#[from] TopicError),
    /// There is no such topic.
    #[error("topic {0} does not exist")]
    NoTopic(String),
    /// The dead-letter topic has no such partition.
    #[error("the dead-letter topic has no partition {0}")]
    NoPartition(i32),
    /// The topic ends before the place where the last replay ended.
    #[error(
        "partition {partition} of the dead-letter topic ends at {end}, before {committed}, where \
        the last replay ended: the topic was made again or cut; say where to start with --from \
        {partition}:OFFSET"
    )]
    Behind {
        /// The partition.
        partition: i32,
        /// Its end.
        end: i64,
        /// Where the last replay ended.
        committed: i64,
    },
    /// Letters that were about to be read are gone.
    #[error(
        "the retention of the dead-letter topic took letters while they were read; run it again"
    )]
    Expired,
    /// Nothing was heard of the brokers for a long time.
    #[error("the brokers stopped answering; run it again")]
    Silent,
    /// librdkafka is out of memory.
    #[error("out of memory")]
    OutOfMemory,
    /// Nothing stands at that place.
    #[error("there is no dead letter at {0}")]
    Nothing(LetterPlace),
    /// One letter does not do as asked.
    #[error("dead letter {place}: {fault}")]
    Letter {
        /// Where it is in the dead-letter topic.
        place: LetterPlace,
        /// Why.
        fault: LetterFault,
    },
    /// Keys are not available now.
    #[error(transparent)]
    Keys(#[from] KeyFault),
    /// A record that is rejected again cannot be sealed.
    #[error("a dead letter cannot be sealed: {0}")]
    Seal(#[from] SealError),
    /// The writer of the result is gone.
    #[error(transparent)]
    Output(#[from] std::io::Error),
}

impl From<ReadError> for DeadLetterError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Expired => Self::Expired,
            ReadError::Silent => Self::Silent,
            ReadError::Kafka(error) => Self::Kafka(error),
        }
    }
}

/// Why one dead letter does not go. The code ([`LetterFault::as_str`]) is an API: it stands in what
/// `dlq replay` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LetterFault {
    /// The record of the topic is no dead letter of this version.
    #[error("is no dead letter of this version")]
    NotALetter,
    /// Its token does not open: forged, edited, or its key is gone.
    #[error("does not open: {0}")]
    Open(OpenError),
    /// It is a stub, and its record is no longer in the raw topic.
    #[error("is a stub, and its record is no longer in the raw topic")]
    OriginGone,
    /// It is a stub, and another record stands at its origin, or the stub was edited.
    #[error("is a stub, and the record at its origin is another")]
    OriginDiffers,
    /// It is a stub, and its raw topic may not be read.
    #[error("is a stub, and its raw topic may not be read: grant Read on it")]
    OriginDenied,
    /// Nothing stands at the place that was named.
    #[error("is not there")]
    NotThere,
    /// The broker refuses its record and a new dead letter of it too.
    #[error("is refused by the broker")]
    Refused,
    /// The sanitized topic is not there, or may not be seen.
    #[error("its sanitized topic does not exist, or may not be written")]
    NoTopic,
    /// The sanitized topic has fewer partitions than the raw one.
    #[error("its sanitized topic has too few partitions")]
    NoPartition,
}

impl LetterFault {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotALetter => "not_a_dead_letter",
            Self::Open(OpenError::Malformed) => "malformed",
            Self::Open(OpenError::Unsupported) => "unsupported",
            Self::Open(OpenError::FieldMismatch) => "field_mismatch",
            Self::Open(OpenError::KeyUnavailable) => "key_unavailable",
            Self::Open(OpenError::Erased) => "erased",
            Self::Open(OpenError::Corrupt) => "corrupt",
            Self::Open(OpenError::Binding) => "binding",
            Self::OriginGone => "origin_gone",
            Self::OriginDiffers => "origin_differs",
            Self::OriginDenied => "origin_denied",
            Self::NotThere => "not_there",
            Self::Refused => "refused",
            Self::NoTopic => "no_topic",
            Self::NoPartition => "no_partition",
        }
    }
}
