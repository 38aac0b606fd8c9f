//! Names of index members: what the record has already, and what was written beside it.

use std::collections::HashSet;
use std::ops::Range;

use super::beside::Generation;
use crate::scan::{Node, Tape};
use crate::schema::Field;
use crate::siblings::{FEW, Siblings, text_of};

/// What the name of an index under the root before the newest ends in.
pub(super) const PREVIOUS: &[u8] = b"_prev";

/// Answers whether an object may take another member. Of many written names the hashes are kept: a collision rejects a record, one in 2^64.
#[derive(Default)]
pub(super) struct IndexNames {
    /// (object, name) of the index members written in this record: the first few, and the others.
    written: Vec<(u32, Range<usize>)>,
    /// The names of `written`.
    written_text: Vec<u8>,
    written_more: HashSet<u64>,
    siblings: Siblings,
}

impl IndexNames {
    pub(super) fn clear(&mut self) {
        self.written.clear();
        self.written_text.clear();
        self.written_more.clear();
        self.siblings.clear();
    }

    /// Whether `name` and, of a unique index, the same with [`PREVIOUS`] are free in `object`; they are taken from then on. `text` is the name unescaped
    /// (or as written, when it has no text). Both come back as they were.
    pub(super) fn take(&mut self, doc: &[u8], tape: &Tape, object: u32, unique: bool, name: &mut Vec<u8>, text: &mut Vec<u8>) -> bool {
        let nodes = tape.nodes();
        // One look at each member decides nearly always: none begins like the index.
        let like = |member: u32| nodes[member as usize].name_escaped || doc[nodes[member as usize].name()].starts_with(text);
        let looked = nodes[object as usize].count <= FEW && !tape.children(object).any(like);
        let lengths = (name.len(), text.len());
        let newest = self.take_one(doc, tape, object, looked, name, text);
        if !unique {
            return newest;
        }
        name.extend_from_slice(PREVIOUS);
        text.extend_from_slice(PREVIOUS);
        let previous = self.take_one(doc, tape, object, looked, name, text);
        name.truncate(lengths.0);
        text.truncate(lengths.1);
        newest && previous
    }

    fn take_one(&mut self, doc: &[u8], tape: &Tape, object: u32, known_free: bool, name: &[u8], text: &[u8]) -> bool {
        (known_free || self.siblings.find(doc, tape, object, name, text).is_none()) && self.write(object, text)
    }

    /// Bytes of its buffers.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.written_text.capacity() + self.written_more.capacity() * 16 + self.siblings.buffer_bytes()
    }

    fn write(&mut self, object: u32, text: &[u8]) -> bool {
        if self.written.iter().any(|(o, name)| *o == object && self.written_text[name.clone()] == *text) {
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

/// The index member's name as it is written (`name`) and as it compares (`text`).
pub(crate) fn index_member_name(doc: &[u8], member: &Node, field: &Field, generation: Generation, name: &mut Vec<u8>, text: &mut Vec<u8>) {
    name.clear();
    let into = field.index.as_ref().and_then(|rule| rule.into.as_deref());
    if let Some(into) = into {
        name.extend_from_slice(into.as_bytes());
    } else {
        name.extend_from_slice(&doc[member.name()]);
        name.extend_from_slice(b"_bidx");
    }
    if generation == Generation::Previous {
        name.extend_from_slice(PREVIOUS);
    }
    text_of(name, text);
}
