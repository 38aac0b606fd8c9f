//! A lane's partitions: what is committed, what is done and not committed, what is parked.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::kafka::ffi::{Batch, Message, TopicId};
use crate::outgoing::TopicLimits;
use crate::pipeline::shared::{Assigned, Target};

/// One partition in one assignment.
pub(in crate::pipeline) struct Slot {
    pub(in crate::pipeline) assigned: Assigned,
    /// Everything below is committed; `None`: no record was read yet.
    pub(in crate::pipeline) base: Option<i64>,
    /// The first offset not done; at least `base`.
    pub(in crate::pipeline) next: Option<i64>,
    /// The highest `next` before it was rewound: positions below mean nothing.
    high: i64,
    /// Number of the first batch that can hold records of this assignment.
    pub(in crate::pipeline) since: u64,
    /// The guard stopped its topic.
    pub(in crate::pipeline) parked: bool,
    /// Where its records go, as of the schemas and producer in hand.
    pub(in crate::pipeline) route: Option<Route>,
}

/// Where records of a topic go.
#[derive(Clone, Copy)]
pub(in crate::pipeline) struct Route {
    /// The sanitized topic; `None`: no schema routes the raw topic any more.
    pub(in crate::pipeline) to: Option<TopicId>,
    /// Index of the route's counters.
    pub(in crate::pipeline) counters: usize,
    /// What the sanitized topic takes.
    pub(in crate::pipeline) limits: TopicLimits,
}

impl Slot {
    pub(in crate::pipeline) fn new(assigned: Assigned, since: u64) -> Self {
        Self { assigned, base: None, next: None, high: 0, since, parked: false, route: None }
    }

    /// It has work that is not committed.
    pub(in crate::pipeline) fn is_dirty(&self) -> bool {
        self.next != self.base
    }

    /// Everything read is committed, and nothing is to be read again.
    pub(in crate::pipeline) fn is_drained(&self) -> bool {
        !self.parked && !self.is_dirty() && self.next.is_some_and(|next| next >= self.high)
    }

    /// Where to read again from; `reread`: the committed offset decides, also when nothing was read yet.
    pub(in crate::pipeline) fn target(&self, reread: bool) -> Option<Target> {
        let offset = match self.base {
            Some(base) => base,
            None if reread => -1,
            None => return None,
        };
        let Assigned { topic, partition, epoch, .. } = &self.assigned;
        Some(Target { topic: topic.clone(), partition: *partition, epoch: *epoch, offset })
    }
}

/// The partitions of one lane.
#[derive(Default)]
pub(in crate::pipeline) struct Slots {
    slots: Vec<Slot>,
}

impl Slots {
    pub(in crate::pipeline) fn add(&mut self, slot: Slot) {
        // An older assignment of it is over, whatever it held.
        self.slots.retain(|s| (&s.assigned.topic, s.assigned.partition) != (&slot.assigned.topic, slot.assigned.partition));
        self.slots.push(slot);
    }

    pub(in crate::pipeline) fn remove(&mut self, epochs: &[u64]) {
        self.slots.retain(|s| !epochs.contains(&s.assigned.epoch));
    }

    pub(in crate::pipeline) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter()
    }

    pub(in crate::pipeline) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.slots.iter_mut()
    }

    pub(in crate::pipeline) fn get_mut(&mut self, i: usize) -> Option<&mut Slot> {
        self.slots.get_mut(i)
    }

    pub(in crate::pipeline) fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        self.slots.iter().position(|s| s.assigned.partition == partition && &*s.assigned.topic == topic)
    }

    /// Notes where reading began, for partitions that were never read: that is where they are rewound to.
    pub(in crate::pipeline) fn base(&mut self, batch: &Batch) {
        if self.slots.iter().all(|s| s.base.is_some()) {
            return;
        }
        for message in (0..batch.len()).filter_map(|i| batch.get(i)).filter(|m: &Message<'_>| m.error().is_none()) {
            if let Some(slot) = self.find(message.topic(), message.partition()).and_then(|i| self.slots.get_mut(i))
                && slot.base.is_none()
            {
                slot.base = Some(message.offset());
                slot.next = slot.base;
            }
        }
    }

    /// The transaction committed.
    pub(in crate::pipeline) fn commit(&mut self) {
        for slot in &mut self.slots {
            slot.base = slot.next;
            slot.assigned.progress.store(slot.base.unwrap_or(-1), Ordering::Relaxed);
        }
    }

    /// What is not committed comes again.
    pub(in crate::pipeline) fn rewind(&mut self) {
        for slot in &mut self.slots {
            slot.high = slot.high.max(slot.next.unwrap_or(0));
            slot.next = slot.base;
        }
    }

    /// Partitions are read from here now.
    pub(in crate::pipeline) fn moved(&mut self, targets: &[Target]) {
        for target in targets {
            if let Some(slot) = self.slots.iter_mut().find(|s| s.assigned.epoch == target.epoch) {
                slot.base = Some(target.offset);
                slot.next = slot.base;
            }
        }
    }

    /// A drained partition's position is beyond its last record; `true`: by something to commit.
    pub(in crate::pipeline) fn advance(&mut self, topic: &str, partition: i32, position: i64) -> bool {
        let Some(slot) = self.find(topic, partition).and_then(|i| self.slots.get_mut(i)) else { return false };
        let beyond = slot.is_drained() && slot.next.is_some_and(|next| position > next);
        if beyond {
            slot.next = Some(position);
        }
        beyond
    }

    /// Parks a partition whose work is committed.
    pub(in crate::pipeline) fn park(&mut self, epoch: u64) -> Option<Target> {
        let slot = self.slots.iter_mut().find(|s| s.assigned.epoch == epoch && !s.parked && !s.is_dirty())?;
        slot.parked = true;
        slot.target(false)
    }

    /// `true`: partitions of the topic were parked here.
    pub(in crate::pipeline) fn unpark(&mut self, topic: &Arc<str>) -> bool {
        let mut any = false;
        for slot in self.slots.iter_mut().filter(|s| s.assigned.topic == *topic) {
            any |= std::mem::take(&mut slot.parked);
        }
        any
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicI64;
    use std::time::Instant;

    use super::*;

    fn slots() -> Slots {
        let mut slots = Slots::default();
        let assigned = Assigned { topic: "t".into(), partition: 0, epoch: 7, progress: Arc::new(AtomicI64::new(-1)), since: Instant::now() };
        slots.add(Slot::new(assigned, 0));
        slots.slots[0].base = Some(10);
        slots.slots[0].next = Some(10);
        slots
    }

    #[test]
    fn an_abort_goes_back_to_the_last_commit() {
        let mut slots = slots();
        slots.slots[0].next = Some(15);
        slots.commit();
        slots.slots[0].next = Some(20);
        assert!(slots.slots[0].is_dirty());
        slots.rewind();
        assert_eq!(slots.slots[0].target(false).unwrap().offset, 15);
        assert!(!slots.slots[0].is_dirty());
    }

    /// A position from before a rewind must never commit: it would skip what was aborted.
    #[test]
    fn a_position_counts_only_when_all_was_done_again() {
        let mut slots = slots();
        slots.slots[0].next = Some(20);
        slots.rewind();
        assert!(!slots.advance("t", 0, 21));
        slots.slots[0].next = Some(19);
        slots.commit();
        assert!(!slots.advance("t", 0, 21), "19 is still to come");
        slots.slots[0].next = Some(20);
        assert!(!slots.advance("t", 0, 21), "not committed");
        slots.commit();
        assert!(!slots.advance("t", 0, 20));
        assert!(slots.advance("t", 0, 21));
        assert!(slots.slots[0].is_dirty());
    }

    #[test]
    fn a_partition_never_read_is_not_moved_without_a_committed_offset() {
        let mut slots = slots();
        slots.slots[0].base = None;
        slots.slots[0].next = None;
        assert!(slots.slots[0].target(false).is_none());
        assert_eq!(slots.slots[0].target(true).unwrap().offset, -1);
        assert!(!slots.slots[0].is_drained());
    }

    #[test]
    fn another_epoch_is_another_partition() {
        let mut slots = slots();
        let old = slots.slots[0].target(false).unwrap();
        let assigned = Assigned { epoch: 8, ..slots.slots[0].assigned.clone() };
        slots.add(Slot::new(assigned, 0));
        slots.moved(&[old]);
        assert_eq!((slots.slots.len(), slots.slots[0].base), (1, None));
        slots.remove(&[7]);
        assert_eq!(slots.slots.len(), 1);
        slots.remove(&[8]);
        assert_eq!(slots.slots.len(), 0);
    }

    #[test]
    fn parks_only_what_is_committed() {
        let mut slots = slots();
        slots.slots[0].next = Some(12);
        assert!(slots.park(7).is_none());
        slots.commit();
        assert_eq!(slots.park(7).unwrap().offset, 12);
        assert!(slots.park(7).is_none());
        assert!(slots.unpark(&"t".into()));
        assert!(!slots.unpark(&"t".into()));
    }
}
