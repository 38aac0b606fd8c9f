//! The automaton selects what jsonpath-rust selects, and notices names that stand twice on the way.

use std::collections::BTreeSet;

use jsonpath_rust::parser::parse_json_path;
use veilstream_engine::scan::{NO_PARENT, Tape, unescape};
use veilstream_engine::select::{Program, Query, Selection, parse};

use super::{first_line, oracle};

/// Other paths of the same program, which must not get in the way.
const BESIDE: [&str; 5] = ["$..a", "$.*", "$.a.b", "$[?@.b]", "$['a','b'][0]"];
/// `..` after `..` after `..` is slow in jsonpath-rust and says nothing new.
const MAX_DESCENTS: usize = 3;

/// Input: a path, a line feed, a document. How many nodes were selected.
pub fn selection(data: &[u8]) -> usize {
    let Some((path, doc)) = first_line(data) else { return 0 };
    let Ok(query) = parse(path) else { return 0 };
    assert!(parse_json_path(path).is_ok());
    let mut tape = Tape::default();
    if path.matches("..").count() > MAX_DESCENTS || tape.scan(doc).is_err() {
        return 0;
    }
    let beside = BESIDE.map(|path| parse(path).unwrap());
    let all: Vec<Query> = std::iter::once(query).chain(beside).collect();
    let (mut alone, mut together) = (Selection::default(), Selection::default());
    let refused = Program::new(&all[..1]).select(doc, &tape, &mut alone).is_err();
    assert!(alone.hits.is_sorted() && alone.hits.windows(2).all(|pair| pair[0] != pair[1]));
    let twice = alone.hits.iter().any(|hit| twice_above(&tape, doc, hit.node));
    // Neither may a name that a filter reads.
    assert!(refused == twice || (refused && path.contains('?')), "a name that stands twice");
    let refused = Program::new(&all).select(doc, &tape, &mut together).is_err();
    let twice = together.hits.iter().any(|hit| twice_above(&tape, doc, hit.node));
    assert!(refused || !twice, "a name that stands twice, with other paths");
    assert!(
        together.hits.iter().filter(|hit| hit.path == 0).eq(&alone.hits),
        "other paths change what is selected"
    );

    let Some(value) = oracle::value(doc) else { return 0 };
    let ours: BTreeSet<String> =
        alone.hits.iter().map(|hit| pointer(&tape, doc, hit.node)).collect();
    let places = oracle::pointers(&value);
    let theirs: BTreeSet<String> =
        oracle::selected(path, &value).into_iter().map(|node| places[&node].clone()).collect();
    assert_eq!(ours, theirs);
    ours.len()
}

fn pointer(tape: &Tape, doc: &[u8], index: u32) -> String {
    let node = &tape.nodes()[index as usize];
    if node.parent == NO_PARENT {
        return String::new();
    }
    let above = pointer(tape, doc, node.parent);
    if !node.is_member() {
        return format!("{above}/{}", tape.children(node.parent).position(|c| c == index).unwrap());
    }
    let mut name = Vec::new();
    assert!(unescape(&doc[node.name()], &mut name));
    oracle::step(&above, std::str::from_utf8(&name).unwrap())
}

/// Whether a name on the way from the root to a node stands twice, the plain way.
fn twice_above(tape: &Tape, doc: &[u8], node: u32) -> bool {
    let mut at = node;
    loop {
        let here = &tape.nodes()[at as usize];
        if here.parent == NO_PARENT {
            return false;
        }
        if here.is_member()
            && tape
                .children(here.parent)
                .filter(|sibling| units(tape, doc, *sibling) == units(tape, doc, at))
                .count()
                > 1
        {
            return true;
        }
        at = here.parent;
    }
}

/// A member's name as UTF-16, in which a lone surrogate is a unit like any other.
fn units(tape: &Tape, doc: &[u8], member: u32) -> Vec<u16> {
    let mut rest = std::str::from_utf8(&doc[tape.nodes()[member as usize].name()]).unwrap();
    let mut out = Vec::new();
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '\\' {
            out.extend_from_slice(c.encode_utf16(&mut [0; 2]));
            continue;
        }
        let (escape, after) = rest.split_at(1);
        rest = after;
        out.push(match escape {
            "b" => 8,
            "f" => 12,
            "n" => 10,
            "r" => 13,
            "t" => 9,
            "u" => {
                let (hex, after) = rest.split_at(4);
                rest = after;
                u16::from_str_radix(hex, 16).unwrap()
            }
            other => u16::from(other.as_bytes()[0]),
        });
    }
    out
}
