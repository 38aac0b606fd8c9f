//! `veilstream migrate`

mod report;
mod source;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use veilstream_engine::key::KeyId;
use veilstream_keys::store::PostgresAddress;
use veilstream_reading::audit::{Entry, Event, Hex, cut_reason};

use super::table::{
    TableSource, WalkArgs, audit_of, pair, progress_teller, stop_flag, usage, warn_of_log,
};
use crate::audit::Trail;
use crate::cli::load_config;
use crate::config::Config;
use crate::exit::Exit;
use crate::keys::{self, KeySource};
use crate::migrate::{
    CheckOutcome, Form, Forms, MigrateError, Migrated, MigratedColumn, MigrationOptions, Target,
    TargetColumns, migrate, validate,
};
use crate::rows::{Connection, Table};
use crate::sinks;
use source::SourceArgs;

const AFTER_HELP: &str = "Each value of the column is opened with the other system's keys, sealed as a token of the document's field, and indexed. A row is written only if nobody changed it since it was read. \
The command may be ended at any time and run again; it continues: what is a token is done. Mixed columns take several --from.
Rows that do not open, or are of no form that was named, are named by their key on standard error, and left alone.
In the end a sample is opened again, and a CHECK keeps the old form out: until it holds, a writer that nobody stopped may still write it.
--to names the tokens' column where the old one takes no text, as bytea. The old cell becomes null then.
sha256-hash replaces a search hash by the blind index: the value stands as a token in the column --to.
It needs an [audit] section: a line at its begin and lines at its end tell table, field, and counts by key and form.

Examples:
  veilstream migrate postgres --config veilstream.toml --postgres-file app.url --table users --schema schemas/users.json --field email --from fernet --keys-file old.keys
  veilstream migrate postgres --config veilstream.toml --postgres-file app.url --table users --schema schemas/users.json --field ssn --subject id \
--from pgcrypto --passphrases-file old.pass --column ssn_enc --to ssn
  veilstream migrate postgres --config veilstream.toml --postgres-file app.url --table users --schema schemas/users.json --field email --from vault --source-config old-vault.toml
  veilstream migrate postgres --config veilstream.toml --postgres-file app.url --table users --schema schemas/users.json --field email --from clear --dry-run

Exit code: 0 none of the old form is left and none can be written, 1 otherwise, 2 wrong usage, document or columns";

/// Arguments of `migrate`.
#[derive(Debug, Args)]
pub struct MigrateArgs {
    #[command(subcommand)]
    command: MigrateCommand,
}

#[derive(Debug, Subcommand)]
enum MigrateCommand {
    /// Turn a column of older encryption, of hashes or in clear into tokens and blind indexes
    #[command(after_help = AFTER_HELP)]
    Postgres(Box<PostgresArgs>),
}

/// Arguments of `migrate postgres`.
#[derive(Debug, Args)]
struct PostgresArgs {
    #[command(flatten)]
    table: TableSource,
    /// Schema document of the table's records
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
    /// Id of the field
    #[arg(long, value_name = "ID")]
    field: String,
    #[command(flatten)]
    source: SourceArgs,
    /// Column of the old form; the field's id if left out
    #[arg(long, value_name = "COLUMN")]
    column: Option<String>,
    /// Column of the tokens, where it is another
    #[arg(long, value_name = "COLUMN")]
    to: Option<String>,
    /// Column of the blind indexes; <to>_bidx if left out
    #[arg(long, value_name = "COLUMN")]
    index: Option<String>,
    /// Column that says whose row it is
    #[arg(long, value_name = "COLUMN")]
    subject: Option<String>,
    /// Column of a value that tokens are bound to
    #[arg(long, value_name = "NAME=COLUMN", value_parser = pair)]
    bind: Vec<(String, String)>,
    /// Set the cells of erased persons to null
    #[arg(long)]
    erase: bool,
    /// Rows that are opened again at the end
    #[arg(long, value_name = "ROWS", default_value = "1000")]
    sample: usize,
    #[command(flatten)]
    walk: WalkArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// Faults of the document, the table or the configuration; keys or the database are not available.
pub fn run(args: &MigrateArgs) -> anyhow::Result<Exit> {
    let MigrateCommand::Postgres(args) = &args.command;
    args.run()
}

/// What the arguments name, looked up.
struct Opened {
    address: PostgresAddress,
    connection: Connection,
    table: Table,
    columns: TargetColumns,
    target: Target,
    forms: Forms,
}

impl PostgresArgs {
    fn run(&self) -> anyhow::Result<Exit> {
        let config = load_config(&self.table.config)?;
        let audit = audit_of(&self.table.config, &config, "migration")?;
        let (source, manager) = keys::open_managed(&config.keys, None)?;
        let source: Arc<dyn KeySource> = source;
        let _upkeep = keys::maintain(&source)?;
        let mut opened = self.open(&config, &*source)?;
        warn_of_log(&mut opened.connection)?;
        let trail = Trail::open(Some(audit), &manager)?;
        trail.append(vec![self.entry(&trail, &opened, "begin")])?;
        let migrated = match self.walk(&mut opened, &*source) {
            Ok(migrated) => migrated,
            Err(error) => {
                // What was written stays written: the trail says that it went on until here.
                let outcome = Some("failed".to_owned());
                let entry = self.entry(&trail, &opened, "broke off");
                trail.append_done(Entry { outcome, ..entry })?;
                return Err(error);
            }
        };
        let check = self.check(&mut opened, &migrated)?;
        let is_done = migrated.is_done() && !matches!(check, Some(CheckOutcome::Refused { .. }));
        let traced = trail.append_done_all(self.ended(&trail, &opened, &migrated, is_done));
        report::print(self.json, self.walk.dry_run, &opened, &migrated, check.as_ref())?;
        traced?;
        let would_be = self.walk.dry_run && migrated.now.left() == 0;
        Ok(if is_done || would_be { Exit::Ok } else { Exit::Failed })
    }

    fn walk(&self, opened: &mut Opened, keys: &dyn KeySource) -> anyhow::Result<Migrated> {
        let stop = stop_flag()?;
        let options = MigrationOptions {
            batch: self.walk.batch as usize,
            rate: self.walk.rows_per_second,
            dry_run: self.walk.dry_run,
            erase: self.erase,
            sample: self.sample,
            stop: &stop,
        };
        let Opened { address, table, columns, target, forms, .. } = opened;
        let column = MigratedColumn { address, table, columns };
        let mut tell = progress_teller();
        migrate(column, target, forms, keys, &options, &mut tell).map_err(usage_of_field)
    }

    fn open(&self, config: &Config, keys: &dyn KeySource) -> anyhow::Result<Opened> {
        let document = std::fs::read(&self.schema)
            .with_context(|| format!("{} cannot be read", self.schema.display()))?;
        let target = Target::new(&document, &self.field, keys).map_err(usage_of_field)?;
        let forms = self.source.forms(config)?;
        let (address, connection, table) = self.table.open()?;
        let columns = self.columns(&table, &target, &forms)?;
        Ok(Opened { address, connection, table, columns, target, forms })
    }

    fn columns(
        &self,
        table: &Table,
        target: &Target,
        forms: &Forms,
    ) -> anyhow::Result<TargetColumns> {
        let source = self.column.clone().unwrap_or_else(|| self.field.clone());
        let to = self.to.clone().unwrap_or_else(|| source.clone());
        let is_hash = forms.has(Form::Sha256Hash);
        if is_hash && (forms.each().len() > 1 || to == source) {
            return refuse(
                "--from sha256-hash stands alone, with --to for the column of the tokens"
                    .to_owned(),
            );
        }
        let index = self.index_column(table, target, &to, is_hash)?;
        match (target.has_subject(), &self.subject) {
            (true, None) => refuse(
                "the document has a subject: name the column that says whose row it is with \
                --subject"
                    .to_owned(),
            ),
            (false, Some(_)) => {
                refuse("--subject: the document has no subject; leave it out".to_owned())
            }
            _ => Ok(TargetColumns {
                source,
                target: to,
                index,
                subject: self.subject.clone(),
                bind: self.bind_columns(target)?,
            }),
        }
    }

    fn index_column(
        &self,
        table: &Table,
        target: &Target,
        to: &str,
        is_needed: bool,
    ) -> anyhow::Result<Option<String>> {
        let named = self.index.clone().unwrap_or_else(|| format!("{to}_bidx"));
        match (target.has_index(), table.has(&named)) {
            (true, true) => Ok(Some(named)),
            (true, false) => refuse(format!(
                "the field {} has an index, and {} has no column {named}; add it (`veilstream \
                schema ddl` prints it), or name another with --index",
                self.field, table.shown
            )),
            (false, _) if self.index.is_some() || is_needed => {
                refuse(format!("the field {} has no index in the document; add one", self.field))
            }
            (false, _) => Ok(None),
        }
    }

    /// The columns of the values that tokens are bound to, in the order of their names.
    fn bind_columns(&self, target: &Target) -> anyhow::Result<Vec<String>> {
        if let Some((name, _)) = self.bind.iter().find(|(name, _)| !target.bind().contains(name)) {
            return refuse(format!("--bind: the field {} is not bound to {name}", self.field));
        }
        let column = |name: &String| match self.bind.iter().find(|(given, _)| given == name) {
            Some((_, column)) => Ok(column.clone()),
            None => refuse(format!(
                "the field {} is bound to {name}: name its column with --bind {name}=COLUMN",
                self.field
            )),
        };
        target.bind().iter().map(column).collect()
    }

    /// Keeps the old form out, once nothing of it is left.
    fn check(
        &self,
        opened: &mut Opened,
        migrated: &Migrated,
    ) -> anyhow::Result<Option<CheckOutcome>> {
        if self.walk.dry_run || !migrated.is_done() {
            return Ok(None);
        }
        let Opened { connection, table, columns, target, forms, .. } = opened;
        let form = sinks::token_form(target.schema(), 0);
        let form = (!forms.has(Form::Sha256Hash)).then_some(&*form);
        Ok(Some(validate(connection, table, columns, form)?))
    }

    fn entry(&self, trail: &Trail, opened: &Opened, what: &str) -> Entry {
        let forms: Vec<&str> = opened.forms.each().iter().map(|form| form.as_str()).collect();
        let what = if self.walk.dry_run { format!("{what}, dry run") } else { what.to_owned() };
        let place = format!("{}.{}", opened.table.shown, opened.columns.source);
        let reason = format!("migrate postgres {what}: {place} from {}", forms.join(", "));
        Entry {
            schema: Some(opened.target.schema().name.to_string()),
            fields: [(self.field.clone(), "migrate".to_owned())].into(),
            reason: Some(cut_reason(&reason)),
            query_id: Some(place),
            ..trail.entry(Event::Migrate)
        }
    }

    /// The lines at the end: what the column holds now, tokens by key and the rest by form.
    fn ended(&self, trail: &Trail, opened: &Opened, done: &Migrated, is_done: bool) -> Vec<Entry> {
        let entry = self.entry(trail, opened, &format!("end, {} rows written", done.written));
        let outcome = match is_done {
            true => "ok",
            false if self.walk.dry_run => "dry_run",
            false => "failed",
        };
        let line = |what: &str, key: Option<KeyId>, rows| Entry {
            fields: [(self.field.clone(), what.to_owned())].into(),
            kids: key.iter().map(|key| Hex(key.0)).collect(),
            items: Some(rows),
            outcome: Some(outcome.to_owned()),
            ..entry.clone()
        };
        let tokens = done.now.keys.iter().map(|(key, rows)| line("token", *key, *rows));
        let old = done.now.forms.iter().filter(|(form, _)| **form != "token");
        let mut lines: Vec<Entry> =
            tokens.chain(old.map(|(form, rows)| line(form, None, *rows))).collect();
        if lines.is_empty() {
            lines.push(line("migrate", None, 0));
        }
        lines
    }
}

fn refuse<T>(what: String) -> anyhow::Result<T> {
    Err(Exit::Usage.because(what))
}

fn usage_of_field(error: MigrateError) -> anyhow::Error {
    match error {
        MigrateError::Rows(error) => usage(error),
        fault @ (MigrateError::Field { .. } | MigrateError::List { .. }) => {
            Exit::Usage.because(fault.to_string())
        }
        other => other.into(),
    }
}
