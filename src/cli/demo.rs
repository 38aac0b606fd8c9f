//! `veilstream demo`

use clap::Args;

use crate::exit::Exit;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {}

/// Runs the command.
///
/// # Errors
/// Not written yet.
pub fn run(_args: &DemoArgs) -> anyhow::Result<Exit> {
    anyhow::bail!("not written yet")
}
