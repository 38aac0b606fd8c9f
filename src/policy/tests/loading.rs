//! What is a fault, and what stays in force when there is one.

use std::path::Path;

use veilstream_engine::compile::{Grants, compile};

use super::*;
use crate::config::Policy;

/// The faults of a text, as lines without the file.
fn faults(text: &str) -> Vec<String> {
    let faults = load(text).err().unwrap_or_default();
    faults.iter().map(|f| f.to_string().replace("policies/all.cedar:", "")).collect()
}

#[test]
fn a_name_that_does_not_exist_is_a_fault_with_its_line_and_a_remedy() {
    let text = r#"// Tag::"secrt" in a comment is nothing.
permit(principal, action == Action::"reveal", resource in Schema::"customer");

forbid(
  principal,
  action,
  resource in Tag::"secrt"
) unless {
  resource == Field::"customers.phnoe" ||
  context.purpose == "suport" ||
  ["export", "fruad"].contains(context.purpose) ||
  context.purpose like "exp*ts" ||
  context.auth == "mlts"
};
"#;
    assert_eq!(
        faults(text),
        [
            r#"2: names the schema "customer", which is no schema document; did you mean "customers"?"#,
            r#"4: has a pattern that no purpose matches; there are export, fraud, support"#,
            r#"7: names the tag "secrt", which no field has; did you mean "secret"?"#,
            r#"9: names the field "customers.phnoe", which no schema document has; did you mean "customers.phone"?"#,
            r#"10: names the purpose "suport", which does not exist; did you mean "support"?"#,
            r#"11: names the purpose "fruad", which does not exist; did you mean "fraud"?"#,
            r#"13: names the kind of credential "mlts", which does not exist; did you mean "mtls"?"#,
        ]
    );
}

#[test]
fn purposes_are_found_wherever_they_are_compared() {
    for condition in [
        r#""nope" != context.purpose"#,
        r#"context["purpose"] == "nope""#,
        r#"["nope"].containsAny([context.purpose])"#,
        r#"(if context.bare then context.purpose else "nope") == "support""#,
        r#"(context.auth == "jwt" && context.purpose == "nope") == true"#,
        r#"{a: context.purpose}.a == "nope""#,
        r#"context.purpose like "nope*""#,
    ] {
        let found = faults(&format!("permit(principal, action, resource) when {{ {condition} }};"));
        assert!(found.iter().any(|f| f.contains("purpose")), "{condition}: {found:?}");
    }
    for condition in [
        r#"["support", "export"].contains(context.purpose) && context.auth == "key""#,
        r#"(context.auth == "mtls" && context.purpose == "support") == true"#,
        r#"context.purpose like "*port""#,
        r#"context has on_behalf_of && context.on_behalf_of like "jwt:corp:*""#,
        r#"context.ip.isInRange(ip("10.0.0.0/8")) && context.items < 100"#,
    ] {
        let found = faults(&format!("permit(principal, action, resource) when {{ {condition} }};"));
        assert_eq!(found, Vec::<String>::new(), "{condition}");
    }
}

#[test]
fn what_cedar_refuses_is_a_fault_at_its_place() {
    let of = |text: &str| faults(text).join("\n");
    let syntax = of("permit(principal, action, resource);\npermit(principal action);");
    assert!(syntax.starts_with("2: is not Cedar"), "{syntax}");
    let action = of("\npermit(principal, action == Action::\"revel\", resource);");
    assert!(action.starts_with("2: ") && action.contains("revel"), "{action}");
    let attribute =
        of("permit(principal, action, resource)\nwhen { context.purpse == \"support\" };");
    assert!(attribute.starts_with("2: ") && attribute.contains("purpse"), "{attribute}");
    let kind = of("permit(principal, action, resource in Group::\"x\");");
    assert!(kind.contains("Group"), "{kind}");
    let types = of("permit(principal, action, resource) when { context.items == \"many\" };");
    assert!(!types.is_empty(), "{types}");
    let impossible =
        of("forbid(principal, action, resource) when { context.bare && !context.bare && false };");
    assert!(impossible.contains("impossible"), "{impossible}");
    let template = of("permit(principal == ?principal, action, resource);");
    assert!(template.contains("template"), "{template}");
    let optional =
        of("permit(principal, action, resource) when { context.on_behalf_of == \"x\" };");
    assert!(optional.contains("on_behalf_of"), "may be absent: {optional}");
    let whole = of("permit(principal, action, resource) when { [context].contains(context) };");
    assert!(whole.contains("whole context"), "{whole}");
    let twice = of(
        "@id(\"a\") permit(principal, action, resource);\n@id(\"a\") forbid(principal, action, resource);",
    );
    assert!(twice.starts_with("2: has the id \"a\""), "{twice}");
    let odd = of("@id(\"a\\nb\") permit(principal, action, resource);");
    assert!(odd.contains("is no id"), "{odd}");
}

#[test]
fn policies_are_named_by_their_id_or_their_place() {
    let set = set(&format!("{PERMIT_ALL}\n// between\n{PERMIT_ALL}\n@id(\"last\")\n{FAILING_NOT}"));
    let places: Vec<_> =
        set.policies().iter().map(|p| (p.id.to_string(), p.line, p.forbids)).collect();
    let place = |id: &str, line, forbids| (id.to_owned(), line, forbids);
    assert_eq!(
        places,
        [place("all#1", 1, false), place("all#2", 3, false), place("last", 4, true)]
    );
    assert_eq!(decide(&set, Want::Auto, "customers.phone").policies.len(), 2);
}

const FAILING_NOT: &str = "forbid(principal in Role::\"nobody\", action, resource);";

#[test]
fn roles_that_no_policy_names_are_dropped() {
    let set = set(&format!("{PERMIT_MASK}{FAILING_NOT}"));
    assert_eq!(set.roles().iter().collect::<Vec<_>>(), ["agent", "nobody"]);
}

const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"fields":[{"id":"email","path":"$.email","tags":["contact"]}]}"#;

fn schemas(document: &str) -> Arc<SchemaSet> {
    let schema = compile(document.as_bytes(), &Grants::local()).unwrap().schema;
    Arc::new(SchemaSet::new(vec![Arc::new(schema)]).unwrap())
}

fn configured(dir: &Path) -> Policy {
    Policy { dir: dir.to_owned(), purposes: purposes(), budgets: Vec::new() }
}

fn answer(set: &PolicySet) -> &'static str {
    decide(set, Want::Auto, "people.email").answer.name()
}

#[test]
fn a_bad_set_keeps_the_last_good_one_and_is_told_once() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.cedar", "permit(principal, action, resource in Tag::\"contact\");");
    write(".hidden.cedar", "not Cedar");
    write("notes.txt", "not Cedar");
    let people = schemas(DOCUMENT);
    let live = LivePolicies::open(&configured(dir.path()), people.clone()).unwrap();
    let first = live.current().hash().clone();
    assert_eq!(answer(&live.current()), "revealed");
    assert!(matches!(live.reload(&people), PolicyChange::None));

    write("b.cedar", "forbid(principal, action, resource in Tag::\"contcat\");");
    let PolicyChange::Refused(faults) = live.reload(&people) else { panic!("accepted") };
    assert!(faults[0].to_string().ends_with("did you mean \"contact\"?"), "{}", faults[0]);
    assert!(matches!(live.reload(&people), PolicyChange::None), "told once");
    assert_eq!((live.refused(), live.current().hash()), (faults, &first), "and seen for long");
    assert_eq!(answer(&live.current()), "revealed");

    write("b.cedar", "forbid(principal, action, resource in Tag::\"contact\");");
    assert!(matches!(live.reload(&people), PolicyChange::Loaded(_)));
    assert_eq!((live.refused(), answer(&live.current())), (Vec::new(), "denied"));

    // A request goes on under the snapshot that it began with.
    let held = live.current();
    std::fs::remove_file(dir.path().join("b.cedar")).unwrap();
    assert!(matches!(live.reload(&people), PolicyChange::Loaded(_)));
    assert_eq!((answer(&held), answer(&live.current())), ("denied", "revealed"));

    std::fs::remove_file(dir.path().join("a.cedar")).unwrap();
    let PolicyChange::Refused(faults) = live.reload(&people) else { panic!("accepted") };
    assert!(faults[0].to_string().contains("holds no policy"), "{}", faults[0]);
    assert_eq!(live.current().hash(), &first);
}

/// Policies and schemas are one snapshot: a tag that goes would leave a `forbid` without effect.
#[test]
fn schemas_that_no_longer_fit_are_refused_with_the_policies() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(
        dir.path().join("a.cedar"),
        "permit(principal, action, resource in Tag::\"contact\");",
    )
    .unwrap();
    let live = LivePolicies::open(&configured(dir.path()), schemas(DOCUMENT)).unwrap();
    let (first, old) = (live.current().hash().clone(), live.current().schemas().clone());
    let untagged = schemas(&DOCUMENT.replace(r#","tags":["contact"]"#, ""));
    assert!(matches!(live.reload(&untagged), PolicyChange::Refused(_)));
    assert!(Arc::ptr_eq(live.current().schemas(), &old));
    let more = schemas(&DOCUMENT.replace("[\"contact\"]", "[\"contact\",\"mail\"]"));
    assert!(matches!(live.reload(&more), PolicyChange::Loaded(_)));
    assert!(Arc::ptr_eq(live.current().schemas(), &more));
    assert_ne!(live.current().hash(), &first);
}

/// A Fernet token knows no field: one planted in another field of the same keys would open there.
#[test]
fn fields_of_one_keys_file_are_decided_as_one() {
    let document = |own: &str| {
        format!(
            r#"{{"veilstream":1,"name":"p","version":1,"fields":[
            {{"id":"email","path":"$.email","type":"string","format":"fernet","mask":{{"keep_last":4}}}},
            {{"id":"ssn","path":"$.ssn","type":"string","format":"fernet","tags":["secret"]{own}}},
            {{"id":"note","path":"$.note","type":"string","format":"pgcrypto"}},
            {{"id":"name","path":"$.name"}}]}}"#
        )
    };
    let text = "permit(principal, action, resource);
        forbid(principal, action == Action::\"reveal\", resource in Tag::\"secret\");";
    let answers = |document: &str| {
        let file = PolicyFile { path: "a.cedar".into(), text: text.to_owned() };
        let set = PolicySet::load(&[file], schemas(document), &purposes()).unwrap();
        ["p.email", "p.ssn", "p.note", "p.name"]
            .map(|field| decide(&set, Want::Auto, field).answer.name())
    };
    // The least answer: `ssn` may only be masked, and has no mask.
    assert_eq!(answers(&document("")), ["denied", "denied", "revealed", "revealed"]);
    let own = document(r#","keys_file":"secret.keys""#);
    assert_eq!(answers(&own), ["revealed", "denied", "revealed", "revealed"]);
}

#[test]
fn at_start_a_bad_set_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = || LivePolicies::open(&configured(dir.path()), schemas(DOCUMENT)).unwrap_err();
    assert!(open()[0].to_string().contains("holds no policy"));
    std::fs::create_dir(dir.path().join("folder.cedar")).unwrap();
    assert!(open()[0].to_string().contains("cannot be read"));
    let absent = configured(Path::new("no/such/folder"));
    let faults = LivePolicies::open(&absent, schemas(DOCUMENT)).unwrap_err();
    assert!(faults[0].to_string().contains("name the folder of the policies"), "{}", faults[0]);
}

#[test]
fn the_cedar_schema_is_good_without_tags_too() {
    let bare = vec![field("a.b", &[], None)];
    let set = of(bare, "permit(principal, action, resource in Schema::\"a\");").unwrap();
    let ask = set.request(&user(&[]), None, &asking("export"), Want::Auto).decide("a.b");
    assert_eq!(ask.answer, Answer::Revealed);
    let faults =
        of(vec![field("a.b", &[], None)], "forbid(principal, action, resource in Tag::\"x\");");
    assert!(faults.unwrap_err()[0].message.ends_with("there is none"));
    let odd = field("a#header:x\n}y", &[], None);
    assert!(of(vec![odd], PERMIT_ALL).is_ok(), "a header's name is no syntax");
}
