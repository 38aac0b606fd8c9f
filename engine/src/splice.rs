//! Splicing: the output is the input with the selected spans replaced or left out.

use crate::scan::{NO_PARENT, Tape};
use crate::schema::PathId;

/// One node that does not stay as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edit {
    pub(crate) node: u32,
    /// The field that protects it, or [`Edit::UNDECLARED`] or [`Edit::MENDED`].
    pub(crate) field: PathId,
}

impl Edit {
    /// Dropped because nobody named it.
    pub(crate) const UNDECLARED: PathId = PathId::MAX;
    /// The schema part of an envelope: mended.
    pub(crate) const MENDED: PathId = PathId::MAX - 1;
}

/// Where the walk through the document stands.
pub(crate) struct Position {
    /// Input copied up to here.
    pub(crate) copied: usize,
    /// The child that continues a run of dropped members at the front of an object.
    pub(crate) leading: u32,
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
        at.copied = if last {
            node.end as usize
        } else {
            tape.nodes()[node.next as usize].name_start as usize - 1
        };
    } else {
        // Between the previous value and this name stand white space and one comma.
        let comma = doc[..name_quote].iter().rposition(|b| *b == b',').unwrap_or(name_quote);
        copy(doc, comma, at, out);
        at.copied = node.end as usize;
    }
}
