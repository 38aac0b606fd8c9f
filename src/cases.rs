//! Cases of a schema document: an event and what must become of it. Runs with keys that live as
//! long as the run; nothing it shows is real data.

mod compare;
mod reading;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::index::Indexer;
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::record::{Header, HeaderOutput, KeyOutput, Output, Record};
use veilstream_engine::reveal::{KeySource as Lookup, Report, RevealOptions, Revealer};
use veilstream_engine::scan::Tape;
use veilstream_engine::schema::{IndexRule, Schema};
use veilstream_engine::select::Selection;
use veilstream_engine::{Key, KeyId, KeyKind, Keyring, RejectCode};

use compare::compare;
pub use reading::CaseReading;

use crate::ephemeral::EphemeralKeys;
use crate::keys::{KeyFault, KeySource};
use crate::protect::Protector;

/// What `<name>.cases.json` holds.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cases {
    /// For editors.
    #[serde(rename = "$schema")]
    _schema: Option<String>,
    /// What the file is about.
    #[serde(rename = "description")]
    _description: Option<String>,
    /// The cases, in order.
    pub cases: Vec<Case>,
}

/// One event and what must become of it: `out`, or `reject`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What it shows.
    pub name: String,
    #[serde(rename = "in")]
    input: CaseInput,
    /// The record with tokens opened: `{"$token": value}` where a token stands, `{"$index":
    /// normalized value}` where an index stands.
    out: Option<Value>,
    /// Reason code of the rejection.
    reject: Option<String>,
    /// Id of the field it is rejected for.
    field: Option<String>,
}

/// A record. Without `value` and `text` it is a tombstone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CaseInput {
    #[serde(default, deserialize_with = "present")]
    value: Option<Value>,
    /// The value as text, for what is not JSON or must keep its spelling.
    text: Option<String>,
    key: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Option<String>>,
}

/// Why a file of cases cannot be run. The numbers are places in `cases`, from 0.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    /// Not JSON, or not of the form.
    #[error("is no file of cases: {0}")]
    Form(#[from] serde_json::Error),
    /// It has no case.
    #[error(
        "/cases: is empty; add {{ \"name\": .., \"in\": {{ \"value\": .. }}, \"out\": {{ \"value\": .. }} }}"
    )]
    Empty,
    /// A field is named where nothing is rejected.
    #[error("/cases/{0}/field: belongs to \"reject\"; remove it")]
    Field(usize),
    /// No such reason.
    #[error("/cases/{case}/reject: must be one of {}", RejectCode::ALL.map(RejectCode::as_str).join(", "))]
    Reject {
        /// The case.
        case: usize,
    },
    /// Neither or both of what may come of an event.
    #[error("/cases/{0}: needs either \"out\" or \"reject\"")]
    Expectation(usize),
    /// An event is given twice.
    #[error("/cases/{0}/in: has \"value\" and \"text\"; keep one")]
    Input(usize),
}

/// Where the cases of a schema document are: `customers.json` has `customers.cases.json` beside it.
#[must_use]
pub fn file_of(document: &Path) -> PathBuf {
    document.with_extension("cases.json")
}

impl Cases {
    /// Reads a file of cases.
    ///
    /// # Errors
    /// [`CasesError`]: what is wrong, and where.
    pub fn parse(text: &[u8]) -> Result<Self, CasesError> {
        let cases: Self = serde_json::from_slice(text)?;
        if cases.cases.is_empty() {
            return Err(CasesError::Empty);
        }
        for (i, case) in cases.cases.iter().enumerate() {
            let known =
                |reason: &String| RejectCode::ALL.iter().any(|code| code.as_str() == reason);
            match (&case.out, &case.reject) {
                (Some(_), None) if case.field.is_some() => {
                    return Err(CasesError::Field(i));
                }
                (Some(_), None) => {}
                (None, Some(reason)) if known(reason) => {}
                (None, Some(_)) => {
                    return Err(CasesError::Reject { case: i });
                }
                _ => return Err(CasesError::Expectation(i)),
            }
            if case.input.value.is_some() && case.input.text.is_some() {
                return Err(CasesError::Input(i));
            }
        }
        Ok(cases)
    }
}

/// Why no record comes out, and the field it is for.
type CaseRefusal = (RejectCode, Option<Arc<str>>);

/// Runs cases of one schema.
pub struct Runner {
    keys: EphemeralKeys,
    protector: Protector,
    revealer: Revealer,
}

impl Runner {
    /// A runner with keys of its own.
    ///
    /// # Errors
    /// The schema contradicts itself, or the system gives no random bytes.
    pub fn new(schema: Arc<Schema>) -> anyhow::Result<Self> {
        let set = SchemaSet::new(vec![schema]).map_err(|faults| {
            anyhow::anyhow!(
                "{}",
                faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            )
        })?;
        let keys = EphemeralKeys::default();
        keys.prepare(&set)?;
        let protector = Protector::new(Arc::new(set), keys.keyring());
        Ok(Self { keys, protector, revealer: Revealer::default() })
    }

    /// Runs one case; how what became of the event differs from what must, nothing if it does not.
    ///
    /// # Errors
    /// Keys cannot be made.
    pub fn run(&mut self, case: &Case) -> Result<Vec<String>, KeyFault> {
        let actual = self.transform(&case.input, case.out.as_ref())?;
        let mut expected = match (&case.out, &case.reject) {
            (Some(out), _) => json!({ "out": out }),
            (None, reject) => json!({ "reject": reject }),
        };
        let mut actual = match actual {
            Ok(out) => json!({ "out": out }),
            Err((reason, field)) => json!({ "reject": reason.as_str(), "field": field.as_deref() }),
        };
        match &case.field {
            Some(field) => expected["field"] = field.as_str().into(),
            // A case that does not name the field does not care.
            None => drop(actual.as_object_mut().and_then(|a| a.remove("field"))),
        }
        let mut differences = Vec::new();
        compare("", Some(&expected), Some(&actual), &mut differences);
        Ok(differences)
    }

    /// The record that comes out, with tokens and indexes opened; or why none does.
    fn transform(
        &mut self,
        input: &CaseInput,
        expected: Option<&Value>,
    ) -> Result<Result<Value, CaseRefusal>, KeyFault> {
        self.protected(input, |revealer, keys, schema, record, output| {
            let shown = Shown { keys, keyring: keys.keyring(), indexes: BTreeMap::new() };
            shown.record(schema, record, output, revealer, expected)
        })
    }

    /// Does something with the record that comes out, or says why none does.
    fn protected<T>(
        &mut self,
        input: &CaseInput,
        then: impl FnOnce(&mut Revealer, &EphemeralKeys, &Schema, &Record<'_>, &Output) -> T,
    ) -> Result<Result<T, CaseRefusal>, KeyFault> {
        let value = input.text.clone().or_else(|| input.value.as_ref().map(Value::to_string));
        let headers: Vec<Header<'_>> = input
            .headers
            .iter()
            .map(|(n, v)| (n.as_bytes(), v.as_deref().map(str::as_bytes)))
            .collect();
        let record = Record {
            key: input.key.as_deref().map(str::as_bytes),
            value: value.as_deref().map(str::as_bytes),
            headers: &headers,
            topic: None,
            now: 0,
        };
        let index = match self.protector.protect(&record, std::iter::empty(), &self.keys)? {
            Ok(index) => index,
            Err(reject) => return Ok(Err((reject.code, reject.field))),
        };
        let schema = &self.protector.schemas().schemas()[index];
        let output = self.protector.output();
        Ok(Ok(then(&mut self.revealer, &self.keys, schema, &record, output)))
    }
}

/// Shows a record with its tokens and indexes opened.
struct Shown<'a> {
    keys: &'a EphemeralKeys,
    keyring: Arc<Keyring>,
    /// Normalized values by their index: in a narrow bucket there may be several.
    indexes: BTreeMap<String, BTreeSet<NormalForm>>,
}

/// A normalized value, or the parts of a compound index.
type NormalForm = Vec<String>;

impl Shown<'_> {
    fn record(
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
        let lookup = |id: &KeyId| -> Option<Arc<Key>> { self.keys.lookup(id).ok().flatten() };
        let (mut revealed, mut report) = (Vec::new(), Report::default());
        let options = RevealOptions { fields: None, keep_indexes: true };
        let done = revealer.reveal(
            schema,
            Lookup { keyring: &self.keyring, lookup: &lookup },
            protected,
            &options,
            &mut revealed,
            &mut report,
        );
        match (serde_json::from_slice(protected), serde_json::from_slice(&revealed)) {
            (Ok(protected), Ok(revealed)) if done.is_ok() => {
                self.open(&protected, &revealed, expected)
            }
            _ => text(Some(protected)),
        }
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

/// A member that is `null` is there.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
