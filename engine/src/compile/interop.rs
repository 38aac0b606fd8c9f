//! `format`: values in the form of other systems, and what such a form cannot promise.

use serde_json::{Map, Value};

use super::field::FieldPlaces;
use super::read::{Reader, join};
use crate::interop::{Interop, InteropForm};
use crate::schema::{Residue, Schema, ValueType};

/// Longest name of a file.
const LONGEST: usize = 255;

/// The form of an entry of `fields`; `None`: tokens.
pub(super) fn interop(at: &str, map: &Map<String, Value>, reader: &mut Reader) -> Option<Interop> {
    let forms = [
        ("veilstream", None),
        ("fernet", Some(InteropForm::Fernet)),
        ("pgcrypto", Some(InteropForm::Pgcrypto)),
        // Known, to say more than that they are not.
        ("vault", None),
        ("aws-kms", None),
    ];
    let form = reader.choice(at, map, "format", &forms).flatten();
    if let Some(format @ ("vault" | "aws-kms")) = map.get("format").and_then(Value::as_str) {
        reader.error(
            &join(at, "format"),
            format!(
                "{format} takes a call for each value, which has no place in a pipeline; move \
                the columns with `veilstream migrate postgres --from {format}`"
            ),
        );
    }
    let mut file = None;
    for other in [InteropForm::Fernet, InteropForm::Pgcrypto] {
        let Some(text) = reader.string(at, map, other.file_member()) else { continue };
        let place = join(at, other.file_member());
        if form != Some(other) {
            reader
                .error(&place, format!("belongs to \"format\": \"{}\"; remove it", other.as_str()));
        } else if !is_inside(text) {
            reader.error(
                &place,
                "must be a path without \"..\" that starts in the folder of the configuration, \
                as \"keys/cards.fernet\"",
            );
        } else {
            file = Some(text.into());
        }
    }
    let form = form?;
    let refused = [
        (
            "bind",
            "cannot be tied to other members: its text opens in any record; remove \"bind\" or \
            \"format\"",
        ),
        (
            "domain",
            "does not tell fields apart, so it cannot be of a domain; remove \"domain\" (an index \
            may have one)",
        ),
        ("pad", "has a length of its own; remove \"pad\""),
    ];
    for (_, what) in refused.into_iter().filter(|(member, _)| map.contains_key(*member)) {
        reader.error(&join(at, "format"), format!("{} {what}", form.as_str()));
    }
    Some(Interop { form, file })
}

/// Whether a path stays in the folder that it starts in: who writes documents does not choose among
/// the files of the host.
fn is_inside(path: &str) -> bool {
    let is_name = |part: &str| !matches!(part, "" | "." | "..");
    path.len() <= LONGEST
        && path.split('/').all(is_name)
        && !path.contains('\\')
        && !path.chars().any(char::is_control)
}

/// What the form cannot promise, whatever the document says.
pub(super) fn check(schema: &Schema, places: &[FieldPlaces], reader: &mut Reader) {
    let indexed = schema.fields.iter().zip(places);
    for (field, places) in indexed {
        let Some(interop) = &field.interop else { continue };
        let (form, at) = (interop.form.as_str(), join(&places.at, "format"));
        let mut fault = |what: &str| reader.error(&at, format!("{form} {what}"));
        if !schema.subjects.is_empty() {
            fault(
                "has no key for each data subject, so no erasure reaches this field; take it to \
                a document without \"subject\", or remove \"format\"",
            );
        }
        if schema.residue == Residue::Reject {
            fault(
                "is decided by keys that others hold, so \"residue\": \"reject\" would promise \
                what it cannot keep; write \"count\", or remove \"format\"",
            );
        }
        if field.encrypt_null && matches!(field.value_type, None | Some(ValueType::String)) {
            fault(
                "has one text for null and for the string \"null\"; remove \"null\", or \
                declare another \"type\" than string",
            );
        }
        if field.value_type.is_none() {
            reader.warning(
                &at,
                format!(
                    "{form} does not tell types: what is no string comes back as a string; \
                declare its \"type\""
                ),
            );
        }
    }
}
