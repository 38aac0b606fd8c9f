//! `veilstream audit copies` and `ddl`: what the log's second places hold, and the tables of one.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;

use crate::audit::sinks;
use crate::cli::load_config;
use crate::exit::Exit;

pub(super) const COPIES_HELP: &str = "The lines go to standard output as they are, for `veilstream audit verify --copies`. The role of the configuration may only INSERT: name an auditor's with --postgres-file.

Examples:
  veilstream audit copies --config veilstream.toml --topic > copies.jsonl
  veilstream audit copies --config veilstream.toml --postgres-file auditor.url > copies.jsonl
  veilstream audit verify --config veilstream.toml --key verifier.key --copies copies.jsonl";

pub(super) const DDL_HELP: &str =
    "Run it as the owner of the database; the role of audit.postgres may then only INSERT.

Examples:
  veilstream audit ddl --role veilstream_audit | psql compliance";

/// Arguments of `audit copies`.
#[derive(Debug, Args)]
pub(super) struct CopiesArgs {
    /// Configuration file whose [audit] section counts
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    place: CopiesPlace,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct CopiesPlace {
    /// The topic of audit.topic
    #[arg(long)]
    topic: bool,
    /// File with the URL of the table's database, of a role that may SELECT
    #[arg(long, value_name = "FILE")]
    postgres_file: Option<PathBuf>,
}

pub(super) fn copies(args: &CopiesArgs) -> anyhow::Result<Exit> {
    let audit = load_config(&args.config)?.audit.ok_or_else(|| {
        Exit::Usage.because(format!("{} has no [audit] section", args.config.display()))
    })?;
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = |line: &[u8]| {
        out.write_all(line)?;
        Ok(out.write_all(b"\n")?)
    };
    match (&args.place.postgres_file, &audit.topic) {
        (Some(file), _) => {
            let url = std::fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            let ca = audit.postgres.as_ref().and_then(|table| table.ca_file.as_deref());
            table(url.trim(), ca, &mut print)?;
        }
        (None, Some(topic)) => sinks::read_topic(&topic.kafka, &topic.name, &mut print)?,
        (None, None) => {
            return Err(Exit::Usage.because("the configuration has no audit.topic"));
        }
    }
    out.flush()?;
    Ok(Exit::Ok)
}

#[cfg(feature = "postgres")]
fn table(
    url: &str,
    ca: Option<&std::path::Path>,
    print: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    sinks::read_table(url, ca, print)
}

#[cfg(not(feature = "postgres"))]
fn table(
    _: &str,
    _: Option<&std::path::Path>,
    _: &mut impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    Err(Exit::Usage.because("PostgreSQL is not in this build; build it with the feature postgres"))
}

pub(super) fn ddl(role: Option<&str>) -> anyhow::Result<Exit> {
    let grant = role.map(sinks::grant).unwrap_or_default();
    write!(io::stdout(), "{}{grant}", sinks::DDL)?;
    Ok(Exit::Ok)
}
