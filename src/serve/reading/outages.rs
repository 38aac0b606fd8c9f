//! What lets requests without number be refused: the log has its begin and its end.

use std::time::Instant;

use super::fault::RequestFault;
use crate::telemetry::lasting::Lasting;

/// What is away now.
#[derive(Default)]
pub(super) struct Outages {
    audit: Lasting,
    keys: Lasting,
}

impl Outages {
    /// Tells of a request that is refused for it, once.
    pub(super) fn tell(&self, fault: &RequestFault) {
        let now = Instant::now();
        match fault {
            RequestFault::Audit(error) if self.audit.meet(&error.to_string(), now) => {
                tracing::error!(
                    %error,
                    "the audit log cannot be written, so nothing is opened. Mend what the error \
                    names (docs/operations.md, \"The audit log cannot be written\"). Requests refused \
                    from now on are counted only"
                );
            }
            RequestFault::Keys(fault) if self.keys.meet(&fault.to_string(), now) => {
                tracing::warn!(
                    reason = %fault,
                    "keys cannot be looked up, so nothing is opened under them. Look at the key \
                    store and the key service. Requests refused from now on are counted only"
                );
            }
            _ => {}
        }
    }

    /// A line is durable.
    pub(super) fn audit_writes(&self) {
        if let Some(refused) = self.audit.pass(Instant::now()) {
            tracing::info!(
                refused,
                "the audit log is written again; so many requests were refused"
            );
        }
    }

    /// Key store and key service answer.
    pub(super) fn keys_answer(&self) {
        if let Some(refused) = self.keys.pass(Instant::now()) {
            tracing::info!(refused, "keys are looked up again; so many requests were refused");
        }
    }
}
