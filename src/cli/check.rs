//! `veilstream check`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use crate::audit::sinks::examine_topic;
use crate::config::{Config, ConfigFault, Input};
use crate::exit::Exit;
use crate::kafka::access;
use crate::kafka::topics::Topics;
use crate::preflight::{self, Refusal};
use crate::{keys, registry};

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  veilstream check --config veilstream.toml\n  veilstream check \
        --config veilstream.toml --preflight"
)]
pub struct CheckArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Also ask brokers, topics, ACLs and keys
    #[arg(long)]
    preflight: bool,
}

/// Runs the command: configuration and schemas, every fault of both at once.
///
/// # Errors
/// The faults ([`Exit::Usage`]), or what the preflight found ([`Exit::Preflight`]).
pub fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let input = Input::from_system(&args.config).map_err(|fault| super::faults_error(&[fault]))?;
    let (config, faults) = Config::examine(&input, &|path| std::fs::read_to_string(path));
    let mut lines: Vec<String> = faults.iter().map(ToString::to_string).collect();
    // With a faulty [schemas] section the documents would be judged by the wrong directory or
    // grants.
    let schemas = if faults.iter().any(hides_schemas) {
        None
    } else {
        Some(registry::open_configured(&config.schemas))
    };
    let mut out = io::stdout().lock();
    match schemas {
        Some(Ok((registry, warnings))) if lines.is_empty() => {
            for warning in warnings {
                writeln!(out, "warning: {warning}")?;
            }
            lines.extend(
                preflight::roles(&registry.current(), &config.pipeline.dead_letter_topic)
                    .iter()
                    .map(ToString::to_string),
            );
            for schema in registry.current().schemas() {
                let topic =
                    |name: &Option<String>| name.clone().unwrap_or_else(|| "(no topic)".to_owned());
                writeln!(
                    out,
                    "schema {}: {} -> {}",
                    schema.label,
                    topic(&schema.from),
                    topic(&schema.to)
                )?;
            }
            if registry.current().schemas().iter().all(|schema| schema.from.is_none()) {
                writeln!(
                    out,
                    "warning: no schema names topics, so `veilstream run` has nothing to do; add \
                    \"topics\": {{\"from\": .., \"to\": ..}} to one"
                )?;
            }
        }
        Some(Err(found)) => lines.extend(found.iter().map(ToString::to_string)),
        _ => {}
    }
    if !lines.is_empty() {
        return Err(super::faults_error(&lines));
    }
    for warning in config.warnings() {
        writeln!(out, "warning: {warning}")?;
    }
    for name in &config.overrides {
        writeln!(out, "set beside the configuration file: {name}")?;
    }
    if let Some(ignored) = &config.ignored_dotenv {
        writeln!(
            out,
            "warning: {} of the working directory counts for nothing; only the one beside the \
            configuration file does",
            ignored.display()
        )?;
    }
    if args.preflight {
        ask(&config, &mut out)?;
    }
    writeln!(out, "{}: ok", args.config.display())?;
    Ok(Exit::Ok)
}

/// Asks brokers and keys what `run` would ask.
fn ask(config: &Config, out: &mut impl Write) -> anyhow::Result<()> {
    let (registry, _) = registry::open_configured(&config.schemas)
        .map_err(|faults| super::faults_error(&faults))?;
    let schemas = registry.current();
    access::check(&config.kafka).map_err(|e| e.exit().because(e.to_string()))?;
    let topics =
        Topics::connect(&config.kafka).map_err(|e| Exit::Preflight.because(e.to_string()))?;
    let found = preflight::examine(&topics, &schemas, &config.pipeline.dead_letter_topic)
        .map_err(|e| Exit::Preflight.because(e.to_string()))?;
    for warning in &found.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let (exit, mut problems) = match found.faultless() {
        Ok(()) => (Exit::Preflight, Vec::new()),
        Err(Refusal::Unfit(problems)) => (Exit::Preflight, problems),
        Err(Refusal::NotAuthorized(problems)) => (Exit::NotAuthorized, problems),
    };
    if let Some(audit) = &config.audit {
        let (faults, warnings) = examine_topic(audit);
        problems.extend(faults.iter().map(ToString::to_string));
        for warning in warnings {
            writeln!(out, "warning: {warning}")?;
        }
    }
    let opened = keys::open(&config.keys, None);
    if let Err(error) = opened.and_then(|keys| Ok(keys.take_interop(&schemas)?)) {
        problems.push(format!("keys: {error:#}"));
    }
    if problems.is_empty() { Ok(()) } else { Err(exit.because(problems.join("\n"))) }
}

fn hides_schemas(fault: &ConfigFault) -> bool {
    fault.key.is_empty() || fault.key.starts_with("schemas")
}
