//! Where a path's index members stand.

use super::cover::covers;
use super::model::{Selector, Step};
use super::query::Query;
use crate::index_member::{PREVIOUS, SUFFIX};

impl Query {
    /// Paths of every member the indexes of what this path selects are written to, also while a
    /// root rotates: then `unique` indexes have two.
    #[must_use]
    pub fn index_places(&self, into: Option<&str>, unique: bool) -> Vec<Vec<Step>> {
        let mut places = Vec::new();
        let Some((last, above)) = self.steps().split_last() else { return places };
        let mut place = |above: &[Step], step: &Step| {
            let selectors = index_names(step, into, unique);
            if !selectors.is_empty() {
                places.push([above, &[Step { descendant: step.descendant, selectors }]].concat());
            }
        };
        place(above, last);
        // Elements of a named array: beside the array.
        if let Some((array, above)) = above.split_last().filter(|_| {
            !last.descendant && last.selectors.iter().any(|s| !matches!(s, Selector::Name(_)))
        }) {
            place(above, array);
        }
        places
    }

    /// Whether this path may select a node at `place`, or one in it.
    #[must_use]
    pub fn may_reach(&self, place: &[Step]) -> bool {
        may_reach(self.steps(), place)
    }

    /// Whether one member is sure to be at both places: the same steps lead to it, and the last has
    /// a name of both.
    #[must_use]
    pub fn shared_name<'p>(a: &'p [Step], b: &[Step]) -> Option<&'p str> {
        let ((last_a, above_a), (last_b, above_b)) = (a.split_last()?, b.split_last()?);
        if above_a != above_b || last_a.descendant != last_b.descendant {
            return None;
        }
        last_a
            .selectors
            .iter()
            .filter(|s| last_b.selectors.contains(s))
            .find_map(|s| if let Selector::Name(name) = s { Some(name.as_str()) } else { None })
    }
}

/// [`Query::may_reach`] for bare steps.
#[must_use]
pub fn may_reach(steps: &[Step], place: &[Step]) -> bool {
    covers(steps, place, false)
}

/// Names of the index members beside the members a step selects. Elements have none of their own.
fn index_names(step: &Step, into: Option<&str>, unique: bool) -> Vec<Selector> {
    let versions = |name: &str| -> Vec<Selector> {
        let suffixes: &[&str] = if unique { &["", PREVIOUS] } else { &[""] };
        suffixes.iter().map(|suffix| Selector::Name(format!("{name}{suffix}"))).collect()
    };
    let mut names: Vec<Selector> = Vec::new();
    for selector in &step.selectors {
        let more = match (selector, into) {
            (Selector::Index(_) | Selector::Slice(..), _) => continue,
            (_, Some(into)) => versions(into),
            (Selector::Name(name), None) => versions(&format!("{name}{SUFFIX}")),
            (Selector::Wildcard | Selector::Filter(_), None) => vec![Selector::Wildcard],
        };
        names.extend(more);
    }
    names.dedup();
    names
}
