//! Store `sqlite`: one file, several processes on one host.

use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, Transaction, TransactionBehavior, params};
use veilstream_engine::key::{KeyId, KeyKind, Scope};

use super::{KeyRecord, Store, StoreError, Wrap};

/// Layout of the file; raised when it changes.
const LAYOUT: i64 = 1;
/// How long a process waits for another one's write.
const BUSY: Duration = Duration::from_secs(10);

/// `uses` is beside the two tables of the public format: a reader of those need not know it.
const TABLES: &str = "
CREATE TABLE keys (kid TEXT PRIMARY KEY, kcv TEXT NOT NULL, kind TEXT NOT NULL, tenant TEXT NOT NULL, scope TEXT NOT NULL, version INTEGER NOT NULL,
                   state TEXT NOT NULL, created TEXT NOT NULL, retired TEXT);
CREATE TABLE wraps (kid TEXT NOT NULL, kek_uri TEXT NOT NULL, kek_version TEXT NOT NULL, wrapped BLOB NOT NULL, PRIMARY KEY (kid, kek_uri));
CREATE TABLE uses (kid TEXT PRIMARY KEY, uses INTEGER NOT NULL);
CREATE UNIQUE INDEX keys_one_per_version ON keys (tenant, kind, scope, version) WHERE scope NOT LIKE 'schema:%';
CREATE INDEX keys_by_scope ON keys (tenant, kind, scope);
";
const COLUMNS: &str = "k.kid, k.kcv, k.kind, k.tenant, k.scope, k.version, k.state, k.created, k.retired, u.uses FROM keys k LEFT JOIN uses u ON u.kid = k.kid";

/// A SQLite file in WAL mode with `secure_delete`.
pub struct SqliteStore {
    place: String,
    connection: Mutex<Connection>,
}

impl SqliteStore {
    /// Makes the file (mode 0600) with empty tables. Never touches one that exists.
    ///
    /// # Errors
    /// It exists or cannot be written.
    pub fn create(path: &Path) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|e| StoreError::Unusable { place: place.clone(), message: format!("cannot be made ({e})") })?;
        let store = Self::connect(path, place)?;
        let write = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute_batch(TABLES)?;
            transaction.pragma_update(None, "user_version", LAYOUT)?;
            transaction.commit()
        };
        let written = write(&mut store.lock());
        written.map_err(|e| store.unusable(&e))?;
        Ok(store)
    }

    /// Opens a file that [`SqliteStore::create`] made. A path that does not exist is a fault: a new store in its place would hold none of the keys.
    ///
    /// # Errors
    /// It is not there, not readable or of another layout.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        if !path.exists() {
            return Err(StoreError::Unusable { place, message: "is not there; make it with `veilstream keys init`, or correct the path".to_owned() });
        }
        let store = Self::connect(path, place)?;
        let layout: i64 = store.ask(|c| c.query_row("PRAGMA user_version", [], |row| row.get(0)))?;
        if layout == LAYOUT {
            return Ok(store);
        }
        let message = if layout == 0 {
            "is no key store; name the file that `veilstream keys init` made".to_owned()
        } else {
            format!("has layout {layout}, this version reads {LAYOUT}; use a newer veilstream")
        };
        Err(StoreError::Unusable { place: store.place, message })
    }

    fn connect(path: &Path, place: String) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connect = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
            // A key must survive a power cut before its first use: in WAL mode only FULL syncs each commit.
            connection.pragma_update(None, "synchronous", "FULL")?;
            connection.pragma_update_and_check(None, "secure_delete", "ON", |_| Ok(()))?;
            Ok(connection)
        };
        match connect() {
            Ok(connection) => Ok(Self { place, connection: Mutex::new(connection) }),
            Err(e) => Err(unusable(&place, &e)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic inside a transaction rolled it back; the connection is as good as before.
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn unusable(&self, error: &rusqlite::Error) -> StoreError {
        unusable(&self.place, error)
    }

    fn ask<T>(&self, ask: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        ask(&self.lock()).map_err(|e| self.unusable(&e))
    }

    /// One write transaction, which waits for those of other processes at its start and not in its middle.
    fn write<T>(&self, write: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let run = || {
            let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = write(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        run().map_err(|e| self.unusable(&e))
    }

    fn records(&self, rows: Vec<Raw>) -> Result<Vec<KeyRecord>, StoreError> {
        rows.into_iter().map(|raw| raw.record(&self.place)).collect()
    }
}

impl Store for SqliteStore {
    fn get(&self, kid: &KeyId) -> Result<Option<KeyRecord>, StoreError> {
        let raw = self.ask(|c| {
            let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} WHERE k.kid = ?1"))?;
            let raw = statement.query_row([kid.to_string()], Raw::read).optional()?;
            raw.map(|raw| raw.with_wraps(c)).transpose()
        })?;
        raw.map(|raw| raw.record(&self.place)).transpose()
    }

    fn find(&self, tenant: &str, kind: KeyKind, scopes: &[Scope]) -> Result<Vec<KeyRecord>, StoreError> {
        let rows = self.ask(|c| {
            let mut rows = Vec::new();
            for scope in scopes {
                let mut statement = c.prepare_cached(&format!("SELECT {COLUMNS} WHERE k.tenant = ?1 AND k.kind = ?2 AND k.scope = ?3"))?;
                let found: Vec<Raw> = statement.query_map(params![tenant, kind.as_str(), scope.to_string()], Raw::read)?.collect::<Result<_, _>>()?;
                for raw in found {
                    rows.push(raw.with_wraps(c)?);
                }
            }
            Ok(rows)
        })?;
        self.records(rows)
    }

    fn list(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError> {
        let rows = self.ask(|c| {
            let mut statement = c.prepare_cached(&format!(
                "SELECT {COLUMNS} WHERE k.tenant = ?1 AND k.scope NOT LIKE 'subject:%' ORDER BY k.created, k.kind, k.scope, k.version"
            ))?;
            let found: Vec<Raw> = statement.query_map([tenant], Raw::read)?.collect::<Result<_, _>>()?;
            found.into_iter().map(|raw| raw.with_wraps(c)).collect()
        })?;
        self.records(rows)
    }

    fn count_subjects(&self, tenant: &str) -> Result<u64, StoreError> {
        self.ask(|c| c.query_row("SELECT count(*) FROM keys WHERE tenant = ?1 AND scope LIKE 'subject:%'", [tenant], |row| row.get::<_, i64>(0)))
            .map(i64::unsigned_abs)
    }

    fn insert(&self, records: &[KeyRecord]) -> Result<Vec<KeyRecord>, StoreError> {
        let rows = self.write(|t| {
            let mut rows = Vec::with_capacity(records.len());
            for record in records {
                add(t, record)?;
                let mut statement = t.prepare_cached(&format!("SELECT {COLUMNS} WHERE k.tenant = ?1 AND k.kind = ?2 AND k.scope = ?3 AND k.version = ?4"))?;
                let raw = statement.query_row(params![&*record.tenant, record.kind.as_str(), record.scope.to_string(), record.version], Raw::read)?;
                rows.push(raw.with_wraps(t)?);
            }
            Ok(rows)
        })?;
        self.records(rows)
    }

    fn insert_paced(&self, record: &KeyRecord, pace: u64) -> Result<bool, StoreError> {
        self.write(|t| {
            let mut statement =
                t.prepare_cached("SELECT EXISTS (SELECT 1 FROM keys WHERE tenant = ?1 AND kind = ?2 AND scope = ?3 AND created > ?4 AND created < ?5)")?;
            // A clock that went back leaves keys in the future: those count as well, but only for as long as others do.
            let (from, to) = (time(record.created.saturating_sub(pace)), time(record.created + pace));
            let recent: bool = statement.query_row(params![&*record.tenant, record.kind.as_str(), record.scope.to_string(), from, to], |row| row.get(0))?;
            if !recent {
                add(t, record)?;
            }
            Ok(!recent)
        })
    }

    fn expire(&self, tenant: &str, kids: &[KeyId], before: u64) -> Result<(), StoreError> {
        self.write(|t| {
            const ACTIVE: &str = "UPDATE keys SET state = 'decrypt_only' WHERE state = 'active' AND scope LIKE 'schema:%'";
            t.execute(&format!("{ACTIVE} AND tenant = ?1 AND created < ?2"), params![tenant, time(before)])?;
            for kid in kids {
                t.execute(&format!("{ACTIVE} AND kid = ?1"), [kid.to_string()])?;
            }
            Ok(())
        })
    }

    fn save_uses(&self, uses: &[(KeyId, u64)]) -> Result<(), StoreError> {
        self.write(|t| {
            for (kid, count) in uses {
                t.execute(
                    "INSERT INTO uses VALUES (?1, ?2) ON CONFLICT (kid) DO UPDATE SET uses = excluded.uses",
                    params![kid.to_string(), i64::try_from(*count).unwrap_or(i64::MAX)],
                )?;
            }
            Ok(())
        })
    }
}

/// Adds a key and its wraps, unless another has its place.
fn add(t: &Transaction<'_>, record: &KeyRecord) -> rusqlite::Result<()> {
    let kid = record.kid.to_string();
    let kcv: String = record.kcv.iter().map(|b| format!("{b:02x}")).collect();
    let mut statement = t.prepare_cached("INSERT INTO keys VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9) ON CONFLICT DO NOTHING")?;
    let added = statement.execute(params![
        kid,
        kcv,
        record.kind.as_str(),
        &*record.tenant,
        record.scope.to_string(),
        record.version,
        record.state.as_str(),
        time(record.created),
        record.retired.map(time),
    ])?;
    if added == 1 {
        let mut statement = t.prepare_cached("INSERT INTO wraps VALUES (?1, ?2, ?3, ?4)")?;
        for wrap in &record.wraps {
            statement.execute(params![kid, wrap.kek_uri, wrap.kek_version, wrap.wrapped])?;
        }
    }
    Ok(())
}

/// A row as it stands there.
struct Raw {
    kid: String,
    columns: Vec<Value>,
    wraps: Vec<Wrap>,
}

impl Raw {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self { kid: row.get(0)?, columns: (1..10).map(|i| row.get(i)).collect::<Result<_, _>>()?, wraps: Vec::new() })
    }

    fn with_wraps(mut self, c: &Connection) -> rusqlite::Result<Self> {
        let mut statement = c.prepare_cached("SELECT kek_uri, kek_version, wrapped FROM wraps WHERE kid = ?1 ORDER BY kek_uri")?;
        let wraps = statement.query_map([&self.kid], |row| Ok(Wrap { kek_uri: row.get(0)?, kek_version: row.get(1)?, wrapped: row.get(2)? }))?;
        self.wraps = wraps.collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// Checks every column: a row edited by hand must not turn into another key.
    fn record(self, place: &str) -> Result<KeyRecord, StoreError> {
        let damaged = |what| StoreError::Row { place: place.to_owned(), kid: self.kid.clone(), what };
        let text = |i: usize, what| match &self.columns[i] {
            Value::Text(text) => Ok(text.as_str()),
            _ => Err(damaged(what)),
        };
        let number = |i: usize, what| match &self.columns[i] {
            Value::Integer(n) => Ok(*n),
            _ => Err(damaged(what)),
        };
        let seconds = |i: usize, what| {
            let parsed = text(i, what)?.parse::<Timestamp>().map_err(|_| damaged(what))?;
            u64::try_from(parsed.as_second()).map_err(|_| damaged(what))
        };
        let kid: KeyId = self.kid.parse().map_err(|_| damaged("kid"))?;
        let kcv = check_value(text(0, "kcv")?).filter(|kcv| kcv[..16] == kid.0).ok_or_else(|| damaged("kcv"))?;
        Ok(KeyRecord {
            kid,
            kcv,
            kind: text(1, "kind")?.parse().map_err(|_| damaged("kind"))?,
            tenant: text(2, "tenant")?.into(),
            scope: text(3, "scope")?.parse().map_err(|_| damaged("scope"))?,
            version: u32::try_from(number(4, "version")?).map_err(|_| damaged("version"))?,
            state: text(5, "state")?.parse().map_err(|_| damaged("state"))?,
            created: seconds(6, "created")?,
            retired: if self.columns[7] == Value::Null { None } else { Some(seconds(7, "retired")?) },
            uses: if self.columns[8] == Value::Null { None } else { Some(u64::try_from(number(8, "uses")?).map_err(|_| damaged("uses"))?) },
            wraps: self.wraps,
        })
    }
}

/// 64 lower-case hex digits.
fn check_value(hex: &str) -> Option<[u8; 32]> {
    let (first, second) = hex.split_at_checked(32)?;
    let mut kcv = [0; 32];
    kcv[..16].copy_from_slice(&first.parse::<KeyId>().ok()?.0);
    kcv[16..].copy_from_slice(&second.parse::<KeyId>().ok()?.0);
    Some(kcv)
}

/// RFC 3339, UTC, whole seconds: texts of one length sort as times do.
fn time(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_string()
}

fn unusable(place: &str, error: &rusqlite::Error) -> StoreError {
    StoreError::Unusable { place: place.to_owned(), message: error.to_string() }
}
