//! The kinds of protection without a key: mask and generalize.

use std::fmt::Write;

use crate::append::Text;
use crate::normalize::is_date;
use crate::scan::{Kind, append_escaped, unescape};
use crate::schema::{Generalize, Mask};
use crate::subject::is_integer;

/// Appends the masked string, quoted; `false` when the value is no string. A value no longer than what is kept is masked whole.
pub(crate) fn mask(kind: Kind, value: &[u8], mask: &Mask, text: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
    text.clear();
    if kind != Kind::String || !unescape(&value[1..value.len() - 1], text) {
        return false;
    }
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let length = text.chars().count();
    let keeps = mask.keep_first + mask.keep_last < length;
    out.push(b'"');
    for (i, c) in text.chars().enumerate() {
        if keeps && (i < mask.keep_first || i >= length - mask.keep_last) {
            append_escaped(c, out);
        } else {
            out.extend_from_slice(mask.with.as_bytes());
        }
    }
    out.push(b'"');
    true
}

/// Appends the coarser value; `false` when the value does not fit.
pub(crate) fn generalize(kind: Kind, value: &[u8], to: Generalize, text: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
    let length = match to {
        Generalize::Year => 4,
        Generalize::Month => 7,
        Generalize::Bucket(width) => return kind == Kind::Number && bucket(value, width, out),
    };
    text.clear();
    if kind != Kind::String || !unescape(&value[1..value.len() - 1], text) || !std::str::from_utf8(text).is_ok_and(is_date) {
        return false;
    }
    out.push(b'"');
    out.extend_from_slice(&text[..length]);
    out.push(b'"');
    true
}

/// The lower bound of the bucket: the largest multiple of `width` that is not above the value.
fn bucket(value: &[u8], width: u64, out: &mut Vec<u8>) -> bool {
    let number = std::str::from_utf8(value).ok().filter(|t| is_integer(t.as_bytes())).and_then(|t| t.parse::<i128>().ok());
    let Some(number) = number.filter(|n| n.unsigned_abs() < 1 << 100) else { return false };
    let lower = number.div_euclid(i128::from(width)) * i128::from(width);
    write!(Text(out), "{lower}").is_ok()
}
