//! `undeclared`: members nobody named.

use super::{Run, Stop, Undeclared};
use crate::error::RejectCode;
use crate::splice::Edit;

impl Run<'_> {
    /// A node is declared when it is selected, lies in a selected one or contains one. Others are
    /// rejected, or dropped by an edit of their own; an undeclared array element counts like a
    /// member, so that no list of clear values slips through.
    pub(super) fn undeclared(&mut self) -> Result<(), Stop> {
        if self.schema.undeclared == Undeclared::Pass {
            return Ok(());
        }
        let work = &mut *self.work;
        work.selection.mark_the_way(&work.tape);
        let nodes = work.tape.nodes();
        let mut hits = work.selection.hits.iter().peekable();
        let protected = work.edits.len();
        // The root is no member.
        let mut at = if nodes[0].is_container() && hits.peek().is_none_or(|h| h.node != 0) {
            1
        } else {
            nodes.len() as u32
        };
        while let Some(node) = nodes.get(at as usize) {
            while hits.next_if(|h| h.node < at).is_some() {}
            if hits.peek().is_some_and(|h| h.node == at) {
                at = node.next;
            } else if work.selection.is_on_the_way(at) {
                at += 1;
            } else if self.schema.undeclared == Undeclared::Reject {
                let offset = if node.is_member() { node.name_start } else { node.start };
                return Err(Stop::Reject(
                    RejectCode::UndeclaredMember,
                    None,
                    Some(offset as usize),
                ));
            } else {
                work.edits.push(Edit { node: at, field: Edit::UNDECLARED });
                at = node.next;
            }
        }
        if work.edits.len() > protected {
            work.edits.sort_unstable_by_key(|e| e.node);
        }
        Ok(())
    }
}
