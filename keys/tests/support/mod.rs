//! A key directory in a temporary folder, and schemas.

#![allow(dead_code, clippy::unwrap_used, reason = "every test binary takes what it needs; a test ends where it fails")]

use std::sync::Arc;

use tempfile::TempDir;
use veilstream_engine::compile::{self, Grants, SchemaSet};
use veilstream_engine::key::KeyId;
use veilstream_keys::erasure::FileLedger;
use veilstream_keys::provider::{FileProvider, create_kek_file};
use veilstream_keys::store::{KeyRecord, SqliteStore, Store};
use veilstream_keys::{KeyError, Manager, Parts, Settings, directory};

/// Some time in November 2026.
pub(crate) const NOW: u64 = 1_795_500_000;

pub(crate) struct Directory(pub(crate) TempDir);

impl Directory {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        create_kek_file(&directory::kek(dir.path())).unwrap();
        SqliteStore::create(&directory::store(dir.path())).unwrap();
        Self(dir)
    }

    pub(crate) fn provider(&self) -> FileProvider {
        FileProvider::new(directory::kek(self.0.path())).unwrap()
    }

    pub(crate) fn store(&self) -> SqliteStore {
        SqliteStore::open(&directory::store(self.0.path())).unwrap()
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
        Parts { provider: Box::new(self.provider()), recovery: None, store: Box::new(self.store()), ledger: Arc::new(self.ledger()) }
    }

    pub(crate) fn ledger(&self) -> FileLedger {
        FileLedger::new(directory::ledger(self.0.path()))
    }

    pub(crate) fn records(&self) -> Vec<KeyRecord> {
        self.store().list("default").unwrap()
    }

    pub(crate) fn stored(&self, kid: &KeyId) -> KeyRecord {
        self.store().get(&[*kid]).unwrap().remove(0)
    }

    pub(crate) fn scopes(&self, prefix: &str) -> usize {
        self.records().iter().filter(|r| r.scope.to_string().starts_with(prefix)).count()
    }

    /// Changes the store behind everybody's back.
    pub(crate) fn sql(&self, sql: &str) {
        rusqlite::Connection::open(directory::store(self.0.path())).unwrap().execute_batch(sql).unwrap();
    }
}

pub(crate) fn schemas(document: &str) -> SchemaSet {
    let schema = compile::compile(document.as_bytes(), &Grants::local()).unwrap().schema;
    SchemaSet::new(vec![Arc::new(schema)]).unwrap()
}

/// A schema that seals one field under the schema's key.
pub(crate) fn people() -> SchemaSet {
    schemas(r#"{"veilstream":1,"name":"people","version":1,"fields":[{"id":"email","path":"$.email","index":{"normalize":"email"}}]}"#)
}
