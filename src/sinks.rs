//! What sinks must know of sanitized records: their shape, learnt from events, as a connector's
//! schema, a table and a JSON Schema.
//!
//! ```text
//!  events ── protected with keys of the run ── shape ──┬── columns ──┬── Kafka Connect
//!                                                      │             └── PostgreSQL
//!                                                      └── JSON Schema
//! ```

mod columns;
mod connect;
mod error;
mod json_schema;
mod postgres;
mod shape;

pub use columns::{Column, ColumnType, Columns};
pub use connect::{ConnectOptions, connector, envelope};
pub use error::SinkError;
pub use json_schema::json_schema;
pub use postgres::{table, token_form};
pub use shape::{Content, Place, Role, Shape};
