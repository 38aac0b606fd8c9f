//! The engine's scanner until November 2026, as it was. It reads each string from its front on,
//! eight bytes at a time. No part of the product.

use veilstream_engine::RejectCode;
use veilstream_engine::scan::{Kind, MAX_DEPTH, NO_PARENT, Node, ScanError};

/// The nodes of one document in document order; index 0 is the root.
#[derive(Debug, Default)]
pub(super) struct Tape {
    nodes: Vec<Node>,
    open: Vec<Open>,
}

impl Tape {
    /// The nodes of the last document scanned.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Scans one JSON text. On an error the table holds nothing.
    pub(super) fn scan(&mut self, doc: &[u8]) -> Result<(), ScanError> {
        self.nodes.clear();
        self.open.clear();
        let result = self.scan_document(doc);
        if result.is_err() {
            self.nodes.clear();
        }
        result
    }

    fn scan_document(&mut self, doc: &[u8]) -> Result<(), ScanError> {
        if doc.len() >= u32::MAX as usize {
            return Err(ScanError { code: RejectCode::TooLarge, offset: 0 });
        }
        if let Err(e) = std::str::from_utf8(doc) {
            return Err(ScanError { code: RejectCode::InvalidUtf8, offset: e.valid_up_to() });
        }
        let mut at = skip_space(doc, 0);
        let mut name = Name::default();
        // The innermost open container.
        let mut top = Open::NONE;
        loop {
            // A value starts here.
            top.count += 1;
            let start = at;
            let value = value(doc, at)?;
            at = value.end;
            let node = Node {
                start: start as u32,
                end: at as u32,
                next: self.nodes.len() as u32 + 1,
                parent: top.node,
                name_start: name.start,
                name_end: name.end,
                count: 0,
                kind: value.kind,
                name_escaped: name.escaped,
                escaped: value.escaped,
            };
            self.nodes.push(node);
            name = Name::default();
            if matches!(value.kind, Kind::Object | Kind::Array) {
                if self.open.len() == MAX_DEPTH {
                    return Err(ScanError { code: RejectCode::TooDeep, offset: start });
                }
                self.open.push(top);
                top = Open {
                    node: node.next - 1,
                    count: 0,
                    close: if value.kind == Kind::Object { b'}' } else { b']' },
                };
                at = skip_space(doc, at);
                if doc.get(at) != Some(&top.close) {
                    if value.kind == Kind::Object {
                        (name, at) = member_name(doc, at)?;
                    }
                    continue;
                }
                at += 1;
                top = self.close(top, at);
            }
            // A value ended: close containers until a comma asks for another.
            loop {
                at = skip_space(doc, at);
                if top.node == NO_PARENT {
                    return if at == doc.len() { Ok(()) } else { Err(NotJson(at).into()) };
                }
                match doc.get(at) {
                    Some(b',') => {
                        at = skip_space(doc, at + 1);
                        if top.close == b'}' {
                            (name, at) = member_name(doc, at)?;
                        }
                        break;
                    }
                    Some(c) if *c == top.close => {
                        at += 1;
                        top = self.close(top, at);
                    }
                    _ => return Err(NotJson(at).into()),
                }
            }
        }
    }

    /// Ends the innermost container; the one around it.
    #[inline(always)]
    fn close(&mut self, top: Open, end: usize) -> Open {
        let next = self.nodes.len() as u32;
        let node = &mut self.nodes[top.node as usize];
        node.end = end as u32;
        node.next = next;
        node.count = top.count;
        self.open.pop().unwrap_or(Open::NONE)
    }
}

/// An open container.
#[derive(Debug, Clone, Copy)]
struct Open {
    node: u32,
    /// Children so far.
    count: u32,
    close: u8,
}

impl Open {
    /// Outside the root.
    const NONE: Self = Self { node: NO_PARENT, count: 0, close: 0 };
}

#[derive(Clone, Copy, Default)]
struct Name {
    start: u32,
    end: u32,
    escaped: bool,
}

/// A scalar, or the opening of a container.
struct Value {
    kind: Kind,
    /// One past its last byte; of a container, past the bracket.
    end: usize,
    /// It is a string with an escape.
    escaped: bool,
}

/// The offset of the first byte that is no JSON. What follows works on offsets in and out: a cursor
/// behind a reference lives in memory, not in a register.
struct NotJson(usize);

impl From<NotJson> for ScanError {
    fn from(offence: NotJson) -> Self {
        Self { code: RejectCode::NotJson, offset: offence.0 }
    }
}

/// The first byte from `at` on that is no white space.
#[inline(always)]
fn skip_space(doc: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = doc.get(at) {
        at += 1;
    }
    at
}

#[inline(always)]
fn value(doc: &[u8], at: usize) -> Result<Value, NotJson> {
    let plain = |kind, end| Ok(Value { kind, end, escaped: false });
    // Asked first: most values are strings.
    if doc.get(at) == Some(&b'"') {
        return string(doc, at).map(|(end, escaped)| Value { kind: Kind::String, end, escaped });
    }
    match doc.get(at) {
        Some(b'{') => plain(Kind::Object, at + 1),
        Some(b'[') => plain(Kind::Array, at + 1),
        Some(b't') => plain(Kind::Bool, literal(doc, at, b"true")?),
        Some(b'f') => plain(Kind::Bool, literal(doc, at, b"false")?),
        Some(b'n') => plain(Kind::Null, literal(doc, at, b"null")?),
        Some(b'-' | b'0'..=b'9') => plain(Kind::Number, number(doc, at)?),
        _ => Err(NotJson(at)),
    }
}

/// `"name" :`, and where the value starts.
#[inline(always)]
fn member_name(doc: &[u8], at: usize) -> Result<(Name, usize), NotJson> {
    if doc.get(at) != Some(&b'"') {
        return Err(NotJson(at));
    }
    let (end, escaped) = string(doc, at)?;
    let name = Name { start: at as u32 + 1, end: end as u32 - 1, escaped };
    let colon = skip_space(doc, end);
    if doc.get(colon) != Some(&b':') {
        return Err(NotJson(colon));
    }
    Ok((name, skip_space(doc, colon + 1)))
}

/// A string whose quote stands at `at`: its end, and whether it has an escape. Control characters
/// and bad escapes are refused, lone surrogate escapes are grammar and pass.
#[inline(always)]
fn string(doc: &[u8], at: usize) -> Result<(usize, bool), NotJson> {
    let at = plain_run(doc, at + 1);
    if doc.get(at) == Some(&b'"') {
        Ok((at + 1, false))
    } else {
        escaped_string(doc, at).map(|end| (end, true))
    }
}

/// The rest of a string from its first escape on.
#[inline(never)]
fn escaped_string(doc: &[u8], mut at: usize) -> Result<usize, NotJson> {
    loop {
        match doc.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at = escape(doc, at)?,
            _ => return Err(NotJson(at)),
        }
        at = plain_run(doc, at);
    }
}

fn escape(doc: &[u8], at: usize) -> Result<usize, NotJson> {
    match doc.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u')
            if doc.get(at + 2..at + 6).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)) =>
        {
            Ok(at + 6)
        }
        _ => Err(NotJson(at)),
    }
}

#[inline(always)]
fn literal(doc: &[u8], at: usize, word: &[u8]) -> Result<usize, NotJson> {
    if doc[at..].starts_with(word) { Ok(at + word.len()) } else { Err(NotJson(at)) }
}

/// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
#[inline]
fn number(doc: &[u8], mut at: usize) -> Result<usize, NotJson> {
    if doc.get(at) == Some(&b'-') {
        at += 1;
    }
    at = if doc.get(at) == Some(&b'0') { at + 1 } else { digits(doc, at)? };
    if doc.get(at) == Some(&b'.') {
        at = digits(doc, at + 1)?;
    }
    if matches!(doc.get(at), Some(b'e' | b'E')) {
        at += 1;
        if matches!(doc.get(at), Some(b'+' | b'-')) {
            at += 1;
        }
        at = digits(doc, at)?;
    }
    Ok(at)
}

#[inline(always)]
fn digits(doc: &[u8], start: usize) -> Result<usize, NotJson> {
    let mut at = start;
    while matches!(doc.get(at), Some(b'0'..=b'9')) {
        at += 1;
    }
    if at == start { Err(NotJson(at)) } else { Ok(at) }
}

/// The first byte from `at` on that is a quote, a backslash or a control character, or the end.
/// Eight bytes at a time.
#[inline(always)]
fn plain_run(bytes: &[u8], at: usize) -> usize {
    let mut rest = &bytes[at..];
    while let Some((chunk, after)) = rest.split_first_chunk::<8>() {
        let special = special_bytes(u64::from_le_bytes(*chunk));
        if special != 0 {
            return bytes.len() - rest.len() + (special.trailing_zeros() / 8) as usize;
        }
        rest = after;
    }
    plain_tail(bytes, bytes.len() - rest.len())
}

/// The last bytes of a document, one at a time.
#[cold]
#[inline(never)]
fn plain_tail(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    at + rest.iter().position(|b| matches!(b, b'"' | b'\\' | 0..=0x1f)).unwrap_or(rest.len())
}

/// The high bit of every byte that is `"`, `\` or below 0x20 (at least of the lowest such byte,
/// which is all that is asked).
#[inline(always)]
fn special_bytes(word: u64) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    // Subtracting borrows into the high bit of a byte that was too small; bytes that had it before
    // are no ASCII. With its bit 1 turned, a quote is 0x20, a space 0x22 and a control character
    // still below 0x20: one subtraction finds both. Neither change touches a high bit.
    let quote_or_control = (word ^ (ONES * 2)).wrapping_sub(ONES * 0x21);
    let backslash = (word ^ (ONES * b'\\' as u64)).wrapping_sub(ONES);
    (quote_or_control | backslash) & !word & HIGH
}
