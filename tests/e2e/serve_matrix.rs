//! What `veilstream serve` answers to whom: the built binary against the worked examples, refused
//! credentials and bodies, planted tokens, budgets, honey and kills. Needs no Kafka.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod keys {
    pub(crate) use veilstream::keys::{CredentialSource, KeyFault, now};
}
#[cfg(feature = "postgres")]
#[path = "../support/audit_table.rs"]
mod audit_table;
#[allow(dead_code, reason = "shared with the tests of logins")]
#[path = "serve_instance.rs"]
mod instance;
#[cfg(feature = "postgres")]
#[path = "../../keys/tests/support/ports.rs"]
mod ports;
#[cfg(feature = "postgres")]
#[path = "../../keys/tests/support/postgres.rs"]
mod postgres_server;
#[cfg(feature = "postgres")]
mod serve_matrix_audit;
mod serve_matrix_bodies;
mod serve_matrix_budgets;
mod serve_matrix_denied;
mod serve_matrix_logins;
mod serve_matrix_openapi;
mod serve_matrix_roles;
mod serve_matrix_tokens;
mod serve_matrix_world;
#[allow(dead_code, reason = "shared with the tests of the service")]
#[path = "../../src/serve/testing.rs"]
mod testing;
