//! The kinds of protection without a key: mask and generalize.

use std::fmt::Write;

use crate::append::Text;
use crate::normalize::is_date;
use crate::scan::{Kind, append_escaped, unescape};
use crate::schema::{Dates, Generalize, MaskRule};
use crate::subject::is_integer;

/// Appends the masked string, quoted; `false` when the value is no string. A value no longer than
/// what is kept is masked whole.
pub(crate) fn mask(
    kind: Kind,
    value: &[u8],
    mask: &MaskRule,
    text: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> bool {
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

/// Appends the coarser value; `false` when the value does not fit. A year, or the month of a date
/// without a month, is as coarse as it can be made.
pub(crate) fn generalize(
    kind: Kind,
    value: &[u8],
    to: Generalize,
    text: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> bool {
    let (length, dates) = match to {
        Generalize::Year(dates) => (4, dates),
        Generalize::Month(dates) => (7, dates),
        Generalize::Bucket(width) => return kind == Kind::Number && bucket(value, width, out),
    };
    text.clear();
    let is_date = match dates {
        Dates::Text => {
            kind == Kind::String
                && unescape(&value[1..value.len() - 1], text)
                && std::str::from_utf8(text).is_ok_and(is_partial_date)
        }
        Dates::Days => append_epoch_month(kind, value, 1, text),
        Dates::Milliseconds => append_epoch_month(kind, value, 86_400_000, text),
        Dates::Microseconds => append_epoch_month(kind, value, 86_400_000_000, text),
    };
    if is_date {
        out.push(b'"');
        out.extend_from_slice(&text[..length.min(text.len())]);
        out.push(b'"');
    }
    is_date
}

/// A date, alone or followed by a time, or what remains of one: `YYYY-MM`, `YYYY`.
fn is_partial_date(text: &str) -> bool {
    let mut whole = *b"0000-01-01";
    match text.len() {
        4 | 7 => whole[..text.len()].copy_from_slice(text.as_bytes()),
        _ => return is_date(text),
    }
    std::str::from_utf8(&whole).is_ok_and(is_date)
}

/// Appends `YYYY-MM` of a time since 1970-01-01, of which `a_day` make a day; `false` outside of
/// the years 0 to 9999.
fn append_epoch_month(kind: Kind, value: &[u8], a_day: i64, out: &mut Vec<u8>) -> bool {
    let number = std::str::from_utf8(value)
        .ok()
        .filter(|t| kind == Kind::Number && is_integer(t.as_bytes()))
        .and_then(|t| t.parse::<i64>().ok());
    // Days of the proleptic Gregorian calendar that have a year of four digits: 0000-01-01 to
    // 9999-12-31.
    let Some(days) =
        number.map(|n| n.div_euclid(a_day)).filter(|days| (-719_528..=2_932_896).contains(days))
    else {
        return false;
    };
    let (year, month) = year_and_month(days);
    write!(Text(out), "{year:04}-{month:02}").is_ok()
}

/// The civil year and month of a day since 1970-01-01. Years begin in March here, so that the day
/// that comes and goes is the last of one; 400 of them are an era of 146,097 days.
fn year_and_month(days: i64) -> (i64, i64) {
    let from_march_0000 = days + 719_468;
    let era = from_march_0000.div_euclid(146_097);
    let day_of_era = from_march_0000.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (400 * era + year_of_era + i64::from(month <= 2), month)
}

/// The lower bound of the bucket: the largest multiple of `width` that is not above the value.
fn bucket(value: &[u8], width: u64, out: &mut Vec<u8>) -> bool {
    let number = std::str::from_utf8(value)
        .ok()
        .filter(|t| is_integer(t.as_bytes()))
        .and_then(|t| t.parse::<i128>().ok());
    let Some(number) = number.filter(|n| n.unsigned_abs() < 1 << 100) else { return false };
    let lower = number.div_euclid(i128::from(width)) * i128::from(width);
    write!(Text(out), "{lower}").is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against a calendar that counts day by day.
    #[test]
    fn days_since_1970_are_in_their_months() {
        let leap = |year: i64| year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let (mut year, mut month, mut day) = (0, 1, 1);
        for days in -719_528..=2_932_896 {
            assert_eq!(year_and_month(days), (year, month), "{days}");
            let length = match month {
                2 => 28 + i64::from(leap(year)),
                4 | 6 | 9 | 11 => 30,
                _ => 31,
            };
            day += 1;
            if day > length {
                (day, month) = (1, month + 1);
            }
            if month > 12 {
                (month, year) = (1, year + 1);
            }
        }
        assert_eq!((year, month, day), (10_000, 1, 1));
    }
}
