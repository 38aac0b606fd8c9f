//! Faults of a configuration.

use std::fmt;

/// One fault: where it is and what to write instead. Never quotes a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConfigFault {
    /// The file, `.env` or `environment variable NAME`.
    pub place: String,
    /// The key in dotted form (`pipeline.lanes`); empty for a fault of the whole place.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl ConfigFault {
    /// A fault of the whole place.
    pub fn of_place(place: impl Into<String>, message: impl Into<String>) -> Self {
        Self { place: place.into(), key: String::new(), message: message.into() }
    }
}

impl fmt::Display for ConfigFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Every fault of a configuration; never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct Faults(pub Vec<ConfigFault>);
