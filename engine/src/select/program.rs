//! All paths of a schema as one automaton.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};

use super::decimal;
use super::filter::{Compiler, Read, Test, Value};
use super::model::{Filter, Literal, Operand, Relation, Selector, Step};
use super::names::{Name, Names};
use super::pattern::{Pattern, Patterns};
use super::query::Query;
use crate::schema::PathId;

pub(super) type StateId = u32;

/// Most patterns that share a table.
const MOST_SHARED: usize = 256;

/// One state: where a walk may be, and where a child takes it.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Member names and where they lead.
    pub(super) named: Names,
    pub(super) wildcard: Option<StateId>,
    pub(super) indexes: Vec<(i64, StateId)>,
    pub(super) slices: Vec<(Slice, StateId)>,
    /// Children for which a filter holds.
    pub(super) filters: Vec<(Test, StateId)>,
    /// Members that filters ask for, of children.
    pub(super) exists: Names,
    /// Filters that ask whether one value is this or that text or number: one look answers all of
    /// them.
    pub(super) equals: Vec<Equals>,
    /// Filters that hold one value against a pattern.
    pub(super) matches: Vec<Matches>,
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

/// Filters of one state that compare the same value with texts and numbers.
#[derive(Debug, Default)]
pub(super) struct Equals {
    /// The value: a read of the program.
    pub(super) read: usize,
    pub(super) texts: HashMap<Box<[u8]>, StateId>,
    /// By what all spellings of a number have in common ([`decimal::canonical`]).
    pub(super) numbers: HashMap<Box<[u8]>, StateId>,
}

/// Filters of one state that hold the same value against patterns.
#[derive(Debug)]
pub(super) struct Matches {
    pub(super) read: usize,
    pub(super) patterns: Patterns,
    /// Where each pattern leads.
    pub(super) next: Vec<StateId>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Slice(pub(super) Option<i64>, pub(super) Option<i64>, pub(super) Option<i64>);

/// The automaton.
#[derive(Debug, Default)]
pub struct Program {
    pub(super) states: Vec<State>,
    /// What filters read; each is answered once for one node.
    pub(super) reads: Vec<Read>,
    asks: bool,
    /// How many paths there are.
    pub(super) paths: usize,
    /// Paths below this number are of fields: what they select is protected.
    pub(super) protecting: usize,
    filters_see_indexes: bool,
}

impl Program {
    /// Compiles paths; the n-th has id n.
    #[must_use]
    pub fn new(queries: &[Query]) -> Self {
        let mut builder = Builder {
            states: vec![State::default()],
            transitions: HashMap::new(),
            filters: Compiler::default(),
            asks: false,
            patterns: BTreeMap::new(),
        };
        for (id, query) in queries.iter().enumerate() {
            builder.insert(0, query.steps(), id as PathId);
        }
        builder.group_patterns();
        let Builder { mut states, filters, asks, .. } = builder;
        states.iter_mut().for_each(State::finish);
        Self {
            states,
            reads: filters.into_reads(),
            asks,
            paths: queries.len(),
            protecting: 0,
            filters_see_indexes: false,
        }
    }

    /// The first `paths` are of fields: what they select does not stay as it is, and what filters
    /// read there is noted.
    #[must_use]
    pub fn protecting(mut self, paths: usize) -> Self {
        self.protecting = paths;
        self
    }

    /// Its filters may read members that indexes are written to: they are there on the way back and
    /// not on the way in.
    #[must_use]
    pub(crate) fn seeing_indexes(mut self, see: bool) -> Self {
        self.filters_see_indexes = see;
        self
    }

    /// As [`Program::seeing_indexes`] was told.
    pub(crate) fn filters_see_indexes(&self) -> bool {
        self.filters_see_indexes
    }

    /// Whether any path has a filter that reads the document.
    pub(crate) fn has_filters(&self) -> bool {
        self.asks || !self.reads.is_empty()
    }
}

struct Builder {
    states: Vec<State>,
    /// Where a selector leads from a state: two equal selectors lead to one.
    transitions: HashMap<(StateId, String), StateId>,
    filters: Compiler,
    /// Some filter asks for a member.
    asks: bool,
    /// By state and read: patterns, and where they lead.
    patterns: BTreeMap<(StateId, usize), Vec<(Pattern, StateId)>>,
}

impl Builder {
    fn insert(&mut self, state: StateId, steps: &[Step], path: PathId) {
        let Some((step, rest)) = steps.split_first() else {
            let accepts = &mut self.states[state as usize].accepts;
            // Ways of one path through its unions come one after another.
            if accepts.last() != Some(&path) {
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
        let key = (from, format!("{selector:?}"));
        if let Some(existing) = self.transitions.get(&key) {
            return *existing;
        }
        let to = self.push(State::default());
        self.transitions.insert(key, to);
        let state = &mut self.states[from as usize];
        match selector {
            Selector::Name(name) => state.named.push(Name::new(name), to),
            Selector::Wildcard => state.wildcard = Some(to),
            Selector::Index(index) => state.indexes.push((*index, to)),
            Selector::Slice(a, b, c) => state.slices.push((Slice(*a, *b, *c), to)),
            Selector::Filter(filter) => self.filtered(from, filter, to),
        }
        to
    }

    fn filtered(&mut self, from: StateId, filter: &Filter, to: StateId) {
        if let Some(name) = member_exists(filter) {
            self.states[from as usize].exists.push(Name::new(name), to);
            self.asks = true;
            return;
        }
        if let Filter::Matches(Operand::One(value), pattern) = filter {
            let read = self.filters.one(value);
            self.patterns.entry((from, read)).or_default().push((pattern.clone(), to));
            return;
        }
        let state = &mut self.states[from as usize];
        let Some((value, constant)) = equality(filter) else {
            state.filters.push((self.filters.test(filter), to));
            return;
        };
        let read = self.filters.one(value);
        let known = state.equals.iter().position(|equals| equals.read == read);
        let equals = match known {
            Some(known) => &mut state.equals[known],
            None => {
                state.equals.push(Equals { read, ..Equals::default() });
                let last = state.equals.len() - 1;
                &mut state.equals[last]
            }
        };
        let (constants, constant) = match constant {
            Constant::Text(text) => (&mut equals.texts, text.into()),
            Constant::Number(number) => (&mut equals.numbers, number),
        };
        match constants.entry(constant) {
            // `'x' == @.a` after `@.a == 'x'` is another selector and the same question.
            Entry::Occupied(_) => state.filters.push((self.filters.test(filter), to)),
            Entry::Vacant(free) => drop(free.insert(to)),
        }
    }

    /// Gives the patterns of one value tables they share.
    fn group_patterns(&mut self) {
        for ((state, read), patterns) in std::mem::take(&mut self.patterns) {
            let state = &mut self.states[state as usize];
            patterns.chunks(MOST_SHARED).for_each(|some| state.share(read, some));
        }
    }

    fn push(&mut self, state: State) -> StateId {
        self.states.push(state);
        (self.states.len() - 1) as StateId
    }
}

/// The filter as the name of a member that must be there.
fn member_exists(filter: &Filter) -> Option<&str> {
    let Filter::Exists(path) = filter else { return None };
    match &path.steps[..] {
        [step] if !path.absolute && !step.descendant => match &step.selectors[..] {
            [Selector::Name(name)] => Some(name),
            _ => None,
        },
        _ => None,
    }
}

/// What a place must be.
enum Constant<'f> {
    Text(&'f [u8]),
    /// Canonical.
    Number(Box<[u8]>),
}

/// The filter as one place that must be one text or number.
fn equality(filter: &Filter) -> Option<(&super::model::Path, Constant<'_>)> {
    let (Filter::Compare(Operand::One(path), Relation::Equal, Operand::Literal(literal))
    | Filter::Compare(Operand::Literal(literal), Relation::Equal, Operand::One(path))) = filter
    else {
        return None;
    };
    let constant = match literal {
        Literal::String(text) => Constant::Text(text.as_bytes()),
        Literal::Number(number) => {
            let mut canonical = Vec::new();
            decimal::canonical(number.text(), &mut canonical)
                .then(|| Constant::Number(canonical.into()))?
        }
        _ => return None,
    };
    Some((path, constant))
}

impl State {
    /// One table for all patterns, or for each half of them, as far as they fit.
    fn share(&mut self, read: usize, patterns: &[(Pattern, StateId)]) {
        let (first, second) = match patterns {
            [] => return,
            [(pattern, next)] => {
                return self
                    .filters
                    .push((Test::Matches(Value::One(read), pattern.clone()), *next));
            }
            more => more.split_at(more.len() / 2),
        };
        let all: Vec<&Pattern> = patterns.iter().map(|(pattern, _)| pattern).collect();
        match Patterns::new(&all) {
            Some(shared) => self.matches.push(Matches {
                read,
                patterns: shared,
                next: patterns.iter().map(|(_, next)| *next).collect(),
            }),
            None => [first, second].into_iter().for_each(|half| self.share(read, half)),
        }
    }

    /// Some path goes on from here by a filter.
    pub(super) fn has_filters(&self) -> bool {
        !(self.filters.is_empty()
            && self.equals.is_empty()
            && self.matches.is_empty()
            && self.exists.is_empty())
    }

    fn finish(&mut self) {
        self.named.finish();
        self.exists.finish();
        self.by_name = !self.sticky && self.wildcard.is_none() && !self.has_filters();
        self.leads_on = !self.by_name
            || !self.named.is_empty()
            || !self.indexes.is_empty()
            || !self.slices.is_empty();
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
