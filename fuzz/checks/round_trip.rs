//! A record is protected as declared or rejected whole: what comes out is JSON, gives the input
//! back, and holds nothing of what was to be protected.

use std::cell::RefCell;
use std::collections::HashMap;

use serde_json::Value;
use veilstream_engine::compile::{Grants, compile};
use veilstream_engine::key::{KeyKind, Scope};
use veilstream_engine::record::{FieldOutcome, Header};
use veilstream_engine::reveal::{KeySource, Report, RevealOptions, Revealer, Status};
use veilstream_engine::scan::Tape;
use veilstream_engine::schema::{Protect, Schema, Undeclared};
use veilstream_engine::transform::{NeededKey, Outcome, Transformer};
use veilstream_engine::{Entropy, EntropyError, Key};

use super::support::{Bench, document, full_record, key, keyring_of};
use super::{first_line, oracle};

/// Members of schemas that the first line may name by number. Every kind of protection and every
/// way to say where.
const SCHEMAS: [&str; 22] = [
    r#""fields":[{"id":"a","path":"$.a"},{"id":"b","path":"$.b","pad":0},{"id":"c","path":"$.c.d","null":"encrypt","pad":64}]"#,
    r#""fields":[{"id":"a","path":"$..a","index":{"normalize":"exact"}},{"id":"b","path":"$.b[*]","index":{"normalize":"digits","bits":12,"into":"i"}}]"#,
    r#""fields":[{"id":"a","path":"$.o.*","index":{"normalize":"text"}},{"id":"b","path":"$.b[1:]","index":{"normalize":"number"}}]"#,
    r#""fields":[{"id":"a","path":"$.b[?@.k == 'v'].a"},{"id":"c","path":"$.b[?length(@.k) > 1].c","index":{"normalize":"exact"}},{"id":"d","path":"$.d[?$.k].a"}]"#,
    r#""fields":[{"id":"a","path":"$.a","bind":[{"name":"n","path":"$.n"},{"name":"m","path":"$.m"}]},{"id":"b","path":"$..b[-1]"}]"#,
    r#""subject":"$.n","fields":[{"id":"a","path":"$..a","index":{"normalize":"email"}}],"headers":{"h":{"protect":"encrypt"}}"#,
    r#""subject":"$.n","subject_optional":true,"fields":[{"id":"a","path":"$.a"},{"id":"b","path":"$.b.*"}]"#,
    r#""undeclared":"drop","clear":["$.k","$.list[*].k"],"fields":[{"id":"a","path":"$.a"},{"id":"c","path":"$.list[*].c","index":{"normalize":"exact"}}]"#,
    r#""undeclared":"reject","clear":["$.k"],"fields":[{"id":"a","path":"$.a"},{"id":"b","path":"$.b[*].a"}]"#,
    r#""residue":"reject","fields":[{"id":"a","path":"$..a"},{"id":"b","path":"$.b","protect":"drop"}],"key":{"protect":"hash","normalize":"text","root":1}"#,
    r#""residue":"off","fields":[{"id":"a","path":"$.a","protect":"deterministic","root":1},{"id":"b","path":"$.b[*]","protect":"deterministic","root":1,"index":{"normalize":"exact"}}]"#,
    r#""fields":[{"id":"a","path":"$..a","protect":"hash","index":{"normalize":"phone-us","bits":8}},{"id":"b","path":"$.b","protect":"hash","index":{"normalize":"exact"}}]"#,
    r#""fields":[{"id":"a","path":"$..a","protect":"mask"},{"id":"b","path":"$..b","protect":"redact"},{"id":"c","path":"$..c","protect":"redact","with":null}]"#,
    r#""fields":[{"id":"a","path":"$.a","protect":"generalize","to":"year"},{"id":"b","path":"$.b[*]","protect":"generalize","to":"bucket:10"},{"id":"c","path":"$.c"}]"#,
    r#""fields":[{"id":"a","path":"$..a","protect":"drop"},{"id":"b","path":"$..['b','c']","protect":"drop"},{"id":"d","path":"$.d[0,2]","protect":"drop"}]"#,
    r#""fields":[{"id":"a","path":"$.a","index":{"normalize":"text","of":["$.a","$.b"]}},{"id":"b","path":"$.b"}],"key":{"protect":"deterministic","root":1}"#,
    r#""fields":[{"id":"a","path":"$.a.b"},{"id":"b","path":"$.a['b','c']","protect":"redact"},{"id":"c","path":"$..*"}]"#,
    r#""when":{"header:h":"v"},"fields":[{"id":"a","path":"$","pad":256}],"headers":{"h":{"protect":"hash","normalize":"exact"}}"#,
    r#""fields":[{"id":"a","path":"$.a","required":true,"type":"string"},{"id":"b","path":"$.b","type":"number"},{"id":"c","path":"$.c","type":"object"}],"headers":{"h":{"protect":"drop"}}"#,
    r#""undeclared":"drop","fields":[{"id":"a","path":"$..a"},{"id":"b","path":"$[*].b","index":{"normalize":"exact"}},{"id":"c","path":"$..c","protect":"hash","index":{"normalize":"exact"}}]"#,
    r#""subject":["$.n","$.k"],"fields":[{"id":"a","path":"$.a"},{"id":"b","path":"$.b[*].a","required":true,"index":{"normalize":"digits","bits":8}}]"#,
    r#""residue":"reject","fields":[{"id":"a","path":"$.a"},{"id":"b","path":"$.b","protect":"generalize","to":"month","epoch":"days"},{"id":"c","path":"$.c[0,1]","required":true}]"#,
];

/// No value that is protected may show it. Long, so that no token holds it by chance.
const CANARY: &str = "canary-canary-";
/// The same for numbers: digits that canonical JSON and every type of integer take.
const CANARY_DIGITS: u64 = 777_770_077_770_000;
const CANARY_PREFIX: &str = "77777007777";

/// Input: the number of a schema, or a schema document; a line feed; a record's value. How many
/// tokens it came to.
pub fn round_trip(data: &[u8]) -> usize {
    thread_local! {
        /// One for all inputs: what a record leaves behind must not trip the next.
        static KNOWN: RefCell<HashMap<(usize, bool), Bench>> = RefCell::default();
    }
    let Some((schema, value)) = first_line(data) else { return 0 };
    let (number, rotating) =
        schema.strip_suffix('r').map_or((schema, false), |number| (number, true));
    match number.parse::<usize>() {
        Ok(number) if number < SCHEMAS.len() => KNOWN.with_borrow_mut(|known| {
            let bench = known
                .entry((number, rotating))
                .or_insert_with(|| bench(&document(SCHEMAS[number]), rotating).expect("compiles"));
            there_and_back(bench, value)
        }),
        Ok(_) => 0,
        Err(_) => bench(schema, false).map_or(0, |mut bench| there_and_back(&mut bench, value)),
    }
}

/// A bench under the document, if it compiles; maybe while the index root rotates.
fn bench(document: &str, rotating: bool) -> Option<Bench> {
    compile(document.as_bytes(), &Grants::local()).ok()?;
    let rotated = if rotating { vec![key(KeyKind::Index, "v2")] } else { Vec::new() };
    let mut bench = Bench::with(&[document], keyring_of(rotated));
    bench.transformer = Transformer::new(Box::new(Counted(0)));
    Some(bench)
}

/// Bytes that repeat from run to run.
struct Counted(u64);

impl Entropy for Counted {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EntropyError> {
        for chunk in buf.chunks_mut(8) {
            // SplitMix64.
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            chunk.copy_from_slice(&(z ^ (z >> 31)).to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

/// What became of a record; every key it asks for is there.
fn protected(
    bench: &mut Bench,
    key_bytes: Option<&[u8]>,
    value: Option<&[u8]>,
    headers: &[Header<'_>],
) -> bool {
    for _ in 0..4 {
        match bench.record(&full_record(key_bytes, value, headers)) {
            Outcome::Protected(_) => return true,
            Outcome::Rejected(_) => {
                let out = &bench.out;
                assert!(
                    out.value.is_empty() && out.key_bytes.is_empty() && out.header_bytes.is_empty(),
                    "a rejected record leaves something"
                );
                return false;
            }
            Outcome::NeedKeys(needed) => needed.into_iter().for_each(|needed| fetch(bench, needed)),
        }
    }
    panic!("keys are there and do not seal");
}

fn fetch(bench: &mut Bench, needed: NeededKey) {
    let fetched = std::sync::Arc::new(key(needed.kind, &needed.scope.to_string()));
    if matches!(needed.scope, Scope::Subject(_)) {
        bench.transformer.add_subject_keys([fetched]);
        return;
    }
    let held = [KeyKind::Data, KeyKind::Index, KeyKind::Deterministic, KeyKind::SubjectRef]
        .map(|kind| bench.keys.of_kind(kind).cloned().collect::<Vec<_>>());
    let keys = held.into_iter().flatten().chain([fetched]);
    bench.keys = std::sync::Arc::new(veilstream_engine::Keyring::new(super::support::TENANT, keys));
}

fn there_and_back(bench: &mut Bench, value: &[u8]) -> usize {
    let key = &value[..value.len().min(9)];
    let header = [(&b"h"[..], Some(&value[value.len() / 2..]))];
    protected(bench, Some(key), None, &header);
    let mut tokens = 0;
    if protected(bench, Some(key), Some(value), &header) {
        let out = bench.out.value.clone();
        protected(bench, Some(key), Some(value), &header);
        assert_eq!(bench.out.value.len(), out.len(), "the second time it is another record");
        tokens = opened(bench, value, &out);
        if protected(bench, None, Some(&out), &[]) {
            let again = bench.out.value.clone();
            let restored = reveal(bench, &again, &RevealOptions::default()).map(|r| r.0);
            assert!(
                !restores(bench) || restored.as_deref() == Some(&out),
                "tokens are values like any other"
            );
        }
    }
    let canaries = plant(bench, value);
    if let Some(doc) = canaries {
        hidden(bench, doc.as_bytes());
    }
    tokens
}

/// Whether revealing gives the input back byte for byte.
fn restores(bench: &Bench) -> bool {
    let schema = &bench.schemas.schemas()[0];
    schema.undeclared == Undeclared::Pass
        && schema.fields.iter().all(|f| f.protect == Protect::Encrypt)
}

/// What opens of `out`, which was made of `value`.
fn opened(bench: &Bench, value: &[u8], out: &[u8]) -> usize {
    let mut tape = Tape::default();
    tape.scan(out).expect("the output is JSON");
    let both = (
        serde_json::from_slice::<Value>(value).is_ok(),
        serde_json::from_slice::<Value>(out).is_ok(),
    );
    assert!(!both.0 || both.1, "serde_json read the input and not the output");
    let (revealed, report) =
        reveal(bench, out, &RevealOptions::default()).expect("what was selected is selected again");
    tape.scan(&revealed).expect("the revealed record is JSON");
    let tokens = report.fields.iter().filter(|(_, status)| *status == Status::Revealed).count();
    let sealed: usize = bench
        .out
        .counts
        .iter()
        .filter(|(_, outcome, _)| *outcome == FieldOutcome::Encrypted)
        .map(|(.., n)| *n as usize)
        .sum();
    assert_eq!(tokens, sealed, "what was sealed opens");
    if restores(bench) {
        assert_eq!(revealed, value);
        assert!(
            report
                .fields
                .iter()
                .all(|(_, status)| matches!(status, Status::Revealed | Status::NoToken)),
            "{report:?}"
        );
    }
    let (kept, _) =
        reveal(bench, out, &RevealOptions { fields: Some(&[]), keep_indexes: true }).unwrap();
    assert_eq!(kept, out, "nothing asked for, something changed");
    tokens
}

fn reveal(bench: &Bench, doc: &[u8], options: &RevealOptions<'_>) -> Option<(Vec<u8>, Report)> {
    let (mut out, mut report) = (Vec::new(), Report::default());
    // Subjects' keys are not in the ring; they follow from the record's subject.
    let subject = subject_key(bench, doc);
    let lookup = |id: &_| subject.clone().filter(|key| key.id == *id);
    let source = KeySource { keyring: &bench.keys, lookup: &lookup };
    Revealer::default()
        .reveal(&bench.schemas.schemas()[0], source, doc, options, &mut out, &mut report)
        .ok()?;
    Some((out, report))
}

fn subject_key(bench: &Bench, doc: &[u8]) -> Option<std::sync::Arc<Key>> {
    use veilstream_engine::select::Selection;
    use veilstream_engine::subject::{scalar_text, subject_ref};
    let schema = &bench.schemas.schemas()[0];
    let (mut tape, mut selection, mut text) = (Tape::default(), Selection::default(), Vec::new());
    tape.scan(doc).ok()?;
    schema.program.select(doc, &tape, &mut selection).ok()?;
    let places = schema.subjects.iter().filter_map(|path| selection.single(*path));
    let node = places
        .into_iter()
        .find(|node| tape.nodes()[*node as usize].kind != veilstream_engine::scan::Kind::Null)?;
    let root = bench.keys.sealing(KeyKind::SubjectRef, &Scope::Version(1))?;
    let reference = scalar_text(&doc[tape.nodes()[node as usize].span()], &mut text)
        .then(|| subject_ref(root, bench.keys.tenant(), &text))??;
    Some(std::sync::Arc::new(key(KeyKind::Data, &Scope::Subject(reference).to_string())))
}

/// The document with a canary in every protected place that jsonpath-rust finds.
fn plant(bench: &Bench, doc: &[u8]) -> Option<String> {
    let value = oracle::value(doc)?;
    // The fuzzer learns the canaries by watching comparisons. Those that it puts in places of its
    // own are nobody's secret.
    let text = value.to_string();
    if [CANARY, CANARY_PREFIX].iter().any(|canary| text.contains(canary)) {
        return None;
    }
    let schema = &bench.schemas.schemas()[0];
    let mut owners: HashMap<*const Value, usize> = HashMap::new();
    for (i, field) in schema.fields.iter().enumerate() {
        for node in oracle::selected(&field.path, &value) {
            owners.entry(node).or_insert(i);
        }
    }
    let mut planter = Planter { schema, owners, planted: 0 };
    let planted = planter.plant(&value, None);
    (planter.planted > 0).then(|| planted.to_string())
}

struct Planter<'a> {
    schema: &'a Schema,
    /// The field a node belongs to, by its address: the one declared first.
    owners: HashMap<*const Value, usize>,
    planted: u64,
}

impl Planter<'_> {
    fn plant(&mut self, value: &Value, inside: Option<usize>) -> Value {
        let owner = inside.or_else(|| self.owners.get(&std::ptr::from_ref(value)).copied());
        let shows = owner.is_none_or(|i| {
            matches!(self.schema.fields[i].protect, Protect::Mask(_) | Protect::Generalize(_))
        });
        match value {
            Value::Array(items) => items.iter().map(|v| self.plant(v, owner)).collect(),
            Value::Object(map) => {
                let member = |(name, v): (&String, &Value)| {
                    let name = if shows { name.clone() } else { self.canary() };
                    (name, self.plant(v, owner))
                };
                Value::Object(map.iter().map(member).collect())
            }
            Value::String(_) if !shows => Value::String(self.canary()),
            Value::Number(_) if !shows => {
                self.planted += 1;
                Value::from(CANARY_DIGITS + self.planted % 10_000)
            }
            other => other.clone(),
        }
    }

    fn canary(&mut self) -> String {
        self.planted += 1;
        format!("{CANARY}{}-in a value", self.planted)
    }
}

/// Protects a document with canaries in it and looks for them.
fn hidden(bench: &mut Bench, doc: &[u8]) {
    let in_key = bench.schemas.schemas()[0].key.is_some();
    let in_header = bench.schemas.schemas()[0].headers.iter().any(|rule| rule.header == "h");
    let secret = format!("{CANARY}in the envelope");
    let header = [(&b"h"[..], Some(secret.as_bytes()))];
    let key = in_key.then_some(secret.as_bytes());
    if !protected(bench, key, Some(doc), if in_header { &header } else { &[] }) {
        return;
    }
    for (place, bytes) in [
        ("value", &bench.out.value),
        ("key", &bench.out.key_bytes),
        ("headers", &bench.out.header_bytes),
    ] {
        for canary in [CANARY, CANARY_PREFIX] {
            let shown = bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
            assert!(
                !shown,
                "a protected value is readable in the {place}: {}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
    let out = bench.out.value.clone();
    opened(bench, doc, &out);
}
