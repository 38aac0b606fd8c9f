//! Every role, action, field and purpose over HTTPS, as `policy test` answers them: of the worked
//! examples, and of policies made at random.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::process::Signal;
use serde_json::{Value, json};
use veilstream::policy::cases::PolicyCases;
use veilstream::policy::{Action, Credential, PolicySet, Principal, PrincipalKind, Want};

use crate::instance::{ServeProcess, shipped};
use crate::serve_matrix_world::{
    Question, SCHEMAS, World, purposes, schemas, shipped_cases, tested,
};
use crate::testing::until;

fn principal(of: &Value) -> Principal {
    let (kind, id) = match of["user"].as_str() {
        Some(id) => (PrincipalKind::User, id),
        None => (PrincipalKind::Service, of["service"].as_str().unwrap()),
    };
    let roles = of["roles"].as_array().unwrap().iter().map(|r| r.as_str().unwrap().to_owned());
    Principal { kind, id: id.to_owned(), roles: roles.collect() }
}

/// A case for one of its purposes.
fn question(case: &Value, purpose: &str) -> Question {
    let (context, caller) = (&case["context"], principal(&case["principal"]));
    let auth = match (context["auth"].as_str(), caller.kind) {
        // A person has no certificate here, and is denied all the same.
        (_, PrincipalKind::User) => Credential::Jwt,
        (Some("key"), _) => Credential::Key,
        _ => Credential::Mtls,
    };
    Question {
        person: context.get("on_behalf_of").map(principal),
        auth,
        purpose: purpose.to_owned(),
        reason: context["reason"].as_str().map(str::to_owned),
        ip: context["ip"].as_str().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |t| t.parse().unwrap()),
        want: match case["want"].as_str() {
            Some("reveal") => Want::Reveal,
            Some("mask") => Want::Mask,
            _ => Want::Auto,
        },
        subjects: context["subjects"].as_u64().unwrap_or(1),
        bare: context["bare"].as_bool().unwrap_or(false),
        caller,
    }
}

/// Asks over HTTPS what is asked of these policies, and compares. Counts the answers.
fn compare(
    world: &World,
    running: &ServeProcess,
    policies: &PolicySet,
    question: &Question,
    action: Action,
    fields: &[String],
    seen: &mut BTreeMap<&'static str, usize>,
) {
    for schema in SCHEMAS {
        let of = |id: &&String| id.split(['.', '#']).next() == Some(schema);
        let fields: Vec<&str> = fields.iter().filter(of).map(String::as_str).collect();
        if fields.is_empty() {
            continue;
        }
        let mut question = question.clone();
        if action == Action::Mask {
            question.want = Want::Mask;
        }
        let sent = world.sent(&question, schema, &fields);
        let says = |action, field: &str| tested(policies, &question, &sent.facts, action, field);
        let facts_of = |field: &str| policies.facts().iter().find(|f| &*f.id == field).unwrap();
        let told = |field: &str| format!("{action:?} {field} {question:?}");
        match action {
            Action::Reveal | Action::Mask | Action::AuditRead => {
                let (answer, statuses) = world.read(running, &question, "/v1/reveal", &sent);
                let shows = World::shows_audit(policies, &question, &sent);
                assert_eq!(answer.get("audit").is_some(), shows, "{answer} {question:?}");
                if let Some(items) = world.stream(running, &question, &sent) {
                    assert_eq!(json!(items), answer["items"], "{question:?}");
                    *seen.entry("streamed").or_default() += 1;
                }
                for field in fields {
                    let (expected, status) =
                        (says(Action::Reveal, field), &statuses[field]["status"]);
                    // What has no token in the record shows only that it is not denied.
                    let opens = facts_of(field).opens && !field.contains('#');
                    if opens || expected == "denied" {
                        assert_eq!(status, expected, "{}", told(field));
                    } else {
                        assert_ne!(status, "denied", "{}", told(field));
                    }
                    *seen.entry(expected).or_default() += 1;
                }
            }
            Action::Explain | Action::PolicyRead => {
                let (_, statuses) = world.read(running, &question, "/v1/explain", &sent);
                for field in fields {
                    let explains = says(Action::Explain, field) == "permitted";
                    let expected = if explains { says(Action::Reveal, field) } else { "denied" };
                    assert_eq!(statuses[field]["status"], expected, "{}", told(field));
                    let reads = explains && says(Action::PolicyRead, field) == "permitted";
                    let has = statuses[field].get("policies").is_some();
                    assert_eq!(has, reads, "{}", told(field));
                    *seen.entry(if explains { "explained" } else { "unexplained" }).or_default() +=
                        1;
                }
            }
            Action::Search => {
                // A search is of no record, so it has other facts.
                let mut facts = sent.facts.clone();
                (facts.items, facts.subjects, facts.bare) = (fields.len() as u64, 0, false);
                let may = |field: &str| {
                    tested(policies, &question, &facts, Action::Search, field) == "permitted"
                };
                let found = world.search(running, &question, &fields);
                for (field, found) in fields.iter().zip(found) {
                    // Its index reads more than one field, so all of the schema's count.
                    let is_compound = *field == "orders.buyer_name";
                    let mut all = policies.facts().iter().filter(|f| &*f.schema == schema);
                    let expected = may(field)
                        && facts_of(field).index.is_some()
                        && (!is_compound || all.all(|f| may(&f.id)));
                    assert_eq!(found, expected, "{}", told(field));
                    *seen.entry(if found { "found" } else { "not found" }).or_default() += 1;
                }
            }
            Action::Seal => {
                let mut facts = sent.facts.clone();
                (facts.items, facts.subjects, facts.bare) = (fields.len() as u64, 1, false);
                let statuses = world.seal(running, &question, &fields);
                for (field, status) in fields.iter().zip(statuses) {
                    let said = tested(policies, &question, &facts, Action::Seal, field);
                    assert_eq!(status == "denied", said == "denied", "{status} {}", told(field));
                    let answer = if said == "denied" { "not sealed" } else { "sealed" };
                    *seen.entry(answer).or_default() += 1;
                }
            }
        }
    }
}

#[test]
fn every_question_of_the_examples_is_answered_as_the_cases_say() {
    let world = World::new(&["export"]);
    world.ship_policies();
    let running = world.instance.start();
    let shipped_cases = shipped_cases();
    let cases = PolicyCases::parse(shipped_cases.to_string().as_bytes()).unwrap();
    let policies = PolicySet::open(&shipped("deploy/policies"), schemas(), &purposes()).unwrap();
    let (mut asked, mut seen) = (BTreeSet::new(), BTreeMap::new());
    for (case, json) in cases.cases.iter().zip(shipped_cases["cases"].as_array().unwrap()) {
        let mut questions: BTreeMap<(String, &str), (Action, Vec<String>)> = BTreeMap::new();
        for result in case.run(&policies).unwrap() {
            assert!(result.holds(), "{}", case.name);
            for role in case.roles() {
                let (field, purpose) = (result.field.clone(), result.purpose.clone());
                asked.insert((role.clone(), result.action, field, purpose));
            }
            let key = (result.purpose.clone(), result.action.name());
            questions.entry(key).or_insert((result.action, Vec::new())).1.push(result.field);
        }
        for ((purpose, _), (action, fields)) in questions {
            let question = question(json, &purpose);
            compare(&world, &running, &policies, &question, action, &fields, &mut seen);
        }
    }
    let roles = policies.roles().len() + 1;
    let all = roles * Action::ALL.len() * policies.facts().len() * policies.purposes().len();
    assert_eq!(asked.len(), all, "not every role, action, field and purpose");
    println!("{all} questions; answers over HTTPS: {seen:?}");
    for answer in [
        "revealed",
        "masked",
        "denied",
        "explained",
        "unexplained",
        "found",
        "not found",
        "not sealed",
        "streamed",
    ] {
        assert!(seen.get(answer).is_some_and(|count| *count > 9), "{answer}: {seen:?}");
    }
}

const ROLES: [&str; 3] = ["agent", "analyst", "auditor"];

/// The text of one policy.
fn policy() -> impl Strategy<Value = String> {
    let effect = prop_oneof![3 => Just("permit"), 1 => Just("forbid")];
    let who = prop_oneof![
        Just("principal".to_owned()),
        prop::sample::select(&ROLES[..]).prop_map(|role| format!("principal in Role::\"{role}\"")),
        prop::sample::select(vec!["User", "Service"])
            .prop_map(|kind| format!("principal is {kind}")),
    ];
    let actions = prop::sample::subsequence(
        vec!["reveal", "mask", "search", "seal", "explain", "audit_read", "policy_read"],
        1..5,
    );
    let what = prop_oneof![
        2 => Just("resource".to_owned()),
        1 => prop::sample::select(&SCHEMAS[..])
            .prop_map(|name| format!("resource in Schema::\"{name}\"")),
        1 => prop::sample::select(vec!["contact", "payment", "name"])
            .prop_map(|tag| format!("resource in Tag::\"{tag}\"")),
        1 => prop::sample::select(vec!["customers.email", "orders.card", "customers#key"])
            .prop_map(|id| format!("resource == Field::\"{id}\"")),
    ];
    let when = prop_oneof![
        2 => Just(String::new()),
        1 => prop::sample::select(vec![
            "when { context.purpose == \"support\" }",
            "when { context.has_reason }",
            "unless { context.bare }",
            "when { context.subjects < 3 }",
            "when { context.items < 4 }",
            "unless { context has on_behalf_of }",
            "when { context.ip.isInRange(ip(\"10.0.0.0/8\")) }",
            "when { context.auth == \"jwt\" }",
        ])
        .prop_map(str::to_owned),
    ];
    (effect, who, actions, what, when).prop_map(|(effect, who, actions, what, when)| {
        let actions: Vec<String> =
            actions.iter().map(|action| format!("Action::\"{action}\"")).collect();
        format!("{effect}({who}, action in [{}], {what}) {when};\n", actions.join(", "))
    })
}

fn asker() -> impl Strategy<Value = Principal> {
    let kind = prop::sample::select(vec![PrincipalKind::User, PrincipalKind::Service]);
    let roles = prop::sample::subsequence(ROLES.to_vec(), 0..=2);
    (kind, roles).prop_map(|(kind, roles)| {
        let issuer = if kind == PrincipalKind::User { "corp" } else { "batch" };
        let roles = roles.into_iter().map(str::to_owned).collect();
        Principal { kind, id: format!("jwt:{issuer}:ana"), roles }
    })
}

fn any_question() -> impl Strategy<Value = Question> {
    let purpose = prop::sample::select(vec!["support", "fraud", "export", "audit", "nobody's"]);
    let reason = prop::sample::select(vec![None, Some("case 7"), Some("because")]);
    let ip = prop::sample::select(vec![[10, 1, 2, 3], [192, 0, 2, 1]]);
    let want = prop::sample::select(vec![Want::Auto, Want::Reveal, Want::Mask]);
    let person = prop::option::weighted(0.2, asker());
    let rest = (1..4_u64, prop::bool::weighted(0.2));
    (asker(), person, purpose, reason, ip, want, rest).prop_map(
        |(caller, person, purpose, reason, ip, want, (subjects, bare))| Question {
            caller,
            person: person.filter(|person| person.kind == PrincipalKind::User),
            auth: Credential::Jwt,
            purpose: purpose.to_owned(),
            reason: reason.map(str::to_owned),
            ip: ip.into(),
            want,
            subjects,
            bare,
        },
    )
}

/// The seed of this run: of the environment, or new.
pub(crate) fn seed() -> u64 {
    let given = std::env::var("VEILSTREAM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        now.subsec_nanos().into()
    });
    println!("VEILSTREAM_SEED={seed}");
    seed
}

/// What policies made at random must answer often enough to be worth the test.
const RANDOM_ANSWERS: [&str; 8] = [
    "revealed",
    "denied",
    "explained",
    "unexplained",
    "not found",
    "sealed",
    "not sealed",
    "streamed",
];

#[test]
fn random_policies_answer_over_https_what_policy_test_says() {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed().to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let world = World::new(&[]);
    let first = "permit(principal, action == Action::\"mask\", resource);";
    world.instance.write("policies/all.cedar", first);
    let running = world.instance.start();
    let mut seen = BTreeMap::new();
    let is_enough = |seen: &BTreeMap<_, usize>| {
        RANDOM_ANSWERS.iter().all(|answer| seen.get(answer).is_some_and(|count| *count > 9))
    };
    // Some sets permit next to nothing, so how many rounds show every answer depends on the seed.
    for round in 0..100 {
        if round >= 12 && is_enough(&seen) {
            break;
        }
        let rules = prop::collection::vec(policy(), 1..6).new_tree(&mut runner).unwrap().current();
        // The same hash twice would not show when the set is in force.
        let text = format!("// Round {round}\n{}", rules.concat());
        world.instance.write("policies/all.cedar", &text);
        let dir = world.instance.path("policies");
        let policies = PolicySet::open(dir.as_ref(), schemas(), &purposes());
        let policies = policies.unwrap_or_else(|faults| panic!("{faults:?}\n{text}"));
        running.signal(Signal::HUP);
        until("the policies are in force", || {
            running.report().pointer("/policies/in_force").is_some_and(|h| *h == **policies.hash())
                || running.report().to_string().contains(&**policies.hash())
        });
        let fields: Vec<String> = policies.facts().iter().map(|f| f.id.to_string()).collect();
        for _ in 0..8 {
            let question = any_question().new_tree(&mut runner).unwrap().current();
            for action in [Action::Reveal, Action::Explain, Action::Search, Action::Seal] {
                compare(&world, &running, &policies, &question, action, &fields, &mut seen);
            }
        }
    }
    println!("answers over HTTPS: {seen:?}");
    assert!(is_enough(&seen), "{seen:?}");
}
