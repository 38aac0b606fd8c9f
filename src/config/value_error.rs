//! Why the value of a setting is refused.

/// Why the value of a setting is refused. The operator mends it; the text says how and never quotes
/// the value, which may be a secret. It continues a sentence that begins with the setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Nothing stands there.
    #[error("is empty; write a value or leave the key out")]
    Empty,
    /// It has another form than the setting's.
    #[error("is {not}; write {instead}")]
    Form {
        /// What it is not: `no topic name`.
        not: &'static str,
        /// The form, with an example.
        instead: &'static str,
    },
    /// A number out of bounds.
    #[error("is not allowed; write a number from {least} to {most}")]
    Number {
        /// The smallest that is allowed.
        least: String,
        /// The largest that is allowed.
        most: String,
    },
    /// A value with a unit, out of bounds.
    #[error("is out of range; write {least} to {most}")]
    Range {
        /// The smallest that is allowed, with its unit.
        least: &'static str,
        /// The largest that is allowed, with its unit.
        most: &'static str,
    },
    /// It needs code that was not built in.
    #[error("is not in this program; build it with --features {feature}")]
    Feature {
        /// The Cargo feature.
        feature: &'static str,
    },
}

impl ValueError {
    /// A value that is `not` what the setting holds, and what to write `instead`.
    pub(super) const fn form(not: &'static str, instead: &'static str) -> Self {
        Self::Form { not, instead }
    }
}
