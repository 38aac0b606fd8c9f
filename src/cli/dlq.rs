//! `veilstream dlq`

use clap::Args;

use crate::exit::Exit;

/// Arguments of `dlq`.
#[derive(Debug, Args)]
pub struct DlqArgs {}

/// Runs the command.
///
/// # Errors
/// Not written yet.
pub fn run(_args: &DlqArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not written yet")
}
