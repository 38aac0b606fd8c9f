//! What one schema needs of one keyring: sealers and indexers, made once.

use std::sync::Arc;

use super::connect::Mender;
use super::{NeededKey, Stop, may_seal};
use crate::index::Indexer;
use crate::index_member::RootVersion;
use crate::interop::InteropKeySet;
use crate::key::{Key, KeyKind, Scope};
use crate::keyring::Keyring;
use crate::schema::{IndexRule, Protect, Schema};
use crate::seal::Sealer;
use crate::subject::Referrer;
use crate::token::{FieldId, Suite};

pub(super) struct Plan {
    schema: Arc<Schema>,
    keys: Arc<Keyring>,
    /// The key of `encrypt` without a subject.
    data: Option<Arc<Key>>,
    data_scope: Scope,
    spent: bool,
    /// Some value is sealed with `data`.
    uses_data: bool,
    missing: Vec<NeededKey>,
    /// Per field.
    pub(super) sealers: Vec<Option<Sealer>>,
    /// Per root version and field.
    pub(super) indexers: [Vec<Option<Indexer>>; 2],
    pub(super) key_sealer: Option<Sealer>,
    pub(super) key_indexer: Option<Indexer>,
    /// Per header rule.
    pub(super) header_sealers: Vec<Option<Sealer>>,
    pub(super) header_indexers: Vec<Option<Indexer>>,
    /// Per field: the keys of another system.
    pub(super) interop: Vec<Option<Arc<InteropKeySet>>>,
    /// Mends the schema part of envelopes.
    pub(super) mender: Mender,
    /// `None`: the keyring has no usable key for references.
    pub(super) referrer: Option<Referrer>,
}

impl Plan {
    pub(super) fn new(schema: &Arc<Schema>, keys: &Arc<Keyring>, one_shot: bool) -> Self {
        let own = Scope::Schema(schema.name.clone());
        let shared = Scope::Shared(schema.name.clone());
        let (data, suite) = match keys.sealing(KeyKind::Data, &own).filter(|_| !one_shot) {
            Some(key) => (Some(key.clone()), Suite::AesGcm),
            None => (keys.sealing(KeyKind::Data, &shared).cloned(), Suite::XaesGcm),
        };
        let mut plan = Self {
            schema: schema.clone(),
            keys: keys.clone(),
            data,
            data_scope: if one_shot { shared } else { own },
            spent: false,
            uses_data: false,
            missing: Vec::new(),
            sealers: Vec::new(),
            indexers: [Vec::new(), Vec::new()],
            key_sealer: None,
            key_indexer: None,
            header_sealers: Vec::new(),
            header_indexers: Vec::new(),
            interop: Vec::new(),
            mender: Mender::default(),
            referrer: keys.sealing(KeyKind::SubjectRef, &Scope::Version(1)).and_then(|key| {
                Referrer::new(key, keys.tenant(), schema.subject_domain.as_deref())
            }),
        };
        for field in &schema.fields {
            let interop = field.interop.as_ref();
            plan.interop.push(interop.and_then(|interop| keys.interop().get(interop)).cloned());
            let sealer = match interop {
                Some(_) => None,
                None => plan.sealer(&field.protect, field.fid, suite),
            };
            plan.sealers.push(sealer);
            let newest = field.index.as_ref().and_then(|rule| plan.indexer(rule));
            plan.indexers[RootVersion::Newest as usize].push(newest);
            // A hash has one place only: the newest version takes it.
            let beside = field.index.as_ref().filter(|_| field.protect != Protect::Hash);
            let previous = beside.and_then(|rule| plan.previous_indexer(rule));
            plan.indexers[RootVersion::Previous as usize].push(previous);
        }
        if let Some(rule) = &schema.key {
            plan.key_sealer = plan.sealer(&rule.protect, rule.fid, suite);
            plan.key_indexer = rule.index.as_ref().and_then(|rule| plan.indexer(rule));
        }
        for rule in &schema.headers {
            let sealer = plan.sealer(&rule.protect, rule.fid, suite);
            plan.header_sealers.push(sealer);
            let indexer = rule.index.as_ref().and_then(|rule| plan.indexer(rule));
            plan.header_indexers.push(indexer);
        }
        plan.uses_data = schema.uses_schema_key();
        plan
    }

    pub(super) fn is_for(&self, schema: &Arc<Schema>, keys: &Arc<Keyring>) -> bool {
        Arc::ptr_eq(&self.schema, schema) && Arc::ptr_eq(&self.keys, keys)
    }

    /// Whether every key is here and may seal now; else what to ask for.
    pub(super) fn usable(&self, now: u64) -> Result<(), Stop> {
        let lacks_data = self.uses_data
            && (self.spent || !self.data.as_ref().is_some_and(|key| may_seal(key, now)));
        if self.missing.is_empty() && !lacks_data {
            return Ok(());
        }
        let data = lacks_data.then(|| self.data_key());
        Err(Stop::Need(self.missing.iter().cloned().chain(data).collect()))
    }

    /// Marks the data key as spent; what to ask for.
    pub(super) fn spent(&mut self) -> NeededKey {
        self.spent = true;
        self.data_key()
    }

    pub(super) fn data_key(&self) -> NeededKey {
        NeededKey { kind: KeyKind::Data, scope: self.data_scope.clone() }
    }

    fn sealer(&mut self, protect: &Protect, fid: FieldId, suite: Suite) -> Option<Sealer> {
        match protect {
            Protect::Encrypt => self.data.clone().and_then(|key| Sealer::new(key, suite, fid).ok()),
            Protect::Deterministic(root) => {
                let key = self.root(KeyKind::Deterministic, *root)?;
                Sealer::new(key, Suite::AesSiv, fid).ok()
            }
            _ => None,
        }
    }

    fn indexer(&mut self, rule: &IndexRule) -> Option<Indexer> {
        let newest = self.index_versions().max().unwrap_or(1);
        let key = self.root(KeyKind::Index, rule.root.unwrap_or(newest))?;
        Indexer::of_rule(&key, self.keys.tenant(), rule)
    }

    /// Under the root before the newest, while both are active: the root rotates. Of unique indexes
    /// only.
    fn previous_indexer(&self, rule: &IndexRule) -> Option<Indexer> {
        let newest =
            self.index_versions().max().filter(|_| rule.root.is_none() && rule.is_unique())?;
        let previous = self.index_versions().filter(|version| *version < newest).max()?;
        let root = self.keys.sealing(KeyKind::Index, &Scope::Version(previous))?;
        Indexer::of_rule(root, self.keys.tenant(), rule)
    }

    fn index_versions(&self) -> impl Iterator<Item = u32> {
        self.keys.of_kind(KeyKind::Index).filter(|k| may_seal(k, 0)).map(|k| k.version)
    }

    /// The root of that version; asked for when it is not here.
    fn root(&mut self, kind: KeyKind, version: u32) -> Option<Arc<Key>> {
        let scope = Scope::Version(version);
        let key = self.keys.sealing(kind, &scope).cloned();
        if key.is_none() {
            let needed = NeededKey { kind, scope };
            if !self.missing.contains(&needed) {
                self.missing.push(needed);
            }
        }
        key
    }
}
