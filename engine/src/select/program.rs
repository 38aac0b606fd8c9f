//! All paths of a schema as one automaton.

use jsonpath_rust::parser::model::{JpQuery, Segment, Selector};

use super::query::{Query, Step};
use crate::scan::{Node, unescaped_eq};
use crate::schema::PathId;

pub(super) type StateId = u32;

/// One state: where a walk may be, and where a child takes it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Member names and where they lead.
    pub(super) named: Vec<(Name, StateId)>,
    /// Bit n: some name is n bytes long (63: or longer). Most members are passed over on this alone.
    pub(super) lengths: u64,
    pub(super) wildcard: Option<StateId>,
    pub(super) indexes: Vec<(i64, StateId)>,
    pub(super) slices: Vec<(Slice, StateId)>,
    /// `$[?filter]`, run on the container.
    pub(super) filters: Vec<(JpQuery, StateId)>,
    /// State that is entered together with this one and stays for all descendants (`..`).
    pub(super) descend: Option<StateId>,
    pub(super) sticky: bool,
    /// Paths that end here.
    pub(super) accepts: Vec<PathId>,
    /// A walk can go on from here.
    pub(super) leads_on: bool,
    /// Of an object's members, names alone decide.
    pub(super) by_name: bool,
}

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
    fn new(text: &str) -> Self {
        Self { text: text.as_bytes().into(), head: head(text.as_bytes()) }
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
        // A name is never the end of a document: eight bytes from its start are nearly always there, and those that are not its own are cut off.
        let head = match doc[node.name_start as usize..].first_chunk::<8>() {
            Some(bytes) if name.len() < 8 => u64::from_le_bytes(*bytes) & !(u64::MAX << (8 * name.len())),
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
        self.head == name.head && self.name.len() == name.text.len() && (name.text.len() <= 8 || self.name == &*name.text)
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slice(pub(super) Option<i64>, pub(super) Option<i64>, pub(super) Option<i64>);

/// The automaton.
#[derive(Debug, Default)]
pub struct Program {
    pub(super) states: Vec<State>,
    /// Paths with a filter that reads from the root: jsonpath-rust evaluates them whole.
    pub(super) foreign: Vec<(JpQuery, PathId)>,
    /// How many paths there are.
    pub(super) paths: usize,
}

impl Program {
    /// Compiles paths; the n-th has id n.
    #[must_use]
    pub fn new(queries: &[Query]) -> Self {
        let mut program = Self { states: vec![State::default()], foreign: Vec::new(), paths: queries.len() };
        for (id, query) in queries.iter().enumerate() {
            if query.has_absolute_filter() {
                program.foreign.push((query.ast.clone(), id as PathId));
            } else {
                program.insert(0, query.steps(), id as PathId);
            }
        }
        program.states.iter_mut().for_each(State::finish);
        program
    }

    fn insert(&mut self, state: StateId, steps: &[Step], path: PathId) {
        let Some((step, rest)) = steps.split_first() else {
            let accepts = &mut self.states[state as usize].accepts;
            if !accepts.contains(&path) {
                accepts.push(path);
            }
            return;
        };
        let state = if step.descendant { self.descend(state) } else { state };
        for selector in &step.selectors {
            let next = self.transition(state, selector);
            self.insert(next, rest, path);
        }
    }

    fn descend(&mut self, state: StateId) -> StateId {
        if let Some(sticky) = self.states[state as usize].descend {
            return sticky;
        }
        let sticky = self.push(State { sticky: true, ..State::default() });
        self.states[state as usize].descend = Some(sticky);
        sticky
    }

    fn transition(&mut self, from: StateId, selector: &Selector) -> StateId {
        if let Some(existing) = self.existing(from, selector) {
            return existing;
        }
        let to = self.push(State::default());
        let state = &mut self.states[from as usize];
        match selector {
            Selector::Name(name) => {
                state.lengths |= 1 << name.len().min(63);
                state.named.push((Name::new(name), to));
            }
            Selector::Wildcard => state.wildcard = Some(to),
            Selector::Index(index) => state.indexes.push((*index, to)),
            Selector::Slice(a, b, c) => state.slices.push((Slice(*a, *b, *c), to)),
            Selector::Filter(_) => state.filters.push((JpQuery::new(vec![Segment::Selector(selector.clone())]), to)),
        }
        to
    }

    fn existing(&self, from: StateId, selector: &Selector) -> Option<StateId> {
        let state = &self.states[from as usize];
        match selector {
            Selector::Name(name) => state.named.iter().find(|(n, _)| *n.text == *name.as_bytes()).map(|t| t.1),
            Selector::Wildcard => state.wildcard,
            Selector::Index(index) => state.indexes.iter().find(|t| t.0 == *index).map(|t| t.1),
            _ => None,
        }
    }

    fn push(&mut self, state: State) -> StateId {
        self.states.push(state);
        (self.states.len() - 1) as StateId
    }
}

impl State {
    fn finish(&mut self) {
        self.by_name = !self.sticky && self.wildcard.is_none() && self.filters.is_empty();
        self.leads_on = !self.by_name || !self.named.is_empty() || !self.indexes.is_empty() || !self.slices.is_empty();
    }
}

impl Slice {
    /// Whether the slice of an array of `len` elements has `index` (RFC 9535 section 2.3.4.2.2).
    pub(super) fn contains(self, index: i64, len: i64) -> bool {
        let normal = |i: i64| if i >= 0 { i } else { len.saturating_add(i) };
        let step = self.2.unwrap_or(1);
        if step > 0 {
            let lower = normal(self.0.unwrap_or(0)).clamp(0, len);
            let upper = normal(self.1.unwrap_or(len)).clamp(0, len);
            lower <= index && index < upper && (index - lower) % step == 0
        } else if step < 0 {
            let upper = normal(self.0.unwrap_or(len - 1)).clamp(-1, len - 1);
            let lower = self.1.map_or(-1, normal).clamp(-1, len - 1);
            lower < index && index <= upper && (upper - index) % step == 0
        } else {
            false
        }
    }
}
