//! One parsed path, and what can be said of it before any document is seen.

use jsonpath_rust::parser::model::{Comparable, Comparison, Filter, FilterAtom, FnArg, JpQuery, Literal, Segment, Selector, SingularQuery, Test, TestFunction};
use jsonpath_rust::parser::parse_json_path;

use super::cover::{always_covers, covers};
use super::reads::{self, Read};

/// Longest path text.
const MAX_PATH: usize = 1024;
/// Longest pattern of `match` and `search`: jsonpath-rust compiles it for every node.
const MAX_PATTERN: usize = 128;
/// Most brackets and parentheses open at once: jsonpath-rust's parser tries every level in several ways, so that twenty take minutes.
const MAX_NESTING: usize = 10;
/// Most ways through the unions of one path.
const MAX_FORKS: usize = 256;

/// A path.
#[derive(Debug, Clone)]
pub struct Query {
    pub(super) ast: JpQuery,
    steps: Vec<Step>,
}

/// One segment of a path.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// `..`
    pub descendant: bool,
    /// Its selectors; more than one is a union.
    pub selectors: Vec<Selector>,
}

/// Where the nodes a path selects stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Members: there is a name to put an index beside.
    Member,
    /// Elements of an array that is a named member, or members under a wildcard.
    Elements,
    /// The root, or elements of arrays without a name.
    Nameless,
}

/// Parses a path.
///
/// # Errors
/// What is wrong with it and what to write instead, for a person.
pub fn parse(text: &str) -> Result<Query, String> {
    if text.len() > MAX_PATH {
        return Err(format!("is longer than {MAX_PATH} bytes; shorten it"));
    }
    if nesting(text) > MAX_NESTING {
        return Err(format!("has more than {MAX_NESTING} brackets and parentheses inside one another; write a flatter filter"));
    }
    let ast = parse_json_path(text).map_err(|_| "is not a JSONPath (RFC 9535); write for example \"$.customer.email\" or \"$.items[*].name\"".to_owned())?;
    let steps: Vec<Step> = ast.segments.iter().map(step).collect();
    let forks = steps.iter().try_fold(1_usize, |n, s| n.checked_mul(s.selectors.len().max(1)));
    if forks.is_none_or(|n| n > MAX_FORKS) {
        return Err(format!("has more than {MAX_FORKS} ways through its unions; write several fields"));
    }
    let query = Query { ast, steps };
    for filter in query.filters() {
        check_filter(filter)?;
    }
    Ok(query)
}

/// The most brackets and parentheses that are open at once, outside of strings.
fn nesting(text: &str) -> usize {
    let (mut open, mut most, mut quote, mut escaped) = (0_usize, 0, None, false);
    for b in text.bytes() {
        match (quote, b) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), b'\\') => escaped = true,
            (Some(end), _) if b == end => quote = None,
            (Some(_), _) => {}
            (None, b'\'' | b'"') => quote = Some(b),
            (None, b'[' | b'(') => {
                open += 1;
                most = most.max(open);
            }
            (None, b']' | b')') => open = open.saturating_sub(1),
            (None, _) => {}
        }
    }
    most
}

pub(super) fn step(segment: &Segment) -> Step {
    match segment {
        Segment::Descendant(inner) => Step { descendant: true, ..step(inner) },
        Segment::Selector(selector) => Step { descendant: false, selectors: vec![selector.clone()] },
        Segment::Selectors(selectors) => Step { descendant: false, selectors: selectors.clone() },
    }
}

impl Query {
    pub(super) fn of(ast: JpQuery, steps: Vec<Step>) -> Self {
        Self { ast, steps }
    }

    /// Its segments.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Names and indexes only: selects at most one node.
    #[must_use]
    pub fn is_singular(&self) -> bool {
        self.steps.iter().all(|s| !s.descendant && matches!(s.selectors[..], [Selector::Name(_) | Selector::Index(_)]))
    }

    /// Whether both are the same path.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        self.steps == other.steps
    }

    /// Where the selected nodes stand.
    #[must_use]
    pub fn target(&self) -> Target {
        let names = |s: &Step| s.selectors.iter().all(|sel| matches!(sel, Selector::Name(_)));
        match &self.steps[..] {
            [.., last] if names(last) => Target::Member,
            [.., before, last] if !last.descendant && names(before) => Target::Elements,
            _ => Target::Nameless,
        }
    }

    /// Whether this path may select the node `read` selects, or one it lies in.
    #[must_use]
    pub fn may_cover(&self, read: &Self) -> bool {
        self.may_cover_steps(&read.steps)
    }

    /// [`Query::may_cover`] for bare steps.
    #[must_use]
    pub fn may_cover_steps(&self, read: &[Step]) -> bool {
        covers(read, &self.steps, false)
    }

    /// Whether this path selects a node that `inner` goes through. Paths with `..` are not judged: they would nearly always.
    #[must_use]
    pub fn may_lie_above(&self, inner: &Self) -> bool {
        let plain = |q: &Self| q.steps.iter().all(|s| !s.descendant);
        plain(self) && plain(inner) && covers(&inner.steps, &self.steps, true)
    }

    /// Every path its filters read, from the root.
    #[must_use]
    pub fn filter_reads(&self) -> Vec<Vec<Step>> {
        self.reads().into_iter().map(|read| read.steps).collect()
    }

    /// Those whose value its filters compare, measure or count.
    #[must_use]
    pub fn filter_values(&self) -> Vec<Vec<Step>> {
        self.reads().into_iter().filter(|read| read.value).map(|read| read.steps).collect()
    }

    /// Whether this path may select inside a node at `container`.
    #[must_use]
    pub fn may_select_inside(&self, container: &[Step]) -> bool {
        covers(&self.steps, container, true)
    }

    /// Whether every node that `read` selects is sure to be selected by this path, or to lie in one that is.
    #[must_use]
    pub fn always_covers_steps(&self, read: &[Step]) -> bool {
        always_covers(read, &self.steps)
    }

    fn reads(&self) -> Vec<Read> {
        let mut out = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
            for selector in &step.selectors {
                if let Selector::Filter(filter) = selector {
                    let mut base = self.steps[..i].to_vec();
                    base.push(Step { descendant: step.descendant, selectors: vec![Selector::Wildcard] });
                    reads::filter(filter, &base, &mut out);
                }
            }
        }
        out
    }

    fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.steps.iter().flat_map(|s| &s.selectors).filter_map(|s| if let Selector::Filter(f) = s { Some(f) } else { None })
    }

    /// Whether a filter reads from the root (`$` inside a filter).
    pub(super) fn has_absolute_filter(&self) -> bool {
        let mut absolute = false;
        for filter in self.filters() {
            visit(filter, &mut |part| absolute |= matches!(part, Part::Root));
        }
        absolute
    }
}

/// What a filter is made of, as far as anybody here asks.
enum Part<'f> {
    /// A path from the root.
    Root,
    Function(&'f TestFunction),
}

fn visit<'f>(filter: &'f Filter, see: &mut impl FnMut(Part<'f>)) {
    match filter {
        Filter::Or(all) | Filter::And(all) => all.iter().for_each(|f| visit(f, see)),
        Filter::Atom(FilterAtom::Filter { expr, .. }) => visit(expr, see),
        Filter::Atom(FilterAtom::Test { expr, .. }) => visit_test(expr, see),
        Filter::Atom(FilterAtom::Comparison(comparison)) => visit_comparison(comparison, see),
    }
}

fn visit_comparison<'f>(comparison: &'f Comparison, see: &mut impl FnMut(Part<'f>)) {
    let (left, right) = comparison.vals();
    for side in [left, right] {
        match side {
            Comparable::Literal(_) => {}
            Comparable::Function(function) => visit_function(function, see),
            Comparable::SingularQuery(SingularQuery::Current(_)) => {}
            Comparable::SingularQuery(SingularQuery::Root(_)) => see(Part::Root),
        }
    }
}

fn visit_test<'f>(test: &'f Test, see: &mut impl FnMut(Part<'f>)) {
    let segments = match test {
        Test::RelQuery(segments) => segments,
        Test::AbsQuery(query) => {
            see(Part::Root);
            &query.segments
        }
        Test::Function(function) => return visit_function(function, see),
    };
    for selector in segments.iter().map(step_ref).flat_map(|s| s.iter()) {
        if let Selector::Filter(inner) = selector {
            visit(inner, see);
        }
    }
}

fn step_ref(segment: &Segment) -> &[Selector] {
    match segment {
        Segment::Descendant(inner) => step_ref(inner),
        Segment::Selector(selector) => std::slice::from_ref(selector),
        Segment::Selectors(selectors) => selectors,
    }
}

fn visit_function<'f>(function: &'f TestFunction, see: &mut impl FnMut(Part<'f>)) {
    see(Part::Function(function));
    let mut argument = |arg: &'f FnArg| match arg {
        FnArg::Literal(_) => {}
        FnArg::Test(test) => visit_test(test, see),
        FnArg::Filter(filter) => visit(filter, see),
    };
    match function {
        TestFunction::Custom(_, args) => args.iter().for_each(argument),
        TestFunction::Length(arg) => argument(arg),
        TestFunction::Value(arg) | TestFunction::Count(arg) => argument(arg),
        TestFunction::Search(a, b) | TestFunction::Match(a, b) => {
            argument(a);
            argument(b);
        }
    }
}

fn check_filter(filter: &Filter) -> Result<(), String> {
    let mut fault = None;
    visit(filter, &mut |part| {
        if let Part::Function(function) = part {
            fault = fault.take().or_else(|| function_fault(function));
        }
    });
    fault.map_or(Ok(()), Err)
}

fn function_fault(function: &TestFunction) -> Option<String> {
    match function {
        TestFunction::Custom(name, _) => Some(format!("uses {name}(), which is no function of RFC 9535; use length, count, value, match or search")),
        TestFunction::Search(_, pattern) | TestFunction::Match(_, pattern) => match pattern {
            FnArg::Literal(Literal::String(text)) if text.len() <= MAX_PATTERN => None,
            FnArg::Literal(Literal::String(_)) => Some(format!("has a pattern longer than {MAX_PATTERN} bytes; shorten it")),
            _ => Some("takes a pattern from the event; write the pattern as a string".to_owned()),
        },
        _ => None,
    }
}
