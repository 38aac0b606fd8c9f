//! What came of protected places.

use crate::error::OpenError;

/// What became of one protected place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Opened.
    Revealed,
    /// Opened, and shown under the field's mask.
    Masked,
    /// Opened, and withheld: a mask is of strings, and this is none.
    NotText,
    /// Withheld before anything was looked at.
    Withheld,
    /// Not asked for.
    Skipped,
    /// No token stands there: null, or protected without a way back.
    NoToken,
    /// A value in clear stands where only a token can.
    Clear,
    /// A token that does not open.
    Failed(OpenError),
    /// A honey token: raise the alarm; the caller learns `denied`.
    Honey,
}

impl Status {
    /// The name in `--status` output: what the caller may know.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Revealed => "revealed",
            Self::Masked => "masked",
            Self::NotText | Self::Withheld | Self::Honey => "denied",
            Self::Skipped => "skipped",
            Self::NoToken => "no_token",
            Self::Clear => "clear",
            Self::Failed(OpenError::Malformed) => "malformed",
            Self::Failed(OpenError::Unsupported) => "unsupported",
            Self::Failed(OpenError::FieldMismatch) => "field_mismatch",
            Self::Failed(OpenError::KeyUnavailable) => "key_unavailable",
            Self::Failed(OpenError::Erased) => "erased",
            Self::Failed(OpenError::Corrupt) => "corrupt",
            Self::Failed(OpenError::Binding) => "binding",
        }
    }
}

/// What became of each protected place of a record.
#[derive(Debug, Default)]
pub struct Report {
    /// (field index in the schema, what became of it), in document order.
    pub fields: Vec<(usize, Status)>,
    /// Tokens at places the schema does not declare; they were left.
    pub unexpected_tokens: u32,
    /// Where payloads of honey tokens start in the output, in order. Only those who seal them again
    /// get them ([`Revealer::open_to_seal`](super::Revealer::open_to_seal)).
    pub honey: Vec<usize>,
}
