//! `phone-<region>`: E.164 with a default region.

mod parse;
mod region;
mod written;

use phonenumber::country;

/// Longest text that is looked at as a number, in characters.
const MAX_LEN: usize = 250;

/// Appends the number in E.164, or `?` and its digits when it does not parse; `false` when it has
/// no digits either. Decimal digits are ASCII already.
pub(super) fn normalize(text: &str, region: country::Id, out: &mut Vec<u8>) -> bool {
    let start = out.len();
    if text.chars().nth(MAX_LEN).is_none() {
        out.push(b'+');
        if parse::append(text, region, out) {
            return true;
        }
        out.truncate(start);
    }
    out.push(b'?');
    out.extend(text.bytes().filter(u8::is_ascii_digit));
    if out.len() == start + 1 {
        out.truncate(start);
        return false;
    }
    true
}
