//! Which keys a manager has, for how long, and what it works with.

use std::sync::Arc;

use veilstream_engine::key::KeyKind;

use crate::erasure::Ledger;
use crate::provider::Provider;
use crate::store::Store;

/// Which keys a manager has, and for how long.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Tenant of the keys; a store has one.
    pub tenant: Arc<str>,
    /// Seconds after which subject, shared and wrapping keys, and key-encrypting keys that may be,
    /// are rotated; `None`: by hand alone.
    pub rotation: Option<u64>,
    /// Number of data subjects whose keys are kept at most; 0 counts as 1.
    pub subject_cache: usize,
    /// Seconds a key that was looked up is kept at most: an erasure that nobody told of takes
    /// effect within this time.
    pub lookup_age: u64,
    /// Kinds of keys that stay wrapped: what is under them does not open in this process.
    pub wrapped: &'static [KeyKind],
}

impl Settings {
    /// Rotation after 90 days, 100,000 data subjects, ten minutes.
    #[must_use]
    pub fn of(tenant: &str) -> Self {
        Self {
            tenant: tenant.into(),
            rotation: Some(90 * 86400),
            subject_cache: 100_000,
            lookup_age: 600,
            wrapped: &[],
        }
    }
}

/// What a manager works with.
pub struct Parts {
    /// Wraps keys and unwraps them.
    pub provider: Box<dyn Provider>,
    /// Wraps every key but those of data subjects a second time; unwraps only in
    /// [`Manager::rewrap`](super::Manager::rewrap) when told to.
    pub recovery: Option<Box<dyn Provider>>,
    /// Keeps wrapped keys; belongs to one tenant.
    pub store: Box<dyn Store>,
    /// Tells who was erased, also to a store that came from a backup.
    pub ledger: Arc<dyn Ledger>,
}
