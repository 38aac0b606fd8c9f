//! A key directory in a temporary folder, and schemas.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "every test binary takes what it needs; a test ends where it fails"
)]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use veilstream_engine::compile::{self, Grants, SchemaSet};
use veilstream_engine::error::RejectCode;
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_engine::record::{Output, Record};
use veilstream_engine::reveal::{KeySource, Report, RevealOptions, Revealer, Status};
use veilstream_engine::transform::{NeededKey, Outcome, Transformer};
use veilstream_keys::credential::CredentialRow;
use veilstream_keys::erasure::FileLedger;
use veilstream_keys::provider::{FileProvider, create_kek_file};
use veilstream_keys::store::{
    Head, KeyRecord, Plan, Scrubbed, Shredded, SqliteStore, Store, StoreError, StoreKeys, Subjects,
    WrapChange,
};
use veilstream_keys::{KeyError, Manager, OsEntropy, Parts, Settings, directory};

/// Some time in November 2026.
pub(crate) const NOW: u64 = 1_795_500_000;

/// What the two threads of a process do about once a second.
pub(crate) trait Maintain {
    /// Both, one after the other; the first fault.
    fn maintain(&self, now: u64) -> Result<(), KeyError>;
}

impl Maintain for Manager {
    fn maintain(&self, now: u64) -> Result<(), KeyError> {
        let followed = self.follow(now);
        followed.and(self.renew(now))
    }
}

pub(crate) struct Directory(pub(crate) TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        std::fs::create_dir(&keys).unwrap();
        create_kek_file(&directory::kek(&keys)).unwrap();
        SqliteStore::create(&directory::store(&keys)).unwrap();
        let directory = Self(dir);
        Manager::init(Settings::of("default"), directory.parts(), NOW).unwrap();
        directory
    }

    /// The key directory; the ledger stands beside it.
    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("keys")
    }

    pub(crate) fn provider(&self) -> FileProvider {
        FileProvider::new(self.kek()).unwrap()
    }

    pub(crate) fn kek(&self) -> PathBuf {
        directory::kek(&self.path())
    }

    pub(crate) fn store(&self) -> SqliteStore {
        SqliteStore::open(&directory::store(&self.path())).unwrap()
    }

    /// One process that uses the directory.
    pub(crate) fn open(&self) -> Manager {
        self.try_open().unwrap()
    }

    pub(crate) fn try_open(&self) -> Result<Manager, KeyError> {
        self.open_with(Settings::of("default"), NOW)
    }

    pub(crate) fn open_with(&self, settings: Settings, now: u64) -> Result<Manager, KeyError> {
        Manager::open(settings, self.parts(), now)
    }

    pub(crate) fn parts(&self) -> Parts {
        Parts {
            provider: Box::new(self.provider()),
            recovery: None,
            store: Box::new(self.store()),
            ledger: Arc::new(self.ledger()),
        }
    }

    pub(crate) fn ledger(&self) -> FileLedger {
        FileLedger::new(directory::ledger(&self.path()))
    }

    pub(crate) fn records(&self) -> Vec<KeyRecord> {
        self.store().list("default").unwrap()
    }

    pub(crate) fn ledger_path(&self) -> PathBuf {
        directory::ledger(&self.path())
    }

    pub(crate) fn stored(&self, kid: &KeyId) -> KeyRecord {
        self.store().get(&[*kid]).unwrap().remove(0)
    }

    pub(crate) fn scopes(&self, prefix: &str) -> usize {
        self.records().iter().filter(|r| r.scope.to_string().starts_with(prefix)).count()
    }

    /// Changes the store behind everybody's back.
    pub(crate) fn sql(&self, sql: &str) {
        rusqlite::Connection::open(directory::store(&self.path()))
            .unwrap()
            .execute_batch(sql)
            .unwrap();
    }
}

pub(crate) fn schemas(document: &str) -> SchemaSet {
    let schema = compile::compile(document.as_bytes(), &Grants::local()).unwrap().schema;
    SchemaSet::new(vec![Arc::new(schema)]).unwrap()
}

/// A schema that seals one field under the schema's key.
pub(crate) fn people() -> SchemaSet {
    schemas(PEOPLE)
}

/// What is done behind the back of whoever asked.
type Hook = Box<dyn FnOnce() + Send>;

/// How often a store was asked what, and what happens between its answer and whoever asked.
#[derive(Clone, Default)]
pub(crate) struct Asked(
    Arc<Mutex<HashMap<&'static str, usize>>>,
    Arc<Mutex<HashMap<&'static str, Hook>>>,
);

impl Asked {
    pub(crate) fn of(&self, what: &str) -> usize {
        self.0.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    /// Does it once, after the next answer to that question.
    pub(crate) fn after(&self, what: &'static str, hook: impl FnOnce() + Send + 'static) {
        self.1.lock().unwrap().insert(what, Box::new(hook));
    }

    fn answered(&self, what: &'static str) {
        let hook = self.1.lock().unwrap().remove(what);
        if let Some(hook) = hook {
            hook();
        }
    }

    fn count(&self, what: &'static str) {
        *self.0.lock().unwrap().entry(what).or_default() += 1;
    }
}

/// A store that counts what it is asked.
pub(crate) struct Counting(SqliteStore, Asked);

impl Counting {
    pub(crate) fn over(store: SqliteStore) -> (Self, Asked) {
        let asked = Asked::default();
        (Self(store, asked.clone()), asked)
    }
}

macro_rules! counted {
    ($(fn $name:ident($($arg:ident: $of:ty),*) -> $answer:ty;)*) => {
        impl Store for Counting {
            fn place(&self) -> String {
                self.0.place()
            }
            $(fn $name(&self, $($arg: $of),*) -> Result<$answer, StoreError> {
                self.1.count(stringify!($name));
                let answer = self.0.$name($($arg),*);
                self.1.answered(stringify!($name));
                answer
            })*

            fn erase(
                &self,
                tenant: &str,
                subjects: &[SubjectRef],
                keys: &StoreKeys,
                now: u64,
                plan: &mut Plan<'_>,
            ) -> Result<Vec<Shredded>, StoreError> {
                self.1.count("erase");
                self.0.erase(tenant, subjects, keys, now, plan)
            }
        }
    };
}

/// The methods of a store that hand their arguments on as they are, for a macro that wraps them.
macro_rules! plain_methods {
    ($wrapper:ident) => {
        $wrapper! {
            fn get(kids: &[KeyId]) -> Vec<KeyRecord>;
            fn find(tenant: &str, kind: KeyKind, scopes: &[Scope]) -> Vec<KeyRecord>;
            fn list(tenant: &str) -> Vec<KeyRecord>;
            fn shared(tenant: &str) -> Vec<KeyRecord>;
            fn count_subjects(tenant: &str) -> Subjects;
            fn subjects(tenant: &str, after: Option<&KeyId>, limit: usize) -> Vec<KeyRecord>;
            fn count_wrapped_by(kek_uri: &str) -> u64;
            fn insert(records: &[KeyRecord]) -> Vec<KeyRecord>;
            fn insert_paced(record: &KeyRecord, pace: u64) -> bool;
            fn import(records: &[KeyRecord]) -> Vec<KeyId>;
            fn last_made(tenant: &str, kind: KeyKind, scope: &Scope, before: u64) -> Option<u64>;
            fn head() -> Option<Head>;
            fn found(store_key: &KeyRecord, head: &Head) -> ();
            fn expire(tenant: &str, kids: &[KeyId], before: u64, keys: &StoreKeys) -> ();
            fn save_uses(uses: &[(KeyId, u64)]) -> ();
            fn set_state(kids: &[KeyId], state: KeyState, retired: Option<u64>, keys: &StoreKeys) -> ();
            fn replace_wraps(changes: &[WrapChange]) -> u64;
            fn ended_since(tenant: &str, since: u64) -> Vec<KeyId>;
            fn scrub() -> Scrubbed;
            fn credentials() -> Vec<CredentialRow>;
            fn add_credential(row: &CredentialRow) -> bool;
            fn revoke_credential(row: &CredentialRow) -> bool;
        }
    };
}

plain_methods!(counted);

/// A schema whose values are a data subject's.
pub(crate) fn customers() -> SchemaSet {
    schemas(CUSTOMERS)
}

const CUSTOMERS: &str = r#"{"veilstream":1,"name":"customers","version":1,"when":{"$.type":"customer"},"subject":"$.id","fields":[{"id":"name","path":"$.name"}]}"#;
const PEOPLE: &str = r#"{"veilstream":1,"name":"people","version":1,"fields":[{"id":"email","path":"$.email","index":{"normalize":"email"}}]}"#;

pub(crate) fn subject(n: u8) -> NeededKey {
    subject_number(u32::from(n))
}

pub(crate) fn subject_number(n: u32) -> NeededKey {
    let mut reference = [0; 16];
    reference[..4].copy_from_slice(&n.to_be_bytes());
    NeededKey { kind: KeyKind::Data, scope: Scope::Subject(SubjectRef(reference)) }
}

/// One process that protects and reveals.
pub(crate) struct Process {
    pub(crate) manager: Manager,
    set: SchemaSet,
    transformer: Transformer,
    revealer: Revealer,
}

impl Process {
    pub(crate) fn start(dir: &Directory, now: u64) -> Self {
        Self::with(dir.open_with(Settings::of("default"), now).unwrap(), now)
    }

    pub(crate) fn with(manager: Manager, now: u64) -> Self {
        let set = SchemaSet::new(
            [CUSTOMERS, PEOPLE]
                .map(|d| Arc::new(compile::compile(d.as_bytes(), &Grants::local()).unwrap().schema))
                .to_vec(),
        )
        .unwrap();
        manager.prepare(&set, now).unwrap();
        Self {
            manager,
            set,
            transformer: Transformer::new(Box::new(OsEntropy)),
            revealer: Revealer::default(),
        }
    }

    /// The key of a data subject, as the engine asks for it.
    pub(crate) fn needed(&self, id: &str) -> NeededKey {
        NeededKey {
            kind: KeyKind::Data,
            scope: Scope::Subject(self.manager.subject_ref(id, None, NOW).unwrap()),
        }
    }

    /// The event and what became of it.
    pub(crate) fn protect(&mut self, event: &str, now: u64) -> (String, String) {
        (event.to_owned(), self.try_protect(event, now).unwrap())
    }

    pub(crate) fn try_protect(&mut self, event: &str, now: u64) -> Result<String, RejectCode> {
        let record = Record { value: Some(event.as_bytes()), now, ..Record::default() };
        let mut out = Output::default();
        for _ in 0..3 {
            match self.transformer.transform(&self.set, &self.manager.keyring(), &record, &mut out)
            {
                Outcome::Protected(_) => return Ok(String::from_utf8(out.value).unwrap()),
                Outcome::Rejected(reject) => return Err(reject.code),
                Outcome::NeedKeys(needed) => {
                    self.transformer.add_subject_keys(self.manager.fetch(&needed, now).unwrap())
                }
            }
        }
        panic!("keys are there and do not seal");
    }

    /// What a protected event opens to: the event, or what is left of it.
    pub(crate) fn reveal(&mut self, output: &str, now: u64) -> String {
        self.reveal_status(output, now).0
    }

    /// With what became of the one field.
    pub(crate) fn reveal_status(&mut self, output: &str, now: u64) -> (String, Status) {
        let schema = &self.set.schemas()[usize::from(!output.contains(r#""type":"customer""#))];
        let ring = self.manager.keyring();
        let lookup = |kid: &KeyId| self.manager.lookup(kid, now).unwrap();
        let keys = KeySource { keyring: &ring, lookup: &lookup };
        let (mut out, mut report) = (Vec::new(), Report::default());
        self.revealer
            .reveal(
                schema,
                keys,
                output.as_bytes(),
                &RevealOptions::default(),
                &mut out,
                &mut report,
            )
            .unwrap();
        (String::from_utf8(out).unwrap(), report.fields[0].1)
    }
}

/// A store that loses its turn once, after the plan was asked and before anything is stored:
/// somebody else erases in between, as with a fenced producer.
pub(crate) struct Fenced(Counting, Mutex<Option<(Manager, SubjectRef)>>);

impl Fenced {
    pub(crate) fn new(store: SqliteStore, other: Manager, subject: SubjectRef) -> Self {
        Self(Counting::over(store).0, Mutex::new(Some((other, subject))))
    }
}

macro_rules! passed_on {
    ($(fn $name:ident($($arg:ident: $of:ty),*) -> $answer:ty;)*) => {
        impl Store for Fenced {
            fn place(&self) -> String {
                self.0.place()
            }
            $(fn $name(&self, $($arg: $of),*) -> Result<$answer, StoreError> {
                self.0.$name($($arg),*)
            })*

            fn erase(
                &self,
                tenant: &str,
                subjects: &[SubjectRef],
                keys: &StoreKeys,
                now: u64,
                plan: &mut Plan<'_>,
            ) -> Result<Vec<Shredded>, StoreError> {
                if let Some((other, subject)) = self.1.lock().unwrap().take() {
                    let scopes: Vec<Scope> = subjects.iter().map(|subject| Scope::Subject(*subject)).collect();
                    plan(&self.head()?.unwrap(), &self.find(tenant, KeyKind::Data, &scopes)?)?;
                    let terms = veilstream_keys::erasure::Terms { reason: "in between", domain: None, may_return: false, backups_until: None, remains: &[] };
                    other.shred(&[subject], &terms, now).unwrap();
                }
                self.0.erase(tenant, subjects, keys, now, plan)
            }
        }
    };
}

plain_methods!(passed_on);
