//! `veilstream dlq`

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use veilstream_reading::audit::{Entry, Event};

use super::KeysSource;
use super::argument::ArgumentError;
use crate::audit::{self, AuditFlags, Trail};
use crate::config::Config;
use crate::dead_letters::DeadLetterError;
use crate::dead_letters::letter::Content;
use crate::dead_letters::read::{self, LetterPlace};
use crate::dead_letters::replay::{self, PassedBy, Replayed, Selection};
use crate::exit::Exit;
use crate::kafka::access;
use crate::{keys, registry, telemetry};

/// Arguments of `dlq`.
#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    command: DlqCommand,
}

#[derive(Debug, Subcommand)]
enum DlqCommand {
    /// List dead letters: place, reason, origin; nothing of the record
    #[command(
        after_help = "Letters that were replayed are listed too, as long as the topic keeps them; \
            one that was rejected again stands there twice.\n\nExamples:\n  veilstream dlq list \
            --config veilstream.toml\n  veilstream dlq list --config veilstream.toml --reason \
            wrong_type --json"
    )]
    List {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only letters with this reason
        #[arg(long, value_name = "CODE")]
        reason: Option<String>,
        /// Only letters from this raw topic
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Open one dead letter: prints the record in CLEAR
    #[command(after_help = "Examples:\n  veilstream dlq show --config veilstream.toml 3:42")]
    Show {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        audit: AuditFlags,
        /// Partition and offset in the dead-letter topic, as `list` prints them
        #[arg(value_name = "PARTITION:OFFSET", value_parser = place)]
        place: LetterPlace,
    },
    /// Run dead letters through the schemas in force into their sanitized topics; what is rejected
    /// again goes to the end of the topic
    #[command(after_help = REPLAY_HELP)]
    Replay {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// These letters and no others; where the next replay starts stays as it is
        #[arg(long, value_name = "PARTITION:OFFSET", value_parser = place, value_delimiter = ',', conflicts_with_all = ["from", "skip"])]
        only: Vec<LetterPlace>,
        /// Start a partition here and not where the last replay ended; the other partitions go on
        #[arg(long, value_name = "PARTITION:OFFSET", value_parser = place, value_delimiter = ',')]
        from: Vec<LetterPlace>,
        /// Leave these letters where they are
        #[arg(long, value_name = "PARTITION:OFFSET", value_parser = place, value_delimiter = ',')]
        skip: Vec<LetterPlace>,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

const REPLAY_HELP: &str =
    "Each letter goes by itself. One that does not (it was forged, its key is gone, its topic is missing) is passed by and printed as a JSON object:
{\"partition\":3,\"offset\":42,\"reason\":\"corrupt\",\"origin\":{\"topic\":\"customers.raw\",\"partition\":3,\"offset\":7}}
Once the cause is mended, --only brings it. --only and --from bring letters whether they were brought before or not.

Examples:
  veilstream dlq replay --config veilstream.toml
  veilstream dlq replay --config veilstream.toml --only 3:42,3:57
  veilstream dlq replay --config veilstream.toml --from 3:0 --skip 3:42

Exit code: 0 every letter went, 1 some were rejected again or passed by";

fn place(text: &str) -> Result<LetterPlace, ArgumentError> {
    const WRONG: ArgumentError = ArgumentError::Form("PARTITION:OFFSET, as in 3:42");
    let (partition, offset) = text.split_once(':').ok_or(WRONG)?;
    match (partition.parse(), offset.parse()) {
        (Ok(partition), Ok(offset)) if partition >= 0 && offset >= 0 => {
            Ok(LetterPlace { partition, offset })
        }
        _ => Err(WRONG),
    }
}

/// Where each partition starts; one start each.
fn starts(from: &[LetterPlace]) -> anyhow::Result<BTreeMap<i32, i64>> {
    let starts: BTreeMap<i32, i64> =
        from.iter().map(|place| (place.partition, place.offset)).collect();
    if starts.len() == from.len() {
        Ok(starts)
    } else {
        Err(Exit::Usage.because("--from names a partition twice"))
    }
}

/// Runs the command.
///
/// # Errors
/// Kafka, keys or a letter do not do as asked.
pub fn run(args: &DlqArgs) -> anyhow::Result<Exit> {
    match &args.command {
        DlqCommand::List { config, reason, topic, json } => {
            list(config, reason.as_deref(), topic.as_deref(), *json)
        }
        DlqCommand::Show { config, audit, place } => show(config, *audit, *place),
        DlqCommand::Replay { config, only, from, skip, json } => {
            let selection = Selection {
                only: only.iter().copied().collect(),
                from: starts(from)?,
                skip: skip.iter().copied().collect(),
            };
            replay(config, &selection, *json)
        }
    }
}

/// The configuration, with which the brokers take our connections.
fn load(path: &std::path::Path) -> anyhow::Result<Config> {
    let config = super::load_config(path)?;
    access::check(&config.kafka).map_err(|e| e.exit().because(e.to_string()))?;
    Ok(config)
}

fn list(
    config: &std::path::Path,
    reason: Option<&str>,
    topic: Option<&str>,
    as_json: bool,
) -> anyhow::Result<Exit> {
    let config = load(config)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    read::read(&config, None, |found| {
        let Some(letter) = &found.letter else { return Ok(true) };
        if reason.is_some_and(|r| r != letter.reason) || topic.is_some_and(|t| t != letter.topic) {
            return Ok(true);
        }
        if as_json {
            let line = json!({
                "partition": found.place.partition, "offset": found.place.offset, "reason": letter.reason, "time": letter.time, "schema": letter.schema,
                "form": letter.content.form(),
                "origin": { "topic": letter.topic, "partition": letter.partition, "offset": letter.offset },
            });
            writeln!(out, "{}", super::sorted(line))?;
        } else {
            let schema = if letter.schema.is_empty() { "-" } else { &letter.schema };
            let (place, stub) = (found.place.to_string(), if matches!(letter.content, Content::Stub { .. }) { " stub" } else { "" });
            writeln!(out, "{place:<10} {:<18} {}[{}]@{} {schema}{stub}", letter.reason, letter.topic, letter.partition, letter.offset)?;
        }
        Ok(true)
    })
    .map_err(unwrap_output)?;
    out.flush()?;
    Ok(Exit::Ok)
}

fn show(path: &std::path::Path, flags: AuditFlags, place: LetterPlace) -> anyhow::Result<Exit> {
    let source = KeysSource { keys: None, config: Some(path.to_owned()) };
    let audit = audit::for_values(&source, flags)?;
    let config = load(path)?;
    let (keys, manager) = keys::open_managed(&config.keys, None)?;
    let trail = Trail::open(audit.as_ref(), &manager)?;
    let letter = read::find(&config, place)?;
    let opened = read::record(&config, place, &letter, &*keys)?;
    trail.append(vec![Entry {
        schema: Some("dead_letter".to_owned()),
        fields: [("record".to_owned(), "revealed".to_owned())].into(),
        items: Some(1),
        query_id: Some(place.to_string()),
        ..trail.entry(Event::Reveal)
    }])?;
    let headers: Vec<Value> = opened
        .headers
        .iter()
        .map(|(name, value)| {
            json!([super::text_or_base64(Some(name)), super::text_or_base64(value.as_deref())])
        })
        .collect();
    let shown = json!({
        "reason": letter.reason, "schema": letter.schema, "time": letter.time, "form": letter.content.form(),
        "origin": { "topic": letter.topic, "partition": letter.partition, "offset": letter.offset },
        "key": super::text_or_base64(opened.key.as_deref()), "value": super::text_or_base64(opened.value.as_deref()), "headers": headers,
    });
    let mut out = io::stdout().lock();
    writeln!(out, "{:#}", super::sorted(shown))?;
    Ok(Exit::Ok)
}

fn replay(config: &std::path::Path, selection: &Selection, as_json: bool) -> anyhow::Result<Exit> {
    let config = super::load_config(config)?;
    telemetry::start_logs(&config.log);
    access::check(&config.kafka).map_err(|e| e.exit().because(e.to_string()))?;
    let (registry, _) = registry::open_configured(&config.schemas)
        .map_err(|faults| super::faults_error(&faults))?;
    let keys = keys::open(&config.keys, None)?;
    let schemas = registry.current();
    keys.take_interop(&schemas)?;
    let terminal = io::stderr().is_terminal() && !as_json;
    let mut passed_by = Vec::new();
    let replayed = replay::replay(&config, &schemas, &*keys, selection, &mut |done, passed| {
        passed_by.extend(passed.iter().map(report));
        if terminal {
            // Progress is a courtesy: nobody misses it where it cannot be written.
            let _ = write!(
                io::stderr(),
                "\r{} replayed, {} rejected again, {} passed by",
                done.protected,
                done.rejected,
                done.passed_by
            );
        }
    });
    if terminal {
        writeln!(io::stderr())?;
    }
    let mut out = io::stdout().lock();
    // Also when the rest failed: the replay is past these letters.
    for report in passed_by {
        writeln!(out, "{}", super::sorted(report))?;
    }
    let done =
        replayed.context("replay stopped; what was replayed before stays, the rest waits")?;
    let Replayed { protected, rejected, passed_by, skipped } = done;
    if as_json {
        writeln!(
            out,
            "{}",
            super::sorted(json!({
                "replayed": protected, "rejected_again": rejected, "passed_by": passed_by,
                "skipped": skipped,
            }))
        )?;
    } else {
        writeln!(
            out,
            "{protected} replayed, {rejected} rejected again, {passed_by} passed by, {skipped} \
            skipped"
        )?;
    }
    Ok(if rejected + passed_by == 0 { Exit::Ok } else { Exit::Failed })
}

/// A letter that does not go; nothing of its record.
fn report(passed: &PassedBy) -> Value {
    let mut report = json!({ "partition": passed.place.partition, "offset": passed.place.offset, "reason": passed.fault.as_str() });
    if let Some((topic, partition, offset)) = &passed.origin {
        report["origin"] = json!({ "topic": topic, "partition": partition, "offset": offset });
    }
    report
}

/// A closed pipe is the reader's wish, told as the error it is.
fn unwrap_output(error: DeadLetterError) -> anyhow::Error {
    match error {
        DeadLetterError::Output(error) => error.into(),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_as_listed() {
        assert_eq!(place("3:42"), Ok(LetterPlace { partition: 3, offset: 42 }));
        for wrong in ["3", "3:", ":1", "-1:4", "1:-4", "a:b", "1:2:3"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
