//! Rows of a PostgreSQL table, read in the order of their key and rewritten a batch at a time,
//! beside others who write there.
//!
//! ```text
//!  catalogue ──► Table ──► Layout: which columns are read, written, compared
//!                             │
//!     reader ── page of rows ─┴─► Work: what stands in their place ── changes ──► writer
//!                                                                  one UPDATE a batch, compare and swap
//! ```
//!
//! Reader and writer have a connection and a thread each, so that the database works while values
//! are opened and sealed. Nothing is kept between runs: what is written needs no writing again, so
//! an interrupted run is run again. No value stands in a statement's text or in an error.

mod catalogue;
mod connection;
mod error;
mod layout;
mod walk;

pub use catalogue::{ColumnFacts, Table, TableName, quoted};
pub use connection::Connection;
pub use error::RowsError;
pub use layout::{Compare, Layout, Row};
pub use walk::{Change, WalkError, WalkOptions, Walked, Work, walk};
