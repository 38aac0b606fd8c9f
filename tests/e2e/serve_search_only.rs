//! `serve.reveal = false`: a service that says what to search for, and holds no key of values.

use std::fs;

use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::instance::{Instance, ServeProcess, Setup};

const CEDAR: &str = r#"
permit(principal in Role::"finder", action, resource);
"#;
/// A metric's line up to its number: what the provider unwrapped.
const UNWRAPPED: &str =
    r#"veilstream_key_requests_total{operation="unwrap",outcome="ok",provider="file"} "#;

/// How many keys the provider was asked to unwrap.
fn unwrapped(running: &ServeProcess) -> u64 {
    let metrics = running.metrics();
    let line = metrics.lines().find_map(|line| line.strip_prefix(UNWRAPPED));
    line.map_or(0, |number| number.parse().unwrap())
}

#[test]
fn a_service_that_only_searches_opens_and_unwraps_no_value() {
    let instance = Instance::of(&Setup { cedar: CEDAR, ..Setup::default() });
    let (_, key) = instance.make_key_of("desk", "finder");
    let record = json!({ "type": "customer.updated", "customer": {
        "id": 17, "email": "c17@example.com", "ssn": "078-05-1120" } });
    let record = instance.seal("customers", &record.to_string()).remove(0);
    let client = Client::new();
    let reveal = json!({ "purpose": "support", "items": [
        { "schema": "customers", "fields": ["email"], "record": record } ] });
    let seal = json!({ "purpose": "support", "items": [
        { "field": "customers.email", "value": "c17@example.com", "subject": 17 } ] });

    // With values first: what keys there are to be unwrapped.
    let mut running = instance.start();
    assert_eq!(running.post(&client, &key, "/v1/reveal", &reveal).0, 200);
    let all = unwrapped(&running);
    assert_eq!(running.stop(), 0);

    let text = instance.read("veilstream.toml").replace("[serve]\n", "[serve]\nreveal = false\n");
    instance.write("veilstream.toml", &text);
    // Of keys of values nothing is left that opens: who unwraps one of them learns it.
    let kept = fs::read(instance.path("keys/keys.db")).unwrap();
    let store = rusqlite::Connection::open(instance.path("keys/keys.db")).unwrap();
    let spoiled = store.execute(
        "UPDATE wraps SET wrapped = zeroblob(length(wrapped)) WHERE kid IN (SELECT kid FROM keys \
        WHERE kind IN ('data', 'deterministic', 'wrapping', 'dead_letter'))",
        [],
    );
    assert!(spoiled.unwrap() >= 4);
    drop(store);
    let mut running = instance.start();
    let post = |path: &str, body: &Value| running.post(&client, &key, path, body);
    for (path, body) in [("/v1/reveal", &reveal), ("/v1/explain", &reveal), ("/v1/seal", &seal)] {
        let (status, problem) = post(path, body);
        assert_eq!((status, &problem["code"]), (404, &"not_found".into()), "{path}");
        assert!(!problem.to_string().contains("c17@"), "{problem}");
    }
    let stream = client.post(format!("http://{}/v1/reveal", running.address)).bearer_auth(&key);
    let stream = stream.header("content-type", "application/x-ndjson").body("{}\n");
    assert_eq!(stream.send().unwrap().status(), 404);
    let queries = json!({ "purpose": "support", "queries": [
        { "field": "customers.email", "value": "c17@example.com" } ] });
    let (status, answer) = post("/v1/index", &queries);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["queries"][0]["values"][0], record["customer"]["email_bidx"]);
    let (status, answer) = post(
        "/v1/subject-ref",
        &json!({ "purpose": "support", "items": [
        { "schema": "customers", "subject": 17 } ] }),
    );
    assert_eq!((status, &answer["items"][0]["status"]), (200, &"ok".into()), "{answer}");
    // Store, audit, index and subject_ref: no other kind.
    assert!(all > 4 && unwrapped(&running) == 4, "{all} {}", unwrapped(&running));
    let log = running.log();
    assert!(!log.contains("could not be maintained") && !log.contains("c17@"), "{log}");
    assert_eq!(running.stop(), 0);
    fs::write(instance.path("keys/keys.db"), kept).unwrap();
    let verified = instance.verify();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let lines = instance.audited();
    let count = |event: &str| lines.iter().filter(|line| line["event"] == event).count();
    assert_eq!(["search", "audit_read", "reveal", "seal"].map(count), [1, 1, 1, 0]);
}
