//! Decisions against a small model of permit and forbid that knows nothing of Cedar.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::policy::cases::PolicyCases;

const ROLES: [&str; 3] = ["agent", "analyst", "auditor"];
const FIELDS: [&str; 4] = ["customers.email", "customers.phone", "customers.ssn", "orders.note"];
const PURPOSES: [&str; 3] = ["support", "fraud", "export"];

/// A policy of the model.
#[derive(Debug, Clone)]
struct Rule {
    forbids: bool,
    principal: Who,
    /// Empty: every action.
    actions: Vec<Action>,
    resource: What,
    conditions: Vec<(bool, Condition)>,
}

#[derive(Debug, Clone)]
enum Who {
    Anyone,
    Role(&'static str),
    Kind(PrincipalKind),
    Named(PrincipalKind, &'static str),
}

#[derive(Debug, Clone)]
enum What {
    Anything,
    Schema(&'static str),
    Tag(&'static str),
    Field(&'static str),
}

#[derive(Debug, Clone)]
enum Condition {
    Purpose(&'static str),
    HasReason,
    Bare,
    ItemsOver(u64),
    SubjectsOver(u64),
    InNetwork,
    /// Overflows, and so fails, for two items and more; else it holds.
    Overflow,
}

/// What one asks.
#[derive(Debug, Clone)]
struct Question {
    kind: PrincipalKind,
    id: &'static str,
    roles: Vec<&'static str>,
    purpose: &'static str,
    reason: Option<&'static str>,
    ip: [u8; 4],
    items: u64,
    subjects: u64,
    bare: bool,
    field: &'static str,
}

/// What the model says of one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    Permit,
    Nothing,
    Forbid,
    Error,
}

impl Rule {
    fn cedar(&self) -> String {
        let effect = if self.forbids { "forbid" } else { "permit" };
        let principal = match &self.principal {
            Who::Anyone => "principal".to_owned(),
            Who::Role(role) => format!("principal in Role::\"{role}\""),
            Who::Kind(kind) => format!("principal is {}", kind.name()),
            Who::Named(kind, id) => format!("principal == {}::\"{id}\"", kind.name()),
        };
        let actions: Vec<String> =
            self.actions.iter().map(|action| format!("Action::\"{}\"", action.name())).collect();
        let action = match actions.len() {
            0 => "action".to_owned(),
            _ => format!("action in [{}]", actions.join(", ")),
        };
        let resource = match &self.resource {
            What::Anything => "resource".to_owned(),
            What::Schema(name) => format!("resource in Schema::\"{name}\""),
            What::Tag(name) => format!("resource in Tag::\"{name}\""),
            What::Field(id) => format!("resource == Field::\"{id}\""),
        };
        let conditions: Vec<String> = self
            .conditions
            .iter()
            .map(|(when, condition)| {
                let word = if *when { "when" } else { "unless" };
                format!("{word} {{ {} }}", condition.cedar())
            })
            .collect();
        format!("{effect}({principal}, {action}, {resource}) {};", conditions.join(" "))
    }

    /// Whether it applies; `None`: evaluating it fails. Conditions are read from left to right, and
    /// the first that does not hold ends it.
    fn applies(&self, action: Action, question: &Question) -> Option<bool> {
        let field = fields().into_iter().find(|f| &*f.id == question.field).unwrap();
        let principal = match self.principal {
            Who::Anyone => true,
            Who::Role(role) => question.roles.contains(&role),
            Who::Kind(kind) => question.kind == kind,
            Who::Named(kind, id) => question.kind == kind && question.id == id,
        };
        let resource = match self.resource {
            What::Anything => true,
            What::Schema(name) => &*field.schema == name,
            What::Tag(name) => field.tags.iter().any(|tag| &**tag == name),
            What::Field(id) => question.field == id,
        };
        let asks = self.actions.is_empty() || self.actions.contains(&action);
        if !(principal && resource && asks) {
            return Some(false);
        }
        for (when, condition) in &self.conditions {
            if condition.holds(question)? != *when {
                return Some(false);
            }
        }
        Some(true)
    }
}

impl Condition {
    fn cedar(&self) -> String {
        match self {
            Self::Purpose(name) => format!("context.purpose == \"{name}\""),
            Self::HasReason => "context.has_reason".to_owned(),
            Self::Bare => "context.bare".to_owned(),
            Self::ItemsOver(n) => format!("context.items > {n}"),
            Self::SubjectsOver(n) => format!("context.subjects > {n}"),
            Self::InNetwork => "context.ip.isInRange(ip(\"10.0.0.0/8\"))".to_owned(),
            Self::Overflow => format!("context.items * {} > 0", i64::MAX),
        }
    }

    fn holds(&self, question: &Question) -> Option<bool> {
        Some(match self {
            Self::Purpose(name) => question.purpose == *name,
            Self::HasReason => question.has_reason(),
            Self::Bare => question.bare,
            Self::ItemsOver(n) => question.items > *n,
            Self::SubjectsOver(n) => question.subjects > *n,
            Self::InNetwork => question.ip[0] == 10,
            Self::Overflow if question.items > 1 => return None,
            Self::Overflow => question.items > 0,
        })
    }
}

impl Question {
    fn has_reason(&self) -> bool {
        match self.reason {
            None => false,
            Some(reason) => self.purpose != "support" || reason == "ticket 1",
        }
    }

    fn principal(&self) -> Principal {
        let roles = self.roles.iter().map(|role| (*role).to_owned()).collect();
        Principal { kind: self.kind, id: self.id.to_owned(), roles }
    }

    fn facts(&self) -> RequestFacts {
        RequestFacts {
            purpose: self.purpose.to_owned(),
            reason: self.reason.map(str::to_owned),
            ip: IpAddr::from(self.ip),
            auth: Credential::Key,
            items: self.items,
            bare: self.bare,
            subjects: self.subjects,
        }
    }

    fn case(&self, action: Action, want: &str, expect: &str) -> Value {
        let kind = if self.kind == PrincipalKind::User { "user" } else { "service" };
        json!({ "cases": [{
            "name": "one",
            "principal": { kind: self.id, "roles": self.roles },
            "action": action.name(), "field": self.field, "want": want,
            "context": {
                "purpose": self.purpose, "reason": self.reason, "ip": IpAddr::from(self.ip),
                "auth": "key", "items": self.items, "bare": self.bare, "subjects": self.subjects,
            },
            "expect": expect,
        }]})
    }
}

fn said(rules: &[Rule], action: Action, question: &Question) -> Said {
    let applied: Vec<(bool, Option<bool>)> =
        rules.iter().map(|rule| (rule.forbids, rule.applies(action, question))).collect();
    let any = |wanted: (bool, Option<bool>)| applied.contains(&wanted);
    if applied.iter().any(|(_, applies)| applies.is_none()) {
        Said::Error
    } else if any((true, Some(true))) {
        Said::Forbid
    } else if any((false, Some(true))) {
        Said::Permit
    } else {
        Said::Nothing
    }
}

/// The order of the design, written down a second time.
fn expected(rules: &[Rule], want: Want, question: &Question) -> &'static str {
    let (mask, reveal) =
        (said(rules, Action::Mask, question), said(rules, Action::Reveal, question));
    let has_mask = question.field != "customers.email";
    let masked = if has_mask { "masked" } else { "denied" };
    let has_no_reason = question.purpose == "fraud" && !question.has_reason();
    if has_no_reason || mask == Said::Error || reveal == Said::Error || mask == Said::Forbid {
        "denied"
    } else if reveal == Said::Permit {
        if want == Want::Mask { masked } else { "revealed" }
    } else if mask == Said::Permit {
        if want == Want::Reveal { "denied" } else { masked }
    } else {
        "denied"
    }
}

fn rule() -> impl Strategy<Value = Rule> {
    let kind = || prop::sample::select(vec![PrincipalKind::User, PrincipalKind::Service]);
    let who = prop_oneof![
        Just(Who::Anyone),
        prop::sample::select(&ROLES[..]).prop_map(Who::Role),
        kind().prop_map(Who::Kind),
        (kind(), prop::sample::select(&["ana", "bob"][..])).prop_map(|(k, id)| Who::Named(k, id)),
    ];
    let what = prop_oneof![
        Just(What::Anything),
        prop::sample::select(&["customers", "orders"][..]).prop_map(What::Schema),
        prop::sample::select(&["contact", "secret"][..]).prop_map(What::Tag),
        prop::sample::select(&FIELDS[..]).prop_map(What::Field),
    ];
    let condition = prop_oneof![
        3 => prop::sample::select(&PURPOSES[..]).prop_map(Condition::Purpose),
        2 => Just(Condition::HasReason),
        1 => Just(Condition::Bare),
        1 => (0..3_u64).prop_map(Condition::ItemsOver),
        1 => (0..3_u64).prop_map(Condition::SubjectsOver),
        1 => Just(Condition::InNetwork),
        1 => Just(Condition::Overflow),
    ];
    (
        prop::bool::weighted(0.3),
        who,
        prop::sample::subsequence(Action::ALL.to_vec(), 0..3),
        what,
        prop::collection::vec((any::<bool>(), condition), 0..3),
    )
        .prop_map(|(forbids, principal, actions, resource, conditions)| Rule {
            forbids,
            principal,
            actions,
            resource,
            conditions,
        })
}

fn question() -> impl Strategy<Value = Question> {
    let who = (
        prop::sample::select(vec![PrincipalKind::User, PrincipalKind::Service]),
        prop::sample::select(&["ana", "bob"][..]),
        prop::sample::subsequence(ROLES.to_vec(), 0..=2),
    );
    let request = (
        prop::sample::select(&PURPOSES[..]),
        prop::sample::select(vec![None, Some("ticket 1"), Some("because")]),
        prop::sample::select(vec![[10, 9, 8, 7], [192, 168, 0, 1]]),
        0..4_u64,
        0..4_u64,
        any::<bool>(),
        prop::sample::select(&FIELDS[..]),
    );
    (who, request).prop_map(
        |((kind, id, roles), (purpose, reason, ip, items, subjects, bare, field))| Question {
            kind,
            id,
            roles,
            purpose,
            reason,
            ip,
            items,
            subjects,
            bare,
            field,
        },
    )
}

/// The answer of `policy test` to one case.
fn tested(set: &PolicySet, case: &Value) -> (&'static str, bool) {
    let cases = PolicyCases::parse(case.to_string().as_bytes()).unwrap();
    let results = cases.cases[0].run(set).unwrap();
    assert_eq!(results.len(), 1);
    (results[0].outcome.answer, results[0].holds())
}

/// How often each answer came: a property that only ever sees "denied" shows nothing.
static SEEN: std::sync::Mutex<std::collections::BTreeMap<&'static str, usize>> =
    std::sync::Mutex::new(std::collections::BTreeMap::new());

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    fn agrees(
        rules in prop::collection::vec(rule(), 1..7),
        questions in prop::collection::vec(question(), 1..6),
    ) {
        let text: Vec<String> = rules.iter().map(Rule::cedar).collect();
        let text = text.join("\n");
        // Two opposite conditions can never hold together, which is a fault of its own.
        let Ok(set) = load(&text) else {
            prop_assert!(load(&text).unwrap_err().iter().all(|f| f.message.contains("impossible")));
            return Ok(());
        };
        for question in &questions {
            let wants = [(Want::Auto, "auto"), (Want::Reveal, "reveal"), (Want::Mask, "mask")];
            for (want, word) in wants {
                let model = expected(&rules, want, question);
                *SEEN.lock().unwrap().entry(model).or_default() += 1;
                let mut request = set.request(&question.principal(), None, &question.facts(), want);
                let decision = request.decide(question.field);
                prop_assert_eq!(decision.answer.name(), model, "{:?} {:?}\n{}", want, question, text);
                let failed = [Action::Mask, Action::Reveal]
                    .iter()
                    .any(|action| said(&rules, *action, question) == Said::Error);
                let refused = matches!(
                    decision.denial,
                    Some(Denial::NoReason | Denial::UnknownPurpose)
                );
                prop_assert_eq!(!decision.failed.is_empty(), failed && !refused, "\n{}", text);
                let case = question.case(Action::Reveal, word, model);
                prop_assert_eq!(tested(&set, &case), (model, true), "{}\n{}", case, text);
            }
            for action in [Action::Search, Action::Explain, Action::AuditRead, Action::PolicyRead] {
                let permitted = said(&rules, action, question) == Said::Permit
                    && (question.purpose != "fraud" || question.has_reason());
                let model = if permitted { "permitted" } else { "denied" };
                *SEEN.lock().unwrap().entry(model).or_default() += 1;
                let wrong = if permitted { "denied" } else { "permitted" };
                let facts = question.facts();
                let mut request = set.request(&question.principal(), None, &facts, Want::Auto);
                let permission = request.permits(action, question.field);
                prop_assert_eq!(permission.is_permitted(), permitted, "{:?}\n{}", question, text);
                let case = question.case(action, "auto", wrong);
                prop_assert_eq!(tested(&set, &case), (model, false), "{}\n{}", case, text);
            }
        }
    }
}

#[test]
fn decisions_are_those_of_the_model_and_of_policy_test() {
    agrees();
    let seen = SEEN.lock().unwrap();
    for answer in ["revealed", "masked", "permitted", "denied"] {
        assert!(seen.get(answer).is_some_and(|count| *count > 100), "{seen:?}");
    }
}
