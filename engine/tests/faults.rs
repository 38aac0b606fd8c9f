//! Documents with faults: each fault has the JSON pointer of its cause and says what to write
//! instead, and all are reported at once.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use std::sync::Arc;

use support::document;
use veilstream_engine::compile::{Grants, SchemaSet, compile};
use veilstream_engine::error::{Fault, Severity};

fn errors(text: &str) -> Vec<Fault> {
    match compile(text.as_bytes(), &Grants::default()) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.into_iter().filter(|f| f.severity == Severity::Error).collect(),
    }
}

/// Exactly one fault, there, with these words.
#[track_caller]
fn one(text: &str, pointer: &str, words: &str) {
    let faults = errors(text);
    let [fault] = &faults[..] else { panic!("{text}: {faults:#?}") };
    assert!(
        fault.pointer == pointer && fault.message.contains(words),
        "{text}: {fault}, not {pointer}: {words}"
    );
}

#[test]
fn the_document_itself() {
    let good = r#"{"veilstream":1,"name":"t","fields":[]}"#;
    assert_eq!(errors(good), []);
    assert_eq!(errors(&format!("\u{feff}{good}")), [], "editors write byte order marks");
    one("", "", "is not JSON: line 1, column 0; write one JSON object");
    one("{\"name\":", "", "is not JSON: line 1");
    one("[1]", "", "must be an object, not an array");
    one("null", "", "must be an object, not null");
    one(r#"{"name":"t","fields":[]}"#, "/veilstream", "must be 1");
    one(r#"{"veilstream":2,"name":"t","fields":[]}"#, "/veilstream", "must be 1");
    one(r#"{"veilstream":1,"fields":[]}"#, "", r#"has no name; add "name": "customers""#);
    one(r#"{"veilstream":1,"name":"t"}"#, "", r#"has no fields; add "fields": [{ "id""#);
    one(r#"{"veilstream":1,"name":7,"fields":[]}"#, "/name", "must be a string, not a number");
    one(
        r#"{"veilstream":1,"name":"Ümlaut","fields":[]}"#,
        "/name",
        "must match [a-z][a-z0-9_-]{0,63}",
    );
    one(r#"{"veilstream":1,"name":"dead_letter","fields":[]}"#, "/name", "choose another name");
    one(
        r#"{"veilstream":1,"name":"t","name":"t","fields":[]}"#,
        "/name",
        "stands twice in this object; keep one",
    );
    one(
        r#"{"veilstream":1,"name":"t","fields":[{"id":"a","path":"$.a","p\u0061th":"$.a"}]}"#,
        "/fields/0/path",
        "keep one",
    );
    one(&document(r#""felds":[],"fields":[]"#), "/felds", "unknown member; did you mean fields?");
    one(
        &document(r#""a/b~c":1,"fields":[]"#),
        "/a~1b~0c",
        "unknown member; known members are $schema, veilstream, name",
    );
    one(
        r#"{"veilstream":1,"name":"t","version":0,"fields":[]}"#,
        "/version",
        "must be a whole number from 1 to 4294967295",
    );
    one(&document(r#""fields":{}"#), "/fields", "must be a list, not an object");
    one(
        &document(r#""undeclared":"dorp","fields":[]"#),
        "/undeclared",
        r#"must be one of "pass", "drop", "reject""#,
    );
    one(
        &document(r#""residue":1,"fields":[]"#),
        "/residue",
        r#"must be one of "count", "reject", "off""#,
    );
}

#[test]
fn around_the_fields() {
    let with = |members: &str| document(&format!("{members},\"fields\":[]"));
    one(&with(r#""topics":[]"#), "/topics", "must be an object, not an array");
    one(&with(r#""topics":{"from":"a"}"#), "/topics", r#"has no to; add "to":"#);
    one(
        &with(r#""topics":{"from":"a b","to":"c"}"#),
        "/topics/from",
        "1 to 249 letters, digits, '.', '_' and '-'",
    );
    one(&with(r#""topics":{"from":"..","to":"c"}"#), "/topics/from", "is no Kafka topic name");
    one(&with(r#""topics":{"from":"a","to":"a"}"#), "/topics/to", "need a topic of their own");
    one(&with(r#""when":[]"#), "/when", r#"must be an object of "path": value, not an array"#);
    one(
        &with(r#""when":{"$.a":[1]}"#),
        "/when/$.a",
        "compares with a string, number, boolean or null only",
    );
    one(
        &with(r#""when":{"$.a[*]":1}"#),
        "/when/$.a[*]",
        "must select one place: names and indexes only",
    );
    one(
        &with(r#""when":{"a/b":1}"#),
        "/when/a~1b",
        "is not a JSONPath (RFC 9535): in column 1 it does not begin with $; write for example \
        \"$.a.b\"",
    );
    one(&with(r#""when":{"header:h":1}"#), "/when/header:h", "compare with a string");
    one(&with(r#""subject":"$..id""#), "/subject", "must select one place");
    one(&with(r#""subject":7"#), "/subject", "must be a string, not a number");
    one(
        &with(r#""subject_optional":true"#),
        "/subject_optional",
        r#"add a "subject", or remove it"#,
    );
    one(
        &with(r#""subject":"$.a","subject_optional":"yes""#),
        "/subject_optional",
        "must be true or false, not a string",
    );
    one(&with(r#""clear":"$.a""#), "/clear", "must be a list of paths, not a string");
    one(&with(r#""clear":["$.a",1]"#), "/clear/1", "must be a path, not a number");
    one(&with(r#""clear":["$.a["]"#), "/clear/0", "in column 5 it has no selector here");
    one(&with(r#""key":{}"#), "/key", r#"a record key takes "hash", "deterministic" or "none""#);
    one(&with(r#""key":{"protect":"hash","normalize":"exact"}"#), "/key", r#"add "root": 1"#);
    one(
        &with(r#""key":{"protect":"encrypt","root":1}"#),
        "/key/protect",
        r#"must be one of "hash", "deterministic", "none""#,
    );
    one(
        &with(r#""key":{"protect":"hash","root":1}"#),
        "/key",
        r#"has no normalize; add "normalize": "exact""#,
    );
    one(
        &with(r#""key":{"protect":"hash","root":0,"normalize":"exact"}"#),
        "/key/root",
        "must be a whole number from 1",
    );
    one(
        &with(r#""key":{"protect":"hash","root":1,"normalize":"exact","domain":"d"}"#),
        "/key/domain",
        "ask the operator to add it to [schemas] domains",
    );
    one(
        &with(r#""headers":[]"#),
        "/headers",
        r#"must be an object of "header name": rule, not an array"#,
    );
    one(
        &with(r#""headers":{"veilstream-schema":{}}"#),
        "/headers/veilstream-schema",
        "cannot be protected",
    );
    one(
        &with(r#""headers":{"h":{"protect":"mask"}}"#),
        "/headers/h/protect",
        r#"must be one of "encrypt", "hash", "drop""#,
    );
    one(
        &with(r#""headers":{"h":{"protect":"hash","normalize":"lower"}}"#),
        "/headers/h/normalize",
        "must be exact, text, email, phone-<region>",
    );
}

#[test]
fn one_field() {
    let field = |members: &str| document(&format!(r#""fields":[{{{members}}}]"#));
    let more = |members: &str| field(&format!(r#""id":"a","path":"$.a",{members}"#));
    let path = |path: &str| field(&format!(r#""id":"a","path":"{path}""#));
    one(&document(r#""fields":["$.a"]"#), "/fields/0", "must be an object, not a string");
    one(&field(r#""path":"$.a""#), "/fields/0", r#"has no id; add "id": "email""#);
    one(&field(r#""id":"a""#), "/fields/0", r#"has no path; add "path": "$.customer.email""#);
    one(&field(r#""id":"A","path":"$.a""#), "/fields/0/id", "must match [a-z]");
    one(
        &path("a.b"),
        "/fields/0/path",
        r#"in column 1 it does not begin with $; write for example "$.a.b""#,
    );
    one(
        &path(&format!("$.{}", "a".repeat(1100))),
        "/fields/0/path",
        "is longer than 1024 bytes; shorten it",
    );
    one(
        &path(&format!("${}", "['a','b','c']".repeat(6))),
        "/fields/0/path",
        "write several fields",
    );
    one(
        &path(&format!("$[?{}@.a", "match(".repeat(100))),
        "/fields/0/path",
        "has more than 10 brackets and parentheses inside one another",
    );
    assert_eq!(
        errors(&path(
            r"$.x[?@['((((((((((((\\'((('] == 1 && (@.k[?(@.a || (@.b && length(@.c) > 1))])].a"
        )),
        []
    );
    assert_eq!(
        errors(&path(&format!("${}", "['a'][0]".repeat(50)))),
        [],
        "one after another they are not nested"
    );
    one(&path("$[?in(@.a, @.b)]"), "/fields/0/path", "use length, count, value, match or search");
    one(
        &path("$[?search(@.a, '(a|b)*a(a|b){30}')]"),
        "/fields/0/path",
        "has a pattern that is too large; shorten it",
    );
    one(&path("$[?match(@.a, @.b)]"), "/fields/0/path", "write the pattern as a string");
    one(&more(r#""pathh":1"#), "/fields/0/pathh", "did you mean path?");
    one(
        &more(r#""protect":"encode""#),
        "/fields/0/protect",
        r#"must be one of "encrypt", "deterministic", "hash""#,
    );
    one(
        &more(r#""root":1"#),
        "/fields/0/root",
        "belongs to protect deterministic, not encrypt; remove it",
    );
    one(
        &more(r#""protect":"drop","with":"x""#),
        "/fields/0/with",
        "belongs to protect mask or redact, not drop",
    );
    one(&more(r#""bits":8"#), "/fields/0/bits", r#"belongs inside "index""#);
    one(
        &more(r#""protect":"deterministic""#),
        "/fields/0",
        r#"pin the version of their root: add "root": 1"#,
    );
    one(&more(r#""format":"vault""#), "/fields/0/format", "migrate postgres --from vault");
    one(&more(r#""pad":17"#), "/fields/0/pad", "must be 0 or a multiple of 16 up to 4096");
    one(&more(r#""pad":4112"#), "/fields/0/pad", "must be a whole number from 0 to 4096");
    one(&more(r#""type":"text""#), "/fields/0/type", r#"must be one of "string", "number""#);
    one(&more(r#""required":1"#), "/fields/0/required", "must be true or false, not a number");
    one(&more(r#""null":"drop""#), "/fields/0/null", r#"must be one of "keep", "encrypt""#);
    one(
        &more(r#""protect":"mask","null":"encrypt""#),
        "/fields/0/null",
        "needs protect encrypt or deterministic",
    );
    one(&more(r#""protect":"mask","with":"**""#), "/fields/0/with", "must be one character");
    one(
        &more(r#""protect":"mask","keep_last":-1"#),
        "/fields/0/keep_last",
        "must be a whole number from 0 to 1024",
    );
    one(&more(r#""protect":"generalize""#), "/fields/0", r#"has no to; add "to": "year""#);
    one(
        &more(r#""protect":"generalize","to":"bucket:1""#),
        "/fields/0/to",
        r#""bucket:<n>" with n of at least 2"#,
    );
    one(
        &more(r#""protect":"redact","with":[]"#),
        "/fields/0/with",
        "must be a string, number, boolean or null",
    );
    one(&more(r#""domain":"d""#), "/fields/0/domain", "d is not granted; ask the operator");
    one(
        &more(r#""bind":{}"#),
        "/fields/0/bind",
        r#"must be a list of { "name", "path" }, not an object"#,
    );
    one(&more(r#""bind":[{"name":"k"}]"#), "/fields/0/bind/0", r#"has no path; add "path""#);
    one(
        &more(r#""bind":[{"name":"k","path":"$..k"}]"#),
        "/fields/0/bind/0/path",
        "must select one place",
    );
    one(
        &more(r#""bind":[{"name":"k","path":"$.k"},{"name":"k","path":"$.l"}]"#),
        "/fields/0/bind/1/name",
        "each name once",
    );
    one(
        &more(r#""bind":[{"name":"k","path":"$.a"}]"#),
        "/fields/0/bind/0/path",
        "it must stay in clear",
    );
}

#[test]
fn what_readers_see() {
    let more =
        |members: &str| document(&format!(r#""fields":[{{"id":"a","path":"$.a",{members}}}]"#));
    let mask = |members: &str| more(&format!(r#""mask":{members}"#));
    one(&mask("4"), "/fields/0/mask", "must be an object, not a number");
    one(&mask("{}"), "/fields/0/mask", r#"keeps nothing; write { "keep_last": 4 }"#);
    one(
        &mask(r#"{"keep_last":0}"#),
        "/fields/0/mask/keep_last",
        "must be a whole number from 1 to 1024",
    );
    one(
        &mask(r#"{"keep_first":1025}"#),
        "/fields/0/mask/keep_first",
        "must be a whole number from 1 to 1024",
    );
    one(&mask(r#"{"keep_lats":4}"#), "/fields/0/mask/keep_lats", "did you mean keep_last?");
    one(
        &more(r#""type":"integer","mask":{"keep_last":4}"#),
        "/fields/0/mask",
        "is of strings, and the type is integer",
    );
    for kind in ["hash", "mask", "generalize", "redact", "drop"] {
        let faults =
            errors(&more(&format!(r#""protect":"{kind}","mask":{{"keep_last":4}}"#))).into_iter();
        let said = faults.filter(|f| f.pointer == "/fields/0/mask").map(|f| f.message);
        assert_eq!(
            said.collect::<Vec<_>>(),
            [format!("belongs to protect encrypt or deterministic, not {kind}; remove it")]
        );
    }
    one(&more(r#""tags":"a""#), "/fields/0/tags", "must be a list of up to 32 names, not a string");
    let long: Vec<String> = (0..33).map(|i| format!(r#""t{i}""#)).collect();
    one(&more(&format!(r#""tags":[{}]"#, long.join(","))), "/fields/0/tags", "not a longer one");
    one(&more(r#""tags":[{}]"#), "/fields/0/tags/0", "must be a name, not an object");
    one(&more(r#""tags":["a","B"]"#), "/fields/0/tags/1", "must match [a-z][a-z0-9_-]{0,63}");
    one(&more(r#""tags":["a","a"]"#), "/fields/0/tags/1", "stands twice; keep one");
    one(&more(r#""tag":["a"]"#), "/fields/0/tag", "did you mean tags?");
}

#[test]
fn indexes() {
    let more =
        |members: &str| document(&format!(r#""fields":[{{"id":"a","path":"$.a",{members}}}]"#));
    let index = |members: &str| more(&format!(r#""index":{{{members}}}"#));
    one(&more(r#""protect":"hash""#), "/fields/0", r#"add "index": { "normalize": "exact" }"#);
    one(
        &more(r#""protect":"drop","index":{"normalize":"exact"}"#),
        "/fields/0/index",
        r#"protect "hash" to keep only the index"#,
    );
    one(
        &more(r#""protect":"hash","index":{"normalize":"exact","into":"b"}"#),
        "/fields/0/index/into",
        "remove it",
    );
    one(&more(r#""index":true"#), "/fields/0/index", "must be an object, not a boolean");
    one(&index(""), "/fields/0/index", r#"has no normalize; add "normalize": "exact""#);
    one(
        &index(r#""normalize":"phone-xx""#),
        "/fields/0/index/normalize",
        "phone-<region> (phone-us)",
    );
    one(
        &index(r#""normalize":"exact","bits":7"#),
        "/fields/0/index/bits",
        "must be a whole number from 8 to 128",
    );
    one(
        &index(r#""normalize":"exact","bits":65"#),
        "/fields/0/index/bits",
        "must be 8 to 64 (bucketed) or 128 (unique)",
    );
    one(
        &index(r#""normalize":"exact","into":"""#),
        "/fields/0/index/into",
        "must be a member name without quotes",
    );
    one(
        &index(r#""normalize":"exact","domain":"d""#),
        "/fields/0/index/domain",
        "ask the operator",
    );
    one(
        &index(r#""normalize":"exact","of":["$.a"]"#),
        "/fields/0/index/of",
        "must be a list of 2 to 16 paths",
    );
    one(
        &index(r#""normalize":"exact","of":["$.a","$.*"]"#),
        "/fields/0/index/of/1",
        "must select one place",
    );
    one(
        &index(r#""normalize":"exact","of":["$.a",1]"#),
        "/fields/0/index/of/1",
        "must be a path, not a number",
    );
    let nameless =
        document(r#""fields":[{"id":"a","path":"$[*][*]","index":{"normalize":"exact"}}]"#);
    one(
        &nameless,
        "/fields/0/index",
        "the path must end in a name, or in elements of a named array",
    );
}

#[test]
fn between_fields() {
    let two =
        |a: &str, b: &str| document(&format!(r#""fields":[{{"id":"a",{a}}},{{"id":"b",{b}}}]"#));
    one(
        &document(r#""fields":[{"id":"a","path":"$.a"},{"id":"a","path":"$.b"}]"#),
        "/fields/1/id",
        "stands twice; ids are unique",
    );
    one(
        &two(r#""path":"$.a""#, r#""path":"$.x[?@.k == $.a].y""#),
        "/fields/1/path",
        "filter on members that stay in clear",
    );
    one(
        &two(r#""path":"$.x[*].k""#, r#""path":"$.x[?@.k == 'a'].y""#),
        "/fields/1/path",
        "a member field a protects; filter on members that stay in clear",
    );
    one(
        &two(r#""path":"$.x[*].k","protect":"drop""#, r#""path":"$.x[?@.k].y""#),
        "/fields/1/path",
        "a member field a protects",
    );
    one(
        &two(r#""path":"$.x[*].k""#, r#""path":"$.x[?@.k.l].y""#),
        "/fields/1/path",
        "a member field a protects",
    );
    one(
        &document(r#""fields":[{"id":"a","path":"$.x[?@.k == 'a'].k"}]"#),
        "/fields/0/path",
        "by what the path itself protects",
    );
    one(
        &document(r#""fields":[{"id":"a","path":"$..x[?match(@.k, 'a') && @.b]"}]"#),
        "/fields/0/path",
        "by what the path itself protects",
    );
    one(
        &document(r#""when":{"$.a.b":1},"fields":[{"id":"a","path":"$.a"}]"#),
        "/when/$.a.b",
        "it must stay in clear",
    );
    one(
        &document(r#""subject":"$.a","fields":[{"id":"a","path":"$..a"}]"#),
        "/subject",
        "it must stay in clear",
    );
    // What compiles with a warning.
    let warnings = |text: &str| {
        compile(text.as_bytes(), &Grants::default())
            .unwrap()
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        warnings(&two(r#""path":"$.a""#, r#""path":"$.a""#)),
        ["/fields/1/path: selects what field a selects; the first declared wins"]
    );
    let covered = warnings(&two(r#""path":"$.a""#, r#""path":"$.a.b""#));
    assert_eq!(
        covered,
        ["/fields/1/path: may select inside what field a protects; the outer one covers it"]
    );
}

/// What a filter reads must be left for reveal to read again.
#[test]
fn filters_may_not_read_what_is_dropped() {
    let quoted = |text: &str| serde_json::to_string(text).unwrap();
    let with = |undeclared: &str, path: &str, clear: &str| {
        document(&format!(
            r#""undeclared":"{undeclared}","when":{{"$.type":"t"}},"clear":[{clear}],"fields":[{{"id":"a","path":{}}}]"#,
            quoted(path)
        ))
    };
    let drops = |path: &str, clear: &str| with("drop", path, clear);
    for (path, remedy) in [
        ("$.x[?@.k == 1].a", "add \"$.x[*].k\" to \"clear\""),
        ("$.x[?@.k].a", "add \"$.x[*].k\" to \"clear\""),
        ("$.x[?!@['a b'][0]].a", "add \"$.x[*]['a b'][0]\" to \"clear\""),
        (r"$.x[?@['\u0001\'é'] == 1].a", r#"add "$.x[*]['\u0001\'é']" to "clear""#),
        ("$.x[?count(@.k[1:]) == 1].a", "add \"$.x[*].k[1:]\" to \"clear\""),
        ("$.x[?$.y..k].a", "add \"$.y..k\" to \"clear\""),
        ("$.x[?$.k == 1].a", "add \"$.k\" to \"clear\""),
        ("$.x[?length(@.k) == 1].a", "add \"$.x[*].k\" to \"clear\""),
        (
            "$.x[?@.kkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkkk \
            == 1].a",
            "add its path to \"clear\"",
        ),
    ] {
        one(&drops(path, ""), "/fields/0/path", remedy);
        for kept in ["pass", "reject"] {
            assert_eq!(errors(&with(kept, path, "")), [], "{path}");
        }
        // The remedy is one, and what lies above serves as well.
        let named = remedy.split('"').nth(1).filter(|named| named.starts_with('$'));
        for clear in named.into_iter().chain(["$..*", "$['x','k','y']"]) {
            assert_eq!(errors(&drops(path, &quoted(clear))), [], "{path}, {clear}");
        }
    }
    // Named by a "when", a field or part by part; not named by what selects less.
    assert_eq!(errors(&drops("$.x[?$.type == 't'].a", "")), []);
    assert_eq!(errors(&drops("$.x[?@.k && @.l].a", r#""$.x[*]['k','l']""#)), []);
    for less in ["$.x[0].k", "$.x[*].k.j", "$.x[?@.j].k", "$.x[*]['l','j']", "$.y", "$.*.*.k.j"] {
        one(&drops("$.x[?@.k].a", &format!("\"{less}\"")), "/fields/0/path", "may remove");
    }
    one(&drops("$.x[?$.y..k].a", r#""$.y.k""#), "/fields/0/path", "may remove");
    assert_eq!(errors(&drops("$.x[?$.y..k].a", r#""$.y.*""#)), []);
    // A filter in "clear" itself is not judged again.
    assert_eq!(errors(&drops("$.a", r#""$.x[?@.k == 1].y""#)), []);
}

/// The ways two paths with many `..` can meet are more than can be tried.
#[test]
fn paths_of_many_descents_are_judged_at_once() {
    let (deep, plain) = ("..*".repeat(300), ".a".repeat(500));
    let read = "..k".repeat(300);
    let fields =
        format!(r#"{{"id":"a","path":"${deep}.b"}},{{"id":"b","path":"$..x[?@{read}].c"}}"#);
    let faults = errors(&document(&format!(
        r#""when":{{"${plain}":1}},"undeclared":"drop","fields":[{fields}]"#
    )));
    assert!(faults.iter().any(|f| f.message.contains("may remove")), "{}", faults.len());
}

#[test]
fn between_documents() {
    let compiled =
        |text: &str| Arc::new(compile(text.as_bytes(), &Grants::local()).unwrap().schema);
    let faults = |documents: &[&str]| -> Vec<String> {
        match SchemaSet::new(documents.iter().map(|d| compiled(d)).collect()) {
            Ok(_) => Vec::new(),
            Err(faults) => faults.iter().map(ToString::to_string).collect(),
        }
    };
    let one = |name: &str, from: &str, to: &str, rest: &str| {
        format!(
            r#"{{"veilstream":1,"name":"{name}","topics":{{"from":"{from}","to":"{to}"}},{rest}"fields":[]}}"#
        )
    };
    let (a, b) =
        (one("a", "x", "y", r#""when":{"$.t":1},"#), one("b", "x", "y", r#""when":{"$.t":2},"#));
    assert_eq!(faults(&[&a, &b]), [""; 0]);
    assert_eq!(faults(&[&a, &a]), ["a: two documents have this name; names are unique"]);
    assert_eq!(
        faults(&[&a, &one("b", "x", "y", "")]),
        ["b: shares its raw topic with a; both need a \"when\" that tells them apart"]
    );
    assert_eq!(
        faults(&[&a, &one("b", "x", "z", r#""when":{"$.t":2},"#)]),
        ["b: sends its raw topic elsewhere than a; schemas that share a raw topic share the \
            sanitized one"]
    );
    assert_eq!(
        faults(&[&a, &one("b", "y", "z", "")]),
        ["a: writes to the raw topic of b; a sanitized topic is nobody's raw topic"]
    );
}

#[test]
fn all_at_once() {
    let faults = errors(
        r#"{"veilstream":3,"name":"Bad Name","version":-1,"topics":{"from":"a","to":"a"},"when":{"$.x[*]":1},"subject":"$..s","undeclared":"x",
        "fields":[{"id":"UP","path":"a"},{"path":"$.b","protect":"mask","pad":3},{"id":"c","path":"$.c","index":{"bits":7}}],
        "key":{"protect":"drop"},"headers":{"h":{"protect":"none"}},"clear":[0],"extra":1}"#,
    );
    let mut pointers: Vec<&str> = faults.iter().map(|f| f.pointer.as_str()).collect();
    pointers.sort_unstable();
    let wanted = [
        "/clear/0",
        "/extra",
        "/fields/0/id",
        "/fields/0/path",
        "/fields/1",
        "/fields/1/pad",
        "/fields/1/pad",
        "/fields/2/index",
        "/headers/h/protect",
        "/key/protect",
        "/name",
        "/subject",
        "/topics/to",
        "/undeclared",
        "/veilstream",
        "/version",
        "/when/$.x[*]",
    ];
    assert_eq!(pointers, wanted, "{faults:#?}");
}
