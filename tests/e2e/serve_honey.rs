//! `serve.honey_suspends`: anyone who opens a honey token is denied everything until resumed.

use std::path::Path;

use reqwest::StatusCode;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::instance::{Instance, ServeProcess, Setup, done, fed, veilstream};
use crate::runbook;
use crate::testing::until;

const CEDAR: &str = r#"permit(principal in Role::"analyst", action, resource);"#;
const EVENT: &str = r#"{"type":"customer.updated","customer":{"id":42,"email":"ada@example.com","ssn":"078-05-1120"}}"#;

fn email(running: &ServeProcess, key: &str, token: &Value) -> Value {
    let items = json!([{ "field": "customers.email", "token": token }]);
    let body = json!({ "purpose": "support", "items": items });
    running.post(&Client::new(), key, "/v1/reveal", &body).1["items"][0]["status"].clone()
}

#[test]
fn anyone_who_opens_honey_is_denied_everything_until_resumed() {
    let serve = "insecure = true\nhoney_suspends = true\n";
    let instance = Instance::of(&Setup { cedar: CEDAR, serve, ..Setup::default() });
    let (id, thief) = instance.make_key("thief");
    let (_, second) = instance.make_key("thief");
    let (_, other) = instance.make_key("desk");
    let record = instance.seal("customers", EVENT).remove(0);
    let token = &record["customer"]["email"];
    let (schema, keys) = (instance.path("schemas/customers.json"), instance.path("keys"));
    let args = ["honey", "create", "--keys", &keys, "--schema", &schema, "--field", "email"];
    let mut create = veilstream(&args);
    create.args(["--subject", "990017", "--stdin"]);
    let honey = fed(&mut create, "mary.sample@example.org\n");
    let mut running = instance.start();
    assert_eq!(email(&running, &thief, token), "revealed");
    let body = json!({ "purpose": "support", "items": [
        { "schema": "customers", "record": record },
        { "field": "customers.email", "token": honey.trim() },
    ] });
    let (_, answer) = running.post(&Client::new(), &thief, "/v1/reveal", &body);
    assert_eq!(answer["items"][0]["record"], Value::Null, "{answer}");
    assert_eq!(answer["items"][1], json!({ "status": "denied" }), "{answer}");
    // Everything, with every key of that name, and nobody else.
    let query = json!({ "purpose": "support", "queries": [{ "field": "customers.email", "value": "a@b.c" }] });
    let seal = json!({ "purpose": "support", "items": [{ "field": "customers.email", "value": "x", "subject": 1 }] });
    for key in [&thief, &second] {
        assert_eq!(email(&running, key, token), "denied");
        for (path, body, items) in [
            ("/v1/index", &query, "queries"),
            ("/v1/seal", &seal, "items"),
            ("/v1/explain", &body, "items"),
        ] {
            let (status, answer) = running.post(&Client::new(), key, path, body);
            let text = answer[items].to_string();
            assert!(status == 200 && text.contains("denied"), "{path} {answer}");
            assert!(!text.contains("sealed") && !text.contains("revealed"), "{path} {answer}");
        }
    }
    assert_eq!(email(&running, &other, token), "revealed");
    // It outlives the process.
    assert_eq!(running.stop(), 0);
    let mut running = instance.start();
    assert_eq!(email(&running, &thief, token), "denied");
    let listed = String::from_utf8(done(&mut instance.keys(&["list", "--json"])).stdout).unwrap();
    let suspended = listed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let suspended: Vec<Value> = suspended.filter(|one| one["state"] == "suspended").collect();
    assert_eq!(suspended.len(), 1, "{listed}");
    assert_eq!(
        (&suspended[0]["principal"], &suspended[0]["person"]),
        (&json!("key:thief"), &Value::Null)
    );
    let one = suspended[0]["id"].as_str().unwrap();
    // A suspension is no API key, and an API key no suspension.
    for args in [["revoke", one], ["resume", &id]] {
        assert_eq!(instance.keys(&args).output().unwrap().status.code(), Some(1), "{args:?}");
    }
    assert_eq!(email(&running, &thief, token), "denied");
    let resumed = done(&mut instance.keys(&["resume", "--principal", "key:thief"]));
    assert_eq!(String::from_utf8(resumed.stdout).unwrap(), format!("{one} resumed\n"));
    until("they read again", || email(&running, &thief, token) == "revealed");
    let folder = instance.path(".");
    let runbook = |step: &str, named: &[_]| runbook::served(step, Path::new(&folder), named);
    let who = runbook("honey-who", &[]);
    assert!(who.lines().count() == 1 && who.contains("\"actor\":\"key:thief\""), "{who}");
    let read = runbook("honey-read", &[("NAME", "thief")]);
    for part in [",honey,key:thief,", ",reveal,key:thief,", "email=revealed"] {
        assert!(read.contains(part), "{part}: {read}");
    }
    assert!(!read.contains("key:desk"), "{read}");
    assert!(runbook("honey-revoke", &[("NAME", "thief")]).contains(" revoked\n"));
    let client = Client::new();
    let refused = |key: &str| running.status(&client, "http", key) == StatusCode::UNAUTHORIZED;
    until("the access is gone", || [&thief, &second].iter().all(|key| refused(key)));
    assert_eq!(email(&running, &other, token), "revealed");
    assert_eq!(running.stop(), 0);
    assert!(instance.verify().status.success());
    let lines = instance.audited();
    let of_honey: Vec<&Value> = lines.iter().filter(|line| line["event"] == "honey").collect();
    assert_eq!((of_honey.len(), &of_honey[0]["actor"]), (1, &json!("key:thief")));
    // What became of the credential stands there, in order.
    let changes = lines.iter().filter(|line| line["event"] == "credentials");
    let changes: Vec<&Value> = changes.skip(3).collect();
    assert_eq!(changes.len(), 4, "three keys were made before, two revoked after: {changes:?}");
    assert_eq!((&changes[0]["reason"], &changes[0]["credential"]), (&json!("suspend"), &json!(id)));
    assert_eq!(
        (&changes[0]["actor"], &changes[1]["reason"]),
        (&json!("key:thief"), &json!("resume"))
    );
    // Whose keys were found stands there, though nothing was shown.
    let opened =
        lines.iter().filter(|line| line["event"] == "reveal" && line.get("subject").is_some());
    assert!(opened.clone().any(|line| line["outcome"] == "denied"), "{lines:?}");
}
