//! Input of every kind of wrongness through a real Kafka: each record ends in the sanitized topic
//! or as a sealed dead letter with the right reason, as it was and in order; what is to be
//! protected is readable nowhere.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use krafka::{ConsumerRecord, Record};
use veilstream::dead_letters::read;
use veilstream::{keys, registry};
use veilstream_engine::RejectCode;
use veilstream_engine::reveal::{KeySource, Report, RevealOptions, Revealer};

use crate::feed::{Feeder, Input, TIME, people};
use crate::kafka::kafka;
use crate::reader::{self, contains};
use crate::sandbox::Sandbox;

const PARTITIONS: usize = 4;
/// Stands in protected places.
const PLANTED: &str = "planted-marker@canary.example";
/// Stands in keys and headers of what is rejected.
const SEALED: &str = "canary-of-a-dead-letter";

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Verdict {
    Clean,
    Dead(&'static str),
    /// One of the two.
    Kept,
}

struct Case {
    name: String,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(&'static [u8], Option<&'static [u8]>)>,
    time: i64,
    verdict: Verdict,
}

#[test]
fn nothing_is_lost_and_nothing_is_readable() {
    let sandbox = Sandbox::new(kafka(), "bad", i32::try_from(PARTITIONS).unwrap());
    sandbox.document("people", &people("bad").replace("$.email", "$..email"));
    let instance = sandbox.instance(0);
    let cases = cases();
    let feeder = Feeder::new(sandbox.broker);
    for (i, case) in cases.iter().enumerate() {
        let headers: Vec<_> =
            case.headers.iter().map(|(name, value)| (unchecked(name), *value)).collect();
        if case.time == 0 {
            // librdkafka takes 0 for now.
            let value = case.value.clone().unwrap();
            let record = Record::new("bad.raw", value)
                .key(case.key.clone().unwrap())
                .partition(i32::try_from(i % PARTITIONS).unwrap())
                .timestamp(0);
            feeder.finish();
            reader::send(&sandbox.broker.bootstrap, record);
            continue;
        }
        feeder.send(&Input {
            topic: "bad.raw",
            partition: i32::try_from(i % PARTITIONS).unwrap(),
            key: case.key.as_deref(),
            value: case.value.as_deref(),
            timestamp: case.time,
            headers: &headers,
        });
    }
    feeder.finish();
    let mut running = instance.start();
    let all = cases.len();
    running.wait_for(Duration::from_secs(90), "all records", |r| {
        r.metric("veilstream_records_consumed_total", "bad.raw") >= all as f64
    });
    let metrics = running.get("/metrics").unwrap().1;
    // librdkafka cannot write 0, and the sidecar says so.
    running.wait_for(Duration::from_secs(10), "the status", |r| {
        r.get("/status").unwrap().1.contains("\"timestamps_raised_to_1\":1")
    });
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());

    let config = instance.config();
    let (registry, _) = registry::open_configured(&config.schemas).unwrap();
    let (set, keys) = (registry.current(), keys::open(&config.keys, None).unwrap());
    let mut dead = BTreeMap::new();
    let mut last = BTreeMap::new();
    read::read(&config, None, |found| {
        let letter = found.letter.as_ref().expect("a dead letter");
        assert!(
            last.insert(letter.partition, letter.offset)
                .is_none_or(|before| before < letter.offset),
            "dead letters out of order"
        );
        let i = usize::try_from(letter.offset).unwrap() * PARTITIONS
            + usize::try_from(letter.partition).unwrap();
        let (case, opened) = (&cases[i], read::open(&found, letter, &*keys).unwrap());
        assert!(
            case.verdict == Verdict::Kept || case.verdict == Verdict::Dead(reason(&letter.reason)),
            "{}: {}",
            case.name,
            letter.reason
        );
        assert_eq!(
            (opened.key, opened.value, letter.time),
            (case.key.clone(), case.value.clone(), Some(case.time)),
            "{}",
            case.name
        );
        let headers: Vec<_> = opened
            .headers
            .iter()
            .map(|(name, value)| (name.as_slice(), value.as_deref()))
            .collect();
        assert_eq!(headers, case.headers, "{}", case.name);
        assert!(dead.insert(i, ()).is_none(), "{} is there twice", case.name);
        Ok(true)
    })
    .unwrap();

    let keyring = keys.keyring();
    let lookup = |id: &_| keys.lookup(id).unwrap();
    let (mut revealer, mut report, mut opened) =
        (Revealer::default(), Report::default(), Vec::new());
    let clean = sandbox.clean();
    for partition in 0..PARTITIONS {
        let records: Vec<&ConsumerRecord> =
            clean.iter().filter(|r| usize::try_from(r.partition).unwrap() == partition).collect();
        // In the order of the input: what is not a dead letter.
        let expected: Vec<&Case> = cases
            .iter()
            .enumerate()
            .filter(|(i, _)| i % PARTITIONS == partition && !dead.contains_key(i))
            .map(|(_, case)| case)
            .collect();
        assert_eq!(records.len(), expected.len(), "sanitized in partition {partition}");
        for (record, case) in records.iter().zip(expected) {
            assert!(
                matches!(case.verdict, Verdict::Clean | Verdict::Kept),
                "{} was let through",
                case.name
            );
            // librdkafka cannot write 0.
            assert_eq!(
                (record.key.as_deref(), record.timestamp),
                (case.key.as_deref(), case.time.max(1)),
                "{}",
                case.name
            );
            let mut headers: Vec<(String, Option<&[u8]>)> = case
                .headers
                .iter()
                .map(|(n, v)| (String::from_utf8_lossy(n).into_owned(), *v))
                .collect();
            headers.push(("veilstream-schema".to_owned(), Some(b"people/1")));
            let found: Vec<(String, Option<&[u8]>)> =
                record.headers.iter().map(|(n, v)| (n.clone(), v.as_deref())).collect();
            assert_eq!(found, headers, "{}", case.name);
            match (&record.value, &case.value) {
                (Some(value), Some(input)) => {
                    let (schema, source) = (
                        set.get("people").unwrap(),
                        KeySource { keyring: &keyring, lookup: &lookup },
                    );
                    revealer
                        .reveal(
                            schema,
                            source,
                            value,
                            &RevealOptions::default(),
                            &mut opened,
                            &mut report,
                        )
                        .unwrap();
                    assert!(opened == *input, "{} does not open to its bytes", case.name);
                }
                (None, None) => {}
                _ => panic!("{}: a tombstone or none", case.name),
            }
        }
    }
    assert_eq!(clean.len() + dead.len(), all);
    println!("bad input: {} sanitized, {} dead letters", clean.len(), dead.len());

    let (sanitized, letters) =
        (sandbox.broker.segments("bad.clean"), sandbox.broker.segments("bad.dead-letter"));
    for (place, bytes) in [
        ("sanitized", &sanitized),
        ("dead letters", &letters),
        ("log", &instance.log().into_bytes()),
        ("metrics", &metrics.into_bytes()),
    ] {
        assert!(!contains(bytes, b"canary.example"), "a protected value is readable: {place}");
        assert!(
            !contains(bytes, SEALED.as_bytes()),
            "a dead letter's key or header is readable: {place}"
        );
    }
    // The reader above takes names for text; on disk they are as they were: length, name, length,
    // value.
    assert!(
        contains(&sanitized, b"\x04\xff\xfe\x06odd"),
        "a header's name that is not UTF-8 is lost"
    );
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, value: Option<Vec<u8>>, verdict| {
        let (time, key) = (
            *TIME + i64::try_from(cases.len()).unwrap(),
            Some(format!("k{}", cases.len()).into_bytes()),
        );
        cases.push(Case { name: name.to_owned(), key, value, headers: Vec::new(), time, verdict });
        cases.len() - 1
    };
    let person = || Some(format!("{{\"email\":\"{PLANTED}\"}}").into_bytes());
    let mut sealed = Vec::new();
    for (name, bytes) in kit() {
        let verdict = name.strip_prefix("n_").map_or(Verdict::Clean, |rest| {
            Verdict::Dead(
                RejectCode::ALL
                    .iter()
                    .map(|c| c.as_str())
                    .find(|code| rest.starts_with(&format!("{code}_")))
                    .unwrap(),
            )
        });
        let planted = [format!("[{{\"email\":\"{PLANTED}\"}},").as_bytes(), &bytes, b"]"].concat();
        let at = add(&name, Some(bytes), verdict);
        sealed.extend((verdict != Verdict::Clean).then_some(at));
        add(&format!("{name} beside a person"), Some(planted), Verdict::Kept);
    }
    add("tombstone", None, Verdict::Clean);
    let framed = [b"\0\0\0\0\x01".as_slice(), person().unwrap().as_slice()].concat();
    sealed.push(add("registry framed", Some(framed), Verdict::Dead("registry_framed")));
    add(
        "1 MB protected",
        Some(
            format!("{{\"email\":\"{}\"}}", PLANTED.repeat((1 << 20) / PLANTED.len())).into_bytes(),
        ),
        Verdict::Clean,
    );
    add(
        "1 MB unclosed",
        Some(format!("{{\"email\":\"{}", PLANTED.repeat((1 << 20) / PLANTED.len())).into_bytes()),
        Verdict::Dead("not_json"),
    );
    add("1 MB of brackets", Some("[".repeat(1 << 20).into_bytes()), Verdict::Dead("too_deep"));
    let with =
        |at: usize, cases: &mut Vec<Case>, headers: &[(&'static [u8], Option<&'static [u8]>)]| {
            cases[at].headers = headers.to_vec()
        };
    let odd: [(&'static [u8], Option<&'static [u8]>); 7] = [
        (b"twice", Some(b"1")),
        (b"twice", Some(b"")),
        (b"twice", None),
        (b"", Some(b"no name")),
        (b"\xff\xfe", Some(b"odd")),
        (b"veilstream-schema", Some(b"mine")),
        (b"bytes", Some(b"\0\x01\xff")),
    ];
    let clean = [
        add("odd headers", person(), Verdict::Clean),
        add("odd headers, rejected", Some(b"{".to_vec()), Verdict::Dead("not_json")),
    ];
    let null_key = [
        add("null key", person(), Verdict::Clean),
        add("null key, rejected", Some(b"]".to_vec()), Verdict::Dead("not_json")),
    ];
    let (empty_key, binary_key, zero) = (
        add("empty key", person(), Verdict::Clean),
        add("binary key", person(), Verdict::Clean),
        add("timestamp 0", person(), Verdict::Clean),
    );
    let null_tombstone = add("tombstone without key", None, Verdict::Clean);
    for at in clean {
        with(at, &mut cases, &odd);
    }
    for at in sealed {
        with(at, &mut cases, &[(b"h", Some(SEALED.as_bytes()))]);
        cases[at].key = Some(format!("{SEALED}-{at}").into_bytes());
    }
    for at in null_key.into_iter().chain([null_tombstone]) {
        cases[at].key = None;
    }
    cases[empty_key].key = Some(Vec::new());
    cases[binary_key].key = Some(vec![0, 0xff, 0x80, b'"']);
    cases[zero].time = 0;
    cases
}

fn kit() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/malformed");
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .map(|path| {
            (path.file_stem().unwrap().to_string_lossy().into_owned(), fs::read(&path).unwrap())
        })
        .collect();
    files.sort();
    assert!(files.len() > 185, "the kit is not here");
    files
}

/// The code as the tables have it.
fn reason(text: &str) -> &'static str {
    RejectCode::ALL.iter().map(|c| c.as_str()).find(|code| *code == text).unwrap_or("unknown")
}

/// A header's name that need not be UTF-8.
#[allow(unsafe_code, reason = "the client wants names as text and Kafka does not")]
fn unchecked(name: &'static [u8]) -> &'static str {
    // SAFETY: nobody reads it as text; rdkafka hands its bytes and length to librdkafka.
    unsafe { std::str::from_utf8_unchecked(name) }
}
