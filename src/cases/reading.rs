//! What a reader would see of a case's record: the real thing, under the keys of the run.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use veilstream_engine::reveal::{
    Decision, Disclosure, DisclosureOptions, FetchedKeys, HeldKeys, ReadStatus, Revealer,
};
use veilstream_engine::schema::Schema;

use super::{Case, Runner, compare, present};
use crate::ephemeral::EphemeralKeys;
use crate::keys::{KeyFault, KeySource as _};

/// Somebody who reads the record of a case.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseReader {
    /// Their roles, as policies name them.
    pub roles: Vec<String>,
    /// What they read for.
    pub purpose: String,
    /// Why, in their words.
    pub reason: Option<String>,
    /// The value as they see it: places opened, masked, or null. Without it the value is shown.
    #[serde(default, deserialize_with = "present")]
    pub sees: Option<Value>,
}

/// A case's record, as somebody reads it.
#[derive(Debug, Clone, PartialEq)]
pub struct CaseReading {
    /// The value: each protected place opened, masked or null, indexes gone.
    pub value: Value,
    /// Id and status of each field of the schema.
    pub fields: Vec<(Arc<str>, ReadStatus)>,
}

impl CaseReading {
    /// How the value differs from what a reader must see, by JSON pointer.
    #[must_use]
    pub fn differences(&self, expected: &Value) -> Vec<String> {
        let mut differences = Vec::new();
        compare("/sees", Some(expected), Some(&self.value), &mut differences);
        differences
    }
}

impl Runner {
    /// What somebody reads of the record that comes out, under these decisions: by index of the
    /// field in the schema, and withheld where there is none. `None`: the case has no value, or its
    /// record is rejected.
    ///
    /// # Errors
    /// Keys cannot be made.
    pub fn read(
        &mut self,
        case: &Case,
        decisions: &[Decision],
    ) -> Result<Option<CaseReading>, KeyFault> {
        let read = self.protected(&case.input, |revealer, keys, schema, record, output| {
            record.value.and_then(|_| reading(revealer, keys, schema, &output.value, decisions))
        })?;
        Ok(read.ok().flatten())
    }
}

fn reading(
    revealer: &mut Revealer,
    keys: &EphemeralKeys,
    schema: &Schema,
    protected: &[u8],
    decisions: &[Decision],
) -> Option<CaseReading> {
    let mut tokens = Vec::new();
    revealer.tokens(schema, protected, &mut tokens).ok()?;
    let kids = tokens.iter().map(|token| token.header.kid);
    let fetched: FetchedKeys = kids.map(|kid| (kid, keys.lookup(&kid).ok().flatten())).collect();
    let (mut out, mut report) = (Vec::new(), Disclosure::default());
    let held = HeldKeys { keyring: &keys.keyring(), fetched: &fetched };
    let options = DisclosureOptions { decisions, strict: true };
    revealer.disclose(schema, held, protected, &options, &mut out, &mut report).ok()?;
    let ids = schema.fields.iter().map(|field| field.id.clone());
    let fields = ids.zip(report.fields).collect();
    Some(CaseReading { value: serde_json::from_slice(&out).ok()?, fields })
}
