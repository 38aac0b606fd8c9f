//! Values a field is tied to (`bind`), encoded as associated data of its tokens.

use crate::error::RejectCode;
use crate::scan::Tape;
use crate::schema::{Field, PathId};
use crate::seal;
use crate::subject;

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
