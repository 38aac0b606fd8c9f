//! Whether the schema part that a document has written says what its fields make of a value.

use super::mender::{Mender, describes};
use crate::budget::Budget;
use crate::envelope::parts;
use crate::scan::Tape;
use crate::schema::{Protect, Schema};

/// What the schema part says of the fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Description {
    /// A type for the values of each.
    Whole,
    /// Nothing of the fields of these indexes.
    Lacks(Vec<usize>),
    /// A member where an index is written to.
    HasIndex,
    /// Too much to be read for each record.
    TooLarge,
}

/// Looks at the schema part of an envelope around `null`, with nothing else.
pub(crate) fn describe(rules: &Schema, empty: &[u8]) -> Description {
    let mut tape = Tape::default();
    let parts = tape.scan(empty).ok().and_then(|()| parts(empty, &tape));
    let Some((schema, _)) = parts else { return Description::TooLarge };
    let mut lacking = Vec::new();
    for (i, (field, steps)) in rules.fields.iter().zip(&rules.enveloped).enumerate() {
        match describes(empty, &tape, schema, steps) {
            None => return Description::TooLarge,
            Some(false) if field.protect != Protect::Drop => lacking.push(i),
            Some(_) => {}
        }
    }
    if !lacking.is_empty() {
        return Description::Lacks(lacking);
    }
    let mut budget = Budget::of_record(empty.len());
    // While a root rotates, there are two index members.
    let is_mended = Mender::default().mend(empty, &tape, schema, rules, |_| true, &mut budget);
    match is_mended {
        true => Description::Whole,
        false if budget.is_overdrawn() => Description::TooLarge,
        false => Description::HasIndex,
    }
}
