//! What filters were judged by.

use super::{Run, Stop};
use crate::error::RejectCode;
use crate::scan::Kind;
use crate::schema::Protect;
use crate::splice::Edit;

impl Run<'_> {
    /// Reveal judges filters by the output. So none may have compared, measured or counted what
    /// does not stay as it is.
    pub(super) fn check_filter_reads(&mut self) -> Result<(), Stop> {
        if !self.schema.program.has_filters() {
            return Ok(());
        }
        let work = &mut *self.work;
        for Edit { node, field } in work.edits.iter().copied() {
            let field = self.schema.fields.get(usize::from(field));
            let kept = work.tape.nodes()[node as usize].kind == Kind::Null
                && field.is_some_and(|f| f.protect != Protect::Drop && !f.encrypt_null);
            let gone = field.is_none_or(|f| f.protect == Protect::Drop);
            if !kept && work.selection.was_judged_by(&work.tape, node, gone) {
                return Err(Stop::Reject(
                    RejectCode::FilterReadsProtected,
                    field.map(|f| f.id.clone()),
                    None,
                ));
            }
        }
        Ok(())
    }
}
