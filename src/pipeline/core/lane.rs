//! One lane: its partitions and its transaction. Events in, actions out.

mod blame;
mod event;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::machine::{self, Machine, TransactionState};
use super::partition::{Assigned, Block, BlockReason, Partition, Position, TopicPartition};
use super::suspects::Suspects;
use crate::kafka::error::Fault;
pub use event::{Ended, LaneAction, LaneEvent, Offer};

/// What the open transaction holds.
#[derive(Debug, Default)]
struct Held {
    records: usize,
    /// Place of its first record.
    first: Option<(TopicPartition, i64)>,
    /// All its records are of this suspect.
    suspect: Option<TopicPartition>,
}

/// A lane.
#[derive(Debug)]
pub struct Lane {
    machine: Machine,
    partitions: Vec<Partition>,
    suspects: Suspects,
    held: Held,
    /// The first failure of the open transaction.
    failure: Option<Fault>,
    /// Revocations that wait until it is known what the producer did.
    tickets: Vec<u64>,
    /// Records that the broker refused alone, and how often.
    condemned: HashMap<(TopicPartition, i64), u32>,
    actions: VecDeque<LaneAction>,
}

impl Lane {
    /// A lane whose producer has been fenced in before the group was joined.
    #[must_use]
    pub fn new(transaction_timeout: Duration, now: Instant) -> Self {
        let mut machine = Machine::new(transaction_timeout);
        machine.on(machine::TransactionEvent::Recycled, now);
        Self {
            machine,
            partitions: Vec::new(),
            suspects: Suspects::default(),
            held: Held::default(),
            failure: None,
            tickets: Vec::new(),
            condemned: HashMap::new(),
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<LaneAction> {
        self.actions.pop_front()
    }

    /// Where its transaction is.
    #[must_use]
    pub fn state(&self) -> TransactionState {
        self.machine.state()
    }

    /// What the open transaction failed for.
    #[must_use]
    pub fn failure(&self) -> Option<Fault> {
        self.failure
    }

    /// When the open transaction began.
    #[must_use]
    pub fn begun(&self) -> Option<Instant> {
        self.machine.begun()
    }

    /// How many records the open transaction holds.
    #[must_use]
    pub fn records(&self) -> usize {
        self.held.records
    }

    /// A partition is being moved back. Nothing is read meanwhile: records from its new place would
    /// pass for those read before.
    #[must_use]
    pub fn is_moving(&self) -> bool {
        self.partitions.iter().any(Partition::is_moving) && !super::mutated!(ReadMoving)
    }

    /// Something is to be committed and no transaction is open: a starting offset, or a position
    /// beyond control records.
    #[must_use]
    pub fn has_offsets_alone(&self) -> bool {
        self.state() == TransactionState::Idle && self.partitions.iter().any(Partition::is_dirty)
    }

    /// The open transaction holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.records == 0 && !self.partitions.iter().any(Partition::is_dirty)
    }

    // ---- records ----

    /// The place of a partition among the lane's, as long as none comes or goes.
    #[must_use]
    pub fn find(&self, topic: &str, partition: i32) -> Option<usize> {
        self.partitions
            .iter()
            .position(|p| p.assigned.at.partition == partition && &*p.assigned.at.topic == topic)
    }

    /// What is known of the partition at a place.
    #[must_use]
    pub fn assigned(&self, place: usize) -> &Assigned {
        &self.partitions[place].assigned
    }

    /// Whether records of the partition are taken from batch number `batch`.
    #[must_use]
    pub fn is_active(&self, place: usize, batch: u64) -> bool {
        self.partitions[place].is_active(batch)
    }

    /// What to do with a record of batch number `batch`.
    #[must_use]
    pub fn offer(&self, place: usize, offset: i64, batch: u64) -> Offer {
        let partition = &self.partitions[place];
        if !partition.is_active(batch) {
            return Offer::Stale;
        }
        if offset < partition.next.offset {
            return Offer::Backwards;
        }
        if !partition.has_begun() {
            return Offer::Close;
        }
        if self.suspects.is_empty() && self.held.suspect.is_none() {
            return Offer::Take;
        }
        let at = &partition.assigned.at;
        let is_alone = match &self.held.suspect {
            Some(suspect) => suspect == at,
            None => self.held.records == 0 || !self.suspects.is_suspect(at),
        };
        if is_alone && self.held.records < self.suspects.limit(at) {
            Offer::Take
        } else {
            Offer::Close
        }
    }

    /// How often the broker refused this record alone: the first time as it was, then as a dead
    /// letter.
    #[must_use]
    pub fn refused(&self, place: usize, offset: i64) -> u32 {
        if self.condemned.is_empty() {
            return 0;
        }
        self.condemned
            .get(&(self.partitions[place].assigned.at.clone(), offset))
            .copied()
            .unwrap_or(0)
    }

    /// A record was produced, or sealed as a dead letter.
    pub fn done(&mut self, place: usize, offset: i64, leader_epoch: Option<i32>) {
        let partition = &mut self.partitions[place];
        if self.held.records == 0 {
            let at = &partition.assigned.at;
            self.held.first = Some((at.clone(), offset));
            if !self.suspects.is_empty() && self.suspects.is_suspect(at) {
                self.held.suspect = Some(at.clone());
            }
        }
        self.held.records += 1;
        partition.next = Position {
            offset: offset + 1,
            leader_epoch: leader_epoch.or(partition.next.leader_epoch),
        };
    }

    /// Partitions whose client position stands for what was read.
    pub fn drained(&self) -> impl Iterator<Item = &TopicPartition> {
        self.partitions.iter().filter(|p| p.is_drained()).map(|p| &p.assigned.at)
    }

    /// The client's position of a drained partition: beyond its last record stand control records
    /// only. `true`: there is something to commit.
    pub fn advance(&mut self, topic: &str, partition: i32, position: Position) -> bool {
        let Some(partition) = self.find(topic, partition).map(|i| &mut self.partitions[i]) else {
            return false;
        };
        let is_beyond = partition.is_drained() && position.offset > partition.next.offset;
        if is_beyond {
            partition.next = Position {
                offset: position.offset,
                leader_epoch: position.leader_epoch.or(partition.next.leader_epoch),
            };
        }
        is_beyond
    }

    /// A transaction is to be opened, for a record or for offsets alone.
    pub fn open(&mut self, now: Instant) {
        self.drive(machine::TransactionEvent::Work, now);
    }

    /// The client reports an error of a partition instead of a record.
    pub fn fetch_failed(&mut self, place: usize, block: Block, now: Instant) {
        self.partitions[place].fail();
        if super::mutated!(CommitPosition) {
            return;
        }
        self.block(place, block, now);
    }

    /// The partition must not be read on: what it holds commits, then it leaves.
    pub fn block(&mut self, place: usize, block: Block, now: Instant) {
        self.partitions[place].leave(block);
        if self.partitions[place].is_dirty() && self.state() == TransactionState::Open {
            self.drive(machine::TransactionEvent::Due, now);
        }
        self.part();
    }

    // ---- events ----

    /// Takes an event; what follows from it comes from [`Lane::next_action`].
    pub fn on(&mut self, event: LaneEvent, now: Instant) {
        match event {
            LaneEvent::Assigned(assigned, batch) => {
                assigned.into_iter().for_each(|a| self.assign(a, batch + 1))
            }
            LaneEvent::Revoked(epochs, ticket) => {
                self.revoke(&epochs, ticket, machine::TransactionEvent::Due, now)
            }
            LaneEvent::Lost(epochs, ticket) => {
                self.revoke(&epochs, ticket, machine::TransactionEvent::Drop, now)
            }
            LaneEvent::Blocked(epoch, block) => {
                if let Some(place) = self.partitions.iter().position(|p| p.assigned.epoch == epoch)
                {
                    self.block(place, block, now);
                }
            }
            LaneEvent::Moved(epoch, position, batch) => self.moved(epoch, position, batch + 1),
            LaneEvent::Due => self.drive(machine::TransactionEvent::Due, now),
            LaneEvent::Overrun => self.drive(machine::TransactionEvent::Overrun, now),
            LaneEvent::GiveUp => self.drive(machine::TransactionEvent::Drop, now),
            LaneEvent::Failed(fault)
            | LaneEvent::Flushed(Err(fault))
            | LaneEvent::Committed(Ended::Failed(fault))
            | LaneEvent::Aborted(Err(fault)) => self.failed(fault, now),
            LaneEvent::Flushed(Ok(())) => self.drive(machine::TransactionEvent::Flushed, now),
            LaneEvent::Committed(Ended::Done { tainted }) => {
                self.drive(machine::TransactionEvent::Committed { tainted }, now)
            }
            LaneEvent::Committed(Ended::NotOwned) => {
                self.drive(machine::TransactionEvent::Drop, now)
            }
            LaneEvent::Aborted(Ok(spent)) => {
                self.drive(machine::TransactionEvent::Aborted { spent }, now)
            }
            LaneEvent::Recycled(Ok(())) => self.drive(machine::TransactionEvent::Recycled, now),
            LaneEvent::Recycled(Err(fault)) => {
                self.actions.push_back(LaneAction::BackOff);
                self.drive(machine::TransactionEvent::Failed(fault), now);
            }
        }
    }

    fn assign(&mut self, assigned: Assigned, since: u64) {
        // An older assignment of it is over, whatever it held.
        self.partitions.retain(|p| p.assigned.at != assigned.at);
        if assigned.is_suspect {
            self.suspects.add(&assigned.at, assigned.start.offset + 1, usize::MAX, true);
        }
        self.partitions.push(Partition::new(assigned, since));
    }

    /// Commits or drops what partitions hold, then forgets them and answers.
    fn revoke(
        &mut self,
        epochs: &[u64],
        ticket: u64,
        event: machine::TransactionEvent,
        now: Instant,
    ) {
        let is_theirs = |p: &Partition| epochs.contains(&p.assigned.epoch);
        if self.partitions.iter().any(|p| is_theirs(p) && p.is_dirty())
            && self.state() == TransactionState::Open
            && !super::mutated!(AnswerEarly)
        {
            self.drive(event, now);
        }
        self.tickets.push(ticket);
        for partition in self.partitions.iter().filter(|p| is_theirs(p)) {
            self.suspects.remove(&partition.assigned.at);
        }
        if self.is_between() {
            self.partitions.retain(|p| !is_theirs(p));
            self.part();
        } else {
            // The shell is in the middle of the transaction's end: they go when it is over.
            let gone = Block::new(BlockReason::Fetch, "");
            self.partitions.iter_mut().filter(|p| is_theirs(p)).for_each(|p| p.leave(gone.clone()));
            self.part();
        }
    }

    /// Nothing is under way whose outcome decides what partitions hold.
    fn is_between(&self) -> bool {
        matches!(
            self.state(),
            TransactionState::Idle | TransactionState::Open | TransactionState::Ended
        )
    }

    fn moved(&mut self, epoch: u64, position: Option<Position>, since: u64) {
        let Some(partition) = self.partitions.iter_mut().find(|p| p.assigned.epoch == epoch) else {
            return;
        };
        match position {
            Some(position) => partition.moved(position, since),
            None => self.reread(|p| p.assigned.epoch == epoch && p.is_moving()),
        }
    }

    fn failed(&mut self, fault: Fault, now: Instant) {
        self.failure.get_or_insert(fault);
        self.drive(machine::TransactionEvent::Failed(fault), now);
    }

    // ---- the transaction ----

    fn drive(&mut self, event: machine::TransactionEvent, now: Instant) {
        match self.machine.on(event, now) {
            machine::TransactionAction::Wait => {}
            machine::TransactionAction::Begin => self.actions.push_back(LaneAction::Begin),
            machine::TransactionAction::Flush => self.actions.push_back(LaneAction::Flush),
            machine::TransactionAction::Commit => {
                let commits = self
                    .partitions
                    .iter()
                    .filter(|p| p.is_dirty())
                    .map(Partition::commit)
                    .collect();
                self.actions.push_back(LaneAction::Commit(commits));
            }
            machine::TransactionAction::Done { spent } => self.settle(spent),
            machine::TransactionAction::Abort(reason) => {
                self.blame();
                self.actions.push_back(LaneAction::Abort(reason));
            }
            machine::TransactionAction::Rewind => {
                self.discard(true);
                self.part();
            }
            machine::TransactionAction::Recycle(reason) => {
                let is_aborted = matches!(event, machine::TransactionEvent::Aborted { .. });
                if !is_aborted {
                    self.actions.push_back(LaneAction::BackOff);
                }
                self.actions.push_back(LaneAction::Recycle(reason));
                self.discard(is_aborted);
            }
            machine::TransactionAction::Reread => {
                self.reread(Partition::is_unknown);
                self.part();
            }
            machine::TransactionAction::EndFenced => self.actions.push_back(LaneAction::EndFenced),
        }
    }

    /// Partitions leave: where they are to be read from is not known here.
    fn reread(&mut self, is_meant: impl Fn(&Partition) -> bool) {
        let mut epochs = Vec::new();
        self.partitions.retain(|p| {
            let leaves = is_meant(p);
            if leaves {
                epochs.push(p.assigned.epoch);
            }
            !leaves
        });
        if !epochs.is_empty() {
            self.actions.push_back(LaneAction::Reread(epochs));
        }
    }

    fn settle(&mut self, spent: Option<&'static str>) {
        let was_culprit = self.held.records == 1
            && self.held.first.as_ref().is_some_and(|place| self.condemned.contains_key(place));
        for partition in self.partitions.iter_mut().filter(|p| p.is_dirty()) {
            partition.committed();
            self.suspects.committed(&partition.assigned.at, partition.base.offset, was_culprit);
            let (at, base) = (&partition.assigned.at, partition.base.offset);
            self.condemned.retain(|(condemned, offset), _| condemned != at || *offset >= base);
        }
        (self.held, self.failure) = (Held::default(), None);
        self.actions.push_back(LaneAction::Settle { spent });
        self.part();
    }

    /// Forgets what was produced; what it was made of comes again. `is_known`: nothing of it has
    /// committed.
    fn discard(&mut self, is_known: bool) {
        self.actions.push_back(LaneAction::Discard);
        (self.held, self.failure) = (Held::default(), None);
        let mut targets = Vec::new();
        for partition in self.partitions.iter_mut().filter(|p| p.is_dirty()) {
            partition.rewind(is_known);
            if partition.is_moving() {
                targets.push(partition.target());
            }
        }
        if !targets.is_empty() {
            self.actions.push_back(LaneAction::Rewind(targets));
        }
    }

    fn leave(&mut self, places: &[usize], block: &Block) {
        for place in places {
            self.partitions[*place].leave(block.clone());
        }
    }

    /// Lets partitions go that leave and hold nothing uncommitted, and answers revocations, once it
    /// is known what the producer did.
    fn part(&mut self) {
        if !self.is_between() {
            return;
        }
        for ticket in self.tickets.drain(..) {
            self.actions.push_back(LaneAction::Answer(ticket));
        }
        let is_open = self.state() == TransactionState::Open;
        let mut left = Vec::new();
        self.partitions.retain(|p| match p.leaving() {
            Some(block) if !(is_open && p.is_dirty()) => {
                left.push((p.assigned.at.clone(), p.assigned.epoch, block.clone()));
                false
            }
            _ => true,
        });
        for (at, epoch, block) in left {
            self.suspects.remove(&at);
            self.actions.push_back(LaneAction::Block(at, epoch, block));
        }
    }
}
