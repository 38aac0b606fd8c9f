//! Index members of a document: their names, the names that are taken, and the document without
//! them.
//!
//! Compile, transform and reveal read the rules here, so that reveal removes exactly what transform
//! wrote.

mod name;
mod siblings;
mod strip;
mod taken;

pub(crate) use name::{PREVIOUS, RootVersion, SUFFIX, has_members, write_name};
pub(crate) use siblings::{FEW, Siblings};
pub(crate) use strip::Strip;
pub(crate) use taken::TakenNames;
