//! The Kafka client: librdkafka's handles, settings and errors. What the pipeline does with them
//! stands in [`crate::pipeline`].

pub mod access;
mod calls;
pub(crate) mod client;
pub mod error;
pub(crate) mod ffi;
pub(crate) mod producer;
pub(crate) mod reader;
pub mod settings;
pub mod topics;
pub mod writer;
