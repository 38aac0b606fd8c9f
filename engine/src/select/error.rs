//! Why a text is no path that the engine takes.

/// Longest path text, in bytes.
pub(super) const MAX_PATH: usize = 1024;
/// Most brackets and parentheses open at once: jsonpath-rust's parser tries every level in several
/// ways, so that twenty take minutes.
pub(super) const MAX_NESTING: usize = 10;
/// Most ways through the unions of one path.
pub(super) const MAX_FORKS: usize = 256;

/// Why a text is no path that the engine takes, and what to write instead. Each begins with a verb:
/// its subject is the path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Its text is too long.
    #[error("is longer than {MAX_PATH} bytes; shorten it")]
    Long,
    /// Its filters are too deep.
    #[error(
        "has more than {MAX_NESTING} brackets and parentheses inside one another; write a flatter \
        filter"
    )]
    Nested,
    /// It is outside the grammar.
    #[error("is not a JSONPath (RFC 9535): in column {column} it {offence}")]
    Grammar {
        /// Where, in characters from 1.
        column: usize,
        /// What stands there, and what to write instead.
        offence: String,
    },
    /// jsonpath-rust does not take it.
    #[error("cannot be read; write integers up to 9007199254740991, larger ones like 1e19")]
    Unread,
    /// The two readers of a path disagree. That is a fault of this program, but the path is refused
    /// all the same.
    #[error("cannot be read for certain; write it in another way")]
    Misread,
    /// Its unions multiply.
    #[error("has more than {MAX_FORKS} ways through its unions; write several fields")]
    Forks,
    /// A number of its own that cannot be compared.
    #[error("has a number whose exponent has more than 18 digits; write a smaller one")]
    Exponent,
    /// `match` or `search` with something else.
    #[error("has a pattern that is no string; write it in quotes")]
    PatternType,
    /// `match` or `search` with a pattern that is not known before the event.
    #[error("takes a pattern from the event; write the pattern as a string")]
    PatternOfEvent,
    /// Its pattern is none.
    #[error("has a pattern that {0}")]
    Pattern(#[from] PatternError),
}

/// Why a text is no pattern that the engine takes. Each begins with a verb: its subject is the
/// pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// It is outside RFC 9485. Said is what it has, and what to write instead.
    #[error("is no regular expression of RFC 9485: {0}")]
    Grammar(String),
    /// Its table of states has no room.
    #[error("is too large; shorten it, or repeat less often than it says")]
    Large,
}
