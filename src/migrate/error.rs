//! What stops a migration. No message has a value of a row.

use crate::keys::KeyFault;
use crate::rows::{RowsError, WalkError};

/// What stops a migration.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// The table.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// A key service of the old form.
    #[error("the key service of the old form: {0}")]
    Service(#[from] veilstream_keys::provider::ProviderError),
    /// Keys are not available.
    #[error("keys: {0}")]
    Keys(#[from] KeyFault),
    /// The document's field is none that tokens of ours stand for.
    #[error("{field}: {what}")]
    Field {
        /// `<schema>.<id>`.
        field: String,
        /// Why, and what to do.
        what: String,
    },
    /// The old form is one of a list.
    #[error("{table}.{column} is a list; a migration takes single values: give each a row")]
    List {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// The engine wrote something else than was asked for.
    #[error("the engine wrote a record without the field; this is a fault of veilstream")]
    Engine,
    /// No random bytes.
    #[error("the system has no random bytes")]
    Random,
}

impl From<WalkError<Self>> for MigrateError {
    fn from(error: WalkError<Self>) -> Self {
        match error {
            WalkError::Rows(error) => error.into(),
            WalkError::Work(error) => error,
        }
    }
}
