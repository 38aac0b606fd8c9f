//! What happens to values: every kind of protection, where indexes go, what is refused.

mod support;

use support::{Bench, shape};

#[test]
fn encrypt_replaces_the_span_and_nothing_else() {
    let mut bench = Bench::new(r#""fields":[{"id":"email","path":"$.customer.email","index":{"normalize":"email","bits":24}},{"id":"phones","path":"$.phones[*]","index":{"normalize":"digits"}}]"#);
    let out = bench.there_and_back(" {\"a\" : 1.50e3, \"customer\":{\"email\" :\t\"a@b.example\" , \"x\":null}, \"phones\" : [ \"+1 2\", 3 ,null] } ");
    assert_eq!(shape(&out), " {\"a\" : 1.50e3, \"customer\":{\"email\" :\t<1.1>,\"email_bidx\":<index> , \"x\":null}, \"phones\" : [ <1.1>, <1.1> ,null],\"phones_bidx\":[<index>,<index>,null] } ");
}
