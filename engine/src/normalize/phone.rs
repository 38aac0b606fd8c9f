//! `phone-<region>`: E.164 with a default region.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use phonenumber::{PhoneNumber, country};

use crate::append::Text;

/// Longest text that is looked at as a number; a telephone number has at most 15 digits.
const MAX_LEN: usize = 64;

/// Appends the number in E.164, or `?` and its digits when it does not parse; `false` when it has no digits either.
pub(super) fn normalize(text: &str, region: country::Id, out: &mut Vec<u8>) -> bool {
    if let Some(number) = parse(text, region) {
        // Not the crate's formatter: it looks for a national format too, by regular expressions, before it writes these two.
        return write!(Text(out), "+{}{}", number.code().value(), number.national()).is_ok();
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

/// The crate has panicked on crafted input before: a panic is a number that does not parse. Its message may quote the number, so a program
/// that normalises personal data needs a panic hook that prints no message.
fn parse(text: &str, region: country::Id) -> Option<PhoneNumber> {
    if text.len() > MAX_LEN {
        return None;
    }
    let parsed = catch_unwind(AssertUnwindSafe(|| phonenumber::parse(Some(region), text).ok()));
    parsed.ok().flatten().filter(|number| number.code().value() != 0)
}
