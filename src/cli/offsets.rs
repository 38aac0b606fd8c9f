//! `veilstream offsets`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::argument::ArgumentError;
use crate::config::Config;
use crate::exit::Exit;
use crate::kafka::access;
use crate::pipeline::core::partition::TopicPartition;
use crate::pipeline::group_offsets::{GroupOffsets, OffsetTarget, OffsetsError};
use crate::registry;

/// Arguments of `offsets`.
#[derive(Debug, Args)]
pub struct OffsetsArgs {
    #[command(subcommand)]
    command: OffsetsCommand,
}

#[derive(Debug, Subcommand)]
enum OffsetsCommand {
    /// Show where the group stands in each raw partition
    #[command(
        after_help = "Examples:\n  veilstream offsets show --config veilstream.toml\n  veilstream \
            offsets show --config veilstream.toml --json"
    )]
    Show {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Choose where a partition goes on whose committed offset was lost; every instance must be
    /// stopped
    #[command(after_help = ACCEPT_HELP)]
    Accept {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Raw topic and partition, as `show` prints them
        #[arg(value_name = "TOPIC:PARTITION", value_parser = partition)]
        partition: TopicPartition,
        /// `earliest`: the first record there is; or an offset
        #[arg(long, value_name = "earliest|OFFSET", value_parser = place)]
        at: OffsetTarget,
    },
}

const ACCEPT_HELP: &str = "What stands before the place is not read; what was read before and stands behind it is read again.

Examples:
  veilstream offsets accept --config veilstream.toml customers.raw:3 --at earliest
  veilstream offsets accept --config veilstream.toml customers.raw:3 --at 1234567";

fn partition(text: &str) -> Result<TopicPartition, ArgumentError> {
    let parsed = text.rsplit_once(':').and_then(|(topic, partition)| {
        Some((topic, partition.parse::<i32>().ok().filter(|p| *p >= 0)?))
    });
    match parsed {
        Some((topic, partition)) if !topic.is_empty() => Ok(TopicPartition::new(topic, partition)),
        _ => Err(ArgumentError::Form("TOPIC:PARTITION, as in customers.raw:3")),
    }
}

fn place(text: &str) -> Result<OffsetTarget, ArgumentError> {
    match text {
        "earliest" => Ok(OffsetTarget::Earliest),
        _ => text
            .parse()
            .ok()
            .filter(|offset| *offset >= 0)
            .map(OffsetTarget::At)
            .ok_or(ArgumentError::Form("earliest or an offset")),
    }
}

/// Runs `offsets`.
///
/// # Errors
/// The configuration is faulty, or Kafka does not do as asked.
pub fn run(args: &OffsetsArgs) -> anyhow::Result<Exit> {
    match &args.command {
        OffsetsCommand::Show { config, json } => show(config, *json),
        OffsetsCommand::Accept { config, partition, at } => {
            let config = load(config)?;
            let offset = GroupOffsets::connect(&config.kafka)
                .and_then(|group| group.accept(partition, *at))
                .map_err(failed)?;
            writeln!(io::stdout(), "{partition} goes on at offset {offset}")?;
            Ok(Exit::Ok)
        }
    }
}

fn show(path: &std::path::Path, json: bool) -> anyhow::Result<Exit> {
    let config = load(path)?;
    let (registry, _) = registry::open_configured(&config.schemas)
        .map_err(|faults| super::faults_error(&faults))?;
    let set = registry.current();
    let topics: Vec<&str> = set.routes().map(|(from, _)| from).collect();
    let standings = GroupOffsets::connect(&config.kafka)
        .and_then(|group| group.show(&topics))
        .map_err(failed)?;
    let mut out = io::stdout().lock();
    if !json {
        writeln!(
            out,
            "{:<32} {:>9} {:>14} {:>14} {:>14}",
            "TOPIC", "PARTITION", "COMMITTED", "LOG START", "END"
        )?;
    }
    for standing in standings {
        if json {
            writeln!(out, "{}", serde_json::to_string(&standing)?)?;
        } else {
            let text = |offset: Option<i64>| {
                offset.map_or_else(|| "-".to_owned(), |offset| offset.to_string())
            };
            let (committed, start, end) =
                (text(standing.committed), text(standing.log_start), text(standing.end));
            writeln!(
                out,
                "{:<32} {:>9} {committed:>14} {start:>14} {end:>14}",
                standing.topic, standing.partition
            )?;
        }
    }
    Ok(Exit::Ok)
}

/// The configuration, with which the brokers take our connections.
fn load(path: &std::path::Path) -> anyhow::Result<Config> {
    let config = super::load_config(path)?;
    access::check(&config.kafka).map_err(|e| e.exit().because(e.to_string()))?;
    Ok(config)
}

fn failed(error: OffsetsError) -> anyhow::Error {
    let exit = match &error {
        OffsetsError::NotAuthorized(_) => Exit::NotAuthorized,
        OffsetsError::Settings(_) => Exit::Usage,
        _ => Exit::Failed,
    };
    exit.because(error.to_string())
}
