//! Dead letters as an operator sees them: listed, shown, replayed once the schema is mended.

use std::process::Stdio;
use std::time::Duration;

use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde_json::{Value, json};

use crate::feed::{Feeder, Input, TIME, people, person};
use crate::kafka::{kafka, wait_for};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{text, veilstream};

/// Demands a member that [`person`] does not have.
fn demanding(name: &str) -> String {
    people(name)
        .replace(r#""fields":["#, r#""fields":[{"id":"phone","path":"$.phone","required":true},"#)
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
    running.wait_for(Duration::from_secs(60), "all records", |r| {
        r.metric("veilstream_records_consumed_total", "dlq.raw") >= 30.0
    });
    let label = "reason=\"missing_required\"";
    running.await_metric("veilstream_records_dead_lettered_total", label, 10.0);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    let letters = listed(&sandbox);
    let origins: Vec<usize> = letters
        .iter()
        .map(|l| {
            usize::try_from(
                l["origin"]["offset"].as_i64().unwrap() * 2
                    + l["origin"]["partition"].as_i64().unwrap(),
            )
            .unwrap()
        })
        .collect();
    assert!(origins.len() == 10 && origins.iter().all(bad), "{origins:?}");
    assert!(
        letters.iter().all(|l| l["reason"] == "missing_required"
            && l["schema"] == "people/1"
            && l["time"] == *TIME),
        "{letters:?}"
    );
    let none = instance.run(&["dlq", "list", "--reason", "not_json"]);
    assert!(none.status.success() && none.stdout.is_empty(), "{}", text(&none));
    let plain = text(&instance.run(&["dlq", "list", "--topic", "dlq.raw"]));
    assert!(plain.lines().count() == 10 && !plain.contains("@example.com"), "{plain}");

    let place = format!("{}:{}", letters[0]["partition"], letters[0]["offset"]);
    let refused = instance.run(&["dlq", "show", &place]);
    assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(2), &[][..]), "no audit");
    let shown: Value =
        serde_json::from_slice(&instance.run(&["dlq", "show", "--unaudited", &place]).stdout)
            .unwrap();
    assert_eq!(shown["value"], person(origins[0]));
    assert_eq!(
        (&shown["key"], &shown["headers"]),
        (&json!(format!("k{}", origins[0])), &json!([["n", origins[0].to_string()]]))
    );
    audited_show(&sandbox, &place);
    let nothing = instance.run(&["dlq", "show", "--unaudited", "0:999999"]);
    assert_eq!(nothing.status.code(), Some(1), "{}", text(&nothing));

    // Not mended: rejected again, to the end of the topic.
    assert_eq!(replay(&sandbox, 1), summary(0, 10, 0, 0));
    assert_eq!(sandbox.dead().len(), 20);
    sandbox.document("people", &mended("dlq"));
    assert_eq!(replay(&sandbox, 0), summary(10, 0, 0, 0));
    assert_eq!(replay(&sandbox, 0), summary(0, 0, 0, 0));

    let clean = sandbox.clean();
    assert_eq!(reader::times(&clean, 30), [1; 30]);
    for record in clean.iter().filter(|r| bad(&reader::number(r))) {
        let i = reader::number(record);
        assert_eq!(record.partition, i32::try_from(i % 2).unwrap());
        assert_eq!(
            (record.key.as_deref(), record.timestamp),
            (Some(format!("k{i}").as_bytes()), *TIME)
        );
        assert_eq!(record.headers[1], ("veilstream-schema".to_owned(), Some("people/2".into())));
        assert!(
            !String::from_utf8_lossy(record.value.as_deref().unwrap()).contains("@example.com")
        );
    }
}

/// Anyone who is shown a letter stands in the audit log, and nothing of the letter does.
fn audited_show(sandbox: &Sandbox<'_>, place: &str) {
    let path = |name: &str| sandbox.dir.path().join(name);
    let keygen = veilstream(&["audit", "keygen", "--out"]).arg(path("verifier.key")).output();
    let recipient = String::from_utf8(keygen.unwrap().stdout).unwrap();
    let instance = sandbox.instance(0).set("AUDIT__RECIPIENT", recipient.trim());
    let refused = instance.run(&["dlq", "show", "--unaudited", place]);
    assert_eq!((refused.status.code(), refused.stdout.as_slice()), (Some(2), &[][..]));
    let shown = instance.run(&["dlq", "show", place]);
    let said = String::from_utf8_lossy(&shown.stdout);
    assert!(shown.status.success() && said.contains("@example.com"), "{}", text(&shown));
    let log = std::fs::read_to_string(path("audit.jsonl")).unwrap();
    assert!(!log.contains("@example.com"), "{log}");
    let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let reveals: Vec<Value> = lines.filter(|line| line["event"] == "reveal").collect();
    assert_eq!((reveals.len(), &reveals[0]["schema"]), (1, &json!("dead_letter")));
    assert_eq!((&reveals[0]["outcome"], &reveals[0]["auth"]), (&json!("ok"), &json!("os")));
    let actor = reveals[0]["actor"].as_str().unwrap();
    let (user, host) = actor.split_once('@').unwrap();
    assert!(!user.is_empty() && !host.is_empty(), "{actor}");
}

#[test]
fn a_killed_replay_goes_on_where_it_was() {
    const ALL: usize = 10_000;
    let sandbox = Sandbox::new(kafka(), "dlq-killed", 2);
    sandbox.document("people", &demanding("dlq-killed"));
    let instance = sandbox.instance(0);
    sandbox.feed(0..ALL, person);
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(90), "all dead letters", |r| {
        r.metric("veilstream_records_dead_lettered_total", "") >= ALL as f64
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.document("people", &mended("dlq-killed"));

    let mut replay_process = instance
        .command(&["dlq", "replay"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let admin = sandbox.broker.admin();
    wait_for(Duration::from_secs(60), "the replay to be half-way", || {
        let end = |partition| {
            admin
                .inner()
                .fetch_watermarks("dlq-killed.clean", partition, Duration::from_secs(5))
                .unwrap()
                .1
        };
        end(0) + end(1) > 1000
    });
    replay_process.kill().unwrap();
    replay_process.wait().unwrap();
    let before = sandbox.clean().len();
    assert!(before < ALL, "the replay had ended: this run proved nothing");
    let done = replay(&sandbox, 0);
    assert!(done["replayed"].as_u64().unwrap() > 0 && done["rejected_again"] == 0, "{done}");
    let times = reader::times(&sandbox.clean(), ALL);
    assert!(
        times.iter().all(|n| *n == 1),
        "{} missing, {} repeated",
        times.iter().filter(|n| **n == 0).count(),
        times.iter().filter(|n| **n > 1).count()
    );
    println!(
        "dlq: {before} of {ALL} replayed when killed, {} by the second replay",
        done["replayed"]
    );
}

/// A person with a note of so many bytes.
fn large(i: usize, bytes: usize) -> String {
    person(i).replace("ordinary", &"x".repeat(bytes))
}

/// Writes record `i` of the series compressed, with its number before further headers.
fn feed_compressed(
    sandbox: &Sandbox<'_>,
    numbers: std::ops::Range<usize>,
    value: impl Fn(usize) -> String,
    headers: &[(&str, &str)],
) {
    let mut client = sandbox.broker.client();
    client
        .set("compression.type", "zstd")
        .set("message.max.bytes", "20000000")
        .set("linger.ms", "0");
    let producer: BaseProducer = client.create().unwrap();
    for i in numbers {
        let (value, number) = (value(i), i.to_string());
        let own = OwnedHeaders::new().insert(Header { key: "n", value: Some(&number) });
        let all = headers
            .iter()
            .fold(own, |all, (key, value)| all.insert(Header { key, value: Some(*value) }));
        let topic = format!("{}.raw", sandbox.name);
        let partition = i32::try_from(i).unwrap() % sandbox.partitions;
        let record = BaseRecord::to(&topic)
            .partition(partition)
            .timestamp(*TIME)
            .headers(all)
            .key("k")
            .payload(&value);
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
    }
}

/// Letters as `dlq list` tells them.
fn listed(sandbox: &Sandbox<'_>) -> Vec<Value> {
    let output = sandbox.instance(0).run(&["dlq", "list", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    lines(&output.stdout)
}

fn place(letter: &Value) -> String {
    format!("{}:{}", letter["partition"], letter["offset"])
}

#[test]
fn a_dead_letter_always_fits() {
    const ALL: usize = 200;
    let sandbox = Sandbox::with(kafka(), "dlq-fits", 2, &[("max.message.bytes", "1048588")]);
    sandbox.document("people", &demanding("dlq-fits"));
    let instance = sandbox.instance(0);
    // 54 KB of 13,500 tiny headers, and 1.4 MB that are few once compressed: neither has a phone.
    feed_compressed(&sandbox, 0..1, person, &[("h", "1"); 13_500]);
    feed_compressed(&sandbox, 1..2, |i| large(i, 1_400_000), &[]);
    sandbox.feed(2..ALL, with_phone);
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(90), "all records", |r| {
        r.metric("veilstream_records_consumed_total", "dlq-fits.raw") >= ALL as f64
    });
    let label = "reason=\"missing_required\"";
    running.await_metric("veilstream_records_dead_lettered_total", label, 2.0);
    assert_eq!(
        running.metric("veilstream_transactions_total", "outcome=\"aborted\""),
        0.0,
        "no transaction was aborted"
    );
    assert_eq!(running.get("/readyz").map(|(status, _)| status), Some(200));
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    let letters = listed(&sandbox);
    let form =
        |partition: i64| letters.iter().find(|l| l["origin"]["partition"] == partition).unwrap();
    assert_eq!(
        (letters.len(), &form(0)["form"], &form(1)["form"]),
        (2, &json!("whole"), &json!("stub"))
    );
    let stub = place(form(1));
    let shown: Value =
        serde_json::from_slice(&instance.run(&["dlq", "show", "--unaudited", &stub]).stdout)
            .unwrap();
    assert_eq!(shown["value"], large(1, 1_400_000), "read from the raw topic");

    sandbox.document("people", &mended("dlq-fits"));
    assert_eq!(replay(&sandbox, 0), summary(2, 0, 0, 0));
    let clean = sandbox.clean();
    assert_eq!(reader::times(&clean, ALL), [1; ALL]);
    let of = |i: usize| clean.iter().find(|r| reader::number(r) == i).unwrap();
    assert_eq!(of(0).headers.len(), 13_502);
    let value = String::from_utf8_lossy(of(1).value.as_deref().unwrap()).into_owned();
    assert!(value.contains(&"x".repeat(1_400_000)) && !value.contains("@example.com"));

    // The raw topic no longer has the record: the stub says so, and nothing else is held up.
    let mut gone = TopicPartitionList::new();
    gone.add_partition_offset("dlq-fits.raw", 1, Offset::Offset(1)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(sandbox.broker.admin().delete_records(&gone, &AdminOptions::new())).unwrap();
    let output =
        instance.run(&["dlq", "replay", "--json", "--only", &format!("{},{stub}", place(form(0)))]);
    let said = lines(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert_eq!(
        (said[0]["reason"].as_str(), &said[0]["origin"], &said[1]),
        (Some("origin_gone"), &form(1)["origin"], &summary(1, 0, 1, 0))
    );
    let shown = instance.run(&["dlq", "show", "--unaudited", &stub]);
    assert!(
        shown.status.code() == Some(1) && text(&shown).contains("no longer in the raw topic"),
        "{}",
        text(&shown)
    );
}

#[test]
fn a_dead_letter_fits_a_topic_that_takes_less_than_it_did() {
    let sandbox = Sandbox::new(kafka(), "dlq-less", 1);
    sandbox.document("people", &demanding("dlq-less"));
    let instance = sandbox.instance(0);
    let mut running = instance.start();
    running.ready();
    let topic = AlterConfig::new(ResourceSpecifier::Topic("dlq-less.dead-letter"))
        .set("max.message.bytes", "20000");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(sandbox.broker.admin().alter_configs([&topic], &AdminOptions::new())).unwrap()
        [0]
    .as_ref()
    .unwrap();
    sandbox.feed(0..40, |i| if i == 20 { large(i, 50_000) } else { with_phone(i) });
    running.wait_for(Duration::from_secs(60), "all records", |r| {
        r.metric("veilstream_records_consumed_total", "dlq-less.raw") >= 40.0
    });
    running.wait_for(Duration::from_secs(10), "it to be ready", |r| {
        r.get("/readyz").is_some_and(|(status, _)| status == 200)
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    let letters = listed(&sandbox);
    assert_eq!(
        (letters.len(), &letters[0]["form"], &letters[0]["origin"]["offset"]),
        (1, &json!("stub"), &json!(20))
    );
    assert!(instance.log().contains("a stub stands for it"), "{}", instance.tail());
    sandbox.document("people", &mended("dlq-less"));
    assert_eq!(replay(&sandbox, 0), summary(1, 0, 0, 0));
    assert_eq!(reader::times(&sandbox.clean(), 40), [1; 40]);
}

#[test]
fn a_forged_letter_is_passed_by() {
    let sandbox = Sandbox::new(kafka(), "dlq-forged", 1);
    sandbox.document("people", &demanding("dlq-forged"));
    // What the user sets for the pipeline's start is not the replay's.
    let instance = sandbox.instance(0).set("KAFKA__ON_MISSING_OFFSET", "earliest");
    let mut running = instance.start();
    running.ready();
    let dead = |running: &mut crate::sidecar::Running<'_>, n: f64| {
        running.wait_for(Duration::from_secs(60), "dead letters", |r| {
            r.metric("veilstream_records_dead_lettered_total", "") >= n
        });
    };
    sandbox.feed(0..3, person);
    dead(&mut running, 3.0);
    let mut forged: Value =
        serde_json::from_slice(sandbox.dead()[0].value.as_deref().unwrap()).unwrap();
    forged["offset"] = json!(2);
    let feeder = Feeder::new(sandbox.broker);
    let topic = "dlq-forged.dead-letter";
    let stub = |topic: &str| {
        json!({"veilstream_dead_letter": 2, "reason": "no_schema", "topic": topic, "partition": 0, "offset": 0, "time": null, "schema": "",
               "form": "stub", "length": 7, "kid": "00".repeat(16), "digest": "A".repeat(43)})
        .to_string()
    };
    let (nowhere, stolen) = (stub("dlq-nowhere.raw"), stub("dlq-forged.raw"));
    for value in
        [forged.to_string().as_bytes(), b"no letter", nowhere.as_bytes(), stolen.as_bytes()]
    {
        feeder.send(&Input {
            topic,
            partition: 0,
            key: None,
            value: Some(value),
            timestamp: *TIME,
            headers: &[],
        });
    }
    feeder.finish();
    sandbox.feed(3..6, person);
    dead(&mut running, 6.0);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.document("people", &mended("dlq-forged"));

    let latest = sandbox.instance(0).set("KAFKA__ON_MISSING_OFFSET", "latest");
    let output = latest.run(&["dlq", "replay", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = lines(&output.stdout);
    let reasons: Vec<_> = said.iter().filter_map(|line| line["reason"].as_str()).collect();
    assert_eq!(reasons, ["corrupt", "not_a_dead_letter", "origin_gone", "key_unavailable"]);
    assert_eq!(
        (&said[0]["origin"]["offset"], &said[1]["origin"], &said[4]),
        (&json!(2), &Value::Null, &summary(6, 0, 4, 0))
    );
    assert_eq!(reader::times(&sandbox.clean(), 6), [1; 6]);
    assert!(!text(&output).contains("@example.com"));
    assert_eq!(replay(&sandbox, 0), summary(0, 0, 0, 0), "once each, and past what does not go");

    // Chosen letters come whether they came before or not, and leave where the next replay starts.
    let letters = listed(&sandbox);
    let places: Vec<String> = letters.iter().map(place).collect();
    let run = |arguments: &[&str]| {
        let output = sandbox
            .instance(0)
            .command(&[["dlq", "replay", "--json"].as_slice(), arguments].concat())
            .output()
            .unwrap();
        (output.status.code(), lines(&output.stdout))
    };
    assert_eq!(
        run(&["--only", &format!("{},{}", places[0], places[2])]),
        (Some(0), vec![summary(2, 0, 0, 0)])
    );
    assert_eq!(run(&["--only", &place(&said[0])]).1[1], summary(0, 0, 1, 0));
    let (code, missing) = run(&["--only", "0:999999"]);
    assert_eq!(
        (code, &missing[0]["reason"], &missing[1]),
        (Some(1), &json!("not_there"), &summary(0, 0, 1, 0))
    );
    assert_eq!(
        run(&["--from", &places[7], "--skip", &places[8]]),
        (Some(0), vec![summary(1, 0, 0, 1)])
    );
    assert_eq!(run(&["--from", "7:0"]).0, Some(1));
    assert_eq!(reader::times(&sandbox.clean(), 6), [2, 1, 2, 1, 2, 1]);
    assert_eq!(replay(&sandbox, 0), summary(0, 0, 0, 0));
}

#[test]
fn what_a_topic_refuses_does_not_stop_the_others() {
    let sandbox = Sandbox::new(kafka(), "dlq-refused", 1);
    sandbox.broker.create_topic("dlq-absent.raw", 1);
    let absent = |document: String| document.replace(r#""name":"people""#, r#""name":"absent""#);
    sandbox.document("people", &demanding("dlq-refused"));
    sandbox.document("absent", &absent(demanding("dlq-absent")));
    let instance = sandbox.instance(0);
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let feeder = Feeder::new(sandbox.broker);
    for i in 0..6usize {
        let (value, number) = (person(i), i.to_string());
        let (timestamp, headers) =
            (if i % 2 == 0 { *TIME } else { now }, [("n", Some(number.as_bytes()))]);
        let input = Input {
            topic: "dlq-refused.raw",
            partition: 0,
            key: Some(b"k"),
            value: Some(value.as_bytes()),
            timestamp,
            headers: &headers,
        };
        feeder.send(&input);
        if i == 0 {
            feeder.send(&Input { topic: "dlq-absent.raw", ..input });
        }
    }
    feeder.finish();
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(60), "all dead letters", |r| {
        r.metric("veilstream_records_dead_lettered_total", "") >= 7.0
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    // Known to nobody but the broker: what it refuses is found by halving. The other sanitized
    // topic is gone.
    let (admin, options) = (sandbox.broker.admin(), AdminOptions::new());
    let strict = AlterConfig::new(ResourceSpecifier::Topic("dlq-refused.clean"))
        .set("message.timestamp.before.max.ms", "3600000");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(admin.alter_configs([&strict], &options)).unwrap()[0].as_ref().unwrap();
    runtime.block_on(admin.delete_topics(&["dlq-absent.clean"], &options)).unwrap()[0]
        .as_ref()
        .unwrap();
    sandbox.document("people", &mended("dlq-refused"));
    sandbox.document("absent", &absent(mended("dlq-absent")));
    let output = instance.run(&["dlq", "replay", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = lines(&output.stdout);
    assert_eq!(
        (said.len(), &said[0]["reason"], &said[0]["origin"]["topic"]),
        (2, &json!("no_topic"), &json!("dlq-absent.raw"))
    );
    assert_eq!(said[1], summary(3, 3, 1, 0));
    assert_eq!(reader::times(&sandbox.clean(), 6), [0, 1, 0, 1, 0, 1]);
    let again: Vec<Value> =
        listed(&sandbox).into_iter().filter(|l| l["reason"] == "broker_refused").collect();
    assert_eq!(
        again.iter().map(|l| l["origin"]["offset"].as_i64().unwrap()).collect::<Vec<_>>(),
        [0, 2, 4]
    );
}

#[test]
fn large_letters_do_not_fill_the_memory() {
    const ALL: usize = 500;
    const BYTES: usize = 300_000;
    let sandbox = Sandbox::new(kafka(), "dlq-large", 1);
    sandbox.document("people", &demanding("dlq-large"));
    let instance = sandbox.instance(0);
    feed_compressed(&sandbox, 0..ALL, |i| large(i, BYTES), &[]);
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(180), "all dead letters", |r| {
        r.metric("veilstream_records_dead_lettered_total", "") >= ALL as f64
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    sandbox.document("people", &mended("dlq-large"));
    let mut replay = instance
        .command(&["dlq", "replay", "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut most = 0;
    wait_for(Duration::from_secs(180), "the replay", || {
        most = most.max(peak_memory(replay.id()).unwrap_or(0));
        replay.try_wait().unwrap().is_some()
    });
    let output = replay.wait_with_output().unwrap();
    assert_eq!(lines(&output.stdout).last(), Some(&summary(ALL, 0, 0, 0)));
    assert_eq!(reader::times(&sandbox.clean(), ALL), [1; ALL]);
    println!(
        "dlq: {} MB of letters replayed in at most {} MB",
        ALL * BYTES * 4 / 3 / 1_000_000,
        most / 1_000_000
    );
    assert!(most < ALL * BYTES, "{most} bytes at most");
}

/// The most memory the program had in a process, in bytes; `None`: it has not begun or has ended.
fn peak_memory(pid: u32) -> Option<usize> {
    // A process that is about to run its program still shows the memory of the one that made it.
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    if program.file_name()? != "veilstream" {
        return None;
    }
    let kilobytes = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?
        .split_whitespace()
        .next()?
        .parse::<usize>()
        .ok()?;
    Some(kilobytes * 1024)
}

#[cfg(feature = "inject")]
#[test]
fn a_panic_of_the_engine_costs_one_record() {
    let sandbox = Sandbox::new(kafka(), "dlq-panic", 2);
    let instance = sandbox.instance(0).inject("ENGINE_PANIC", "user13@");
    sandbox.feed(0..100, person);
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(60), "all records", |r| {
        r.metric("veilstream_records_consumed_total", "dlq-panic.raw") >= 100.0
    });
    running.await_metric("veilstream_engine_panics_total", "", 1.0);
    let label = "reason=\"internal\"";
    running.await_metric("veilstream_records_dead_lettered_total", label, 1.0);
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    let log = instance.log();
    assert!(
        log.contains("panicked at src/inject.rs") && !log.contains("user13"),
        "its place and nothing of the record: {}",
        instance.tail()
    );
    let letters = listed(&sandbox);
    assert_eq!(
        (letters.len(), &letters[0]["reason"], &letters[0]["origin"]["offset"]),
        (1, &json!("internal"), &json!(6))
    );
    // A program without the fault brings it.
    assert_eq!(replay(&sandbox, 0), summary(1, 0, 0, 0));
    assert_eq!(reader::times(&sandbox.clean(), 100), [1; 100]);
}

fn summary(replayed: usize, rejected_again: usize, passed_by: usize, skipped: usize) -> Value {
    json!({"replayed": replayed, "rejected_again": rejected_again, "passed_by": passed_by, "skipped": skipped})
}

/// JSON objects, one a line.
fn lines(output: &[u8]) -> Vec<Value> {
    std::str::from_utf8(output)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn replay(sandbox: &Sandbox<'_>, exit: i32) -> Value {
    let output = sandbox.instance(0).run(&["dlq", "replay", "--json"]);
    assert_eq!(output.status.code(), Some(exit), "{}", text(&output));
    let line = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(line.lines().last().unwrap_or_else(|| panic!("{}", text(&output))))
        .unwrap()
}
