//! What a schema document says for readers.
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
