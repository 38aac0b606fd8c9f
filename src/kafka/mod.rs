//! The Kafka client: librdkafka's handles, settings and errors. What the pipeline does with them stands in [`crate::pipeline`].

mod calls;
pub mod error;
pub(crate) mod ffi;
pub(crate) mod producer;
pub mod settings;
pub mod topics;
