//! What was selected, and whether names on the way to it are unique.

use super::judge::{Notes, mark};
use crate::budget::Budget;
use crate::error::RejectCode;
use crate::scan::{NO_PARENT, Tape, same_text, unescape};
use crate::schema::PathId;

/// A selected node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    /// Index in the node table.
    pub node: u32,
    /// The path that selected it.
    pub path: PathId,
}

/// Why nothing was selected: a name stands twice on the way to a selected node or in what a filter
/// read (readers disagree about which one counts), or the record's budget of work is spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectError {
    /// `duplicate_member` or `too_complex`.
    pub code: RejectCode,
    /// Byte offset of the second one's name.
    pub offset: Option<usize>,
}

impl SelectError {
    fn duplicate(offset: usize) -> Self {
        Self { code: RejectCode::DuplicateMember, offset: Some(offset) }
    }

    const TOO_COMPLEX: Self = Self { code: RejectCode::TooComplex, offset: None };
}

/// What was selected, with the buffers of the walk; reused from document to document.
#[derive(Debug, Default)]
pub struct Selection {
    /// Selected nodes in document order; of one node, lower path ids first.
    pub hits: Vec<Hit>,
    pub(super) walk: super::walk::Walk,
    pub(super) notes: Notes,
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
        let hits =
            self.hits.capacity() * size_of::<Hit>() + self.suspects.capacity() * size_of::<u32>();
        hits + self.notes.buffer_bytes()
            + self.on_the_way.capacity()
            + self.names.capacity() * size_of::<(u32, u32, u32)>()
            + self.text.capacity()
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

    /// What is left of the record's budget of work.
    pub(crate) fn budget(&mut self) -> &mut Budget {
        &mut self.notes.budget
    }

    /// Whether filters were answered by what a protected node was: its value or that of something
    /// around or in it was compared, measured or counted, or what was found in it is gone. `gone`:
    /// so is the node.
    pub(crate) fn was_judged_by(&mut self, tape: &Tape, node: u32, gone: bool) -> bool {
        let marks = &mut self.notes.marks;
        let Some(own) = marks.get(node as usize).copied() else { return false };
        let end = tape.nodes()[node as usize].next as usize;
        let inside =
            marks[node as usize + 1..end].iter().any(|m| m & (mark::VALUE | mark::EXISTS) != 0);
        if inside || own & mark::VALUE != 0 || gone && own & mark::EXISTS != 0 {
            return true;
        }
        let mut at = tape.nodes()[node as usize].parent;
        // Above what was asked about before, nothing was found.
        while at != NO_PARENT && marks[at as usize] & mark::ASKED == 0 {
            if marks[at as usize] & mark::VALUE != 0 {
                return true;
            }
            marks[at as usize] |= mark::ASKED;
            at = tape.nodes()[at as usize].parent;
        }
        false
    }

    /// Orders the hits and looks for names that stand twice on the way to them.
    pub(super) fn finish(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        paths: usize,
    ) -> Result<(), SelectError> {
        if self.notes.budget.is_overdrawn() {
            return Err(SelectError::TOO_COMPLEX);
        }
        if let Some(offset) = self.notes.duplicate {
            return Err(SelectError::duplicate(offset));
        }
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
        self.names_filters_read(doc, tape)?;
        if self.suspects.is_empty() || self.hits.is_empty() {
            return Ok(());
        }
        self.mark_the_way(tape);
        self.suspects.sort_unstable();
        self.suspects.dedup();
        for i in 0..self.suspects.len() {
            let object = self.suspects[i];
            if self.on_the_way[object as usize] {
                if !self.charge_names(tape, object) {
                    return Err(SelectError::TOO_COMPLEX);
                }
                self.unique_names(doc, tape, object)?;
            }
        }
        Ok(())
    }

    /// Of objects whose members a filter read one and all, no two may have one name.
    fn names_filters_read(&mut self, doc: &[u8], tape: &Tape) -> Result<(), SelectError> {
        for i in 0..self.notes.named.len() {
            let object = self.notes.named[i];
            if !self.charge_names(tape, object) {
                return Err(SelectError::TOO_COMPLEX);
            }
            self.sort_names(doc, tape, object);
            if let Some(second) = self.twice(|_| true) {
                return Err(SelectError::duplicate(
                    tape.nodes()[second as usize].name_start as usize,
                ));
            }
        }
        Ok(())
    }

    /// Takes off what sorting an object's names costs.
    fn charge_names(&mut self, tape: &Tape, object: u32) -> bool {
        let count = u64::from(tape.nodes()[object as usize].count) + 1;
        self.notes.budget.charge(count * (16 + 4 * u64::from(count.ilog2())))
    }

    fn unique_names(&mut self, doc: &[u8], tape: &Tape, object: u32) -> Result<(), SelectError> {
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
                let comparable = length == other.name_end - other.name_start
                    || name.name_escaped
                    || other.name_escaped;
                if comparable && same_name(doc, tape, a, b) {
                    return Err(SelectError::duplicate(
                        nodes[a.max(b) as usize].name_start as usize,
                    ));
                }
            }
        }
        Ok(())
    }

    /// Sorted, so that a large object costs n log n whatever its names are.
    fn unique_names_sorted(
        &mut self,
        doc: &[u8],
        tape: &Tape,
        object: u32,
    ) -> Result<(), SelectError> {
        self.sort_names(doc, tape, object);
        match self.twice(|member| self.on_the_way[member as usize]) {
            Some(second) => {
                Err(SelectError::duplicate(tape.nodes()[second as usize].name_start as usize))
            }
            None => Ok(()),
        }
    }

    fn sort_names(&mut self, doc: &[u8], tape: &Tape, object: u32) {
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
    }

    /// The second of two sorted members with one name, where either matters.
    fn twice(&self, matters: impl Fn(u32) -> bool) -> Option<u32> {
        let name = |n: &(u32, u32, u32)| &self.text[n.0 as usize..n.1 as usize];
        self.names
            .windows(2)
            .find(|pair| {
                name(&pair[0]) == name(&pair[1]) && (matters(pair[0].2) || matters(pair[1].2))
            })
            .map(|pair| pair[1].2)
    }
}

#[inline]
fn same_name(doc: &[u8], tape: &Tape, a: u32, b: u32) -> bool {
    let (a, b) = (&tape.nodes()[a as usize], &tape.nodes()[b as usize]);
    let (name_a, name_b) = (&doc[a.name()], &doc[b.name()]);
    if a.name_escaped || b.name_escaped { same_text(name_a, name_b) } else { name_a == name_b }
}
