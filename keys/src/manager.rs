//! The key manager: mints keys, stores them before their first use, unwraps stored ones, replaces those of this process before they are spent.

mod minting;
mod process;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use veilstream_engine::Keyring;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope};
use veilstream_engine::schema::{IndexRule, Protect, Schema};
use veilstream_engine::transform::NeededKey;

use crate::KeyError;
use crate::provider::Provider;
use crate::store::{KeyRecord, Store};
use process::ProcessKeys;

pub use process::SCHEMA_KEY_LIFE;

/// Kinds with one key per tenant and version, which every process shares.
const ROOTS: [KeyKind; 4] = [KeyKind::Index, KeyKind::Deterministic, KeyKind::DeadLetter, KeyKind::SubjectRef];
/// Seconds a key that was looked up by its id is kept: an erasure elsewhere takes effect within this time.
const LOOKUP_AGE: u64 = 600;
/// Keys kept from lookups.
const LOOKUPS: usize = 10_000;

/// The keys of one tenant. Shared by all threads of a process; times are Unix seconds and given by the caller.
pub struct Manager {
    tenant: Arc<str>,
    /// Which process this is, as a copy of it would not know.
    process: u32,
    provider: Box<dyn Provider>,
    store: Box<dyn Store>,
    ring: ArcSwap<Keyring>,
    held: Mutex<Held>,
    looked_up: Mutex<HashMap<KeyId, (Arc<Key>, u64)>>,
}

/// Keys in hand.
struct Held {
    /// Roots, wrapping keys and shared keys.
    keys: HashMap<KeyId, Arc<Key>>,
    process: ProcessKeys,
}

impl Manager {
    /// Opens the keys of `tenant`: loads the roots and wrapping keys, which checks that the provider unwraps what the store holds. Mints nothing.
    ///
    /// # Errors
    /// The store cannot be read, or the provider is not the one that wrapped the keys.
    pub fn open(tenant: &str, provider: Box<dyn Provider>, store: Box<dyn Store>) -> Result<Self, KeyError> {
        let manager = Self {
            tenant: tenant.into(),
            process: std::process::id(),
            provider,
            store,
            ring: ArcSwap::default(),
            held: Mutex::new(Held { keys: HashMap::new(), process: ProcessKeys::new() }),
            looked_up: Mutex::default(),
        };
        let mut held = manager.held();
        for record in manager.store.list(tenant)? {
            if ROOTS.contains(&record.kind) || record.kind == KeyKind::Wrapping {
                let key = manager.unwrap(&mut held, &record)?;
                held.keys.insert(key.id, key);
            }
        }
        manager.publish(&held);
        drop(held);
        Ok(manager)
    }

    /// Mints the first version of every root that is not there.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn prepare_roots(&self, now: u64) -> Result<(), KeyError> {
        let mut held = self.held();
        for kind in ROOTS {
            self.root(&mut held, kind, 1, now)?;
        }
        self.publish(&held);
        Ok(())
    }

    /// Mints what these schemas need and is not there yet.
    ///
    /// # Errors
    /// [`KeyError`]; the schemas must not come into force.
    pub fn prepare(&self, schemas: &SchemaSet, now: u64) -> Result<(), KeyError> {
        self.prepare_roots(now)?;
        let mut held = self.held();
        for schema in schemas.schemas() {
            for (kind, version) in pinned(schema) {
                self.root(&mut held, kind, version, now)?;
            }
            if schema.uses_schema_key() {
                self.schema_key(&mut held, &schema.name, now)?;
            }
        }
        self.publish(&held);
        Ok(())
    }

    /// The snapshot for a new batch: roots, shared keys and the keys of this process.
    #[must_use]
    pub fn keyring(&self) -> Arc<Keyring> {
        // A copied process would draw from budgets that its twin draws from too.
        if self.is_copy() {
            let mut held = self.held();
            held.process = ProcessKeys::new();
            self.publish(&held);
        }
        self.ring.load_full()
    }

    /// Keys the engine asked for, loaded or minted, in the order asked for.
    ///
    /// # Errors
    /// [`KeyError`]; nothing may be sealed for that scope.
    pub fn fetch(&self, needed: &[NeededKey], now: u64) -> Result<Vec<Arc<Key>>, KeyError> {
        let mut held = self.held();
        if held.process.is_copied() {
            held.process = ProcessKeys::new();
        }
        let subjects: Vec<&Scope> = needed.iter().map(|n| &n.scope).filter(|scope| matches!(scope, Scope::Subject(_))).collect();
        let subjects = self.subject_keys(&mut held, &subjects, now)?;
        let mut keys = Vec::with_capacity(needed.len());
        for NeededKey { kind, scope } in needed {
            keys.push(match scope {
                Scope::Subject(_) => subjects.get(scope).cloned().ok_or(KeyError::NotActive { kind: *kind, scope: scope.clone(), state: KeyState::Retired })?,
                Scope::Schema(name) => self.schema_key(&mut held, name, now)?,
                Scope::Version(version) => self.root(&mut held, *kind, *version, now)?,
                Scope::Shared(_) | Scope::Epoch(_) => self.load_or_mint(&mut held, *kind, scope, now)?,
            });
        }
        self.publish(&held);
        Ok(keys)
    }

    /// The key of that id, whatever its state; without its secret when it is retired or shredded. `None`: not in this store.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn lookup(&self, kid: &KeyId, now: u64) -> Result<Option<Arc<Key>>, KeyError> {
        if let Some((key, loaded)) = self.looked_up().get(kid)
            && now < loaded.saturating_add(LOOKUP_AGE)
        {
            return Ok(Some(key.clone()));
        }
        let mut held = self.held();
        if let Some(key) = held.keys.get(kid).cloned().or_else(|| held.process.get(kid)) {
            return Ok(Some(key));
        }
        let Some(record) = self.store.get(kid)? else { return Ok(None) };
        let key = self.unwrap(&mut held, &record)?;
        drop(held);
        let mut looked_up = self.looked_up();
        if looked_up.len() >= LOOKUPS {
            looked_up.clear();
        }
        looked_up.insert(*kid, (key.clone(), now));
        Ok(Some(key))
    }

    /// Called about once a second: replaces keys of this process before they are spent or old, and writes down their uses once a minute.
    ///
    /// # Errors
    /// [`KeyError`]; what is in hand stays good until it is spent, and the next call tries again.
    pub fn maintain(&self, now: u64) -> Result<(), KeyError> {
        let mut held = self.held();
        for schema in held.process.due(now) {
            self.mint_schema_key(&mut held, &schema, now)?;
        }
        self.publish(&held);
        self.write_down(&mut held, now)
    }

    /// Schemas with the uses and the time of making of their present key of this process.
    #[must_use]
    pub fn usage(&self) -> Vec<(Arc<str>, u64, u64)> {
        self.held().process.usage()
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn looked_up(&self) -> MutexGuard<'_, HashMap<KeyId, (Arc<Key>, u64)>> {
        self.looked_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What transformers see. Wrapping keys stay here.
    fn publish(&self, held: &Held) {
        let shared = held.keys.values().filter(|key| key.kind != KeyKind::Wrapping).cloned();
        let ring = Keyring::new(self.tenant.clone(), shared.chain(held.process.sealing()));
        // A new snapshot costs every lane its key schedules: only for a change.
        let old = self.ring.load();
        if *old.tenant() != self.tenant || !old.same_keys(&ring) {
            self.ring.store(Arc::new(ring));
        }
    }

    /// The root of a kind and version. Only a kind of which there is none is minted, as version 1.
    fn root(&self, held: &mut Held, kind: KeyKind, version: u32, now: u64) -> Result<Arc<Key>, KeyError> {
        let scope = Scope::Version(version);
        let other_versions = held.keys.values().any(|key| key.kind == kind && key.scope != scope);
        if let Some(key) = held.keys.values().find(|key| key.kind == kind && key.scope == scope) {
            return Ok(key.clone());
        }
        if (version != 1 || other_versions) && self.store.find(&self.tenant, kind, std::slice::from_ref(&scope))?.is_empty() {
            return Err(KeyError::NoSuchRoot { kind, scope });
        }
        self.load_or_mint(held, kind, &scope, now)
    }
}

impl Drop for Manager {
    /// Nobody seals with the keys of this process any more; where that cannot be written down now, their age tells.
    fn drop(&mut self) {
        let mut held = self.held();
        if !held.process.is_copied() {
            let _ = self.close(&mut held);
        }
    }
}

/// Roots that a schema names by version.
fn pinned(schema: &Schema) -> Vec<(KeyKind, u32)> {
    let key = schema.key.iter().map(|k| (&k.protect, &k.index));
    let headers = schema.headers.iter().map(|h| (&h.protect, &h.index));
    let fields = schema.fields.iter().map(|f| (&f.protect, &f.index));
    let rules = fields.chain(key).chain(headers);
    rules
        .flat_map(|(protect, index)| {
            let root = if let Protect::Deterministic(root) = protect { Some((KeyKind::Deterministic, *root)) } else { None };
            let pin = index.as_ref().and_then(|IndexRule { root, .. }| *root).map(|root| (KeyKind::Index, root));
            root.into_iter().chain(pin)
        })
        .collect()
}

/// The key a record describes, with what was unwrapped.
fn key_of(record: &KeyRecord, state: KeyState, secret: Option<veilstream_engine::SecretKey>) -> Key {
    // Suite 3 seals at most 2^44 values under a subkey; the other kinds have no bound that a process could reach.
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
        budget: veilstream_engine::key::Budget::new(limit),
    }
}
