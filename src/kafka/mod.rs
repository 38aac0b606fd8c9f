//! The Kafka client: librdkafka's handles, settings and errors. What the pipeline does with them stands in [`crate::pipeline`].

pub mod dead_letter;
pub mod error;
pub(crate) mod ffi;
pub mod letters;
pub(crate) mod producer;
pub mod settings;
pub mod topics;
