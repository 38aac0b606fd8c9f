//! Dead letters as an operator sees them: listed, shown, replayed once the schema is mended.

use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};

use crate::feed::{TIME, people, person};
use crate::kafka::{kafka, wait_for};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::text;

/// Demands a member that [`person`] does not have.
fn demanding(name: &str) -> String {
    people(name).replace(r#""fields":["#, r#""fields":[{"id":"phone","path":"$.phone","required":true},"#)
}

fn with_phone(i: usize) -> String {
    person(i).replace("\"note\"", "\"phone\":\"+43 1 4000\",\"note\"")
}

fn mended(name: &str) -> String {
    people(name).replace(r#""version":1"#, r#""version":2"#)
}

#[test]
fn listed_shown_and_replayed_once() {
    let sandbox = Sandbox::new(kafka(), "dlq", 2);
    sandbox.document("people", &demanding("dlq"));
    let instance = sandbox.instance(0);
    // Every third is rejected.
    let bad = |i: &usize| i.is_multiple_of(3);
    sandbox.feed(0..30, |i| if bad(&i) { person(i) } else { with_phone(i) });
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(60), "all records", |r| r.metric("veilstream_records_consumed_total", "dlq.raw") >= 30.0);
    assert_eq!(running.metric("veilstream_records_dead_lettered_total", "reason=\"missing_required\""), 10.0);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    let listed = instance.run(&["dlq", "list", "--json"]);
    assert_eq!(listed.status.code(), Some(0), "{}", text(&listed));
    let letters: Vec<Value> = String::from_utf8(listed.stdout).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let origins: Vec<usize> =
        letters.iter().map(|l| usize::try_from(l["origin"]["offset"].as_i64().unwrap() * 2 + l["origin"]["partition"].as_i64().unwrap()).unwrap()).collect();
    assert!(origins.len() == 10 && origins.iter().all(bad), "{origins:?}");
    assert!(letters.iter().all(|l| l["reason"] == "missing_required" && l["schema"] == "people/1" && l["time"] == TIME), "{letters:?}");
    let none = instance.run(&["dlq", "list", "--reason", "not_json"]);
    assert!(none.status.success() && none.stdout.is_empty(), "{}", text(&none));
    let plain = text(&instance.run(&["dlq", "list", "--topic", "dlq.raw"]));
    assert!(plain.lines().count() == 10 && !plain.contains("@example.com"), "{plain}");

    let place = format!("{}:{}", letters[0]["partition"], letters[0]["offset"]);
    let shown: Value = serde_json::from_slice(&instance.run(&["dlq", "show", &place]).stdout).unwrap();
    assert_eq!(shown["value"], person(origins[0]));
    assert_eq!((&shown["key"], &shown["headers"]), (&json!(format!("k{}", origins[0])), &json!([["n", origins[0].to_string()]])));
    let nothing = instance.run(&["dlq", "show", "0:999999"]);
    assert_eq!(nothing.status.code(), Some(1), "{}", text(&nothing));

    // Not mended: rejected again, to the end of the topic.
    assert_eq!(replay(&sandbox, 1), json!({"replayed": 0, "rejected_again": 10, "foreign": 0}));
    assert_eq!(sandbox.dead().len(), 20);
    sandbox.document("people", &mended("dlq"));
    assert_eq!(replay(&sandbox, 0), json!({"replayed": 10, "rejected_again": 0, "foreign": 0}));
    assert_eq!(replay(&sandbox, 0), json!({"replayed": 0, "rejected_again": 0, "foreign": 0}));

    let clean = sandbox.clean();
    assert_eq!(reader::times(&clean, 30), [1; 30]);
    for record in clean.iter().filter(|r| bad(&reader::number(r))) {
        let i = reader::number(record);
        assert_eq!(record.partition, i32::try_from(i % 2).unwrap());
        assert_eq!((record.key.as_deref(), record.timestamp), (Some(format!("k{i}").as_bytes()), TIME));
        assert_eq!(record.headers[1], ("veilstream-schema".to_owned(), Some("people/2".into())));
        assert!(!String::from_utf8_lossy(record.value.as_deref().unwrap()).contains("@example.com"));
    }
}

#[test]
fn a_killed_replay_goes_on_where_it_was() {
    const ALL: usize = 10_000;
    let sandbox = Sandbox::new(kafka(), "dlq-killed", 2);
    sandbox.document("people", &demanding("dlq-killed"));
    let instance = sandbox.instance(0);
    sandbox.feed(0..ALL, person);
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(90), "all dead letters", |r| r.metric("veilstream_records_dead_lettered_total", "") >= ALL as f64);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.document("people", &mended("dlq-killed"));

    let mut replay_process = instance.command(&["dlq", "replay"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let admin = sandbox.broker.admin();
    wait_for(Duration::from_secs(60), "the replay to be half-way", || {
        let end = |partition| admin.inner().fetch_watermarks("dlq-killed.clean", partition, Duration::from_secs(5)).unwrap().1;
        end(0) + end(1) > 1000
    });
    replay_process.kill().unwrap();
    replay_process.wait().unwrap();
    let before = sandbox.clean().len();
    assert!(before < ALL, "the replay had ended: this run proved nothing");
    let done = replay(&sandbox, 0);
    assert!(done["replayed"].as_u64().unwrap() > 0 && done["rejected_again"] == 0, "{done}");
    let times = reader::times(&sandbox.clean(), ALL);
    assert!(times.iter().all(|n| *n == 1), "{} missing, {} repeated", times.iter().filter(|n| **n == 0).count(), times.iter().filter(|n| **n > 1).count());
    println!("dlq: {before} of {ALL} replayed when killed, {} by the second replay", done["replayed"]);
}

fn replay(sandbox: &Sandbox<'_>, exit: i32) -> Value {
    let output = sandbox.instance(0).run(&["dlq", "replay", "--json"]);
    assert_eq!(output.status.code(), Some(exit), "{}", text(&output));
    let line = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(line.lines().last().unwrap_or_else(|| panic!("{}", text(&output)))).unwrap()
}
