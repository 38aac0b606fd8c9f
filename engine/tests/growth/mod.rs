//! Kinds of paths, and events that grow: what `benches/growth.rs` measures and `memory.rs` bounds.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, reason = "a test")]

/// (kind, path of field n, residue)
pub type Kind = (&'static str, fn(usize) -> String, &'static str);

pub const KINDS: [Kind; 12] = [
    ("`$.x[*].f`", |n| format!("$.x[*].f{n}"), "off"),
    ("`$..f`", |n| format!("$..f{n}"), "off"),
    ("`[?@.f].f`", |n| format!("$.x[?@.f{n}].f{n}"), "off"),
    ("`[?@.k == 'text'].f`", |n| format!("$.x[?@.k == 'k{n}z'].f{n}"), "off"),
    ("`$..[?@.k == 'text'].f`", |n| format!("$..[?@.k == 'k{n}z'].f{n}"), "off"),
    ("`[?@.n == 1.5].f`", |n| format!("$.x[?@.n == {n}.5].f{n}"), "off"),
    ("`[?search(@.k, 'pattern')].f`", |n| format!("$.x[?search(@.k, 'k{n}[a-z]')].f{n}"), "off"),
    ("`[?match(@.k, 'pattern')].f`", |n| format!("$.x[?match(@.k, 'k{n}[a-z]')].f{n}"), "off"),
    ("`[?length(@.k) > 2].f`", |n| format!("$.x[?length(@.k) > 2].f{n}"), "off"),
    ("`[?count(@..a) == 1].f`", |n| format!("$.x[?count(@.t..a) == 1].f{n}"), "off"),
    ("`[?@.t == $.t].f`", |n| format!("$.x[?@.t == $.t].f{n}"), "off"),
    ("`$.x[*].f`, residue counted", |n| format!("$.x[*].f{n}"), "count"),
];

/// An event of some 100 bytes an item; every item has the field of its number, up to `fields` of them.
pub fn event(bytes: usize, fields: usize) -> String {
    let mut out = String::from(r#"{"t":{"a":[1,"b"]},"x":["#);
    let mut i = 0;
    while out.len() < bytes || i < fields {
        let n = i % fields;
        out.push_str(&format!(r#"{{"k":"k{n}z","n":{n}.5,"t":{{"a":[1,"b"]}},"f{n}":"value {i} of somebody","o":"text {i}"}},"#));
        i += 1;
    }
    out.pop();
    out + "]}"
}

pub fn schema(kind: &Kind, fields: usize) -> String {
    let fields: Vec<String> = (0..fields).map(|n| format!(r#"{{"id":"f{n}","path":{}}}"#, serde_json::to_string(&(kind.1)(n)).unwrap())).collect();
    format!(r#""residue":"{}","fields":[{}]"#, kind.2, fields.join(","))
}
