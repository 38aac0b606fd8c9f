//! One value: sealed, opened, normalised, indexed. `cargo bench -p veilstream-engine --bench
//! crypto`.
//!
//! The value is the 18 characters of an e-mail address with its quotes, padded to 32 bytes of
//! plaintext.
#![allow(missing_docs, clippy::unwrap_used, reason = "a bench")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use support::{OsRandom, TENANT, key};
use veilstream_engine::index::Indexer;
use veilstream_engine::key::{Budget, Key, KeyKind};
use veilstream_engine::normalize::{Input, Normalizer, Scratch};
use veilstream_engine::scan::Tape;
use veilstream_engine::seal::{
    Expected, NoncePool, Opener, Owner, PayloadKind, Sealer, canonical_json,
};
use veilstream_engine::token::Suite;

const VALUE: &[u8] = br#""jane@example.com""#;
const FID: [u8; 6] = [1, 2, 3, 4, 5, 6];

/// A key that is never spent, so that the bench may go on.
fn bench_key(kind: KeyKind, scope: &str) -> Arc<Key> {
    let mut key = key(kind, scope);
    key.budget = Budget::new(u64::MAX);
    Arc::new(key)
}

fn tokens(c: &mut Criterion) {
    let mut nonces = NoncePool::new(Box::new(OsRandom));
    for (name, suite, kind, scope) in [
        ("suite 1", Suite::AesGcm, KeyKind::Data, "schema:t"),
        ("suite 2", Suite::XaesGcm, KeyKind::Data, "shared:t"),
        ("suite 3", Suite::AesSiv, KeyKind::Deterministic, "v1"),
    ] {
        let key = bench_key(kind, scope);
        let mut sealer = Sealer::new(key.clone(), suite, FID).unwrap();
        let (mut token, mut sealed) = (Vec::new(), Vec::new());
        sealer.seal(PayloadKind::Json, VALUE, 16, None, &mut nonces, &mut sealed).unwrap();
        c.bench_function(&format!("seal/{name}"), |b| {
            b.iter(|| {
                token.clear();
                sealer
                    .seal(PayloadKind::Json, black_box(VALUE), 16, None, &mut nonces, &mut token)
                    .unwrap();
            });
        });
        let expected = Expected { fid: FID, tenant: TENANT, binding: None, owner: Owner::Any };
        let (mut opener, mut payload) = (Opener::default(), Vec::new());
        c.bench_function(&format!("open/{name}"), |b| {
            b.iter(|| {
                opener
                    .open(black_box(&sealed), &expected, |_| Some(key.clone()), &mut payload)
                    .unwrap()
            });
        });
        c.bench_function(&format!("new sealer/{name}"), |b| {
            b.iter(|| Sealer::new(key.clone(), suite, FID).unwrap())
        });
    }
    let (mut tape, mut out) = (Tape::default(), Vec::new());
    c.bench_function("canonical json", |b| {
        b.iter(|| assert!(canonical_json(black_box(VALUE), &mut tape, &mut out)))
    });
}

fn indexes(c: &mut Criterion) {
    let root = bench_key(KeyKind::Index, "v1");
    let (mut scratch, mut normal, mut tag) = (Scratch::default(), Vec::new(), Vec::new());
    for (name, value) in [
        ("exact", r#""jane@example.com""#),
        ("text", r#""Jane Q.  Public""#),
        ("text", "\"Zo\u{eb}  M\u{fc}ller\""),
        ("email", r#""Jane@Example.com""#),
        ("email", "\"jane@b\u{fc}cher.example\""),
        ("phone-us", r#""(415) 555-2671""#),
        ("digits", r#""078-05-1120""#),
        ("alnum", r#""de89 3704 0044 0532 0130 00""#),
        ("date", r#""1980-02-29T23:59:59Z""#),
        ("number", "1.500e3"),
    ] {
        let normalizer: Normalizer = name.parse().unwrap();
        let ascii = if value.is_ascii() { "" } else { " unicode" };
        c.bench_function(&format!("normalise/{name}{ascii}"), |b| {
            b.iter(|| {
                assert!(normalizer.normalize(
                    Input::Json(black_box(value.as_bytes())),
                    &mut scratch,
                    &mut normal
                ))
            });
        });
    }
    let indexer = Indexer::new(&root, TENANT, "t.email", "email", 128, 1).unwrap();
    c.bench_function("index tag", |b| {
        b.iter(|| {
            tag.clear();
            indexer.write([black_box(&b"jane@example.com"[..])], &mut tag);
        });
    });
}

criterion_group!(benches, tokens, indexes);
criterion_main!(benches);
