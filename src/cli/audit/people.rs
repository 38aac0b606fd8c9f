//! `veilstream audit report`, `prove` and `tail`

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use veilstream_engine::key::SubjectRef;
use veilstream_reading::audit::Hex;
use veilstream_reading::audit::prove::Proof;
use veilstream_reading::audit::report::{Audience, Report, Wanted, csv, json};

use super::{LogSource, parse_checkpoint_key};
use crate::cli::argument::ArgumentError;
use crate::exit::Exit;
use crate::keys::now;

pub(super) const REPORT_HELP: &str = "subject: when, what for, which fields, what kind of recipient; no names unless --names, no reasons.
hipaa: an accounting of disclosures.
pci: who did what, of everybody unless a data subject is named.
Lines that name nobody are counted: they may be of the person. With --config, reading is a line of the log itself.

Examples:
  veilstream audit report --config veilstream.toml --for subject --subject 42
  veilstream audit report --file audit.jsonl --for pci --csv > pci.csv";

pub(super) const PROVE_HELP: &str = "A line is named as reports name it: its chain and its number. The proof holds the whole line: names and reasons too.

Examples:
  veilstream audit prove --config veilstream.toml c0c1c2c3c4c5c6c7c8c9cacbcccdcecf:881 > proof.json
  veilstream audit prove --check proof.json --public-key 7ya...Zk

Exit code: 0 it is proved, 1 it is not";

/// Arguments of `audit report`.
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    #[command(flatten)]
    source: LogSource,
    /// Whom the report is for: subject, hipaa or pci
    #[arg(long = "for", value_name = "WHOM")]
    audience: Audience,
    /// The data subject, as records name it
    #[arg(long, value_name = "ID", conflicts_with = "subject_ref", requires = "config")]
    subject: Option<String>,
    /// The domain that the id counts in
    #[arg(long, value_name = "NAME", requires = "subject")]
    domain: Option<String>,
    /// The data subject's reference
    #[arg(long, value_name = "REF")]
    subject_ref: Option<Hex<16>>,
    /// Names of employees also in a report for the data subject
    #[arg(long)]
    names: bool,
    /// CSV instead of JSON
    #[arg(long)]
    csv: bool,
}

pub(super) fn report(args: &ReportArgs) -> anyhow::Result<Exit> {
    if args.audience != Audience::Pci && args.subject.is_none() && args.subject_ref.is_none() {
        return Err(
            Exit::Usage.because("name the data subject with --subject ID or --subject-ref REF")
        );
    }
    let reading = args.source.open()?;
    let subject = match (&args.subject, &reading.configured) {
        (Some(id), Some((manager, _))) => {
            Some(manager.subject_ref(id, args.domain.as_deref(), now())?)
        }
        _ => args.subject_ref.map(|Hex(bytes)| SubjectRef(bytes)),
    };
    let wanted = Wanted { audience: args.audience, subject, names: args.names };
    let report = Report::of(&reading.parts, &wanted)?;
    let mut out = io::stdout().lock();
    if args.csv {
        out.write_all(csv(&report).as_bytes())?;
        // The rows alone could be taken for everything.
        if report.nobody + report.unread_side_files > 0 {
            writeln!(
                io::stderr(),
                "{} lines name nobody and may be of the person; {} side files cannot be read",
                report.nobody,
                report.unread_side_files
            )?;
        }
    } else {
        writeln!(out, "{:#}", json(&report))?;
    }
    Ok(Exit::Ok)
}

/// Arguments of `audit prove`.
#[derive(Debug, Args)]
pub(super) struct ProveArgs {
    #[command(flatten)]
    source: ProveSource,
    /// The line
    #[arg(value_name = "CHAIN:SEQ", value_parser = place, required_unless_present = "check")]
    line: Option<(Hex<16>, u64)>,
    /// The public key of checkpoints
    #[arg(long, value_name = "KEY", requires = "check")]
    public_key: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ProveSource {
    /// Configuration file whose [audit] section counts
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The log itself, where there is no configuration
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Check this proof
    #[arg(long, value_name = "FILE", requires = "public_key")]
    check: Option<PathBuf>,
}

fn place(text: &str) -> Result<(Hex<16>, u64), ArgumentError> {
    let parsed = text
        .split_once(':')
        .and_then(|(chain, seq)| Some((chain.parse().ok()?, seq.parse().ok()?)));
    parsed.ok_or(ArgumentError::Form("CHAIN:SEQ, as reports name a line"))
}

pub(super) fn prove(args: &ProveArgs) -> anyhow::Result<Exit> {
    if let Some(file) = &args.source.check {
        let key = parse_checkpoint_key(args.public_key.as_deref().unwrap_or_default())?;
        let text =
            std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
        let proof: Proof = serde_json::from_slice(&text)
            .map_err(|_| Exit::Usage.because(format!("{} holds no proof", file.display())))?;
        let line = proof.check(&key).with_context(|| file.display().to_string())?;
        writeln!(io::stdout(), "proved: line {} of chain {}, {}", line.seq, line.chain, line.time)?;
        return Ok(Exit::Ok);
    }
    let source = LogSource { config: args.source.config.clone(), file: args.source.file.clone() };
    let Some((chain, seq)) = args.line else {
        return Err(Exit::Usage.because("name a line as CHAIN:SEQ"));
    };
    let reading = source.open()?;
    let proof = Proof::of(&reading.parts, chain, seq)?.with_context(|| {
        format!("line {chain}:{seq} is not in the log, or no checkpoint covers it yet")
    })?;
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, &proof)?;
    writeln!(out)?;
    Ok(Exit::Ok)
}
