//! Required fields, subjects, coarser values, residue and indexes: what a document promises of
//! them.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use support::{Bench, TENANT, document, key, keyring, keyring_of, shape, value_record};
use veilstream_engine::compile::{Grants, SchemaSet, compile};
use veilstream_engine::index::Indexer;
use veilstream_engine::key::{Key, KeyKind, KeyState, Scope};
use veilstream_engine::reveal::Status;
use veilstream_engine::schema::Schema;
use veilstream_engine::transform::{NeededKey, Outcome};
use veilstream_engine::{Keyring, RejectCode, subject};

fn schema(text: &str) -> Arc<Schema> {
    Arc::new(
        compile(text.as_bytes(), &Grants::local())
            .unwrap_or_else(|faults| panic!("{text}: {faults:#?}"))
            .schema,
    )
}

/// What is wrong with a set of documents of these names and members, as `name: message`.
fn between(documents: &[(&str, &str)]) -> Vec<String> {
    let text = |(name, members): &(&str, &str)| {
        format!(r#"{{"veilstream":1,"name":"{name}","fields":[],{members}}}"#)
    };
    let schemas = documents.iter().map(|d| schema(&text(d))).collect();
    SchemaSet::new(schemas).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn a_required_member_is_asked_of_every_object_that_may_have_it() {
    let mut bench = Bench::new(
        r#""fields":[{"id":"email","path":"$.items[*].email","required":true},{"id":"n","path":"$.n"}]"#,
    );
    for whole in [
        r#"{"items":[]}"#,
        r#"{"items":[{"email":"a@b.c"}]}"#,
        r#"{"items":[{"email":"a@b.c","x":1},{"\u0065mail":"d@e.f"}]}"#,
        r#"{"items":[null,"text",[],{"email":"a@b.c"}]}"#,
        r#"{"items":null}"#,
        r#"{"n":1}"#,
    ] {
        bench.there_and_back(whole);
    }
    for missing in [
        r#"{"items":[{}]}"#,
        r#"{"items":[{"email":"a@b.c"},{"x":1}]}"#,
        r#"{"items":[{"email":"a@b.c"},{"email":null}]}"#,
        r#"{"items":{"k":{}}}"#,
    ] {
        assert_eq!(bench.rejected(missing), RejectCode::MissingRequired, "{missing}");
    }
}

#[test]
fn every_name_of_a_union_and_every_index_is_required() {
    let mut bench = Bench::new(
        r#""fields":[{"id":"a","path":"$.o['a','b']","required":true},{"id":"f","path":"$.l[0,-2]","required":true}]"#,
    );
    bench.there_and_back(r#"{"o":{"a":1,"b":2},"l":[1,2]}"#);
    bench.there_and_back(r#"{"o":[],"l":{}}"#);
    for missing in [
        r#"{"o":{"a":1},"l":[1,2]}"#,
        r#"{"o":{"a":1,"b":2},"l":[1]}"#,
        r#"{"o":{"a":1,"b":2},"l":[]}"#,
        r#"{"o":{"a":1,"b":null},"l":[1,2]}"#,
    ] {
        assert_eq!(bench.rejected(missing), RejectCode::MissingRequired, "{missing}");
    }
}

#[test]
fn a_required_place_of_its_own_must_be_there() {
    let mut bench = Bench::new(
        r#""fields":[{"id":"a","path":"$.o.a","required":true},{"id":"d","path":"$..d","required":true}]"#,
    );
    bench.there_and_back(r#"{"o":{"a":1},"x":[{"d":2}]}"#);
    for missing in [
        r#"{"d":1}"#,
        r#"{"o":{},"d":1}"#,
        r#"{"o":{"a":null},"d":1}"#,
        r#"{"o":{"a":1}}"#,
        r#"{"o":{"a":1},"x":[{"d":2},{"d":null}]}"#,
    ] {
        assert_eq!(bench.rejected(missing), RejectCode::MissingRequired, "{missing}");
    }
}

#[test]
fn a_name_that_stands_twice_above_a_required_member_rejects() {
    let mut bench = Bench::new(r#""fields":[{"id":"a","path":"$.o[*].a","required":true}]"#);
    assert_eq!(bench.rejected(r#"{"o":[{"a":1}],"o":[{}]}"#), RejectCode::DuplicateMember);
}

fn subject_key(domain: Option<&str>, id: &str) -> (Scope, veilstream_engine::Key) {
    let scope = Scope::Subject(
        subject::subject_reference(&key(KeyKind::SubjectRef, "v1"), TENANT, domain, id.as_bytes())
            .unwrap(),
    );
    (scope.clone(), key(KeyKind::Data, &scope.to_string()))
}

/// A change event of an insert has no image before, one of a delete none after.
#[test]
fn the_first_place_that_is_there_names_the_subject() {
    let members = r#""subject":["$.after.id","$.before.id"],"fields":[{"id":"email","path":"$['before','after'].email"}]"#;
    let mut bench = Bench::with(&[&document(members)], keyring("t"));
    let mut of = |value: &str, id: &str| {
        let Outcome::NeedKeys(needed) = bench.outcome(value.as_bytes()) else {
            panic!("{value}: the subject's key is not here")
        };
        assert_eq!(
            needed,
            [NeededKey { kind: KeyKind::Data, scope: subject_key(None, id).0 }],
            "{value}"
        );
    };
    of(r#"{"before":null,"after":{"id":7,"email":"a"}}"#, "7");
    of(r#"{"before":{"id":8,"email":"a"},"after":null}"#, "8");
    of(r#"{"before":{"id":8,"email":"a"},"after":{"id":9,"email":"b"}}"#, "9");
    of(r#"{"before":{"id":8,"email":"a"},"after":{"id":null}}"#, "8");
    assert_eq!(bench.rejected(r#"{"before":null,"after":null}"#), RejectCode::MissingSubject);
    assert_eq!(
        bench.rejected(r#"{"before":{"id":8},"after":{"id":[1]}}"#),
        RejectCode::MissingSubject,
        "what is there and no id is not passed over"
    );
    // Both ways: what was sealed for 8 opens as 8's.
    bench.transformer.add_subject_keys([Arc::new(subject_key(None, "8").1)]);
    bench.keys = keyring_of(vec![subject_key(None, "8").1]);
    bench.transformer.add_subject_keys([Arc::new(subject_key(None, "8").1)]);
    bench.there_and_back(r#"{"before":{"id":8,"email":"a"},"after":null}"#);
}

#[test]
fn customer_42_is_not_employee_42() {
    let members = |domain: &str| {
        document(&format!(r#""subject":"$.id"{domain},"fields":[{{"id":"a","path":"$.a"}}]"#))
    };
    for (text, domain) in [
        ("", None),
        (r#","subject_domain":"""#, None),
        (r#","subject_domain":"customers""#, Some("customers")),
        (r#","subject_domain":"staff""#, Some("staff")),
    ] {
        let (scope, data) = subject_key(domain, "42");
        let mut bench = Bench::with(&[&members(text)], keyring_of(vec![data]));
        let Outcome::NeedKeys(needed) = bench.outcome(br#"{"id":42,"a":"x"}"#) else {
            panic!("{text}")
        };
        assert_eq!(needed[0].scope, scope, "{text}");
        bench.transformer.add_subject_keys([Arc::new(subject_key(domain, "42").1)]);
        let out = bench.there_and_back(r#"{"id":42,"a":"x"}"#);
        let mut other =
            Bench::with(&[&members(r#","subject_domain":"others""#)], bench.keys.clone());
        other.keys = bench.keys.clone();
        assert!(
            matches!(other.reveal(&out).1.fields[0].1, Status::Failed(_)),
            "{text}: nobody else's"
        );
    }
}

#[test]
fn schemas_that_name_subjects_say_whose_they_are() {
    let subject = |domain: &str| format!(r#""subject":"$.id"{domain}"#);
    let (silent, none, staff) =
        (subject(""), subject(r#","subject_domain":"""#), subject(r#","subject_domain":"staff""#));
    assert_eq!(
        between(&[("a", &silent), ("b", r#""version":1"#)]),
        [""; 0],
        "alone with its subjects"
    );
    assert_eq!(between(&[("a", &none), ("b", &staff), ("c", &none)]), [""; 0]);
    let faults = between(&[("a", &silent), ("b", &staff)]);
    assert!(
        matches!(&faults[..], [one] if one.starts_with("a: names data subjects as b does") && one.contains("\"subject_domain\"")),
        "{faults:?}"
    );
    assert_eq!(between(&[("a", &silent), ("b", &silent), ("c", &staff)]).len(), 2);
}

#[test]
fn a_subjects_domain_never_changes() {
    let set = |members: &str| {
        SchemaSet::new(vec![schema(&format!(
            r#"{{"veilstream":1,"name":"a","fields":[]{members}}}"#
        ))])
        .unwrap()
    };
    let (silent, none, staff) = (
        set(r#","subject":"$.id""#),
        set(r#","subject":"$.id","subject_domain":"""#),
        set(r#","subject":"$.i","subject_domain":"staff""#),
    );
    assert_eq!(none.refused_changes(&silent), []);
    assert_eq!(staff.refused_changes(&staff), []);
    assert_eq!(staff.refused_changes(&set("")), [], "it had no subjects");
    for (new, old) in [(&staff, &silent), (&staff, &none), (&silent, &staff)] {
        let faults = new.refused_changes(old);
        assert!(
            matches!(&faults[..], [one] if one.message.contains("leave \"subject_domain\" as it \
                is")),
            "{faults:?}"
        );
    }
}

/// Names of fields, keys and headers share one space of ids. (That two collide takes 2^24 names:
/// here one is given the other's id.)
#[test]
fn equal_field_ids_are_refused_between_schemas() {
    let compiled = |name: &str, members: &str| {
        compile(
            format!(r#"{{"veilstream":1,"name":"{name}",{members}}}"#).as_bytes(),
            &Grants::local(),
        )
        .unwrap()
        .schema
    };
    let others = || {
        compiled(
            "b",
            r#""fields":[{"id":"f","path":"$.f"}],"key":{"protect":"deterministic","root":1},"headers":{"h":{}}"#,
        )
    };
    let fid = compiled("a", r#""fields":[{"id":"f","path":"$.f"}]"#).fields[0].fid;
    type Change = fn(&mut Schema, [u8; 6]);
    let changes: [(&str, Change); 3] = [
        ("b.f", |schema, fid| schema.fields[0].fid = fid),
        ("b#key", |schema, fid| schema.key.as_mut().unwrap().fid = fid),
        ("b#header:h", |schema, fid| schema.headers[0].fid = fid),
    ];
    for (name, change) in changes {
        let mut other = others();
        change(&mut other, fid);
        let a = Arc::new(compiled("a", r#""fields":[{"id":"f","path":"$.f"}]"#));
        let faults = SchemaSet::new(vec![a, Arc::new(other)]).unwrap_err();
        assert!(
            matches!(&faults[..], [one] if one.message == format!("the names {name} and a.f have \
                the same field id; rename one")),
            "{faults:?}"
        );
    }
    let mut other = others();
    other.fields[0].fid = veilstream_engine::kdf::field_id("dead_letter.value");
    assert!(SchemaSet::new(vec![Arc::new(other)]).is_err(), "nor a dead letter's");
}

#[test]
fn more_paths_than_can_be_numbered_are_a_fault() {
    let fields: Vec<String> =
        (0..66_000).map(|i| format!(r#"{{"id":"f{i}","path":"$.m{i}"}}"#)).collect();
    let faults = compile(
        document(&format!(r#""fields":[{}]"#, fields.join(","))).as_bytes(),
        &Grants::local(),
    )
    .unwrap_err();
    assert!(
        matches!(&faults[..], [one] if one.message.contains("more than 65534 paths")),
        "{:?}",
        &faults[..1]
    );
}

#[test]
fn dates_become_coarser_whole_or_not() {
    let mut bench = Bench::new(
        r#""residue":"reject","fields":[{"id":"y","path":"$.y","protect":"generalize","to":"year"},{"id":"m","path":"$.m","protect":"generalize","to":"month"}]"#,
    );
    for (date, year, month) in [
        ("1974-12-25", "1974", "1974-12"),
        ("1974-12-25T10:00:00Z", "1974", "1974-12"),
        ("1974-12", "1974", "1974-12"),
        ("1974", "1974", "1974"),
        ("\\u0031974-12", "1974", "1974-12"),
    ] {
        assert_eq!(bench.protect(&format!(r#"{{"y":"{date}"}}"#)), format!(r#"{{"y":"{year}"}}"#));
        assert_eq!(
            bench.protect(&format!(r#"{{"m":"{date}"}}"#)),
            format!(r#"{{"m":"{month}"}}"#),
            "coarse enough, and no residue of itself"
        );
    }
    for odd in [
        "\"1974-13\"",
        "\"197\"",
        "\"1974-1\"",
        "\"1974-12-\"",
        "\"19745\"",
        "\"1974-12x\"",
        "\"abcd\"",
        "1974",
        "\"\"",
        "\"\\u00e9\\u00e9\"",
    ] {
        assert_eq!(bench.rejected(&format!(r#"{{"y":{odd}}}"#)), RejectCode::WrongType, "{odd}");
    }
}

#[test]
fn dates_that_are_numbers_are_counted_in_the_unit_declared() {
    let of = |epoch: &str| {
        Bench::new(&format!(
            r#""fields":[{{"id":"m","path":"$.m","protect":"generalize","to":"month","epoch":"{epoch}"}}]"#
        ))
    };
    for (epoch, number, month) in [
        ("days", "0", "1970-01"),
        ("days", "-1", "1969-12"),
        ("days", "1819", "1974-12"),
        ("days", "11016", "2000-02"),
        ("days", "11017", "2000-03"),
        ("days", "2932896", "9999-12"),
        ("days", "-719528", "0000-01"),
        ("milliseconds", "157161600000", "1974-12"),
        ("milliseconds", "-1", "1969-12"),
        ("microseconds", "157161600000000", "1974-12"),
    ] {
        assert_eq!(
            of(epoch).protect(&format!(r#"{{"m":{number}}}"#)),
            format!(r#"{{"m":"{month}"}}"#),
            "{number} {epoch}"
        );
    }
    for odd in [
        "2932897",
        "-719529",
        "1.5",
        "1e3",
        "\"1974-12-25\"",
        "\"1819\"",
        "true",
        "99999999999999999999999",
    ] {
        assert_eq!(
            of("days").rejected(&format!(r#"{{"m":{odd}}}"#)),
            RejectCode::WrongType,
            "{odd}"
        );
    }
}

/// A search asks for every version that stored values may have, the newest first; without a root
/// there is nothing to ask for.
#[test]
fn a_search_has_an_indexer_for_each_live_root() {
    let members = r#""fields":[{"id":"u","path":"$.u","index":{"normalize":"exact"}}]"#;
    let set = support::schemas(&[&document(members)]);
    let (_, rule) = set.schemas()[0].indexes().next().unwrap();
    let root = |version: &str, state| Key { state, ..key(KeyKind::Index, version) };
    let keyring = Keyring::new(
        TENANT,
        [
            root("v1", KeyState::DecryptOnly),
            root("v3", KeyState::Active),
            root("v2", KeyState::Retired),
        ]
        .map(Arc::new),
    );
    let versions: Vec<String> = Indexer::to_search(rule, &keyring)
        .iter()
        .map(|indexer| {
            let mut tag = Vec::new();
            indexer.write([b"x".as_slice()], &mut tag);
            String::from_utf8(tag).unwrap()[..2].to_owned()
        })
        .collect();
    assert_eq!(versions, ["3~", "1~"]);
    assert!(Indexer::to_search(rule, &Keyring::new(TENANT, [])).is_empty());
}

/// Two bucketed indexes of one value would leave a fourth of the crowd that one leaves, squared. A
/// value names its version: one column holds both.
#[test]
fn bucketed_indexes_have_no_second_while_a_root_rotates() {
    let members = r#""fields":[{"id":"u","path":"$.u","index":{"normalize":"exact"}},{"id":"b","path":"$.b","index":{"normalize":"exact","bits":24}},
        {"id":"e","path":"$.e[*]","index":{"normalize":"exact","bits":24}}]"#;
    let mut bench = Bench::with(
        &[&document(members)],
        keyring_of(vec![key(KeyKind::Data, "schema:t"), key(KeyKind::Index, "v2")]),
    );
    let out = bench.there_and_back(r#"{"u":"x","b":"x","e":["x"]}"#);
    let out: serde_json::Value = serde_json::from_str(&out).unwrap();
    let mut names: Vec<&str> = out.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["b", "b_bidx", "e", "e_bidx", "u", "u_bidx", "u_bidx_prev"]);
    assert!(
        out["b_bidx"].as_str().unwrap().starts_with("2~")
            && out["u_bidx_prev"].as_str().unwrap().starts_with("1~"),
        "{out}"
    );
    // So a member of that name is nobody's.
    bench.there_and_back(r#"{"b":"x","b_bidx_prev":"theirs"}"#);
    assert_eq!(bench.rejected(r#"{"u":"x","u_bidx_prev":"theirs"}"#), RejectCode::ReservedMember);
}

#[test]
fn an_index_that_hides_nothing_is_told() {
    let warned = |fields: &str| -> Vec<String> {
        let compiled =
            compile(document(&format!(r#""fields":[{fields}]"#)).as_bytes(), &Grants::local())
                .unwrap();
        compiled
            .warnings
            .iter()
            .filter(|w| w.message.contains("bucket") || w.message.contains("unique"))
            .map(ToString::to_string)
            .collect()
    };
    let one = |bits: u32, distinct: u64| {
        format!(
            r#"{{"id":"a","path":"$.a","index":{{"normalize":"exact","bits":{bits},"distinct":{distinct}}}}}"#
        )
    };
    assert_eq!(warned(&one(8, 1024)), [""; 0]);
    assert_eq!(
        warned(r#"{"id":"a","path":"$.a","index":{"normalize":"exact","bits":64}}"#),
        [""; 0],
        "nothing declared, nothing known"
    );
    let faults = warned(&one(9, 1024));
    assert!(
        matches!(&faults[..], [one] if one.starts_with("/fields/0/index/bits: leaves 2 values a \
            bucket") && one.contains("write 8 bits or fewer")),
        "{faults:?}"
    );
    assert!(warned(&one(8, 1000))[0].contains("remove it"));
    assert!(warned(&one(128, u64::MAX))[0].contains("is unique"));
    // Another index of the same value splits its buckets once more.
    let compound = r#"{"id":"b","path":"$.b","index":{"normalize":"exact","bits":8,"of":["$.a","$.b"],"into":"ab"}}"#;
    assert!(
        warned(&format!("{},{compound}", one(8, 1024)))[0]
            .contains("16 bits in all indexes of the value")
    );
}

/// A record with very many protected values costs no more than one with few: what is not looked for
/// is counted, or rejects.
#[test]
fn residue_is_capped_and_the_cap_is_counted() {
    let values = |n: usize| (0..n).map(|i| format!("\"v{i:07}\"")).collect::<Vec<_>>().join(",");
    let members =
        |residue: &str| format!(r#""residue":"{residue}","fields":[{{"id":"a","path":"$.a[*]"}}]"#);
    let mut count = Bench::new(&members("count"));
    count.protect(&format!(r#"{{"a":[{}],"b":"v0004095"}}"#, values(4_096)));
    assert_eq!((count.out.residue.as_slice(), count.out.residue_capped), (&[(0, 1)][..], 0));
    count.protect(&format!(r#"{{"a":[{}],"b":"v0000007 v0004999"}}"#, values(5_000)));
    assert_eq!((count.out.residue.as_slice(), count.out.residue_capped), (&[(0, 1)][..], 904));
    count.protect(r#"{"a":["v0000001"]}"#);
    assert_eq!(count.out.residue_capped, 0, "every record starts again");
    let mut reject = Bench::new(&members("reject"));
    reject.protect(&format!(r#"{{"a":[{}]}}"#, values(9_000)));
    assert_eq!(
        reject.rejected(&format!(r#"{{"a":[{}],"b":"v0008999"}}"#, values(9_000))),
        RejectCode::Residue
    );
    assert_eq!(
        reject.rejected(&format!(r#"{{"a":[{}]}}"#, values(70_000))),
        RejectCode::TooComplex,
        "what was not looked for may be there"
    );
    // A value of its own does not count where a coarser one takes its place; every other place
    // does.
    let mut coarse = Bench::new(
        r#""residue":"reject","fields":[{"id":"a","path":"$.a","protect":"generalize","to":"bucket:10"}]"#,
    );
    assert_eq!(coarse.protect(r#"{"a":1234560}"#), r#"{"a":1234560}"#);
    assert_eq!(coarse.rejected(r#"{"a":1234567,"b":1234567}"#), RejectCode::Residue);
    assert_eq!(coarse.rejected(r#"{"a":1234567,"b":"+1234567"}"#), RejectCode::Residue);
}

#[test]
fn buffers_of_a_large_record_go_back() {
    let mut bench =
        Bench::new(r#""fields":[{"id":"a","path":"$.a[*]","index":{"normalize":"exact"}}]"#);
    bench.protect(r#"{"a":["x"]}"#);
    let small = bench.transformer.buffer_bytes();
    let large = format!(r#"{{"a":[{}]}}"#, vec!["\"value\""; 200_000].join(","));
    bench.protect(&large);
    assert!(bench.transformer.buffer_bytes() <= 8 << 20, "{}", bench.transformer.buffer_bytes());
    assert!(bench.out.buffer_bytes() > 8 << 20);
    bench.out.shrink();
    assert!(bench.out.buffer_bytes() < 1 << 10, "{}", bench.out.buffer_bytes());
    bench.there_and_back(r#"{"a":["x"]}"#);
    assert!(small < 1 << 20, "{small}");
    // What is kept is told.
    bench.protect(&format!(r#"{{"a":["{}"]}}"#, "x".repeat(1 << 20)));
    assert!(bench.transformer.buffer_bytes() > small && bench.out.buffer_bytes() > 1 << 20);
}

/// So that growth is seen and machines are not compared: how much longer `large` takes than
/// `small`. What counts is the best of several turns, by the processor time of this thread: others
/// want the processor too.
fn ratio(mut small: impl FnMut(), mut large: impl FnMut()) -> f64 {
    let [mut a, mut b] = [Duration::MAX; 2];
    for _ in 0..10 {
        a = a.min(timed(&mut small));
        b = b.min(timed(&mut large));
    }
    b.as_secs_f64() / a.as_secs_f64()
}

fn timed(work: &mut dyn FnMut()) -> Duration {
    let now = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap();
    let start = now();
    work();
    now() - start
}

/// A subject's sealers were found by looking through all of them.
#[test]
fn a_subjects_sealers_are_found_in_constant_time() {
    let bench = |n: usize| {
        let fields: Vec<String> =
            (0..n).map(|i| format!(r#"{{"id":"f{i}","path":"$.m{i}"}}"#)).collect();
        let members =
            format!(r#""residue":"off","subject":"$.id","fields":[{}]"#, fields.join(","));
        let mut bench = Bench::with(&[&document(&members)], keyring("t"));
        bench.transformer.add_subject_keys([Arc::new(subject_key(None, "1").1)]);
        let values: Vec<String> = (0..n).map(|i| format!("\"m{i}\":1")).collect();
        let value = format!(r#"{{"id":1,{}}}"#, values.join(","));
        // The ciphers are made once.
        assert!(matches!(bench.record(&value_record(value.as_bytes())), Outcome::Protected(_)));
        move || {
            assert!(matches!(bench.record(&value_record(value.as_bytes())), Outcome::Protected(_)))
        }
    };
    let growth = ratio(bench(250), bench(2_000));
    assert!(growth < 24.0, "8 times the fields take {growth:.1} times as long");
}

#[test]
fn a_clear_value_in_a_tokens_place_is_told() {
    let members = r#""fields":[{"id":"a","path":"$.a"},{"id":"d","path":"$.d","protect":"deterministic","root":1},{"id":"n","path":"$.n","null":"encrypt"},
        {"id":"h","path":"$.h","protect":"hash","index":{"normalize":"exact"}},{"id":"m","path":"$.m","protect":"mask"}]"#;
    let bench = Bench::new(members);
    let value = r#"{"a":"clear","d":[1],"n":null,"h":"clear","m":"clear"}"#;
    let (out, report) = bench.reveal(value);
    let told: Vec<&str> = report.fields.iter().map(|(_, status)| status.as_str()).collect();
    assert_eq!(
        (out.as_str(), told),
        (value, vec!["clear", "clear", "clear", "no_token", "no_token"])
    );
    let (_, report) = bench.reveal(r#"{"a":null,"d":null,"n":"vs1.no token"}"#);
    assert_eq!(
        report.fields.iter().map(|(_, status)| status.as_str()).collect::<Vec<_>>(),
        ["no_token", "no_token", "malformed"]
    );
    assert_eq!(shape(value), value);
}
