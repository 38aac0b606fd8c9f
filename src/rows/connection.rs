//! A connection for work on rows.

use postgres::types::ToSql;
use postgres::{Client, Row, Statement};
use veilstream_keys::store::PostgresAddress;

use super::error::RowsError;

/// Whatever server, database or role have as their default. Batches go by the index of the key,
/// also where the server does not know yet how many rows there are. A role whom row security shows
/// a part of the rows gets an error: nobody may think that all were seen.
const SETTINGS: &str = "SET synchronous_commit = on;
SET default_transaction_isolation = 'read committed';
SET statement_timeout = '10min';
SET lock_timeout = '30s';
SET idle_in_transaction_session_timeout = '60s';
SET plan_cache_mode = force_generic_plan;
SET enable_seqscan = off;
SET enable_hashjoin = off;
SET enable_mergejoin = off;
SET jit = off;
SET row_security = off;
SET datestyle = 'ISO';
SET log_parameter_max_length_on_error = 0";

/// Keep parameters and rows out of the server's log. Only some roles may set them.
const QUIET: [&str; 2] = ["SET log_parameter_max_length = 0", "SET log_error_verbosity = 'terse'"];

/// Whether parameters of statements that succeed come into the log.
const LOGS_PARAMETERS: &str = "SELECT current_setting('log_parameter_max_length') <> '0' AND (
    current_setting('log_statement') IN ('all', 'mod')
    OR current_setting('log_min_duration_statement') <> '-1'
    OR current_setting('log_min_duration_sample') <> '-1'
    OR current_setting('log_transaction_sample_rate')::float8 > 0)";

/// A connection, and how messages name its server.
pub struct Connection {
    client: Client,
    place: String,
}

impl Connection {
    /// A new connection.
    ///
    /// # Errors
    /// [`RowsError::Connect`], [`RowsError::Refused`].
    pub fn open(address: &PostgresAddress) -> Result<Self, RowsError> {
        let client = address.connect(|_| {})?;
        let mut made = Self { client, place: address.place().to_owned() };
        made.batch(SETTINGS)?;
        for setting in QUIET {
            // Where the role may not, `logs_parameters` says what the server does.
            let _ = made.client.batch_execute(setting);
        }
        Ok(made)
    }

    /// Whether the server writes what is written to rows into its log: tokens, indexes and keys of
    /// rows, nothing in clear.
    ///
    /// # Errors
    /// [`RowsError::Refused`].
    pub fn logs_parameters(&mut self) -> Result<bool, RowsError> {
        let row = self.one(LOGS_PARAMETERS, &[])?;
        row.try_get(0).map_err(|error| self.refused(&error))
    }

    /// Statements without parameters and answers.
    ///
    /// # Errors
    /// [`RowsError::Refused`].
    pub fn batch(&mut self, sql: &str) -> Result<(), RowsError> {
        self.client.batch_execute(sql).map_err(|error| self.refused(&error))
    }

    /// The rows of an answer.
    ///
    /// # Errors
    /// [`RowsError::Refused`].
    pub fn query(
        &mut self,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, RowsError> {
        self.client.query(sql, parameters).map_err(|error| self.refused(&error))
    }

    /// The one row of an answer.
    ///
    /// # Errors
    /// [`RowsError::Refused`].
    pub fn one(&mut self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Row, RowsError> {
        self.client.query_one(sql, parameters).map_err(|error| self.refused(&error))
    }

    /// What a statement failed with, without what the server quotes.
    #[must_use]
    pub fn refused(&self, error: &postgres::Error) -> RowsError {
        RowsError::refused(&self.place, error)
    }

    pub(super) fn prepare(&mut self, sql: &str) -> Result<Statement, RowsError> {
        self.client.prepare(sql).map_err(|error| self.refused(&error))
    }

    pub(super) fn client(&mut self) -> &mut Client {
        &mut self.client
    }
}
