//! Every store keeps the same promises.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

#[cfg(feature = "postgres")]
#[path = "support/ports.rs"]
mod ports;
#[cfg(feature = "postgres")]
#[path = "support/postgres.rs"]
mod server;
#[path = "support/store_suite.rs"]
mod store_suite;

use store_suite::Place;
use tempfile::TempDir;
use veilstream_engine::key::KeyId;
use veilstream_keys::directory;
use veilstream_keys::store::{SqliteStore, Store};

/// A file.
struct Sqlite(TempDir);

impl Sqlite {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        SqliteStore::create(&directory::store(dir.path())).unwrap();
        Self(dir)
    }
}

impl Place for Sqlite {
    fn open(&self) -> Box<dyn Store> {
        Box::new(SqliteStore::open(&directory::store(self.0.path())).unwrap())
    }

    fn damage(&self, kid: &KeyId, column: &str) {
        let value = if column == "version" { "-1" } else { "'fine'" };
        let connection = rusqlite::Connection::open(directory::store(self.0.path())).unwrap();
        assert_eq!(
            connection
                .execute(&format!("UPDATE keys SET {column} = {value} WHERE kid = '{kid}'"), [])
                .unwrap(),
            1
        );
    }

    fn activate(&self, kid: &KeyId) {
        let connection = rusqlite::Connection::open(directory::store(self.0.path())).unwrap();
        assert_eq!(
            connection
                .execute(
                    "UPDATE keys SET state = 'active', retired = NULL WHERE kid = ?1",
                    [kid.to_string()]
                )
                .unwrap(),
            1
        );
    }
}

mod sqlite {
    use super::Sqlite;
    use super::store_suite::{self, store_suite};

    store_suite!(Sqlite::new());
}

#[cfg(feature = "postgres")]
mod postgres {
    use super::server::{Database, server};
    use super::store_suite::{self, Place, store_suite};
    use veilstream_engine::key::KeyId;
    use veilstream_keys::store::{PostgresStore, Store};

    store_suite!(new());

    fn new() -> Database {
        let database = server().database();
        PostgresStore::create(&database.url(), None).unwrap();
        database
    }

    impl Place for Database {
        fn open(&self) -> Box<dyn Store> {
            Box::new(PostgresStore::open(&self.url(), None).unwrap())
        }

        fn damage(&self, kid: &KeyId, column: &str) {
            let value = match column {
                "version" => "-1",
                "kcv" | "mac" => "'\\xab'",
                "created" => "'infinity'",
                "retired" => "'1969-12-31'",
                _ => "'fine'",
            };
            let changed = self
                .admin()
                .execute(
                    &format!(
                        "UPDATE veilstream.keys SET {column} = {value} WHERE kid = '\\x{kid}'"
                    ),
                    &[],
                )
                .unwrap();
            assert_eq!(changed, 1);
        }

        fn activate(&self, kid: &KeyId) {
            let edit = format!(
                "UPDATE veilstream.keys SET state = 'active', retired = NULL WHERE kid = '\\x{kid}'"
            );
            assert_eq!(self.admin().execute(&edit, &[]).unwrap(), 1);
        }
    }
}
