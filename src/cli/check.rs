//! `veilstream check`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use veilstream_engine::compile::Grants;

use crate::exit::Exit;
use crate::registry::Registry;

/// Arguments of `check`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  veilstream check --config veilstream.toml\n  veilstream check --config veilstream.toml --preflight")]
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
    let config = super::load_config(&args.config)?;
    let grants = Grants { domains: config.schemas.domains.clone(), any_domain: false };
    let (registry, warnings) = Registry::open(&config.schemas.dir, grants).map_err(|faults| super::faults_error(&faults))?;
    let mut out = io::stdout().lock();
    for warning in warnings {
        writeln!(out, "warning: {warning}")?;
    }
    let set = registry.current();
    for schema in set.schemas() {
        writeln!(out, "schema {}: {} -> {}", schema.label, schema.from.as_deref().unwrap_or("(no topic)"), schema.to.as_deref().unwrap_or("(no topic)"))?;
    }
    writeln!(out, "{}: ok", args.config.display())?;
    Ok(Exit::Ok)
}
