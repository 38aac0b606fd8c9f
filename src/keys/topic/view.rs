//! What the topic says: the last record of each key.

use std::collections::{BTreeMap, BTreeSet};

use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope};
use veilstream_keys::credential::CredentialRow;
use veilstream_keys::store::{Head, HeadJson, KeyRecord, RecordJson, Subjects};

use super::single_writer::Reader;

/// The record that says what the topic is: a mistyped name must not become a second store.
const MARK: &str = "veilstream";
const LAYOUT: &str = r#"{"veilstream_key_store":2}"#;
/// The mark of builds that were never released.
const EARLIER: &str = r#"{"veilstream_key_store":1}"#;
/// The record key of the head.
const HEAD: &str = "head";
/// Begins the record keys of API keys.
const CREDENTIAL: &str = "credential/";

/// Every key, in memory. Keys of data subjects, of which there may be millions, stand apart from
/// those that every process looks at every few seconds.
#[derive(Default)]
pub(super) struct View {
    subjects: BTreeMap<KeyId, KeyRecord>,
    others: BTreeMap<KeyId, KeyRecord>,
    /// Of any tenant and kind: a record tells its own.
    by_scope: BTreeSet<(Scope, KeyId)>,
    /// Keys, by when they were shredded, retired or found compromised.
    ended: BTreeSet<(u64, KeyId)>,
    /// Record keys whose value is no key record, and the member that is not.
    damaged: BTreeMap<String, &'static str>,
    /// API keys, by their ids.
    credentials: BTreeMap<String, CredentialRow>,
    marked: bool,
    earlier: bool,
    head: Option<Head>,
}

impl View {
    /// The mark, as a record.
    pub(super) fn mark() -> (String, String) {
        (MARK.to_owned(), LAYOUT.to_owned())
    }

    /// Whether the topic is a key store.
    pub(super) fn is_marked(&self) -> bool {
        self.marked
    }

    /// Whether it is a key store of an earlier build.
    pub(super) fn is_earlier(&self) -> bool {
        self.earlier
    }

    /// How far the store knows its ledger.
    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// A head, as a record.
    pub(super) fn head_entry(head: &Head) -> (String, String) {
        (HEAD.to_owned(), serde_json::to_string(&HeadJson::from(head)).unwrap_or_default())
    }

    /// The API keys, in the order of their ids.
    pub(super) fn credentials(&self) -> impl Iterator<Item = &CredentialRow> {
        self.credentials.values()
    }

    /// The API key of this id.
    pub(super) fn credential(&self, id: &str) -> Option<&CredentialRow> {
        self.credentials.get(id)
    }

    /// An API key, as a record.
    pub(super) fn credential_entry(row: &CredentialRow) -> (String, String) {
        (format!("{CREDENTIAL}{}", row.id), serde_json::to_string(row).unwrap_or_default())
    }

    /// One that is no row, or another key's, stands there as a row that no MAC fits: it opens
    /// nothing, and is told of.
    fn take_credential(&mut self, id: &str, value: Option<&[u8]>) {
        let Some(value) = value else {
            self.credentials.remove(id);
            return;
        };
        let row = serde_json::from_slice::<CredentialRow>(value).ok().filter(|row| row.id == id);
        let nothing = || CredentialRow {
            id: id.to_owned(),
            sha256: String::new(),
            name: String::new(),
            roles: String::new(),
            created: String::new(),
            expires: String::new(),
            revoked: None,
            mac: String::new(),
        };
        self.credentials.insert(id.to_owned(), row.unwrap_or_else(nothing));
    }

    /// The newest time at which a key of the scope was made, before that one.
    pub(super) fn last_made(
        &self,
        tenant: &str,
        kind: KeyKind,
        scope: &Scope,
        before: u64,
    ) -> Option<u64> {
        self.of_scope(tenant, kind, scope)
            .into_iter()
            .map(|record| record.created)
            .filter(|created| *created < before)
            .max()
    }

    /// What is wrong with the last record of a key; the one before it, if it was read, still holds
    /// the key's place.
    pub(super) fn damage_of(&self, kid: &KeyId) -> Option<&'static str> {
        self.damaged.get(&kid.to_string()).copied()
    }

    /// A damaged record of which nothing else is known: it may be anybody's key.
    pub(super) fn unknown_damage(&self) -> Option<(&String, &'static str)> {
        let is_unknown = |name: &str| name.parse().is_ok_and(|kid| self.get(&kid).is_none());
        self.damaged
            .iter()
            .find(|(name, _)| is_unknown(name) || name.parse::<KeyId>().is_err())
            .map(|(name, what)| (name, *what))
    }

    fn put(&mut self, record: KeyRecord) {
        let kid = record.kid;
        self.remove(&kid);
        self.by_scope.insert((record.scope.clone(), kid));
        let is_over = !matches!(record.state, KeyState::Active | KeyState::DecryptOnly);
        if let Some(retired) = record.retired.filter(|_| is_over) {
            self.ended.insert((retired, kid));
        }
        if is_subject(&record) {
            self.subjects.insert(kid, record);
        } else {
            self.others.insert(kid, record);
        }
    }

    fn remove(&mut self, kid: &KeyId) {
        let Some(old) = self.subjects.remove(kid).or_else(|| self.others.remove(kid)) else {
            return;
        };
        if let Some(retired) = old.retired {
            self.ended.remove(&(retired, *kid));
        }
        self.by_scope.remove(&(old.scope, *kid));
    }

    pub(super) fn get(&self, kid: &KeyId) -> Option<&KeyRecord> {
        self.others.get(kid).or_else(|| self.subjects.get(kid))
    }

    /// Every version of a scope, in the order of their ids.
    pub(super) fn of_scope(&self, tenant: &str, kind: KeyKind, scope: &Scope) -> Vec<&KeyRecord> {
        let of_scope = (scope.clone(), KeyId([0; 16]))..=(scope.clone(), KeyId([u8::MAX; 16]));
        let records = self.by_scope.range(of_scope).filter_map(|(_, kid)| self.get(kid));
        records.filter(|record| &*record.tenant == tenant && record.kind == kind).collect()
    }

    /// Whose place it is: (tenant, kind, scope, version) is one key's, except for keys of
    /// processes.
    pub(super) fn holder(&self, record: &KeyRecord) -> Option<&KeyRecord> {
        if matches!(record.scope, Scope::Schema(_)) {
            return None;
        }
        self.of_scope(&record.tenant, record.kind, &record.scope)
            .into_iter()
            .find(|known| known.version == record.version)
    }

    /// All but those of data subjects, oldest first.
    pub(super) fn list(&self, tenant: &str) -> Vec<KeyRecord> {
        let mut found: Vec<KeyRecord> =
            self.others.values().filter(|record| &*record.tenant == tenant).cloned().collect();
        found.sort_by_cached_key(|record| {
            (
                record.created,
                record.kind.as_str(),
                record.scope.to_string(),
                record.version,
                record.kid,
            )
        });
        found
    }

    pub(super) fn count_subjects(&self, tenant: &str) -> Subjects {
        let mut count = Subjects::default();
        for record in self.subjects.values().filter(|record| &*record.tenant == tenant) {
            match record.state {
                KeyState::Shredded => count.shredded += 1,
                _ => count.keys += 1,
            }
            count.half_shredded +=
                u64::from(record.state == KeyState::Shredded && !record.wraps.is_empty());
        }
        count
    }

    pub(super) fn subjects(
        &self,
        tenant: &str,
        after: Option<&KeyId>,
        limit: usize,
    ) -> Vec<KeyRecord> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, |kid| Excluded(*kid));
        self.subjects
            .range((from, Unbounded))
            .map(|(_, record)| record)
            .filter(|record| &*record.tenant == tenant)
            .take(limit)
            .cloned()
            .collect()
    }

    pub(super) fn count_wrapped_by(&self, kek_uri: &str) -> u64 {
        let all = self.subjects.values().chain(self.others.values());
        all.filter(|record| record.wraps.iter().any(|wrap| wrap.kek_uri == kek_uri)).count() as u64
    }

    /// Active keys of processes.
    pub(super) fn of_processes(&self, tenant: &str) -> impl Iterator<Item = &KeyRecord> {
        let is_one = |record: &&KeyRecord| {
            matches!(record.scope, Scope::Schema(_)) && record.state == KeyState::Active
        };
        self.others.values().filter(move |record| &*record.tenant == tenant).filter(is_one)
    }

    pub(super) fn ended_since(&self, tenant: &str, since: u64) -> Vec<KeyId> {
        let kids = self.ended.range((since, KeyId([0; 16]))..).map(|(_, kid)| *kid);
        kids.filter(|kid| self.get(kid).is_some_and(|record| &*record.tenant == tenant)).collect()
    }
}

impl Reader for View {
    fn take(&mut self, key: &[u8], value: Option<&[u8]>) {
        let name = String::from_utf8_lossy(key).into_owned();
        if name == MARK {
            self.marked = value == Some(LAYOUT.as_bytes());
            self.earlier = value == Some(EARLIER.as_bytes());
            return;
        }
        if let Some(id) = name.strip_prefix(CREDENTIAL) {
            self.take_credential(id, value);
            return;
        }
        self.damaged.remove(&name);
        if name == HEAD {
            self.head = value
                .and_then(|value| serde_json::from_slice::<HeadJson>(value).ok())
                .and_then(|json| json.head());
            if value.is_some() && self.head.is_none() {
                self.damaged.insert(name, "head");
            }
            return;
        }
        let parsed = value.map(|value| {
            serde_json::from_slice::<RecordJson>(value)
                .map_err(|_| "json")
                .and_then(|json| json.record())
        });
        match (parsed, name.parse::<KeyId>()) {
            (Some(Ok(record)), Ok(kid)) if record.kid == kid => self.put(record),
            // Nobody here deletes a key; somebody did, and it is as gone as a deleted row.
            (None, Ok(kid)) => self.remove(&kid),
            (None, Err(_)) => {}
            (Some(Err(what)), _) => drop(self.damaged.insert(name, what)),
            (Some(Ok(_)), _) => drop(self.damaged.insert(name, "kid")),
        }
    }
}

fn is_subject(record: &KeyRecord) -> bool {
    matches!(record.scope, Scope::Subject(_))
}
