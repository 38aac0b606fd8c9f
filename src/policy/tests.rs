mod loading;
mod oracle;
mod warnings;

use std::net::IpAddr;
use std::sync::Arc;

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::mask::ReadMask;

use super::*;
use crate::config::{Pattern, Purpose};

const LAST_FOUR: ReadMask = ReadMask { keep_first: 0, keep_last: 4 };

fn field(id: &str, tags: &[&str], mask: Option<ReadMask>) -> FieldFacts {
    let schema = id.split(['.', '#']).next().unwrap();
    FieldFacts {
        id: id.into(),
        schema: schema.into(),
        tags: tags.iter().map(|tag| Arc::from(*tag)).collect(),
        mask,
        name: id.into(),
        shares: id.into(),
        opens: true,
        tells_equality: false,
        index: None,
    }
}

/// Two schemas; `customers.card` and `orders.card` share a domain.
fn fields() -> Vec<FieldFacts> {
    let card = |id: &str, mask| FieldFacts {
        name: "@payment_card".into(),
        shares: "@payment_card".into(),
        tells_equality: true,
        ..field(id, &["payment"], mask)
    };
    vec![
        card("customers.card", Some(LAST_FOUR)),
        field("customers.email", &["contact"], None),
        field("customers.phone", &["contact"], Some(LAST_FOUR)),
        field("customers.ssn", &["contact", "secret"], Some(LAST_FOUR)),
        card("orders.card", Some(LAST_FOUR)),
        field("orders.note", &[], Some(LAST_FOUR)),
    ]
}

fn purposes() -> Vec<Purpose> {
    let purpose = |name: &str, reason_required, pattern: Option<&str>| Purpose {
        name: name.to_owned(),
        reason_required,
        pattern: pattern.map(|text| Pattern::new(text).unwrap()),
    };
    vec![
        purpose("support", false, Some("ticket [0-9]+")),
        purpose("fraud", true, None),
        purpose("export", false, None),
    ]
}

fn load(text: &str) -> Result<PolicySet, Vec<PolicyFault>> {
    of(fields(), text)
}

fn of(fields: Vec<FieldFacts>, text: &str) -> Result<PolicySet, Vec<PolicyFault>> {
    let file = PolicyFile { path: "policies/all.cedar".into(), text: text.to_owned() };
    PolicySet::of_facts(&[file], fields, Arc::new(SchemaSet::default()), &purposes())
}

fn set(text: &str) -> PolicySet {
    load(text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"))
}

fn user(roles: &[&str]) -> Principal {
    Principal {
        kind: PrincipalKind::User,
        id: "jwt:corp:ana".to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
    }
}

fn asking(purpose: &str) -> RequestFacts {
    RequestFacts {
        purpose: purpose.to_owned(),
        reason: None,
        ip: IpAddr::from([10, 1, 2, 3]),
        auth: Credential::Jwt,
        items: 1,
        bare: false,
        subjects: 1,
    }
}

fn decide(set: &PolicySet, want: Want, field: &str) -> Decision {
    set.request(&user(&["agent"]), None, &asking("support"), want).decide(field)
}

const PERMIT_ALL: &str = "permit(principal, action, resource);";
const PERMIT_MASK: &str =
    r#"permit(principal in Role::"agent", action == Action::"mask", resource);"#;
const PERMIT_REVEAL: &str =
    r#"permit(principal in Role::"agent", action == Action::"reveal", resource);"#;

#[test]
fn nobody_reads_by_default() {
    let set = set(r#"permit(principal in Role::"boss", action, resource);"#);
    let decision = decide(&set, Want::Auto, "customers.phone");
    assert_eq!((decision.answer, decision.denial), (Answer::Denied, Some(Denial::NotPermitted)));
    assert_eq!(decision.policies, []);
    assert_eq!(decide(&set, Want::Auto, "customers.shoe").denial, Some(Denial::UnknownField));
}

#[test]
fn the_order_is_mask_forbidden_revealed_masked_denied() {
    let forbid =
        |action: &str| format!("forbid(principal, action == Action::\"{action}\", resource);");
    let answers = |text: &str| {
        let set = set(text);
        [Want::Auto, Want::Reveal, Want::Mask]
            .map(|want| decide(&set, want, "customers.phone").answer.name())
    };
    assert_eq!(answers(PERMIT_MASK), ["masked", "denied", "masked"]);
    assert_eq!(answers(PERMIT_REVEAL), ["revealed", "revealed", "masked"]);
    assert_eq!(
        answers(&(PERMIT_ALL.to_owned() + &forbid("reveal"))),
        ["masked", "denied", "masked"]
    );
    assert_eq!(answers(&(PERMIT_ALL.to_owned() + &forbid("mask"))), ["denied"; 3]);
    assert_eq!(answers(&(PERMIT_REVEAL.to_owned() + &forbid("mask"))), ["denied"; 3]);
    assert_eq!(answers(&(PERMIT_REVEAL.to_owned() + &forbid("reveal"))), ["denied"; 3]);
}

#[test]
fn a_forbid_beats_every_permit() {
    let permits = "permit(principal, action, resource);\n".repeat(20);
    let forbid = "@id(\"secrets\") forbid(principal, action, resource in Tag::\"secret\");";
    let set = set(&format!("{permits}{forbid}"));
    assert_eq!(decide(&set, Want::Auto, "customers.email").answer, Answer::Revealed);
    let decision = decide(&set, Want::Auto, "customers.ssn");
    assert_eq!((decision.answer, decision.denial), (Answer::Denied, Some(Denial::Forbidden)));
    assert_eq!(decision.policies, [Arc::from("secrets")]);
    let mut request = set.request(&user(&[]), None, &asking("export"), Want::Auto);
    for action in Action::ALL {
        assert!(request.permits(action, "customers.email").is_permitted(), "{action:?}");
        assert_eq!(request.permits(action, "customers.ssn").denial, Some(Denial::Forbidden));
    }
}

/// An overflow: strict validation cannot know of it.
const FAILING: &str = "@id(\"limit\") forbid(principal, action == Action::\"mask\", resource) \
    when { context.items * 9223372036854775807 > 5 };";

#[test]
fn a_policy_that_fails_denies_and_is_told() {
    let set = set(&format!("{PERMIT_ALL}{FAILING}"));
    let mut facts = asking("support");
    let one = set.request(&user(&[]), None, &facts, Want::Auto).decide("customers.phone");
    assert!(!one.is_alarm());
    assert_eq!(one.denial, Some(Denial::Forbidden), "1 * 9223372036854775807 does not overflow");
    facts.items = 2;
    for want in [Want::Auto, Want::Reveal, Want::Mask] {
        let mut request = set.request(&user(&[]), None, &facts, want);
        let decision = request.decide("customers.phone");
        assert_eq!(decision.answer, Answer::Denied);
        assert_eq!(decision.denial, Some(Denial::PolicyError));
        assert_eq!(decision.failed, [Arc::from("limit")]);
        assert!(decision.is_alarm());
        let permission = request.permits(Action::Mask, "customers.phone");
        assert_eq!(permission.denial, Some(Denial::PolicyError));
        assert_eq!(permission.failed, [Arc::from("limit")]);
        // A policy about another action is not evaluated for this one.
        assert!(request.permits(Action::Search, "customers.phone").is_permitted());
    }
}

#[test]
fn a_field_without_a_mask_is_withheld_from_those_who_may_only_mask() {
    let set = set(PERMIT_MASK);
    assert_eq!(decide(&set, Want::Auto, "customers.email").denial, Some(Denial::NoMask));
    assert_eq!(decide(&set, Want::Reveal, "customers.phone").denial, Some(Denial::MaskNotWanted));
    let whole = self::set(PERMIT_REVEAL);
    assert_eq!(decide(&whole, Want::Mask, "customers.email").denial, Some(Denial::NoMask));
    assert_eq!(decide(&whole, Want::Auto, "customers.email").answer, Answer::Revealed);
}

/// A domain's token opens as each of its fields: none of them may show more than the least.
#[test]
fn fields_of_one_domain_are_decided_as_one() {
    let permit = |resource: &str| {
        format!(
            "permit(principal, action == Action::\"reveal\", resource in Schema::\"{resource}\");"
        )
    };
    let names = ["customers.card", "orders.card", "@payment_card"];
    let answers = |set: &PolicySet| names.map(|name| decide(set, Want::Auto, name).answer);
    assert_eq!(answers(&set(&permit("customers"))), [Answer::Denied; 3]);
    assert_eq!(answers(&set(&(permit("customers") + &permit("orders")))), [Answer::Revealed; 3]);
    let mixed = set(&(permit("customers") + PERMIT_MASK));
    assert_eq!(answers(&mixed), [Answer::Masked(LAST_FOUR); 3]);

    let mut others = fields();
    others[4].mask = Some(ReadMask { keep_first: 6, keep_last: 0 });
    let differ = of(others, PERMIT_MASK).unwrap();
    assert_eq!(answers(&differ), [Answer::Denied; 3]);
    assert_eq!(decide(&differ, Want::Auto, names[0]).denial, Some(Denial::MasksDiffer));

    let search = "permit(principal, action == Action::\"search\", resource in Schema::\"orders\");";
    let mut request_set = set(search);
    let search_of = |set: &PolicySet, field: &str| {
        set.request(&user(&[]), None, &asking("support"), Want::Auto)
            .permits(Action::Search, field)
            .is_permitted()
    };
    assert!(search_of(&request_set, "orders.note"));
    assert!(!search_of(&request_set, "orders.card"), "customers.card has the same values");
    request_set = set("permit(principal, action == Action::\"search\", resource);");
    assert!(search_of(&request_set, "orders.card"));
}

#[test]
fn sealing_what_tells_equality_needs_search() {
    let seal = "permit(principal, action == Action::\"seal\", resource);";
    let may = |text: &str, field: &str| {
        let set = set(text);
        set.request(&user(&[]), None, &asking("support"), Want::Auto)
            .permits(Action::Seal, field)
            .is_permitted()
    };
    assert!(may(seal, "customers.email"));
    assert!(!may(seal, "customers.card"));
    let search = "permit(principal, action == Action::\"search\", resource);";
    assert!(may(&format!("{seal}{search}"), "customers.card"));
}

#[test]
fn of_a_caller_and_the_person_it_asks_for_the_lesser_counts() {
    let set = set(&format!(
        "{PERMIT_REVEAL} permit(principal is Service, action == Action::\"mask\", resource) \
        when {{ context has on_behalf_of && context.auth == \"mtls+jwt\" }};"
    ));
    let service = Principal { kind: PrincipalKind::Service, id: "mtls:crm".into(), roles: vec![] };
    let facts = RequestFacts { auth: Credential::Mtls, ..asking("support") };
    let answer = |person: Option<&Principal>| {
        set.request(&service, person, &facts, Want::Auto).decide("customers.phone").answer
    };
    assert_eq!(answer(None), Answer::Denied, "nobody is proved");
    assert_eq!(answer(Some(&user(&["agent"]))), Answer::Masked(LAST_FOUR));
    assert_eq!(answer(Some(&user(&[]))), Answer::Denied);
    let agent = Principal { roles: vec!["agent".into()], ..service.clone() };
    let both = set.request(&agent, Some(&user(&["agent"])), &facts, Want::Auto);
    assert_eq!({ both }.decide("customers.phone").answer, Answer::Revealed);
}

#[test]
fn a_purpose_and_its_reason_are_a_closed_list() {
    let set = set(&format!(
        "{PERMIT_REVEAL} permit(principal, action == Action::\"mask\", resource) \
        when {{ context.has_reason }};"
    ));
    let ask = |roles: &[&str], purpose: &str, reason: Option<&str>| {
        let facts = RequestFacts { reason: reason.map(str::to_owned), ..asking(purpose) };
        let decision =
            set.request(&user(roles), None, &facts, Want::Auto).decide("customers.phone");
        (decision.answer.name(), decision.denial)
    };
    assert_eq!(ask(&["agent"], "marketing", Some("x")), ("denied", Some(Denial::UnknownPurpose)));
    assert_eq!(ask(&["agent"], "fraud", None), ("denied", Some(Denial::NoReason)));
    assert_eq!(ask(&["agent"], "fraud", Some(" \n")), ("denied", Some(Denial::NoReason)));
    assert_eq!(ask(&["agent"], "fraud", Some("case 7")), ("revealed", None));
    assert_eq!(ask(&[], "support", Some("ticket 12")), ("masked", None));
    for reason in [None, Some("because"), Some("ticket 12x"), Some("a ticket 12")] {
        assert_eq!(ask(&[], "support", reason).0, "denied", "{reason:?}");
    }
}

#[test]
fn a_whole_schema_is_only_asked_about_for_audit_and_policies() {
    let set =
        set(r#"permit(principal, action, resource) unless { resource in Schema::"orders" };"#);
    let mut request = set.request(&user(&[]), None, &asking("support"), Want::Auto);
    assert!(request.permits_on_schema(Action::AuditRead, "customers").is_permitted());
    assert!(!request.permits_on_schema(Action::AuditRead, "orders").is_permitted());
    assert!(!request.permits_on_schema(Action::PolicyRead, "shoes").is_permitted());
    assert!(!request.permits_on_schema(Action::Reveal, "customers").is_permitted());
}

/// Decided under one snapshot, once: what stands in the cache answers.
#[test]
fn each_question_is_evaluated_once() {
    let set = set(PERMIT_ALL);
    let mut request = set.request(&user(&[]), None, &asking("support"), Want::Auto);
    for _ in 0..1000 {
        request.decide("customers.phone");
        request.permits(Action::Search, "customers.phone");
        request.permits(Action::Mask, "customers.phone");
    }
    assert_eq!(request.evaluations(), 3, "mask, reveal, search");
}

/// A verdict is kept for requests of which policies see the same, and for no other.
#[test]
fn requests_alike_are_evaluated_once() {
    let set = set(PERMIT_ALL);
    let evaluations = |who: &Principal, person: Option<&Principal>, facts: &RequestFacts| {
        let mut request = set.request(who, person, facts, Want::Auto);
        assert_eq!(request.decide("customers.phone").answer, Answer::Revealed);
        request.evaluations()
    };
    let (ana, facts) = (user(&[]), asking("support"));
    assert_eq!(evaluations(&ana, None, &facts), 2);
    assert_eq!(evaluations(&ana, None, &facts), 0);
    let because = RequestFacts { reason: Some("no ticket".to_owned()), ..facts.clone() };
    assert_eq!(evaluations(&ana, None, &because), 0, "the words of a reason decide nothing");
    let bob = Principal { id: "jwt:corp:bob".to_owned(), ..user(&[]) };
    assert_eq!(evaluations(&bob, None, &facts), 2);
    assert_eq!(evaluations(&user(&["fraud"]), None, &facts), 2);
    assert_eq!(evaluations(&ana, Some(&bob), &facts), 4);
    for other in [
        asking("export"),
        RequestFacts { reason: Some("ticket 1".to_owned()), ..facts.clone() },
        RequestFacts { ip: IpAddr::from([10, 1, 2, 4]), ..facts.clone() },
        RequestFacts { auth: Credential::Key, ..facts.clone() },
        RequestFacts { items: 2, ..facts.clone() },
        RequestFacts { bare: true, ..facts.clone() },
        RequestFacts { subjects: 2, ..facts.clone() },
    ] {
        assert_eq!(evaluations(&ana, None, &other), 2, "{other:?}");
        assert_eq!(evaluations(&ana, None, &other), 0, "{other:?}");
    }
    assert_eq!(evaluations(&ana, None, &facts), 0);
}

#[test]
fn the_hash_is_of_all_that_decides_and_of_nothing_else() {
    let hash = |fields: Vec<FieldFacts>, path: &str, text: &str, purposes: &[Purpose]| {
        let file = PolicyFile { path: path.into(), text: text.to_owned() };
        let schemas = Arc::new(SchemaSet::default());
        PolicySet::of_facts(&[file], fields, schemas, purposes).unwrap().hash().to_string()
    };
    let same = hash(fields(), "a/all.cedar", PERMIT_ALL, &purposes());
    assert!(same.starts_with("sha256:") && same.len() == 71, "{same}");
    assert_eq!(hash(fields(), "b/all.cedar", PERMIT_ALL, &purposes()), same, "another host");
    let mut retagged = fields();
    retagged[5].tags.push("text".into());
    let mut unmasked = fields();
    unmasked[2].mask = None;
    let changed = [
        hash(fields(), "a/other.cedar", PERMIT_ALL, &purposes()),
        hash(fields(), "a/all.cedar", &format!("{PERMIT_ALL}\n"), &purposes()),
        hash(fields(), "a/all.cedar", PERMIT_ALL, &purposes()[..2]),
        hash(fields()[..5].to_vec(), "a/all.cedar", PERMIT_ALL, &purposes()),
        hash(retagged, "a/all.cedar", PERMIT_ALL, &purposes()),
        hash(unmasked, "a/all.cedar", PERMIT_ALL, &purposes()),
    ];
    let all: std::collections::BTreeSet<&String> = changed.iter().chain([&same]).collect();
    assert_eq!(all.len(), changed.len() + 1, "{changed:?}");
}
