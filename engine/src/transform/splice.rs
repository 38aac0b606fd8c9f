//! The output is the input with the selected spans replaced.

use super::names::index_member_name;
use super::{Run, Stop};
use crate::error::RejectCode;
use crate::normalize::Input;
use crate::protect;
use crate::record::{FieldOutcome, Output};
use crate::scan::{Kind, NO_PARENT, Node, Tape};
use crate::schema::{Field, PathId, Protect, Residue};
use crate::seal::{self, PayloadKind};
use crate::subject;

/// One node that does not stay as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edit {
    pub(crate) node: u32,
    /// The field that protects it, or [`Edit::UNDECLARED`].
    pub(crate) field: PathId,
}

impl Edit {
    /// Dropped because nobody named it.
    pub(crate) const UNDECLARED: PathId = PathId::MAX;
}

/// An array whose elements are indexed: its index array is written when the array ends.
pub(super) struct Pending {
    array: u32,
    field: PathId,
    /// The next element without an entry.
    at: u32,
    /// The index array so far, without brackets.
    text: Vec<u8>,
}

/// Where the walk through the document stands.
pub(crate) struct Position {
    /// Input copied up to here.
    pub(crate) copied: usize,
    /// The child that continues a run of dropped members at the front of an object.
    pub(crate) leading: u32,
}

impl Run<'_> {
    pub(super) fn splice(&mut self, doc: &[u8], out: &mut Output) -> Result<(), Stop> {
        let mut at = Position { copied: 0, leading: NO_PARENT };
        let mut bound = None;
        for i in 0..self.work.edits.len() {
            let edit = self.work.edits[i];
            let node = self.work.tape.nodes()[edit.node as usize];
            let schema = self.schema;
            let field = schema.fields.get(usize::from(edit.field));
            self.close_arrays(doc, node.start as usize, &mut at, out);
            match field {
                None => self.drop_node(doc, edit.node, &node, &mut at, out),
                Some(f) if f.protect == Protect::Drop => {
                    self.remember_residue(doc, edit);
                    self.count(edit.field, FieldOutcome::Dropped);
                    self.drop_node(doc, edit.node, &node, &mut at, out);
                }
                Some(f) => {
                    copy(doc, node.start as usize, &mut at, &mut out.value);
                    if bound != Some(edit.field) {
                        self.bind(doc, f)?;
                        bound = Some(edit.field);
                    }
                    self.protect(doc, edit, &node, f, out)?;
                    at.copied = node.end as usize;
                    self.index_beside(doc, edit, &node, f, out)?;
                }
            }
            self.check_length(out)?;
        }
        self.close_arrays(doc, doc.len(), &mut at, out);
        copy(doc, doc.len(), &mut at, &mut out.value);
        self.check_length(out)
    }

    /// Looked at after every value: a small event of many values must not grow without bound first.
    fn check_length(&self, out: &Output) -> Result<(), Stop> {
        if out.value.len() > self.longest { Err(Stop::Reject(RejectCode::OutputTooLarge, None, None)) } else { Ok(()) }
    }

    /// Encodes the values a field is tied to.
    fn bind(&mut self, doc: &[u8], field: &Field) -> Result<(), Stop> {
        if field.bind.is_empty() {
            return Ok(());
        }
        let work = &mut *self.work;
        binding(doc, field, &work.tape, |path| work.selection.single(path), &mut work.scalars, &mut work.binding).map_err(|code| Stop::field(code, field))
    }

    fn protect(&mut self, doc: &[u8], edit: Edit, node: &Node, field: &Field, out: &mut Output) -> Result<(), Stop> {
        let value = &doc[node.span()];
        if node.kind == Kind::Null && !field.encrypt_null {
            out.value.extend_from_slice(value);
            self.count(edit.field, FieldOutcome::Null);
            return Ok(());
        }
        self.remember_residue(doc, edit);
        let outcome = match &field.protect {
            Protect::Encrypt => self.encrypt(value, edit, field, out)?,
            Protect::Deterministic(_) => self.deterministic(value, edit, field, out)?,
            Protect::Hash => self.hash(doc, edit, node, field, out)?,
            Protect::Mask(_) | Protect::Generalize(_) | Protect::Redact(_) => self.replace(value, node, field, out)?,
            Protect::Drop => unreachable!("dropped members are cut out, not replaced"),
        };
        self.count(edit.field, outcome);
        Ok(())
    }

    /// The kinds without a key. What they write is text in clear: another field's value must not stand in it.
    fn replace(&mut self, value: &[u8], node: &Node, field: &Field, out: &mut Output) -> Result<FieldOutcome, Stop> {
        let start = out.value.len();
        let fits = match &field.protect {
            Protect::Mask(mask) => protect::mask(node.kind, value, mask, &mut self.work.text, &mut out.value),
            Protect::Generalize(to) => protect::generalize(node.kind, value, *to, &mut self.work.text, &mut out.value),
            Protect::Redact(with) => {
                out.value.extend_from_slice(with);
                true
            }
            _ => false,
        };
        if !fits {
            return Err(Stop::field(RejectCode::WrongType, field));
        }
        self.work.residues.add_output(start..out.value.len());
        Ok(FieldOutcome::Masked)
    }

    fn encrypt(&mut self, value: &[u8], edit: Edit, field: &Field, out: &mut Output) -> Result<FieldOutcome, Stop> {
        let sealer = match (&self.subject, &mut self.plan.sealers[usize::from(edit.field)]) {
            (Some(subject), _) => self.subjects.sealer(subject, field.fid).map_err(|e| Self::seal_failed(self.plan, e))?,
            (None, Some(sealer)) => sealer,
            (None, None) => return Err(Stop::Need(vec![self.plan.spent()])),
        };
        let binding = (!field.bind.is_empty()).then_some(self.work.binding.as_slice());
        out.value.push(b'"');
        let sealed = sealer.seal(PayloadKind::Json, value, field.pad, binding, self.nonces, &mut out.value);
        sealed.map_err(|e| Self::seal_failed(self.plan, e))?;
        out.value.push(b'"');
        Ok(FieldOutcome::Encrypted)
    }

    fn deterministic(&mut self, value: &[u8], edit: Edit, field: &Field, out: &mut Output) -> Result<FieldOutcome, Stop> {
        let work = &mut *self.work;
        if !seal::canonical_json(value, &mut work.canonical_tape, &mut work.canonical) {
            return Err(Stop::field(RejectCode::UnsupportedValue, field));
        }
        let Some(sealer) = &mut self.plan.sealers[usize::from(edit.field)] else { return Err(Stop::Need(vec![self.plan.spent()])) };
        out.value.push(b'"');
        let sealed = sealer.seal(PayloadKind::Json, &work.canonical, 16, None, self.nonces, &mut out.value);
        sealed.map_err(|e| Self::seal_failed(self.plan, e))?;
        out.value.push(b'"');
        Ok(FieldOutcome::Encrypted)
    }

    fn hash(&mut self, doc: &[u8], edit: Edit, node: &Node, field: &Field, out: &mut Output) -> Result<FieldOutcome, Stop> {
        let start = out.value.len();
        out.value.push(b'"');
        if self.append_index(doc, edit.field, node, field, &mut out.value) {
            out.value.push(b'"');
            return Ok(FieldOutcome::Indexed);
        }
        out.value.truncate(start);
        out.value.extend_from_slice(b"null");
        Ok(FieldOutcome::Null)
    }

    /// Appends the index of a value; `false` (nothing appended) when it has none.
    fn append_index(&mut self, doc: &[u8], path: PathId, node: &Node, field: &Field, out: &mut Vec<u8>) -> bool {
        let (Some(rule), Some(indexer)) = (&field.index, &self.plan.indexers[usize::from(path)]) else { return false };
        let work = &mut *self.work;
        if rule.of.is_empty() {
            let has = rule.normalize.normalize(Input::Json(&doc[node.span()]), &mut work.normalize, &mut work.normal);
            if has {
                indexer.write([work.normal.as_slice()], out);
            }
            return has;
        }
        work.text.clear();
        work.normal_ends.clear();
        for part in &rule.of {
            let Some(node) = work.selection.single(*part) else { return false };
            let input = Input::Json(&doc[work.tape.nodes()[node as usize].span()]);
            if !rule.normalize.normalize(input, &mut work.normalize, &mut work.normal) {
                return false;
            }
            work.text.extend_from_slice(&work.normal);
            work.normal_ends.push(work.text.len());
        }
        let mut start = 0;
        let parts = work.normal_ends.iter().map(|end| &work.text[std::mem::replace(&mut start, *end)..*end]);
        indexer.write(parts, out);
        true
    }

    /// The index member right after a member, or an entry for the index array after an array.
    fn index_beside(&mut self, doc: &[u8], edit: Edit, node: &Node, field: &Field, out: &mut Output) -> Result<(), Stop> {
        if field.index.is_none() || field.protect == Protect::Hash {
            return Ok(());
        }
        if node.is_member() {
            self.index_name(doc, node, field)?;
            let start = out.value.len();
            self.begin_index_member(&mut out.value);
            out.value.push(b'"');
            if self.append_index(doc, edit.field, node, field, &mut out.value) {
                out.value.push(b'"');
                self.count(edit.field, FieldOutcome::Indexed);
            } else {
                out.value.truncate(start);
            }
            return Ok(());
        }
        self.index_element(doc, edit, node, field)
    }

    fn index_element(&mut self, doc: &[u8], edit: Edit, node: &Node, field: &Field) -> Result<(), Stop> {
        let array = node.parent;
        let waiting = self.work.pending.iter().position(|p| p.array == array && p.field == edit.field);
        let slot = if let Some(slot) = waiting {
            slot
        } else {
            let owner = self.work.tape.nodes().get(array as usize).copied().filter(Node::is_member);
            let Some(owner) = owner else { return Err(Stop::field(RejectCode::UnsupportedValue, field)) };
            self.index_name(doc, &owner, field)?;
            let mut text = self.work.spare.pop().unwrap_or_default();
            text.clear();
            self.work.pending.push(Pending { array, field: edit.field, at: array + 1, text });
            self.work.pending.len() - 1
        };
        let mut text = std::mem::take(&mut self.work.pending[slot].text);
        let mut at = self.work.pending[slot].at;
        while at < edit.node {
            text.extend_from_slice(b"null,");
            at = self.work.tape.nodes()[at as usize].next;
        }
        text.push(b'"');
        if self.append_index(doc, edit.field, node, field, &mut text) {
            text.extend_from_slice(b"\",");
            self.count(edit.field, FieldOutcome::Indexed);
        } else {
            text.truncate(text.len() - 1);
            text.extend_from_slice(b"null,");
        }
        let pending = &mut self.work.pending[slot];
        (pending.text, pending.at) = (text, node.next);
        Ok(())
    }

    /// Writes the index arrays of arrays that end at or before `upto`, inner ones first.
    fn close_arrays(&mut self, doc: &[u8], upto: usize, at: &mut Position, out: &mut Output) {
        if self.work.pending.is_empty() {
            return;
        }
        while let Some(slot) = self.next_to_close(upto) {
            let mut pending = self.work.pending.remove(slot);
            let array = self.work.tape.nodes()[pending.array as usize];
            copy(doc, array.end as usize, at, &mut out.value);
            while pending.at < array.next {
                pending.text.extend_from_slice(b"null,");
                pending.at = self.work.tape.nodes()[pending.at as usize].next;
            }
            pending.text.pop();
            self.name_for(doc, &array, &self.schema.fields[usize::from(pending.field)]);
            self.begin_index_member(&mut out.value);
            out.value.push(b'[');
            out.value.extend_from_slice(&pending.text);
            out.value.push(b']');
            self.work.spare.push(pending.text);
        }
    }

    fn next_to_close(&self, upto: usize) -> Option<usize> {
        let end = |p: &Pending| self.work.tape.nodes()[p.array as usize].end as usize;
        let slots = self.work.pending.iter().enumerate().filter(|(_, p)| end(p) <= upto);
        slots.min_by_key(|(slot, p)| (end(p), *slot)).map(|(slot, _)| slot)
    }

    /// Finds the name of a member's index and refuses a document that already has it.
    fn index_name(&mut self, doc: &[u8], member: &Node, field: &Field) -> Result<(), Stop> {
        self.name_for(doc, member, field);
        let work = &mut *self.work;
        let free = work.names.take(doc, &work.tape, member.parent, &work.name, &work.name_text);
        if free { Ok(()) } else { Err(Stop::field(RejectCode::ReservedMember, field)) }
    }

    fn name_for(&mut self, doc: &[u8], member: &Node, field: &Field) {
        let work = &mut *self.work;
        index_member_name(doc, member, field, &mut work.name, &mut work.name_text);
    }

    fn begin_index_member(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b",\"");
        out.extend_from_slice(&self.work.name);
        out.extend_from_slice(b"\":");
    }

    /// Cuts a member out; an element or the root becomes null.
    fn drop_node(&mut self, doc: &[u8], index: u32, node: &Node, at: &mut Position, out: &mut Output) {
        if node.is_member() {
            cut(doc, &self.work.tape, index, at, &mut out.value);
        } else {
            copy(doc, node.start as usize, at, &mut out.value);
            out.value.extend_from_slice(b"null");
            at.copied = node.end as usize;
        }
    }

    fn remember_residue(&mut self, doc: &[u8], edit: Edit) {
        if self.schema.residue != Residue::Off {
            let work = &mut *self.work;
            work.residues.add(doc, &work.tape, edit);
        }
    }
}

/// Copies the input up to there.
pub(crate) fn copy(doc: &[u8], upto: usize, at: &mut Position, out: &mut Vec<u8>) {
    if upto > at.copied {
        out.extend_from_slice(&doc[at.copied..upto]);
        at.copied = upto;
    }
}

/// Leaves a member out, with exactly one comma. Members of one object come in order.
pub(crate) fn cut(doc: &[u8], tape: &Tape, index: u32, at: &mut Position, out: &mut Vec<u8>) {
    let node = &tape.nodes()[index as usize];
    let name_quote = node.name_start as usize - 1;
    let leading = index == node.parent + 1 || index == at.leading;
    let last = node.next == tape.nodes()[node.parent as usize].next;
    if leading {
        copy(doc, name_quote, at, out);
        // After the last member the next node is one of an outer object.
        at.leading = if last { NO_PARENT } else { node.next };
        at.copied = if last { node.end as usize } else { tape.nodes()[node.next as usize].name_start as usize - 1 };
    } else {
        // Between the previous value and this name stand white space and one comma.
        let comma = doc[..name_quote].iter().rposition(|b| *b == b',').unwrap_or(name_quote);
        copy(doc, comma, at, out);
        at.copied = node.end as usize;
    }
}

/// Encodes a field's bound values into `out`.
pub(crate) fn binding(
    doc: &[u8],
    field: &Field,
    tape: &Tape,
    single: impl Fn(PathId) -> Option<u32>,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Result<(), RejectCode> {
    out.clear();
    for bind in &field.bind {
        let node = single(bind.path).ok_or(RejectCode::MissingRequired)?;
        if !subject::scalar_text(&doc[tape.nodes()[node as usize].span()], scratch) {
            return Err(RejectCode::WrongType);
        }
        seal::append_bound(&bind.name, scratch, out);
    }
    Ok(())
}
