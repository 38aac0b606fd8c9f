//! Which keys a manager has, for how long, and what it works with.

use std::sync::Arc;

use crate::erasure::Ledger;
use crate::provider::Provider;
use crate::store::Store;

/// What a manager is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Whose keys.
    pub tenant: Arc<str>,
    /// Seconds after which subject, shared and wrapping keys, and key-encrypting keys that may be,
    /// are rotated; `None`: by hand alone.
    pub rotation: Option<u64>,
    /// Keys of data subjects kept at most.
    pub subject_cache: usize,
    /// Seconds a key that was looked up is kept at most: an erasure that nobody told of takes
    /// effect within this time.
    pub lookup_age: u64,
}

impl Settings {
    /// The defaults, for a tenant.
    #[must_use]
    pub fn of(tenant: &str) -> Self {
        Self {
            tenant: tenant.into(),
            rotation: Some(90 * 86400),
            subject_cache: 100_000,
            lookup_age: 600,
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
    /// Where wrapped keys live.
    pub store: Box<dyn Store>,
    /// Who was erased: does it again to a store that came from a backup.
    pub ledger: Arc<dyn Ledger>,
}
