//! Whose fault an aborted transaction was.

use super::{Lane, LaneAction};
use crate::kafka::error::{Fault, Obstacle};
use crate::pipeline::core::partition::{Block, BlockReason};

impl Lane {
    /// A transaction is aborted because of [`Lane::failure`]: finds out whose fault it was.
    pub(super) fn blame(&mut self) {
        let held: Vec<usize> =
            (0..self.partitions.len()).filter(|i| self.partitions[*i].is_dirty()).collect();
        match self.failure {
            Some(Fault::Refused) if self.held.records == 1 => {
                let Some((at, offset)) = self.held.first.clone() else { return };
                let times = self.condemned.entry((at.clone(), offset)).or_default();
                *times += 1;
                // Refused as it was, then whole as a dead letter, then as a stub.
                if *times <= 2 {
                    self.actions.push_back(LaneAction::Condemn(at, offset));
                } else {
                    let text = format!(
                        "the dead-letter topic refuses the dead letter of offset {offset}: look at \
                        its max.message.bytes"
                    );
                    self.leave(&held, &Block::new(BlockReason::RecordRefused, text));
                }
            }
            Some(Fault::Refused) => {
                let (limit, is_alone) = (self.held.records / 2, held.len() == 1);
                for i in held {
                    let partition = &self.partitions[i];
                    self.suspects.add(
                        &partition.assigned.at,
                        partition.next.offset,
                        limit,
                        is_alone,
                    );
                }
            }
            Some(Fault::Blocked(obstacle)) => {
                let is_of_topic =
                    matches!(obstacle, Obstacle::TopicDenied | Obstacle::TopicMissing);
                if is_of_topic && held.len() > 1 {
                    for i in held {
                        let partition = &self.partitions[i];
                        self.suspects.add(
                            &partition.assigned.at,
                            partition.next.offset,
                            usize::MAX,
                            false,
                        );
                    }
                } else {
                    let reason = if obstacle.is_authorization() {
                        BlockReason::NotAuthorized
                    } else {
                        BlockReason::SanitizedTopic
                    };
                    self.leave(&held, &Block::new(reason, obstacle.remedy()));
                }
            }
            Some(_) => self.actions.push_back(LaneAction::BackOff),
            None => {}
        }
    }
}
