//! `veilstream keys`

use clap::Args;

use crate::exit::Exit;

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {}

/// Runs the command.
///
/// # Errors
/// Not written yet.
pub fn run(_args: &KeysArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not written yet")
}
