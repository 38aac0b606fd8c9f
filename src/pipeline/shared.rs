//! What the polling thread and the lanes share, and what they tell each other.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;

use super::guard::Guard;
use super::{End, Options};
use crate::config;
use crate::kafka::ffi::GroupMetadata;
use crate::kafka::preflight::TopicFacts;
use crate::keys::KeySource;
use crate::registry::Registry;
use crate::status::Status;
use crate::telemetry::metrics::Metrics;

/// Everything both sides hold.
pub(super) struct Shared {
    pub(super) pipeline: config::Pipeline,
    pub(super) options: Options,
    pub(super) registry: Arc<Registry>,
    pub(super) keys: Arc<dyn KeySource>,
    pub(super) status: Arc<Status>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) guard: Guard,
    pub(super) facts: ArcSwap<HashMap<String, TopicFacts>>,
    pub(super) membership: Membership,
    /// Timestamps of 0, which librdkafka cannot write, raised to 1.
    pub(super) raised_timestamps: AtomicU64,
}

/// Metadata and ownership, read together on the polling thread.
#[derive(Default)]
pub(super) struct Membership(Mutex<(Option<Arc<GroupMetadata>>, HashSet<u64>)>);

impl Membership {
    /// Publishes both; only the polling thread does.
    pub(super) fn publish(&self, metadata: Option<GroupMetadata>, owned: impl Iterator<Item = u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (metadata.map(Arc::new), owned.collect());
    }

    /// The metadata to commit work of these assignment epochs with; `None`: some are not ours any more, or we are no member.
    pub(super) fn to_commit(&self, mut epochs: impl Iterator<Item = u64>) -> Option<Arc<GroupMetadata>> {
        let inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let metadata = inner.0.as_ref().filter(|m| m.has_member())?;
        epochs.all(|e| inner.1.contains(&e)).then(|| metadata.clone())
    }
}

/// One partition in one assignment.
#[derive(Debug, Clone)]
pub(super) struct Assigned {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    /// Unique to this assignment.
    pub(super) epoch: u64,
    /// The next offset to commit, as the lane sees it; -1: unknown. For the lag.
    pub(super) progress: Arc<AtomicI64>,
    pub(super) since: Instant,
}

/// A partition to be read from another place.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    pub(super) epoch: u64,
    pub(super) offset: i64,
}

/// Sent once when the lane has done what it was asked.
pub(super) type Ack = SyncSender<usize>;

/// What the polling thread tells a lane.
pub(super) enum ToLane {
    /// These partitions come; acknowledged before their first record is fetched.
    Assign(Vec<Assigned>, Ack),
    /// These epochs go: commit what they hold, then acknowledge.
    Revoke(Vec<u64>, Ack),
    /// These epochs are gone: abort what they hold, then acknowledge.
    Lost(Vec<u64>, Ack),
    /// Where partitions are read from now, or that it did not work.
    Moved(Result<Vec<Target>, &'static str>),
    /// The guard let this topic go; its partitions are read again.
    Released(Arc<str>),
    /// Commit or, after this time, abort; then end.
    Stop(Instant),
}

/// What a lane tells the polling thread.
pub(super) enum ToPoll {
    /// Read these partitions again from these offsets; `reread`: from the committed offsets, where there are some.
    Rewind { lane: usize, targets: Vec<Target>, reread: bool },
    /// Stop reading this partition; later go on at the offset.
    Park(Target),
    /// The lane is over.
    Ended(End),
}

/// The polling thread's handle of a lane.
pub(super) struct LaneHandle {
    pub(super) inbox: Sender<ToLane>,
    /// Set when a rebalance could not wait: the producer was fenced from outside.
    pub(super) overrun: Arc<AtomicBool>,
}

/// Reports a component unready once, and ready again once.
pub(super) struct Latch {
    component: String,
    up: bool,
}

impl Latch {
    pub(super) fn new(component: impl Into<String>) -> Self {
        Self { component: component.into(), up: false }
    }

    pub(super) fn raise(&mut self, status: &Status, reason: &str) {
        if !self.up {
            tracing::warn!(component = self.component, reason, "waiting");
        }
        self.up = true;
        status.unready(&self.component, reason);
    }

    pub(super) fn clear(&mut self, status: &Status) {
        if self.up {
            tracing::info!(component = self.component, "works again");
            self.up = false;
            status.ready(&self.component);
        }
    }
}

impl LaneHandle {
    pub(super) fn overrun(&self) {
        self.overrun.store(true, Ordering::Release);
    }
}
