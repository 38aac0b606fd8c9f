//! `veilstream policy test`

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value, json};

use super::Policies;
use crate::exit::{Exit, faults_error};
use crate::policy::PolicySet;
use crate::policy::cases::{CaseResult, CasesError, Outcome, PolicyCases};

/// Arguments of `policy test`.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// File of cases
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    policies: Policies,
    /// One JSON object a question
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &TestArgs) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    let (cases, purposes) = read(&args.file)?;
    let set = args.policies.load(purposes)?.open()?;
    let answered = answers(&args.file, &cases, &set)?;
    let (mut passed, mut failed) = (0, 0);
    for (name, results) in &answered {
        let holds = results.iter().all(CaseResult::holds);
        passed += usize::from(holds);
        failed += usize::from(!holds);
        if args.json {
            for result in results {
                writeln!(out, "{}", crate::cli::sorted(described(name, result)))?;
            }
            continue;
        }
        writeln!(out, "{}  {name}", if holds { "pass" } else { "FAIL" })?;
        for result in results.iter().filter(|result| !result.holds()) {
            writeln!(out, "      {}", line(result))?;
        }
        for policy in broken(results) {
            writeln!(out, "      policy {policy} fails where it is evaluated, which denies")?;
        }
    }
    if !args.json {
        writeln!(out, "{passed} passed, {failed} failed")?;
    }
    Ok(if failed == 0 { Exit::Ok } else { Exit::Failed })
}

/// The cases of a file, and the purposes it brings.
pub(super) fn read(file: &Path) -> anyhow::Result<(PolicyCases, Vec<crate::config::Purpose>)> {
    let faulty = |error: CasesError| faults_error(&[format!("{}: {error}", file.display())]);
    let text = std::fs::read(file).map_err(|error| {
        faults_error(&[format!(
            "{}: cannot be read ({error}); name a file of cases",
            file.display()
        )])
    })?;
    let cases = PolicyCases::parse(&text).map_err(faulty)?;
    let purposes = cases.purposes().map_err(faulty)?;
    Ok((cases, purposes))
}

/// Every case with its answers; every fault at once.
pub(super) fn answers<'c>(
    file: &Path,
    cases: &'c PolicyCases,
    set: &PolicySet,
) -> anyhow::Result<Vec<(&'c str, Vec<CaseResult>)>> {
    let (mut answered, mut faults) = (Vec::new(), Vec::new());
    for case in &cases.cases {
        match case.run(set) {
            Ok(results) => answered.push((case.name.as_str(), results)),
            Err(error) => faults.push(format!("{}: {error}", file.display())),
        }
    }
    if faults.is_empty() { Ok(answered) } else { Err(faults_error(&faults)) }
}

fn line(result: &CaseResult) -> String {
    let CaseResult { action, field, purpose, expected, outcome } = result;
    format!("{} {field} for {purpose}: expected {expected}, got {}", action.name(), said(outcome))
}

/// An answer with its cause.
pub(super) fn said(outcome: &Outcome) -> String {
    let mut text = outcome.answer.to_owned();
    if let Some(denial) = outcome.denial {
        text += &format!(": {denial}");
    }
    if !outcome.policies.is_empty() {
        let ids: Vec<&str> = outcome.policies.iter().map(|id| &**id).collect();
        text += &format!(" ({})", ids.join(", "));
    }
    text
}

/// Ids of the policies whose evaluation failed.
fn broken(results: &[CaseResult]) -> Vec<&str> {
    let mut ids: Vec<&str> =
        results.iter().flat_map(|result| &result.outcome.failed).map(|id| &**id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn described(name: &str, result: &CaseResult) -> Value {
    let ids = |ids: &[std::sync::Arc<str>]| ids.iter().map(|id| id.to_string()).collect::<Vec<_>>();
    let CaseResult { action, field, purpose, expected, outcome } = result;
    json!({
        "case": name, "action": action.name(), "field": field, "purpose": purpose,
        "expected": expected, "answer": outcome.answer, "pass": result.holds(),
        "denial": outcome.denial.map(|denial| denial.code()),
        "policies": ids(&outcome.policies), "failed": ids(&outcome.failed),
    })
}
