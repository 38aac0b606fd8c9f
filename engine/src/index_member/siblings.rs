//! Finding a member by its name. Keyed hashes stand for the names of objects with many members, so
//! that a hostile event costs no quadratic time.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::ops::Range;

use crate::scan::{NO_PARENT, Tape, same_text, unescape};

/// Objects with more members are looked at once, not once per name.
pub(crate) const FEW: u32 = 32;

/// The names of the objects that were asked about; clear it for every document. Each object is
/// looked at once, in whatever order they are asked about.
#[derive(Default)]
pub(crate) struct Siblings {
    /// (hash of the name, member), sorted within each object.
    names: Vec<(u64, u32)>,
    /// Where the names of an object stand in `names`.
    objects: HashMap<u32, Range<usize>>,
    text: Vec<u8>,
    keys: RandomState,
}

impl Siblings {
    pub(crate) fn clear(&mut self) {
        self.names.clear();
        self.objects.clear();
    }

    /// Bytes of its buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        let objects = self.objects.capacity() * size_of::<(u32, Range<usize>)>();
        self.names.capacity() * size_of::<(u64, u32)>() + objects + self.text.capacity()
    }

    /// The first member of `object` named `name`; `text` is the name unescaped (or as written, when
    /// it has no text).
    pub(crate) fn find(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        object: u32,
        name: &[u8],
        text: &[u8],
    ) -> Option<u32> {
        self.find_where(doc, tape, object, text, |member| is_named(doc, tape, member, name, text))
    }

    /// The first member of `object` whose name is that text.
    pub(crate) fn find_text(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        object: u32,
        text: &[u8],
    ) -> Option<u32> {
        self.find_where(doc, tape, object, text, |member| {
            tape.name_is(doc, &tape.nodes()[member as usize], text)
        })
    }

    fn find_where(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        object: u32,
        text: &[u8],
        is_it: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        if tape.nodes()[object as usize].count <= FEW {
            return tape.children(object).find(|member| is_it(*member));
        }
        let range = self.collect(doc, tape, object);
        let hash = self.hash(NO_PARENT, text);
        let names = &self.names[range];
        let first = names.partition_point(|(other, _)| *other < hash);
        names[first..]
            .iter()
            .take_while(|(other, _)| *other == hash)
            .map(|(_, member)| *member)
            .find(|member| is_it(*member))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Asked for in turns, large objects had their names collected again each time: quadratic in a
    /// hostile event.
    #[test]
    fn names_of_an_object_are_collected_once() {
        let members = |letter: char| {
            (0..100).map(|i| format!("\"{letter}{i}\":{i}")).collect::<Vec<_>>().join(",")
        };
        let doc = format!("[{{{}}},{{{}}}]", members('a'), members('b'));
        let mut tape = Tape::default();
        tape.scan(doc.as_bytes()).ok();
        let objects: Vec<u32> = tape.children(0).collect();
        let mut siblings = Siblings::default();
        for i in 0..100 {
            for (object, letter) in objects.iter().zip(['a', 'b']) {
                let found = siblings.find_text(
                    doc.as_bytes(),
                    &tape,
                    *object,
                    format!("{letter}{i}").as_bytes(),
                );
                assert_eq!(found, tape.children(*object).nth(i));
                assert_eq!(siblings.find_text(doc.as_bytes(), &tape, *object, b"c0"), None);
            }
        }
        assert_eq!(siblings.names.len(), 200);
        siblings.clear();
        assert_eq!(
            siblings.find_text(doc.as_bytes(), &tape, objects[1], b"a0"),
            None,
            "another document's objects have the same numbers"
        );
    }
}
