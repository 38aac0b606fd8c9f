//! A connection: how it is set up, the statements it knows, and what its errors say.

use std::collections::HashMap;
use std::error::Error as _;

use postgres::error::Severity;
use postgres::types::ToSql;
use postgres::{Client, Row, Statement};

/// Whatever the server, the database or the role has as its default: a commit is on the disk before
/// it is reported, and statements of one transaction see what others committed in between. A
/// process that was stopped in the middle of a transaction keeps others waiting for so long and no
/// longer. Every statement looks a few keys up by an index, also if it was planned when the tables
/// were empty or before the server counted them: a plan that reads them whole took two seconds for
/// a thousand of 100,000 subjects, this one ten milliseconds.
const SETTINGS: &str = "
SET synchronous_commit = on;
SET default_transaction_isolation = 'read committed';
SET statement_timeout = '30s';
SET lock_timeout = '10s';
SET idle_in_transaction_session_timeout = '30s';
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET jit = off;
";

/// Beside [`SETTINGS`], for a transaction that goes through tables as a whole, in the order of their
/// blocks. The keys of ten million data subjects, not vacuumed yet, took 46 seconds in the order of
/// an index, and take 6 so.
pub(super) const WHOLE_TABLES: &str = "
SET LOCAL statement_timeout = '10min';
SET LOCAL enable_indexscan = off;
SET LOCAL enable_seqscan = on;
SET LOCAL enable_hashjoin = on;
";

/// A connection, with the statements it knows.
pub(super) struct PreparedClient {
    pub(super) client: Client,
    prepared: HashMap<&'static str, Statement>,
}

impl PreparedClient {
    /// Sets up a new connection.
    pub(super) fn new(mut client: Client, schema: &str) -> Result<Self, postgres::Error> {
        client.batch_execute(&format!("SET search_path = {schema};{SETTINGS}"))?;
        Ok(Self { client, prepared: HashMap::new() })
    }

    fn statement(&mut self, sql: &'static str) -> Result<Statement, postgres::Error> {
        if let Some(known) = self.prepared.get(sql) {
            return Ok(known.clone());
        }
        let statement = self.client.prepare(sql)?;
        self.prepared.insert(sql, statement.clone());
        Ok(statement)
    }

    pub(super) fn query(
        &mut self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, postgres::Error> {
        let statement = self.statement(sql)?;
        self.client.query(&statement, parameters)
    }

    pub(super) fn one(
        &mut self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, postgres::Error> {
        let statement = self.statement(sql)?;
        self.client.query_one(&statement, parameters)
    }

    pub(super) fn flag(
        &mut self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<bool, postgres::Error> {
        self.one(sql, parameters)?.try_get(0)
    }

    pub(super) fn execute(
        &mut self,
        sql: &'static str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<u64, postgres::Error> {
        let statement = self.statement(sql)?;
        self.client.execute(&statement, parameters)
    }
}

/// The connection cannot be used again: it failed itself, or the server ended it.
pub(super) fn is_broken(error: &postgres::Error) -> bool {
    error.as_db_error().is_none_or(|error| {
        matches!(error.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
    })
}

/// The message with its causes; of the server's own without the details, which may quote rows.
pub(super) fn causes(error: &postgres::Error) -> String {
    if let Some(error) = error.as_db_error() {
        return format!("{} (SQLSTATE {})", error.message(), error.code().code());
    }
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
