//! `veilstream run`

use std::path::PathBuf;

use clap::Args;

use crate::exit::Exit;
use crate::{app, telemetry};

/// Arguments of `run`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  veilstream run --config veilstream.toml\n  \
        VEILSTREAM__PIPELINE__LANES=4 veilstream run --config veilstream.toml --create-topics")]
pub struct RunArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Create missing sanitized and dead-letter topics
    #[arg(long)]
    create_topics: bool,
    /// Let changed schema documents protect less, with a warning
    #[arg(long)]
    allow_weaker: bool,
}

/// Runs the sidecar until a signal or a reason to end.
///
/// # Errors
/// A part does not start.
pub fn run(args: &RunArgs) -> anyhow::Result<Exit> {
    let config = super::load_config(&args.config)?;
    telemetry::start_logs(&config.log);
    let options =
        app::RunOptions { create_topics: args.create_topics, allow_weaker: args.allow_weaker };
    app::run(&config, options)
}
