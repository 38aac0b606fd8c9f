//! What a schema document says for readers, and what a later version of it protects less.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::sync::Arc;

use veilstream_engine::compile::{Grants, SchemaSet, compile};
use veilstream_engine::mask::ReadMask;

fn set(members: &str) -> SchemaSet {
    let text = format!(r#"{{"veilstream":1,"name":"a",{members}}}"#);
    let compiled = compile(text.as_bytes(), &Grants::local()).unwrap();
    SchemaSet::new(vec![Arc::new(compiled.schema)]).unwrap()
}

#[test]
fn fields_say_what_readers_see() {
    let set = set(r#""fields":[
            {"id":"a","path":"$.a","mask":{"keep_last":4},"tags":["z","contact"]},
            {"id":"b","path":"$.b","protect":"deterministic","root":1,"type":"string","mask":{"keep_first":2,"keep_last":3}},
            {"id":"c","path":"$.c","protect":"mask","keep_last":9},
            {"id":"d","path":"$.d","protect":"drop","tags":["x"]}]"#);
    let [a, b, c, d] = &set.schemas()[0].fields[..] else { panic!() };
    assert_eq!(a.mask(), Some(ReadMask { keep_first: 0, keep_last: 4 }));
    assert_eq!(a.tags(), ["contact".into(), Arc::<str>::from("z")]);
    assert_eq!(b.mask(), Some(ReadMask { keep_first: 2, keep_last: 3 }));
    assert_eq!((c.mask(), c.tags()), (None, &[][..]), "protect: mask is not a mask for readers");
    assert_eq!((d.mask(), d.tags()), (None, &["x".into()][..]));
}

/// Each pair is judged both ways: what is weaker one way is not the other, but where it says so.
#[test]
fn a_version_that_protects_less_is_found() {
    let field = |members: &str| format!(r#""fields":[{{"id":"f","path":"$.f"{members}}}]"#);
    let plain = || field("");
    let mask = |mask: &str| field(&format!(r#","mask":{mask}"#));
    let index = |members: &str| field(&format!(r#","index":{{"normalize":"exact"{members}}}"#));
    let kind = |members: &str| field(&format!(r#","protect":{members}"#));
    let changes: [(String, String, &str); 24] = [
        (field(r#","tags":["a","b"]"#), field(r#","tags":["b","c"]"#), "field f: has no tag a"),
        (plain(), mask(r#"{"keep_last":1}"#), "its mask shows more"),
        (mask(r#"{"keep_last":4}"#), mask(r#"{"keep_last":5}"#), "its mask shows more"),
        (mask(r#"{"keep_last":4}"#), mask(r#"{"keep_first":4}"#), "its mask shows more"),
        (
            mask(r#"{"keep_first":4,"keep_last":4}"#),
            mask(r#"{"keep_first":4,"keep_last":2}"#),
            "its mask shows more",
        ),
        (plain(), r#""fields":[]"#.to_owned(), "has no field f any more"),
        (plain(), kind(r#""mask""#), "its protect tells more"),
        (plain(), kind(r#""deterministic","root":1"#), "its protect tells more"),
        (kind(r#""drop""#), plain(), "its protect tells more"),
        (kind(r#""mask","keep_last":2"#), kind(r#""mask""#), "its protect tells more"),
        (
            kind(r#""generalize","to":"year""#),
            kind(r#""generalize","to":"month""#),
            "its protect tells more",
        ),
        (
            kind(r#""generalize","to":"bucket:10""#),
            kind(r#""generalize","to":"bucket:5""#),
            "its protect tells more",
        ),
        (plain(), index(r#","bits":8"#), "its index tells more"),
        (index(r#","bits":8"#), index(r#","bits":9"#), "its index tells more"),
        (index(""), index(r#","domain":"d""#), "its index tells more"),
        (
            field(r#","bind":[{"name":"k","path":"$.k"}]"#),
            field(r#","bind":[{"name":"l","path":"$.l"}]"#),
            "is no longer bound to k",
        ),
        (format!(r#""subject":"$.s",{}"#, plain()), plain(), "has no subject any more"),
        (
            format!(r#""key":{{"protect":"deterministic","root":1}},{}"#, plain()),
            plain(),
            "leaves the record key in clear",
        ),
        (format!(r#""headers":{{"h":{{}}}},{}"#, plain()), plain(), "leaves the header h in clear"),
        (format!(r#""undeclared":"drop",{}"#, plain()), plain(), "lets more undeclared members"),
        (format!(r#""undeclared":"reject",{}"#, plain()), plain(), "lets more undeclared members"),
        (plain(), format!(r#""residue":"off",{}"#, plain()), "looks less for values in clear"),
        (format!(r#""residue":"reject",{}"#, plain()), plain(), "looks less for values in clear"),
        (
            format!(r#""residue":"reject",{}"#, plain()),
            format!(r#""residue":"off",{}"#, plain()),
            "looks less for values in clear",
        ),
    ];
    for (old, new, said) in changes {
        let (before, after) = (set(&old), set(&new));
        let faults = after.weaker_than(&before);
        assert!(
            matches!(&faults[..], [one] if one.pointer == "a" && one.message.contains(said)),
            "{old} to {new}: {faults:?}"
        );
        for same in [&before, &after] {
            assert_eq!(same.weaker_than(same), [], "{old}, {new}");
        }
    }
}

#[test]
fn a_version_that_protects_as_much_is_not_found() {
    let field = |members: &str| format!(r#""fields":[{{"id":"f","path":"$.f"{members}}}]"#);
    for (old, new) in [
        (field(r#","mask":{"keep_last":4}"#), field("")),
        (field(r#","mask":{"keep_first":2,"keep_last":4}"#), field(r#","mask":{"keep_last":4}"#)),
        (field(""), field(r#","tags":["a"]"#)),
        (field(""), r#""fields":[{"id":"f","path":"$.f"},{"id":"g","path":"$.g"}]"#.to_owned()),
        (
            field(r#","protect":"generalize","to":"bucket:5""#),
            field(r#","protect":"generalize","to":"bucket:10""#),
        ),
        (field(""), format!(r#""subject":"$.s",{}"#, field(""))),
    ] {
        assert_eq!(set(&new).weaker_than(&set(&old)), [], "{old} to {new}");
    }
    assert_eq!(set(&field("")).weaker_than(&SchemaSet::default()), [], "it is new");
}
