//! Which members of a protected document are indexes, and the document without them.
//!
//! An index is known by its name and by what stands beside it, never by its content: what
//! [`Strip::find`] finds, reveal removes. So [`crate::transform`] refuses every record in which a
//! member of the input has such a name.

use super::name::{RootVersion, has_members, write_name};
use super::siblings::Siblings;
use crate::scan::{NO_PARENT, Node, Tape};
use crate::schema::{Field, Schema};
use crate::select::Selection;
use crate::splice::{Position, copy, cut};

/// The index members of one document; buffers reused.
#[derive(Default)]
pub(crate) struct Strip {
    cuts: Vec<u32>,
    siblings: Siblings,
    name: Vec<u8>,
    name_text: Vec<u8>,
}

impl Strip {
    /// Finds the index members beside every protected place and returns how many they are.
    pub(crate) fn find(
        &mut self,
        schema: &Schema,
        doc: &[u8],
        tape: &Tape,
        selection: &Selection,
    ) -> usize {
        self.cuts.clear();
        self.siblings.clear();
        let mut covered_to = 0;
        for hit in &selection.hits {
            let Some(field) =
                schema.fields.get(usize::from(hit.path)).filter(|_| hit.node >= covered_to)
            else {
                continue;
            };
            let nodes = tape.nodes();
            covered_to = nodes[hit.node as usize].next;
            if !has_members(field) {
                continue;
            }
            let is_member = |n: &u32| nodes.get(*n as usize).is_some_and(Node::is_member);
            let Some(member) =
                [hit.node, nodes[hit.node as usize].parent].into_iter().find(is_member)
            else {
                continue;
            };
            for version in field.index.as_ref().map_or(&[][..], RootVersion::of) {
                let found = self.find_one(doc, tape, member, field, *version);
                self.cuts.extend(found);
            }
        }
        self.cuts.sort_unstable();
        self.cuts.dedup();
        self.cuts.len()
    }

    /// Bytes of its buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.cuts.capacity() * size_of::<u32>() + self.siblings.buffer_bytes()
    }

    /// The index of a member: right after it, unless something that sorts members has been at work.
    fn find_one(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        member: u32,
        field: &Field,
        version: RootVersion,
    ) -> Option<u32> {
        let node = tape.nodes()[member as usize];
        write_name(doc, &node, field, version, &mut self.name, &mut self.name_text);
        self.siblings.find(doc, tape, node.parent, &self.name, &self.name_text)
    }

    /// The document without them; call [`Strip::find`] first.
    pub(crate) fn cut(&self, doc: &[u8], tape: &Tape, out: &mut Vec<u8>) {
        out.clear();
        let mut at = Position { copied: 0, leading: NO_PARENT };
        let mut end = 0;
        for index in self.cuts.iter().copied() {
            // An index member holds a string or a flat array: cuts never nest, unless someone
            // edited the document.
            if index >= end {
                cut(doc, tape, index, &mut at, out);
                end = tape.nodes()[index as usize].next;
            }
        }
        copy(doc, doc.len(), &mut at, out);
    }
}
