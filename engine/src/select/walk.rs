//! Running the automaton over a node table.

use super::filter::Tree;
use super::program::{Program, State, StateId, Written};
use super::selection::{DuplicateMember, Hit, Selection};
use crate::scan::{Kind, Node, Tape};

/// Buffers of a walk.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// States of every open container, one run per container.
    states: Vec<StateId>,
    /// Containers around the one being walked through.
    outer: Vec<Frame>,
    /// (node, state): what filters of open containers selected, in document order per container.
    filtered: Vec<(u32, StateId)>,
    found: Vec<u32>,
}

/// A container being walked through.
#[derive(Debug, Clone, Copy)]
struct Frame {
    node: u32,
    /// The next child and one past the last.
    at: u32,
    end: u32,
    object: bool,
    /// An object whose members matter by their names only.
    by_name: bool,
    /// Lengths of those names, as in [`State::lengths`].
    lengths: u64,
    /// Which of those names were seen.
    seen: u64,
    /// Element index of `at`, and how many there are.
    index: u32,
    count: u32,
    /// The states here: `states[first..last]`.
    first: u32,
    last: u32,
    /// Where this container's filter answers begin in `filtered`, and the next of them.
    filtered: u32,
    next_filtered: u32,
}

impl Program {
    /// Selects in a scanned document.
    ///
    /// # Errors
    /// [`DuplicateMember`] when a name stands twice on the way to a selected node: readers disagree about which one counts.
    pub fn select(&self, doc: &[u8], tape: &Tape, sel: &mut Selection) -> Result<(), DuplicateMember> {
        sel.clear();
        sel.walk.states.clear();
        sel.walk.outer.clear();
        sel.walk.filtered.clear();
        self.enter(0, 0, 0, sel);
        if let Some(root) = self.open(doc, tape, 0, 0, sel) {
            self.walk(doc, tape, root, sel);
        }
        self.select_foreign(doc, tape, sel);
        sel.finish(doc, tape, self.paths)
    }

    fn walk(&self, doc: &[u8], tape: &Tape, root: Frame, sel: &mut Selection) {
        let mut here = root;
        loop {
            if here.by_name {
                here.at = next_of_length(tape.nodes(), &here);
            }
            if here.at >= here.end {
                sel.walk.states.truncate(here.first as usize);
                sel.walk.filtered.truncate(here.filtered as usize);
                let Some(outer) = sel.walk.outer.pop() else { return };
                here = outer;
                continue;
            }
            let child = here.at;
            let first = sel.walk.states.len();
            self.step(doc, tape, &mut here, first, sel);
            here.at = tape.nodes()[child as usize].next;
            here.index += 1;
            if sel.walk.states.len() == first {
                continue;
            }
            match self.open(doc, tape, child, first, sel) {
                Some(inner) => sel.walk.outer.push(std::mem::replace(&mut here, inner)),
                None => sel.walk.states.truncate(first),
            }
        }
    }

    /// Takes every state of `here` over the child `here.at`.
    #[inline]
    fn step(&self, doc: &[u8], tape: &Tape, here: &mut Frame, first: usize, sel: &mut Selection) {
        let child = here.at;
        let node = &tape.nodes()[child as usize];
        let mut ordinal = 0;
        for i in here.first..here.last {
            let id = sel.walk.states[i as usize];
            let state = &self.states[id as usize];
            if state.sticky {
                push_state(id, first, &mut sel.walk.states);
            }
            if let Some(next) = state.wildcard {
                self.enter(next, child, first, sel);
            }
            if here.object {
                if may_be_named(node, state.lengths) {
                    let written = Written::new(doc, node);
                    for (n, (name, next)) in state.named.iter().enumerate() {
                        if written.is(name) {
                            here.see(ordinal + n, sel);
                            self.enter(*next, child, first, sel);
                            // Names of one state differ.
                            break;
                        }
                    }
                }
                ordinal += state.named.len();
            } else {
                self.step_element(state, here, child, first, sel);
            }
        }
        while let Some(&(_, next)) = sel.walk.filtered.get(here.next_filtered as usize).filter(|f| f.0 == child) {
            here.next_filtered += 1;
            self.enter(next, child, first, sel);
        }
    }

    #[inline]
    fn step_element(&self, state: &State, here: &Frame, child: u32, first: usize, sel: &mut Selection) {
        let (at, count) = (i64::from(here.index), i64::from(here.count));
        for (index, next) in &state.indexes {
            if *index == at || *index == at - count {
                self.enter(*next, child, first, sel);
            }
        }
        for (slice, next) in &state.slices {
            if slice.contains(at, count) {
                self.enter(*next, child, first, sel);
            }
        }
    }

    /// A state is reached at `node`: its paths select it, and the walk may go on.
    #[inline]
    fn enter(&self, id: StateId, node: u32, first: usize, sel: &mut Selection) {
        let state = &self.states[id as usize];
        for path in &state.accepts {
            sel.hits.push(Hit { node, path: *path });
        }
        if state.leads_on {
            push_state(id, first, &mut sel.walk.states);
        }
        if let Some(sticky) = state.descend {
            push_state(sticky, first, &mut sel.walk.states);
        }
    }

    /// Goes into a container with the states from `first` on; `None` when the node is none.
    fn open(&self, doc: &[u8], tape: &Tape, node: u32, first: usize, sel: &mut Selection) -> Option<Frame> {
        let n = &tape.nodes()[node as usize];
        if !n.is_container() {
            return None;
        }
        let filtered = sel.walk.filtered.len();
        let (mut by_name, mut lengths) = (n.kind == Kind::Object, 0);
        for i in first..sel.walk.states.len() {
            let state = &self.states[sel.walk.states[i] as usize];
            by_name &= state.by_name;
            lengths |= state.lengths;
            if !state.filters.is_empty() {
                run_filters(doc, tape, node, state, sel);
            }
        }
        sel.walk.filtered[filtered..].sort_unstable();
        if n.kind == Kind::Object && !by_name {
            sel.suspects.push(node);
        }
        Some(Frame {
            node,
            at: node + 1,
            end: n.next,
            object: n.kind == Kind::Object,
            by_name,
            lengths,
            seen: 0,
            index: 0,
            count: n.count,
            first: first as u32,
            last: sel.walk.states.len() as u32,
            filtered: filtered as u32,
            next_filtered: filtered as u32,
        })
    }

    fn select_foreign(&self, doc: &[u8], tape: &Tape, sel: &mut Selection) {
        if self.foreign.is_empty() {
            return;
        }
        let tree = Tree::new(doc, tape, 0);
        for (query, path) in &self.foreign {
            let mut found = std::mem::take(&mut sel.walk.found);
            found.clear();
            tree.select(query, &mut found);
            for node in &found {
                sel.hits.push(Hit { node: *node, path: *path });
                sel.suspect_above(tape, *node);
            }
            sel.walk.found = found;
        }
    }
}

impl Frame {
    /// A name led on. Twice the same in one object is looked into at the end; so is more than can be told apart.
    #[inline]
    fn see(&mut self, name: usize, sel: &mut Selection) {
        let bit = 1_u64.checked_shl(name as u32).unwrap_or(u64::MAX);
        if self.seen & bit != 0 {
            sel.suspects.push(self.node);
        }
        self.seen |= bit;
    }
}

/// The next member whose name has a length that matters. Most are passed over on this alone; an escaped name is longer than it looks.
#[inline]
fn next_of_length(nodes: &[Node], here: &Frame) -> u32 {
    let mut at = here.at;
    while at < here.end && !may_be_named(&nodes[at as usize], here.lengths) {
        at = nodes[at as usize].next;
    }
    at
}

#[inline]
fn may_be_named(node: &Node, lengths: u64) -> bool {
    node.name_escaped || lengths >> (node.name_end - node.name_start).min(63) & 1 == 1
}

fn run_filters(doc: &[u8], tape: &Tape, node: u32, state: &State, sel: &mut Selection) {
    let tree = Tree::new(doc, tape, node);
    for (query, next) in &state.filters {
        sel.walk.found.clear();
        tree.select(query, &mut sel.walk.found);
        sel.walk.filtered.extend(sel.walk.found.iter().map(|node| (*node, *next)));
    }
}

#[inline]
fn push_state(id: StateId, first: usize, states: &mut Vec<StateId>) {
    if !states[first..].contains(&id) {
        states.push(id);
    }
}
