//! The text that a value has in another system, and the way back.

use super::InteropForm;
use crate::scan::{Tape, append_escaped, is_json_text, unescape};
use crate::schema::{Field, ValueType};

/// Appends the text of a JSON value: a string's unescaped UTF-8, the JSON text of anything else.
/// `false`: there is none. A lone surrogate has no UTF-8, and PostgreSQL's text has no character
/// zero.
pub(crate) fn to_text(form: InteropForm, value: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    let has_text = match value {
        [b'"', inner @ .., b'"'] => unescape(inner, out),
        _ => {
            out.extend_from_slice(value);
            true
        }
    };
    has_text && (form != InteropForm::Pgcrypto || memchr::memchr(0, &out[start..]).is_none())
}

/// The JSON value of a text replaces the content of `out`: a string, or where the field declares
/// another type the JSON text itself. `false`: the text is no UTF-8, or not of that type.
pub(crate) fn to_json(field: &Field, text: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    match field.value_type {
        None | Some(ValueType::String) => {
            let Ok(text) = std::str::from_utf8(text) else { return false };
            out.reserve(text.len() + 2);
            out.push(b'"');
            text.chars().for_each(|c| append_escaped(c, out));
            out.push(b'"');
            true
        }
        Some(value_type) => {
            out.extend_from_slice(text);
            let mut tape = Tape::default();
            is_json_text(text)
                && tape.scan(text).is_ok()
                && tape.nodes().first().is_some_and(|node| {
                    value_type.is_of(node.kind, text)
                        || (field.encrypt_null && node.kind == crate::scan::Kind::Null)
                })
        }
    }
}
