//! The scanner accepts what RFC 8259 says and serde_json, its second opinion, differs only where
//! the design says so.

use serde_json::{Map, Value};
use veilstream_engine::RejectCode;
use veilstream_engine::scan::{Kind, MAX_DEPTH, NO_PARENT, Tape, is_json_text, unescape};

/// Input: one JSON text, perhaps. Whether it is one.
pub fn scanner(data: &[u8]) -> bool {
    let mut tape = Tape::default();
    let ours = tape.scan(data);
    let theirs = serde_json::from_slice::<Value>(data);
    let whole = ours.is_ok() && tape.nodes()[0].span() == (0..data.len());
    assert_eq!(is_json_text(data), whole, "the short way of is_json_text");
    match (ours, theirs) {
        (Ok(()), Ok(value)) => {
            check_table(&tape, data);
            // The later of two equal names counts, for serde_json.
            assert_eq!(rebuilt(&tape, data, 0), value);
        }
        (Ok(()), Err(e)) => {
            check_table(&tape, data);
            let known = tape.any_lone_surrogate(data)
                || has_huge_number(&tape, data)
                || depth(&tape) >= MAX_DEPTH;
            assert!(known, "serde_json refuses it: {e}");
        }
        (Err(e), Ok(_)) => panic!("serde_json takes it: {e:?}"),
        (Err(e), Err(_)) => {
            assert!(tape.nodes().is_empty());
            assert!(e.offset <= data.len());
            assert_eq!(
                e.code == RejectCode::InvalidUtf8,
                std::str::from_utf8(data).is_err(),
                "{e:?}"
            );
        }
    }
    !tape.nodes().is_empty()
}

/// Every span, parent, count and end is as the bytes are.
fn check_table(tape: &Tape, doc: &[u8]) {
    let nodes = tape.nodes();
    for (i, node) in nodes.iter().enumerate() {
        assert!(node.start < node.end && node.end as usize <= doc.len());
        assert!(node.next as usize > i && node.next as usize <= nodes.len());
        let text = &doc[node.span()];
        let first = match node.kind {
            Kind::Object => b"{".as_slice(),
            Kind::Array => b"[",
            Kind::String => b"\"",
            Kind::Number => b"-0123456789",
            Kind::Bool => b"tf",
            Kind::Null => b"n",
        };
        assert!(first.contains(&text[0]), "{node:?}");
        assert_eq!(tape.children(i as u32).count(), node.count as usize);
        assert!(tape.children(i as u32).all(|child| nodes[child as usize].parent == i as u32));
        assert_eq!(node.parent == NO_PARENT, i == 0);
        let member = node.parent != NO_PARENT && nodes[node.parent as usize].kind == Kind::Object;
        assert_eq!(node.is_member(), member);
        if member {
            assert_eq!(
                (doc[node.name_start as usize - 1], doc[node.name_end as usize]),
                (b'"', b'"')
            );
            assert_eq!(node.name_escaped, doc[node.name()].contains(&b'\\'));
        }
        if node.kind == Kind::String {
            assert_eq!(node.escaped, doc[node.inner()].contains(&b'\\'));
        }
    }
}

fn rebuilt(tape: &Tape, doc: &[u8], index: u32) -> Value {
    let node = &tape.nodes()[index as usize];
    let text = |span: std::ops::Range<usize>| {
        let mut out = Vec::new();
        assert!(unescape(&doc[span], &mut out), "serde_json knows no lone surrogate");
        String::from_utf8(out).unwrap()
    };
    match node.kind {
        Kind::Object => {
            let members = tape
                .children(index)
                .map(|c| (text(tape.nodes()[c as usize].name()), rebuilt(tape, doc, c)));
            // Not `collect`: the order of insertion decides.
            let mut map = Map::new();
            members.for_each(|(name, value)| drop(map.insert(name, value)));
            Value::Object(map)
        }
        Kind::Array => tape.children(index).map(|c| rebuilt(tape, doc, c)).collect(),
        Kind::String => Value::String(text(node.inner())),
        Kind::Number => serde_json::from_slice(&doc[node.span()]).unwrap(),
        Kind::Bool => Value::Bool(doc[node.span()] == *b"true"),
        Kind::Null => Value::Null,
    }
}

fn has_huge_number(tape: &Tape, doc: &[u8]) -> bool {
    let numbers = tape.nodes().iter().filter(|n| n.kind == Kind::Number);
    numbers
        .map(|n| std::str::from_utf8(&doc[n.span()]).unwrap())
        .any(|n| n.parse::<f64>().unwrap().is_infinite())
}

/// Containers open at once.
fn depth(tape: &Tape) -> usize {
    let mut depths = Vec::new();
    for node in tape.nodes() {
        let outside = if node.parent == NO_PARENT { 0 } else { depths[node.parent as usize] };
        depths.push(outside + usize::from(node.is_container()));
    }
    depths.into_iter().max().unwrap_or(0)
}
