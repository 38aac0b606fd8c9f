//! Answers that are ready, and leave when their trace is durable.

use tokio::time::timeout;
use veilstream_reading::audit::{AuditError, Durable, Entry, Pending};

use super::Reading;
use super::answer::OpenAnswer;
use super::fault::RequestFault;
use crate::serve::router::Asked;
use crate::telemetry::metrics::Metrics;

/// An answer that may not leave yet.
pub(super) struct Prepared {
    pub(super) trace: Trace,
    pub(super) answer: OpenAnswer,
    /// The caller may see where the request stands in the log.
    pub(super) shows_audit: bool,
    /// Counts what leaves.
    pub(super) count: Box<dyn FnOnce(&Metrics) + Send>,
}

/// Lines that are on their way to the log, whatever becomes of the request.
pub(super) struct Trace {
    pending: Pending,
    lines: u64,
}

impl Reading {
    /// Hands the trace over to the log.
    pub(super) fn submit(&self, entries: Vec<Entry>) -> Result<Trace, RequestFault> {
        let lines = entries.iter().map(Entry::lines).sum::<usize>() as u64;
        match self.audit.submit(entries) {
            Ok(pending) => Ok(Trace { pending, lines }),
            Err(error) => self.counted(lines, Err(error)),
        }
    }

    /// Waits until the trace is durable. What it tells of may leave when this returned.
    pub(super) fn wait(&self, trace: Trace) -> Result<Durable, RequestFault> {
        self.counted(trace.lines, trace.pending.wait())
    }

    /// The answer, once its trace is durable.
    pub(super) async fn finish(
        &self,
        prepared: Prepared,
    ) -> Result<(Vec<u8>, Option<Asked>), RequestFault> {
        let Prepared { trace: Trace { mut pending, lines }, answer, shows_audit, count } = prepared;
        let in_time = timeout(pending.deadline(), &mut pending).await;
        let durable = self.counted(lines, in_time.unwrap_or_else(|_| Err(pending.give_up())))?;
        count(&self.metrics);
        Ok(answer.close(shows_audit.then_some(durable)))
    }

    fn counted<T>(&self, lines: u64, outcome: Result<T, AuditError>) -> Result<T, RequestFault> {
        if outcome.is_ok() {
            self.outages.audit_writes();
        }
        let label = if outcome.is_ok() { "ok" } else { "failed" };
        self.metrics.audit_lines.with_label_values(&["file", label]).inc_by(lines);
        Ok(outcome?)
    }
}

/// Does what may block, wherever it is called.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    // The other tasks of a thread of connections go on elsewhere.
    tokio::task::block_in_place(work)
}
