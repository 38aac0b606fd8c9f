//! The pipeline's decisions, without Kafka: events in, actions out, time as an argument.
//!
//! [`assignment`] says of each partition this process owns whether it is read, where from, or why
//! not. [`lane`] says what one lane does with its partitions and its transaction ([`machine`]).
//! [`start`] says where reading begins; [`progress`] says which partitions stand still. The shells
//! around them (`poll.rs`, `lane.rs`) do what they are told and report back; the simulator drives
//! all of them against a simulated cluster.

pub mod assignment;
pub mod lane;
pub mod machine;
pub mod partition;
pub mod progress;
#[cfg(test)]
mod simulator;
pub mod start;
pub mod suspects;

/// `true` in a mutation test that breaks exactly this.
macro_rules! mutated {
    ($mutant:ident) => {{
        #[cfg(test)]
        {
            $crate::pipeline::core::mutant::is($crate::pipeline::core::mutant::Mutant::$mutant)
        }
        #[cfg(not(test))]
        {
            false
        }
    }};
}
use mutated;

/// What a mutation test breaks, to show that the simulator sees it.
#[cfg(test)]
pub(crate) mod mutant {
    use std::cell::Cell;

    /// One way of being wrong.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) enum Mutant {
        /// A new producer does not fence the one before it.
        SkipFence,
        /// A producer one of whose requests went unanswered is used again.
        KeepTainted,
        /// A partition that was blocked stays so.
        KeepBlocked,
        /// The position after an error event is committed.
        CommitPosition,
        /// Records of an older assignment are taken.
        ForgetEpoch,
        /// An abort does not rewind.
        SkipRewind,
        /// A lost offset starts at the log's start without a word.
        SilentReset,
        /// A recreated topic is read on at the old offset.
        IgnoreTopicId,
        /// A revoked partition's work commits after the answer.
        AnswerEarly,
        /// A lane reads while a partition of its is moved back.
        ReadMoving,
        /// A lane reads before it has taken an assignment.
        ReadAnnounced,
    }

    thread_local! {
        static ACTIVE: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Breaks the core in this thread, or mends it.
    pub(crate) fn set(mutant: Option<Mutant>) {
        ACTIVE.set(mutant);
    }

    pub(crate) fn is(mutant: Mutant) -> bool {
        ACTIVE.get() == Some(mutant)
    }
}
