//! Names of members that an object of the record has already, in the input or from an index written
//! to it.

use std::collections::HashSet;
use std::ops::Range;

use super::name::PREVIOUS;
use super::siblings::{FEW, Siblings};
use crate::scan::Tape;

/// Answers whether an object may take another member. Of many written names the hashes are kept: a
/// collision rejects a record, one in 2^64.
#[derive(Default)]
pub(crate) struct TakenNames {
    /// (object, name) of the index members written in this record: the first few, and the others.
    written: Vec<(u32, Range<usize>)>,
    /// The names of `written`.
    written_text: Vec<u8>,
    written_more: HashSet<u64>,
    siblings: Siblings,
}

impl TakenNames {
    pub(crate) fn clear(&mut self) {
        self.written.clear();
        self.written_text.clear();
        self.written_more.clear();
        self.siblings.clear();
    }

    /// Whether `name` and, of a unique index, the same with [`PREVIOUS`] are free in `object`; they
    /// are taken from then on. `text` is the name unescaped (or as written, when it has no text).
    /// Both come back as they were.
    pub(crate) fn take(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        object: u32,
        unique: bool,
        name: &mut Vec<u8>,
        text: &mut Vec<u8>,
    ) -> bool {
        let nodes = tape.nodes();
        // One look at each member decides nearly always: none begins like the index.
        let like = |member: u32| {
            nodes[member as usize].name_escaped
                || doc[nodes[member as usize].name()].starts_with(text)
        };
        let looked = nodes[object as usize].count <= FEW && !tape.children(object).any(like);
        let lengths = (name.len(), text.len());
        let newest = self.take_one(doc, tape, object, looked, name, text);
        if !unique {
            return newest;
        }
        name.extend_from_slice(PREVIOUS.as_bytes());
        text.extend_from_slice(PREVIOUS.as_bytes());
        let previous = self.take_one(doc, tape, object, looked, name, text);
        name.truncate(lengths.0);
        text.truncate(lengths.1);
        newest && previous
    }

    fn take_one(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        object: u32,
        known_free: bool,
        name: &[u8],
        text: &[u8],
    ) -> bool {
        (known_free || self.siblings.find(doc, tape, object, name, text).is_none())
            && self.write(object, text)
    }

    /// Bytes of its buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.written_text.capacity()
            + self.written_more.capacity() * 16
            + self.siblings.buffer_bytes()
    }

    fn write(&mut self, object: u32, text: &[u8]) -> bool {
        if self
            .written
            .iter()
            .any(|(o, name)| *o == object && self.written_text[name.clone()] == *text)
        {
            return false;
        }
        if self.written.len() >= FEW as usize {
            return self.written_more.insert(self.siblings.hash(object, text));
        }
        let start = self.written_text.len();
        self.written_text.extend_from_slice(text);
        self.written.push((object, start..self.written_text.len()));
        true
    }
}
