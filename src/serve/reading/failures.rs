//! Policies that fail while they are evaluated.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::Reading;
use crate::policy::{self, PolicySet};
use crate::telemetry::events::{Event as _, PolicyFailed};

/// The failing policies that the log has. They fail for each request, which would flood it.
#[derive(Default)]
pub(super) struct KnownFailures(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// Hash of the policies in force; others are told of again.
    hash: Arc<str>,
    /// Ids; the empty one is of questions that could not be asked.
    policies: BTreeSet<Arc<str>>,
}

impl KnownFailures {
    /// Whether these were told of before. They are now.
    fn learn(&self, hash: &Arc<str>, policies: &BTreeSet<Arc<str>>) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.hash != *hash {
            *known = Known { hash: hash.clone(), policies: BTreeSet::new() };
        }
        let before = known.policies.len();
        known.policies.extend(policies.iter().cloned());
        if policies.is_empty() {
            known.policies.insert("".into());
        }
        known.policies.len() == before
    }
}

impl Reading {
    /// Tells of the policies that failed among a request's questions.
    pub(super) fn tell_failures(&self, policies: &PolicySet, questions: &policy::Request<'_>) {
        for (resource, failed) in questions.failures() {
            let is_known = self.failures.learn(policies.hash(), &failed);
            PolicyFailed { policies: &failed, resource, is_known }.emit(&self.metrics);
        }
    }
}
