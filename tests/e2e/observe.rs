//! What a running sidecar tells, and how its topic is read back from the command line.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use veilstream::telemetry::metrics::Metrics;

use crate::feed::person;
use crate::kafka::kafka;
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{text, veilstream};

#[test]
fn every_metric_is_there_and_the_status_says_what_runs() {
    let sandbox = Sandbox::new(kafka(), "observe", 2);
    let instance = sandbox.instance(0);
    sandbox.feed(0..100, |i| if i == 7 { "no json".to_owned() } else { person(i) });
    let mut running = instance.start();
    running.ready();
    running.wait_for(Duration::from_secs(30), "the records", |r| {
        r.metric("veilstream_records_consumed_total", "topic=\"observe.raw\"") == 100.0
    });
    // Gauges follow within a second.
    running.wait_for(Duration::from_secs(30), "the lag", |r| {
        r.get("/metrics").unwrap().1.contains("veilstream_consumer_lag{")
    });
    let (_, metrics) = running.get("/metrics").unwrap();
    let missing: Vec<_> = Metrics::NAMES
        .iter()
        .filter(|name| !metrics.contains(&format!("# TYPE {name} ")))
        .collect();
    assert!(missing.is_empty(), "not in /metrics: {missing:?}");
    for (name, label, value) in [
        ("veilstream_records_produced_total", "topic=\"observe.clean\"", 99.0),
        ("veilstream_records_dead_lettered_total", "reason=\"not_json\"", 1.0),
        ("veilstream_fields_protected_total", "field=\"email\",outcome=\"indexed\"", 99.0),
        ("veilstream_fields_protected_total", "field=\"ssn\",outcome=\"encrypted\"", 99.0),
        ("veilstream_record_latency_seconds_count", "", 99.0),
    ] {
        running.await_metric(name, label, value);
    }
    running.wait_for(Duration::from_secs(30), "no lag", |r| {
        r.metric("veilstream_consumer_lag", "observe.raw") == 0.0
    });
    running.await_metric("veilstream_inflight_bytes", "", 0.0);

    let status: Value = serde_json::from_str(&running.get("/status").unwrap().1).unwrap();
    assert_eq!(
        (&status["version"], &status["ready"], &status["reasons"]),
        (&json!(env!("CARGO_PKG_VERSION")), &json!(true), &json!({}))
    );
    assert_eq!(status["schemas"], json!({"in_force": ["people/1"]}));
    assert_eq!((&status["kafka"]["partitions"], &status["kafka"]["lanes"]), (&json!(2), &json!(2)));
    assert_eq!(running.get("/nothing").unwrap().0, 404);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
}

#[test]
fn the_sanitized_topic_is_searched_and_revealed_from_the_command_line() {
    let sandbox = Sandbox::new(kafka(), "back", 2);
    let instance = sandbox.instance(0);
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.ready();
    running.wait_for(Duration::from_secs(60), "the records", |_| sandbox.clean().len() == 100);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    let (keys, schema) =
        (sandbox.dir.path().join("keys"), sandbox.dir.path().join("schemas/people.json"));
    let command = |arguments: &[&str]| {
        let mut command = veilstream(arguments);
        command.arg("--keys").arg(&keys).arg("--schema").arg(&schema);
        command
    };
    let mut reveal = command(&["reveal"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let clean = sandbox.clean();
    let mut stdin = reveal.stdin.take().unwrap();
    for record in &clean {
        stdin.write_all(&[record.value.as_deref().unwrap(), b"\n"].concat()).unwrap();
    }
    drop(stdin);
    let revealed = reveal.wait_with_output().unwrap();
    assert_eq!(revealed.status.code(), Some(0), "{}", text(&revealed));
    let lines: Vec<&str> = std::str::from_utf8(&revealed.stdout).unwrap().lines().collect();
    let expected: Vec<String> = clean.iter().map(|record| person(reader::number(record))).collect();
    assert_eq!(lines, expected);

    // The same as docs/usage.md does it: Kafka's console consumer into reveal. Of two partitions it
    // prints in an order of its own.
    let mut console = sandbox
        .broker
        .console_consumer("back.clean", clean.len())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let revealed = command(&["reveal"]).stdin(console.stdout.take().unwrap()).output().unwrap();
    let said = console.wait_with_output().unwrap();
    assert!(said.status.success(), "{}", text(&said));
    assert_eq!(revealed.status.code(), Some(0), "{}", text(&revealed));
    let mut lines: Vec<&str> = std::str::from_utf8(&revealed.stdout).unwrap().lines().collect();
    let mut expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    lines.sort_unstable();
    expected.sort_unstable();
    assert_eq!(lines, expected);

    let index = command(&["index", "--field", "email"]).arg("USER42@example.com").output().unwrap();
    assert_eq!(index.status.code(), Some(0), "{}", text(&index));
    let value = String::from_utf8(index.stdout).unwrap();
    let wanted = value.split_whitespace().last().unwrap().trim_matches('"').to_owned();
    let found: Vec<usize> = clean
        .iter()
        .filter(|r| reader::contains(r.value.as_deref().unwrap(), wanted.as_bytes()))
        .map(reader::number)
        .collect();
    assert!(found.contains(&42) && found.len() < 5, "{value}: {found:?}");
}
