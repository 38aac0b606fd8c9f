//! What can go wrong, for two readers: a stable code for machines, a place and a remedy for people.
//! No payload, ever.

use std::fmt;
use std::sync::Arc;

/// Why a record was not protected. The name ([`RejectCode::as_str`]) is an API: it stands in dead
/// letters and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RejectCode {
    /// Not one JSON text (RFC 8259).
    NotJson,
    /// Starts with a schema registry's magic byte.
    RegistryFramed,
    /// The bytes are not UTF-8.
    InvalidUtf8,
    /// More than 128 open containers.
    TooDeep,
    /// Longer than the configured limit.
    TooLarge,
    /// A name twice in one object on the way to a selected node, or in what a filter reads.
    DuplicateMember,
    /// The input already has a member an index would be written to.
    ReservedMember,
    /// A required field is absent or null.
    MissingRequired,
    /// The schema has a `subject` and the record has none (or one that is no scalar text).
    MissingSubject,
    /// The record is of a data subject who was erased and may not come back.
    ErasedSubject,
    /// A field's value is of another type than declared, or does not fit its `protect`.
    WrongType,
    /// No schema claims the record.
    NoSchema,
    /// `undeclared: reject` met an undeclared member.
    UndeclaredMember,
    /// `residue: reject` found a protected value in clear elsewhere.
    Residue,
    /// A deterministic or key value outside its rules.
    UnsupportedValue,
    /// The protected record is longer than the configured limit.
    OutputTooLarge,
    /// The record's budget of work, which grows with its size, is spent.
    TooComplex,
    /// A filter compared, measured or counted what the schema protects in this record.
    FilterReadsProtected,
    /// The engine failed on the record.
    Internal,
    /// The value is a Kafka Connect envelope (`schemas.enable=true`) and the schema document does
    /// not say so; or it says so, and the value is none, or its schema part cannot be mended. Or the
    /// document writes envelopes, and the value is of other types than it says.
    ConnectEnvelope,
}

impl RejectCode {
    /// Every code, in the order of the documentation.
    pub const ALL: [Self; 20] = [
        Self::NotJson,
        Self::RegistryFramed,
        Self::InvalidUtf8,
        Self::TooDeep,
        Self::TooLarge,
        Self::DuplicateMember,
        Self::ReservedMember,
        Self::MissingRequired,
        Self::MissingSubject,
        Self::ErasedSubject,
        Self::WrongType,
        Self::NoSchema,
        Self::UndeclaredMember,
        Self::Residue,
        Self::UnsupportedValue,
        Self::OutputTooLarge,
        Self::TooComplex,
        Self::FilterReadsProtected,
        Self::Internal,
        Self::ConnectEnvelope,
    ];

    /// The stable name, as in dead letters and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotJson => "not_json",
            Self::RegistryFramed => "registry_framed",
            Self::InvalidUtf8 => "invalid_utf8",
            Self::TooDeep => "too_deep",
            Self::TooLarge => "too_large",
            Self::DuplicateMember => "duplicate_member",
            Self::ReservedMember => "reserved_member",
            Self::MissingRequired => "missing_required",
            Self::MissingSubject => "missing_subject",
            Self::ErasedSubject => "erased_subject",
            Self::WrongType => "wrong_type",
            Self::NoSchema => "no_schema",
            Self::UndeclaredMember => "undeclared_member",
            Self::Residue => "residue",
            Self::UnsupportedValue => "unsupported_value",
            Self::OutputTooLarge => "output_too_large",
            Self::TooComplex => "too_complex",
            Self::FilterReadsProtected => "filter_reads_protected",
            Self::Internal => "internal",
            Self::ConnectEnvelope => "connect_envelope",
        }
    }
}

impl fmt::Display for RejectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record that was rejected: the code, the schema that claimed it (if one did) and the place.
/// Carries no payload: the place is a field id or a byte offset, never a member name or a value of
/// the event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub code: RejectCode,
    /// `name/version` of the schema that claimed the record; `None` before one did.
    pub schema: Option<Arc<str>>,
    /// Id of the schema's field it happened at, where there is one (`email`, `#key`,
    /// `#header:x-user`).
    pub field: Option<Arc<str>>,
    /// Byte offset into the value, where there is one.
    pub offset: Option<usize>,
}

impl Reject {
    /// A reject with a code only.
    #[must_use]
    pub fn new(code: RejectCode) -> Self {
        Self { code, schema: None, field: None, offset: None }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code.as_str())?;
        if let Some(field) = &self.field {
            write!(f, " at field {field}")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        Ok(())
    }
}

/// Why a token does not open (docs/formats.md). Tests happen in this order; the class is for
/// authorised callers only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum OpenError {
    /// Not a token: prefix, alphabet or length.
    #[error("malformed")]
    Malformed,
    /// Suite or flags this version does not know.
    #[error("unsupported")]
    Unsupported,
    /// A token of another field.
    #[error("field_mismatch")]
    FieldMismatch,
    /// No key of that id here.
    #[error("key_unavailable")]
    KeyUnavailable,
    /// The key was destroyed on purpose.
    #[error("erased")]
    Erased,
    /// Wrong key kind, tenant or check value, failed authentication, padding or frame.
    #[error("corrupt")]
    Corrupt,
    /// The token is bound to other values than those given.
    #[error("binding")]
    Binding,
}

/// One fault of a schema document: where it is and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// JSON pointer (RFC 6901) of the cause; `""` is the whole document.
    pub pointer: String,
    /// What is wrong and what to write instead, one sentence, no value longer than 64 characters
    /// quoted.
    pub message: String,
    /// An error refuses the document, a warning does not.
    pub severity: Severity,
}

/// How bad a [`Fault`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Severity {
    /// The document is refused.
    Error,
    /// The document compiles.
    Warning,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = if self.pointer.is_empty() { "(document)" } else { &self.pointer };
        write!(f, "{place}: {}", self.message)
    }
}
