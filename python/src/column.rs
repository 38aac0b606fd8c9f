//! Columns: whole arrays opened, sealed, searched for or moved to the newest key, a batch at a time.

mod build;
mod calls;
mod open;
mod seal;
mod text;

pub(crate) use build::{BuiltColumn, TextBuilder};
pub(crate) use calls::{ColumnCall, GivenScalars, append_text, row_scalars};
pub(crate) use open::{RowScalars, Taken, Told};
pub(crate) use text::Texts;

use pyo3::PyErr;

use crate::fault::VeilFault;

/// What is wrong with a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ColumnFault {
    #[error("a column is not well formed: its offsets, lengths or UTF-8 are not right")]
    Malformed,
    #[error("a column was handed over before and is gone; give it again")]
    Released,
    #[error("a column has strings, integers, floats or booleans; this one does not")]
    Type,
    #[error("the producer of a column failed while it was read")]
    Producer,
    #[error("tokens are a column of strings; this one is not")]
    NotText,
    #[error("a column of subjects or bound values has strings or integers; this one does not")]
    NotScalars,
    #[error("a column to protect has strings, integers, floats or booleans; this one does not")]
    NotValues,
    #[error("columns of one call must have the same number of rows")]
    Lengths,
    #[error("a compound index has no column; its tags come with the sidecar's records")]
    Compound,
}

impl ColumnFault {
    /// The Python exception.
    pub(crate) fn into_py(self) -> PyErr {
        VeilFault::Column(self).into()
    }
}
