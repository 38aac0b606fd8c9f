//! Judging filters on the node table.
//!
//! Every step is charged to the record's [`Budget`]. What is read is noted: a name must not stand
//! twice in it, and what protection changes must not have been compared, measured or counted.

use std::cmp::Ordering;
use std::hash::RandomState;

use super::decimal;
use super::filter::{Ask, Pick, Read, Test, Value, Way};
use super::model::{Literal, Relation};
use super::names::{Name, Written};
use super::program::Program;
use crate::budget::Budget;
use crate::scan::{Kind, NO_PARENT, Node, Tape, unescape_lossy, unescaped_eq};

/// Bits of [`Notes::marks`].
pub(super) mod mark {
    /// Its value was compared, measured or counted.
    pub(in super::super) const VALUE: u8 = 1;
    /// A filter found it there.
    pub(in super::super) const EXISTS: u8 = 2;
    /// All its names were read: they must differ.
    pub(in super::super) const NAMES: u8 = 4;
    /// So were those of everything in it.
    pub(in super::super) const DEEP: u8 = 8;
    /// Somebody asked already whether it or what it lies in was read.
    pub(in super::super) const ASKED: u8 = 16;
}

/// What judging one document leaves behind, with its buffers; reused.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) budget: Budget,
    /// Per node: [`mark`]s. Empty when no path has a filter.
    pub(super) marks: Vec<u8>,
    /// Objects with [`mark::NAMES`].
    pub(super) named: Vec<u32>,
    /// A name that a filter asked for stands twice: the byte offset of the second.
    pub(super) duplicate: Option<usize>,
    /// Per read: the last answer.
    memo: Vec<Memo>,
    pub(super) texts: [Vec<u8>; 2],
    /// (hash of the name, member), of the objects being compared.
    pub(super) members: Vec<(u64, u32)>,
    pub(super) keys: RandomState,
}

/// An answer to one read.
#[derive(Debug, Clone, Copy)]
struct Memo {
    /// The node it was asked of.
    of: u32,
    /// What was read was noted.
    marked: bool,
    answer: u64,
}

/// What a comparison costs, in units of [`Budget`], besides what is compared.
const COMPARISON: u64 = 5;
/// No node.
const NOTHING: u64 = u64::MAX;

impl Notes {
    /// Bytes of the buffers whose size follows from a record's.
    pub(super) fn buffer_bytes(&self) -> usize {
        let texts: usize = self.texts.iter().map(Vec::capacity).sum();
        let members = self.named.capacity() * size_of::<u32>()
            + self.members.capacity() * size_of::<(u64, u32)>();
        self.marks.capacity() + self.memo.capacity() * size_of::<Memo>() + texts + members
    }

    pub(super) fn begin(&mut self, program: &Program, tape: &Tape, budget: Budget) {
        self.budget = budget;
        self.marks.clear();
        self.named.clear();
        self.duplicate = None;
        self.memo.clear();
        if program.has_filters() {
            self.marks.resize(tape.nodes().len(), 0);
            self.memo.resize(
                program.reads.len(),
                Memo { of: NO_PARENT, marked: false, answer: NOTHING },
            );
        }
    }
}

/// Judges filters of one document.
pub(super) struct Judge<'a> {
    pub(super) reads: &'a [Read],
    pub(super) doc: &'a [u8],
    pub(super) tape: &'a Tape,
    pub(super) notes: &'a mut Notes,
    /// What is read is noted. Not inside a protected node: what is selected there is covered, and
    /// gone on the way back.
    pub(super) marking: bool,
}

/// A value that is compared.
#[derive(Clone, Copy)]
pub(super) enum Found<'a> {
    Nothing,
    Node(u32),
    Literal(&'a Literal),
    /// Of `length` and `count`.
    Number(u64),
}

/// What following a path comes to.
struct Tally {
    count: u64,
    first: u64,
    /// The first decides.
    any: bool,
    mark: u8,
}

impl<'a> Judge<'a> {
    /// Whether a filter holds for a node. Without budget it says anything: the record is rejected.
    pub(super) fn holds(&mut self, test: &'a Test, node: u32) -> bool {
        // Both sides of a comparison are looked up, though there be nothing to compare.
        self.notes.budget.charge(if matches!(test, Test::Compare(..)) { COMPARISON } else { 1 });
        match test {
            Test::Or(all) => all.iter().any(|test| self.holds(test, node)),
            Test::And(all) => all.iter().all(|test| self.holds(test, node)),
            Test::Not(inner) => !self.holds(inner, node),
            Test::Exists(read) => self.read(*read, node) != 0,
            Test::Compare(left, relation, right) => {
                let (left, right) = (self.value(left, node), self.value(right, node));
                self.compare(left, *relation, right)
            }
            Test::Matches(value, pattern) => {
                let value = self.value(value, node);
                let matches = self.with_text(value, 0, |judge, text| {
                    judge.notes.budget.charge(text.len() as u64 + 8);
                    let matches = pattern.matches(text);
                    if matches.is_none() {
                        // Without an answer nothing may pass.
                        judge.notes.budget.charge(u64::MAX);
                    }
                    matches
                });
                matches.flatten().unwrap_or(false)
            }
        }
    }

    /// The node a singular read selects.
    pub(super) fn node_of_read(&mut self, read: usize, node: u32) -> Option<&'a Node> {
        let found = self.read(read, node);
        self.tape.nodes().get(usize::try_from(found).ok()?)
    }

    /// Notes that a filter found a member of that name.
    pub(super) fn has_member(&mut self, object: u32, name: &Name) {
        if let Some(member) = self.member(object, name) {
            self.mark(member, mark::EXISTS);
        }
    }

    fn value(&mut self, value: &'a Value, node: u32) -> Found<'a> {
        match value {
            Value::Literal(literal) => Found::Literal(literal),
            Value::One(read) | Value::Sole(read) => match self.read(*read, node) {
                NOTHING => Found::Nothing,
                found => Found::Node(found as u32),
            },
            Value::Count(read) => Found::Number(self.read(*read, node)),
            Value::Length(inner) => {
                let inner = self.value(inner, node);
                self.length(inner)
            }
        }
    }

    fn length(&mut self, value: Found<'a>) -> Found<'a> {
        if let Found::Node(index) = value {
            let node = &self.tape.nodes()[index as usize];
            if node.kind == Kind::Object {
                self.reads_names(index);
            }
            if node.is_container() {
                return Found::Number(u64::from(node.count));
            }
        }
        let characters = self.with_text(value, 0, |judge, text| {
            judge.notes.budget.charge(text.len() as u64 / 8 + 1);
            text.iter().filter(|b| (**b as i8) >= -0x40).count() as u64
        });
        characters.map_or(Found::Nothing, Found::Number)
    }

    /// Calls `with` on a string's unescaped text; `None` for what is no string. A lone surrogate,
    /// which has no UTF-8, is U+FFFD.
    fn with_text<T>(
        &mut self,
        value: Found<'a>,
        buffer: usize,
        with: impl FnOnce(&mut Self, &[u8]) -> T,
    ) -> Option<T> {
        match value {
            Found::Literal(Literal::String(text)) => Some(with(self, text.as_bytes())),
            Found::Node(index) => {
                let node = &self.tape.nodes()[index as usize];
                if node.kind != Kind::String {
                    return None;
                }
                let inner = &self.doc[node.inner()];
                if !node.escaped {
                    return Some(with(self, inner));
                }
                let mut text = std::mem::take(&mut self.notes.texts[buffer]);
                text.clear();
                self.notes.budget.charge(inner.len() as u64);
                unescape_lossy(inner, &mut text);
                let result = with(self, &text);
                self.notes.texts[buffer] = text;
                Some(result)
            }
            _ => None,
        }
    }

    fn compare(&mut self, left: Found<'a>, relation: Relation, right: Found<'a>) -> bool {
        match relation {
            Relation::Equal => self.equal(left, right),
            Relation::Unequal => !self.equal(left, right),
            Relation::Less => self.order(left, right) == Some(Ordering::Less),
            Relation::Greater => self.order(left, right) == Some(Ordering::Greater),
            // Of values without an order, equal ones stand in these relations too (RFC 9535 section
            // 2.3.5.2.2).
            Relation::AtMost => {
                self.order(left, right) == Some(Ordering::Less) || self.equal(left, right)
            }
            Relation::AtLeast => {
                self.order(left, right) == Some(Ordering::Greater) || self.equal(left, right)
            }
        }
    }

    fn equal(&mut self, left: Found<'a>, right: Found<'a>) -> bool {
        match (left, right) {
            (Found::Nothing, Found::Nothing) => true,
            (Found::Nothing, _) | (_, Found::Nothing) => false,
            (Found::Node(a), Found::Node(b)) => self.same(a, b),
            (Found::Number(a), Found::Number(b)) => a == b,
            (Found::Node(node), Found::Literal(literal))
            | (Found::Literal(literal), Found::Node(node)) => self.is_literal(node, literal),
            (Found::Literal(a), Found::Literal(b)) => a == b,
            _ => self.order(left, right) == Some(Ordering::Equal),
        }
    }

    fn is_literal(&mut self, node: u32, literal: &Literal) -> bool {
        let node = &self.tape.nodes()[node as usize];
        match (node.kind, literal) {
            (Kind::Null, Literal::Null) => true,
            (Kind::Bool, Literal::Bool(b)) => (self.doc[node.start as usize] == b't') == *b,
            (Kind::String, Literal::String(text)) => {
                self.notes.budget.charge(text.len() as u64 / 8 + 1);
                let inner = &self.doc[node.inner()];
                if node.escaped {
                    unescaped_eq(inner, text.as_bytes())
                } else {
                    inner == text.as_bytes()
                }
            }
            (Kind::Number, Literal::Number(number)) => {
                let written = &self.doc[node.span()];
                self.ordered(written.len(), |_| decimal::compare_to(written, number))
                    == Some(Ordering::Equal)
            }
            _ => false,
        }
    }

    /// The order of two numbers or two strings.
    fn order(&mut self, left: Found<'a>, right: Found<'a>) -> Option<Ordering> {
        let mut digits = [[0; 20]; 2];
        let [left_digits, right_digits] = &mut digits;
        if let (Some(a), Some(b)) =
            (self.number(left, left_digits), self.number(right, right_digits))
        {
            return self.ordered(a.len() + b.len(), |_| decimal::compare(a, b));
        }
        let order = self.with_text(left, 0, |judge, a| {
            judge.with_text(right, 1, |judge, b| {
                judge.notes.budget.charge(a.len().min(b.len()) as u64 / 8 + 1);
                a.cmp(b)
            })
        });
        order.flatten()
    }

    /// An order that cannot be told for certain rejects the record.
    pub(super) fn ordered(
        &mut self,
        length: usize,
        order: impl FnOnce(&mut Self) -> Option<Ordering>,
    ) -> Option<Ordering> {
        self.notes.budget.charge(length as u64 + 1);
        let order = order(self);
        if order.is_none() {
            self.notes.budget.charge(u64::MAX);
        }
        order
    }

    fn number<'n>(&self, value: Found<'n>, digits: &'n mut [u8; 20]) -> Option<&'n [u8]>
    where
        'a: 'n,
    {
        match value {
            Found::Literal(Literal::Number(number)) => Some(number.text()),
            Found::Node(index) => {
                let node = &self.tape.nodes()[index as usize];
                (node.kind == Kind::Number).then(|| &self.doc[node.span()])
            }
            Found::Number(mut n) => {
                let mut at = digits.len();
                loop {
                    at -= 1;
                    digits[at] = b'0' + (n % 10) as u8;
                    n /= 10;
                    if n == 0 {
                        return Some(&digits[at..]);
                    }
                }
            }
            _ => None,
        }
    }

    /// Answers a read for a node: an index or [`NOTHING`], a count, or 0 and 1.
    fn read(&mut self, id: usize, node: u32) -> u64 {
        let read = &self.reads[id];
        // From the root everything is one node's, wherever it is asked.
        let node = if read.absolute { 0 } else { node };
        let memo = self.notes.memo[id];
        if memo.of == node && (memo.marked || !(self.marking || read.absolute)) {
            return memo.answer;
        }
        let marking = self.marking;
        self.marking |= read.absolute;
        let answer = self.answer(read, node);
        self.notes.memo[id] = Memo { of: node, marked: self.marking, answer };
        self.marking = marking;
        answer
    }

    fn answer(&mut self, read: &'a Read, node: u32) -> u64 {
        if read.ask == Ask::One {
            return self.one(&read.ways, node);
        }
        let any = read.ask == Ask::Exists;
        let mut tally = Tally {
            count: 0,
            first: NOTHING,
            any,
            mark: if any { mark::EXISTS } else { mark::VALUE },
        };
        self.follow(&read.ways, node, &mut tally);
        match read.ask {
            Ask::Value if tally.count == 1 => tally.first,
            Ask::Value | Ask::One => NOTHING,
            Ask::Exists => u64::from(tally.count > 0),
            Ask::Count => tally.count,
        }
    }

    fn one(&mut self, ways: &'a [Way], from: u32) -> u64 {
        let mut at = from;
        for way in ways {
            let next = match way.picks.first() {
                Some(Pick::Name(name)) => self.member(at, name),
                Some(Pick::Index(index)) => self.element(at, *index),
                _ => None,
            };
            match next {
                Some(next) => at = next,
                None => return NOTHING,
            }
        }
        self.mark(at, mark::VALUE);
        u64::from(at)
    }

    /// Follows a path from a node; `true`: enough is known.
    fn follow(&mut self, ways: &'a [Way], node: u32, tally: &mut Tally) -> bool {
        let Some((way, rest)) = ways.split_first() else {
            if tally.count == 0 {
                tally.first = u64::from(node);
            }
            tally.count += 1;
            self.mark(node, tally.mark);
            return tally.any;
        };
        let last = if way.descendant { self.tape.nodes()[node as usize].next } else { node + 1 };
        (node..last).any(|at| {
            let fits = self.notes.budget.charge(1);
            !fits
                || self.tape.nodes()[at as usize].is_container()
                    && self.follow_children(way, rest, at, tally)
        })
    }

    fn follow_children(
        &mut self,
        way: &'a Way,
        rest: &'a [Way],
        container: u32,
        tally: &mut Tally,
    ) -> bool {
        let tape = self.tape;
        let node = &tape.nodes()[container as usize];
        if way.descendant {
            self.reads_names(container);
        }
        way.picks.iter().any(|pick| match pick {
            Pick::Name(name) => {
                self.member(container, name).is_some_and(|child| self.follow(rest, child, tally))
            }
            Pick::Index(index) => {
                self.element(container, *index).is_some_and(|child| self.follow(rest, child, tally))
            }
            Pick::Wildcard => {
                self.reads_names(container);
                tape.children(container)
                    .any(|child| !self.notes.budget.charge(1) || self.follow(rest, child, tally))
            }
            Pick::Slice(slice) if node.kind == Kind::Array => {
                let elements = tape.children(container).zip(0..);
                let mut within =
                    elements.filter(|(_, at)| slice.contains(*at, i64::from(node.count)));
                self.notes.budget.charge(4 * u64::from(node.count));
                within.any(|(child, _)| {
                    !self.notes.budget.charge(1) || self.follow(rest, child, tally)
                })
            }
            Pick::Slice(_) => false,
            Pick::Test(test) => {
                self.reads_names(container);
                tape.children(container).any(|child| {
                    !self.notes.budget.charge(1)
                        || self.holds(test, child) && self.follow(rest, child, tally)
                })
            }
        })
    }

    /// The member of that name; standing twice it is noted.
    fn member(&mut self, object: u32, name: &Name) -> Option<u32> {
        let node = &self.tape.nodes()[object as usize];
        if node.kind != Kind::Object {
            return None;
        }
        self.notes.budget.charge(u64::from(node.count) + 1);
        let mut members = self
            .tape
            .children(object)
            .filter(|child| Written::new(self.doc, &self.tape.nodes()[*child as usize]).is(name));
        let first = members.next();
        if let Some(second) = members.next() {
            self.notes
                .duplicate
                .get_or_insert(self.tape.nodes()[second as usize].name_start as usize);
        }
        first
    }

    fn element(&mut self, array: u32, index: i64) -> Option<u32> {
        let node = &self.tape.nodes()[array as usize];
        if node.kind != Kind::Array {
            return None;
        }
        let at = if index < 0 { index + i64::from(node.count) } else { index };
        let at = u32::try_from(at).ok().filter(|at| *at < node.count)?;
        self.notes.budget.charge(u64::from(at) + 1);
        self.tape.children(array).nth(at as usize)
    }

    /// Every name of an object was read.
    pub(super) fn reads_names(&mut self, container: u32) {
        let marks = &mut self.notes.marks[container as usize];
        if self.tape.nodes()[container as usize].kind == Kind::Object && *marks & mark::NAMES == 0 {
            *marks |= mark::NAMES;
            self.notes.named.push(container);
        }
    }

    fn mark(&mut self, node: u32, mark: u8) {
        if self.marking {
            self.notes.marks[node as usize] |= mark;
        }
    }
}
