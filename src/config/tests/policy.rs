//! `[policy]`.

use super::*;

#[test]
fn policies_have_purposes_and_budgets() {
    let text = r#"
        [policy]
        dir = "who"
        [[policy.purposes]]
        name = "support"
        reason_required = false
        pattern = "ticket [0-9]+|none"
        [[policy.purposes]]
        name = "fraud"
        [[policy.budgets]]
        purpose = "fraud"
        subjects = 20
        values = "unlimited"
        [[policy.budgets]]
        subjects = "unlimited"
    "#;
    let policy = good(text, &[]).policy;
    assert_eq!(policy.dir, std::path::Path::new("conf/who"));
    let [support, fraud] = &policy.purposes[..] else { panic!("{policy:?}") };
    assert!(!support.reason_required && fraud.reason_required, "a reason is asked for by default");
    let matches = |text: &str| support.pattern.as_ref().unwrap().matches(text);
    assert!(matches("ticket 12") && matches("none"));
    assert!(!matches("a ticket 12") && !matches("ticket 12\n") && !matches("ticket 1 none"));
    let (count, unlimited) = (Limit::Count, Limit::Unlimited);
    let budget = |purpose: Option<&str>, subjects, values| Budget {
        purpose: purpose.map(str::to_owned),
        subjects,
        values,
    };
    assert_eq!(
        policy.budgets,
        [budget(Some("fraud"), count(20), unlimited), budget(None, unlimited, count(100))]
    );
    assert_eq!(good("", &[]).policy.purposes, [], "nothing may be read by default");
}

#[test]
fn faults_of_policies_are_told_with_their_table() {
    let text = r#"
        [[policy.purposes]]
        name = "Support"
        [[policy.purposes]]
        pattern = "(("
        [[policy.purposes]]
        name = "fraud"
        reason = "required"
        pattern = "a)|(b"
        [[policy.purposes]]
        name = "fraud"
        [[policy.budgets]]
        purpose = "fruad"
        subjects = -1
        values = "none"
        [[policy.budgets]]
        purpose = "fraud"
        [[policy.budgets]]
        purpose = "fraud"
        [guide]
        purpose = "fruad"
    "#;
    let expected = r#"
conf/veilstream.toml: guide.purpose: is "fruad", which is no purpose; add it to policy.purposes
conf/veilstream.toml: policy.budgets: has two for "fraud"; keep one of them
conf/veilstream.toml: policy.budgets: names "fruad", which is no purpose; add it to purposes
conf/veilstream.toml: policy.budgets.1.subjects: "-1" is no limit; write a number up to 10000000, or "unlimited"
conf/veilstream.toml: policy.budgets.1.values: "none" is no limit; write a number up to 10000000, or "unlimited"
conf/veilstream.toml: policy.purposes: has "fraud" twice; keep one of them
conf/veilstream.toml: policy.purposes.1.name: "Support" is no name; write up to 64 of a-z, 0-9, _ and -, a letter first
conf/veilstream.toml: policy.purposes.2.name: is missing; write name = "support"
conf/veilstream.toml: policy.purposes.2.pattern: "((" is no regular expression; write one such as "TICKET-[0-9]+"
conf/veilstream.toml: policy.purposes.3.pattern: "a)|(b" is no regular expression; write one such as "TICKET-[0-9]+"
conf/veilstream.toml: policy.purposes.3.reason: is unknown; did you mean reason_required?
"#;
    assert_eq!(faults(text, &[]).join("\n"), expected.trim());
    let from_environment = [("VEILSTREAM__POLICY__PURPOSES", "support")];
    let [fault] = &faults("", &from_environment)[..] else { panic!("one fault") };
    assert!(
        fault.ends_with("is no list of tables; write each one below a line [[policy.purposes]]")
    );
}
