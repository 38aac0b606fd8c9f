//! Whether two values of one document are equal.

use std::cmp::Ordering;
use std::hash::{BuildHasher, Hasher};

use super::decimal;
use super::judge::{Judge, mark};
use crate::scan::{Kind, Node, same_text, unescape_lossy};

impl Judge<'_> {
    /// JSON equality: numbers by value, strings by their text, objects whatever the order of their
    /// members is.
    pub(super) fn same(&mut self, a: u32, b: u32) -> bool {
        self.reads_all_names(a);
        self.reads_all_names(b);
        self.same_value(a, b)
    }

    /// Every name in a value was read.
    fn reads_all_names(&mut self, root: u32) {
        let node = &self.tape.nodes()[root as usize];
        if !node.is_container() || self.notes.marks[root as usize] & mark::DEEP != 0 {
            return;
        }
        self.notes.marks[root as usize] |= mark::DEEP;
        self.notes.budget.charge(u64::from(node.next - root));
        for at in root..node.next {
            self.reads_names(at);
        }
    }

    fn same_value(&mut self, a: u32, b: u32) -> bool {
        let (left, right) = (self.tape.nodes()[a as usize], self.tape.nodes()[b as usize]);
        if !self.notes.budget.charge(1) || left.kind != right.kind {
            return false;
        }
        match left.kind {
            Kind::Null => true,
            Kind::Bool => self.doc[left.start as usize] == self.doc[right.start as usize],
            Kind::Number => {
                let (left, right) = (&self.doc[left.span()], &self.doc[right.span()]);
                left == right
                    || self.ordered(left.len() + right.len(), |_| decimal::compare(left, right))
                        == Some(Ordering::Equal)
            }
            Kind::String => {
                let (escaped, left, right) = (
                    left.escaped || right.escaped,
                    &self.doc[left.inner()],
                    &self.doc[right.inner()],
                );
                self.notes.budget.charge(left.len().min(right.len()) as u64 / 8);
                if escaped { self.same_escaped(left, right) } else { left == right }
            }
            Kind::Array if left.count == right.count && left.next - a == right.next - b => {
                let tape = self.tape;
                tape.children(a).zip(tape.children(b)).all(|(a, b)| self.same_value(a, b))
            }
            Kind::Object if left.count == right.count && left.next - a == right.next - b => {
                self.same_object(a, b)
            }
            Kind::Array | Kind::Object => false,
        }
    }

    /// Members in the same order are compared as they come; from the first that differs in name on,
    /// they are sorted.
    fn same_object(&mut self, a: u32, b: u32) -> bool {
        let tape = self.tape;
        let (mut left, mut right) = (tape.children(a), tape.children(b));
        loop {
            let (rest_left, rest_right) = (left.clone(), right.clone());
            match (left.next(), right.next()) {
                (Some(x), Some(y)) if self.same_name(x, y) => {
                    if !self.same_value(x, y) {
                        return false;
                    }
                }
                (Some(_), Some(_)) => return self.same_members(rest_left, rest_right),
                _ => return true,
            }
        }
    }

    /// Two lists of members, sorted by keyed hashes of their names. Two names with one hash may be
    /// taken for different ones: one in 2^64.
    fn same_members(
        &mut self,
        left: impl Iterator<Item = u32>,
        right: impl Iterator<Item = u32>,
    ) -> bool {
        let start = self.notes.members.len();
        let middle = self.collect(left);
        let end = self.collect(right);
        self.notes.budget.charge(16 * (end - start) as u64);
        self.notes.members[start..middle].sort_unstable();
        self.notes.members[middle..end].sort_unstable();
        let mut same = middle - start == end - middle;
        for i in 0..middle - start {
            same = same && {
                let ((hash, x), (other, y)) =
                    (self.notes.members[start + i], self.notes.members[middle + i]);
                hash == other && self.same_name(x, y) && self.same_value(x, y)
            };
        }
        self.notes.members.truncate(start);
        same
    }

    /// Appends members with the hashes of their names; how many there are then.
    fn collect(&mut self, members: impl Iterator<Item = u32>) -> usize {
        let mut text = std::mem::take(&mut self.notes.texts[0]);
        for member in members {
            let name = &self.doc[self.tape.nodes()[member as usize].name()];
            self.notes.budget.charge(name.len() as u64 / 4);
            text.clear();
            unescape_lossy(name, &mut text);
            let mut hasher = self.notes.keys.build_hasher();
            hasher.write(&text);
            self.notes.members.push((hasher.finish(), member));
        }
        self.notes.texts[0] = text;
        self.notes.members.len()
    }

    fn same_name(&mut self, a: u32, b: u32) -> bool {
        let (a, b): (&Node, &Node) =
            (&self.tape.nodes()[a as usize], &self.tape.nodes()[b as usize]);
        let (left, right) = (&self.doc[a.name()], &self.doc[b.name()]);
        self.notes.budget.charge(left.len().min(right.len()) as u64 / 8 + 1);
        if a.name_escaped || b.name_escaped {
            self.same_escaped(left, right)
        } else {
            left == right
        }
    }

    fn same_escaped(&mut self, left: &[u8], right: &[u8]) -> bool {
        self.notes.budget.charge(4 * left.len().min(right.len()) as u64);
        same_text(left, right)
    }
}
