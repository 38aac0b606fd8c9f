//! `veilstream rotate report`

use std::io::{self, Write};

use clap::Args;
use serde_json::json;

use super::TableArgs;
use crate::cli::load_config;
use crate::exit::Exit;
use crate::keys;
use crate::rotate::report;

pub(super) const AFTER_HELP: &str = "The server groups tokens by the key id in their headers, so no value is opened and none leaves the database. Whether a token opens is not looked at.

Examples:
  veilstream rotate report --config veilstream.toml --postgres-file app.url --table customers --schema schemas/customers.json

Exit code: 0 nothing old is there, 1 otherwise, 2 wrong usage, document or columns";

/// Arguments of `rotate report`.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    table: TableArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &ReportArgs) -> anyhow::Result<Exit> {
    let config = load_config(&args.table.source.config)?;
    let mut opened = args.table.open(false)?;
    opened.tell_left_out();
    let manager = keys::manager(&config.keys)?;
    let (connection, table) = (&mut opened.connection, &opened.table);
    let counts = report(connection, table, &opened.schema, &opened.columns, &manager)?;
    let mut out = io::stdout().lock();
    if args.json {
        let shown = json!({ "table": table.shown, "schema": &*opened.schema.name,
            "counts": counts.json(), "old": counts.old() });
        writeln!(out, "{}", crate::cli::sorted(shown))?;
    } else {
        for line in counts.lines() {
            writeln!(out, "{line}")?;
        }
        writeln!(out, "{}: {} rows, {} old tokens", table.shown, counts.rows, counts.old())?;
    }
    Ok(if counts.old() == 0 { Exit::Ok } else { Exit::Failed })
}
