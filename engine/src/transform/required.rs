//! `required`: present and not null.

use super::{Run, Stop};
use crate::error::RejectCode;
use crate::index_member::{FEW, Siblings};
use crate::scan::{Kind, Tape};
use crate::schema::PathId;
use crate::select::{Last, Selection};

/// Buffers of the look at the parents of required fields.
#[derive(Default)]
pub(super) struct Parents {
    selection: Selection,
    siblings: Siblings,
}

impl Parents {
    /// Bytes of its buffers.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.selection.buffer_bytes() + self.siblings.buffer_bytes()
    }
}

impl Run<'_> {
    /// A path that selects one place must find it. One that may select several is asked of every
    /// object its parent reaches: where there is none, as in an empty list, none is missing.
    pub(super) fn check_required(&mut self, doc: &[u8]) -> Result<(), Stop> {
        let required = self.schema.fields.iter().filter(|field| field.required).count();
        self.charge(required as u64 * self.work.selection.hits.len() as u64 / 4)?;
        let several = &self.schema.required_in.fields;
        for (i, field) in self.schema.fields.iter().enumerate().filter(|(_, f)| f.required) {
            let tape = &self.work.tape;
            let mut nodes =
                self.work.selection.hits.iter().filter(|h| usize::from(h.path) == i).peekable();
            let somewhere =
                nodes.peek().is_some() || several.iter().any(|(field, _)| usize::from(*field) == i);
            if !somewhere || nodes.any(|h| tape.nodes()[h.node as usize].kind == Kind::Null) {
                return Err(Stop::field(RejectCode::MissingRequired, field));
            }
        }
        if several.is_empty() { Ok(()) } else { self.check_parents(doc) }
    }

    fn check_parents(&mut self, doc: &[u8]) -> Result<(), Stop> {
        let work = &mut *self.work;
        let Parents { selection, siblings } = &mut work.parents;
        let budget = *work.selection.budget();
        let selected =
            self.schema.required_in.parents.select_within(budget, doc, &work.tape, selection);
        *work.selection.budget() = *selection.budget();
        selected.map_err(|e| Stop::Reject(e.code, None, e.offset))?;
        siblings.clear();
        for hit in &selection.hits {
            let (field, last): &(PathId, Last) =
                &self.schema.required_in.fields[usize::from(hit.path)];
            let members = work.tape.nodes()[hit.node as usize].count.min(FEW);
            if !work.selection.budget().charge(last.names.len() as u64 * u64::from(4 + members)) {
                return Err(Stop::Reject(RejectCode::TooComplex, None, None));
            }
            if !has_children(doc, &work.tape, hit.node, last, siblings) {
                return Err(Stop::field(
                    RejectCode::MissingRequired,
                    &self.schema.fields[usize::from(*field)],
                ));
            }
        }
        Ok(())
    }
}

/// Whether a container has every child of those names and indexes; null is looked for elsewhere.
/// What is no object has no names to miss, what is no array no indexes.
fn has_children(
    doc: &[u8],
    tape: &Tape,
    container: u32,
    last: &Last,
    siblings: &mut Siblings,
) -> bool {
    let node = &tape.nodes()[container as usize];
    let has_name = |name: &String, siblings: &mut Siblings| {
        siblings.find_text(doc, tape, container, name.as_bytes()).is_some()
    };
    let has_index = |index: &i64| (-i64::from(node.count)..i64::from(node.count)).contains(index);
    match node.kind {
        Kind::Object => last.names.iter().all(|name| has_name(name, siblings)),
        Kind::Array => last.indexes.iter().all(has_index),
        _ => true,
    }
}
