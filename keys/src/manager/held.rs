//! Keys in hand, under one lock, and the snapshot of them that transformers get.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use veilstream_engine::Keyring;
use veilstream_engine::interop::InteropKeys;
use veilstream_engine::key::{Key, KeyId, KeyKind};
use veilstream_engine::uniform::UniformMap;

use super::process::ProcessKeySet;

/// The keys in hand. Nobody asks a provider or a store with their lock.
pub(super) struct HeldKeys {
    tenant: Arc<str>,
    /// The process that took them in hand: a copy of it (`fork`) has the same.
    process: u32,
    held: Mutex<Held>,
    ring: ArcSwap<Keyring>,
}

/// What the lock guards.
pub(super) struct Held {
    /// Roots, wrapping keys and shared keys.
    pub(super) keys: UniformMap<KeyId, Arc<Key>>,
    pub(super) process: ProcessKeySet,
    /// Keys that were shredded, retired or found compromised within the time that a key is kept.
    pub(super) ended: Arc<HashSet<KeyId>>,
    /// Keys of other systems.
    pub(super) interop: Arc<InteropKeys>,
}

impl HeldKeys {
    pub(super) fn new(tenant: Arc<str>) -> Self {
        Self {
            tenant,
            process: std::process::id(),
            held: Mutex::new(Held {
                keys: UniformMap::default(),
                process: ProcessKeySet::new(),
                ended: Arc::default(),
                interop: Arc::default(),
            }),
            ring: ArcSwap::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the keys in hand and publishes them.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Held) -> T) -> T {
        let mut held = self.lock();
        let done = change(&mut held);
        // What transformers see. Wrapping keys stay here.
        let shared = held.keys.values().filter(|key| key.kind != KeyKind::Wrapping).cloned();
        let ring = Keyring::new(self.tenant.clone(), shared.chain(held.process.sealing()))
            .with_ended(held.ended.clone())
            .with_interop(held.interop.clone());
        // A new snapshot costs every lane its key schedules: only for a change.
        let old = self.ring.load();
        if old.tenant() != ring.tenant() || !old.same_keys(&ring) {
            self.ring.store(Arc::new(ring));
        }
        done
    }

    pub(super) fn keyring(&self) -> Arc<Keyring> {
        self.ring.load_full()
    }

    /// Whether this is another process than the one that minted.
    pub(super) fn is_copy(&self) -> bool {
        self.process != std::process::id() && self.lock().process.is_copied()
    }

    /// Drops the keys of the process in a copy of it, which would draw from budgets that its twin
    /// draws from too.
    pub(super) fn drop_copied(&self) {
        if self.is_copy() {
            self.change(|held| held.process = ProcessKeySet::new());
        }
    }
}
