//! Normalized paths (RFC 9535) of places.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::scan::{NO_PARENT, Tape, unescape_lossy};
use crate::schema::Schema;

/// The paths of a document's places, in the value without an envelope that the schema writes. One
/// long name above many places would make them longer than any memory: there is room for so much.
pub(super) struct Paths<'a> {
    schema: &'a Schema,
    tape: &'a Tape,
    doc: &'a [u8],
    /// Bytes.
    room: usize,
    /// By array: the element that was asked for last, and its index.
    known: HashMap<u32, (u32, usize)>,
}

impl<'a> Paths<'a> {
    /// `room`: bytes of all of them together.
    pub(super) fn new(schema: &'a Schema, tape: &'a Tape, doc: &'a [u8], room: usize) -> Self {
        Self { schema, tape, doc, room, known: HashMap::new() }
    }

    /// The path of a node. `None`: there is no room for it.
    pub(super) fn of(&mut self, node: u32) -> Option<String> {
        let path = self.normalized(node);
        let Some(room) = self.room.checked_sub(path.len()) else {
            self.room = 0;
            return None;
        };
        self.room = room;
        Some(match self.schema.written.as_ref().and_then(|_| path.strip_prefix("$['payload']")) {
            Some(rest) => format!("${rest}"),
            None => path,
        })
    }

    /// In the document as it is.
    fn normalized(&mut self, node: u32) -> String {
        let (mut steps, mut at, mut name) = (Vec::new(), node, Vec::new());
        while self.tape.nodes()[at as usize].parent != NO_PARENT {
            let node = &self.tape.nodes()[at as usize];
            if node.is_member() {
                name.clear();
                unescape_lossy(&self.doc[node.name()], &mut name);
                steps.push(quoted(&String::from_utf8_lossy(&name)));
            } else {
                steps.push(format!("[{}]", self.index(node.parent, at)));
            }
            at = node.parent;
        }
        steps.push("$".to_owned());
        steps.reverse();
        steps.concat()
    }

    /// The index of an element. Mostly a few steps on from the one before.
    fn index(&mut self, array: u32, element: u32) -> usize {
        let known = self.known.get(&array).filter(|(at, _)| *at <= element);
        let (mut at, mut index) = known.copied().unwrap_or((array + 1, 0));
        while at < element {
            at = self.tape.nodes()[at as usize].next;
            index += 1;
        }
        self.known.insert(array, (element, index));
        index
    }
}

/// The path of one node, however long it is.
pub(super) fn value_path(schema: &Schema, tape: &Tape, doc: &[u8], node: u32) -> String {
    Paths::new(schema, tape, doc, usize::MAX).of(node).unwrap_or_default()
}

/// `['name']`, as normalized paths write it.
fn quoted(name: &str) -> String {
    let mut out = "['".to_owned();
    for c in name.chars() {
        match c {
            '\'' | '\\' => out.extend(['\\', c]),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            // Writing to a string never fails.
            c if c < ' ' => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out + "']"
}
