//! What a migration tells: counts and names of rows, never a value.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde_json::{Value, json};

use super::Opened;
use crate::migrate::{CheckOutcome, Form, Migrated};

/// What still holds the old form when no row does.
const HOLDS_OLD: &str = "what still holds the old form: dead rows until VACUUM FULL, the \
    write-ahead log, replicas, backups";

/// Prints it.
pub(super) fn print(
    as_json: bool,
    dry_run: bool,
    opened: &Opened,
    migrated: &Migrated,
    check: Option<&CheckOutcome>,
) -> io::Result<()> {
    let mut errors = io::stderr().lock();
    for (row, why) in &migrated.stays {
        let line = json!({ "row": row, "reason": why });
        writeln!(errors, "{}", crate::cli::sorted(line))?;
    }
    let findings = findings(opened, migrated);
    let mut out = io::stdout().lock();
    if as_json {
        let told = json(dry_run, opened, migrated, &findings, check);
        return writeln!(out, "{}", crate::cli::sorted(told));
    }
    let place = format!("{}.{}", opened.table.shown, opened.columns.source);
    writeln!(out, "{place} held: {}", counts(&migrated.found.forms))?;
    for finding in &findings {
        writeln!(out, "finding: {finding}")?;
    }
    if dry_run {
        let (old, stay) = (migrated.now.old(), migrated.now.left());
        writeln!(out, "a dry run: {} rows would be written", old - stay)?;
        return if old == 0 || stay > 0 { writeln!(out, "{}", left(migrated)) } else { Ok(()) };
    }
    writeln!(
        out,
        "{} rows written, {} of a sample opened again",
        migrated.written, migrated.sampled
    )?;
    if migrated.differs > 0 {
        writeln!(out, "{} rows of the sample do not hold what they held", migrated.differs)?;
    }
    if migrated.erased > 0 {
        writeln!(out, "{} rows of erased persons are null now", migrated.erased)?;
    }
    match check {
        Some(CheckOutcome::Refused { why, sql }) => {
            writeln!(
                out,
                "the CHECK does not hold yet: {why}\nrun as the owner of the table:\n{sql}"
            )?;
        }
        Some(CheckOutcome::Holds) => writeln!(out, "a CHECK keeps the old form out")?,
        None => {}
    }
    writeln!(out, "{}", left(migrated))?;
    writeln!(out, "{HOLDS_OLD}")
}

/// What is wrong with the old form itself.
fn findings(opened: &Opened, migrated: &Migrated) -> Vec<String> {
    let mut findings = Vec::new();
    let in_clear = migrated.found.in_clear;
    if in_clear > 0 {
        findings.push(format!(
            "{in_clear} rows of pgcrypto open under any passphrase (CVE-2026-14663): the server \
            had not the cipher and wrote them in clear; take its files and backups for clear text"
        ));
    }
    if opened.forms.has(Form::SqlalchemyUtils) {
        findings.push(format!(
            "sqlalchemy-utils seals under one initialisation vector, so equal values are equal \
            ciphertext: {} rows repeat another's",
            migrated.found.repeated
        ));
    }
    findings
}

fn left(migrated: &Migrated) -> String {
    match (migrated.now.left(), migrated.is_settled) {
        (0, true) => "none of the old form is left".to_owned(),
        (0, false) => "stopped, or others still write the old form; run it again".to_owned(),
        (rows, _) => format!("{rows} rows stay as they are: {}", counts(&migrated.now.stays)),
    }
}

fn counts(of: &BTreeMap<&'static str, u64>) -> String {
    if of.is_empty() {
        return "nothing".to_owned();
    }
    of.iter().map(|(name, rows)| format!("{rows} {name}")).collect::<Vec<_>>().join(", ")
}

fn json(
    dry_run: bool,
    opened: &Opened,
    migrated: &Migrated,
    findings: &[String],
    check: Option<&CheckOutcome>,
) -> Value {
    let check = check.map(|check| match check {
        CheckOutcome::Holds => json!({ "holds": true }),
        CheckOutcome::Refused { why, sql } => json!({ "holds": false, "why": why, "sql": sql }),
    });
    json!({
        "table": opened.table.shown, "column": opened.columns.source,
        "to": opened.columns.target, "index": opened.columns.index, "dry_run": dry_run,
        "found": migrated.found.forms, "written": migrated.written, "now": migrated.now.forms,
        "stays": migrated.now.stays, "erased": migrated.erased,
        "opens_without_passphrase": migrated.found.in_clear,
        "repeated_ciphertexts": migrated.found.repeated, "findings": findings,
        "sample": { "equal": migrated.sampled, "differs": migrated.differs },
        "settled": migrated.is_settled, "done": migrated.is_done(), "check": check,
        "holds_old_form": HOLDS_OLD,
    })
}
