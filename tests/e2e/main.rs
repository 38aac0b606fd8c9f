//! End to end on a real Apache Kafka: the built binary, with keys of its own. The reader that
//! judges is `krafka`, which shares no code with librdkafka.
//!
//! `make setup` fetches the broker and the payloads; it runs once for all tests of this binary and
//! ends with it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod access;
mod acls;
mod admin;
#[cfg(all(feature = "serve", feature = "postgres"))]
mod audit_places;
#[cfg(all(feature = "serve", feature = "postgres"))]
#[path = "../support/audit_table.rs"]
mod audit_table;
mod bad_input;
mod blocked;
mod canary;
mod chaos;
#[cfg(feature = "serve")]
#[path = "../support/compose.rs"]
mod compose;
mod connect_worker;
#[cfg(all(feature = "serve", feature = "postgres"))]
mod desk;
mod dlq;
mod exits;
mod feed;
mod held_frame;
mod kafka;
#[path = "../support/key_bytes.rs"]
mod key_bytes;
mod key_service;
mod key_store;
mod keys_on_kafka;
mod lifecycle;
mod memory;
mod observe;
mod offsets;
mod oidc;
mod operator;
mod outage;
#[path = "../../keys/tests/support/ports.rs"]
mod ports;
#[path = "../../keys/tests/support/postgres.rs"]
mod postgres_server;
mod protocols;
mod proxy;
#[path = "../../keys/tests/support/proxy.rs"]
mod proxy_http;
mod racks;
mod reader;
mod readiness;
mod recovery;
mod rotate_topic;
#[cfg(all(feature = "serve", feature = "postgres"))]
#[path = "../support/runbook.rs"]
mod runbook;
mod sandbox;
mod schemas;
mod search;
#[cfg(all(feature = "serve", feature = "postgres"))]
#[path = "../support/serve_process.rs"]
mod serve_process;
#[path = "../../keys/tests/support/servers.rs"]
mod servers;
mod sidecar;
mod sinks;
mod sinks_kills;
#[path = "../support/feed.rs"]
mod stdin;
#[cfg(feature = "serve")]
mod storage_steps;
#[path = "../../keys/tests/support/store_suite.rs"]
mod store_suite;
mod topics;
mod transactional_ids;
mod webhooks;
