//! The schema of records that are protected already and move to newer keys.

use super::Compiled;
use super::document::ReadSchema;
use super::read::join;
use crate::error::{Fault, Severity};
use crate::schema::{Field, PathId, RequiredIn, Residue, Schema, Undeclared};

/// What opens is sealed and indexed again. The rest was judged when the records were protected, and
/// stays: masked and hashed values, their indexes, members that nobody declared, the schema part of
/// an envelope, hashed record keys and headers.
pub(super) fn rotation(mut read: ReadSchema) -> Compiled {
    let mut warnings = Vec::new();
    for i in 0..read.schema.fields.len() {
        let computable = is_computable(&read, i);
        let field = &mut read.schema.fields[i];
        if field.protect.is_reversible() && field.index.is_some() && !computable {
            warnings.push(Fault {
                pointer: join(&join(&read.places[i].at, "index"), "of"),
                message: format!(
                    "reads what stands in no protected record; indexes of field {} stay as they are",
                    field.id
                ),
                severity: Severity::Warning,
            });
        }
        field.index.take_if(|_| !computable);
        field.required = false;
        field.value_type = None;
    }
    let schema = Schema {
        rotation: true,
        undeclared: Undeclared::Pass,
        residue: Residue::Off,
        written: None,
        required_in: RequiredIn::default(),
        key: read.schema.key.take().filter(|rule| rule.protect.is_reversible()),
        headers: std::mem::take(&mut read.schema.headers)
            .into_iter()
            .filter(|rule| rule.protect.is_reversible())
            .collect(),
        ..read.schema
    };
    Compiled { schema, warnings }
}

/// Whether the index of a field follows from the opened record alone.
fn is_computable(read: &ReadSchema, field: usize) -> bool {
    let fields = &read.schema.fields;
    let Field { protect, index: Some(rule), .. } = &fields[field] else { return true };
    let opens = |part: &PathId| {
        let part = &read.queries[usize::from(*part)];
        (0..fields.len())
            .all(|of| fields[of].protect.is_reversible() || !read.queries[of].may_cover(part))
    };
    protect.is_reversible() && rule.of.iter().all(opens)
}
