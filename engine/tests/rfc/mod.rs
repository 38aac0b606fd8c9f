//! Documents and paths made at random, and what RFC 9535 says of them, written from its text as
//! plainly as can be: node lists are lists of places, nothing is remembered, nothing is fast.
#![allow(dead_code, unreachable_pub, reason = "a test")]

use std::cmp::Ordering;

/// A document.
#[derive(Debug, Clone)]
pub enum Json {
    Null,
    Bool(bool),
    /// Mantissa and power of ten.
    Number(i64, i32),
    Text(String),
    Array(Vec<Self>),
    Object(Vec<(String, Self)>),
}

/// A path: `$` or `@`, and segments.
#[derive(Debug, Clone)]
pub struct Query {
    absolute: bool,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone)]
struct Segment {
    descendant: bool,
    selectors: Vec<Selector>,
}

#[derive(Debug, Clone)]
enum Selector {
    Name(String),
    Wildcard,
    Index(i64),
    Slice(Option<i64>, Option<i64>, Option<i64>),
    Filter(Filter),
}

#[derive(Debug, Clone)]
enum Filter {
    Or(Vec<Self>),
    And(Vec<Self>),
    Not(Box<Self>),
    Exists(Query),
    Compare(Value, &'static str, Value),
    Matches(Value, usize, bool),
}

#[derive(Debug, Clone)]
enum Value {
    Literal(Json),
    One(Query),
    Length(Box<Self>),
    Count(Query),
    Sole(Query),
}

type Place = Vec<usize>;

type Holds = fn(&str) -> bool;

/// Patterns and what they are, for people: the whole text, or some part of it.
const PATTERNS: [(&str, Holds, Holds); 6] = [
    ("x", |t| t == "x", |t| t.contains('x')),
    ("x.*", |t| t.starts_with('x'), |t| t.contains('x')),
    ("[xy]", |t| t == "x" || t == "y", |t| t.contains(['x', 'y'])),
    ("x|yy", |t| t == "x" || t == "yy", |t| t.contains('x') || t.contains("yy")),
    (".{2}", |t| t.chars().count() == 2, |t| t.chars().count() >= 2),
    ("", str::is_empty, |_| true),
];

const RELATIONS: [&str; 6] = ["==", "!=", "<", "<=", ">", ">="];
const NAMES: [&str; 6] = ["a", "b", "c", "é", "a b", "'"];
const TEXTS: [&str; 6] = ["", "x", "xy", "yy", "é", "\u{1f600}"];

/// Nodes a path from the root selects: a list, as the RFC has it, with what is selected twice in it
/// twice.
pub fn select(query: &Query, root: &Json) -> Vec<Place> {
    follow(query, root, &Vec::new())
}

fn at<'j>(root: &'j Json, place: &[usize]) -> &'j Json {
    place.iter().fold(root, |json, i| children(json)[*i])
}

fn children(json: &Json) -> Vec<&Json> {
    match json {
        Json::Array(items) => items.iter().collect(),
        Json::Object(members) => members.iter().map(|(_, value)| value).collect(),
        _ => Vec::new(),
    }
}

fn child(place: &Place, i: usize) -> Place {
    [&place[..], &[i]].concat()
}

fn follow(query: &Query, root: &Json, current: &Place) -> Vec<Place> {
    let mut nodes = vec![if query.absolute { Vec::new() } else { current.clone() }];
    for segment in &query.segments {
        let mut next = Vec::new();
        for node in nodes {
            let from = if segment.descendant { descendants(root, &node) } else { vec![node] };
            for node in from {
                segment
                    .selectors
                    .iter()
                    .for_each(|selector| apply(selector, root, &node, &mut next));
            }
        }
        nodes = next;
    }
    nodes
}

fn descendants(root: &Json, place: &Place) -> Vec<Place> {
    let mut out = vec![place.clone()];
    for i in 0..children(at(root, place)).len() {
        out.extend(descendants(root, &child(place, i)));
    }
    out
}

fn apply(selector: &Selector, root: &Json, place: &Place, out: &mut Vec<Place>) {
    let node = at(root, place);
    let count = children(node).len();
    match (selector, node) {
        (Selector::Name(name), Json::Object(members)) => {
            out.extend(members.iter().position(|(n, _)| n == name).map(|i| child(place, i)))
        }
        (Selector::Wildcard, _) => out.extend((0..count).map(|i| child(place, i))),
        (Selector::Index(index), Json::Array(_)) => {
            let i = if *index < 0 { count as i64 + index } else { *index };
            out.extend(usize::try_from(i).ok().filter(|i| *i < count).map(|i| child(place, i)));
        }
        (Selector::Slice(start, end, step), Json::Array(_)) => out
            .extend(slice(*start, *end, step.unwrap_or(1), count as i64).map(|i| child(place, i))),
        (Selector::Filter(filter), _) => {
            out.extend((0..count).map(|i| child(place, i)).filter(|node| holds(filter, root, node)))
        }
        _ => {}
    }
}

/// Section 2.3.4.2.2, as it stands there.
fn slice(start: Option<i64>, end: Option<i64>, step: i64, len: i64) -> impl Iterator<Item = usize> {
    let mut out = Vec::new();
    let normalize = |i: i64| if i >= 0 { i } else { len + i };
    if step > 0 {
        let (lower, upper) = (
            normalize(start.unwrap_or(0)).max(0).min(len),
            normalize(end.unwrap_or(len)).max(0).min(len),
        );
        let mut i = lower;
        while i < upper {
            out.push(i as usize);
            i += step;
        }
    } else if step < 0 {
        let upper = normalize(start.unwrap_or(len - 1)).max(-1).min(len - 1);
        let lower = normalize(end.unwrap_or(-len - 1)).max(-1).min(len - 1);
        let mut i = upper;
        while lower < i {
            out.push(i as usize);
            i += step;
        }
    }
    out.into_iter()
}

fn holds(filter: &Filter, root: &Json, current: &Place) -> bool {
    match filter {
        Filter::Or(all) => all.iter().any(|f| holds(f, root, current)),
        Filter::And(all) => all.iter().all(|f| holds(f, root, current)),
        Filter::Not(inner) => !holds(inner, root, current),
        Filter::Exists(query) => !follow(query, root, current).is_empty(),
        Filter::Compare(left, relation, right) => {
            compare(evaluate(left, root, current), relation, evaluate(right, root, current))
        }
        Filter::Matches(value, pattern, whole) => match evaluate(value, root, current) {
            Some(Json::Text(text)) => {
                let (_, is_whole, is_part) = PATTERNS[*pattern];
                if *whole { is_whole(&text) } else { is_part(&text) }
            }
            _ => false,
        },
    }
}

fn evaluate(value: &Value, root: &Json, current: &Place) -> Option<Json> {
    match value {
        Value::Literal(json) => Some(json.clone()),
        Value::One(query) | Value::Sole(query) => match &follow(query, root, current)[..] {
            [one] => Some(at(root, one).clone()),
            _ => None,
        },
        Value::Count(query) => Some(Json::Number(follow(query, root, current).len() as i64, 0)),
        Value::Length(inner) => match evaluate(inner, root, current)? {
            Json::Text(text) => Some(Json::Number(text.chars().count() as i64, 0)),
            Json::Array(items) => Some(Json::Number(items.len() as i64, 0)),
            Json::Object(members) => Some(Json::Number(members.len() as i64, 0)),
            _ => None,
        },
    }
}

/// Section 2.3.5.2.2.
fn compare(left: Option<Json>, relation: &str, right: Option<Json>) -> bool {
    let equal = match (&left, &right) {
        (None, None) => true,
        (Some(a), Some(b)) => same(a, b),
        _ => false,
    };
    let less = |a: &Option<Json>, b: &Option<Json>| match (a, b) {
        (Some(Json::Number(m, e)), Some(Json::Number(n, f))) => {
            scaled(*m, *e).cmp(&scaled(*n, *f)) == Ordering::Less
        }
        (Some(Json::Text(a)), Some(Json::Text(b))) => a.chars().lt(b.chars()),
        _ => false,
    };
    match relation {
        "==" => equal,
        "!=" => !equal,
        "<" => less(&left, &right),
        "<=" => less(&left, &right) || equal,
        ">" => less(&right, &left),
        _ => less(&right, &left) || equal,
    }
}

fn scaled(mantissa: i64, exponent: i32) -> i128 {
    i128::from(mantissa) * 10_i128.pow((exponent + 3) as u32)
}

fn same(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Null, Json::Null) => true,
        (Json::Bool(a), Json::Bool(b)) => a == b,
        (Json::Number(m, e), Json::Number(n, f)) => scaled(*m, *e) == scaled(*n, *f),
        (Json::Text(a), Json::Text(b)) => a == b,
        (Json::Array(a), Json::Array(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
        }
        (Json::Object(a), Json::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(n, a)| b.iter().any(|(m, b)| n == m && same(a, b)))
        }
        _ => false,
    }
}

/// A small generator (xorshift64*): the same case for the same seed, everywhere.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    pub fn document(&mut self) -> Json {
        self.json(4)
    }

    fn json(&mut self, depth: usize) -> Json {
        if depth == 0 || self.one_in(4) {
            return self.scalar();
        }
        let count = self.below(5);
        if self.one_in(2) {
            return Json::Array((0..count).map(|_| self.json(depth - 1)).collect());
        }
        let mut names = NAMES.to_vec();
        (0..count).for_each(|i| {
            let other = i + self.below(names.len() - i);
            names.swap(i, other);
        });
        Json::Object(
            names[..count].iter().map(|name| ((*name).to_owned(), self.json(depth - 1))).collect(),
        )
    }

    fn scalar(&mut self) -> Json {
        match self.below(6) {
            0 => Json::Null,
            1 => Json::Bool(self.one_in(2)),
            2 | 3 => Json::Number(self.below(5) as i64 - 1, self.of(&[0, 0, 0, 1, -1])),
            _ => Json::Text(self.of(&TEXTS).to_owned()),
        }
    }

    pub fn query(&mut self) -> Query {
        let segments = 1 + self.below(3);
        Query { absolute: true, segments: (0..segments).map(|_| self.segment(2)).collect() }
    }

    fn segment(&mut self, depth: usize) -> Segment {
        let selectors = if self.one_in(4) { 2 } else { 1 };
        Segment {
            descendant: self.one_in(4),
            selectors: (0..selectors).map(|_| self.selector(depth)).collect(),
        }
    }

    fn selector(&mut self, depth: usize) -> Selector {
        match self.below(if depth == 0 { 7 } else { 11 }) {
            0..3 => Selector::Name(self.of(&NAMES).to_owned()),
            3 | 4 => Selector::Wildcard,
            5 => Selector::Index(self.below(7) as i64 - 3),
            6 => {
                let mut bound =
                    || if self.one_in(3) { None } else { Some(self.below(9) as i64 - 4) };
                Selector::Slice(bound(), bound(), bound())
            }
            _ => Selector::Filter(self.filter(depth - 1)),
        }
    }

    fn filter(&mut self, depth: usize) -> Filter {
        match self.below(10) {
            0 => Filter::Or((0..2).map(|_| self.filter(depth)).collect()),
            1 => Filter::And((0..2).map(|_| self.filter(depth)).collect()),
            2 => Filter::Not(Box::new(self.filter(depth))),
            3..5 => Filter::Exists(self.inner(depth)),
            5 => Filter::Matches(self.value(depth), self.below(PATTERNS.len()), self.one_in(2)),
            _ => Filter::Compare(self.value(depth), self.of(&RELATIONS), self.value(depth)),
        }
    }

    fn inner(&mut self, depth: usize) -> Query {
        let segments = self.below(3);
        Query {
            absolute: self.one_in(6),
            segments: (0..segments).map(|_| self.segment(depth)).collect(),
        }
    }

    fn singular(&mut self) -> Query {
        let segments = self.below(3);
        let step = |random: &mut Self| {
            let selector = if random.one_in(4) {
                Selector::Index(random.below(5) as i64 - 2)
            } else {
                Selector::Name(random.of(&NAMES).to_owned())
            };
            Segment { descendant: false, selectors: vec![selector] }
        };
        Query { absolute: self.one_in(6), segments: (0..segments).map(|_| step(self)).collect() }
    }

    fn value(&mut self, depth: usize) -> Value {
        match self.below(10) {
            0..3 => Value::Literal(self.scalar()),
            3..7 => Value::One(self.singular()),
            7 => {
                let inner = match self.below(3) {
                    0 => Value::Literal(Json::Text(self.of(&TEXTS).to_owned())),
                    1 => Value::Sole(self.inner(depth)),
                    _ => Value::One(self.singular()),
                };
                Value::Length(Box::new(inner))
            }
            8 => Value::Count(self.inner(depth)),
            _ => Value::Sole(self.inner(depth)),
        }
    }

    /// A document as text, in one of the ways it can be written.
    pub fn write(&mut self, json: &Json) -> String {
        match json {
            Json::Null => "null".to_owned(),
            Json::Bool(b) => b.to_string(),
            Json::Number(m, e) => self.number(*m, *e),
            Json::Text(text) => self.text(text),
            Json::Array(items) => {
                format!("[{}]", items.iter().map(|v| self.write(v)).collect::<Vec<_>>().join(","))
            }
            Json::Object(members) => {
                let mut members: Vec<String> = members
                    .iter()
                    .map(|(n, v)| format!("{}:{}", self.text(n), self.write(v)))
                    .collect();
                if self.one_in(3) {
                    members.iter_mut().for_each(|m| m.insert(0, ' '));
                }
                format!("{{{}}}", members.join(","))
            }
        }
    }

    fn number(&mut self, mantissa: i64, exponent: i32) -> String {
        match (exponent, self.below(3)) {
            (0, 0) => mantissa.to_string(),
            (0, 1) => format!("{mantissa}.0"),
            (1, 0) => (mantissa * 10).to_string(),
            (-1, 0) if mantissa >= 0 => format!("0.{mantissa}"),
            _ => format!("{mantissa}e{exponent}"),
        }
    }

    fn text(&mut self, text: &str) -> String {
        let mut out = String::from("\"");
        for c in text.chars() {
            if self.one_in(4) {
                c.encode_utf16(&mut [0; 2])
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            } else {
                out.push(c);
            }
        }
        out + "\""
    }

    fn space(&mut self) -> &'static str {
        if self.one_in(6) { " " } else { "" }
    }

    /// A path as text, in one of the ways it can be written.
    pub fn spell(&mut self, query: &Query) -> String {
        let mut out = String::from(if query.absolute { "$" } else { "@" });
        for segment in &query.segments {
            out.push_str(self.space());
            let plain = match &segment.selectors[..] {
                [Selector::Name(name)] if name.chars().all(char::is_alphabetic) => {
                    Some(name.clone())
                }
                [Selector::Wildcard] => Some("*".to_owned()),
                _ => None,
            };
            match plain.filter(|_| self.one_in(2)) {
                Some(name) => {
                    out.push_str(&format!("{}{name}", if segment.descendant { ".." } else { "." }))
                }
                None => {
                    // Of a singular path inside a filter the grammar takes no white space in
                    // brackets.
                    let inner: Vec<String> =
                        segment.selectors.iter().map(|s| self.spell_selector(s)).collect();
                    let comma = format!(",{}", self.space());
                    out.push_str(&format!(
                        "{}[{}]",
                        if segment.descendant { ".." } else { "" },
                        inner.join(&comma)
                    ));
                }
            }
        }
        out
    }

    fn spell_selector(&mut self, selector: &Selector) -> String {
        let bound = |b: &Option<i64>| b.map(|n| n.to_string()).unwrap_or_default();
        match selector {
            Selector::Name(name) => self.quoted(name),
            Selector::Wildcard => "*".to_owned(),
            Selector::Index(i) => i.to_string(),
            Selector::Slice(a, b, None) => format!("{}:{}", bound(a), bound(b)),
            Selector::Slice(a, b, c) => format!("{}:{}:{}", bound(a), bound(b), bound(c)),
            Selector::Filter(filter) => {
                format!("?{}{}", self.space(), self.spell_filter(filter, 0))
            }
        }
    }

    fn quoted(&mut self, text: &str) -> String {
        let double = self.one_in(2);
        let quote = if double { '"' } else { '\'' };
        let mut out = String::from(quote);
        for c in text.chars() {
            match c {
                c if c == quote => out.extend(['\\', c]),
                c if self.one_in(4) => c
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04X}"))),
                c => out.push(c),
            }
        }
        out.push(quote);
        out
    }

    /// `level`: 0 where anything may stand, 1 inside `&&`, 2 after `!`.
    fn spell_filter(&mut self, filter: &Filter, level: usize) -> String {
        let (text, own) = match filter {
            Filter::Or(all) => {
                (all.iter().map(|f| self.spell_filter(f, 1)).collect::<Vec<_>>().join(" || "), 0)
            }
            Filter::And(all) => {
                (all.iter().map(|f| self.spell_filter(f, 2)).collect::<Vec<_>>().join("&&"), 1)
            }
            Filter::Not(inner) => (format!("!{}", self.spell_filter(inner, 3)), 2),
            Filter::Exists(query) => (self.spell(query), 3),
            Filter::Compare(left, relation, right) => {
                let (left, right) = (self.spell_value(left), self.spell_value(right));
                (format!("{left}{}{relation}{}{right}", self.space(), self.space()), 2)
            }
            Filter::Matches(value, pattern, whole) => {
                let value = self.spell_value(value);
                (
                    format!(
                        "{}({value},{}\"{}\")",
                        if *whole { "match" } else { "search" },
                        self.space(),
                        PATTERNS[*pattern].0
                    ),
                    3,
                )
            }
        };
        if own < level || self.one_in(8) { format!("({text})") } else { text }
    }

    fn spell_value(&mut self, value: &Value) -> String {
        match value {
            Value::Literal(Json::Text(text)) => self.quoted(text),
            Value::Literal(json) => self.write(json),
            Value::One(query) => self.spell(query),
            Value::Length(inner) => format!("length({})", self.spell_value(inner)),
            Value::Count(query) => format!("count({})", self.spell(query)),
            Value::Sole(query) => format!("value({})", self.spell(query)),
        }
    }
}
