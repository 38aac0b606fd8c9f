//! Values a field is tied to (`bind`), encoded as associated data of its tokens.

use crate::error::RejectCode;
use crate::scan::Tape;
use crate::schema::{Field, PathId};
use crate::seal;
use crate::subject;

/// The bound values of one field in one record.
#[derive(Default)]
pub(crate) struct Binding {
    encoded: Vec<u8>,
    scalar: Vec<u8>,
}

impl Binding {
    /// Encodes a field's bound values.
    pub(crate) fn encode(
        &mut self,
        doc: &[u8],
        field: &Field,
        tape: &Tape,
        single: impl Fn(PathId) -> Option<u32>,
    ) -> Result<(), RejectCode> {
        self.encoded.clear();
        for bind in &field.bind {
            let node = single(bind.path).ok_or(RejectCode::MissingRequired)?;
            let text = &doc[tape.nodes()[node as usize].span()];
            if !subject::scalar_text(text, &mut self.scalar) {
                return Err(RejectCode::WrongType);
            }
            seal::append_bound(&bind.name, &self.scalar, &mut self.encoded);
        }
        Ok(())
    }

    /// Encodes given values, names and JSON texts, as those of a record are.
    pub(crate) fn encode_values(&mut self, values: &[(&str, &[u8])]) -> Result<(), RejectCode> {
        self.encoded.clear();
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by_key(|(name, _)| *name);
        if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err(RejectCode::DuplicateMember);
        }
        for (name, json) in sorted {
            if !subject::scalar_text(json, &mut self.scalar) {
                return Err(RejectCode::WrongType);
            }
            seal::append_bound(name, &self.scalar, &mut self.encoded);
        }
        Ok(())
    }

    /// What was encoded last.
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// What was encoded last; `None` for a field that is tied to nothing.
    pub(crate) fn of(&self, field: &Field) -> Option<&[u8]> {
        (!field.bind.is_empty()).then_some(self.encoded.as_slice())
    }

    /// Bytes of its buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.encoded.capacity() + self.scalar.capacity()
    }
}
