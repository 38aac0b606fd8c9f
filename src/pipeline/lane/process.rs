//! Records of the batch in hand, and when the transaction they are in is due.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::{Offset, TopicPartitionList};

use super::LaneThread;
use crate::kafka::error::Fault;
use crate::kafka::ffi;
use crate::pipeline::core::lane::LaneEvent;
use crate::pipeline::core::machine::TransactionState;
use crate::pipeline::core::partition::Position;
use crate::pipeline::records::{self, Stopped};

/// A drained transaction this old commits.
const DRAINED: Duration = Duration::from_millis(10);
/// The longest wait for records, in milliseconds.
const IDLE_WAIT: i32 = 100;
/// How often the positions of drained partitions are looked at.
const POSITIONS: Duration = Duration::from_secs(1);

impl LaneThread {
    pub(super) fn work(&mut self) {
        let is_open = self.core.state() == TransactionState::Open;
        self.read.refill(&self.queue, self.patience());
        if self.read.current().is_none() {
            if is_open && self.core.begun().is_some_and(|begun| begun.elapsed() >= DRAINED) {
                self.drive(LaneEvent::Due);
            } else if !is_open {
                self.look_at_positions();
            }
            return;
        }
        self.process();
        if self.core.state() == TransactionState::Open && (self.is_full() || self.is_due()) {
            self.drive(LaneEvent::Due);
        }
    }

    /// How long to wait for records, in milliseconds.
    fn patience(&self) -> i32 {
        let Some(begun) = self.core.begun() else { return IDLE_WAIT };
        i32::try_from(DRAINED.saturating_sub(begun.elapsed()).as_millis())
            .unwrap_or(0)
            .max(i32::from(begun.elapsed() < DRAINED))
    }

    fn is_full(&self) -> bool {
        let transaction = &self.path.transaction;
        transaction.records >= self.runtime.pipeline.max_batch_records
            || transaction.bytes >= self.runtime.pipeline.max_batch_bytes
    }

    pub(super) fn is_due(&self) -> bool {
        self.core
            .begun()
            .is_some_and(|begun| begun.elapsed() >= self.runtime.pipeline.commit_interval)
    }

    fn process(&mut self) {
        let Some(batch) = self.read.current() else { return };
        if self.core.state() == TransactionState::Idle {
            if !records::skip_stale(batch, &self.core) {
                return;
            }
            self.path.take_snapshots();
            self.core.open(Instant::now());
            self.act();
            if self.core.state() != TransactionState::Open {
                return;
            }
        }
        let Some(batch) = self.read.current() else { return };
        let Some(producer) = self.producer.as_mut() else {
            return self.drive(LaneEvent::Failed(Fault::OutcomeUnknown));
        };
        let is_overrun = &self.is_overrun;
        let stopped =
            self.path.run(batch, &mut self.core, producer, &|| !is_overrun.load(Ordering::Acquire));
        match stopped {
            Stopped::Batch => {}
            Stopped::Full => self.drive(LaneEvent::Due),
            Stopped::Failed(fault) => self.drive(LaneEvent::Failed(fault)),
            Stopped::Keys(place) => self.ask_for_keys(place),
            Stopped::Blocked(place, block) => {
                self.core.block(place, block, Instant::now());
                self.act();
            }
            Stopped::FetchFailed(place, block) => {
                let at = &self.core.assigned(place).at;
                tracing::warn!(
                    topic = &*at.topic,
                    partition = at.partition,
                    reason = &*block.text,
                    "fetch failed"
                );
                self.core.fetch_failed(place, block, Instant::now());
                self.act();
            }
        }
        if self.core.state() == TransactionState::Open && self.core.is_empty() {
            // Nothing came of it (stale records, or keys are awaited): nothing to keep open.
            self.drive(LaneEvent::Due);
        }
    }

    /// Transactional inputs end in control records, which are nobody's work: where a partition is
    /// drained, its position commits, or the lag would stay 1 for ever.
    fn look_at_positions(&mut self) {
        if self.last_look.elapsed() < POSITIONS || self.stop.is_some() {
            return;
        }
        self.last_look = Instant::now();
        let mut list = TopicPartitionList::new();
        for at in self.core.drained() {
            list.add_partition(&at.topic, at.partition);
        }
        if list.count() == 0 || !self.queue.positions(&list) {
            return;
        }
        for element in list.elements() {
            if let Offset::Offset(offset) = element.offset() {
                let leader_epoch = ffi::leader_epoch(&list, element.topic(), element.partition());
                // What it moved commits with the next turn.
                self.core.advance(
                    element.topic(),
                    element.partition(),
                    Position { offset, leader_epoch },
                );
            }
        }
    }
}
