//! One lane's transaction as a state machine: an event in, the next thing to do out.

use std::time::{Duration, Instant};

use crate::kafka::error::Fault;

/// Where the lane is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionState {
    /// No transaction.
    Idle,
    /// Records are being added.
    Open,
    /// Complete; waiting until everything is delivered.
    Draining,
    /// Offsets and the commit are under way.
    Committing,
    /// Being aborted.
    Aborting,
    /// The producer is being replaced.
    Recycling,
    /// Over.
    Ended,
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionEvent {
    /// A record is about to be produced, or an offset to be committed.
    Work,
    /// The transaction is full, old, drained, or asked for by a rebalance or a stop.
    Due,
    /// Everything produced was delivered.
    Flushed,
    /// The commit succeeded; `tainted`: one of its requests ended without an answer and may still
    /// arrive.
    Committed {
        /// See [`TransactionEvent::Committed`].
        tainted: bool,
    },
    /// A call or a delivery failed.
    Failed(Fault),
    /// The abort succeeded; `spent`: why the producer cannot be used again all the same (a request
    /// that ended without an answer, or sequence numbers that a refused batch left with a gap).
    Aborted {
        /// See [`TransactionEvent::Aborted`].
        spent: Option<&'static str>,
    },
    /// A new producer is fenced in.
    Recycled,
    /// The work must not commit any more: its partitions are lost, or a stop cannot wait.
    Drop,
    /// A rebalance could not wait for this lane: its producer has been fenced from outside.
    Overrun,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransactionAction {
    /// Nothing.
    Wait,
    /// Begin a transaction.
    Begin,
    /// Deliver what was produced.
    Flush,
    /// Send the offsets and commit.
    Commit,
    /// The commit is done: what it held is committed. `spent`: why the producer must be replaced
    /// all the same.
    Done {
        /// See [`TransactionAction::Done`].
        spent: Option<&'static str>,
    },
    /// Abort.
    Abort(&'static str),
    /// Read again from where the last commit was: known, because the abort succeeded.
    Rewind,
    /// Replace the producer, for this reason.
    Recycle(&'static str),
    /// Read again from where the committed offsets say.
    Reread,
    /// Stop: another process has this instance name.
    EndFenced,
}

/// The machine. Time is an argument.
#[derive(Debug)]
pub struct Machine {
    state: TransactionState,
    transaction_timeout: Duration,
    begun: Option<Instant>,
    fenced: Option<Instant>,
    /// When the polling thread last fenced our producer.
    overrun: Option<Instant>,
}

impl Machine {
    /// A machine without producer: its first event is [`TransactionEvent::Recycled`] (fence first).
    #[must_use]
    pub fn new(transaction_timeout: Duration) -> Self {
        Self {
            state: TransactionState::Recycling,
            transaction_timeout,
            begun: None,
            fenced: None,
            overrun: None,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> TransactionState {
        self.state
    }

    /// When the open transaction began.
    #[must_use]
    pub fn begun(&self) -> Option<Instant> {
        self.begun
    }

    /// What `event` leads to. An event that makes no sense in a state leaves the outcome unknown:
    /// the producer is replaced.
    pub fn on(&mut self, event: TransactionEvent, now: Instant) -> TransactionAction {
        use TransactionAction as A;
        use TransactionState as S;
        if event == TransactionEvent::Overrun {
            self.overrun = Some(now);
        }
        let (state, action) = match (self.state, event) {
            (S::Ended, _) => (S::Ended, A::Wait),
            (S::Idle, TransactionEvent::Work) => {
                self.begun = Some(now);
                (S::Open, A::Begin)
            }
            (S::Idle, TransactionEvent::Due | TransactionEvent::Drop) => (S::Idle, A::Wait),
            (S::Open, TransactionEvent::Work) => (S::Open, A::Wait),
            (S::Open, TransactionEvent::Due) => (S::Draining, A::Flush),
            (S::Draining | S::Committing, TransactionEvent::Due | TransactionEvent::Work) => {
                (self.state, A::Wait)
            }
            (S::Draining, TransactionEvent::Flushed) => (S::Committing, A::Commit),
            (S::Committing, TransactionEvent::Committed { tainted })
                if !tainted || super::mutated!(KeepTainted) =>
            {
                self.begun = None;
                (S::Idle, A::Done { spent: None })
            }
            (S::Committing, TransactionEvent::Committed { .. }) => {
                (S::Recycling, A::Done { spent: Some("unanswered_request") })
            }
            (S::Open | S::Draining | S::Committing, TransactionEvent::Drop) => {
                (S::Aborting, A::Abort("partitions_lost"))
            }
            (S::Aborting, TransactionEvent::Aborted { spent: None }) => {
                self.begun = None;
                (S::Idle, A::Rewind)
            }
            (S::Aborting, TransactionEvent::Aborted { spent: Some(reason) }) => {
                (S::Recycling, A::Recycle(reason))
            }
            (
                S::Aborting,
                TransactionEvent::Due | TransactionEvent::Drop | TransactionEvent::Work,
            ) => (S::Aborting, A::Wait),
            (S::Recycling, TransactionEvent::Recycled) => {
                self.begun = None;
                (S::Idle, A::Reread)
            }
            (
                S::Recycling,
                TransactionEvent::Due
                | TransactionEvent::Drop
                | TransactionEvent::Work
                | TransactionEvent::Overrun,
            ) => (S::Recycling, A::Wait),
            // Tried again by the caller that drives the machine, after a pause.
            (S::Recycling, TransactionEvent::Failed(_)) => {
                (S::Recycling, A::Recycle("init_failed"))
            }
            (_, TransactionEvent::Overrun) => (S::Recycling, A::Recycle("rebalance_overrun")),
            (_, TransactionEvent::Failed(fault)) => self.failed(fault, now),
            _ => (S::Recycling, A::Recycle("unexpected_state")),
        };
        self.state = state;
        action
    }

    fn failed(&mut self, fault: Fault, now: Instant) -> (TransactionState, TransactionAction) {
        match fault {
            Fault::Fenced => self.fenced(now),
            // An abort that fails leaves nothing to abort with.
            _ if self.state == TransactionState::Aborting => {
                (TransactionState::Recycling, TransactionAction::Recycle("abort_failed"))
            }
            // Nothing is open: begin failed.
            _ if self.state == TransactionState::Idle => {
                (TransactionState::Recycling, TransactionAction::Recycle("begin_failed"))
            }
            Fault::Abortable => {
                (TransactionState::Aborting, TransactionAction::Abort("group_or_delivery"))
            }
            Fault::Refused => {
                (TransactionState::Aborting, TransactionAction::Abort("refused_record"))
            }
            Fault::Blocked(_) => (TransactionState::Aborting, TransactionAction::Abort("blocked")),
            Fault::OutcomeUnknown if super::mutated!(SkipFence) => {
                (TransactionState::Idle, TransactionAction::Rewind)
            }
            Fault::OutcomeUnknown => {
                (TransactionState::Recycling, TransactionAction::Recycle("outcome_unknown"))
            }
        }
    }

    /// Fenced twice within the transaction time-out, with no transaction of ours that old: another
    /// process. A transaction that the coordinator timed out reads as fenced too, and so does what
    /// our own polling thread fenced: they prove nothing.
    fn fenced(&mut self, now: Instant) -> (TransactionState, TransactionAction) {
        if self.timed_out(now) {
            return (
                TransactionState::Recycling,
                TransactionAction::Recycle("transaction_timed_out"),
            );
        }
        if self.overrun.is_some_and(|at| now.duration_since(at) < self.transaction_timeout) {
            return (TransactionState::Recycling, TransactionAction::Recycle("rebalance_overrun"));
        }
        if self.fenced.is_some_and(|before| now.duration_since(before) < self.transaction_timeout) {
            return (TransactionState::Ended, TransactionAction::EndFenced);
        }
        self.fenced = Some(now);
        (TransactionState::Recycling, TransactionAction::Recycle("fenced"))
    }

    fn timed_out(&self, now: Instant) -> bool {
        self.begun.is_some_and(|begun| now.duration_since(begun) >= self.transaction_timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::error::Obstacle;

    const TIMEOUT: Duration = Duration::from_secs(30);
    const BLOCKED: Fault = Fault::Blocked(Obstacle::TopicDenied);

    struct Run(Machine, Instant);

    impl Run {
        /// A lane in `state`.
        fn at(state: TransactionState) -> Self {
            let mut run = Self(Machine::new(TIMEOUT), Instant::now());
            if state == TransactionState::Recycling {
                return run;
            }
            assert_eq!(run.on(TransactionEvent::Recycled), TransactionAction::Reread);
            let events: &[TransactionEvent] = match state {
                TransactionState::Open => &[TransactionEvent::Work],
                TransactionState::Draining => &[TransactionEvent::Work, TransactionEvent::Due],
                TransactionState::Committing => {
                    &[TransactionEvent::Work, TransactionEvent::Due, TransactionEvent::Flushed]
                }
                TransactionState::Aborting => &[TransactionEvent::Work, TransactionEvent::Drop],
                TransactionState::Ended => &[
                    TransactionEvent::Failed(Fault::Fenced),
                    TransactionEvent::Recycled,
                    TransactionEvent::Failed(Fault::Fenced),
                ],
                _ => &[],
            };
            for event in events {
                run.on(*event);
            }
            assert_eq!(run.0.state(), state);
            run
        }

        fn on(&mut self, event: TransactionEvent) -> TransactionAction {
            self.0.on(event, self.1)
        }

        fn later(&mut self, by: Duration) -> &mut Self {
            self.1 += by;
            self
        }
    }

    #[test]
    fn a_transaction_from_work_to_done() {
        let mut run = Run::at(TransactionState::Idle);
        assert_eq!(run.on(TransactionEvent::Work), TransactionAction::Begin);
        assert_eq!(run.on(TransactionEvent::Work), TransactionAction::Wait);
        assert_eq!(run.on(TransactionEvent::Due), TransactionAction::Flush);
        assert_eq!(run.on(TransactionEvent::Flushed), TransactionAction::Commit);
        assert_eq!(
            run.on(TransactionEvent::Committed { tainted: false }),
            TransactionAction::Done { spent: None }
        );
        assert_eq!((run.0.state(), run.0.begun()), (TransactionState::Idle, None));
    }

    #[test]
    fn every_state_and_event() {
        use {TransactionAction as A, TransactionEvent as E, TransactionState as S};
        let table = [
            (S::Idle, E::Due, S::Idle, A::Wait),
            (S::Idle, E::Drop, S::Idle, A::Wait),
            (S::Idle, E::Overrun, S::Recycling, A::Recycle("rebalance_overrun")),
            (S::Idle, E::Failed(Fault::OutcomeUnknown), S::Recycling, A::Recycle("begin_failed")),
            (S::Idle, E::Failed(Fault::Fenced), S::Recycling, A::Recycle("fenced")),
            (S::Idle, E::Flushed, S::Recycling, A::Recycle("unexpected_state")),
            (S::Open, E::Drop, S::Aborting, A::Abort("partitions_lost")),
            (S::Open, E::Overrun, S::Recycling, A::Recycle("rebalance_overrun")),
            (
                S::Open,
                E::Failed(Fault::OutcomeUnknown),
                S::Recycling,
                A::Recycle("outcome_unknown"),
            ),
            (S::Open, E::Failed(BLOCKED), S::Aborting, A::Abort("blocked")),
            (S::Open, E::Flushed, S::Recycling, A::Recycle("unexpected_state")),
            (
                S::Open,
                E::Committed { tainted: false },
                S::Recycling,
                A::Recycle("unexpected_state"),
            ),
            (S::Draining, E::Work, S::Draining, A::Wait),
            (S::Draining, E::Due, S::Draining, A::Wait),
            (S::Draining, E::Drop, S::Aborting, A::Abort("partitions_lost")),
            (S::Draining, E::Overrun, S::Recycling, A::Recycle("rebalance_overrun")),
            (S::Draining, E::Failed(Fault::Refused), S::Aborting, A::Abort("refused_record")),
            (S::Draining, E::Failed(Fault::Abortable), S::Aborting, A::Abort("group_or_delivery")),
            (S::Draining, E::Failed(Fault::Fenced), S::Recycling, A::Recycle("fenced")),
            (S::Committing, E::Due, S::Committing, A::Wait),
            (
                S::Committing,
                E::Committed { tainted: true },
                S::Recycling,
                A::Done { spent: Some("unanswered_request") },
            ),
            (S::Committing, E::Drop, S::Aborting, A::Abort("partitions_lost")),
            (S::Committing, E::Overrun, S::Recycling, A::Recycle("rebalance_overrun")),
            (
                S::Committing,
                E::Failed(Fault::Abortable),
                S::Aborting,
                A::Abort("group_or_delivery"),
            ),
            (S::Committing, E::Failed(Fault::Refused), S::Aborting, A::Abort("refused_record")),
            (S::Committing, E::Failed(BLOCKED), S::Aborting, A::Abort("blocked")),
            (
                S::Committing,
                E::Failed(Fault::OutcomeUnknown),
                S::Recycling,
                A::Recycle("outcome_unknown"),
            ),
            (S::Committing, E::Failed(Fault::Fenced), S::Recycling, A::Recycle("fenced")),
            (S::Aborting, E::Due, S::Aborting, A::Wait),
            (S::Aborting, E::Drop, S::Aborting, A::Wait),
            (S::Aborting, E::Aborted { spent: None }, S::Idle, A::Rewind),
            (S::Aborting, E::Aborted { spent: Some("why") }, S::Recycling, A::Recycle("why")),
            (S::Aborting, E::Overrun, S::Recycling, A::Recycle("rebalance_overrun")),
            (S::Aborting, E::Failed(Fault::Abortable), S::Recycling, A::Recycle("abort_failed")),
            (S::Aborting, E::Failed(BLOCKED), S::Recycling, A::Recycle("abort_failed")),
            (
                S::Aborting,
                E::Failed(Fault::OutcomeUnknown),
                S::Recycling,
                A::Recycle("abort_failed"),
            ),
            (S::Aborting, E::Failed(Fault::Fenced), S::Recycling, A::Recycle("fenced")),
            (S::Recycling, E::Work, S::Recycling, A::Wait),
            (S::Recycling, E::Due, S::Recycling, A::Wait),
            (S::Recycling, E::Drop, S::Recycling, A::Wait),
            (S::Recycling, E::Overrun, S::Recycling, A::Wait),
            (
                S::Recycling,
                E::Failed(Fault::OutcomeUnknown),
                S::Recycling,
                A::Recycle("init_failed"),
            ),
            (S::Recycling, E::Recycled, S::Idle, A::Reread),
            (S::Ended, E::Work, S::Ended, A::Wait),
            (S::Ended, E::Overrun, S::Ended, A::Wait),
        ];
        for (from, event, to, action) in table {
            let mut run = Run::at(from);
            assert_eq!((run.on(event), run.0.state()), (action, to), "{from:?} {event:?}");
        }
    }

    /// Nothing that was dropped, overrun or doubtful can reach a commit: only a flushed transaction
    /// does.
    #[test]
    fn only_a_flushed_transaction_commits() {
        use TransactionEvent as E;
        let events = [
            E::Work,
            E::Due,
            E::Committed { tainted: false },
            E::Failed(Fault::Abortable),
            E::Failed(Fault::OutcomeUnknown),
            E::Aborted { spent: None },
            E::Recycled,
            E::Drop,
            E::Overrun,
        ];
        for state in [
            TransactionState::Idle,
            TransactionState::Open,
            TransactionState::Draining,
            TransactionState::Committing,
            TransactionState::Aborting,
            TransactionState::Recycling,
            TransactionState::Ended,
        ] {
            for event in events {
                assert_ne!(
                    Run::at(state).on(event),
                    TransactionAction::Commit,
                    "{state:?} {event:?}"
                );
            }
            let commits = Run::at(state).on(E::Flushed) == TransactionAction::Commit;
            assert_eq!(commits, state == TransactionState::Draining, "{state:?}");
        }
    }

    #[test]
    fn fenced_twice_is_another_process() {
        let mut run = Run::at(TransactionState::Committing);
        assert_eq!(
            run.on(TransactionEvent::Failed(Fault::Fenced)),
            TransactionAction::Recycle("fenced")
        );
        run.on(TransactionEvent::Recycled);
        run.on(TransactionEvent::Work);
        run.later(Duration::from_secs(5));
        assert_eq!(run.on(TransactionEvent::Failed(Fault::Fenced)), TransactionAction::EndFenced);
        assert_eq!(run.0.state(), TransactionState::Ended);
    }

    #[test]
    fn our_own_fence_is_not_another_process() {
        let mut run = Run::at(TransactionState::Committing);
        run.on(TransactionEvent::Overrun);
        for _ in 0..3 {
            run.on(TransactionEvent::Recycled);
            run.on(TransactionEvent::Work);
            assert_eq!(
                run.on(TransactionEvent::Failed(Fault::Fenced)),
                TransactionAction::Recycle("rebalance_overrun")
            );
        }
    }

    #[test]
    fn fenced_again_much_later_is_not() {
        let mut run = Run::at(TransactionState::Committing);
        run.on(TransactionEvent::Failed(Fault::Fenced));
        run.on(TransactionEvent::Recycled);
        run.later(TIMEOUT);
        run.on(TransactionEvent::Work);
        assert_eq!(
            run.on(TransactionEvent::Failed(Fault::Fenced)),
            TransactionAction::Recycle("fenced")
        );
    }

    /// Two processes of one name may each commit between fencing the other.
    #[test]
    fn a_commit_in_between_does_not_excuse_the_other_process() {
        let mut run = Run::at(TransactionState::Committing);
        for event in [
            TransactionEvent::Failed(Fault::Fenced),
            TransactionEvent::Recycled,
            TransactionEvent::Work,
            TransactionEvent::Due,
            TransactionEvent::Flushed,
            TransactionEvent::Committed { tainted: false },
            TransactionEvent::Work,
        ] {
            run.on(event);
        }
        assert_eq!(run.on(TransactionEvent::Failed(Fault::Fenced)), TransactionAction::EndFenced);
    }

    #[test]
    fn a_transaction_that_timed_out_does_not_count_as_fenced() {
        let mut run = Run::at(TransactionState::Open);
        assert_eq!(
            run.later(TIMEOUT).on(TransactionEvent::Failed(Fault::Fenced)),
            TransactionAction::Recycle("transaction_timed_out")
        );
        run.on(TransactionEvent::Recycled);
        run.on(TransactionEvent::Work);
        assert_eq!(
            run.on(TransactionEvent::Failed(Fault::Fenced)),
            TransactionAction::Recycle("fenced")
        );
    }
}
