//! `veilstream policy`

mod check;
mod diff;
mod explain;
mod test;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use veilstream_engine::compile::{Grants, SchemaSet};

use crate::config::{Policy, Purpose};
use crate::exit::{Exit, faults_error};
use crate::policy::{PolicyPlace, PolicySet};
use crate::registry;

const CHECK_HELP: &str =
    "Faults: what is not Cedar or not of the generated Cedar schema, and each \
field, schema, tag or purpose that does not exist. Warnings: a permit that rests on what callers \
claim, and a field that somebody may both mask and search.

Examples:
  veilstream policy check --config veilstream.toml
  veilstream policy check --policies policies --schemas schemas --purposes support,fraud
  veilstream policy check --schemas schemas --cedar-schema > policies/veilstream.cedarschema

Exit code: 0 good (warnings do not count), 2 faults";

const TEST_HELP: &str =
    "A case says who asks for what, and what must be answered; docs/reading.md \
tells how it is written. Without --config and --purposes, the purposes of the file count.

Examples:
  veilstream policy test deploy/policies/cases.json --policies deploy/policies
  veilstream policy test cases.json --config veilstream.toml --json

Exit code: 0 every case holds, 1 some do not, 2 wrong policies or cases";

const EXPLAIN_HELP: &str = "Touches no key and opens nothing.

Examples:
  veilstream policy explain --config veilstream.toml --principal user:jwt:corp:ana \\
    --role support --action reveal --field customers.phone --purpose support

Exit code: 0 answered, whatever the answer is, 2 wrong policies or arguments";

const DIFF_HELP: &str = "Asks both sets of policies each question of the cases; what the cases \
expect does not count.

Examples:
  veilstream policy diff policies policies.new --cases cases.json --config veilstream.toml

Exit code: 0 same answers, 1 some differ, 2 wrong policies or cases";

/// Arguments of `policy`.
#[derive(Debug, Args)]
pub struct PolicyArgs {
    #[command(subcommand)]
    command: PolicyCommand,
}

#[derive(Debug, Subcommand)]
enum PolicyCommand {
    /// Check policies, every fault at once
    #[command(after_help = CHECK_HELP)]
    Check(check::CheckArgs),
    /// Run cases: who asks for what, and what must be answered
    #[command(after_help = TEST_HELP)]
    Test(test::TestArgs),
    /// Say what one request would be answered, and which policies decide
    #[command(after_help = EXPLAIN_HELP)]
    Explain(explain::ExplainArgs),
    /// Show which answers differ between two sets of policies
    #[command(after_help = DIFF_HELP)]
    Diff(diff::DiffArgs),
}

/// Runs the command.
///
/// # Errors
/// Faults of policies, documents, cases or arguments; a stream that fails.
pub fn run(args: &PolicyArgs) -> anyhow::Result<Exit> {
    match &args.command {
        PolicyCommand::Check(args) => check::run(args),
        PolicyCommand::Test(args) => test::run(args),
        PolicyCommand::Explain(args) => explain::run(args),
        PolicyCommand::Diff(args) => diff::run(args),
    }
}

/// Where the policies stand.
#[derive(Debug, Clone, Args)]
struct Policies {
    /// Folder of the policies; over that of the configuration
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    #[command(flatten)]
    scope: Scope,
}

/// What policies speak of.
#[derive(Debug, Clone, Args)]
struct Scope {
    /// Configuration file whose [policy] and [schemas] count
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the schema documents
    #[arg(long, value_name = "DIR", default_value = "schemas", conflicts_with = "config")]
    schemas: PathBuf,
    /// The purposes there are, separated by commas
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "config")]
    purposes: Vec<String>,
}

/// What the arguments lead to.
struct Loaded {
    policy: Policy,
    schemas: Arc<SchemaSet>,
}

impl Scope {
    /// `of_file`: the purposes that count where the arguments name none.
    fn load(&self, of_file: Vec<Purpose>) -> anyhow::Result<Loaded> {
        if let Some(config) = &self.config {
            let config = super::load_config(config)?;
            let (registry, _) = registry::open_configured(&config.schemas)
                .map_err(|faults| faults_error(&faults))?;
            return Ok(Loaded { policy: config.policy, schemas: registry.current() });
        }
        let named = self.purposes.iter().map(|name| Purpose {
            name: name.clone(),
            reason_required: false,
            pattern: None,
        });
        let purposes = if self.purposes.is_empty() { of_file } else { named.collect() };
        let policy = Policy { dir: "policies".into(), purposes, budgets: Vec::new() };
        let schemas = registry::documents_in(&self.schemas)
            .and_then(|files| registry::open_files(&files, &Grants::local()))
            .map_err(|faults| faults_error(&faults))?;
        Ok(Loaded { policy, schemas: schemas.set })
    }
}

impl Policies {
    fn load(&self, of_file: Vec<Purpose>) -> anyhow::Result<Loaded> {
        let mut loaded = self.scope.load(of_file)?;
        if let Some(dir) = &self.policies {
            loaded.policy.dir.clone_from(dir);
        }
        Ok(loaded)
    }
}

impl Loaded {
    fn open(&self) -> anyhow::Result<PolicySet> {
        self.open_dir(&self.policy.dir)
    }

    fn open_dir(&self, dir: &std::path::Path) -> anyhow::Result<PolicySet> {
        PolicySet::open(dir, self.schemas.clone(), &self.policy.purposes)
            .map_err(|faults| faults_error(&faults))
    }
}

/// Budgets are shown whole: how many instances share them is the service's matter.
const ONE: NonZeroU32 = NonZeroU32::MIN;

/// A policy for machines.
fn described(place: &PolicyPlace) -> Value {
    let effect = effect(place);
    json!({ "id": &*place.id, "effect": effect, "file": place.file, "line": place.line })
}

fn effect(place: &PolicyPlace) -> &'static str {
    if place.forbids { "forbid" } else { "permit" }
}
