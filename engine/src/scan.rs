//! One pass over the bytes of an event: full RFC 8259 grammar into a flat table of nodes.
//!
//! Nothing is converted and nothing is copied: a node is a span of the input. The table is reused from event to event, so scanning does not
//! allocate in the steady state. Depth is bounded and there is no recursion.

mod text;

pub(crate) use text::{append_escaped, canonical_escapes, same_text, unescaped_eq};
pub use text::{is_json_text, unescape};

use crate::error::RejectCode;

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
    /// First byte of the member name, inside the quotes; 0 when this is no member (a name never starts at byte 0).
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

    /// Where the member name stands, without quotes; empty for elements and the root (ask [`Node::is_member`]).
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

    /// The indexes of a container's children, in order.
    pub fn children(&self, of: u32) -> Children<'_> {
        let end = self.nodes[of as usize].next;
        Children { nodes: &self.nodes, at: of + 1, end: if self.nodes[of as usize].is_container() { end } else { of + 1 } }
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
        if let Err(e) = std::str::from_utf8(doc) {
            return Err(ScanError { code: RejectCode::InvalidUtf8, offset: e.valid_up_to() });
        }
        let mut cursor = Cursor { doc, at: 0 };
        cursor.skip_space();
        let mut name = Name::default();
        // The innermost open container.
        let mut top = Open::NONE;
        loop {
            // A value starts here.
            top.count += 1;
            let start = cursor.at;
            let (kind, escaped) = cursor.value()?;
            let node = Node {
                start: start as u32,
                end: cursor.at as u32,
                next: self.nodes.len() as u32 + 1,
                parent: top.node,
                name_start: name.start,
                name_end: name.end,
                count: 0,
                kind,
                name_escaped: name.escaped,
                escaped,
            };
            self.nodes.push(node);
            name = Name::default();
            if matches!(kind, Kind::Object | Kind::Array) {
                if self.open.len() == MAX_DEPTH {
                    return Err(ScanError { code: RejectCode::TooDeep, offset: start });
                }
                self.open.push(top);
                top = Open { node: node.next - 1, count: 0, close: if kind == Kind::Object { b'}' } else { b']' } };
                cursor.skip_space();
                if cursor.peek() != Some(top.close) {
                    if kind == Kind::Object {
                        name = cursor.member_name()?;
                    }
                    continue;
                }
                top = self.close(top, &mut cursor);
            }
            // A value ended: close containers until a comma asks for another.
            loop {
                cursor.skip_space();
                if top.node == NO_PARENT {
                    return if cursor.at == doc.len() { Ok(()) } else { Err(cursor.fail()) };
                }
                match cursor.peek() {
                    Some(b',') => {
                        cursor.at += 1;
                        cursor.skip_space();
                        if top.close == b'}' {
                            name = cursor.member_name()?;
                        }
                        break;
                    }
                    Some(c) if c == top.close => top = self.close(top, &mut cursor),
                    _ => return Err(cursor.fail()),
                }
            }
        }
    }

    /// Ends the innermost container at the cursor; the one around it.
    #[inline]
    fn close(&mut self, top: Open, cursor: &mut Cursor<'_>) -> Open {
        cursor.at += 1;
        let next = self.nodes.len() as u32;
        let node = &mut self.nodes[top.node as usize];
        node.end = cursor.at as u32;
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

struct Cursor<'d> {
    doc: &'d [u8],
    at: usize,
}

impl Cursor<'_> {
    #[inline]
    fn peek(&self) -> Option<u8> {
        self.doc.get(self.at).copied()
    }

    #[inline(always)]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// A scalar, or the opening of a container; says whether a string has an escape.
    #[inline(always)]
    fn value(&mut self) -> Result<(Kind, bool), ScanError> {
        let kind = match self.peek() {
            Some(b'"') => return Ok((Kind::String, self.string()?)),
            Some(b'{') => {
                self.at += 1;
                Kind::Object
            }
            Some(b'[') => {
                self.at += 1;
                Kind::Array
            }
            Some(b't') => self.literal(b"true", Kind::Bool)?,
            Some(b'f') => self.literal(b"false", Kind::Bool)?,
            Some(b'n') => self.literal(b"null", Kind::Null)?,
            Some(b'-' | b'0'..=b'9') => {
                self.number()?;
                Kind::Number
            }
            _ => return Err(self.fail()),
        };
        Ok((kind, false))
    }

    #[cold]
    fn fail(&self) -> ScanError {
        ScanError { code: RejectCode::NotJson, offset: self.at }
    }

    /// `"name" :`, leaving the cursor at the value.
    #[inline(always)]
    fn member_name(&mut self) -> Result<Name, ScanError> {
        if self.peek() != Some(b'"') {
            return Err(self.fail());
        }
        let start = self.at as u32 + 1;
        let escaped = self.string()?;
        let end = self.at as u32 - 1;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.fail());
        }
        self.at += 1;
        self.skip_space();
        Ok(Name { start, end, escaped })
    }

    /// A string; says whether it has an escape. Control characters and bad escapes are refused, lone surrogate escapes are grammar and pass.
    #[inline(always)]
    fn string(&mut self) -> Result<bool, ScanError> {
        self.at += 1;
        self.at += text::plain_run(&self.doc[self.at..]);
        if self.peek() == Some(b'"') {
            self.at += 1;
            return Ok(false);
        }
        self.escaped_string()
    }

    /// The rest of a string from its first escape on.
    #[inline(never)]
    fn escaped_string(&mut self) -> Result<bool, ScanError> {
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(true);
                }
                Some(b'\\') => self.escape()?,
                _ => return Err(self.fail()),
            }
            self.at += text::plain_run(&self.doc[self.at..]);
        }
    }

    fn escape(&mut self) -> Result<(), ScanError> {
        match self.doc.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let hex = self.doc.get(self.at + 2..self.at + 6).ok_or_else(|| self.fail())?;
                if !hex.iter().all(u8::is_ascii_hexdigit) {
                    return Err(self.fail());
                }
                self.at += 6;
            }
            _ => return Err(self.fail()),
        }
        Ok(())
    }

    #[inline]
    fn literal(&mut self, word: &[u8], kind: Kind) -> Result<Kind, ScanError> {
        if !self.doc[self.at..].starts_with(word) {
            return Err(self.fail());
        }
        self.at += word.len();
        Ok(kind)
    }

    /// `-? (0 | [1-9][0-9]*) (. [0-9]+)? ([eE] [+-]? [0-9]+)?`
    #[inline]
    fn number(&mut self) -> Result<(), ScanError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline]
    fn digits(&mut self) -> Result<(), ScanError> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.fail()) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests;
