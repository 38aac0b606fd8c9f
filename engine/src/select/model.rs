//! What a path is made of. jsonpath-rust parses; this is what the rest of the engine works on:
//! numbers as they are written, patterns compiled.

use std::sync::Arc;

use super::decimal::Number;
use super::pattern::Pattern;

/// One segment of a path.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// `..`
    pub descendant: bool,
    /// Its selectors; more than one is a union.
    pub selectors: Vec<Selector>,
}

/// What a segment selects of a node's children.
#[derive(Debug, Clone, PartialEq)]
pub enum Selector {
    /// The member of that name.
    Name(String),
    /// Every child.
    Wildcard,
    /// The element at that index; from the end when negative.
    Index(i64),
    /// Elements from, to and by.
    Slice(Option<i64>, Option<i64>, Option<i64>),
    /// Children for which the filter holds.
    Filter(Arc<Filter>),
}

/// A filter expression.
#[derive(Debug, Clone, PartialEq)]
pub enum Filter {
    /// Any of them.
    Or(Vec<Self>),
    /// All of them.
    And(Vec<Self>),
    /// Not this one.
    Not(Box<Self>),
    /// The path selects a node.
    Exists(Path),
    /// Two values stand in this relation.
    Compare(Operand, Relation, Operand),
    /// `match` or `search`.
    Matches(Operand, Pattern),
}

/// A path inside a filter.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    /// From the root (`$`), not from the node the filter is asked of (`@`).
    pub absolute: bool,
    /// Its segments.
    pub steps: Vec<Step>,
}

/// One side of a comparison, or an argument.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A constant.
    Literal(Literal),
    /// The node a singular path selects.
    One(Path),
    /// `length()`
    Length(Box<Self>),
    /// `count()`
    Count(Path),
    /// `value()`
    Value(Path),
}

/// A constant.
#[derive(Debug, Clone, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, exact.
    Number(Number),
    /// Unescaped text.
    String(String),
}

/// How two values are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// `==`
    Equal,
    /// `!=`
    Unequal,
    /// `<`
    Less,
    /// `<=`
    AtMost,
    /// `>`
    Greater,
    /// `>=`
    AtLeast,
}

impl Filter {
    /// Calls `see` with this filter's parts, outermost first, and with every filter inside its
    /// paths.
    pub(super) fn visit<'f>(&'f self, see: &mut impl FnMut(&'f Self)) {
        see(self);
        match self {
            Self::Or(all) | Self::And(all) => all.iter().for_each(|f| f.visit(see)),
            Self::Not(inner) => inner.visit(see),
            Self::Exists(path) => path.visit(see),
            Self::Compare(left, _, right) => {
                left.visit(see);
                right.visit(see);
            }
            Self::Matches(value, _) => value.visit(see),
        }
    }

    /// What must be equal to a constant for it to hold: (value, constant).
    pub(super) fn equalities<'f>(&'f self, out: &mut Vec<(&'f Operand, &'f Literal)>) {
        match self {
            Self::And(all) => all.iter().for_each(|f| f.equalities(out)),
            Self::Compare(Operand::Literal(constant), Relation::Equal, value)
            | Self::Compare(value, Relation::Equal, Operand::Literal(constant)) => {
                out.push((value, constant));
            }
            _ => {}
        }
    }
}

impl Operand {
    fn visit<'f>(&'f self, see: &mut impl FnMut(&'f Filter)) {
        match self {
            Self::Literal(_) => {}
            Self::Length(inner) => inner.visit(see),
            Self::One(path) | Self::Count(path) | Self::Value(path) => path.visit(see),
        }
    }
}

impl Path {
    /// Names and indexes only: selects at most one node.
    pub(super) fn is_singular(&self) -> bool {
        is_singular(&self.steps)
    }

    fn visit<'f>(&'f self, see: &mut impl FnMut(&'f Filter)) {
        for selector in self.steps.iter().flat_map(|step| &step.selectors) {
            if let Selector::Filter(filter) = selector {
                filter.visit(see);
            }
        }
    }
}

/// Names and indexes only.
pub(super) fn is_singular(steps: &[Step]) -> bool {
    steps.iter().all(|s| {
        !s.descendant && matches!(s.selectors[..], [Selector::Name(_) | Selector::Index(_)])
    })
}
