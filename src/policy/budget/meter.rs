//! Distinct units of the last 24 hours.

use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Seconds for which a unit counts, to the end of the last: times are whole seconds, and what was
/// less than 24 hours ago must count.
pub(super) const DAY: u64 = 24 * 60 * 60;

/// What a budget counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    /// A data subject or a searched value, told from others by its reference.
    Reference([u8; 16]),
    /// A record or token that names nobody: each counts. Not for the attempts of a request id
    /// after its first, which is one disclosure.
    Anonymous,
}

/// Units with the time at which each was last there.
#[derive(Debug, Default)]
pub(super) struct Meter {
    references: HashMap<[u8; 16], u64>,
    by_time: BTreeSet<(u64, [u8; 16])>,
    anonymous: BTreeMap<u64, u64>,
    anonymous_count: u64,
}

impl Meter {
    /// Counts a unit at a time; a reference that is there counts longer, never shorter.
    pub(super) fn charge(&mut self, time: u64, unit: Unit) {
        match unit {
            Unit::Anonymous => {
                *self.anonymous.entry(time).or_default() += 1;
                self.anonymous_count += 1;
            }
            Unit::Reference(reference) => {
                let last = self.references.get(&reference).copied();
                if last.is_some_and(|last| last >= time) {
                    return;
                }
                if let Some(last) = last {
                    self.by_time.remove(&(last, reference));
                }
                self.references.insert(reference, time);
                self.by_time.insert((time, reference));
            }
        }
    }

    /// Drops what is older than 24 hours.
    pub(super) fn forget(&mut self, now: u64) {
        let is_old = |time: u64| now > time.saturating_add(DAY);
        while let Some((time, reference)) = self.by_time.first().copied()
            && is_old(time)
        {
            self.by_time.remove(&(time, reference));
            self.references.remove(&reference);
        }
        while let Some(entry) = self.anonymous.first_entry()
            && is_old(*entry.key())
        {
            self.anonymous_count -= entry.remove();
        }
    }

    /// Whether the unit costs nothing more.
    pub(super) fn holds(&self, unit: &Unit) -> bool {
        match unit {
            Unit::Reference(reference) => self.references.contains_key(reference),
            Unit::Anonymous => false,
        }
    }

    pub(super) fn count(&self) -> u64 {
        u64::try_from(self.references.len())
            .unwrap_or(u64::MAX)
            .saturating_add(self.anonymous_count)
    }
}
