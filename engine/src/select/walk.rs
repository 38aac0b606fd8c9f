//! Running the automaton over a node table.

use super::filter::Tree;
use super::program::{Program, StateId};
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
    /// Per node: it is selected, or contains a selected node.
    pub on_the_way: Vec<bool>,
    /// Per path: the first node it selected, or `NO_PARENT`.
    first: Vec<u32>,
    states: Vec<StateId>,
    frames: Vec<Frame>,
    filtered: Vec<(u32, StateId)>,
    found: Vec<u32>,
    names: Vec<(u32, u32, u32)>,
    text: Vec<u8>,
    objects: Vec<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Frame {
    /// The next child and one past the last.
    at: u32,
    end: u32,
    object: bool,
    /// Element index of `at`, and how many there are.
    index: i64,
    count: i64,
    /// The states here: `states[first..last]`.
    first: u32,
    last: u32,
    /// Where this container's filter answers begin in `filtered`.
    filtered: u32,
    /// An object whose members matter by their names only, and the lengths of those names.
    by_name: bool,
    lengths: u64,
}

impl Selection {
    /// The node a singular path selected.
    #[must_use]
    pub fn single(&self, path: PathId) -> Option<u32> {
        self.first.get(usize::from(path)).copied().filter(|node| *node != NO_PARENT)
    }
}

impl Program {
    /// Selects in a scanned document.
    ///
    /// # Errors
    /// [`DuplicateMember`] when a name stands twice on the way to a selected node: readers disagree about which one counts.
    pub fn select(&self, doc: &[u8], tape: &Tape, sel: &mut Selection) -> Result<(), DuplicateMember> {
        sel.hits.clear();
        sel.states.clear();
        sel.frames.clear();
        sel.filtered.clear();
        self.enter(0, 0, 0, sel);
        self.open(doc, tape, 0, 0, sel);
        while let Some(frame) = sel.frames.last_mut() {
            if frame.at >= frame.end {
                let done = *frame;
                sel.frames.pop();
                sel.states.truncate(done.first as usize);
                sel.filtered.truncate(done.filtered as usize);
                continue;
            }
            if frame.by_name {
                // Most members are passed over on the length of their name alone.
                let nodes = &tape.nodes()[..frame.end as usize];
                let mut at = frame.at;
                while let Some(node) = nodes.get(at as usize)
                    && !node.name_escaped
                    && frame.lengths >> (node.name_end - node.name_start).min(63) & 1 == 0
                {
                    at = node.next;
                }
                frame.at = at;
                if at >= frame.end {
                    continue;
                }
            }
            let here = *frame;
            frame.at = tape.nodes()[here.at as usize].next;
            frame.index += 1;
            let first = sel.states.len();
            self.step(doc, tape, &here, first, sel);
            if sel.states.len() > first && !self.open(doc, tape, here.at, first, sel) {
                sel.states.truncate(first);
            }
        }
        self.select_foreign(doc, tape, sel);
        sel.mark(doc, tape, self.paths)
    }

    /// Takes every state of `here` over the child `here.at`.
    #[inline]
    fn step(&self, doc: &[u8], tape: &Tape, here: &Frame, first: usize, sel: &mut Selection) {
        let child = here.at;
        let node = &tape.nodes()[child as usize];
        for i in here.first..here.last {
            let id = sel.states[i as usize];
            let state = &self.states[id as usize];
            if state.sticky {
                push_state(id, first, &mut sel.states);
            }
            if let Some(next) = state.wildcard {
                self.enter(next, child, first, sel);
            }
            if here.object {
                let length = (node.name_end - node.name_start).min(63);
                // An escaped name is longer than it looks: it is compared whatever its length.
                if node.name_escaped || state.lengths >> length & 1 == 1 {
                    for (name, next) in &state.named {
                        if tape.name_is(doc, node, name) {
                            self.enter(*next, child, first, sel);
                        }
                    }
                }
            } else {
                for (index, next) in &state.indexes {
                    if *index == here.index || *index == here.index - here.count {
                        self.enter(*next, child, first, sel);
                    }
                }
                for (slice, next) in &state.slices {
                    if slice.contains(here.index, here.count) {
                        self.enter(*next, child, first, sel);
                    }
                }
            }
        }
        for i in here.filtered as usize..sel.filtered.len() {
            let (node, next) = sel.filtered[i];
            if node == child {
                self.enter(next, child, first, sel);
            }
        }
    }

    /// A state is reached at `node`: its paths select it, and the walk may go on.
    #[inline]
    fn enter(&self, id: StateId, node: u32, first: usize, sel: &mut Selection) {
        let state = &self.states[id as usize];
        sel.hits.extend(state.accepts.iter().map(|path| Hit { node, path: *path }));
        if state.leads_on() {
            push_state(id, first, &mut sel.states);
        }
        if let Some(sticky) = state.descend {
            push_state(sticky, first, &mut sel.states);
        }
    }

    /// Goes into a container with the states from `first` on; `false` when the node is none.
    fn open(&self, doc: &[u8], tape: &Tape, node: u32, first: usize, sel: &mut Selection) -> bool {
        let n = &tape.nodes()[node as usize];
        if !n.is_container() {
            return false;
        }
        let filtered = sel.filtered.len() as u32;
        let (mut by_name, mut lengths) = (n.kind == Kind::Object, 0);
        for i in first..sel.states.len() {
            let state = &self.states[sel.states[i] as usize];
            by_name &= !state.sticky && state.wildcard.is_none() && state.filters.is_empty();
            lengths |= state.lengths;
            if !state.filters.is_empty() {
                let tree = Tree::new(doc, tape, node);
                for (query, next) in &state.filters {
                    sel.found.clear();
                    tree.select(query, &mut sel.found);
                    sel.filtered.extend(sel.found.iter().map(|node| (*node, *next)));
                }
            }
        }
        sel.frames.push(Frame {
            at: node + 1,
            end: n.next,
            object: n.kind == Kind::Object,
            index: 0,
            count: i64::from(n.count),
            first: first as u32,
            last: sel.states.len() as u32,
            filtered,
            by_name,
            lengths,
        });
        true
    }

    fn select_foreign(&self, doc: &[u8], tape: &Tape, sel: &mut Selection) {
        if self.foreign.is_empty() {
            return;
        }
        let tree = Tree::new(doc, tape, 0);
        for (query, path) in &self.foreign {
            sel.found.clear();
            tree.select(query, &mut sel.found);
            sel.hits.extend(sel.found.iter().map(|node| Hit { node: *node, path: *path }));
        }
    }
}

#[inline]
fn push_state(id: StateId, first: usize, states: &mut Vec<StateId>) {
    if !states[first..].contains(&id) {
        states.push(id);
    }
}

impl Selection {
    /// Orders the hits, marks what lies on the way to them and looks for names that stand twice there.
    fn mark(&mut self, doc: &[u8], tape: &Tape, paths: usize) -> Result<(), DuplicateMember> {
        // Nearly always in order already: only `..`, unions and foreign paths mix them.
        if !self.hits.is_sorted() {
            self.hits.sort_unstable();
        }
        self.hits.dedup();
        self.on_the_way.clear();
        self.on_the_way.resize(tape.nodes().len(), false);
        self.objects.clear();
        self.first.clear();
        self.first.resize(paths, NO_PARENT);
        for hit in &self.hits {
            let first = &mut self.first[usize::from(hit.path)];
            *first = hit.node.min(*first);
            let mut at = hit.node;
            while !self.on_the_way[at as usize] {
                self.on_the_way[at as usize] = true;
                let parent = tape.nodes()[at as usize].parent;
                if parent == NO_PARENT {
                    break;
                }
                // One entry per object is enough for small ones; large ones are looked at once.
                if tape.nodes()[at as usize].is_member() && self.objects.last() != Some(&parent) {
                    self.objects.push(parent);
                }
                at = parent;
            }
        }
        self.objects.sort_unstable();
        self.objects.dedup();
        for i in 0..self.objects.len() {
            self.unique_names(doc, tape, self.objects[i])?;
        }
        Ok(())
    }

    fn unique_names(&mut self, doc: &[u8], tape: &Tape, object: u32) -> Result<(), DuplicateMember> {
        let nodes = tape.nodes();
        if nodes[object as usize].count > 24 {
            return self.unique_names_sorted(doc, tape, object);
        }
        for a in tape.children(object).filter(|a| self.on_the_way[*a as usize]) {
            for b in tape.children(object).filter(|b| *b != a) {
                if same_name(doc, tape, a, b) {
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
