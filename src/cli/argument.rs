//! Why an argument of a command is refused.

use crate::config::ValueError;

/// Why an argument is refused: what to write instead. clap names the argument and quotes it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ArgumentError {
    /// It has another form.
    #[error("write {0}")]
    Form(&'static str),
    /// It is none of a closed list.
    #[cfg(feature = "serve")]
    #[error("write one of {}", .0.join(", "))]
    Name(Vec<&'static str>),
    /// It is a value of the configuration too, and refused there.
    #[error("it {0}")]
    Value(#[from] ValueError),
}
