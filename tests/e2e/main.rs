//! End to end on a real Apache Kafka. The reader that judges is `krafka`, which shares no code with librdkafka.
//!
//! `make setup` fetches the broker and the payloads; it runs once for all tests of this binary and ends with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod chaos;
mod kafka;
mod reader;
mod sidecar;
mod webhooks;
