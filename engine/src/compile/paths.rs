//! The paths of one document: each is compiled once and becomes a number.

use super::document::in_payload;
use super::read::Reader;
use crate::schema::{Envelope, PathId};
use crate::select::{PathError, Query};
use crate::splice::Edit;

/// Collects paths; each becomes one number.
#[derive(Default)]
pub(super) struct Paths {
    pub(super) queries: Vec<Query>,
    pub(super) pointers: Vec<String>,
    pub(super) clear_reads: Vec<PathId>,
    pub(super) too_many: bool,
    pattern_bytes: usize,
    envelope: Option<Envelope>,
}

/// Most paths of one document: each has a number of two bytes, of which the two highest mean edits
/// of no field ([`Edit`]).
const MAX_PATHS: usize = Edit::MENDED as usize;
/// Most memory for the patterns of one document, in bytes.
const MAX_PATTERNS: usize = 64 << 20;

impl Paths {
    /// Of a document whose values stand in this envelope.
    pub(super) fn new(envelope: Option<Envelope>) -> Self {
        Self { envelope, ..Self::default() }
    }

    /// The path from the root of a value: with an envelope, an author's `$` is the payload.
    fn parse(&self, text: &str) -> Result<Query, PathError> {
        let query = crate::select::parse(text)?;
        if self.envelope.is_none() { Ok(query) } else { crate::select::parse(&in_payload(text)) }
    }

    pub(super) fn add(&mut self, at: &str, text: &str, reader: &mut Reader) -> Option<PathId> {
        match self.parse(text) {
            Ok(query) => self.push(at, query, reader),
            Err(error) => {
                reader.error(at, error.to_string());
                None
            }
        }
    }

    /// A path that must select at most one node.
    pub(super) fn add_singular(
        &mut self,
        at: &str,
        text: &str,
        reader: &mut Reader,
    ) -> Option<PathId> {
        match self.parse(text) {
            Ok(query) if query.is_singular() => self.push(at, query, reader),
            Ok(_) => {
                reader.error(
                    at,
                    "must select one place: names and indexes only, no *, .., slices or filters",
                );
                None
            }
            Err(error) => {
                reader.error(at, error.to_string());
                None
            }
        }
    }

    /// A path of ours, from the root of a value whatever it is wrapped in.
    pub(super) fn declare(&mut self, text: &str, reader: &mut Reader) {
        if let Ok(query) = crate::select::parse(text) {
            self.push("", query, reader);
        }
    }

    pub(super) fn read_in_clear(&mut self, path: PathId) {
        self.clear_reads.push(path);
    }

    fn push(&mut self, at: &str, query: Query, reader: &mut Reader) -> Option<PathId> {
        let id = self.queries.len() as PathId;
        if self.queries.len() >= MAX_PATHS {
            if !std::mem::replace(&mut self.too_many, true) {
                reader.error(
                    "",
                    format!(
                        "has more than {MAX_PATHS} paths; split it into several \
                    documents with a \"when\" each"
                    ),
                );
            }
            return None;
        }
        self.pattern_bytes += query.pattern_bytes();
        if self.pattern_bytes > MAX_PATTERNS {
            reader.error(
                "",
                format!(
                    "has patterns that take more than {} MiB together; use fewer or shorter ones",
                    MAX_PATTERNS >> 20
                ),
            );
            return None;
        }
        self.queries.push(query);
        self.pointers.push(at.to_owned());
        Some(id)
    }
}
