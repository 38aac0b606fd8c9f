//! The audit log's second places under a running `serve`: a real PostgreSQL and a real Kafka that
//! stop, hang and come back.

use std::cell::Cell;
use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::audit_table::{audit_table, copies_in_table};
use crate::desk::{Desk, LIMIT, MANY, POLICY, veilstream};
use crate::kafka::{Kafka, kafka, wait_for};
use crate::postgres_server::{Database, Server};
use crate::reader;
use crate::runbook::served;

/// A table in a server that no other test needs, and what the configuration says of it.
fn table(delivery: &str) -> (Database, String) {
    audit_table(Box::leak(Box::new(Server::start())), delivery)
}

/// Lines of the topic.
fn copies_in_topic(desk: &Desk) -> String {
    let output = desk.audit(&["copies", "--topic"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_required_table_that_hangs_or_stops_refuses_and_is_caught_up() {
    let (database, audit) = table("required");
    let desk = Desk::new("127.0.0.1:1", &audit);
    let mut running = desk.start();
    running.reads_until("the first answer", true);
    for hangs in [true, false] {
        let paused = hangs.then(|| database.server.pause());
        if !hangs {
            database.server.stop();
        }
        running.reads_until("a refusal", false);
        running.operator_sees("postgres", true);
        for _ in 0..3 {
            assert!(!running.reads(), "nothing is answered meanwhile");
        }
        drop(paused);
        if !hangs {
            database.server.up();
        }
        running.reads_until("an answer again", true);
        running.operator_sees("postgres", false);
    }
    // The table itself is wrong: told by what to do.
    database.sql("ALTER TABLE pii_access_logs RENAME TO other");
    running.reads_until("a refusal", false);
    assert!(running.log().contains("has no table pii_access_logs"), "{}", running.log());
    database.sql("ALTER TABLE other RENAME TO pii_access_logs");
    running.reads_until("an answer again", true);
    let metrics = running.get("/metrics");
    assert!(metrics.contains("veilstream_audit_gap_lines_total{sink=\"postgres\"} 0"), "{metrics}");
    // Killed with a line that the table lacks: the next process brings it.
    let paused = database.server.pause();
    running.reads_until("a refusal", false);
    let mut answered = running.kill();
    drop(paused);
    let mut running = desk.start();
    running.reads_until("an answer of the next process", true);
    answered.append(&mut running.stop());
    let copies = copies_in_table(desk.dir.path(), &database);
    desk.assert_same(&copies);
    for id in &answered {
        assert!(copies.contains(&format!("\"request_id\":\"{id}\"")), "{id} is not in the table");
    }
    // The columns beside the line, and a role that may do nothing else.
    let mut admin = database.admin();
    let row = admin
        .query_one(
            "SELECT user_id, accessed_by, fields_accessed::text, ip_address FROM pii_access_logs \
            WHERE access_type = 'reveal' LIMIT 1",
            &[],
        )
        .unwrap();
    let column = |n: usize| row.get::<_, String>(n);
    assert_eq!((column(1).as_str(), column(2).as_str()), ("key:desk", "[\"email\"]"));
    assert_eq!((column(0).len(), column(3).as_str()), (32, "127.0.0.1"));
    let role = format!("writer_{}", database.name);
    for sql in [
        "SELECT * FROM pii_access_logs",
        "DELETE FROM pii_access_logs",
        "UPDATE pii_access_logs SET line = ''",
        "TRUNCATE pii_access_logs",
    ] {
        let refused = admin.batch_execute(&format!("BEGIN; SET LOCAL ROLE {role}; {sql}; COMMIT"));
        assert!(refused.is_err(), "{sql}");
        admin.batch_execute("ROLLBACK").unwrap();
    }
    // Whom a bulk read names comes with its line.
    let mut running = desk.start();
    assert!(running.reads_first(desk.tokens.len()));
    running.stop();
    let row = admin.query_one("SELECT length(refs) FROM pii_access_log_subjects", &[]).unwrap();
    assert_eq!(u64::try_from(row.get::<_, i32>(0)).unwrap(), MANY * 16);
    desk.assert_same(&copies_in_table(desk.dir.path(), &database));
}

/// Reads on while a place that is not required hangs: a line says how many lines it never had.
fn misses_lines(
    desk: &Desk,
    place: &str,
    hang: impl FnOnce(),
    resume: impl FnOnce(),
    copies: impl FnOnce() -> String,
) {
    let mut running = desk.start();
    running.reads_until("the first answer", true);
    hang();
    for _ in 0..30 {
        assert!(running.reads(), "answers go on");
    }
    let missed = format!("veilstream_audit_gap_lines_total{{sink=\"{place}\"}}");
    wait_for(LIMIT, "the metric", || !running.get("/metrics").contains(&format!("{missed} 0\n")));
    assert!(running.get("/readyz").contains("ready"), "it reads");
    assert!(running.log().contains("takes no lines; they wait"), "{}", running.log());
    let said = served("place-away", desk.dir.path(), &[("127.0.0.1:8787", &running.process.http)]);
    assert!(said.contains(&format!("\"audit {place}\":{{\"away\":\"")), "{said}");
    assert!(said.contains(&missed), "{said}");
    resume();
    wait_for(LIMIT, "the gap line", || {
        desk.lines().iter().any(|line| line.contains("\"event\":\"gap\""))
    });
    running.reads_until("an answer", true);
    let metrics = running.get("/metrics");
    let said = served("place-gaps", desk.dir.path(), &[]);
    assert!(said.contains(&format!("\"reason\":\"{place}\"")), "{said}");
    running.stop();
    let (here, copies) = (desk.lines(), copies());
    let missing = here.len() - copies.lines().count();
    let gaps: Vec<Value> = here
        .iter()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .filter(|line| line["event"] == "gap")
        .collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert_eq!((&gaps[0]["items"], &gaps[0]["reason"]), (&missing.into(), &place.into()));
    assert!(metrics.contains(&format!("{missed} {missing}\n")), "{missing}: {metrics}");
    println!("{missing} lines missed");
}

#[test]
fn a_table_that_is_not_required_misses_lines_and_a_line_says_how_many() {
    let (database, audit) = table("best_effort");
    let desk = Desk::new("127.0.0.1:1", &audit);
    let paused = Cell::new(None);
    let hang = || paused.set(Some(database.server.pause()));
    let resume = || drop(paused.take());
    misses_lines(&desk, "postgres", hang, resume, || copies_in_table(desk.dir.path(), &database));
}

#[test]
fn a_required_topic_that_hangs_refuses_and_is_caught_up() {
    let cluster = Kafka::start("audit", 3);
    let keeps = [("retention.ms", "-1"), ("min.insync.replicas", "2")];
    cluster.create_topic_with("access", 2, &keeps);
    let desk = Desk::new(&cluster.bootstrap, "topic = \"access\"\n");
    let mut running = desk.start();
    running.reads_until("the first answer", true);
    // A majority of three hangs: no partition takes a record.
    for node in 1..3 {
        cluster.pause(node);
    }
    running.reads_until("a refusal", false);
    running.operator_sees("topic", true);
    for _ in 0..3 {
        assert!(!running.reads(), "nothing is answered meanwhile");
    }
    for node in 1..3 {
        cluster.resume(node);
    }
    running.reads_until("an answer again", true);
    running.operator_sees("topic", false);
    // Brokers that elect leaders would let the last lines wait for the next process.
    let admin = cluster.admin();
    cluster.await_in_sync(LIMIT, &admin);
    assert!(!running.log().contains("CONFWARN"), "{}", running.log());
    let answered = running.stop();
    let copies = copies_in_topic(&desk);
    desk.assert_same(&copies);
    for id in &answered {
        assert!(copies.contains(&format!("\"request_id\":\"{id}\"")), "{id} is not in the topic");
    }
    // By a client that shares no code: the chain is the key, and the order is the log's.
    let records = reader::committed(&cluster.bootstrap, "access", 2);
    let lines = desk.lines();
    let there: Vec<&str> =
        records.iter().map(|r| std::str::from_utf8(r.value.as_deref().unwrap()).unwrap()).collect();
    assert_eq!(there, lines);
    let line: Value = serde_json::from_str(&lines[0]).unwrap();
    let chain = line["chain"].as_str().unwrap();
    assert!(records.iter().all(|record| record.key.as_deref() == Some(chain.as_bytes())));
    // One that is not required keeps nobody waiting.
    cluster.create_topic_with("hints", 2, &keeps);
    let audit = "topic = \"hints\"\ntopic_delivery = \"best_effort\"\nqueue = 5\n";
    let desk = Desk::new(&cluster.bootstrap, audit);
    let hang = || (1..3).for_each(|node| cluster.pause(node));
    let resume = || (1..3).for_each(|node| cluster.resume(node));
    misses_lines(&desk, "topic", hang, resume, || copies_in_topic(&desk));
}

#[test]
fn a_topic_that_would_lose_lines_is_refused_at_the_start() {
    let broker = kafka();
    for (name, settings, said) in [
        ("audit-compacted", &[("cleanup.policy", "compact")][..], "is compacted"),
        ("audit-alone", &[("retention.ms", "-1")], "min.insync.replicas 1"),
        ("audit-short", &[("min.insync.replicas", "2")], "forgets lines before audit.retain"),
    ] {
        broker.create_topic_with(name, 1, settings);
        let desk = Desk::new(&broker.bootstrap, &format!("topic = \"{name}\"\n"));
        let config = desk.path("veilstream.toml");
        let output = veilstream(&["serve", "--config", &config]).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(5) && errors.contains(said), "{errors}");
        assert!(!Path::new(&desk.path("audit.jsonl")).exists(), "no chain was begun");
    }
    // One that is not required is warned of, and used.
    let audit = "topic = \"audit-alone\"\ntopic_delivery = \"best_effort\"\n";
    let desk = Desk::new(&broker.bootstrap, audit);
    let mut running = desk.start();
    assert!(running.log().contains("min.insync.replicas 1"), "{}", running.log());
    assert!(running.reads());
    running.stop();
}

/// What decides and what opens is in the log from the moment on from which it does.
#[test]
fn changes_of_policies_and_schemas_have_lines() {
    let desk = Desk::new("127.0.0.1:1", "copy = \"none\"\n");
    let running = desk.start();
    assert!(running.log().contains("audit.copy is"), "{}", running.log());
    let of = |event: &str| -> Vec<Value> {
        let lines = desk.lines().into_iter().map(|line| serde_json::from_str(&line).unwrap());
        lines.filter(|line: &Value| line["event"] == event).collect()
    };
    let reloaded = |event: &str, count: usize| {
        wait_for(LIMIT, event, || {
            running.process.signal(Signal::HUP);
            of(event).len() == count
        });
    };
    let kept = |line: &Value| {
        let file = format!("audit.jsonl.policy-{}", line["policy"].as_str().unwrap());
        fs::read_to_string(desk.path(&file)).unwrap()
    };
    // At once: half a file may be a set of its own.
    let replace = |name: &str, text: &str| {
        fs::write(desk.path("new"), text).unwrap();
        fs::rename(desk.path("new"), desk.path(name)).unwrap();
    };
    let first = of("policy");
    assert_eq!((first.len(), &first[0]["reason"]), (1, &"start".into()));
    assert!(kept(&first[0]).contains("desk-reads"));
    replace("policies/desk.cedar", &POLICY.replace("desk-reads", "desk-2"));
    reloaded("policy", 2);
    let line = &of("policy")[1];
    assert_eq!((&line["reason"], &line["outcome"]), (&"reload".into(), &"ok".into()));
    assert!(kept(line).contains("desk-2") && line["policy"] != first[0]["policy"]);
    replace("policies/desk.cedar", "permit(canary-5a1f");
    reloaded("policy", 3);
    let line = &of("policy")[2];
    assert_eq!(
        (&line["reason"], &line["outcome"]),
        (&"refused: desk.cedar".into(), &"failed".into())
    );
    replace("policies/desk.cedar", POLICY);
    reloaded("policy", 4);
    // Other schemas are other policies too: both are one snapshot.
    let schema = desk.path("schemas/customers.json");
    let mut document: Value = serde_json::from_str(&fs::read_to_string(&schema).unwrap()).unwrap();
    document["version"] = 4.into();
    replace("schemas/customers.json", &document.to_string());
    reloaded("schema", 1);
    assert_eq!(of("schema")[0]["reason"], "customers/4");
    assert!(!desk.lines().concat().contains("canary-5a1f"));
    running.stop();
}
