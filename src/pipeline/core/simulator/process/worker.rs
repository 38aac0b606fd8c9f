//! A lane of a simulated process.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{BATCH, Fetched, Kind, Op, ToPoll};
use crate::kafka::error::{Fault, Obstacle};
use crate::pipeline::core::lane::{Ended, Lane, LaneAction, LaneEvent, Offer};
use crate::pipeline::core::machine::TransactionState;
use crate::pipeline::core::mutated;
use crate::pipeline::core::partition::{Assigned, Block, BlockReason, Position, TopicPartition};
use crate::pipeline::core::simulator::cluster::{Cluster, Outcome, at, number};
use crate::pipeline::core::simulator::random::Random;

/// What is in a lane's inbox.
pub(super) enum ToLane {
    Assign(Assigned),
    Moved(u64, Option<Position>),
    Event(LaneEvent),
}

pub(super) struct Worker {
    pub(super) id: (usize, usize),
    pub(super) core: Lane,
    /// The epoch of its producer.
    pub(super) producer: Option<u32>,
    pub(super) queue: VecDeque<Op>,
    /// What is read and not processed: the number of each batch, and its records.
    pub(super) batches: VecDeque<(u64, VecDeque<Op>)>,
    /// Number of the newest batch.
    pub(super) number: u64,
    pub(super) inbox: VecDeque<ToLane>,
    /// Assignments in the inbox.
    pub(super) announced: usize,
    pub(super) answered: BTreeSet<u64>,
    pub(super) is_overrun: bool,
    pub(super) pause: usize,
    /// What the open transaction will fail for.
    pub(super) poison: Option<Fault>,
}

/// What a worker needs of its process.
pub(super) struct Surroundings<'a> {
    pub(super) cluster: &'a mut Cluster,
    pub(super) random: &'a mut Random,
    pub(super) membership: &'a (u32, BTreeSet<u64>),
    pub(super) requests: &'a mut VecDeque<ToPoll>,
    pub(super) positions: &'a mut BTreeMap<usize, usize>,
    pub(super) fetched: &'a BTreeMap<usize, Fetched>,
    pub(super) has_faults: bool,
}

impl Worker {
    /// Takes what is in the inbox.
    pub(super) fn look(&mut self, around: &mut Surroundings<'_>) {
        while let Some(message) = self.inbox.pop_front() {
            let event = match message {
                ToLane::Assign(assigned) => {
                    self.announced -= 1;
                    LaneEvent::Assigned(vec![assigned], self.number)
                }
                ToLane::Moved(epoch, place) => LaneEvent::Moved(epoch, place, self.number),
                ToLane::Event(event) => event,
            };
            self.core.on(event, around.cluster.now);
            self.run(around);
        }
    }

    pub(super) fn turn(&mut self, around: &mut Surroundings<'_>) {
        if self.core.state() == TransactionState::Open && around.random.one_in(8) {
            // It waits for deliveries since before the polling thread spoke: it reads on, and does
            // not look at its inbox.
            return self.fill(around);
        }
        self.look(around);
        if std::mem::take(&mut self.is_overrun) {
            self.core.on(LaneEvent::Overrun, around.cluster.now);
            return self.run(around);
        }
        if self.pause > 0 {
            self.pause -= 1;
            return;
        }
        if self.core.state() == TransactionState::Recycling {
            return self.recycle(around);
        }
        if self.core.is_moving() {
            return;
        }
        if self.core.has_offsets_alone() {
            self.core.open(around.cluster.now);
            self.run(around);
            self.core.on(LaneEvent::Due, around.cluster.now);
            return self.run(around);
        }
        if self.batches.is_empty() {
            self.fill(around);
        }
        if self.batches.is_empty() {
            if self.core.state() == TransactionState::Open {
                self.core.on(LaneEvent::Due, around.cluster.now);
                return self.run(around);
            }
            return self.look_at_positions(around);
        }
        self.process(around);
        if self.core.state() == TransactionState::Open && around.random.one_in(4) {
            self.core.on(LaneEvent::Due, around.cluster.now);
            self.run(around);
        }
    }

    /// Reads the next batch; what was fetched under an older version is dropped here, as the client
    /// does.
    fn fill(&mut self, around: &mut Surroundings<'_>) {
        if self.announced > 0 && !mutated!(ReadAnnounced) {
            return;
        }
        let mut batch = VecDeque::new();
        while batch.len() < BATCH {
            let Some(op) = self.queue.pop_front() else { break };
            if around.fetched.get(&op.partition).is_none_or(|f| f.version != op.version) {
                continue;
            }
            // An error event moves the position as if it were a record.
            around.positions.insert(op.partition, op.offset + 1);
            if !matches!(op.kind, Kind::Control) {
                batch.push_back(op);
            }
        }
        if !batch.is_empty() {
            self.number += 1;
            self.batches.push_back((self.number, batch));
        }
    }

    /// The number of the batch in hand, and its next record.
    fn next(&mut self) -> Option<(u64, Op)> {
        let (number, batch) = self.batches.front_mut()?;
        let next = batch.pop_front().map(|op| (*number, op));
        self.batches.pop_front_if(|(_, batch)| batch.is_empty());
        next
    }

    /// Takes a record back: it is the next again.
    fn put_back(&mut self, number: u64, op: Op) {
        match self.batches.front_mut() {
            Some((front, batch)) if *front == number => batch.push_front(op),
            _ => self.batches.push_front((number, VecDeque::from([op]))),
        }
    }

    fn process(&mut self, around: &mut Surroundings<'_>) {
        let most = 1 + around.random.below(BATCH);
        for _ in 0..most {
            let Some((batch, op)) = self.next() else { return };
            let Some(place) = self.core.find(&at(op.partition).topic, 0) else { continue };
            let Kind::Record { id, is_refused, leader_epoch } = op.kind else {
                if self.core.is_active(place, batch) {
                    let diverged_at = if let Kind::Error(cut) = op.kind { cut } else { None };
                    let block = Block { diverged_at, ..Block::new(BlockReason::Fetch, "fetch") };
                    self.core.fetch_failed(place, block, around.cluster.now);
                    self.run(around);
                }
                continue;
            };
            let offset = i64::try_from(op.offset).unwrap();
            match self.core.offer(place, offset, batch) {
                Offer::Stale => continue,
                Offer::Backwards => {
                    self.core.block(
                        place,
                        Block::new(BlockReason::Fetch, "backwards"),
                        around.cluster.now,
                    );
                    self.run(around);
                    continue;
                }
                Offer::Close => {
                    self.put_back(batch, op);
                    self.core.on(LaneEvent::Due, around.cluster.now);
                    self.run(around);
                    return;
                }
                Offer::Take => {}
            }
            if self.core.state() == TransactionState::Idle {
                self.core.open(around.cluster.now);
                self.run(around);
            }
            if self.core.state() != TransactionState::Open {
                self.put_back(batch, op);
                return;
            }
            if !around.cluster.has_keys && id.is_multiple_of(3) {
                self.core.block(place, Block::new(BlockReason::Keys, "keys"), around.cluster.now);
                self.run(around);
                continue;
            }
            if around.has_faults && around.random.one_in(150) {
                self.put_back(batch, op);
                self.core.on(LaneEvent::Failed(Fault::Abortable), around.cluster.now);
                self.run(around);
                return;
            }
            if is_refused && self.core.refused(place, offset) == 0 {
                self.poison.get_or_insert(Fault::Refused);
            }
            if around.cluster.is_denied(op.partition) {
                self.poison.get_or_insert(Fault::Blocked(Obstacle::TopicDenied));
            }
            around.cluster.produce(self.id, self.producer.unwrap(), id);
            self.core.done(place, offset, Some(leader_epoch));
        }
    }

    fn look_at_positions(&mut self, around: &mut Surroundings<'_>) {
        let drained: Vec<TopicPartition> = self.core.drained().cloned().collect();
        let mut is_moved = false;
        for at in drained {
            if let Some(position) = around.positions.get(&number(&at.topic)) {
                let position =
                    Position { offset: i64::try_from(*position).unwrap(), leader_epoch: None };
                is_moved |= self.core.advance(&at.topic, at.partition, position);
            }
        }
        if is_moved {
            self.core.open(around.cluster.now);
            self.run(around);
            self.core.on(LaneEvent::Due, around.cluster.now);
            self.run(around);
        }
    }

    fn recycle(&mut self, around: &mut Surroundings<'_>) {
        if around.has_faults && around.random.one_in(4) {
            self.core.on(LaneEvent::Recycled(Err(Fault::OutcomeUnknown)), around.cluster.now);
        } else {
            self.producer = Some(around.cluster.fence(self.id));
            self.core.on(LaneEvent::Recycled(Ok(())), around.cluster.now);
        }
        self.run(around);
    }

    /// Does what the core says until it says nothing more.
    pub(super) fn run(&mut self, around: &mut Surroundings<'_>) {
        while let Some(action) = self.core.next_action() {
            let answer = self.perform(action, around);
            match answer {
                Some(_) if std::mem::take(&mut self.is_overrun) => {
                    self.core.on(LaneEvent::Overrun, around.cluster.now)
                }
                Some(answer) => self.core.on(answer, around.cluster.now),
                None => {}
            }
        }
    }

    fn perform(&mut self, action: LaneAction, around: &mut Surroundings<'_>) -> Option<LaneEvent> {
        match action {
            LaneAction::Begin => {
                let is_begun = around.cluster.begin(self.id, self.producer.unwrap());
                (!is_begun).then_some(LaneEvent::Failed(Fault::Fenced))
            }
            LaneAction::Flush => Some(LaneEvent::Flushed(match self.poison {
                Some(fault) => Err(fault),
                None if around.has_faults && around.random.one_in(40) => Err(Fault::Abortable),
                None => Ok(()),
            })),
            LaneAction::Commit(commits) => {
                Some(LaneEvent::Committed(self.commit(&commits, around)))
            }
            LaneAction::Abort(_) => {
                let is_refused = self.poison == Some(Fault::Refused);
                if around.has_faults && around.random.one_in(30) {
                    return Some(LaneEvent::Aborted(Err(Fault::OutcomeUnknown)));
                }
                around.cluster.abort(self.id, self.producer.unwrap());
                Some(LaneEvent::Aborted(Ok(is_refused.then_some("refused_record"))))
            }
            LaneAction::Settle { spent } => {
                self.poison = None;
                if spent.is_some() {
                    self.producer = None;
                }
                None
            }
            LaneAction::Discard => {
                self.poison = None;
                None
            }
            LaneAction::Recycle(_) => {
                self.producer = None;
                None
            }
            LaneAction::Rewind(targets) => {
                around.requests.push_back(ToPoll::Rewind(self.id.1, targets));
                None
            }
            LaneAction::Reread(epochs) => {
                around.requests.push_back(ToPoll::Reread(epochs));
                None
            }
            LaneAction::Block(_, epoch, block) => {
                around.requests.push_back(ToPoll::Block(epoch, block));
                None
            }
            LaneAction::Answer(ticket) => {
                self.answered.insert(ticket);
                None
            }
            LaneAction::BackOff => {
                self.pause = around.random.below(4);
                None
            }
            LaneAction::Condemn(..) => None,
            LaneAction::EndFenced => panic!("nobody else has this name"),
        }
    }

    fn commit(
        &mut self,
        commits: &[crate::pipeline::core::partition::Commit],
        around: &mut Surroundings<'_>,
    ) -> Ended {
        let (generation, epochs) = around.membership;
        if !commits.iter().all(|c| epochs.contains(&c.epoch)) {
            return Ended::NotOwned;
        }
        let epoch = self.producer.unwrap();
        let sent = around.cluster.send_offsets(self.id, epoch, *generation, commits);
        match sent {
            Outcome::Done => {}
            Outcome::Generation => return Ended::Failed(Fault::Abortable),
            Outcome::Fenced => return Ended::Failed(Fault::OutcomeUnknown),
        }
        if !around.has_faults {
            return match around.cluster.commit(self.id, epoch) {
                Outcome::Done => Ended::Done { tainted: false },
                _ => Ended::Failed(Fault::OutcomeUnknown),
            };
        }
        match around.random.below(40) {
            0 => Ended::Failed(Fault::OutcomeUnknown),
            1 => {
                around.cluster.delay(self.id, epoch);
                Ended::Failed(Fault::OutcomeUnknown)
            }
            roll => match around.cluster.commit(self.id, epoch) {
                Outcome::Done if roll == 2 => Ended::Failed(Fault::OutcomeUnknown),
                Outcome::Done if roll < 6 => {
                    // A second copy of the request is still on its way.
                    around.cluster.delay(self.id, epoch);
                    Ended::Done { tainted: true }
                }
                Outcome::Done => Ended::Done { tainted: false },
                _ => Ended::Failed(Fault::OutcomeUnknown),
            },
        }
    }
}
