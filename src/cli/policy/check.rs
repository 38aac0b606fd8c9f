//! `veilstream policy check`

use std::io::{self, Write};

use clap::Args;
use serde_json::json;

use super::{ONE, Policies};
use crate::exit::Exit;
use crate::policy::budget::BudgetLimits;
use crate::policy::{PolicyWarning, cedar_schema, facts, warnings};

/// Arguments of `policy check`.
#[derive(Debug, Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    policies: Policies,
    /// Print the Cedar schema of the schema documents, for editors, and check nothing
    #[arg(long)]
    cedar_schema: bool,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &CheckArgs) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    let loaded = args.policies.load(Vec::new())?;
    if args.cedar_schema {
        write!(out, "{}", cedar_schema(&facts(&loaded.schemas)))?;
        return Ok(Exit::Ok);
    }
    let set = loaded.open()?;
    let found = warnings(&set, &BudgetLimits::new(&loaded.policy, ONE));
    if args.json {
        let warnings: Vec<_> = found.iter().map(described).collect();
        let (policies, fields) = (set.policies().len(), set.facts().len());
        let report = json!({
            "policy": &**set.hash(), "policies": policies, "fields": fields, "warnings": warnings,
        });
        writeln!(out, "{}", crate::cli::sorted(report))?;
        return Ok(Exit::Ok);
    }
    for warning in &found {
        writeln!(out, "warning: {warning}")?;
    }
    writeln!(
        out,
        "{}: ok, {} policies over {} fields, {}",
        loaded.policy.dir.display(),
        set.policies().len(),
        set.facts().len(),
        set.hash()
    )?;
    Ok(Exit::Ok)
}

fn described(warning: &PolicyWarning) -> serde_json::Value {
    let message = warning.to_string();
    match warning {
        PolicyWarning::Claimed { policy, .. } => {
            json!({ "code": "claimed", "policy": super::described(policy), "message": message })
        }
        PolicyWarning::Dictionary { who, field, purpose, hidden, budget } => json!({
            "code": "dictionary", "who": who, "field": &**field, "purpose": purpose,
            "hidden": hidden, "budget": budget.to_string(), "message": message,
        }),
    }
}
