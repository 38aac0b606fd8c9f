//! `veilstream demo`

use std::io::{self, IsTerminal};

use clap::Args;

use crate::demo;
use crate::exit::Exit;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Stay up at the end, until Ctrl-C
    #[arg(long)]
    keep: bool,
}

/// Runs the command.
///
/// # Errors
/// The demo did not do what it shows.
pub fn run(args: &DemoArgs) -> anyhow::Result<Exit> {
    let mut out = io::stdout();
    let colour = out.is_terminal() && !super::no_color();
    demo::run(&mut out, colour, args.keep)?;
    Ok(Exit::Ok)
}
