//! All payloads of `@octokit/webhooks-examples`: each once in the sanitized topic or, where a
//! protected value stands elsewhere too, in the dead letters; what opens is what came in; nothing
//! protected is readable anywhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use veilstream::dead_letters::read;
use veilstream::{keys, registry};
use veilstream_engine::reveal::{KeySource, Report, RevealOptions, Revealer, Status};

use crate::feed::{Feeder, Input, TIME};
use crate::kafka::kafka;
use crate::reader;
use crate::sidecar::Instance;

const PARTITIONS: i32 = 4;

#[test]
fn every_payload_arrives_once_and_opens_to_its_bytes() {
    let payloads = payloads();
    let kafka = kafka();
    kafka.create_topic("webhooks.raw", PARTITIONS);
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("schemas")).unwrap();
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas");
    fs::copy(schemas.join("github-webhooks.json"), dir.path().join("schemas/github-webhooks.json"))
        .unwrap();
    let instance = Instance::new(dir.path(), "hooks-0", &kafka.bootstrap, "hooks");

    let feeder = Feeder::new(kafka);
    for (i, payload) in payloads.iter().enumerate() {
        let (key, number) = (format!("delivery-{i}"), i.to_string());
        feeder.send(&Input {
            topic: "webhooks.raw",
            partition: partition(i),
            key: Some(key.as_bytes()),
            value: Some(payload.as_bytes()),
            timestamp: *TIME + i64::try_from(i).unwrap(),
            headers: &[("n", Some(number.as_bytes())), ("twice", Some(b"")), ("twice", None)],
        });
    }
    feeder.finish();

    let mut running = instance.start();
    running.ready();
    let (mut clean, mut dead) = (Vec::new(), Vec::new());
    running.wait_for(Duration::from_secs(60), "all payloads", |_| {
        clean = reader::committed(&kafka.bootstrap, "webhooks.sanitized", PARTITIONS);
        dead = reader::committed(&kafka.bootstrap, "hooks.dead-letter", PARTITIONS);
        clean.len() + dead.len() >= payloads.len()
    });
    let metrics = running.get("/metrics").unwrap().1;
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    let config = instance.config();
    let (registry, _) = registry::open_configured(&config.schemas).unwrap();
    let set = registry.current();
    let schema = set.get("github-webhooks").unwrap();
    let keys = keys::open(&config.keys, None).unwrap();
    let keyring = keys.keyring();
    let lookup = |id: &_| keys.lookup(id).unwrap();

    let mut seen = vec![0; payloads.len()];
    let mut last = BTreeMap::new();
    let (mut revealer, mut report, mut opened) =
        (Revealer::default(), Report::default(), Vec::new());
    for record in &clean {
        let i = reader::number(record);
        seen[i] += 1;
        assert!(
            last.insert(record.partition, i).is_none_or(|before| before < i),
            "out of order at {i}"
        );
        assert_eq!(record.partition, partition(i));
        assert_eq!(record.timestamp, *TIME + i64::try_from(i).unwrap());
        assert_eq!(record.key.as_deref(), Some(format!("delivery-{i}").as_bytes()));
        let headers: Vec<_> = record.headers[1..]
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
            .collect();
        assert_eq!(
            headers,
            [
                ("twice", Some(&b""[..])),
                ("twice", None),
                ("veilstream-schema", Some(b"github-webhooks/1"))
            ]
        );
        let value = record.value.as_deref().unwrap();
        let text = std::str::from_utf8(value).unwrap();
        for secret in secrets(&payloads[i]) {
            assert!(!text.contains(&secret), "payload {i} is readable in its sanitized record");
        }
        revealer
            .reveal(
                schema,
                KeySource { keyring: &keyring, lookup: &lookup },
                value,
                &RevealOptions { fields: None, keep_indexes: false },
                &mut opened,
                &mut report,
            )
            .unwrap();
        assert!(opened == payloads[i].as_bytes(), "payload {i} does not open to its bytes");
        assert!(
            report
                .fields
                .iter()
                .all(|(_, status)| matches!(status, Status::Revealed | Status::NoToken)),
            "{:?}",
            report.fields
        );
    }
    read::read(&config, None, |found| {
        let letter = found.letter.as_ref().expect("a dead letter");
        assert_eq!(letter.reason, "residue");
        let original = read::open(&found, letter, &*keys).unwrap();
        let i: usize = std::str::from_utf8(original.headers[0].1.as_deref().unwrap())
            .unwrap()
            .parse()
            .unwrap();
        seen[i] += 1;
        assert_eq!(original.value.as_deref(), Some(payloads[i].as_bytes()));
        assert_eq!(original.key.as_deref(), Some(format!("delivery-{i}").as_bytes()));
        Ok(true)
    })
    .unwrap();
    assert!(seen.iter().all(|times| *times == 1), "not once: {seen:?}");
    println!("{} sanitized, {} dead letters", clean.len(), dead.len());

    // Aborted batches count: whatever was ever written is on disk, uncompressed.
    let everywhere = [
        kafka.segments("webhooks.sanitized"),
        kafka.segments("hooks.dead-letter"),
        instance.log().into_bytes(),
        metrics.into_bytes(),
    ];
    let addresses: std::collections::BTreeSet<String> =
        payloads.iter().flat_map(|p| secrets(p)).filter(|s| s.contains('@')).collect();
    assert!(addresses.len() > 5, "no addresses to look for: {addresses:?}");
    for (place, bytes) in everywhere.iter().enumerate() {
        let found = addresses.iter().filter(|a| reader::contains(bytes, a.as_bytes())).count();
        assert_eq!(found, 0, "addresses are readable in place {place}");
    }
    assert_eq!(
        reader::uncommitted(&kafka.bootstrap, "webhooks.sanitized", PARTITIONS).len(),
        clean.len(),
        "nothing was aborted"
    );
}

fn partition(i: usize) -> i32 {
    i32::try_from(i % 4).unwrap()
}

/// The payloads, every other one with white space.
fn payloads() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/webhooks/package/api.github.com/index.json");
    let text =
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}; run `make setup`", path.display()));
    let events: Vec<Value> = serde_json::from_slice(&text).unwrap();
    let examples: Vec<&Value> =
        events.iter().flat_map(|event| event["examples"].as_array().unwrap()).collect();
    assert_eq!(examples.len(), 329);
    let spell = |(i, example): (usize, &&Value)| {
        if i % 2 == 0 {
            example.to_string()
        } else {
            serde_json::to_string_pretty(example).unwrap()
        }
    };
    examples.iter().enumerate().map(spell).collect()
}

/// What stands at the schema's places, of 6 characters or more: found without the engine.
fn secrets(payload: &str) -> Vec<String> {
    fn walk(value: &Value, under: &str, into: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let protected = name == "email"
                        || name == "organization_billing_email"
                        || name == "name"
                            && ["author", "committer", "owner", "pusher"].contains(&under)
                        || name == "payload" && under == "verification";
                    match member {
                        Value::String(text) if protected && text.chars().count() >= 6 => {
                            into.push(text.clone())
                        }
                        _ => walk(member, name, into),
                    }
                }
            }
            Value::Array(elements) => elements.iter().for_each(|e| walk(e, "", into)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    walk(&serde_json::from_str(payload).unwrap(), "", &mut found);
    found
}
