//! One pass over the bytes of an event: full RFC 8259 grammar into a flat table of nodes.
//!
//! Nothing is converted and nothing is copied: a node is a span of the input. The table is reused from event to event, so scanning does not
//! allocate in the steady state. Depth is bounded and there is no recursion.

mod text;

pub use text::{is_json_text, unescape};
pub(crate) use text::{append_escaped, canonical_escapes, same_text};

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
    open: Vec<u32>,
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
        loop {
            // A value starts here.
            let closed = self.value(&mut cursor, name)?;
            name = Name::default();
            if !closed {
                // A non-empty container was opened.
                if self.top_is_object() {
                    name = cursor.member_name()?;
                }
                continue;
            }
            // A value ended: close containers until a comma asks for another.
            loop {
                let Some(&top) = self.open.last() else {
                    cursor.skip_space();
                    return if cursor.at == doc.len() { Ok(()) } else { Err(cursor.fail()) };
                };
                cursor.skip_space();
                let object = self.nodes[top as usize].kind == Kind::Object;
                match cursor.peek() {
                    Some(b',') => {
                        cursor.at += 1;
                        cursor.skip_space();
                        if object {
                            name = cursor.member_name()?;
                        }
                        break;
                    }
                    Some(b'}') if object => self.close(&mut cursor),
                    Some(b']') if !object => self.close(&mut cursor),
                    _ => return Err(cursor.fail()),
                }
            }
        }
    }

    fn top_is_object(&self) -> bool {
        self.open.last().is_some_and(|&top| self.nodes[top as usize].kind == Kind::Object)
    }

    /// Takes one value; `false` when it is a container that stays open.
    #[inline]
    fn value(&mut self, cursor: &mut Cursor<'_>, name: Name) -> Result<bool, ScanError> {
        let start = cursor.at;
        let mut escaped = false;
        let kind = match cursor.peek() {
            Some(b'"') => {
                escaped = cursor.string()?;
                Kind::String
            }
            Some(b'{') => Kind::Object,
            Some(b'[') => Kind::Array,
            Some(b't') => cursor.literal(b"true", Kind::Bool)?,
            Some(b'f') => cursor.literal(b"false", Kind::Bool)?,
            Some(b'n') => cursor.literal(b"null", Kind::Null)?,
            Some(b'-' | b'0'..=b'9') => {
                cursor.number()?;
                Kind::Number
            }
            _ => return Err(cursor.fail()),
        };
        let parent = self.open.last().copied().unwrap_or(NO_PARENT);
        if let Some(parent) = self.nodes.get_mut(parent as usize) {
            parent.count += 1;
        }
        let index = self.nodes.len() as u32;
        self.nodes.push(Node {
            start: start as u32,
            end: cursor.at as u32,
            next: index + 1,
            parent,
            name_start: name.start,
            name_end: name.end,
            count: 0,
            kind,
            name_escaped: name.escaped,
            escaped,
        });
        if !matches!(kind, Kind::Object | Kind::Array) {
            return Ok(true);
        }
        if self.open.len() == MAX_DEPTH {
            return Err(ScanError { code: RejectCode::TooDeep, offset: start });
        }
        self.open.push(index);
        cursor.at += 1;
        cursor.skip_space();
        let close = if kind == Kind::Object { b'}' } else { b']' };
        if cursor.peek() == Some(close) {
            self.close(cursor);
            return Ok(true);
        }
        Ok(false)
    }

    fn close(&mut self, cursor: &mut Cursor<'_>) {
        cursor.at += 1;
        let next = self.nodes.len() as u32;
        if let Some(top) = self.open.pop() {
            let node = &mut self.nodes[top as usize];
            node.end = cursor.at as u32;
            node.next = next;
        }
    }
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

    #[inline]
    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    #[cold]
    fn fail(&self) -> ScanError {
        ScanError { code: RejectCode::NotJson, offset: self.at }
    }

    /// `"name" :`, leaving the cursor at the value.
    #[inline]
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
    #[inline]
    fn string(&mut self) -> Result<bool, ScanError> {
        self.at += 1;
        let mut escaped = false;
        loop {
            self.at += text::plain_run(&self.doc[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.fail()),
            }
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
