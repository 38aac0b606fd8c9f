//! `veilstream audit`

mod copies;
mod people;
mod tail;
mod verify;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use veilstream_keys::Manager;
use veilstream_keys::files::create_private;
use veilstream_reading::audit::prune::prune;
use veilstream_reading::audit::{CheckpointKey, Event, LogParts, Signer, VerifierKey};

use super::load_config;
use crate::audit::Trail;
use crate::config::Audit;
use crate::exit::Exit;
use crate::keys::{self, now};

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// Make the verifier's key pair: the private key into a file, the public key on standard output
    #[command(after_help = "Keep the file away from every host that writes the log: who has it \
        can compute the MACs of lines.\n\nExamples:\n  veilstream audit keygen --out verifier.key > \
        audit.pub")]
    Keygen {
        /// Where to; never overwritten
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the public key of checkpoints, for those who verify without the key store
    PublicKey {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Is the log whole?
    #[command(after_help = verify::AFTER_HELP)]
    Verify(verify::VerifyArgs),
    /// Print the lines that a second place holds
    #[command(after_help = copies::COPIES_HELP)]
    Copies(copies::CopiesArgs),
    /// Print the tables that audit.postgres needs
    #[command(after_help = copies::DDL_HELP)]
    Ddl {
        /// The role of audit.postgres; its grant is printed too
        #[arg(long, value_name = "NAME")]
        role: Option<String>,
    },
    /// Print the lines of a data subject, or those an auditor asks for
    #[command(after_help = people::REPORT_HELP)]
    Report(people::ReportArgs),
    /// Prove one line to somebody who sees no others, or check such a proof
    #[command(after_help = people::PROVE_HELP)]
    Prove(people::ProveArgs),
    /// Print the newest lines
    #[command(after_help = "With --config, reading is a line of the log itself. --follow goes on \
        when a file ends and the next one begins.\n\nExamples:\n  veilstream audit tail --config \
        veilstream.toml -n 20\n  veilstream audit tail --file audit.jsonl --follow")]
    Tail {
        #[command(flatten)]
        source: LogSource,
        /// How many
        #[arg(short = 'n', long, default_value_t = 10)]
        lines: usize,
        /// Print what comes, until a signal
        #[arg(short = 'f', long)]
        follow: bool,
    },
    /// Take away old lines: whole checkpointed segments of files that ended
    #[command(after_help = "The first line of each chain and a checkpoint stay, so that the rest \
        can be verified.\n\nExamples:\n  veilstream audit prune --config veilstream.toml\n  \
        veilstream audit prune --config veilstream.toml --before 2025-10-01")]
    Prune {
        /// Configuration file
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Lines of before this day (UTC); without it, those older than audit.retain
        #[arg(long, value_name = "YYYY-MM-DD", value_parser = super::shred::day)]
        before: Option<u64>,
    },
}

/// Where the log is.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
pub(super) struct LogSource {
    /// Configuration file whose [audit] section counts
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The log itself, where there is no configuration
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// A log, and what a configuration adds.
struct Reading {
    parts: LogParts,
    configured: Option<(Arc<Manager>, Trail)>,
}

impl LogSource {
    /// Opens the log; with a configuration, a line `audit_read` is durable first.
    fn open(&self) -> anyhow::Result<Reading> {
        let Some(config) = &self.config else {
            let file = self.file.as_deref().unwrap_or(Path::new(""));
            return Ok(Reading { parts: LogParts::of(file)?, configured: None });
        };
        let (audit, manager, trail) = open_configured(config)?;
        trail.append(vec![trail.entry(Event::AuditRead)])?;
        Ok(Reading { parts: LogParts::of(&audit.file)?, configured: Some((manager, trail)) })
    }
}

/// Runs the command.
///
/// # Errors
/// The log, the keys or an argument is not as it should be.
pub fn run(args: &AuditArgs) -> anyhow::Result<Exit> {
    match &args.command {
        AuditCommand::Keygen { out } => keygen(out),
        AuditCommand::PublicKey { config } => {
            let manager = keys::manager(&load_config(config)?.keys)?;
            writeln!(io::stdout(), "{}", checkpoint_key(&manager)?)?;
            Ok(Exit::Ok)
        }
        AuditCommand::Verify(args) => verify::run(args),
        AuditCommand::Copies(args) => copies::copies(args),
        AuditCommand::Ddl { role } => copies::ddl(role.as_deref()),
        AuditCommand::Report(args) => people::report(args),
        AuditCommand::Prove(args) => people::prove(args),
        AuditCommand::Tail { source, lines, follow } => tail::tail(source, *lines, *follow),
        AuditCommand::Prune { config, before } => take_away(config, *before),
    }
}

fn keygen(out: &Path) -> anyhow::Result<Exit> {
    let key = VerifierKey::generate().map_err(|_| anyhow::anyhow!("the random source failed"))?;
    let mut file =
        create_private(out).with_context(|| format!("{} cannot be made", out.display()))?;
    writeln!(file, "{}", *key.expose())?;
    file.sync_all()?;
    writeln!(io::stdout(), "{}", key.recipient()?)?;
    Ok(Exit::Ok)
}

fn take_away(path: &Path, before: Option<u64>) -> anyhow::Result<Exit> {
    let (audit, _manager, trail) = open_configured(path)?;
    let oldest = now().saturating_sub(audit.retain.as_secs());
    let before = before.unwrap_or(oldest);
    if before > oldest {
        return Err(Exit::Usage.because(format!(
            "--before is younger than audit.retain ({} days); name an earlier day",
            audit.retain.as_secs() / 86_400
        )));
    }
    let Some(log) = trail.log() else { return Ok(Exit::Ok) };
    let pruned = prune(log, &trail.entry(Event::Prune), before)?;
    writeln!(
        io::stdout(),
        "{} lines of {} chains and {} side files are gone",
        pruned.lines,
        pruned.chains,
        pruned.side_files
    )?;
    Ok(Exit::Ok)
}

/// The log of a configuration, and its keys.
fn open_configured(path: &Path) -> anyhow::Result<(Audit, Arc<Manager>, Trail)> {
    let config = load_config(path)?;
    let audit = config
        .audit
        .ok_or_else(|| Exit::Usage.because(format!("{} has no [audit] section", path.display())))?;
    let manager = Arc::new(keys::manager(&config.keys)?);
    let trail = Trail::open(Some(&audit), &manager)?;
    Ok((audit, manager, trail))
}

/// The public key of a store's checkpoints.
fn checkpoint_key(manager: &Manager) -> anyhow::Result<CheckpointKey> {
    Ok(Signer::new(manager.checkpoint_signing_key(now())?).checkpoint_key())
}

fn parse_checkpoint_key(text: &str) -> anyhow::Result<CheckpointKey> {
    text.parse().map_err(|_| {
        Exit::Usage
            .because("--public-key is not a public key; `veilstream audit public-key` prints it")
    })
}
