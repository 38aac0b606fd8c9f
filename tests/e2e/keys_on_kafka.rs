//! Key store and erasure ledger in topics: sidecars on several hosts share them, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::feed::{Feeder, person};
use crate::kafka::kafka;
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, Running, text};

const SUBJECTS: &str = r#"{"veilstream":1,"name":"people","version":1,"topics":{"from":"shared.raw","to":"shared.clean"},
  "subject":"$.id","fields":[{"id":"email","path":"$.email"},{"id":"ssn","path":"$.ssn"}]}"#;

fn with_topics(instance: Instance, name: &str) -> Instance {
    instance
        .set("KEYS__STORE", &format!("kafka:{name}.keys"))
        .set("KEYS__LEDGER", &format!("kafka:{name}.erasures"))
}

fn ok(instance: &Instance, arguments: &[&str]) -> String {
    let output = instance.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn two_hosts_share_subjects_keys_and_an_erasure_reaches_both() {
    let sandbox = Sandbox::new(kafka(), "shared", 4);
    sandbox.document("people", SUBJECTS);
    let (one, two) =
        (with_topics(sandbox.instance(0), "shared"), with_topics(sandbox.instance(1), "shared"));
    // A topic nobody made is no store: a mistyped name must not begin a second set of keys.
    let started = one.run(&["keys", "status"]);
    assert!(
        text(&started)
            .contains("kafka:shared.keys: is not there; make it with `veilstream keys init`"),
        "{}",
        text(&started)
    );
    assert!(ok(&one, &["keys", "init"]).contains("made kafka:shared.keys"));
    assert!(text(&two.run(&["keys", "init"])).contains("is there already"));
    let (mut first, mut second) = (one.start(), two.start());
    first.ready();
    second.ready();
    // Each subject in every partition: both hosts want its key at the same time.
    sandbox.feed(0..2000, |i| person(i / 4 % 50));
    first.wait_for(Duration::from_secs(60), "the records", |_| sandbox.clean().len() == 2000);
    let kids = |records: &[krafka::ConsumerRecord]| -> BTreeMap<usize, BTreeSet<String>> {
        let mut kids: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        for record in records {
            let value: Value = serde_json::from_slice(record.value.as_deref().unwrap()).unwrap();
            let token = value["email"].as_str().unwrap().to_owned();
            // Version, suite and key id of a token: the same text for the same key.
            kids.entry(reader::number(record) / 4 % 50).or_default().insert(token[..24].to_owned());
        }
        kids
    };
    let seen = kids(&sandbox.clean());
    assert_eq!(
        (seen.len(), seen.values().all(|kids| kids.len() == 1)),
        (50, true),
        "one key for each: {seen:?}"
    );
    assert_eq!(
        seen.values().flatten().collect::<BTreeSet<_>>().len(),
        50,
        "and no two have the same"
    );

    let receipt = sandbox.dir.path().join("receipt.json");
    std::fs::write(&receipt, ok(&two, &["shred", "--subject", "7", "--reason", "request 1"]))
        .unwrap();
    ok(&one, &["shred", "verify", receipt.to_str().unwrap()]);
    let body: Value = serde_json::from_slice(&std::fs::read(&receipt).unwrap()).unwrap();
    assert!(body.to_string().contains("max.compaction.lag.ms"), "it says what remains: {body}");
    // They hear of it within 2 s. Until then they may seal with a key that nobody has any more.
    let erased = |running: &Running<'_>| {
        running.metric("veilstream_records_dead_lettered_total", "erased_subject")
    };
    let mut fed = 2000;
    first.wait_for(Duration::from_secs(30), "dead letters of both", |first| {
        let feeder = Feeder::new(kafka());
        for i in fed..fed + 4 {
            feeder.number("shared.raw", 4, i, person(7).as_bytes());
        }
        feeder.finish();
        fed += 4;
        erased(first) > 0.0 && erased(&second) > 0.0
    });
    first.wait_for(Duration::from_secs(30), "the rest", |_| {
        sandbox.clean().len() + sandbox.dead().len() == fed
    });
    assert_eq!((first.stop(), second.stop()), (Some(0), Some(0)), "{}", one.tail());
    assert!(
        ok(&one, &["keys", "status"]).contains("of data subjects: 49, erased: 2"),
        "{}",
        ok(&one, &["keys", "status"])
    );
}

/// Four hosts erase at once: one ledger without a fork, which every start and every receipt agrees
/// with.
#[test]
fn hosts_that_erase_at_once_write_one_ledger() {
    let sandbox = Sandbox::new(kafka(), "books", 1);
    sandbox.document("people", &SUBJECTS.replace("shared.", "books."));
    let hosts: Vec<Instance> = (0..4).map(|i| with_topics(sandbox.instance(i), "books")).collect();
    ok(&hosts[0], &["keys", "init"]);
    let schema = sandbox.dir.path().join("schemas/people.json");
    let events: String = (0..12).map(person).map(|event| event + "\n").collect();
    let transform = |host: &Instance| {
        use std::io::Write as _;
        let mut child = host
            .command(&["transform", "--schema", schema.to_str().unwrap()])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(events.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
    };
    transform(&hosts[0]);
    std::thread::scope(|scope| {
        for (i, host) in hosts.iter().enumerate() {
            let dir = sandbox.dir.path();
            scope.spawn(move || {
                for n in 0..3 {
                    let receipt = ok(
                        host,
                        &[
                            "shred",
                            "--subject",
                            &(i * 3 + n).to_string(),
                            "--reason",
                            "request of spring",
                        ],
                    );
                    std::fs::write(dir.join(format!("receipt-{i}-{n}.json")), receipt).unwrap();
                }
            });
        }
    });
    for (i, n) in (0..4).flat_map(|i| (0..3).map(move |n| (i, n))) {
        let receipt = sandbox.dir.path().join(format!("receipt-{i}-{n}.json"));
        ok(&hosts[(i + 1) % 4], &["shred", "verify", receipt.to_str().unwrap()]);
    }
    assert!(ok(&hosts[0], &["keys", "status"]).contains("erased: 24"), "a key and a marker each");
    // The ledger is whole, so nothing is to be rebuilt; were it not, a topic cannot set lines
    // aside.
    let whole = hosts[0].run(&["keys", "ledger", "rebuild", "--reason", "lost"]);
    assert!(text(&whole).contains("is as it should be"), "{}", text(&whole));
    let feeder = Feeder::new(kafka());
    feeder.number("books.erasures", 1, 99, b"{}");
    feeder.finish();
    let refused = hosts[1].run(&["keys", "status"]);
    assert!(text(&refused).contains("line 13 is no line of form 2"), "{}", text(&refused));
    let kept = hosts[1].run(&["keys", "ledger", "rebuild", "--reason", "somebody wrote into it"]);
    assert!(text(&kept).contains("name another topic as keys.ledger"), "{}", text(&kept));
    let elsewhere =
        with_topics(sandbox.instance(1), "books").set("KEYS__LEDGER", "kafka:books.erasures-2");
    assert!(
        ok(&elsewhere, &["keys", "ledger", "rebuild", "--reason", "somebody wrote into it"])
            .contains("names 12 data subjects")
    );
    ok(&elsewhere, &["keys", "status"]);
}

#[test]
fn a_store_that_hosts_share_has_no_ledger_on_one_of_them() {
    let sandbox = Sandbox::new(kafka(), "lonely", 1);
    let shared = sandbox.instance(0).set("KEYS__STORE", "kafka:lonely.keys");
    let said = text(&shared.run(&["keys", "init"]));
    assert!(said.contains("keys.ledger: is a file of this host"), "{said}");
}

#[test]
fn a_topic_that_would_lose_keys_or_keep_erased_ones_is_refused_with_the_command_that_mends_it() {
    let sandbox = Sandbox::new(kafka(), "unfit-keys", 1);
    for (name, partitions, settings, expected) in [
        ("plain", 1, &[][..], "set: kafka-configs.sh"),
        ("lagging", 1, &[("cleanup.policy", "compact")], "add-config max.compaction.lag.ms="),
        (
            "wide",
            2,
            &[("cleanup.policy", "compact"), ("max.compaction.lag.ms", "86400000")],
            "has 2 partitions",
        ),
        (
            "both",
            1,
            &[("cleanup.policy", "compact,delete"), ("max.compaction.lag.ms", "86400000")],
            "add-config cleanup.policy=compact",
        ),
    ] {
        kafka().create_topic_with(&format!("unfit-{name}.keys"), partitions, settings);
        let instance = with_topics(sandbox.instance(0), &format!("unfit-{name}"));
        let said = text(&instance.run(&["keys", "init"]));
        assert!(said.contains(expected), "{name}: {said}");
    }
    // Something else's topic.
    kafka().create_topic_with(
        "unfit-other.keys",
        1,
        &[("cleanup.policy", "compact"), ("max.compaction.lag.ms", "86400000")],
    );
    let feeder = Feeder::new(kafka());
    feeder.number("unfit-other.keys", 1, 0, b"{}");
    feeder.finish();
    let other = with_topics(sandbox.instance(0), "unfit-other");
    assert!(text(&other.run(&["keys", "init"])).contains("holds something else"));
}

/// As of a store on this host: with no other server than the brokers.
#[cfg(all(feature = "serve", feature = "postgres"))]
#[test]
fn a_service_with_its_keys_in_topics_opens_and_hears_of_changes() {
    use crate::desk::{Desk, LIMIT, Running, done, veilstream};
    use crate::kafka::wait_for;

    let desk = Desk::with_keys_in_topics(&kafka().bootstrap, "served");
    let config = desk.path("veilstream.toml");
    let mut running = desk.start();
    assert!(running.reads());
    let status = |running: &Running<'_>| running.ask("erased", 1).1["items"][0]["status"].clone();
    assert_eq!(status(&running), "revealed");
    let shred = ["shred", "--config", &config, "--subject", "42", "--reason", "a request"];
    done(&mut veilstream(&shred));
    wait_for(LIMIT, "the erasure to be heard of", || status(&running) == "erased");
    done(&mut veilstream(&["serve", "keys", "revoke", "--config", &config, "--name", "desk"]));
    wait_for(LIMIT, "the key to be refused", || running.ask("revoked", 1).0 == 401);
    running.stop();
}
