//! Schema documents that change while the sidecar runs, and a schema that rejects too much.

use std::time::Duration;

use serde_json::{Value, json};

use crate::feed::{Feeder, Input, TIME, people, person};
use crate::kafka::kafka;
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::Running;

#[test]
fn the_header_of_the_schema_is_a_setting() {
    let sandbox = Sandbox::new(kafka(), "headerless", 1);
    let instance = sandbox.instance(0).set("PIPELINE__SCHEMA_HEADER", "false");
    let feeder = Feeder::new(sandbox.broker);
    let value = person(1);
    for headers in [&[][..], &[("n", Some(&b"1"[..]))]] {
        feeder.send(&Input {
            topic: "headerless.raw",
            partition: 0,
            key: None,
            value: Some(value.as_bytes()),
            timestamp: *TIME,
            headers,
        });
    }
    feeder.finish();
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(30), "both records", |_| sandbox.clean().len() == 2);
    let headers: Vec<_> = sandbox.clean().into_iter().map(|record| record.headers).collect();
    assert_eq!(headers, [vec![], vec![("n".to_owned(), Some("1".into()))]]);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
}

#[test]
fn a_changed_document_comes_into_force_and_a_bad_one_does_not() {
    let sandbox = Sandbox::new(kafka(), "reload", 2);
    let instance = sandbox.instance(0);
    let mut running = instance.start();
    running.ready();
    assert_eq!(schemas(&running), json!({"in_force": ["people/1"]}));
    sandbox.feed(0..100, person);
    running
        .wait_for(Duration::from_secs(30), "the first records", |_| sandbox.clean().len() == 100);

    let second = people("reload")
        .replace(r#""version":1"#, r#""version":2"#)
        .replace(r#""fields":["#, r#""fields":[{"id":"note","path":"$.note"},"#);
    sandbox.document("people", &second);
    running.wait_for(Duration::from_secs(30), "the second version", |r| {
        schemas(r) == json!({"in_force": ["people/2"]})
    });
    sandbox.feed(100..200, person);
    running.wait_for(Duration::from_secs(30), "the next records", |_| sandbox.clean().len() == 200);

    sandbox.document("people", &second.replace("$.note", "$.note["));
    running.wait_for(Duration::from_secs(30), "the refusal", |r| !schemas(r)["refused"].is_null());
    let shown = schemas(&running);
    assert_eq!(shown["in_force"], json!(["people/2"]));
    assert!(shown["refused"][0].as_str().unwrap().contains("people.json"), "{shown}");
    running.ready();
    sandbox.feed(200..300, person);
    running.wait_for(Duration::from_secs(30), "the last records", |_| sandbox.clean().len() == 300);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    sandbox.assert_each_once(300);
    for record in sandbox.clean() {
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
        let (first, label) = (reader::number(&record) < 100, record.headers[1].1.clone().unwrap());
        assert_eq!(
            (value["note"] == "ordinary", &*label),
            (first, if first { b"people/1".as_slice() } else { b"people/2" })
        );
    }
}

#[test]
fn a_route_that_rejects_too_much_pauses_until_its_schema_is_mended() {
    const ALL: usize = 3000;
    let sandbox = Sandbox::new(kafka(), "guard", 2);
    // Numbers where texts are.
    let wrong = people("guard").replace(r#""path":"$.ssn""#, r#""path":"$.ssn","type":"number""#);
    sandbox.document("people", &wrong);
    let instance = sandbox
        .instance(0)
        .set("PIPELINE__REJECT_GUARD", "50% of 100")
        .set("PIPELINE__MAX_BATCH_RECORDS", "50");
    sandbox.feed(0..ALL, person);
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(60), "the route to pause", |r| {
        r.get("/readyz").is_some_and(|(_, why)| why.contains("guard.raw [0], guard.raw [1]: "))
    });
    let (status, why) = running.get("/readyz").unwrap();
    assert_eq!(status, 503);
    assert!(why.contains("of the last 100 records were rejected: mend the schema"), "{why}");
    sandbox.document("people", &people("guard").replace(r#""version":1"#, r#""version":2"#));
    running.ready();
    running.wait_for(Duration::from_secs(60), "the rest", |_| {
        sandbox.clean().len() + sandbox.dead().len() >= ALL
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    let (clean, dead) = (reader::times(&sandbox.clean(), ALL), sandbox.dead().len());
    assert!(clean.iter().all(|n| *n <= 1));
    assert_eq!(clean.iter().filter(|n| **n == 1).count() + dead, ALL);
    assert!((100..1500).contains(&dead), "{dead} dead letters before the pause");
    println!("guard: paused after {dead} dead letters");
}

fn schemas(running: &Running<'_>) -> Value {
    let status: Value = serde_json::from_str(&running.get("/status").unwrap().1).unwrap();
    status["schemas"].clone()
}
