//! Selection: the JSONPaths of a schema as one automaton over the node table.
//!
//! jsonpath-rust parses the paths (RFC 9535) and judges filters; names, indexes, slices, wildcards and `..` run here. What is selected is what
//! jsonpath-rust selects, as a set in document order; a test compares the two over a matrix of paths and documents.

mod cover;
mod filter;
mod parent;
mod places;
mod program;
mod query;
mod reads;
mod selection;
mod show;
mod walk;

pub(crate) use parent::Child;
pub use parent::Last;
pub use places::may_reach;
pub use program::Program;
pub use query::{Query, Step, Target, parse};
pub use selection::{DuplicateMember, Hit, Selection};
pub(crate) use show::path as path_of;
