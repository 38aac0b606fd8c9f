//! Normalisers: what two spellings of one value have in common (docs/formats.md, "Blind indexes").
//!
//! A name means one version of its tables, for ever: Unicode 17, telephone metadata 9.0.33.

mod digits;
mod email;
mod number;
mod phone;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test")]
mod tests;
mod text;

use std::fmt;
use std::str::FromStr;

use phonenumber::country;

use crate::scan;
use crate::subject::is_integer;

/// How a value is brought to one form before it is indexed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Normalizer {
    /// As it is.
    Exact,
    /// Case, form and white space folded.
    Text,
    /// Domain as UTS 46 ASCII, local part as text.
    Email,
    /// E.164 with a default region.
    Phone(country::Id),
    /// ASCII digits.
    Digits,
    /// ASCII letters and digits, upper case.
    Alnum,
    /// `YYYY-MM-DD`.
    Date,
    /// Decimal without exponent.
    Number,
}

/// A value to normalise.
#[derive(Debug, Clone, Copy)]
pub enum Input<'a> {
    /// The JSON text of a scalar as it stands in the event.
    Json(&'a [u8]),
    /// Raw bytes of a record key or header.
    Raw(&'a [u8]),
}

/// Buffers of a normaliser, reused from value to value.
#[derive(Debug, Default)]
pub struct Scratch {
    text: Vec<u8>,
    digits: Vec<u8>,
}

/// Not the name of a normaliser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be exact, text, email, phone-<region> (phone-us), digits, alnum, date or number")]
pub struct UnknownNormalizer;

impl FromStr for Normalizer {
    type Err = UnknownNormalizer;
    fn from_str(name: &str) -> Result<Self, UnknownNormalizer> {
        Ok(match name {
            "exact" => Self::Exact,
            "text" => Self::Text,
            "email" => Self::Email,
            "digits" => Self::Digits,
            "alnum" => Self::Alnum,
            "date" => Self::Date,
            "number" => Self::Number,
            _ => {
                let region = name.strip_prefix("phone-").ok_or(UnknownNormalizer)?;
                if region.len() != 2 || !region.bytes().all(|b| b.is_ascii_lowercase()) {
                    return Err(UnknownNormalizer);
                }
                Self::Phone(region.to_ascii_uppercase().parse().map_err(|_| UnknownNormalizer)?)
            }
        })
    }
}

impl fmt::Display for Normalizer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact => f.write_str("exact"),
            Self::Text => f.write_str("text"),
            Self::Email => f.write_str("email"),
            Self::Phone(region) => write!(f, "phone-{}", region.as_ref().to_ascii_lowercase()),
            Self::Digits => f.write_str("digits"),
            Self::Alnum => f.write_str("alnum"),
            Self::Date => f.write_str("date"),
            Self::Number => f.write_str("number"),
        }
    }
}

impl Normalizer {
    /// Writes the normal form of `input` to `out`; `false` when it has no index: null, a container,
    /// text without UTF-8, nothing left.
    pub fn normalize(self, input: Input<'_>, scratch: &mut Scratch, out: &mut Vec<u8>) -> bool {
        out.clear();
        let mut buffer = std::mem::take(&mut scratch.text);
        let done = plain_text(input, &mut buffer)
            .is_some_and(|value| self.write(value, &mut scratch.digits, out))
            && !out.is_empty();
        scratch.text = buffer;
        done
    }

    fn write(self, value: Plain<'_>, ascii: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        if self == Self::Exact {
            out.extend_from_slice(value.bytes);
            return true;
        }
        let Ok(mut text) = std::str::from_utf8(value.bytes) else { return false };
        // A digit is a digit in every script, wherever digits are what counts.
        if !matches!(self, Self::Exact | Self::Text | Self::Email) && !text.is_ascii() {
            ascii.clear();
            digits::to_ascii(text, ascii);
            let Ok(mapped) = std::str::from_utf8(ascii) else { return false };
            text = mapped;
        }
        match self {
            Self::Exact => {}
            Self::Text => text::fold(text, out),
            Self::Email => email::normalize(text, out),
            Self::Phone(region) => return phone::normalize(text, region, out),
            Self::Digits => {
                // `digits` and `alnum` are of strings and integers: 1e3 has no digits of its own.
                if !value.quoted && !is_integer(value.bytes) {
                    return false;
                }
                out.extend(text.bytes().filter(u8::is_ascii_digit));
            }
            Self::Alnum => {
                if !value.quoted && !is_integer(value.bytes) {
                    return false;
                }
                let kept = text.chars().map(digits::narrow).filter(char::is_ascii_alphanumeric);
                out.extend(kept.map(|c| c.to_ascii_uppercase() as u8));
            }
            Self::Date => return date(text, out),
            Self::Number => return number::normalize(text, out),
        }
        true
    }
}

struct Plain<'a> {
    bytes: &'a [u8],
    /// It is text, not a bare JSON number or literal.
    quoted: bool,
}

/// The text of a scalar; `None` for null, containers and lone surrogates.
fn plain_text<'a>(input: Input<'a>, buffer: &'a mut Vec<u8>) -> Option<Plain<'a>> {
    let json = match input {
        Input::Raw(bytes) => return Some(Plain { bytes, quoted: true }),
        Input::Json(json) => json,
    };
    match json.first()? {
        b'{' | b'[' => None,
        b'"' => {
            let inner = json.get(1..json.len() - 1)?;
            if memchr::memchr(b'\\', inner).is_none() {
                return Some(Plain { bytes: inner, quoted: true });
            }
            buffer.clear();
            scan::unescape(inner, buffer).then_some(Plain { bytes: buffer, quoted: true })
        }
        b'n' => None,
        _ => Some(Plain { bytes: json, quoted: false }),
    }
}

/// `YYYY-MM-DD`, alone or followed by `T` or a space.
pub(crate) fn is_date(text: &str) -> bool {
    let b = text.as_bytes();
    let digits = |range: std::ops::Range<usize>| b[range].iter().all(u8::is_ascii_digit);
    b.len() >= 10
        && digits(0..4)
        && b[4] == b'-'
        && digits(5..7)
        && b[7] == b'-'
        && digits(8..10)
        && ("01".."13").contains(&&text[5..7])
        && ("01".."32").contains(&&text[8..10])
        && matches!(b.get(10), None | Some(b'T' | b' '))
}

fn date(text: &str, out: &mut Vec<u8>) -> bool {
    let good = is_date(text);
    if good {
        out.extend_from_slice(&text.as_bytes()[..10]);
    }
    good
}
