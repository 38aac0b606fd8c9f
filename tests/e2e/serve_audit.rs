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
use crate::instance::{Instance, ServeProcess, Setup};
use crate::runbook;
use crate::testing::until;

const CEDAR: &str =
    r#"permit(principal in Role::"reader", action, resource == Field::"customers.email");"#;
/// A line has two seconds (docs/operations.md); the rest is for a busy machine.
const DEADLINE: Duration = Duration::from_secs(5);

/// Who asks, and what came of it.
struct Desk {
    instance: Instance,
    running: ServeProcess,
    client: Client,
    key: String,
    /// The first person's token, and one of each of about 150: references that take a side file.
    one: Vec<Value>,
    many: Vec<Value>,
    asked: usize,
    /// Requests that were answered with a value.
    answered: BTreeSet<String>,
    refused: u64,
}

impl Desk {
    /// Reads the first person's value.
    fn reads(&mut self) -> bool {
        self.reads_of(&self.one.clone())
    }

    /// Reads these values once; whether they were answered. They are refused in one way only, in
    /// time.
    fn reads_of(&mut self, items: &[Value]) -> bool {
        self.asked += 1;
        let id = format!("r-{}", self.asked);
        let body = json!({ "purpose": "support", "request_id": id, "items": items });
        let begun = Instant::now();
        let (status, answer) = self.running.post(&self.client, &self.key, "/v1/reveal", &body);
        let took = begun.elapsed();
        if status == 200 {
            assert_values(answer["items"].as_array().unwrap(), items.len());
            return self.answered.insert(id);
        }
        assert_eq!((status, &answer["code"]), (503, &"audit_unavailable".into()));
        assert!(took < DEADLINE, "refused after {took:?}");
        assert!(!answer.to_string().contains("@example.com"), "{answer}");
        self.refused += 1;
        false
    }

    /// The same as a stream.
    fn streams(&mut self, items: &[Value]) -> bool {
        self.asked += 1;
        let id = format!("r-{}", self.asked);
        let head = json!({ "purpose": "support", "request_id": id });
        let lines = [&[head], items].concat().iter().map(|line| format!("{line}\n")).collect();
        let asked = self.client.post(format!("http://{}/v1/reveal", self.running.address));
        let asked = asked.bearer_auth(&self.key).header("content-type", "application/x-ndjson");
        let begun = Instant::now();
        let text = asked.body::<String>(lines).send().unwrap().text().unwrap();
        let took = begun.elapsed();
        let answer: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        if answer.len() > 1 {
            assert_values(&answer[1..=items.len()], items.len());
            return self.answered.insert(id);
        }
        assert!(took < DEADLINE, "a stream ended after {took:?}");
        assert_eq!(answer[0]["end"]["problem"]["code"], "audit_unavailable", "{answer:?}");
        self.refused += 1;
        false
    }

    fn runbook(&self, name: &str, named: &[(&str, &str)]) -> String {
        runbook::served(name, Path::new(&self.instance.path(".")), named)
    }

    /// Nothing is answered while it is so, and everything again by itself.
    fn refuses_while(
        &mut self,
        is_so: impl FnOnce(&ServeProcess),
        no_more: impl FnOnce(&ServeProcess),
    ) {
        // Another set each time, and so another file.
        self.many.pop();
        let (one, many) = (self.one.clone(), self.many.clone());
        assert!(self.reads());
        is_so(&self.running);
        // The file of references first: whoever waits for it is told in time too.
        assert!(!self.reads_of(&many) && !self.streams(&many));
        for _ in 0..3 {
            assert!(!self.reads(), "nothing is answered meanwhile");
        }
        assert!(!self.streams(&one));
        let ready = |running: &ServeProcess| {
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
        assert!(self.streams(&one) && self.reads_of(&many) && self.streams(&many));
    }
}

/// As many answers, each with its value.
fn assert_values(items: &[Value], count: usize) {
    assert_eq!(items.len(), count, "{items:?}");
    for item in items {
        assert_eq!(item["value"], format!("c{}@example.com", item["id"]), "{item}");
    }
}

/// The most bytes that a file of the service may have from now on.
fn limit(running: &ServeProcess, most: Option<u64>) {
    let pid = Pid::from_raw(i32::try_from(running.child.id()).unwrap());
    let limit = Rlimit { current: most, maximum: None };
    prlimit(pid, Resource::Fsize, limit).unwrap();
}

#[test]
fn without_its_log_nothing_is_answered_and_it_comes_back() {
    let disk = Disk::new();
    let instance = Instance::of(&Setup { cedar: CEDAR, ..Setup::default() });
    let (_, key) = instance.make_key_of("desk", "reader");
    let record = |id| {
        let customer =
            json!({ "id": id, "email": format!("c{id}@example.com"), "ssn": "078-05-1120" });
        json!({ "type": "customer.updated", "customer": customer }).to_string() + "\n"
    };
    let sealed = instance.seal("customers", &(1..=150).map(record).collect::<String>());
    let many: Vec<Value> = sealed
        .iter()
        .map(|record| &record["customer"])
        .map(|customer| {
            json!({ "id": customer["id"], "field": "customers.email", "token": customer["email"],
                "subject": customer["id"] })
        })
        .collect();
    // The shell lets it live when a file reaches its limit.
    let running = instance.start_with(|command| {
        let mut shell = Command::new("sh");
        shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(command.get_program());
        shell.args(command.get_args()).envs(disk.environment()).env("NO_COLOR", "1");
        *command = shell;
    });
    let client = Client::builder().timeout(Duration::from_secs(60)).build().unwrap();
    let (one, answered) = (many[..1].to_vec(), BTreeSet::new());
    let mut desk =
        Desk { instance, running, client, key, one, many, asked: 0, answered, refused: 0 };

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
    assert!(!log.contains("@example.com"), "{log}");
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
