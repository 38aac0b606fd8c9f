//! A second place for the lines of a log: a topic, a table. Their implementations stand above this
//! crate.

use super::line::Line;

/// A line on its way to a second place.
#[derive(Debug)]
pub struct CopiedLine {
    /// The line as it was read.
    pub line: Line,
    /// Its exact bytes, without the line feed: what is verified.
    pub bytes: Vec<u8>,
    /// The side file that the line names: 16 bytes for each data subject. `None`: it names none, or
    /// one that is gone.
    pub subjects: Option<Vec<u8>>,
}

/// Why lines were not copied. The same lines are given again, so the operator only mends the place.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct SinkError {
    /// So many of the lines are there all the same, from the first on.
    pub copied: usize,
    /// What is wrong and what to do; no line's content.
    pub message: String,
}

impl SinkError {
    /// None of the lines is there.
    #[must_use]
    pub fn none_copied(message: String) -> Self {
        Self { copied: 0, message }
    }
}

/// A second place. It is called from a thread of its own, one batch after another.
pub trait Sink: Send {
    /// What tells it apart in lines, messages and metrics: `topic`, `postgres`.
    fn name(&self) -> &'static str;

    /// Copies lines, in order; they are durable there when it returns. It may block for as long as
    /// the place is away and `goes_on` says so: nobody waits longer than the log's deadline. Lines
    /// that are there already may come again, after a crash.
    ///
    /// # Errors
    /// [`SinkError`]: the lines behind [`SinkError::copied`] are not there, or nobody knows.
    fn copy(&mut self, lines: &[CopiedLine], goes_on: &dyn Fn() -> bool) -> Result<(), SinkError>;
}

/// How a log uses a second place.
pub struct SinkSettings {
    /// The place.
    pub sink: Box<dyn Sink>,
    /// Nothing is disclosed without it. Otherwise lines wait for it, and a line `gap` says how many
    /// it never had.
    pub is_required: bool,
    /// Lines that wait at most for a place that is not required.
    pub most_waiting: u64,
}

/// Hears how second places do. Must not block.
pub trait SinkObserver: Send + Sync {
    /// So many lines are there.
    fn copied(&self, sink: &'static str, lines: u64);
    /// So many lines will never be there.
    fn missed(&self, sink: &'static str, lines: u64);
    /// It takes no lines, and why; told once until [`SinkObserver::back`].
    fn away(&self, sink: &'static str, is_required: bool, why: &str);
    /// It takes lines again.
    fn back(&self, sink: &'static str);
}

/// Tells nobody.
pub(super) struct NoObserver;

impl SinkObserver for NoObserver {
    fn copied(&self, _: &'static str, _: u64) {}
    fn missed(&self, _: &'static str, _: u64) {}
    fn away(&self, _: &'static str, _: bool, _: &str) {}
    fn back(&self, _: &'static str) {}
}
