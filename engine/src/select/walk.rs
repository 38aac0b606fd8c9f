//! Running the automaton over a node table.

use super::decimal;
use super::judge::Judge;
use super::pattern::Matched;
use super::program::{Matches, Program, State, StateId};
use super::selection::{Hit, SelectError, Selection};
use crate::budget::Budget;
use crate::scan::{Kind, Node, Tape, unescape, unescape_lossy};

/// What a selected node costs, in units of [`Budget`]: more than the time it takes, because it
/// takes room as well.
const HIT: u64 = 24;
/// What a state costs at every child.
const STATE: u64 = 4;

/// Buffers of a walk.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// States of every open container, one run per container.
    states: Vec<StateId>,
    /// Per state: the node it was entered at last, as counted by `clock`.
    entered: Vec<u32>,
    clock: u32,
    /// A field selected the node at hand.
    protects: bool,
    /// Containers around the one being walked through.
    outer: Vec<Frame>,
    /// An escaped name or text.
    text: Vec<u8>,
    matched: Matched,
}

impl Walk {
    /// Another node is at hand.
    #[inline]
    fn next_node(&mut self) {
        self.protects = false;
        self.clock = self.clock.wrapping_add(1);
        if self.clock == 0 {
            self.entered.fill(0);
            self.clock = 1;
        }
    }

    #[inline]
    fn push(&mut self, id: StateId) {
        let entered = &mut self.entered[id as usize];
        if *entered != self.clock {
            *entered = self.clock;
            self.states.push(id);
        }
    }
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
    /// Lengths of those names, as in [`super::names::Names::lengths`].
    lengths: u64,
    /// Which of those names were seen.
    seen: u64,
    /// Element index of `at`, and how many there are.
    index: u32,
    count: u32,
    /// The states here: `states[first..last]`.
    first: u32,
    last: u32,
    /// Of some of these states filters ask.
    filters: bool,
    /// It is protected, or lies in what is.
    protected: bool,
}

impl Program {
    /// Selects in a scanned document.
    ///
    /// # Errors
    /// [`SelectError`].
    pub fn select(&self, doc: &[u8], tape: &Tape, sel: &mut Selection) -> Result<(), SelectError> {
        self.select_within(Budget::of_record(doc.len()), doc, tape, sel)
    }

    /// [`Program::select`] on what is left of a budget.
    pub(crate) fn select_within(
        &self,
        budget: Budget,
        doc: &[u8],
        tape: &Tape,
        sel: &mut Selection,
    ) -> Result<(), SelectError> {
        sel.clear();
        sel.notes.begin(self, tape, budget);
        sel.walk.states.clear();
        sel.walk.outer.clear();
        if sel.walk.entered.len() < self.states.len() {
            sel.walk.entered.resize(self.states.len(), 0);
        }
        sel.walk.next_node();
        self.enter(0, 0, sel);
        if let Some(root) = self.open(tape, 0, 0, false, sel) {
            self.walk(doc, tape, root, sel);
        }
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
                let Some(outer) = sel.walk.outer.pop() else { return };
                here = outer;
                continue;
            }
            let child = here.at;
            let first = sel.walk.states.len();
            sel.walk.next_node();
            self.step(doc, tape, &mut here, sel);
            here.at = tape.nodes()[child as usize].next;
            here.index += 1;
            if sel.walk.states.len() == first {
                continue;
            }
            match self.open(tape, child, first, here.protected, sel) {
                Some(inner) => sel.walk.outer.push(std::mem::replace(&mut here, inner)),
                None => sel.walk.states.truncate(first),
            }
        }
    }

    /// Takes every state of `here` over the child `here.at`.
    #[inline]
    fn step(&self, doc: &[u8], tape: &Tape, here: &mut Frame, sel: &mut Selection) {
        let child = here.at;
        let node = &tape.nodes()[child as usize];
        let mut ordinal = 0;
        for i in here.first as usize..here.last as usize {
            let id = sel.walk.states[i];
            let state = &self.states[id as usize];
            if state.sticky {
                sel.walk.push(id);
            }
            if let Some(next) = state.wildcard {
                self.enter(next, child, sel);
            }
            if here.object {
                if may_be_named(node, state.named.lengths)
                    && let Some((n, next)) = state.named.find(doc, node, &mut sel.walk.text)
                {
                    here.see(ordinal + n, sel);
                    self.enter(next, child, sel);
                }
                ordinal += state.named.len();
            } else {
                self.step_element(state, here, child, sel);
            }
        }
        if here.filters {
            self.step_filters(doc, tape, here, sel);
        }
    }

    #[inline]
    fn step_element(&self, state: &State, here: &Frame, child: u32, sel: &mut Selection) {
        let (at, count) = (i64::from(here.index), i64::from(here.count));
        if !(state.indexes.is_empty() && state.slices.is_empty()) {
            sel.notes.budget.charge((state.indexes.len() + 4 * state.slices.len()) as u64);
        }
        for (index, next) in &state.indexes {
            if *index == at || *index == at - count {
                self.enter(*next, child, sel);
            }
        }
        for (slice, next) in &state.slices {
            if slice.contains(at, count) {
                self.enter(*next, child, sel);
            }
        }
    }

    /// Asks the filters of every state of `here` about the child `here.at`.
    #[inline(never)]
    fn step_filters(&self, doc: &[u8], tape: &Tape, here: &Frame, sel: &mut Selection) {
        for i in here.first..here.last {
            let state = &self.states[sel.walk.states[i as usize] as usize];
            if !state.exists.is_empty() {
                self.step_exists(doc, tape, here, state, sel);
            }
            for (test, next) in &state.filters {
                let mut judge = Judge {
                    reads: &self.reads,
                    doc,
                    tape,
                    notes: &mut sel.notes,
                    marking: !here.protected,
                };
                if judge.notes.budget.charge(4) && judge.holds(test, here.at) {
                    self.enter(*next, here.at, sel);
                }
            }
            for equals in &state.equals {
                let mut judge = Judge {
                    reads: &self.reads,
                    doc,
                    tape,
                    notes: &mut sel.notes,
                    marking: !here.protected,
                };
                let Some(node) = judge.node_of_read(equals.read, here.at) else { continue };
                let next = match node.kind {
                    Kind::String if !equals.texts.is_empty() => {
                        let Some(text) = text_of(doc, node, &mut sel.walk.text) else { continue };
                        sel.notes.budget.charge(text.len() as u64 + 8);
                        equals.texts.get(text)
                    }
                    Kind::Number if !equals.numbers.is_empty() => {
                        let written = &doc[node.span()];
                        // A number that cannot be compared for certain rejects the record.
                        let told = sel.notes.budget.charge(2 * written.len() as u64 + 8)
                            && decimal::canonical(written, &mut sel.walk.text);
                        if !told {
                            sel.notes.budget.charge(u64::MAX);
                            continue;
                        }
                        equals.numbers.get(sel.walk.text.as_slice())
                    }
                    _ => None,
                };
                if let Some(next) = next {
                    self.enter(*next, here.at, sel);
                }
            }
            state
                .matches
                .iter()
                .for_each(|matches| self.step_matches(doc, tape, here, matches, sel));
        }
    }

    /// Filters that ask for members by their names: one pass over the members answers all of them.
    fn step_exists(
        &self,
        doc: &[u8],
        tape: &Tape,
        here: &Frame,
        state: &State,
        sel: &mut Selection,
    ) {
        let object = &tape.nodes()[here.at as usize];
        if object.kind != Kind::Object {
            return;
        }
        sel.notes.budget.charge(2 * u64::from(object.count));
        for child in tape.children(here.at) {
            let node = &tape.nodes()[child as usize];
            let found = may_be_named(node, state.exists.lengths)
                .then(|| state.exists.find(doc, node, &mut sel.walk.text))
                .flatten();
            let Some((n, next)) = found else { continue };
            let mut judge = Judge {
                reads: &self.reads,
                doc,
                tape,
                notes: &mut sel.notes,
                marking: !here.protected,
            };
            judge.has_member(here.at, state.exists.name(n));
            self.enter(next, here.at, sel);
        }
    }

    fn step_matches(
        &self,
        doc: &[u8],
        tape: &Tape,
        here: &Frame,
        matches: &Matches,
        sel: &mut Selection,
    ) {
        let mut judge = Judge {
            reads: &self.reads,
            doc,
            tape,
            notes: &mut sel.notes,
            marking: !here.protected,
        };
        let Some(node) =
            judge.node_of_read(matches.read, here.at).filter(|node| node.kind == Kind::String)
        else {
            return;
        };
        let inner = &doc[node.inner()];
        let text = if node.escaped {
            sel.walk.text.clear();
            unescape_lossy(inner, &mut sel.walk.text);
            &sel.walk.text
        } else {
            inner
        };
        // Without an answer nothing may pass.
        let told = sel.notes.budget.charge(2 * inner.len() as u64 + 16)
            && matches.patterns.matches(text, &mut sel.walk.matched);
        if !told {
            sel.notes.budget.charge(u64::MAX);
            return;
        }
        let matched = std::mem::take(&mut sel.walk.matched);
        matched.numbers().for_each(|n| self.enter(matches.next[n], here.at, sel));
        sel.walk.matched = matched;
    }

    /// A state is reached at `node`: its paths select it, and the walk may go on.
    #[inline]
    fn enter(&self, id: StateId, node: u32, sel: &mut Selection) {
        let state = &self.states[id as usize];
        if !state.accepts.is_empty() {
            self.accept(state, node, sel);
        }
        if state.leads_on {
            sel.walk.push(id);
        }
        if let Some(sticky) = state.descend {
            sel.walk.push(sticky);
        }
    }

    fn accept(&self, state: &State, node: u32, sel: &mut Selection) {
        sel.notes.budget.charge(HIT * state.accepts.len() as u64);
        for path in &state.accepts {
            sel.hits.push(Hit { node, path: *path });
            sel.walk.protects |= usize::from(*path) < self.protecting;
        }
    }

    /// Goes into a container with the states from `first` on; `None` when the node is none.
    fn open(
        &self,
        tape: &Tape,
        node: u32,
        first: usize,
        protected: bool,
        sel: &mut Selection,
    ) -> Option<Frame> {
        let n = &tape.nodes()[node as usize];
        if !n.is_container() {
            return None;
        }
        let (mut by_name, mut lengths, mut filters) = (n.kind == Kind::Object, 0, false);
        for id in &sel.walk.states[first..] {
            let state = &self.states[*id as usize];
            by_name &= state.by_name;
            lengths |= state.named.lengths;
            filters |= state.has_filters();
        }
        // Paid before it is walked through. Of members that are known by their names most are
        // passed over.
        let work = if by_name { 1 } else { STATE * (sel.walk.states.len() - first) as u64 };
        if !sel.notes.budget.charge(work * u64::from(n.count)) {
            return None;
        }
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
            filters,
            protected: protected || sel.walk.protects,
        })
    }
}

impl Frame {
    /// A name led on. Twice the same in one object is looked into at the end; so is more than can
    /// be told apart.
    #[inline]
    fn see(&mut self, name: usize, sel: &mut Selection) {
        let bit = 1_u64.checked_shl(name as u32).unwrap_or(u64::MAX);
        if self.seen & bit != 0 {
            sel.suspects.push(self.node);
        }
        self.seen |= bit;
    }
}

/// The next member whose name has a length that matters. Most are passed over on this alone; an
/// escaped name is longer than it looks.
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

/// A string's text; one with a lone surrogate is no text of any filter.
fn text_of<'t>(doc: &'t [u8], node: &Node, text: &'t mut Vec<u8>) -> Option<&'t [u8]> {
    let inner = &doc[node.inner()];
    if !node.escaped {
        return Some(inner);
    }
    text.clear();
    unescape(inner, text).then_some(text)
}
