//! What is asked of a column.

use std::collections::BTreeMap;

use arrow_array::{Array as _, ArrayRef};
use veilstream_engine::key::{KeyId, SubjectRef};
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::reveal::ReadStatus;
use veilstream_engine::schema::Protect;
use veilstream_engine::seal::{BarePayload, PayloadKind};
use veilstream_engine::subject::Referrer;
use veilstream_engine::{RejectCode, scan, subject};
use veilstream_reading::audit::Event;

use super::ColumnFault;
use super::build::{BuiltColumn, TextBuilder};
use super::open::{ColumnOpener, RowScalars, Taken};
use super::seal::{ColumnSealer, Values};
use super::text::{Scalars, Texts};
use crate::bare::{newest_indexer, sealed_entry};
use crate::fault::VeilFault;
use crate::held::{Held, subject_of};
use crate::parts::{CallPurpose, ReadingParts};
use crate::target::Target;

/// Scalars as a caller gives them: one as JSON, or a column.
pub(crate) enum GivenScalars {
    One(String),
    Column(Vec<ArrayRef>),
}

/// A column as a caller gives it.
pub(crate) struct ColumnCall {
    pub(crate) field: String,
    pub(crate) chunks: Vec<ArrayRef>,
    pub(crate) bind: Vec<(String, GivenScalars)>,
    pub(crate) subject: Option<GivenScalars>,
    /// Values are JSON texts.
    pub(crate) is_json: bool,
    pub(crate) purpose: CallPurpose,
}

/// A column whose tokens are under the newest keys, as far as they open.
pub(crate) struct RotatedColumn {
    pub(crate) column: BuiltColumn,
    /// Tokens by the key they are under now.
    pub(crate) kids: Vec<(KeyId, u64)>,
}

impl ColumnCall {
    pub(crate) fn rows(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.len()).sum()
    }

    pub(crate) fn texts(&self) -> Result<Vec<(usize, Texts<'_>)>, ColumnFault> {
        let mut base = 0;
        self.chunks
            .iter()
            .map(|chunk| {
                let texts = Texts::of(chunk)?;
                base += texts.len();
                Ok((base - texts.len(), texts))
            })
            .collect()
    }

    fn values<'a>(&self, chunk: &'a ArrayRef) -> Result<Values<'a>, ColumnFault> {
        if self.is_json { Ok(Values::Json(Texts::of(chunk)?)) } else { Values::of(chunk) }
    }

    /// What its rows are tied to.
    pub(crate) fn scalars(&self, target: &Target) -> Result<RowScalars<'_>, VeilFault> {
        row_scalars(target, &self.bind, self.subject.as_ref(), self.rows())
    }
}

/// What rows of a field are tied to, as a caller gives it.
///
/// # Errors
/// It is not what the field asks for, or not of as many rows.
pub(crate) fn row_scalars<'a>(
    target: &Target,
    bind: &'a [(String, GivenScalars)],
    subject: Option<&'a GivenScalars>,
    rows: usize,
) -> Result<RowScalars<'a>, VeilFault> {
    target.check_names(bind.iter().map(|(name, _)| name.as_str()))?;
    let of = |given: &'a GivenScalars| -> Result<Scalars<'a>, VeilFault> {
        match given {
            GivenScalars::Column(chunks) => Ok(Scalars::of(chunks)?),
            GivenScalars::One(json) => {
                let mut text = Vec::new();
                let is_scalar = subject::scalar_text(json.as_bytes(), &mut text);
                if is_scalar { Ok(Scalars::One(text)) } else { Err(target.wrong_bind()) }
            }
        }
    };
    let bind = bind.iter().map(|(name, given)| Ok((name.as_str(), of(given)?)));
    let mut bind = bind.collect::<Result<Vec<_>, VeilFault>>()?;
    bind.sort_by_key(|(name, _)| *name);
    let scalars = RowScalars { bind, subject: subject.map(of).transpose()? };
    if scalars.fits(rows) { Ok(scalars) } else { Err(ColumnFault::Lengths.into()) }
}

impl ReadingParts {
    /// Opens a column of tokens into one of texts: strings as they are, all else as JSON. Rows that
    /// do not open are null. When it returns, its lines are durable.
    ///
    /// # Errors
    /// The column or the call is not as the field asks for, or keys or log are not available.
    pub(crate) fn reveal_column(&self, call: &ColumnCall) -> Result<BuiltColumn, VeilFault> {
        let template = self.entry(Event::Reveal, &call.purpose)?;
        let target = Target::of(&self.schemas(), &call.field)?;
        let (texts, scalars) = (call.texts()?, call.scalars(&target)?);
        let mut held = Held::of(&*self.keys);
        let mut opener = self.opener(&target, &mut held, &scalars)?;
        // A token is longer than what it holds.
        let bytes = call.chunks.iter().map(|chunk| chunk.get_buffer_memory_size() / 3).sum();
        let is_small = texts.iter().all(|(_, texts)| texts.is_small());
        let mut built = TextBuilder::new(call.rows(), bytes, is_small);
        {
            let taken: &mut Taken<'_> =
                &mut |row, _, json, _| Ok(built.set(row, |out| append_text(json, out)));
            self.with_opener(|ciphers| {
                texts
                    .iter()
                    .try_for_each(|part| opener.open((part.0, &part.1), &scalars, ciphers, taken))
            })?;
        }
        self.append(opener.lines(template))?;
        let mut counts = read_counts(&opener);
        if opener.met_honey() {
            // A lone null among values would tell which it was.
            built.clear();
            counts = vec![("denied", counts.iter().map(|(_, count)| count).sum())];
        }
        Ok(BuiltColumn { array: built.finish()?, counts })
    }

    /// Moves a column's tokens to the newest keys. Nothing is shown: what does not open stays as it
    /// is. When it returns, its lines are durable.
    ///
    /// # Errors
    /// As [`ReadingParts::reveal_column`].
    pub(crate) fn rotate_column(&self, call: &ColumnCall) -> Result<RotatedColumn, VeilFault> {
        let template = self.entry(Event::Rotate, &call.purpose)?;
        let target = Target::of(&self.schemas(), &call.field)?;
        if let Some(interop) = target.interop().and_then(|field| field.interop.as_ref()) {
            let form = interop.form.as_str();
            return Err(VeilFault::NotRotatable { field: target.id.clone(), form });
        }
        let (texts, scalars) = (call.texts()?, call.scalars(&target)?);
        let mut held = Held::of(&*self.keys);
        let mut opener = self.opener(&target, &mut held, &scalars)?.sealing();
        let mut sealer = ColumnSealer::new(self, &target).rotating();
        let bytes = call.chunks.iter().map(|chunk| chunk.get_buffer_memory_size()).sum();
        let is_small = texts.iter().all(|(_, texts)| texts.is_small());
        let mut built = TextBuilder::new(call.rows(), bytes, is_small);
        let (mut is_done, mut kids) = (vec![false; call.rows()], BTreeMap::<KeyId, u64>::new());
        let (mut scalar, mut binding, mut changed) = (Vec::new(), Vec::new(), 0_u64);
        {
            let taken: &mut Taken<'_> = &mut |row, kind, payload, key| {
                let Some(key) = key else { return Ok(false) };
                let subject = subject_of(key);
                let newest = sealer.newest(subject)?;
                *kids.entry(newest).or_default() += 1;
                if newest == key.id {
                    return Ok(true);
                }
                is_done[row] = true;
                changed += 1;
                scalars.binding(row, &mut scalar, &mut binding);
                let binding = (!scalars.bind.is_empty()).then_some(binding.as_slice());
                let mut sealed = Ok(());
                built.set(row, |out| {
                    sealed = sealer.seal(subject, kind, payload, binding, out);
                    sealed.is_ok()
                });
                sealed.map(|()| true)
            };
            self.with_opener(|ciphers| {
                texts
                    .iter()
                    .try_for_each(|part| opener.open((part.0, &part.1), &scalars, ciphers, taken))
            })?;
        }
        for (base, texts) in &texts {
            for row in (0..texts.len()).filter(|row| !is_done[base + row]) {
                if let Some(text) = texts.get(row) {
                    built.set(base + row, |out| {
                        out.extend_from_slice(text.as_bytes());
                        true
                    });
                }
            }
        }
        self.append(opener.lines(template))?;
        let mut counts = read_counts(&opener);
        for (status, count) in &mut counts {
            if *status == "revealed" {
                (*status, *count) = ("newest", *count - changed);
            }
        }
        counts.push(("rotated", changed));
        counts.retain(|(_, count)| *count > 0);
        let column = BuiltColumn { array: built.finish()?, counts };
        Ok(RotatedColumn { column, kids: kids.into_iter().collect() })
    }

    /// Seals a column of values. Null stays null, but where the schema seals it.
    ///
    /// # Errors
    /// The schema does not take a value, or as [`ReadingParts::reveal_column`].
    pub(crate) fn seal_column(&self, call: &ColumnCall) -> Result<BuiltColumn, VeilFault> {
        let (column, entry) = self.sealed_column(call)?;
        self.append(vec![entry])?;
        Ok(column)
    }

    /// As [`ReadingParts::seal_column`], with the line that is still to be written.
    ///
    /// # Errors
    /// As there.
    pub(crate) fn sealed_column(
        &self,
        call: &ColumnCall,
    ) -> Result<(BuiltColumn, veilstream_reading::audit::Entry), VeilFault> {
        let template = self.entry(Event::Seal, &call.purpose)?;
        let target = Target::of(&self.schemas(), &call.field)?;
        let field = target.field().ok_or_else(|| target.rejected(RejectCode::WrongType))?;
        if field.protect == Protect::Hash {
            let sealed = self.tag_column(call, &target)?;
            let entry = column_entry(template, &target, "sealed", &sealed);
            return Ok((sealed, entry));
        }
        let scalars = call.scalars(&target)?;
        let subjects = self.references(&target, &scalars, call.rows())?;
        let mut sealer = ColumnSealer::new(self, &target);
        match &subjects {
            Some(subjects) => sealer.prepare(subjects.iter().flatten().copied().map(Some))?,
            None => sealer.prepare(std::iter::once(None))?,
        }
        let mut built = TextBuilder::new(call.rows(), 0, true);
        let (mut json, mut scalar) = (Vec::new(), Vec::new());
        let (mut base, mut sealed) = (0, 0);
        for chunk in &call.chunks {
            let values = call.values(chunk)?;
            for row in 0..chunk.len() {
                let at = base + row;
                let is_null = values.is_null(row);
                if is_null && !field.encrypt_null {
                    continue;
                }
                if is_null {
                    json.clear();
                    json.extend_from_slice(b"null");
                } else if !values.write(row, &mut json) {
                    return Err(target.rejected(RejectCode::UnsupportedValue));
                }
                let subject = match &subjects {
                    Some(subjects) => Some(subjects[at].ok_or_else(|| {
                        target.wrong_subject("a row's subject is null or empty; give it")
                    })?),
                    None => None,
                };
                let payload = self.payload(&target, &scalars, (at, &json), &mut scalar)?;
                let binding = payload.binding.as_deref();
                let mut outcome = Ok(());
                built.set(at, |out| {
                    let kind = PayloadKind::Json;
                    outcome = sealer.seal(subject, kind, &payload.payload, binding, out);
                    outcome.is_ok()
                });
                outcome?;
                sealed += 1;
            }
            base += chunk.len();
        }
        let column = BuiltColumn { array: built.finish()?, counts: vec![("sealed", sealed)] };
        let entry = column_entry(template, &target, "sealed", &column);
        Ok((column, entry))
    }

    /// The index column of a column of values: tags under the newest root. What has no index is
    /// null.
    ///
    /// # Errors
    /// As [`ReadingParts::reveal_column`].
    pub(crate) fn index_column(&self, call: &ColumnCall) -> Result<BuiltColumn, VeilFault> {
        let template = self.entry(Event::Search, &call.purpose)?;
        let target = Target::of(&self.schemas(), &call.field)?;
        let column = self.tag_column(call, &target)?;
        self.append(vec![column_entry(template, &target, "revealed", &column)])?;
        Ok(column)
    }

    /// Tags of values that are written: nobody searches for them.
    ///
    /// # Errors
    /// The field has no index, or one over several values.
    pub(crate) fn tag_column(
        &self,
        call: &ColumnCall,
        target: &Target,
    ) -> Result<BuiltColumn, VeilFault> {
        let rule = target.index()?;
        if !rule.of.is_empty() {
            return Err(ColumnFault::Compound.into());
        }
        let indexer = newest_indexer(rule, &self.keys.keyring())?;
        let mut built = TextBuilder::new(call.rows(), 0, true);
        let (mut json, mut normal, mut scratch) = (Vec::new(), Vec::new(), Scratch::default());
        let (mut base, mut indexed, mut none) = (0, 0, 0);
        for chunk in &call.chunks {
            let values = call.values(chunk)?;
            for row in 0..chunk.len() {
                let is_there = values.write(row, &mut json)
                    && rule.normalize.normalize(Input::Json(&json), &mut scratch, &mut normal);
                if is_there {
                    built.set(base + row, |out| {
                        indexer.write([normal.as_slice()], out);
                        true
                    });
                    indexed += 1;
                } else if !values.is_null(row) {
                    none += 1;
                }
            }
            base += chunk.len();
        }
        let mut counts = vec![("indexed", indexed), ("no_index", none)];
        counts.retain(|(_, count)| *count > 0);
        Ok(BuiltColumn { array: built.finish()?, counts })
    }

    /// Opens columns of a field.
    ///
    /// # Errors
    /// References of data subjects cannot be made now.
    pub(crate) fn opener<'k, 's>(
        &'s self,
        target: &'k Target,
        held: &'k mut Held<'s>,
        scalars: &RowScalars<'_>,
    ) -> Result<ColumnOpener<'k, 's>, VeilFault> {
        let referrer: Option<Referrer> =
            scalars.subject.as_ref().map(|_| target.referrer(&*self.keys)).transpose()?;
        Ok(ColumnOpener::new(target, held, referrer))
    }

    /// Whose rows they are; `None` in a row: null.
    fn references(
        &self,
        target: &Target,
        scalars: &RowScalars<'_>,
        rows: usize,
    ) -> Result<Option<Vec<Option<SubjectRef>>>, VeilFault> {
        let Some(subjects) = &scalars.subject else { return Ok(None) };
        let (referrer, mut text) = (target.referrer(&*self.keys)?, Vec::new());
        let reference = |row| {
            let is_there = subjects.write(row, &mut text) && !text.is_empty();
            is_there.then(|| referrer.reference(&text))
        };
        Ok(Some((0..rows).map(reference).collect()))
    }

    /// What is sealed of a row.
    fn payload(
        &self,
        target: &Target,
        scalars: &RowScalars<'_>,
        (row, json): (usize, &[u8]),
        scalar: &mut Vec<u8>,
    ) -> Result<BarePayload, VeilFault> {
        let field = target.field().ok_or_else(|| target.rejected(RejectCode::WrongType))?;
        let mut bind = Vec::with_capacity(scalars.bind.len());
        for (name, scalars) in &scalars.bind {
            if !scalars.write(row, scalar) {
                return Err(target.wrong_bind());
            }
            // As a string: the scalar text of a string is what it says.
            let text = std::str::from_utf8(scalar).map_err(|_| target.wrong_bind())?;
            let json = serde_json::to_vec(text).map_err(|_| target.wrong_bind())?;
            bind.push((*name, json));
        }
        let bind: Vec<(&str, &[u8])> = bind.iter().map(|(name, json)| (*name, &**json)).collect();
        BarePayload::new(field, json, &bind).map_err(|code| target.rejected(code))
    }
}

/// How many rows came to what, as callers are told.
fn read_counts(opener: &ColumnOpener<'_, '_>) -> Vec<(&'static str, u64)> {
    let mut counts: BTreeMap<&'static str, u64> = BTreeMap::new();
    for (_, status, count) in opener.counts() {
        *counts.entry(ReadStatus::from(status).as_str()).or_default() += count;
    }
    counts.into_iter().collect()
}

fn column_entry(
    template: veilstream_reading::audit::Entry,
    target: &Target,
    status: &str,
    column: &BuiltColumn,
) -> veilstream_reading::audit::Entry {
    let items = column.counts.iter().map(|(_, count)| count).sum();
    sealed_entry(template, target, status, "ok", items)
}

/// Appends a value as a column shows it: a string's text, all else as JSON. `false`: half of a pair
/// of surrogates has no UTF-8.
pub(crate) fn append_text(json: &[u8], out: &mut Vec<u8>) -> bool {
    match json {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => {
            out.extend_from_slice(inner);
            true
        }
        [b'"', inner @ .., b'"'] => scan::unescape(inner, out),
        _ => {
            out.extend_from_slice(json);
            true
        }
    }
}
