//! What is stored in PostgreSQL tables: rows read and rewritten beside writers.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests end where they fail, and say with which seed"
)]

mod desk;
#[path = "../support/feed.rs"]
mod feed;
mod migrate;
#[path = "../../keys/tests/support/ports.rs"]
mod ports;
#[path = "../../keys/tests/support/postgres.rs"]
mod postgres_server;
mod rotate;
mod rows;
#[path = "../../keys/tests/support/servers.rs"]
mod servers;
mod writers;
