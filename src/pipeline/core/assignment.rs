//! The partitions this process owns: which lane reads them, from where, or why not.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::partition::{Assigned, Block, Committed, Position, TopicPartition};
use super::start::CommittedOffset;

/// The first pause before a blocked partition is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest: a cure is seen within 10 seconds, the look included.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What to do next, in this order.
#[derive(Debug)]
pub enum AssignmentAction {
    /// Find out where reading of these begins; answers [`Assignment::resolved`].
    Resolve(Vec<Question>),
    /// Fetch these from their starts and give each to the lane: all partitions that are read, where
    /// the protocol knows no other way (`whole`).
    Read {
        /// Lane and partition.
        partitions: Vec<(usize, Assigned)>,
        /// The protocol is eager: what else is fetched stays.
        whole: bool,
    },
    /// Stop fetching this partition, which has left its lane.
    Stop(TopicPartition),
    /// Take all partitions from their lanes (their work commits) and stop fetching: the eager
    /// protocol changes assignments as a whole.
    Recall(Vec<(usize, u64)>),
}

/// A partition whose start is looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Which.
    pub at: TopicPartition,
    /// Goes into the answer: one of an older question counts for nothing.
    pub epoch: u64,
    /// [`Block::diverged_at`].
    pub diverged_at: Option<i64>,
    /// How far this process read it, and of which topic: Kafka forgets what was committed for a
    /// topic that is deleted.
    pub last_read: Option<CommittedOffset>,
}

/// What was found out about a partition.
#[derive(Debug, Clone)]
pub enum Resolution {
    /// It is read from here.
    Start {
        /// The first offset.
        start: Position,
        /// Nothing needs to be committed before the first record.
        is_committed: bool,
        /// [`Assigned::is_validated`].
        is_validated: bool,
        /// The topic's id.
        topic_id: Option<Arc<str>>,
    },
    /// It cannot be read.
    Blocked(Block),
}

#[derive(Debug)]
enum StartState {
    /// Its start is being looked for.
    Resolving,
    /// Its start is known; the eager protocol waits for the others.
    Ready(Assigned),
    /// A lane has it.
    Reading { start: i64 },
    /// It waits until then.
    Blocked(Instant),
}

/// One owned partition.
#[derive(Debug)]
struct Owned {
    lane: usize,
    /// Of the reading or resolving under way.
    epoch: u64,
    state: StartState,
    /// Why it is or was blocked; stands until something of it has committed.
    block: Option<Block>,
    since: Instant,
    pause: Duration,
    committed: Arc<Committed>,
    /// Of the topic that was read last in this ownership; `None`: none was, or it has no id.
    topic_id: Option<Arc<str>>,
}

/// All owned partitions.
#[derive(Debug)]
pub struct Assignment {
    owned: BTreeMap<TopicPartition, Owned>,
    lanes: usize,
    next_epoch: u64,
    is_eager: bool,
    actions: VecDeque<AssignmentAction>,
}

/// One partition as operators see it.
#[derive(Debug)]
pub struct Observation<'a> {
    /// Which.
    pub at: &'a TopicPartition,
    /// The next offset after a restart; -1: not known yet.
    pub committed: i64,
    /// Why it is not read, and since when.
    pub block: Option<(&'a Block, Instant)>,
    /// When it came to its present state.
    pub since: Instant,
    /// A lane has it.
    pub is_read: bool,
}

impl Assignment {
    /// Nothing is owned.
    #[must_use]
    pub fn new(lanes: usize) -> Self {
        Self {
            owned: BTreeMap::new(),
            lanes: lanes.max(1),
            next_epoch: 0,
            is_eager: false,
            actions: VecDeque::new(),
        }
    }

    /// The next thing to do.
    pub fn next_action(&mut self) -> Option<AssignmentAction> {
        self.actions.pop_front()
    }

    /// The group gives partitions. `is_eager`: its protocol changes assignments as a whole.
    pub fn assigned(
        &mut self,
        partitions: impl IntoIterator<Item = TopicPartition>,
        is_eager: bool,
        now: Instant,
    ) {
        self.is_eager = is_eager;
        let mut news = Vec::new();
        for at in partitions {
            let load = |lane: &usize| {
                let of_lane = self.owned.iter().filter(|(_, o)| o.lane == *lane);
                (
                    of_lane.clone().filter(|(known, _)| known.topic == at.topic).count(),
                    of_lane.count(),
                )
            };
            let lane = (0..self.lanes).min_by_key(load).unwrap_or(0);
            let epoch = self.epoch();
            let owned = Owned {
                lane,
                epoch,
                state: StartState::Resolving,
                block: None,
                since: now,
                pause: FIRST_PAUSE,
                committed: Arc::default(),
                topic_id: None,
            };
            self.owned.insert(at.clone(), owned);
            news.push(Question { at, epoch, diverged_at: None, last_read: None });
        }
        if !news.is_empty() {
            self.actions.push_back(AssignmentAction::Resolve(news));
        }
    }

    /// The group takes partitions; `None`: all. Returns lane and epoch of those that a lane has.
    /// [`Assignment::forget`] follows.
    #[must_use]
    pub fn readings(&self, partitions: Option<&[TopicPartition]>) -> Vec<(usize, u64)> {
        let is_theirs = |at: &TopicPartition| partitions.is_none_or(|list| list.contains(at));
        self.owned
            .iter()
            .filter(|(at, o)| is_theirs(at) && matches!(o.state, StartState::Reading { .. }))
            .map(|(_, o)| (o.lane, o.epoch))
            .collect()
    }

    /// Partitions are not owned any more; `None`: all.
    pub fn forget(&mut self, partitions: Option<&[TopicPartition]>) {
        match partitions {
            None => self.owned.clear(),
            Some(list) => list.iter().for_each(|at| drop(self.owned.remove(at))),
        }
        self.read_when_whole();
    }

    /// The answer to [`AssignmentAction::Resolve`].
    pub fn resolved(
        &mut self,
        at: &TopicPartition,
        epoch: u64,
        resolution: Resolution,
        now: Instant,
    ) {
        let Some(owned) = self
            .owned
            .get_mut(at)
            .filter(|o| o.epoch == epoch && matches!(o.state, StartState::Resolving))
        else {
            return;
        };
        match resolution {
            Resolution::Start { start, is_committed, is_validated, topic_id } => {
                if let Some(block) = &mut owned.block {
                    block.diverged_at = None;
                }
                owned.state = StartState::Ready(Assigned {
                    at: at.clone(),
                    epoch,
                    start,
                    is_start_committed: is_committed,
                    is_validated,
                    is_suspect: owned.block.is_some(),
                    topic_id,
                    committed: owned.committed.clone(),
                });
            }
            Resolution::Blocked(block) => owned.wait(block, now),
        }
        self.read_when_whole();
    }

    /// Gives partitions to their lanes; in an eager group when all are ready or blocked.
    fn read_when_whole(&mut self) {
        if self.is_eager && self.owned.values().any(|o| matches!(o.state, StartState::Resolving)) {
            return;
        }
        let mut partitions = Vec::new();
        for owned in self.owned.values_mut() {
            if let StartState::Ready(assigned) = &owned.state {
                let assigned = assigned.clone();
                owned.state = StartState::Reading { start: assigned.start.offset };
                owned.topic_id.clone_from(&assigned.topic_id);
                partitions.push((owned.lane, assigned));
            }
        }
        if !partitions.is_empty() {
            self.actions.push_back(AssignmentAction::Read { partitions, whole: self.is_eager });
        }
    }

    /// The partition of this epoch has left its lane.
    pub fn blocked(&mut self, epoch: u64, block: Block, now: Instant) {
        let Some((at, owned)) = self
            .owned
            .iter_mut()
            .find(|(_, o)| o.epoch == epoch && matches!(o.state, StartState::Reading { .. }))
        else {
            return;
        };
        owned.wait(block, now);
        self.actions.push_back(AssignmentAction::Stop(at.clone()));
        self.recall();
    }

    /// The partition of this epoch has left its lane, which does not know how far it is committed.
    pub fn reread(&mut self, epoch: u64) {
        let new = self.epoch();
        let Some((at, owned)) = self
            .owned
            .iter_mut()
            .find(|(_, o)| o.epoch == epoch && matches!(o.state, StartState::Reading { .. }))
        else {
            return;
        };
        (owned.epoch, owned.state) = (new, StartState::Resolving);
        let question = owned.question(at.clone());
        self.actions.push_back(AssignmentAction::Stop(at.clone()));
        self.recall();
        self.actions.push_back(AssignmentAction::Resolve(vec![question]));
    }

    /// The eager protocol cannot take one partition out, or one in: all are resolved again.
    fn recall(&mut self) {
        if !self.is_eager {
            return;
        }
        let readings = self.readings(None);
        let mut again = Vec::new();
        for at in self.owned.keys().cloned().collect::<Vec<_>>() {
            let epoch = self.epoch();
            if let Some(owned) = self
                .owned
                .get_mut(&at)
                .filter(|o| matches!(o.state, StartState::Reading { .. } | StartState::Ready(_)))
            {
                (owned.epoch, owned.state) = (epoch, StartState::Resolving);
                again.push(owned.question(at));
            }
        }
        self.actions.push_back(AssignmentAction::Recall(readings));
        if !again.is_empty() {
            self.actions.push_back(AssignmentAction::Resolve(again));
        }
    }

    /// What time brings: blocked partitions are tried again, and those that commit again are not
    /// blocked any more.
    pub fn tick(&mut self, now: Instant) {
        for owned in self.owned.values_mut() {
            if let StartState::Reading { start } = owned.state
                && owned.block.is_some()
                && owned.committed.offset() > start
            {
                (owned.block, owned.pause, owned.since) = (None, FIRST_PAUSE, now);
            }
        }
        let due = |o: &Owned| {
            matches!(o.state, StartState::Blocked(until) if now >= until)
                && !super::mutated!(KeepBlocked)
        };
        if !self.owned.values().any(due) {
            return;
        }
        self.recall();
        let mut again = Vec::new();
        for at in self.owned.keys().cloned().collect::<Vec<_>>() {
            let epoch = self.epoch();
            if let Some(owned) = self.owned.get_mut(&at).filter(|o| due(o)) {
                (owned.epoch, owned.state) = (epoch, StartState::Resolving);
                again.push(owned.question(at));
            }
        }
        self.actions.push_back(AssignmentAction::Resolve(again));
    }

    /// Something that partitions may wait for has changed: all are tried with the next tick.
    pub fn retry_all(&mut self, now: Instant) {
        for owned in self.owned.values_mut() {
            if let StartState::Blocked(until) = &mut owned.state {
                *until = now;
            }
        }
    }

    /// The topic's id as brokers tell it now. Returns lane and epoch of partitions that were read
    /// from another topic of the name.
    #[must_use]
    pub fn recreated(&self, topic: &str, id: &str) -> Vec<(usize, u64)> {
        let is_other = |o: &Owned| {
            let is_read = matches!(o.state, StartState::Reading { .. });
            is_read
                && o.topic_id.as_deref().is_some_and(|then| then != id)
                && !super::mutated!(IgnoreTopicId)
        };
        self.owned
            .iter()
            .filter(|(at, o)| *at.topic == *topic && is_other(o))
            .map(|(_, o)| (o.lane, o.epoch))
            .collect()
    }

    /// Whether a lane has the partition in this epoch.
    #[must_use]
    pub fn is_read(&self, at: &TopicPartition, epoch: u64) -> bool {
        self.owned
            .get(at)
            .is_some_and(|o| o.epoch == epoch && matches!(o.state, StartState::Reading { .. }))
    }

    /// The partition that a lane has in this epoch.
    #[must_use]
    pub fn of_epoch(&self, epoch: u64) -> Option<&TopicPartition> {
        self.owned
            .iter()
            .find(|(_, o)| o.epoch == epoch && matches!(o.state, StartState::Reading { .. }))
            .map(|(at, _)| at)
    }

    /// What is committed of a partition whose start is looked for.
    pub fn committed(&self, at: &TopicPartition, epoch: u64, offset: i64) {
        if let Some(owned) = self
            .owned
            .get(at)
            .filter(|o| o.epoch == epoch && matches!(o.state, StartState::Resolving))
        {
            owned.committed.set(offset);
        }
    }

    /// Epochs that lanes may commit.
    pub fn epochs(&self) -> impl Iterator<Item = u64> {
        self.owned
            .values()
            .filter(|o| matches!(o.state, StartState::Reading { .. }))
            .map(|o| o.epoch)
    }

    /// The lane that has a partition.
    #[must_use]
    pub fn lane_of(&self, at: &TopicPartition) -> Option<usize> {
        self.owned.get(at).map(|o| o.lane)
    }

    /// Every owned partition.
    pub fn iter(&self) -> impl Iterator<Item = Observation<'_>> {
        self.owned.iter().map(|(at, o)| Observation {
            at,
            committed: o.committed.offset(),
            block: o.block.as_ref().map(|block| (block, o.since)),
            since: o.since,
            is_read: matches!(o.state, StartState::Reading { .. }),
        })
    }

    /// How many partitions are owned.
    #[must_use]
    pub fn len(&self) -> usize {
        self.owned.len()
    }

    /// None is owned.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.owned.is_empty()
    }

    fn epoch(&mut self) -> u64 {
        self.next_epoch += 1;
        self.next_epoch
    }
}

impl Owned {
    fn question(&self, at: TopicPartition) -> Question {
        let diverged_at = self.block.as_ref().and_then(|block| block.diverged_at);
        let last_read = self.topic_id.as_ref().map(|topic_id| CommittedOffset {
            position: Position { offset: self.committed.offset(), leader_epoch: None },
            topic_id: Some(topic_id.clone()),
        });
        Question { at, epoch: self.epoch, diverged_at, last_read }
    }

    fn wait(&mut self, mut block: Block, now: Instant) {
        match &self.block {
            None => self.since = now,
            // What a fetcher saw stands until reading goes on elsewhere.
            Some(known) => block.diverged_at = block.diverged_at.or(known.diverged_at),
        }
        self.block = Some(block);
        self.state = StartState::Blocked(now + self.pause);
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::super::partition::BlockReason;
    use super::*;

    struct Run(Assignment, Instant);

    impl Run {
        fn new(partitions: i32, is_eager: bool) -> Self {
            let mut run = Self(Assignment::new(2), Instant::now());
            run.0.assigned((0..partitions).map(|p| TopicPartition::new("t", p)), is_eager, run.1);
            run
        }

        fn resolve(&mut self) -> Vec<Question> {
            match self.0.next_action() {
                Some(AssignmentAction::Resolve(list)) => list,
                other => panic!("{other:?}"),
            }
        }

        fn start(&mut self, list: &[Question]) {
            for Question { at, epoch, .. } in list {
                let start = Position { offset: 5, leader_epoch: None };
                self.0.resolved(
                    at,
                    *epoch,
                    Resolution::Start {
                        start,
                        is_committed: true,
                        is_validated: true,
                        topic_id: Some("id".into()),
                    },
                    self.1,
                );
            }
        }

        fn read(&mut self) -> Vec<(usize, Assigned)> {
            match self.0.next_action() {
                Some(AssignmentAction::Read { partitions, .. }) => partitions,
                other => panic!("{other:?}"),
            }
        }
    }

    fn block() -> Block {
        Block::new(BlockReason::Keys, "no keys")
    }

    #[test]
    fn partitions_are_spread_over_the_lanes_and_read_where_they_begin() {
        let mut run = Run::new(4, false);
        let list = run.resolve();
        assert!(run.0.epochs().next().is_none(), "nothing may commit before it is read");
        run.start(&list);
        let read: Vec<_> = (0..4).flat_map(|_| run.read()).collect();
        assert_eq!([0, 1].map(|lane| read.iter().filter(|(l, _)| *l == lane).count()), [2, 2]);
        assert_eq!(run.0.epochs().count(), 4);
        assert!(run.0.next_action().is_none());
    }

    #[test]
    fn a_blocked_partition_is_tried_again_and_the_others_are_left_alone() {
        let mut run = Run::new(2, false);
        let list = run.resolve();
        run.start(&list);
        let read: Vec<_> = (0..2).flat_map(|_| run.read()).collect();
        run.0.blocked(read[0].1.epoch, block(), run.1);
        assert!(
            matches!(run.0.next_action(), Some(AssignmentAction::Stop(at)) if at == read[0].1.at)
        );
        run.0.tick(run.1);
        assert!(run.0.next_action().is_none(), "too early");
        for pause in [1, 2, 4, 5, 5] {
            run.1 += Duration::from_secs(pause);
            run.0.tick(run.1);
            let [Question { at, epoch, .. }] = &run.resolve()[..] else { panic!() };
            run.0.resolved(at, *epoch, Resolution::Blocked(block()), run.1);
        }
        run.1 += Duration::from_secs(5);
        run.0.tick(run.1);
        let list = run.resolve();
        run.start(&list);
        let [(_, assigned)] = &run.read()[..] else { panic!() };
        assert!(assigned.is_suspect, "its first records stand alone");
        assert!(
            run.0.iter().any(|seen| seen.block.is_some()),
            "blocked until something of it commits"
        );
        assigned.committed.set(6);
        run.0.tick(run.1);
        assert!(run.0.iter().all(|seen| seen.block.is_none()));
    }

    #[test]
    fn an_answer_of_an_older_ownership_counts_for_nothing() {
        let mut run = Run::new(1, false);
        let old = run.resolve();
        run.0.forget(None);
        run.0.assigned([TopicPartition::new("t", 0)], false, run.1);
        run.start(&old);
        let new = run.resolve();
        assert!(run.0.next_action().is_none());
        run.start(&new);
        assert_eq!(run.read().len(), 1);
        run.0.blocked(old[0].epoch, block(), run.1);
        assert!(run.0.next_action().is_none());
    }

    #[test]
    fn an_eager_group_changes_as_a_whole() {
        let mut run = Run::new(3, true);
        let list = run.resolve();
        run.start(&list[..2]);
        assert!(run.0.next_action().is_none(), "one is missing");
        let Question { at, epoch, .. } = &list[2];
        run.0.resolved(at, *epoch, Resolution::Blocked(block()), run.1);
        assert_eq!(run.read().len(), 2);
        run.1 += Duration::from_secs(1);
        run.0.tick(run.1);
        assert!(
            matches!(run.0.next_action(), Some(AssignmentAction::Recall(readings)) if readings.len() == 2)
        );
        let mut again = run.resolve();
        again.extend(run.resolve());
        assert_eq!(again.len(), 3);
        run.start(&again);
        assert_eq!(run.read().len(), 3);
    }

    #[test]
    fn another_topic_of_the_name_is_seen() {
        let mut run = Run::new(1, false);
        let list = run.resolve();
        run.start(&list);
        run.read();
        assert!(run.0.recreated("t", "id").is_empty() && run.0.recreated("other", "x").is_empty());
        assert_eq!(run.0.recreated("t", "new"), vec![(0, list[0].epoch)]);
    }
}
