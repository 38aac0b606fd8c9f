//! Where reading of a partition begins, decided from what is committed and what the log holds.

use std::sync::Arc;

use super::partition::{Block, BlockReason, Position};
use crate::config::{OnMissingOffset, OnOffsetLost};

/// What a group committed for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to be read.
    pub position: Position,
    /// The topic's id when it was committed; `None`: not told.
    pub topic_id: Option<Arc<str>>,
}

/// What the brokers say of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLog {
    /// The topic's id; `None` where brokers tell none.
    pub topic_id: Option<Arc<str>>,
    /// First offset that is there.
    pub start: i64,
    /// Offset behind the last committed record.
    pub stable_end: i64,
    /// Offset behind the last record.
    pub end: i64,
    /// The leader's epoch; `None`: not told.
    pub leader_epoch: Option<i32>,
}

/// How an offset was lost: the label `reason` of `veilstream_records_missed_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Loss {
    /// Retention or a deletion passed it.
    Retention,
    /// The log ends below it.
    Truncation,
    /// The topic was deleted and made again.
    Recreated,
    /// The group's offsets are gone, though the sanitized partition holds records.
    Expired,
}

impl Loss {
    /// Every way.
    pub const ALL: [Self; 4] = [Self::Retention, Self::Truncation, Self::Recreated, Self::Expired];

    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retention => "retention",
            Self::Truncation => "truncation",
            Self::Recreated => "recreated",
            Self::Expired => "expired",
        }
    }
}

/// What else the decision rests on.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The group has committed offsets of other partitions of the topic: this one was added later.
    pub is_later: bool,
    /// The sanitized partition, which nothing else is written to, holds records.
    pub has_output: bool,
    /// From here on the log is not the one that was read, by its leader epochs; `None`: nothing is
    /// known to differ.
    pub diverged_at: Option<i64>,
    /// See [`OnMissingOffset`].
    pub on_missing: OnMissingOffset,
    /// See [`OnOffsetLost`].
    pub on_lost: OnOffsetLost,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// At the committed offset.
    Committed(Position),
    /// Here for the first time; the offset is to be committed.
    First(Position),
    /// Here, because the committed offset was lost; the offset is to be committed. `missed`:
    /// records that are known to be gone.
    Lost(Position, Loss, u64),
    /// Not at all.
    Blocked(Block),
}

/// Decides. The same facts lead to the same place, in every process.
#[must_use]
pub fn decide(
    committed: Option<&CommittedOffset>,
    log: &PartitionLog,
    circumstances: Circumstances,
) -> Start {
    // With the epoch, a truncation below this place will be seen although no record stands behind
    // it.
    let at = |offset| Position { offset, leader_epoch: log.leader_epoch };
    let Some(committed) = committed else {
        return match circumstances.on_missing {
            _ if circumstances.has_output => lost(Loss::Expired, log, None, circumstances),
            _ if circumstances.is_later => Start::First(at(log.start)),
            OnMissingOffset::Earliest => Start::First(at(log.start)),
            OnMissingOffset::Latest => Start::First(at(log.stable_end)),
            OnMissingOffset::Fail => {
                let text = "nothing is committed and kafka.on_missing_offset is fail: stop the \
                    group and choose with `veilstream offsets accept`";
                Start::Blocked(Block::new(BlockReason::MissingOffset, text))
            }
        };
    };
    let offset = committed.position.offset;
    let loss = match (&committed.topic_id, &log.topic_id) {
        (Some(then), Some(now)) if then != now && !super::mutated!(IgnoreTopicId) => {
            Some(Loss::Recreated)
        }
        _ if offset < log.start => Some(Loss::Retention),
        _ if offset > log.end || circumstances.diverged_at.is_some_and(|at| at < offset) => {
            Some(Loss::Truncation)
        }
        _ => None,
    };
    match loss {
        None => Start::Committed(committed.position),
        Some(loss) => lost(loss, log, Some(offset), circumstances),
    }
}

fn lost(
    loss: Loss,
    log: &PartitionLog,
    committed: Option<i64>,
    circumstances: Circumstances,
) -> Start {
    let missed = match (loss, committed) {
        (Loss::Retention, Some(offset)) => u64::try_from(log.start - offset).unwrap_or(0),
        _ => 0,
    };
    // A truncated log is read on from where it was cut: what stands there now was never read.
    let cut = circumstances.diverged_at.unwrap_or(log.end).clamp(log.start, log.end);
    let offset = if loss == Loss::Truncation { cut } else { log.start };
    let place = Position { offset, leader_epoch: log.leader_epoch };
    if circumstances.on_lost == OnOffsetLost::Continue || super::mutated!(SilentReset) {
        return Start::Lost(place, loss, missed);
    }
    let what = match (loss, committed) {
        (Loss::Retention, Some(offset)) => format!(
            "offset {offset} is committed, and the log begins at {}: {missed} records are gone",
            log.start
        ),
        (Loss::Truncation, Some(offset)) => {
            format!("offset {offset} is committed, and the log was truncated at {cut}")
        }
        (Loss::Recreated, Some(offset)) => format!(
            "offset {offset} is committed for another topic of this name: it was deleted and \
            created again"
        ),
        _ => "the group's committed offsets are gone, and the sanitized partition holds records"
            .to_owned(),
    };
    let reason =
        if loss == Loss::Recreated { BlockReason::TopicRecreated } else { BlockReason::OffsetLost };
    let text = format!(
        "{what}; choose where to go on: stop the group, then `veilstream offsets accept \
        TOPIC:PARTITION --at earliest|OFFSET`"
    );
    Start::Blocked(Block::new(reason, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STOP: Circumstances = Circumstances {
        is_later: false,
        has_output: false,
        diverged_at: None,
        on_missing: OnMissingOffset::Earliest,
        on_lost: OnOffsetLost::Stop,
    };

    fn log(start: i64, stable_end: i64, end: i64) -> PartitionLog {
        PartitionLog { topic_id: Some("now".into()), start, stable_end, end, leader_epoch: Some(4) }
    }

    fn committed(offset: i64, topic_id: Option<&str>) -> CommittedOffset {
        CommittedOffset {
            position: Position { offset, leader_epoch: Some(3) },
            topic_id: topic_id.map(Into::into),
        }
    }

    fn first(offset: i64) -> Start {
        Start::First(Position { offset, leader_epoch: Some(4) })
    }

    #[test]
    fn a_first_start_is_chosen() {
        let with = |on_missing| Circumstances { on_missing, ..STOP };
        assert_eq!(decide(None, &log(5, 8, 9), with(OnMissingOffset::Earliest)), first(5));
        assert_eq!(decide(None, &log(5, 8, 9), with(OnMissingOffset::Latest)), first(8));
        let Start::Blocked(block) = decide(None, &log(5, 8, 9), with(OnMissingOffset::Fail)) else {
            panic!()
        };
        assert_eq!(block.reason, BlockReason::MissingOffset);
        let later = Circumstances { is_later: true, on_missing: OnMissingOffset::Latest, ..STOP };
        assert_eq!(
            decide(None, &log(5, 8, 9), later),
            first(5),
            "a partition that was added is read from its beginning"
        );
    }

    #[test]
    fn offsets_that_are_gone_are_no_first_start() {
        let Start::Blocked(block) =
            decide(None, &log(0, 8, 9), Circumstances { has_output: true, ..STOP })
        else {
            panic!()
        };
        assert_eq!(block.reason, BlockReason::OffsetLost);
    }

    #[test]
    fn a_committed_offset_within_the_log_is_taken() {
        for offset in [5, 7, 9] {
            let known = committed(offset, Some("now"));
            assert_eq!(decide(Some(&known), &log(5, 8, 9), STOP), Start::Committed(known.position));
            assert_eq!(
                decide(Some(&committed(offset, None)), &log(5, 8, 9), STOP),
                Start::Committed(known.position),
                "trusted once"
            );
        }
    }

    #[test]
    fn a_lost_offset_stops_or_is_counted() {
        let on = |on_lost| Circumstances { on_lost, ..STOP };
        for (known, loss, missed, goes_on, words) in [
            (committed(2, Some("now")), Loss::Retention, 3, 5, "3 records are gone"),
            (committed(12, Some("now")), Loss::Truncation, 0, 9, "was truncated"),
            (committed(7, Some("then")), Loss::Recreated, 0, 5, "deleted and created again"),
        ] {
            let Start::Blocked(block) = decide(Some(&known), &log(5, 8, 9), on(OnOffsetLost::Stop))
            else {
                panic!("{loss:?}")
            };
            assert!(
                block.text.contains(words) && block.text.contains("offsets accept"),
                "{}",
                block.text
            );
            let expected =
                Start::Lost(Position { offset: goes_on, leader_epoch: Some(4) }, loss, missed);
            assert_eq!(decide(Some(&known), &log(5, 8, 9), on(OnOffsetLost::Continue)), expected);
        }
        let diverged = Circumstances { diverged_at: Some(6), ..on(OnOffsetLost::Continue) };
        let expected =
            Start::Lost(Position { offset: 6, leader_epoch: Some(4) }, Loss::Truncation, 0);
        assert_eq!(decide(Some(&committed(7, Some("now"))), &log(5, 8, 9), diverged), expected);
    }
}
