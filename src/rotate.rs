//! Rotation at rest: tokens that stand in a PostgreSQL table or in a topic move to the newest keys,
//! and their blind indexes to the newest root.
//!
//! ```text
//!  schema document ── columns ──┐
//!  row ── header of each token ─┴► keys: whose, newest? ── open ── seal, index ──► the same row
//!                                                             │
//!                                     counts by key, form and root; rows that do not open
//! ```
//!
//! Which key is the newest says the key store: a data subject's newest key, the newest version of a
//! shared key, the key of a process that still seals. Nothing that was opened leaves this module.
//! A topic is never written to again: its records go into another one ([`topic`]).

mod cells;
mod columns;
mod counts;
mod keys;
mod report;
mod reseal;
mod table;
pub mod topic;

pub use columns::{Columns, ColumnsError, FieldColumns, Mapping};
pub use counts::{Counts, FieldCounts, KeyGroup};
pub use report::report;
pub use table::{Rotated, RotationError, RotationOptions, rotate};
