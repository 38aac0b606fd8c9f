//! `veilstream audit verify`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use veilstream_reading::audit::verify::{ChainReport, Copies, Fault, Keys, Verdict, Wrong, verify};
use veilstream_reading::audit::{CheckpointKey, LedgerHead, LogParts, VerifierKey};
use zeroize::Zeroizing;

use super::{LogSource, checkpoint_key, parse_checkpoint_key};
use crate::cli::load_config;
use crate::exit::Exit;
use crate::keys;

pub(super) const AFTER_HELP: &str = "With --key every line is checked. Without it what needs no secret is checked, and all is proved up to the last line that --copies holds.
Verifying leaves no line in the log.

Examples:
  veilstream audit verify --config veilstream.toml --key verifier.key
  veilstream audit verify --file audit.jsonl --public-key 7ya...Zk --copies copies.jsonl

Exit code: 0 the log is whole, 1 it is not";

/// Arguments of `audit verify`.
#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    #[command(flatten)]
    source: LogSource,
    /// The verifier's private key; may be given several times, for logs under several keys
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// The public key of checkpoints; without it, the key store's of --config
    #[arg(long, value_name = "KEY", required_unless_present = "config")]
    public_key: Option<String>,
    /// Lines that a second place holds, one a line
    #[arg(long, value_name = "FILE")]
    copies: Option<PathBuf>,
    /// The log of another host that copies to the same place; may be given several times
    #[arg(long = "also", value_name = "FILE")]
    also: Vec<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &VerifyArgs) -> anyhow::Result<Exit> {
    let Log { mut parts, checkpoint, head } = open(args)?;
    for other in &args.also {
        parts = parts.with(other)?;
    }
    let verifier = args.keys.iter().map(|file| private_key(file)).collect::<Result<_, _>>()?;
    let copies = args.copies.as_deref().map(read_copies).transpose()?.unwrap_or_default();
    let mut verdict = verify(&parts, &Keys { checkpoint, verifier }, &copies)?;
    if let Some(head) = &head {
        verdict.faults.extend(ahead_of_store(&parts, head)?);
    }
    if args.json {
        writeln!(io::stdout(), "{}", as_json(&verdict))?;
    } else {
        print(&verdict)?;
    }
    Ok(if verdict.faults.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// A log and what it is verified with.
struct Log {
    parts: LogParts,
    checkpoint: CheckpointKey,
    /// The erasure ledger's head, where the key store was opened.
    head: Option<LedgerHead>,
}

fn open(args: &VerifyArgs) -> anyhow::Result<Log> {
    let given = args.public_key.as_deref().map(parse_checkpoint_key).transpose()?;
    let Some(path) = &args.source.config else {
        let file = args.source.file.as_deref().unwrap_or(Path::new(""));
        let checkpoint = given.ok_or_else(|| Exit::Usage.because("--public-key is missing"))?;
        return Ok(Log { parts: LogParts::of(file)?, checkpoint, head: None });
    };
    let config = load_config(path)?;
    let audit = config
        .audit
        .ok_or_else(|| Exit::Usage.because(format!("{} has no [audit] section", path.display())))?;
    let (checkpoint, head) = match given {
        Some(key) => (key, None),
        None => {
            let manager = keys::manager(&config.keys)?;
            (checkpoint_key(&manager)?, Some(manager.ledger_head().into()))
        }
    };
    Ok(Log { parts: LogParts::of(&audit.file)?, checkpoint, head })
}

/// The first line that knows more of the erasure ledger than the key store does: both went back.
fn ahead_of_store(parts: &LogParts, head: &LedgerHead) -> anyhow::Result<Option<Fault>> {
    let mut fault = None;
    parts.each(|_, _, line| {
        let is_ahead = line.entry.ledger.is_some_and(|known| known.is_ahead_of(head));
        if is_ahead && fault.is_none() {
            fault = Some(Fault {
                file: None,
                line: line.seq,
                chain: Some(line.chain),
                why: Wrong::Ledger,
            });
        }
        Ok(())
    })?;
    Ok(fault)
}

fn private_key(file: &Path) -> anyhow::Result<VerifierKey> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("{} cannot be read", file.display()))?;
    Zeroizing::new(text)
        .parse()
        .map_err(|error| Exit::Usage.because(format!("{} {error}", file.display())))
}

fn read_copies(file: &Path) -> anyhow::Result<Copies> {
    let text = std::fs::read(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let mut copies = Copies::default();
    let lines = text.split(|byte| *byte == b'\n').enumerate();
    for (at, line) in lines.filter(|(_, line)| !line.is_empty()) {
        copies.add(line).with_context(|| format!("{}: line {}", file.display(), at + 1))?;
    }
    Ok(copies)
}

fn print(verdict: &Verdict) -> io::Result<()> {
    let mut out = io::stdout().lock();
    for chain in &verdict.chains {
        let ChainReport { chain, file, lines, known_to, pruned_to, times } = chain;
        write!(
            out,
            "{}: chain {chain}, {} to {}, {lines} lines",
            file.display(),
            times.0,
            times.1
        )?;
        if let Some(kept) = pruned_to {
            write!(out, ", lines 2 to {} pruned", kept - 1)?;
        }
        match known_to {
            0 => writeln!(out, ": nothing is proved")?,
            known if known == lines => writeln!(out, ": all is proved")?,
            known => writeln!(out, ": proved to line {known}, nothing known after")?,
        }
    }
    for fault in &verdict.faults {
        match &fault.file {
            Some(file) => {
                writeln!(out, "FAULT {}: line {} {}", file.display(), fault.line, fault.why)?;
            }
            None => {
                let chain = fault.chain.map(|chain| chain.to_string()).unwrap_or_default();
                writeln!(out, "FAULT chain {chain}: line {} {}", fault.line, fault.why)?;
            }
        }
    }
    let found = if verdict.faults.is_empty() { "the log is whole" } else { "the log is NOT whole" };
    writeln!(out, "{found}")
}

fn as_json(verdict: &Verdict) -> Value {
    let chain = |report: &ChainReport| {
        json!({
            "chain": report.chain, "file": report.file, "lines": report.lines,
            "known_to": report.known_to, "pruned_to": report.pruned_to,
            "from": report.times.0, "to": report.times.1,
        })
    };
    let fault = |fault: &Fault| {
        json!({
            "file": fault.file, "line": fault.line, "chain": fault.chain,
            "why": fault.why.as_str(),
        })
    };
    json!({
        "whole": verdict.faults.is_empty(),
        "chains": verdict.chains.iter().map(chain).collect::<Vec<_>>(),
        "faults": verdict.faults.iter().map(fault).collect::<Vec<_>>(),
    })
}
