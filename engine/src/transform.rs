//! One record in, one protected record out.

use std::sync::Arc;

use crate::error::Reject;
use crate::key::{KeyKind, Scope};

/// What became of a record. `S` is the compiled schema that claimed it.
#[derive(Debug)]
pub enum Outcome<S> {
    /// Protected; the output buffers hold it.
    Protected(Arc<S>),
    /// Not protected and not passed on: dead-letter it.
    Rejected(Reject),
    /// Keys are missing (not minted yet, expired or spent): fetch them for the whole batch and call again.
    NeedKeys(Vec<NeededKey>),
}

/// A key the engine lacks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NeededKey {
    /// What it is for.
    pub kind: KeyKind,
    /// What it covers.
    pub scope: Scope,
}
