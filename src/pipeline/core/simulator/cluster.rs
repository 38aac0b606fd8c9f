//! The simulated cluster: logs, the group, transactions and what they committed.

mod offsets;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::config::{OnMissingOffset, OnOffsetLost};
use crate::pipeline::core::partition::{Commit, TopicPartition};
use crate::pipeline::core::start::CommittedOffset;

/// One entry of a log.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entry {
    /// A record by its number; `refused`: the broker takes its protected form in no batch.
    Record { id: usize, is_refused: bool },
    /// A control record, which no reader sees.
    Control,
}

#[derive(Debug, Default)]
pub(super) struct Partition {
    /// Which topic of the name.
    pub(super) incarnation: u32,
    pub(super) start: usize,
    pub(super) entries: Vec<Entry>,
    pub(super) leader_epoch: i32,
    /// Where leaders cut: their epoch and the first offset that is not what it was.
    cuts: Vec<(i32, usize)>,
}

/// What became of a record.
#[derive(Debug, Default, Clone, Copy)]
struct Fate {
    committed: u32,
    /// Gone from the log before it was read.
    is_gone: bool,
    /// Read before the recreation of its topic was seen: it may come twice.
    may_repeat: bool,
    /// Older than the first start at the end of the log.
    is_before_start: bool,
}

#[derive(Debug, Default)]
struct Transaction {
    outputs: Vec<usize>,
    offsets: Vec<(usize, CommittedOffset)>,
}

#[derive(Debug, Default)]
struct Producer {
    epoch: u32,
    open: Option<Transaction>,
}

/// How a request to end a transaction went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Done,
    /// The producer's epoch, or its transaction, is not the current one.
    Fenced,
    /// The group has moved on.
    Generation,
}

pub(super) struct Cluster {
    began: Instant,
    pub(super) now: Instant,
    pub(super) partitions: Vec<Partition>,
    fates: Vec<Fate>,
    committed: BTreeMap<usize, CommittedOffset>,
    owners: Vec<Option<usize>>,
    generation: u32,
    producers: BTreeMap<(usize, usize), Producer>,
    /// Commits that are still on their way.
    late: Vec<((usize, usize), u32)>,
    denied: BTreeSet<usize>,
    pub(super) has_keys: bool,
    on_missing: OnMissingOffset,
    on_lost: OnOffsetLost,
    /// Losses that were reported: partition and incarnation.
    reported: BTreeSet<(usize, u32)>,
    /// Partitions whose loss an operator was told of.
    stopped: BTreeSet<usize>,
    unreported: Vec<String>,
    aborts: usize,
    commits: usize,
    /// A failed seed that is run again alone tells what happens.
    is_told: bool,
}

impl Cluster {
    pub(super) fn tell(&self, what: std::fmt::Arguments<'_>) {
        if self.is_told {
            println!("{:>9.3} {what}", self.now.duration_since(self.began).as_secs_f64());
        }
    }

    pub(super) fn new(
        partitions: usize,
        on_missing: OnMissingOffset,
        on_lost: OnOffsetLost,
    ) -> Self {
        let now = Instant::now();
        Self {
            began: now,
            now,
            partitions: (0..partitions).map(|_| Partition::default()).collect(),
            fates: Vec::new(),
            committed: BTreeMap::new(),
            owners: vec![None; partitions],
            generation: 0,
            producers: BTreeMap::new(),
            late: Vec::new(),
            denied: BTreeSet::new(),
            has_keys: true,
            on_missing,
            on_lost,
            reported: BTreeSet::new(),
            stopped: BTreeSet::new(),
            unreported: Vec::new(),
            aborts: 0,
            commits: 0,
            is_told: std::env::var("VEILSTREAM_SIMULATE").is_ok_and(|given| given.ends_with(",1")),
        }
    }

    pub(super) fn pass(&mut self, ms: usize) {
        self.now += Duration::from_millis(ms as u64);
    }

    // ---- logs ----

    pub(super) fn append(&mut self, partition: usize, is_refused: bool) {
        let id = self.fates.len();
        self.fates.push(Fate::default());
        let log = &mut self.partitions[partition];
        log.entries.push(Entry::Record { id, is_refused });
        if id.is_multiple_of(5) {
            log.entries.push(Entry::Control);
        }
    }

    /// Retention takes `n` offsets, read or not.
    pub(super) fn expire(&mut self, partition: usize, n: usize) -> bool {
        let log = &mut self.partitions[partition];
        let until = (log.start + n).min(log.entries.len());
        let gone: Vec<usize> = (log.start..until).collect();
        log.start = until;
        self.tell(format_args!("{partition}: begins at {until}"));
        self.gone(partition, &gone) && !gone.is_empty()
    }

    /// An unclean election: the new leader lacks the last `n` offsets, and others take their place.
    pub(super) fn truncate(&mut self, partition: usize, n: usize) -> bool {
        let log = &self.partitions[partition];
        let cut = log.entries.len().saturating_sub(n).max(log.start);
        let gone: Vec<usize> = (cut..log.entries.len()).collect();
        if gone.is_empty() || !self.gone(partition, &gone) {
            return false;
        }
        let log = &mut self.partitions[partition];
        log.entries.truncate(cut);
        log.leader_epoch += 1;
        log.cuts.push((log.leader_epoch, cut));
        self.tell(format_args!("{partition}: cut at {cut}"));
        true
    }

    /// The topic is deleted and made again; the new one may be longer at once.
    pub(super) fn recreate(&mut self, partition: usize) -> bool {
        let log = &self.partitions[partition];
        let gone: Vec<usize> = (log.start..log.entries.len()).collect();
        self.gone(partition, &gone);
        let incarnation = self.partitions[partition].incarnation + 1;
        self.partitions[partition] = Partition { incarnation, ..Partition::default() };
        self.tell(format_args!("{partition}: made again"));
        for _ in 0..gone.len().min(3) {
            self.append(partition, false);
        }
        true
    }

    fn gone(&mut self, partition: usize, offsets: &[usize]) -> bool {
        for offset in offsets {
            if let Entry::Record { id, .. } = self.partitions[partition].entries[*offset] {
                self.fates[id].is_gone = true;
            }
        }
        true
    }

    /// Where a reader that read up to `position` under `epoch` no longer agrees with the log.
    pub(super) fn divergence(
        &self,
        partition: usize,
        position: usize,
        epoch: i32,
    ) -> Option<usize> {
        self.partitions[partition]
            .cuts
            .iter()
            .filter(|(of, cut)| *of > epoch && *cut < position)
            .map(|(_, cut)| *cut)
            .min()
    }

    // ---- the group ----

    pub(super) fn owned(&self, process: usize) -> Vec<usize> {
        (0..self.owners.len()).filter(|p| self.owners[*p] == Some(process)).collect()
    }

    pub(super) fn assign(&mut self, owners: &[usize]) {
        self.generation += 1;
        self.owners = owners.iter().map(|owner| Some(*owner)).collect();
    }

    pub(super) fn leave(&mut self, process: usize) {
        self.owners.iter_mut().filter(|o| **o == Some(process)).for_each(|o| *o = None);
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    // ---- transactions ----

    /// A new producer of this id: what an older one left open is aborted, and nothing of it commits
    /// any more.
    pub(super) fn fence(&mut self, id: (usize, usize)) -> u32 {
        let producer = self.producers.entry(id).or_default();
        producer.epoch += 1;
        self.aborts += usize::from(producer.open.take().is_some());
        producer.epoch
    }

    pub(super) fn begin(&mut self, id: (usize, usize), epoch: u32) -> bool {
        let producer = self.producers.entry(id).or_default();
        // Kafka knows of a transaction with its first record: a second begin goes on with the open
        // one.
        let is_current = producer.epoch == epoch;
        if is_current {
            producer.open.get_or_insert_default();
        }
        is_current
    }

    pub(super) fn produce(&mut self, id: (usize, usize), epoch: u32, record: usize) {
        if let Some(open) = self
            .producers
            .get_mut(&id)
            .filter(|p| p.epoch == epoch)
            .map(|p| p.open.get_or_insert_default())
        {
            open.outputs.push(record);
        }
    }

    pub(super) fn is_denied(&self, partition: usize) -> bool {
        self.denied.contains(&partition)
    }

    pub(super) fn send_offsets(
        &mut self,
        id: (usize, usize),
        epoch: u32,
        generation: u32,
        commits: &[Commit],
    ) -> Outcome {
        if generation != self.generation {
            return Outcome::Generation;
        }
        let Some(open) =
            self.producers.get_mut(&id).filter(|p| p.epoch == epoch).and_then(|p| p.open.as_mut())
        else {
            return Outcome::Fenced;
        };
        open.offsets = commits
            .iter()
            .map(|c| {
                (
                    number(&c.at.topic),
                    CommittedOffset { position: c.position, topic_id: c.topic_id.clone() },
                )
            })
            .collect();
        Outcome::Done
    }

    pub(super) fn commit(&mut self, id: (usize, usize), epoch: u32) -> Outcome {
        let Some(open) =
            self.producers.get_mut(&id).filter(|p| p.epoch == epoch).and_then(|p| p.open.take())
        else {
            return Outcome::Fenced;
        };
        self.commits += 1;
        for record in open.outputs {
            self.fates[record].committed += 1;
        }
        for (partition, offset) in open.offsets {
            self.tell(format_args!("{partition}: {id:?} commits {offset:?}"));
            self.committed.insert(partition, offset);
        }
        Outcome::Done
    }

    pub(super) fn abort(&mut self, id: (usize, usize), epoch: u32) {
        if let Some(producer) = self.producers.get_mut(&id).filter(|p| p.epoch == epoch) {
            self.aborts += usize::from(producer.open.take().is_some());
        }
    }

    /// A commit without an answer: it may arrive at any later time.
    pub(super) fn delay(&mut self, id: (usize, usize), epoch: u32) {
        self.late.push((id, epoch));
    }

    pub(super) fn deliver_late_frame(&mut self) {
        if let Some((id, epoch)) = self.late.pop() {
            self.commit(id, epoch);
        }
    }

    /// Records of a recreated topic that were read before anyone could know.
    pub(super) fn may_repeat(&mut self, id: usize) {
        self.fates[id].may_repeat = true;
    }

    // ---- faults ----

    pub(super) fn deny(&mut self, partition: usize) {
        self.denied.insert(partition);
    }

    pub(super) fn allow(&mut self) {
        self.denied.clear();
    }

    pub(super) fn toggle_keys(&mut self) {
        self.has_keys = !self.has_keys;
    }

    pub(super) fn heal(&mut self) {
        self.allow();
        self.has_keys = true;
        while !self.late.is_empty() {
            self.deliver_late_frame();
        }
    }

    // ---- what is promised ----

    pub(super) fn outputs(&self) -> usize {
        self.fates.iter().filter(|fate| fate.committed > 0).count()
    }

    pub(super) fn aborts(&self) -> usize {
        self.aborts
    }
}

/// Each partition stands for a topic of its own, so that one alone can be made again.
pub(super) fn at(partition: usize) -> TopicPartition {
    TopicPartition::new(format!("raw-{partition}"), 0)
}

/// The number in a topic's name.
pub(super) fn number(topic: &str) -> usize {
    topic.rsplit_once('-').unwrap().1.parse().unwrap()
}
