//! Key store `kafka:<topic>`: a compacted topic, in which the last record of each key counts.
//! Changes come one after another ([`SingleWriter`]), so no two processes ever have one place, and
//! what was erased cannot come back by a change that did not know.

mod changes;
mod credentials;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_keys::credential::CredentialRow;
use veilstream_keys::store::{
    Head, KeyRecord, Plan, RecordJson, Scrubbed, Shredded, Store, StoreError, StoreKeys, Subjects,
    WrapChange,
};

use super::error::KeyTopicError;
use super::single_writer::{self, SingleWriter};
use super::view::View;
use crate::config::Kafka;
use crate::kafka::topics::{Topics, alter_command};

/// The longest a broker may leave an overwritten record in the topic: an erasure counts on it.
const LAG_MAX: Duration = Duration::from_secs(7 * 86400);
/// What `keys init` asks for, in milliseconds: a day.
const LAG: &str = "86400000";

/// A compacted topic.
pub struct KafkaStore {
    place: String,
    /// How long an overwritten record may stay, as the topic is configured.
    lag: Duration,
    inner: Mutex<StoreState>,
}

struct StoreState {
    topic: SingleWriter,
    view: View,
}

impl StoreState {
    fn catch_up(&mut self) -> Result<(), KeyTopicError> {
        self.topic.catch_up(&mut self.view)
    }
}

impl KafkaStore {
    /// Makes the topic, if it is not there, and marks it as a key store.
    ///
    /// # Errors
    /// It is a key store already, holds something else, or is not configured as it must be.
    pub fn create(kafka: &Kafka, topic: &str) -> Result<Self, StoreError> {
        let unusable = unusable_of(topic);
        let make = |topics: Topics| {
            single_writer::make(
                &topics,
                topic,
                &[("cleanup.policy", "compact"), ("max.compaction.lag.ms", LAG)],
            )
        };
        Topics::connect(kafka).map_err(KeyTopicError::from).and_then(make).map_err(&unusable)?;
        let store = Self::connect(kafka, topic)?;
        {
            let inner = &mut *store.lock();
            inner.catch_up().map_err(&unusable)?;
            if inner.view.is_marked() {
                return Err(unusable(KeyTopicError::Exists));
            }
            if !inner.topic.is_empty() {
                return Err(unusable(KeyTopicError::Foreign));
            }
            inner.topic.write(&mut inner.view, |_| (vec![View::mark()], ())).map_err(&unusable)?;
        }
        Ok(store)
    }

    /// Opens a topic that [`KafkaStore::create`] marked, and reads it.
    ///
    /// # Errors
    /// It is not there, no key store, or not configured as it must be.
    pub fn open(kafka: &Kafka, topic: &str) -> Result<Self, StoreError> {
        let store = Self::connect(kafka, topic)?;
        {
            let current = store.current()?;
            if current.view.is_earlier() {
                return Err(store.unusable(&KeyTopicError::Earlier));
            }
            if !current.view.is_marked() {
                return Err(store.unusable(&KeyTopicError::NoStore));
            }
        }
        Ok(store)
    }

    fn connect(kafka: &Kafka, topic: &str) -> Result<Self, StoreError> {
        let unusable = unusable_of(topic);
        let topics = Topics::connect(kafka).map_err(KeyTopicError::from).map_err(&unusable)?;
        let facts = single_writer::described(&topics, topic).map_err(&unusable)?;
        let alter = |setting, value| alter_command(topics.servers(), topic, &[(setting, value)]);
        if !facts.compacted || facts.deletes {
            return Err(unusable(KeyTopicError::Uncompacted(alter("cleanup.policy", "compact"))));
        }
        let lag = Duration::from_millis(facts.max_compaction_lag_ms);
        if lag > LAG_MAX {
            return Err(unusable(KeyTopicError::CompactedLate(alter(
                "max.compaction.lag.ms",
                LAG,
            ))));
        }
        let inner = StoreState {
            topic: SingleWriter::new(kafka, topic).map_err(&unusable)?,
            view: View::default(),
        };
        Ok(Self { place: format!("kafka:{topic}"), lag, inner: Mutex::new(inner) })
    }

    fn lock(&self) -> MutexGuard<'_, StoreState> {
        // A panic leaves a view that lacks records at most, and the next look reads on from where
        // it was.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unusable(&self, error: &KeyTopicError) -> StoreError {
        StoreError::Unusable { place: self.place.clone(), message: error.to_string() }
    }

    fn damaged(&self, kid: String, what: &'static str) -> StoreError {
        StoreError::Row { place: self.place.clone(), kid, what }
    }

    /// A damaged record of which nothing else is known may be the key of any scope.
    fn sound(&self, view: &View) -> Result<(), StoreError> {
        view.unknown_damage().map_or(Ok(()), |(kid, what)| Err(self.damaged(kid.clone(), what)))
    }

    /// The topic as it is: what another process made or erased before the question is in it.
    fn current(&self) -> Result<MutexGuard<'_, StoreState>, StoreError> {
        let mut inner = self.lock();
        inner.catch_up().map_err(|error| self.unusable(&error))?;
        Ok(inner)
    }

    fn ask<T>(&self, ask: impl FnOnce(&View) -> T) -> Result<T, StoreError> {
        let inner = self.current()?;
        self.sound(&inner.view)?;
        Ok(ask(&inner.view))
    }

    fn write<T>(&self, change: impl Fn(&View) -> (Vec<KeyRecord>, T)) -> Result<T, StoreError> {
        self.write_with_head(&mut self.lock(), |view| {
            let (records, done) = change(view);
            (records, None, done)
        })
    }

    /// A change that may fail by itself; then nothing is written.
    fn try_write<T>(
        &self,
        change: impl Fn(&View) -> Result<(Vec<KeyRecord>, T), StoreError>,
    ) -> Result<T, StoreError> {
        self.write(|view| match change(view) {
            Ok((records, done)) => (records, Ok(done)),
            Err(error) => (Vec::new(), Err(error)),
        })?
    }

    fn write_with_head<T>(
        &self,
        inner: &mut StoreState,
        change: impl Fn(&View) -> (Vec<KeyRecord>, Option<Head>, T),
    ) -> Result<T, StoreError> {
        let as_text = |record: &KeyRecord| {
            (
                record.kid.to_string(),
                serde_json::to_string(&RecordJson::from(record)).unwrap_or_default(),
            )
        };
        let done = inner.topic.write(&mut inner.view, |view| {
            if view.unknown_damage().is_some() {
                return (Vec::new(), None);
            }
            let (records, head, done) = change(view);
            (
                records.iter().map(as_text).chain(head.as_ref().map(View::head_entry)).collect(),
                Some(done),
            )
        });
        let done = done.map_err(|error| self.unusable(&error))?;
        self.sound(&inner.view)?;
        done.ok_or_else(|| self.unusable(&KeyTopicError::Damaged))
    }
}

impl Store for KafkaStore {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn get(&self, kids: &[KeyId]) -> Result<Vec<KeyRecord>, StoreError> {
        let wanted: BTreeSet<&KeyId> = kids.iter().collect();
        let inner = self.current()?;
        match wanted.iter().find_map(|kid| Some((kid, inner.view.damage_of(kid)?))) {
            Some((kid, what)) => Err(self.damaged(kid.to_string(), what)),
            None => Ok(wanted.iter().filter_map(|kid| inner.view.get(kid).cloned()).collect()),
        }
    }

    fn find(
        &self,
        tenant: &str,
        kind: KeyKind,
        scopes: &[Scope],
    ) -> Result<Vec<KeyRecord>, StoreError> {
        self.ask(|view| {
            scopes.iter().flat_map(|scope| view.of_scope(tenant, kind, scope)).cloned().collect()
        })
    }

    fn list(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError> {
        self.ask(|view| view.list(tenant))
    }

    fn shared(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError> {
        let all = self.list(tenant)?;
        Ok(all.into_iter().filter(|record| !matches!(record.scope, Scope::Schema(_))).collect())
    }

    fn count_subjects(&self, tenant: &str) -> Result<Subjects, StoreError> {
        self.ask(|view| view.count_subjects(tenant))
    }

    fn subjects(
        &self,
        tenant: &str,
        after: Option<&KeyId>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        self.ask(|view| view.subjects(tenant, after, limit))
    }

    fn count_wrapped_by(&self, kek_uri: &str) -> Result<u64, StoreError> {
        self.ask(|view| view.count_wrapped_by(kek_uri))
    }

    fn last_made(
        &self,
        tenant: &str,
        kind: KeyKind,
        scope: &Scope,
        before: u64,
    ) -> Result<Option<u64>, StoreError> {
        self.ask(|view| view.last_made(tenant, kind, scope, before))
    }

    fn head(&self) -> Result<Option<Head>, StoreError> {
        self.ask(|view| view.head().cloned())
    }

    fn found(&self, store_key: &KeyRecord, head: &Head) -> Result<(), StoreError> {
        // A try whose answer was lost is found again as what it wrote.
        self.write_with_head(&mut self.lock(), |view| match view.head() {
            None => (vec![store_key.clone()], Some(head.clone()), Ok(())),
            Some(known) if known == head => (Vec::new(), None, Ok(())),
            Some(_) => (Vec::new(), None, Err(self.unusable(&KeyTopicError::Exists))),
        })?
    }

    fn insert(&self, records: &[KeyRecord]) -> Result<Vec<KeyRecord>, StoreError> {
        self.write(|view| {
            let mut new = BTreeMap::new();
            let held = records.iter().map(|record| {
                let place = (&record.tenant, record.kind.as_str(), &record.scope, record.version);
                match view.holder(record).or_else(|| view.get(&record.kid)) {
                    Some(holder) => holder.clone(),
                    None => (*new.entry(place).or_insert(record)).clone(),
                }
            });
            let held: Vec<KeyRecord> = held.collect();
            (new.into_values().cloned().collect(), held)
        })
    }

    fn insert_paced(&self, record: &KeyRecord, pace: u64) -> Result<bool, StoreError> {
        let recent = record.created.saturating_sub(pace) + 1..record.created + pace;
        // A try whose answer was lost is found again as what it wrote.
        let tried = Cell::new(false);
        self.write(|view| {
            if tried.get() && view.get(&record.kid).is_some() {
                return (Vec::new(), true);
            }
            let versions = view.of_scope(&record.tenant, record.kind, &record.scope);
            if versions
                .iter()
                .any(|known| recent.contains(&known.created) && known.kid != record.kid)
            {
                return (Vec::new(), false);
            }
            tried.set(true);
            (vec![record.clone()], true)
        })
    }

    fn import(&self, records: &[KeyRecord]) -> Result<Vec<KeyId>, StoreError> {
        self.write(|view| {
            let (mut new, mut left_out): (Vec<KeyRecord>, _) = (Vec::new(), Vec::new());
            for record in records.iter().filter(|record| view.get(&record.kid).is_none()) {
                let is_taken = new.iter().any(|other| {
                    !matches!(record.scope, Scope::Schema(_))
                        && (&other.tenant, other.kind, &other.scope, other.version)
                            == (&record.tenant, record.kind, &record.scope, record.version)
                });
                if is_taken || view.holder(record).is_some() {
                    left_out.push(record.kid);
                } else {
                    new.push(record.clone());
                }
            }
            (new, left_out)
        })
    }

    fn expire(
        &self,
        tenant: &str,
        kids: &[KeyId],
        before: u64,
        keys: &StoreKeys,
    ) -> Result<(), StoreError> {
        self.try_write(|view| {
            let due = view
                .of_processes(tenant)
                .filter(|record| record.created < before || kids.contains(&record.kid));
            Ok((self.changed(due, KeyState::DecryptOnly, |_| None, keys)?, ()))
        })
    }

    fn save_uses(&self, uses: &[(KeyId, u64)]) -> Result<(), StoreError> {
        self.write(|view| {
            let counted = uses.iter().filter_map(|(kid, count)| Some((view.get(kid)?, *count)));
            let changed = counted.filter(|(record, count)| record.uses != Some(*count));
            (
                changed
                    .map(|(record, count)| KeyRecord { uses: Some(count), ..record.clone() })
                    .collect(),
                (),
            )
        })
    }

    fn set_state(
        &self,
        kids: &[KeyId],
        state: KeyState,
        retired: Option<u64>,
        keys: &StoreKeys,
    ) -> Result<(), StoreError> {
        self.try_write(|view| {
            let known = kids
                .iter()
                .filter_map(|kid| view.get(kid))
                .filter(|record| record.state != KeyState::Shredded);
            // One that was edited is looked at, whatever it says of itself.
            let differs = known.filter(|record| {
                (record.state, record.retired) != (state, retired) || !keys.holds(record)
            });
            Ok((self.changed(differs, state, |_| retired, keys)?, ()))
        })
    }

    fn replace_wraps(&self, changes: &[WrapChange]) -> Result<u64, StoreError> {
        self.write(|view| {
            let mut changed: BTreeMap<KeyId, KeyRecord> = BTreeMap::new();
            let mut replaced = 0;
            for WrapChange { kid, old, new } in changes {
                let Some(record) = changed.get(kid).or_else(|| view.get(kid)) else { continue };
                let mut wraps = record.wraps.clone();
                let is_there = old.as_ref().map_or(!wraps.is_empty(), |old| wraps.contains(old));
                if is_there {
                    wraps.retain(|wrap| Some(wrap) != old.as_ref() && wrap.kek_uri != new.kek_uri);
                    wraps.push(new.clone());
                    wraps.sort_by(|a, b| a.kek_uri.cmp(&b.kek_uri));
                    let record = KeyRecord { wraps, ..record.clone() };
                    changed.insert(*kid, record);
                    replaced += 1;
                }
            }
            (changed.into_values().collect(), replaced)
        })
    }

    fn erase(
        &self,
        tenant: &str,
        subjects: &[SubjectRef],
        keys: &StoreKeys,
        now: u64,
        plan: &mut Plan<'_>,
    ) -> Result<Vec<Shredded>, StoreError> {
        let inner = &mut *self.lock();
        // With a turn that was had before, somebody else could be planning too.
        inner.topic.yield_turn();
        let plan = RefCell::new(plan);
        self.write_with_head(inner, |view| {
            match self.planned(view, tenant, subjects, keys, now, &mut **plan.borrow_mut()) {
                Ok((changed, head, done)) => (changed, Some(head), Ok(done)),
                Err(error) => (Vec::new(), None, Err(error)),
            }
        })?
    }

    fn ended_since(&self, tenant: &str, since: u64) -> Result<Vec<KeyId>, StoreError> {
        self.ask(|view| view.ended_since(tenant, since))
    }

    /// The broker compacts when it must, and not when it is asked.
    fn scrub(&self) -> Result<Scrubbed, StoreError> {
        let lag = jiff::SignedDuration::try_from(self.lag).unwrap_or_default();
        let until = format!(
            "overwritten records of {} until the brokers have compacted it: {lag:#} after they \
            were overwritten (max.compaction.lag.ms), and a run of the cleaner",
            self.place
        );
        Ok(Scrubbed { remains: vec![until] })
    }

    fn credentials(&self) -> Result<Vec<CredentialRow>, StoreError> {
        Ok(self.current()?.view.credentials().cloned().collect())
    }

    fn add_credential(&self, row: &CredentialRow) -> Result<bool, StoreError> {
        // A try whose answer was lost is found again as what it wrote: nobody else has its id.
        self.write_credential(row, |known| known.map(|known| known == row))
    }

    fn revoke_credential(&self, row: &CredentialRow) -> Result<bool, StoreError> {
        // Two who revoke within a second write the same row, so one whose answer was lost is told
        // that it was revoked before.
        self.write_credential(row, |known| {
            let is_due = known.is_some_and(|known| known.revoked.is_none());
            (!is_due).then_some(false)
        })
    }
}

fn unusable_of(topic: &str) -> impl Fn(KeyTopicError) -> StoreError {
    let place = format!("kafka:{topic}");
    move |error| StoreError::Unusable { place: place.clone(), message: error.to_string() }
}
