//! The Kafka client: librdkafka's handles, settings and errors. What the pipeline does with them stands in [`crate::pipeline`].

pub mod access;
pub(crate) mod client;
pub mod dead_letter;
pub mod error;
pub(crate) mod ffi;
mod key_ledger;
mod key_store;
pub mod letters;
pub mod preflight;
pub(crate) mod producer;
pub mod settings;
mod single_writer;

pub use key_ledger::KafkaLedger;
pub use key_store::KafkaStore;
