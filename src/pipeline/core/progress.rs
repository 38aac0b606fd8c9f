//! Which partitions stand still although they have records.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::partition::TopicPartition;

/// Why a partition counts as standing still.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stall {
    /// Committed records wait to be read.
    Records {
        /// How many offsets.
        lag: i64,
    },
    /// Everything committed is read; records wait behind a transaction that somebody has not ended.
    OpenTransaction,
}

/// Where a partition's log begins and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// First offset that is there.
    pub start: i64,
    /// Behind the last record that read_committed readers see.
    pub stable: i64,
    /// Behind the last record.
    pub high: i64,
}

#[derive(Debug)]
struct Watched {
    committed: i64,
    ends: Ends,
    /// Since when it has had something to do and has not moved.
    waiting: Option<Instant>,
    /// Since when records have waited behind the same open transaction.
    held_back: Option<Instant>,
}

/// What is known of the owned partitions' ends.
#[derive(Debug, Default)]
pub struct Progress(BTreeMap<TopicPartition, Watched>);

impl Progress {
    /// Leaders told a partition's ends.
    pub fn ends(&mut self, at: &TopicPartition, ends: Ends, now: Instant) {
        let watched = self.0.entry(at.clone()).or_insert(Watched {
            committed: -1,
            ends,
            waiting: None,
            held_back: None,
        });
        let is_same = watched.ends.stable == ends.stable;
        watched.ends = ends;
        let is_held_back = ends.high > ends.stable && watched.committed >= ends.stable;
        watched.held_back =
            if is_held_back { watched.held_back.filter(|_| is_same).or(Some(now)) } else { None };
        watched.look(now);
    }

    /// How far a partition is committed; -1: not known yet, it waits from its first record.
    pub fn committed(&mut self, at: &TopicPartition, committed: i64, now: Instant) {
        let Some(watched) = self.0.get_mut(at) else { return };
        if watched.committed != committed {
            (watched.committed, watched.waiting) = (committed, None);
        }
        watched.look(now);
    }

    /// Forgets partitions that are not owned any more.
    pub fn retain(&mut self, is_owned: impl Fn(&TopicPartition) -> bool) {
        self.0.retain(|at, _| is_owned(at));
    }

    /// Offsets between what is committed, or the log's start where nothing is, and what can be
    /// read; `None`: not known yet.
    #[must_use]
    pub fn lag(&self, at: &TopicPartition) -> Option<i64> {
        self.0.get(at).map(Watched::lag)
    }

    /// What has stood still for so long.
    pub fn stalled(
        &self,
        stall_after: Duration,
        now: Instant,
    ) -> impl Iterator<Item = (&TopicPartition, Stall)> {
        let is_over = move |since: Option<Instant>| {
            since.is_some_and(|since| now.duration_since(since) >= stall_after)
        };
        self.0.iter().filter_map(move |(at, w)| {
            if is_over(w.waiting) {
                Some((at, Stall::Records { lag: w.lag() }))
            } else {
                is_over(w.held_back).then_some((at, Stall::OpenTransaction))
            }
        })
    }
}

impl Watched {
    fn lag(&self) -> i64 {
        (self.ends.stable - self.committed.max(self.ends.start)).max(0)
    }

    fn look(&mut self, now: Instant) {
        self.waiting = if self.lag() > 0 { self.waiting.or(Some(now)) } else { None };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn to(stable: i64, high: i64) -> Ends {
        Ends { start: 2, stable, high }
    }

    fn stalls(progress: &Progress, now: Instant) -> Vec<Stall> {
        progress.stalled(LIMIT, now).map(|(_, stall)| stall).collect()
    }

    #[test]
    fn standing_still_with_records_is_a_stall_and_moving_is_none() {
        let (at, start, mut progress) =
            (TopicPartition::new("t", 0), Instant::now(), Progress::default());
        progress.ends(&at, to(10, 10), start);
        progress.committed(&at, 4, start);
        assert_eq!(progress.lag(&at), Some(6));
        assert!(stalls(&progress, start + LIMIT / 2).is_empty());
        assert_eq!(stalls(&progress, start + LIMIT), [Stall::Records { lag: 6 }]);
        progress.committed(&at, 5, start + LIMIT);
        assert!(stalls(&progress, start + LIMIT).is_empty());
        progress.committed(&at, 10, start + LIMIT);
        assert!(stalls(&progress, start + LIMIT * 3).is_empty(), "idle is not stalled");
        progress.ends(&at, to(11, 11), start + LIMIT * 3);
        assert!(stalls(&progress, start + LIMIT * 3).is_empty(), "it has just got something to do");
        assert_eq!(stalls(&progress, start + LIMIT * 4), [Stall::Records { lag: 1 }]);
    }

    /// A partition whose start cannot even be found out.
    #[test]
    fn a_partition_that_never_begins_is_stalled() {
        let (at, start, mut progress) =
            (TopicPartition::new("t", 0), Instant::now(), Progress::default());
        progress.ends(&at, to(10, 10), start);
        progress.committed(&at, -1, start);
        assert_eq!(progress.lag(&at), Some(8), "what the log holds");
        assert_eq!(stalls(&progress, start + LIMIT), [Stall::Records { lag: 8 }]);
    }

    #[test]
    fn waiting_behind_an_open_transaction_is_said_as_that() {
        let (at, start, mut progress) =
            (TopicPartition::new("t", 0), Instant::now(), Progress::default());
        progress.ends(&at, to(10, 10), start);
        progress.committed(&at, 10, start);
        progress.ends(&at, to(10, 15), start);
        assert_eq!(stalls(&progress, start + LIMIT), [Stall::OpenTransaction]);
        progress.ends(&at, to(12, 15), start + LIMIT);
        assert!(stalls(&progress, start + LIMIT).is_empty(), "it goes on");
    }
}
