//! Names of index members: what the record has already, and what was written beside it.

use std::collections::HashSet;
use std::ops::Range;

use super::beside::Generation;
use crate::scan::{Node, Tape};
use crate::schema::Field;
use crate::siblings::{FEW, Siblings, text_of};

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

    /// Whether `name` is free in `object`; it is taken from then on. `text` is the name unescaped (or as written, when it has no text).
    pub(super) fn take(&mut self, doc: &[u8], tape: &Tape, object: u32, name: &[u8], text: &[u8]) -> bool {
        self.siblings.find(doc, tape, object, name, text).is_none() && self.write(object, text)
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
        name.extend_from_slice(b"_prev");
    }
    text_of(name, text);
}
