//! `veilstream dlq`

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::config::Config;
use crate::exit::Exit;
use crate::kafka::access;
use crate::kafka::letters::{self, LettersError};
use crate::{keys, registry, telemetry};

/// Arguments of `dlq`.
#[derive(Debug, Args)]
pub struct DlqArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List dead letters: place, reason, origin; nothing of the record
    #[command(
        after_help = "Letters that were replayed are listed too, as long as the topic keeps them; one that was rejected again stands there twice.\n\nExamples:\n  veilstream dlq list --config veilstream.toml\n  veilstream dlq list --config veilstream.toml --reason wrong_type --json"
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
        /// Partition and offset in the dead-letter topic, as `list` prints them
        #[arg(value_name = "PARTITION:OFFSET", value_parser = place)]
        place: (i32, i64),
    },
    /// Run dead letters through the schemas in force into their sanitized topics; what is rejected again goes to the end of the topic
    #[command(after_help = "Examples:\n  veilstream dlq replay --config veilstream.toml")]
    Replay {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Print the result as JSON
        #[arg(long)]
        json: bool,
    },
}

fn place(text: &str) -> Result<(i32, i64), String> {
    let (partition, offset) = text.split_once(':').ok_or("write PARTITION:OFFSET, as in 3:42")?;
    match (partition.parse(), offset.parse()) {
        (Ok(partition), Ok(offset)) if partition >= 0 && offset >= 0 => Ok((partition, offset)),
        _ => Err("write PARTITION:OFFSET, as in 3:42".to_owned()),
    }
}

/// Runs the command.
///
/// # Errors
/// Kafka, keys or a letter do not do as asked.
pub fn run(args: &DlqArgs) -> anyhow::Result<Exit> {
    match &args.command {
        Command::List { config, reason, topic, json } => list(config, reason.as_deref(), topic.as_deref(), *json),
        Command::Show { config, place } => show(config, *place),
        Command::Replay { config, json } => replay(config, *json),
    }
}

/// The configuration, with which the brokers take our connections.
fn load(path: &std::path::Path) -> anyhow::Result<Config> {
    let config = super::load_config(path)?;
    access::check(&config.kafka).map_err(|e| e.exit().because(e.to_string()))?;
    Ok(config)
}

fn list(config: &std::path::Path, reason: Option<&str>, topic: Option<&str>, as_json: bool) -> anyhow::Result<Exit> {
    let config = load(config)?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    letters::read(&config, None, |found| {
        let Some(letter) = &found.letter else { return Ok(true) };
        if reason.is_some_and(|r| r != letter.reason) || topic.is_some_and(|t| t != letter.topic) {
            return Ok(true);
        }
        if as_json {
            let line = json!({
                "partition": found.partition, "offset": found.offset, "reason": letter.reason, "time": letter.time, "schema": letter.schema,
                "origin": { "topic": letter.topic, "partition": letter.partition, "offset": letter.offset },
            });
            writeln!(out, "{line}")?;
        } else {
            let schema = if letter.schema.is_empty() { "-" } else { &letter.schema };
            let place = format!("{}:{}", found.partition, found.offset);
            writeln!(out, "{place:<10} {:<18} {}[{}]@{} {schema}", letter.reason, letter.topic, letter.partition, letter.offset)?;
        }
        Ok(true)
    })
    .map_err(unwrap_output)?;
    out.flush()?;
    Ok(Exit::Ok)
}

fn show(config: &std::path::Path, (partition, offset): (i32, i64)) -> anyhow::Result<Exit> {
    let config = load(config)?;
    let keys = keys::open(&config.keys, None)?;
    let (found, letter) = letters::find(&config, partition, offset)?;
    let opened = letters::open(&found, &letter, &*keys)?;
    let headers: Vec<Value> =
        opened.headers.iter().map(|(name, value)| json!([super::text_or_base64(Some(name)), super::text_or_base64(value.as_deref())])).collect();
    let shown = json!({
        "reason": letter.reason, "schema": letter.schema, "time": letter.time,
        "origin": { "topic": letter.topic, "partition": letter.partition, "offset": letter.offset },
        "key": super::text_or_base64(opened.key.as_deref()), "value": super::text_or_base64(opened.value.as_deref()), "headers": headers,
    });
    let mut out = io::stdout().lock();
    writeln!(out, "{shown:#}")?;
    Ok(Exit::Ok)
}

fn replay(config: &std::path::Path, as_json: bool) -> anyhow::Result<Exit> {
    let config = super::load_config(config)?;
    telemetry::start_logs(&config.log);
    access::check(&config.kafka).map_err(|e| e.exit().because(e.to_string()))?;
    let (registry, _) = registry::open_configured(&config.schemas).map_err(|faults| super::faults_error(&faults))?;
    let keys = keys::open(&config.keys, None)?;
    let schemas = registry.current();
    let terminal = io::stderr().is_terminal() && !as_json;
    let done = letters::replay(&config, &schemas, &*keys, |done| {
        if terminal {
            // Progress is a courtesy: nobody misses it where it cannot be written.
            let _ = write!(io::stderr(), "\r{} replayed, {} rejected again", done.protected, done.rejected);
        }
    })
    .context("replay stopped; what was replayed before stays, the rest waits")?;
    if terminal {
        writeln!(io::stderr())?;
    }
    let mut out = io::stdout().lock();
    if as_json {
        writeln!(out, "{}", json!({ "replayed": done.protected, "rejected_again": done.rejected, "foreign": done.foreign }))?;
    } else {
        writeln!(out, "{} replayed, {} rejected again, {} no dead letters", done.protected, done.rejected, done.foreign)?;
    }
    Ok(if done.rejected == 0 { Exit::Ok } else { Exit::Failed })
}

/// A closed pipe is the reader's wish, told as the error it is.
fn unwrap_output(error: LettersError) -> anyhow::Error {
    match error {
        LettersError::Output(error) => error.into(),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_as_listed() {
        assert_eq!(place("3:42"), Ok((3, 42)));
        for wrong in ["3", "3:", ":1", "-1:4", "1:-4", "a:b", "1:2:3"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }
}
