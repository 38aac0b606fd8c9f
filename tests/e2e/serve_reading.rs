//! What `veilstream serve` answers beyond single requests: the built binary, with keys and a policy
//! of its own. Needs no Kafka, so it is a binary of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod keys {
    pub(crate) use veilstream::keys::{CredentialSource, KeyFault, now};
}
#[path = "serve_audit.rs"]
mod audit;
#[path = "serve_canary.rs"]
mod canary;
#[path = "serve_client.rs"]
mod client;
#[path = "../../reading/tests/support/disk.rs"]
mod disk;
#[path = "../support/feed.rs"]
mod feed;
#[path = "serve_honey.rs"]
mod honey;
#[allow(dead_code, reason = "shared with the tests of the matrix")]
#[path = "serve_instance.rs"]
mod instance;
#[path = "serve_interop.rs"]
mod interop;
#[path = "../support/key_bytes.rs"]
mod key_bytes;
#[cfg(all(feature = "postgres", feature = "vault"))]
#[path = "serve_key_outage.rs"]
mod key_outage;
#[path = "serve_key_states.rs"]
mod key_states;
#[path = "../../keys/tests/support/ports.rs"]
mod ports;
#[path = "../../keys/tests/support/postgres.rs"]
mod postgres_server;
#[path = "../../keys/tests/support/proxy.rs"]
mod proxy_http;
#[path = "serve_reload.rs"]
mod reload;
#[path = "../support/runbook.rs"]
mod runbook;
#[path = "serve_seal.rs"]
mod seal;
#[path = "serve_search_only.rs"]
mod search_only;
#[path = "../../keys/tests/support/servers.rs"]
mod servers;
#[path = "serve_stream.rs"]
mod stream;
#[allow(dead_code, reason = "shared with the tests of the service")]
#[path = "../../src/serve/testing.rs"]
mod testing;
