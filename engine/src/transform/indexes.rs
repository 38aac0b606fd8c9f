//! Blind indexes: where they stand and what they hold.

use super::{Run, Stop};
use crate::error::RejectCode;
use crate::index::Indexer;
use crate::index_member::{RootVersion, Strip, TakenNames, has_members, write_name};
use crate::normalize::{Input, Normalizer, Scratch};
use crate::record::{FieldOutcome, Output};
use crate::scan::{Node, Tape};
use crate::schema::{Field, IndexRule, PathId};
use crate::select::Selection;
use crate::splice::{Edit, Position, copy};

/// What an index costs, in units of work: normalising and one HMAC.
const INDEX: u64 = 256;
/// What an element without an index costs in the index array: its room.
const NULL: u64 = 8;

/// An array whose elements are indexed: its index array is written when the array ends.
struct Pending {
    array: u32,
    field: PathId,
    version: RootVersion,
    /// The next element without an entry.
    at: u32,
    /// The index array so far, without brackets.
    text: Vec<u8>,
}

impl Pending {
    /// Bytes of its buffer.
    fn buffer_bytes(&self) -> usize {
        size_of::<Self>() + self.text.capacity()
    }
}

/// The index members of one record, with the buffers that writing them takes.
#[derive(Default)]
pub(super) struct IndexMembers {
    written: usize,
    pending: Vec<Pending>,
    /// Buffers of index arrays that were written.
    spare: Vec<Vec<u8>>,
    taken: TakenNames,
    /// The name of the next, as it is written and as it compares.
    name: Vec<u8>,
    name_text: Vec<u8>,
    proof: Proof,
}

impl IndexMembers {
    /// Forgets the last record's.
    pub(super) fn clear(&mut self) {
        self.written = 0;
        self.pending.clear();
        self.taken.clear();
    }

    /// Whether index arrays wait for their arrays to end.
    pub(super) fn are_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Bytes of its buffers.
    pub(super) fn buffer_bytes(&self) -> usize {
        let pending: usize = self.pending.iter().map(Pending::buffer_bytes).sum();
        let spare: usize = self.spare.iter().map(Vec::capacity).sum();
        let names = self.name.capacity() + self.name_text.capacity() + self.taken.buffer_bytes();
        pending + spare + names + self.proof.buffer_bytes()
    }
}

/// What it takes to look for indexes in the output.
#[derive(Default)]
struct Proof {
    tape: Tape,
    selection: Selection,
    strip: Strip,
}

impl Proof {
    /// Bytes of its buffers.
    fn buffer_bytes(&self) -> usize {
        self.tape.buffer_bytes() + self.selection.buffer_bytes() + self.strip.buffer_bytes()
    }
}

/// Index values, with the buffers that normalising takes.
#[derive(Default)]
pub(super) struct IndexValues {
    scratch: Scratch,
    normal: Vec<u8>,
    /// Normal forms of a compound index, one after another, and where each ends.
    parts: Vec<u8>,
    ends: Vec<usize>,
}

impl IndexValues {
    /// Appends the index of a value; `false` (nothing appended) when it has none.
    pub(super) fn write(
        &mut self,
        normalizer: Normalizer,
        input: Input<'_>,
        indexer: &Indexer,
        out: &mut Vec<u8>,
    ) -> bool {
        let has = normalizer.normalize(input, &mut self.scratch, &mut self.normal);
        if has {
            indexer.write([self.normal.as_slice()], out);
        }
        has
    }

    /// Appends the index of several values together; `false` (nothing appended) when one of them is
    /// not there or has none.
    fn write_compound<'v>(
        &mut self,
        normalizer: Normalizer,
        values: impl Iterator<Item = Option<&'v [u8]>>,
        indexer: &Indexer,
        out: &mut Vec<u8>,
    ) -> bool {
        self.parts.clear();
        self.ends.clear();
        for value in values {
            let has = value.is_some_and(|value| {
                normalizer.normalize(Input::Json(value), &mut self.scratch, &mut self.normal)
            });
            if !has {
                return false;
            }
            self.parts.extend_from_slice(&self.normal);
            self.ends.push(self.parts.len());
        }
        let mut start = 0;
        let parts =
            self.ends.iter().map(|end| &self.parts[std::mem::replace(&mut start, *end)..*end]);
        indexer.write(parts, out);
        true
    }

    /// Bytes of its buffers.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.normal.capacity() + self.parts.capacity()
    }
}

impl Run<'_> {
    /// Appends the index of a value; `false` (nothing appended) when it has none.
    pub(super) fn append_index(
        &mut self,
        doc: &[u8],
        path: PathId,
        node: &Node,
        field: &Field,
        version: RootVersion,
        out: &mut Vec<u8>,
    ) -> bool {
        let (Some(rule), Some(indexer)) =
            (&field.index, &self.plan.indexers[version as usize][usize::from(path)])
        else {
            return false;
        };
        let work = &mut *self.work;
        work.selection
            .budget()
            .charge(INDEX + 4 * (node.end - node.start) as u64 + INDEX * rule.of.len() as u64);
        let values = &mut work.index_values;
        if rule.of.is_empty() {
            return values.write(rule.normalize, Input::Json(&doc[node.span()]), indexer, out);
        }
        let (tape, selection) = (&work.tape, &work.selection);
        let parts = rule.of.iter().map(|part| {
            selection.single(*part).map(|node| &doc[tape.nodes()[node as usize].span()])
        });
        values.write_compound(rule.normalize, parts, indexer, out)
    }

    /// The index members right after a member, or entries for the index arrays after an array.
    pub(super) fn write_indexes(
        &mut self,
        doc: &[u8],
        edit: Edit,
        node: &Node,
        field: &Field,
        out: &mut Output,
    ) -> Result<(), Stop> {
        if !has_members(field) {
            return Ok(());
        }
        if node.is_member() {
            self.reserve(doc, node, field)?;
        }
        for version in RootVersion::BOTH {
            if self.plan.indexers[version as usize][usize::from(edit.field)].is_none() {
                continue;
            }
            if node.is_member() {
                self.index_member(doc, edit, node, field, version, out);
            } else {
                self.index_element(doc, edit, node, field, version)?;
            }
        }
        Ok(())
    }

    fn index_member(
        &mut self,
        doc: &[u8],
        edit: Edit,
        node: &Node,
        field: &Field,
        version: RootVersion,
        out: &mut Output,
    ) {
        if version == RootVersion::Previous {
            self.name_for(doc, node, field, version);
        }
        let start = out.value.len();
        self.begin_index_member(&mut out.value);
        out.value.push(b'"');
        if self.append_index(doc, edit.field, node, field, version, &mut out.value) {
            out.value.push(b'"');
            self.work.indexes.written += 1;
            self.count_index(edit.field, version);
        } else {
            out.value.truncate(start);
        }
    }

    /// One value is counted once, whatever roots it is indexed under.
    fn count_index(&mut self, field: PathId, version: RootVersion) {
        if version == RootVersion::Newest {
            self.count(field, FieldOutcome::Indexed);
        }
    }

    fn index_element(
        &mut self,
        doc: &[u8],
        edit: Edit,
        node: &Node,
        field: &Field,
        version: RootVersion,
    ) -> Result<(), Stop> {
        let array = node.parent;
        let waiting = self
            .work
            .indexes
            .pending
            .iter()
            .position(|p| p.array == array && p.field == edit.field && p.version == version);
        let slot = if let Some(slot) = waiting {
            slot
        } else {
            let owner = self.work.tape.nodes().get(array as usize).copied().filter(Node::is_member);
            let Some(owner) = owner else {
                return Err(Stop::field(RejectCode::UnsupportedValue, field));
            };
            if version == RootVersion::Newest {
                self.reserve(doc, &owner, field)?;
            }
            let mut text = self.work.indexes.spare.pop().unwrap_or_default();
            text.clear();
            self.work.indexes.pending.push(Pending {
                array,
                field: edit.field,
                version,
                at: array + 1,
                text,
            });
            self.work.indexes.pending.len() - 1
        };
        let mut text = std::mem::take(&mut self.work.indexes.pending[slot].text);
        let mut at = self.work.indexes.pending[slot].at;
        while at < edit.node && self.work.selection.budget().charge(NULL) {
            text.extend_from_slice(b"null,");
            at = self.work.tape.nodes()[at as usize].next;
        }
        text.push(b'"');
        if self.append_index(doc, edit.field, node, field, version, &mut text) {
            text.extend_from_slice(b"\",");
            self.count_index(edit.field, version);
        } else {
            text.truncate(text.len() - 1);
            text.extend_from_slice(b"null,");
        }
        let pending = &mut self.work.indexes.pending[slot];
        (pending.text, pending.at) = (text, node.next);
        Ok(())
    }

    /// Writes the index arrays of arrays that end at or before `upto`, inner ones first.
    pub(super) fn close_arrays(
        &mut self,
        doc: &[u8],
        upto: usize,
        at: &mut Position,
        out: &mut Output,
    ) {
        while let Some(slot) = self.next_to_close(upto) {
            let mut pending = self.work.indexes.pending.remove(slot);
            let array = self.work.tape.nodes()[pending.array as usize];
            copy(doc, array.end as usize, at, &mut out.value);
            while pending.at < array.next && self.work.selection.budget().charge(NULL) {
                pending.text.extend_from_slice(b"null,");
                pending.at = self.work.tape.nodes()[pending.at as usize].next;
            }
            pending.text.pop();
            self.name_for(
                doc,
                &array,
                &self.schema.fields[usize::from(pending.field)],
                pending.version,
            );
            self.begin_index_member(&mut out.value);
            self.work.indexes.written += 1;
            out.value.push(b'[');
            out.value.extend_from_slice(&pending.text);
            out.value.push(b']');
            self.work.indexes.spare.push(pending.text);
        }
    }

    fn next_to_close(&self, upto: usize) -> Option<usize> {
        let end = |p: &Pending| self.work.tape.nodes()[p.array as usize].end as usize;
        let slots = self.work.indexes.pending.iter().enumerate().filter(|(_, p)| end(p) <= upto);
        slots.min_by_key(|(slot, p)| (end(p), *slot)).map(|(slot, _)| slot)
    }

    /// Refuses a document that already has a member reveal would take for an index of this one: of
    /// either version, whatever roots are active today, and whether or not this value has an index.
    /// Leaves the newest index's name in `IndexMembers::name`.
    fn reserve(&mut self, doc: &[u8], member: &Node, field: &Field) -> Result<(), Stop> {
        self.name_for(doc, member, field, RootVersion::Newest);
        let unique = field.index.as_ref().is_some_and(IndexRule::is_unique);
        let IndexMembers { taken, name, name_text, .. } = &mut self.work.indexes;
        let free = taken.take(doc, &self.work.tape, member.parent, unique, name, name_text);
        if free { Ok(()) } else { Err(Stop::field(RejectCode::ReservedMember, field)) }
    }

    /// Where a path may select index members themselves, names alone do not tell: the output must
    /// give up what was written and nothing else.
    pub(super) fn check_indexes(&mut self, out: &Output) -> Result<(), Stop> {
        if !self.schema.indexes_selectable {
            return Ok(());
        }
        let Proof { tape, selection, strip } = &mut self.work.indexes.proof;
        let program = &self.schema.program;
        let budget = *self.work.selection.budget();
        let selected = tape.scan(&out.value).is_ok()
            && program.select_within(budget, &out.value, tape, selection).is_ok();
        *self.work.selection.budget() = *selection.budget();
        if selection.budget().is_overdrawn() {
            return Err(Stop::Reject(RejectCode::TooComplex, None, None));
        }
        if selected
            && strip.find(self.schema, &out.value, tape, selection) == self.work.indexes.written
        {
            return Ok(());
        }
        let code = if program.filters_see_indexes() {
            RejectCode::FilterReadsProtected
        } else {
            RejectCode::ReservedMember
        };
        Err(Stop::Reject(code, None, None))
    }

    fn name_for(&mut self, doc: &[u8], member: &Node, field: &Field, version: RootVersion) {
        let IndexMembers { name, name_text, .. } = &mut self.work.indexes;
        write_name(doc, member, field, version, name, name_text);
    }

    fn begin_index_member(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(&self.work.indexes.name);
        out.extend_from_slice(b"\":");
    }
}
