//! One budget over single requests, instances, restarts and clocks.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{LazyLock, Mutex};

use reqwest::blocking::Client;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::instance::{Instance, SUPPORT, ServeProcess, Setup, done, fed, veilstream};
use crate::testing::{TestIssuer, until};

const READER: &str = r#"permit(principal in Role::"reader", action in [Action::"reveal", Action::"search"], resource);"#;

/// A budget of six data subjects and six values, for one purpose.
fn setup<'a>(serve: &'a str, policy: &'a str) -> Setup<'a> {
    Setup {
        serve,
        policy,
        cedar: READER,
        schemas: &["customers", "github-webhooks"],
        ..Setup::default()
    }
}

fn policy() -> String {
    policy_of(6)
}

fn policy_of(subjects: u32) -> String {
    format!(
        "{SUPPORT}[[policy.budgets]]\npurpose = \"support\"\nsubjects = {subjects}\nvalues = 6\n"
    )
}

/// Tokens of as many people, one each.
fn people(instance: &Instance, from: u64, count: u64) -> Vec<Value> {
    let record = |id: u64| {
        let customer =
            json!({ "id": id, "email": format!("c{id}@example.com"), "ssn": "078-05-1120" });
        json!({ "type": "customer.updated", "customer": customer }).to_string() + "\n"
    };
    let records: String = (from..from + count).map(record).collect();
    let sealed = instance.seal("customers", &records);
    sealed
        .iter()
        .zip(from..)
        .map(|(record, id)| {
            json!({ "field": "customers.email", "token": record["customer"]["email"],
                "subject": id })
        })
        .collect()
}

/// How many of these are revealed.
fn read(running: &ServeProcess, token: &str, items: &[Value]) -> usize {
    let body = json!({ "purpose": "support", "items": items });
    let (status, answer) = running.post(&Client::new(), token, "/v1/reveal", &body);
    assert_eq!(status, 200, "{answer}");
    let items = answer["items"].as_array().unwrap();
    let revealed = items.iter().filter(|item| item["status"] == "revealed").count();
    assert!(items.iter().all(|item| item["status"] == "revealed" || item["status"] == "denied"));
    revealed
}

#[test]
fn single_requests_batches_and_restarts_spend_one_budget() {
    let policy = policy();
    let instance = Instance::of(&setup("insecure = true\n", &policy));
    let (_, key) = instance.make_key_of("desk", "reader");
    // Another key of the same name is the same principal.
    let (_, second) = instance.make_key_of("desk", "reader");
    let (_, other) = instance.make_key_of("office", "reader");
    let people = people(&instance, 1, 12);
    let mut running = instance.start();
    for _ in 0..2 {
        assert_eq!(read(&running, &key, &people[..1]), 1);
        assert_eq!(read(&running, &key, &people[1..2]), 1, "what was read costs nothing again");
    }
    assert_eq!(read(&running, &second, &people[..3]), 3);
    running.signal(Signal::KILL);
    running.child.wait().unwrap();
    running = instance.start();
    assert_eq!(read(&running, &key, &people[..3]), 3, "they are known after a restart");
    assert_eq!(read(&running, &key, &people), 6, "three more, and no more");
    assert_eq!(read(&running, &second, &people[8..]), 0);
    assert_eq!(read(&running, &other, &people[8..]), 4, "another principal");
    let denied = running.metrics();
    assert!(denied.contains("veilstream_budget_denials_total{purpose=\"support\"}"), "{denied}");
    assert_eq!(running.stop(), 0);
    running = instance.start();
    assert_eq!(read(&running, &key, &people), 6);
    let budget = instance.audited().iter().filter(|line| line["outcome"] == "budget").count();
    assert!(budget > 0);
    assert!(instance.verify().status.success());
}

/// Of three instances each has a third, whichever of them is asked.
#[test]
fn instances_share_one_budget() {
    let policy = policy();
    let instance = Instance::of(&setup("insecure = true\ninstances = 3\n", &policy));
    let (_, key) = instance.make_key_of("desk", "reader");
    let people = people(&instance, 1, 12);
    let instances: Vec<ServeProcess> = (0..3).map(|_| instance.start()).collect();
    let revealed: usize = instances
        .iter()
        .zip(people.chunks(4))
        .map(|(running, people)| read(running, &key, people))
        .sum();
    assert_eq!(revealed, 6);
    assert!(instance.verify().status.success());
}

/// The lines of a stream's answer; the last one is its end.
fn stream(running: &ServeProcess, token: &str, head: &Value, items: &[Value]) -> Vec<Value> {
    let lines = std::iter::once(head).chain(items);
    let body: String = lines.map(|line| format!("{line}\n")).collect();
    let asked = Client::new().post(format!("http://{}/v1/reveal", running.address));
    let asked = asked.bearer_auth(token).header("content-type", "application/x-ndjson");
    let answer = asked.body(body).send().unwrap().text().unwrap();
    answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Single requests, batches and a stream ask each instance at once. Returns what any was told.
fn told_at_once(instances: &[ServeProcess], token: &str, people: &[Value]) -> BTreeSet<String> {
    let told = Mutex::new(BTreeSet::new());
    let tell = |answers: &[Value]| {
        let values = answers.iter().filter_map(|item| item["value"].as_str().map(str::to_owned));
        told.lock().unwrap().extend(values);
    };
    let post = |running: &ServeProcess, items: &[Value]| {
        let body = json!({ "purpose": "support", "items": items });
        let (status, answer) = running.post(&Client::new(), token, "/v1/reveal", &body);
        assert_eq!(status, 200, "{answer}");
        tell(answer["items"].as_array().unwrap());
    };
    std::thread::scope(|scope| {
        for (running, own) in instances.iter().zip(people.chunks(people.len() / instances.len())) {
            scope
                .spawn(move || own.iter().for_each(|one| post(running, std::slice::from_ref(one))));
            scope.spawn(move || own.chunks(4).for_each(|batch| post(running, batch)));
            scope.spawn(move || {
                let head = json!({ "purpose": "support" });
                let answers = stream(running, token, &head, own);
                assert!(answers.last().unwrap()["end"].get("summary").is_some(), "{answers:?}");
                tell(&answers);
            });
        }
    });
    told.into_inner().unwrap()
}

/// Whatever form a request has, whichever instance it asks, and after a crash of all of them on a
/// host whose clock went back.
#[test]
fn all_ways_to_ask_spend_one_budget_over_a_crash_and_a_clock_set_back() {
    let policy = policy_of(9);
    let instance = Instance::of(&setup("insecure = true\ninstances = 3\n", &policy));
    let (_, key) = instance.make_key_of("desk", "reader");
    let people = people(&instance, 1, 36);
    let start = |back: i64| -> Vec<ServeProcess> {
        let start = |_| instance.start_with(|command| set_back(command, back));
        (0..3).map(start).collect()
    };
    let mut instances = start(0);
    let told = told_at_once(&instances, &key, &people);
    assert_eq!(told.len(), 9, "{told:?}");
    for running in &mut instances {
        running.signal(Signal::KILL);
        running.child.wait().unwrap();
    }
    instances = start(2 * 86_400);
    assert_eq!(told_at_once(&instances, &key, &people).difference(&told).next(), None);
    drop(instances);
    instances = start(-90_000);
    let next_day = told_at_once(&instances, &key, &people);
    assert_eq!(next_day.len(), 9, "{next_day:?}");
    assert!(instance.verify().status.success());
}

/// The subject of one issuer is not that of another.
#[test]
fn two_issuers_with_one_sub_are_two_principals() {
    let issuer = TestIssuer::start();
    let section = |name: &str, iss: &str| {
        format!(
            "[serve.jwt.{name}]\nissuer = \"{iss}\"\naudience = \"veilstream\"\njwks = \
            \"{}\"\nca_file = \"{}\"\n",
            issuer.url,
            issuer.ca().display()
        )
    };
    let serve = format!(
        "insecure = true\nprincipals = [\"jwt\"]\n{}{}",
        section("corp", "https://login.corp"),
        section("batch", "batch")
    );
    let policy = policy();
    let instance = Instance::of(&setup(&serve, &policy));
    let people = people(&instance, 1, 12);
    let running = instance.start();
    let token = |iss: &str| {
        issuer.token(|claims| {
            (claims["iss"], claims["roles"]) = (iss.into(), json!(["reader"]));
        })
    };
    assert_eq!(read(&running, &token("https://login.corp"), &people), 6);
    assert_eq!(read(&running, &token("batch"), &people), 6);
    assert_eq!(read(&running, &token("https://login.corp"), &people[6..]), 0);
    let lines = instance.audited();
    for actor in ["jwt:corp:ana", "jwt:batch:ana"] {
        assert!(lines.iter().any(|line| line["actor"] == actor), "{actor}");
    }
}

/// A library that sets the clock by `CLOCK_BACK` seconds back.
static CLOCK: LazyLock<PathBuf> = LazyLock::new(|| {
    const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>
int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, now);
    const char *back = getenv("CLOCK_BACK");
    if (back && id == CLOCK_REALTIME) now->tv_sec -= atol(back);
    return done;
}
"#;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let name = |end: &str| folder.join(format!("clock-{}.{end}", std::process::id()));
    let (source, library) = (name("c"), name("so"));
    std::fs::write(&source, SOURCE).unwrap();
    done(
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl"),
    );
    library
});

fn set_back(command: &mut Command, seconds: i64) {
    command.env("LD_PRELOAD", &*CLOCK).env("CLOCK_BACK", seconds.to_string());
}

#[test]
fn a_clock_that_is_set_back_frees_nothing() {
    let policy = policy();
    let instance = Instance::of(&setup("insecure = true\n", &policy));
    let (_, key) = instance.make_key_of("desk", "reader");
    let people = people(&instance, 1, 12);
    // The log's lines stand two days ahead of the clock, and then a day and an hour behind it.
    let start = |back: i64| instance.start_with(|command| set_back(command, back));
    let mut running = start(0);
    assert_eq!(read(&running, &key, &people[..6]), 6);
    assert_eq!(running.stop(), 0);
    running = start(2 * 86_400);
    assert_eq!(read(&running, &key, &people[6..]), 0, "the day is not over");
    assert_eq!(running.stop(), 0);
    running = start(-90_000);
    assert_eq!(read(&running, &key, &people[6..]), 6, "a day later it is");
}

/// A request that is made again is one disclosure: also where its first attempt read nothing, and
/// after a restart.
#[test]
fn attempts_of_one_request_spend_what_was_opened() {
    let policy = policy();
    let instance = Instance::of(&setup("insecure = true\n", &policy));
    let (_, key) = instance.make_key_of("desk", "reader");
    let deny = "permit(principal in Role::\"reader\", action == Action::\"explain\", resource);";
    instance.write("policies/all.cedar", deny);
    let mut running = instance.start();
    let client = Client::new();
    // Of nobody, so each record counts.
    let item = webhook(&instance, &["email"]);
    let ask = |running: &ServeProcess, id: &str, count: usize| -> usize {
        let body = json!({ "purpose": "support", "request_id": id, "items": vec![&item; count] });
        let (status, answer) = running.post(&client, &key, "/v1/reveal", &body);
        assert_eq!(status, 200, "{answer}");
        let items = answer["items"].as_array().unwrap();
        items.iter().filter(|item| item["fields"]["email"]["status"] == "revealed").count()
    };
    assert_eq!(ask(&running, "r-1", 4), 0, "denied by policy");
    instance.write("policies/all.cedar", READER);
    running.signal(Signal::HUP);
    until("it is permitted", || ask(&running, "r-1", 4) == 4);
    assert_eq!(ask(&running, "r-1", 4), 4, "the same again");
    assert_eq!(ask(&running, "r-2", 4), 2, "four of six were spent");
    // A stream is no retry, whatever its id.
    let head = json!({ "purpose": "support", "request_id": "r-1" });
    let answer = stream(&running, &key, &head, &vec![item.clone(); 4]);
    assert_eq!(answer.last(), Some(&json!({ "end": { "summary": { "denied": 4 } } })));
    assert_eq!(running.stop(), 0);
    running = instance.start();
    assert_eq!(ask(&running, "r-3", 4), 0, "and are after a restart");
}

/// Values that have no index count as well, and so does sealing what tells equality.
#[test]
fn values_that_are_searched_spend_a_budget() {
    let policy = policy();
    let instance = Instance::of(&setup("insecure = true\n", &policy));
    let cedar = r#"permit(principal in Role::"reader", action, resource);"#;
    instance.write("policies/all.cedar", cedar);
    let (_, key) = instance.make_key_of("desk", "reader");
    let mut running = instance.start();
    let ask = |running: &ServeProcess, id: &str, values: &[Value]| {
        let queries: Vec<Value> =
            values.iter().map(|v| json!({ "field": "customers.email", "value": v })).collect();
        let body = json!({ "purpose": "support", "request_id": id, "queries": queries });
        let (status, answer) = running.post(&Client::new(), &key, "/v1/index", &body);
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let value = |n: u32| json!(format!("c{n}@example.com"));
    let none = |n: u32| json!({ "n": n });
    // Four of six: two that have an index and two that have none.
    let answer = ask(&running, "s-1", &[value(1), value(2), none(3), none(4)]);
    assert_eq!(answer["summary"], json!({ "ok": 2, "no_index": 2 }), "{answer}");
    let answer = ask(&running, "s-2", &[value(1), none(4)]);
    assert_eq!(answer["summary"], json!({ "ok": 1, "no_index": 1 }), "known ones cost nothing");
    let answer = ask(&running, "s-3", &[value(5), none(6), value(7), none(8), value(1)]);
    assert_eq!(answer["summary"], json!({ "ok": 2, "no_index": 1, "denied": 2 }), "{answer}");
    assert_eq!(answer["queries"][2], json!({ "status": "denied", "values": [] }), "{answer}");
    assert_eq!(answer["queries"][2], answer["queries"][3]);
    let body = json!({ "purpose": "support",
        "items": [{ "field": "customers.card", "value": "4242424242424242" }] });
    let (_, answer) = running.post(&Client::new(), &key, "/v1/seal", &body);
    assert_eq!(answer["summary"], json!({ "denied": 1 }), "{answer}");
    let metrics = running.metrics();
    let denied = "veilstream_budget_denials_total{purpose=\"support\"} 3\n";
    assert!(metrics.contains(denied), "{metrics}");
    let lines = instance.audited();
    let told: Vec<(&Value, &Value)> = lines
        .iter()
        .filter(|line| line["request_id"] == "s-3")
        .map(|line| (&line["outcome"], &line["items"]))
        .collect();
    assert_eq!(told, [(&json!("budget"), &json!(2)), (&json!("ok"), &json!(3))]);
    assert_eq!(running.stop(), 0);
    running = instance.start();
    assert_eq!(ask(&running, "s-4", &[value(9)])["summary"], json!({ "denied": 1 }));
}

/// A record that names nobody.
fn webhook(instance: &Instance, fields: &[&str]) -> Value {
    let record = json!({ "pusher": { "name": "Grace Hopper", "email": "grace@example.com" } });
    let record = instance.seal("github-webhooks", &record.to_string()).remove(0);
    json!({ "schema": "github-webhooks", "fields": fields, "record": record })
}

/// How many of these the budget still has room for, by the lines of the audit.
fn room(instance: &Instance, running: &ServeProcess, key: &str, items: &[Value]) -> u64 {
    let body = json!({ "purpose": "support", "request_id": "last", "items": items });
    assert_eq!(running.post(&Client::new(), key, "/v1/reveal", &body).0, 200);
    let lines = instance.audited();
    let denied = |line: &&Value| line["request_id"] == "last" && line["outcome"] == "budget";
    let denied = lines.iter().filter(denied).map(|line| line["items"].as_u64().unwrap());
    items.len() as u64 - denied.sum::<u64>()
}

/// A request over more than 100 people has one line for them, and what names nobody another.
#[test]
fn nobody_beside_many_people_stays_spent_over_a_restart() {
    let policy = policy_of(160);
    let instance = Instance::of(&setup("insecure = true\n", &policy));
    let (_, key) = instance.make_key_of("desk", "reader");
    let record = json!({ "type": "customer.updated", "payments": [{ "card": "4111111111111111" }],
        "customer": { "id": 1, "ssn": "078-05-1120" } });
    let record = instance.seal("customers", &record.to_string()).remove(0);
    let card = json!({ "field": "customers.card", "token": record["payments"][0]["card"] });
    let items = [people(&instance, 1, 101), vec![card; 50]].concat();
    let mut running = instance.start();
    let body = json!({ "purpose": "support", "items": items });
    let (_, answer) = running.post(&Client::new(), &key, "/v1/reveal", &body);
    assert_eq!(answer["summary"], json!({ "revealed": 101 + 50 }), "{answer}");
    assert_eq!(running.stop(), 0);
    running = instance.start();
    assert_eq!(room(&instance, &running, &key, &people(&instance, 200, 12)), 160 - 151);
    assert!(instance.verify().status.success());
}

/// Opened, and nothing of it shown: for honey, and where another field may not be read.
#[test]
fn nobody_that_was_not_shown_stays_spent_over_a_restart() {
    let policy = policy();
    let instance = Instance::of(&setup("insecure = true\n", &policy));
    let (_, key) = instance.make_key_of("desk", "reader");
    let cedar = r#"permit(principal in Role::"reader", action == Action::"reveal", resource)
        unless { resource == Field::"github-webhooks.person" };"#;
    instance.write("policies/all.cedar", cedar);
    let (schema, keys) = (instance.path("schemas/github-webhooks.json"), instance.path("keys"));
    let args = ["honey", "create", "--keys", &keys, "--schema", &schema, "--field", "email"];
    let honey = fed(veilstream(&args).arg("--stdin"), "mary.sample@example.org\n");
    let mut running = instance.start();
    let client = Client::new();
    let ask = |running: &ServeProcess, items: Value| {
        let body = json!({ "purpose": "support", "items": items });
        running.post(&client, &key, "/v1/reveal", &body).1["summary"].clone()
    };
    let honey = json!({ "field": "github-webhooks.email", "token": honey.trim() });
    let two = json!([webhook(&instance, &["email"]), honey]);
    assert_eq!(ask(&running, two), json!({ "denied": 2 }));
    let mut corrupt = webhook(&instance, &["email", "person"]);
    corrupt["record"]["pusher"]["email"] = "vs1.x".into();
    assert_eq!(ask(&running, json!([corrupt])), json!({ "corrupt": 1, "denied": 1 }));
    // Denied before anything is looked at, and no item at all: neither spends.
    let person = webhook(&instance, &["person"]);
    assert_eq!(ask(&running, json!([person, 1])), json!({ "denied": 1, "malformed": 1 }));
    assert_eq!(running.stop(), 0);
    running = instance.start();
    let items = vec![webhook(&instance, &["email"]); 12];
    assert_eq!(room(&instance, &running, &key, &items), 6 - 3);
}
