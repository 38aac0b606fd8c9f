//! `veilstream run`

use clap::Args;

use crate::exit::Exit;

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {}

/// Runs the command.
///
/// # Errors
/// Not written yet.
pub fn run(_args: &RunArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not written yet")
}
