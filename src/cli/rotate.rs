//! `veilstream rotate`

mod postgres;
mod report;
mod topic;
mod trace;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use veilstream_engine::compile::Grants;
use veilstream_engine::schema::Schema;
use veilstream_keys::store::PostgresAddress;

use super::table::{TableSource, pair, tell};
use crate::exit::Exit;
use crate::registry;
use crate::rotate::{Columns, Mapping};
use crate::rows::{Connection, Table};

/// Arguments of `rotate`.
#[derive(Debug, Args)]
pub struct RotateArgs {
    #[command(subcommand)]
    command: RotateCommand,
}

#[derive(Debug, Subcommand)]
enum RotateCommand {
    /// Move the tokens of a PostgreSQL table to the newest keys, beside those who write there
    #[command(after_help = postgres::AFTER_HELP)]
    Postgres(postgres::PostgresArgs),
    /// Copy the records of a sanitized topic, sealed under the newest keys, into another topic
    #[command(after_help = topic::AFTER_HELP)]
    Topic(topic::TopicArgs),
    /// Count what a PostgreSQL table holds by key and index root; nothing is opened
    #[command(after_help = report::AFTER_HELP)]
    Report(report::ReportArgs),
}

/// Runs the command.
///
/// # Errors
/// Faults of the document, the table or the configuration; keys or the database are not available.
pub fn run(args: &RotateArgs) -> anyhow::Result<Exit> {
    match &args.command {
        RotateCommand::Postgres(args) => postgres::run(args),
        RotateCommand::Topic(args) => topic::run(args),
        RotateCommand::Report(args) => report::run(args),
    }
}

/// A table, and which of its columns hold what.
#[derive(Debug, Args)]
struct TableArgs {
    #[command(flatten)]
    source: TableSource,
    /// Schema document of the table's records
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
    /// Column with the tokens of a field, where it has another name than `schema ddl` gives it
    #[arg(long, value_name = "FIELD=COLUMN", value_parser = pair)]
    column: Vec<(String, String)>,
    /// Column with the blind indexes of a field, likewise
    #[arg(long, value_name = "FIELD=COLUMN", value_parser = pair)]
    index: Vec<(String, String)>,
    /// Column of a value that tokens are bound to, likewise
    #[arg(long, value_name = "NAME=COLUMN", value_parser = pair)]
    bind: Vec<(String, String)>,
    /// Column of the data subject, likewise
    #[arg(long, value_name = "COLUMN")]
    subject: Option<String>,
}

/// What the arguments name, looked up.
struct Opened {
    address: PostgresAddress,
    connection: Connection,
    schema: Arc<Schema>,
    table: Table,
    columns: Columns,
}

impl TableArgs {
    fn open(&self, reindex: bool) -> anyhow::Result<Opened> {
        let loaded = registry::open_files(std::slice::from_ref(&self.schema), &Grants::local())
            .map_err(|faults| super::faults_error(&faults))?;
        let schema = loaded.set.schemas()[0].clone();
        let (address, connection, table) = self.source.open()?;
        let columns = Columns::find(&schema, &table, &self.mapping(), reindex)
            .map_err(|error| Exit::Usage.because(error.to_string()))?;
        Ok(Opened { address, connection, schema, table, columns })
    }

    fn mapping(&self) -> Mapping {
        let map = |pairs: &[(String, String)]| pairs.iter().cloned().collect::<BTreeMap<_, _>>();
        Mapping {
            columns: map(&self.column),
            indexes: map(&self.index),
            bind: map(&self.bind),
            subject: self.subject.clone(),
        }
    }
}

impl Opened {
    /// Tells of fields that stay as they are.
    fn tell_left_out(&self) {
        for (field, why) in &self.columns.left_out {
            tell(format_args!("{field} is left as it is: {why}"));
        }
    }
}
