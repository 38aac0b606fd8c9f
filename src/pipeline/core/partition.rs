//! The partitions of one lane: what is committed, what is done and not committed, what is read
//! again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// One partition of a raw topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The raw topic.
    pub topic: Arc<str>,
    /// Its partition, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// A partition by name.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} [{}]", self.topic, self.partition)
    }
}

/// A place in a partition's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The next offset to be read.
    pub offset: i64,
    /// Epoch of the leader that wrote the record before it; `None`: unknown.
    pub leader_epoch: Option<i32>,
}

/// Why a partition is not read, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The kind, for metrics.
    pub reason: BlockReason,
    /// For operators: what is wrong and what to do; nothing of a record.
    pub text: Arc<str>,
    /// From here on the log is not the one that was read; `None`: nothing is known to differ.
    pub diverged_at: Option<i64>,
}

impl Block {
    /// A reason with its words.
    pub fn new(reason: BlockReason, text: impl Into<Arc<str>>) -> Self {
        Self { reason, text: text.into(), diverged_at: None }
    }
}

/// The kinds of [`Block`]: the label `reason` of `veilstream_partitions_blocked`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BlockReason {
    /// Records between the committed offset and the log are gone.
    OffsetLost,
    /// Another topic has the name.
    TopicRecreated,
    /// Nothing is committed, and the configuration says not to choose.
    MissingOffset,
    /// Committed offsets or the log's ends cannot be read.
    OffsetsUnreadable,
    /// The reject guard stopped the topic.
    Guard,
    /// The sanitized topic is missing or does not fit.
    SanitizedTopic,
    /// Kafka refuses something.
    NotAuthorized,
    /// The dead-letter topic refuses a dead letter.
    RecordRefused,
    /// Keys cannot be read or made.
    Keys,
    /// The partition cannot be fetched.
    Fetch,
}

impl BlockReason {
    /// Every kind.
    pub const ALL: [Self; 10] = [
        Self::OffsetLost,
        Self::TopicRecreated,
        Self::MissingOffset,
        Self::OffsetsUnreadable,
        Self::Guard,
        Self::SanitizedTopic,
        Self::NotAuthorized,
        Self::RecordRefused,
        Self::Keys,
        Self::Fetch,
    ];

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OffsetLost => "offset_lost",
            Self::TopicRecreated => "topic_recreated",
            Self::MissingOffset => "missing_offset",
            Self::OffsetsUnreadable => "offsets_unreadable",
            Self::Guard => "guard",
            Self::SanitizedTopic => "sanitized_topic",
            Self::NotAuthorized => "not_authorized",
            Self::RecordRefused => "record_refused",
            Self::Keys => "keys",
            Self::Fetch => "fetch",
        }
    }
}

/// How far a partition is committed, shared by its lane and the polling thread; -1 before the first
/// assignment.
#[derive(Debug)]
pub struct Committed(AtomicI64);

impl Default for Committed {
    fn default() -> Self {
        Self(AtomicI64::new(-1))
    }
}

impl Committed {
    /// The next offset to be read after a restart.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Called after a commit, and where reading begins.
    pub fn set(&self, offset: i64) {
        self.0.store(offset, Ordering::Relaxed);
    }
}

/// A partition given to a lane, to be read from an explicit place.
#[derive(Debug, Clone)]
pub struct Assigned {
    /// Which.
    pub at: TopicPartition,
    /// Unique to this reading: the same partition read again has another.
    pub epoch: u64,
    /// Where reading begins.
    pub start: Position,
    /// `false`: the starting offset is to be committed, nothing is yet.
    pub is_start_committed: bool,
    /// `false`: leaders have changed since the record before the start was read; whether the log
    /// was truncated is to be asked.
    pub is_validated: bool,
    /// It was blocked and has not committed since: its records stand alone in a transaction.
    pub is_suspect: bool,
    /// The topic's id, committed with each offset; `None` where brokers tell none.
    pub topic_id: Option<Arc<str>>,
    /// Its progress.
    pub committed: Arc<Committed>,
}

/// A partition to be read again from another place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which.
    pub at: TopicPartition,
    /// [`Assigned::epoch`].
    pub epoch: u64,
    /// The last commit, as the lane knows it.
    pub position: Position,
}

/// An offset to be committed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Which.
    pub at: TopicPartition,
    /// [`Assigned::epoch`].
    pub epoch: u64,
    /// The next offset to be read.
    pub position: Position,
    /// [`Assigned::topic_id`].
    pub topic_id: Option<Arc<str>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reading {
    /// Records are taken.
    Active,
    /// It is being moved back; what comes meanwhile is stale.
    Moving,
    /// As before, and only the brokers know where to: its last transaction may have committed.
    Unknown,
    /// It leaves the lane once nothing of it is uncommitted.
    Leaving(Block),
}

/// One partition in one reading.
#[derive(Debug)]
pub(super) struct Partition {
    pub(super) assigned: Assigned,
    /// Everything below is committed.
    pub(super) base: Position,
    /// The first offset not done; at least `base`.
    pub(super) next: Position,
    is_start_committed: bool,
    /// The highest `next` before it was moved back: positions below mean nothing.
    high: i64,
    /// Number of the first batch that can hold its records.
    since: u64,
    /// An error event came: the client's position is not the next record's any more.
    has_failed: bool,
    reading: Reading,
}

impl Partition {
    pub(super) fn new(assigned: Assigned, since: u64) -> Self {
        let start = assigned.start;
        assigned.committed.set(start.offset);
        let is_start_committed = assigned.is_start_committed;
        Self {
            assigned,
            base: start,
            next: start,
            is_start_committed,
            high: start.offset,
            since,
            has_failed: false,
            reading: Reading::Active,
        }
    }

    /// Its starting offset is committed: only then does anything of it go downstream.
    pub(super) fn has_begun(&self) -> bool {
        self.is_start_committed
    }

    pub(super) fn is_active(&self, batch: u64) -> bool {
        self.reading == Reading::Active && (self.since <= batch || super::mutated!(ForgetEpoch))
    }

    /// It has something to commit.
    pub(super) fn is_dirty(&self) -> bool {
        self.next.offset != self.base.offset || !self.is_start_committed
    }

    /// Everything read is committed, nothing is to be read again, and no error came: the client's
    /// position stands for what was read.
    pub(super) fn is_drained(&self) -> bool {
        let is_trusted = !self.has_failed || super::mutated!(CommitPosition);
        self.reading == Reading::Active
            && self.next.offset == self.base.offset
            && self.next.offset >= self.high
            && is_trusted
    }

    pub(super) fn target(&self) -> Target {
        Target { at: self.assigned.at.clone(), epoch: self.assigned.epoch, position: self.base }
    }

    pub(super) fn commit(&self) -> Commit {
        Commit {
            at: self.assigned.at.clone(),
            epoch: self.assigned.epoch,
            position: self.next,
            topic_id: self.assigned.topic_id.clone(),
        }
    }

    pub(super) fn committed(&mut self) {
        self.base = self.next;
        self.is_start_committed = true;
        self.assigned.committed.set(self.base.offset);
    }

    /// What is not committed comes again. `is_known`: nothing of it has committed.
    pub(super) fn rewind(&mut self, is_known: bool) {
        self.high = self.high.max(self.next.offset);
        self.next = self.base;
        if self.reading == Reading::Active && !super::mutated!(SkipRewind) {
            self.reading = if is_known { Reading::Moving } else { Reading::Unknown };
        }
    }

    /// It is read from here now, in batches from `since` on. The client's position starts again.
    pub(super) fn moved(&mut self, position: Position, since: u64) {
        if self.reading != Reading::Moving {
            return;
        }
        (self.base, self.next) = (position, position);
        self.assigned.committed.set(position.offset);
        self.since = since;
        self.reading = Reading::Active;
    }

    pub(super) fn is_moving(&self) -> bool {
        self.reading == Reading::Moving
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.reading == Reading::Unknown
    }

    pub(super) fn fail(&mut self) {
        self.has_failed = true;
    }

    /// The first reason stands.
    pub(super) fn leave(&mut self, block: Block) {
        if !matches!(self.reading, Reading::Leaving(_)) {
            self.reading = Reading::Leaving(block);
        }
    }

    pub(super) fn leaving(&self) -> Option<&Block> {
        match &self.reading {
            Reading::Leaving(block) => Some(block),
            _ => None,
        }
    }
}
