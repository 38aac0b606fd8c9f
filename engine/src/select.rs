//! Selection: the JSONPaths of a schema as one automaton over the node table.
//!
//! jsonpath-rust parses the paths (RFC 9535), after the grammar was checked to the letter; names,
//! indexes, slices, wildcards, `..` and filters run here. What is selected is a set in document
//! order. Two tests hold it to the RFC: one against the RFC's own examples and a plain evaluator
//! written from its text, one against jsonpath-rust.

mod cover;
mod decimal;
mod dialect;
mod equal;
mod error;
mod filter;
mod grammar;
mod judge;
mod model;
mod names;
mod parent;
mod parse;
mod pattern;
mod places;
mod program;
mod query;
mod reads;
mod selection;
mod show;
mod walk;

pub use error::{PathError, PatternError};
pub use model::{Selector, Step};
pub(crate) use parent::Child;
pub use parent::Last;
pub use parse::parse;
pub use places::may_reach;
pub use program::Program;
pub use query::{Query, Target};
pub use selection::{Hit, SelectError, Selection};
pub(crate) use show::path as path_of;
