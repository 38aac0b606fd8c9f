//! Selection is what jsonpath-rust selects: every path over every document, as a set.
//!
//! The oracle runs on `serde_json::Value`; a selected node is compared as its JSON pointer.
//! Documents have no duplicate names (those reject) and no `$serde_json::private` members (those
//! are why the engine does not select on `Value`).
#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use proptest::prelude::*;
use serde_json::Value;
use veilstream_engine::scan::{NO_PARENT, Tape, unescape};
use veilstream_engine::select::{Program, Selection, parse};

const PATHS: &[&str] = &[
    "$",
    "$.a",
    "$['a']",
    "$[\"a\"]",
    "$.a.b",
    "$.a.b.c",
    "$.a.a.a",
    "$.é",
    "$['']",
    "$[' ']",
    "$['a.b']",
    "$['a/b~c']",
    "$['\\u0061']",
    "$['\\n']",
    "$['\\'']",
    "$['\"']",
    "$['😀']",
    "$['\\uD83D\\uDE00']",
    "$.*",
    "$[*]",
    "$.*.*",
    "$.a.*",
    "$.*.a",
    "$.a[*].b",
    "$.a[*][*]",
    "$..*",
    "$..a",
    "$..b",
    "$..['a','b']",
    "$..a..a",
    "$..a.b",
    "$..a.*",
    "$..*..a",
    "$..[*].a",
    "$.a..b",
    "$.a..*",
    "$.a..b..c",
    "$..a..b..c",
    "$..[0]",
    "$..[-1]",
    "$..[1:]",
    "$..a[0]",
    "$..[0][0]",
    "$..[0]..[0]",
    "$[0]",
    "$[1]",
    "$[-1]",
    "$[-2]",
    "$[99]",
    "$[-99]",
    "$.a[0]",
    "$.a[-1]",
    "$.a[0].b",
    "$.a[0][0]",
    "$.a[-1][-1]",
    "$[0,1]",
    "$[0,0]",
    "$[0,-1]",
    "$[1,0,2]",
    "$['a','b']",
    "$['b','a','a']",
    "$['a',0]",
    "$['a','b']['a','b']",
    "$['a','b'].c",
    "$[*,0]",
    "$['a',*]",
    "$[:]",
    "$[::]",
    "$[1:]",
    "$[:1]",
    "$[:2]",
    "$[1:2]",
    "$[0:3:2]",
    "$[::2]",
    "$[1::2]",
    "$[::3]",
    "$[::-1]",
    "$[::-2]",
    "$[2:0:-1]",
    "$[-1:]",
    "$[-2:]",
    "$[:-1]",
    "$[-3:-1]",
    "$[-1:-3:-1]",
    "$[5:1]",
    "$[0:0]",
    "$[::0]",
    "$[-99:99]",
    "$[99:]",
    "$[99:-99:-1]",
    "$.a[1:]",
    "$.a[::-1].b",
    "$.a[0:2,1:3]",
    "$.a[0:1,'b',*]",
    "$[?@.a]",
    "$[?@.b]",
    "$[?!@.a]",
    "$[?@.a == 1]",
    "$[?@.a == 'x']",
    "$[?@.a != 1]",
    "$[?@.a > 0]",
    "$[?@.a <= 1.0]",
    "$[?@.a == null]",
    "$[?@.a == true]",
    "$[?@ == 1]",
    "$[?@ == 'x']",
    "$[?@ > 1 && @ < 3]",
    "$[?@.a || @.b]",
    "$[?@.a && !(@.b == 2)]",
    "$.a[?@.b]",
    "$.a[?@.b == @.c]",
    "$.a[?@.b == $.b]",
    "$..[?@.a]",
    "$..[?@.a].b",
    "$.a[?length(@.b) == 1]",
    "$[?count(@.*) > 1]",
    "$[?match(@.a, 'x.*')]",
    "$.a[?@.b[?@.c]]",
];

const DOCUMENTS: &[&str] = &[
    "null",
    "true",
    "1",
    "-0.5e3",
    "\"x\"",
    "\"\"",
    "{}",
    "[]",
    "[[]]",
    "[{}]",
    "{\"a\":{}}",
    "{\"a\":[]}",
    "{\"a\":1}",
    "{\"a\":null}",
    "{\"a\":\"x\"}",
    "{\"a\":true,\"b\":false}",
    "{\"b\":2,\"a\":1}",
    " { \"a\" : { \"b\" : { \"c\" : 1 } } } ",
    "{\"a\":{\"a\":{\"a\":1}}}",
    "{\"a\":{\"a\":{\"b\":{\"a\":{\"b\":{\"c\":1}}}}}}",
    "{\"\":1,\" \":2,\"a.b\":3,\"a/b~c\":4}",
    "{\"\\u0061\":1}",
    "{\"\\u0061\":{\"\\u0062\":{\"\\u0063\":1}}}",
    "{\"\\n\":1,\"'\":2,\"\\\"\":3}",
    "{\"😀\":1,\"é\":2}",
    "{\"\\uD83D\\uDE00\":1,\"\\u00e9\":2}",
    "[0]",
    "[0,1]",
    "[0,1,2]",
    "[0,1,2,3,4,5,6,7,8,9]",
    "[1,\"x\",null,true,1.0,[1],{\"a\":1}]",
    "[[0,1],[2,3],[4,5]]",
    "[[[0]],[[1,2]],[]]",
    "{\"a\":[0,1,2,3]}",
    "{\"a\":[[0],[1,2],[3,4,5]]}",
    "{\"a\":[{\"b\":1},{\"b\":2},{\"c\":3}]}",
    "{\"a\":[{\"b\":1,\"c\":1},{\"b\":2,\"c\":1},{\"b\":1}],\"b\":1}",
    "{\"a\":[{\"b\":{\"c\":1}},{\"b\":[{\"c\":2}]},{\"b\":[]}]}",
    "{\"a\":[{\"b\":\"x\"},{\"b\":\"xy\"},{\"b\":[1]},{\"b\":{\"k\":0}}]}",
    "{\"a\":{\"b\":[{\"c\":1},{\"c\":2}]},\"b\":{\"c\":3}}",
    "{\"a\":{\"b\":1,\"c\":2},\"b\":{\"a\":3,\"b\":4,\"c\":5}}",
    "{\"x\":{\"a\":1,\"b\":2},\"y\":{\"a\":2},\"z\":{\"b\":1}}",
    "[{\"a\":1},{\"a\":\"x\"},{\"a\":null},{\"a\":true},{\"b\":1},{}]",
    "[{\"a\":1,\"b\":2},{\"a\":1,\"b\":3},{\"a\":0}]",
    "[{\"a\":\"x\"},{\"a\":\"xyz\"},{\"a\":\"yx\"},{\"a\":[]}]",
    "[{\"a\":1.0},{\"a\":1},{\"a\":10e-1},{\"a\":2}]",
    "[{\"a\":{\"b\":1}},{\"a\":[1]},{\"a\":[[1]]}]",
    "{\"a\":[1,[2,[3,[4]]]]}",
    "[1,[2,[3,[4,[5]]]]]",
    "{\"a\":1,\"b\":[{\"a\":2,\"b\":[{\"a\":3,\"b\":[]}]}]}",
    "{\"b\":{\"b\":{\"b\":{\"a\":{\"b\":1}}}}}",
    "[{\"a\":{\"a\":[{\"a\":1}]}},[{\"a\":[{\"b\":{\"a\":1}}]}]]",
    "{\"a\":{\"b\":{\"a\":{\"b\":{\"c\":{\"b\":{\"c\":1}}}}}}}",
    "{\"a\":\"x\\u0000y\",\"b\":\"\\\\\"}",
    "{\"aa\":1,\"A\":2,\"ab\":{\"a\":1}}",
    "{\"a\":9007199254740993,\"b\":9007199254740992}",
    "[9007199254740993,18446744073709551615,-9223372036854775808,0.1,1e3]",
    "{\"a\":[1,2,3],\"b\":[4,5,6],\"c\":{\"a\":[7]}}",
    "{\"a\":{\"0\":1,\"1\":2},\"0\":3}",
    "{\"length\":1,\"a\":{\"length\":2}}",
    "[[{\"a\":[{\"b\":1}]}],{\"a\":[{\"b\":2},{\"b\":3}]}]",
    "{\"a\":[true,false,null],\"b\":[[],{},\"\"]}",
    "{\"a\":{\"b\":null},\"b\":null}",
    "{\"a\":[{\"a\":[{\"a\":[{\"a\":[]}]}]}]}",
];

/// What the engine selects, as JSON pointers.
fn ours(path: &str, doc: &str) -> BTreeSet<String> {
    let program = Program::new(&[parse(path).unwrap()]);
    let (mut tape, mut selection) = (Tape::default(), Selection::default());
    tape.scan(doc.as_bytes()).unwrap();
    program.select(doc.as_bytes(), &tape, &mut selection).unwrap();
    let pointers: Vec<String> =
        selection.hits.iter().map(|h| pointer(&tape, doc, h.node)).collect();
    let set: BTreeSet<String> = pointers.iter().cloned().collect();
    assert_eq!(set.len(), pointers.len(), "{path} selects a node twice in {doc}");
    assert!(selection.hits.is_sorted(), "{path} is out of document order in {doc}");
    set
}

fn pointer(tape: &Tape, doc: &str, index: u32) -> String {
    let node = &tape.nodes()[index as usize];
    if node.parent == NO_PARENT {
        return String::new();
    }
    let step = if node.is_member() {
        let mut name = Vec::new();
        assert!(unescape(&doc.as_bytes()[node.name()], &mut name));
        String::from_utf8(name).unwrap().replace('~', "~0").replace('/', "~1")
    } else {
        tape.children(node.parent).position(|c| c == index).unwrap().to_string()
    };
    format!("{}/{step}", pointer(tape, doc, node.parent))
}

/// What jsonpath-rust selects. Nodes are known by their address, because its path strings do not
/// escape names.
fn theirs(path: &str, value: &Value) -> BTreeSet<String> {
    let mut places = std::collections::HashMap::new();
    note(value, String::new(), &mut places);
    let found = js_path_process(&parse_json_path(path).unwrap(), value).unwrap();
    found.into_iter().map(|f| places[&std::ptr::from_ref(f.val())].clone()).collect()
}

fn note(value: &Value, at: String, places: &mut std::collections::HashMap<*const Value, String>) {
    match value {
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, v)| note(v, format!("{at}/{i}"), places))
        }
        Value::Object(map) => map.iter().for_each(|(k, v)| {
            note(v, format!("{at}/{}", k.replace('~', "~0").replace('/', "~1")), places)
        }),
        _ => {}
    }
    places.insert(value, at);
}

#[test]
fn every_path_selects_in_every_document_what_jsonpath_rust_selects() {
    let mut selected = 0;
    for doc in DOCUMENTS {
        let value: Value = serde_json::from_str(doc).unwrap();
        for path in PATHS {
            let (ours, theirs) = (ours(path, doc), theirs(path, &value));
            assert_eq!(ours, theirs, "{path} in {doc}");
            selected += theirs.len();
        }
    }
    // The matrix is worth something only while much of it selects.
    assert!(selected > 3_500, "{selected}");
}

#[test]
fn all_paths_as_one_program_select_what_each_selects_alone() {
    let queries: Vec<_> = PATHS.iter().map(|p| parse(p).unwrap()).collect();
    let program = Program::new(&queries);
    let (mut tape, mut selection) = (Tape::default(), Selection::default());
    for doc in DOCUMENTS {
        tape.scan(doc.as_bytes()).unwrap();
        program.select(doc.as_bytes(), &tape, &mut selection).unwrap();
        for (id, path) in PATHS.iter().enumerate() {
            let together: BTreeSet<String> = selection
                .hits
                .iter()
                .filter(|h| usize::from(h.path) == id)
                .map(|h| pointer(&tape, doc, h.node))
                .collect();
            assert_eq!(together, ours(path, doc), "{path} in {doc}");
        }
    }
}

/// Documents over few names, so that paths meet them.
fn document() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2_i64..4).prop_map(Value::from),
        prop_oneof![Just(0.5), Just(1.0), Just(-1e3)].prop_map(Value::from),
        "[xy]{0,2}".prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(name(), inner, 0..5)
                .prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![4 => "[abc]", 1 => Just("é".to_owned()), 1 => "[ab]\"", 1 => Just(String::new())]
}

fn path() -> impl Strategy<Value = String> {
    let index = -3_i64..4;
    let bound = prop::option::of(-4_i64..5);
    let text = |b: Option<i64>| b.map(|n| n.to_string()).unwrap_or_default();
    let step = prop::option::of(prop_oneof![Just(-2_i64), Just(-1), Just(1), Just(2), Just(0)]);
    let compared = prop_oneof![
        Just("@.a"),
        Just("@.b"),
        Just("@"),
        Just("$.a"),
        Just("1"),
        Just("'x'"),
        Just("null"),
        Just("true"),
        Just("0.5"),
        Just("@[0]")
    ];
    let operator =
        prop_oneof![Just("=="), Just("!="), Just("<"), Just(">="), Just(">"), Just("<=")];
    let filter = prop_oneof![
        (compared.clone(), operator, compared).prop_map(|(a, o, b)| format!("?{a} {o} {b}")),
        prop_oneof![
            Just("?@.a"),
            Just("?!@.b"),
            Just("?@.*"),
            Just("?@..a"),
            Just("?@.a && @.b"),
            Just("?count(@.*) == 2"),
            Just("?length(@.a) > 0")
        ]
        .prop_map(str::to_owned),
    ];
    let selector = prop_oneof![
        4 => name().prop_map(|n| format!("'{n}'")),
        2 => Just("*".to_owned()),
        2 => index.prop_map(|i| i.to_string()),
        2 => (bound.clone(), bound, step).prop_map(move |(a, b, c)| format!("{}:{}:{}", text(a), text(b), text(c))),
        1 => filter,
    ];
    let segment =
        (any::<bool>(), prop::collection::vec(selector, 1..4)).prop_map(|(deep, selectors)| {
            format!("{}[{}]", if deep { ".." } else { "" }, selectors.join(","))
        });
    prop::collection::vec(segment, 0..4).prop_map(|s| format!("${}", s.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_paths_select_what_jsonpath_rust_selects(path in path(), doc in document()) {
        let text = serde_json::to_string(&doc).unwrap();
        prop_assert_eq!(ours(&path, &text), theirs(&path, &doc), "{} in {}", path, text);
    }
}

/// Documents as text, so that names can stand twice.
fn document_with_duplicates() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![Just("1".to_owned()), Just("\"x\"".to_owned())];
    let name = prop_oneof![3 => Just("a"), 3 => Just("b"), 1 => Just("\\u0061"), 1 => Just("\\u0062"), 1 => Just("c"), 1 => Just("\\ud800"), 1 => Just("\\uD800")];
    leaf.prop_recursive(4, 30, 5, move |inner| {
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(|v| format!("[{}]", v.join(","))),
            3 => prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|m| format!("{{{}}}", m.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect::<Vec<_>>().join(","))),
        ]
    })
}

/// Whether a name on the way from the root to a node stands twice, the plain way.
fn twice_above(tape: &Tape, doc: &str, node: u32) -> bool {
    let name = |n: u32| {
        let written = &doc[tape.nodes()[n as usize].name()];
        let mut text = Vec::new();
        if unescape(written.as_bytes(), &mut text) {
            text
        } else {
            written.to_ascii_lowercase().into_bytes()
        }
    };
    let mut at = node;
    loop {
        let here = &tape.nodes()[at as usize];
        if here.parent == NO_PARENT {
            return false;
        }
        if here.is_member()
            && tape.children(here.parent).filter(|sibling| name(*sibling) == name(at)).count() > 1
        {
            return true;
        }
        at = here.parent;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn names_twice_on_the_way_are_noticed_and_no_others(paths in prop::collection::vec(path(), 1..4), doc in document_with_duplicates()) {
        let queries: Vec<_> = paths.iter().map(|p| parse(p).unwrap()).collect();
        let (mut tape, mut selection) = (Tape::default(), Selection::default());
        tape.scan(doc.as_bytes()).unwrap();
        let result = Program::new(&queries).select(doc.as_bytes(), &tape, &mut selection);
        let expected = selection.hits.iter().any(|h| twice_above(&tape, &doc, h.node));
        // What filters read must not stand twice either; tests/filters.rs says what that is.
        let filters = paths.iter().any(|path| path.contains('?'));
        prop_assert!(result.is_err() == expected || (result.is_err() && filters), "{:?} in {}", paths, doc);
    }
}
