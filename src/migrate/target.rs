//! What stands in the place of an old value: a token of the document's field and its index, made as
//! a record of the field's schema makes them.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use veilstream_engine::compile::{Grants, SchemaSet, compile};
use veilstream_engine::key::{Key, KeyId};
use veilstream_engine::record::Record;
use veilstream_engine::reveal::{KeySource as HeldKeys, Report, RevealOptions, Revealer, Status};
use veilstream_engine::scan::is_json_text;
use veilstream_engine::schema::{Field, Schema, ValueType};
use veilstream_engine::{RejectCode, inspect};
use zeroize::Zeroizing;

use super::error::MigrateError;
use crate::keys::{KeySource, now};
use crate::protect::Protector;

/// Member of a row's value in the records that the engine gets.
const VALUE: &str = "value";

/// Columns of the table, by what they are to the field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TargetColumns {
    /// The old form.
    pub source: String,
    /// Tokens; the same column, or another.
    pub target: String,
    /// Blind indexes; `None`: the field has none, or the table.
    pub index: Option<String>,
    /// Whose row it is.
    pub subject: Option<String>,
    /// Columns of the bound values, in the order of the field's names.
    pub bind: Vec<String>,
}

/// Seals and opens values of one field, row by row.
pub struct Target {
    set: Arc<SchemaSet>,
    protector: Protector,
    revealer: Revealer,
    /// Names of the bound values.
    bind: Vec<String>,
}

/// A row as the engine gets it.
pub(super) struct RowValue<'a> {
    pub(super) text: &'a [u8],
    pub(super) subject: Option<&'a [u8]>,
    pub(super) bind: Vec<&'a [u8]>,
}

/// What stands in the place of a value.
pub(super) struct SealedValue {
    pub(super) token: String,
    pub(super) index: Option<String>,
}

impl Target {
    /// The field of that id of a document, alone: a row has nothing else of the document's records.
    ///
    /// # Errors
    /// [`MigrateError::Field`].
    pub fn new(document: &[u8], field: &str, keys: &dyn KeySource) -> Result<Self, MigrateError> {
        let fault =
            |what: &str| MigrateError::Field { field: field.to_owned(), what: what.to_owned() };
        let value: Value = serde_json::from_slice(document).map_err(|_| {
            fault("its document is no JSON; check it with `veilstream schema check`")
        })?;
        let (reduced, bind) = reduced(&value, field).map_err(fault)?;
        let text = reduced.to_string();
        let compiled = compile(text.as_bytes(), &Grants::local())
            .map_err(|_| fault("its document has faults; see `veilstream schema check`"))?;
        let set = SchemaSet::new(vec![Arc::new(compiled.schema)])
            .map_err(|_| fault("its document has faults; see `veilstream schema check`"))?;
        let set = Arc::new(set);
        let protector = Protector::new(set.clone(), keys.keyring()).one_shot();
        let mut revealer = Revealer::default();
        // What it opens is compared and indexed, and shown to nobody.
        revealer.open_to_seal();
        Ok(Self { set, protector, revealer, bind })
    }

    /// Whether the data subject must be known.
    #[must_use]
    pub fn has_subject(&self) -> bool {
        !self.schema().subjects.is_empty()
    }

    /// Names of the values that tokens are bound to.
    #[must_use]
    pub fn bind(&self) -> &[String] {
        &self.bind
    }

    /// Whether it has a blind index.
    #[must_use]
    pub fn has_index(&self) -> bool {
        self.field().index.is_some()
    }

    /// The schema, of this field alone.
    #[must_use]
    pub fn schema(&self) -> &Schema {
        &self.set.schemas()[0]
    }

    fn field(&self) -> &Field {
        &self.schema().fields[0]
    }

    /// The key of a token of this field; `None`: the text is no such token.
    pub(super) fn key_of(&self, cell: &[u8]) -> Option<KeyId> {
        let header = inspect::inspect(cell).ok()?;
        (header.fid == self.field().fid).then_some(header.kid)
    }

    /// Takes the keys of a new page.
    pub(super) fn renew(&mut self, keys: &dyn KeySource) {
        self.protector.take_snapshots(self.set.clone(), keys.keyring());
    }

    /// Seals the values of a page; of each, or why not.
    pub(super) fn seal(
        &mut self,
        rows: &[RowValue<'_>],
        keys: &dyn KeySource,
    ) -> Result<Vec<Result<SealedValue, RejectCode>>, MigrateError> {
        let documents: Vec<Option<Zeroizing<String>>> =
            rows.iter().map(|row| self.document(row)).collect();
        let time = now();
        let mut sealed = Vec::with_capacity(rows.len());
        for (i, document) in documents.iter().enumerate() {
            let Some(document) = document else {
                sealed.push(Err(RejectCode::WrongType));
                continue;
            };
            let ahead = documents[i + 1..].iter().flatten().map(|text| record(text, time));
            let done = self.protector.protect(&record(document, time), ahead, keys)?;
            sealed.push(match done {
                Ok(_) => Ok(written(&self.protector.output().value)?),
                Err(reject) => Err(reject.code),
            });
        }
        Ok(sealed)
    }

    /// The value of a token in its row, as text; `None`: it does not open.
    pub(super) fn open(
        &mut self,
        row: &RowValue<'_>,
        keys: &dyn KeySource,
    ) -> Option<Zeroizing<String>> {
        let token = Value::String(std::str::from_utf8(row.text).ok()?.to_owned());
        let document = self.members(token.to_string(), row)?;
        let (mut out, mut report) = (Vec::new(), Report::default());
        let keyring = keys.keyring();
        let lookup = |id: &KeyId| -> Option<Arc<Key>> { keys.lookup(id).ok().flatten() };
        let held = HeldKeys { keyring: &keyring, lookup: &lookup };
        let set = self.set.clone();
        self.revealer
            .reveal(
                &set.schemas()[0],
                held,
                document.as_bytes(),
                &RevealOptions::default(),
                &mut out,
                &mut report,
            )
            .ok()?;
        let out = Zeroizing::new(out);
        if report.fields.first().map(|(_, status)| *status) != Some(Status::Revealed) {
            return None;
        }
        let revealed: Map<String, Value> = serde_json::from_slice(&out).ok()?;
        Some(Zeroizing::new(match revealed.get(VALUE)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }))
    }

    /// The record of a row; `None`: the text is no value of the field's type.
    fn document(&self, row: &RowValue<'_>) -> Option<Zeroizing<String>> {
        let text = std::str::from_utf8(row.text).ok()?;
        let value = match self.field().value_type {
            None | Some(ValueType::String) => Zeroizing::new(json!(text).to_string()),
            Some(_) if is_json_text(row.text) => Zeroizing::new(text.to_owned()),
            Some(_) => return None,
        };
        self.members(value.to_string(), row)
    }

    fn members(&self, value: String, row: &RowValue<'_>) -> Option<Zeroizing<String>> {
        let value = Zeroizing::new(value);
        let mut document = Zeroizing::new(format!("{{\"{VALUE}\":{}", *value));
        let others = row.subject.map(|subject| ("subject".to_owned(), subject));
        let bound = row.bind.iter().enumerate().map(|(i, text)| (format!("bind{i}"), *text));
        for (name, text) in others.into_iter().chain(bound) {
            let text = json!(std::str::from_utf8(text).ok()?);
            document.push_str(&format!(",\"{name}\":{text}"));
        }
        document.push('}');
        Some(document)
    }
}

fn record(document: &str, now: u64) -> Record<'_> {
    Record { value: Some(document.as_bytes()), now, ..Record::default() }
}

/// Token and index of a record that went through the engine.
fn written(output: &[u8]) -> Result<SealedValue, MigrateError> {
    let members: Map<String, Value> =
        serde_json::from_slice(output).map_err(|_| MigrateError::Engine)?;
    let text = |name: &str| members.get(name).and_then(Value::as_str).map(ToOwned::to_owned);
    let token = text(VALUE).ok_or(MigrateError::Engine)?;
    Ok(SealedValue { token, index: text(&format!("{VALUE}_bidx")) })
}

/// The document with this field alone, whose places are members of a flat record; the names of the
/// bound values.
fn reduced(document: &Value, id: &str) -> Result<(Value, Vec<String>), &'static str> {
    let fields = document.get("fields").and_then(Value::as_array);
    let field = fields.and_then(|fields| fields.iter().find(|field| field["id"] == *id));
    let Some(Value::Object(field)) = field else {
        return Err("its document has no field of that id");
    };
    let mut field = field.clone();
    match field.get("format").and_then(Value::as_str) {
        None | Some("veilstream") => {}
        Some(_) => {
            return Err("is in the form of another system in the document; remove \"format\"");
        }
    }
    if !matches!(
        field.get("protect").and_then(Value::as_str),
        None | Some("encrypt" | "deterministic")
    ) {
        return Err("has no tokens; only protect encrypt and deterministic have");
    }
    field.insert("path".to_owned(), format!("$.{VALUE}").into());
    field.remove("required");
    if let Some(index) = field.get_mut("index").and_then(Value::as_object_mut) {
        if index.contains_key("of") {
            return Err("has an index of several values, which a column alone does not tell; \
                leave \"of\" out, and fill that index with `veilstream transform`");
        }
        index.remove("into");
    }
    let mut names = Vec::new();
    if let Some(bind) = field.get_mut("bind").and_then(Value::as_array_mut) {
        for (i, bound) in bind.iter_mut().enumerate() {
            names.push(bound["name"].as_str().unwrap_or_default().to_owned());
            bound["path"] = format!("$.bind{i}").into();
        }
    }
    let mut reduced = json!({ "veilstream": 1, "residue": "off", "fields": [field] });
    for member in ["name", "version", "subject_domain", "subject_optional"] {
        if let Some(value) = document.get(member) {
            reduced[member] = value.clone();
        }
    }
    if document.get("subject").is_some() {
        reduced["subject"] = "$.subject".into();
    }
    Ok((reduced, names))
}
