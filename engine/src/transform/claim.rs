//! Which schema a record belongs to.

use super::{Transformer, Work, envelope_offset, rejected};
use crate::compile::SchemaSet;
use crate::envelope::parts;
use crate::error::{Reject, RejectCode};
use crate::record::Record;
use crate::scan::{Kind, Tape};
use crate::schema::{Scalar, Schema, When};
use crate::select::Selection;
use crate::subject;

impl Transformer {
    /// Finds the schema that claims the record, scanning its value into the table and selecting in
    /// it; `true`: a tombstone.
    pub(super) fn claim(
        &mut self,
        schemas: &SchemaSet,
        record: &Record<'_>,
    ) -> Result<(usize, bool), Reject> {
        let Some(value) = record.value else {
            let schema = schemas.tombstone_schema(record);
            return schema.map(|i| (i, true)).ok_or_else(|| Reject::new(RejectCode::NoSchema));
        };
        if value.len() > self.limits.input {
            return Err(Reject::new(RejectCode::TooLarge));
        }
        if value.first() == Some(&0) {
            return Err(Reject::new(RejectCode::RegistryFramed));
        }
        let scanned = self.work.tape.scan(value);
        scanned.map_err(|e| Reject { offset: Some(e.offset), ..Reject::new(e.code) })?;
        let enveloped = parts(value, &self.work.tape).is_some();
        let mut declared = false;
        // Whose envelope is around the value in the table.
        let mut written_by = None;
        for index in schemas.candidates(record.topic) {
            let schema = &schemas.schemas()[index];
            if !schema.takes_headers(record.headers) {
                continue;
            }
            let writes = schema.written.is_some();
            if written_by != writes.then_some(index) {
                written_by = writes.then_some(index);
                self.work.envelop(schema, value)?;
            }
            let Work { tape, selection, text, enveloped: in_envelope, .. } = &mut self.work;
            let doc = if writes { &**in_envelope } else { value };
            schema.program.select(doc, tape, selection).map_err(|e| {
                let offset = e.offset.map(|at| at.saturating_sub(envelope_offset(schema)));
                rejected(schema, e.code, None, offset)
            })?;
            if value_clauses_hold(schema, doc, tape, selection, text) {
                // Protected as it is, an envelope would tell its readers of types that are not
                // there, and what is in none would not be found at all.
                let as_declared = (schema.envelope.is_some() && !writes) == enveloped;
                return if as_declared {
                    Ok((index, false))
                } else {
                    Err(rejected(schema, RejectCode::ConnectEnvelope, None, None))
                };
            }
            declared |= schema.envelope.is_some() && !writes;
        }
        // Conditions look for members where they are in no envelope.
        Err(Reject::new(if enveloped && !declared {
            RejectCode::ConnectEnvelope
        } else {
            RejectCode::NoSchema
        }))
    }
}

impl Work {
    /// Scans the value as the schema reads it: in the envelope that it writes.
    fn envelop(&mut self, schema: &Schema, value: &[u8]) -> Result<(), Reject> {
        let doc = match &schema.written {
            Some(written) => {
                written.write(value, &mut self.enveloped);
                &*self.enveloped
            }
            None => value,
        };
        let scanned = self.tape.scan(doc);
        // The value alone was scanned; only its depth can be too much now.
        scanned.map_err(|e| rejected(schema, e.code, None, None))
    }
}

/// Whether every clause of `when` on the value holds; header clauses are left out.
pub(crate) fn value_clauses_hold(
    schema: &Schema,
    doc: &[u8],
    tape: &Tape,
    selection: &Selection,
    text: &mut Vec<u8>,
) -> bool {
    schema.when.iter().all(|when| match when {
        When::Header(..) => true,
        When::Value(path, scalar) => match selection.single(*path) {
            Some(node) => equals(doc, tape, node, scalar, text),
            None => false,
        },
    })
}

/// JSON equality of a node with a scalar.
fn equals(doc: &[u8], tape: &Tape, node: u32, scalar: &Scalar, text: &mut Vec<u8>) -> bool {
    let node = &tape.nodes()[node as usize];
    match (node.kind, scalar) {
        (Kind::Null, Scalar::Null) => true,
        (Kind::Bool, Scalar::Bool(b)) => (doc[node.start as usize] == b't') == *b,
        (Kind::String, Scalar::String(s)) => {
            text.clear();
            crate::scan::unescape(&doc[node.inner()], text) && text == s.as_bytes()
        }
        (Kind::Number, Scalar::Number(n)) => {
            let written = std::str::from_utf8(&doc[node.span()]).unwrap_or_default();
            let both_integers =
                subject::is_integer(written.as_bytes()) && subject::is_integer(n.as_bytes());
            let double = |text: &str| text.parse::<f64>().ok().filter(|d| d.is_finite());
            // Doubles that are too large for one another to be told apart are compared as they are
            // spelled.
            if both_integers {
                written == n
            } else {
                double(written).map_or(written == n, |d| double(n) == Some(d))
            }
        }
        _ => false,
    }
}
