//! `veilstream index`

use clap::Args;

use crate::exit::Exit;

/// Arguments of `index`.
#[derive(Debug, Args)]
pub struct IndexArgs {}

/// Runs the command.
///
/// # Errors
/// Not written yet.
pub fn run(_args: &IndexArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not written yet")
}
