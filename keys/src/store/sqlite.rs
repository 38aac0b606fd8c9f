//! Store `sqlite`: one file, several processes on one host.

mod changes;
mod credentials;
mod layout;
mod rows;

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags, Params, Transaction, TransactionBehavior, params};
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};

use super::sql::keys_but_subjects;
use super::{
    Head, KeyRecord, Plan, Planned, Scrubbed, Shredded, Store, StoreError, StoreKeys, Subjects,
    WrapChange, check,
};
use crate::credential::CredentialRow;
use crate::files::create_private;
use crate::time::text as time;
use changes::{SqliteFailure, head, put_head, shred};
use layout::LAYOUT;
use rows::{Raw, add, list, put_state, select};

/// How long a process waits for another one's write.
const BUSY: Duration = Duration::from_secs(10);
/// Between two tries to checkpoint.
const PAUSE: Duration = Duration::from_millis(20);

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
        create_private(path).map_err(|e| StoreError::Unusable {
            place: place.clone(),
            message: format!("cannot be made ({e})"),
        })?;
        let store = Self::connect(path, place)?;
        let written = layout::create(&mut store.lock());
        written.map_err(|e| store.unusable(&e))?;
        Ok(store)
    }

    /// Opens a file that [`SqliteStore::create`] made. A path that does not exist is a fault: a new
    /// store in its place would hold none of the keys.
    ///
    /// # Errors
    /// It is not there, not readable or of another layout.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let place = path.display().to_string();
        if !path.exists() {
            return Err(StoreError::Unusable {
                place,
                message: "is not there; make it with `veilstream keys init`, or correct the path"
                    .to_owned(),
            });
        }
        let store = Self::connect(path, place)?;
        let layout: i64 =
            store.ask(|c| c.query_row("PRAGMA user_version", [], |row| row.get(0)))?;
        let message = match layout {
            LAYOUT => return Ok(store),
            0 => "is no key store; name the file that `veilstream keys init` made".to_owned(),
            1..LAYOUT => "is of an earlier build, which was never released, and is not read; make \
                a new one with `veilstream keys init`"
                .to_owned(),
            _ => format!(
                "has layout {layout}, this version reads {LAYOUT}; use a newer \
                veilstream"
            ),
        };
        Err(StoreError::Unusable { place: store.place, message })
    }

    fn connect(path: &Path, place: String) -> Result<Self, StoreError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connect = || {
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(BUSY)?;
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
            // A key must survive a power cut before its first use: in WAL mode only FULL syncs each
            // commit.
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

    fn ask<T>(
        &self,
        ask: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        ask(&self.lock()).map_err(|e| self.unusable(&e))
    }

    /// One write transaction, which waits for those of other processes at its start and not in its
    /// middle.
    fn write<T>(
        &self,
        write: impl FnOnce(&Transaction<'_>) -> Result<T, SqliteFailure>,
    ) -> Result<T, StoreError> {
        let mut connection = self.lock();
        let run = || {
            let transaction =
                connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let done = write(&transaction)?;
            transaction.commit()?;
            Ok(done)
        };
        run().map_err(|failure| match failure {
            SqliteFailure::Sql(error) => self.unusable(&error),
            SqliteFailure::Store(error) => error,
        })
    }

    /// Moves keys that a statement selects to another state, each with a MAC for it.
    fn change(
        &self,
        t: &Transaction<'_>,
        keys: &StoreKeys,
        rows: Vec<Raw>,
        state: KeyState,
        retired: Option<u64>,
    ) -> Result<(), SqliteFailure> {
        for raw in rows {
            let record = raw.record(&self.place)?;
            check(keys, &self.place, &record)?;
            put_state(t, &keys.signed(&KeyRecord { state, retired, ..record }))?;
        }
        Ok(())
    }

    /// The keys that the rest of the statement selects, in its order.
    fn select(&self, rest: &str, parameters: impl Params) -> Result<Vec<KeyRecord>, StoreError> {
        let rows = self.ask(|c| select(c, rest, parameters))?;
        self.records(rows)
    }

    fn records(&self, rows: Vec<Raw>) -> Result<Vec<KeyRecord>, StoreError> {
        rows.into_iter().map(|raw| raw.record(&self.place)).collect()
    }
}

impl Store for SqliteStore {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn get(&self, kids: &[KeyId]) -> Result<Vec<KeyRecord>, StoreError> {
        self.select(
            "WHERE k.kid IN (SELECT value FROM json_each(?1)) ORDER BY k.kid, w.kek_uri",
            [list(kids)],
        )
    }

    fn find(
        &self,
        tenant: &str,
        kind: KeyKind,
        scopes: &[Scope],
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let (processes, others): (Vec<&Scope>, Vec<&Scope>) =
            scopes.iter().partition(|scope| matches!(scope, Scope::Schema(_)));
        let mut found = Vec::new();
        for (scopes, which) in [(processes, "LIKE"), (others, "NOT LIKE")] {
            if !scopes.is_empty() {
                let rest = format!(
                    "WHERE k.tenant = ?1 AND k.kind = ?2 AND k.scope IN (SELECT value FROM json_each(?3)) AND k.scope {which} 'schema:%'
                     ORDER BY k.kid, w.kek_uri"
                );
                found.extend(self.select(&rest, params![tenant, kind.as_str(), list(&scopes)])?);
            }
        }
        Ok(found)
    }

    fn list(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError> {
        self.select(keys_but_subjects!(all), [tenant])
    }

    fn shared(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError> {
        self.select(keys_but_subjects!(shared), [tenant])
    }

    fn count_subjects(&self, tenant: &str) -> Result<Subjects, StoreError> {
        let [all, shredded, half_shredded] = self.ask(|c| {
            c.query_row(
                "SELECT (SELECT count(*) FROM keys WHERE tenant = ?1 AND kind = 'data' AND scope >= 'subject:' AND scope < 'subject;' AND scope NOT LIKE 'schema:%'),
                        (SELECT count(*) FROM keys WHERE tenant = ?1 AND state = 'shredded' AND scope LIKE 'subject:%'),
                        (SELECT count(DISTINCT k.kid) FROM keys k JOIN wraps w ON w.kid = k.kid WHERE k.tenant = ?1 AND k.state = 'shredded')",
                [tenant],
                |row| Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?].map(i64::unsigned_abs)),
            )
        })?;
        Ok(Subjects { keys: all.saturating_sub(shredded), shredded, half_shredded })
    }

    fn subjects(
        &self,
        tenant: &str,
        after: Option<&KeyId>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        self.select(
            "WHERE k.kid IN (SELECT kid FROM keys WHERE kid > ?2 AND tenant = ?1 AND scope LIKE \
            'subject:%' ORDER BY kid LIMIT ?3) ORDER BY k.kid, w.kek_uri",
            params![
                tenant,
                after.map_or_else(String::new, KeyId::to_string),
                i64::try_from(limit).unwrap_or(i64::MAX)
            ],
        )
    }

    fn count_wrapped_by(&self, kek_uri: &str) -> Result<u64, StoreError> {
        self.ask(|c| {
            c.query_row("SELECT count(*) FROM wraps WHERE kek_uri = ?1", [kek_uri], |row| {
                row.get::<_, i64>(0)
            })
        })
        .map(i64::unsigned_abs)
    }

    fn last_made(
        &self,
        tenant: &str,
        kind: KeyKind,
        scope: &Scope,
        before: u64,
    ) -> Result<Option<u64>, StoreError> {
        let newest: Option<String> = self.ask(|c| {
            let mut statement = c.prepare_cached(
                "SELECT max(created) FROM keys WHERE tenant = ?1 AND kind = ?2 \
                    AND scope = ?3 AND scope LIKE 'schema:%' AND created < ?4",
            )?;
            statement
                .query_row(params![tenant, kind.as_str(), scope.to_string(), time(before)], |row| {
                    row.get(0)
                })
        })?;
        Ok(newest.as_deref().and_then(crate::time::seconds))
    }

    fn head(&self) -> Result<Option<Head>, StoreError> {
        let connection = self.lock();
        head(&connection, &self.place).map_err(|failure| match failure {
            SqliteFailure::Sql(error) => self.unusable(&error),
            SqliteFailure::Store(error) => error,
        })
    }

    fn found(&self, store_key: &KeyRecord, to: &Head) -> Result<(), StoreError> {
        self.write(|t| {
            if head(t, &self.place)?.is_some() {
                return Err(StoreError::Unusable {
                    place: self.place.clone(),
                    message: "is there already; nothing was changed".to_owned(),
                }
                .into());
            }
            add(t, store_key)?;
            put_head(t, to)?;
            Ok(())
        })
    }

    fn insert(&self, records: &[KeyRecord]) -> Result<Vec<KeyRecord>, StoreError> {
        let rows = self.write(|t| {
            let mut rows = Vec::with_capacity(records.len());
            for record in records {
                add(t, record)?;
                let place = params![
                    &*record.tenant,
                    record.kind.as_str(),
                    record.scope.to_string(),
                    record.version
                ];
                let rest = "WHERE k.tenant = ?1 AND k.kind = ?2 AND k.scope = ?3 AND k.version = \
                    ?4 AND k.scope NOT LIKE 'schema:%' ORDER BY w.kek_uri";
                rows.extend(select(t, rest, place)?);
            }
            Ok(rows)
        })?;
        self.records(rows)
    }

    fn insert_paced(&self, record: &KeyRecord, pace: u64) -> Result<bool, StoreError> {
        self.write(|t| {
            let mut statement = t.prepare_cached(
                "SELECT EXISTS (SELECT 1 FROM keys WHERE tenant = ?1 AND kind = ?2 AND scope = ?3 \
                AND scope LIKE 'schema:%' AND created > ?4 AND created < ?5)",
            )?;
            // A clock that went back leaves keys in the future: those count as well, but only for
            // as long as others do.
            let (from, to) =
                (time(record.created.saturating_sub(pace)), time(record.created + pace));
            let recent: bool = statement.query_row(
                params![&*record.tenant, record.kind.as_str(), record.scope.to_string(), from, to],
                |row| row.get(0),
            )?;
            if !recent {
                add(t, record)?;
            }
            Ok(!recent)
        })
    }

    fn import(&self, records: &[KeyRecord]) -> Result<Vec<KeyId>, StoreError> {
        self.write(|t| {
            let mut left_out = Vec::new();
            for record in records {
                add(t, record)?;
                let there: bool = t
                    .prepare_cached("SELECT EXISTS (SELECT 1 FROM keys WHERE kid = ?1)")?
                    .query_row([record.kid.to_string()], |row| row.get(0))?;
                if !there {
                    left_out.push(record.kid);
                }
            }
            Ok(left_out)
        })
    }

    fn expire(
        &self,
        tenant: &str,
        kids: &[KeyId],
        before: u64,
        keys: &StoreKeys,
    ) -> Result<(), StoreError> {
        self.write(|t| {
            // Two statements: one with both conditions would go through the keys of data subjects
            // as well.
            let old = "WHERE k.state = 'active' AND k.scope LIKE 'schema:%' AND k.tenant = ?1 AND \
                k.created < ?2 ORDER BY k.kid, w.kek_uri";
            let rows = select(t, old, params![tenant, time(before)])?;
            self.change(t, keys, rows, KeyState::DecryptOnly, None)?;
            let named = "WHERE k.kid IN (SELECT value FROM json_each(?1)) AND k.state = 'active' \
                AND k.scope LIKE 'schema:%' ORDER BY k.kid, w.kek_uri";
            let rows = select(t, named, [list(kids)])?;
            self.change(t, keys, rows, KeyState::DecryptOnly, None)?;
            Ok(())
        })
    }

    fn save_uses(&self, uses: &[(KeyId, u64)]) -> Result<(), StoreError> {
        self.write(|t| {
            for (kid, count) in uses {
                t.execute(
                    "INSERT INTO uses VALUES (?1, ?2) ON CONFLICT (kid) DO UPDATE SET uses = \
                    excluded.uses",
                    params![kid.to_string(), i64::try_from(*count).unwrap_or(i64::MAX)],
                )?;
            }
            Ok(())
        })
    }

    fn set_state(
        &self,
        kids: &[KeyId],
        state: KeyState,
        retired: Option<u64>,
        keys: &StoreKeys,
    ) -> Result<(), StoreError> {
        self.write(|t| {
            let rows = select(
                t,
                "WHERE k.kid IN (SELECT value FROM json_each(?1)) AND k.state != \
                'shredded' ORDER BY k.kid, w.kek_uri",
                [list(kids)],
            )?;
            self.change(t, keys, rows, state, retired)
        })
    }

    fn replace_wraps(&self, changes: &[WrapChange]) -> Result<u64, StoreError> {
        self.write(|t| {
            let mut replaced = 0;
            for WrapChange { kid, old, new } in changes {
                let kid = kid.to_string();
                replaced += match old {
                    Some(old) => t
                        .prepare_cached(
                            "UPDATE OR REPLACE wraps SET kek_uri = ?1, kek_version = ?2, wrapped = ?3
                             WHERE kid = ?4 AND kek_uri = ?5 AND kek_version = ?6 AND wrapped = ?7",
                        )?
                        .execute(params![new.kek_uri, new.kek_version, new.wrapped, kid, old.kek_uri, old.kek_version, old.wrapped])?,
                    None => t
                        .prepare_cached("INSERT OR REPLACE INTO wraps SELECT ?1, ?2, ?3, ?4 WHERE \
                            EXISTS (SELECT 1 FROM wraps WHERE kid = ?1)")?
                        .execute(params![kid, new.kek_uri, new.kek_version, new.wrapped])?,
                };
            }
            Ok(replaced as u64)
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
        // The transaction holds the whole file locked from its start.
        self.write(|t| {
            let head = head(t, &self.place)?.ok_or_else(|| StoreError::Unfounded { place: self.place.clone() })?;
            let scopes: Vec<Scope> = subjects.iter().map(|subject| Scope::Subject(*subject)).collect();
            let rest = "WHERE k.tenant = ?1 AND k.kind = 'data' AND k.scope IN (SELECT value FROM json_each(?2)) AND k.scope NOT LIKE 'schema:%'
                        ORDER BY k.kid, w.kek_uri";
            let records = self.records(select(t, rest, params![tenant, list(&scopes)])?)?;
            let Planned { shreds, head } = plan(&head, &records)?;
            let shredded = shreds.iter().map(|one| shred(t, &self.place, keys, tenant, one, now)).collect::<Result<_, SqliteFailure>>()?;
            put_head(t, &head)?;
            Ok(shredded)
        })
    }

    fn ended_since(&self, tenant: &str, since: u64) -> Result<Vec<KeyId>, StoreError> {
        let kids: Vec<String> = self.ask(|c| {
            let mut statement = c.prepare_cached(
                "SELECT kid FROM keys WHERE tenant = ?1 AND state = 'shredded' AND retired >= ?2 \
                    AND scope LIKE 'subject:%' UNION ALL SELECT kid FROM keys WHERE tenant = ?1 \
                    AND state IN ('retired', 'compromised') AND retired >= ?2",
            )?;
            statement.query_map(params![tenant, time(since)], |row| row.get(0))?.collect()
        })?;
        Ok(kids.iter().filter_map(|kid| kid.parse().ok()).collect())
    }

    /// `secure_delete` overwrote them in the database; the write-ahead log holds pages from before.
    fn scrub(&self) -> Result<Scrubbed, StoreError> {
        let start = Instant::now();
        // SQLite waits for readers and writers, but not for another checkpoint: of two who erase at
        // once one would be refused.
        while start.elapsed() < BUSY {
            let busy: i64 =
                self.ask(|c| c.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)))?;
            if busy == 0 {
                return Ok(Scrubbed { remains: Vec::new() });
            }
            std::thread::sleep(PAUSE);
        }
        let message = format!(
            "another process has been reading or writing for {} s, so deleted wraps still stand in \
            the write-ahead log; nothing is wrong, do it again",
            BUSY.as_secs()
        );
        Err(StoreError::Unusable { place: self.place.clone(), message })
    }

    fn credentials(&self) -> Result<Vec<CredentialRow>, StoreError> {
        self.ask(credentials::all)
    }

    fn add_credential(&self, row: &CredentialRow) -> Result<bool, StoreError> {
        self.write(|transaction| Ok(credentials::add(transaction, row)?))
    }

    fn revoke_credential(&self, row: &CredentialRow) -> Result<bool, StoreError> {
        self.write(|transaction| Ok(credentials::revoke(transaction, row)?))
    }
}

fn unusable(place: &str, error: &rusqlite::Error) -> StoreError {
    StoreError::Unusable { place: place.to_owned(), message: error.to_string() }
}
