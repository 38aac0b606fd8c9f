//! What was selected, and whether names on the way to it are unique.

use crate::scan::{Kind, NO_PARENT, Tape, same_text, unescape};
use crate::schema::PathId;

/// A selected node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// Index in the node table.
    pub node: u32,
    /// The path that selected it.
    pub path: PathId,
}

/// A member name stands twice in an object on the way to a selected node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DuplicateMember {
    /// Byte offset of the second one's name.
    pub offset: usize,
}

/// What was selected, with the buffers of the walk; reused from document to document.
#[derive(Debug, Default)]
pub struct Selection {
    /// Selected nodes in document order; of one node, lower path ids first.
    pub hits: Vec<Hit>,
    pub(super) walk: super::walk::Walk,
    /// Objects in which a name on the way to a hit may stand twice.
    pub(super) suspects: Vec<u32>,
    /// Per path: the first node it selected, or `NO_PARENT`.
    first: Vec<u32>,
    /// Per node: it is selected, or contains a selected node. Made when somebody asks.
    on_the_way: Vec<bool>,
    names: Vec<(u32, u32, u32)>,
    text: Vec<u8>,
}

impl Selection {
    /// The node a singular path selected.
    #[must_use]
    pub fn single(&self, path: PathId) -> Option<u32> {
        self.first.get(usize::from(path)).copied().filter(|node| *node != NO_PARENT)
    }

    /// Bytes of its larger buffers.
    pub(crate) fn buffer_bytes(&self) -> usize {
        let hits = self.hits.capacity() * size_of::<Hit>() + self.suspects.capacity() * size_of::<u32>();
        hits + self.on_the_way.capacity() + self.names.capacity() * size_of::<(u32, u32, u32)>() + self.text.capacity()
    }

    /// Finds the nodes that are selected or contain a selected one.
    pub(crate) fn mark_the_way(&mut self, tape: &Tape) {
        self.on_the_way.clear();
        self.on_the_way.resize(tape.nodes().len(), false);
        for hit in &self.hits {
            let mut at = hit.node;
            while at != NO_PARENT && !self.on_the_way[at as usize] {
                self.on_the_way[at as usize] = true;
                at = tape.nodes()[at as usize].parent;
            }
        }
    }

    /// Whether the node is selected or contains a selected one; after [`Selection::mark_the_way`].
    pub(crate) fn is_on_the_way(&self, node: u32) -> bool {
        self.on_the_way[node as usize]
    }

    pub(super) fn clear(&mut self) {
        self.hits.clear();
        self.suspects.clear();
    }

    /// Adds the objects a node lies in to those that are looked at.
    pub(super) fn suspect_above(&mut self, tape: &Tape, node: u32) {
        let mut at = node;
        while at != NO_PARENT {
            let node = &tape.nodes()[at as usize];
            if node.kind == Kind::Object {
                self.suspects.push(at);
            }
            at = node.parent;
        }
    }

    /// Orders the hits and looks for names that stand twice on the way to them.
    pub(super) fn finish(&mut self, doc: &[u8], tape: &Tape, paths: usize) -> Result<(), DuplicateMember> {
        // Nearly always in order already: only `..`, unions and foreign paths mix them.
        if !self.hits.is_sorted() {
            self.hits.sort_unstable();
        }
        self.hits.dedup();
        self.first.clear();
        self.first.resize(paths, NO_PARENT);
        for hit in &self.hits {
            let first = &mut self.first[usize::from(hit.path)];
            *first = hit.node.min(*first);
        }
        if self.suspects.is_empty() || self.hits.is_empty() {
            return Ok(());
        }
        self.mark_the_way(tape);
        self.suspects.sort_unstable();
        self.suspects.dedup();
        for i in 0..self.suspects.len() {
            let object = self.suspects[i];
            if self.on_the_way[object as usize] {
                self.unique_names(doc, tape, object)?;
            }
        }
        Ok(())
    }

    fn unique_names(&mut self, doc: &[u8], tape: &Tape, object: u32) -> Result<(), DuplicateMember> {
        let nodes = tape.nodes();
        if nodes[object as usize].count > 24 {
            return self.unique_names_sorted(doc, tape, object);
        }
        for a in tape.children(object).filter(|a| self.on_the_way[*a as usize]) {
            let name = &nodes[a as usize];
            let length = name.name_end - name.name_start;
            for b in tape.children(object).filter(|b| *b != a) {
                let other = &nodes[b as usize];
                // Names of two lengths differ, unless one is spelled with escapes.
                let comparable = length == other.name_end - other.name_start || name.name_escaped || other.name_escaped;
                if comparable && same_name(doc, tape, a, b) {
                    return Err(DuplicateMember { offset: nodes[a.max(b) as usize].name_start as usize });
                }
            }
        }
        Ok(())
    }

    /// Sorted, so that a large object costs n log n whatever its names are.
    fn unique_names_sorted(&mut self, doc: &[u8], tape: &Tape, object: u32) -> Result<(), DuplicateMember> {
        self.text.clear();
        self.names.clear();
        for child in tape.children(object) {
            let node = &tape.nodes()[child as usize];
            let start = self.text.len();
            // A lone surrogate has no text; the spelling stands for it.
            if !node.name_escaped || !unescape(&doc[node.name()], &mut self.text) {
                self.text.truncate(start);
                self.text.extend_from_slice(&doc[node.name()]);
            }
            self.names.push((start as u32, self.text.len() as u32, child));
        }
        let text = &self.text;
        let name = |n: &(u32, u32, u32)| &text[n.0 as usize..n.1 as usize];
        self.names.sort_unstable_by(|a, b| name(a).cmp(name(b)).then(a.2.cmp(&b.2)));
        for pair in self.names.windows(2).filter(|pair| name(&pair[0]) == name(&pair[1])) {
            if self.on_the_way[pair[0].2 as usize] || self.on_the_way[pair[1].2 as usize] {
                return Err(DuplicateMember { offset: tape.nodes()[pair[1].2 as usize].name_start as usize });
            }
        }
        Ok(())
    }
}

#[inline]
fn same_name(doc: &[u8], tape: &Tape, a: u32, b: u32) -> bool {
    let (a, b) = (&tape.nodes()[a as usize], &tape.nodes()[b as usize]);
    let (name_a, name_b) = (&doc[a.name()], &doc[b.name()]);
    if a.name_escaped || b.name_escaped { same_text(name_a, name_b) } else { name_a == name_b }
}
