//! What the process says about itself: whether it is ready, and if not, why.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

/// Readiness with its reasons, one per component, and details for `/status`. Shared by all threads.
///
/// Liveness is not here: a process that answers is alive, whatever Kafka or the keys do.
#[derive(Debug)]
pub struct Status {
    started: Instant,
    inner: Mutex<StatusState>,
}

#[derive(Debug, Default)]
struct StatusState {
    unready: BTreeMap<String, String>,
    details: BTreeMap<String, Value>,
}

/// The body of `/status`.
#[derive(Debug, Clone, Serialize)]
pub struct StatusReport {
    /// Version of this build.
    pub version: &'static str,
    /// Seconds since the start.
    pub uptime_seconds: u64,
    /// Whether records flow on every route.
    pub ready: bool,
    /// Component to reason, for all that is not ready.
    pub reasons: BTreeMap<String, String>,
    /// What components tell about themselves.
    #[serde(flatten)]
    pub details: BTreeMap<String, Value>,
}

impl Status {
    /// Unready until each of `components` has said that it is ready.
    #[must_use]
    pub fn new(components: &[&str]) -> Self {
        let unready = components.iter().map(|c| ((*c).to_owned(), "starting".to_owned())).collect();
        Self {
            started: Instant::now(),
            inner: Mutex::new(StatusState { unready, ..StatusState::default() }),
        }
    }

    /// The component works. Says nothing about the others.
    pub fn ready(&self, component: &str) {
        self.lock().unready.remove(component);
    }

    /// The component does not work, because of `reason` (for operators; no payload).
    pub fn unready(&self, component: &str, reason: impl Into<String>) {
        self.lock().unready.insert(component.to_owned(), reason.into());
    }

    /// Whether every component works.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().unready.is_empty()
    }

    /// What a component tells about itself; replaces what it told before.
    pub fn detail(&self, component: &str, detail: Value) {
        self.lock().details.insert(component.to_owned(), detail);
    }

    /// Everything at this moment.
    #[must_use]
    pub fn report(&self) -> StatusReport {
        let inner = self.lock();
        StatusReport {
            version: env!("CARGO_PKG_VERSION"),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: inner.unready.is_empty(),
            reasons: inner.unready.clone(),
            details: inner.details.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, StatusState> {
        // A panic elsewhere leaves plain maps behind: still good to read.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_every_component_is() {
        let status = Status::new(&["keys", "kafka"]);
        assert!(!status.is_ready());
        status.ready("keys");
        assert!(!status.is_ready());
        status.ready("kafka");
        assert!(status.is_ready());
        status.unready("topic people.raw", "paused");
        status.unready("kafka", "away");
        status.ready("kafka");
        assert_eq!(
            status.report().reasons,
            BTreeMap::from([("topic people.raw".to_owned(), "paused".to_owned())])
        );
        status.ready("topic people.raw");
        assert!(status.is_ready());
    }
}
