//! `phone-<region>`: E.164 with a default region.

use std::fmt::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};

use phonenumber::country::{self, Source};
use phonenumber::metadata::DATABASE;
use phonenumber::{Metadata, PhoneNumber};

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
    let parsed = catch_unwind(AssertUnwindSafe(|| {
        let number = phonenumber::parse(Some(region), text).ok()?;
        let home = DATABASE.by_id(region.as_ref())?;
        if number.code().value() == home.country_code() { Some(number) } else { Some(abroad(text, home, &number).unwrap_or(number)) }
    }));
    parsed.ok().flatten().filter(|number| number.code().value() != 0)
}

/// The number of another country, by that country's rules. The crate takes the default region's national prefix off it (of +86 131 2345 6789 the US's 1,
/// of +39 06 698 Germany's 0), which leaves the number of somebody else.
fn abroad(text: &str, home: &Metadata, number: &PhoneNumber) -> Option<PhoneNumber> {
    if number.code().source() != Source::Idd {
        return phonenumber::parse(None, text).ok();
    }
    // Dialled from home, as 011 86 ..: that prefix means something to the default region only.
    let mut digits: String = text.chars().filter(char::is_ascii_digit).collect();
    if let Some(extension) = number.extension() {
        digits.truncate(digits.strip_suffix(extension.as_ref())?.len());
    }
    let prefix = home.international_prefix()?.find(&digits).filter(|found| found.start() == 0)?.end();
    digits.replace_range(..prefix, "+");
    phonenumber::parse(None, &digits).ok().filter(|same| same.code().value() == number.code().value())
}
