//! Finding a member by its name. Keyed hashes stand for the names of objects with many members, so that a hostile event costs no quadratic time.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use crate::scan::{NO_PARENT, Tape, same_text, unescape};

/// Objects with more members are looked at once, not once per name.
pub(crate) const FEW: u32 = 32;

/// The names of the objects that were asked about; clear it for every document. Each object is looked at once, in whatever order they are asked about.
#[derive(Default)]
pub(crate) struct Siblings {
    /// (hash of the name, member), sorted within one object.
    names: Vec<(u64, u32)>,
    /// Where the names of an object stand.
    objects: HashMap<u32, Range<usize>>,
    text: Vec<u8>,
    keys: RandomState,
}

impl Siblings {
    pub(crate) fn clear(&mut self) {
        self.names.clear();
        self.objects.clear();
    }

    /// The first member of `object` named `name`; `text` is the name unescaped (or as written, when it has no text).
    pub(crate) fn find(&mut self, doc: &[u8], tape: &Tape, object: u32, name: &[u8], text: &[u8]) -> Option<u32> {
        let is_it = |member: &u32| is_named(doc, tape, *member, name, text);
        if tape.nodes()[object as usize].count <= FEW {
            return tape.children(object).find(is_it);
        }
        let range = self.collect(doc, tape, object);
        let hash = self.hash(NO_PARENT, text);
        let names = &self.names[range];
        let first = names.partition_point(|(other, _)| *other < hash);
        names[first..].iter().take_while(|(other, _)| *other == hash).map(|(_, member)| *member).find(is_it)
    }

    /// A name in an object as a number.
    pub(crate) fn hash(&self, object: u32, text: &[u8]) -> u64 {
        let mut hasher = self.keys.build_hasher();
        hasher.write_u32(object);
        hasher.write(text);
        hasher.finish()
    }

    fn collect(&mut self, doc: &[u8], tape: &Tape, object: u32) -> Range<usize> {
        if let Some(range) = self.objects.get(&object) {
            return range.clone();
        }
        let start = self.names.len();
        let mut text = std::mem::take(&mut self.text);
        for member in tape.children(object) {
            text_of(&doc[tape.nodes()[member as usize].name()], &mut text);
            self.names.push((self.hash(NO_PARENT, &text), member));
        }
        self.text = text;
        self.names[start..].sort_unstable();
        self.objects.insert(object, start..self.names.len());
        start..self.names.len()
    }
}

/// Whether a member has that name.
#[inline]
fn is_named(doc: &[u8], tape: &Tape, member: u32, name: &[u8], text: &[u8]) -> bool {
    let node = &tape.nodes()[member as usize];
    let written = &doc[node.name()];
    if node.name_escaped { same_text(written, name) } else { written == text }
}

/// The name as it compares: unescaped, or as written when a lone surrogate leaves it without text.
pub(crate) fn text_of(written: &[u8], text: &mut Vec<u8>) {
    text.clear();
    if !unescape(written, text) {
        text.clear();
        text.extend_from_slice(written);
    }
}
