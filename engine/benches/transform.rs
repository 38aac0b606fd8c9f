//! One event protected: the engine, and beside it the way one would write it by hand with the same
//! libraries.
//!
//! The event has 1,013 bytes, 8 values are sealed and 2 of them indexed. By hand:
//! `serde_json::Value`, jsonpath-rust, aes-gcm, hmac, base64, `serde_json::to_vec`, as one writes
//! it at first (paths parsed and ciphers made where they are used), with paths compiled once, and
//! with ciphers and HMAC states kept too. `cargo bench -p veilstream-engine --bench transform`.
#![allow(clippy::print_stdout, missing_docs, clippy::unwrap_used, reason = "a bench")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::time::Instant;

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hmac::{Hmac, Mac};
use jsonpath_rust::JsonPath;
use jsonpath_rust::parser::model::JpQuery;
use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use serde_json::Value;
use sha2::Sha256;
use support::{Bench, value_record};
use veilstream_engine::index::Indexer;
use veilstream_engine::scan::Tape;
use veilstream_engine::seal::{NoncePool, PayloadKind, Sealer};
use veilstream_engine::token::Suite;
use veilstream_engine::transform::Outcome;

const PATHS: [&str; 5] = [
    "$.customer.email",
    "$.customer.phone",
    "$.customer.ssn",
    "$.customer.name.full",
    "$.items[*].recipient",
];

/// An order with four items.
fn event() -> String {
    let item = |i| {
        format!(
            r#"{{"sku":"SKU-{i:05}","qty":{i},"price":1{i}9.95,"recipient":"Jane Q. Public {i}","notes":"leave at the door, ring twice please"}}"#
        )
    };
    let items: Vec<String> = (0..4).map(item).collect();
    format!(
        concat!(
            r#"{{"id":"0a3b8c1e-6a0e-4b4f-9c0a-1d2e3f405060","ts":"2026-11-23T10:11:12.123Z","type":"order.created","#,
            r#""customer":{{"id":4711,"name":{{"first":"Jane","last":"Public","full":"Jane Q. Public"}},"email":"jane.public@example.com","#,
            r#""phone":"+1 415 555 0101","ssn":"078-05-1120","tier":"gold"}},"items":[{}],"shipping":{{"method":"ground","weight":12.5,"#,
            r#""address":{{"street":"1 Main St","city":"Springfield","zip":"12345"}}}},"total":129.95,"currency":"USD","flags":[true,false,null],"#,
            r#""meta":{{"source":"web","trace":"4bf92f3577b34da6a3ce929d0e0e4736"}}}}"#
        ),
        items.join(",")
    )
}

fn schema(residue: &str) -> String {
    format!(
        r#""residue":"{residue}","fields":[
        {{"id":"email","path":"{}","index":{{"normalize":"email"}}}},{{"id":"phone","path":"{}","index":{{"normalize":"digits"}}}},
        {{"id":"ssn","path":"{}"}},{{"id":"name","path":"{}"}},{{"id":"recipient","path":"{}"}}]"#,
        PATHS[0], PATHS[1], PATHS[2], PATHS[3], PATHS[4]
    )
}

/// The way by hand.
struct ByHand {
    ciphers: Vec<Aes256Gcm>,
    mac: Hmac<Sha256>,
    queries: Vec<JpQuery>,
}

/// What is made once and what for every event.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Effort {
    ParsePaths,
    PrecompiledPaths,
    KeptCiphers,
}

impl ByHand {
    fn new() -> Self {
        Self {
            ciphers: (1..=5).map(|i| Aes256Gcm::new(&[i; 32].into())).collect(),
            mac: Hmac::new_from_slice(&[7; 32]).unwrap(),
            queries: PATHS.iter().map(|p| parse_json_path(p).unwrap()).collect(),
        }
    }

    fn protect(&self, event: &[u8], effort: Effort) -> Vec<u8> {
        let mut value: Value = serde_json::from_slice(event).unwrap();
        let mut found: Vec<(usize, String)> = Vec::new();
        for (i, (query, path)) in self.queries.iter().zip(PATHS).enumerate() {
            let nodes = match effort {
                Effort::ParsePaths => value.query_with_path(path).unwrap(),
                Effort::PrecompiledPaths | Effort::KeptCiphers => {
                    js_path_process(query, &value).unwrap()
                }
            };
            found.extend(nodes.into_iter().map(|n| (i, pointer(&n.path()))));
        }
        for (i, pointer) in found {
            let target = value.pointer_mut(&pointer).unwrap();
            let text = serde_json::to_vec(target).unwrap();
            let index = (i < 2).then(|| self.index(i, target.as_str().unwrap(), effort));
            *target = Value::String(self.seal(i, &text, effort));
            if let Some(index) = index {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                value.pointer_mut(parent).unwrap()[format!("{name}_bidx")] = Value::String(index);
            }
        }
        serde_json::to_vec(&value).unwrap()
    }

    fn seal(&self, field: usize, text: &[u8], effort: Effort) -> String {
        let made;
        let cipher = if effort == Effort::KeptCiphers {
            &self.ciphers[field]
        } else {
            made = Aes256Gcm::new(&[field as u8 + 1; 32].into());
            &made
        };
        let mut nonce = [0; 12];
        getrandom::fill(&mut nonce).unwrap();
        let mut token = Vec::with_capacity(24 + 12 + text.len() + 33);
        token.extend_from_slice(&[1; 24]);
        token.extend_from_slice(&nonce);
        token.push(b'J');
        token.extend_from_slice(text);
        token.push(0x80);
        token.resize(36 + (token.len() - 36).next_multiple_of(16), 0);
        let (header, body) = token.split_at_mut(36);
        let tag = cipher.encrypt_inout_detached(&nonce.into(), &header[..24], body.into()).unwrap();
        token.extend_from_slice(&tag);
        format!("vs1.{}", URL_SAFE_NO_PAD.encode(token))
    }

    fn index(&self, field: usize, text: &str, effort: Effort) -> String {
        let normal: String = if field == 0 {
            text.trim().to_lowercase()
        } else {
            text.chars().filter(char::is_ascii_digit).collect()
        };
        let mut mac = if effort == Effort::KeptCiphers {
            self.mac.clone()
        } else {
            Hmac::new_from_slice(&[7; 32]).unwrap()
        };
        mac.update(&(normal.len() as u32).to_be_bytes());
        mac.update(normal.as_bytes());
        format!("1~{}", URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..16]))
    }
}

/// `$['a'][0]` as `/a/0`.
fn pointer(path: &str) -> String {
    path.replace("$['", "/")
        .replace("']['", "/")
        .replace("'][", "/")
        .replace("]['", "/")
        .replace("']", "")
}

/// One way to protect the event.
type Way<'a> = (&'static str, &'static str, Box<dyn FnMut() + 'a>);

fn ways(event: &str) -> Vec<Way<'_>> {
    let mut ways: Vec<Way<'_>> = Vec::new();
    let protects = |bench: &mut Bench| {
        assert!(matches!(
            bench.record(&value_record(black_box(event.as_bytes()))),
            Outcome::Protected(_)
        ))
    };
    for residue in ["off", "count"] {
        let mut bench = Bench::new(&schema(residue));
        assert_eq!(bench.protect(event).matches("vs1.").count(), 8);
        assert_eq!(bench.protect(event).matches("_bidx").count(), 2);
        // The first name is part of the four others: the residue it finds is real, and counted.
        ways.push(("veilstream, residue", residue, Box::new(move || protects(&mut bench))));
    }
    // The same values under the key of a data subject who was met before.
    let mut bench = Bench::new(&format!(r#""subject":"$.customer.id",{}"#, schema("off")));
    let Outcome::NeedKeys(needed) = bench.record(&value_record(event.as_bytes())) else {
        panic!("no key of the subject yet")
    };
    bench.transformer.add_subject_keys([std::sync::Arc::new(support::key(
        needed[0].kind,
        &needed[0].scope.to_string(),
    ))]);
    assert_eq!(bench.protect(event).matches("\"vs1.Ag").count(), 8, "suite 2");
    ways.push((
        "veilstream, residue",
        "off, a warm subject",
        Box::new(move || protects(&mut bench)),
    ));
    for (name, effort) in [
        ("paths parsed per event", Effort::ParsePaths),
        ("paths precompiled", Effort::PrecompiledPaths),
        ("ciphers kept too", Effort::KeptCiphers),
    ] {
        let hand = ByHand::new();
        assert_eq!(
            hand.protect(event.as_bytes(), effort).windows(4).filter(|w| *w == b"vs1.").count(),
            8
        );
        ways.push((
            "by hand",
            name,
            Box::new(move || drop(black_box(hand.protect(black_box(event.as_bytes()), effort)))),
        ));
    }
    ways
}

/// All ways in turns, a hundred events each: a shared machine changes its pace from second to
/// second, and what is compared must be measured in one.
fn ratios(event: &str) {
    let mut ways = ways(event);
    let mut times = vec![Vec::new(); ways.len()];
    for _ in 0..500 {
        for ((_, _, way), times) in ways.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (0..100).for_each(|_| way());
            times.push(start.elapsed() / 100);
        }
    }
    println!("time per event, as a multiple of the first (lowest tenth of 500 rounds in turns):");
    let tenths: Vec<f64> = times
        .iter_mut()
        .map(|times| {
            times.sort_unstable();
            times[times.len() / 10].as_secs_f64()
        })
        .collect();
    for ((group, name, _), tenth) in ways.iter().zip(&tenths) {
        println!("  {:5.2}  {:6.2} us  {group}: {name}", tenth / tenths[0], tenth * 1e6);
    }
}

fn transform(c: &mut Criterion) {
    let event = event();
    assert_eq!(event.len(), 1013);
    ratios(&event);
    let mut group = c.benchmark_group("event of 1013 bytes, 8 values, 2 indexes");
    group.throughput(Throughput::Bytes(event.len() as u64));
    for (name, case, mut way) in ways(&event) {
        group.bench_function(BenchmarkId::new(name, case), |b| b.iter(&mut way));
    }
    group.finish();

    let mut parts = c.benchmark_group("parts");
    let mut tape = Tape::default();
    parts.bench_function("scan", |b| b.iter(|| tape.scan(black_box(event.as_bytes())).unwrap()));
    parts.bench_function("utf8", |b| {
        b.iter(|| std::str::from_utf8(black_box(event.as_bytes())).is_ok())
    });
    let bench = Bench::new(&schema("off"));
    tape.scan(event.as_bytes()).unwrap();
    let mut selection = veilstream_engine::select::Selection::default();
    let program = &bench.schemas.schemas()[0].program;
    parts.bench_function("select", |b| {
        b.iter(|| program.select(black_box(event.as_bytes()), &tape, &mut selection).unwrap())
    });
    let key = std::sync::Arc::new(support::key(veilstream_engine::KeyKind::Data, "schema:t"));
    let mut sealer = Sealer::new(key, Suite::AesGcm, [1; 6]).unwrap();
    let mut nonces = NoncePool::new(Box::new(support::OsRandom));
    let mut out = Vec::new();
    parts.bench_function("seal one value", |b| {
        b.iter(|| {
            out.clear();
            sealer
                .seal(
                    PayloadKind::Json,
                    black_box(b"\"jane.public@example.com\""),
                    16,
                    None,
                    &mut nonces,
                    &mut out,
                )
                .unwrap();
        });
    });
    let root = support::key(veilstream_engine::KeyKind::Index, "v1");
    let indexer = Indexer::new(&root, support::TENANT, "t.email", "email", 128, 1).unwrap();
    parts.bench_function("index one value", |b| {
        b.iter(|| {
            out.clear();
            indexer.write([black_box(&b"jane.public@example.com"[..])], &mut out);
        });
    });
    parts.finish();
}

criterion_group!(benches, transform);
criterion_main!(benches);
