//! Stores of wrapped keys.

mod authentic;
mod json;
mod mac;
#[cfg(feature = "postgres")]
mod postgres;
mod sql;
mod sqlite;

pub use authentic::{Authentic, Erased, Seen};
pub use json::{HeadJson, RecordJson};
pub use mac::{RecordFields, STORE_TENANT, StoreKeys};
#[cfg(feature = "postgres")]
pub use postgres::{DEFAULT_SCHEMA, PostgresAddress, PostgresLedger, PostgresStore};
pub use sqlite::SqliteStore;

use std::sync::Arc;

use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};

use crate::credential::CredentialRow;
use crate::erasure::LedgerError;

/// One key as it is stored: everything but the key (docs/formats.md, "Keys"). Times are Unix
/// seconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Id: the first half of `kcv`.
    pub kid: KeyId,
    /// Check value, a hash of the key.
    pub kcv: [u8; 32],
    /// What the key seals, wraps or derives.
    pub kind: KeyKind,
    /// Tenant of the key.
    pub tenant: Arc<str>,
    /// Schema, data subject, epoch or version that the key is for.
    pub scope: Scope,
    /// Number within (tenant, kind, scope), from 1. 0: the store sets it, or the ledger alone names
    /// the key.
    pub version: u32,
    /// What the key may still do.
    pub state: KeyState,
    /// When it was made.
    pub created: u64,
    /// When it was retired, shredded or found compromised; `None`: it was not.
    pub retired: Option<u64>,
    /// One per key-encrypting or wrapping key; an erasure leaves none.
    pub wraps: Vec<Wrap>,
    /// Values sealed, as last written down by the process that counts them; `None`: nobody counts.
    pub uses: Option<u64>,
    /// Authenticates all of the above but wraps and uses ([`StoreKeys`]). The store key's own
    /// record has none.
    pub mac: Option<[u8; 32]>,
}

impl KeyRecord {
    /// A record of a data subject that has no key: what an erasure leaves, or knows of one.
    pub(crate) fn without_key(
        kid: KeyId,
        kcv: [u8; 32],
        tenant: &str,
        subject: SubjectRef,
        state: KeyState,
    ) -> Self {
        Self {
            kid,
            kcv,
            kind: KeyKind::Data,
            tenant: tenant.into(),
            scope: Scope::Subject(subject),
            version: 0,
            state,
            created: 0,
            retired: None,
            wraps: Vec::new(),
            uses: None,
            mac: None,
        }
    }

    /// Whether the record is shredded and has no wrap left.
    pub(crate) fn is_destroyed(&self) -> bool {
        self.state == KeyState::Shredded && self.wraps.is_empty()
    }
}

/// How far the store knows its erasure ledger, and whose store it is: one record of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Random id that store and ledger share.
    pub store: [u8; 16],
    /// Tenant of the store.
    pub tenant: Arc<str>,
    /// Number of the last line that the store knows, from 0.
    pub seq: u64,
    /// SHA-256 of that line.
    pub sha256: [u8; 32],
    /// [`StoreKeys::head`].
    pub mac: [u8; 32],
}

/// What an erasure does to the store.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The data subjects to be erased.
    pub shreds: Vec<Shred>,
    /// The head after the step.
    pub head: Head,
}

/// Says what an erasure does, with the head as it is and the keys of whom it is about.
pub type Plan<'a> = dyn FnMut(&Head, &[KeyRecord]) -> Result<Planned, LedgerError> + 'a;

/// A key, encrypted under a key-encrypting or wrapping key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrap {
    /// Who unwraps it: the provider's name and parameters, or `kid:<hex>` of a wrapping key.
    pub kek_uri: String,
    /// Version of that key, in the words of who unwraps.
    pub kek_version: String,
    /// Ciphertext of the key, as the wrapper made it.
    pub wrapped: Vec<u8>,
}

/// Where wrapped keys live. Blocks; whatever returns `Ok` is durable.
pub trait Store: Send + Sync {
    /// Where it is, for messages; without secrets.
    fn place(&self) -> String;

    /// The keys of these ids, of whichever tenant; those that are not there are left out.
    ///
    /// # Errors
    /// [`StoreError`].
    fn get(&self, kids: &[KeyId]) -> Result<Vec<KeyRecord>, StoreError>;

    /// Every version of the keys of these scopes.
    ///
    /// # Errors
    /// [`StoreError`].
    fn find(
        &self,
        tenant: &str,
        kind: KeyKind,
        scopes: &[Scope],
    ) -> Result<Vec<KeyRecord>, StoreError>;

    /// Every key of the tenant but those of data subjects, of which there may be millions; oldest
    /// first.
    ///
    /// # Errors
    /// [`StoreError`].
    fn list(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError>;

    /// Those of [`Store::list`] that processes share, so all but `schema:` keys: few, and every
    /// process looks at them every few seconds.
    ///
    /// # Errors
    /// [`StoreError`].
    fn shared(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError>;

    /// How many data subjects have keys, and how many are erased.
    ///
    /// # Errors
    /// [`StoreError`].
    fn count_subjects(&self, tenant: &str) -> Result<Subjects, StoreError>;

    /// Keys of data subjects with an id after `after`, in the order of their ids, at most `limit`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn subjects(
        &self,
        tenant: &str,
        after: Option<&KeyId>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError>;

    /// How many keys have a wrap with this `kek_uri`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn count_wrapped_by(&self, kek_uri: &str) -> Result<u64, StoreError>;

    /// The newest time at which a `schema:` key of this scope was made, before `before`.
    ///
    /// # Errors
    /// [`StoreError`].
    fn last_made(
        &self,
        tenant: &str,
        kind: KeyKind,
        scope: &Scope,
        before: u64,
    ) -> Result<Option<u64>, StoreError>;

    /// The head; `None`: the store was never given one.
    ///
    /// # Errors
    /// [`StoreError`].
    fn head(&self) -> Result<Option<Head>, StoreError>;

    /// Gives an empty store its store key and its head, in one step.
    ///
    /// # Errors
    /// [`StoreError`]; it has a head already.
    fn found(&self, store_key: &KeyRecord, head: &Head) -> Result<(), StoreError>;

    /// Stores keys whose (tenant, kind, scope, version) is free, all in one step, and returns what
    /// the store holds for each, in their order: the given record, or that of the first.
    /// Not for `schema:` keys.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored.
    fn insert(&self, records: &[KeyRecord]) -> Result<Vec<KeyRecord>, StoreError>;

    /// Stores a `schema:` key, unless one of its scope was made less than `pace` seconds before or
    /// after it; tells whether it did.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored.
    fn insert_paced(&self, record: &KeyRecord, pace: u64) -> Result<bool, StoreError>;

    /// Stores keys that come from elsewhere, of whatever scope, all in one step; those that are
    /// here already stay as they are. Returns the keys whose place another key has.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored.
    fn import(&self, records: &[KeyRecord]) -> Result<Vec<KeyId>, StoreError>;

    /// Moves active `schema:` keys to `decrypt_only`: those listed, and every one made before
    /// `before`, whose process cannot seal with it any more.
    ///
    /// # Errors
    /// [`StoreError`].
    fn expire(
        &self,
        tenant: &str,
        kids: &[KeyId],
        before: u64,
        keys: &StoreKeys,
    ) -> Result<(), StoreError>;

    /// Writes down how often keys were used.
    ///
    /// # Errors
    /// [`StoreError`].
    fn save_uses(&self, uses: &[(KeyId, u64)]) -> Result<(), StoreError>;

    /// Moves keys to another state, unless they are shredded: that is for ever. `retired` is when
    /// they stopped being of use, if they did.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed.
    fn set_state(
        &self,
        kids: &[KeyId],
        state: KeyState,
        retired: Option<u64>,
        keys: &StoreKeys,
    ) -> Result<(), StoreError>;

    /// Replaces wraps that are still as they were read, all in one step; tells how many were. A
    /// wrap that was deleted does not come back.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed.
    fn replace_wraps(&self, changes: &[WrapChange]) -> Result<u64, StoreError>;

    /// Erases data subjects: their keys become `shredded` and lose their wraps (a shredded key that
    /// has wraps again loses them again), their scopes are closed (see [`Shred`]), and the head
    /// moves, all in one step. `plan` says who, and what the head is then; it is asked with the
    /// head locked, so that of several processes one after another is asked, and is given the keys
    /// of `subjects` as they stand. Where the step fails `plan` may be asked again. Doing an
    /// erasure again changes nothing but the head.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed, or everything.
    fn erase(
        &self,
        tenant: &str,
        subjects: &[SubjectRef],
        keys: &StoreKeys,
        now: u64,
        plan: &mut Plan<'_>,
    ) -> Result<Vec<Shredded>, StoreError>;

    /// Keys that were shredded, retired or found compromised at or after `since`, and markers.
    ///
    /// # Errors
    /// [`StoreError`].
    fn ended_since(&self, tenant: &str, since: u64) -> Result<Vec<KeyId>, StoreError>;

    /// Sees to it that deleted wraps are gone from the disk too, as far as the store can. Tells
    /// what it cannot.
    ///
    /// # Errors
    /// [`StoreError`]; deleted wraps may still be there.
    fn scrub(&self) -> Result<Scrubbed, StoreError>;

    /// The records of all API keys, as they stand there, in the order of their ids.
    ///
    /// # Errors
    /// [`StoreError`].
    fn credentials(&self) -> Result<Vec<CredentialRow>, StoreError>;

    /// Adds the record of an API key, unless its id is taken; tells whether it did.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored.
    fn add_credential(&self, row: &CredentialRow) -> Result<bool, StoreError>;

    /// Puts a revoked record in the place of the one with its id, unless that one is revoked
    /// already; tells whether it did.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was changed.
    fn revoke_credential(&self, row: &CredentialRow) -> Result<bool, StoreError>;
}

/// How many data subjects there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Subjects {
    /// Number of keys that are not shredded.
    pub keys: u64,
    /// Number of shredded keys and markers.
    pub shredded: u64,
    /// Shredded keys that still have wraps: an erasure that somebody undid, or did by hand and
    /// half.
    pub half_shredded: u64,
}

/// A wrap to be replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrapChange {
    /// Id of the key.
    pub kid: KeyId,
    /// The wrap as it was read; `None`: the new one comes beside those that are there, if any is.
    pub old: Option<Wrap>,
    /// The wrap that takes its place.
    pub new: Wrap,
}

/// One data subject to be erased.
#[derive(Debug, Clone)]
pub struct Shred {
    /// Reference of the data subject.
    pub subject: SubjectRef,
    /// `true`: every key that the subject has is destroyed.
    pub all: bool,
    /// These keys are destroyed in either case.
    pub kids: Vec<KeyId>,
    /// Closes the scope: its next version where no key is left. A key record without wraps that
    /// names no key. `shredded`: nobody makes a key for the subject again; `retired`: the subject
    /// may come back. Its version is the store's to set.
    pub marker: KeyRecord,
}

impl Shred {
    /// The marker that the scope gets, in its next version. `newest`: its newest version, 0 without
    /// any; `alive`: some key or marker is not shredded; `shredded_now`: some key was shredded in
    /// this step. (A process that saw that key active may be about to store its successor, which
    /// must find the place taken.)
    #[must_use]
    pub fn next_marker(&self, newest: u32, alive: bool, shredded_now: bool) -> Option<KeyRecord> {
        let is_due =
            !alive && (self.marker.state != KeyState::Shredded || shredded_now || newest == 0);
        newest
            .checked_add(1)
            .filter(|_| is_due)
            .map(|version| KeyRecord { version, ..self.marker.clone() })
    }
}

/// An erased data subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shredded {
    /// Reference of the data subject.
    pub subject: SubjectRef,
    /// Keys shredded now, with their wraps deleted.
    pub kids: Vec<KeyId>,
}

/// What is left of deleted wraps after [`Store::scrub`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scrubbed {
    /// Where deleted wraps may still stand and until when; empty: nowhere in the store itself.
    pub remains: Vec<String>,
}

/// The key store cannot be read, changed or believed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It is not there or not usable.
    #[error("key store {place}: {message}")]
    Unusable {
        /// [`Store::place`].
        place: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A row is not what this program writes.
    #[error(
        "key store {place}: the row of key {kid} is damaged ({what}); restore it from a backup"
    )]
    Row {
        /// [`Store::place`].
        place: String,
        /// Id in the row, as it stands there.
        kid: String,
        /// Name of the column that is wrong.
        what: &'static str,
    },
    /// A record was changed by somebody who does not hold the store key.
    #[error(
        "key store {place}: the record of key {kid} was changed (its mac does not hold), so it \
        counts for nothing; restore it from a backup"
    )]
    Corrupt {
        /// [`Store::place`].
        place: String,
        /// Id of the key.
        kid: KeyId,
    },
    /// There is no store key and no head.
    #[error(
        "key store {place}: has no store key and no head. `veilstream keys init --empty` leaves it \
        so until `veilstream keys import`; a store of an earlier build is not read: make a new one \
        with `veilstream keys init`"
    )]
    Unfounded {
        /// [`Store::place`].
        place: String,
    },
    /// The erasure ledger does not do it.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// Checks a record that is about to be given another MAC: nothing mends a wrong one.
///
/// # Errors
/// [`StoreError::Corrupt`].
pub fn check(keys: &StoreKeys, place: &str, record: &KeyRecord) -> Result<(), StoreError> {
    if keys.holds(record) {
        Ok(())
    } else {
        Err(StoreError::Corrupt { place: place.to_owned(), kid: record.kid })
    }
}

/// The record of the store key: one, active, of version 1.
///
/// # Errors
/// [`StoreError`]: there is none, or it was changed.
pub(crate) fn store_key_record(store: &dyn Store) -> Result<KeyRecord, StoreError> {
    let mut found = store.find(STORE_TENANT, KeyKind::Store, &[Scope::Version(1)])?;
    let record = found.pop().ok_or_else(|| StoreError::Unfounded { place: store.place() })?;
    let is_whole = found.is_empty()
        && record.state == KeyState::Active
        && record.version == 1
        && record.retired.is_none()
        && !record.wraps.is_empty();
    if is_whole {
        Ok(record)
    } else {
        Err(StoreError::Corrupt { place: store.place(), kid: record.kid })
    }
}

/// A check value from 64 lower-case hex digits; `None`: it is no such text.
pub(crate) fn check_value(hex: &str) -> Option<[u8; 32]> {
    let (first, second) = hex.split_at_checked(32)?;
    let mut kcv = [0; 32];
    kcv[..16].copy_from_slice(&first.parse::<KeyId>().ok()?.0);
    kcv[16..].copy_from_slice(&second.parse::<KeyId>().ok()?.0);
    Some(kcv)
}
