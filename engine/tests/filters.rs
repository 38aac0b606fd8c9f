//! Filters: what they read, what they cost, and that reveal judges them as transform did.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::time::{Duration, Instant};

use support::{Bench, document, shape};
use veilstream_engine::RejectCode;
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::transform::Outcome;

fn bench(fields: &str) -> Bench {
    Bench::new(&format!(r#""residue":"off","fields":[{fields}]"#))
}

fn field(path: &str) -> String {
    format!(r#"{{"id":"a","path":{}}}"#, serde_json::to_string(path).unwrap())
}

fn warnings(fields: &str) -> Vec<String> {
    compile(document(&format!(r#""fields":[{fields}]"#)).as_bytes(), &Grants::local())
        .unwrap()
        .warnings
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// How many values the path protects in the record.
#[track_caller]
fn protects(path: &str, value: &str, count: usize) {
    let mut bench = bench(&field(path));
    let out = bench.there_and_back(value);
    assert_eq!(out.matches("\"vs1.").count(), count, "{path}: {out}");
}

#[test]
fn a_filter_right_on_a_child_selects() {
    protects(
        "$.items[?@[?@.k==1]].x.v",
        r#"{"items":[{"x":{"v":"secret","k":1}},{"x":{"v":"clear","k":2}}]}"#,
        1,
    );
    protects("$.items[?@[?@>2]].v", r#"{"items":[{"k":1},{"k":3}]}"#, 0);
    protects(
        "$.items[?@.k[?@>2]].v",
        r#"{"items":[{"v":"clear","k":[1]},{"v":"secret","k":[1,3]}]}"#,
        1,
    );
}

#[test]
fn numbers_are_compared_as_they_are_written() {
    for (literal, equal, others) in [
        (
            "0.1",
            &["0.1", "1e-1", "0.10"][..],
            &["0.10000000000000001", "0.1000000000000000055511151231257827"][..],
        ),
        (
            "9007199254740991",
            &["9007199254740991", "9007199254740991.0"],
            &["9007199254740991.0000001", "9007199254740992"],
        ),
        ("1.0000000000000001", &["1.0000000000000001"], &["1", "1.0", "1.0000000000000002"]),
        ("1e400", &["1e400", "10e399"], &["1e401", "1e399"]),
        ("0", &["0", "-0", "0.0", "0e7"], &["1e-400", "-1e-400"]),
    ] {
        let path = format!("$.x[?@.k == {literal}].v");
        equal.iter().for_each(|k| protects(&path, &format!(r#"{{"x":[{{"k":{k},"v":"s"}}]}}"#), 1));
        others
            .iter()
            .for_each(|k| protects(&path, &format!(r#"{{"x":[{{"k":{k},"v":"s"}}]}}"#), 0));
    }
    // Two numbers of the event, and inside of containers.
    protects(
        "$.x[?@.k == $.n].v",
        r#"{"n":12345678901234567890,"x":[{"k":12345678901234567891,"v":"s"},{"k":1.234567890123456789e19,"v":"s"}]}"#,
        1,
    );
    protects(
        "$.x[?@.k == $.n].v",
        r#"{"n":[{"a":0.3}],"x":[{"k":[{"a":0.30000000000000004}],"v":"s"},{"k":[{"a":3e-1}],"v":"s"}]}"#,
        1,
    );
    // Many constants of one member, and one of them in two spellings.
    let many: Vec<String> =
        (0..40).map(|i| format!(r#"{{"id":"f{i}","path":"$.x[?@.k == {i}e-1].v"}}"#)).collect();
    let again =
        r#"{"id":"again","path":"$.x[?0.7 == @.k].w"},{"id":"text","path":"$.x[?@.k == '0.7'].v"}"#;
    let out = bench(&format!("{},{again}", many.join(","))).there_and_back(
        r#"{"x":[{"k":0.70,"v":"s","w":"s"},{"k":7,"v":"c","w":"c"},{"k":"0.7","v":"s","w":"c"},{"k":-0.7,"v":"c"},{"k":true,"v":"c"},{"v":"c"},{"k":1,"v":"s"}]}"#,
    );
    let seen = |i: usize, name: &str| {
        serde_json::from_str::<serde_json::Value>(&out).unwrap()["x"][i][name]
            .as_str()
            .map(|v| v.starts_with("vs1."))
    };
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 6].map(|i| seen(i, "v").unwrap()),
        [true, false, true, false, false, false, true],
        "{out}"
    );
    assert_eq!([0, 1, 2].map(|i| seen(i, "w").unwrap()), [true, false, false], "{out}");
    let mut unsure = bench(&field("$.x[?@.k == 1].v"));
    assert_eq!(
        unsure.rejected(r#"{"x":[{"k":1e9999999999999999999,"v":"s"}]}"#),
        RejectCode::TooComplex
    );
    // An exponent that no exact comparison can be made with.
    let mut beyond = bench(&field("$.x[?@.k > 1].v"));
    assert_eq!(
        beyond.rejected(r#"{"x":[{"k":1e9999999999999999999,"v":"s"}]}"#),
        RejectCode::TooComplex
    );
}

#[test]
fn containers_are_equal_whatever_the_order_and_spelling_is() {
    for (a, b, equal) in [
        (r#"{"a":1,"b":[2,{"c":"é"}]}"#, r#"{"b":[2.0,{"\u0063":"\u00e9"}],"\u0061":1e0}"#, true),
        (r#"{"a":1,"b":2}"#, r#"{"a":2,"b":1}"#, false),
        (r#"{"a":1}"#, r#"{"a":1,"b":1}"#, false),
        (r#"{"a":{"x":1}}"#, r#"{"a":[1]}"#, false),
        ("[1,2]", "[2,1]", false),
        ("[]", "{}", false),
        ("{}", "{}", true),
    ] {
        protects(
            "$.x[?@.k == @.l].v",
            &format!(r#"{{"x":[{{"k":{a},"l":{b},"v":"s"}}]}}"#),
            usize::from(equal),
        );
    }
}

/// Readers disagree about which of two equal names counts: so no filter may go by one of them.
#[test]
fn a_name_twice_in_what_a_filter_reads_rejects() {
    let orders = include_str!("../../schemas/orders.json");
    let mut bench = Bench::with(&[orders], support::keyring("orders"));
    let order = |item: &str| {
        format!(r#"{{"buyer":{{"email":"a@b.example"}},"items":[{{"options":[{item}]}}]}}"#)
    };
    let engraving = bench.protect(&order(r#"{"kind":"engraving","text":"To Charles"}"#));
    assert!(!engraving.contains("To Charles"), "{engraving}");
    assert_eq!(
        bench.rejected(&order(r#"{"kind":"engraving","text":"To Charles","kind":"gift"}"#)),
        RejectCode::DuplicateMember
    );
    let twice = |path: &str, value: &str| {
        assert_eq!(
            Bench::new(&format!(r#""fields":[{}]"#, field(path))).rejected(value),
            RejectCode::DuplicateMember,
            "{path}"
        );
    };
    twice("$.x[?@.k == 1].v", r#"{"x":[{"k":2,"\u006b":1,"v":"s"}]}"#);
    twice("$.x[?@.k.l].v", r#"{"x":[{"k":1,"k":{"l":1}}]}"#);
    twice("$.x[?@.k.l].v", r#"{"x":[{"k":{"l":1,"l":2}}]}"#);
    twice("$.x[?count(@.k.*) == 1].v", r#"{"x":[{"k":{"a":1,"a":2},"v":"s"}]}"#);
    twice("$.x[?length(@.k) == 1].v", r#"{"x":[{"k":{"a":1,"a":2},"v":"s"}]}"#);
    twice(
        "$.x[?@.k == @.l].v",
        r#"{"x":[{"k":[{"a":{"b":1,"b":1}}],"l":[{"a":{"b":1}}],"v":"s"}]}"#,
    );
    twice("$.x[?@..k].v", r#"{"x":[{"a":{"c":1,"c":{"k":1}}}]}"#);
    twice("$.x[?$.y[?@.k]].v", r#"{"x":[1],"y":{"a":{"k":1},"a":2}}"#);
    twice("$.x[?$.n == 1].v", r#"{"x":[{"v":"s"}],"n":1,"n":2}"#);
    // Beside what is read it says nothing.
    protects("$.x[?@.k == 1].v", r#"{"x":[{"k":1,"v":"s","o":1,"o":2}],"o":1,"o":2}"#, 1);
}

/// Which member an equality asks for decides: no element has two values of one.
#[test]
fn equality_filters_with_other_constants_do_not_cover_one_another() {
    let pair = |a: &str, b: &str| format!(r#"{{"id":"a","path":"{a}"}},{{"id":"b","path":"{b}"}}"#);
    for (a, b) in [
        ("$.t[?@.k == 'email'].v", "$.t[?@.k == 'phone'].v.w"),
        ("$.t[?@.k == 'email' && @.x].v", "$.t[?'phone' == @.k && @.y].v.w"),
        ("$.t[?@.k == 1].v", "$.t[?@.k == 2].v.w"),
        ("$.t[?@.k == 1].v", "$.t[?@.k == '1'].v.w"),
        ("$.t[?(@.k == 'a' || @.k == 'b')].v", "$.t[?@.k == 'c'].v.w"),
        ("$.t[?@.k == 'address'].v", "$.t[?search(@.k, 'card')].v.w"),
        ("$.t[?match(@.k, '[a-z]+') && @.x].v", "$.t[?@.k == 'A1'].v.w"),
        ("$.t[?match(@.k, '.*')].v", "$.t[?@.k == 1].v.w"),
    ] {
        assert_eq!(warnings(&pair(a, b)), [""; 0], "{a} {b}");
    }
    for (a, b) in [
        ("$.t[?@.k == 'email'].v", "$.t[?@.k == 'email'].v.w"),
        ("$.t[?@.k == 'email'].v", "$.t[?@.l == 'phone'].v.w"),
        ("$.t[?@.k != 'email'].v", "$.t[?@.k == 'phone'].v.w"),
        ("$.t[?@.k == 1].v", "$.t[?@.k == 1.0].v.w"),
        ("$.t[?@.k == 'a' || @.l].v", "$.t[?@.k == 'c'].v.w"),
        ("$.t[*].v", "$.t[?@.k == 'c'].v.w"),
        ("$.t[?@.k == 'card_number'].v", "$.t[?search(@.k, 'card')].v.w"),
        ("$.t[?@.k == 'a'].v", "$.t[?search(@.l, 'card')].v.w"),
        ("$.t[?@.k == 'a'].v", "$.t[?!search(@.k, 'card')].v.w"),
        ("$.t[?@.k == 'a'].v", "$.t[?search(@.k, 'card') || @.l].v.w"),
    ] {
        let told = warnings(&pair(a, b));
        assert!(told.iter().any(|w| w.contains("the outer one covers it")), "{a} {b}: {told:?}");
    }
}

/// Documents that people write compile; what depends on the event is settled there.
#[test]
fn natural_documents_compile() {
    let both = r#"{"id":"phone","path":"$..phone"},{"id":"gift","path":"$.note_attributes[?@.name == 'gift_for'].value"}"#;
    let mut bench = bench(both);
    let out = bench.there_and_back(r#"{"phone":"1","note_attributes":[{"name":"gift_for","value":"Ada"},{"name":"other","value":"clear"}]}"#);
    assert_eq!(
        shape(&out),
        r#"{"phone":<1.1>,"note_attributes":[{"name":"gift_for","value":<1.1>},{"name":"other","value":"clear"}]}"#
    );
    // A protected member inside of what the filter compares.
    let mut named = self::bench(
        r#"{"id":"phone","path":"$..phone"},{"id":"gift","path":"$.x[?@.c == 'gift_for' || @.name == 'gift_for'].value"}"#,
    );
    named.there_and_back(r#"{"x":[{"name":"gift_for","value":"Ada"}]}"#);
    assert_eq!(
        named.rejected(r#"{"x":[{"name":"gift_for","c":{"phone":"1"},"value":"Ada"}]}"#),
        RejectCode::FilterReadsProtected
    );

    let below = r#"{"id":"mail","path":"$..telecom[?@.system == 'email'].value","index":{"normalize":"email"}}"#;
    let value = r#"{"a":{"telecom":[{"system":"email","value":"a@b.example"},{"system":"fax","value":"1"}]}}"#;
    let out = self::bench(below).there_and_back(value);
    assert_eq!(
        shape(&out),
        r#"{"a":{"telecom":[{"system":"email","value":<1.1>,"value_bidx":<index>},{"system":"fax","value":"1"}]}}"#
    );
}

#[test]
fn documents_from_the_field() {
    for (schema, payload, hidden) in [
        (
            include_str!("../../tests/field/schemas/fhir-patient.json"),
            include_str!("../../tests/field/payloads/fhir-patient.json"),
            &["Marchet", "Brunhild", "99 00", "b.olsen", "Villefictive", "12 Rue", "1974-12"][..],
        ),
        (
            include_str!("../../tests/field/schemas/shopify-order.json"),
            include_str!("../../tests/field/payloads/shopify-order.json"),
            &["Testperson", "jon@", "555-625", "Fake Street", "K2P0V6", "For Grandma", "45.41634"],
        ),
    ] {
        let compiled = compile(schema.as_bytes(), &Grants::local())
            .unwrap_or_else(|faults| panic!("{faults:#?}"));
        assert_eq!(compiled.warnings, [], "{}", compiled.schema.name);
        let mut bench = Bench::with(&[schema], support::keyring(&compiled.schema.name));
        let out = bench.protect(payload);
        for text in hidden {
            assert!(payload.contains(text), "{text} is not in the payload");
            assert!(!out.contains(text), "{text} survives: {out}");
        }
        let (revealed, report) = bench.reveal(&out);
        assert!(report.unexpected_tokens == 0 && !revealed.contains("vs1."), "{revealed}");
    }
}

/// Whatever lies inside a protected node was selected with it: a filter that looked there looked at
/// nothing that counts.
#[test]
fn what_lies_inside_a_protected_node_may_be_read() {
    let mut bench = bench(
        r#"{"id":"p","path":"$.patient"},{"id":"mail","path":"$..telecom[?@.system == 'email'].value"}"#,
    );
    let value = r#"{"patient":{"telecom":[{"system":"email","value":"x"}]},"telecom":[{"system":"email","value":"y"}]}"#;
    let out = bench.there_and_back(value);
    assert_eq!(shape(&out), r#"{"patient":<1.1>,"telecom":[{"system":"email","value":<1.1>}]}"#);
}

/// An index that a filter would meet on the way back only.
#[test]
fn a_filter_that_meets_an_index_rejects() {
    let mut own = bench(r#"{"id":"b","path":"$.x[?!@..b_bidx].b","index":{"normalize":"exact"}}"#);
    own.there_and_back(r#"{"x":[{"v":"s"},{"b":null}]}"#);
    assert_eq!(own.rejected(r#"{"x":[{"v":"s","b":"t"}]}"#), RejectCode::FilterReadsProtected);
    // Reveal takes indexes out before it looks for the rest.
    let mut other = bench(
        r#"{"id":"a","path":"$.x[?!@..b_bidx].v"},{"id":"b","path":"$.x[*].b","index":{"normalize":"exact"}}"#,
    );
    other.there_and_back(r#"{"x":[{"v":"s","b":"t"}]}"#);
    let mut deep = bench(r#"{"id":"a","path":"$.x[?@..*].v","index":{"normalize":"exact"}}"#);
    deep.there_and_back(r#"{"x":[{"v":"s"}]}"#);
}

#[test]
fn dropped_members_are_not_there_to_be_asked_for() {
    let mut bench = bench(
        r#"{"id":"a","path":"$.x[?@..k].v"},{"id":"d","path":"$.x[*].o.k","protect":"drop"}"#,
    );
    bench.protect(r#"{"x":[{"v":"s"}]}"#);
    assert_eq!(
        bench.rejected(r#"{"x":[{"v":"s","o":{"k":1}}]}"#),
        RejectCode::FilterReadsProtected
    );
}

#[test]
fn too_many_paths_are_a_fault() {
    let fields: Vec<String> =
        (0..=65_535).map(|i| format!(r#"{{"id":"f{i}","path":"$.f{i}"}}"#)).collect();
    let faults = compile(
        document(&format!(r#""fields":[{}]"#, fields.join(","))).as_bytes(),
        &Grants::local(),
    )
    .unwrap_err();
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert!(faults[0].message.contains("more than 65534 paths"), "{}", faults[0]);
}

/// Patterns are compiled with the schema: what is none is no filter that never holds.
#[test]
fn a_pattern_that_is_none_is_a_fault() {
    for (pattern, words) in [
        ("[", "a [ without its ]"),
        ("a{2000}", "at most 1000"),
        ("\\\\d+", "write [0-9]"),
        ("^a", "no anchor"),
        ("(a|b)*a(a|b){40}", "too large"),
    ] {
        for function in ["match", "search"] {
            let field = field(&format!("$.x[?{function}(@.k, '{pattern}')].v"));
            let faults =
                compile(document(&format!(r#""fields":[{field}]"#)).as_bytes(), &Grants::local())
                    .unwrap_err();
            assert!(
                faults.len() == 1
                    && faults[0].pointer == "/fields/0/path"
                    && faults[0].message.contains(words),
                "{pattern}: {faults:?}"
            );
        }
    }
    protects(
        "$.x[?match(@.k, '[0-9]{3}')].v",
        r#"{"x":[{"k":"123","v":"s"},{"k":"1234","v":"s"},{"k":123,"v":"s"}]}"#,
        1,
    );
    protects(
        "$.x[?search(@.k, 'b.d')].v",
        r#"{"x":[{"k":"ab\u0063d","v":"s"},{"k":"b\nd","v":"s"}]}"#,
        1,
    );
    // Many of one value.
    let paths = [
        r"search(@.k, 'a')",
        r"match(@.k, 'a')",
        r"match(@.k, '.*b')",
        r"search(@.k, 'q.{3}q')",
        r"search(@.k, '\\p{Lu}{3}')",
        r"search(@.k, '')",
        r"search(@.k, '[xy]\\n')",
    ];
    let path = |(i, filter): (usize, &&str)| {
        serde_json::to_string(&format!("$.x[?{filter}].v{i}")).unwrap()
    };
    let fields: Vec<String> = paths
        .iter()
        .enumerate()
        .map(path)
        .enumerate()
        .map(|(i, path)| format!(r#"{{"id":"f{i}","path":{path}}}"#))
        .collect();
    let members: Vec<String> = (0..paths.len()).map(|i| format!(r#""v{i}":"s""#)).collect();
    for (k, wanted) in [
        ("a", "1100010"),
        ("ab", "1010010"),
        ("\\u0062", "0010010"),
        ("x\\ny", "0000011"),
        ("\\ud800b", "0010010"),
        (&"É".repeat(3), "0000110"),
    ] {
        let out = bench(&fields.join(","))
            .there_and_back(&format!(r#"{{"x":[{{"k":"{k}",{}}}]}}"#, members.join(",")));
        let sealed: String = (0..paths.len())
            .map(|i| if out.contains(&format!(r#""v{i}":"vs1."#)) { '1' } else { '0' })
            .collect();
        assert_eq!(sealed, wanted, "{k}");
    }
    // A lone surrogate is some character.
    protects("$.x[?match(@.k, 'a.')].v", r#"{"x":[{"k":"a\ud800","v":"s"}]}"#, 1);
}

/// The cases of the review, none of which ended in time. Debug builds are some twenty times slower
/// than what runs.
#[test]
fn what_cost_minutes_costs_little() {
    let long = format!(r#"{{"x":[{{"k":"{}!","v":"s"}}]}}"#, "ab".repeat(100_000));
    let strings: Vec<String> =
        (0..10_000).map(|i| format!(r#"{{"k":"some text {i}","v":"s"}}"#)).collect();
    let strings = format!(r#"{{"x":[{}]}}"#, strings.join(","));
    let members: Vec<String> = (0..40_000).map(|i| format!(r#""name {i}":{i}"#)).collect();
    let backwards: Vec<String> = members.iter().rev().cloned().collect();
    let equal = format!(
        r#"{{"x":[{{"k":{{{}}},"l":{{{}}},"v":"s"}}]}}"#,
        members.join(","),
        backwards.join(",")
    );
    let deep = format!(r#"{{"x":[{}1{}]}}"#, r#"{"a":[1,"#.repeat(60), "]}".repeat(60));
    let wide = format!(r#"{{"x":[{}]}}"#, vec![r#"{"a":{"b":[{},{"c":[1]}]}}"#; 8_000].join(","));
    for (path, value) in [
        ("$.x[?match(@.k, '(a|b)*c|(ab|ba)*[^a]')].v", &long),
        ("$.x[?search(@.k, 'text 9.*9')].v", &strings),
        ("$.x[?@.k == @.l].v", &equal),
        ("$.x[?@..q].v", &wide),
        ("$..[?@..q].v", &deep),
        ("$..[?value(@..q) == null].v", &deep),
    ] {
        let mut bench = bench(&field(path));
        let started = Instant::now();
        assert!(matches!(bench.outcome(value.as_bytes()), Outcome::Protected(_)), "{path}");
        assert!(started.elapsed() < Duration::from_secs(20), "{path} took {:?}", started.elapsed());
    }
}

/// What cannot be done in proportion to the record's size is not done.
#[test]
fn too_much_work_rejects() {
    // Comparisons are paid for where there is nothing to compare, too: twice as many nodes below
    // twice as many others take four times the work.
    let compared = |levels: usize, nulls: usize| {
        format!(
            r#"{{"x":{}[{}]{}}}"#,
            "[".repeat(levels),
            vec!["null"; nulls].join(","),
            "]".repeat(levels)
        )
    };
    let path = "$..[?@..[?@ < 1] && @.k].v";
    protects(path, &compared(50, 50_000), 0);
    assert_eq!(bench(&field(path)).rejected(&compared(100, 150_000)), RejectCode::TooComplex);
    // Every way down through every depth.
    let deep = format!(r#"{{"x":[{}1{}]}}"#, r#"{"a":[1,"#.repeat(60), "]}".repeat(60));
    for path in [
        "$.x[?@..*..*..*..*..q].v",
        "$.x[?count(@..*..*..*..*..*) == 1].v",
        "$..[?@..*..*..*..q].v",
    ] {
        assert_eq!(bench(&field(path)).rejected(&deep), RejectCode::TooComplex, "{path}");
    }
    // Small records have room for wide schemas.
    let fields: Vec<String> = (0..500)
        .map(|i| format!(r#"{{"id":"f{i}","path":"$..x[?search(@.k, 'q{i}')].v"}}"#))
        .collect();
    let mut wide = bench(&fields.join(","));
    assert!(matches!(wide.outcome(br#"{"x":[{"k":"q7","v":"s"}]}"#), Outcome::Protected(_)));
}
