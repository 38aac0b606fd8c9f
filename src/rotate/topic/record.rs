//! One record of a topic: opened, and sealed again.

use std::sync::Arc;

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::error::{OpenError, Reject, RejectCode};
use veilstream_engine::key::{KeyId, KeyKind, Scope};
use veilstream_engine::record::{Header, HeaderOutput, Record};
use veilstream_engine::reveal::{FoundToken, Report, RevealOptions, Revealer, Status};
use veilstream_engine::schema::Schema;
use veilstream_engine::seal::PayloadKind;
use veilstream_engine::token::{self, PREFIX};
use veilstream_engine::transform::Limits;

use crate::keys::{KeyFault, KeyLookup, KeySource};
use crate::outgoing::{Outgoing, SCHEMA_HEADER};
use crate::protect::Protector;
use crate::rotate::counts::root_version;

/// What is opened, and what stands beside it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Opens {
    /// Values in clear are sealed where tokens are expected.
    pub(super) seal_clear: bool,
    /// Tokens that are bound to nothing are bound to their record.
    pub(super) trust_records: bool,
    /// Compromised keys open.
    pub(super) allow_compromised: bool,
    /// Records that are sealed again get the header of their schema.
    pub(super) schema_header: bool,
}

/// What became of a record.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is sealed again, under the schema of this index.
    Sealed(usize),
    /// Its value and headers stay as they are, and so does its key unless it was sealed again.
    Kept(Kept),
}

/// Why a record stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    /// Id of the field, `#key` or `#header:<name>`; empty: the record as a whole.
    pub(super) field: String,
    /// What does not open, or why it is not sealed.
    pub(super) class: &'static str,
    /// Name of the schema that claims the record.
    pub(super) schema: Option<Arc<str>>,
    key_moved: bool,
}

impl Kept {
    fn new(field: impl Into<String>, class: &'static str) -> Self {
        Self { field: field.into(), class, schema: None, key_moved: false }
    }

    /// Of a whole record, by what the engine says.
    fn rejected(field: Option<&str>, code: RejectCode) -> Self {
        let class = if code == RejectCode::ErasedSubject { ERASED } else { code.as_str() };
        Self::new(field.unwrap_or_default(), class)
    }
}

/// The class of what nothing opens again.
pub(super) const ERASED: &str = "erased";

/// Why no record can be worked on.
#[derive(Debug)]
pub(super) enum RecordError {
    /// A value stands in clear where a token is expected: the field.
    Clear(String),
    /// The record key is a hash under another root than the document pins.
    KeyRoot { found: u32, pinned: u32 },
    /// Keys are not available now.
    Keys(KeyFault),
}

/// Why a record is not sealed again.
enum Stop {
    /// It stays.
    Kept(Kept),
    /// No record can be worked on.
    Error(RecordError),
}

impl From<Kept> for Stop {
    fn from(kept: Kept) -> Self {
        Self::Kept(kept)
    }
}

impl From<KeyFault> for Stop {
    fn from(fault: KeyFault) -> Self {
        Self::Error(RecordError::Keys(fault))
    }
}

/// What one record held.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Tokens that were sealed again: their field's id, and the key that they leave.
    pub(super) tokens: Vec<(String, KeyId)>,
    /// Fields whose values stood in clear.
    pub(super) clear: Vec<String>,
    /// Tokens at places that no schema declares.
    pub(super) unexpected: u32,
}

/// Seals records again, one after another.
pub(super) struct RecordRotator {
    schemas: Arc<SchemaSet>,
    /// By schema: the root that hashed record keys are pinned to.
    key_roots: Vec<Option<u32>>,
    opens: Opens,
    revealer: Revealer,
    protector: Protector,
    report: Report,
    found: Vec<FoundToken>,
    clear: Clear,
}

/// A record in clear, while it is worked on.
#[derive(Default)]
struct Clear {
    /// `None`: the record's own.
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Clear {
    fn record<'a>(&'a self, stored: &Record<'a>, headers: &'a mut Vec<Header<'a>>) -> Record<'a> {
        headers.extend(self.headers.iter().map(|(name, value)| (&**name, value.as_deref())));
        Record {
            key: self.key.as_deref().or(stored.key),
            value: stored.value.map(|_| &*self.value),
            headers,
            topic: None,
            ..*stored
        }
    }
}

impl RecordRotator {
    /// `documents`: the documents that `schemas` are of, as they protect.
    pub(super) fn new(
        documents: &SchemaSet,
        schemas: Arc<SchemaSet>,
        keys: &dyn KeySource,
        limits: Limits,
        opens: Opens,
    ) -> Self {
        let root = |schema: &Arc<Schema>| schema.key.as_ref()?.index.as_ref()?.root;
        let mut revealer = Revealer::default();
        revealer.allow_compromised(opens.allow_compromised);
        revealer.open_to_seal();
        Self {
            key_roots: documents.schemas().iter().map(root).collect(),
            protector: Protector::new(schemas.clone(), keys.keyring())
                .with_limits(limits)
                .one_shot(),
            schemas,
            opens,
            revealer,
            report: Report::default(),
            found: Vec::new(),
            clear: Clear::default(),
        }
    }

    /// Opens a record and seals it again. `ahead`: the records behind it, whose keys are fetched
    /// with its own.
    ///
    /// # Errors
    /// [`RecordError`].
    pub(super) fn rotate<'r>(
        &mut self,
        record: &Record<'_>,
        ahead: impl Iterator<Item = Record<'r>> + Clone,
        keys: &KeyLookup<'_>,
        held: &mut Held,
    ) -> Result<Fate, RecordError> {
        let index = match self.claim(record) {
            Ok(index) => index,
            Err(code) => return Ok(Fate::Kept(Kept::rejected(None, code))),
        };
        self.check_key_root(index, record)?;
        let schema = self.schemas.schemas()[index].clone();
        let sealed = self
            .open(&schema, record, keys, held)
            .and_then(|()| self.seal(index, record, ahead, keys));
        let kept = match sealed {
            Ok(()) => return Ok(Fate::Sealed(index)),
            Err(Stop::Error(error)) => return Err(error),
            Err(Stop::Kept(kept)) => kept,
        };
        let key = held.tokens.iter().find(|(field, _)| field == "#key").cloned();
        *held = Held { unexpected: held.unexpected, ..Held::default() };
        // Compaction and upserts go by the key, whatever becomes of the rest.
        let key_moved = key.is_some() && self.seal_key(record, keys).map_err(RecordError::Keys)?;
        held.tokens.extend(key.filter(|_| key_moved));
        Ok(Fate::Kept(Kept { key_moved, schema: Some(schema.name.clone()), ..kept }))
    }

    /// The record that was rotated last, as it goes into the new topic.
    pub(super) fn outgoing<'a>(
        &'a self,
        record: &Record<'a>,
        headers: &'a mut Vec<Header<'a>>,
        index: usize,
        time: Option<i64>,
    ) -> Outgoing<'a> {
        let clear = self.clear.record(record, headers);
        let label = &*self.schemas.schemas()[index].label;
        let label = self.opens.schema_header.then_some(label);
        Outgoing::new(&clear, self.protector.output(), label, time)
    }

    /// A record that stays, with its key as it is now.
    pub(super) fn kept<'a>(
        &'a self,
        record: &Record<'a>,
        kept: &Kept,
        time: Option<i64>,
    ) -> Outgoing<'a> {
        let key =
            if kept.key_moved { Some(&*self.protector.output().key_bytes) } else { record.key };
        Outgoing::unchanged(&Record { key, ..*record }, time)
    }

    fn claim(&mut self, record: &Record<'_>) -> Result<usize, RejectCode> {
        let Some(value) = record.value else {
            return self.schemas.tombstone_schema(record).ok_or(RejectCode::NoSchema);
        };
        for (i, schema) in self.schemas.schemas().iter().enumerate() {
            if schema.takes_headers(record.headers)
                && (schema.when.is_empty()
                    || self.revealer.claims(schema, value).map_err(|reject| reject.code)?)
            {
                return Ok(i);
            }
        }
        Err(RejectCode::NoSchema)
    }

    /// A hash cannot be opened: beside keys under the pinned root it would be another record's.
    fn check_key_root(&self, index: usize, record: &Record<'_>) -> Result<(), RecordError> {
        let (Some(pinned), Some(found)) =
            (self.key_roots[index], record.key.and_then(root_version))
        else {
            return Ok(());
        };
        if found == pinned { Ok(()) } else { Err(RecordError::KeyRoot { found, pinned }) }
    }

    fn open(
        &mut self,
        schema: &Schema,
        record: &Record<'_>,
        keys: &KeyLookup<'_>,
        held: &mut Held,
    ) -> Result<(), Stop> {
        self.clear.key = None;
        if let (Some(rule), Some(key)) = (&schema.key, record.key) {
            let opened = self.open_bytes(&rule.name, || "#key".to_owned(), key, keys, held)?;
            self.clear.key = Some(opened);
        }
        self.open_headers(schema, record, keys, held)?;
        self.open_value(schema, record, keys, held)
    }

    fn open_headers(
        &mut self,
        schema: &Schema,
        record: &Record<'_>,
        keys: &KeyLookup<'_>,
        held: &mut Held,
    ) -> Result<(), Stop> {
        self.clear.headers.clear();
        for (name, value) in stored_headers(record) {
            let rule = schema.headers.iter().find(|rule| rule.header.as_bytes() == *name);
            let value = match (rule, value) {
                (Some(rule), Some(value)) => {
                    let place = || format!("#header:{}", rule.header);
                    Some(self.open_bytes(&rule.name, place, value, keys, held)?)
                }
                (_, value) => value.map(<[u8]>::to_vec),
            };
            self.clear.headers.push((name.to_vec(), value));
        }
        Ok(())
    }

    /// Opens a record key or header.
    fn open_bytes(
        &mut self,
        name: &str,
        place: impl Fn() -> String,
        text: &[u8],
        keys: &KeyLookup<'_>,
        held: &mut Held,
    ) -> Result<Vec<u8>, Stop> {
        if !text.starts_with(PREFIX) {
            self.take_clear(place(), held)?;
            return Ok(text.to_vec());
        }
        let mut bytes = Vec::new();
        let opened = keys.with(|_| (), |keys| self.revealer.open(name, keys, text, &mut bytes))?;
        let error = match opened {
            Ok(PayloadKind::Bytes) => {
                if let Ok(header) = token::decode(text, &mut Vec::new()) {
                    held.tokens.push((place(), header.kid));
                }
                return Ok(bytes);
            }
            Ok(PayloadKind::Json | PayloadKind::Honey) => OpenError::Corrupt,
            Err(error) => error,
        };
        Err(Kept::new(place(), Status::Failed(error).as_str()).into())
    }

    /// A value in clear where a token is expected.
    fn take_clear(&self, place: String, held: &mut Held) -> Result<(), Stop> {
        if !self.opens.seal_clear {
            return Err(Stop::Error(RecordError::Clear(place)));
        }
        held.clear.push(place);
        Ok(())
    }

    fn open_value(
        &mut self,
        schema: &Schema,
        record: &Record<'_>,
        keys: &KeyLookup<'_>,
        held: &mut Held,
    ) -> Result<(), Stop> {
        let Some(value) = record.value else { return Ok(()) };
        let whole = |reject: Reject| Kept::rejected(None, reject.code);
        self.revealer.tokens(schema, value, &mut self.found).map_err(whole)?;
        let fields = &schema.fields;
        let id = |field: usize| fields[field].id.to_string();
        let mut found = self.found.iter();
        let unbound = found
            .find(|token| !fields[token.field].bind.is_empty() && !token.header.bound())
            .filter(|_| !self.opens.trust_records);
        if let Some(token) = unbound {
            return Err(Kept::new(id(token.field), "without_binding").into());
        }
        let options = RevealOptions::default();
        let Self { revealer, report, clear, .. } = self;
        let revealed = keys.with(
            |_| (),
            |keys| revealer.reveal(schema, keys, value, &options, &mut clear.value, report),
        )?;
        revealed.map_err(whole)?;
        held.unexpected = self.report.unexpected_tokens;
        let mut kept: Option<Kept> = None;
        for (field, status) in &self.report.fields {
            match status {
                Status::Revealed | Status::NoToken => {}
                Status::Clear => self.take_clear(id(*field), held)?,
                // What somebody can mend is told before what nobody can.
                status if kept.as_ref().is_none_or(|kept| kept.class == ERASED) => {
                    kept = Some(Kept::new(id(*field), status.as_str()));
                }
                _ => {}
            }
        }
        held.tokens.extend(self.found.iter().map(|token| (id(token.field), token.header.kid)));
        kept.map_or(Ok(()), |kept| Err(kept.into()))
    }

    fn seal<'r>(
        &mut self,
        index: usize,
        record: &Record<'_>,
        ahead: impl Iterator<Item = Record<'r>> + Clone,
        keys: &KeyLookup<'_>,
    ) -> Result<(), Stop> {
        let mut headers = Vec::new();
        let clear = self.clear.record(record, &mut headers);
        let clear = Record { honey: &self.report.honey, ..clear };
        match self.protector.protect(&clear, ahead, keys.source())? {
            Ok(found) if found == index => self.check_owners(record, keys),
            Ok(_) => Err(Kept::rejected(None, RejectCode::NoSchema).into()),
            Err(reject) => Err(Kept::rejected(reject.field.as_deref(), reject.code).into()),
        }
    }

    /// Each header's token is under the same owner's key as before: a planted one would become this
    /// record's.
    fn check_owners(&self, record: &Record<'_>, keys: &KeyLookup<'_>) -> Result<(), Stop> {
        let owner = |text: &[u8]| -> Result<Option<Scope>, KeyFault> {
            let Ok(header) = token::decode(text, &mut Vec::new()) else { return Ok(None) };
            let key = keys.with(|_| (), |keys| (keys.lookup)(&header.kid))?;
            let key = key.filter(|key| key.kind == KeyKind::Data);
            Ok(key.map(|key| key.scope.clone()).filter(|s| matches!(s, Scope::Subject(_))))
        };
        let output = self.protector.output();
        let stored: Vec<_> = stored_headers(record).collect();
        for header in &output.headers {
            let HeaderOutput::Replaced(i, range) = header else { continue };
            let (name, Some(before)) = stored[*i] else { continue };
            let after = &output.header_bytes[range.clone()];
            if before.starts_with(PREFIX) && owner(before)? != owner(after)? {
                let place = format!("#header:{}", String::from_utf8_lossy(name));
                return Err(Kept::new(place, "binding").into());
            }
        }
        Ok(())
    }

    /// Seals the record key alone; whether it did.
    fn seal_key(&mut self, record: &Record<'_>, keys: &KeyLookup<'_>) -> Result<bool, KeyFault> {
        let key = self.clear.key.as_deref();
        let alone = Record { key, value: None, headers: &[], topic: None, ..*record };
        Ok(self.protector.protect(&alone, std::iter::empty(), keys.source())?.is_ok())
    }
}

/// A record's headers but its schema's.
fn stored_headers<'r>(record: &Record<'r>) -> impl Iterator<Item = &'r Header<'r>> {
    record.headers.iter().filter(|(name, _)| *name != SCHEMA_HEADER)
}
