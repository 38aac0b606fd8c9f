//! How telephone numbers are written: what libphonenumber 9.0.33 takes for the start and end of
//! one, for punctuation and for an extension.

use std::sync::LazyLock;

use regex::Regex;

const PUNCTUATION: &str = "-x\u{2010}-\u{2015}\u{2212}\u{30FC}\u{FF0D}-\u{FF0F} \
    \u{A0}\u{AD}\u{200B}\u{2060}\u{3000}()\u{FF08}\u{FF09}\u{FF3B}\u{FF3D}.\\[\\]/~\u{2053}\u{223C}\u{FF5E}";

/// Every way to write an extension. Its digits are fewer the less sure it is that they are one.
const EXTENSION: &str = concat!(
    ";ext=[0-9]{1,20}",
    "|[ \u{A0}\\t,]*(?:e?xt(?:ensi(?:o\u{301}?|\u{F3}))?n?|\u{FF45}?\u{FF58}\u{FF54}\u{FF4E}?|\u{434}\u{43E}\u{431}|anexo)[:.\u{FF0E}]?[ \u{A0}\\t,-]*[0-9]{1,20}#?",
    "|[ \u{A0}\\t,]*(?:[x\u{FF58}#\u{FF03}~\u{FF5E}]|int|\u{FF49}\u{FF4E}\u{FF54})[:.\u{FF0E}]?[ \
    \u{A0}\\t,-]*[0-9]{1,9}#?",
    "|[- ]+[0-9]{1,6}#",
    "|[ \u{A0}\\t]*(?:,{2}|;)[:.\u{FF0E}]?[ \u{A0}\\t,-]*[0-9]{1,15}#?",
    "|[ \u{A0}\\t]*,+[:.\u{FF0E}]?[ \u{A0}\\t,-]*[0-9]{1,9}#?",
);

/// Patterns that are constants of this file: that each compiles is tested.
fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

static UNWANTED_END: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern("[[^\\p{N}\\p{L}]&&[^#]]+$"));
static SECOND_NUMBER: LazyLock<Option<Regex>> = LazyLock::new(|| pattern("[\\\\/] *x"));
static EXTENSION_AT_END: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(&format!("(?i)(?:{EXTENSION})$")));
static VIABLE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(&format!(
        "(?i)^(?:[0-9]{{2}}|[+\u{FF0B}]*(?:[{PUNCTUATION}*]*[0-9]){{3,}}[{PUNCTUATION}*A-Za-z0-9]*(?:{EXTENSION})?)$"
    ))
});
static CONTEXT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(
        "^(?:\\+[0-9.()-]*[0-9][0-9.()-]*|(?:[A-Za-z0-9]+(?:-*[A-Za-z0-9])*\\.)*[A-Za-z]+(?:-*[A-Za-z0-9])*\\.?)$",
    )
});

/// The part of a text that may be a number; empty: none.
pub(super) fn possible_number(text: &str) -> &str {
    let Some(start) = text.find(|c: char| c.is_ascii_digit() || is_plus(c)) else { return "" };
    let mut number = &text[start..];
    for end in [&UNWANTED_END, &SECOND_NUMBER] {
        if let Some(found) = end.as_ref().and_then(|pattern| pattern.find(number)) {
            number = &number[..found.start()];
        }
    }
    number
}

/// A plus sign, full-width too.
pub(super) fn is_plus(c: char) -> bool {
    matches!(c, '+' | '\u{FF0B}')
}

/// Whether it looks like a number: two digits, or three and more with punctuation before each, then
/// letters too; an extension may follow.
pub(super) fn is_viable(number: &str) -> bool {
    number.len() >= 2 && VIABLE.as_ref().is_some_and(|pattern| pattern.is_match(number))
}

/// The number without its extension.
pub(super) fn without_extension(number: &str) -> &str {
    let found = EXTENSION_AT_END.as_ref().and_then(|pattern| pattern.find(number));
    found.map(|found| &number[..found.start()]).filter(|before| is_viable(before)).unwrap_or(number)
}

/// Whether it is a `phone-context` of RFC 3966: the start of a number, or a domain.
pub(super) fn is_context(text: &str) -> bool {
    CONTEXT.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// The digits of a number. Three letters and more are those of a keypad; fewer are slips.
pub(super) fn digits(number: &str) -> String {
    let letters = number.bytes().filter(u8::is_ascii_alphabetic).nth(2).is_some();
    number
        .bytes()
        .filter_map(|b| if letters { keypad(b) } else { Some(b).filter(u8::is_ascii_digit) })
        .map(char::from)
        .collect()
}

/// ITU-T E.161.
fn keypad(b: u8) -> Option<u8> {
    Some(match b.to_ascii_uppercase() {
        digit @ b'0'..=b'9' => digit,
        b'A'..=b'C' => b'2',
        b'D'..=b'F' => b'3',
        b'G'..=b'I' => b'4',
        b'J'..=b'L' => b'5',
        b'M'..=b'O' => b'6',
        b'P'..=b'S' => b'7',
        b'T'..=b'V' => b'8',
        b'W'..=b'Z' => b'9',
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pattern_compiles() {
        for pattern in [&UNWANTED_END, &SECOND_NUMBER, &EXTENSION_AT_END, &VIABLE, &CONTEXT] {
            assert!(pattern.is_some());
        }
    }
}
