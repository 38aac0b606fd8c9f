//! What a lane is told, and what it asks for.

use crate::kafka::error::Fault;
use crate::pipeline::core::partition::{Assigned, Block, Commit, Position, Target, TopicPartition};

/// What happened.
#[derive(Debug)]
pub enum LaneEvent {
    /// Partitions come; `batch`: number of the batch in hand, which was read before.
    Assigned(Vec<Assigned>, u64),
    /// These epochs go: commit what they hold, then [`LaneAction::Answer`] the ticket.
    Revoked(Vec<u64>, u64),
    /// These epochs are gone: nothing of them may commit; then answer the ticket.
    Lost(Vec<u64>, u64),
    /// The partition of this epoch must not be read on.
    Blocked(u64, Block),
    /// Where the partition of this epoch is read from now; `None`: it did not work. `batch` as
    /// above.
    Moved(u64, Option<Position>, u64),
    /// The transaction is full, old or drained, or the lane stops.
    Due,
    /// A rebalance could not wait: the producer has been fenced from outside.
    Overrun,
    /// A stop cannot wait.
    GiveUp,
    /// [`LaneAction::Begin`] failed, or a record could not be produced.
    Failed(Fault),
    /// The answer to [`LaneAction::Flush`].
    Flushed(Result<(), Fault>),
    /// The answer to [`LaneAction::Commit`].
    Committed(Ended),
    /// The answer to [`LaneAction::Abort`]; why the producer cannot be used again all the same.
    Aborted(Result<Option<&'static str>, Fault>),
    /// The answer to a try to replace the producer.
    Recycled(Result<(), Fault>),
}

/// How a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It succeeded; `tainted`: a request of it ended without an answer and may still arrive.
    Done {
        /// See [`Ended::Done`].
        tainted: bool,
    },
    /// This process is no member, or does not own all partitions any more: nothing was sent.
    NotOwned,
    /// It failed.
    Failed(Fault),
}

/// What to do next, in this order.
#[derive(Debug, PartialEq, Eq)]
pub enum LaneAction {
    /// Begin a transaction; answer only when it fails.
    Begin,
    /// Deliver what was produced; answer [`LaneEvent::Flushed`].
    Flush,
    /// Send these offsets and commit; answer [`LaneEvent::Committed`].
    Commit(Vec<Commit>),
    /// The transaction is committed: count what it held. `spent`: why the producer is dropped;
    /// [`LaneEvent::Recycled`] follows.
    Settle {
        /// See [`LaneAction::Settle`].
        spent: Option<&'static str>,
    },
    /// Abort; answer [`LaneEvent::Aborted`].
    Abort(&'static str),
    /// What was produced and not committed counts no more.
    Discard,
    /// Drop the producer; then make new ones until one is fenced in; answer
    /// [`LaneEvent::Recycled`].
    Recycle(&'static str),
    /// Read these again from where they were committed. Answers [`LaneEvent::Moved`], one each.
    Rewind(Vec<Target>),
    /// The partitions of these epochs have left the lane: only the brokers know how far they are
    /// committed.
    Reread(Vec<u64>),
    /// The partition of this epoch has left the lane, for this reason.
    Block(TopicPartition, u64, Block),
    /// The broker refuses this record, and nothing else: it becomes a dead letter.
    Condemn(TopicPartition, i64),
    /// A revocation is done.
    Answer(u64),
    /// Wait before the next try.
    BackOff,
    /// Another process has this instance name.
    EndFenced,
}

/// What to do with a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offer {
    /// Process it.
    Take,
    /// It was read under an older assignment, or comes again: skip it.
    Stale,
    /// Its offset is below one that was read: the log is not the one that it was.
    Backwards,
    /// The open transaction must end first.
    Close,
}
