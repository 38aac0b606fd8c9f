use super::*;

fn scan(doc: &str) -> Result<Vec<(Kind, String)>, ScanError> {
    let mut tape = Tape::default();
    tape.scan(doc.as_bytes())?;
    Ok(tape.nodes().iter().map(|n| (n.kind, doc[n.span()].to_owned())).collect())
}

#[test]
fn nodes_stand_in_document_order_with_their_spans() {
    let nodes = scan(r#" {"a" : [1, {"b":"x\"y"}], "c":-0.5e+3} "#).unwrap();
    let texts: Vec<&str> = nodes.iter().map(|n| n.1.as_str()).collect();
    assert_eq!(
        texts,
        [
            r#"{"a" : [1, {"b":"x\"y"}], "c":-0.5e+3}"#,
            r#"[1, {"b":"x\"y"}]"#,
            "1",
            r#"{"b":"x\"y"}"#,
            r#""x\"y""#,
            "-0.5e+3"
        ]
    );
}

#[test]
fn children_skip_subtrees() {
    let doc = br#"{"a":[1,[2,3]],"b":{},"c":4}"#;
    let mut tape = Tape::default();
    tape.scan(doc).unwrap();
    let names: Vec<_> = tape.children(0).map(|c| &doc[tape.nodes()[c as usize].name()]).collect();
    assert_eq!(names, [b"a", b"b", b"c"]);
    assert_eq!(tape.nodes()[0].count, 3);
    assert_eq!(tape.children(2).count(), 0, "a scalar has no children");
}

#[test]
fn refuses_what_is_not_json_and_says_where() {
    for (doc, offset) in [
        ("", 0),
        ("{", 1),
        ("[1,]", 3),
        ("{\"a\"}", 4),
        ("01", 1),
        ("1.", 2),
        ("\"a", 2),
        ("nul", 0),
        ("1 2", 2),
        ("\"\u{1}\"", 1),
    ] {
        assert_eq!(scan(doc), Err(ScanError { code: RejectCode::NotJson, offset }), "{doc:?}");
    }
    assert_eq!(
        Tape::default().scan(b"\"\xff\"").unwrap_err(),
        ScanError { code: RejectCode::InvalidUtf8, offset: 1 }
    );
}

#[test]
fn depth_is_bounded() {
    let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(scan(&nested(MAX_DEPTH)).is_ok());
    assert_eq!(scan(&nested(MAX_DEPTH + 1)).unwrap_err().code, RejectCode::TooDeep);
    assert_eq!(scan(&"[".repeat(1_000_000)).unwrap_err().code, RejectCode::TooDeep);
}

#[test]
fn names_compare_after_unescaping() {
    let doc = br#"{"em\u0061il":1,"\ud83d\ude00":2}"#;
    let mut tape = Tape::default();
    tape.scan(doc).unwrap();
    assert!(tape.name_is(doc, &tape.nodes()[1], b"email"));
    assert!(!tape.name_is(doc, &tape.nodes()[1], b"emaill"));
    assert!(tape.name_is(doc, &tape.nodes()[2], "😀".as_bytes()));
}

#[test]
fn unescape_refuses_lone_surrogates() {
    let mut out = Vec::new();
    assert!(!unescape(br"a\ud800b", &mut out));
    out.clear();
    assert!(unescape(br"\n\/\u00e9\ud83d\ude00", &mut out));
    assert_eq!(out, "\n/é😀".as_bytes());
}

#[test]
fn plain_runs_end_at_every_special_byte_wherever_it_stands() {
    for special in (0..0x20).chain([b'"', b'\\']) {
        for at in 0..20 {
            let mut bytes = [0xc3_u8; 20];
            bytes[at] = special;
            assert_eq!(text::plain_run(&bytes, 0), at, "byte {special:#x} at {at}");
        }
    }
    assert_eq!(text::plain_run(&[0x80, 0xff, 0x7f, b'!', b'#', b'[', b']', 0x20, b'a'], 0), 9);
}
