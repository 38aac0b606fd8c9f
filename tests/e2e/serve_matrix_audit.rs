//! No answer without its line, in the log and in its second place: the service is killed at random
//! under load, and the file of its chain is deleted.

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::Rng as _;
use proptest::test_runner::{RngAlgorithm, TestRng};
use reqwest::blocking::{Client, Response};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::audit_table::{audit_table, copies_in_table};
use crate::instance::{Instance, SUPPORT, ServeProcess, Setup};
use crate::postgres_server::server;
use crate::serve_matrix_denied::customer;
use crate::serve_matrix_roles::seed;
use crate::testing::until;

const CEDAR: &str = r#"permit(principal in Role::"reader", action, resource);"#;
const SERVE: &str = "insecure = true\nitems_per_second = 10000000\n";
const UNLIMITED: &str = "[[policy.budgets]]\nsubjects = \"unlimited\"\nvalues = \"unlimited\"\n";
/// Of one instance.
const KILLS: u64 = 6;
/// Lines of a stream: more than one part.
const STREAMED: usize = 3000;

/// An answer that a client has.
#[derive(Debug)]
struct Answered {
    request: String,
    event: &'static str,
    /// Items that came.
    items: u64,
    /// Where the answer says that its line stands.
    place: Option<(String, u64)>,
}

/// What all who ask share.
struct Load<'a> {
    address: &'a str,
    key: &'a str,
    people: &'a [Value],
    answers: &'a Mutex<Vec<Answered>>,
    answered: AtomicUsize,
    is_over: AtomicBool,
}

impl Load<'_> {
    /// Asks until the service is gone.
    fn ask(&self, name: &str, way: usize) {
        let client = Client::new();
        for n in 0.. {
            let request = format!("{name}-{n}");
            let answered = match way {
                0 => self.stream(&client, &request),
                1 => self.index(&client, &request, n),
                2 => self.seal(&client, &request),
                // Of one person and of many: one line and several.
                _ if n % 3 == 0 => self.reveal(&client, &request, self.people),
                _ => self.reveal(&client, &request, &self.people[..1]),
            };
            let is_over = self.is_over.load(Ordering::SeqCst);
            assert!(answered.is_some() || is_over, "{request} was not answered");
            let Some(answered) = answered else { break };
            self.answers.lock().unwrap().push(answered);
            self.answered.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn send(&self, client: &Client, path: &str, media: &str, body: String) -> Option<Response> {
        let asked = client.post(format!("http://{}{path}", self.address)).bearer_auth(self.key);
        let answer = asked.header("content-type", media).body(body).send().ok()?;
        assert_eq!(answer.status(), 200);
        Some(answer)
    }

    fn post(
        &self,
        client: &Client,
        (path, event): (&str, &'static str),
        request: &str,
        (name, items): (&str, Vec<Value>),
    ) -> Option<Answered> {
        let count = items.len();
        let body = json!({ "purpose": "support", "request_id": request, name: items }).to_string();
        let answer = self.send(client, path, "application/json", body)?.json::<Value>().ok()?;
        assert_eq!(answer[name].as_array().unwrap().len(), count, "{answer}");
        let place = answer.get("audit").map(|place| {
            (place["chain"].as_str().unwrap().to_owned(), place["seq"].as_u64().unwrap())
        });
        Some(Answered { request: request.to_owned(), event, items: count as u64, place })
    }

    fn reveal(&self, client: &Client, request: &str, records: &[Value]) -> Option<Answered> {
        let item = |record| json!({ "schema": "customers", "record": record });
        let items = ("items", records.iter().map(item).collect());
        let answered = self.post(client, ("/v1/reveal", "reveal"), request, items);
        assert!(answered.as_ref().is_none_or(|answered| answered.place.is_some()));
        answered
    }

    fn index(&self, client: &Client, request: &str, n: u32) -> Option<Answered> {
        let query = json!({ "field": "customers.email", "value": format!("c{n}@example.com") });
        self.post(client, ("/v1/index", "search"), request, ("queries", vec![query]))
    }

    fn seal(&self, client: &Client, request: &str) -> Option<Answered> {
        let item = json!({ "field": "customers.email", "value": "ada@example.com", "subject": 1 });
        self.post(client, ("/v1/seal", "seal"), request, ("items", vec![item; 3]))
    }

    /// What came of a stream counts, also where it was cut.
    fn stream(&self, client: &Client, request: &str) -> Option<Answered> {
        let head = json!({ "purpose": "support", "request_id": request });
        let mut body = format!("{head}\n");
        for (record, id) in self.people.iter().zip(1..).cycle().take(STREAMED) {
            let token = &record["customer"]["email"];
            let item = json!({ "field": "customers.email", "token": token, "subject": id });
            body += &format!("{item}\n");
        }
        let mut answer =
            BufReader::new(self.send(client, "/v1/reveal", "application/x-ndjson", body)?);
        let (mut items, mut line) = (0, String::new());
        while matches!(answer.read_line(&mut line), Ok(1..)) && line.ends_with('\n') {
            items += u64::from(line.contains("\"value\":"));
            line.clear();
        }
        let answered =
            Answered { request: request.to_owned(), event: "reveal", items, place: None };
        (items > 0).then_some(answered)
    }
}

/// Each answer's line is among these.
fn assert_told(answers: &[Answered], lines: &[Value]) {
    let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
    let places: HashSet<(String, u64)> =
        lines.iter().map(|line| (text(line, "chain"), line["seq"].as_u64().unwrap())).collect();
    for answered in answers {
        let Answered { request, event, items, place } = answered;
        let own = lines.iter().filter(|line| line["request_id"] == **request);
        let own = own.filter(|line| line["event"] == *event);
        let told: u64 = own.map(|line| line["items"].as_u64().unwrap_or(1)).sum();
        assert!(told >= *items, "{told} items are told of {answered:?}");
        assert!(place.as_ref().is_none_or(|place| places.contains(place)), "{answered:?}");
    }
}

fn lines_of(copies: &str) -> Vec<Value> {
    copies.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Kills a service again and again at random under load. Returns what its clients have.
fn killed_under_load(instance: &Instance, random: &mut TestRng) -> Vec<Answered> {
    let (_, key) = instance.make_key_of("reader", "reader");
    let people: Vec<Value> = (1..=8).map(|id| customer(instance, id)).collect();
    let answers: Mutex<Vec<Answered>> = Mutex::default();
    for round in 0..KILLS {
        let mut running = instance.start();
        let load = Load {
            address: &running.address.clone(),
            key: &key,
            people: &people,
            answers: &answers,
            answered: AtomicUsize::new(0),
            is_over: AtomicBool::new(false),
        };
        let enough = usize::try_from(random.next_u64() % 200).unwrap() + 1;
        std::thread::scope(|scope| {
            for way in 0..6 {
                let load = &load;
                scope.spawn(move || load.ask(&format!("{round}-{way}"), way));
            }
            until("enough is answered", || load.answered.load(Ordering::SeqCst) >= enough);
            load.is_over.store(true, Ordering::SeqCst);
            running.signal(Signal::KILL);
            running.child.wait().unwrap();
        });
    }
    let answers = answers.into_inner().unwrap();
    for (event, is_stream) in
        [("reveal", false), ("reveal", true), ("search", false), ("seal", false)]
    {
        let count = answers.iter().filter(|answered| answered.event == event);
        let count = count.filter(|answered| (answered.items > 100) == is_stream).count();
        assert!(count > 0, "no {event}, stream {is_stream}");
    }
    println!("{} answers, {KILLS} kills", answers.len());
    answers
}

/// Also by way of a second place that is required: what was answered stands there too.
#[test]
fn no_answer_left_without_its_line() {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed().to_le_bytes());
    let mut random = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let (database, table) = audit_table(server(), "required");
    let policy = format!("{SUPPORT}{UNLIMITED}");
    let setup = Setup { cedar: CEDAR, serve: SERVE, policy: &policy, ..Setup::default() };
    for audit in [setup.audit, &table] {
        let instance = Instance::of(&Setup { audit, ..setup });
        let answers = killed_under_load(&instance, &mut random);
        // What a killed process left is brought to the second place before anything else.
        assert_eq!(instance.start().stop(), 0);
        assert_told(&answers, &instance.audited());
        let mut verified = instance.verify();
        if audit == table {
            let copies = copies_in_table(Path::new(&instance.path(".")), &database);
            assert_told(&answers, &lines_of(&copies));
            instance.write("copies.jsonl", &copies);
            verified = instance.verify_with(&["--copies", &instance.path("copies.jsonl")]);
        }
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

/// A value is read; whether it was answered.
fn reads(running: &ServeProcess, key: &str, record: &Value, request: &str) -> bool {
    let items = json!([{ "schema": "customers", "fields": ["email"], "record": record }]);
    let body = json!({ "purpose": "support", "request_id": request, "items": items });
    let (status, answer) = running.post(&Client::new(), key, "/v1/reveal", &body);
    assert!(status == 200 || answer["code"] == "audit_unavailable", "{answer}");
    status == 200
}

/// Before its first checkpoint, by somebody who lets the service go on, or ends it at once.
#[test]
fn a_running_chain_whose_file_is_deleted_is_missed_by_its_copies() {
    for goes_on in [true, false] {
        let (database, audit) = audit_table(server(), "required");
        let setup = Setup { cedar: CEDAR, audit: &audit, ..Setup::default() };
        let instance = Instance::of(&setup);
        let (_, key) = instance.make_key_of("reader", "reader");
        let record = customer(&instance, 17);
        let mut running = instance.start();
        let begun = Instant::now();
        until("the chain to be ten seconds old", || {
            reads(&running, &key, &record, "before") && begun.elapsed() >= Duration::from_secs(10)
        });
        let chain = instance.audited()[0]["chain"].as_str().unwrap().to_owned();
        fs::remove_file(instance.path("audit.jsonl")).unwrap();
        if goes_on {
            until("an answer in another chain", || reads(&running, &key, &record, "after"));
            let log = running.log();
            assert!(log.contains("moved or removed"), "{log}");
        }
        running.signal(Signal::KILL);
        running.child.wait().unwrap();
        assert_eq!(instance.start().stop(), 0);
        let copies = copies_in_table(Path::new(&instance.path(".")), &database);
        assert!(lines_of(&copies).iter().any(|line| line["request_id"] == "before"));
        instance.write("copies.jsonl", &copies);
        let verified = instance.verify_with(&["--copies", &instance.path("copies.jsonl")]);
        let said = String::from_utf8(verified.stdout).unwrap();
        assert_eq!(verified.status.code(), Some(1), "{said}");
        assert!(said.contains(&chain) && said.contains("is missing"), "{said}");
    }
}
