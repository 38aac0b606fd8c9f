//! Keys that are erased, retired or compromised: what the service answers, field by field, beside
//! what the command line says of the same tokens, and what the audit log has of both.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::feed::feed;
use crate::instance::{Instance, ServeProcess, Setup, done, veilstream};
use crate::testing::until;

/// A schema without subject: its values are under a key of many, which can be retired.
pub(crate) const NOTES: &str = r#"{"veilstream":1,"name":"notes","version":1,"when":{"$.type":"note"},
    "fields":[{"id":"text","path":"$.text"}]}"#;

const CEDAR: &str = r#"
permit(principal in Role::"reader", action in [Action::"reveal", Action::"explain"], resource)
  unless { resource in Tag::"contact" };
permit(principal in Role::"reader", action in [Action::"reveal", Action::"explain"],
  resource == Field::"customers.email");
permit(principal in Role::"reader", action in [Action::"mask", Action::"explain"],
  resource == Field::"customers.phone");
"#;

/// What of a customer is under the person's own key.
const OWN: [&str; 3] = ["email", "ssn", "phone"];
/// What ends counts "within a second or two" (docs/operations.md, "Erase a person"), on a machine
/// that is busy. Keys stay in memory for ten minutes.
const SOON: Duration = Duration::from_secs(10);

/// A service, and what an operator of its keys does.
struct Desk {
    instance: Instance,
    client: Client,
    key: String,
}

impl Desk {
    fn new() -> Self {
        let instance = Instance::of(&Setup { cedar: CEDAR, ..Setup::default() });
        instance.write("schemas/notes.json", NOTES);
        let (_, key) = instance.make_key_of("desk", "reader");
        Self { instance, client: Client::new(), key }
    }

    /// A command with the service's configuration.
    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = veilstream(args);
        command.args(["--config", &self.instance.path("veilstream.toml")]);
        command
    }

    fn operate(&self, args: &[&str]) {
        done(&mut self.command(args));
    }

    fn shred(&self, id: u64) {
        self.operate(&["shred", "--subject", &id.to_string(), "--reason", "a test"]);
    }

    fn customer(&self, id: u64) -> Value {
        let record = json!({ "type": "customer.updated", "phone": "+1 415 555 0101",
            "customer": { "id": id, "email": format!("c{id}@example.com"), "ssn": "078-05-1120",
                "address": "1 Main St" },
            "payments": [{ "card": "4242424242424242" }] });
        self.instance.seal("customers", &record.to_string()).remove(0)
    }

    /// A note under a key that seals no others.
    fn note(&self) -> Value {
        let note = json!({ "type": "note", "text": "ring back" });
        let sealed = self.instance.seal("notes", &note.to_string()).remove(0);
        self.operate(&["keys", "rotate", "--shared", "notes"]);
        sealed
    }

    fn retire(&self, note: &Value) {
        self.operate(&["keys", "retire", "--unreferenced", &kid(&note["text"])]);
    }

    fn compromise(&self, token: &Value) {
        self.operate(&["keys", "compromise", &kid(token)]);
    }

    /// The answer about one item.
    fn ask(&self, running: &ServeProcess, path: &str, item: &Value) -> Value {
        let body = json!({ "purpose": "support", "items": [item] });
        let (status, answer) = running.post(&self.client, &self.key, path, &body);
        assert_eq!(status, 200, "{answer}");
        answer["items"][0].clone()
    }

    fn reveal(
        &self,
        running: &ServeProcess,
        schema: &str,
        fields: &[&str],
        record: &Value,
    ) -> Value {
        let item = json!({ "schema": schema, "fields": fields, "record": record });
        self.ask(running, "/v1/reveal", &item)
    }

    fn of_note(&self, running: &ServeProcess, note: &Value) -> Value {
        self.reveal(running, "notes", &["text"], note)["fields"]["text"]["status"].clone()
    }

    fn of_email(&self, running: &ServeProcess, record: &Value) -> Value {
        let answer = self.reveal(running, "customers", &["email"], record);
        answer["fields"]["email"]["status"].clone()
    }

    /// What the command line says of the fields of a record, and what it leaves in the log.
    fn by_hand(&self, schema: &str, fields: &[&str], record: &Value) -> (Value, Value) {
        let file = self.instance.path(&format!("schemas/{schema}.json"));
        let args = ["reveal", "--schema", &file, "--fields", &fields.join(","), "--status"];
        let output = feed(self.command(&args), record.to_string());
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        let places = told["fields"].as_array().unwrap().iter();
        let asked = places.filter(|place| place["status"] != "skipped");
        let told = asked.map(|place| {
            (place["field"].as_str().unwrap().to_owned(), json!({ "status": place["status"] }))
        });
        (told.collect(), self.last_line("os"))
    }

    /// The newest line `reveal` of those who are known in this way.
    fn last_line(&self, auth: &str) -> Value {
        let lines = self.instance.audited();
        let is_it = |line: &&Value| line["event"] == "reveal" && line["auth"] == auth;
        lines.iter().filter(is_it).max_by_key(|line| line["time"].as_str()).unwrap().clone()
    }
}

/// The id of the key that a token names.
pub(crate) fn kid(token: &Value) -> String {
    let header = URL_SAFE_NO_PAD.decode(&token.as_str().unwrap()[4..36]).unwrap();
    header[2..18].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Fields as an answer tells them.
fn fields(told: &[(&str, &str)]) -> Value {
    told.iter().map(|(name, status)| ((*name).to_owned(), json!({ "status": status }))).collect()
}

#[test]
fn keys_that_ended_are_told_as_the_command_line_tells_them() {
    let desk = Desk::new();
    let [live, erased, compromised] = [17, 18, 19].map(|id| desk.customer(id));
    let email = |record: &Value| record["customer"]["email"].clone();
    let [retired, leaked] = [(); 2].map(|()| desk.note());
    desk.shred(18);
    desk.compromise(&email(&compromised));
    desk.retire(&retired);
    desk.compromise(&leaked["text"]);
    let mut running = desk.instance.start();

    let asked = ["email", "ssn", "phone", "card", "address"];
    let audited = |line: &Value, kid: &str| {
        let kids = line["kids"].as_array().unwrap();
        assert!(kids.contains(&kid.into()), "{line}");
        line["fields"].clone()
    };
    for (record, status) in [(&erased, "erased"), (&compromised, "key_unavailable")] {
        let answer = desk.reveal(&running, "customers", &asked, record);
        // Of a domain's card no erasure takes the key.
        let mut told = vec![("card", "revealed"), ("address", "denied")];
        told.extend(OWN.map(|name| (name, status)));
        assert_eq!(answer["fields"], fields(&told));
        let withheld = json!({ "id": answer["record"]["customer"]["id"],
            "email": null, "ssn": null, "address": null });
        assert_eq!(answer["record"]["customer"], withheld);
        assert_eq!(answer["record"]["phone"], Value::Null);
        let line = desk.last_line("api_key");
        let in_log: Value = told.iter().map(|(name, s)| ((*name).to_owned(), json!(s))).collect();
        assert_eq!(audited(&line, &kid(&email(record))), in_log);
        // Who reads by hand, and asks for no more than these fields, is told the same.
        let (by_hand, hand_line) = desk.by_hand("customers", &OWN, record);
        assert_eq!(by_hand, fields(&OWN.map(|name| (name, status))));
        let own = desk.reveal(&running, "customers", &OWN, record);
        assert_eq!(own["fields"], by_hand);
        let line = desk.last_line("api_key");
        for member in ["schema", "fields", "kids", "outcome"] {
            assert_eq!(line[member], hand_line[member], "{member}");
        }
        assert_eq!(line["outcome"], "failed");
        let token = json!({ "field": "customers.email", "token": email(record),
            "subject": record["customer"]["id"] });
        assert_eq!(desk.ask(&running, "/v1/reveal", &token), json!({ "status": status }));
        // No key is looked at to explain.
        let explained = |record: &Value| {
            let item = json!({ "schema": "customers", "fields": OWN, "record": record });
            desk.ask(&running, "/v1/explain", &item)
        };
        assert_eq!(explained(record), explained(&live));
    }
    // The line of an erased person is that person's.
    let own = desk.reveal(&running, "customers", &OWN, &erased);
    assert_eq!(own["fields"]["email"]["status"], "erased");
    let line = desk.last_line("api_key");
    assert_eq!(line["subject"], desk.by_hand("customers", &OWN, &erased).1["subject"]);
    assert!(line["subject"].is_string(), "{line}");
    for note in [&retired, &leaked] {
        assert_eq!(desk.of_note(&running, note), "key_unavailable");
        let line = desk.last_line("api_key");
        let unavailable = json!({ "text": "key_unavailable" });
        assert_eq!(audited(&line, &kid(&note["text"])), unavailable);
        let (by_hand, hand_line) = desk.by_hand("notes", &["text"], note);
        assert_eq!(by_hand, fields(&[("text", "key_unavailable")]));
        assert_eq!((&line["outcome"], &line["fields"]), (&"failed".into(), &hand_line["fields"]));
    }
    assert_eq!(desk.of_email(&running, &live), "revealed");
    assert!(!running.log().contains("@example.com"));
    assert_eq!(running.stop(), 0);
    assert!(desk.instance.verify().status.success());
}

/// The service holds every key when it ends.
#[test]
fn keys_that_end_while_the_service_runs_are_refused_in_time() {
    let desk = Desk::new();
    let [erased, compromised] = [18, 19].map(|id| desk.customer(id));
    let [retired, leaked] = [(); 2].map(|()| desk.note());
    let mut running = desk.instance.start();
    for record in [&erased, &compromised] {
        assert_eq!(desk.of_email(&running, record), "revealed");
    }
    for note in [&retired, &leaked] {
        assert_eq!(desk.of_note(&running, note), "revealed");
    }
    desk.compromise(&compromised["customer"]["email"]);
    desk.retire(&retired);
    desk.compromise(&leaked["text"]);
    desk.shred(18);
    let since = Instant::now();
    until("the erasure counts", || desk.of_email(&running, &erased) == "erased");
    until("a person's key has ended", || {
        desk.of_email(&running, &compromised) == "key_unavailable"
    });
    for note in [&retired, &leaked] {
        until("the key has ended", || desk.of_note(&running, note) == "key_unavailable");
    }
    assert!(since.elapsed() < SOON, "after {:?}", since.elapsed());
    assert_eq!(running.stop(), 0);
}
