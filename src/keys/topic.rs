//! Key store and erasure ledger in topics of Kafka.

mod error;
mod ledger;
mod single_writer;
mod store;
mod view;

pub use ledger::KafkaLedger;
pub use store::KafkaStore;
