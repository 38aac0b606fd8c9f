//! `veilstream rotate postgres`

use std::io::{self, Write};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};

use super::trace::Trace;
use super::{Opened, TableArgs};
use crate::audit::Trail;
use crate::cli::load_config;
use crate::cli::table::{WalkArgs, audit_of, progress_teller, stop_flag, tell, warn_of_log};
use crate::exit::Exit;
use crate::keys::{self, KeySource};
use crate::rotate::{ColumnsError, Rotated, RotationOptions, rotate};

pub(super) const AFTER_HELP: &str = "Tokens under a key that a newer one has taken the place of are opened, sealed under the newest key of their data subject or of their schema, and indexed under the newest root. \
A row is written only if its tokens are still those that were read: what others write meanwhile stays. The command may be ended at any time and run again; it continues.
Rows with a value that does not open are named by their key on standard error, and left alone. So are tokens of erased data subjects, which are counted apart. What is bound, or somebody's, must be so in its row.
--trust-rows ties tokens that name no data subject, or are bound to nothing, to what their row says. A token that somebody planted in another row is then bound there: look at the counts of a --dry-run first.
It needs an [audit] section: a line at its begin and lines at its end tell table, fields and counts by key.

Examples:
  veilstream rotate postgres --config veilstream.toml --postgres-file app.url --table customers --key id --schema schemas/customers.json
  veilstream rotate postgres --config veilstream.toml --postgres-file app.url --table customers --schema schemas/customers.json --reindex --rows-per-second 5000

Exit code: 0 nothing old is left and everything opens, 1 otherwise, 2 wrong usage, document or columns";

/// Arguments of `rotate postgres`.
#[derive(Debug, Args)]
pub(super) struct PostgresArgs {
    #[command(flatten)]
    table: TableArgs,
    #[command(flatten)]
    walk: WalkArgs,
    /// Write also the indexes of tokens that stay, where they are missing or under an old root
    #[arg(long)]
    reindex: bool,
    /// Tie tokens to the data subject and the bound values of their row
    #[arg(long)]
    trust_rows: bool,
    /// Open also what was sealed with keys that are marked compromised
    #[arg(long)]
    allow_compromised: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &PostgresArgs) -> anyhow::Result<Exit> {
    let config = load_config(&args.table.source.config)?;
    let audit = audit_of(&args.table.source.config, &config, "rotation")?;
    let mut opened = args.table.open(args.reindex)?;
    if args.trust_rows && opened.columns.subject.is_none() && !opened.schema.subjects.is_empty() {
        return Err(Exit::Usage.because(ColumnsError::NoSubject.to_string()));
    }
    opened.tell_left_out();
    warn_of_log(&mut opened.connection)?;
    let (source, manager) = keys::open_managed(&config.keys, None)?;
    let source: Arc<dyn KeySource> = source;
    let _upkeep = keys::maintain(&source)?;
    let trail = Trail::open(Some(audit), &manager)?;
    let id = |field: usize| opened.schema.fields[field].id.to_string();
    let trace = Trace {
        trail: &trail,
        command: "postgres",
        place: opened.table.shown.clone(),
        schema: opened.schema.name.to_string(),
        fields: opened.columns.fields.iter().map(|columns| id(columns.field)).collect(),
    };
    trace.begin(args.walk.dry_run)?;
    let stop = stop_flag()?;
    let options = RotationOptions {
        batch: args.walk.batch as usize,
        rate: args.walk.rows_per_second,
        dry_run: args.walk.dry_run,
        reindex: args.reindex,
        trust_rows: args.trust_rows,
        allow_compromised: args.allow_compromised,
        stop: &stop,
    };
    let Opened { address, schema, table, columns, .. } = &opened;
    let mut tell = progress_teller();
    let done = rotate(address, table, schema, columns, &manager, &options, &mut tell);
    let rotated = match done {
        Ok(rotated) => rotated,
        Err(error) => {
            // What was written stays written: the trail says that it went on until here.
            trace.broke_off()?;
            return Err(error.into());
        }
    };
    let traced = trace.end(&rotated);
    print(args, &opened, &rotated)?;
    traced?;
    Ok(if rotated.is_whole() { Exit::Ok } else { Exit::Failed })
}

fn print(args: &PostgresArgs, opened: &Opened, rotated: &Rotated) -> anyhow::Result<()> {
    for (row, field, class) in &rotated.failed {
        tell(format_args!("{row}: {field}: {class}"));
    }
    let unnamed = rotated.counts.failures().saturating_sub(rotated.failed.len() as u64);
    if unnamed > 0 {
        tell(format_args!("and {unnamed} more values that do not open"));
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", crate::cli::sorted(as_json(opened, rotated, args.walk.dry_run)))?;
        return Ok(());
    }
    for line in rotated.counts.lines() {
        writeln!(out, "{line}")?;
    }
    let (rows, moved) = (rotated.counts.rows, rotated.left.values().sum::<u64>());
    writeln!(
        out,
        "{}: {rows} rows, {} written, {moved} tokens sealed again",
        opened.table.shown, rotated.written
    )?;
    if rotated.trusted > 0 {
        writeln!(out, "{} tokens were tied to what their rows say", rotated.trusted)?;
    }
    if rotated.missed > 0 {
        writeln!(out, "{} rows were changed by others meanwhile and read again", rotated.missed)?;
    }
    let verdict = match rotated {
        _ if args.walk.dry_run => "nothing was written: a dry run".to_owned(),
        Rotated { stopped: true, .. } => "stopped; run it again, it continues".to_owned(),
        _ if rotated.is_whole() => {
            let fields: Vec<&str> = rotated.counts.fields.keys().map(String::as_str).collect();
            format!("nothing old is left of {}", fields.join(", "))
        }
        _ => format!(
            "{} tokens and {} indexes are old, {} values do not open",
            rotated.counts.old(),
            rotated.old_indexes,
            rotated.counts.failures()
        ),
    };
    writeln!(out, "{verdict}")?;
    Ok(())
}

fn as_json(opened: &Opened, rotated: &Rotated, dry_run: bool) -> Value {
    let moved: Vec<Value> = rotated
        .left
        .iter()
        .map(|((field, kid), tokens)| {
            json!({ "field": field, "from": kid.to_string(), "tokens": tokens })
        })
        .collect();
    json!({ "table": opened.table.shown, "schema": &*opened.schema.name, "dry_run": dry_run,
        "counts": rotated.counts.json(), "written": rotated.written, "moved": moved,
        "changed_meanwhile": rotated.missed, "trusted": rotated.trusted, "walks": rotated.walks,
        "old": rotated.counts.old(), "old_indexes": rotated.old_indexes,
        "failed": rotated.counts.failures(), "stopped": rotated.stopped,
        "whole": rotated.is_whole() })
}
