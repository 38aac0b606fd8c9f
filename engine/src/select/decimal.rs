//! Numbers as they are written, compared exactly: whatever a double makes of them, `0.1` is not
//! `0.10000000000000001`.

use std::cmp::Ordering;

/// A number literal of a filter.
#[derive(Debug, Clone)]
pub struct Number {
    text: Box<[u8]>,
    /// When it is a whole number of at most eighteen digits without fraction and exponent.
    small: Option<i64>,
}

impl Number {
    /// A JSON number; `None` when its exponent has more than eighteen digits.
    pub(super) fn new(text: &str) -> Option<Self> {
        Decimal::new(text.as_bytes())?;
        Some(Self { text: text.as_bytes().into(), small: small(text.as_bytes()) })
    }

    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        compare(&self.text, &other.text) == Some(Ordering::Equal)
    }
}

/// Compares two JSON numbers by value; `None` when an exponent is out of bounds ([`Decimal::new`]).
pub(super) fn compare(a: &[u8], b: &[u8]) -> Option<Ordering> {
    match (small(a), small(b)) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => Some(Decimal::new(a)?.compare(&Decimal::new(b)?)),
    }
}

/// [`compare`] with a constant.
pub(super) fn compare_to(a: &[u8], constant: &Number) -> Option<Ordering> {
    match (small(a), constant.small) {
        (Some(a), Some(b)) => Some(a.cmp(&b)),
        _ => compare(a, &constant.text),
    }
}

/// Writes what all spellings of a number's value have in common; `false` when an exponent is out of
/// bounds.
pub(super) fn canonical(text: &[u8], out: &mut Vec<u8>) -> bool {
    let Some(decimal) = Decimal::new(text) else { return false };
    out.clear();
    if !decimal.is_zero() {
        out.push(u8::from(decimal.negative));
        out.extend_from_slice(&decimal.exponent.to_be_bytes());
        decimal.digits.iter().for_each(|digits| out.extend_from_slice(digits));
    }
    true
}

fn small(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    if digits.len() > 18 {
        return None;
    }
    let value = digits
        .iter()
        .try_fold(0_i64, |n, b| b.is_ascii_digit().then(|| n * 10 + i64::from(b - b'0')))?;
    Some(if digits.len() == text.len() { value } else { -value })
}

/// Sign, digits and where the point stands: 0.d1d2d3... times ten to the power of `exponent`, with
/// d1 not 0.
struct Decimal<'t> {
    negative: bool,
    /// Digits before and after the point, without leading and trailing zeros of the whole.
    digits: [&'t [u8]; 2],
    exponent: i64,
}

impl<'t> Decimal<'t> {
    /// `None` when the exponent has more than eighteen digits: then it is no longer exact.
    fn new(text: &'t [u8]) -> Option<Self> {
        let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = match text.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => (&text[..at], exponent(&text[at + 1..])?),
            None => (text, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|b| *b == b'.') {
            Some(at) => (&mantissa[..at], &mantissa[at + 1..]),
            None => (mantissa, &b""[..]),
        };
        let whole = without_leading(whole);
        // Digits before the point raise the exponent, zeros right after it lower it.
        let (digits, point) = if whole.is_empty() {
            let rest = without_leading(fraction);
            ([without_trailing(rest), &b""[..]], -((fraction.len() - rest.len()) as i64))
        } else {
            let fraction = without_trailing(fraction);
            (
                [if fraction.is_empty() { without_trailing(whole) } else { whole }, fraction],
                whole.len() as i64,
            )
        };
        Some(Self { negative, digits, exponent: exponent + point })
    }

    fn is_zero(&self) -> bool {
        self.digits.iter().all(|d| d.is_empty())
    }

    fn compare(&self, other: &Self) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (true, true) => return Ordering::Equal,
            (true, false) => {
                return if other.negative { Ordering::Greater } else { Ordering::Less };
            }
            (false, true) => return if self.negative { Ordering::Less } else { Ordering::Greater },
            (false, false) => {}
        }
        if self.negative != other.negative {
            return if self.negative { Ordering::Less } else { Ordering::Greater };
        }
        let all = |d: &Self| d.digits.into_iter().flatten();
        let size = self.exponent.cmp(&other.exponent).then_with(|| all(self).cmp(all(other)));
        if self.negative { size.reverse() } else { size }
    }
}

fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text.first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let value = small(without_leading(digits))?;
    Some(if negative { -value } else { value })
}

fn without_leading(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().position(|b| *b != b'0').unwrap_or(digits.len())..]
}

fn without_trailing(digits: &[u8]) -> &[u8] {
    &digits[..digits.iter().rposition(|b| *b != b'0').map_or(0, |last| last + 1)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canon(text: &str) -> Option<Vec<u8>> {
        let mut out = b"left over".to_vec();
        canonical(text.as_bytes(), &mut out).then_some(out)
    }

    #[test]
    fn numbers_compare_by_value_however_they_are_written() {
        for same in [
            &["0", "-0", "0.0", "-0.000", "0e99", "0E-5"][..],
            &["1", "1.0", "10e-1", "0.1e1", "1e0", "100E-2", "0.00001e+5"],
            &["-12.5", "-1.25e1", "-125e-1", "-0.125E2", "-12.500"],
            &["1e400", "10e399", "0.1e401"],
            &["1200", "12e2", "1.2e3", "1200.0"],
        ] {
            for a in same {
                for b in same {
                    assert_eq!(
                        compare(a.as_bytes(), b.as_bytes()),
                        Some(Ordering::Equal),
                        "{a} {b}"
                    );
                    assert_eq!(canon(a), canon(b), "{a} {b}");
                }
            }
        }
        let rising = [
            "-1e400",
            "-1e399",
            "-9007199254740993",
            "-100",
            "-1",
            "-1e-400",
            "0",
            "1e-400",
            "0.1",
            "0.10000000000000001",
            "0.2",
            "1",
            "1.0000000000000001",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.5",
            "18446744073709551616",
            "2e19",
            "1e400",
        ];
        for (i, a) in rising.iter().enumerate() {
            for (k, b) in rising.iter().enumerate() {
                assert_eq!(compare(a.as_bytes(), b.as_bytes()), Some(i.cmp(&k)), "{a} {b}");
                assert_eq!(canon(a) == canon(b), i == k, "{a} {b}");
            }
        }
        assert_eq!(compare(b"1e1000000000000000000", b"1"), None, "an exponent of nineteen digits");
        assert_eq!(canon("1e1000000000000000000"), None);
        assert_eq!(
            compare(b"1e000000000000000000000001", b"10"),
            Some(Ordering::Equal),
            "zeros in front are no digits"
        );
    }
}
