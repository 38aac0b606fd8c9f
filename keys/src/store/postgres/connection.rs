//! The store's connection: made again when it breaks, only to the same tables, and the transactions
//! on it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use postgres::Client;

use super::address::PostgresAddress;
use super::changes::PostgresFailure;
use super::session::{PreparedClient, WHOLE_TABLES, causes, is_broken};
use super::{DEFAULT_SCHEMA, StoreError};

/// One connection to a schema of a database.
pub(super) struct ReconnectingClient {
    address: PostgresAddress,
    schema: String,
    /// `None`: it broke, and the next use makes it again.
    session: Mutex<Option<PreparedClient>>,
    /// Which tables these are: others of the same name came from a backup. `None`: not looked at
    /// yet.
    tables: Mutex<Option<Tables>>,
}

/// Object ids of the database and of `keys`, if it is there: restoring a dump makes new ones.
type Tables = (u32, Option<u32>);

impl ReconnectingClient {
    pub(super) fn open(url: &str, ca: Option<&Path>, schema: &str) -> Result<Self, StoreError> {
        let mut address = PostgresAddress::parse(url, ca, "keys.store_ca_file")?;
        if !is_schema(schema) {
            let message = "keys.store_schema is no name; write small letters, digits and _, a \
                letter first, at most 63"
                .to_owned();
            return Err(StoreError::Unusable { place: address.place, message });
        }
        if schema != DEFAULT_SCHEMA {
            address.place = format!("{}, schema {schema}", address.place);
        }
        let store = Self {
            address,
            schema: schema.to_owned(),
            session: Mutex::default(),
            tables: Mutex::default(),
        };
        let session = store.session()?;
        *store.lock() = Some(session);
        Ok(store)
    }

    /// From here on a new connection must find these tables.
    pub(super) fn identified(self) -> Result<Self, StoreError> {
        let tables = self.read(|s| tables(s, &self.schema))?;
        *self.tables.lock().unwrap_or_else(PoisonError::into_inner) = Some(tables);
        Ok(self)
    }

    /// A new connection. The erasure ledger was applied to the tables that were there at the start:
    /// in others, from a backup, the erased would be back.
    fn session(&self) -> Result<PreparedClient, StoreError> {
        let mut session = PreparedClient::new(self.address.connect(|_| {})?, &self.schema)
            .map_err(|e| self.failed(&e))?;
        let known = *self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_some()
            && known != Some(tables(&mut session, &self.schema).map_err(|e| self.failed(&e))?)
        {
            return Err(self.unusable(
                "was replaced while this process ran; start it again, so that what \
                    was erased since the backup is erased in it"
                    .to_owned(),
            ));
        }
        Ok(session)
    }

    fn lock(&self) -> MutexGuard<'_, Option<PreparedClient>> {
        // A thread that panicked had taken the session out: its connection is closed, its
        // transaction rolled back.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn unusable(&self, message: String) -> StoreError {
        StoreError::Unusable { place: self.address.place.clone(), message }
    }

    pub(super) fn failed(&self, error: &postgres::Error) -> StoreError {
        self.unusable(causes(error))
    }

    /// What only reads, so that it may be done again on a new connection.
    pub(super) fn read<T>(
        &self,
        read: impl Fn(&mut PreparedClient) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        self.run(|session| read(session).map_err(|error| (PostgresFailure::Sql(error), true)))
    }

    /// What only reads, and goes through tables as a whole.
    pub(super) fn read_whole<T>(
        &self,
        read: impl Fn(&mut PreparedClient) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        let mut read = |session: &mut PreparedClient| {
            session.client.batch_execute(WHOLE_TABLES)?;
            read(session).map_err(PostgresFailure::Sql)
        };
        self.run(|session| transaction(session, &mut read).map_err(|(error, _)| (error, true)))
    }

    /// One transaction. It is done again on a new connection if the old one broke before COMMIT was
    /// sent: then nothing was done. After it nobody knows, and the caller is told.
    pub(super) fn write<T>(
        &self,
        write: impl Fn(&mut PreparedClient) -> Result<T, postgres::Error>,
    ) -> Result<T, StoreError> {
        self.change(|session| write(session).map_err(PostgresFailure::Sql))
    }

    /// [`ReconnectingClient::write`] of what may fail by itself too.
    pub(super) fn change<T>(
        &self,
        mut change: impl FnMut(&mut PreparedClient) -> Result<T, PostgresFailure>,
    ) -> Result<T, StoreError> {
        self.run(|session| transaction(session, &mut change))
    }

    /// Does `work`, and again on a new connection if the old one broke and the error says that
    /// nothing was done.
    fn run<T>(
        &self,
        mut work: impl FnMut(&mut PreparedClient) -> Result<T, (PostgresFailure, bool)>,
    ) -> Result<T, StoreError> {
        let mut held = self.lock();
        let kept = held.take().filter(|session| !session.client.is_closed());
        let was_kept = kept.is_some();
        let mut session = kept.map_or_else(|| self.session(), Ok)?;
        let mut done = work(&mut session);
        if let Err((PostgresFailure::Sql(error), true)) = &done
            && was_kept
            && is_broken(error)
        {
            session = self.session()?;
            done = work(&mut session);
        }
        if !matches!(&done, Err((PostgresFailure::Sql(error), _)) if is_broken(error)) {
            *held = Some(session);
        }
        done.map_err(|(work, _)| match work {
            PostgresFailure::Sql(error) => self.failed(&error),
            PostgresFailure::Store(error) => error,
        })
    }

    /// Address and schema, as messages name them.
    pub(super) fn place(&self) -> &str {
        &self.address.place
    }

    pub(super) fn schema(&self) -> &str {
        &self.schema
    }

    /// A second connection, whose notices go to `notice`.
    pub(super) fn another(
        &self,
        notice: impl Fn(String) + Send + Sync + 'static,
    ) -> Result<Client, StoreError> {
        self.address.connect(notice)
    }
}

/// One transaction; an error tells whether it may be done again.
fn transaction<T>(
    session: &mut PreparedClient,
    change: &mut impl FnMut(&mut PreparedClient) -> Result<T, PostgresFailure>,
) -> Result<T, (PostgresFailure, bool)> {
    session.client.batch_execute("BEGIN").map_err(|error| (error.into(), true))?;
    match change(session) {
        Ok(done) => session
            .client
            .batch_execute("COMMIT")
            .map(|()| done)
            .map_err(|error| (error.into(), false)),
        Err(error) => {
            // Where this fails the connection is broken, and the server rolls back.
            let _ = session.client.batch_execute("ROLLBACK");
            Err((error, true))
        }
    }
}

/// What needs no quotes.
fn is_schema(name: &str) -> bool {
    let rest = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_';
    name.len() < 64
        && name.as_bytes().first().is_some_and(u8::is_ascii_lowercase)
        && name.bytes().all(rest)
}

fn tables(s: &mut PreparedClient, schema: &str) -> Result<Tables, postgres::Error> {
    let row = s.one(
        "SELECT oid, to_regclass($1 || '.keys')::oid FROM pg_database WHERE datname = \
        current_database()",
        &[&schema],
    )?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}
