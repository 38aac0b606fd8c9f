//! What changes while the service runs, in its audit log.

use std::path::Path;

use veilstream_reading::audit::{AuditError, AuditLog, Entry, Event, cut_reason};

use super::SERVICE;
use crate::policy::PolicySet;

/// Writes lines about the service itself.
pub(super) struct Changes(AuditLog);

impl Changes {
    pub(super) fn new(log: AuditLog) -> Self {
        Self(log)
    }

    /// Keeps a set of policies beside the log, and says that it decides from here on.
    ///
    /// # Errors
    /// The log is unavailable: the set must not decide.
    pub(super) fn policies(&self, set: &PolicySet, why: &str) -> Result<(), AuditError> {
        let policy = Some(self.0.keep_policy(set.document())?);
        let line = Entry { policy, ..entry(Event::Policy, why, "ok") };
        self.0.append(vec![line]).map(drop)
    }

    /// A set of policies is refused; those in force stay. Their files are named, not their text.
    pub(super) fn policies_refused(&self, files: &[&Path]) {
        let names: Vec<String> = files
            .iter()
            .filter_map(|file| Some(file.file_name()?.to_string_lossy().into_owned()))
            .collect();
        self.tell(entry(Event::Policy, &format!("refused: {}", names.join(" ")), "failed"));
    }

    /// Other schemas are in force.
    pub(super) fn schemas(&self, labels: &[String]) {
        self.tell(entry(Event::Schema, &labels.join(" "), "ok"));
    }

    fn tell(&self, line: Entry) {
        if let Err(error) = self.0.append(vec![line]) {
            tracing::error!(%error, "a change of the service is not in its audit log");
        }
    }
}

fn entry(event: Event, reason: &str, outcome: &str) -> Entry {
    Entry {
        actor: Some(SERVICE.to_owned()),
        reason: Some(cut_reason(reason)),
        outcome: Some(outcome.to_owned()),
        ..Entry::new(event)
    }
}
