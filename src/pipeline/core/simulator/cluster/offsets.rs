//! Where reading begins: what the brokers would answer, and an operator who accepts losses.

use std::sync::Arc;

use super::{Cluster, Entry};
use crate::config::OnOffsetLost;
use crate::pipeline::core::assignment::Resolution;
use crate::pipeline::core::partition::{Block, BlockReason, Position};
use crate::pipeline::core::start::{
    Circumstances, CommittedOffset, Loss, PartitionLog, Start, decide,
};

impl Cluster {
    /// The partition's start, with what both sides would ask the brokers for.
    pub(in crate::pipeline::core::simulator) fn resolve(
        &mut self,
        partition: usize,
        diverged_at: Option<i64>,
    ) -> Resolution {
        if self
            .producers
            .values()
            .filter_map(|p| p.open.as_ref())
            .any(|t| t.offsets.iter().any(|(p, _)| *p == partition))
        {
            return Resolution::Blocked(Block::new(
                BlockReason::OffsetsUnreadable,
                "an open transaction",
            ));
        }
        if self.is_denied(partition) {
            return Resolution::Blocked(Block::new(BlockReason::NotAuthorized, "denied"));
        }
        let (log, committed) = (&self.partitions[partition], self.committed.get(&partition));
        let end = i64::try_from(log.entries.len()).unwrap();
        let facts = PartitionLog {
            topic_id: Some(self.topic_id(partition)),
            start: i64::try_from(log.start).unwrap(),
            stable_end: end,
            end,
            leader_epoch: Some(log.leader_epoch),
        };
        // A client that is given an epoch validates it before it fetches.
        let validated = committed.and_then(|c| {
            let offset = usize::try_from(c.position.offset).unwrap();
            self.divergence(partition, offset, c.position.leader_epoch?).map(|at| at as i64)
        });
        let circumstances = Circumstances {
            is_later: false,
            has_output: false,
            diverged_at: diverged_at.or(validated),
            on_missing: self.on_missing,
            on_lost: self.on_lost,
        };
        // What the decision may say must have been said, or records would go in silence.
        let is_lost = committed.is_some_and(|c| {
            c.position.offset < facts.start
                || c.position.offset > end
                || circumstances.diverged_at.is_some_and(|at| at < c.position.offset)
                || c.topic_id != facts.topic_id
        });
        let start = decide(committed, &facts, circumstances);
        self.tell(format_args!("{partition}: {committed:?} in {facts:?} becomes {start:?}"));
        let topic_id = facts.topic_id.clone();
        let incarnation = log.incarnation;
        match start {
            Start::Committed(start) => {
                if is_lost {
                    self.unreported.push(format!("partition {partition}: a lost offset was taken"));
                }
                Resolution::Start { start, is_committed: true, is_validated: true, topic_id }
            }
            Start::First(start) => {
                // What stands before the place that was chosen is not this group's.
                for entry in
                    &self.partitions[partition].entries[..usize::try_from(start.offset).unwrap()]
                {
                    if let Entry::Record { id, .. } = entry {
                        self.fates[*id].is_before_start = true;
                    }
                }
                Resolution::Start { start, is_committed: false, is_validated: true, topic_id }
            }
            Start::Lost(start, loss, missed) => {
                if self.on_lost == OnOffsetLost::Stop {
                    self.unreported.push(format!(
                        "partition {partition}: {loss:?} went on against the policy"
                    ));
                }
                assert!(loss != Loss::Retention || missed > 0);
                self.reported.insert((partition, incarnation));
                Resolution::Start { start, is_committed: false, is_validated: true, topic_id }
            }
            Start::Blocked(block) => {
                self.stopped.insert(partition);
                Resolution::Blocked(block)
            }
        }
    }

    pub(in crate::pipeline::core::simulator) fn topic_id(&self, partition: usize) -> Arc<str> {
        format!("{partition}-{}", self.partitions[partition].incarnation).into()
    }

    /// An operator accepts what was lost: reading goes on where the log begins, or where it was
    /// cut.
    pub(in crate::pipeline::core::simulator) fn accept_losses(&mut self) {
        for partition in std::mem::take(&mut self.stopped) {
            let log = &self.partitions[partition];
            let Some(committed) = self.committed.get(&partition) else { continue };
            let (start, end) =
                (i64::try_from(log.start).unwrap(), i64::try_from(log.entries.len()).unwrap());
            let offset = committed.position.offset;
            let is_other =
                committed.topic_id.as_ref().is_some_and(|id| *id != self.topic_id(partition));
            let cut = committed.position.leader_epoch.and_then(|epoch| {
                self.divergence(partition, usize::try_from(offset).unwrap(), epoch)
            });
            let at = match cut {
                _ if is_other => start,
                _ if offset < start => start,
                Some(cut) => i64::try_from(cut).unwrap().clamp(start, end),
                None if offset > end => end,
                None => continue,
            };
            let (incarnation, leader_epoch) = (log.incarnation, Some(log.leader_epoch));
            let topic_id = Some(self.topic_id(partition));
            self.reported.insert((partition, incarnation));
            self.tell(format_args!("{partition}: an operator accepts {at}"));
            self.committed.insert(
                partition,
                CommittedOffset { position: Position { offset: at, leader_epoch }, topic_id },
            );
        }
    }
}
