//! What a lane may do when, without Kafka.

pub mod machine;
pub(super) mod partition;
