//! Keys of this process: `schema:<name>`, suite 1, sealed with by nobody else, their uses counted
//! here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use veilstream_engine::key::{Budget, Key, KeyId, KeyKind, Scope};

use super::minter::Wrapper;
use super::shared::{SharedKeys, Turn, key_of};
use crate::KeyError;

/// Seconds a key of a process seals.
pub const SCHEMA_KEY_LIFE: u64 = 24 * 3600;
/// Uses of a key of a process, whatever the field: stricter than the bound per field
/// (docs/formats.md).
const USES: u64 = 1 << 30;
/// A successor is minted when so much of the life or of the uses is gone, in percent.
const AHEAD: u64 = 70;
/// Seconds between two keys of one scope: a process that crashes in a loop must not fill the store.
const PACE: u64 = 60;
/// Seconds between two notes of how often keys were used.
const NOTE: u64 = 60;

/// Makes, counts and ends the keys of this process.
pub(super) struct ProcessKeys<'a> {
    shared: &'a SharedKeys,
}

impl<'a> ProcessKeys<'a> {
    pub(super) fn new(shared: &'a SharedKeys) -> Self {
        Self { shared }
    }

    /// What seals for a schema now: the key of this process, a new one, or, inside the pace, the
    /// shared one.
    pub(super) fn sealing(
        &self,
        turn: &Turn<'_>,
        schema: &Arc<str>,
        now: u64,
    ) -> Result<Arc<Key>, KeyError> {
        if let Some(minted) = self.shared.held().process.keys.get(schema).filter(|m| m.seals(now)) {
            return Ok(minted.key.clone());
        }
        if let Some(key) = self.mint(turn, schema, now)? {
            return Ok(key);
        }
        let shared =
            self.shared.load_or_mint(turn, KeyKind::Data, &Scope::Shared(schema.clone()), now)?;
        self.shared.in_hand().change(|held| held.process.waiting.insert(schema.clone()));
        Ok(shared)
    }

    /// A new key of this process, stored; `None` when one of its scope was minted within the pace.
    pub(super) fn mint(
        &self,
        _: &Turn<'_>,
        schema: &Arc<str>,
        now: u64,
    ) -> Result<Option<Arc<Key>>, KeyError> {
        let scope = Scope::Schema(schema.clone());
        // Looked at before a key is wrapped: a process that has to wait asks the key service for
        // nothing.
        if let Some(last) = self
            .shared
            .store()
            .last_made(self.shared.tenant(), KeyKind::Data, &scope, now + PACE)?
            .filter(|last| last + PACE > now)
        {
            self.wait(schema, last + PACE);
            return Ok(None);
        }
        let (record, secret) =
            self.shared.minter().mint(KeyKind::Data, &scope, 1, now, &Wrapper::Providers)?;
        if !self.shared.store().insert_paced(&record, PACE)? {
            self.wait(schema, now + PACE);
            return Ok(None);
        }
        let key = Arc::new(Key {
            seal_until: Some(now + SCHEMA_KEY_LIFE),
            budget: Budget::new(USES),
            ..key_of(&record, record.state, Some(secret))
        });
        self.shared.in_hand().change(|held| {
            held.process.waiting.remove(schema);
            held.process.not_before.remove(schema);
            if let Some(old) =
                held.process.keys.insert(schema.clone(), Minted { key: key.clone(), created: now })
            {
                held.process.replaced.push(old.key);
            }
            held.process.noted = 0;
        });
        Ok(Some(key))
    }

    /// Mints no key for the schema before `from`, and then at some time within the pace: of many
    /// processes that wait, one is the first.
    fn wait(&self, schema: &Arc<str>, from: u64) {
        let spread = getrandom::u64().map_or(0, |random| random % PACE);
        self.shared
            .in_hand()
            .change(|held| held.process.not_before.insert(schema.clone(), from + spread));
    }

    /// Stores uses once a minute, and at once when a key was minted; ends keys that were replaced.
    pub(super) fn save_uses(&self, now: u64) -> Result<(), KeyError> {
        let held = self.shared.held();
        if now.abs_diff(held.process.noted) < NOTE {
            return Ok(());
        }
        let uses = held.process.uses();
        // Lanes may hold a batch with a replaced key, but none for as long as that.
        let gone: Vec<KeyId> = held.process.replaced.iter().map(|key| key.id).collect();
        drop(held);
        self.shared.store().save_uses(&uses)?;
        self.shared.store().expire(
            self.shared.tenant(),
            &gone,
            now.saturating_sub(SCHEMA_KEY_LIFE),
        )?;
        let mut held = self.shared.held();
        held.process.replaced.retain(|key| !gone.contains(&key.id));
        held.process.noted = now;
        Ok(())
    }

    /// The end of this process: its keys only open from now on.
    pub(super) fn close(&self) -> Result<(), KeyError> {
        let uses = self.shared.held().process.uses();
        if uses.is_empty() {
            return Ok(());
        }
        self.shared.store().save_uses(&uses)?;
        let kids: Vec<KeyId> = uses.into_iter().map(|(kid, _)| kid).collect();
        self.shared.store().expire(self.shared.tenant(), &kids, 0)?;
        Ok(())
    }
}

/// The keys of this process, as they are in hand.
pub(super) struct ProcessKeySet {
    /// The process that minted them: a copy of it (`fork`) has the same.
    process: u32,
    keys: BTreeMap<Arc<str>, Minted>,
    /// Schemas that seal with a shared key until they may have one of this process.
    waiting: BTreeSet<Arc<str>>,
    /// Unix seconds before which no key is minted for a schema: inside the pace neither store nor
    /// key service is asked.
    not_before: BTreeMap<Arc<str>, u64>,
    /// Replaced keys, to be written down.
    replaced: Vec<Arc<Key>>,
    /// When uses were last written down, in Unix seconds.
    noted: u64,
}

struct Minted {
    key: Arc<Key>,
    /// Unix seconds.
    created: u64,
}

impl Minted {
    fn seals(&self, now: u64) -> bool {
        now < self.created + SCHEMA_KEY_LIFE && self.key.budget.used() < self.key.budget.limit()
    }

    fn is_due(&self, now: u64) -> bool {
        now.saturating_sub(self.created) >= SCHEMA_KEY_LIFE * AHEAD / 100
            || self.key.budget.used() >= self.key.budget.limit() / 100 * AHEAD
    }
}

impl ProcessKeySet {
    pub(super) fn new() -> Self {
        Self {
            process: std::process::id(),
            keys: BTreeMap::new(),
            waiting: BTreeSet::new(),
            not_before: BTreeMap::new(),
            replaced: Vec::new(),
            noted: 0,
        }
    }

    /// Whether this is another process than the one that minted.
    pub(super) fn is_copied(&self) -> bool {
        self.process != std::process::id()
    }

    pub(super) fn get(&self, kid: &KeyId) -> Option<Arc<Key>> {
        self.keys.values().map(|m| &m.key).chain(&self.replaced).find(|key| key.id == *kid).cloned()
    }

    /// Those that seal. A schema that waits must not find a spent key here: the engine would take
    /// it before the shared one.
    pub(super) fn sealing(&self) -> impl Iterator<Item = Arc<Key>> {
        self.keys
            .iter()
            .filter(|(schema, _)| !self.waiting.contains(*schema))
            .map(|(_, minted)| minted.key.clone())
    }

    /// Schemas for which a key is to be minted now.
    pub(super) fn due(&self, now: u64) -> Vec<Arc<str>> {
        // A clock that went back must not make anybody wait for longer than the pace and its
        // spread.
        let may = |schema: &Arc<str>| {
            self.not_before.get(schema).is_none_or(|until| *until <= now || *until > now + 2 * PACE)
        };
        let due =
            self.keys.iter().filter(|(_, minted)| minted.is_due(now)).map(|(schema, _)| schema);
        due.chain(&self.waiting)
            .filter(|schema| may(schema))
            .cloned()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect()
    }

    /// Schemas with the uses and the time of making of their present key.
    pub(super) fn usage(&self) -> Vec<(Arc<str>, u64, u64)> {
        self.keys
            .iter()
            .map(|(schema, minted)| (schema.clone(), minted.key.budget.used(), minted.created))
            .collect()
    }

    fn uses(&self) -> Vec<(KeyId, u64)> {
        self.keys
            .values()
            .map(|m| &m.key)
            .chain(&self.replaced)
            .map(|key| (key.id, key.budget.used()))
            .collect()
    }
}
