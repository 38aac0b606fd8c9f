//! What happens to values: every kind of protection, where indexes go, what is counted, what is
//! refused.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::collections::HashSet;
use std::sync::Arc;

use support::{
    Bench, NOW, TENANT, document, full_record, key, keyring, keyring_of, shape, value_record,
};
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::key::{Budget, KeyKind, KeyState, Scope};
use veilstream_engine::record::{FieldOutcome, HeaderOutput, KeyOutput, Record};
use veilstream_engine::reveal::{KeySource, Revealer};
use veilstream_engine::transform::{Limits, NeededKey, Outcome, Transformer};
use veilstream_engine::{Entropy, EntropyError, Keyring, RejectCode, subject};

/// Protects under one field and gives the shape of the output.
fn protected(field: &str, value: &str) -> String {
    shape(&Bench::new(&format!(r#""fields":[{field}]"#)).protect(value))
}

fn refused(field: &str, value: &str) -> RejectCode {
    Bench::new(&format!(r#""fields":[{field}]"#)).rejected(value)
}

#[test]
fn encrypt_replaces_the_span_and_nothing_else() {
    let mut bench = Bench::new(
        r#""fields":[{"id":"email","path":"$.customer.email","index":{"normalize":"email","bits":24}},
            {"id":"phones","path":"$.phones[*]","index":{"normalize":"digits"}}]"#,
    );
    let out = bench.there_and_back(
        " {\"a\" : 1.50e3, \"customer\":{\"email\" :\t\"a@b.example\" , \
        \"x\":null}, \"phones\" : [ \"+1 2\", 3 ,null] } ",
    );
    assert_eq!(
        shape(&out),
        " {\"a\" : 1.50e3, \"customer\":{\"email\" :\t<1.1>,\"email_bidx\":<index> , \"x\":null}, \
        \"phones\" : [ <1.1>, <1.1> ,null],\"phones_bidx\":[<index>,<index>,null] } "
    );
}

#[test]
fn encrypt_takes_any_json_value() {
    let mut bench = Bench::new(r#""fields":[{"id":"a","path":"$.a"}]"#);
    for value in [
        "\"\"",
        "0",
        "-1.50E+3",
        "true",
        "[]",
        "[1, 2 ]",
        "{ \"x\" : [ null ] }",
        "\"\\ud800\"",
        "\"\\u00e9é\"",
        "1e400",
    ] {
        assert_eq!(
            shape(&bench.there_and_back(&format!("{{\"a\": {value} }}"))),
            "{\"a\": <1.1> }",
            "{value}"
        );
    }
    assert_eq!(shape(&bench.there_and_back("{\"a\":null}")), "{\"a\":null}");
    assert_eq!(
        shape(
            &Bench::new(r#""fields":[{"id":"a","path":"$.a","null":"encrypt"}]"#)
                .there_and_back("{\"a\":null}")
        ),
        "{\"a\":<1.1>}"
    );
    assert_eq!(
        shape(&Bench::new(r#""fields":[{"id":"a","path":"$"}]"#).there_and_back(" {\"a\":1} ")),
        " <1.1> "
    );
}

#[test]
fn pad_hides_the_length() {
    let length = |pad: u32, value: &str| {
        Bench::new(&format!(r#""fields":[{{"id":"a","path":"$.a","pad":{pad}}}]"#))
            .there_and_back(value)
            .len()
    };
    assert_eq!(length(16, r#"{"a":"1"}"#), length(16, r#"{"a":"123456789012"}"#));
    assert_ne!(length(16, r#"{"a":"1"}"#), length(16, r#"{"a":"1234567890123"}"#));
    assert_ne!(length(0, r#"{"a":"1"}"#), length(0, r#"{"a":"123456"}"#));
    assert_eq!(
        length(256, r#"{"a":"1"}"#),
        length(256, &format!(r#"{{"a":"{}"}}"#, "x".repeat(250)))
    );
}

#[test]
fn encrypting_twice_gives_different_tokens_and_deterministic_equal_ones() {
    let mut random = Bench::new(r#""fields":[{"id":"a","path":"$.a"}]"#);
    assert_ne!(random.protect(r#"{"a":"x"}"#), random.protect(r#"{"a":"x"}"#));
    let mut fixed =
        Bench::new(r#""fields":[{"id":"a","path":"$.a","protect":"deterministic","root":1}]"#);
    assert_eq!(
        fixed.protect(r#"{"a":"x"}"#),
        fixed.protect(r#"{"a":"\u0078"}"#),
        "one value, two spellings"
    );
    assert_ne!(fixed.protect(r#"{"a":"x"}"#), fixed.protect(r#"{"a":"y"}"#));
    assert_ne!(fixed.protect(r#"{"a":1}"#), fixed.protect(r#"{"a":"1"}"#));
}

#[test]
fn deterministic_reveals_canonical_text_and_refuses_what_has_none() {
    let field = r#"{"id":"a","path":"$.a","protect":"deterministic","root":1}"#;
    let mut bench = Bench::new(&format!(r#""fields":[{field}]"#));
    for (value, canonical) in [
        (r#""\u0041\/\n\u001f\"é""#, "\"A/\\n\\u001f\\\"é\""),
        (r#"{ "b":1, "a":[true , null] }"#, r#"{"a":[true,null],"b":1}"#),
        ("-9007199254740991", "-9007199254740991"),
        ("0", "0"),
        ("\"\"", "\"\""),
        ("false", "false"),
    ] {
        let out = bench.protect(&format!("{{\"a\":{value}}}"));
        assert_eq!(shape(&out), "{\"a\":<3.1>}");
        assert_eq!(bench.reveal(&out).0, format!("{{\"a\":{canonical}}}"));
    }
    for value in [
        "1.0",
        "1e2",
        "-0",
        "9007199254740992",
        "\"\\ud800\"",
        r#"{"a":1,"\u0061":2}"#,
        "[0.5]",
        r#"{"\udc00":1}"#,
    ] {
        assert_eq!(
            bench.rejected(&format!("{{\"a\":{value}}}")),
            RejectCode::UnsupportedValue,
            "{value}"
        );
    }
}

#[test]
fn hash_leaves_the_index_only() {
    let field =
        r#"{"id":"a","path":"$.a","protect":"hash","index":{"normalize":"digits","bits":16}}"#;
    assert_eq!(protected(field, r#"{"a":"1-2","b":1}"#), r#"{"a":<index>,"b":1}"#);
    assert_eq!(
        protected(field, r#"{"a":"none"}"#),
        r#"{"a":null}"#,
        "nothing left after normalising"
    );
    assert_eq!(protected(field, r#"{"a":{}}"#), r#"{"a":null}"#);
    assert_eq!(protected(field, r#"{"a":null}"#), r#"{"a":null}"#);
    let mut bench = Bench::new(&format!(r#""fields":[{field}]"#));
    assert_eq!(bench.protect(r#"{"a":"1-2"}"#), bench.protect(r#"{"a":12}"#));
}

#[test]
fn mask_keeps_what_it_is_told() {
    let mask = |with: &str, value: &str| {
        protected(
            &format!(r#"{{"id":"a","path":"$.a","protect":"mask"{with}}}"#),
            &format!("{{\"a\":{value}}}"),
        )
    };
    assert_eq!(mask("", r#""4111111111111111""#), r#"{"a":"************1111"}"#);
    assert_eq!(mask("", r#""1234""#), r#"{"a":"****"}"#, "no longer than what is kept");
    assert_eq!(mask("", r#""12345""#), r#"{"a":"*2345"}"#);
    assert_eq!(mask("", r#""""#), r#"{"a":""}"#);
    assert_eq!(
        mask(r##","keep_first":2,"keep_last":1,"with":"#""##, r#""a\u00e9\ud83d\ude00\n\"x""#),
        r##"{"a":"aé###x"}"##
    );
    assert_eq!(
        mask(r#","keep_first":0,"keep_last":3"#, r#""abc\"\\\u0001""#),
        r#"{"a":"***\"\\\u0001"}"#
    );
    assert_eq!(mask(r#","keep_last":0,"with":"é""#, r#""ab""#), r#"{"a":"éé"}"#);
    assert_eq!(mask("", "null"), r#"{"a":null}"#);
    for value in ["1", "true", "[]", "{}", "\"\\udc00\""] {
        assert_eq!(
            refused(r#"{"id":"a","path":"$.a","protect":"mask"}"#, &format!("{{\"a\":{value}}}")),
            RejectCode::WrongType,
            "{value}"
        );
    }
}

#[test]
fn generalize_makes_coarser() {
    let to = |to: &str| format!(r#"{{"id":"a","path":"$.a","protect":"generalize","to":"{to}"}}"#);
    assert_eq!(protected(&to("year"), r#"{"a":"1987-06-05"}"#), r#"{"a":"1987"}"#);
    assert_eq!(protected(&to("month"), r#"{"a":"1987-06-05T10:11:12Z"}"#), r#"{"a":"1987-06"}"#);
    assert_eq!(protected(&to("month"), r#"{"a":"1987-06\u002d05"}"#), r#"{"a":"1987-06"}"#);
    assert_eq!(protected(&to("bucket:10"), r#"{"a":57}"#), r#"{"a":50}"#);
    assert_eq!(protected(&to("bucket:10"), r#"{"a":-1}"#), r#"{"a":-10}"#);
    assert_eq!(protected(&to("bucket:10"), r#"{"a":0}"#), r#"{"a":0}"#);
    assert_eq!(
        protected(&to("bucket:1000"), r#"{"a":123456789012345678901234}"#),
        r#"{"a":123456789012345678901000}"#
    );
    for (kind, value) in [
        ("year", "\"87-06-05\""),
        ("year", "1987"),
        ("month", "\"1987-13-05\""),
        ("bucket:5", "1.0"),
        ("bucket:5", "\"7\""),
        ("bucket:5", "1e2"),
    ] {
        assert_eq!(
            refused(&to(kind), &format!("{{\"a\":{value}}}")),
            RejectCode::WrongType,
            "{kind} {value}"
        );
    }
    let huge = format!("{{\"a\":{}}}", "9".repeat(60));
    assert_eq!(refused(&to("bucket:10"), &huge), RejectCode::WrongType);
}

#[test]
fn redact_writes_a_constant() {
    assert_eq!(
        protected(r#"{"id":"a","path":"$.a","protect":"redact"}"#, r#"{"a":{"b":1}}"#),
        r#"{"a":"[redacted]"}"#
    );
    assert_eq!(
        protected(r#"{"id":"a","path":"$.a","protect":"redact","with":0}"#, r#"{"a":"x"}"#),
        r#"{"a":0}"#
    );
    assert_eq!(
        protected(r#"{"id":"a","path":"$.a","protect":"redact","with":null}"#, r#"{"a":"x"}"#),
        r#"{"a":null}"#
    );
    assert_eq!(
        protected(r#"{"id":"a","path":"$.a","protect":"redact","with":"a\"b"}"#, r#"{"a":"x"}"#),
        r#"{"a":"a\"b"}"#
    );
}

#[test]
fn drop_takes_exactly_one_comma() {
    let drop = |value: &str| protected(r#"{"id":"a","path":"$..a","protect":"drop"}"#, value);
    assert_eq!(drop(r#"{"a":1}"#), "{}");
    assert_eq!(drop(r#"{ "a" : 1 }"#), "{  }");
    assert_eq!(drop(r#"{"a":1,"b":2}"#), r#"{"b":2}"#);
    assert_eq!(drop(r#"{"b":2,"a":1}"#), r#"{"b":2}"#);
    assert_eq!(drop(r#"{"b":2 , "a":1 , "c":3}"#), r#"{"b":2  , "c":3}"#);
    assert_eq!(
        drop(r#"{"b":{"a":",","a2":1},"c":{"x":",","a":","}}"#),
        r#"{"b":{"a2":1},"c":{"x":","}}"#
    );
    assert_eq!(drop(r#"{"b":{"a":1},"a":2}"#), r#"{"b":{}}"#);
    assert_eq!(drop(r#"[{"a":1},{"a":[{"a":2}]}]"#), "[{},{}]");
    assert_eq!(
        protected(
            r#"{"id":"a","path":"$.x['a','b','c']","protect":"drop"}"#,
            r#"{"x":{"a":1,"b":2,"k":3,"c":4}}"#
        ),
        r#"{"x":{"k":3}}"#
    );
    assert_eq!(
        protected(
            r#"{"id":"a","path":"$.x['a','b']","protect":"drop"}"#,
            r#"{"x":{"a":1, "b":2}}"#
        ),
        r#"{"x":{}}"#
    );
    assert_eq!(
        protected(
            r#"{"id":"a","path":"$.x.*","protect":"drop"}"#,
            r#"{"x":{ "a":1 , "b":2 , "c":3 }}"#
        ),
        r#"{"x":{  }}"#
    );
    assert_eq!(
        protected(r#"{"id":"a","path":"$.x[0,2]","protect":"drop"}"#, r#"{"x":[1,2,{"y":3}]}"#),
        r#"{"x":[null,2,null]}"#,
        "positions keep"
    );
    assert_eq!(protected(r#"{"id":"a","path":"$","protect":"drop"}"#, r#" {"x":1} "#), " null ");
}

#[test]
fn what_drop_leaves_is_json_wherever_it_stands() {
    // Every subset of four members dropped, with white space everywhere.
    for subset in 0..16_u32 {
        let names: Vec<String> =
            (0..4).filter(|i| subset >> i & 1 == 1).map(|i| format!("'m{i}'")).collect();
        if names.is_empty() {
            continue;
        }
        let field = format!(r#"{{"id":"a","path":"$[{}]","protect":"drop"}}"#, names.join(","));
        let out = protected(
            &field,
            "{ \"m0\" : 0 , \"m1\" : \",\" ,\n\"m2\" : { \"x\" : 1 } , \"m3\" : [ 3 , 4 ] }",
        );
        let value: serde_json::Value =
            serde_json::from_str(&out).unwrap_or_else(|e| panic!("{out}: {e}"));
        let left: Vec<&String> = value.as_object().unwrap().keys().collect();
        let expected: Vec<String> =
            (0..4).filter(|i| subset >> i & 1 == 0).map(|i| format!("m{i}")).collect();
        assert_eq!(left, expected.iter().collect::<Vec<_>>(), "{out}");
    }
}

#[test]
fn an_index_stands_right_after_what_it_indexes() {
    let index = r#""index":{"normalize":"exact"}"#;
    assert_eq!(
        protected(&format!(r#"{{"id":"a","path":"$.a",{index}}}"#), r#"{"a":"x"}"#),
        r#"{"a":<1.1>,"a_bidx":<index>}"#
    );
    assert_eq!(
        protected(
            r#"{"id":"a","path":"$.a","index":{"normalize":"exact","into":"i"}}"#,
            r#"{"a":"x","b":[]}"#
        ),
        r#"{"a":<1.1>,"i":<index>,"b":[]}"#
    );
    assert_eq!(
        protected(&format!(r#"{{"id":"a","path":"$.a",{index}}}"#), r#"{"\u0061":"x"}"#),
        r#"{"\u0061":<1.1>,"\u0061_bidx":<index>}"#
    );
    assert_eq!(
        protected(
            &format!(r#"{{"id":"a","path":"$.x[*].a",{index}}}"#),
            r#"{"x":[{"a":1},{"b":1},{"a":null},{"a":[]}]}"#
        ),
        r#"{"x":[{"a":<1.1>,"a_bidx":<index>},{"b":1},{"a":null},{"a":<1.1>}]}"#,
        "what has no index gets no member"
    );
    assert_eq!(
        protected(
            &format!(r#"{{"id":"a","path":"$..a[*]",{index}}}"#),
            r#"{"a":[1,"x"],"b":{"a":[],"c":{"a":["y"]}}}"#
        ),
        r#"{"a":[<1.1>,<1.1>],"a_bidx":[<index>,<index>],"b":{"a":[],"c":{"a":[<1.1>],"a_bidx":[<index>]}}}"#
    );
    assert_eq!(
        protected(&format!(r#"{{"id":"a","path":"$.a[1]",{index}}}"#), r#"{"a":["p","q","r"]}"#),
        r#"{"a":["p",<1.1>,"r"],"a_bidx":[null,<index>,null]}"#,
        "positions keep"
    );
    assert_eq!(
        protected(
            &format!(r#"{{"id":"m","path":"$.a","protect":"mask",{index}}}"#),
            r#"{"a":"12345"}"#
        ),
        r#"{"a":"*2345","a_bidx":<index>}"#
    );
}

#[test]
fn a_compound_index_needs_every_part() {
    let field = r#"{"id":"n","path":"$.name","index":{"normalize":"text","into":"who","of":["$.name","$.born"]}}"#;
    let mut bench = Bench::new(&format!(r#""fields":[{field}]"#));
    let one = bench.there_and_back(r#"{"name":"Jane  Doe","born":"1980"}"#);
    assert_eq!(shape(&one), r#"{"name":<1.1>,"who":<index>,"born":"1980"}"#);
    let tag = |out: &str| {
        out.split("\"who\":").nth(1).map(|t| t.split(',').next().unwrap_or_default().to_owned())
    };
    assert_eq!(
        tag(&one),
        tag(&bench.protect(r#"{"born":"1980","name":"JANE DOE"}"#).replace('}', ","))
    );
    assert_ne!(
        tag(&one),
        tag(&bench.protect(r#"{"name":"Jane Doe1","born":"980"}"#)),
        "parts are told apart"
    );
    assert_eq!(shape(&bench.there_and_back(r#"{"name":"Jane"}"#)), r#"{"name":<1.1>}"#);
}

#[test]
fn an_index_member_that_is_there_already_is_refused() {
    let index = r#"{"id":"a","path":"$..a","index":{"normalize":"exact"}}"#;
    assert_eq!(refused(index, r#"{"a":"x","a_bidx":"1~planted"}"#), RejectCode::ReservedMember);
    assert_eq!(
        refused(index, r#"{"a_\u0062idx":"1~planted","a":"x"}"#),
        RejectCode::ReservedMember
    );
    assert_eq!(
        refused(
            r#"{"id":"a","path":"$.a[*]","index":{"normalize":"exact"}}"#,
            r#"{"a":["x"],"a_bidx":[]}"#
        ),
        RejectCode::ReservedMember
    );
    assert_eq!(
        refused(
            r#"{"id":"a","path":"$.o.*","index":{"normalize":"exact","into":"i"}}"#,
            r#"{"o":{"a":"x","b":"y"}}"#
        ),
        RejectCode::ReservedMember,
        "one name for two"
    );
    // Many members: the answer does not depend on how it is found.
    let wide: Vec<String> = (0..100).map(|i| format!("\"m{i}\":\"v{i}\"")).collect();
    let field = r#"{"id":"a","path":"$.o.*","index":{"normalize":"exact"}}"#;
    assert_eq!(
        refused(field, &format!("{{\"o\":{{{},\"m7_\\u0062idx\":1}}}}", wide.join(","))),
        RejectCode::ReservedMember
    );
    Bench::new(&format!(r#""fields":[{field}]"#))
        .there_and_back(&format!("{{\"o\":{{{}}}}}", wide.join(",")));
}

#[test]
fn what_reveal_would_remove_is_refused_and_nothing_else() {
    let both = |a: &str, b: &str| {
        Bench::new(&format!(
            r#""fields":[{{"id":"f0","path":"{a}","index":{{"normalize":"exact"}}}},{{"id":"f1","path":"{b}","index":{{"normalize":"exact"}}}}]"#
        ))
    };
    // The second field owns nothing here: its index members are neither written nor removed.
    let mut first_without = Bench::new(
        r#""fields":[{"id":"f0","path":"$['a','b']"},{"id":"f1","path":"$['a','b']","index":{"normalize":"exact"}}]"#,
    );
    for value in [
        r#"{"a":null,"a_bidx":null}"#,
        r#"{"a":1,"a_bidx":"1~x"}"#,
        r#"{"b":"x","a_bidx_prev":[]}"#,
    ] {
        first_without.there_and_back(value);
    }
    // A value without an index reserves the names all the same, of both generations, whatever roots
    // are active.
    let one = r#"{"id":"a","path":"$.a","index":{"normalize":"digits"}}"#;
    let elements = r#"{"id":"a","path":"$.a[*]","index":{"normalize":"digits"}}"#;
    for value in ["null", "\"no digit\"", "true", "7"] {
        for name in ["a_bidx", "a_bidx_prev", "a_bid\\u0078"] {
            assert_eq!(
                refused(one, &format!("{{\"a\":{value},\"{name}\":null}}")),
                RejectCode::ReservedMember,
                "{value} {name}"
            );
            assert_eq!(
                refused(elements, &format!("{{\"{name}\":null,\"a\":[{value}]}}")),
                RejectCode::ReservedMember,
                "[{value}] {name}"
            );
        }
    }
    // Where nothing is selected, or the array is empty, nothing is written or removed.
    both("$.a", "$.b[*]").there_and_back(r#"{"a_bidx":1,"b":[],"b_bidx":2,"b_bidx_prev":3}"#);
    // A protected container hides what the inner field would have written.
    both("$.o", "$.o.a").there_and_back(r#"{"o":{"a":1,"a_bidx":2}}"#);
}

#[test]
fn an_index_that_a_path_may_select_is_told_from_a_value_or_refused() {
    let index = r#"{"id":"a","path":"$.o.*","index":{"normalize":"exact"}}"#;
    let mut all = Bench::new(&format!(r#""fields":[{index}]"#));
    let out = all.there_and_back(r#"{"o":{"a":1,"b":null,"c":"x"}}"#);
    assert_eq!(
        shape(&out),
        r#"{"o":{"a":<1.1>,"a_bidx":<index>,"b":null,"c":<1.1>,"c_bidx":<index>}}"#
    );
    all.there_and_back(r#"{"o":{"a_bidx":1}}"#);
    assert_eq!(
        all.rejected(r#"{"o":{"a":1,"a_bidx_bidx":2}}"#),
        RejectCode::ReservedMember,
        "the index of the index"
    );
    assert_eq!(all.rejected(r#"{"o":{"a_bidx_bidx":2,"a":1}}"#), RejectCode::ReservedMember);
    let mut deep = Bench::new(
        r#""fields":[{"id":"z","path":"$.z","index":{"normalize":"exact","into":"i"}},{"id":"i","path":"$..i","index":{"normalize":"exact","into":"j"}}]"#,
    );
    deep.there_and_back(r#"{"z":1,"x":{"i":2}}"#);
    deep.there_and_back(r#"{"i":1}"#);
    assert_eq!(deep.rejected(r#"{"z":1,"j":2}"#), RejectCode::ReservedMember);
}

#[test]
fn two_indexes_for_one_member_do_not_compile() {
    let fault = |fields: &str| match compile(
        document(&format!("\"fields\":[{fields}]")).as_bytes(),
        &Grants::local(),
    ) {
        Ok(_) => String::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    };
    let pair = |a: &str, b: &str| fault(&format!(r#"{{"id":"a",{a}}},{{"id":"b",{b}}}"#));
    let index = r#""index":{"normalize":"exact"}"#;
    let into = |name: &str| format!(r#""index":{{"normalize":"exact","into":"{name}"}}"#);
    let path = |path: &str, rest: &str| {
        format!(r#""path":"{path}"{}{rest}"#, if rest.is_empty() { "" } else { "," })
    };
    for (a, b, name) in [
        (path("$.a", index), path("$.a_bidx", ""), "a_bidx"),
        (path("$.a", index), path("$.a_bidx_prev", ""), "a_bidx_prev"),
        (path("$['a','c']", index), path("$['c_bidx','x']", ""), "c_bidx"),
        (path("$.a", &into("i")), path("$.b", &into("i")), "i"),
        (path("$.a", index), path("$.b", &into("a_bidx")), "a_bidx"),
        (path("$.a", &into("i_prev")), path("$.b", &into("i")), "i_prev"),
        (path("$..a", &into("i")), path("$..b", &into("i")), "i"),
        (path("$.a[0]", index), path("$.a[1]", index), "a_bidx"),
        (path("$.a[*]", index), path("$.a_bidx[*]", ""), ""),
    ] {
        let found = pair(&a, &b);
        let wanted = if name.is_empty() {
            String::new()
        } else {
            format!("/index/into: {name} is taken by field ")
        };
        assert!(found.contains(&wanted) && found.is_empty() == name.is_empty(), "{a} {b}: {found}");
    }
    // What is read again on the way back must not be an index.
    let reads = fault(&format!(
        r#"{{"id":"a","path":"$.x[*].a",{index}}},{{"id":"b","path":"$.x[?@.a_bidx].q"}}"#
    ));
    assert!(
        reads.contains("/fields/1/path: reads a member the index of field a may be written to"),
        "{reads}"
    );
    let bound = fault(&format!(
        r#"{{"id":"a","path":"$.a",{index}}},{{"id":"b","path":"$.q","bind":[{{"name":"k","path":"$.a_bidx"}}]}}"#
    ));
    assert!(
        bound.contains("/fields/1/bind/0/path: reads a member the index of field a"),
        "{bound}"
    );
}

#[test]
fn the_first_declared_field_wins_and_the_outer_covers_the_inner() {
    let mut bench = Bench::new(
        r#""fields":[{"id":"a","path":"$.a.b"},{"id":"b","path":"$.a['b','c']","protect":"redact"},{"id":"c","path":"$.x"},{"id":"d","path":"$.x.y","protect":"redact"}]"#,
    );
    let out = bench.there_and_back(r#"{"a":{"b":1},"x":{"y":2}}"#);
    assert_eq!(shape(&out), r#"{"a":{"b":<1.1>},"x":<1.1>}"#);
    assert_eq!(shape(&bench.protect(r#"{"a":{"c":1}}"#)), r#"{"a":{"c":"[redacted]"}}"#);
}

#[test]
fn a_name_twice_on_the_way_is_refused_and_elsewhere_it_passes() {
    let members = r#""fields":[{"id":"a","path":"$.a.b","bind":[{"name":"k","path":"$.k"}]}],"subject":"$.s""#;
    let keys = keyring_of(vec![]);
    let mut bench = Bench::with(&[&document(members)], keys);
    for value in [
        r#"{"s":1,"k":1,"a":{"b":1,"b":2}}"#,
        r#"{"s":1,"k":1,"a":{"b":1,"\u0062":2}}"#,
        r#"{"s":1,"k":1,"a":{"\u0062":1,"\u00062":3,"\u0062":2}}"#,
        r#"{"s":1,"k":1,"a":{"b":1},"a":{}}"#,
        r#"{"s":1,"k":1,"a":{},"a":{"b":1}}"#,
        r#"{"s":1,"k":1,"k":2,"a":{"b":1}}"#,
        r#"{"s":1,"s":1,"k":1,"a":{"b":1}}"#,
    ] {
        assert_eq!(bench.rejected(value), RejectCode::DuplicateMember, "{value}");
    }
    let wide: Vec<String> = (0..100).map(|i| format!("\"m{i}\":0")).collect();
    let value = format!(r#"{{"s":1,"k":1,"a":{{{},"b":1,"\u0062":2}}}}"#, wide.join(","));
    assert_eq!(bench.rejected(&value), RejectCode::DuplicateMember, "among many");
    let mut free = Bench::new(r#""fields":[{"id":"a","path":"$.a"}]"#);
    free.there_and_back(r#"{"x":{"y":1,"y":2},"a":{"z":1,"z":2}}"#);
}

#[test]
fn required_and_type_are_held() {
    let required = r#"{"id":"a","path":"$.a","required":true}"#;
    for value in ["{}", r#"{"a":null}"#, "[]", "1"] {
        assert_eq!(refused(required, value), RejectCode::MissingRequired, "{value}");
    }
    let fits = [
        ("string", "\"x\""),
        ("number", "1.5"),
        ("integer", "-10"),
        ("boolean", "true"),
        ("object", "{}"),
        ("array", "[]"),
    ];
    for (wanted, _) in fits {
        for (kind, value) in fits {
            let field = format!(r#"{{"id":"a","path":"$.a","type":"{wanted}"}}"#);
            let doc = format!("{{\"a\":{value}}}");
            if wanted == kind || (wanted, kind) == ("number", "integer") {
                assert_eq!(protected(&field, &doc), r#"{"a":<1.1>}"#);
            } else {
                assert_eq!(refused(&field, &doc), RejectCode::WrongType, "{wanted} {value}");
            }
        }
    }
    assert_eq!(
        refused(r#"{"id":"a","path":"$.a","type":"integer"}"#, r#"{"a":1e2}"#),
        RejectCode::WrongType
    );
    assert_eq!(
        protected(r#"{"id":"a","path":"$.a","type":"integer"}"#, r#"{"a":null}"#),
        r#"{"a":null}"#,
        "null passes"
    );
}

#[test]
fn bound_tokens_open_in_their_record_only() {
    let mut bench = Bench::new(
        r#""fields":[{"id":"a","path":"$.a","bind":[{"name":"n","path":"$.n"},{"name":"m","path":"$.m"}]}]"#,
    );
    let out = bench.there_and_back(r#"{"a":"secret","n":42,"m":"\u0078"}"#);
    assert!(out.contains("vs1."));
    assert_eq!(shape(&out), r#"{"a":<1.3>,"n":42,"m":"\u0078"}"#);
    assert_eq!(
        bench.reveal(&out.replace("\"n\":42", "\"n\":\"42\"")).0,
        r#"{"a":"secret","n":"42","m":"\u0078"}"#,
        "scalar text binds, not the spelling"
    );
    // With the name: 42 alone may stand in a token too.
    let n = ",\"n\":42";
    for moved in [",\"n\":43", "", ",\"n\":4.2", ",\"n\":null"].map(|other| out.replace(n, other)) {
        let (left, report) = bench.reveal(&moved);
        assert_eq!(left, moved);
        assert_eq!(report.fields.len(), 1);
        assert!(matches!(report.fields[0].1.as_str(), "binding" | "corrupt"), "{report:?}");
    }
    for value in [r#"{"a":1,"n":1}"#, r#"{"a":1,"m":1}"#] {
        assert_eq!(bench.rejected(value), RejectCode::MissingRequired);
    }
    for n in ["1.5", "true", "[]", "-0", "null", "\"\\ud800\""] {
        assert_eq!(
            bench.rejected(&format!(r#"{{"a":1,"m":1,"n":{n}}}"#)),
            RejectCode::WrongType,
            "{n}"
        );
    }
    assert_eq!(shape(&bench.protect("{}")), "{}", "nothing to bind");
}

#[test]
fn undeclared_members_pass_drop_or_reject() {
    let members = |undeclared: &str| {
        format!(
            r#""undeclared":"{undeclared}","when":{{"$.type":"t"}},"clear":["$.open","$.list[*].open"],
            "fields":[{{"id":"a","path":"$.c.a","bind":[{{"name":"k","path":"$.k"}}],"index":{{"normalize":"exact"}}}}]"#
        )
    };
    let value = r#"{ "x":1, "type":"t", "k":1, "c":{"a":"v","z":{}}, "open":{"y":[1]}, "list":[{"open":1,"no":2},3], "z":[] }"#;
    assert_eq!(
        shape(&Bench::new(&members("drop")).protect(value)),
        r#"{ "type":"t", "k":1, "c":{"a":<1.3>,"a_bidx":<index>}, "open":{"y":[1]}, "list":[{"open":1},null] }"#
    );
    assert_eq!(
        shape(&Bench::new(&members("pass")).there_and_back(value)).len(),
        shape(value).len() + r#"<1.3>,"a_bidx":<index>"#.len() - "\"v\"".len()
    );
    let mut strict = Bench::new(&members("reject"));
    assert_eq!(strict.rejected(value), RejectCode::UndeclaredMember);
    strict
        .there_and_back(r#"{"type":"t","k":1,"c":{"a":"v"},"open":{"y":[1]},"list":[{"open":1}]}"#);
    for more in [r#","x":1"#, r#","c2":{}"#] {
        assert_eq!(
            strict.rejected(&format!(r#"{{"type":"t","k":1{more}}}"#)),
            RejectCode::UndeclaredMember
        );
    }
    assert_eq!(strict.rejected(r#"{"type":"t","k":1,"c":{"b":1}}"#), RejectCode::UndeclaredMember);
}

#[test]
fn when_claims_by_value_and_header() {
    let schema = |name: &str, when: &str| {
        format!(
            r#"{{"veilstream":1,"name":"{name}","topics":{{"from":"in","to":"out"}},"when":{{{when}}},"fields":[{{"id":"{name}","path":"$.a"}}]}}"#
        )
    };
    let documents = [
        schema("text", r#""$.type":"ab""#),
        schema("number", r#""$.type":1.5e1"#),
        schema("flag", r#""$.type":true"#),
        schema("nothing", r#""$.type":null"#),
        schema("head", r#""header:kind":"h","$['x'][0]":0"#),
    ];
    let names = ["text", "number", "flag", "nothing", "head"];
    let keys =
        keyring_of(names.iter().map(|n| key(KeyKind::Data, &format!("schema:{n}"))).collect());
    let mut bench = Bench::with(&documents.iter().map(String::as_str).collect::<Vec<_>>(), keys);
    let header: [(&[u8], Option<&[u8]>); 2] = [(b"kind", Some(b"g")), (b"kind", Some(b"h"))];
    for (value, headers, name) in [
        (r#"{"type":"ab"}"#, &[][..], Some("text")),
        (r#"{"type":"\u0061b"}"#, &[], Some("text")),
        (r#"{"type":15}"#, &[], Some("number")),
        (r#"{"type":15.0}"#, &[], Some("number")),
        (r#"{"type":"15"}"#, &[], None),
        (r#"{"type":true}"#, &[], Some("flag")),
        (r#"{"type":false}"#, &[], None),
        (r#"{"type":null}"#, &[], Some("nothing")),
        ("{}", &[], None),
        ("{}", &header, None),
        (r#"{"x":[0]}"#, &header, Some("head")),
        (r#"{"x":[0]}"#, &header[..1], None),
        (r#"{"x":[-0.0]}"#, &header, Some("head")),
    ] {
        let record =
            Record { topic: Some("in"), ..full_record(None, Some(value.as_bytes()), headers) };
        match (bench.record(&record), name) {
            (Outcome::Protected(schema), Some(name)) => {
                assert_eq!(&*bench.schemas.schemas()[schema].name, name, "{value}")
            }
            (Outcome::Rejected(reject), None) => {
                assert_eq!(reject.code, RejectCode::NoSchema, "{value}")
            }
            (other, _) => panic!("{value}: {other:?}"),
        }
    }
    let elsewhere = Record { topic: Some("other"), ..value_record(br#"{"type":"ab"}"#) };
    assert!(
        matches!(bench.record(&elsewhere), Outcome::Rejected(r) if r.code == RejectCode::NoSchema && r.schema.is_none())
    );
}

#[test]
fn keys_and_headers_are_protected() {
    let mut bench = Bench::new(
        r#""fields":[],"key":{"protect":"hash","normalize":"email","root":1},
        "headers":{"x-mail":{"protect":"encrypt"},"x-id":{"protect":"hash","normalize":"digits"},"x-ip":{"protect":"drop"}}"#,
    );
    let headers: [(&[u8], Option<&[u8]>); 7] = [
        (b"trace", Some(b"t\xff")),
        (b"x-mail", Some(b"a@b")),
        (b"x-ip", Some(b"1.2.3.4")),
        (b"x-id", Some(b"1-2")),
        (b"x-id", Some(b"-")),
        (b"x-mail", None),
        (b"", Some(b"")),
    ];
    assert!(matches!(
        bench.record(&full_record(Some(b"A@B"), Some(b"{}"), &headers)),
        Outcome::Protected(_)
    ));
    let out = &bench.out;
    assert_eq!(out.key, KeyOutput::Replaced);
    assert!(out.key_bytes.starts_with(b"1~"));
    let first = out.key_bytes.clone();
    let value = |i: usize| match &out.headers[i] {
        HeaderOutput::Replaced(from, range) => {
            (*from, String::from_utf8_lossy(&out.header_bytes[range.clone()]).into_owned())
        }
        HeaderOutput::Same(from) => (*from, String::new()),
    };
    assert_eq!(out.headers.len(), 6, "x-ip is gone");
    assert_eq!(out.headers[0], HeaderOutput::Same(0));
    assert!(value(1).1.starts_with("vs1.") && value(1).0 == 1);
    assert!(value(2).1.starts_with("1~") && value(2).0 == 3);
    assert_eq!(value(3), (4, String::new()), "nothing left after normalising");
    assert_eq!(out.headers[4], HeaderOutput::Same(5), "null stays null");
    assert_eq!(out.headers[5], HeaderOutput::Same(6));
    let token = value(1).1;
    let mut opened = Vec::new();
    Revealer::default()
        .open("t#header:x-mail", KeySource::of(&bench.keys), token.as_bytes(), &mut opened)
        .unwrap();
    assert_eq!(opened, b"a@b");

    assert!(matches!(
        bench.record(&full_record(Some(b" a@b "), Some(b"{}"), &[])),
        Outcome::Protected(_)
    ));
    assert_eq!(bench.out.key_bytes, first, "one address, one key");
    assert!(
        matches!(bench.record(&full_record(Some(b""), Some(b"{}"), &[])), Outcome::Rejected(r) if r.code == RejectCode::UnsupportedValue)
    );
    assert!(matches!(bench.record(&full_record(None, Some(b"{}"), &[])), Outcome::Protected(_)));
    assert_eq!(bench.out.key, KeyOutput::Same);
}

#[test]
fn a_deterministic_key_opens_to_the_raw_bytes() {
    let mut bench = Bench::new(r#""fields":[],"key":{"protect":"deterministic","root":1}"#);
    assert!(matches!(
        bench.record(&full_record(Some(b"\x00raw\xff"), Some(b"{}"), &[])),
        Outcome::Protected(_)
    ));
    let token = bench.out.key_bytes.clone();
    let mut opened = Vec::new();
    Revealer::default().open("t#key", KeySource::of(&bench.keys), &token, &mut opened).unwrap();
    assert_eq!(opened, b"\x00raw\xff");
    assert!(matches!(
        bench.record(&full_record(Some(b"\x00raw\xff"), None, &[])),
        Outcome::Protected(_)
    ));
    assert!(bench.out.tombstone);
    assert_eq!(bench.out.key_bytes, token, "a tombstone deletes the record it means");
}

#[test]
fn counts_say_what_happened_to_each_field() {
    let mut bench = Bench::new(
        r#""fields":[{"id":"e","path":"$.e[*]","index":{"normalize":"exact"}},{"id":"m","path":"$.m","protect":"mask"},{"id":"d","path":"$.d","protect":"drop"},
        {"id":"n","path":"$.n"},{"id":"x","path":"$.x"},{"id":"h","path":"$.h","protect":"hash","index":{"normalize":"exact"}}]"#,
    );
    bench.protect(r#"{"e":["a","b",null],"m":"x","d":1,"n":null,"h":"v"}"#);
    assert_eq!(
        bench.out.counts,
        [
            (0, FieldOutcome::Encrypted, 2),
            (0, FieldOutcome::Indexed, 2),
            (0, FieldOutcome::Null, 1),
            (1, FieldOutcome::Masked, 1),
            (2, FieldOutcome::Dropped, 1),
            (3, FieldOutcome::Null, 1),
            (4, FieldOutcome::Absent, 1),
            (5, FieldOutcome::Indexed, 1),
        ]
    );
}

#[test]
fn residue_is_found_wherever_text_is_clear() {
    let members = |residue: &str| {
        format!(
            r#""residue":"{residue}","fields":[{{"id":"a","path":"$.a"}},{{"id":"m","path":"$.m","protect":"mask","keep_last":20}}]"#
        )
    };
    let mut reject = Bench::new(&members("reject"));
    for clear in [
        r#"{"a":"secret","b":"secret"}"#,
        r#"{"b":"my secret.","a":"secret"}"#,
        r#"{"a":"secret","b":{"c":["xx","my \u0073ecret"]}}"#,
        r#"{"a":"\u0073ecret","b":"secret"}"#,
        r#"{"a":4155550101,"b":"tel 4155550101"}"#,
        r#"{"a":{"street":"1 Main St"},"b":"at 1 Main St"}"#,
        r#"{"a":["nothing",["deep inside"]],"b":"deep inside"}"#,
        r#"{"a":"secret","m":"it is a secret, keep it"}"#,
        r#"{"a":"ééééé!","b":"xxxééééé!"}"#,
        r#"{"a":"secret","b":"\ud800 secret"}"#,
        r#"{"a":"secret","b":"\udfff\ud800\u0073ecret\ud800"}"#,
        r#"{"a":"s\u00e9cret","b":"\ud800 s\u00e9cret"}"#,
        r#"{"a":"a\uD800secret","b":"xa\ud800\u0073ecret"}"#,
        r#"{"a":4155550101,"b":4155550101}"#,
        r#"{"a":"4155550101","b":[14155550101]}"#,
        r#"{"a":4155550101,"b":-4155550101.5}"#,
        r#"{"a":41555.5,"b":"41555.5 in all"}"#,
        r#"{"a":"a\ud800secret","b":"a\ud800secret"}"#,
    ] {
        assert_eq!(reject.rejected(clear), RejectCode::Residue, "{clear}");
    }
    for fine in [
        r#"{"a":"secre","b":"secre"}"#,
        r#"{"a":"éé","b":"ééé"}"#,
        r#"{"a":"secret","secret":"b"}"#,
        r#"{"a":"secret","b":"secre t"}"#,
        r#"{"a":true,"b":"trueish"}"#,
        r#"{"a":41555,"b":41555}"#,
        r#"{"a":4155550101,"b":[415555010,4155550,-15550101,4.155550101e9,0.5]}"#,
        r#"{"a":"secret"}"#,
        r#"{"a":"secret","b":"terces secre"}"#,
        r#"{"a":"a\ud800secret","b":"a\ud801secret"}"#,
    ] {
        reject.protect(fine);
    }
    let headers: [(&[u8], Option<&[u8]>); 1] = [(b"h", Some(b"a secret"))];
    for record in [
        full_record(Some(b"secret-1"), Some(br#"{"a":"secret"}"#), &[]),
        full_record(None, Some(br#"{"a":"secret"}"#), &headers),
    ] {
        assert!(
            matches!(reject.record(&record), Outcome::Rejected(r) if r.code == RejectCode::Residue && r.field.as_deref() == Some("a"))
        );
    }
    let mut count = Bench::new(&members("count"));
    count.protect(r#"{"a":"secret","b":["secret","secret secret"]}"#);
    assert_eq!(count.out.residue, [(0, 3)]);
    let mut off = Bench::new(&members("off"));
    off.protect(r#"{"a":"secret","b":"secret"}"#);
    assert_eq!(off.out.residue, []);
}

#[test]
fn residue_is_found_at_every_offset() {
    let mut bench = Bench::new(r#""residue":"reject","fields":[{"id":"a","path":"$.a"}]"#);
    for length in [6, 7, 8, 13] {
        let value: String = "qwertzuiopasd"[..length].into();
        for before in 0..20 {
            for after in 0..5 {
                let doc = format!(
                    r#"{{"a":"{value}","b":"{}{value}{}"}}"#,
                    "-".repeat(before),
                    "q".repeat(after)
                );
                assert_eq!(bench.rejected(&doc), RejectCode::Residue, "{doc}");
            }
        }
    }
}

#[test]
fn residue_in_a_hostile_event_takes_no_quadratic_time() {
    let mut bench = Bench::new(r#""residue":"reject","fields":[{"id":"a","path":"$.a[*]"}]"#);
    let needles: Vec<String> =
        (0..4_000).map(|i| format!("\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa{i}\"")).collect();
    let doc = format!(r#"{{"a":[{}],"b":"{}"}}"#, needles.join(","), "a".repeat(1 << 20));
    let start = std::time::Instant::now();
    bench.protect(&doc);
    // The plain way is 2^18 places times 4,000 values times 40 bytes: minutes. The bound is
    // generous for slow machines.
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    assert_eq!(
        bench.rejected(
            &doc.replace("\"b\":\"", "\"b\":\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa3999")
        ),
        RejectCode::Residue
    );
}

fn subject_key(id: &str) -> (Scope, veilstream_engine::Key) {
    let root = Arc::new(key(KeyKind::SubjectRef, "v1"));
    let reference = subject::subject_ref(&root, TENANT, id.as_bytes()).unwrap();
    let scope = Scope::Subject(reference);
    (scope.clone(), key(KeyKind::Data, &scope.to_string()))
}

#[test]
fn a_subject_has_a_key_of_its_own() {
    let members = r#""subject":"$.id","fields":[{"id":"a","path":"$.a"}],"headers":{"h":{"protect":"encrypt"}}"#;
    let mut bench = Bench::with(&[&document(members)], keyring("t"));
    let (scope, data) = subject_key("42");
    let value = br#"{"id":42,"a":"x"}"#;
    let Outcome::NeedKeys(needed) = bench.outcome(value) else { panic!("no key yet") };
    assert_eq!(needed, [NeededKey { kind: KeyKind::Data, scope }]);
    let data = Arc::new(veilstream_engine::Key { seal_until: Some(NOW + 600), ..data });
    bench.transformer.add_subject_keys([data.clone()]);
    let out = bench.protect(r#"{"id":42,"a":"x"}"#);
    assert_eq!(shape(&out), r#"{"id":42,"a":<2.1>}"#);
    assert_eq!(
        shape(&bench.protect(r#"{"id":"42","a":"x"}"#)),
        r#"{"id":"42","a":<2.1>}"#,
        "42 and \"42\" are one subject"
    );
    // Forgotten when its time is over, so that an erasure elsewhere takes effect.
    assert!(matches!(
        bench.record(&Record { now: NOW + 600, ..value_record(value) }),
        Outcome::NeedKeys(_)
    ));

    let ring = keyring_of(vec![
        key(KeyKind::Data, &data.scope.to_string()),
        key(KeyKind::Data, &subject_key("43").0.to_string()),
    ]);
    bench.keys = ring;
    assert_eq!(bench.reveal(&out).0, r#"{"id":42,"a":"x"}"#);
    let (left, report) = bench.reveal(&out.replace("42", "43"));
    assert_eq!(left, out.replace("42", "43"), "moved to another subject's record");
    assert_eq!(report.fields[0].1.as_str(), "binding");

    for value in [
        r#"{"a":"x"}"#,
        r#"{"id":null,"a":"x"}"#,
        r#"{"id":1.5,"a":"x"}"#,
        r#"{"id":{},"a":"x"}"#,
        r#"{"id":true}"#,
    ] {
        assert_eq!(bench.rejected(value), RejectCode::MissingSubject, "{value}");
    }
}

/// The halves of every token's 24-byte nonce, 16 characters each.
fn nonce_halves(protected: &str) -> Vec<(String, String)> {
    let body = |token: &str| (token[32..48].to_owned(), token[48..64].to_owned());
    protected.split("\"vs1.").skip(1).map(body).collect()
}

#[test]
fn nonces_under_a_subjects_key_share_half_within_a_record_and_nothing_across() {
    let members =
        r#""subject":"$.id","fields":[{"id":"a","path":"$.a[*]"},{"id":"b","path":"$.b"}]"#;
    let mut bench = Bench::with(&[&document(members)], keyring("t"));
    bench.transformer.add_subject_keys([Arc::new(subject_key("42").1)]);
    let value = r#"{"id":42,"a":["x","x","y"],"b":"x"}"#;
    let records: Vec<_> = (0..50).map(|_| bench.protect(value)).collect();
    let halves: Vec<_> = records.iter().map(|record| nonce_halves(record)).collect();
    let firsts: HashSet<_> = halves.iter().flatten().map(|(first, _)| first).collect();
    let seconds: HashSet<_> = halves.iter().flatten().map(|(_, second)| second).collect();
    assert!(
        halves.iter().all(
            |record| record.len() == 4 && record.iter().all(|(first, _)| *first == record[0].0)
        )
    );
    assert_eq!((firsts.len(), seconds.len()), (50, 200));
    bench.keys = keyring_of(vec![subject_key("42").1]);
    assert!(records.iter().all(|record| bench.reveal(record).0 == value));

    let mut shared = Bench::with(
        &[&document(&members.replace(r#""subject":"$.id","#, ""))],
        keyring_of(vec![key(KeyKind::Data, "shared:t")]),
    );
    let halves = nonce_halves(&shared.protect(value));
    assert_eq!(
        halves.iter().flat_map(|(first, second)| [first, second]).collect::<HashSet<_>>().len(),
        8,
        "nothing under a key of many"
    );
}

#[test]
fn nothing_is_sealed_for_an_erased_subject() {
    let members = r#""subject":"$.id","fields":[{"id":"a","path":"$.a"}]"#;
    let mut bench = Bench::with(&[&document(members)], keyring("t"));
    let data = subject_key("42").1;
    let kid = data.id;
    bench.transformer.add_subject_keys([Arc::new(data)]);
    let value = r#"{"id":42,"a":"x"}"#;
    bench.protect(value);
    // A snapshot that names the key makes the key in hand be forgotten; what is asked for then is a
    // marker.
    bench.keys = Arc::new(
        Keyring::new(TENANT, [Arc::new(key(KeyKind::SubjectRef, "v1"))])
            .with_ended(Arc::new([kid].into())),
    );
    assert!(matches!(bench.outcome(value.as_bytes()), Outcome::NeedKeys(_)));
    let marker = veilstream_engine::Key {
        state: KeyState::Shredded,
        secret: None,
        seal_until: Some(NOW + 600),
        ..subject_key("42").1
    };
    bench.transformer.add_subject_keys([Arc::new(marker)]);
    assert_eq!(bench.rejected(value), RejectCode::ErasedSubject);
    // Nobody is erased for ever without being asked again: the subject may have been let back.
    assert!(matches!(
        bench.record(&Record { now: NOW + 600, ..value_record(value.as_bytes()) }),
        Outcome::NeedKeys(_)
    ));
}

#[test]
fn a_tombstone_passes_unless_a_header_must_be_encrypted_for_nobody_knows_whom() {
    let members = |more: &str| {
        document(&format!(
            r#""subject":"$.id"{more},"fields":[{{"id":"a","path":"$.a"}}],"key":{{"protect":"deterministic","root":1}},
            "headers":{{"h":{{"protect":"encrypt"}},"i":{{"protect":"hash","normalize":"exact"}},"j":{{"protect":"drop"}}}}"#
        ))
    };
    let mut bench = Bench::with(&[&members("")], keyring_of(vec![]));
    let others: [(&[u8], Option<&[u8]>); 4] =
        [(b"trace", Some(b"t")), (b"h", None), (b"i", Some(b"v")), (b"j", Some(b"v"))];
    for headers in [&[][..], &others] {
        assert!(matches!(
            bench.record(&full_record(Some(b"k"), None, headers)),
            Outcome::Protected(_)
        ));
        assert!(
            bench.out.tombstone && bench.out.key_bytes.starts_with(b"vs1."),
            "its key is treated like any other"
        );
    }
    assert_eq!(
        bench.out.headers[..2],
        [HeaderOutput::Same(0), HeaderOutput::Same(1)],
        "null stays null"
    );
    assert!(matches!(bench.out.headers[2..], [HeaderOutput::Replaced(2, _)]));
    for secret in [&b"canary"[..], b""] {
        let headers = [others[0], (b"h", None), (&b"h"[..], Some(secret))];
        let Outcome::Rejected(reject) = bench.record(&full_record(Some(b"k"), None, &headers))
        else {
            panic!("sealed with whose key?")
        };
        assert_eq!(
            (reject.code, reject.field.as_deref()),
            (RejectCode::MissingSubject, Some("#header:h"))
        );
        assert!(bench.out.key_bytes.is_empty() && bench.out.header_bytes.is_empty());
    }
    // With an optional subject the schema's key takes its place.
    let mut optional = Bench::with(&[&members(r#","subject_optional":true"#)], keyring("t"));
    let header: [(&[u8], Option<&[u8]>); 1] = [(b"h", Some(b"canary"))];
    assert!(matches!(
        optional.record(&full_record(Some(b"k"), None, &header)),
        Outcome::Protected(_)
    ));
    assert!(optional.out.header_bytes.starts_with(b"vs1."));
}

#[test]
fn a_record_without_its_optional_subject_falls_back_to_the_schemas_key() {
    let members = r#""subject":"$.id","subject_optional":true,"fields":[{"id":"a","path":"$.a"}]"#;
    let mut bench = Bench::with(&[&document(members)], keyring("t"));
    assert_eq!(shape(&bench.there_and_back(r#"{"a":"x"}"#)), r#"{"a":<1.1>}"#);
    assert_eq!(shape(&bench.there_and_back(r#"{"id":null,"a":"x"}"#)), r#"{"id":null,"a":<1.1>}"#);
    assert_eq!(
        bench.rejected(r#"{"id":[1],"a":"x"}"#),
        RejectCode::MissingSubject,
        "somebody's, nobody knows whose"
    );
    assert!(matches!(bench.outcome(br#"{"id":7,"a":"x"}"#), Outcome::NeedKeys(_)));
}

#[test]
fn missing_expired_and_spent_keys_are_asked_for() {
    let members = r#""fields":[{"id":"a","path":"$.a","index":{"normalize":"exact"}},{"id":"d","path":"$.d","protect":"deterministic","root":2}]"#;
    let own = NeededKey { kind: KeyKind::Data, scope: Scope::Schema("t".into()) };
    let root = NeededKey { kind: KeyKind::Deterministic, scope: Scope::Version(2) };
    let mut bench = Bench::with(&[&document(members)], keyring_of(vec![]));
    let Outcome::NeedKeys(needed) = bench.outcome(br#"{"a":1}"#) else { panic!() };
    assert_eq!(needed, [root, own.clone()], "all at once");

    let simple = document(r#""fields":[{"id":"a","path":"$.a"}]"#);
    let with = |data: veilstream_engine::Key| Bench::with(&[&simple], keyring_of(vec![data]));
    let mut expired =
        with(veilstream_engine::Key { seal_until: Some(NOW), ..key(KeyKind::Data, "schema:t") });
    assert!(matches!(expired.outcome(br#"{"a":1}"#), Outcome::NeedKeys(n) if n == [own.clone()]));
    assert!(expired.out.value.is_empty());
    assert!(matches!(
        expired.record(&Record { now: NOW - 1, ..value_record(br#"{"a":1}"#) }),
        Outcome::Protected(_)
    ));

    let mut spent =
        with(veilstream_engine::Key { budget: Budget::new(3), ..key(KeyKind::Data, "schema:t") });
    spent.protect(r#"{"a":1}"#);
    spent.protect(r#"{"a":1}"#);
    spent.protect(r#"{"a":1}"#);
    assert!(matches!(spent.outcome(br#"{"a":1}"#), Outcome::NeedKeys(n) if n == [own.clone()]));
    assert!(spent.out.value.is_empty(), "nothing half protected");
    spent.keys = keyring("t");
    spent.protect(r#"{"a":1}"#);

    let subject = r#""subject":"$.id","fields":[{"id":"a","path":"$.a"}]"#;
    let mut person = Bench::with(&[&document(subject)], keyring("t"));
    let (scope, data) = subject_key("7");
    person
        .transformer
        .add_subject_keys([Arc::new(veilstream_engine::Key { budget: Budget::new(1), ..data })]);
    person.protect(r#"{"id":7,"a":1}"#);
    assert!(
        matches!(person.outcome(br#"{"id":7,"a":1}"#), Outcome::NeedKeys(n) if n == [NeededKey { kind: KeyKind::Data, scope }])
    );

    let mut silent = Bench::with(&[&simple], keyring("t"));
    silent.transformer = Transformer::new(Box::new(NoRandom));
    assert!(matches!(silent.outcome(br#"{"a":1}"#), Outcome::NeedKeys(_)));
    assert!(silent.out.value.is_empty(), "no nonce, no output");

    let mut retired = with(veilstream_engine::Key {
        state: KeyState::DecryptOnly,
        ..key(KeyKind::Data, "schema:t")
    });
    assert!(matches!(retired.outcome(br#"{"a":1}"#), Outcome::NeedKeys(n) if n == [own]));
}

/// A random source that has failed.
struct NoRandom;

impl Entropy for NoRandom {
    fn fill(&mut self, _: &mut [u8]) -> Result<(), EntropyError> {
        Err(EntropyError)
    }
}

#[test]
fn commands_that_run_once_use_the_shared_key() {
    let simple = document(r#""fields":[{"id":"a","path":"$.a"}]"#);
    let mut bench = Bench::with(&[&simple], keyring("t"));
    bench.transformer = Transformer::new(Box::new(support::OsRandom)).one_shot();
    let shared = NeededKey { kind: KeyKind::Data, scope: Scope::Shared("t".into()) };
    assert!(matches!(bench.outcome(br#"{"a":1}"#), Outcome::NeedKeys(n) if n == [shared]));
    bench.keys = keyring_of(vec![key(KeyKind::Data, "shared:t")]);
    assert_eq!(shape(&bench.there_and_back(r#"{"a":1}"#)), r#"{"a":<2.1>}"#);
    // A restarted process inside the minute after a mint has the shared key only.
    bench.transformer = Transformer::new(Box::new(support::OsRandom));
    assert_eq!(shape(&bench.there_and_back(r#"{"a":1}"#)), r#"{"a":<2.1>}"#);
}

#[test]
fn sizes_are_limited() {
    let simple = document(r#""fields":[{"id":"a","path":"$.a[*]"}]"#);
    let mut bench = Bench::with(&[&simple], keyring("t"));
    bench.transformer = Transformer::new(Box::new(support::OsRandom))
        .with_limits(Limits { input: 100, output: 1000 });
    bench.protect(r#"{"a":[1,2,3]}"#);
    assert_eq!(
        bench.rejected(&format!(r#"{{"a":[1],"b":"{}"}}"#, "x".repeat(100))),
        RejectCode::TooLarge
    );
    assert_eq!(bench.rejected(r#"{"a":[1,2,3,4,5,6,7,8,9,10,11]}"#), RejectCode::OutputTooLarge);
    assert!(bench.out.value.is_empty());
}

#[test]
fn what_looks_like_a_token_is_encrypted_like_any_value() {
    let mut bench = Bench::new(r#""fields":[{"id":"a","path":"$.a"}]"#);
    let first = bench.protect(r#"{"a":"stolen"}"#);
    let second = bench.there_and_back(&first);
    assert_ne!(first, second);
}

#[test]
fn filters_may_not_judge_by_what_protection_changes() {
    let compiles = |path: &str| {
        let field = format!(r#"{{"id":"a","path":"{path}","index":{{"normalize":"exact"}}}}"#);
        compile(document(&format!(r#""fields":[{field}]"#)).as_bytes(), &Grants::local()).is_ok()
    };
    for fine in [
        "$.x[?@.k].a",
        "$.x[?@.a].a",
        "$.x[?@.k == 'v'].a",
        "$.x[?@.o].o.a",
        "$.x[?length(@.k) > 1].a",
        "$.x[?@.k[?@.j == 1]].a",
        "$.z[?$.x == 1].a",
    ] {
        assert!(compiles(fine), "{fine}");
        // What compiles is selected again on the way back.
        let mut bench = Bench::new(&format!(
            r#""fields":[{{"id":"a","path":"{fine}","index":{{"normalize":"exact"}}}}]"#
        ));
        bench.there_and_back(r#"{"x":[{"a":"s","k":"v"},{"a":"s","k":"vw","o":{"a":"s"}},{"a":"s","k":[{"j":1}]}],"z":{"y":{"a":"s"}}}"#);
        bench.there_and_back(r#"{"x":1,"z":{"y":{"a":"s"}}}"#);
    }
    // A filter that would reject whatever it lets through.
    for fault in [
        "$.x[?@.a == 1].a",
        "$.x[?length(@) == 2].a",
        "$.x[?count(@.*) == 2].a",
        "$.x[?length(@.o) == 1].o.a",
        "$.x[?@.k == 1]",
        "$..[?@.k == 1].k.a",
    ] {
        assert!(!compiles(fault), "{fault}");
    }
    // What depends on the event is settled there.
    for (path, rejected, passed) in [
        (
            "$.x[?@.o == @.p].o.a",
            r#"{"x":[{"o":{"a":1},"p":{"a":1}}]}"#,
            r#"{"x":[{"o":1,"p":1},{"o":{"b":1}}]}"#,
        ),
        ("$.x[?$.x[0].a != 1].a", r#"{"x":[{"a":2}]}"#, r#"{"x":[{},{"a":2}]}"#),
        ("$[?$.x != 1].y.a", r#"{"x":{"y":{"a":1}}}"#, r#"{"x":2,"z":{"y":{"a":1}}}"#),
        ("$.x[?count(@.*) > 1 || @.b].a", r#"{"x":[{"a":1,"c":1}]}"#, r#"{"x":[{"c":1}]}"#),
        ("$.x[?value(@..a) != 2].a", r#"{"x":[{"a":1}]}"#, r#"{"x":[{"b":1}]}"#),
        (
            "$.x[?search(@.o.a, 's') || @.k].o",
            r#"{"x":[{"o":{"a":"s"}}]}"#,
            r#"{"x":[{"o":{"b":1},"k":1}]}"#,
        ),
        ("$.x[?@.o.a].o", r#"{"x":[{"o":{"a":"s"}}]}"#, r#"{"x":[{"o":1}]}"#),
    ] {
        let mut bench = Bench::new(&format!(r#""fields":[{{"id":"a","path":"{path}"}}]"#));
        assert_eq!(bench.rejected(rejected), RejectCode::FilterReadsProtected, "{path}");
        bench.there_and_back(passed);
    }
    // To ask whether a protected member is there says nothing of it.
    for path in ["$.x[?@.a].a", "$.x[?@.k[?@.a]].k[0].a", "$.x[?@.*].a", "$.x[?@..a].a"] {
        let mut bench = Bench::new(&format!(
            r#""fields":[{{"id":"a","path":"{path}","index":{{"normalize":"exact"}}}}]"#
        ));
        let out = bench.there_and_back(r#"{"x":[{"a":"s","k":[{"a":"t"}]}]}"#);
        assert!(out.contains("vs1."), "{path}: {out}");
    }
}

#[test]
fn what_a_filter_reads_is_left_when_others_are_dropped() {
    let mut bench = Bench::new(
        r#""undeclared":"drop","clear":["$.x[*].kind"],"fields":[{"id":"a","path":"$.x[?@.kind == 'gift'].note"}]"#,
    );
    let out = bench.protect(
        r#"{"x":[{"kind":"gift","note":"for Ada","k":1},{"kind":"plain","note":"n"}],"y":1}"#,
    );
    assert_eq!(shape(&out), r#"{"x":[{"kind":"gift","note":<1.1>},{"kind":"plain"}]}"#);
    assert_eq!(
        bench.reveal(&out).0,
        r#"{"x":[{"kind":"gift","note":"for Ada"},{"kind":"plain"}]}"#
    );
}

#[test]
fn while_a_root_rotates_both_versions_stand_beside_the_value() {
    let members = r#""fields":[{"id":"a","path":"$.a","index":{"normalize":"exact"}},{"id":"b","path":"$.b[*]","index":{"normalize":"exact","into":"i"}},
        {"id":"h","path":"$.h","protect":"hash","index":{"normalize":"exact"}}],"key":{"protect":"hash","normalize":"exact","root":1}"#;
    let value = r#"{"a":"x","b":["y",null],"h":"z"}"#;
    let mut one = Bench::new(members);
    let before = one.there_and_back(&value.replace(",\"h\":\"z\"", ""));
    let mut two = Bench::with(
        &[&document(members)],
        keyring_of(vec![key(KeyKind::Data, "schema:t"), key(KeyKind::Index, "v2")]),
    );
    let out = two.protect(value);
    let tags = |out: &str| out.replace("\"1~", "\"<1>").replace("\"2~", "\"<2>");
    let tag = |out: &str, name: &str| {
        out.split(&format!("\"{name}\":"))
            .nth(1)
            .unwrap()
            .split(['}', ','])
            .next()
            .unwrap()
            .to_owned()
    };
    assert_eq!(
        tag(&out, "a_bidx_prev"),
        tag(&before, "a_bidx"),
        "readers of the old index still find it"
    );
    assert_eq!(tag(&out, "i_prev"), tag(&before, "i"));
    assert!(
        tag(&tags(&out), "a_bidx").starts_with("\"<2>")
            && tag(&tags(&out), "i").starts_with("[\"<2>")
    );
    assert!(tag(&tags(&out), "h").starts_with("\"<2>") && !out.contains("\"h_"));
    two.there_and_back(&value.replace(",\"h\":\"z\"", ""));
    assert_eq!(two.rejected(r#"{"a":"x","a_bidx_prev":1}"#), RejectCode::ReservedMember);
    assert_eq!(two.out.counts, []);
    // A record key pins its version: only `rotate topic` moves it.
    assert!(matches!(
        two.record(&full_record(Some(b"k"), Some(b"{}"), &[])),
        Outcome::Protected(_)
    ));
    assert!(two.out.key_bytes.starts_with(b"1~"));
}
