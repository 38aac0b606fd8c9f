//! Kafka Connect's envelope, `{"schema":..,"payload":..}` (`schemas.enable=true`): the schema part
//! says what stands in the payload afterwards.
//!
//! What is mended follows from the schema part and the paths alone, not from one record's payload:
//! records that had one schema have one again.

mod description;
mod mender;

pub(crate) use description::{Description, describe};
pub(super) use mender::Mender;

use super::{Run, Stop};
use crate::envelope::parts;
use crate::error::RejectCode;
use crate::index_member::RootVersion;
use crate::scan::Kind;
use crate::schema::{Envelope, Field, Generalize, Protect};
use crate::splice::Edit;

/// What becomes of the type of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Becomes {
    /// An optional string.
    Text,
    /// Optional, and of the type it had.
    Optional,
    /// What it was.
    Same,
}

impl Becomes {
    pub(super) fn of(field: &Field) -> Self {
        match &field.protect {
            Protect::Encrypt | Protect::Deterministic(_) | Protect::Hash | Protect::Mask(_) => {
                Self::Text
            }
            Protect::Generalize(Generalize::Year(_) | Generalize::Month(_)) => Self::Text,
            Protect::Generalize(Generalize::Bucket(_)) => Self::Same,
            Protect::Redact(with) if with.starts_with(b"\"") => Self::Text,
            Protect::Redact(_) | Protect::Drop => Self::Optional,
        }
    }
}

impl Run<'_> {
    /// Puts the mended schema part among the edits.
    pub(super) fn mend_envelope(&mut self, doc: &[u8]) -> Result<(), Stop> {
        // The schema part of a record that is protected already is mended already.
        let Some(Envelope::Connect) = self.schema.envelope.filter(|_| !self.schema.rotation) else {
            return Ok(());
        };
        let work = &mut *self.work;
        let Some((schema, payload)) = parts(doc, &work.tape) else { return Ok(()) };
        if work.tape.nodes()[schema as usize].kind == Kind::Null {
            return Ok(());
        }
        let previous = &self.plan.indexers[RootVersion::Previous as usize];
        let budget = work.selection.budget();
        let mended = self.plan.mender.mend(
            doc,
            &work.tape,
            schema,
            self.schema,
            |field| previous[field].is_some(),
            budget,
        );
        let fits = mended
            && self.plan.mender.fits(
                doc,
                &work.tape,
                (schema, payload),
                &work.edits,
                self.schema,
                budget,
            );
        if !fits {
            let code = if budget.is_overdrawn() {
                RejectCode::TooComplex
            } else {
                RejectCode::ConnectEnvelope
            };
            return Err(Stop::Reject(code, None, None));
        }
        let at = work.edits.partition_point(|edit| edit.node < schema);
        work.edits.insert(at, Edit { node: schema, field: Edit::MENDED });
        Ok(())
    }
}
