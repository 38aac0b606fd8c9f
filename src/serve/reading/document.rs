//! The body of a request as the engine's scanner sees it: records in it keep every byte.

use std::borrow::Cow;

use veilstream_engine::error::RejectCode;
use veilstream_engine::scan::{Kind, Node, Tape, unescape};

use super::fault::RequestFault;

/// A JSON text and its nodes.
pub(super) struct Document<'b> {
    text: &'b str,
    tape: Tape,
}

/// An object of a document.
#[derive(Clone, Copy)]
pub(super) struct Object<'d> {
    document: &'d Document<'d>,
    node: u32,
}

/// A value of a document.
#[derive(Clone, Copy)]
pub(super) struct Value<'d> {
    document: &'d Document<'d>,
    node: u32,
}

/// Values of a request, and of a part of a stream: their nodes take several times the text.
const MOST_VALUES: usize = 1 << 19;

/// Refuses more values than nodes are kept of. Counts what may begin one, in strings too: no text
/// has as many commas.
pub(super) fn bounded(text: &[u8]) -> Result<(), RequestFault> {
    // Most have not as many bytes.
    if text.len() <= MOST_VALUES {
        return Ok(());
    }
    let begins = text.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count();
    if begins > MOST_VALUES {
        return Err(RequestFault::TooMany { most: MOST_VALUES, of: "values" });
    }
    Ok(())
}

impl<'b> Document<'b> {
    /// Scans a body.
    pub(super) fn read(text: &'b [u8]) -> Result<Self, RequestFault> {
        bounded(text)?;
        let mut tape = Tape::default();
        let not_json =
            |code: RejectCode, offset| RequestFault::NotJson { code: code.as_str(), offset };
        tape.scan(text).map_err(|error| not_json(error.code, error.offset))?;
        // Once for all strings in it.
        let text = std::str::from_utf8(text)
            .map_err(|error| not_json(RejectCode::InvalidUtf8, error.valid_up_to()))?;
        Ok(Self { text, tape })
    }

    /// The whole of it.
    pub(super) fn root(&self) -> Value<'_> {
        Value { document: self, node: 0 }
    }
}

impl<'d> Object<'d> {
    /// Its members, each name once and one of `known`; the value of the n-th name is the n-th.
    pub(super) fn members<const N: usize>(
        self,
        known: [&'static str; N],
    ) -> Result<[Option<Value<'d>>; N], RequestFault> {
        let mut found = [None; N];
        for (name, value) in self.iter() {
            let Some(slot) = name.as_deref().and_then(|name| known.iter().position(|k| *k == name))
            else {
                return Err(RequestFault::UnknownMember { known: known.join(", ") });
            };
            if found[slot].replace(value).is_some() {
                return Err(RequestFault::DuplicateMember { name: known[slot] });
            }
        }
        Ok(found)
    }

    /// Names and values, in their order. A name with a lone surrogate is none.
    pub(super) fn iter(self) -> impl Iterator<Item = (Option<Cow<'d, str>>, Value<'d>)> {
        let Self { document, node } = self;
        document.tape.children(node).map(move |child| {
            let node = &document.tape.nodes()[child as usize];
            let name = unescaped(&document.text[node.name()], node.name_escaped);
            (name, Value { document, node: child })
        })
    }
}

impl<'d> Value<'d> {
    fn node(self) -> &'d Node {
        &self.document.tape.nodes()[self.node as usize]
    }

    /// Its JSON text.
    pub(super) fn json(self) -> &'d [u8] {
        &self.document.text.as_bytes()[self.node().span()]
    }

    /// As an object.
    pub(super) fn object(self) -> Option<Object<'d>> {
        let Self { document, node } = self;
        (self.node().kind == Kind::Object).then_some(Object { document, node })
    }

    /// As the elements of an array.
    pub(super) fn array(self) -> Option<impl Iterator<Item = Value<'d>>> {
        let document = self.document;
        let elements = document.tape.children(self.node);
        (self.node().kind == Kind::Array)
            .then(|| elements.map(move |node| Value { document, node }))
    }

    /// As a string; one with a lone surrogate is none.
    pub(super) fn text(self) -> Option<Cow<'d, str>> {
        let node = self.node();
        if node.kind != Kind::String {
            return None;
        }
        unescaped(&self.document.text[node.inner()], node.escaped)
    }

    /// Whether it is a string, a number, true or false.
    pub(super) fn is_scalar(self) -> bool {
        matches!(self.node().kind, Kind::String | Kind::Number | Kind::Bool)
    }
}

/// The text of a string's inside. Nearly all are as they stand.
fn unescaped(inner: &str, has_escape: bool) -> Option<Cow<'_, str>> {
    if !has_escape {
        return Some(Cow::Borrowed(inner));
    }
    let mut text = Vec::new();
    unescape(inner.as_bytes(), &mut text).then_some(())?;
    String::from_utf8(text).ok().map(Cow::Owned)
}
