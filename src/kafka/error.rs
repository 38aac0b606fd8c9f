//! What can go wrong with a transaction, and the few things that can be done about it.

use rdkafka::types::RDKafkaErrorCode as Code;

/// An error of a transactional call, as librdkafka tells it. No message: texts of brokers stay out of our logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{code}")]
pub struct TxnError {
    /// The code.
    pub code: Code,
    /// The producer is of no more use.
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
    Blocked(Code),
    /// Another producer has this transactional id, or the coordinator ended our transaction.
    Fenced,
    /// Nobody knows what was done: a new producer, fence, read the committed offsets.
    Doubt,
}

impl TxnError {
    /// The table of docs/design.md.
    #[must_use]
    pub fn fault(&self) -> Fault {
        match of_code(self.code) {
            Some(fault) => fault,
            None if self.abortable && !self.fatal => Fault::Abortable,
            // Retriable included: a call that may have reached the broker is a doubt.
            None => Fault::Doubt,
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
        Code::MessageSizeTooLarge | Code::InvalidMessageSize | Code::MessageBatchTooLarge | Code::InvalidTimestamp | Code::InvalidRecord => {
            Some(Fault::Refused)
        }
        Code::TopicAuthorizationFailed
        | Code::GroupAuthorizationFailed
        | Code::ClusterAuthorizationFailed
        | Code::TransactionalIdAuthorizationFailed
        | Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition => Some(Fault::Blocked(code)),
        Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Some(Fault::Fenced),
        Code::RebalanceInProgress | Code::IllegalGeneration | Code::UnknownMemberId => Some(Fault::Abortable),
        _ => None,
    }
}

/// Whether Kafka refuses this for want of a permission.
#[must_use]
pub fn is_authorization(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed | Code::GroupAuthorizationFailed | Code::ClusterAuthorizationFailed | Code::TransactionalIdAuthorizationFailed
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
            (error(Code::GroupAuthorizationFailed, false, true, false), Fault::Blocked(Code::GroupAuthorizationFailed)),
            (error(Code::TopicAuthorizationFailed, true, false, false), Fault::Blocked(Code::TopicAuthorizationFailed)),
            (error(Code::Fenced, true, false, false), Fault::Fenced),
            (error(Code::InvalidProducerEpoch, false, true, false), Fault::Fenced),
            (error(Code::InvalidTransactionalState, true, false, false), Fault::Doubt),
            (error(Code::OperationTimedOut, false, false, true), Fault::Doubt),
            (error(Code::Inconsistent, true, true, false), Fault::Doubt),
            (error(Code::State, false, false, false), Fault::Doubt),
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
