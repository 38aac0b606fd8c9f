//! One parsed path, and what can be said of it before any document is seen.

use super::cover::{always_covers, covers, sees, selects};
use super::model::{Filter, Selector, Step, is_singular};
use super::reads::{self, Read};

/// A path.
#[derive(Debug, Clone)]
pub struct Query {
    steps: Vec<Step>,
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

impl Query {
    pub(super) fn new(steps: Vec<Step>) -> Self {
        Self { steps }
    }

    /// Its segments.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Names and indexes only: selects at most one node.
    #[must_use]
    pub fn is_singular(&self) -> bool {
        is_singular(&self.steps)
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
        covers(&read.steps, &self.steps, false)
    }

    /// Whether this path may select the node at `place` itself.
    #[must_use]
    pub fn may_select(&self, place: &[Step]) -> bool {
        selects(&self.steps, place)
    }

    /// Whether this path selects a node that `inner` goes through. Paths with `..` are not judged:
    /// they would nearly always.
    #[must_use]
    pub fn may_lie_above(&self, inner: &Self) -> bool {
        let plain = |q: &Self| q.steps.iter().all(|s| !s.descendant);
        plain(self) && plain(inner) && covers(&inner.steps, &self.steps, true)
    }

    /// Every path its filters read, from the root, and whether they compare, measure or count what
    /// is there.
    #[must_use]
    pub fn filter_reads(&self) -> Vec<(Vec<Step>, bool)> {
        self.reads().into_iter().map(|read| (read.steps, read.value)).collect()
    }

    /// Whether a filter may ask for a member at `place`, where an index is written: a text, or a
    /// list of them, in which no path goes on.
    #[must_use]
    pub(crate) fn filters_may_see(&self, place: &[Step]) -> bool {
        self.reads().iter().any(|read| sees(&read.steps, place))
    }

    /// Whether every node that `read` selects is sure to be selected by this path, or to lie in one
    /// that is.
    #[must_use]
    pub fn always_covers_steps(&self, read: &[Step]) -> bool {
        always_covers(read, &self.steps)
    }

    /// Whether one of its filters compares, measures or counts what the path selects where that
    /// filter holds: it would reject every record in which it selects anything.
    #[must_use]
    pub fn filters_by_what_it_selects(&self) -> bool {
        self.steps.iter().enumerate().filter(|(_, step)| step.selectors.len() == 1).any(
            |(i, step)| {
                let selected = &self.steps[i + 1..];
                let mut judged_by = Vec::new();
                filters(step).for_each(|filter| reads::decisive(filter, &mut judged_by));
                judged_by.iter().any(|(read, there)| {
                    (*there && always_covers(read, selected)) || always_covers(selected, read)
                })
            },
        )
    }

    /// Memory of the tables its patterns are compiled to, in bytes.
    #[must_use]
    pub fn pattern_bytes(&self) -> usize {
        let mut bytes = 0;
        for filter in self.steps.iter().flat_map(filters) {
            filter.visit(&mut |part| {
                if let Filter::Matches(_, pattern) = part {
                    bytes += pattern.size();
                }
            });
        }
        bytes
    }

    fn reads(&self) -> Vec<Read> {
        let mut out = Vec::new();
        for (i, step) in self.steps.iter().enumerate() {
            let mut base = self.steps[..i].to_vec();
            base.push(Step { descendant: step.descendant, selectors: vec![Selector::Wildcard] });
            filters(step).for_each(|filter| reads::filter(filter, &base, &mut out));
        }
        out
    }
}

fn filters(step: &Step) -> impl Iterator<Item = &Filter> {
    step.selectors.iter().filter_map(|selector| {
        if let Selector::Filter(filter) = selector { Some(&**filter) } else { None }
    })
}
