//! A store whose records were checked: what the manager works with.

use std::collections::{HashMap, HashSet};
use std::sync::{PoisonError, RwLock};

use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};

use super::{
    Head, KeyRecord, Plan, Scrubbed, Shredded, Store, StoreError, StoreKeys, Subjects, WrapChange,
};
use crate::credential::{Credential, CredentialId, Credentials, Suspension};
use crate::erasure::{LedgerError, Recorded};

/// Who was erased, as the ledger says.
#[derive(Debug, Default)]
pub struct Erased {
    kids: HashMap<KeyId, SubjectRef>,
    closed: HashSet<SubjectRef>,
}

impl Erased {
    /// Takes a line of the ledger, after all before it.
    pub fn take(&mut self, recorded: &Recorded, tenant: &str) {
        let erasure = &recorded.erasure;
        self.kids.extend(erasure.kids.iter().map(|kid| (*kid, erasure.subject)));
        if erasure.tenant == tenant {
            if erasure.may_return {
                self.closed.remove(&erasure.subject);
            } else {
                self.closed.insert(erasure.subject);
            }
        }
    }

    /// Whether the key answers `erased`, whatever its row says: a line names it, or the last line
    /// of its subject closed it.
    #[must_use]
    pub fn covers(&self, record: &KeyRecord) -> bool {
        let is_closed =
            || matches!(record.scope, Scope::Subject(subject) if self.closed.contains(&subject));
        record.kind == KeyKind::Data && (self.kids.contains_key(&record.kid) || is_closed())
    }

    /// [`Erased::covers`] of a key in hand.
    #[must_use]
    pub fn covers_key(&self, key: &Key) -> bool {
        self.kids.contains_key(&key.id)
            || matches!(key.scope, Scope::Subject(subject) if self.closed.contains(&subject))
    }

    /// The keys that lines name, and whose they were.
    pub fn kids(&self) -> impl Iterator<Item = (&KeyId, &SubjectRef)> {
        self.kids.iter()
    }

    /// Subjects of whom nobody makes a key again.
    pub fn closed(&self) -> impl Iterator<Item = &SubjectRef> {
        self.closed.iter()
    }

    /// Whether nobody makes a key of the subject again.
    #[must_use]
    pub fn is_closed(&self, subject: &SubjectRef) -> bool {
        self.closed.contains(subject)
    }
}

/// A key's id, and its record if it has its MAC.
pub type Seen = (KeyId, Result<KeyRecord, StoreError>);

/// A store, and the keys that authenticate its records. What it gives out has the right MAC, or was
/// erased by the ledger; what it takes gets one.
pub struct Authentic {
    store: Box<dyn Store>,
    keys: StoreKeys,
    tenant: Box<str>,
    erased: RwLock<Erased>,
}

impl Authentic {
    /// A store of one tenant, under its store key.
    #[must_use]
    pub fn new(store: Box<dyn Store>, keys: StoreKeys, tenant: &str) -> Self {
        Self { store, keys, tenant: tenant.into(), erased: RwLock::default() }
    }

    /// Whose keys the store has.
    #[must_use]
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// What authenticates records, head and ledger.
    #[must_use]
    pub fn keys(&self) -> &StoreKeys {
        &self.keys
    }

    /// The store as it is: nothing is checked.
    #[must_use]
    pub fn unverified(&self) -> &dyn Store {
        &*self.store
    }

    /// Takes lines of the ledger, in their order.
    pub fn learn(&self, lines: &[Recorded]) {
        let mut erased = self.erased.write().unwrap_or_else(PoisonError::into_inner);
        lines.iter().for_each(|line| erased.take(line, &self.tenant));
    }

    /// Forgets the ledger: another one has its place.
    pub fn unlearn(&self) {
        *self.erased.write().unwrap_or_else(PoisonError::into_inner) = Erased::default();
    }

    /// Looks at who was erased.
    pub fn erased<T>(&self, look: impl FnOnce(&Erased) -> T) -> T {
        look(&self.erased.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn seen(&self, record: KeyRecord) -> Result<KeyRecord, StoreError> {
        if self.erased(|erased| erased.covers(&record)) {
            return Ok(KeyRecord {
                state: KeyState::Shredded,
                wraps: Vec::new(),
                mac: None,
                ..record
            });
        }
        // The store key rests on its wrap, which was seen to open.
        let is_store_key = record.kind == KeyKind::Store
            && record.kid == self.keys.kid()
            && record.state == KeyState::Active;
        if is_store_key || self.keys.holds(&record) {
            return Ok(KeyRecord { mac: None, ..record });
        }
        Err(StoreError::Corrupt { place: self.store.place(), kid: record.kid })
    }

    fn all(&self, records: Vec<KeyRecord>) -> Result<Vec<KeyRecord>, StoreError> {
        records.into_iter().map(|record| self.seen(record)).collect()
    }

    fn signed(&self, records: &[KeyRecord]) -> Vec<KeyRecord> {
        records.iter().map(|record| self.keys.signed(record)).collect()
    }

    /// [`Store::place`].
    #[must_use]
    pub fn place(&self) -> String {
        self.store.place()
    }

    /// [`Store::get`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn get(&self, kids: &[KeyId]) -> Result<Vec<KeyRecord>, StoreError> {
        let mut records = self.all(self.store.get(kids)?)?;
        // Erased before it was ever here: the store came from an export, or from a backup of before
        // the key.
        let gone = |kid: &KeyId| {
            self.erased(|erased| erased.kids.get(kid).copied())
                .map(|subject| shredded(*kid, &self.tenant, subject))
        };
        let missing: Vec<KeyRecord> = kids
            .iter()
            .filter(|kid| !records.iter().any(|record| record.kid == **kid))
            .filter_map(gone)
            .collect();
        records.extend(missing);
        Ok(records)
    }

    /// [`Store::find`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn find(
        &self,
        tenant: &str,
        kind: KeyKind,
        scopes: &[Scope],
    ) -> Result<Vec<KeyRecord>, StoreError> {
        self.all(self.store.find(tenant, kind, scopes)?)
    }

    /// [`Store::list`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn list(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError> {
        self.all(self.store.list(tenant)?)
    }

    /// [`Store::shared`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn shared(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError> {
        self.all(self.store.shared(tenant)?)
    }

    /// [`Store::count_subjects`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn count_subjects(&self, tenant: &str) -> Result<Subjects, StoreError> {
        self.store.count_subjects(tenant)
    }

    /// [`Store::subjects`], each by itself: one that was edited must not keep the others from being
    /// seen.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn subjects(
        &self,
        tenant: &str,
        after: Option<&KeyId>,
        limit: usize,
    ) -> Result<Vec<Seen>, StoreError> {
        Ok(self
            .store
            .subjects(tenant, after, limit)?
            .into_iter()
            .map(|record| (record.kid, self.seen(record)))
            .collect())
    }

    /// [`Store::count_wrapped_by`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn count_wrapped_by(&self, kek_uri: &str) -> Result<u64, StoreError> {
        self.store.count_wrapped_by(kek_uri)
    }

    /// [`Store::last_made`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn last_made(
        &self,
        tenant: &str,
        kind: KeyKind,
        scope: &Scope,
        before: u64,
    ) -> Result<Option<u64>, StoreError> {
        self.store.last_made(tenant, kind, scope, before)
    }

    /// [`Store::insert`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn insert(&self, records: &[KeyRecord]) -> Result<Vec<KeyRecord>, StoreError> {
        self.all(self.store.insert(&self.signed(records))?)
    }

    /// [`Store::insert_paced`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn insert_paced(&self, record: &KeyRecord, pace: u64) -> Result<bool, StoreError> {
        self.store.insert_paced(&self.keys.signed(record), pace)
    }

    /// [`Store::import`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn import(&self, records: &[KeyRecord]) -> Result<Vec<KeyId>, StoreError> {
        self.store.import(&self.signed(records))
    }

    /// [`Store::expire`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn expire(&self, tenant: &str, kids: &[KeyId], before: u64) -> Result<(), StoreError> {
        self.store.expire(tenant, kids, before, &self.keys)
    }

    /// [`Store::save_uses`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn save_uses(&self, uses: &[(KeyId, u64)]) -> Result<(), StoreError> {
        self.store.save_uses(uses)
    }

    /// [`Store::set_state`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn set_state(
        &self,
        kids: &[KeyId],
        state: KeyState,
        retired: Option<u64>,
    ) -> Result<(), StoreError> {
        self.store.set_state(kids, state, retired, &self.keys)
    }

    /// [`Store::replace_wraps`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn replace_wraps(&self, changes: &[WrapChange]) -> Result<u64, StoreError> {
        self.store.replace_wraps(changes)
    }

    /// [`Store::ended_since`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn ended_since(&self, tenant: &str, since: u64) -> Result<Vec<KeyId>, StoreError> {
        self.store.ended_since(tenant, since)
    }

    /// The API keys and suspensions.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn credentials(&self) -> Result<Credentials, StoreError> {
        let mut found = Credentials::default();
        for row in self.store.credentials()? {
            match row.read().filter(|(one, mac)| self.keys.holds_credential(one, mac)) {
                Some((record, _)) => match Suspension::of(&record) {
                    Some(suspension) => found.suspensions.push(suspension),
                    None => found.authentic.push(record),
                },
                None => found.corrupt.push(row.id),
            }
        }
        Ok(found)
    }

    /// Adds an API key; tells whether its id was free.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored.
    pub fn add_credential(&self, credential: &Credential) -> Result<bool, StoreError> {
        self.store.add_credential(&credential.row(&self.keys.credential_mac(credential)))
    }

    /// Revokes API keys, but those that are revoked already; tells which it did. One whose MAC does
    /// not hold opens nothing, and is left as it is.
    ///
    /// # Errors
    /// [`StoreError`]; those before it are revoked.
    pub fn revoke_credentials(
        &self,
        ids: &[CredentialId],
        now: u64,
    ) -> Result<Vec<CredentialId>, StoreError> {
        self.end_credentials(self.credentials()?.authentic, ids, now)
    }

    /// Suspends somebody; tells whether the id was free.
    ///
    /// # Errors
    /// [`StoreError`]; nothing was stored.
    pub fn suspend(&self, suspension: &Suspension) -> Result<bool, StoreError> {
        self.add_credential(&suspension.record())
    }

    /// Ends suspensions, but those that are ended already; tells which it did.
    ///
    /// # Errors
    /// [`StoreError`]; those before it are ended.
    pub fn resume(&self, ids: &[CredentialId], now: u64) -> Result<Vec<CredentialId>, StoreError> {
        let known = self.credentials()?.suspensions.iter().map(Suspension::record).collect();
        self.end_credentials(known, ids, now)
    }

    fn end_credentials(
        &self,
        known: Vec<Credential>,
        ids: &[CredentialId],
        now: u64,
    ) -> Result<Vec<CredentialId>, StoreError> {
        let mut revoked = Vec::new();
        for known in known.into_iter().filter(|c| ids.contains(&c.id)) {
            let next = Credential { revoked: Some(now), ..known };
            if self.store.revoke_credential(&next.row(&self.keys.credential_mac(&next)))? {
                revoked.push(next.id);
            }
        }
        Ok(revoked)
    }

    /// [`Store::scrub`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn scrub(&self) -> Result<Scrubbed, StoreError> {
        self.store.scrub()
    }

    /// [`Store::head`], if it has its MAC.
    ///
    /// # Errors
    /// [`StoreError`]; [`LedgerError::Head`].
    pub fn head(&self) -> Result<Head, StoreError> {
        let head = self
            .store
            .head()?
            .ok_or_else(|| StoreError::Unfounded { place: self.store.place() })?;
        if self.keys.holds_head(&head) {
            Ok(head)
        } else {
            Err(LedgerError::Head { place: self.store.place() }.into())
        }
    }

    /// [`Store::erase`]. The plan's records are as they stand in the store: an erasure destroys
    /// also what was edited.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn erase(
        &self,
        subjects: &[SubjectRef],
        now: u64,
        plan: &mut Plan<'_>,
    ) -> Result<Vec<Shredded>, StoreError> {
        let place = self.store.place();
        self.store.erase(&self.tenant, subjects, &self.keys, now, &mut |head, records| {
            if !self.keys.holds_head(head) {
                return Err(LedgerError::Head { place: place.clone() });
            }
            plan(head, records)
        })
    }
}

/// What is known of a key that the ledger alone names.
fn shredded(kid: KeyId, tenant: &str, subject: SubjectRef) -> KeyRecord {
    let mut kcv = [0; 32];
    kcv[..16].copy_from_slice(&kid.0);
    KeyRecord::without_key(kid, kcv, tenant, subject, KeyState::Shredded)
}
