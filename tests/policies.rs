//! The shipped policies: their cases hold, cover every question, and the shipped Cedar schema is
//! that of the shipped schema documents.
#![cfg(feature = "serve")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
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
