//! A path cut before its last segment, and what a segment may select where there is only a
//! description of values.

use super::model::{Selector, Step};
use super::query::Query;

/// A child as a schema describes it, of values that are not there to look at.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Child<'n> {
    /// The member of that name.
    Member(&'n [u8]),
    /// Members of any name.
    Members,
    /// Elements of an array.
    Elements,
}

impl Step {
    /// Whether it may select such a child of a node it is asked of.
    pub(crate) fn may_select(&self, child: Child<'_>) -> bool {
        self.selectors.iter().any(|selector| match (selector, child) {
            (Selector::Name(name), Child::Member(other)) => name.as_bytes() == other,
            (Selector::Name(_), Child::Members)
            | (Selector::Index(_) | Selector::Slice(..), Child::Elements) => true,
            (Selector::Name(_), Child::Elements)
            | (Selector::Index(_) | Selector::Slice(..), _) => false,
            (Selector::Wildcard | Selector::Filter(_), _) => true,
        })
    }
}

/// Which children the last segment of a path asks for by name or index.
#[derive(Debug, Clone, Default)]
pub struct Last {
    /// Member names.
    pub names: Vec<String>,
    /// Element indexes, from the end when negative.
    pub indexes: Vec<i64>,
}

impl Query {
    /// The path of the containers this path's nodes are children of, and which children; `None` for
    /// `$` and where the last segment is `..`, which has no one parent.
    #[must_use]
    pub fn parent(&self) -> Option<(Self, Last)> {
        let (last, above) = self.steps().split_last().filter(|(last, _)| !last.descendant)?;
        let mut children = Last::default();
        for selector in &last.selectors {
            match selector {
                Selector::Name(name) => children.names.push(name.clone()),
                Selector::Index(index) => children.indexes.push(*index),
                _ => {}
            }
        }
        Some((Self::new(above.to_vec()), children))
    }
}
