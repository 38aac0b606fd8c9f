//! `veilstream rotate topic`

use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use veilstream_engine::compile::{Grants, SchemaSet};
use veilstream_engine::schema::Schema;

use super::trace::Trace;
use crate::audit::Trail;
use crate::cli::table::{audit_of, progress_teller, stop_flag, tell};
use crate::cli::{faults_error, load_config, sorted};
use crate::exit::Exit;
use crate::kafka::access;
use crate::keys::{self, KeySource};
use crate::rotate::topic::{
    TopicOptions, TopicRotated, TopicRotationError, TopicSchemas, rotate_topic,
};
use crate::{registry, telemetry};

pub(super) const AFTER_HELP: &str = "Each record of a sanitized topic is opened, sealed under the newest keys, indexed under the newest root and written to another topic: same partition, same order, exactly once. The topic that is read stays as it is. \
Deterministic fields and record keys move to the root that the document pins: name the document with the new `root`. Hashed record keys cannot move.
It reads to the end that the topic has at its start. Run it again for what came since, at last with the writers of the topic stopped. It continues where it ended.
A record with a value that does not open is written as it stands, its key apart, and named on standard error. Those of erased data subjects are counted apart. A value in clear where a token is expected ends the command.
It needs an [audit] section: a line at its begin and lines at its end tell topics, fields and counts by key.

Examples:
  veilstream rotate topic --config veilstream.toml --schema schemas/customers.json --from customers.sanitized --to customers.sanitized.2 --dry-run
  veilstream rotate topic --config veilstream.toml --schema schemas/customers.json --from customers.sanitized --to customers.sanitized.2

Exit code: 0 every record that was read is under the newest keys, 1 otherwise, 2 wrong usage, document or topics";

/// Arguments of `rotate topic`.
#[derive(Debug, Args)]
pub(super) struct TopicArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Schema document of the topic's records; once for each, if several share it
    #[arg(long, value_name = "FILE", required = true)]
    schema: Vec<PathBuf>,
    /// Sanitized topic to read
    #[arg(long, value_name = "TOPIC")]
    from: String,
    /// Topic to write to; it exists, and nothing else writes to it yet
    #[arg(long, value_name = "TOPIC")]
    to: String,
    /// Count what would move, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Seal values that stand in clear where tokens are expected
    #[arg(long)]
    seal_clear: bool,
    /// Bind tokens that are bound to nothing to the values of their record
    #[arg(long)]
    trust_records: bool,
    /// Open also what was sealed with keys that are marked compromised
    #[arg(long)]
    allow_compromised: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &TopicArgs) -> anyhow::Result<Exit> {
    let config = load_config(&args.config)?;
    telemetry::start_logs(&config.log);
    let audit = audit_of(&args.config, &config, "rotation")?;
    let grants = Grants { domains: config.schemas.domains.clone(), any_domain: false };
    let documents =
        registry::open_files(&args.schema, &grants).map_err(|faults| faults_error(&faults))?.set;
    let rotation =
        registry::open_rotation(&args.schema, &grants).map_err(|faults| faults_error(&faults))?;
    for warning in &rotation.warnings {
        tell(format_args!("{warning}"));
    }
    access::check(&config.kafka).map_err(|e| e.exit().because(e.to_string()))?;
    let (source, manager) = keys::open_managed(&config.keys, None)?;
    let source: Arc<dyn KeySource> = source;
    let _upkeep = keys::maintain(&source)?;
    source.take_interop(&rotation.set)?;
    let trail = Trail::open(Some(audit), &manager)?;
    let traces = traces(&trail, args, &rotation.set);
    traces.iter().try_for_each(|trace| trace.begin(args.dry_run))?;
    let stop = stop_flag()?;
    let options = TopicOptions {
        from: &args.from,
        to: &args.to,
        dry_run: args.dry_run,
        seal_clear: args.seal_clear,
        trust_records: args.trust_records,
        allow_compromised: args.allow_compromised,
        stop: &stop,
    };
    let schemas = TopicSchemas { documents: &documents, rotation: &rotation.set };
    let done = rotate_topic(&config, schemas, &*source, &options, &mut progress_teller());
    let rotated = match done {
        Ok(rotated) => rotated,
        Err(error) => {
            // What was written stays written: the trail says that it went on until here.
            traces.iter().try_for_each(Trace::broke_off)?;
            return Err(ended(error));
        }
    };
    let traced = traces.iter().try_for_each(|trace| trace.end_topic(&rotated));
    print(args, &rotated)?;
    traced?;
    Ok(if rotated.is_whole() { Exit::Ok } else { Exit::Failed })
}

fn ended(error: TopicRotationError) -> anyhow::Error {
    if error.is_usage() { Exit::Usage.because(error.to_string()) } else { error.into() }
}

/// One for each schema; what none claims stands in the first.
fn traces<'a>(trail: &'a Trail, args: &TopicArgs, schemas: &SchemaSet) -> Vec<Trace<'a>> {
    let fields = |schema: &Schema| {
        let fields = schema.fields.iter().filter(|field| field.protect.is_reversible());
        let headers = schema.headers.iter().map(|rule| format!("#header:{}", rule.header));
        let key = schema.key.iter().map(|_| "#key".to_owned());
        fields.map(|field| field.id.to_string()).chain(key).chain(headers).collect()
    };
    let of = |schema: &Arc<Schema>| Trace {
        trail,
        command: "topic",
        place: format!("{} to {}", args.from, args.to),
        schema: schema.name.to_string(),
        fields: fields(schema),
    };
    schemas.schemas().iter().map(of).collect()
}

fn print(args: &TopicArgs, rotated: &TopicRotated) -> anyhow::Result<()> {
    for (place, field, class) in &rotated.named {
        let field = if field.is_empty() { "record" } else { field };
        tell(format_args!("{place}: {field}: {class}"));
    }
    let unnamed = rotated.failures().saturating_sub(rotated.named.len() as u64);
    if unnamed > 0 {
        tell(format_args!("and {unnamed} more records with a value that does not open"));
    }
    let mut out = io::stdout().lock();
    if args.json {
        writeln!(out, "{}", sorted(as_json(args, rotated)))?;
        return Ok(());
    }
    let tokens: u64 = rotated.moved.values().sum();
    writeln!(
        out,
        "{} to {}: {} records, {} sealed again with {tokens} tokens",
        args.from, args.to, rotated.records, rotated.sealed
    )?;
    let mut line = |count: u64, what: &str| -> io::Result<()> {
        if count > 0 { writeln!(out, "{count:>12}  {what}") } else { Ok(()) }
    };
    line(rotated.clear.values().sum(), "values stood in clear and are sealed now")?;
    line(rotated.erased(), "records of erased data subjects, written as they stand")?;
    line(rotated.failures(), "records with a value that does not open, written as they stand")?;
    line(
        rotated.unexpected_tokens,
        "tokens where no document declares any, written as they stand",
    )?;
    line(rotated.behind, "records came meanwhile: run it again, it continues")?;
    if args.dry_run {
        writeln!(out, "nothing was written: a dry run")?;
    } else if rotated.stopped {
        writeln!(out, "stopped; run it again, it continues")?;
    }
    Ok(())
}

fn as_json(args: &TopicArgs, rotated: &TopicRotated) -> Value {
    let moved = rotated.moved.iter().map(|((schema, field, kid), tokens)| {
        json!({ "schema": schema, "field": field, "from": kid.to_string(), "tokens": tokens })
    });
    let kept = rotated.kept.iter().map(|((schema, field, class), records)| {
        json!({ "schema": schema, "field": field, "reason": class, "records": records })
    });
    json!({ "from": args.from, "to": args.to, "dry_run": args.dry_run,
        "records": rotated.records, "sealed": rotated.sealed, "clear": rotated.clear,
        "moved": moved.collect::<Vec<_>>(), "kept": kept.collect::<Vec<_>>(),
        "erased": rotated.erased(), "failed": rotated.failures(),
        "unexpected_tokens": rotated.unexpected_tokens, "behind": rotated.behind,
        "stopped": rotated.stopped, "whole": rotated.is_whole() })
}
