//! Faults between the parts of one document.

use std::collections::HashMap;

use super::document::{ReadSchema, index_places};
use super::interop;
use super::read::{Reader, join};
use crate::index_member::has_members;
use crate::schema::{Field, IndexRule, PathId, Protect, Undeclared};
use crate::select::{Query, Step, Target, path_of};
use crate::token::FieldId;
use crate::transform::{Description, describe};

/// No value that is longer is quoted in a message.
const LONGEST_QUOTED: usize = 64;

pub(super) fn check(read: &ReadSchema, reader: &mut Reader) {
    let fields = &read.schema.fields;
    // A field whose path did not parse left no query; ids and fields no longer correspond, and the
    // document is refused anyway.
    if read.places.len() != fields.len()
        || !reader.faults.iter().all(|f| f.severity == crate::error::Severity::Warning)
    {
        return;
    }
    clear_reads(read, reader);
    filters(read, reader);
    dropped_reads(read, reader);
    covered(read, reader);
    indexes(read, reader);
    field_ids(read, reader);
    crowds(read, reader);
    envelope(read, reader);
    written_envelope(read, reader);
    interop::check(&read.schema, &read.places, reader);
}

/// What the envelope that is written cannot say of the fields.
fn written_envelope(read: &ReadSchema, reader: &mut Reader) {
    const AT: &str = "/envelope/schema";
    let Some(written) = &read.schema.written else { return };
    let mut empty = Vec::new();
    written.write(b"null", &mut empty);
    match describe(&read.schema, &empty) {
        Description::Whole => {}
        Description::Lacks(fields) => {
            for field in fields {
                reader.error(
                    &join(&read.places[field].at, "path"),
                    format!("selects nothing that {AT} describes; sinks would not see it, so describe it there"),
                );
            }
        }
        Description::HasIndex => reader.error(
            AT,
            "describes a member that an index is written to; remove it, for it is added",
        ),
        Description::TooLarge => reader.error(AT, "is too large for each record"),
    }
}

/// What the schema part of an envelope cannot say.
fn envelope(read: &ReadSchema, reader: &mut Reader) {
    if read.schema.envelope.is_none() {
        return;
    }
    if read.schema.undeclared == Undeclared::Drop {
        reader.error(
            "/undeclared",
            "\"drop\" leaves required fields of the envelope's schema \
            without values; drop fields by their paths, or write \"reject\"",
        );
    }
    for ((field, query), places) in read.schema.fields.iter().zip(&read.queries).zip(&read.places) {
        match &field.protect {
            Protect::Drop if query.steps().len() == 1 => reader
                .error(&join(&places.at, "path"), "is the payload itself; drop places inside it"),
            Protect::Redact(with) if !with.starts_with(b"\"") && with != b"null" => {
                reader.error(
                    &join(&places.at, "with"),
                    "has another type than the envelope's schema may say; write a string or null",
                );
            }
            _ => {}
        }
    }
}

/// `when`, `subject` and `bind` are read again on the way back, from the output: no field may
/// change what they read.
fn clear_reads(read: &ReadSchema, reader: &mut Reader) {
    for path in &read.clear_reads {
        let query = &read.queries[usize::from(*path)];
        for (i, field) in read.schema.fields.iter().enumerate() {
            if read.queries[i].may_cover(query) {
                let message = format!(
                    "reads a member that field {} protects; it must stay in clear",
                    field.id
                );
                reader.error(&read.pointers[usize::from(*path)], message);
            }
        }
    }
}

/// What a filter reads in some events only is settled there (`filter_reads_protected`); what it
/// reads whenever there is anything to read is refused here.
fn filters(read: &ReadSchema, reader: &mut Reader) {
    let fields = &read.schema.fields;
    for (i, (query, pointer)) in read.queries.iter().zip(&read.pointers).enumerate() {
        if i < fields.len() && query.filters_by_what_it_selects() {
            reader.error(
                pointer,
                "has a filter that judges by what the path itself protects; \
                filter on a member that stays in clear",
            );
        }
        for (steps, value) in query.filter_reads() {
            // To ask whether a protected member is there is no fault: it is there still, unless it
            // is dropped.
            let inside = &steps[..steps.len().saturating_sub(1)];
            let changes = |(field, path): (&Field, &Query)| {
                let whole = value || field.protect == Protect::Drop;
                let covers = if whole {
                    path.always_covers_steps(&steps)
                } else {
                    !steps.is_empty() && path.always_covers_steps(inside)
                };
                covers.then(|| field.id.clone())
            };
            for id in fields.iter().zip(&read.queries).filter_map(changes) {
                reader.error(
                    pointer,
                    format!(
                        "has a filter that reads a member field {id} \
                    protects; filter on members that stay in clear"
                    ),
                );
            }
        }
    }
}

/// With `undeclared: drop` only what some path names is left to be judged on the way back. What may
/// be dropped is not looked at twice: a filter that finds nothing there would leave tokens closed.
fn dropped_reads(read: &ReadSchema, reader: &mut Reader) {
    if read.schema.undeclared != Undeclared::Drop {
        return;
    }
    for (query, pointer) in read.queries.iter().zip(&read.pointers).take(read.schema.fields.len()) {
        for (steps, _) in query.filter_reads() {
            if !read.queries.iter().any(|declared| declared.always_covers_steps(&steps)) {
                let path = Some(path_of(&steps))
                    .filter(|path| path.len() <= LONGEST_QUOTED)
                    .map_or_else(|| "its path".to_owned(), |path| format!("\"{path}\""));
                reader.error(
                    pointer,
                    format!(
                        "has a filter that reads a member \"undeclared\": \
                    \"drop\" may remove; add {path} to \"clear\""
                    ),
                );
            }
        }
    }
}

fn covered(read: &ReadSchema, reader: &mut Reader) {
    for i in 0..read.schema.fields.len() {
        for (k, outer) in read.schema.fields.iter().enumerate().filter(|(k, _)| *k != i) {
            let (a, b) = (&read.queries[k], &read.queries[i]);
            if a.same(b) && k < i {
                reader.warning(
                    &read.pointers[i],
                    format!("selects what field {} selects; the first declared wins", outer.id),
                );
            } else if a.may_lie_above(b) {
                reader.warning(
                    &read.pointers[i],
                    format!(
                        "may select inside what field {} protects; the outer one covers it",
                        outer.id
                    ),
                );
            }
        }
    }
}

fn indexes(read: &ReadSchema, reader: &mut Reader) {
    let fields = &read.schema.fields;
    let places: Vec<Vec<Vec<Step>>> =
        fields.iter().zip(&read.queries).map(|(field, query)| index_places(field, query)).collect();
    for (i, _) in fields.iter().enumerate().filter(|(_, field)| has_members(field)) {
        let at = join(&read.places[i].at, "index");
        // Beside the payload itself there is the envelope, which takes no members.
        let beside_the_payload =
            read.schema.envelope.is_some() && places[i].iter().any(|place| place.len() == 1);
        if read.queries[i].target() == Target::Nameless || beside_the_payload {
            reader.error(
                &at,
                "there is no member to put it beside: the path must end in a name, \
                or in elements of a named array",
            );
            continue;
        }
        for (k, other) in fields.iter().enumerate().filter(|(k, _)| *k != i) {
            let taken = places[i].iter().find_map(|place| {
                taken(
                    place,
                    &read.queries[k],
                    &places[k][..],
                    k < i && !read.queries[k].same(&read.queries[i]),
                )
            });
            if let Some(name) = taken {
                reader.error(
                    &join(&at, "into"),
                    format!("{name} is taken by field {}; choose another \"into\"", other.id),
                );
            }
        }
        written_reads(read, i, &places[i], reader);
    }
}

/// The name of an index member at `place` that is sure to be another field's: it selects a member
/// of that name, or writes its own index there.
fn taken(
    place: &[Step],
    other: &Query,
    others: &[Vec<Step>],
    declared_before: bool,
) -> Option<String> {
    let selected = Query::shared_name(place, other.steps());
    let written = others
        .iter()
        .filter(|_| declared_before)
        .find_map(|other| Query::shared_name(place, other));
    selected.or(written).map(str::to_owned)
}

/// Reveal would read an index where transform read nothing.
fn written_reads(read: &ReadSchema, field: usize, places: &[Vec<Step>], reader: &mut Reader) {
    let id = &read.schema.fields[field].id;
    for (path, (query, pointer)) in read.queries.iter().zip(&read.pointers).enumerate() {
        let reads_clear = read.clear_reads.iter().any(|p| usize::from(*p) == path);
        let reads = reads_clear && places.iter().any(|place| query.may_reach(place));
        // What a filter may meet under another name is looked for in the output, record by record.
        let filters = query.filter_reads().iter().any(|(steps, _)| {
            places.iter().any(|place| Query::shared_name(place, steps).is_some())
        });
        if reads || filters {
            reader.error(
                pointer,
                format!(
                    "reads a member the index of field {id} may be written \
                to; read another, or choose another \"into\" there"
                ),
            );
        }
    }
}

/// Two names with one fid could be swapped for each other.
fn field_ids(read: &ReadSchema, reader: &mut Reader) {
    let mut seen: HashMap<FieldId, &str> = HashMap::new();
    for (fid, name) in read.schema.names() {
        let other = *seen.entry(fid).or_insert(name);
        if other != name {
            reader.error(
                "/fields",
                format!("the names {name} and {other} have the same field id; rename one"),
            );
        }
    }
}

/// Values that a bucket must at least hold for it to hide which one it is.
const CROWD: u64 = 4;

/// How well the indexes of one field together hide its values: each of them splits what the others
/// leave.
fn crowds(read: &ReadSchema, reader: &mut Reader) {
    for (i, field) in read.schema.fields.iter().enumerate() {
        let Some((rule, distinct)) =
            field.index.as_ref().and_then(|rule| Some((rule, rule.distinct?)))
        else {
            continue;
        };
        let of_value = |k: usize, other: &IndexRule| {
            let reads = |path: &PathId| read.queries[usize::from(*path)].same(&read.queries[i]);
            if other.of.is_empty() {
                read.queries[k].same(&read.queries[i])
            } else {
                other.of.iter().any(reads)
            }
        };
        let indexes = read
            .schema
            .fields
            .iter()
            .enumerate()
            .filter_map(|(k, other)| other.index.as_ref().filter(|rule| of_value(k, rule)));
        let bits: u32 = indexes.map(|rule| u32::from(rule.bits)).sum();
        let crowd = distinct.checked_shr(bits).unwrap_or(0);
        if crowd < CROWD {
            let message = if rule.is_unique() {
                "is unique: equal values show, however many distinct ones there are; write fewer \
                \"bits\" to hide them"
                    .to_owned()
            } else {
                let fit = (distinct / CROWD).checked_ilog2().filter(|bits| *bits >= 8);
                let remedy = fit.map_or_else(
                    || "so few values cannot be hidden by an index; remove it".to_owned(),
                    |bits| format!("write {bits} bits or fewer"),
                );
                format!(
                    "leaves {crowd} values a bucket ({distinct} distinct ones, {bits} bits in all \
                    indexes of the value); below {CROWD} it hides nothing: {remedy}"
                )
            };
            reader.warning(&join(&join(&read.places[i].at, "index"), "bits"), message);
        }
    }
}
