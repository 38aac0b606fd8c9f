//! Stores of wrapped keys.

mod sqlite;

pub use sqlite::SqliteStore;

use std::sync::Arc;

use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope};

/// One key as it is stored: everything but the key (docs/formats.md, "Keys"). Times are Unix seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// First half of `kcv`.
    pub kid: KeyId,
    /// Check value.
    pub kcv: [u8; 32],
    /// What it is for.
    pub kind: KeyKind,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What it covers.
    pub scope: Scope,
    /// Version within (tenant, kind, scope).
    pub version: u32,
    /// Where it is in its life.
    pub state: KeyState,
    /// When it was made.
    pub created: u64,
    /// When it stopped being of use.
    pub retired: Option<u64>,
    /// One per key-encrypting key.
    pub wraps: Vec<Wrap>,
    /// Values sealed, as last written down by the process that counts them; `None`: nobody counts.
    pub uses: Option<u64>,
}

/// A key, encrypted under a key-encrypting or wrapping key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrap {
    /// Who unwraps it: the provider's name and parameters, or `kid:<hex>` of a wrapping key.
    pub kek_uri: String,
    /// Which version of that key.
    pub kek_version: String,
    /// The provider's output.
    pub wrapped: Vec<u8>,
}

/// Where wrapped keys live. Blocks; whatever returns `Ok` is durable.
pub trait Store: Send + Sync {
    /// The key of that id, of whichever tenant.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get(&self, kid: &KeyId) -> Result<Option<KeyRecord>, StoreError>;

    /// Every version of the keys of these scopes.
    ///
    /// # Errors
    /// [`StoreError`].
    fn find(&self, tenant: &str, kind: KeyKind, scopes: &[Scope]) -> Result<Vec<KeyRecord>, StoreError>;

    /// Every key of the tenant but those of data subjects, of which there may be millions; oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError>;

    /// How many keys of data subjects there are.
    ///
    /// # Errors
    /// [`StoreError`].
    fn count_subjects(&self, tenant: &str) -> Result<u64, StoreError>;

    /// Stores keys whose (tenant, kind, scope, version) is free, all in one step, and returns what the store holds for each: the given record,
    /// or that of whoever was first.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored.
    fn insert(&self, records: &[KeyRecord]) -> Result<Vec<KeyRecord>, StoreError>;

    /// Stores a `schema:` key, unless one of its scope was made less than `pace` seconds before or after it; tells whether it did.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored.
    fn insert_paced(&self, record: &KeyRecord, pace: u64) -> Result<bool, StoreError>;

    /// Moves active `schema:` keys to `decrypt_only`: those listed, and every one made before `before`, whose process cannot seal with it any more.
    ///
    /// # Errors
    /// [`StoreError`].
    fn expire(&self, tenant: &str, kids: &[KeyId], before: u64) -> Result<(), StoreError>;

    /// Writes down how often keys were used.
    ///
    /// # Errors
    /// [`StoreError`].
    fn save_uses(&self, uses: &[(KeyId, u64)]) -> Result<(), StoreError>;
}

/// The store does not do it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not there or not usable.
    #[error("key store {place}: {message}")]
    Unusable {
        /// Where it is.
        place: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A row is not what this program writes.
    #[error("key store {place}: the row of key {kid} is damaged ({what}); restore it from a backup")]
    Row {
        /// Where the store is.
        place: String,
        /// The row's key, as it stands there.
        kid: String,
        /// The column.
        what: &'static str,
    },
}
