//! Names of index members: what the record has already, and what was written beside it.

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use super::beside::Generation;
use crate::scan::{NO_PARENT, Node, Tape, same_text, unescape};
use crate::schema::Field;

/// Objects with more members are looked at once, not once per index.
const FEW: u32 = 32;

/// Answers whether an object may take another member. Keyed hashes stand for names: a collision rejects a record, one in 2^64.
#[derive(Default)]
pub(super) struct IndexNames {
    /// (object, name) of the index members written in this record: the first few, and the others.
    written: Vec<(u32, Range<usize>)>,
    /// The names of `written`.
    written_text: Vec<u8>,
    written_more: HashSet<u64>,
    /// Names of the members of `object`, sorted.
    siblings: Vec<u64>,
    object: Option<u32>,
    text: Vec<u8>,
    keys: RandomState,
}

impl IndexNames {
    pub(super) fn clear(&mut self) {
        self.written.clear();
        self.written_text.clear();
        self.written_more.clear();
        self.object = None;
    }

    /// Whether `name` is free in `object`; it is taken from then on. `text` is the name unescaped (or as written, when it has no text).
    pub(super) fn take(&mut self, doc: &[u8], tape: &Tape, object: u32, name: &[u8], text: &[u8]) -> bool {
        let exists = if tape.nodes()[object as usize].count <= FEW {
            tape.children(object).any(|sibling| is_named(doc, tape, sibling, name, text))
        } else {
            self.collect(doc, tape, object);
            self.siblings.binary_search(&self.hash(NO_PARENT, text)).is_ok()
        };
        !exists && self.write(object, text)
    }

    fn write(&mut self, object: u32, text: &[u8]) -> bool {
        if self.written.iter().any(|(o, name)| *o == object && self.written_text[name.clone()] == *text) {
            return false;
        }
        if self.written.len() >= FEW as usize {
            return self.written_more.insert(self.hash(object, text));
        }
        let start = self.written_text.len();
        self.written_text.extend_from_slice(text);
        self.written.push((object, start..self.written_text.len()));
        true
    }

    fn collect(&mut self, doc: &[u8], tape: &Tape, object: u32) {
        if self.object == Some(object) {
            return;
        }
        self.object = Some(object);
        self.siblings.clear();
        let mut text = std::mem::take(&mut self.text);
        for sibling in tape.children(object) {
            text_of(&doc[tape.nodes()[sibling as usize].name()], &mut text);
            self.siblings.push(self.hash(NO_PARENT, &text));
        }
        self.text = text;
        self.siblings.sort_unstable();
    }

    fn hash(&self, object: u32, text: &[u8]) -> u64 {
        let mut hasher = self.keys.build_hasher();
        hasher.write_u32(object);
        hasher.write(text);
        hasher.finish()
    }
}

/// Whether a member has that name.
pub(crate) fn is_named(doc: &[u8], tape: &Tape, member: u32, name: &[u8], text: &[u8]) -> bool {
    let node = &tape.nodes()[member as usize];
    let written = &doc[node.name()];
    if node.name_escaped { same_text(written, name) } else { written == text }
}

/// The name as it compares: unescaped, or as written when a lone surrogate leaves it without text.
fn text_of(written: &[u8], text: &mut Vec<u8>) {
    text.clear();
    if !unescape(written, text) {
        text.clear();
        text.extend_from_slice(written);
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
