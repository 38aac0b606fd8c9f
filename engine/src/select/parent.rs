//! A path cut before its last segment.

use jsonpath_rust::parser::model::{JpQuery, Selector};

use super::query::Query;

/// Which children the last segment of a path asks for by name or index.
#[derive(Debug, Clone, Default)]
pub struct Last {
    /// Member names.
    pub names: Vec<String>,
    /// Element indexes, from the end when negative.
    pub indexes: Vec<i64>,
}

impl Query {
    /// The path of the containers this path's nodes are children of, and which children; `None` for `$` and where the last segment is `..`, which has no
    /// one parent.
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
        let segments = self.ast.segments[..above.len()].to_vec();
        Some((Self::of(JpQuery::new(segments), above.to_vec()), children))
    }
}
