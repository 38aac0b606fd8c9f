//! The lane's producer: how a transaction ends, and when a new producer takes over.

use std::time::{Duration, Instant};

use rdkafka::{Offset, TopicPartitionList};

use super::LaneThread;
use crate::kafka::error::Fault;
use crate::kafka::ffi;
use crate::pipeline::End;
use crate::pipeline::core::lane::{Ended, LaneEvent};
use crate::pipeline::core::partition::Commit;
use crate::pipeline::offsets;
use crate::telemetry::events::{Event as _, ProducerRecycled, TransactionCommitted};

/// One try to fence the producers before a new one.
const FENCE: Duration = Duration::from_secs(5);

impl LaneThread {
    pub(super) fn commit(&mut self, commits: &[Commit]) -> Ended {
        let Some(group) = self.runtime.membership.to_commit(commits.iter().map(|c| c.epoch)) else {
            return Ended::NotOwned;
        };
        let (Some(offsets), Some(producer)) = (offsets_of(commits), &self.producer) else {
            return Ended::Failed(Fault::OutcomeUnknown);
        };
        match producer.commit(offsets, group) {
            Ok(tainted) => Ended::Done { tainted: tainted && self.runtime.options.recycle_tainted },
            Err(error) => {
                tracing::info!(lane = self.number, code = %error, fatal = error.fatal, abortable = error.abortable, "commit failed");
                if producer.is_hung() {
                    tracing::warn!(
                        lane = self.number,
                        "the group coordinator does not take the offsets; going on with a new \
                        producer"
                    );
                    return Ended::Failed(Fault::OutcomeUnknown);
                }
                // The record that was not delivered says more than the transaction that failed for
                // it.
                Ended::Failed(
                    producer
                        .delivery_fault()
                        .filter(|f| *f == Fault::Refused)
                        .unwrap_or_else(|| error.fault()),
                )
            }
        }
    }

    /// The transaction is committed.
    pub(super) fn settle(&mut self, spent: Option<&'static str>) {
        let transaction = &self.path.transaction;
        let since = |at: Option<Instant>| at.map_or(0.0, |at| at.elapsed().as_secs_f64());
        TransactionCommitted {
            lane: self.number,
            records: transaction.records,
            dead_letters: transaction.dead_letters,
            seconds: since(transaction.begun),
            commit_seconds: since(transaction.flushed),
        }
        .emit(&self.runtime.metrics);
        self.path.committed();
        self.backoff.worked();
        self.runtime.note_failure(self.number, None);
        if let Some(reason) = spent {
            self.drop_producer(reason);
        }
    }

    pub(super) fn abort(&self) -> Result<Option<&'static str>, Fault> {
        let producer = self.producer.as_ref().ok_or(Fault::OutcomeUnknown)?;
        let is_refused = self.core.failure() == Some(Fault::Refused);
        match producer.abort() {
            Ok(true) if self.runtime.options.recycle_tainted => Ok(Some("unanswered_request")),
            // Sequence numbers that a refused batch left with a gap.
            Ok(_) => Ok(is_refused.then_some("refused_record")),
            Err(error) => Err(error.fault()),
        }
    }

    pub(super) fn drop_producer(&mut self, reason: &'static str) {
        self.runtime.note_failure(self.number, Some(reason.to_owned()));
        if let Some(producer) = self.producer.take() {
            let reason = if producer.is_hung() { "unanswered_call" } else { reason };
            if reason != "rebalance_overrun" {
                // That one was counted by the polling thread.
                ProducerRecycled { lane: self.number, reason }.emit(&self.runtime.metrics);
            }
        }
        self.path.forget_topics();
    }

    pub(super) fn recycle(&mut self) {
        if self.stop.is_some() {
            // Nothing of the old producer commits unless it already has; the next start finds out.
            self.ended.get_or_insert(End::Stopped);
            return;
        }
        self.recipe.set_limits(
            self.runtime.snapshots.load().limits(&self.runtime.pipeline.dead_letter_topic),
        );
        let made = self
            .recipe
            .create()
            .map(|producer| producer.init_transactions(FENCE).map(|()| producer));
        let (fault, why) = match made {
            Ok(Ok(producer)) => {
                self.producer = Some(producer);
                self.path.forget_topics();
                if self.without_producer.take().is_some() {
                    tracing::info!(lane = self.number, "the lane has a producer again");
                    self.runtime.status.ready(&self.component());
                    self.runtime.note_failure(self.number, None);
                }
                return self.drive(LaneEvent::Recycled(Ok(())));
            }
            Ok(Err(error)) => {
                (error.fault(), format!("{}: {} ({error})", self.recipe.id(), error.init_remedy()))
            }
            Err(error) => (Fault::OutcomeUnknown, format!("{}: {error}", self.recipe.id())),
        };
        self.drive(LaneEvent::Recycled(Err(fault)));
        if self.without_producer.as_ref() == Some(&why) {
            tracing::info!(lane = self.number, "still no producer: {why}");
        } else {
            tracing::warn!(lane = self.number, "no producer: {why}");
            self.runtime.status.unready(&self.component(), &*why);
        }
        // Partitions of the lane that do not move say so too.
        self.runtime.note_failure(self.number, Some(why.clone()));
        self.without_producer = Some(why);
    }

    fn component(&self) -> String {
        format!("producer (lane {})", self.number)
    }
}

/// Offsets as they are sent: with leader epoch and topic id.
fn offsets_of(commits: &[Commit]) -> Option<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(commits.len());
    for commit in commits {
        let (topic, partition) = (&commit.at.topic, commit.at.partition);
        list.add_partition_offset(topic, partition, Offset::Offset(commit.position.offset)).ok()?;
        if let Some(mut element) = list.find_partition(topic, partition) {
            element.set_metadata(offsets::metadata(commit.topic_id.as_deref()));
        }
        if let Some(epoch) = commit.position.leader_epoch {
            ffi::set_leader_epoch(&mut list, topic, partition, epoch);
        }
    }
    Some(list)
}
