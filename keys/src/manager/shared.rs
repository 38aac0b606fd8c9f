//! Keys that all processes of a tenant share: roots, wrapping keys and shared data keys. They are
//! stored before their first use, and what other processes did to them is read again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ed25519_dalek::SigningKey;
use veilstream_engine::key::{Budget, Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::uniform::UniformMap;
use veilstream_engine::wrap::WrapContext;

use super::held::{Held, HeldKeys};
use super::minter::{Minter, Wrapper};
use crate::KeyError;
use crate::erasure::{checkpoint_signer, signer};
use crate::provider::Provider;
use crate::store::{Authentic, KeyRecord};
use crate::wraps::{by_provider, checked, context_of, other_provider, unwrap_under, wrapping_kid};

/// Kinds with one key per tenant and version, which every process shares.
const ROOTS: [KeyKind; 4] =
    [KeyKind::Index, KeyKind::Deterministic, KeyKind::DeadLetter, KeyKind::SubjectRef];

/// Seconds between two looks at what other processes did to shared keys. A process that asks once a
/// second hears of a rotation within five.
const RELOAD: u64 = 4;

/// The keys of one tenant that processes share, with what wraps and stores them.
pub(super) struct SharedKeys {
    tenant: Arc<str>,
    /// Kinds that are not unwrapped.
    wrapped: &'static [KeyKind],
    provider: Box<dyn Provider>,
    recovery: Option<Box<dyn Provider>>,
    store: Authentic,
    /// Whose turn it is to make shared and process keys; taken before the lock of `held`, never
    /// after it.
    turn: Mutex<Schedule>,
    reloads: Mutex<()>,
    held: HeldKeys,
}

/// When [`Manager::renew`](super::Manager::renew) did what last, in Unix seconds.
#[derive(Default)]
pub(super) struct Schedule {
    pub(super) reloaded: u64,
    pub(super) rotation: u64,
    pub(super) kek_looked: u64,
}

/// The turn to make keys, as an argument of what needs it.
pub(super) type Turn<'a> = MutexGuard<'a, Schedule>;

impl SharedKeys {
    pub(super) fn new(
        tenant: Arc<str>,
        wrapped: &'static [KeyKind],
        provider: Box<dyn Provider>,
        recovery: Option<Box<dyn Provider>>,
        store: Authentic,
    ) -> Self {
        let held = HeldKeys::new(tenant.clone());
        let (turn, reloads) = (Mutex::default(), Mutex::default());
        Self { tenant, wrapped, provider, recovery, store, turn, reloads, held }
    }

    pub(super) fn tenant(&self) -> &Arc<str> {
        &self.tenant
    }

    pub(super) fn provider(&self) -> &dyn Provider {
        &*self.provider
    }

    pub(super) fn recovery(&self) -> Option<&dyn Provider> {
        self.recovery.as_deref()
    }

    pub(super) fn store(&self) -> &Authentic {
        &self.store
    }

    pub(super) fn in_hand(&self) -> &HeldKeys {
        &self.held
    }

    pub(super) fn turn(&self) -> Turn<'_> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
    }

    /// Mints the first version of every root that is not there.
    pub(super) fn prepare_roots(&self, now: u64) -> Result<(), KeyError> {
        // The audit key too: a backup without it could not tell our receipts from others.
        self.audit_key(now)?;
        let turn = self.turn();
        ROOTS.into_iter().try_for_each(|kind| self.root(&turn, kind, 1, now).map(drop))
    }

    /// A root that is there already. Waits for nobody's turn.
    pub(super) fn root_in_hand(&self, kind: KeyKind, scope: &Scope) -> Option<Arc<Key>> {
        let held = self.held();
        held.keys.values().find(|key| key.kind == kind && key.scope == *scope).cloned()
    }

    /// The root of a kind and version. Only a kind of which there is none is minted, as version 1.
    pub(super) fn root(
        &self,
        turn: &Turn<'_>,
        kind: KeyKind,
        version: u32,
        now: u64,
    ) -> Result<Arc<Key>, KeyError> {
        let scope = Scope::Version(version);
        if let Some(key) = self.root_in_hand(kind, &scope) {
            return Ok(key);
        }
        let other_versions = self.held().keys.values().any(|key| key.kind == kind);
        if (version != 1 || other_versions)
            && self.store.find(&self.tenant, kind, std::slice::from_ref(&scope))?.is_empty()
        {
            return Err(KeyError::NoSuchRoot { kind, scope });
        }
        self.load_or_mint(turn, kind, &scope, now)
    }

    /// The sealing key of a scope that processes share: the newest active one, or a first one. Of
    /// two processes that mint at once, both get the key of the first.
    pub(super) fn load_or_mint(
        &self,
        turn: &Turn<'_>,
        kind: KeyKind,
        scope: &Scope,
        now: u64,
    ) -> Result<Arc<Key>, KeyError> {
        let of_scope = |key: &&Arc<Key>| {
            key.kind == kind && key.scope == *scope && key.state == KeyState::Active
        };
        if let Some(key) = self.held().keys.values().filter(of_scope).max_by_key(|key| key.version)
        {
            return Ok(key.clone());
        }
        let found = self.store.find(&self.tenant, kind, std::slice::from_ref(scope))?;
        let active = found
            .iter()
            .filter(|record| record.state == KeyState::Active)
            .max_by_key(|record| record.version);
        let record = match (active, found.iter().max_by_key(|record| record.version)) {
            (Some(record), _) => record.clone(),
            // A scope whose keys may not seal any more gets no new one behind its back.
            (None, Some(record)) => return Err(not_active(kind, scope, record.state)),
            (None, None) => self.mint(turn, kind, scope, 1, now, &Wrapper::Providers)?,
        };
        self.take(&record)
    }

    /// The key that signs receipts and exports.
    pub(super) fn signing_key(&self, now: u64) -> Result<SigningKey, KeyError> {
        self.derived_from_audit_key(signer, now)
    }

    /// The key that signs the audit log's checkpoints.
    pub(super) fn checkpoint_signing_key(&self, now: u64) -> Result<SigningKey, KeyError> {
        self.derived_from_audit_key(checkpoint_signer, now)
    }

    fn derived_from_audit_key(
        &self,
        derive: fn(&SecretKey) -> SigningKey,
        now: u64,
    ) -> Result<SigningKey, KeyError> {
        let key = self.audit_key(now)?;
        let secret = key
            .secret
            .as_ref()
            .ok_or_else(|| not_active(KeyKind::Audit, &Scope::Version(1), key.state))?;
        Ok(derive(secret))
    }

    /// The audit key, made if it is not there. It signs and seals nothing else, so it is not kept
    /// in hand.
    fn audit_key(&self, now: u64) -> Result<Arc<Key>, KeyError> {
        let turn = self.turn();
        let scope = Scope::Version(1);
        let record = match self
            .store
            .find(&self.tenant, KeyKind::Audit, std::slice::from_ref(&scope))?
            .pop()
        {
            Some(record) => record,
            None => self.mint(&turn, KeyKind::Audit, &scope, 1, now, &Wrapper::Providers)?,
        };
        self.unwrap(&record)
    }

    /// Mints keys of this tenant.
    pub(super) fn minter(&self) -> Minter<'_> {
        Minter::new(&self.tenant, &*self.provider, self.recovery.as_deref())
    }

    /// Mints a key and stores it; the record of it, or of the one that the store has in its place.
    pub(super) fn mint(
        &self,
        _: &Turn<'_>,
        kind: KeyKind,
        scope: &Scope,
        version: u32,
        now: u64,
        wrapper: &Wrapper<'_>,
    ) -> Result<KeyRecord, KeyError> {
        let (record, _) = self.minter().mint(kind, scope, version, now, wrapper)?;
        let Some(stored) = self.store.insert(&[record])?.pop() else {
            unreachable!("a store answers for each record")
        };
        Ok(stored)
    }

    /// Takes a shared key in hand; it must be active.
    pub(super) fn take(&self, record: &KeyRecord) -> Result<Arc<Key>, KeyError> {
        let key = self.unwrap(record)?;
        if key.state != KeyState::Active {
            return Err(not_active(key.kind, &key.scope, key.state));
        }
        Ok(self.held.change(|held| held.keys.entry(key.id).or_insert(key).clone()))
    }

    /// Whether it is time to look at what other processes did. It counts as done then.
    pub(super) fn is_reload_due(&self, now: u64) -> bool {
        let mut turn = self.turn();
        let is_due = now.abs_diff(turn.reloaded) >= RELOAD;
        if is_due {
            turn.reloaded = now;
        }
        is_due
    }

    /// Loads what processes share as the store has it now. A key that is in hand stays the same
    /// key; one that cannot be unwrapped any more goes.
    pub(super) fn reload(&self) -> Result<(), KeyError> {
        // One at a time: what was read earlier must not replace what was read later.
        let _reload = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        let before: HashSet<KeyId> = self.held().keys.keys().copied().collect();
        let mut failed = Ok(());
        let mut keys = UniformMap::default();
        // Wrapping keys wrap nobody here: each of these is unwrapped by the provider.
        let wanted = |kind| kind != KeyKind::Audit && self.unwraps(kind);
        let mut records = self.store.shared(&self.tenant)?;
        records.retain(|record| wanted(record.kind));
        self.drop_ended(&records);
        for record in &records {
            match self.unwrap(record) {
                Ok(key) => drop(keys.insert(key.id, key)),
                Err(error) if failed.is_ok() => failed = Err(error),
                Err(_) => {}
            }
        }
        self.held.change(|held| {
            for (kid, key) in &mut keys {
                if let Some(known) = held.keys.get(kid).filter(|known| known.state == key.state) {
                    *key = known.clone();
                }
            }
            // What was made meanwhile is not in the list.
            let made = held.keys.iter().filter(|(kid, _)| !before.contains(kid));
            for (kid, key) in made {
                keys.entry(*kid).or_insert_with(|| key.clone());
            }
            held.keys = keys;
        });
        failed
    }

    /// Keys that ended are not in hand while a key service lets the others wait.
    fn drop_ended(&self, records: &[KeyRecord]) {
        let has_ended =
            |record: &&KeyRecord| !matches!(record.state, KeyState::Active | KeyState::DecryptOnly);
        let ended: Vec<&KeyRecord> = records.iter().filter(has_ended).collect();
        let stays = |key: &Key| {
            !ended.iter().any(|record| record.kid == key.id && record.state != key.state)
        };
        if !self.held().keys.values().all(|key| stays(key)) {
            self.held.change(|held| held.keys.retain(|_, key| stays(key)));
        }
    }

    /// Whether keys of a kind may be unwrapped here.
    pub(super) fn unwraps(&self, kind: KeyKind) -> bool {
        !self.wrapped.contains(&kind)
    }

    /// These keys seal nothing from now on.
    pub(super) fn only_opens(&self, kids: &[KeyId]) -> Result<(), KeyError> {
        self.store.set_state(kids, KeyState::DecryptOnly, None)?;
        self.reload()
    }

    /// The wrapping key of new keys of data subjects; the first one is minted in a turn of its own.
    pub(super) fn wrapping_key(&self, now: u64) -> Result<Arc<Key>, KeyError> {
        self.wrapping_key_in_use().map_or_else(|| self.first_wrapping_key(&self.turn(), now), Ok)
    }

    /// [`SharedKeys::wrapping_key`] for anyone who has the turn already.
    pub(super) fn wrapping_key_in_turn(
        &self,
        turn: &Turn<'_>,
        now: u64,
    ) -> Result<Arc<Key>, KeyError> {
        self.wrapping_key_in_use().map_or_else(|| self.first_wrapping_key(turn, now), Ok)
    }

    /// `None`: there is none yet, and making one takes a turn.
    fn wrapping_key_in_use(&self) -> Option<Arc<Key>> {
        let held = self.held();
        let active = held
            .keys
            .values()
            .filter(|key| key.kind == KeyKind::Wrapping && key.state == KeyState::Active);
        active.max_by_key(|key| key.version).cloned()
    }

    fn first_wrapping_key(&self, turn: &Turn<'_>, now: u64) -> Result<Arc<Key>, KeyError> {
        self.load_or_mint(turn, KeyKind::Wrapping, &Scope::Epoch(1), now)
    }

    /// The key of a record, checked against it. Keys of other processes only open here.
    pub(super) fn unwrap(&self, record: &KeyRecord) -> Result<Arc<Key>, KeyError> {
        let state = match (&record.scope, record.state) {
            (Scope::Schema(_), KeyState::Active) => KeyState::DecryptOnly,
            (_, state) => state,
        };
        if matches!(state, KeyState::Retired | KeyState::Shredded) {
            return Ok(Arc::new(key_of(record, state, None)));
        }
        let secret = checked(record, self.unwrap_any(record, &context_of(record))?)?;
        Ok(Arc::new(key_of(record, state, Some(secret))))
    }

    fn unwrap_any(
        &self,
        record: &KeyRecord,
        context: &WrapContext<'_>,
    ) -> Result<SecretKey, KeyError> {
        if let Some(wrap) = by_provider(record, &*self.provider) {
            return Ok(self.provider.unwrap(wrap, context)?);
        }
        for wrap in &record.wraps {
            if let Some(kid) = wrapping_kid(wrap)
                && let Some(wrapping) = self.wrapping_key_of(&kid)?
            {
                return unwrap_under(&wrapping, wrap, context);
            }
        }
        Err(other_provider(record, &*self.provider))
    }

    /// The wrapping key of that id; `None`: no such key of which the provider opens a wrap.
    pub(super) fn wrapping_key_of(&self, kid: &KeyId) -> Result<Option<Arc<Key>>, KeyError> {
        if let Some(key) = self.held().keys.get(kid) {
            return Ok(Some(key.clone()));
        }
        // Made by another process since the last look. Wrapping keys are wrapped by providers
        // alone, so this goes no deeper.
        let opens_here = |record: &KeyRecord| {
            record.kind == KeyKind::Wrapping && by_provider(record, &*self.provider).is_some()
        };
        let Some(record) = self.store.get(std::slice::from_ref(kid))?.pop().filter(opens_here)
        else {
            return Ok(None);
        };
        let key = self.unwrap(&record)?;
        Ok(Some(self.held.change(|held| held.keys.entry(key.id).or_insert(key).clone())))
    }
}

pub(super) fn not_active(kind: KeyKind, scope: &Scope, state: KeyState) -> KeyError {
    KeyError::NotActive { kind, scope: scope.clone(), state }
}

/// The key a record describes, with what was unwrapped.
pub(super) fn key_of(record: &KeyRecord, state: KeyState, secret: Option<SecretKey>) -> Key {
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
