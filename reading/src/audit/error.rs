//! Why a line is not in the audit log.

use std::io;
use std::path::{Path, PathBuf};

use super::line::LineFault;

/// Why a line is not in the audit log. What it was to tell of must not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// The log cannot be written now. The next attempt may succeed: nobody has to start anything.
    #[error("the audit log {place} is unavailable: {message}; without it nothing is opened")]
    Unavailable {
        /// Which file.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// The caller's entry is no line. The caller has to change it.
    #[error("an audit line {0}")]
    Line(#[from] LineFault),
    /// The log was stopped.
    #[error("the audit log is stopped: this process ends")]
    Stopped,
    /// A file of the log cannot be read.
    #[error("{} cannot be read: {message}", place.display())]
    Read {
        /// Which file.
        place: PathBuf,
        /// What is wrong.
        message: String,
    },
}

impl AuditError {
    pub(super) fn unavailable(place: &Path, message: impl ToString) -> Self {
        Self::Unavailable { place: place.display().to_string(), message: message.to_string() }
    }

    #[expect(clippy::needless_pass_by_value, reason = "for map_err")]
    pub(super) fn read(place: &Path, error: io::Error) -> Self {
        Self::Read { place: place.to_owned(), message: error.to_string() }
    }
}
