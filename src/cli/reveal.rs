//! `veilstream reveal`

use clap::Args;

use crate::exit::Exit;

/// Arguments of `reveal`.
#[derive(Debug, Args)]
pub struct RevealArgs {}

/// Runs the command.
///
/// # Errors
/// Not written yet.
pub fn run(_args: &RevealArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not written yet")
}
