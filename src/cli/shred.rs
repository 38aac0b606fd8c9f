//! `veilstream shred`

mod remains;

use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::{Args, Subcommand};
use ed25519_dalek::VerifyingKey;
use jiff::Timestamp;
use veilstream_keys::Manager;
use veilstream_keys::erasure::{Check, Outcome, SignedReceipt, Terms};
use veilstream_reading::audit::{Entry, Event, Hex, LedgerHead, cut_reason};

use super::KeysSource;
use super::argument::ArgumentError;
use crate::audit::{self, Trail};
use crate::exit::Exit;
use crate::keys::{self, now};

const AFTER_HELP: &str = "Destroys every key of the data subject, so that what was sealed with them opens nowhere any more: in topics, databases and backups. Running sidecars
and readers forget the keys within a second, at the latest after keys.lookup_max_age. A later record of the subject is rejected (erased_subject),
unless --allow-return. Each line of the output is a signed receipt; keep it. What an erasure does not reach stands in it: indexes, deterministic values, dead letters.
Of an id that no key was ever made for nobody is erased: there is no receipt, and the exit code is 1 unless --allow-unknown. A later record of it is rejected
all the same. Mistyped? `shred --allow-return` of it lets records in again.

Examples:
  veilstream shred --config veilstream.toml --subject 42 --reason 'request 2026-117' > receipt.json
  veilstream shred --config veilstream.toml --subjects ids.txt --reason 'retention: inactive for 5 years' > receipts.ndjson
  veilstream shred --config veilstream.toml --domain staff --subject 42 --reason 'request 2026-118' > receipt.json
  veilstream shred verify --config veilstream.toml receipt.json

Exit code: 0 all are erased, 1 somebody is unknown, or something failed: run it again; verify: 0 all is as the receipts say, 1 it is not";

/// Arguments of `shred`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct ShredArgs {
    #[command(subcommand)]
    command: Option<ShredCommand>,
    #[command(flatten)]
    source: KeysSource,
    #[command(flatten)]
    who: Option<Who>,
    /// Why, in words that name nobody; stands in the erasure ledger
    #[arg(long, value_name = "TEXT", required = true)]
    reason: Option<String>,
    /// The domain that the ids count in (subject_domain of the schema); none is the domain without
    /// a name
    #[arg(long, value_name = "NAME", value_parser = domain)]
    domain: Option<String>,
    /// Let a later record of the subject have a new key
    #[arg(long)]
    allow_return: bool,
    /// Exit code 0 also when ids are unknown
    #[arg(long)]
    allow_unknown: bool,
    /// The day until which backups are kept, for the receipt
    #[arg(long, value_name = "YYYY-MM-DD", value_parser = day)]
    backups_until: Option<u64>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Who {
    /// The data subject, as records name it; 42 and "42" are one
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// A file with one data subject a line; - is standard input
    #[arg(long, value_name = "FILE")]
    subjects: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum ShredCommand {
    /// Check receipts against the key store and the erasure ledger, or their signatures alone
    Verify {
        #[command(flatten)]
        source: KeysSource,
        /// Check the signature alone, with this key (`veilstream keys public-key`)
        #[arg(long, value_name = "KEY", conflicts_with_all = ["keys", "config"])]
        public_key: Option<String>,
        /// The receipts; - is standard input
        file: PathBuf,
    },
}

/// Runs the command.
///
/// # Errors
/// An erasure is not complete, or a receipt cannot be checked.
pub fn run(args: &ShredArgs) -> anyhow::Result<Exit> {
    match (&args.command, &args.who) {
        (Some(ShredCommand::Verify { source, public_key, file }), _) => {
            verify(source, public_key.as_deref(), file)
        }
        (None, Some(who)) => shred(args, &who.ids()?),
        (None, None) => Err(Exit::Usage.because(
            "name the data subject with --subject ID, or a file of them with --subjects FILE",
        )),
    }
}

impl Who {
    fn ids(&self) -> anyhow::Result<Vec<String>> {
        if let Some(id) = &self.subject {
            return Ok(vec![id.clone()]);
        }
        let Some(file) = &self.subjects else { return Ok(Vec::new()) };
        let ids: Vec<String> = io::BufReader::new(open(file)?)
            .lines()
            .collect::<Result<_, _>>()
            .with_context(|| format!("{} cannot be read", file.display()))?;
        Ok(ids.into_iter().filter(|id| !id.is_empty()).collect())
    }
}

/// Whether a text names a data subject, in whatever case: as a word, or anywhere when that is no
/// accident.
fn names(text: &str, id: &str) -> bool {
    let (text, id) = (&*text.to_lowercase(), &*id.to_lowercase());
    let whole = |(at, _): (usize, &str)| {
        let (before, after) = (&text[..at], &text[at + id.len()..]);
        !before.ends_with(char::is_alphanumeric) && !after.starts_with(char::is_alphanumeric)
    };
    text.match_indices(id).any(whole) || (id.chars().count() > 5 && text.contains(id))
}

fn open(file: &Path) -> anyhow::Result<Box<dyn Read>> {
    if file.as_os_str() == "-" {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(
        std::fs::File::open(file).with_context(|| format!("{} cannot be read", file.display()))?,
    ))
}

fn shred(args: &ShredArgs, ids: &[String]) -> anyhow::Result<Exit> {
    let reason = args.reason.as_deref().unwrap_or_default();
    if reason.trim().is_empty() {
        return Err(Exit::Usage.because("--reason is empty; say why, without naming anybody"));
    }
    if ids.iter().any(|id| id.is_empty()) {
        return Err(Exit::Usage.because("--subject is empty"));
    }
    // The ledger outlives the erasure: an erased person must not stand in it.
    if ids.iter().any(|id| names(reason, id)) {
        return Err(Exit::Usage.because(
            "--reason names a data subject; the ledger keeps it, so say \
            it without the id (a request's number, for example)",
        ));
    }
    let settings = keys::settings(&args.source)?;
    let audit = audit::for_changes(&args.source)?;
    let manager = Arc::new(keys::manager(&settings)?);
    let trail = Trail::open(audit.as_ref(), &manager)?;
    let domain = args.domain.as_deref().filter(|domain| !domain.is_empty());
    let subjects = ids
        .iter()
        .map(|id| manager.subject_ref(id, domain, now()))
        .collect::<Result<Vec<_>, _>>()?;
    let remains = remains::of(&args.source)?;
    for one in remains.iter().filter(|one| one.contains("migration")) {
        writeln!(io::stderr(), "veilstream: warning: {one}")?;
    }
    let terms = Terms {
        reason,
        domain,
        may_return: args.allow_return,
        backups_until: args.backups_until,
        remains: &remains,
    };
    let outcomes = manager.shred(&subjects, &terms, now())?;
    // The ledger has them already: a receipt is given out even where the log fails.
    let told = trail.append(
        outcomes.iter().map(|outcome| erasure(&trail, outcome, reason, &manager)).collect(),
    );
    let mut out = io::stdout().lock();
    let mut unknown = 0_usize;
    for Outcome { subject, receipt } in &outcomes {
        match receipt {
            Some(receipt) => writeln!(out, "{}", super::sorted(receipt.to_json()))?,
            None => {
                unknown += 1;
                // By its place: the id itself is nobody's to log.
                let place =
                    subjects.iter().position(|wanted| wanted == subject).map_or(0, |at| at + 1);
                writeln!(
                    io::stderr(),
                    "id {place} of {} (reference {subject}): nobody was erased, no key was ever \
                    made for it; is it mistyped, or of another --domain?",
                    ids.len()
                )?;
            }
        }
    }
    if unknown > 0 {
        let rejected = if args.allow_return {
            "Later records of them get keys"
        } else {
            "Later records of them are rejected"
        };
        writeln!(
            io::stderr(),
            "{} erased, {unknown} unknown. {rejected}.",
            outcomes.len() - unknown
        )?;
    }
    told.context("they are erased, but it is not in the audit log")?;
    Ok(if unknown == 0 || args.allow_unknown { Exit::Ok } else { Exit::Failed })
}

/// The audit line of an erasure.
fn erasure(trail: &Trail, outcome: &Outcome, reason: &str, manager: &Manager) -> Entry {
    let kids = outcome.receipt.as_ref().map(SignedReceipt::kids).unwrap_or_default();
    Entry {
        subject: Some(outcome.subject.into()),
        reason: Some(cut_reason(reason)),
        kids: kids.unwrap_or_default().into_iter().map(Hex::from).collect(),
        ledger: Some(LedgerHead::from(manager.ledger_head())),
        ..trail.entry(Event::Shred)
    }
}

fn verify(source: &KeysSource, public_key: Option<&str>, file: &Path) -> anyhow::Result<Exit> {
    let trusted = public_key.map(parse_key).transpose()?;
    let manager = match trusted {
        Some(_) => None,
        None => Some(keys::manager(&keys::settings(source)?)?),
    };
    let mut whole = true;
    let (mut out, mut count) = (io::stdout().lock(), 0);
    for value in serde_json::Deserializer::from_reader(io::BufReader::new(open(file)?))
        .into_iter::<serde_json::Value>()
    {
        count += 1;
        let value = value.map_err(|e| {
            anyhow::anyhow!(
                "{}: receipt {count} is not JSON (line {}, column {})",
                file.display(),
                e.line(),
                e.column()
            )
        })?;
        let receipt = SignedReceipt::parse(value.to_string().as_bytes())
            .with_context(|| format!("{}: receipt {count}", file.display()))?;
        let checks = match (&manager, &trusted) {
            (Some(manager), _) => manager.check_receipt(&receipt, now())?,
            (None, Some(key)) => vec![Check {
                what: "signature",
                wrong: receipt.verify(key).err().map(|e| e.to_string()),
            }],
            (None, None) => unreachable!("one of them is there"),
        };
        for Check { what, wrong } in checks {
            whole &= wrong.is_none();
            writeln!(out, "receipt {count}, {what}: {}", wrong.as_deref().unwrap_or("yes"))?;
        }
    }
    if count == 0 {
        return Err(Exit::Usage.because(format!("{} holds no receipt", file.display())));
    }
    Ok(if whole { Exit::Ok } else { Exit::Failed })
}

/// A domain's name; empty: the domain without a name.
fn domain(text: &str) -> Result<String, ArgumentError> {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let is_name = text.is_empty()
        || text.len() <= 64
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(rest);
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(ArgumentError::Form("small letters, digits, _ and -, a letter first"))
    }
}

/// The start of a day, UTC, in Unix seconds.
pub(super) fn day(text: &str) -> Result<u64, ArgumentError> {
    let start = format!("{text}T00:00:00Z")
        .parse::<Timestamp>()
        .map_err(|_| ArgumentError::Form("it as 2027-01-31"))?;
    Ok(start.as_second().unsigned_abs())
}

fn parse_key(text: &str) -> anyhow::Result<VerifyingKey> {
    let key = URL_SAFE_NO_PAD
        .decode(text.trim())
        .ok()
        .and_then(|bytes| VerifyingKey::try_from(&*bytes).ok());
    key.ok_or_else(|| {
        Exit::Usage
            .because("--public-key is not a public key; `veilstream keys public-key` prints it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_names_somebody_is_told_from_one_that_does_not() {
        for (text, id) in [
            ("request of 42", "42"),
            ("wrote as ada@example.com", "ada@example.com"),
            ("customer-4711234", "4711234"),
            ("asked by ADA@Example.com", "ada@example.com"),
            ("wrote as ann", "ANN"),
            ("asked by ada@x, twice", "Ada@X"),
            ("ab-1 asked", "AB-1"),
        ] {
            assert!(names(text, id), "{text} {id}");
        }
        for (text, id) in [
            ("request 2026-117", "17"),
            ("request 2026-117", "42"),
            ("retention", "ten"),
            ("request 2026-117", "6-11"),
        ] {
            assert!(!names(text, id), "{text} {id}");
        }
    }

    #[test]
    fn a_day_is_its_start() {
        assert_eq!(day("2027-01-31"), Ok(1_801_353_600));
        assert!(day("31.1.2027").is_err() && day("2027-02-30").is_err());
    }
}
