//! What can be wrong with a topic of keys or erasures; each text follows the topic's place and says
//! what to do.

use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use crate::kafka::error::{ClientError, Obstacle, TxnError};
use crate::kafka::topics::TopicError;

#[derive(Debug, thiserror::Error)]
pub(super) enum KeyTopicError {
    #[error("is not there; make it with `veilstream keys init`, or correct the name")]
    Missing,
    #[error("is there already; nothing was changed")]
    Exists,
    #[error("holds something else; name a topic of its own")]
    Foreign,
    #[error("is no key store; make it with `veilstream keys init`, or correct the name")]
    NoStore,
    #[error(
        "is of an earlier build, which was never released, and is not read; make a new one with \
        `veilstream keys init`"
    )]
    Earlier,
    #[error(
        "holds lines already, which a topic cannot set aside: name another topic as keys.ledger, \
        and run it again; this one is kept as it is"
    )]
    NotEmpty,
    #[error(transparent)]
    Topic(TopicError),
    #[error("its settings cannot be read; grant DescribeConfigs")]
    Unreadable,
    #[error("has {0} partitions; it must have one, because its records have one order")]
    Partitions(i32),
    /// The command that mends it follows, here and below.
    #[error("could lose what is in it with one broker; set: {0}")]
    Unreplicated(String),
    #[error("is not compacted, or would lose keys by age; set: {0}")]
    Uncompacted(String),
    #[error("may keep erased keys for ever; set 7 days at most: {0}")]
    CompactedLate(String),
    #[error("would forget erasures; set: {0}")]
    Forgets(String),
    #[error("is not the topic that it was; was it deleted and made again?")]
    Replaced,
    #[error("no broker answers ({0})")]
    NoAnswer(Code),
    #[error("{}; grant Read and Write on the topic, and Write on the transactional id {id}", .obstacle.remedy())]
    Denied { obstacle: Obstacle, id: String },
    #[error("the broker refuses a record; look at the topic's max.message.bytes")]
    RecordRefused,
    #[error("not written: other writers were quicker every time, or no broker answers")]
    NotWritten,
    #[error("no turn to write ({0})")]
    NoTurn(TxnError),
    #[error("a damaged record came and went; try again")]
    Damaged,
    #[error("kafka settings: {0}")]
    Settings(KafkaError),
    /// No producer can be made.
    #[error("kafka settings: {0}")]
    Producer(ClientError),
}

impl From<TopicError> for KeyTopicError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Missing { .. } => Self::Missing,
            error => Self::Topic(error),
        }
    }
}
