//! A number's calling code and national number, as libphonenumber's `parse` finds them
//! (docs/formats.md, "Telephone numbers"): the same steps in the same order, so that any of its
//! ports agrees with what is indexed here.

use std::borrow::Cow;
use std::fmt::Write;

use phonenumber::country;

use super::region::{self, Length, Region};
use super::written;
use crate::append::Text;

/// Digits of the shortest and longest national number there.
const MIN_LENGTH: usize = 2;
const MAX_LENGTH: usize = 17;
/// Digits of the shortest national number here: of `ext 12`, 12 is no number of anybody.
const MIN_INDEXED: usize = 3;

/// Why a text is no number.
enum NoNumber {
    /// No calling code begins like what follows the plus sign or the international prefix.
    CallingCode,
    Other,
}

/// Appends calling code and national number; `false` (something may be appended) when the text does
/// not parse.
pub(super) fn append(text: &str, region: country::Id, out: &mut Vec<u8>) -> bool {
    let Some(home) = region::by_id(region.as_ref()) else { return false };
    let Some(number) = written_number(text).filter(|number| written::is_viable(number)) else {
        return false;
    };
    let number = written::without_extension(&number);
    let Some((region, mut national)) = calling_code(number, home) else { return false };
    if national.len() < MIN_LENGTH {
        return false;
    }
    let without_prefix = without_national_prefix(&national, region);
    // A number that is too short without its prefix was one with it.
    if !matches!(
        region.length(&without_prefix),
        Length::TooShort | Length::LocalOnly | Length::Invalid
    ) {
        national = without_prefix.into_owned();
    }
    (MIN_INDEXED..=MAX_LENGTH).contains(&national.len())
        && write!(Text(out), "{}{national}", region.code).is_ok()
}

/// The number in a text, or by RFC 3966; `None` where that is broken.
fn written_number(text: &str) -> Option<Cow<'_, str>> {
    const CONTEXT: &str = ";phone-context=";
    let mut number = match text.split_once(CONTEXT) {
        None => Cow::Borrowed(written::possible_number(text)),
        Some((before, after)) => {
            let context = after.split(';').next().filter(|context| written::is_context(context))?;
            let start = text.find("tel:").map_or(0, |at| at + "tel:".len());
            let local = before.get(start..).unwrap_or_default();
            Cow::Owned(if context.starts_with('+') {
                format!("{context}{local}")
            } else {
                local.to_owned()
            })
        }
    };
    if let Some(at) = number.find(";isub=").filter(|at| *at > 0) {
        number = Cow::Owned(number[..at].to_owned());
    }
    Some(number)
}

/// The region by whose rules the number goes, and its digits behind the calling code.
fn calling_code(number: &str, home: &'static Region) -> Option<(&'static Region, String)> {
    let found = match explicit_code(number, home) {
        Err(NoNumber::CallingCode) if number.starts_with(written::is_plus) => {
            // The plus sign may be one too many: tried again without it.
            explicit_code(number.trim_start_matches(written::is_plus), home).ok().flatten()?
        }
        Err(_) => return None,
        Ok(Some(found)) => found,
        Ok(None) => return Some((home, written::digits(number))),
    };
    let (code, national) = found;
    Some((if code == home.code && is_main(home) { home } else { region::by_code(code)? }, national))
}

/// Whether the region is the one its calling code stands for.
fn is_main(home: &'static Region) -> bool {
    region::by_code(home.code).is_some_and(|main| std::ptr::eq(main, home))
}

/// A calling code behind a plus sign or the international prefix, or the home region's own before a
/// number that is none with it.
fn explicit_code(number: &str, home: &Region) -> Result<Option<(u16, String)>, NoNumber> {
    let plus = number.starts_with(written::is_plus);
    let digits = written::digits(number.trim_start_matches(written::is_plus));
    let dialled =
        if plus { Some(digits.as_str()) } else { behind_international_prefix(&digits, home) };
    if let Some(dialled) = dialled {
        if dialled.len() <= MIN_LENGTH {
            return Err(NoNumber::Other);
        }
        let code =
            (1..=3).filter_map(|length| Some((dialled.get(..length)?, dialled.get(length..)?)));
        let known = code.filter(|(code, _)| !code.starts_with('0')).find_map(|(code, rest)| {
            let code: u16 = code.parse().ok()?;
            region::by_code(code).map(|_| (code, rest.to_owned()))
        });
        return known.map(Some).ok_or(NoNumber::CallingCode);
    }
    let Some(rest) = digits.strip_prefix(home.code.to_string().as_str()) else { return Ok(None) };
    let rest = without_national_prefix(rest, home);
    let better =
        !home.matches(&digits) && home.matches(&rest) || home.length(&digits) == Length::TooLong;
    Ok(better.then(|| (home.code, rest.into_owned())))
}

/// What is dialled behind the prefix for foreign numbers. No calling code begins with 0.
fn behind_international_prefix<'d>(digits: &'d str, home: &Region) -> Option<&'d str> {
    let prefix = home.international_prefix.as_ref()?.find(digits)?;
    Some(&digits[prefix.end()..]).filter(|rest| !rest.starts_with('0'))
}

/// The number without what is dialled before it at home, and with what is not written there, unless
/// it was a number and is none any more.
fn without_national_prefix<'d>(digits: &'d str, region: &Region) -> Cow<'d, str> {
    let whole = Cow::Borrowed(digits);
    let Some(found) = region
        .national_prefix
        .as_ref()
        .filter(|_| !digits.is_empty())
        .and_then(|prefix| prefix.captures(digits))
    else {
        return whole;
    };
    let end = found.get(0).map_or(0, |prefix| prefix.end());
    let transform = region
        .transform
        .as_ref()
        .filter(|_| found.len() == 1 || found.get(found.len() - 1).is_some());
    let rest = match transform {
        None => Cow::Borrowed(&digits[end..]),
        Some(rule) => {
            let mut transformed = String::new();
            found.expand(rule, &mut transformed);
            transformed.push_str(&digits[end..]);
            Cow::Owned(transformed)
        }
    };
    if region.matches(digits) && !region.matches(&rest) { whole } else { rest }
}
