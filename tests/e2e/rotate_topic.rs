//! A sanitized topic sealed again into another one, under new keys and new roots.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::process::{Output, Stdio};
use std::time::Duration;

use krafka::ConsumerRecord;
use serde_json::{Value, json};

use crate::feed::{Feeder, Input, TIME};
use crate::kafka::{kafka, wait_for};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, text};

const PARTITIONS: i32 = 3;
/// So many people, each with many records.
const PEOPLE: usize = 20;
/// The value of a person whose key is destroyed.
const ERASED: usize = 7;

/// `root` of what is deterministic, and what `email` is bound to.
fn document(name: &str, root: u32) -> String {
    json!({
        "veilstream": 1, "name": "people", "version": root,
        "topics": { "from": format!("{name}.raw"), "to": format!("{name}.clean") },
        "subject": "$.id",
        "fields": [
            { "id": "email", "path": "$.email", "index": { "normalize": "email" } },
            { "id": "phones", "path": "$.phones[*]", "bind": [{ "name": "id", "path": "$.id" }] },
            { "id": "card", "path": "$.card", "protect": "deterministic", "root": root },
            { "id": "born", "path": "$.born", "protect": "generalize", "to": "year" },
            { "id": "pin", "path": "$.pin", "protect": "hash", "index": { "normalize": "exact" } },
            { "id": "name", "path": "$.name", "protect": "mask", "keep_last": 0,
              "index": { "normalize": "text", "bits": 24 } },
            { "id": "who", "path": "$.who", "index": { "normalize": "text", "of": ["$.email", "$.born"] } }
        ],
        "key": { "protect": "deterministic", "root": root },
        "headers": { "mail": { "protect": "encrypt" }, "note": { "protect": "hash", "normalize": "exact" } }
    })
    .to_string()
}

fn person(i: usize) -> String {
    let id = i % PEOPLE;
    json!({ "id": id, "email": format!("user{id}@example.com"), "phones": [format!("+4312345{i:04}"), null],
        "card": format!("4111-{i:08}"), "born": "1980-02-03", "pin": format!("pin-{i}"),
        "name": "Ada Lovelace", "who": format!("who {i}"), "ordinary": i })
    .to_string()
}

/// Topics `<name>.clean` and `<name>.new`, the first with `all` records and a tombstone each 50.
fn filled(name: &str, all: usize) -> (Sandbox<'_>, Instance) {
    let broker = kafka();
    let sandbox = Sandbox::new(broker, name, PARTITIONS);
    sandbox.document("people", &document(name, 1));
    broker.create_topic(&format!("{name}.new"), PARTITIONS);
    let instance = sandbox.instance(0);
    let folder = instance.folder().to_owned();
    let key = folder.join("verifier.key");
    let public = instance_free(&["audit", "keygen", "--out", key.to_str().unwrap()]);
    let instance = instance
        .set("AUDIT__FILE", folder.join("audit.jsonl").to_str().unwrap())
        .set("AUDIT__RECIPIENT", public.trim());
    let feeder = Feeder::new(broker);
    for i in 0..all {
        let value = person(i);
        let (mail, n) = (format!("user{i}@example.com"), i.to_string());
        let headers = [
            ("n", Some(n.as_bytes())),
            ("note", Some(&b"private"[..])),
            ("mail", Some(mail.as_bytes())),
        ];
        feeder.send(&Input {
            topic: &format!("{name}.raw"),
            partition: i32::try_from(i).unwrap() % PARTITIONS,
            key: Some(format!("user{}@example.com", i % PEOPLE).as_bytes()),
            value: (i % 50 != 49).then_some(value.as_bytes()),
            timestamp: *TIME + i64::try_from(i).unwrap(),
            // A tombstone has no subject, and so no key for a header.
            headers: if i % 50 == 49 { &headers[..2] } else { &headers },
        });
    }
    feeder.finish();
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(90), "all records", |r| {
        r.metric("veilstream_records_produced_total", "") >= all as f64
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    (sandbox, instance)
}

/// What a command prints that needs no configuration.
fn instance_free(arguments: &[&str]) -> String {
    let output = crate::sidecar::veilstream(arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn rotate_arguments(sandbox: &Sandbox<'_>, to: &str) -> Vec<String> {
    let name = sandbox.name;
    let schema = sandbox.dir.path().join("schemas/people.json");
    ["rotate", "topic", "--from", &format!("{name}.clean"), "--to", to, "--schema"]
        .iter()
        .map(ToString::to_string)
        .chain([schema.to_str().unwrap().to_owned(), "--json".to_owned()])
        .collect()
}

fn rotate(sandbox: &Sandbox<'_>, instance: &Instance, flags: &[&str]) -> Output {
    let arguments = rotate_arguments(sandbox, &format!("{}.new", sandbox.name));
    let arguments: Vec<&str> =
        arguments.iter().map(String::as_str).chain(flags.iter().copied()).collect();
    instance.run(&arguments)
}

fn told(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(output)))
}

fn new_topic(sandbox: &Sandbox<'_>) -> Vec<ConsumerRecord> {
    let topic = format!("{}.new", sandbox.name);
    reader::committed(&sandbox.broker.bootstrap, &topic, PARTITIONS)
}

/// New versions of everything that seals for these people.
fn rotate_keys(sandbox: &Sandbox<'_>, instance: &Instance, people: impl Iterator<Item = usize>) {
    for what in [&["--index"][..], &["--deterministic"], &["--shared"]] {
        let output = instance.run(&[&["keys", "rotate"][..], what].concat());
        assert!(output.status.success(), "{}", text(&output));
    }
    for id in people {
        let output = instance.run(&["keys", "rotate", "--subject", &id.to_string()]);
        assert!(output.status.success(), "{}", text(&output));
    }
    sandbox.document("people", &document(sandbox.name, 2));
}

/// Values of records, opened; by the number of the record.
fn revealed(instance: &Instance, records: &[ConsumerRecord]) -> BTreeMap<usize, Value> {
    let schema = instance.folder().join("schemas/people.json");
    let mut command = instance.command(&["reveal", "--schema", schema.to_str().unwrap()]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut output = child.stdout.take().unwrap();
    let held: Vec<&ConsumerRecord> = records.iter().filter(|r| r.value.is_some()).collect();
    let shown = std::thread::scope(|scope| {
        scope.spawn(|| {
            for record in &held {
                input.write_all(record.value.as_deref().unwrap()).unwrap();
                input.write_all(b"\n").unwrap();
            }
            drop(input);
        });
        let mut shown = String::new();
        output.read_to_string(&mut shown).unwrap();
        shown
    });
    child.wait().unwrap();
    let lines = shown.lines().map(|line| serde_json::from_str(line).unwrap());
    held.iter().map(|r| reader::number(r)).zip(lines).collect()
}

/// The key ids in the headers of all tokens of records, keys and headers included.
fn kids<'r>(records: impl Iterator<Item = &'r ConsumerRecord>) -> BTreeSet<[u8; 16]> {
    let mut kids = BTreeSet::new();
    for record in records {
        let headers = record.headers.iter().filter_map(|(_, value)| value.as_deref());
        for bytes in record.value.as_deref().into_iter().chain(record.key.as_deref()).chain(headers)
        {
            for token in String::from_utf8_lossy(bytes).split('"').filter(|t| t.starts_with("vs1."))
            {
                let header = veilstream_engine::token::decode(token.as_bytes(), &mut Vec::new());
                kids.insert(header.unwrap().kid.0);
            }
        }
    }
    kids
}

fn is_of_erased(record: &ConsumerRecord) -> bool {
    reader::number(record) % PEOPLE == ERASED && record.value.is_some()
}

#[test]
fn every_record_moves_once_in_order_through_kills() {
    const ALL: usize = 10_000;
    let (sandbox, instance) = filled("rotate", ALL);
    let shred = instance.run(&["shred", "--subject", &ERASED.to_string(), "--reason", "asked"]);
    assert!(shred.status.success(), "{}", text(&shred));
    rotate_keys(&sandbox, &instance, (0..PEOPLE).filter(|id| *id != ERASED));

    let dry = rotate(&sandbox, &instance, &["--dry-run"]);
    assert_eq!(dry.status.code(), Some(0), "{}", text(&dry));
    assert_eq!(told(&dry)["records"], ALL);
    assert!(new_topic(&sandbox).is_empty());

    let admin = sandbox.broker.admin();
    let written = || -> i64 {
        let end = |partition| {
            let limit = Duration::from_secs(5);
            admin.inner().fetch_watermarks("rotate.new", partition, limit).unwrap().1
        };
        (0..PARTITIONS).map(end).sum()
    };
    let mut kills = 0;
    for share in [1, 2, 3] {
        let arguments = rotate_arguments(&sandbox, "rotate.new");
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut child = instance
            .command(&arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let enough = i64::try_from(ALL * share / 5).unwrap();
        wait_for(Duration::from_secs(60), "a part of the rotation", || {
            written() > enough || child.try_wait().unwrap().is_some()
        });
        kills += u32::from(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(kills > 0, "no kill met a rotation: this run proved nothing");
    let output = rotate(&sandbox, &instance, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let last = told(&output);
    assert!(last["failed"] == 0 && last["behind"] == 0, "{last}");
    let again = told(&rotate(&sandbox, &instance, &[]));
    assert_eq!((&again["records"], &again["whole"]), (&json!(0), &json!(true)));

    let (mut old, mut new) = (sandbox.clean(), new_topic(&sandbox));
    // Records of one partition come in its order, partitions as they are fetched.
    old.sort_by_key(|record| record.partition);
    new.sort_by_key(|record| record.partition);
    assert_eq!(old.len(), ALL);
    let places = |records: &[ConsumerRecord]| -> Vec<_> {
        records.iter().map(|r| (r.partition, reader::number(r), r.timestamp)).collect()
    };
    assert!(places(&old) == places(&new), "not the same records in the same order");
    let of_erased = old.iter().filter(|r| is_of_erased(r)).count();
    assert!(of_erased > 0);

    // Nothing that was sealed again is under a key of before.
    let before = kids(old.iter());
    let after = kids(new.iter().filter(|r| !is_of_erased(r)));
    assert!(before.is_disjoint(&after), "old keys seal");
    let (old_clear, new_clear) = (revealed(&instance, &old), revealed(&instance, &new));
    for (n, clear) in &new_clear {
        if n % PEOPLE == ERASED {
            continue;
        }
        let mut was = old_clear[n].clone();
        // What has no way back stays: a hash under its root, the index of a masked value.
        assert_eq!(clear["pin"], was["pin"]);
        was["born"] = "1980".into();
        assert_eq!(*clear, was, "{n}");
        assert_eq!(clear["email"], format!("user{}@example.com", n % PEOPLE));
    }
    let mut keys: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (old, new) in old.iter().zip(&new) {
        let (was, is) = (old.key.clone().unwrap().to_vec(), new.key.clone().unwrap().to_vec());
        assert_ne!(was, is, "its root is another");
        assert_eq!(*keys.entry(was).or_insert_with(|| is.clone()), is, "one key stays one key");
        if is_of_erased(old) {
            assert_eq!(old.value, new.value);
            continue;
        }
        let header = |record: &ConsumerRecord, name: &str| {
            record.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone().unwrap())
        };
        assert_eq!(header(new, "veilstream-schema").unwrap().as_ref(), b"people/2");
        assert_eq!(header(new, "note"), header(old, "note"));
        let Some(value) = new.value.as_deref() else { continue };
        assert_ne!(header(new, "mail"), header(old, "mail"));
        let (value, was): (Value, Value) = (
            serde_json::from_slice(value).unwrap(),
            serde_json::from_slice(old.value.as_deref().unwrap()).unwrap(),
        );
        let index = |name: &str| value[name].as_str().unwrap();
        assert!(
            index("email_bidx").starts_with("2~") && index("email_bidx_prev").starts_with("1~")
        );
        // It reads a member that was made coarser: nothing makes it again.
        for name in ["who_bidx", "name_bidx", "name", "pin"] {
            assert_eq!(value[name], was[name], "{name}");
        }
        assert!(was["phones"][0] != value["phones"][0] && value["phones"][1].is_null());
    }
    assert_eq!(keys.len(), PEOPLE);
    assert_eq!(keys.values().collect::<BTreeSet<_>>().len(), PEOPLE);

    // What is in the new topic is a sanitized topic like any other: it moves again.
    let verified = instance.run(&["audit", "verify"]);
    assert_eq!(verified.status.code(), Some(0), "{}", text(&verified));
    let log = std::fs::read_to_string(instance.folder().join("audit.jsonl")).unwrap();
    assert!(log.contains("rotate topic begin: rotate.clean to rotate.new"), "no line at its begin");
    assert!(
        log.contains(r#""fields":{"email":"rotated"}"#) && log.contains(r##""#key":"rotated""##)
    );
    for clear in ["@example.com", "4111-", "Lovelace"] {
        assert!(!log.contains(clear) && !text(&output).contains(clear), "{clear}");
    }
}

#[test]
fn what_does_not_open_stays_and_is_named() {
    const ALL: usize = 40;
    let (sandbox, instance) = filled("rotate-odd", ALL);
    let name = "rotate-odd";
    rotate_keys(&sandbox, &instance, 0..PEOPLE);
    let old = sandbox.clean();
    let stored = |i: usize| old.iter().find(|r| reader::number(r) == i).unwrap();
    let value = |i: usize| String::from_utf8(stored(i).value.as_deref().unwrap().to_vec()).unwrap();
    let plant = |value: &str, number: &str, partition| {
        let feeder = Feeder::new(sandbox.broker);
        feeder.send(&Input {
            topic: &format!("{name}.clean"),
            partition,
            key: stored(1).key.as_deref(),
            value: Some(value.as_bytes()),
            timestamp: *TIME,
            headers: &[("n", Some(number.as_bytes()))],
        });
        feeder.finish();
    };
    // A token of somebody else's row, one cut short, and no JSON at all.
    let email = |i: usize| {
        let value: Value = serde_json::from_str(&value(i)).unwrap();
        value["email"].as_str().unwrap().to_owned()
    };
    plant(&value(1).replace(&email(1), &email(2)), "1001", 0);
    plant(&value(1).replace(&email(1), &email(1)[..60]), "1002", 0);
    plant("not json", "1003", 1);
    let output = rotate(&sandbox, &instance, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let done = told(&output);
    assert_eq!((&done["records"], &done["failed"]), (&json!(ALL + 3), &json!(3)), "{done}");
    let reasons: BTreeSet<&str> =
        done["kept"].as_array().unwrap().iter().map(|k| k["reason"].as_str().unwrap()).collect();
    assert!(reasons.contains("not_json"), "{reasons:?}");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains(": email: ") && errors.contains("record: not_json"), "{errors}");
    assert!(!errors.contains("@example.com"), "{errors}");
    let new = new_topic(&sandbox);
    let planted = new.iter().find(|r| reader::number(r) == 1001).unwrap();
    assert_eq!(
        planted.value.as_deref().unwrap(),
        value(1).replace(&email(1), &email(2)).as_bytes(),
        "as it stood"
    );

    // A value in clear ends it, before and behind a restart, until the operator says otherwise.
    plant(r#"{"id":1,"email":"planted@example.com"}"#, "1004", 2);
    for _ in 0..2 {
        let output = rotate(&sandbox, &instance, &[]);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        let errors = text(&output);
        assert!(
            errors.contains("email stands in clear") && errors.contains("--seal-clear"),
            "{errors}"
        );
        assert!(!errors.contains("planted@"), "{errors}");
    }
    assert_eq!(new_topic(&sandbox).len(), ALL + 3);
    let output = rotate(&sandbox, &instance, &["--seal-clear"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert_eq!(told(&output)["clear"], json!({ "email": 1 }));
    let new = new_topic(&sandbox);
    let sealed = new.iter().find(|r| reader::number(r) == 1004).unwrap();
    assert!(!String::from_utf8_lossy(sealed.value.as_deref().unwrap()).contains("planted@"));
}

/// Honey tokens move like their neighbours, stay what they are, and raise no alarm on the way.
#[test]
fn honey_moves_and_does_not_stand_out() {
    let (sandbox, instance) = filled("rotate-bait", PEOPLE);
    let schema = sandbox.dir.path().join("schemas/people.json");
    let start = ["honey", "create", "--schema", schema.to_str().unwrap()];
    let bait = |field: &[&str]| {
        let output = instance.run(&[&start[..], field].concat());
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let stored = sandbox.clean().into_iter().find(|r| reader::number(r) == 1).unwrap();
    let mut value: Value = serde_json::from_slice(stored.value.as_deref().unwrap()).unwrap();
    value["email"] = bait(&["--field", "email", "--subject", "1", "mary@example.com"]).into();
    value["phones"][1] =
        bait(&["--field", "phones", "--subject", "1", "--bind", "id=1", "+431234567"]).into();
    value["card"] = bait(&["--field", "card", "4000-00000002"]).into();
    let feeder = Feeder::new(sandbox.broker);
    feeder.send(&Input {
        topic: "rotate-bait.clean",
        partition: stored.partition,
        key: stored.key.as_deref(),
        value: Some(value.to_string().as_bytes()),
        timestamp: *TIME,
        headers: &[("n", Some(b"1001"))],
    });
    feeder.finish();
    rotate_keys(&sandbox, &instance, 0..PEOPLE);

    let output = rotate(&sandbox, &instance, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let done = told(&output);
    assert_eq!((&done["records"], &done["whole"]), (&json!(PEOPLE + 1), &json!(true)), "{done}");
    assert!(!text(&output).contains("honey"), "{}", text(&output));
    let log = || std::fs::read_to_string(instance.folder().join("audit.jsonl")).unwrap();
    assert!(!log().contains("honey"), "not by rotation");
    let (old, new) = (sandbox.clean(), new_topic(&sandbox));
    assert!(kids(old.iter()).is_disjoint(&kids(new.iter())), "old keys seal");

    let shown = revealed(&instance, &new).remove(&1001).unwrap();
    for place in ["/email", "/phones/1", "/card"] {
        assert!(shown.pointer(place).unwrap().as_str().unwrap().starts_with("vs1."), "{shown}");
    }
    assert_eq!(shown["phones"][0], "+43123450001");
    let log = log();
    let alarms = log.lines().filter(|line| line.contains(r#""event":"honey""#)).count();
    assert_eq!(alarms, 3, "they still are: {log}");
}

#[test]
fn topics_that_do_not_fit_are_refused() {
    let (sandbox, instance) = filled("rotate-fit", 3);
    let refused = |to: &str, part: &str| {
        let arguments = rotate_arguments(&sandbox, to);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let output = instance.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output));
        assert!(text(&output).contains(part), "{}", text(&output));
    };
    refused("rotate-fit.clean", "name a new topic");
    refused("rotate-fit.absent", "--create --topic rotate-fit.absent");
    sandbox.broker.create_topic("rotate-fit.narrow", 1);
    refused("rotate-fit.narrow", "--partitions 3");
    refused("rotate-fit.raw", "no rotation into it was begun");
    // The hash of a record key cannot be opened: under another root it would be another record's.
    let hashed = |root: u32| {
        let mut document: Value = serde_json::from_str(&document("rotate-fit", 1)).unwrap();
        document["key"] = json!({ "protect": "hash", "normalize": "exact", "root": root });
        document["version"] = json!(10 + root);
        document["topics"]["to"] = json!("rotate-fit.hashed");
        document.to_string()
    };
    sandbox.document("people", &hashed(1));
    sandbox.broker.create_topic("rotate-fit.hashed", PARTITIONS);
    sandbox.broker.create_topic("rotate-fit.hashed-new", PARTITIONS);
    sandbox.feed(0..3, person);
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(60), "all records", |r| {
        r.metric("veilstream_records_produced_total", "") >= 3.0
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
    rotate_keys(&sandbox, &instance, 0..3);
    let rotated = |root: u32| {
        sandbox.document("people", &hashed(root));
        let mut arguments = rotate_arguments(&sandbox, "rotate-fit.hashed-new");
        arguments[3] = "rotate-fit.hashed".to_owned();
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        instance.run(&arguments)
    };
    let output = rotated(2);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("a hash under index root 1"), "{}", text(&output));
    assert_eq!(rotated(1).status.code(), Some(0));
    let topic = |name| reader::committed(&sandbox.broker.bootstrap, name, PARTITIONS);
    let keys = |records: Vec<ConsumerRecord>| -> BTreeSet<_> {
        records.into_iter().map(|r| (r.partition, r.key)).collect()
    };
    assert_eq!(keys(topic("rotate-fit.hashed")), keys(topic("rotate-fit.hashed-new")));
}
