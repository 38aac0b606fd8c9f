//! One lane's thread: reads its partitions' queue, transforms, produces, and does what the state machine says. It never waits for anything
//! without looking at its inbox: a rebalance may be waiting for it.

mod keys;
mod recovery;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use super::End;
use super::core::machine::{Action, Bisection, Event, Lane, State};
use super::core::partition::{Slot, Slots};
use super::records::{Pump, Stopped};
use super::shared::{Ack, Assigned, Latch, Shared, ToLane, ToPoll};
use crate::kafka::error::Fault;
use crate::kafka::ffi::{Batch, Queue};
use crate::kafka::producer::{Backoff, Producer, Recipe};
use crate::telemetry::events::{Event as _, ProducerRecycled, TransactionAborted, TransactionCommitted};
pub(super) use keys::Fetcher;
use recovery::Recovery;

/// Records read at once: few enough to be in the processor's caches still when they are freed.
const CHUNK: usize = 100;
/// A drained transaction this old commits.
const DRAINED: Duration = Duration::from_millis(10);
/// The longest wait for records: assignments rely on it.
const IDLE_WAIT: i32 = 100;
/// One try to fence in a producer.
const FENCE: Duration = Duration::from_secs(5);

/// A lane.
pub(super) struct Worker {
    lane: usize,
    shared: Arc<Shared>,
    recipe: Recipe,
    queue: Arc<Queue>,
    inbox: Receiver<ToLane>,
    poll: Sender<ToPoll>,
    overrun: Arc<AtomicBool>,
    machine: Lane,
    producer: Option<Producer>,
    slots: Slots,
    batch: Batch,
    pump: Pump,
    bisection: Bisection,
    recovery: Option<Recovery>,
    backoff: Backoff,
    /// Rebalances that wait for what cannot be told yet.
    acks: Vec<Ack>,
    stop: Option<Instant>,
    ended: Option<End>,
    last_look: Instant,
    /// Kafka refuses its transactions; a commit proves otherwise.
    blocked: Latch,
    /// No producer can be had.
    unfenced: Latch,
    keys_away: Latch,
    fetcher: Fetcher,
    /// The last failure of a transaction, for what is done after its abort.
    failure: Option<Fault>,
}

impl Worker {
    #[allow(clippy::too_many_arguments)] // One call, in `mod.rs`.
    pub(super) fn new(
        lane: usize,
        shared: Arc<Shared>,
        recipe: Recipe,
        queue: Arc<Queue>,
        inbox: Receiver<ToLane>,
        poll: Sender<ToPoll>,
        overrun: Arc<AtomicBool>,
        producer: Producer,
        fetcher: Fetcher,
    ) -> Self {
        let now = Instant::now();
        let mut machine = Lane::new(recipe.transaction_timeout());
        // The producer was fenced in at the start, before the group was joined: committed offsets are read by the assignment itself.
        machine.on(Event::Recycled, now);
        Self {
            lane,
            pump: Pump::new(shared.clone()),
            recipe,
            queue,
            inbox,
            poll,
            overrun,
            machine,
            producer: Some(producer),
            slots: Slots::default(),
            batch: Batch::default(),
            bisection: Bisection::default(),
            recovery: None,
            backoff: Backoff::new(),
            acks: Vec::new(),
            stop: None,
            ended: None,
            last_look: now,
            blocked: Latch::new(format!("lane {lane}")),
            unfenced: Latch::new(format!("producer (lane {lane})")),
            keys_away: Latch::new(format!("keys (lane {lane})")),
            fetcher,
            failure: None,
            shared,
        }
    }

    /// Runs until it is told to stop or another process has its name.
    pub(super) fn run(mut self) {
        let end = loop {
            self.drain_inbox(Duration::ZERO);
            if let Some(end) = self.ended.take() {
                break end;
            }
            if self.machine.state() == State::Idle && self.stop.is_some() {
                break End::Stopped;
            }
            self.turn();
        };
        for ack in self.acks.drain(..) {
            let _ = ack.send(self.lane);
        }
        let poll = self.poll.clone();
        // Batch, producer and queue go first: the polling thread outlives its lanes.
        drop(self);
        let _ = poll.send(ToPoll::Ended(end));
    }

    /// One step of whatever is due.
    fn turn(&mut self) {
        if self.overrun.swap(false, Ordering::AcqRel) {
            return self.drive(Event::Overrun);
        }
        if self.stop.is_some_and(|deadline| Instant::now() >= deadline) {
            return self.give_up();
        }
        if let Some(left) = self.backoff.left(Instant::now()) {
            return self.drain_inbox(left.min(Duration::from_millis(200)));
        }
        if self.machine.state() == State::Recycling {
            return self.recycle();
        }
        if self.recovery.is_some() {
            return self.recover();
        }
        if self.fetcher.is_asked() {
            return self.await_keys();
        }
        if self.machine.state() == State::Idle && self.producer.as_ref().is_some_and(Producer::is_outdated) {
            return self.drive(Event::Outdated);
        }
        self.work();
    }

    /// The deadline of a stop has come.
    fn give_up(&mut self) {
        if matches!(self.machine.state(), State::Open | State::Draining | State::Committing) {
            self.drive(Event::Drop);
        }
        self.ended.get_or_insert(End::Stopped);
    }

    // ---- inbox ----

    fn drain_inbox(&mut self, wait: Duration) {
        let mut wait = wait;
        loop {
            match self.inbox.recv_timeout(wait) {
                Ok(message) => self.receive(message),
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    // The polling thread is gone: nothing may commit without it.
                    self.ended.get_or_insert(End::Failed("the polling thread is gone".to_owned()));
                    return;
                }
            }
            wait = Duration::ZERO;
        }
    }

    fn receive(&mut self, message: ToLane) {
        match message {
            ToLane::Assign(assigned, ack) => {
                for one in assigned {
                    self.assign(one);
                }
                let _ = ack.send(self.lane);
            }
            ToLane::Revoke(epochs, ack) => self.let_go(&epochs, ack, Event::Due),
            ToLane::Lost(epochs, ack) => self.let_go(&epochs, ack, Event::Drop),
            ToLane::Moved(result) => self.moved(result),
            ToLane::Released(topic) => {
                if self.slots.unpark(&topic) {
                    self.recovery.get_or_insert(Recovery::new(false));
                }
            }
            ToLane::Stop(deadline) => {
                self.stop = Some(self.stop.map_or(deadline, |d| d.min(deadline)));
                if self.machine.state() == State::Open {
                    self.drive(Event::Due);
                }
            }
        }
    }

    fn assign(&mut self, assigned: Assigned) {
        // A batch in hand was read under an older assignment.
        self.slots.add(Slot::new(assigned, self.pump.fill + 1));
    }

    /// Commits or drops what partitions hold, then forgets them and answers the rebalance.
    fn let_go(&mut self, epochs: &[u64], ack: Ack, event: Event) {
        let holds = self.slots.iter().any(|s| epochs.contains(&s.assigned.epoch) && s.is_dirty());
        if holds && self.machine.state() == State::Open {
            self.drive(event);
        }
        self.slots.remove(epochs);
        // What is blocked may have gone; if not, it says so again.
        self.blocked.clear(&self.shared.status);
        if self.machine.state() == State::Recycling {
            // What the old producer did is not known before the new one is fenced in.
            self.acks.push(ack);
        } else {
            let _ = ack.send(self.lane);
        }
    }

    // ---- the machine ----

    /// Feeds the machine and does what it says until it waits.
    fn drive(&mut self, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next {
            if let Event::Failed(fault) = event {
                self.failure = Some(fault);
            }
            let action = self.machine.on(event, Instant::now());
            next = self.perform(action);
            if next.is_some() && self.overrun.swap(false, Ordering::AcqRel) {
                next = Some(Event::Overrun);
            }
        }
    }

    fn perform(&mut self, action: Action) -> Option<Event> {
        match action {
            Action::Wait => None,
            Action::Begin => self.producer.as_ref()?.begin().err().map(|e| Event::Failed(e.fault())),
            Action::Flush => {
                let (overrun, stop) = (&self.overrun, self.stop);
                let go_on = || !overrun.load(Ordering::Acquire) && stop.is_none_or(|d| Instant::now() < d);
                Some(match self.producer.as_ref()?.flush(go_on) {
                    Ok(()) => Event::Flushed,
                    Err(fault) => Event::Failed(fault),
                })
            }
            Action::Commit => Some(self.commit()),
            Action::Done => {
                self.settle();
                None
            }
            Action::Abort(reason) => Some(self.abort(reason)),
            Action::Rewind => {
                self.start_recovery(false);
                None
            }
            Action::Recycle(reason) => {
                self.drop_producer(reason);
                None
            }
            Action::Reread => {
                self.start_recovery(true);
                None
            }
            Action::EndFenced => {
                self.ended = Some(End::Fenced);
                None
            }
        }
    }

    fn commit(&mut self) -> Event {
        let dirty = || self.slots.iter().filter(|s| s.is_dirty());
        let Some(group) = self.shared.membership.to_commit(dirty().map(|s| s.assigned.epoch)) else { return Event::Drop };
        let mut offsets = TopicPartitionList::new();
        for slot in dirty() {
            let offset = Offset::Offset(slot.next.unwrap_or_default());
            if offsets.add_partition_offset(&slot.assigned.topic, slot.assigned.partition, offset).is_err() {
                return Event::Failed(Fault::Doubt);
            }
        }
        let Some(producer) = self.producer.take() else { return Event::Failed(Fault::Doubt) };
        let (producer, committed) = producer.commit(offsets, group);
        self.producer = producer;
        let Some(producer) = &self.producer else {
            tracing::warn!(lane = self.lane, "the group coordinator does not take the offsets; going on with a new producer");
            ProducerRecycled { lane: self.lane, reason: "unanswered_call" }.emit(&self.shared.metrics);
            return Event::Failed(Fault::Doubt);
        };
        match committed {
            Ok(tainted) => Event::Committed { tainted: tainted && self.shared.options.recycle_tainted },
            Err(error) => {
                tracing::info!(lane = self.lane, code = %error, fatal = error.fatal, abortable = error.abortable, "commit failed");
                // The record that was not delivered says more than the transaction that failed for it.
                Event::Failed(producer.delivery_fault().filter(|f| *f == Fault::Refused).unwrap_or_else(|| error.fault()))
            }
        }
    }

    /// The transaction is committed.
    fn settle(&mut self) {
        let records = self.pump.transaction.records;
        let seconds = self.pump.transaction.begun.map_or(0.0, |b| b.elapsed().as_secs_f64());
        TransactionCommitted { lane: self.lane, records, dead_letters: self.pump.transaction.dead_letters, seconds }.emit(&self.shared.metrics);
        self.pump.committed();
        self.slots.commit();
        self.bisection.committed(records);
        self.backoff.worked();
        self.failure = None;
        self.blocked.clear(&self.shared.status);
    }

    fn abort(&mut self, reason: &'static str) -> Event {
        TransactionAborted { lane: self.lane, reason }.emit(&self.shared.metrics);
        let records = self.pump.transaction.records;
        let refused = self.failure == Some(Fault::Refused);
        match self.failure.take() {
            // Not as a match guard: it changes what is counted.
            #[allow(clippy::collapsible_match)]
            Some(Fault::Refused) => {
                if self.bisection.refused(records) && !self.pump.condemn() {
                    self.blocked.raise(&self.shared.status, "the dead-letter topic refuses a dead letter: raise its max.message.bytes");
                    self.backoff.failed(Instant::now());
                }
            }
            Some(Fault::Blocked(code)) => {
                self.blocked.raise(&self.shared.status, &blocked_reason(code));
                self.backoff.failed(Instant::now());
            }
            Some(_) => self.backoff.failed(Instant::now()),
            None => {}
        }
        self.drop_work();
        match self.producer.as_ref().map(Producer::abort) {
            Some(Ok(tainted)) => Event::Aborted {
                spent: match (tainted && self.shared.options.recycle_tainted, refused) {
                    (true, _) => Some("unanswered_request"),
                    (_, true) => Some("refused_record"),
                    _ => None,
                },
            },
            Some(Err(error)) => Event::Failed(error.fault()),
            _ => Event::Failed(Fault::Doubt),
        }
    }

    fn drop_work(&mut self) {
        self.pump.aborted();
        self.batch.clear();
        self.pump.cursor = 0;
    }

    fn drop_producer(&mut self, reason: &'static str) {
        if self.producer.take().is_some() {
            if reason != "rebalance_overrun" {
                // That one was counted by the polling thread.
                ProducerRecycled { lane: self.lane, reason }.emit(&self.shared.metrics);
            }
        } else {
            self.backoff.failed(Instant::now());
        }
        self.drop_work();
    }

    fn recycle(&mut self) {
        if self.stop.is_some() {
            // Nothing of the old producer commits unless it already has; the next start finds out.
            self.ended.get_or_insert(End::Stopped);
            return;
        }
        let fenced = self.recipe.create().map(|producer| producer.fence_in(FENCE).map(|()| producer));
        match fenced {
            Ok(Ok(producer)) => {
                self.producer = Some(producer);
                self.pump.new_producer(&mut self.slots);
                self.unfenced.clear(&self.shared.status);
                self.drive(Event::Recycled);
                for ack in self.acks.drain(..) {
                    let _ = ack.send(self.lane);
                }
            }
            Ok(Err(error)) => {
                self.unfenced.raise(&self.shared.status, &format!("{}: no producer can be fenced in ({error})", self.recipe.id()));
                self.drive(Event::Failed(error.fault()));
            }
            Err(why) => {
                self.unfenced.raise(&self.shared.status, &why);
                self.drive(Event::Failed(Fault::Doubt));
            }
        }
    }

    // ---- records ----

    fn work(&mut self) {
        let open = self.machine.state() == State::Open;
        if self.pump.cursor >= self.batch.len() {
            self.pump.cursor = 0;
            self.pump.fill += 1;
            self.batch.fill(&self.queue, CHUNK, self.patience());
            if self.batch.len() == 0 {
                if open && self.machine.begun().is_some_and(|begun| begun.elapsed() >= DRAINED) {
                    self.drive(Event::Due);
                } else if !open {
                    self.look_at_positions();
                }
                return;
            }
            self.slots.base(&self.batch);
        }
        self.process();
        if self.machine.state() == State::Open && (self.is_full() || self.is_due()) {
            self.drive(Event::Due);
        }
    }

    /// How long to wait for records, in milliseconds.
    fn patience(&self) -> i32 {
        let Some(begun) = self.machine.begun() else { return IDLE_WAIT };
        i32::try_from(DRAINED.saturating_sub(begun.elapsed()).as_millis()).unwrap_or(0).max(i32::from(begun.elapsed() < DRAINED))
    }

    fn limit(&self) -> usize {
        self.bisection.limit(self.shared.pipeline.max_batch_records)
    }

    fn is_full(&self) -> bool {
        self.pump.transaction.records >= self.limit() || self.pump.transaction.bytes >= self.shared.pipeline.max_batch_bytes
    }

    fn is_due(&self) -> bool {
        self.machine.begun().is_some_and(|begun| begun.elapsed() >= self.shared.pipeline.commit_interval)
    }

    fn process(&mut self) {
        if self.machine.state() == State::Idle {
            self.pump.take_snapshots(&mut self.slots);
            self.drive(Event::Work);
            if self.machine.state() != State::Open {
                return;
            }
            self.pump.transaction.begun = Some(Instant::now());
        }
        let Some(producer) = self.producer.as_mut() else { return };
        let overrun = &self.overrun;
        let stopped = self
            .pump
            .run(&self.batch, &mut self.slots, producer, self.bisection.limit(self.shared.pipeline.max_batch_records), &|| !overrun.load(Ordering::Acquire));
        match stopped {
            Stopped::Batch | Stopped::Full => {}
            Stopped::Failed(fault) => self.drive(Event::Failed(fault)),
            Stopped::Keys => self.ask_for_keys(),
            Stopped::Tripped(epoch) => self.park(epoch),
        }
        if self.machine.state() == State::Open && self.pump.transaction.is_empty() && !self.slots.iter().any(Slot::is_dirty) {
            // Nothing came of it (stale records, or keys are awaited): nothing to keep open.
            self.drive(Event::Due);
        }
    }

    /// The guard stopped a topic: what the partition holds commits first, then it is read no more.
    fn park(&mut self, epoch: u64) {
        if self.machine.state() == State::Open {
            self.drive(Event::Due);
        }
        let Some(target) = self.slots.park(epoch) else { return };
        if self.poll.send(ToPoll::Park(target)).is_err() {
            self.ended = Some(End::Failed("the polling thread is gone".to_owned()));
        }
    }
}

/// What an operator can do about it.
fn blocked_reason(code: RDKafkaErrorCode) -> String {
    match code {
        RDKafkaErrorCode::GroupAuthorizationFailed => "not authorized for the group: grant Read on it".to_owned(),
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed => "not authorized for the transactional id: grant Write and Describe on it".to_owned(),
        RDKafkaErrorCode::TopicAuthorizationFailed => "not authorized for a topic: grant Write on the sanitized and dead-letter topics".to_owned(),
        RDKafkaErrorCode::UnknownPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition => {
            "a sanitized or dead-letter topic is missing, or has fewer partitions than its raw topic".to_owned()
        }
        code => format!("Kafka refuses the transaction ({code})"),
    }
}
