//! What a command that rewrites what is stored is told, and what it tells meanwhile.

use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use veilstream_keys::store::PostgresAddress;

use super::argument::ArgumentError;
use crate::config::{Audit, Config};
use crate::exit::Exit;
use crate::progress::Progress;
use crate::rows::{Connection, RowsError, Table, TableName};
use crate::signals::{self, Request};

/// Between two lines about progress.
const TELL: Duration = Duration::from_secs(5);

/// Which table, and whose keys its tokens have.
#[derive(Debug, Args)]
pub(super) struct TableSource {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// File with the URL of the table's database
    #[arg(long, value_name = "FILE")]
    postgres_file: PathBuf,
    /// Certificate of the database server's authority, if it is a private one
    #[arg(long, value_name = "FILE")]
    postgres_ca_file: Option<PathBuf>,
    /// The table, or schema.table
    #[arg(long, value_name = "NAME")]
    table: TableName,
    /// Columns of the key that rows are found by; the primary key if left out
    #[arg(long, value_name = "COLUMN,..", value_delimiter = ',')]
    key: Vec<String>,
}

impl TableSource {
    /// The table, looked up in its database.
    pub(super) fn open(&self) -> anyhow::Result<(PostgresAddress, Connection, Table)> {
        let url = std::fs::read_to_string(&self.postgres_file)
            .with_context(|| format!("{} cannot be read", self.postgres_file.display()))?;
        let ca = self.postgres_ca_file.as_deref();
        let address = PostgresAddress::parse(url.trim(), ca, "--postgres-ca-file")
            .map_err(|error| Exit::Usage.because(error.to_string()))?;
        let mut connection = Connection::open(&address)?;
        let table = Table::find(&mut connection, &self.table, &self.key).map_err(usage)?;
        Ok((address, connection, table))
    }
}

/// The configuration's section; `what` opens values, so it must be there.
pub(super) fn audit_of<'c>(
    file: &Path,
    config: &'c Config,
    what: &str,
) -> anyhow::Result<&'c Audit> {
    config.audit.as_ref().ok_or_else(|| {
        Exit::Usage.because(format!(
            "{} has no [audit] section, and {what} opens values: add one (`veilstream audit \
            keygen` makes the key for it)",
            file.display()
        ))
    })
}

/// How it is walked through.
#[derive(Debug, Args)]
pub(super) struct WalkArgs {
    /// Rows of a batch
    #[arg(long, value_name = "ROWS", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) batch: u32,
    /// Rows read a second at most
    #[arg(long, value_name = "ROWS")]
    pub(super) rows_per_second: Option<NonZeroU32>,
    /// Count what would move, and write nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

/// What the operator named does not fit; all else is the server's.
pub(super) fn usage(error: RowsError) -> anyhow::Error {
    match error {
        RowsError::Connect(_) | RowsError::Refused { .. } | RowsError::Thread => error.into(),
        named => Exit::Usage.because(named.to_string()),
    }
}

/// Warns where the server's log would hold what is written.
pub(super) fn warn_of_log(connection: &mut Connection) -> Result<(), RowsError> {
    if connection.logs_parameters()? {
        tell(format_args!(
            "the server logs what is written: tokens, indexes and keys of rows, nothing in clear. \
            A role that may SET log_parameter_max_length keeps them out"
        ));
    }
    Ok(())
}

/// Set once the process is asked to stop.
pub(super) fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = stop.clone();
    signals::watch(move |request| {
        if matches!(request, Request::Stop(_)) {
            set.store(true, Ordering::Relaxed);
        }
        true
    })?;
    Ok(stop)
}

/// Tells of progress now and then.
pub(super) fn progress_teller() -> impl FnMut(Progress) {
    let mut told = Instant::now();
    move |progress| {
        if told.elapsed() >= TELL {
            told = Instant::now();
            tell(format_args!("{progress}"));
        }
    }
}

/// A line on standard error; the command goes on where nobody reads it.
pub(super) fn tell(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "veilstream: {line}");
}

/// `NAME=COLUMN`.
pub(super) fn pair(text: &str) -> Result<(String, String), ArgumentError> {
    match text.split_once('=') {
        Some((name, column)) if !name.is_empty() && !column.is_empty() => {
            Ok((name.to_owned(), column.to_owned()))
        }
        _ => Err(ArgumentError::Form("NAME=COLUMN")),
    }
}
