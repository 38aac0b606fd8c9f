//! What `policy check` warns of.

use std::num::NonZeroU32;

use super::*;
use crate::config::{Budget, Limit, Policy};
use crate::policy::budget::BudgetLimits;

/// `customers.phone` and `customers.ssn`, which can be searched; of the latter the author knows how
/// many there are.
fn searchable(distinct: Option<u64>) -> Vec<FieldFacts> {
    let mut all = fields();
    let index = |id: &str, normalize: &str, distinct| {
        Some(IndexFacts { domain: id.into(), normalize: normalize.to_owned(), distinct })
    };
    all[2].index = index("customers.phone", "phone-us", None);
    all[3].index = index("customers.ssn", "digits", distinct);
    all
}

/// The warnings as text, with so many values a day for `support` and none without end.
fn warned(fields: Vec<FieldFacts>, values: Limit, text: &str) -> Vec<String> {
    let budget = Budget { purpose: Some("support".to_owned()), subjects: Limit::SUBJECTS, values };
    let policy = Policy { dir: "policies".into(), purposes: purposes(), budgets: vec![budget] };
    let limits = BudgetLimits::new(&policy, NonZeroU32::MIN);
    let found = warnings(&of(fields, text).unwrap(), &limits);
    found.iter().map(ToString::to_string).collect()
}

fn claimed(text: &str) -> usize {
    let found = warned(fields(), Limit::VALUES, text);
    found.iter().filter(|warning| warning.contains("name a role")).count()
}

#[test]
fn a_permit_that_rests_on_claims_is_told() {
    let when =
        |condition: &str| format!("permit(principal, action, resource) when {{ {condition} }};");
    for text in [
        PERMIT_ALL.to_owned(),
        "permit(principal is Service, action, resource);".to_owned(),
        when(r#"context.purpose == "support""#),
        when(r#"context.purpose == "support" && context.has_reason && context.items < 9"#),
        when(r#"principal is User && context.purpose == "support""#),
    ] {
        assert_eq!(claimed(&text), 1, "{text}");
    }
    for text in [
        PERMIT_MASK.to_owned(),
        r#"permit(principal == Service::"key:crm", action, resource);"#.to_owned(),
        when(r#"context.purpose == "support" && principal in Role::"agent""#),
        when(r#"context.auth == "mtls""#),
        when(r#"context.ip.isInRange(ip("10.0.0.0/8"))"#),
        when("context has on_behalf_of"),
        "forbid(principal, action, resource);".to_owned(),
    ] {
        assert_eq!(claimed(&text), 0, "{text}");
    }
    let file = warned(fields(), Limit::VALUES, &format!("\n{}", when("context.bare")));
    assert_eq!(
        file,
        [
            r#"policies/all.cedar:2: all#1 permits every principal; name a role: principal in Role::"...""#
        ]
    );
}

const MASK_AND_SEARCH: &str = r#"permit(
    principal in Role::"agent",
    action in [Action::"mask", Action::"search"],
    resource in Tag::"contact"
) when { context.purpose == "support" };"#;

#[test]
fn who_may_mask_and_search_may_learn_the_value() {
    let of = |values, distinct| warned(searchable(distinct), values, MASK_AND_SEARCH);
    // Six digits of a telephone number are hidden.
    let phone = |budget: &str| {
        format!(
            "role agent may mask and search customers.phone for support: the mask leaves at most \
            1000000 values, and {budget} may be searched in 24 hours; lower the budget, or forbid one"
        )
    };
    let ssn = "role agent may mask and search customers.ssn for support: how many values the mask \
        leaves is not known (say it: index.distinct), and 100 may be searched in 24 hours; lower \
        the budget, or forbid one";
    assert_eq!(of(Limit::Count(100), None), [ssn]);
    assert_eq!(of(Limit::Count(100), Some(100)), Vec::<String>::new());
    assert!(of(Limit::Count(101), Some(100))[0].contains("at most 100 values, and 101 may"));
    assert_eq!(of(Limit::Count(1_000_001), Some(u64::MAX)), [phone("1000001")]);
    assert_eq!(of(Limit::Unlimited, None)[0], phone("unlimited"));
}

#[test]
fn whoever_may_do_both_is_found() {
    let found = |text: &str| -> Vec<String> {
        warned(searchable(Some(1)), Limit::Count(2), text)
            .iter()
            .filter_map(|w| {
                Some(w.split_once(" may mask and search customers.ssn for ")?.0.to_owned())
            })
            .collect()
    };
    let permit = |who: &str, action: &str, when: &str| {
        format!("permit({who}, action == Action::\"{action}\", resource){when};\n")
    };
    let role = |name: &str| format!("principal in Role::\"{name}\"");
    let two = permit(&role("agent"), "mask", "") + &permit(&role("clerk"), "search", "");
    // For each of the three purposes.
    assert_eq!(found(&two), vec!["role agent with role clerk"; 3]);
    let named = permit("principal == Service::\"key:crm\"", "mask", "")
        + &permit("principal", "search", " when { context.auth == \"key\" }");
    assert_eq!(found(&named), vec!["Service::\"key:crm\""; 3]);
    let everyone = permit("principal", "mask", "") + &permit("principal", "search", "");
    assert_eq!(found(&everyone), vec!["every principal"; 3]);
    let within = " when { context.ip.isInRange(ip(\"10.0.0.0/8\")) && context.has_reason }";
    let network =
        permit(&role("agent"), "mask", within) + &permit(&role("agent"), "search", within);
    assert_eq!(found(&network), vec!["role agent"; 3]);
    let forbidden =
        two + "forbid(principal in Role::\"agent\", action == Action::\"search\", resource);";
    assert_eq!(found(&forbidden), Vec::<String>::new());
    let whole = PERMIT_REVEAL.to_owned() + &permit(&role("agent"), "search", "");
    assert_eq!(found(&whole), Vec::<String>::new(), "who sees all of it need not guess");
}
