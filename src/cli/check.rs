//! `veilstream check`

use clap::Args;

use crate::exit::Exit;

/// Arguments of `check`.
#[derive(Debug, Args)]
pub struct CheckArgs {}

/// Runs the command.
///
/// # Errors
/// Not written yet.
pub fn run(_args: &CheckArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not written yet")
}
