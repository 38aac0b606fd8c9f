//! The command line, one file per subcommand.

mod argument;
pub mod audit;
pub mod check;
#[cfg(feature = "demo")]
pub mod demo;
pub mod dlq;
pub mod honey;
pub mod index;
pub mod keys;
mod lines;
#[cfg(feature = "postgres")]
pub mod migrate;
pub mod offsets;
#[cfg(feature = "serve")]
pub mod policy;
pub mod reveal;
#[cfg(feature = "postgres")]
pub mod rotate;
pub mod run;
pub mod schema;
#[cfg(feature = "serve")]
pub mod serve;
pub mod shred;
#[cfg(feature = "postgres")]
mod table;
pub mod transform;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use serde_json::{Value, json};
use veilstream_engine::compile::{Grants, SchemaSet};

use crate::config::load_config;
use crate::exit::{Exit, faults_error};
use crate::kafka::access;
use crate::keys::KeysSource;
use crate::registry;
#[cfg(feature = "demo")]
use crate::telemetry::no_color;

const EXAMPLES: &str = "Examples:
  veilstream keys init --keys keys
  veilstream transform --keys keys --schema schemas/customers.json < raw.ndjson > safe.ndjson
  veilstream reveal --keys keys --schema schemas/customers.json < safe.ndjson
  veilstream check --config veilstream.toml && veilstream run --config veilstream.toml

Exit codes: 0 ok, 1 failed, 2 usage or configuration, 3 fenced, 4 not authorized, 5 preflight";

/// The version, and the processor that the build is for.
static VERSION: LazyLock<String> =
    LazyLock::new(|| format!("{} ({})", env!("CARGO_PKG_VERSION"), crate::processor::BUILD));

/// Encrypts the personal fields of Kafka events, exactly once, and opens them again for those who
/// may.
#[derive(Debug, Parser)]
#[command(name = "veilstream", version = VERSION.as_str(), propagate_version = true, subcommand_required = true, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the sidecar
    Run(run::RunArgs),
    /// Check configuration and schemas, every fault at once
    Check(check::CheckArgs),
    /// Show the main job on an embedded broker
    #[cfg(feature = "demo")]
    Demo(demo::DemoArgs),
    /// Protect NDJSON events: standard input to standard output
    Transform(transform::TransformArgs),
    /// Open protected NDJSON events, or bare tokens
    Reveal(reveal::RevealArgs),
    /// Print the index values to search for
    Index(index::IndexArgs),
    /// Make tokens whose opening raises an alarm
    Honey(honey::HoneyArgs),
    /// Check, test and list schema documents
    Schema(schema::SchemaArgs),
    /// Make, inspect, rotate and end keys
    Keys(keys::KeysArgs),
    /// Move what is stored to the newest keys
    #[cfg(feature = "postgres")]
    Rotate(rotate::RotateArgs),
    /// Erase data subjects by destroying their keys, with signed receipts
    Shred(shred::ShredArgs),
    /// List, show and replay dead letters
    Dlq(dlq::DlqArgs),
    /// Open and find values for callers over HTTPS
    #[cfg(feature = "serve")]
    Serve(serve::ServeArgs),
    /// Verify the audit log, report from it, and make its verifier's key
    Audit(audit::AuditArgs),
    /// Move stored values from older encryption to tokens
    #[cfg(feature = "postgres")]
    Migrate(migrate::MigrateArgs),
    /// Show where the group stands in the raw topics, and move it after a loss
    Offsets(offsets::OffsetsArgs),
    /// Check, test and explain who may read what
    #[cfg(feature = "serve")]
    Policy(policy::PolicyArgs),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Cli {
    /// Runs the command.
    ///
    /// # Errors
    /// What went wrong; [`Exit::of`] tells the exit code.
    pub fn run(&self) -> anyhow::Result<Exit> {
        // Any command may talk to Kafka for long: keys may live there.
        let _watch = access::watch()?;
        match &self.command {
            Command::Run(args) => run::run(args),
            Command::Check(args) => check::run(args),
            #[cfg(feature = "demo")]
            Command::Demo(args) => demo::run(args),
            Command::Transform(args) => transform::run(args),
            Command::Reveal(args) => reveal::run(args),
            Command::Index(args) => index::run(args),
            Command::Honey(args) => honey::run(args),
            Command::Schema(args) => schema::run(args),
            Command::Keys(args) => keys::run(args),
            #[cfg(feature = "postgres")]
            Command::Rotate(args) => rotate::run(args),
            Command::Shred(args) => shred::run(args),
            Command::Dlq(args) => dlq::run(args),
            #[cfg(feature = "serve")]
            Command::Serve(args) => serve::run(args),
            Command::Audit(args) => audit::run(args),
            #[cfg(feature = "postgres")]
            Command::Migrate(args) => migrate::run(args),
            Command::Offsets(args) => offsets::run(args),
            #[cfg(feature = "serve")]
            Command::Policy(args) => policy::run(args),
            Command::Completions { shell } => {
                clap_complete::generate(
                    *shell,
                    &mut Self::command(),
                    "veilstream",
                    &mut io::stdout(),
                );
                Ok(Exit::Ok)
            }
        }
    }
}

/// The schema documents a local command works with.
#[derive(Debug, Clone, Args)]
pub struct Documents {
    /// Schema document; may be given several times
    #[arg(long = "schema", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
}

impl Documents {
    /// These files.
    fn of(files: &[PathBuf]) -> Self {
        Self { files: files.to_vec() }
    }

    /// Compiles them. Anyone who names a document here may use the domains it declares.
    ///
    /// # Errors
    /// Every fault, one a line, with [`Exit::Usage`].
    pub fn load(&self) -> anyhow::Result<Arc<SchemaSet>> {
        registry::open_files(&self.files, &Grants::local())
            .map(|loaded| loaded.set)
            .map_err(|faults| faults_error(&faults))
    }
}

/// A value whose members stand in the order of their names. Some crates switch on serde_json's
/// `preserve_order` for all of us, and no output may depend on which crates a build has.
fn sorted(mut value: Value) -> Value {
    value.sort_all_objects();
    value
}

/// Text where it is text, else `{"base64": ..}`.
fn text_or_base64(bytes: Option<&[u8]>) -> Value {
    use base64::Engine as _;
    match bytes.map(|b| (std::str::from_utf8(b), b)) {
        None => Value::Null,
        Some((Ok(text), _)) => Value::from(text),
        Some((Err(_), raw)) => {
            json!({ "base64": base64::engine::general_purpose::STANDARD.encode(raw) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_show_as_text_where_they_are_text() {
        assert_eq!(text_or_base64(None), Value::Null);
        assert_eq!(text_or_base64(Some("ä".as_bytes())), json!("ä"));
        assert_eq!(text_or_base64(Some(b"\xff")), json!({ "base64": "/w==" }));
    }
}
