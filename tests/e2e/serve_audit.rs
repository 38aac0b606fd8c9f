//! The audit log's own file under a running service: the disk hangs, fails and is full.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::blocking::Client;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde_json::{Value, json};

use crate::disk::Disk;
use crate::instance::{Instance, Running, Setup};
use crate::runbook;
use crate::testing::until;

const CEDAR: &str =
    r#"permit(principal in Role::"reader", action, resource == Field::"customers.email");"#;
/// A line has two seconds (docs/operations.md); the rest is for a busy machine.
const DEADLINE: Duration = Duration::from_secs(5);

/// Who asks, and what came of it.
struct Desk {
    instance: Instance,
    running: Running,
    client: Client,
    key: String,
    item: Value,
    asked: usize,
    /// Requests that were answered with a value.
    answered: BTreeSet<String>,
    refused: u64,
}

impl Desk {
    /// Reads the value once; whether it was answered. It is refused in one way only, in time.
    fn reads(&mut self) -> bool {
        self.asked += 1;
        let id = format!("r-{}", self.asked);
        let body = json!({ "purpose": "support", "request_id": id, "items": [self.item] });
        let begun = Instant::now();
        let (status, answer) = self.running.post(&self.client, &self.key, "/v1/reveal", &body);
        let took = begun.elapsed();
        if status == 200 {
            assert_eq!(answer["items"][0]["value"], "c17@example.com", "{answer}");
            return self.answered.insert(id);
        }
        assert_eq!((status, &answer["code"]), (503, &"audit_unavailable".into()));
        assert!(took < DEADLINE, "refused after {took:?}");
        assert!(!answer.to_string().contains("c17@"), "{answer}");
        self.refused += 1;
        false
    }

    /// The same as a stream: the answer's lines.
    fn streams(&mut self) -> Vec<Value> {
        self.asked += 1;
        let head = json!({ "purpose": "support", "request_id": format!("r-{}", self.asked) });
        let body = format!("{head}\n{}\n", self.item);
        let asked = self.client.post(format!("http://{}/v1/reveal", self.running.address));
        let asked = asked.bearer_auth(&self.key).header("content-type", "application/x-ndjson");
        let text = asked.body(body).send().unwrap().text().unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn runbook(&self, name: &str, named: &[(&str, &str)]) -> String {
        runbook::served(name, Path::new(&self.instance.path(".")), named)
    }

    /// Nothing is answered while it is so, and everything again by itself.
    fn refuses_while(&mut self, is_so: impl FnOnce(&Running), no_more: impl FnOnce(&Running)) {
        assert!(self.reads());
        is_so(&self.running);
        for _ in 0..3 {
            assert!(!self.reads(), "nothing is answered meanwhile");
        }
        let begun = Instant::now();
        let streamed = self.streams();
        assert!(begun.elapsed() < DEADLINE, "a stream ended after {:?}", begun.elapsed());
        assert_eq!(streamed.len(), 1, "{streamed:?}");
        assert_eq!(streamed[0]["end"]["problem"]["code"], "audit_unavailable", "{streamed:?}");
        self.refused += 1;
        let ready = |running: &Running| {
            let answer = reqwest::blocking::get(format!("http://{}/readyz", running.http));
            answer.unwrap().text().unwrap()
        };
        let said = self.runbook("audit-away", &[("127.0.0.1:8787", &self.running.http)]);
        let told = format!("code=\"audit_unavailable\"}} {}\n", self.refused);
        assert!(said.contains("audit file: ") && said.contains(&told), "{told} {said}");
        no_more(&self.running);
        // It asks for itself: a service that is not ready has no callers.
        until("it to be ready", || ready(&self.running).contains("ready\n"));
        until("an answer again", || self.reads());
        let streamed = self.streams();
        assert_eq!(streamed[1]["value"], "c17@example.com", "{streamed:?}");
        self.answered.insert(format!("r-{}", self.asked));
    }
}

/// The most bytes that a file of the service may have from now on.
fn limit(running: &Running, most: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(running.child.id()).unwrap());
    let limit = Rlimit { current: most, maximum: None };
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

#[test]
fn without_its_log_nothing_is_answered_and_it_comes_back() {
    let disk = Disk::new();
    let instance = Instance::of(&Setup { cedar: CEDAR, ..Setup::default() });
    let (_, key) = instance.make_key_of("desk", "reader");
    let record = json!({ "type": "customer.updated", "customer": {
        "id": 17, "email": "c17@example.com", "ssn": "078-05-1120" } });
    let record = instance.seal("customers", &record.to_string()).remove(0);
    let item = json!({ "field": "customers.email", "token": record["customer"]["email"],
        "subject": 17 });
    // The shell lets it live when a file reaches its limit.
    let running = instance.start_with(|command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(command.get_program());
        shell.args(command.get_args()).envs(disk.environment()).env("NO_COLOR", "1");
        *command = shell;
    });
    let client = Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    let answered = BTreeSet::new();
    let mut desk = Desk { instance, running, client, key, item, asked: 0, answered, refused: 0 };

    let (hangs, fails) = (disk.hangs(), disk.fails());
    desk.refuses_while(|_| fs::write(&hangs, "").unwrap(), |_| fs::remove_file(&hangs).unwrap());
    desk.refuses_while(|_| fs::write(&fails, "").unwrap(), |_| fs::remove_file(&fails).unwrap());
    // No room for a line, nor for the first one of another file.
    desk.refuses_while(|running| limit(running, Some(100)), |running| limit(running, None));

    let metrics = desk.running.metrics();
    for counted in [
        r#"veilstream_audit_lines_total{outcome="failed",sink="file"}"#,
        r#"veilstream_requests_failed_total{code="audit_unavailable"}"#,
    ] {
        assert!(metrics.contains(&format!("{counted} {}\n", desk.refused)), "{metrics}");
    }
    // The log has each cause and the end, not a line for each request.
    until("the end is told with the number of refused requests", || {
        assert!(desk.reads());
        let ends = desk.running.told("the audit log is written again");
        desk.refused == ends.iter().map(|line| line["refused"].as_u64().unwrap()).sum::<u64>()
    });
    let begins = desk.running.told("the audit log cannot be written, so nothing is opened");
    for why in ["it took longer than 2 s", "Input/output error", "File too large"] {
        let is_told = |line: &Value| line["error"].as_str().unwrap().contains(why);
        assert!(begins.iter().any(is_told), "{why}: {begins:?}");
    }
    assert!((begins.len() as u64) < desk.refused / 2, "{} for {}", begins.len(), desk.refused);
    let log = desk.running.log();
    assert!(!log.contains("c17@"), "{log}");
    assert_eq!(desk.running.stop(), 0);
    let said = desk.runbook("audit-back", &[("auditor/", "")]);
    assert!(said.ends_with("the log is whole\n"), "{said}");
    assert!(said.contains("audit.jsonl.ended-") && !said.contains("nothing is proved"), "{said}");
    let lines = desk.instance.audited();
    let told: BTreeSet<&str> = lines.iter().filter_map(|l| l["request_id"].as_str()).collect();
    let missing = desk.answered.iter().filter(|id| !told.contains(&***id));
    assert_eq!(missing.count(), 0, "{:?} {told:?}", desk.answered);
    // Each failure but the hanging one ended its chain.
    let starts = lines.iter().filter(|line| line["event"] == "start").count();
    assert!(starts >= 3, "{starts} chains");
}
