//! What can go wrong with a transaction, and the few things that can be done about it.

use rdkafka::types::RDKafkaErrorCode as Code;

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// librdkafka refuses a property; never its value.
    #[error("{0} is refused")]
    Property(String),
    /// It refuses them together: its words, which hold no value.
    #[error("{0}")]
    Settings(String),
    /// No thread for its calls.
    #[error("a thread cannot be started ({0})")]
    Thread(std::io::Error),
}

/// An error of a transactional call, as librdkafka tells it. No message: texts of brokers stay out
/// of our logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code}")]
pub struct TxnError {
    /// The code.
    pub code: Code,
    /// The producer cannot be used again.
    pub fatal: bool,
    /// The transaction can be aborted, and the producer lives on.
    pub abortable: bool,
    /// The same call could be made again.
    pub retriable: bool,
}

/// What an error asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Abort, rewind: the group changed or a record was not delivered in time.
    Abortable,
    /// A record that the broker refuses is among the records: abort, find it.
    Refused,
    /// Abort and wait: a permission or a topic is missing.
    Blocked(Obstacle),
    /// Another producer has this transactional id, or the coordinator ended our transaction.
    Fenced,
    /// Nobody knows what was done: a new producer, fence, read the committed offsets.
    OutcomeUnknown,
}

impl Fault {
    /// Whether a permission is missing.
    #[must_use]
    pub fn is_authorization(self) -> bool {
        matches!(self, Self::Blocked(obstacle) if obstacle.is_authorization())
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Abortable => "the group changed, or records were not delivered in time",
            Self::Refused => "the broker refuses a record",
            Self::Blocked(obstacle) => obstacle.remedy(),
            Self::Fenced => "another producer has the transactional id",
            Self::OutcomeUnknown => "the brokers did not say what became of the transaction",
        })
    }
}

/// What an operator must grant or create before a transaction can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Obstacle {
    /// A topic may not be written.
    TopicDenied,
    /// The group may not be read.
    GroupDenied,
    /// The transactional id may not be used.
    TransactionalIdDenied,
    /// The cluster refuses idempotent writes.
    ClusterDenied,
    /// A topic that is written, or one of its partitions, does not exist.
    TopicMissing,
}

impl Obstacle {
    /// What is missing and what to do.
    #[must_use]
    pub fn remedy(self) -> &'static str {
        match self {
            Self::TopicDenied => {
                "not authorized for a topic: grant Write on the sanitized and dead-letter topics"
            }
            Self::GroupDenied => "not authorized for the group: grant Read on it",
            Self::TransactionalIdDenied => {
                "not authorized for the transactional id: grant Write and Describe on it"
            }
            Self::ClusterDenied => {
                "not authorized for the cluster: grant IdempotentWrite on it, or Write on the \
                topics"
            }
            Self::TopicMissing => {
                "a sanitized or dead-letter topic is missing, or has fewer partitions than its raw \
                topic: create or grow it"
            }
        }
    }

    /// Whether it is a permission.
    #[must_use]
    pub fn is_authorization(self) -> bool {
        self != Self::TopicMissing
    }
}

impl TxnError {
    /// What can be done about it, by librdkafka's code and flags.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match of_code(self.code) {
            Some(fault) => fault,
            None if self.abortable && !self.fatal => Fault::Abortable,
            // Retriable included: a call that may have reached the broker leaves the outcome
            // unknown.
            None => Fault::OutcomeUnknown,
        }
    }

    /// Why a new producer does not come through, and what to do.
    #[must_use]
    pub fn init_remedy(&self) -> &'static str {
        match (self.fault(), self.code) {
            (Fault::Blocked(obstacle), _) => obstacle.remedy(),
            (_, Code::InvalidTransactionTimeout) => {
                "the broker refuses the transaction timeout: lower transaction.timeout.ms in \
                [kafka.producer] to the broker's transaction.max.timeout.ms"
            }
            (Fault::Fenced, _) => {
                "another process takes the transactional id: give each its own kafka.instance"
            }
            (
                _,
                Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::MessageTimedOut
                | Code::AllBrokersDown
                | Code::BrokerTransportFailure,
            ) => {
                "the transaction coordinator does not answer: look at the brokers, and whether the \
                topic __transaction_state has its replicas"
            }
            _ => {
                "the transaction coordinator refuses a producer: look at the brokers' logs and the \
                topic __transaction_state"
            }
        }
    }
}

/// The fault of a record that was not delivered.
#[must_use]
pub fn of_delivery(code: Code) -> Fault {
    match of_code(code) {
        Some(fault) => fault,
        // Timed out, purged, broker gone: the transaction aborts and its records come again.
        None => Fault::Abortable,
    }
}

fn of_code(code: Code) -> Option<Fault> {
    match code {
        Code::MessageSizeTooLarge
        | Code::InvalidMessageSize
        | Code::MessageBatchTooLarge
        | Code::InvalidTimestamp
        | Code::InvalidRecord => Some(Fault::Refused),
        Code::TopicAuthorizationFailed => Some(Fault::Blocked(Obstacle::TopicDenied)),
        Code::GroupAuthorizationFailed => Some(Fault::Blocked(Obstacle::GroupDenied)),
        Code::TransactionalIdAuthorizationFailed => {
            Some(Fault::Blocked(Obstacle::TransactionalIdDenied))
        }
        Code::ClusterAuthorizationFailed => Some(Fault::Blocked(Obstacle::ClusterDenied)),
        Code::UnknownTopic | Code::UnknownPartition | Code::UnknownTopicOrPartition => {
            Some(Fault::Blocked(Obstacle::TopicMissing))
        }
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Some(Fault::Fenced),
        Code::RebalanceInProgress | Code::IllegalGeneration | Code::UnknownMemberId => {
            Some(Fault::Abortable)
        }
        _ => None,
    }
}

/// Whether Kafka refuses this because a permission is missing.
#[must_use]
pub fn is_authorization(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::TransactionalIdAuthorizationFailed
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: Code, fatal: bool, abortable: bool, retriable: bool) -> TxnError {
        TxnError { code, fatal, abortable, retriable }
    }

    #[test]
    fn every_row_of_the_table() {
        for (given, fault) in [
            (error(Code::RebalanceInProgress, false, true, false), Fault::Abortable),
            (error(Code::IllegalGeneration, false, true, false), Fault::Abortable),
            (error(Code::UnknownMemberId, false, true, false), Fault::Abortable),
            (error(Code::MessageTimedOut, false, true, false), Fault::Abortable),
            (error(Code::MessageSizeTooLarge, false, true, false), Fault::Refused),
            (error(Code::InvalidTimestamp, false, true, false), Fault::Refused),
            (error(Code::InvalidRecord, false, true, false), Fault::Refused),
            (
                error(Code::GroupAuthorizationFailed, false, true, false),
                Fault::Blocked(Obstacle::GroupDenied),
            ),
            (
                error(Code::TopicAuthorizationFailed, true, false, false),
                Fault::Blocked(Obstacle::TopicDenied),
            ),
            (error(Code::Fenced, true, false, false), Fault::Fenced),
            (error(Code::InvalidProducerEpoch, false, true, false), Fault::Fenced),
            (error(Code::InvalidTransactionalState, true, false, false), Fault::OutcomeUnknown),
            (error(Code::OperationTimedOut, false, false, true), Fault::OutcomeUnknown),
            (error(Code::Inconsistent, true, true, false), Fault::OutcomeUnknown),
            (error(Code::State, false, false, false), Fault::OutcomeUnknown),
        ] {
            assert_eq!(given.fault(), fault, "{given:?}");
        }
    }

    #[test]
    fn what_is_not_delivered_comes_again_unless_it_is_refused() {
        assert_eq!(of_delivery(Code::MessageTimedOut), Fault::Abortable);
        assert_eq!(of_delivery(Code::PurgeQueue), Fault::Abortable);
        assert_eq!(of_delivery(Code::MessageSizeTooLarge), Fault::Refused);
        assert_eq!(of_delivery(Code::Fenced), Fault::Fenced);
    }
}
