//! No allocation per event after warm-up.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use allocation_counter::measure;
use support::{Bench, document, full_record, key, keyring, value_record};
use veilstream_engine::key::KeyKind;
use veilstream_engine::mask::ReadMask;
use veilstream_engine::normalize::{Input, Normalizer, Scratch};
use veilstream_engine::record::Record;
use veilstream_engine::reveal::{KeySource, Report, RevealOptions, Revealer};
use veilstream_engine::transform::Outcome;

/// Protects the record until the buffers have grown, then counts.
fn allocations(bench: &mut Bench, record: &Record<'_>) -> u64 {
    for _ in 0..100 {
        assert!(matches!(bench.record(record), Outcome::Protected(_)));
    }
    // Enough records for the nonce pool to be refilled in between.
    measure(|| {
        for _ in 0..500 {
            assert!(matches!(bench.record(record), Outcome::Protected(_)));
        }
    })
    .count_total
}

fn of(members: &str, value: &str) -> u64 {
    allocations(&mut Bench::new(members), &value_record(value.as_bytes()))
}

#[test]
fn the_counter_counts() {
    assert_eq!(measure(|| drop(std::hint::black_box(vec![1_u8; 100]))).count_total, 1);
}

#[test]
fn encrypted_indexed_bound_values() {
    let value = r#"{"id":42,"c":{"email":"Jane@Example.com","phones":["+1 415","x"]},"items":[{"n":"Ann Example"},{"n":null},{"n":{"a":[1,2]}}],"t":"some other text"}"#;
    let members = r#""residue":"count","fields":[
        {"id":"email","path":"$.c.email","index":{"normalize":"email","bits":24},"bind":[{"name":"id","path":"$.id"}]},
        {"id":"phones","path":"$.c.phones[*]","index":{"normalize":"digits"}},
        {"id":"n","path":"$.items[*].n","index":{"normalize":"text","into":"who"}},
        {"id":"c","path":"$.t","index":{"normalize":"alnum","of":["$.id","$.c.email"]}}]"#;
    assert_eq!(of(members, value), 0);
}

#[test]
fn escaped_names_and_values() {
    let value = r#"{"\u0061":"x\u0079z secret","b\n":"with \"escapes\" and secret text","\u0062\u000a2":1,"c":{"\u0064":"J\u00e9r\u00f4me"}}"#;
    let members = r#""residue":"count","fields":[{"id":"a","path":"$.a","index":{"normalize":"exact"}},{"id":"b","path":"$['b\\n']"},{"id":"d","path":"$..d"}]"#;
    assert_eq!(of(members, value), 0);
}

#[test]
fn every_kind_of_protection() {
    let value = r#"{"e":"value","d":"dete\u0072ministic","i":-12,"h":"hash me","m":"mask me please","g":"1980-02-03","b":1234,"r":"x","x":"dropped","arr":[1,[2,{"k":3}]]}"#;
    let members = r#""undeclared":"drop","clear":["$.arr[1]"],"fields":[{"id":"e","path":"$.e"},{"id":"d","path":"$.d","protect":"deterministic","root":1},
        {"id":"i","path":"$.i","protect":"deterministic","root":1},{"id":"h","path":"$.h","protect":"hash","index":{"normalize":"exact"}},
        {"id":"m","path":"$.m","protect":"mask"},{"id":"g","path":"$.g","protect":"generalize","to":"month"},{"id":"b","path":"$.b","protect":"generalize","to":"bucket:100"},
        {"id":"r","path":"$.r","protect":"redact"},{"id":"x","path":"$.x","protect":"drop"}]"#;
    assert_eq!(of(members, value), 0);
}

#[test]
fn required_places_and_coarser_dates() {
    let value = r#"{"l":[{"a":"one","b":1},{"a":"two","b":2}],"days":1819,"month":"1974-12","odd":"\ud800 text","n":123456789}"#;
    let members = r#""residue":"count","fields":[{"id":"a","path":"$.l[*]['a','b']","required":true},{"id":"d","path":"$.days","protect":"generalize","to":"year","epoch":"days"},
        {"id":"m","path":"$.month","protect":"generalize","to":"month"}]"#;
    assert_eq!(of(members, value), 0);
}

#[test]
fn envelopes() {
    let value = r#"{"schema":{"type":"struct","fields":[{"type":"string","field":"a"},{"type":"array","items":{"type":"int32"},"field":"l"}]},"payload":{"a":"x","l":[1,2]}}"#;
    let members = r#""envelope":"connect","fields":[{"id":"a","path":"$.a","index":{"normalize":"exact"}},{"id":"l","path":"$.l[*]"}]"#;
    assert_eq!(of(members, value), 0);
}

#[test]
fn the_way_back() {
    let value = r#"{"id":42,"email":"Jane@Example.com","phones":["+1 415",null],"t":"some text"}"#;
    let mut bench = Bench::new(
        r#""fields":[{"id":"email","path":"$.email","index":{"normalize":"email"},"bind":[{"name":"id","path":"$.id"}]},{"id":"phones","path":"$.phones[*]"}]"#,
    );
    let protected = bench.protect(value);
    let (mut revealer, mut out, mut report) = (Revealer::default(), Vec::new(), Report::default());
    let mut reveal = || {
        let keys = KeySource::of(&bench.keys);
        let (schema, options) = (&bench.schemas.schemas()[0], RevealOptions::default());
        revealer
            .reveal(schema, keys, protected.as_bytes(), &options, &mut out, &mut report)
            .unwrap();
        assert_eq!(out, value.as_bytes());
    };
    reveal();
    assert_eq!(measure(|| (0..100).for_each(|_| reveal())).count_total, 0);
}

#[test]
fn masks() {
    let mask = ReadMask { keep_first: 2, keep_last: 2 };
    let (mut text, mut out) = (Vec::with_capacity(64), Vec::with_capacity(64));
    let count = measure(|| {
        for value in [r#""4111-1111-1111-1234""#, r#""Ångstr\u00f6m""#, r#""한국한국한국한구""#]
        {
            out.clear();
            assert!(mask.apply(value.as_bytes(), &mut text, &mut out));
        }
    })
    .count_total;
    assert_eq!(count, 0);
}

#[test]
fn keys_and_headers() {
    let members = r#""fields":[{"id":"a","path":"$.a"}],"key":{"protect":"hash","normalize":"exact","root":1},
        "headers":{"x-mail":{"protect":"encrypt"},"x-id":{"protect":"hash","normalize":"digits"},"x-ip":{"protect":"drop"}}"#;
    let headers: [(&[u8], Option<&[u8]>); 4] = [
        (b"trace", Some(b"t")),
        (b"x-mail", Some(b"a@b")),
        (b"x-ip", Some(b"1.2.3.4")),
        (b"x-id", Some(b"1-2")),
    ];
    let mut bench = Bench::new(members);
    assert_eq!(
        allocations(&mut bench, &full_record(Some(b"key"), Some(br#"{"a":"x"}"#), &headers)),
        0
    );
    assert_eq!(
        allocations(&mut bench, &full_record(Some(b"key"), None, &headers)),
        0,
        "a tombstone"
    );
}

#[test]
fn several_schemas_on_a_topic_and_a_subject() {
    let other = r#"{"veilstream":1,"name":"u","topics":{"from":"in","to":"out"},"when":{"$.type":"u"},"fields":[{"id":"a","path":"$.b"}]}"#;
    let mine = document(
        r#""topics":{"from":"in","to":"out"},"when":{"$.type":"t"},"subject":"$.id","fields":[{"id":"a","path":"$.a"}]"#,
    );
    let mut bench = Bench::with(&[other, &mine], keyring("t"));
    let record = Record { topic: Some("in"), ..value_record(br#"{"type":"t","id":7,"a":"x"}"#) };
    let Outcome::NeedKeys(needed) = bench.record(&record) else {
        panic!("the subject's key is not here")
    };
    bench
        .transformer
        .add_subject_keys([std::sync::Arc::new(key(KeyKind::Data, &needed[0].scope.to_string()))]);
    assert_eq!(allocations(&mut bench, &record), 0);
}

#[test]
fn wide_objects_and_long_strings() {
    let members: Vec<String> =
        (0..60).map(|i| format!("\"m{i}\":\"{}\"", "x".repeat(4 * i))).collect();
    let value =
        format!("{{\"o\":{{{}}},\"t\":\"{}\"}}", members.join(","), "long text ".repeat(1000));
    assert_eq!(
        of(
            r#""fields":[{"id":"o","path":"$.o.*","index":{"normalize":"exact","bits":64}},{"id":"d","path":"$..q"}]"#,
            &value
        ),
        0
    );
}

#[test]
fn filters_of_every_kind() {
    let value = r#"{"n":1.5,"t":{"b":[1,{"c":"\u0064"}],"a":2},"x":[{"k":"m\u0061il","v":"secret","n":15e-1,"t":{"a":2.0,"b":[1,{"c":"d"}]}},{"k":"phone","v":"clear","l":[1,2,3]}]}"#;
    let paths = [
        "$.x[?@.k == 'mail'].v",
        "$.x[?'other' == @.k].v",
        "$.x[?@.n == $.n && @.n >= 1].v",
        "$.x[?@.t == $.t].v",
        "$.x[?search(@.k, 'a.l') || match(@.k, '[a-z]+')].w",
        "$.x[?length(@.k) == 4 || length(@.l) == 3].w",
        "$..[?count(@..c) == 1 || value(@..q) == null].w",
        "$.x[?!@.l[?@ > 2]].w",
    ];
    let fields: Vec<String> = paths
        .iter()
        .enumerate()
        .map(|(i, path)| format!(r#"{{"id":"f{i}","path":"{path}"}}"#))
        .collect();
    assert_eq!(of(&format!(r#""fields":[{}]"#, fields.join(",")), value), 0);
}

#[test]
fn normalising_ascii() {
    let (mut scratch, mut out) = (Scratch::default(), Vec::with_capacity(64));
    for (name, value) in [
        ("exact", r#""jane@example.com""#),
        ("text", r#"" Jane  Q. Public""#),
        ("email", r#""Jane@Example.com ""#),
        ("digits", r#""078-05-1120""#),
        ("alnum", r#""de89 3704 0044 0532 0130 00""#),
        ("date", r#""1980-02-29T23:59:59Z""#),
        ("number", "-1.500e3"),
    ] {
        let normalizer: Normalizer = name.parse().unwrap();
        let count = measure(|| {
            assert!(normalizer.normalize(Input::Json(value.as_bytes()), &mut scratch, &mut out))
        })
        .count_total;
        assert_eq!(count, 0, "{name}");
    }
}
