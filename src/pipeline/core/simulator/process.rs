//! A simulated process: the shells of the polling thread and the lanes, over the simulated cluster.

mod worker;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::cluster::{Cluster, Entry, at, number};
use super::random::Random;
use crate::pipeline::core::assignment::{Assignment, AssignmentAction as Step, Question};
use crate::pipeline::core::lane::{Lane, LaneEvent};
use crate::pipeline::core::partition::{Block, BlockReason, Position, Target, TopicPartition};
use worker::{Surroundings, ToLane, Worker};

const LANES: usize = 2;
const BATCH: usize = 4;

/// A partition as the client fetches it.
struct Fetched {
    lane: usize,
    position: usize,
    leader_epoch: i32,
    incarnation: u32,
    /// Records of an older version are dropped where they are read.
    version: u64,
    has_failed: bool,
}

#[derive(Debug, Clone)]
enum Kind {
    Record {
        id: usize,
        is_refused: bool,
        leader_epoch: i32,
    },
    Control,
    /// An error event; where the log was cut, if that is known.
    Error(Option<i64>),
}

#[derive(Debug, Clone)]
struct Op {
    partition: usize,
    version: u64,
    offset: usize,
    kind: Kind,
}

enum ToPoll {
    Rewind(usize, Vec<Target>),
    Reread(Vec<u64>),
    Block(u64, Block),
}

pub(super) struct Process {
    number: usize,
    assignment: Assignment,
    workers: Vec<Worker>,
    fetched: BTreeMap<usize, Fetched>,
    next_version: u64,
    positions: BTreeMap<usize, usize>,
    requests: VecDeque<ToPoll>,
    resolving: Vec<Question>,
    /// Generation and epochs, read together on the polling thread.
    membership: (u32, BTreeSet<u64>),
    next_ticket: u64,
    blocks: usize,
}

impl Process {
    /// Fences its producers before it joins the group.
    pub(super) fn start(number: usize, cluster: &mut Cluster) -> Self {
        let worker = |lane| {
            let id = (number, lane);
            Worker {
                id,
                core: Lane::new(Duration::from_secs(30), cluster.now),
                producer: Some(cluster.fence(id)),
                queue: VecDeque::new(),
                batches: VecDeque::new(),
                number: 0,
                inbox: VecDeque::new(),
                announced: 0,
                answered: BTreeSet::new(),
                is_overrun: false,
                pause: 0,
                poison: None,
            }
        };
        Self {
            number,
            assignment: Assignment::new(LANES),
            workers: (0..LANES).map(worker).collect(),
            fetched: BTreeMap::new(),
            next_version: 0,
            positions: BTreeMap::new(),
            requests: VecDeque::new(),
            resolving: Vec::new(),
            membership: (0, BTreeSet::new()),
            next_ticket: 0,
            blocks: 0,
        }
    }

    pub(super) fn take_blocks(&mut self) -> usize {
        std::mem::take(&mut self.blocks)
    }

    fn publish(&mut self, cluster: &Cluster) {
        self.membership = (cluster.generation(), self.assignment.epochs().collect());
    }

    // ---- rebalances ----

    pub(super) fn assigned(&mut self, partitions: &[usize], cluster: &mut Cluster) {
        self.assignment.assigned(partitions.iter().map(|p| at(*p)), false, cluster.now);
        self.publish(cluster);
        self.act(cluster);
    }

    /// Returns when nothing of the partitions can commit any more.
    pub(super) fn revoked(&mut self, gone: &[usize], cluster: &mut Cluster, random: &mut Random) {
        let list: Vec<TopicPartition> = gone.iter().map(|p| at(*p)).collect();
        let readings = self.assignment.readings(Some(&list));
        self.tell(&readings, LaneEvent::Revoked, cluster, random);
        self.assignment.forget(Some(&list));
        gone.iter().for_each(|p| self.stop(*p));
        self.publish(cluster);
    }

    pub(super) fn lost(&mut self, cluster: &mut Cluster, random: &mut Random) {
        let readings = self.assignment.readings(None);
        self.assignment.forget(None);
        self.publish(cluster);
        self.tell(&readings, LaneEvent::Lost, cluster, random);
        let all: Vec<usize> = self.fetched.keys().copied().collect();
        all.into_iter().for_each(|p| self.stop(p));
    }

    fn tell(
        &mut self,
        readings: &[(usize, u64)],
        event: fn(Vec<u64>, u64) -> LaneEvent,
        cluster: &mut Cluster,
        random: &mut Random,
    ) {
        for lane in 0..LANES {
            let epochs: Vec<u64> =
                readings.iter().filter(|(l, _)| *l == lane).map(|(_, epoch)| *epoch).collect();
            if epochs.is_empty() {
                continue;
            }
            self.next_ticket += 1;
            let ticket = self.next_ticket;
            self.workers[lane].inbox.push_back(ToLane::Event(event(epochs, ticket)));
            // A lane that is inside a call does not look at its inbox in time.
            if !random.one_in(6) {
                self.with_worker(lane, cluster, random, true, Worker::look);
            }
            if !self.workers[lane].answered.remove(&ticket) {
                self.workers[lane].is_overrun = true;
                cluster.fence(self.workers[lane].id);
            }
        }
    }

    fn stop(&mut self, partition: usize) {
        self.fetched.remove(&partition);
        self.positions.remove(&partition);
    }

    // ---- the polling thread ----

    pub(super) fn poll(&mut self, cluster: &mut Cluster, random: &mut Random, has_faults: bool) {
        self.publish(cluster);
        while let Some(request) = self.requests.pop_front() {
            match request {
                ToPoll::Block(epoch, block) => {
                    self.blocks += 1;
                    self.assignment.blocked(epoch, block, cluster.now);
                }
                ToPoll::Rewind(lane, targets) => {
                    self.rewind(lane, targets, cluster, random, has_faults)
                }
                ToPoll::Reread(epochs) => {
                    epochs.into_iter().for_each(|epoch| self.assignment.reread(epoch))
                }
            }
        }
        self.look_at_topics(cluster, random);
        self.assignment.tick(cluster.now);
        self.act(cluster);
        for question in std::mem::take(&mut self.resolving) {
            if random.one_in(3) {
                self.resolving.push(question);
                continue;
            }
            let resolution = cluster.resolve(number(&question.at.topic), question.diverged_at);
            self.assignment.resolved(&question.at, question.epoch, resolution, cluster.now);
        }
        self.act(cluster);
        self.publish(cluster);
    }

    fn look_at_topics(&mut self, cluster: &mut Cluster, random: &mut Random) {
        for p in cluster.owned(self.number) {
            for (lane, epoch) in self.assignment.recreated(&at(p).topic, &cluster.topic_id(p)) {
                self.next_ticket += 1;
                let lost = LaneEvent::Lost(vec![epoch], self.next_ticket);
                self.workers[lane].inbox.push_back(ToLane::Event(lost));
                self.assignment.blocked(
                    epoch,
                    Block::new(BlockReason::TopicRecreated, "recreated"),
                    cluster.now,
                );
                self.publish(cluster);
                self.with_worker(lane, cluster, random, true, Worker::look);
            }
        }
    }

    fn rewind(
        &mut self,
        lane: usize,
        targets: Vec<Target>,
        cluster: &mut Cluster,
        random: &mut Random,
        has_faults: bool,
    ) {
        for target in targets {
            if !self.assignment.is_read(&target.at, target.epoch) {
                continue;
            }
            let p = number(&target.at.topic);
            let place = Some(target.position).filter(|_| !(has_faults && random.one_in(10)));
            if let Some(place) = place {
                self.fetch_from(p, lane, place, cluster);
            }
            self.workers[lane].inbox.push_back(ToLane::Moved(target.epoch, place));
        }
    }

    fn fetch_from(&mut self, partition: usize, lane: usize, place: Position, cluster: &Cluster) {
        self.next_version += 1;
        let log = &cluster.partitions[partition];
        let fetched = Fetched {
            lane,
            position: usize::try_from(place.offset).unwrap(),
            leader_epoch: place.leader_epoch.unwrap_or(log.leader_epoch),
            incarnation: log.incarnation,
            version: self.next_version,
            has_failed: false,
        };
        self.fetched.insert(partition, fetched);
        self.positions.remove(&partition);
    }

    fn act(&mut self, cluster: &mut Cluster) {
        while let Some(step) = self.assignment.next_action() {
            match step {
                Step::Resolve(list) => self.resolving.extend(list),
                Step::Read { partitions, .. } => {
                    for (lane, assigned) in partitions {
                        self.fetch_from(number(&assigned.at.topic), lane, assigned.start, cluster);
                        self.workers[lane].announced += 1;
                        self.workers[lane].inbox.push_back(ToLane::Assign(assigned));
                    }
                }
                Step::Stop(at) => self.stop(number(&at.topic)),
                Step::Recall(_) => unreachable!("this group is cooperative"),
            }
        }
    }

    // ---- fetchers ----

    pub(super) fn fetch(&mut self, cluster: &mut Cluster, random: &mut Random) {
        let known: Vec<usize> = self.fetched.keys().copied().collect();
        let Some(p) = known.get(random.below(known.len())).copied() else { return };
        let fetched = self.fetched.get_mut(&p).unwrap();
        if fetched.has_failed {
            return;
        }
        let queue = &mut self.workers[fetched.lane].queue;
        let mut push = |offset, kind| {
            queue.push_back(Op { partition: p, version: fetched.version, offset, kind })
        };
        let log = &cluster.partitions[p];
        if fetched.position < log.start || fetched.position > log.entries.len() {
            fetched.has_failed = true;
            return push(fetched.position, Kind::Error(None));
        }
        if let Some(cut) = cluster
            .divergence(p, fetched.position, fetched.leader_epoch)
            .filter(|_| fetched.incarnation == log.incarnation)
        {
            fetched.has_failed = true;
            return push(fetched.position, Kind::Error(Some(i64::try_from(cut).unwrap())));
        }
        if random.one_in(60) {
            // A permission taken away for a moment: fetching goes on afterwards.
            return push(fetched.position, Kind::Error(None));
        }
        let is_other = fetched.incarnation != log.incarnation;
        let until = (fetched.position + random.below(5)).min(log.entries.len());
        let mut unnoticed = Vec::new();
        for offset in fetched.position..until {
            match log.entries[offset] {
                Entry::Record { id, is_refused } => {
                    unnoticed.push(id);
                    push(offset, Kind::Record { id, is_refused, leader_epoch: log.leader_epoch });
                }
                Entry::Control => push(offset, Kind::Control),
            }
        }
        (fetched.position, fetched.leader_epoch) = (until, log.leader_epoch);
        if is_other {
            unnoticed.into_iter().for_each(|id| cluster.may_repeat(id));
        }
    }

    // ---- lanes ----

    pub(super) fn work(&mut self, cluster: &mut Cluster, random: &mut Random, has_faults: bool) {
        let lane = random.below(LANES);
        self.with_worker(lane, cluster, random, has_faults, Worker::turn);
    }

    fn with_worker(
        &mut self,
        lane: usize,
        cluster: &mut Cluster,
        random: &mut Random,
        has_faults: bool,
        run: fn(&mut Worker, &mut Surroundings<'_>),
    ) {
        let mut around = Surroundings {
            cluster,
            random,
            membership: &self.membership,
            requests: &mut self.requests,
            positions: &mut self.positions,
            fetched: &self.fetched,
            has_faults,
        };
        run(&mut self.workers[lane], &mut around);
    }
}
