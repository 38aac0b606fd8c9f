//! No key byte leaves the process: every key of a run is opened, and looked for in all that the run
//! wrote.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::feed::{Feeder, person};
use crate::kafka::kafka;
use crate::key_bytes::{assert_absent, files, secrets};
use crate::sandbox::Sandbox;
use crate::sidecar::text;

const SUBJECTS: &str = r#"{"veilstream":1,"name":"members","version":1,"topics":{"from":"canary-members.raw","to":"canary-members.clean"},
  "subject":"$.id","fields":[{"id":"email","path":"$.email"},{"id":"ssn","path":"$.ssn"}]}"#;

#[test]
fn no_key_shows_in_anything_that_a_run_writes() {
    let sandbox = Sandbox::new(kafka(), "canary", 2);
    kafka().create_topic("canary-members.raw", 2);
    sandbox.document("members", SUBJECTS);
    let instance = sandbox.instance(0).set("LOG__LEVEL", "trace");
    let mut running = instance.start();
    running.ready();
    sandbox.feed(0..200, |i| if i % 10 == 0 { format!("no json {i}") } else { person(i) });
    let feeder = Feeder::new(kafka());
    (0..20).for_each(|i| feeder.number("canary-members.raw", 2, i, person(i).as_bytes()));
    feeder.finish();
    running.wait_for(Duration::from_secs(60), "the records", |r| {
        r.metric("veilstream_records_produced_total", "clean") == 200.0
    });
    let mut written: Vec<(String, Vec<u8>)> = ["/metrics", "/status", "/readyz"]
        .map(|path| (path.to_owned(), running.get(path).unwrap().1.into_bytes()))
        .into();
    let process = std::fs::read_to_string(format!("/proc/{}/limits", running.pid())).unwrap();
    assert!(
        process.lines().any(|line| line.starts_with("Max core file size")
            && line.split_whitespace().rev().nth(1) == Some("0")),
        "{process}"
    );
    let mut say = |arguments: &[&str]| {
        written.push((arguments.join(" "), text(&instance.run(arguments)).into_bytes()))
    };
    for arguments in [
        &["keys", "status"][..],
        &["keys", "list", "--json"],
        &["keys", "export", "--out", "/dev/stdout"],
        &["keys", "rotate", "--shared"],
        &["keys", "rotate", "--wrapping"],
        &["keys", "rewrap"],
        &["shred", "--subject", "3", "--reason", "canary"],
        &["dlq", "list"],
    ] {
        say(arguments);
    }
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    let keys = secrets(&sandbox.dir.path().join("keys"));
    assert!(keys.len() > 25, "kek, roots, process, wrapping and subjects' keys: {}", keys.len());
    // Errors about keys: another key-encrypting key, an edited row.
    let kek = sandbox.dir.path().join("keys/kek");
    let right = std::fs::read_to_string(&kek).unwrap();
    std::fs::write(&kek, format!("1 {}\n", STANDARD_NO_PAD.encode([7; 32]))).unwrap();
    written.push(("another kek".to_owned(), text(&instance.run(&["keys", "status"])).into_bytes()));
    std::fs::write(&kek, right).unwrap();
    let database = rusqlite::Connection::open(sandbox.dir.path().join("keys/keys.db")).unwrap();
    database
        .execute(
            "UPDATE wraps SET wrapped = zeroblob(72) WHERE kid IN (SELECT kid FROM keys \
        WHERE kind = 'index')",
            [],
        )
        .unwrap();
    drop(database);
    written
        .push(("an edited row".to_owned(), text(&instance.run(&["keys", "status"])).into_bytes()));

    written.push(("the log".to_owned(), instance.log().into_bytes()));
    for topic in ["canary.raw", "canary.clean", "canary.dead-letter", "canary-members.clean"] {
        written.push((topic.to_owned(), kafka().segments(topic)));
    }
    for file in files(sandbox.dir.path()).into_iter().filter(|file| !file.ends_with("keys/kek")) {
        written.push((file.display().to_string(), std::fs::read(&file).unwrap()));
    }
    assert_absent(&keys, &written);
}
