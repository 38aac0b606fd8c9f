//! Cases of a schema document: an event and what must become of it. Runs with keys that live as
//! long as the run; nothing it shows is real data.

mod compare;
mod reading;
mod shown;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use veilstream_engine::RejectCode;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::record::{Header, Output, Record};
use veilstream_engine::reveal::Revealer;
use veilstream_engine::schema::Schema;

use compare::compare;
pub use reading::{CaseReader, CaseReading};
use shown::Shown;

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
    /// Who reads the record that comes out, and what they see of it.
    #[serde(default)]
    pub readers: Vec<CaseReader>,
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
    /// Somebody reads what never comes out.
    #[error("/cases/{0}/readers: nothing comes out that could be read; remove it")]
    Readers(usize),
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
            if !case.readers.is_empty()
                && case.out.as_ref().is_none_or(|o| o.get("value").is_none())
            {
                return Err(CasesError::Readers(i));
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

/// A record that came out.
#[derive(Debug, Clone)]
pub struct Sanitized {
    /// Its value.
    pub protected: Vec<u8>,
    /// The same with tokens opened, and without blind indexes.
    pub revealed: Vec<u8>,
}

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

    /// The value that comes out of a case. `None`: none does, or the case has none.
    ///
    /// # Errors
    /// Keys cannot be made.
    pub fn sanitize_case(&mut self, case: &Case) -> Result<Option<Sanitized>, KeyFault> {
        Ok(self.sanitized(&case.input)?.ok().flatten())
    }

    /// The value that comes out of an event without record key and headers, or why none does.
    ///
    /// # Errors
    /// Keys cannot be made.
    pub fn sanitize(&mut self, event: &str) -> Result<Result<Sanitized, RejectCode>, KeyFault> {
        let input = CaseInput {
            value: None,
            text: Some(event.to_owned()),
            key: None,
            headers: BTreeMap::new(),
        };
        Ok(match self.sanitized(&input)? {
            Ok(sanitized) => sanitized.ok_or(RejectCode::NotJson),
            Err((code, _)) => Err(code),
        })
    }

    fn sanitized(
        &mut self,
        input: &CaseInput,
    ) -> Result<Result<Option<Sanitized>, CaseRefusal>, KeyFault> {
        self.protected(input, |revealer, keys, schema, record, output| {
            record.value.and_then(|_| {
                let revealed = Shown::new(keys).revealed(schema, &output.value, revealer, false)?;
                Some(Sanitized { protected: output.value.clone(), revealed })
            })
        })
    }

    /// The record that comes out, with tokens and indexes opened; or why none does.
    fn transform(
        &mut self,
        input: &CaseInput,
        expected: Option<&Value>,
    ) -> Result<Result<Value, CaseRefusal>, KeyFault> {
        self.protected(input, |revealer, keys, schema, record, output| {
            Shown::new(keys).record(schema, record, output, revealer, expected)
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
            ..Record::default()
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

/// A member that is `null` is there.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
