//! The `veilstream` binary.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;
use veilstream::cli::Cli;
use veilstream::exit::Exit;
use veilstream::processor;
use veilstream::telemetry::panics;

/// The system's spends a quarter of the reading service's time (docs/performance.md).
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let missing = processor::missing_features();
    if !missing.is_empty() {
        // Before anything else runs: the next instruction could be one that the processor lacks.
        let build = processor::BUILD;
        let _ = writeln!(
            io::stderr(),
            "veilstream: this build ({build}) needs a processor with {}; use the plain build",
            missing.join(", ")
        );
        return Exit::Usage.into();
    }
    panics::hide_messages();
    let exit = Cli::parse().run().unwrap_or_else(|error| {
        if is_broken_pipe(&error) {
            // The reader has what it wants (`veilstream reveal | head`).
            return Exit::Ok;
        }
        // Standard error may be closed too: the exit code still tells.
        let _ = writeln!(io::stderr(), "veilstream: {error:#}");
        Exit::of(&error)
    });
    exit.into()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
    })
}
