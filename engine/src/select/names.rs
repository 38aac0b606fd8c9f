//! Member names of a state, and a name as it stands in a document.

use super::program::StateId;
use crate::scan::{Node, unescape, unescaped_eq};

/// More names than this are searched in order of length and beginning.
const FEW: usize = 12;

/// A member name, with its first eight bytes as a number: most names are compared by it alone.
#[derive(Debug)]
pub(super) struct Name {
    text: Box<[u8]>,
    head: u64,
}

/// The first eight bytes of a name, or all of it and zeros.
fn head(name: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let length = name.len().min(8);
    bytes[..length].copy_from_slice(&name[..length]);
    u64::from_le_bytes(bytes)
}

impl Name {
    pub(super) fn new(text: &str) -> Self {
        Self { text: text.as_bytes().into(), head: head(text.as_bytes()) }
    }

    fn order(&self) -> (usize, u64, &[u8]) {
        (self.text.len(), self.head, &self.text)
    }
}

/// A member's name as it stands in the document.
pub(super) struct Written<'d> {
    name: &'d [u8],
    escaped: bool,
    head: u64,
}

impl<'d> Written<'d> {
    #[inline]
    pub(super) fn new(doc: &'d [u8], node: &Node) -> Self {
        let name = &doc[node.name()];
        // A name is never the end of a document: eight bytes from its start are nearly always
        // there, and those that are not its own are cut off.
        let head = match doc[node.name_start as usize..].first_chunk::<8>() {
            Some(bytes) if name.len() < 8 => {
                u64::from_le_bytes(*bytes) & !(u64::MAX << (8 * name.len()))
            }
            Some(bytes) => u64::from_le_bytes(*bytes),
            None => head(name),
        };
        Self { name, escaped: node.name_escaped, head }
    }

    /// Whether it is `name`, after unescaping.
    #[inline]
    pub(super) fn is(&self, name: &Name) -> bool {
        if self.escaped {
            return unescaped_eq(self.name, &name.text);
        }
        self.head == name.head
            && self.name.len() == name.text.len()
            && (name.text.len() <= 8 || self.name == &*name.text)
    }
}

/// Names and where they lead.
#[derive(Debug, Default)]
pub(super) struct Names {
    names: Vec<(Name, StateId)>,
    /// Bit n: some name is n bytes long (63: or longer). Most members are passed over on this
    /// alone.
    pub(super) lengths: u64,
}

impl Names {
    pub(super) fn push(&mut self, name: Name, to: StateId) {
        self.lengths |= 1 << name.text.len().min(63);
        self.names.push((name, to));
    }

    pub(super) fn finish(&mut self) {
        if self.names.len() > FEW {
            self.names.sort_unstable_by(|a, b| a.0.order().cmp(&b.0.order()));
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The name of that number.
    pub(super) fn name(&self, n: usize) -> &Name {
        &self.names[n].0
    }

    /// Which of the names a member has, and where it leads. Names of one state differ.
    #[inline]
    pub(super) fn find(
        &self,
        doc: &[u8],
        node: &Node,
        text: &mut Vec<u8>,
    ) -> Option<(usize, StateId)> {
        let written = Written::new(doc, node);
        if self.names.len() > FEW {
            return self.search(&written, text);
        }
        self.names.iter().position(|(name, _)| written.is(name)).map(|i| (i, self.names[i].1))
    }

    #[inline(never)]
    fn search(&self, written: &Written<'_>, text: &mut Vec<u8>) -> Option<(usize, StateId)> {
        let (name, head) = if written.escaped {
            text.clear();
            // A lone surrogate stands in no path.
            if !unescape(written.name, text) {
                return None;
            }
            (text.as_slice(), head(text))
        } else {
            (written.name, written.head)
        };
        let found = self
            .names
            .binary_search_by(|(other, _)| other.order().cmp(&(name.len(), head, name)))
            .ok()?;
        Some((found, self.names[found].1))
    }
}
