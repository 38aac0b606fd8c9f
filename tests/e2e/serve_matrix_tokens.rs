//! Tokens in the wrong place, replays, honey, and policies that change while the service runs.

use reqwest::blocking::Client;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::instance::{Instance, SUPPORT, ServeProcess, Setup, fed, veilstream};
use crate::testing::until;

const READER: &str = r#"
@id("reads") permit(principal in Role::"reader", action in [Action::"reveal", Action::"search"],
  resource in Schema::"customers");
@id("searches") permit(principal in Role::"reader", action == Action::"search",
  resource == Field::"orders.buyer_name");
"#;

struct Desk {
    instance: Instance,
    running: ServeProcess,
    client: Client,
    key: String,
}

impl Desk {
    fn new(cedar: &str) -> Self {
        let policy = format!(
            "{SUPPORT}[[policy.purposes]]\nname = \"other\"\nreason_required = \
            false\n[[policy.budgets]]\nsubjects = \"unlimited\"\nvalues = \"unlimited\"\n"
        );
        let schemas = &["customers", "orders"];
        let instance = Instance::of(&Setup { policy: &policy, cedar, schemas, ..Setup::default() });
        let (_, key) = instance.make_key_of("desk", "reader");
        let running = instance.start();
        Self { instance, running, client: Client::new(), key }
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.running.post(&self.client, &self.key, path, body);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    /// Statuses of items, each of one field.
    fn read(&self, items: &Value) -> Vec<String> {
        let answer = self.post("/v1/reveal", &json!({ "purpose": "support", "items": items }));
        let items = answer["items"].as_array().unwrap();
        items.iter().map(|item| item["status"].as_str().unwrap().to_owned()).collect()
    }

    /// A customer's record as a pipeline writes it.
    fn customer(&self, id: u64) -> Value {
        let record = json!({ "type": "customer.updated",
            "customer": { "id": id, "email": format!("c{id}@example.com"), "ssn": "078-05-1120" },
            "payments": [{ "card": "4111111111111111" }] });
        self.instance.seal("customers", &record.to_string()).remove(0)
    }

    /// Policies are read again, and judged.
    fn put(&self, cedar: &str, is_good: bool) -> Value {
        let before = self.running.report()["policies"].clone();
        self.instance.write("policies/all.cedar", cedar);
        self.running.signal(Signal::HUP);
        until("the new policies are judged", || {
            let now = self.running.report()["policies"].clone();
            now != before && now.get("refused").is_none() == is_good
        });
        self.running.report()["policies"].clone()
    }
}

#[test]
fn tokens_open_in_their_own_place_alone() {
    let desk = Desk::new(READER);
    let own = desk.customer(17);
    let token = &own["customer"]["email"];
    let (ssn, card) = (&own["customer"]["ssn"], &own["payments"][0]["card"]);
    let item = |field: &str, token: &Value, rest: Value| {
        let mut item = json!({ "field": field, "token": token });
        item.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
        item
    };
    let told = desk.read(&json!([
        item("customers.email", token, json!({ "subject": 17 })),
        item("customers.email", token, json!({ "subject": "17" })),
        // Another's row, or nobody's word for whose it is.
        item("customers.email", token, json!({ "subject": 18 })),
        item("customers.email", token, json!({})),
        // Another field's token, of the same person and schema.
        item("customers.address", token, json!({ "subject": 17 })),
        item("customers.ssn", token, json!({ "subject": 17, "bind": { "customer": 17 } })),
        // Bound, and bound to another, and without what it is bound to.
        item("customers.ssn", ssn, json!({ "subject": 17, "bind": { "customer": 17 } })),
        item("customers.ssn", ssn, json!({ "subject": 17, "bind": { "customer": 18 } })),
        item("customers.ssn", ssn, json!({ "subject": 17 })),
        // One domain's token through each of its fields: orders may not be read.
        item("customers.card", card, json!({})),
        item("orders.card", card, json!({})),
        item("@payment_card", card, json!({})),
        // Dead letters are no field of a schema.
        item("dead_letter.value", token, json!({})),
    ]));
    assert_eq!(
        told,
        [
            "revealed", "revealed", "corrupt", "revealed", "corrupt", "corrupt", "revealed",
            "corrupt", "corrupt", "denied", "denied", "denied", "denied"
        ]
    );
    // In a record: whose row it is, the record says.
    let mut other = desk.customer(18);
    other["customer"]["email"] = token.clone();
    let body = json!({ "purpose": "support", "items": [
        { "schema": "customers", "fields": ["email"], "record": other },
        { "schema": "orders", "fields": ["buyer_email"], "record": { "buyer": { "id": 17, "email": token } } },
    ] });
    let answer = desk.post("/v1/reveal", &body);
    assert_eq!(answer["items"][0]["fields"]["email"]["status"], "corrupt", "{answer}");
    assert_eq!(answer["items"][1]["fields"]["buyer_email"]["status"], "denied", "{answer}");
    assert!(!answer.to_string().contains("c17@"), "{answer}");
    // Where no field is, a token stays and is named, to those who are shown the record.
    let mut moved = own.clone();
    moved["notes by"] = json!([1, token]);
    let whole = json!({ "schema": "customers", "fields": ["email"], "record": moved });
    let read = |purpose: &str| {
        let body = json!({ "purpose": purpose, "items": [whole] });
        desk.post("/v1/reveal", &body)["items"][0].clone()
    };
    let answer = read("support");
    assert_eq!(answer["record"]["notes by"], json!([1, token]));
    let place = json!({ "path": "$['notes by'][1]", "status": "unexpected_token" });
    assert_eq!(answer["places"], json!([place]), "{answer}");
    let answer = read("nobody's");
    assert_eq!((&answer["record"], answer.get("places")), (&Value::Null, None), "{answer}");
    // With `context.bare` forbidden, the token without an owner is nobody's.
    desk.put(
        &format!("{READER} forbid(principal, action, resource) when {{ context.bare }};"),
        true,
    );
    let told = desk.read(&json!([item("customers.email", token, json!({}))]));
    assert_eq!(told, ["denied"]);
    // A compound index reads fields that may not be searched.
    let body = json!({ "purpose": "support", "queries": [
        { "field": "orders.buyer_name", "values": ["Ada", "90210"] },
        { "field": "customers.email", "value": "c17@example.com" },
    ] });
    let answer = desk.post("/v1/index", &body);
    assert_eq!(answer["queries"][0], json!({ "status": "denied", "values": [] }));
    assert_eq!(answer["queries"][1]["values"][0], own["customer"]["email_bidx"]);
}

#[test]
fn a_request_id_is_one_disclosure_under_the_newest_policies() {
    let desk = Desk::new(READER);
    let record = desk.customer(17);
    let items = json!([{ "schema": "customers", "fields": ["email"], "record": record }]);
    let body = |purpose: &str| json!({ "purpose": purpose, "request_id": "r-1", "items": items });
    let status = |answer: &Value| answer["items"][0]["fields"]["email"]["status"].clone();
    let first = desk.post("/v1/reveal", &body("support"));
    assert_eq!(status(&first), "revealed");
    let post = |path: &str, body: &Value| desk.running.post(&desk.client, &desk.key, path, body);
    for (path, body) in [("/v1/reveal", body("other")), ("/v1/explain", body("support"))] {
        let (code, problem) = post(path, &body);
        assert_eq!((code, &problem["code"]), (400, &"request_id".into()), "{path}");
    }
    assert_eq!(desk.post("/v1/reveal", &body("support")), first);
    desk.put(
        "permit(principal in Role::\"reader\", action == Action::\"explain\", resource);",
        true,
    );
    let denied = desk.post("/v1/reveal", &body("support"));
    assert_eq!((status(&denied), &denied["items"][0]["record"]), ("denied".into(), &Value::Null));
    desk.put(READER, true);
    assert_eq!(status(&desk.post("/v1/reveal", &body("support"))), "revealed");
    let attempts: Vec<Value> = desk
        .instance
        .audited()
        .iter()
        .filter(|line| line["event"] == "reveal")
        .map(|line| json!([line["attempt"], line["outcome"]]))
        .collect();
    let expected = json!([[null, "ok"], [2, "ok"], [3, "denied"], [4, "ok"]]);
    assert_eq!(Value::from(attempts), expected);
}

#[test]
fn honey_among_a_thousand_is_denied_and_alarms() {
    let desk = Desk::new(READER);
    let record = desk.customer(17);
    let schema = desk.instance.path("schemas/customers.json");
    let keys = desk.instance.path("keys");
    let mut honey = veilstream(&["honey", "create", "--keys", &keys, "--schema", &schema]);
    honey.args(["--field", "email", "--subject", "990017", "--stdin"]);
    let honey = fed(&mut honey, "mary.sample@example.org\n");
    let (token, ssn) = (&record["customer"]["email"], &record["customer"]["ssn"]);
    let mut items: Vec<Value> = (0..998)
        .map(|id| json!({ "id": id, "field": "customers.email", "token": token, "subject": 17 }))
        .collect();
    items.insert(
        611,
        json!({ "field": "customers.email", "token": honey.trim(), "subject": 990017 }),
    );
    items.push(json!({ "field": "customers.ssn", "token": ssn, "subject": 17,
        "bind": { "customer": 17 } }));
    let told = desk.read(&json!(items));
    assert!(told[..999].iter().all(|status| status == "denied"), "the honey token stands out");
    assert_eq!(told[999], "revealed");
    until("the alarm is counted", || {
        desk.running
            .metrics()
            .lines()
            .any(|l| l.starts_with("veilstream_honey_opened_total") && !l.ends_with(" 0"))
    });
    assert!(desk.running.log().contains("honey"), "{}", desk.running.log());
    let lines = desk.instance.audited();
    let alarms: Vec<&Value> = lines.iter().filter(|line| line["event"] == "honey").collect();
    assert_eq!(alarms.len(), 1);
    assert_eq!(alarms[0]["fields"], json!({ "email": "denied" }));
    assert!(!desk.running.log().contains("mary.sample"));
    // Alone it is denied as anything else is, and a mask opens it too.
    let body = |want: &str| {
        json!({ "purpose": "support", "want": want, "items": [
            { "field": "customers.email", "token": honey.trim(), "subject": 990017 }] })
    };
    for want in ["auto", "mask"] {
        let answer = desk.post("/v1/reveal", &body(want));
        assert_eq!(answer["items"], json!([{ "status": "denied" }]), "{want}");
    }
}

#[test]
fn a_bad_set_of_policies_leaves_the_last_good_one_visibly() {
    let mut desk = Desk::new(READER);
    let record = desk.customer(17);
    let items = json!([{ "field": "customers.email", "token": record["customer"]["email"],
        "subject": 17 }]);
    let hash = |desk: &Desk| {
        let answer = desk.post("/v1/reveal", &json!({ "purpose": "support", "items": [] }));
        answer["policy"].clone()
    };
    let good = hash(&desk);
    for bad in [
        format!("{READER} forbid(principal, action, resource in Tag::\"contacts\");"),
        format!("{READER} forbid(principal, action, resource == Field::\"customers.emial\");"),
        format!("{READER} forbid(principal, action, resource in Schema::\"customer\");"),
        format!(
            "{READER} forbid(principal, action, resource) when {{ context.purpose == \"suport\" }};"
        ),
        format!("{READER} forbid(principal, action, resource) when {{ context.itms > 1 }};"),
        format!("{READER} permit(principal, action, resource"),
        "".to_owned() + "forbid(principal, action == Action::\"reveel\", resource);",
    ] {
        let report = desk.put(&bad, false);
        assert_eq!(report["in_force"], good, "{bad}");
        assert_eq!(hash(&desk), good, "{bad}");
        assert_eq!(desk.read(&items), ["revealed"], "{bad}");
        assert!(!report["refused"].as_array().unwrap().is_empty());
        // Back, so that the next one is seen as another.
        desk.put(READER, true);
    }
    assert!(desk.running.log().contains("the new policies are refused"), "{}", desk.running.log());
    // At a start there is no last good set.
    assert_eq!(desk.running.stop(), 0);
    let bad = format!("{READER} forbid(principal, action, resource in Tag::\"contacts\");");
    desk.instance.write("policies/all.cedar", &bad);
    let (code, said) = desk.instance.refused();
    assert!(code == 2 && said.contains("contacts"), "{code} {said}");
}

/// An overflow where a request has more than one item: strict validation cannot know of it.
const FAILING: &str = r#"@id("limit") forbid(principal, action in [Action::"mask", Action::"search"], resource)
  when { context.items * 9223372036854775807 > 9223372036854775807 - 1 && context.items > 5 };"#;

#[test]
fn a_policy_that_fails_denies_and_is_counted_each_time_and_told_once() {
    let failing = format!("{READER}{FAILING}");
    let desk = Desk::new(&failing);
    let record = desk.customer(17);
    let item = json!({ "field": "customers.email", "token": record["customer"]["email"],
        "subject": 17 });
    let counted = |count: u64| {
        let line = format!("veilstream_policy_errors_total {count}\n");
        assert!(desk.running.metrics().contains(&line), "not {line}{}", desk.running.metrics());
    };
    let told = || desk.running.log().matches("policies failed while they were evaluated").count();
    assert_eq!(desk.read(&json!([item])), ["revealed"]);
    counted(0);
    for n in 1..=5 {
        assert_eq!(desk.read(&json!([item, item])), ["denied", "denied"]);
        counted(n);
    }
    let query = json!({ "field": "customers.email", "value": "c17@example.com" });
    let body = json!({ "purpose": "support", "queries": [query, query] });
    let answer = desk.post("/v1/index", &body);
    assert_eq!(answer["queries"][1], json!({ "status": "denied", "values": [] }));
    counted(6);
    until("the log has it", || told() > 0);
    let log = desk.running.log();
    assert!(log.contains("limit") && log.contains("customers.email"), "{log}");
    // Other policies are told of again, and mended ones deny nothing.
    desk.put(&failing.replace("limit", "ceiling"), true);
    assert_eq!(desk.read(&json!([item, item])), ["denied", "denied"]);
    counted(7);
    until("the log has it again", || told() > 1);
    desk.put(READER, true);
    assert_eq!(desk.read(&json!([item, item])), ["revealed", "revealed"]);
    counted(7);
    assert_eq!(told(), 2);
    let lines = desk.instance.audited();
    let denied = lines.iter().filter(|l| l["event"] == "reveal" && l["outcome"] == "denied");
    assert_eq!(denied.count(), 6);
}
