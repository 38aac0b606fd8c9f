//! Columns of older encryption, of hashes or in clear become tokens and blind indexes.
//!
//! ```text
//!  rows ── Forms: which form is it ── opened ── Target: token and index ── rows, compared by version
//!                    │                                  │
//!                    └── findings, rows that stay       └── a sample is read again and opened
//! ```
//!
//! A table is walked through until a walk finds nothing more to write. The last walk's counts are
//! what the column holds. Nothing is kept between runs: what is a token is done.

mod check;
mod error;
mod forms;
mod legacy;
mod passes;
mod services;
mod target;
mod work;

pub use check::{CheckOutcome, validate};
pub use error::MigrateError;
pub use forms::{Form, Forms, OldKeys, Padding};
pub use passes::{Migrated, MigratedColumn, MigrationOptions, migrate};
pub use services::Services;
pub use target::{Target, TargetColumns};
pub use work::{Counts, Stays};
