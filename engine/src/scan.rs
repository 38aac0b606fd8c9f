//! One pass over the bytes of an event: full RFC 8259 grammar into a flat table of nodes.
//!
//! Nothing is converted and nothing is copied: a node is a span of the input. The table is reused
//! from event to event, so scanning does not allocate in the steady state. Depth is bounded and
//! there is no recursion.

mod specials;
mod text;

pub(crate) use text::{
    append_escaped, canonical_escapes, same_text, unescape_generously, unescape_lossy, unescaped_eq,
};
pub use text::{is_json_text, unescape};

use crate::error::RejectCode;
use specials::Specials;

/// Most containers open at once.
pub const MAX_DEPTH: usize = 128;
/// `Node::parent` of the root.
pub const NO_PARENT: u32 = u32::MAX;

/// What a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `{...}`
    Object,
    /// `[...]`
    Array,
    /// `"..."`
    String,
    /// A number, as written.
    Number,
    /// `true` or `false`.
    Bool,
    /// `null`
    Null,
}

/// One value of the document.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    /// First byte of the value.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
    /// Index of the node after this one's subtree.
    pub next: u32,
    /// Index of the container, or [`NO_PARENT`].
    pub parent: u32,
    /// First byte of the member name, inside the quotes; 0 when this is no member (a name never
    /// starts at byte 0).
    pub name_start: u32,
    /// One past the name's last byte.
    pub name_end: u32,
    /// Children of a container.
    pub count: u32,
    /// What it is.
    pub kind: Kind,
    /// The member name has an escape.
    pub name_escaped: bool,
    /// The string has an escape.
    pub escaped: bool,
}

impl Node {
    /// Where the value stands.
    #[must_use]
    pub fn span(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }

    /// Where the text inside a string's quotes stands.
    #[must_use]
    pub fn inner(&self) -> std::ops::Range<usize> {
        self.start as usize + 1..self.end as usize - 1
    }

    /// Where the member name stands, without quotes; empty for elements and the root (ask
    /// [`Node::is_member`]).
    #[must_use]
    pub fn name(&self) -> std::ops::Range<usize> {
        self.name_start as usize..self.name_end as usize
    }

    /// Whether it is a member of an object.
    #[must_use]
    pub fn is_member(&self) -> bool {
        self.name_start != 0
    }

    /// Whether it is an object or array.
    #[must_use]
    pub fn is_container(&self) -> bool {
        matches!(self.kind, Kind::Object | Kind::Array)
    }
}

/// Why the bytes are no JSON text, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScanError {
    /// `not_json`, `invalid_utf8`, `too_deep`, `too_large`.
    pub code: RejectCode,
    /// Byte offset.
    pub offset: usize,
}

/// The nodes of one document in document order; index 0 is the root.
#[derive(Debug, Default)]
pub struct Tape {
    nodes: Vec<Node>,
    open: Vec<Open>,
}

impl Tape {
    /// The nodes of the last document scanned.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Bytes of its buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.open.capacity() * size_of::<Open>()
    }

    /// The indexes of a container's children, in order.
    pub fn children(&self, of: u32) -> Children<'_> {
        let end = self.nodes[of as usize].next;
        Children {
            nodes: &self.nodes,
            at: of + 1,
            end: if self.nodes[of as usize].is_container() { end } else { of + 1 },
        }
    }

    /// Scans one JSON text. On an error the table holds nothing.
    ///
    /// # Errors
    /// [`ScanError`] with the first offence's place.
    pub fn scan(&mut self, doc: &[u8]) -> Result<(), ScanError> {
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
        if let Err(e) = simdutf8::compat::from_utf8(doc) {
            return Err(ScanError { code: RejectCode::InvalidUtf8, offset: e.valid_up_to() });
        }
        let specials = &mut Specials::new(doc);
        let (mut at, mut first) = token(doc, 0);
        let mut name = Name::default();
        // The innermost open container.
        let mut top = Open::NONE;
        loop {
            // A value starts here.
            top.count += 1;
            let start = at;
            let value = value(doc, at, first, specials)?;
            at = value.end;
            let next = self.nodes.len() as u32 + 1;
            self.nodes.push(Node {
                start: start as u32,
                end: at as u32,
                next,
                parent: top.node,
                name_start: name.start,
                name_end: name.end,
                count: 0,
                kind: value.kind,
                name_escaped: name.escaped,
                escaped: value.escaped,
            });
            name = Name::default();
            (at, first) = token(doc, at);
            if matches!(value.kind, Kind::Object | Kind::Array) {
                if self.open.len() == MAX_DEPTH {
                    return Err(ScanError { code: RejectCode::TooDeep, offset: start });
                }
                self.open.push(top);
                top = Open {
                    node: next - 1,
                    count: 0,
                    close: if value.kind == Kind::Object { b'}' } else { b']' },
                };
                if first != top.close {
                    if value.kind == Kind::Object {
                        (name, at, first) = member_name(doc, at, first, specials)?;
                    }
                    continue;
                }
                at += 1;
                top = self.close(top, at);
                (at, first) = token(doc, at);
            }
            // A value ended: close containers until a comma asks for another.
            loop {
                if first == b',' && top.node != NO_PARENT {
                    (at, first) = token(doc, at + 1);
                    if top.close == b'}' {
                        (name, at, first) = member_name(doc, at, first, specials)?;
                    }
                    break;
                }
                if top.node == NO_PARENT {
                    return if at == doc.len() { Ok(()) } else { Err(NotJson(at).into()) };
                }
                if first != top.close {
                    return Err(NotJson(at).into());
                }
                at += 1;
                top = self.close(top, at);
                (at, first) = token(doc, at);
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

/// Iterator over a container's children.
#[derive(Clone)]
pub struct Children<'t> {
    nodes: &'t [Node],
    at: u32,
    end: u32,
}

impl Iterator for Children<'_> {
    type Item = u32;
    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.at >= self.end {
            return None;
        }
        let at = self.at;
        self.at = self.nodes[at as usize].next;
        Some(at)
    }
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

/// The next byte from `at` on that is no white space, and where it stands. At the end it is 0, with
/// which nothing begins.
#[inline(always)]
fn token(doc: &[u8], mut at: usize) -> (usize, u8) {
    while let Some(byte) = doc.get(at) {
        // Said first: one comparison for most bytes.
        if *byte > b' ' || !matches!(*byte, b' ' | b'\t' | b'\n' | b'\r') {
            return (at, *byte);
        }
        at += 1;
    }
    (at, 0)
}

#[inline(always)]
fn value(doc: &[u8], at: usize, first: u8, specials: &mut Specials) -> Result<Value, NotJson> {
    let plain = |kind, end| Ok(Value { kind, end, escaped: false });
    // Asked first: most values are strings.
    if first == b'"' {
        return string(doc, at, specials).map(|(end, escaped)| Value {
            kind: Kind::String,
            end,
            escaped,
        });
    }
    match first {
        b'{' => plain(Kind::Object, at + 1),
        b'[' => plain(Kind::Array, at + 1),
        b't' => plain(Kind::Bool, literal(doc, at, b"true")?),
        b'f' => plain(Kind::Bool, literal(doc, at, b"false")?),
        b'n' => plain(Kind::Null, literal(doc, at, b"null")?),
        b'-' | b'0'..=b'9' => plain(Kind::Number, number(doc, at)?),
        _ => Err(NotJson(at)),
    }
}

/// `"name" :`, and where the value starts.
#[inline(always)]
fn member_name(
    doc: &[u8],
    at: usize,
    first: u8,
    specials: &mut Specials,
) -> Result<(Name, usize, u8), NotJson> {
    if first != b'"' {
        return Err(NotJson(at));
    }
    let (end, escaped) = string(doc, at, specials)?;
    let name = Name { start: at as u32 + 1, end: end as u32 - 1, escaped };
    let (colon, byte) = token(doc, end);
    if byte != b':' {
        return Err(NotJson(colon));
    }
    let (at, first) = token(doc, colon + 1);
    Ok((name, at, first))
}

/// A string whose quote stands at `at`: its end, and whether it has an escape. Control characters
/// and bad escapes are refused, lone surrogate escapes are grammar and pass.
#[inline(always)]
fn string(doc: &[u8], at: usize, specials: &mut Specials) -> Result<(usize, bool), NotJson> {
    let at = specials.next(doc, at + 1);
    if doc.get(at) == Some(&b'"') {
        Ok((at + 1, false))
    } else {
        escaped_string(doc, at, specials).map(|end| (end, true))
    }
}

/// The rest of a string from its first escape on.
#[inline(never)]
fn escaped_string(doc: &[u8], mut at: usize, specials: &mut Specials) -> Result<usize, NotJson> {
    loop {
        match doc.get(at) {
            Some(b'"') => return Ok(at + 1),
            Some(b'\\') => at = escape(doc, at)?,
            _ => return Err(NotJson(at)),
        }
        at = specials.next(doc, at);
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

#[cfg(test)]
mod tests;
