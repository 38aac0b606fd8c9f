//! Values of a column, sealed.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef};
use arrow_schema::DataType;
use veilstream::keys::KeyFault;
use veilstream_engine::RejectCode;
use veilstream_engine::key::{Key, KeyId, KeyState, SubjectRef};
use veilstream_engine::seal::{NoncePool, PayloadKind, Sealer};
use veilstream_engine::token::Suite;
use veilstream_engine::transform::NeededKey;
use veilstream_keys::OsEntropy;

use super::ColumnFault;
use super::text::{Texts, integers};
use crate::bare::does_not_seal;
use crate::fault::VeilFault;
use crate::interop::InteropSealer;
use crate::parts::ReadingParts;
use crate::target::Target;

/// Sealers that are kept at once: one for each key.
const SEALERS: usize = 1 << 14;

/// Values of a chunk, as JSON texts.
pub(crate) enum Values<'a> {
    Texts(Texts<'a>),
    Integers(Vec<Option<i128>>),
    Floats(Vec<Option<f64>>),
    Booleans(&'a ArrayRef),
    /// JSON texts already.
    Json(Texts<'a>),
}

impl<'a> Values<'a> {
    /// The values of an array.
    ///
    /// # Errors
    /// They have no JSON text.
    pub(crate) fn of(array: &'a ArrayRef) -> Result<Self, ColumnFault> {
        if let Some(integers) = integers(array) {
            return Ok(Self::Integers(integers));
        }
        Ok(match array.data_type() {
            DataType::Boolean => Self::Booleans(array),
            DataType::Float32 => Self::Floats(
                array.as_primitive::<Float32Type>().iter().map(|v| v.map(f64::from)).collect(),
            ),
            DataType::Float64 => Self::Floats(array.as_primitive::<Float64Type>().iter().collect()),
            _ => Self::Texts(Texts::of(array).map_err(|_| ColumnFault::NotValues)?),
        })
    }

    /// Writes the JSON text of a row in the place of `out`'s content; `false`: it is null, or a
    /// number that is none.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        let text = match self {
            Self::Texts(texts) => {
                let Some(text) = texts.get(row) else { return false };
                return serde_json::to_writer(out, text).is_ok();
            }
            Self::Json(texts) => texts.get(row).map(str::to_owned),
            Self::Integers(values) => values[row].map(|value| value.to_string()),
            Self::Floats(values) => {
                values[row].and_then(serde_json::Number::from_f64).map(|number| number.to_string())
            }
            Self::Booleans(array) => {
                array.is_valid(row).then(|| array.as_boolean().value(row).to_string())
            }
        };
        text.is_some_and(|text| {
            out.extend_from_slice(text.as_bytes());
            true
        })
    }

    /// Whether a row is null.
    pub(crate) fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Texts(texts) | Self::Json(texts) => texts.get(row).is_none(),
            Self::Integers(values) => values[row].is_none(),
            Self::Floats(values) => values[row].is_none(),
            Self::Booleans(array) => array.is_null(row),
        }
    }
}

/// Seals values of one field, each under the key of its data subject.
pub(crate) struct ColumnSealer<'p> {
    parts: &'p ReadingParts,
    target: &'p Target,
    nonces: NoncePool,
    /// Seals in the form of another system; `None`: the field has tokens, or it was not asked yet.
    interop: Option<InteropSealer>,
    sealers: HashMap<Option<SubjectRef>, Sealer>,
    keys: HashMap<Option<SubjectRef>, (Arc<Key>, Suite)>,
    is_rotating: bool,
}

impl<'p> ColumnSealer<'p> {
    pub(crate) fn new(parts: &'p ReadingParts, target: &'p Target) -> Self {
        Self {
            parts,
            target,
            nonces: NoncePool::new(Box::new(OsEntropy)),
            interop: None,
            sealers: HashMap::new(),
            keys: HashMap::new(),
            is_rotating: false,
        }
    }

    /// For tokens that are there already: those under no subject's key stay under none.
    pub(crate) fn rotating(self) -> Self {
        Self { is_rotating: true, ..self }
    }

    /// Fetches the keys of these data subjects at once.
    ///
    /// # Errors
    /// They are not available, or somebody was erased.
    pub(crate) fn prepare(
        &mut self,
        subjects: impl Iterator<Item = Option<SubjectRef>>,
    ) -> Result<(), VeilFault> {
        if self.target.interop().is_some() {
            self.interop = InteropSealer::of(self.target, &self.parts.keys.keyring())?;
            return Ok(());
        }
        let mut asked: Vec<Option<SubjectRef>> = Vec::new();
        let mut needed: Vec<NeededKey> = Vec::new();
        let mut suites = Vec::new();
        let mut new: Vec<_> = subjects.filter(|subject| !self.keys.contains_key(subject)).collect();
        new.sort_unstable();
        new.dedup();
        for subject in new {
            let (key, suite) = self.target.sealing_key(subject, self.is_rotating)?;
            asked.push(subject);
            needed.push(key);
            suites.push(suite);
        }
        if needed.is_empty() {
            return Ok(());
        }
        let keys = self.parts.keys.fetch(&needed)?;
        if keys.len() != needed.len() {
            return Err(KeyFault("a key did not come".to_owned()).into());
        }
        for ((subject, key), suite) in asked.into_iter().zip(keys).zip(suites) {
            self.keys.insert(subject, (key, suite));
        }
        Ok(())
    }

    /// The key that seals for a data subject now.
    ///
    /// # Errors
    /// It is not available.
    pub(crate) fn newest(&mut self, subject: Option<SubjectRef>) -> Result<KeyId, VeilFault> {
        if !self.keys.contains_key(&subject) {
            self.prepare(std::iter::once(subject))?;
        }
        let missing = || VeilFault::from(KeyFault("a key did not come".to_owned()));
        self.keys.get(&subject).map(|(key, _)| key.id).ok_or_else(missing)
    }

    /// Appends a token to `out`; in the form of another system, its text there.
    ///
    /// # Errors
    /// The data subject was erased, or keys are not available.
    pub(crate) fn seal(
        &mut self,
        subject: Option<SubjectRef>,
        kind: PayloadKind,
        payload: &[u8],
        binding: Option<&[u8]>,
        out: &mut Vec<u8>,
    ) -> Result<(), VeilFault> {
        let Some(field) = self.target.field() else {
            return Err(self.target.rejected(RejectCode::WrongType));
        };
        if field.interop.is_some() && self.interop.is_none() {
            self.prepare(std::iter::once(subject))?;
        }
        if let Some(sealer) = &mut self.interop {
            return sealer.seal(self.target, payload, out);
        }
        if !self.keys.contains_key(&subject) {
            self.prepare(std::iter::once(subject))?;
        }
        let Some((key, suite)) = self.keys.get(&subject) else {
            return Err(KeyFault("a key did not come".to_owned()).into());
        };
        if key.state == KeyState::Shredded {
            return Err(self.target.rejected(RejectCode::ErasedSubject));
        }
        if !self.sealers.contains_key(&subject) {
            if self.sealers.len() >= SEALERS {
                self.sealers.clear();
            }
            let sealer = Sealer::new(key.clone(), *suite, field.fid).map_err(does_not_seal)?;
            self.sealers.insert(subject, sealer);
        }
        let Some(sealer) = self.sealers.get_mut(&subject) else { return Ok(()) };
        let pad = if *suite == Suite::AesSiv { 16 } else { field.pad };
        sealer.seal(kind, payload, pad, binding, &mut self.nonces, out).map_err(does_not_seal)
    }
}
