//! `phone-<region>`: E.164 with a default region.

use std::panic::{AssertUnwindSafe, catch_unwind};

use phonenumber::{Mode, country};

/// Longest text that is looked at as a number; a telephone number has at most 15 digits.
const MAX_LEN: usize = 64;

/// Appends the number in E.164, or `?` and its digits when it does not parse; `false` when it has no digits either.
pub(super) fn normalize(text: &str, region: country::Id, out: &mut Vec<u8>) -> bool {
    if let Some(e164) = parse(text, region) {
        out.extend_from_slice(e164.as_bytes());
        return true;
    }
    out.push(b'?');
    let start = out.len();
    out.extend(text.bytes().filter(u8::is_ascii_digit));
    if out.len() == start {
        out.clear();
        return false;
    }
    true
}

/// The crate has panicked on crafted input: a panic is a number that does not parse.
fn parse(text: &str, region: country::Id) -> Option<String> {
    if text.len() > MAX_LEN {
        return None;
    }
    let parsed = catch_unwind(AssertUnwindSafe(|| phonenumber::parse(Some(region), text).ok().map(|n| n.format().mode(Mode::E164).to_string())));
    parsed.ok().flatten()
}
