//! What the threads of the pipeline hold together, and what they tell each other.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::core::assignment::{Question, Resolution};
use super::core::partition::{Assigned, Block, Position, Target, TopicPartition};
use super::core::progress::Ends;
use super::core::start::Loss;
use super::guard::Guard;
use super::snapshot::Snapshot;
use super::{End, Options};
use crate::config;
use crate::kafka::ffi::{GroupMetadata, Queue};
use crate::kafka::producer::Recipe;
use crate::keys::KeySource;
use crate::registry::Registry;
use crate::status::Status;
use crate::telemetry::metrics::Metrics;

/// What every thread of a session holds.
pub(super) struct Runtime {
    pub(super) kafka: config::Kafka,
    pub(super) pipeline: config::Pipeline,
    pub(super) options: Options,
    pub(super) registry: Arc<Registry>,
    pub(super) keys: Arc<dyn KeySource>,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) guard: Guard,
    pub(super) snapshots: ArcSwap<Snapshot>,
    pub(super) membership: Membership,
    /// Timestamps of 0, which librdkafka cannot write, raised to 1.
    pub(super) raised_timestamps: AtomicU64,
    /// Per lane, what its last transaction failed for; `None` after one that committed.
    pub(super) last_failures: Vec<Mutex<Option<String>>>,
}

impl Runtime {
    /// How many lanes there are.
    pub(super) fn lanes(&self) -> usize {
        self.last_failures.len()
    }

    /// The name of this process as a static member of its group.
    pub(super) fn static_member(&self) -> String {
        self.kafka.consumer.get("group.instance.id").cloned().unwrap_or_default()
    }

    /// Notes what a lane's transaction failed for, or that it did not.
    pub(super) fn note_failure(&self, lane: usize, failure: Option<String>) {
        if let Some(last) = self.last_failures.get(lane) {
            *last.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        }
    }

    /// What a lane's last transaction failed for.
    pub(super) fn last_failure(&self, lane: usize) -> Option<String> {
        self.last_failures.get(lane)?.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Metadata and ownership, read together on the polling thread.
#[derive(Default)]
pub(super) struct Membership(Mutex<(Option<Arc<GroupMetadata>>, HashSet<u64>)>);

impl Membership {
    /// Publishes both; only the polling thread does.
    pub(super) fn publish(
        &self,
        metadata: Option<GroupMetadata>,
        owned: impl Iterator<Item = u64>,
    ) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            (metadata.map(Arc::new), owned.collect());
    }

    /// The metadata to commit work of these assignment epochs with; `None`: some are not ours any
    /// more, or we are no member.
    pub(super) fn to_commit(
        &self,
        mut epochs: impl Iterator<Item = u64>,
    ) -> Option<Arc<GroupMetadata>> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = inner.0.as_ref().filter(|m| m.has_member())?;
        epochs.all(|e| inner.1.contains(&e)).then(|| metadata.clone())
    }
}

/// Assignments that a lane has not taken from its inbox yet. It reads nothing meanwhile: records
/// of a reading that it does not know would pass for those of an older one, and be dropped.
#[derive(Default)]
pub(super) struct Announced(Mutex<usize>);

impl Announced {
    fn count(&self) -> std::sync::MutexGuard<'_, usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces one. Waits until the lane is not reading.
    fn announce(&self) {
        *self.count() += 1;
    }

    /// The lane has taken one.
    pub(super) fn take(&self) {
        let mut count = self.count();
        *count = count.saturating_sub(1);
    }

    /// Reads, unless one is announced.
    pub(super) fn unless_any(&self, read: impl FnOnce()) {
        let count = self.count();
        if *count == 0 {
            read();
        }
    }
}

/// Sent once when the lane has done what it was asked.
pub(super) type Ack = SyncSender<usize>;

/// What the polling thread tells a lane.
pub(super) enum ToLane {
    /// These partitions come; [`LaneHandle::announce`] goes before.
    Assign(Vec<Assigned>),
    /// These epochs go: commit what they hold, then acknowledge.
    Revoke(Vec<u64>, Ack),
    /// These epochs are gone: abort what they hold, then acknowledge.
    Lose(Vec<u64>, Ack),
    /// The partition of this epoch must not be read on.
    Block(u64, Block),
    /// Where the partition of this epoch is read from now; `None`: it did not work.
    Moved(u64, Option<Position>),
    /// Commit or, after this time, abort; then end.
    Stop(Instant),
}

/// What the other threads tell the polling thread.
pub(super) enum ToPoll {
    /// Read these partitions again from these offsets.
    Rewind { lane: usize, targets: Vec<Target> },
    /// The partitions of these epochs have left their lane, which does not know how far they are
    /// committed.
    Reread(Vec<u64>),
    /// The partition of this epoch has left its lane.
    Block(u64, Block),
    /// Where partitions begin, or why not.
    Resolved(Vec<Resolved>),
    /// What leaders and brokers told of the owned partitions.
    Observed(Observed),
    /// The lane is over.
    Ended(End),
}

/// The answer to a [`Question`].
pub(super) struct Resolved {
    pub(super) question: Question,
    pub(super) resolution: Resolution,
    /// What is committed; `None`: nothing is, or it is not known.
    pub(super) committed: Option<i64>,
    /// The committed offset was lost, and reading goes on.
    pub(super) lost: Option<Lost>,
}

/// A loss that reading goes on after.
pub(super) struct Lost {
    pub(super) loss: Loss,
    /// Records that are known to be gone.
    pub(super) missed: u64,
    /// Where reading goes on.
    pub(super) goes_on: i64,
}

/// One look at the brokers.
#[derive(Default)]
pub(super) struct Observed {
    /// Where partitions begin and end.
    pub(super) ends: Vec<(TopicPartition, Ends)>,
    /// Ids of topics.
    pub(super) topic_ids: Vec<(String, Arc<str>)>,
    /// What was not answered, for operators.
    pub(super) failures: Vec<String>,
    /// Schemas or facts about topics have changed.
    pub(super) is_snapshot_new: bool,
}

/// The polling thread's handle of a lane.
pub(super) struct LaneHandle {
    pub(super) inbox: Sender<ToLane>,
    /// Set when a rebalance could not wait: the producer was fenced from outside.
    pub(super) is_overrun: Arc<AtomicBool>,
    /// Set when a partition of the lane is to be blocked.
    pub(super) is_called: Arc<AtomicBool>,
    pub(super) announced: Arc<Announced>,
    pub(super) queue: Arc<Queue>,
    pub(super) recipe: Recipe,
}

impl LaneHandle {
    /// From here on the lane reads nothing until it has taken the assignment that follows.
    pub(super) fn announce(&self) {
        self.queue.wake();
        self.announced.announce();
    }

    pub(super) fn overrun(&self) {
        self.is_overrun.store(true, Ordering::Release);
    }
}
