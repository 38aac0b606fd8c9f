//! Over arbitrary JSON and arbitrary schemas: reveal undoes transform byte for byte, nothing
//! protected survives, nothing panics.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::cell::RefCell;
use std::sync::atomic::{AtomicUsize, Ordering};

use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};
use serde_json::Value;
use support::{Bench, document, key, keyring, keyring_of, value_record};
use veilstream_engine::RejectCode;
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::key::KeyKind;
use veilstream_engine::reveal::{
    Decision, Disclosure, DisclosureOptions, FetchedKeys, HeldKeys, KeySource, ReadStatus, Report,
    RevealOptions, Revealer, Status,
};
use veilstream_engine::scan::Tape;
use veilstream_engine::transform::Outcome;

/// JSON text with every freedom the grammar gives: white space, spellings of numbers, escapes, lone
/// surrogates, names twice.
fn json(lone_surrogates: bool) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        1 => Just("null".to_owned()),
        1 => Just("true".to_owned()),
        1 => "-?(0|[1-9][0-9]{0,12})(\\.[0-9]{1,4})?([eE][+-]?[0-9]{1,2})?",
        3 => string(lone_surrogates),
    ];
    let inner = leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            1 => (space(), prop::collection::vec((inner.clone(), space()), 0..5))
                .prop_map(|(s, items)| format!("[{s}{}]", items.into_iter().map(|(v, s)| format!("{v}{s}")).collect::<Vec<_>>().join(","))),
            2 => (space(), prop::collection::vec((name(lone_surrogates), space(), inner, space()), 0..6)).prop_map(|(s, members)| {
                let members: Vec<String> = members.into_iter().map(|(n, s, v, t)| format!("{n}{s}:{s}{v}{t}")).collect();
                format!("{{{s}{}}}", members.join(&format!(",{s}")))
            }),
        ]
    });
    // Mostly objects with an `a`, a `b` and a `c`, so that paths meet them.
    let object = (inner.clone(), inner.clone(), inner.clone(), space())
        .prop_map(|(a, b, c, s)| format!("{{\"a\":{a},{s}\"b\":{b}{s},\"c\"{s}:{c}}}"));
    (space(), prop_oneof![3 => object, 1 => inner], space())
        .prop_map(|(a, v, b)| format!("{a}{v}{b}"))
}

fn space() -> impl Strategy<Value = String> {
    prop_oneof![5 => Just(String::new()), 1 => "[ \t\r\n]{1,3}"]
}

fn string(lone_surrogates: bool) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        6 => "[a-c ]{1,4}",
        3 => prop::sample::select(vec!["abcabc", "secret", "secrets"]).prop_map(str::to_owned),
        1 => "[é€😀\u{2028}]",
        1 => Just("\\u0061".to_owned()),
        1 => Just("\\u00E9".to_owned()),
        1 => Just("\\ud83D\\uDe00".to_owned()),
        1 => prop_oneof![Just("\\\""), Just("\\\\"), Just("\\/"), Just("\\n"), Just("\\u0000"), Just("vs1."), Just("1~")].prop_map(str::to_owned),
        1 => Just(if lone_surrogates { "\\ud800" } else { "x" }.to_owned()),
    ];
    prop::collection::vec(piece, 0..5).prop_map(|p| format!("\"{}\"", p.concat()))
}

fn name(lone_surrogates: bool) -> impl Strategy<Value = String> {
    prop_oneof![
        12 => prop::sample::select(vec!["\"a\"", "\"b\"", "\"c\"", "\"d\"", "\"e\""]).prop_map(str::to_owned),
        3 => prop::sample::select(vec!["\"\\u0061\"", "\"\\u0062\"", "\"a_bidx\"", "\"b_bidx\"", "\"a_bidx_prev\"", "\"a_bidx_bidx\"", "\"i\"", "\"i_prev\"", "\"\"", "\"é\"", "\"\\n\""]).prop_map(str::to_owned),
        1 => string(lone_surrogates),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        12 => "[a-e]".prop_map(|n| format!(".{n}")),
        2 => Just(".*".to_owned()),
        1 => "[a-e]".prop_map(|n| format!("..{n}")),
        1 => Just("..*".to_owned()),
        1 => prop::sample::select(vec![".a_bidx", "..a_bidx", "..i", ".a[*]", ".a_bidx[*]", "[?@.a_bidx].b", "..a_bidx_bidx"]).prop_map(str::to_owned),
        2 => (-2_i64..3).prop_map(|i| format!("[{i}]")),
        1 => (prop::option::of(-3_i64..3), prop::option::of(-3_i64..3))
            .prop_map(|(a, b)| format!("[{}:{}]", a.map(|n| n.to_string()).unwrap_or_default(), b.map(|n| n.to_string()).unwrap_or_default())),
        1 => Just("['a','b']".to_owned()),
        1 => "[a-e]".prop_map(|n| format!("[?@.{n}]")),
        1 => Just(".d[?@.a].b".to_owned()),
        1 => Just(".d[?length(@.a) == 1].b".to_owned()),
        1 => "[a-e]".prop_map(|n| format!("[?@.{n} == 'a' || @.{n} > 1]")),
        1 => prop::sample::select(vec!["[?length(@) > 1]", "[?count(@.*) == 2]", "[?length(@.a) == \
            2]", "[?@.a == @.b]", "[?@ == $.a]", "[?@.a[?@.b]]", "[?value(@..a) == 'a']", "[?count(@..b) > 1]", "[?search(@.a, 'a')]", "[?@..c]", "[?$.a == @.b]", "[?@.*]", "[?!@.a_bidx]", "[?@ >= $.b]", "[?@.a_bidx == 1]", "[?count(@[*]) > 1]", "[?@[?@.b == 1]]", "[?@.a[?length(@) == 2]]"])
            .prop_map(str::to_owned),
    ];
    // Documents are shallow: long paths seldom select.
    let length = prop_oneof![1 => Just(0_usize), 8 => Just(1), 8 => Just(2), 3 => Just(3)];
    length
        .prop_flat_map(move |n| prop::collection::vec(segment.clone(), n))
        .prop_map(|s| format!("${}", s.concat()))
}

fn encrypt() -> impl Strategy<Value = String> {
    let index = prop_oneof![
        3 => Just(String::new()),
        2 => Just(r#","index":{"normalize":"exact"}"#.to_owned()),
        1 => Just(r#","index":{"normalize":"digits","bits":12,"into":"i"}"#.to_owned()),
        1 => "[a-e]".prop_map(|n| format!(r#","index":{{"normalize":"exact","into":"{n}"}}"#)),
        1 => Just(r#","index":{"normalize":"text","of":["$.a","$.b"]}"#.to_owned()),
    ];
    let more = prop_oneof![
        12 => Just(""),
        2 => Just(r#","null":"encrypt""#),
        2 => Just(r#","pad":0"#),
        1 => Just(r#","required":true"#),
        2 => Just(r#","bind":[{"name":"k","path":"$.e"}]"#),
    ];
    (path(), index, more).prop_map(|(path, index, more)| {
        format!(r#""path":{},"protect":"encrypt"{index}{more}"#, Value::String(path))
    })
}

fn any_kind() -> impl Strategy<Value = String> {
    let kind = prop_oneof![
        4 => Just(r#""encrypt""#),
        1 => Just(r#""deterministic","root":1"#),
        1 => Just(r#""hash","index":{"normalize":"exact"}"#),
        1 => Just(r#""mask""#),
        1 => Just(r#""mask","keep_first":7,"keep_last":0"#),
        1 => Just(r#""redact""#),
        1 => Just(r#""redact","with":"abcabc""#),
        2 => Just(r#""drop""#),
        // So wide that hardly any number is the bound of its own bucket.
        1 => Just(r#""generalize","to":"bucket:1000003""#),
        1 => Just(r#""generalize","to":"year","epoch":"milliseconds""#),
    ];
    (path(), kind)
        .prop_map(|(path, kind)| format!(r#""path":{},"protect":{kind}"#, Value::String(path)))
}

fn schema(
    field: impl Strategy<Value = String>,
    members: &'static str,
) -> impl Strategy<Value = String> {
    prop::collection::vec(field, 1..4).prop_map(move |fields| {
        let fields: Vec<String> =
            fields.iter().enumerate().map(|(i, f)| format!(r#"{{"id":"f{i}",{f}}}"#)).collect();
        document(&format!(r#"{members}"fields":[{}]"#, fields.join(",")))
    })
}

/// A bench under the document, if it compiles; maybe while the index root rotates.
fn bench(document: &str, rotating: bool) -> Option<Bench> {
    let keys = || {
        if rotating {
            keyring_of(vec![key(KeyKind::Data, "schema:t"), key(KeyKind::Index, "v2")])
        } else {
            keyring("t")
        }
    };
    compile(document.as_bytes(), &Grants::local()).is_ok().then(|| Bench::with(&[document], keys()))
}

/// So many cases, or `PROPTEST_CASES`; the same ones again with `PROPTEST_RNG_SEED`.
fn cases(default: u32) -> Config {
    let cases =
        std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default);
    let config = Config {
        cases,
        max_global_rejects: u32::MAX,
        failure_persistence: None,
        ..Config::default()
    };
    let RngSeed::Random = config.rng_seed else { return config };
    let mut seed = [0; 8];
    getrandom::fill(&mut seed).unwrap();
    Config { rng_seed: RngSeed::Fixed(u64::from_le_bytes(seed)), ..config }
}

/// Judges every case; a failure says how to see it again.
fn run<S: Strategy>(
    config: Config,
    cases: &S,
    test: impl Fn(S::Value) -> Result<(), TestCaseError>,
) {
    let RngSeed::Fixed(seed) = config.rng_seed else { unreachable!("the seed was just drawn") };
    let count = config.cases;
    if let Err(e) = TestRunner::new(config).run(cases, test) {
        panic!("{e}\nagain: PROPTEST_RNG_SEED={seed} PROPTEST_CASES={count}");
    }
}

#[test]
fn reveal_undoes_transform_byte_for_byte() {
    let (protected, tokens) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let config = cases(6_000);
    let total = config.cases as usize;
    let schemas = prop_oneof![
        12 => schema(encrypt(), ""),
        2 => schema(encrypt(), r#""envelope":"connect","#),
        1 => schema(encrypt(), r#""subject":["$.e","$.d.e"],"subject_domain":"d","subject_optional":true,"#),
    ];
    let all = (schemas, json(true), any::<bool>()).prop_filter_map(
        "does not compile",
        |(s, j, rotating)| {
            let json = if s.contains("envelope") {
                format!(r#"{{"schema":null,"payload":{j}}}"#)
            } else {
                j
            };
            bench(&s, rotating).map(|b| (s, json, Shown(b)))
        },
    );
    run(config, &all, |(_, json, Shown(mut bench))| {
        let mut outcome = bench.outcome(json.as_bytes());
        if let Outcome::NeedKeys(needed) = &outcome {
            let scopes: Vec<String> = needed.iter().map(|n| n.scope.to_string()).collect();
            prop_assert!(scopes.len() == 1 && scopes[0].starts_with("subject:"), "{:?}", scopes);
            bench.keys =
                keyring_of(vec![key(KeyKind::Data, "schema:t"), key(KeyKind::Data, &scopes[0])]);
            bench
                .transformer
                .add_subject_keys([std::sync::Arc::new(key(KeyKind::Data, &scopes[0]))]);
            outcome = bench.outcome(json.as_bytes());
        }
        match outcome {
            Outcome::Protected(_) => {
                let out = String::from_utf8(bench.out.value.clone()).unwrap();
                prop_assert!(Tape::default().scan(out.as_bytes()).is_ok(), "{}", out);
                let (revealed, report) = bench.reveal(&out);
                prop_assert_eq!(&revealed, &json, "by way of {}", out);
                let revealed = report.fields.iter().filter(|f| f.1 == Status::Revealed).count();
                protected.fetch_add(usize::from(revealed > 0), Ordering::Relaxed);
                tokens.fetch_add(revealed, Ordering::Relaxed);
                let (kept, _) = bench
                    .reveal_with(&out, &RevealOptions { fields: Some(&[]), keep_indexes: true });
                prop_assert_eq!(&kept, &out, "nothing asked for, nothing changed");
                let fields = bench.schemas.schemas()[0].fields.len();
                let (disclosed, told) = bench.disclose(&out, &vec![Decision::Reveal; fields]);
                prop_assert_eq!(&disclosed, &json, "to anyone who may reveal all of {}", out);
                let statuses: Vec<_> = told.places.iter().map(|p| (p.field, p.status)).collect();
                prop_assert_eq!(statuses, report.fields);
                bench.keys = keyring_of(Vec::new());
                let (withheld, told) = bench.disclose(&out, &[]);
                prop_assert!(told.fields.iter().all(|s| *s == ReadStatus::Denied));
                prop_assert!(!withheld.contains("\"vs1.A"), "{} keeps tokens", withheld);
                prop_assert!(Tape::default().scan(withheld.as_bytes()).is_ok(), "{}", withheld);
                prop_assert!(withheld.len() <= json.len().max(kept.len()));
            }
            Outcome::Rejected(reject) => prop_assert!(
                matches!(
                    reject.code,
                    RejectCode::DuplicateMember
                        | RejectCode::ReservedMember
                        | RejectCode::MissingRequired
                        | RejectCode::MissingSubject
                        | RejectCode::WrongType
                        | RejectCode::FilterReadsProtected
                ),
                "{}",
                reject
            ),
            Outcome::NeedKeys(needed) => prop_assert!(false, "{:?}", needed),
        }
        Ok(())
    });
    // The property is worth something only while much is protected.
    let (protected, tokens) = (protected.into_inner(), tokens.into_inner());
    eprintln!("{total} cases: {protected} records protected, {tokens} tokens");
    assert!(
        protected > total / 5 && tokens > total / 4,
        "too little was protected: {protected} records, {tokens} tokens"
    );
}

/// A bench says nothing of itself: the schema beside it does.
struct Shown<T>(T);

impl<T> std::fmt::Debug for Shown<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("..")
    }
}

/// Every selected node that no other selected node covers, by jsonpath-rust: the texts of its
/// scalars.
fn protected_texts(schema: &str, doc: &Value) -> Vec<String> {
    let schema: Value = serde_json::from_str(schema).unwrap();
    let mut out = Vec::new();
    for field in schema["fields"].as_array().unwrap() {
        let query = parse_json_path(field["path"].as_str().unwrap()).unwrap();
        for found in js_path_process(&query, doc).unwrap() {
            texts(found.val(), &mut out);
        }
    }
    out.retain(|t| t.chars().count() >= 6);
    out
}

fn texts(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::String(s) => out.push(s.clone()),
        Value::Number(n) if n.is_i64() => out.push(n.to_string()),
        Value::Array(items) => items.iter().for_each(|v| texts(v, out)),
        Value::Object(map) => map.values().for_each(|v| texts(v, out)),
        _ => {}
    }
}

#[test]
fn no_protected_value_survives_in_the_output() {
    let (checked, rejected) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let config = cases(6_000);
    let total = config.cases as usize;
    // By chance alone, few texts are selected, and few stand in a document twice.
    let placed = |[a, b, c]: [String; 3]| format!(r#"{{"a":{a},"b":{{"c":{b}}},"c":[{c}],"d":1}}"#);
    let text = || "\"[a-z]{8,12}\"";
    let twice = text().prop_map(move |text| placed([text.clone(), text.clone(), text]));
    let apart = [text(), text(), text()].prop_map(placed);
    let documents = prop_oneof![4 => json(false), 1 => twice, 3 => apart];
    let all = (schema(any_kind(), r#""residue":"reject","#), documents)
        .prop_filter_map("does not compile", |(s, j)| bench(&s, false).map(|b| (s, j, Shown(b))));
    run(config, &all, |(schema, json, Shown(mut bench))| {
        match bench.outcome(json.as_bytes()) {
            Outcome::Protected(_) => {
                let doc: Value = serde_json::from_str(&json).unwrap();
                let text = String::from_utf8(bench.out.value.clone()).unwrap();
                let out: Value = serde_json::from_str(&text).unwrap();
                let mut clear = Vec::new();
                texts(&out, &mut clear);
                // Neither those who may read nothing nor those who may only mask: no field has one.
                for decision in [Decision::Withhold, Decision::Mask] {
                    let withheld = bench.disclose(&text, &[decision; 4]).0;
                    texts(&serde_json::from_str(&withheld).unwrap(), &mut clear);
                }
                for secret in protected_texts(&schema, &doc) {
                    checked.fetch_add(1, Ordering::Relaxed);
                    prop_assert!(
                        !clear.iter().any(|c| c.contains(&secret)),
                        "{:?} survives in {}",
                        secret,
                        out
                    );
                }
            }
            Outcome::Rejected(reject) => {
                rejected
                    .fetch_add(usize::from(reject.code == RejectCode::Residue), Ordering::Relaxed);
            }
            Outcome::NeedKeys(needed) => prop_assert!(false, "{:?}", needed),
        }
        Ok(())
    });
    let (checked, rejected) = (checked.into_inner(), rejected.into_inner());
    assert!(
        checked > total / 5 && rejected > total / 400,
        "too little was looked for: {checked} values, {rejected} records rejected"
    );
}

#[test]
fn arbitrary_bytes_never_panic() {
    let members = r#""residue":"reject","undeclared":"drop","clear":["$.b[*].c"],"subject":"$.e","subject_optional":true,"when":{"$.d":"x","header:h":"v"},
        "fields":[{"id":"a","path":"$.a","index":{"normalize":"phone-us"}},{"id":"b","path":"$.b[?@.c == 1].d","protect":"drop"},{"id":"c","path":"$.c[*]","index":{"normalize":"email"}}],
        "key":{"protect":"hash","normalize":"text","root":1},"headers":{"h":{"protect":"hash","normalize":"number"}}"#;
    let strict = Bench::new(members);
    let plain = Bench::new(
        r#""fields":[{"id":"a","path":"$..a","index":{"normalize":"date"}},{"id":"b","path":"$..*"}]"#,
    );
    // One set for all cases: what a record leaves behind must not trip the next.
    let state = RefCell::new((strict, plain, Revealer::default(), Vec::new(), Report::default()));
    // A document with some of its bytes overwritten, cut out or put in twice.
    let edits = prop::collection::vec((any::<prop::sample::Index>(), 0..3_u8, any::<u8>()), 0..4);
    let broken = (json(true), edits).prop_map(|(json, edits)| {
        let mut bytes = json.into_bytes();
        for (at, what, byte) in edits {
            let at = at.index(bytes.len().max(1));
            match what {
                _ if bytes.is_empty() => bytes.push(byte),
                0 => bytes[at] = byte,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, bytes[at]),
            }
        }
        bytes
    });
    let bytes = prop_oneof![broken, prop::collection::vec(any::<u8>(), 0..200)];
    run(cases(20_000), &bytes, |bytes| {
        let (strict, plain, revealer, out, report) = &mut *state.borrow_mut();
        let headers: [(&[u8], Option<&[u8]>); 1] = [(b"h", Some(&bytes))];
        strict.record(&support::full_record(Some(&bytes), Some(&bytes), &headers));
        strict.record(&support::full_record(Some(&bytes), None, &headers));
        let verdict = plain.record(&value_record(&bytes));
        let grammar = serde_json::from_slice::<Value>(&bytes).is_ok();
        // serde_json refuses some right documents (tests/malformed), but passes no wrong one.
        if grammar {
            prop_assert!(Tape::default().scan(&bytes).is_ok());
        }
        for bench in [&*strict, plain] {
            let options = DisclosureOptions { decisions: &[Decision::Reveal; 3], strict: true };
            let keys = HeldKeys { keyring: &bench.keys, fetched: &FetchedKeys::default() };
            let (schema, mut told) = (&bench.schemas.schemas()[0], Disclosure::default());
            let _ = revealer.tokens(schema, &bytes, &mut Vec::new());
            let done = revealer.disclose(schema, keys, &bytes, &options, out, &mut told);
            prop_assert!(done.is_ok() || out.is_empty());
        }
        if let Outcome::Protected(schema) = verdict {
            let _ = revealer.reveal(
                &plain.schemas.schemas()[schema],
                KeySource::of(&plain.keys),
                &bytes,
                &RevealOptions::default(),
                out,
                report,
            );
        }
        Ok(())
    });
}
