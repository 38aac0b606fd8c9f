//! Reading again: partitions go back to the last commit after an abort, and to the committed offsets after any doubt. Also the positions of drained
//! partitions, which are the other way in which an offset commits without a record.

use std::time::{Duration, Instant};

use rdkafka::{Offset, TopicPartitionList};

use super::Worker;
use crate::pipeline::End;
use crate::pipeline::core::machine::{Event, State};
use crate::pipeline::shared::{Target, ToPoll};

/// An answer of the polling thread takes at most this long, requests to brokers included; then it is asked again.
const ANSWER: Duration = Duration::from_secs(30);
/// How often the positions of drained partitions are looked at.
const POSITIONS: Duration = Duration::from_secs(1);

/// Partitions to be read again, before anything else is.
pub(super) struct Recovery {
    reread: bool,
    asked: Option<Instant>,
}

impl Recovery {
    /// `reread`: from the committed offsets, not from what the lane knows.
    pub(super) fn new(reread: bool) -> Self {
        Self { reread, asked: None }
    }
}

impl Worker {
    pub(super) fn start_recovery(&mut self, reread: bool) {
        self.batch.clear();
        self.pump.cursor = 0;
        let reread = reread || self.recovery.as_ref().is_some_and(|r| r.reread);
        self.slots.rewind();
        self.recovery = Some(Recovery::new(reread));
    }

    pub(super) fn recover(&mut self) {
        // A released topic asks for it in the middle of a transaction.
        if self.machine.state() == State::Open {
            return self.drive(Event::Due);
        }
        let Some(recovery) = &mut self.recovery else { return };
        if recovery.asked.is_none_or(|at| at.elapsed() > ANSWER) {
            self.batch.clear();
            self.pump.cursor = 0;
            self.slots.rewind();
            let targets: Vec<Target> = self.slots.iter().filter(|s| !s.parked).filter_map(|s| s.target(recovery.reread)).collect();
            if targets.is_empty() {
                self.recovery = None;
                return;
            }
            recovery.asked = Some(Instant::now());
            if self.poll.send(ToPoll::Rewind { lane: self.lane, targets, reread: recovery.reread }).is_err() {
                self.ended = Some(End::Failed("the polling thread is gone".to_owned()));
            }
        }
        self.drain_inbox(Duration::from_millis(100));
    }

    pub(super) fn moved(&mut self, result: Result<Vec<Target>, &'static str>) {
        let Some(recovery) = &mut self.recovery else { return };
        match result {
            Ok(targets) => {
                self.slots.moved(&targets);
                self.recovery = None;
            }
            Err(_) => {
                recovery.asked = None;
                self.backoff.failed(Instant::now());
            }
        }
    }

    /// Transactional inputs end in control records, which are nobody's work: where a partition is drained, its position commits, or the lag
    /// would stay 1 for ever.
    pub(super) fn look_at_positions(&mut self) {
        if self.last_look.elapsed() < POSITIONS || self.stop.is_some() {
            return;
        }
        self.last_look = Instant::now();
        let mut list = TopicPartitionList::new();
        for slot in self.slots.iter().filter(|s| s.is_drained()) {
            list.add_partition(&slot.assigned.topic, slot.assigned.partition);
        }
        if list.count() == 0 || !self.queue.positions(&list) {
            return;
        }
        let mut moved = false;
        for element in list.elements() {
            if let Offset::Offset(position) = element.offset() {
                moved |= self.slots.advance(element.topic(), element.partition(), position);
            }
        }
        if moved {
            self.drive(Event::Work);
            self.drive(Event::Due);
        }
    }
}
