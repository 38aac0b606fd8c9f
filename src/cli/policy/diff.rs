//! `veilstream policy diff`

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{Scope, test};
use crate::exit::Exit;

/// Arguments of `policy diff`.
#[derive(Debug, Args)]
pub(super) struct DiffArgs {
    /// Folder of the policies in force
    #[arg(value_name = "OLD")]
    old: PathBuf,
    /// Folder of the policies that come
    #[arg(value_name = "NEW")]
    new: PathBuf,
    /// File of cases whose questions are asked
    #[arg(long, value_name = "FILE")]
    cases: PathBuf,
    #[command(flatten)]
    scope: Scope,
    /// One JSON object a difference
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &DiffArgs) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    let (cases, purposes) = test::read(&args.cases)?;
    let loaded = args.scope.load(purposes)?;
    let (old, new) = (loaded.open_dir(&args.old)?, loaded.open_dir(&args.new)?);
    let before = test::answers(&args.cases, &cases, &old)?;
    let after = test::answers(&args.cases, &cases, &new)?;
    let (mut asked, mut differences) = (0, 0);
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        for (before, after) in before.iter().zip(after) {
            asked += 1;
            if before.outcome.answer == after.outcome.answer {
                continue;
            }
            differences += 1;
            let (action, field, purpose) = (before.action.name(), &before.field, &before.purpose);
            let (before, after) = (&before.outcome, &after.outcome);
            if args.json {
                let difference = json!({
                    "case": name, "action": action, "field": field, "purpose": purpose,
                    "old": before.answer, "new": after.answer,
                });
                writeln!(out, "{}", crate::cli::sorted(difference))?;
            } else {
                let (before, after) = (test::said(before), test::said(after));
                writeln!(out, "{name}\n  {action} {field} for {purpose}")?;
                writeln!(out, "    old: {before}\n    new: {after}")?;
            }
        }
    }
    if !args.json {
        writeln!(out, "{asked} questions, {differences} answers differ")?;
    }
    Ok(if differences == 0 { Exit::Ok } else { Exit::Failed })
}
