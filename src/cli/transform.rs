//! `veilstream transform`

use clap::Args;

use crate::exit::Exit;

/// Arguments of `transform`.
#[derive(Debug, Args)]
pub struct TransformArgs {}

/// Runs the command.
///
/// # Errors
/// Not written yet.
pub fn run(_args: &TransformArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not written yet")
}
