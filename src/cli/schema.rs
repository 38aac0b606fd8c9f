//! `veilstream schema`

use clap::Args;

use crate::exit::Exit;

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {}

/// Runs the command.
///
/// # Errors
/// Not written yet.
pub fn run(_args: &SchemaArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not written yet")
}
