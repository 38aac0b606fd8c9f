//! A record with its tokens and indexes opened, as cases write it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use veilstream_engine::Keyring;
use veilstream_engine::index::Indexer;
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::record::{HeaderOutput, KeyOutput, Output, Record};
use veilstream_engine::reveal::{KeySource as Lookup, Report, RevealOptions, Revealer};
use veilstream_engine::scan::Tape;
use veilstream_engine::schema::{IndexRule, Schema};
use veilstream_engine::select::Selection;
use veilstream_engine::{Key, KeyId, KeyKind};

use crate::ephemeral::EphemeralKeys;
use crate::keys::KeySource as _;

/// Shows a record with its tokens and indexes opened.
pub(super) struct Shown<'a> {
    keys: &'a EphemeralKeys,
    keyring: Arc<Keyring>,
    /// Normalized values by their index: in a narrow bucket there may be several.
    indexes: BTreeMap<String, BTreeSet<NormalForm>>,
}

/// A normalized value, or the parts of a compound index.
type NormalForm = Vec<String>;

impl<'a> Shown<'a> {
    pub(super) fn new(keys: &'a EphemeralKeys) -> Self {
        Self { keys, keyring: keys.keyring(), indexes: BTreeMap::new() }
    }

    pub(super) fn record(
        mut self,
        schema: &Schema,
        record: &Record<'_>,
        output: &Output,
        revealer: &mut Revealer,
        expected: Option<&Value>,
    ) -> Value {
        let mut shown = Map::new();
        let expected = |part: &str| expected.and_then(|e| e.get(part));
        if let Some(value) = record.value {
            self.index_fields(schema, value);
            shown.insert(
                "value".to_owned(),
                self.value(schema, &output.value, revealer, expected("value")),
            );
        }
        if let Some(key) = record.key {
            let protected = if output.key == KeyOutput::Same { key } else { &output.key_bytes };
            if let Some(rule) = &schema.key {
                let index = rule.index.as_ref();
                shown.insert(
                    "key".to_owned(),
                    self.bytes(&rule.name, index, key, Some(protected), revealer),
                );
            } else {
                shown.insert("key".to_owned(), text(Some(protected)));
            }
        }
        if !record.headers.is_empty() {
            let mut headers = Map::new();
            for header in &output.headers {
                let (HeaderOutput::Same(i) | HeaderOutput::Replaced(i, _)) = header;
                let (name, value) = record.headers[*i];
                let name = String::from_utf8_lossy(name).into_owned();
                let rule = schema.headers.iter().find(|rule| rule.header == name);
                let shown = match (header, rule) {
                    (HeaderOutput::Replaced(_, range), Some(rule)) => self.bytes(
                        &rule.name,
                        rule.index.as_ref(),
                        value.unwrap_or_default(),
                        Some(&output.header_bytes[range.clone()]),
                        revealer,
                    ),
                    _ => text(value),
                };
                headers.insert(name, shown);
            }
            shown.insert("headers".to_owned(), headers.into());
        }
        shown.into()
    }

    /// The protected value beside its revealed self: where they differ a token stood.
    fn value(
        &self,
        schema: &Schema,
        protected: &[u8],
        revealer: &mut Revealer,
        expected: Option<&Value>,
    ) -> Value {
        let protected = schema.plain_value(protected);
        let revealed = self.revealed(schema, protected, revealer, true).unwrap_or_default();
        match (serde_json::from_slice(protected), serde_json::from_slice(&revealed)) {
            (Ok(protected), Ok(revealed)) => self.open(&protected, &revealed, expected),
            _ => text(Some(protected)),
        }
    }

    /// The value with its tokens opened; `None`: it cannot be read.
    pub(super) fn revealed(
        &self,
        schema: &Schema,
        protected: &[u8],
        revealer: &mut Revealer,
        keep_indexes: bool,
    ) -> Option<Vec<u8>> {
        let lookup = |id: &KeyId| -> Option<Arc<Key>> { self.keys.lookup(id).ok().flatten() };
        let (mut revealed, mut report) = (Vec::new(), Report::default());
        let options = RevealOptions { fields: None, keep_indexes };
        let keys = Lookup { keyring: &self.keyring, lookup: &lookup };
        revealer
            .reveal(schema, keys, protected, &options, &mut revealed, &mut report)
            .ok()
            .map(|()| revealed)
    }

    fn open(&self, protected: &Value, revealed: &Value, expected: Option<&Value>) -> Value {
        match (protected, revealed) {
            (Value::Object(a), Value::Object(b)) => {
                let member = |(name, value): (&String, &Value)| {
                    let opened = self.open(
                        value,
                        b.get(name).unwrap_or(value),
                        expected.and_then(|e| e.get(name)),
                    );
                    (name.clone(), opened)
                };
                a.iter().map(member).collect::<Map<_, _>>().into()
            }
            (Value::Array(a), Value::Array(b)) => {
                let opened = a
                    .iter()
                    .zip(b)
                    .enumerate()
                    .map(|(i, (x, y))| self.open(x, y, expected.and_then(|e| e.get(i))));
                opened.collect::<Vec<_>>().into()
            }
            (Value::String(token), opened) if token.starts_with("vs1.") && protected != opened => {
                json!({ "$token": opened })
            }
            (Value::String(text), _) => {
                self.index(text, expected).unwrap_or_else(|| protected.clone())
            }
            _ => protected.clone(),
        }
    }

    /// A record key or header: its token or index opened.
    fn bytes(
        &mut self,
        name: &str,
        index: Option<&IndexRule>,
        input: &[u8],
        output: Option<&[u8]>,
        revealer: &mut Revealer,
    ) -> Value {
        let lookup = |id: &KeyId| -> Option<Arc<Key>> { self.keys.lookup(id).ok().flatten() };
        let mut payload = Vec::new();
        let keys = Lookup { keyring: &self.keyring, lookup: &lookup };
        if let Some(token) = output
            && revealer.open(name, keys, token, &mut payload).is_ok()
        {
            return json!({ "$token": String::from_utf8_lossy(&payload) });
        }
        if let Some(rule) = index {
            self.add_index(rule, &[Input::Raw(input)]);
        }
        output
            .and_then(|o| self.index(&String::from_utf8_lossy(o), None))
            .unwrap_or_else(|| text(output))
    }

    /// The normalized value of an index; of several in one bucket, the expected one.
    fn index(&self, index: &str, expected: Option<&Value>) -> Option<Value> {
        let forms = self.indexes.get(index)?;
        let show = |form: &NormalForm| {
            if let [one] = form.as_slice() {
                json!({ "$index": one })
            } else {
                json!({ "$index": form })
            }
        };
        forms
            .iter()
            .map(show)
            .find(|shown| Some(shown) == expected)
            .or_else(|| forms.first().map(show))
    }

    /// Indexes of every value the schema indexes in this document.
    fn index_fields(&mut self, schema: &Schema, doc: &[u8]) {
        let (mut tape, mut selection) = (Tape::default(), Selection::default());
        let doc = &*schema.enveloped_value(doc);
        if tape.scan(doc).is_err() || schema.program.select(doc, &tape, &mut selection).is_err() {
            return;
        }
        let json = |node: u32| Input::Json(&doc[tape.nodes()[node as usize].span()]);
        for (i, field) in schema.fields.iter().enumerate() {
            let Some(rule) = &field.index else { continue };
            let parts: Option<Vec<Input<'_>>> =
                rule.of.iter().map(|path| selection.single(*path).map(json)).collect();
            match parts {
                Some(parts) if !parts.is_empty() => self.add_index(rule, &parts),
                _ => selection
                    .hits
                    .iter()
                    .filter(|hit| usize::from(hit.path) == i)
                    .for_each(|hit| self.add_index(rule, &[json(hit.node)])),
            }
        }
    }

    fn add_index(&mut self, rule: &IndexRule, parts: &[Input<'_>]) {
        let (mut scratch, mut normal, mut form) = (Scratch::default(), Vec::new(), Vec::new());
        for part in parts {
            if !rule.normalize.normalize(*part, &mut scratch, &mut normal) {
                return;
            }
            form.push(String::from_utf8_lossy(&normal).into_owned());
        }
        for root in self.keyring.of_kind(KeyKind::Index) {
            let parts = u16::try_from(form.len()).unwrap_or_default();
            let indexer = Indexer::new(
                root,
                self.keyring.tenant(),
                &rule.domain,
                &rule.normalize.to_string(),
                rule.bits,
                parts,
            );
            if let Some(indexer) = indexer {
                let mut index = Vec::new();
                indexer.write(form.iter().map(String::as_bytes), &mut index);
                self.indexes
                    .entry(String::from_utf8_lossy(&index).into_owned())
                    .or_default()
                    .insert(form.clone());
            }
        }
    }
}

fn text(bytes: Option<&[u8]>) -> Value {
    bytes.map_or(Value::Null, |b| String::from_utf8_lossy(b).into())
}
