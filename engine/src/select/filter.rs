//! Filters as they are judged: what they read has numbers, so that one node is read once whatever
//! asks.

use std::collections::HashMap;

use super::model::{Filter, Literal, Operand, Path, Relation, Selector, Step};
use super::names::Name;
use super::pattern::Pattern;
use super::program::Slice;

/// A condition on a node.
#[derive(Debug)]
pub(super) enum Test {
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
    /// The read selects something.
    Exists(usize),
    Compare(Value, Relation, Value),
    Matches(Value, Pattern),
}

/// One side of a comparison, or an argument.
#[derive(Debug)]
pub(super) enum Value {
    Literal(Literal),
    /// The one node of a read.
    One(usize),
    Length(Box<Self>),
    Count(usize),
    /// The node of a read that selects exactly one.
    Sole(usize),
}

/// What is asked of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// The node of a singular path.
    One,
    /// Whether there is any.
    Exists,
    /// How many.
    Count,
    /// The only one.
    Value,
}

/// One path that filters read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) ask: Ask,
    pub(super) absolute: bool,
    pub(super) ways: Vec<Way>,
}

/// A segment.
#[derive(Debug)]
pub(super) struct Way {
    pub(super) descendant: bool,
    pub(super) picks: Vec<Pick>,
}

/// A selector.
#[derive(Debug)]
pub(super) enum Pick {
    Name(Name),
    Wildcard,
    Index(i64),
    Slice(Slice),
    Test(Test),
}

/// Compiles filters; equal reads become one.
#[derive(Debug, Default)]
pub(super) struct Compiler {
    reads: Vec<Read>,
    known: HashMap<String, usize>,
}

impl Compiler {
    pub(super) fn into_reads(self) -> Vec<Read> {
        self.reads
    }

    pub(super) fn test(&mut self, filter: &Filter) -> Test {
        match filter {
            Filter::Or(all) => Test::Or(all.iter().map(|f| self.test(f)).collect()),
            Filter::And(all) => Test::And(all.iter().map(|f| self.test(f)).collect()),
            Filter::Not(inner) => Test::Not(Box::new(self.test(inner))),
            Filter::Exists(path) => Test::Exists(self.read(Ask::Exists, path)),
            Filter::Compare(left, relation, right) => {
                Test::Compare(self.value(left), *relation, self.value(right))
            }
            Filter::Matches(value, pattern) => Test::Matches(self.value(value), pattern.clone()),
        }
    }

    /// The read of a singular path.
    pub(super) fn one(&mut self, path: &Path) -> usize {
        self.read(Ask::One, path)
    }

    fn value(&mut self, operand: &Operand) -> Value {
        match operand {
            Operand::Literal(literal) => Value::Literal(literal.clone()),
            Operand::One(path) => Value::One(self.one(path)),
            Operand::Length(inner) => Value::Length(Box::new(self.value(inner))),
            Operand::Count(path) => Value::Count(self.read(Ask::Count, path)),
            Operand::Value(path) => Value::Sole(self.read(Ask::Value, path)),
        }
    }

    fn read(&mut self, ask: Ask, path: &Path) -> usize {
        let key = format!("{ask:?} {path:?}");
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let ways = path.steps.iter().map(|step| self.way(step)).collect();
        self.reads.push(Read { ask, absolute: path.absolute, ways });
        self.known.insert(key, self.reads.len() - 1);
        self.reads.len() - 1
    }

    fn way(&mut self, step: &Step) -> Way {
        Way {
            descendant: step.descendant,
            picks: step.selectors.iter().map(|selector| self.pick(selector)).collect(),
        }
    }

    fn pick(&mut self, selector: &Selector) -> Pick {
        match selector {
            Selector::Name(name) => Pick::Name(Name::new(name)),
            Selector::Wildcard => Pick::Wildcard,
            Selector::Index(index) => Pick::Index(*index),
            Selector::Slice(a, b, c) => Pick::Slice(Slice(*a, *b, *c)),
            Selector::Filter(filter) => Pick::Test(self.test(filter)),
        }
    }
}
