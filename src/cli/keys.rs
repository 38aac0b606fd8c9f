//! `veilstream keys`

mod lifecycle;
mod report;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use veilstream_engine::KeyId;
use veilstream_engine::compile::{Grants, SchemaSet};

use super::{KeysSource, load_config};
use crate::exit::Exit;
use crate::registry;

/// Arguments of `keys`.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key-encrypting key, a key store and the first keys
    #[command(
        after_help = "Examples:\n  veilstream keys init --keys keys\n  veilstream keys init \
            --config veilstream.toml"
    )]
    Init {
        #[command(flatten)]
        source: KeysSource,
        /// Make no keys in the store and no ledger: they are to be imported
        #[arg(long)]
        empty: bool,
    },
    /// List keys: names and states, never the keys
    #[command(
        after_help = "Examples:\n  veilstream keys list --keys keys\n  veilstream keys list \
            --config veilstream.toml --json"
    )]
    List {
        #[command(flatten)]
        source: KeysSource,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Open the keys and tell which seal, how old they are, how often they were used and what
    /// refers to them
    #[command(
        after_help = "Examples:\n  veilstream keys status --keys keys\n  veilstream keys status \
            --config veilstream.toml --json"
    )]
    Status {
        #[command(flatten)]
        source: KeysSource,
        #[command(flatten)]
        schemas: SchemaFiles,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// Make new versions of keys
    #[command(after_help = ROTATE)]
    Rotate {
        #[command(flatten)]
        source: KeysSource,
        #[command(flatten)]
        what: lifecycle::What,
    },
    /// Move every wrap to the newest version of what wraps it; no token changes
    #[command(after_help = REWRAP)]
    Rewrap {
        #[command(flatten)]
        source: KeysSource,
        /// Open with keys.recovery what the provider does not open, and wrap it again
        #[arg(long)]
        recover: bool,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
    /// End a key that nothing refers to any more
    #[command(
        after_help = "Examples:\n  veilstream keys retire --config veilstream.toml 0b2e7c...\n  \
            veilstream keys retire --keys keys --undo 0b2e7c..."
    )]
    Retire {
        #[command(flatten)]
        source: KeysSource,
        #[command(flatten)]
        schemas: SchemaFiles,
        /// The key's id, as `keys list` shows it
        #[arg(value_name = "KEY")]
        kid: KeyId,
        /// You have looked through all that is stored, and no token or index refers to it
        #[arg(long)]
        unreferenced: bool,
        /// Take a retirement back
        #[arg(long, conflicts_with = "unreferenced")]
        undo: bool,
    },
    /// Write keys, as they are wrapped, to a signed file; never keys of data subjects
    #[command(after_help = "Examples:\n  veilstream keys export --config veilstream.toml --out \
            escrow.json\n\nWhat opens the file is the key-encrypting key (or keys.recovery), as \
            with the store itself.")]
    Export {
        #[command(flatten)]
        source: KeysSource,
        /// Where to; never overwritten
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Only these keys
        #[arg(value_name = "KEY")]
        kids: Vec<KeyId>,
    },
    /// Import keys from an export
    #[command(
        after_help = "Examples:\n  veilstream keys init --config new.toml --empty && veilstream \
            keys import --config new.toml escrow.json\n\nAn empty store becomes the exported one: \
            put the erasure ledger in its place first, as it is checked as a whole."
    )]
    Import {
        #[command(flatten)]
        source: KeysSource,
        /// The export
        file: PathBuf,
    },
    /// Erase again who is in the erasure ledger (every start does it too)
    #[command(
        after_help = "Examples:\n  veilstream keys replay-ledger --config veilstream.toml     # \
            after a backup of the key store was restored"
    )]
    ReplayLedger {
        #[command(flatten)]
        source: KeysSource,
    },
    /// Deal with the erasure ledger
    Ledger {
        #[command(subcommand)]
        command: LedgerCommand,
    },
    /// Let a key open nothing any more without a flag: it is known to others
    #[command(
        after_help = "Examples:\n  veilstream keys compromise --config veilstream.toml 0b2e7c..."
    )]
    Compromise {
        #[command(flatten)]
        source: KeysSource,
        /// The key's id, as `keys list` shows it
        #[arg(value_name = "KEY")]
        kid: KeyId,
    },
    /// Print the public key that verifies receipts and exports
    PublicKey {
        #[command(flatten)]
        source: KeysSource,
    },
}

#[derive(Debug, Subcommand)]
enum LedgerCommand {
    /// Write a new ledger from what the key store knows, for one that is lost or older than the
    /// store
    #[command(after_help = "Examples:\n  veilstream keys ledger rebuild --config veilstream.toml \
            --reason 'disk of host 3 lost'\n\nA copy of the ledger is better: the store does not \
            know why, and not who was erased after a backup of it was restored.")]
    Rebuild {
        #[command(flatten)]
        source: KeysSource,
        /// Why; stands in each line of the new ledger
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

const ROTATE: &str = "Old versions go on opening. What they wrap is moved by `keys rewrap`; what they seal or index stays until it is written again.
Subject, shared and wrapping keys rotate by themselves after keys.rotation_interval_days, keys of processes every day.

Examples:
  veilstream keys rotate --keys keys --kek             # then: veilstream keys rewrap, and back the new key-encrypting key up
  veilstream keys rotate --config veilstream.toml --wrapping
  veilstream keys rotate --config veilstream.toml --index      # both versions are written until the old one is retired";

const REWRAP: &str =
    "Run it after the key-encrypting key or the wrapping key was rotated. It may be interrupted and run again. With --recover, after the key-encrypting key
was lost and another one configured: the keys are opened with keys.recovery.

Examples:
  veilstream keys rewrap --keys keys
  veilstream keys rewrap --config veilstream.toml --recover

Exit code: 0 everything is wrapped by the newest versions, 1 something is not";

/// Schema documents for what they refer to: those of the configuration, or the ones named.
#[derive(Debug, Clone, Args)]
pub struct SchemaFiles {
    /// Schema document; may be given several times. Without it, those of the configuration
    #[arg(long = "schema", value_name = "FILE")]
    files: Vec<PathBuf>,
}

impl SchemaFiles {
    fn load(&self, source: &KeysSource) -> anyhow::Result<Arc<SchemaSet>> {
        if !self.files.is_empty() {
            let loaded = registry::open_files(&self.files, &Grants::local())
                .map_err(|faults| super::faults_error(&faults))?;
            return Ok(loaded.set);
        }
        let Some(file) = &source.config else { return Ok(Arc::default()) };
        let (registry, _) = registry::open_configured(&load_config(file)?.schemas)
            .map_err(|faults| super::faults_error(&faults))?;
        Ok(registry.current())
    }
}

/// Runs the command.
///
/// # Errors
/// The keys cannot be made, opened or changed.
pub fn run(args: &KeysArgs) -> anyhow::Result<Exit> {
    match &args.command {
        KeysCommand::Init { source, empty } => lifecycle::init(source, *empty),
        KeysCommand::List { source, json } => report::list(source, *json),
        KeysCommand::Status { source, schemas, json } => {
            report::status(source, &*schemas.load(source)?, *json)
        }
        KeysCommand::Rotate { source, what } => lifecycle::rotate(source, what),
        KeysCommand::Rewrap { source, recover, json } => lifecycle::rewrap(source, *recover, *json),
        KeysCommand::Retire { source, schemas, kid, unreferenced, undo } => {
            lifecycle::retire(source, &*schemas.load(source)?, kid, *unreferenced, *undo)
        }
        KeysCommand::Export { source, out, kids } => lifecycle::export(source, out, kids),
        KeysCommand::Import { source, file } => lifecycle::import(source, file),
        KeysCommand::ReplayLedger { source } => lifecycle::replay_ledger(source),
        KeysCommand::Ledger { command: LedgerCommand::Rebuild { source, reason } } => {
            lifecycle::rebuild_ledger(source, reason)
        }
        KeysCommand::Compromise { source, kid } => lifecycle::compromise(source, kid),
        KeysCommand::PublicKey { source } => lifecycle::public_key(source),
    }
}
