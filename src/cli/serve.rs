//! `veilstream serve`

mod keys;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::exit::Exit;
use crate::{app, telemetry};

/// Arguments of `serve`.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  veilstream serve --config veilstream.toml\n  veilstream serve keys \
        create --config veilstream.toml --name reports --role analyst"
)]
pub struct ServeArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE", required = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<ServeCommand>,
}

#[derive(Debug, Subcommand)]
enum ServeCommand {
    /// Make, list and revoke API keys
    Keys {
        #[command(subcommand)]
        command: keys::ApiKeysCommand,
    },
}

/// Runs the service until a signal, or the subcommand.
///
/// # Errors
/// A part does not start, or the subcommand fails.
pub fn run(args: &ServeArgs) -> anyhow::Result<Exit> {
    match (&args.command, &args.config) {
        (Some(ServeCommand::Keys { command }), _) => keys::run(command),
        (None, Some(file)) => {
            let config = super::load_config(file)?;
            telemetry::start_logs(&config.log);
            app::serve::run(&config)
        }
        (None, None) => Err(Exit::Usage.because("name a configuration with --config FILE")),
    }
}
