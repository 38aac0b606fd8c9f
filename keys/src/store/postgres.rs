//! Store `postgres`: a PostgreSQL database, for processes on several hosts.
//!
//! Every transaction is READ COMMITTED: each statement sees what was committed before it began, so
//! what must be seen is waited for in one statement and looked at in the next. Who changes several
//! rows does so in one order everywhere (new keys by their place, keys that are there by kid), so
//! that nobody waits in a circle.

mod address;
mod changes;
mod connection;
mod credentials;
mod layout;
mod ledger;
mod rows;
mod session;
mod shred;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use postgres::Row;
use postgres::types::ToSql;
use veilstream_engine::key::{KeyId, KeyKind, KeyState, Scope, SubjectRef};

use super::sql::keys_but_subjects;
use super::{
    Head, KeyRecord, Plan, Planned, Scrubbed, Shred, Shredded, Store, StoreError, StoreKeys,
    Subjects, Wrap, WrapChange, check,
};
use crate::credential::CredentialRow;
use changes::{add, put_head, put_states, put_wraps, read_head};
use connection::ReconnectingClient;
use rows::{Columns, WrapColumns, bytes, records, seconds, texts, time};
use session::causes;
use shred::Shredder;

pub use address::PostgresAddress;
pub use ledger::PostgresLedger;

/// The schema, where the configuration names none.
pub const DEFAULT_SCHEMA: &str = "veilstream";

/// Advisory locks, of the database: for making and migrating the tables; for erasing and for moving
/// wraps; for keys of one scope that are paced.
const LAYOUT_LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('veilstream layout', 0))";
const WRAPS_LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('veilstream wraps', 0))";
const PACE_LOCK: &str =
    "SELECT pg_advisory_xact_lock(hashtextextended('veilstream pace ' || $1, 0))";

/// What an erasure cannot reach here: the server gives nobody a way to overwrite a row, and copies
/// of its files are not its own.
const REMAINS: [&str; 3] = [
    "the PostgreSQL table {schema}.wraps: in space that later keys overwrite at no set time; a row \
    that an older transaction still sees (a dump, a standby with feedback), until the first VACUUM \
    after its end",
    "the write-ahead log of the PostgreSQL server, until its segments are recycled and \
    overwritten; archived segments, until they are deleted",
    "standbys of the PostgreSQL server, as on itself; its base backups and dumps, until they are \
    deleted",
];

/// A key, its uses and its wraps, one row a wrap, of the keys `k` that the first part names.
macro_rules! key_rows {
    ($keys:expr, $rest:expr) => {
        concat!(
            "SELECT k.kid, k.kcv, k.kind, k.tenant, k.scope, k.version, k.state, k.created, \
            k.retired, u.uses, k.mac, w.kek_uri, w.kek_version, w.wrapped FROM ",
            $keys,
            " LEFT JOIN uses u ON u.kid = k.kid LEFT JOIN wraps w ON w.kid = k.kid ",
            $rest
        )
    };
    ($rest:expr) => {
        key_rows!("keys k", $rest)
    };
}

/// The keys `k` of tenant $1, kind $2 and the scopes $3. Scope by scope, which OFFSET keeps so:
/// joined freely, all keys of the tenant would be gone through for them wherever the server
/// believes that there are few.
macro_rules! of_scopes {
    ($which:literal) => {
        concat!(
            "(SELECT DISTINCT unnest($3::text[]) AS name) s
             CROSS JOIN LATERAL (SELECT * FROM keys WHERE tenant = $1 AND kind = $2 AND scope = s.name AND scope ",
            $which,
            " 'schema:%' OFFSET 0) k"
        )
    };
}
use key_rows;
use of_scopes;

/// A schema in a PostgreSQL database. One connection, made again when it breaks. Not to be called
/// or dropped by a thread that runs an async task.
pub struct PostgresStore {
    connection: ReconnectingClient,
}

impl PostgresStore {
    /// Makes the schema with empty tables. Never touches one that exists. `ca` is a PEM file with
    /// the certificates of the authorities that count instead of the system's. TLS with a server
    /// whose name is in its certificate (`sslmode=verify-full`) is the default for every host but
    /// this one; else `sslmode=disable`.
    ///
    /// # Errors
    /// It is there already, the server does not let us, or the URL is none.
    pub fn create(url: &str, ca: Option<&Path>) -> Result<Self, StoreError> {
        Self::create_in(url, ca, DEFAULT_SCHEMA)
    }

    /// [`PostgresStore::create`] in another schema than [`DEFAULT_SCHEMA`]: a store belongs to one
    /// tenant.
    ///
    /// # Errors
    /// As those of [`PostgresStore::create`].
    pub fn create_in(url: &str, ca: Option<&Path>, schema: &str) -> Result<Self, StoreError> {
        Ok(Self { connection: layout::create(ReconnectingClient::open(url, ca, schema)?)? })
    }

    /// Opens what [`PostgresStore::create`] made; the arguments are the same. A database without it
    /// is a fault: a new store in its place would hold none of the keys.
    ///
    /// # Errors
    /// It is not there, cannot be read or is of another layout.
    pub fn open(url: &str, ca: Option<&Path>) -> Result<Self, StoreError> {
        Self::open_in(url, ca, DEFAULT_SCHEMA)
    }

    /// [`PostgresStore::open`] in another schema than [`DEFAULT_SCHEMA`].
    ///
    /// # Errors
    /// As those of [`PostgresStore::open`].
    pub fn open_in(url: &str, ca: Option<&Path>, schema: &str) -> Result<Self, StoreError> {
        Ok(Self { connection: layout::check(ReconnectingClient::open(url, ca, schema)?)? })
    }

    fn select(
        &self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let rows = self.connection.read(|s| s.query(sql, parameters))?;
        self.records(&rows)
    }

    fn records(&self, rows: &[Row]) -> Result<Vec<KeyRecord>, StoreError> {
        records(rows, self.connection.place())
    }
}

impl Store for PostgresStore {
    fn place(&self) -> String {
        self.connection.place().to_owned()
    }

    fn get(&self, kids: &[KeyId]) -> Result<Vec<KeyRecord>, StoreError> {
        self.select(key_rows!("WHERE k.kid = ANY($1) ORDER BY k.kid, w.kek_uri"), &[&bytes(kids)])
    }

    fn find(
        &self,
        tenant: &str,
        kind: KeyKind,
        scopes: &[Scope],
    ) -> Result<Vec<KeyRecord>, StoreError> {
        const PROCESSES: &str = key_rows!(of_scopes!("LIKE"), "ORDER BY k.kid, w.kek_uri");
        const OTHERS: &str = key_rows!(of_scopes!("NOT LIKE"), "ORDER BY k.kid, w.kek_uri");
        let (processes, others): (Vec<&Scope>, Vec<&Scope>) =
            scopes.iter().partition(|scope| matches!(scope, Scope::Schema(_)));
        let mut found = Vec::new();
        for (scopes, sql) in [(processes, PROCESSES), (others, OTHERS)] {
            if !scopes.is_empty() {
                found.extend(self.select(sql, &[&tenant, &kind.as_str(), &texts(scopes)])?);
            }
        }
        Ok(found)
    }

    fn list(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError> {
        self.select(key_rows!(keys_but_subjects!(all)), &[&tenant])
    }

    fn shared(&self, tenant: &str) -> Result<Vec<KeyRecord>, StoreError> {
        self.select(key_rows!(keys_but_subjects!(shared)), &[&tenant])
    }

    fn count_subjects(&self, tenant: &str) -> Result<Subjects, StoreError> {
        const COUNT: &str = "
            SELECT (SELECT count(*) FROM keys WHERE tenant = $1 AND kind = 'data' AND scope >= 'subject:' AND scope < 'subject;' AND scope NOT LIKE 'schema:%'),
                   (SELECT count(*) FROM keys WHERE tenant = $1 AND state = 'shredded' AND scope LIKE 'subject:%'),
                   (SELECT count(DISTINCT k.kid) FROM keys k JOIN wraps w ON w.kid = k.kid WHERE k.tenant = $1 AND k.state = 'shredded')";
        let [all, shredded, half_shredded] = self.connection.read_whole(|s| {
            let row = s.one(COUNT, &[&tenant])?;
            Ok([row.try_get::<_, i64>(0)?, row.try_get(1)?, row.try_get(2)?].map(i64::unsigned_abs))
        })?;
        Ok(Subjects { keys: all - shredded, shredded, half_shredded })
    }

    fn subjects(
        &self,
        tenant: &str,
        after: Option<&KeyId>,
        limit: usize,
    ) -> Result<Vec<KeyRecord>, StoreError> {
        let after: &[u8] = after.map_or(&[], |kid| &kid.0);
        self.select(
            key_rows!(
                "WHERE k.kid IN (SELECT kid FROM keys WHERE kid > $2 AND tenant = $1 AND scope \
                LIKE 'subject:%' ORDER BY kid LIMIT $3) ORDER BY k.kid, w.kek_uri"
            ),
            &[&tenant, &after, &i64::try_from(limit).unwrap_or(i64::MAX)],
        )
    }

    fn count_wrapped_by(&self, kek_uri: &str) -> Result<u64, StoreError> {
        self.connection
            .read_whole(|s| {
                s.one("SELECT count(*) FROM wraps WHERE kek_uri = $1", &[&kek_uri])?
                    .try_get::<_, i64>(0)
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
        let newest: Option<std::time::SystemTime> = self.connection.read(|s| {
            let newest = "SELECT max(created) FROM keys WHERE tenant = $1 AND kind = $2 AND scope \
                = $3 AND scope LIKE 'schema:%' AND created < $4";
            s.one(newest, &[&tenant, &kind.as_str(), &scope.to_string(), &time(before)])?.try_get(0)
        })?;
        Ok(newest.and_then(seconds))
    }

    fn head(&self) -> Result<Option<Head>, StoreError> {
        self.connection.change(|s| read_head(s, self.connection.place(), false))
    }

    fn found(&self, store_key: &KeyRecord, head: &Head) -> Result<(), StoreError> {
        self.connection.change(|s| {
            s.query(LAYOUT_LOCK, &[])?;
            if read_head(s, self.connection.place(), false)?.is_some() {
                return Err(self
                    .connection
                    .unusable("is there already; nothing was changed".to_owned())
                    .into());
            }
            add(s, std::slice::from_ref(store_key))?;
            Ok(put_head(s, head)?)
        })
    }

    fn insert(&self, records: &[KeyRecord]) -> Result<Vec<KeyRecord>, StoreError> {
        let places = Columns::of(records.iter().collect());
        let rows = self.connection.write(|s| {
            add(s, records)?;
            // In a statement of its own: the key of somebody who was first, whom the INSERT waited
            // for, is not in that one's snapshot.
            s.query(
                key_rows!(
                    "(SELECT DISTINCT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[])) p (tenant, kind, scope, version)
                     CROSS JOIN LATERAL (SELECT * FROM keys WHERE tenant = p.tenant AND kind = p.kind AND scope = p.scope AND version = p.version
                       AND scope NOT LIKE 'schema:%' OFFSET 0) k",
                    "ORDER BY k.kid, w.kek_uri"
                ),
                &[&places.tenants, &places.kinds, &places.scopes, &places.versions],
            )
        })?;
        let place = |record: &KeyRecord| {
            (record.tenant.clone(), record.kind, record.scope.clone(), record.version)
        };
        let held: HashMap<_, KeyRecord> =
            self.records(&rows)?.into_iter().map(|record| (place(&record), record)).collect();
        Ok(records.iter().filter_map(|record| held.get(&place(record)).cloned()).collect())
    }

    fn insert_paced(&self, record: &KeyRecord, pace: u64) -> Result<bool, StoreError> {
        let scope = record.scope.to_string();
        // A clock that went back leaves keys in the future: those count as well, but only for as
        // long as others do.
        let (from, to) =
            (time(record.created.saturating_sub(pace)), time(record.created.saturating_add(pace)));
        self.connection.write(|s| {
            // There is no unique place that would decide. The next one looks after our
            // commit, as the lock ends with it.
            s.query(PACE_LOCK, &[&format!("{} {} {scope}", record.tenant, record.kind.as_str())])?;
            let recent = s.flag(
                "SELECT EXISTS (SELECT 1 FROM keys WHERE tenant = $1 AND kind = $2 AND scope = $3 \
                AND scope LIKE 'schema:%' AND created > $4 AND created < $5)",
                &[&&*record.tenant, &record.kind.as_str(), &scope, &from, &to],
            )?;
            if !recent {
                add(s, std::slice::from_ref(record))?;
            }
            Ok(!recent)
        })
    }

    fn import(&self, records: &[KeyRecord]) -> Result<Vec<KeyId>, StoreError> {
        let kids: Vec<KeyId> = records.iter().map(|record| record.kid).collect();
        let there: HashSet<Vec<u8>> = self.connection.write(|s| {
            add(s, records)?;
            s.query("SELECT kid FROM keys WHERE kid = ANY($1)", &[&bytes(&kids)])?
                .iter()
                .map(|row| row.try_get(0))
                .collect()
        })?;
        Ok(kids.into_iter().filter(|kid| !there.contains(&kid.0[..])).collect())
    }

    fn expire(
        &self,
        tenant: &str,
        kids: &[KeyId],
        before: u64,
        keys: &StoreKeys,
    ) -> Result<(), StoreError> {
        self.connection.change(|s| {
            let due = s.query(
                "SELECT kid FROM keys WHERE state = 'active' AND scope LIKE 'schema:%' AND (tenant = $1 AND created < $2 OR kid = ANY($3))
                 ORDER BY kid FOR UPDATE",
                &[&tenant, &time(before), &bytes(kids)],
            )?;
            let due: Vec<&[u8]> = due.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
            put_states(s, self.connection.place(), keys, &due, KeyState::DecryptOnly, None)
        })
    }

    fn save_uses(&self, uses: &[(KeyId, u64)]) -> Result<(), StoreError> {
        // Each once, and in order.
        let uses: BTreeMap<KeyId, u64> = uses.iter().copied().collect();
        let kids: Vec<KeyId> = uses.keys().copied().collect();
        let counts: Vec<i64> =
            uses.values().map(|count| i64::try_from(*count).unwrap_or(i64::MAX)).collect();
        self.connection.write(|s| {
            s.execute(
                "INSERT INTO uses SELECT * FROM unnest($1::bytea[], $2::bigint[]) ON CONFLICT \
                (kid) DO UPDATE SET uses = excluded.uses",
                &[&bytes(&kids), &counts],
            )
            .map(drop)
        })
    }

    fn set_state(
        &self,
        kids: &[KeyId],
        state: KeyState,
        retired: Option<u64>,
        keys: &StoreKeys,
    ) -> Result<(), StoreError> {
        self.connection.change(|s| {
            let living = s.query(
                "SELECT kid, state FROM keys WHERE kid = ANY($1) ORDER BY kid FOR UPDATE",
                &[&bytes(kids)],
            )?;
            let mut change: Vec<&[u8]> = Vec::with_capacity(living.len());
            for row in &living {
                if row.try_get::<_, &str>(1)? != "shredded" {
                    change.push(row.try_get(0)?);
                }
            }
            put_states(s, self.connection.place(), keys, &change, state, retired)
        })
    }

    /// Takes turns with [`Store::erase`]: what is compared here cannot be deleted before it is
    /// replaced, and what was deleted is not found. Without that a wrap that comes beside others
    /// would not be seen by the DELETE of an erasure that began earlier, and would outlive it.
    fn replace_wraps(&self, changes: &[WrapChange]) -> Result<u64, StoreError> {
        let compared: Vec<(&WrapChange, &Wrap)> =
            changes.iter().filter_map(|change| Some((change, change.old.as_ref()?))).collect();
        let added: Vec<&WrapChange> =
            changes.iter().filter(|change| change.old.is_none()).collect();
        self.connection.write(|s| {
            s.query(WRAPS_LOCK, &[])?;
            let mut replaced = 0;
            if !compared.is_empty() {
                let olds = WrapColumns::of(compared.iter().map(|(change, old)| (change.kid, *old)));
                let found = s.query(
                    "DELETE FROM wraps w USING unnest($1::bytea[], $2::text[], $3::text[], $4::bytea[]) WITH ORDINALITY AS o (kid, kek_uri, kek_version, wrapped, place)
                     WHERE w.kid = o.kid AND w.kek_uri = o.kek_uri AND w.kek_version = o.kek_version AND w.wrapped = o.wrapped RETURNING o.place",
                    &[&olds.kids, &olds.uris, &olds.versions, &olds.wrapped],
                )?;
                replaced += found.len() as u64;
                let mut places: Vec<usize> = found.iter().map(|row| Ok(usize::try_from(row.try_get::<_, i64>(0)?).unwrap_or(0))).collect::<Result<_, postgres::Error>>()?;
                places.sort_unstable();
                put_wraps(s, places.iter().filter_map(|place| compared.get(place - 1)).map(|(change, _)| *change))?;
            }
            if !added.is_empty() {
                let kids: Vec<&[u8]> = added.iter().map(|change| &change.kid.0[..]).collect();
                let found = s.query("SELECT DISTINCT kid FROM wraps WHERE kid = ANY($1)", &[&kids])?;
                let wrapped: HashSet<&[u8]> = found.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
                let added: Vec<&WrapChange> = added.iter().copied().filter(|change| wrapped.contains(&change.kid.0[..])).collect();
                replaced += added.len() as u64;
                put_wraps(s, added.into_iter())?;
            }
            Ok(replaced)
        })
    }

    /// All subjects in one transaction. Erasures take turns with each other and with
    /// [`Store::replace_wraps`]; keys that are there are locked against [`Store::set_state`].
    /// Against a process that stores a new key at the same time there is no lock, but the unique
    /// place: if the marker is in it, they wait for our commit and find it taken; if their key is,
    /// our INSERT waits for their commit and finds it taken. Then, and when a key shows up between
    /// two of our statements, we look again and erase that key too.
    fn erase(
        &self,
        tenant: &str,
        subjects: &[SubjectRef],
        keys: &StoreKeys,
        now: u64,
        plan: &mut Plan<'_>,
    ) -> Result<Vec<Shredded>, StoreError> {
        let place = self.connection.place();
        let scopes: Vec<String> =
            subjects.iter().map(|subject| Scope::Subject(*subject).to_string()).collect();
        self.connection.change(|s| {
            let head = read_head(s, place, true)?
                .ok_or_else(|| StoreError::Unfounded { place: place.to_owned() })?;
            s.query(WRAPS_LOCK, &[])?;
            let known = s.query(
                key_rows!(of_scopes!("NOT LIKE"), "ORDER BY k.kid, w.kek_uri"),
                &[&tenant, &KeyKind::Data.as_str(), &scopes],
            )?;
            let Planned { shreds, head } = plan(&head, &records(&known, place)?)?;
            let mut shredder = Shredder::new(place, keys, tenant, now);
            let mut open: Vec<&Shred> = shreds.iter().collect();
            while !open.is_empty() {
                open = shredder.shred(s, &open)?;
            }
            put_head(s, &head)?;
            Ok(shreds
                .iter()
                .map(|one| Shredded { subject: one.subject, kids: shredder.destroyed(one.subject) })
                .collect())
        })
    }

    fn ended_since(&self, tenant: &str, since: u64) -> Result<Vec<KeyId>, StoreError> {
        let kids: Vec<Vec<u8>> = self.connection.read(|s| {
            let rows = s.query(
                "SELECT kid FROM keys WHERE tenant = $1 AND state = 'shredded' AND retired >= $2 \
                AND scope LIKE 'subject:%' UNION ALL SELECT kid FROM keys WHERE tenant = $1 AND \
                state IN ('retired', 'compromised') AND retired >= $2",
                &[&tenant, &time(since)],
            )?;
            rows.iter().map(|row| row.try_get(0)).collect()
        })?;
        Ok(kids.into_iter().filter_map(|kid| kid.try_into().ok().map(KeyId)).collect())
    }

    /// `VACUUM` of the wraps takes deleted rows out of the table and lets their space be written
    /// again; it runs beside everybody else. (`VACUUM FULL` would lock the table for as long as it
    /// takes to write it again, and leave the old file's blocks to the file system unwiped.) On a
    /// connection of its own, so that nobody waits for it here.
    fn scrub(&self) -> Result<Scrubbed, StoreError> {
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let heard = warnings.clone();
        let mut client = self.connection.another(move |warning| {
            heard.lock().unwrap_or_else(PoisonError::into_inner).push(warning)
        })?;
        // As long as the table takes; another VACUUM of it is waited for.
        let vacuumed =
            client.batch_execute("SET statement_timeout = 0; SET lock_timeout = '10min'").and_then(
                |()| client.batch_execute(&format!("VACUUM {}.wraps", self.connection.schema())),
            );
        vacuumed.map_err(|e| self.connection.failed(&e))?;
        let warnings =
            std::mem::take(&mut *warnings.lock().unwrap_or_else(PoisonError::into_inner));
        if let Some(warning) = warnings.first() {
            // A role that does not own the table is told so in a warning, and nothing is done.
            return Err(self.connection.unusable(format!(
                "deleted wraps were not vacuumed ({warning}); let the user of the URL own \
                {}.wraps, and do it again",
                self.connection.schema()
            )));
        }
        Ok(Scrubbed {
            remains: REMAINS
                .map(|text| text.replace("{schema}", self.connection.schema()))
                .to_vec(),
        })
    }

    fn credentials(&self) -> Result<Vec<CredentialRow>, StoreError> {
        self.connection.read(credentials::all)
    }

    fn add_credential(&self, row: &CredentialRow) -> Result<bool, StoreError> {
        self.connection.write(|session| credentials::add(session, row))
    }

    fn revoke_credential(&self, row: &CredentialRow) -> Result<bool, StoreError> {
        self.connection.write(|session| credentials::revoke(session, row))
    }
}
