//! `number`: decimal without exponent, trailing zeros, plus sign or -0.

/// Largest exponent, either way.
const MAX_EXPONENT: i64 = 400;

/// Appends the canonical decimal of `text`; `false` when it is no number or its exponent is out of
/// bounds.
pub(super) fn normalize(text: &str, out: &mut Vec<u8>) -> bool {
    let text = text.trim_matches(|c: char| c.is_ascii_whitespace());
    let (negative, rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let (mantissa, exponent) =
        rest.split_once(['e', 'E']).map_or((rest, Ok(0)), |(m, e)| (m, e.parse::<i64>()));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let well_formed = !whole.is_empty()
        && digits(whole)
        && digits(fraction)
        && (mantissa.len() == whole.len() || !fraction.is_empty());
    let Some(exponent) = exponent.ok().filter(|e| well_formed && e.abs() <= MAX_EXPONENT) else {
        return false;
    };
    append(negative, whole, fraction, exponent, out);
    true
}

/// Writes whole.fraction x 10^exponent without leading and trailing zeros.
fn append(negative: bool, whole: &str, fraction: &str, exponent: i64, out: &mut Vec<u8>) {
    let digit = |at: i64| -> u8 {
        // Digit number `at` of whole and fraction as one string, zeros beyond both ends.
        let at = usize::try_from(at).ok();
        at.and_then(|at| {
            whole
                .as_bytes()
                .get(at)
                .or_else(|| fraction.as_bytes().get(at.checked_sub(whole.len())?))
        })
        .copied()
        .unwrap_or(b'0')
    };
    let point = whole.len() as i64 + exponent;
    let end = (whole.len() + fraction.len()) as i64;
    let first = (0..end).find(|at| digit(*at) != b'0');
    let Some(first) = first else {
        out.push(b'0');
        return;
    };
    let last = (0..end).rfind(|at| digit(*at) != b'0').unwrap_or(first);
    if negative {
        out.push(b'-');
    }
    if first < point {
        out.extend((first..point).map(digit));
    } else {
        out.push(b'0');
    }
    if last >= point {
        out.push(b'.');
        out.extend((point..=last).map(digit));
    }
}
