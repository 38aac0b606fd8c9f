//! End to end on a real Apache Kafka: the built binary, with keys of its own. The reader that judges is `krafka`, which shares no code with
//! librdkafka.
//!
//! `make setup` fetches the broker and the payloads; it runs once for all tests of this binary and ends with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod acls;
mod bad_input;
mod chaos;
mod dlq;
mod exits;
mod feed;
mod held_frame;
mod kafka;
mod lifecycle;
mod observe;
mod outage;
mod proxy;
mod reader;
mod sandbox;
mod schemas;
mod sidecar;
mod webhooks;
