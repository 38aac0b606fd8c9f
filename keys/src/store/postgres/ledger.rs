//! Erasure ledger `postgres`: a table of lines in a database that is not the store's.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::StoreError;
use super::address::PostgresAddress;
use super::session::{PreparedClient, causes};
use crate::erasure::{Ledger, LedgerError};

/// The schema.
const SCHEMA: &str = "veilstream_ledger";
const LOCK: &str = "SELECT pg_advisory_xact_lock(hashtextextended('veilstream ledger', 0))";
const TABLE: &str = "CREATE TABLE lines (seq bigint PRIMARY KEY, line bytea NOT NULL)";

/// A table in a PostgreSQL database. One connection, made again when it breaks. Not to be called or
/// dropped by a thread that runs an async task.
pub struct PostgresLedger {
    address: PostgresAddress,
    session: Mutex<Option<PreparedClient>>,
}

impl PostgresLedger {
    /// Makes the table, if it is not there. URL and `ca` are as for
    /// [`super::PostgresStore::create`].
    ///
    /// # Errors
    /// The server does not let us, or the URL is none.
    pub fn create(url: &str, ca: Option<&Path>) -> Result<(), LedgerError> {
        let ledger = Self { address: address(url, ca)?, session: Mutex::default() };
        ledger.work(|s| {
            s.client
                .batch_execute(&format!("BEGIN; {LOCK}; CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))?;
            if !s.flag("SELECT to_regclass($1 || '.lines') IS NOT NULL", &[&SCHEMA])? {
                s.client.batch_execute(TABLE)?;
            }
            s.client.batch_execute("COMMIT")
        })
    }

    /// Opens what [`PostgresLedger::create`] made.
    ///
    /// # Errors
    /// The database cannot be reached, or has no ledger.
    pub fn open(url: &str, ca: Option<&Path>) -> Result<Self, LedgerError> {
        let ledger = Self { address: address(url, ca)?, session: Mutex::default() };
        if ledger.work(|s| s.flag("SELECT to_regclass($1 || '.lines') IS NOT NULL", &[&SCHEMA]))? {
            return Ok(ledger);
        }
        let message =
            "has no ledger; make it with `veilstream keys init`, or correct keys.ledger".to_owned();
        Err(LedgerError::Unusable { place: ledger.place(), message })
    }

    /// Does it on a new connection where the old one is broken. What failed is not done again: a
    /// line may have been written.
    fn work<T>(
        &self,
        work: impl FnOnce(&mut PreparedClient) -> Result<T, postgres::Error>,
    ) -> Result<T, LedgerError> {
        let mut held = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = held.take().filter(|session| !session.client.is_closed());
        let mut session = match kept {
            Some(session) => session,
            None => {
                let client = self
                    .address
                    .connect(|_| {})
                    .map_err(|error| unusable(&self.address.place, error))?;
                PreparedClient::new(client, SCHEMA).map_err(|error| self.failed(&error))?
            }
        };
        let done = work(&mut session);
        if done.is_ok() {
            *held = Some(session);
        }
        done.map_err(|error| self.failed(&error))
    }

    fn failed(&self, error: &postgres::Error) -> LedgerError {
        LedgerError::Unusable { place: self.place(), message: causes(error) }
    }

    fn insert(s: &mut PreparedClient, count: u64, lines: &[String]) -> Result<(), postgres::Error> {
        let first = i64::try_from(count).unwrap_or(i64::MAX);
        let seqs: Vec<i64> = (first..).take(lines.len()).collect();
        let lines: Vec<&[u8]> = lines.iter().map(String::as_bytes).collect();
        // Not a statement that is kept: after a replacement it would write to the table that was
        // set aside.
        s.client
            .execute(
                "INSERT INTO lines SELECT * FROM unnest($1::bigint[], $2::bytea[])",
                &[&seqs, &lines],
            )
            .map(drop)
    }
}

impl Ledger for PostgresLedger {
    fn place(&self) -> String {
        self.address.place.clone()
    }

    fn read(&self, from: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        let from = i64::try_from(from).unwrap_or(i64::MAX);
        self.work(|s| {
            s.query("SELECT line FROM lines WHERE seq >= $1 ORDER BY seq", &[&from])?
                .iter()
                .map(|row| row.try_get(0))
                .collect()
        })
    }

    fn append(&self, count: u64, lines: &[String]) -> Result<(), LedgerError> {
        let is_end = self.work(|s| {
            s.client.batch_execute(&format!("BEGIN; {LOCK}"))?;
            let end: i64 = s.one("SELECT coalesce(max(seq) + 1, 0) FROM lines", &[])?.try_get(0)?;
            let is_end = u64::try_from(end) == Ok(count);
            if is_end {
                Self::insert(s, count, lines)?;
            }
            s.client.batch_execute("COMMIT").map(|()| is_end)
        })?;
        match is_end {
            true => Ok(()),
            false if count == 0 => Err(LedgerError::Exists { place: self.place() }),
            false => Err(LedgerError::Moved { place: self.place() }),
        }
    }

    fn replace(&self, lines: &[String], now: u64) -> Result<Option<String>, LedgerError> {
        let kept = format!("lines_replaced_{now}");
        let any = self.work(|s| {
            s.client.batch_execute(&format!("BEGIN; {LOCK}"))?;
            let any = s.flag("SELECT EXISTS (SELECT FROM lines)", &[])?;
            if any {
                s.client.batch_execute(&format!(
                    "ALTER TABLE lines RENAME TO {kept}; ALTER INDEX \
                    lines_pkey RENAME TO {kept}_pkey; {TABLE}"
                ))?;
            }
            Self::insert(s, 0, lines)?;
            s.client.batch_execute("COMMIT").map(|()| any)
        })?;
        Ok(any.then(|| format!("{}, table {SCHEMA}.{kept}", self.place())))
    }
}

fn address(url: &str, ca: Option<&Path>) -> Result<PostgresAddress, LedgerError> {
    PostgresAddress::parse(url, ca, "keys.ledger_ca_file")
        .map_err(|error| unusable("postgres", error))
}

fn unusable(place: &str, error: StoreError) -> LedgerError {
    match error {
        StoreError::Unusable { message, .. } => {
            LedgerError::Unusable { place: place.to_owned(), message }
        }
        other => LedgerError::Unusable { place: place.to_owned(), message: other.to_string() },
    }
}
