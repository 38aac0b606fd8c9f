//! Strings: runs without anything special, unescaping, comparing names.

use super::specials::Specials;
use super::{Node, Tape};

/// The first byte from `at` on that is a quote, a backslash or a control character, or the end.
pub(super) fn plain_run(bytes: &[u8], at: usize) -> usize {
    Specials::new(bytes).next(bytes, at)
}

/// Whether `bytes` is exactly one JSON text without outer white space, UTF-8, at most 128 deep.
#[must_use]
pub fn is_json_text(bytes: &[u8]) -> bool {
    // Most opened values are a plain string: one look decides, without a table.
    if bytes.len() >= 2 && bytes[0] == b'"' && plain_run(bytes, 1) == bytes.len() - 1 {
        return bytes[bytes.len() - 1] == b'"' && std::str::from_utf8(bytes).is_ok();
    }
    let mut tape = Tape::default();
    tape.scan(bytes).is_ok() && tape.nodes()[0].span() == (0..bytes.len())
}

/// Appends the unescaped text of the inside of a JSON string to `out`; `false` for a lone
/// surrogate, which has no UTF-8. The text must have passed [`Tape::scan`].
pub fn unescape(inner: &[u8], out: &mut Vec<u8>) -> bool {
    unescape_with(inner, out, |c, out| out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()))
}

/// Appends the unescaped text of the inside of a JSON string to `out`, with U+FFFD for every lone
/// surrogate.
pub(crate) fn unescape_lossy(inner: &[u8], out: &mut Vec<u8>) {
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        // What has no character is a lone surrogate, six bytes long.
        let (c, used) = escape(&rest[at..]).unwrap_or((char::REPLACEMENT_CHARACTER, 6));
        out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
        rest = rest.get(at + used..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
}

/// Appends the inside of a JSON string with its escapes as RFC 8785 writes them; `false` for a lone
/// surrogate.
pub(crate) fn canonical_escapes(inner: &[u8], out: &mut Vec<u8>) -> bool {
    unescape_with(inner, out, append_escaped)
}

/// Appends the unescaped text of the inside of a JSON string, whole: a lone surrogate is written as
/// the three bytes that UTF-8 would have for it if it were a character (WTF-8). No text has these
/// bytes, so what is compared by them is equal to nothing but the same surrogate.
pub(crate) fn unescape_generously(inner: &[u8], out: &mut Vec<u8>) {
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at..];
        if let Some((c, used)) = escape(rest) {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &rest[used..];
        } else {
            let unit = rest.get(2..6).and_then(hex4).unwrap_or_default();
            out.extend_from_slice(&[
                0xe0 | (unit >> 12) as u8,
                0x80 | (unit >> 6 & 0x3f) as u8,
                0x80 | (unit & 0x3f) as u8,
            ]);
            rest = rest.get(6..).unwrap_or_default();
        }
    }
    out.extend_from_slice(rest);
}

fn unescape_with(inner: &[u8], out: &mut Vec<u8>, append: impl Fn(char, &mut Vec<u8>)) -> bool {
    let mut rest = inner;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        let Some((c, used)) = escape(&rest[at..]) else { return false };
        append(c, out);
        rest = &rest[at + used..];
    }
    out.extend_from_slice(rest);
    true
}

/// Appends one character of a JSON string, escaped if it must be, as RFC 8785 (section 3.2.2.2)
/// does.
pub(crate) fn append_escaped(c: char, out: &mut Vec<u8>) {
    let hex = |digit: u32| char::from_digit(digit, 16).unwrap_or('0') as u8;
    match c {
        '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
        '\u{8}' => out.extend_from_slice(b"\\b"),
        '\u{c}' => out.extend_from_slice(b"\\f"),
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        c if c < ' ' => out.extend_from_slice(&[
            b'\\',
            b'u',
            b'0',
            b'0',
            hex(u32::from(c) >> 4),
            hex(u32::from(c) & 15),
        ]),
        c => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

/// The character of the escape at the front and how many bytes it takes; `None` for a lone
/// surrogate or a bad escape.
fn escape(bytes: &[u8]) -> Option<(char, usize)> {
    let c = match bytes.get(1)? {
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let high = hex4(bytes.get(2..6)?)?;
            if !(0xd800..0xdc00).contains(&high) {
                return Some((char::from_u32(high)?, 6));
            }
            let low =
                bytes.get(6..12).filter(|b| b.starts_with(b"\\u")).and_then(|b| hex4(&b[2..]))?;
            let low = low.checked_sub(0xdc00).filter(|l| *l < 0x400)?;
            return Some((char::from_u32(0x10000 + ((high - 0xd800) << 10) + low)?, 12));
        }
        other => char::from(*other),
    };
    Some((c, 2))
}

fn hex4(hex: &[u8]) -> Option<u32> {
    hex.iter().try_fold(0, |n, b| Some(n * 16 + char::from(*b).to_digit(16)?))
}

/// Whether the unescaped inside of a JSON string is `text`. Allocates nothing.
#[must_use]
pub(crate) fn unescaped_eq(inner: &[u8], text: &[u8]) -> bool {
    let (mut a, mut b) = (inner, text);
    while let Some(at) = memchr::memchr(b'\\', a) {
        let Some((c, used)) = escape(&a[at..]) else { return false };
        let mut buffer = [0; 4];
        let c = c.encode_utf8(&mut buffer).as_bytes();
        if b.len() < at + c.len() || a[..at] != b[..at] || b[at..at + c.len()] != *c {
            return false;
        }
        (a, b) = (&a[at + used..], &b[at + c.len()..]);
    }
    a == b
}

/// Whether two insides of JSON strings are the same text after unescaping; lone surrogates are
/// themselves. Allocates nothing.
#[must_use]
pub(crate) fn same_text(a: &[u8], b: &[u8]) -> bool {
    Units(a).eq(Units(b))
}

/// The units of an escaped string: bytes of UTF-8, and lone surrogates as numbers no byte has.
struct Units<'a>(&'a [u8]);

impl Iterator for Units<'_> {
    type Item = [u16; 4];

    fn next(&mut self) -> Option<[u16; 4]> {
        let first = *self.0.first()?;
        let mut unit = [u16::MAX; 4];
        if first != b'\\' {
            // One whole character, so that both spellings of it are one unit.
            let length = match first {
                0..0x80 => 1,
                0x80..0xe0 => 2,
                0xe0..0xf0 => 3,
                _ => 4,
            };
            let (character, rest) = self.0.split_at(length.min(self.0.len()));
            unit.iter_mut().zip(character).for_each(|(u, b)| *u = u16::from(*b));
            self.0 = rest;
        } else if let Some((c, used)) = escape(self.0) {
            let mut buffer = [0; 4];
            unit.iter_mut()
                .zip(c.encode_utf8(&mut buffer).bytes())
                .for_each(|(u, b)| *u = u16::from(b));
            self.0 = &self.0[used..];
        } else {
            unit[0] = self.0.get(2..6).and_then(hex4).unwrap_or_default() as u16;
            self.0 = self.0.get(6..).unwrap_or_default();
        }
        Some(unit)
    }
}

impl Tape {
    /// Whether the node is a member of that name, after unescaping.
    #[inline]
    #[must_use]
    pub fn name_is(&self, doc: &[u8], node: &Node, name: &[u8]) -> bool {
        let written = &doc[node.name()];
        if node.name_escaped { unescaped_eq(written, name) } else { written == name }
    }

    /// Whether any object has a member name twice.
    #[must_use]
    pub fn any_duplicate_member(&self, doc: &[u8]) -> bool {
        let mut names = Vec::new();
        (0..self.nodes.len() as u32)
            .filter(|i| self.nodes[*i as usize].kind == super::Kind::Object)
            .any(|object| {
                names.clear();
                names.extend(self.children(object).map(|child| {
                    let node = &self.nodes[child as usize];
                    let mut name = Vec::new();
                    // A lone surrogate in a name has no UTF-8; its raw spelling stands for it.
                    if !unescape(&doc[node.name()], &mut name) {
                        name = doc[node.name()].to_vec();
                    }
                    name
                }));
                names.sort_unstable();
                names.windows(2).any(|pair| pair[0] == pair[1])
            })
    }

    /// Whether any string or member name has a lone surrogate escape.
    #[must_use]
    pub fn any_lone_surrogate(&self, doc: &[u8]) -> bool {
        let mut scratch = Vec::new();
        self.nodes.iter().any(|node| {
            scratch.clear();
            (node.name_escaped && !unescape(&doc[node.name()], &mut scratch))
                || (node.escaped && !unescape(&doc[node.inner()], &mut scratch))
        })
    }
}
