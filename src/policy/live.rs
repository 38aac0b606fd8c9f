//! The policies in force: replaced as a whole, and only by a set without a fault.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use veilstream_engine::compile::SchemaSet;

use super::fault::{PolicyFault, PolicyFile, read_dir};
use super::set::PolicySet;
use crate::config::{Policy, Purpose};

/// The live policies of a directory.
#[derive(Debug)]
pub struct LivePolicies {
    dir: PathBuf,
    purposes: Vec<Purpose>,
    current: ArcSwap<PolicySet>,
    seen: Mutex<Seen>,
}

/// What was judged last, refused sets included: each change is judged and reported once.
#[derive(Debug)]
struct Seen {
    files: Result<Vec<PolicyFile>, Vec<PolicyFault>>,
    schemas: Arc<SchemaSet>,
    /// Faults of that set; empty: it is in force.
    faults: Vec<PolicyFault>,
}

/// What a look at the directory found.
#[derive(Debug)]
pub enum PolicyChange {
    /// Nothing new.
    None,
    /// A new snapshot is in force.
    Loaded(Arc<PolicySet>),
    /// The new set is good, and could not be kept for the audit: the snapshot in force stays until
    /// it can.
    Postponed(String),
    /// The new set has these faults; the snapshot in force stays, with its schemas.
    Refused(Vec<PolicyFault>),
}

impl LivePolicies {
    /// Loads the policies that a configuration names.
    ///
    /// # Errors
    /// Every fault: there is no last good set yet.
    pub fn open(policy: &Policy, schemas: Arc<SchemaSet>) -> Result<Self, Vec<PolicyFault>> {
        let files = read_dir(&policy.dir)?;
        let set = PolicySet::load(&files, schemas.clone(), &policy.purposes)?;
        Ok(Self {
            dir: policy.dir.clone(),
            purposes: policy.purposes.clone(),
            current: ArcSwap::from_pointee(set),
            seen: Mutex::new(Seen { files: Ok(files), schemas, faults: Vec::new() }),
        })
    }

    /// The snapshot in force. Take it once for a request, or for a chunk of a stream.
    #[must_use]
    pub fn current(&self) -> Arc<PolicySet> {
        self.current.load_full()
    }

    /// The directory of the policies.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Faults of the newest set where it was refused; empty: the newest set is in force.
    #[must_use]
    pub fn refused(&self) -> Vec<PolicyFault> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).faults.clone()
    }

    /// Looks at the directory, and publishes a snapshot of what changed there or in `schemas`.
    pub fn reload(&self, schemas: &Arc<SchemaSet>) -> PolicyChange {
        self.reload_with(schemas, |_| Ok::<_, std::convert::Infallible>(()))
    }

    /// [`LivePolicies::reload`] of a set that `keep` has written down before it decides anything.
    pub fn reload_with<E: std::fmt::Display>(
        &self,
        schemas: &Arc<SchemaSet>,
        keep: impl FnOnce(&PolicySet) -> Result<(), E>,
    ) -> PolicyChange {
        // Held to the end: two reloads at once must not publish the older one last.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let files = read_dir(&self.dir);
        if files == seen.files && Arc::ptr_eq(schemas, &seen.schemas) {
            return PolicyChange::None;
        }
        // Files are replaced one by one. A set read in between could lack a `forbid` that moves.
        if files != read_dir(&self.dir) {
            return PolicyChange::None;
        }
        let loaded = match &files {
            Ok(files) => PolicySet::load(files, schemas.clone(), &self.purposes),
            Err(faults) => Err(faults.clone()),
        };
        if let Ok(set) = &loaded
            && let Err(error) = keep(set)
        {
            // Not seen: the next look tries it again.
            return PolicyChange::Postponed(error.to_string());
        }
        (seen.files, seen.schemas) = (files, schemas.clone());
        match loaded {
            Ok(set) => {
                let set = Arc::new(set);
                self.current.store(set.clone());
                seen.faults.clear();
                PolicyChange::Loaded(set)
            }
            Err(faults) => {
                seen.faults.clone_from(&faults);
                PolicyChange::Refused(faults)
            }
        }
    }
}
