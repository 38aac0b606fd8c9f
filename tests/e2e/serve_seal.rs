//! `POST /v1/seal` and `POST /v1/subject-ref`: what is sealed opens as a pipeline's tokens do.

use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::instance::{Instance, SUPPORT, Setup, done, fed, veilstream};

const CEDAR: &str = r#"
permit(principal in Role::"analyst", action in [Action::"seal", Action::"reveal"], resource)
  unless { resource == Field::"customers.phone" };
permit(principal in Role::"analyst", action == Action::"search", resource) when { context.purpose == "support" };
permit(principal in Role::"analyst", action == Action::"audit_read", resource == Schema::"customers");
forbid(principal, action == Action::"seal", resource) when { context.subjects > 5 };
"#;

/// A schema without subject, whose other fields are hashed and dropped.
const NOTES: &str = r#"{"veilstream":1,"name":"notes","version":1,"when":{"$.type":"note"},"fields":[
    {"id":"text","path":"$.text","type":"string","pad":64},{"id":"author","path":"$.author","protect":"hash","index":{"normalize":"email"}},
    {"id":"draft","path":"$.draft","protect":"drop"}]}"#;

fn statuses(answer: &Value) -> Vec<&str> {
    let items = answer["items"].as_array().unwrap();
    items.iter().map(|item| item["status"].as_str().unwrap()).collect()
}

#[test]
fn what_is_sealed_opens_where_it_belongs() {
    let policy = format!(
        "{SUPPORT}[[policy.budgets]]\nvalues = 3\n[[policy.purposes]]\nname = \"export\"\nreason_required = false\n"
    );
    let instance = Instance::of(&Setup { cedar: CEDAR, policy: &policy, ..Setup::default() });
    instance.write("schemas/notes.json", NOTES);
    let (_, key) = instance.make_key("crm");
    let mut running = instance.start();
    let client = Client::new();
    let post = |path: &str, purpose: &str, items: Value| -> Value {
        let body = json!({ "purpose": purpose, "items": items });
        let (status, answer) = running.post(&client, &key, path, &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let sealed = post(
        "/v1/seal",
        "support",
        json!([
            { "id": "a", "field": "customers.email", "value": "ada@example.com", "subject": 42 },
            { "id": "b", "field": "customers.ssn", "value": "078-05-1120", "bind": { "customer": 42 }, "subject": 42 },
            { "id": "c", "field": "notes.text", "value": "met Ada" },
            { "id": "d", "field": "notes.author", "value": "Ada@Example.com" },
            { "id": "e", "field": "customers.card", "value": "4242424242424242" },
        ]),
    );
    assert_eq!(statuses(&sealed), ["sealed"; 5], "{sealed}");
    let token = |n: usize| sealed["items"][n]["token"].clone();
    let opened = post(
        "/v1/reveal",
        "support",
        json!([
            { "id": 0, "field": "customers.email", "token": token(0), "subject": 42 },
            { "id": 1, "field": "customers.email", "token": token(0), "subject": 43 },
            { "id": 2, "field": "customers.ssn", "token": token(1), "bind": { "customer": 42 }, "subject": 42 },
            { "id": 3, "field": "customers.ssn", "token": token(1), "bind": { "customer": 43 }, "subject": 42 },
            { "id": 4, "field": "notes.text", "token": token(2) },
            { "id": 5, "field": "@payment_card", "token": token(4) },
        ]),
    );
    let values: Vec<&Value> =
        opened["items"].as_array().unwrap().iter().map(|item| &item["value"]).collect();
    let none = Value::Null;
    assert_eq!(
        values,
        [
            &json!("ada@example.com"),
            &none,
            &json!("078-05-1120"),
            &none,
            &json!("met Ada"),
            &json!("4242424242424242")
        ],
        "{opened}"
    );
    // What a pipeline writes for equal values, it writes too.
    let record = r#"{"type":"note","text":"x","author":"ada@example.com"}"#;
    assert_eq!(instance.seal("notes", record)[0]["author"], token(3));
    let record = r#"{"type":"customer.updated","customer":{"id":42,"ssn":"078-05-1120"},"payments":[{"card":"4242424242424242"}]}"#;
    assert_eq!(instance.seal("customers", record)[0]["payments"][0]["card"], token(4));
    let keys = instance.path("keys");
    let mut reveal = veilstream(&["reveal", "--keys", &keys, "--token", "--field", "notes.text"]);
    assert_eq!(fed(&mut reveal, token(2).as_str().unwrap()), "\"met Ada\"\n");

    // What has no token, and why is nobody's business who may not seal.
    let refused = post(
        "/v1/seal",
        "support",
        json!([
            { "field": "customers.phone", "value": "+1 415 555 0101", "subject": 42 },
            { "field": "customers.nowhere", "value": 1 },
            { "field": "customers.email", "value": "ada@example.com" },
            { "field": "notes.text", "value": "x", "subject": 42 },
            { "field": "notes.text", "value": 1 },
            { "field": "customers.ssn", "value": "1", "subject": 42 },
            { "field": "customers.email", "value": null, "subject": 42 },
            { "field": "notes.draft", "value": "x" },
            { "field": "notes.text", "value": "x" },
            { "field": "notes.text", "value": "y" },
            { "field": "customers.email" },
        ]),
    );
    // Six of nobody and some of one subject: a `forbid` says no.
    assert!(statuses(&refused)[..10].iter().all(|status| *status == "denied"), "{refused}");
    let one = |item: Value| {
        let answer = post("/v1/seal", "support", json!([item]));
        (statuses(&answer)[0].to_owned(), answer["items"][0].get("token").cloned())
    };
    for (item, status) in [
        (
            json!({ "field": "customers.phone", "value": "+1 415 555 0101", "subject": 42 }),
            "denied",
        ),
        (json!({ "field": "customers.nowhere", "value": 1 }), "denied"),
        (json!({ "field": "customers.email", "value": "ada@example.com" }), "malformed"),
        (json!({ "field": "notes.text", "value": "x", "subject": 42 }), "malformed"),
        (json!({ "field": "notes.text", "value": 1 }), "malformed"),
        (json!({ "field": "customers.ssn", "value": "1", "subject": 42 }), "malformed"),
        (json!({ "field": "customers.email", "value": null, "subject": 42 }), "malformed"),
        (json!({ "field": "notes.draft", "value": "x" }), "unsupported"),
        (json!({ "field": "customers.email" }), "malformed"),
        (json!({ "field": "customers#key", "value": "x" }), "unsupported"),
    ] {
        assert_eq!(one(item.clone()), (status.to_owned(), None), "{item}");
    }
    // Of the budget of three values two are spent; a value that was counted costs nothing.
    let card = |number: &str| one(json!({ "field": "customers.card", "value": number })).0;
    for (number, status) in [("4242424242424242", "sealed"), ("1", "sealed"), ("2", "denied")] {
        assert_eq!(card(number), status);
    }
    // Sealing what tells equality needs `search`, which this purpose does not have.
    let export = post(
        "/v1/seal",
        "export",
        json!([
            { "field": "customers.card", "value": "4242424242424242" },
            { "field": "notes.text", "value": "x" },
        ]),
    );
    assert_eq!(statuses(&export), ["denied", "sealed"]);
    // An erased person gets no new key.
    done(&mut veilstream(&["shred", "--keys", &keys, "--subject", "42", "--reason", "test"]));
    crate::testing::until("the erasure counts", || {
        let item = json!({ "field": "customers.email", "value": "x", "subject": 42 });
        one(item) == ("erased".to_owned(), None)
    });
    let metrics = running.metrics();
    assert!(metrics.contains(r#"veilstream_seals_total{status="erased"} 1"#), "{metrics}");
    assert_eq!(running.stop(), 0);
    assert!(instance.verify().status.success());
    let lines = instance.audited();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let seals = of("seal");
    assert!(seals.iter().all(|line| line.get("subject").is_none()), "{seals:?}");
    assert_eq!(seals[0]["fields"], json!({ "card": "sealed", "email": "sealed", "ssn": "sealed" }));
    let searches = of("search");
    let items: u64 = searches.iter().map(|line| line["items"].as_u64().unwrap()).sum();
    assert_eq!(items, 4, "what tells equality is a search: {searches:?}");
    for text in ["ada@example.com", "078-05-1120", "met Ada", "4242424242424242", "555 0101"] {
        assert!(!instance.read("audit.jsonl").contains(text) && !running.log().contains(text));
    }
}

/// Otherwise a restart would give the values of the day again.
#[test]
fn what_was_sealed_stays_spent_over_a_restart() {
    let policy = format!("{SUPPORT}[[policy.budgets]]\nvalues = 2\n");
    let instance = Instance::of(&Setup { cedar: CEDAR, policy: &policy, ..Setup::default() });
    let (_, key) = instance.make_key("crm");
    let client = Client::new();
    for expected in ["sealed", "denied"] {
        let mut running = instance.start();
        let items: Vec<Value> = (0..2)
            .map(|n| json!({ "field": "customers.card", "value": format!("{expected}{n}") }))
            .collect();
        let body = json!({ "purpose": "support", "items": items });
        let (_, answer) = running.post(&client, &key, "/v1/seal", &body);
        assert_eq!(statuses(&answer), [expected; 2]);
        assert_eq!(running.stop(), 0);
    }
}

#[test]
fn an_auditor_gets_references_without_a_key() {
    let instance = Instance::of(&Setup { cedar: CEDAR, ..Setup::default() });
    instance.write("schemas/notes.json", NOTES);
    let (_, key) = instance.make_key("auditor");
    let (_, other) = instance.make_key_of("desk", "support");
    let record = r#"{"type":"customer.updated","customer":{"id":42,"email":"ada@example.com","ssn":"078-05-1120"}}"#;
    let record = instance.seal("customers", record).remove(0);
    let mut running = instance.start();
    let client = Client::new();
    let post = |key: &str, path: &str, items: Value| {
        let body = json!({ "purpose": "support", "items": items });
        running.post(&client, key, path, &body).1
    };
    let asked = json!([
        { "id": 1, "schema": "customers", "subject": 42 },
        { "id": 2, "schema": "customers", "subject": 1.5 },
        { "id": 3, "schema": "notes", "subject": 42 },
        { "id": 4, "schema": "canary-5a1f", "subject": 42 },
        { "id": 5 },
    ]);
    let answer = post(&key, "/v1/subject-ref", asked.clone());
    assert_eq!(statuses(&answer), ["ok", "malformed", "denied", "denied", "malformed"]);
    let denied = post(&other, "/v1/subject-ref", asked);
    assert_eq!(statuses(&denied)[..4], ["denied"; 4]);
    post(
        &key,
        "/v1/reveal",
        json!([{ "schema": "customers", "fields": ["email"], "record": record }]),
    );
    assert_eq!(running.stop(), 0);
    let lines = instance.audited();
    let reveal = lines.iter().find(|line| line["event"] == "reveal").unwrap();
    assert_eq!(reveal["subject"], answer["items"][0]["subject_ref"], "{answer}");
    let asked: Vec<&Value> = lines.iter().filter(|line| line["event"] == "audit_read").collect();
    assert_eq!(asked.len(), 9, "{asked:?}");
    assert!(asked.iter().all(|line| line.get("subject").is_none()), "{asked:?}");
    assert!(!instance.read("audit.jsonl").contains("canary-5a1f"));
}
