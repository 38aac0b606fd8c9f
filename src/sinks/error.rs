//! Why a sink cannot be described.

/// Why a sink cannot be described: whose fault it is, and what to do. Never quotes a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// A record is no object: it has no columns.
    #[error("a sanitized record is no JSON object; a table needs members")]
    NotAnObject,
    /// A place has two types.
    #[error(
        "{path} is {one} in one event and {other} in another, but a column has one type; make the \
        events agree"
    )]
    Mixed {
        /// Where.
        path: String,
        /// What it is.
        one: &'static str,
        /// What it is, too.
        other: &'static str,
    },
    /// No event of the sample has a token there, and others may.
    #[error(
        "{path} is {kind} in every event here, and a token wherever the filter of the field \
        {field} selects it, but a column has one type; select it without a filter"
    )]
    Filtered {
        /// Where.
        path: String,
        /// What it is.
        kind: &'static str,
        /// Id of the field.
        field: String,
    },
    /// A protected field was in no event: what it becomes is known, where it stands is not.
    #[error(
        "no event has a value of the field {field} ({path}); add one that has to the sample, or a \
        sink would take the type of something else for it"
    )]
    Unseen {
        /// Id of the field.
        field: String,
        /// Its path, as the document has it.
        path: String,
    },
    /// Two places become one column.
    #[error("{one} and {other} both become the column {column}; rename one of them")]
    SameColumn {
        /// The column.
        column: String,
        /// A place.
        one: String,
        /// The other place.
        other: String,
    },
    /// A name that PostgreSQL would cut.
    #[error("the column {0} has more than 63 bytes; PostgreSQL would cut its name")]
    LongColumn(String),
    /// No event came out sanitized.
    #[error("there is no event to learn from; name a file of events with --sample")]
    NoEvents,
}
