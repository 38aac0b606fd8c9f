//! The key manager: mints keys, stores them before their first use, unwraps stored ones, replaces
//! those of this process before they are spent, and takes up what other processes made, rotated or
//! erased. Nobody waits for a provider or store with a lock that others need for keys in hand.

mod minter;
mod minting;
mod open;
mod process;
mod rebuild;
mod retire;
mod rewrap;
mod rotation;
mod subjects;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use serde_json::Value;
use veilstream_engine::Keyring;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{Budget, Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::schema::{IndexRule, Protect, Schema};
use veilstream_engine::transform::NeededKey;

use crate::KeyError;
use crate::erasure::{Ledger, LedgerCursor};
use crate::escrow::{self, Escrow, EscrowError};
use crate::provider::Provider;
use crate::store::{Authentic, KeyRecord, Store};
use process::ProcessKeys;
use subjects::SubjectCache;

pub use process::SCHEMA_KEY_LIFE;
pub use rebuild::RebuiltLedger;
pub use retire::RetireError;
pub use rewrap::{Progress, Rewrapped};
pub use rotation::{Rotate, Rotated};

/// Kinds with one key per tenant and version, which every process shares.
const ROOTS: [KeyKind; 4] =
    [KeyKind::Index, KeyKind::Deterministic, KeyKind::DeadLetter, KeyKind::SubjectRef];
/// Seconds between two looks at what other processes did to shared keys. A process that asks once a
/// second hears of a rotation within five.
const RELOAD: u64 = 4;
/// Seconds between two looks at whether something is to be rotated.
const ROTATION_LOOK: u64 = 60;
/// Clocks of hosts may differ by so much before an erasure elsewhere could be missed, in seconds.
const SKEW: u64 = 3600;

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
    /// [`Manager::rewrap`] when told to.
    pub recovery: Option<Box<dyn Provider>>,
    /// Where wrapped keys live.
    pub store: Box<dyn Store>,
    /// Who was erased: does it again to a store that came from a backup.
    pub ledger: Arc<dyn Ledger>,
}

/// The keys of one tenant. Shared by all threads of a process; times are Unix seconds and given by
/// the caller.
pub struct Manager {
    settings: Settings,
    /// Which process this is, as a copy of it would not know.
    process: u32,
    provider: Box<dyn Provider>,
    recovery: Option<Box<dyn Provider>>,
    store: Authentic,
    ledger: LedgerCursor,
    /// Keys of erased subjects that were there again at the start.
    revived: u64,
    ring: ArcSwap<Keyring>,
    /// Whose turn it is to make shared and process keys; taken before `held`, never after it.
    turn: Mutex<Schedule>,
    held: Mutex<Held>,
    subjects: SubjectCache,
}

/// Keys in hand.
struct Held {
    /// Roots, wrapping keys and shared keys.
    keys: HashMap<KeyId, Arc<Key>>,
    process: ProcessKeys,
    shredded: Arc<HashSet<KeyId>>,
}

/// When [`Manager::maintain`] looked at what last, in Unix seconds.
#[derive(Default)]
struct Schedule {
    reloaded: u64,
    rotation: u64,
    kek_looked: u64,
}

/// The turn to make keys, as an argument of what needs it.
type Turn<'a> = MutexGuard<'a, Schedule>;

impl Manager {
    /// Mints the first version of every root that is not there.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn prepare_roots(&self, now: u64) -> Result<(), KeyError> {
        // The audit key too: a backup without it could not tell our receipts from others.
        self.audit_key(now)?;
        let turn = self.turn();
        ROOTS.into_iter().try_for_each(|kind| self.root(&turn, kind, 1, now).map(drop))
    }

    /// Mints what these schemas need and is not there yet.
    ///
    /// # Errors
    /// [`KeyError`]; the schemas must not come into force.
    pub fn prepare(&self, schemas: &SchemaSet, now: u64) -> Result<(), KeyError> {
        self.prepare_roots(now)?;
        let turn = self.turn();
        for schema in schemas.schemas() {
            for (kind, version) in pinned(schema) {
                self.root(&turn, kind, version, now)?;
            }
            if schema.uses_schema_key() {
                self.schema_key(&turn, &schema.name, now)?;
            }
        }
        Ok(())
    }

    /// The snapshot for a new batch: roots, shared keys and the keys of this process.
    #[must_use]
    pub fn keyring(&self) -> Arc<Keyring> {
        // A copied process would draw from budgets that its twin draws from too.
        if self.is_copy() {
            self.change(|held| held.process = ProcessKeys::new());
        }
        self.ring.load_full()
    }

    /// Keys the engine asked for, loaded or minted, in the order asked for. For an erased data
    /// subject it is a shredded key without a secret.
    ///
    /// # Errors
    /// [`KeyError`]; nothing may be sealed for that scope.
    pub fn fetch(&self, needed: &[NeededKey], now: u64) -> Result<Vec<Arc<Key>>, KeyError> {
        if self.is_copy() {
            self.change(|held| held.process = ProcessKeys::new());
        }
        let subject = |needed: &NeededKey| {
            if let Scope::Subject(subject) = needed.scope { Some(subject) } else { None }
        };
        let subjects = self.subject_keys(needed.iter().filter_map(subject).collect(), now)?;
        let mut keys = Vec::with_capacity(needed.len());
        for NeededKey { kind, scope } in needed {
            keys.push(match scope {
                Scope::Subject(subject) => subjects
                    .get(subject)
                    .cloned()
                    .ok_or_else(|| not_active(*kind, scope, KeyState::Retired))?,
                Scope::Schema(name) => self.schema_key(&self.turn(), name, now)?,
                Scope::Version(version) => self.root(&self.turn(), *kind, *version, now)?,
                Scope::Shared(_) | Scope::Epoch(_) => {
                    self.load_or_mint(&self.turn(), *kind, scope, now)?
                }
            });
        }
        Ok(keys)
    }

    /// The key of that id, whatever its state; without its secret when it is retired or shredded.
    /// `None`: not in this store.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn lookup(&self, kid: &KeyId, now: u64) -> Result<Option<Arc<Key>>, KeyError> {
        if let Some(key) = self.subjects.looked_up(kid, now) {
            return Ok(Some(key));
        }
        let held = self.held();
        if let Some(key) = held.keys.get(kid).cloned().or_else(|| held.process.get(kid)) {
            return Ok(Some(key));
        }
        drop(held);
        loop {
            let generation = self.subjects.generation();
            let Some(record) = self.store.get(std::slice::from_ref(kid))?.pop() else {
                return Ok(None);
            };
            let key = self.unwrap(&record)?;
            // Where keys were forgotten since, this one may be among them: it is looked at again.
            if self.subjects.keep_lookup(key.clone(), now + self.settings.lookup_age, generation) {
                return Ok(Some(key));
            }
        }
    }

    /// Called about once a second, by one thread: takes up what other processes did, replaces keys
    /// of this process before they are spent or old, rotates what is due and writes down uses once
    /// a minute.
    ///
    /// # Errors
    /// The first [`KeyError`]; what is in hand stays good until it is spent, and the next call
    /// tries again.
    pub fn maintain(&self, now: u64) -> Result<(), KeyError> {
        // Each by itself: a key service that is away must not hold up an erasure.
        let mut first = self.forget_erased(now);
        let mut then = |step: Result<(), KeyError>| {
            if first.is_ok() {
                first = step;
            }
        };
        let mut turn = self.turn();
        if now.abs_diff(turn.reloaded) >= RELOAD {
            turn.reloaded = now;
            then(self.reload());
            self.subjects.sweep(now);
        }
        let due = self.held().process.due(now);
        for schema in due {
            then(self.mint_schema_key(&turn, &schema, now).map(drop));
        }
        if now.abs_diff(turn.rotation) >= ROTATION_LOOK {
            turn.rotation = now;
            then(self.rotate_due(&mut turn, now));
        }
        then(self.write_down(now));
        first
    }

    /// Every key but those of data subjects, or the ones listed, as they are wrapped, signed with
    /// the audit key (which is among them).
    ///
    /// # Errors
    /// [`EscrowError`].
    pub fn export(&self, kids: &[KeyId], now: u64) -> Result<Value, EscrowError> {
        Escrow::new(&self.store, &self.signing_key(now)?).export(kids, now)
    }

    /// Imports the keys of an export that was signed with the audit key in it, which the provider
    /// or the recovery provider must open. A store without store key and head gets the export's:
    /// the ledger is checked as a whole, up to the exported head at least, and who is in it is
    /// erased here too. Keys of processes only open from then on. Returns how many there were.
    ///
    /// # Errors
    /// [`EscrowError`]; nothing was taken, but for what [`EscrowError::Taken`] does not name.
    pub fn import(
        settings: Settings,
        parts: Parts,
        text: &[u8],
        now: u64,
    ) -> Result<usize, EscrowError> {
        escrow::import(&settings.tenant, parts, text, now)
    }

    /// Schemas with the uses and the time of making of their present key of this process.
    #[must_use]
    pub fn usage(&self) -> Vec<(Arc<str>, u64, u64)> {
        self.held().process.usage()
    }

    /// Whose keys these are.
    #[must_use]
    pub fn tenant(&self) -> &Arc<str> {
        &self.settings.tenant
    }

    /// The store under it, for reports on keys.
    #[must_use]
    pub fn store(&self) -> &Authentic {
        &self.store
    }

    /// Who was erased.
    #[must_use]
    pub fn ledger(&self) -> &dyn Ledger {
        self.ledger.ledger()
    }

    pub(crate) fn ledger_cursor(&self) -> &LedgerCursor {
        &self.ledger
    }

    /// The provider of the key-encrypting key.
    #[must_use]
    pub fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    fn turn(&self) -> Turn<'_> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the keys in hand and publishes them.
    fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.held();
        let done = change(&mut held);
        // What transformers see. Wrapping keys stay here.
        let shared = held.keys.values().filter(|key| key.kind != KeyKind::Wrapping).cloned();
        let ring = Keyring::new(self.settings.tenant.clone(), shared.chain(held.process.sealing()))
            .with_shredded(held.shredded.clone());
        // A new snapshot costs every lane its key schedules: only for a change.
        let old = self.ring.load();
        if old.tenant() != ring.tenant() || !old.same_keys(&ring) {
            self.ring.store(Arc::new(ring));
        }
        done
    }

    /// Loads what processes share as the store has it now. A key that is in hand stays the same
    /// key; one that cannot be unwrapped any more goes.
    fn reload(&self) -> Result<(), KeyError> {
        let mut failed = Ok(());
        let mut keys = HashMap::new();
        // Wrapping keys wrap nobody here: each of these is unwrapped by the provider.
        for record in self
            .store
            .shared(&self.settings.tenant)?
            .iter()
            .filter(|record| record.kind != KeyKind::Audit)
        {
            match self.unwrap(record) {
                Ok(key) => drop(keys.insert(key.id, key)),
                Err(error) if failed.is_ok() => failed = Err(error),
                Err(_) => {}
            }
        }
        self.change(|held| {
            for (kid, key) in &mut keys {
                if let Some(known) = held.keys.get(kid).filter(|known| known.state == key.state) {
                    *key = known.clone();
                }
            }
            held.keys = keys;
        });
        failed
    }

    /// Forgets the keys of data subjects that were erased, here or elsewhere.
    pub(crate) fn forget_erased(&self, now: u64) -> Result<(), KeyError> {
        let since = now.saturating_sub(self.settings.lookup_age + SKEW);
        let shredded: HashSet<KeyId> =
            self.store.shredded_since(&self.settings.tenant, since)?.into_iter().collect();
        let ledger = self.follow_ledger();
        let known = self.held().shredded.clone();
        if !shredded.is_subset(&known) {
            self.subjects.forget(|key| shredded.contains(&key.id));
            self.change(|held| held.shredded = Arc::new(shredded));
        }
        ledger
    }

    /// The root of a kind and version. Only a kind of which there is none is minted, as version 1.
    fn root(
        &self,
        turn: &Turn<'_>,
        kind: KeyKind,
        version: u32,
        now: u64,
    ) -> Result<Arc<Key>, KeyError> {
        let scope = Scope::Version(version);
        let held = self.held();
        if let Some(key) = held.keys.values().find(|key| key.kind == kind && key.scope == scope) {
            return Ok(key.clone());
        }
        let other_versions = held.keys.values().any(|key| key.kind == kind);
        drop(held);
        if (version != 1 || other_versions)
            && self
                .store
                .find(&self.settings.tenant, kind, std::slice::from_ref(&scope))?
                .is_empty()
        {
            return Err(KeyError::NoSuchRoot { kind, scope });
        }
        self.load_or_mint(turn, kind, &scope, now)
    }
}

impl Drop for Manager {
    /// Nobody seals with the keys of this process any more; where that cannot be written down now,
    /// their age tells.
    fn drop(&mut self) {
        if !self.is_copy() {
            let _ = self.close();
        }
    }
}

fn not_active(kind: KeyKind, scope: &Scope, state: KeyState) -> KeyError {
    KeyError::NotActive { kind, scope: scope.clone(), state }
}

/// Roots that a schema names by version.
fn pinned(schema: &Schema) -> Vec<(KeyKind, u32)> {
    let key = schema.key.iter().map(|k| (&k.protect, &k.index));
    let headers = schema.headers.iter().map(|h| (&h.protect, &h.index));
    let fields = schema.fields.iter().map(|f| (&f.protect, &f.index));
    let rules = fields.chain(key).chain(headers);
    rules
        .flat_map(|(protect, index)| {
            let root = if let Protect::Deterministic(root) = protect {
                Some((KeyKind::Deterministic, *root))
            } else {
                None
            };
            let pin = index
                .as_ref()
                .and_then(|IndexRule { root, .. }| *root)
                .map(|root| (KeyKind::Index, root));
            root.into_iter().chain(pin)
        })
        .collect()
}

/// The key a record describes, with what was unwrapped.
fn key_of(record: &KeyRecord, state: KeyState, secret: Option<SecretKey>) -> Key {
    // Suite 3 seals at most 2^44 values under a subkey; the other kinds have no bound that a
    // process could reach.
    let limit = if record.kind == KeyKind::Deterministic { 1 << 44 } else { u64::MAX };
    Key {
        id: record.kid,
        kcv: record.kcv,
        kind: record.kind,
        tenant: record.tenant.clone(),
        scope: record.scope.clone(),
        version: record.version,
        state,
        seal_until: None,
        secret,
        budget: Budget::new(limit),
    }
}
