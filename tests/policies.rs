//! The shipped policies: their cases hold, cover every question, and the shipped Cedar schema is
//! that of the shipped schema documents.
#![cfg(feature = "serve")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use veilstream::config::{Policy, Purpose};
use veilstream::policy::budget::BudgetLimits;
use veilstream::policy::cases::PolicyCases;
use veilstream::policy::{Action, PolicySet, cedar_schema, facts, warnings};
use veilstream::registry;
use veilstream_engine::compile::{Grants, SchemaSet};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn schemas() -> Arc<SchemaSet> {
    let files = registry::documents_in(&root("schemas")).unwrap();
    registry::open_files(&files, &Grants::local()).unwrap().set
}

fn cases() -> PolicyCases {
    PolicyCases::parse(&std::fs::read(root("deploy/policies/cases.json")).unwrap()).unwrap()
}

fn policies(purposes: &[Purpose]) -> PolicySet {
    PolicySet::open(&root("deploy/policies"), schemas(), purposes).unwrap()
}

#[test]
fn the_shipped_cases_hold() {
    let cases = cases();
    let set = policies(&cases.purposes().unwrap());
    for case in &cases.cases {
        for result in case.run(&set).unwrap() {
            assert!(result.holds(), "{}: {result:?}", case.name);
            assert!(result.outcome.failed.is_empty(), "{}: {result:?}", case.name);
        }
    }
}

#[test]
fn readers_of_the_shipped_cases_see_what_they_must() {
    let test = |policies: &Path| {
        let purposes = "support,fraud,export,audit";
        let arguments = ["schema", "test", "schemas", "--purposes", purposes, "--policies"];
        let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
        command.current_dir(root("")).args(arguments).arg(policies).output().unwrap()
    };
    let output = test(Path::new("deploy/policies"));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.contains("pass  read as support for support"), "{said}");
    assert!(!said.contains("not asked"), "{said}");
    // Without a policy for them they see nothing.
    let dir = tempfile::tempdir().unwrap();
    let export = root("deploy/policies/export.cedar");
    std::fs::copy(export, dir.path().join("export.cedar")).unwrap();
    let output = test(dir.path());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(r#"/sees/customer/phone: expected "********1111", got null"#), "{said}");
}

/// A permit nobody wrote a case for is one nobody looked at.
#[test]
fn the_shipped_cases_ask_every_question_of_every_role() {
    let cases = cases();
    let set = policies(&cases.purposes().unwrap());
    let mut asked = BTreeSet::new();
    for case in &cases.cases {
        for result in case.run(&set).unwrap() {
            for role in case.roles() {
                let (field, purpose) = (result.field.clone(), result.purpose.clone());
                asked.insert((role.clone(), result.action, field, purpose));
            }
        }
    }
    let roles = set.roles().iter().map(String::as_str).chain(["sales"]);
    let mut count = 0;
    for role in roles {
        for action in Action::ALL {
            for field in set.facts() {
                for purpose in set.purposes() {
                    let question =
                        (role.to_owned(), action, field.id.to_string(), purpose.name.clone());
                    assert!(asked.contains(&question), "no case asks {question:?}");
                    count += 1;
                }
            }
        }
    }
    assert!(count > 4000, "{count} questions: these are not all");
}

#[test]
fn each_shipped_policy_decides_some_case() {
    let cases = cases();
    let set = policies(&cases.purposes().unwrap());
    let results = cases.cases.iter().flat_map(|case| case.run(&set).unwrap());
    let deciding: BTreeSet<Arc<str>> = results.flat_map(|result| result.outcome.policies).collect();
    let all: BTreeSet<Arc<str>> = set.policies().iter().map(|policy| policy.id.clone()).collect();
    assert_eq!(deciding, all);
}

#[test]
fn the_shipped_policies_have_no_warning() {
    let purposes = cases().purposes().unwrap();
    let policy =
        Policy { dir: root("deploy/policies"), purposes: purposes.clone(), budgets: Vec::new() };
    let found = warnings(&policies(&purposes), &BudgetLimits::new(&policy, NonZeroU32::MIN));
    assert_eq!(found, []);
}

#[test]
fn the_shipped_cedar_schema_is_that_of_the_shipped_documents() {
    let shipped = std::fs::read_to_string(root("deploy/policies/veilstream.cedarschema")).unwrap();
    let generated = cedar_schema(&facts(&schemas()));
    assert!(
        shipped == generated,
        "run: veilstream policy check --cedar-schema > deploy/policies/veilstream.cedarschema"
    );
}
