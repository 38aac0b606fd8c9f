//! What the engine's tests share: keys, schemas and one record there and back.
#![allow(dead_code, unreachable_pub, reason = "every test binary takes what it needs")]

use std::sync::Arc;

use veilstream_engine::compile::{Grants, SchemaSet, compile};
use veilstream_engine::key::{Budget, Key, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::record::{Header, Output, Record};
use veilstream_engine::reveal::{
    Decision, Disclosed, Disclosure, DisclosureOptions, FetchedKeys, HeldKeys, KeySource, Report,
    RevealOptions, Revealer, Status,
};
use veilstream_engine::transform::{Outcome, Transformer};
use veilstream_engine::{Entropy, EntropyError, Keyring, RejectCode, kdf};

pub const NOW: u64 = 1_800_000_000;
pub const TENANT: &str = "test";

/// The operating system's random bytes.
pub struct OsRandom;

impl Entropy for OsRandom {
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EntropyError> {
        getrandom::fill(buf).map_err(|_| EntropyError)
    }
}

/// The bytes of lower-case hex.
pub fn hex(text: &str) -> Vec<u8> {
    text.as_bytes()
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

/// A key whose bytes follow from what it is for.
pub fn key(kind: KeyKind, scope: &str) -> Key {
    let mut bytes = [kind as u8 + 1; 32];
    for (i, b) in scope.bytes().enumerate() {
        bytes[i % 32] = bytes[i % 32].wrapping_mul(31).wrapping_add(b);
    }
    let secret = SecretKey::new(bytes);
    let kcv = kdf::key_check_value(&secret);
    Key {
        id: kdf::key_id(&kcv),
        kcv,
        kind,
        tenant: TENANT.into(),
        scope: scope.parse().unwrap(),
        version: match scope.parse().unwrap() {
            Scope::Version(n) => n,
            _ => 1,
        },
        state: KeyState::Active,
        seal_until: None,
        secret: Some(secret),
        budget: Budget::new(1 << 30),
    }
}

/// A keyring with the roots and one data key for `schema`, of this process.
pub fn keyring(schema: &str) -> Arc<Keyring> {
    keyring_of(vec![key(KeyKind::Data, &format!("schema:{schema}"))])
}

/// A keyring with the roots and these keys.
pub fn keyring_of(mut keys: Vec<Key>) -> Arc<Keyring> {
    keys.push(key(KeyKind::Index, "v1"));
    keys.push(key(KeyKind::Deterministic, "v1"));
    keys.push(key(KeyKind::SubjectRef, "v1"));
    Arc::new(Keyring::new(TENANT, keys.into_iter().map(Arc::new)))
}

/// One schema, named `t` unless the document says otherwise.
pub fn schemas(documents: &[&str]) -> SchemaSet {
    let compiled = documents.iter().map(|d| match compile(d.as_bytes(), &Grants::local()) {
        Ok(compiled) => Arc::new(compiled.schema),
        Err(faults) => panic!("{d}\n{faults:#?}"),
    });
    SchemaSet::new(compiled.collect()).unwrap()
}

/// A schema document named `t` with these members besides.
pub fn document(members: &str) -> String {
    format!(r#"{{"veilstream":1,"name":"t","version":1,{members}}}"#)
}

/// A transformer, its keys and schemas.
pub struct Bench {
    pub schemas: SchemaSet,
    pub keys: Arc<Keyring>,
    pub transformer: Transformer,
    pub out: Output,
}

impl Bench {
    /// Under a schema named `t` with these members.
    pub fn new(members: &str) -> Self {
        Self::with(&[&document(members)], keyring("t"))
    }

    pub fn with(documents: &[&str], keys: Arc<Keyring>) -> Self {
        Self {
            schemas: schemas(documents),
            keys,
            transformer: Transformer::new(Box::new(OsRandom)),
            out: Output::default(),
        }
    }

    pub fn record(&mut self, record: &Record<'_>) -> Outcome {
        self.transformer.transform(&self.schemas, &self.keys, record, &mut self.out)
    }

    pub fn outcome(&mut self, value: &[u8]) -> Outcome {
        self.record(&value_record(value))
    }

    /// The protected value.
    pub fn protect(&mut self, value: &str) -> String {
        match self.outcome(value.as_bytes()) {
            Outcome::Protected(_) => String::from_utf8(self.out.value.clone()).unwrap(),
            other => panic!("{value}: {other:?}"),
        }
    }

    pub fn rejected(&mut self, value: &str) -> RejectCode {
        match self.outcome(value.as_bytes()) {
            Outcome::Rejected(reject) => reject.code,
            other => panic!("{value}: {other:?}\n{}", String::from_utf8_lossy(&self.out.value)),
        }
    }

    /// Reveals everything.
    pub fn reveal(&self, value: &str) -> (String, Report) {
        self.reveal_with(value, &RevealOptions::default())
    }

    pub fn reveal_with(&self, value: &str, options: &RevealOptions<'_>) -> (String, Report) {
        let (mut out, mut report) = (Vec::new(), Report::default());
        let schema = &self.schemas.schemas()[0];
        Revealer::default()
            .reveal(
                schema,
                KeySource::of(&self.keys),
                value.as_bytes(),
                options,
                &mut out,
                &mut report,
            )
            .unwrap();
        (String::from_utf8(out).unwrap(), report)
    }

    /// Reads under these decisions, strictly.
    pub fn disclose(&self, value: &str, decisions: &[Decision]) -> (String, Disclosure) {
        self.disclose_with(value, &DisclosureOptions { decisions, strict: true })
    }

    pub fn disclose_with(
        &self,
        value: &str,
        options: &DisclosureOptions<'_>,
    ) -> (String, Disclosure) {
        let (mut out, mut report) = (b"left over".to_vec(), Disclosure::default());
        let keys = HeldKeys { keyring: &self.keys, fetched: &FetchedKeys::default() };
        let schema = &self.schemas.schemas()[0];
        let done = Revealer::default()
            .disclose(schema, keys, value.as_bytes(), options, &mut out, &mut report)
            .unwrap();
        assert_eq!(done, Disclosed::Whole);
        (String::from_utf8(out).unwrap(), report)
    }

    /// Protects and reveals; the result is the input. Returns what was between.
    pub fn there_and_back(&mut self, value: &str) -> String {
        let protected = self.protect(value);
        let (revealed, report) = self.reveal(&protected);
        assert_eq!(revealed, value, "by way of {protected}");
        assert!(
            report.fields.iter().all(|(_, s)| matches!(s, Status::Revealed | Status::NoToken)),
            "{report:?}"
        );
        protected
    }
}

pub fn value_record(value: &[u8]) -> Record<'_> {
    Record { value: Some(value), now: NOW, ..Record::default() }
}

pub fn full_record<'a>(
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: &'a [Header<'a>],
) -> Record<'a> {
    Record { key, value, headers, now: NOW, ..Record::default() }
}

/// `text` with every token replaced by `<suite.flags>` and every index tag by `<index>`.
pub fn shape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('"') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = 1 + from[1..]
            .char_indices()
            .scan(false, |escaped, (i, c)| {
                let here = *escaped;
                *escaped = c == '\\' && !here;
                Some((i, c, here))
            })
            .find(|(_, c, escaped)| *c == '"' && !escaped)
            .map_or(from.len() - 1, |(i, ..)| i);
        let inner = &from[1..end];
        let name = if let Ok(header) = veilstream_engine::inspect::inspect(inner.as_bytes()) {
            format!("<{}.{}>", header.suite.id(), header.flags)
        } else if inner.starts_with("1~") {
            "<index>".to_owned()
        } else {
            format!("\"{inner}\"")
        };
        out.push_str(&name);
        rest = &from[end + 1..];
    }
    out + rest
}
