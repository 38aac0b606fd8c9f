//! One lane's thread: reads its partitions' queue, transforms, produces, and does what its core
//! says. It never waits for anything without looking at its inbox: a rebalance may be waiting for
//! it.

mod keys;
mod process;
mod producer;
mod read_ahead;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::End;
use super::core::lane::{Lane, LaneAction, LaneEvent};
use super::core::machine::TransactionState;
use super::core::partition::{Block, BlockReason, TopicPartition};
use super::records::RecordPath;
use super::runtime::{Ack, Announced, Runtime, ToLane, ToPoll};
use crate::kafka::error::{Fault, Obstacle};
use crate::kafka::ffi::Queue;
use crate::kafka::producer::{Backoff, Producer, Recipe};
use crate::kafka::settings;
use crate::telemetry::events::{Event as _, TransactionAborted};
pub(super) use keys::Fetcher;
use read_ahead::ReadAhead;
pub(super) use read_ahead::ReadBatch;

/// What a lane is made of.
pub(super) struct LaneParts {
    pub(super) number: usize,
    pub(super) runtime: Arc<Runtime>,
    pub(super) recipe: Recipe,
    pub(super) queue: Arc<Queue>,
    pub(super) inbox: Receiver<ToLane>,
    pub(super) poll: Sender<ToPoll>,
    pub(super) is_overrun: Arc<AtomicBool>,
    pub(super) is_called: Arc<AtomicBool>,
    pub(super) announced: Arc<Announced>,
    pub(super) producer: Producer,
    pub(super) fetcher: Fetcher,
}

/// A lane's thread.
pub(super) struct LaneThread {
    number: usize,
    runtime: Arc<Runtime>,
    recipe: Recipe,
    queue: Arc<Queue>,
    inbox: Receiver<ToLane>,
    poll: Sender<ToPoll>,
    is_overrun: Arc<AtomicBool>,
    /// A partition of its is to be blocked: it must not wait for deliveries.
    is_called: Arc<AtomicBool>,
    core: Lane,
    producer: Option<Producer>,
    read: ReadAhead,
    path: RecordPath,
    backoff: Backoff,
    /// Rebalances that wait, by ticket.
    acks: Vec<(u64, Ack)>,
    next_ticket: u64,
    stop: Option<Instant>,
    ended: Option<End>,
    last_look: Instant,
    /// Why there is no producer, as `/readyz` says it.
    without_producer: Option<String>,
    fetcher: Fetcher,
    /// The epoch whose record waits for keys, and since when.
    awaiting: Option<(u64, Instant)>,
}

impl LaneThread {
    pub(super) fn new(parts: LaneParts) -> Self {
        let LaneParts {
            number,
            runtime,
            recipe,
            queue,
            inbox,
            poll,
            is_overrun,
            is_called,
            announced,
            producer,
            fetcher,
        } = parts;
        let now = Instant::now();
        Self {
            number,
            path: RecordPath::new(runtime.clone()),
            core: Lane::new(recipe.transaction_timeout(), now),
            recipe,
            queue,
            inbox,
            poll,
            is_overrun,
            is_called,
            producer: Some(producer),
            read: ReadAhead::new(settings::read_ahead(&runtime.pipeline), announced),
            backoff: Backoff::new(),
            acks: Vec::new(),
            next_ticket: 0,
            stop: None,
            ended: None,
            last_look: now,
            without_producer: None,
            fetcher,
            awaiting: None,
            runtime,
        }
    }

    /// Runs until it is told to stop or another process has its name.
    pub(super) fn run(mut self) {
        let end = loop {
            self.drain_inbox(Duration::ZERO);
            if let Some(end) = self.ended.take() {
                break end;
            }
            if self.core.state() == TransactionState::Idle && self.stop.is_some() {
                break End::Stopped;
            }
            self.turn();
        };
        for (_, ack) in self.acks.drain(..) {
            let _ = ack.send(self.number);
        }
        let poll = self.poll.clone();
        // Records, producer and queue go first: the polling thread outlives its lanes.
        drop(self);
        let _ = poll.send(ToPoll::Ended(end));
    }

    /// One step of whatever is due.
    fn turn(&mut self) {
        if self.is_overrun.swap(false, Ordering::AcqRel) {
            return self.drive(LaneEvent::Overrun);
        }
        if self.stop.is_some_and(|deadline| Instant::now() >= deadline) {
            return self.give_up();
        }
        if let Some(left) = self.backoff.left(Instant::now()) {
            return self.drain_inbox(left.min(Duration::from_millis(200)));
        }
        if self.core.state() == TransactionState::Recycling {
            return self.recycle();
        }
        if self.core.is_moving() {
            return self.drain_inbox(Duration::from_millis(100));
        }
        if self.core.has_offsets_alone() {
            return self.commit_offsets();
        }
        if self.awaiting.is_some() {
            return self.await_keys();
        }
        self.work();
    }

    /// The deadline of a stop has come.
    fn give_up(&mut self) {
        if self.core.state() == TransactionState::Open {
            self.drive(LaneEvent::GiveUp);
        }
        self.ended.get_or_insert(End::Stopped);
    }

    /// Starting offsets, and positions beyond control records, commit in a transaction without
    /// records.
    fn commit_offsets(&mut self) {
        self.core.open(Instant::now());
        self.act();
        self.drive(LaneEvent::Due);
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
            ToLane::Assign(assigned) => {
                if assigned.iter().any(|a| a.is_suspect) {
                    self.path.refresh_topics();
                }
                self.drive(LaneEvent::Assigned(assigned, self.read.number()));
                self.read.assigned();
            }
            ToLane::Revoke(epochs, ack) => {
                let ticket = self.ticket(ack);
                self.drive(LaneEvent::Revoked(epochs, ticket));
            }
            ToLane::Lose(epochs, ack) => {
                let ticket = self.ticket(ack);
                self.drive(LaneEvent::Lost(epochs, ticket));
            }
            ToLane::Block(epoch, block) => {
                self.is_called.store(false, Ordering::Release);
                self.drive(LaneEvent::Blocked(epoch, block));
            }
            ToLane::Moved(epoch, position) => {
                self.drive(LaneEvent::Moved(epoch, position, self.read.number()))
            }
            ToLane::Stop(deadline) => {
                self.stop = Some(self.stop.map_or(deadline, |d| d.min(deadline)));
                if self.core.state() == TransactionState::Open {
                    self.drive(LaneEvent::Due);
                }
            }
        }
    }

    fn ticket(&mut self, ack: Ack) -> u64 {
        self.next_ticket += 1;
        self.acks.push((self.next_ticket, ack));
        self.next_ticket
    }

    fn tell(&mut self, message: ToPoll) {
        if self.poll.send(message).is_err() {
            self.ended.get_or_insert(End::Failed("the polling thread is gone".to_owned()));
        }
    }

    // ---- the core ----

    fn drive(&mut self, event: LaneEvent) {
        self.core.on(event, Instant::now());
        self.act();
    }

    /// Does what the core says until it says nothing more.
    fn act(&mut self) {
        while let Some(action) = self.core.next_action() {
            let answer = self.perform(action);
            let Some(answer) = answer else { continue };
            let answer = if self.is_overrun.swap(false, Ordering::AcqRel) {
                LaneEvent::Overrun
            } else {
                answer
            };
            self.core.on(answer, Instant::now());
        }
    }

    fn perform(&mut self, action: LaneAction) -> Option<LaneEvent> {
        match action {
            LaneAction::Begin => {
                self.path.transaction.begun = Some(Instant::now());
                let begun = self.producer.as_ref().map(Producer::begin);
                match begun {
                    Some(Ok(())) => None,
                    Some(Err(error)) => Some(LaneEvent::Failed(error.fault())),
                    None => Some(LaneEvent::Failed(Fault::OutcomeUnknown)),
                }
            }
            LaneAction::Flush => {
                self.path.transaction.flushed = Some(Instant::now());
                Some(LaneEvent::Flushed(self.flush()))
            }
            LaneAction::Commit(commits) => Some(LaneEvent::Committed(self.commit(&commits))),
            LaneAction::Settle { spent } => {
                self.settle(spent);
                None
            }
            LaneAction::Abort(reason) => {
                TransactionAborted { lane: self.number, reason }.emit(&self.runtime.metrics);
                let failure = self
                    .core
                    .failure()
                    .map_or_else(|| reason.to_owned(), |fault| fault.to_string());
                self.runtime.note_failure(self.number, Some(failure));
                Some(LaneEvent::Aborted(self.abort()))
            }
            LaneAction::Discard => {
                self.path.aborted();
                None
            }
            LaneAction::Recycle(reason) => {
                self.drop_producer(reason);
                None
            }
            LaneAction::Rewind(targets) => {
                self.tell(ToPoll::Rewind { lane: self.number, targets });
                None
            }
            LaneAction::Reread(epochs) => {
                self.tell(ToPoll::Reread(epochs));
                None
            }
            LaneAction::Block(at, epoch, block) => {
                if self.awaiting.is_some_and(|(awaited, _)| awaited == epoch) {
                    self.awaiting = None;
                }
                let block = self.named(&at, block);
                self.tell(ToPoll::Block(epoch, block));
                None
            }
            LaneAction::Condemn(at, offset) => {
                tracing::warn!(
                    topic = &*at.topic,
                    partition = at.partition,
                    offset,
                    "the broker refuses a record; it becomes a dead letter"
                );
                None
            }
            LaneAction::Answer(ticket) => {
                if let Some(i) = self.acks.iter().position(|(t, _)| *t == ticket) {
                    let _ = self.acks.swap_remove(i).1.send(self.number);
                }
                None
            }
            LaneAction::BackOff => {
                self.backoff.failed(Instant::now());
                None
            }
            LaneAction::EndFenced => {
                self.ended = Some(End::Fenced);
                None
            }
        }
    }

    /// What transactions fail for names no topic: these are the ones that it can be about.
    fn named(&self, at: &TopicPartition, block: Block) -> Block {
        let dead_letters = &self.runtime.pipeline.dead_letter_topic;
        let is_obstacle = [Obstacle::TopicDenied, Obstacle::TopicMissing]
            .iter()
            .any(|obstacle| *block.text == *obstacle.remedy());
        let text = match block.reason {
            BlockReason::RecordRefused => format!("{dead_letters}: {}", block.text),
            _ if is_obstacle => format!(
                "{} or {dead_letters}: {}",
                self.runtime.snapshots.load().target(&at.topic).unwrap_or_default(),
                block.text
            ),
            _ => return block,
        };
        Block { text: text.into(), ..block }
    }

    fn flush(&mut self) -> Result<(), Fault> {
        let (is_overrun, is_called, stop) = (&self.is_overrun, &self.is_called, self.stop);
        let (read, queue) = (&mut self.read, &self.queue);
        let go_on = || {
            // A full queue of the client would end its fetches.
            read.refill(queue, 0);
            !is_overrun.load(Ordering::Acquire)
                && !is_called.load(Ordering::Acquire)
                && stop.is_none_or(|d| Instant::now() < d)
        };
        let flushed = self.producer.as_ref().ok_or(Fault::OutcomeUnknown)?.flush(go_on);
        // What is not delivered yet would hold up the others: nothing was sent to commit it, so
        // that an abort is enough.
        if flushed == Err(Fault::OutcomeUnknown) && is_called.load(Ordering::Acquire) {
            Err(Fault::Abortable)
        } else {
            flushed
        }
    }
}
