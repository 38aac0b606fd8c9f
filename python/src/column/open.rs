//! Tokens of a column, opened: grouped by what their headers say, so that keys are looked up and
//! ciphers made once a group, and nothing is allocated for a value.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use veilstream_engine::key::{Key, KeyId, SubjectRef};
use veilstream_engine::reveal::{Revealer, Status};
use veilstream_engine::seal::{Expected, Opener, Owner, PayloadKind};
use veilstream_engine::subject::Referrer;
use veilstream_engine::token::{self, HEADER_LEN, PREFIX};
use veilstream_engine::{OpenError, seal};
use veilstream_reading::audit::{Disclosure, Entry};

use super::text::{Scalars, Texts};
use crate::bare::honey_entry;
use crate::fault::VeilFault;
use crate::held::{Held, subject_of};
use crate::interop;
use crate::target::Target;

/// Characters of a token's header: 24 bytes are 32 characters exactly.
const HEADER_CHARS: usize = HEADER_LEN / 3 * 4;
/// Rows that are opened right after their headers were read: they are in the processor's cache.
const BLOCK: usize = 256;
/// An opener keeps 1,024 ciphers: with more keys, the tokens that are left are opened key by key.
const GROUPS_IN_ORDER: usize = 512;
/// References of data subjects that are remembered within a call.
const REFERENCES: usize = 1 << 16;

/// What rows' tokens are tied to.
pub(crate) struct RowScalars<'a> {
    /// Names, sorted, with their values.
    pub(crate) bind: Vec<(&'a str, Scalars<'a>)>,
    pub(crate) subject: Option<Scalars<'a>>,
}

impl RowScalars<'_> {
    /// Whether each has as many rows.
    pub(crate) fn fits(&self, rows: usize) -> bool {
        let scalars = self.bind.iter().map(|(_, scalars)| scalars).chain(&self.subject);
        scalars.filter_map(Scalars::len).all(|len| len == rows)
    }

    /// Encodes the bound values of a row in the place of `out`'s content; `false`: one is null.
    pub(crate) fn binding(&self, row: usize, scalar: &mut Vec<u8>, out: &mut Vec<u8>) -> bool {
        out.clear();
        self.bind.iter().all(|(name, scalars)| {
            let is_there = scalars.write(row, scalar);
            seal::append_bound(name, scalar, out);
            is_there
        })
    }
}

/// Tokens with one header.
struct Group {
    /// `None`: the header is none.
    key: Option<Arc<Key>>,
    /// How many came to what: opened ones, and the others by what hindered them.
    revealed: u64,
    others: Vec<(Status, u64)>,
}

/// How many tokens under one key came to the same.
pub(crate) struct Told {
    subject: Option<SubjectRef>,
    status: &'static str,
    kid: Option<KeyId>,
    count: u64,
}

impl Told {
    /// Adds it to a disclosure.
    pub(crate) fn add(&self, target: &Target, disclosure: &mut Disclosure) {
        let (schema, fields) = (&target.schema.name, [(target.audited.as_str(), self.status)]);
        disclosure.add(schema, self.subject, fields.into_iter(), self.kid, self.count);
    }
}

/// Opens columns of one field.
pub(crate) struct ColumnOpener<'k, 's> {
    target: &'k Target,
    held: &'k mut Held<'s>,
    tenant: Arc<str>,
    referrer: Option<Referrer>,
    /// Opens texts of other systems; `None`: the field has tokens.
    revealer: Option<Revealer>,
    references: HashMap<Vec<u8>, SubjectRef>,
    by_header: HashMap<[u8; HEADER_CHARS], usize>,
    groups: Vec<Group>,
    /// Nothing is shown: what opens is sealed again, honey tokens too.
    is_sealing: bool,
    /// Rows that did not open, where they are asked for.
    failed: Option<Vec<(usize, Status)>>,
    scalar: Vec<u8>,
    binding: Vec<u8>,
    payload: Vec<u8>,
}

/// Takes a payload of a row and its kind, with the key that opened it; whether it could.
pub(crate) type Taken<'t> =
    dyn FnMut(usize, PayloadKind, &[u8], Option<&Arc<Key>>) -> Result<bool, VeilFault> + 't;

/// No group: null, a value in clear, or too short for a token.
const NO_GROUP: usize = usize::MAX;

impl<'k, 's> ColumnOpener<'k, 's> {
    pub(crate) fn new(
        target: &'k Target,
        held: &'k mut Held<'s>,
        referrer: Option<Referrer>,
    ) -> Self {
        let tenant = held.keyring.tenant().clone();
        // The last group: what has no key.
        let none = Group { key: None, revealed: 0, others: Vec::new() };
        Self {
            target,
            held,
            tenant,
            referrer,
            revealer: target.interop().map(|_| Revealer::default()),
            references: HashMap::new(),
            by_header: HashMap::new(),
            groups: vec![none],
            is_sealing: false,
            failed: None,
            scalar: Vec::new(),
            binding: Vec::new(),
            payload: Vec::new(),
        }
    }

    /// For payloads that are sealed again and shown to nobody: a honey token is taken and counted
    /// like its neighbours, and raises no alarm.
    pub(crate) fn sealing(self) -> Self {
        Self { is_sealing: true, ..self }
    }

    /// Keeps which rows did not open, and why.
    pub(crate) fn recording(self) -> Self {
        Self { failed: Some(Vec::new()), ..self }
    }

    /// Rows that did not open, in no order.
    pub(crate) fn failed(&self) -> &[(usize, Status)] {
        self.failed.as_deref().unwrap_or_default()
    }

    /// Opens the tokens of a chunk, whose first row is the `base`th of the column. `taken` gets each
    /// row that opened, with its payload, in whatever order; whether it could take it.
    ///
    /// # Errors
    /// A key cannot be looked up now.
    pub(crate) fn open(
        &mut self,
        (base, texts): (usize, &Texts<'_>),
        scalars: &RowScalars<'_>,
        opener: &mut Opener,
        taken: &mut Taken<'_>,
    ) -> Result<(), VeilFault> {
        let mut places = Vec::with_capacity(BLOCK.min(texts.len()));
        for start in (0..texts.len()).step_by(BLOCK) {
            let end = texts.len().min(start + BLOCK);
            places.clear();
            self.group(texts, start..end, &mut places)?;
            if self.groups.len() > GROUPS_IN_ORDER {
                self.group(texts, end..texts.len(), &mut places)?;
                let mut order: Vec<usize> = (0..places.len()).collect();
                order.sort_unstable_by_key(|at| places[*at]);
                for at in order {
                    let row = start + at;
                    let text = texts.get(row);
                    self.open_row((base + row, places[at]), text, scalars, opener, taken)?;
                }
                break;
            }
            for (row, place) in (start..end).zip(&places) {
                self.open_row((base + row, *place), texts.get(row), scalars, opener, taken)?;
            }
        }
        Ok(())
    }

    /// Appends the groups of rows; keys of new groups are looked up.
    fn group(
        &mut self,
        texts: &Texts<'_>,
        rows: Range<usize>,
        places: &mut Vec<usize>,
    ) -> Result<(), VeilFault> {
        if self.revealer.is_some() {
            places.resize(places.len() + rows.len(), NO_GROUP);
            return Ok(());
        }
        let mut last: ([u8; HEADER_CHARS], usize) = ([0; HEADER_CHARS], NO_GROUP);
        for row in rows {
            let text = texts.get(row).unwrap_or_default().as_bytes();
            let header = text.strip_prefix(PREFIX).and_then(|rest| rest.first_chunk());
            let Some(header) = header else {
                places.push(NO_GROUP);
                continue;
            };
            if *header != last.0 {
                last = (*header, self.group_of(header, text)?);
            }
            places.push(last.1);
        }
        Ok(())
    }

    fn group_of(&mut self, header: &[u8; HEADER_CHARS], token: &[u8]) -> Result<usize, VeilFault> {
        if let Some(place) = self.by_header.get(header) {
            return Ok(*place);
        }
        let Ok(decoded) = token::decode(token, &mut self.payload) else { return Ok(0) };
        let key = self.held.get(&decoded.kid)?;
        self.groups.push(Group { key, revealed: 0, others: Vec::new() });
        self.by_header.insert(*header, self.groups.len() - 1);
        Ok(self.groups.len() - 1)
    }

    fn open_row(
        &mut self,
        (row, place): (usize, usize),
        text: Option<&str>,
        scalars: &RowScalars<'_>,
        opener: &mut Opener,
        taken: &mut Taken<'_>,
    ) -> Result<(), VeilFault> {
        let Some(text) = text else { return Ok(()) };
        let place = if place == NO_GROUP { 0 } else { place };
        let mut status =
            if let (Some(revealer), Some(field)) = (&mut self.revealer, self.target.interop()) {
                interop::open(revealer, field, self.held, text.as_bytes(), &mut self.payload)
            } else if text.as_bytes().starts_with(PREFIX) {
                self.status(row, place, text, scalars, opener)
            } else {
                Status::Clear
            };
        let kind = match status {
            Status::Revealed => Some(PayloadKind::Json),
            Status::Honey if self.is_sealing => Some(PayloadKind::Honey),
            _ => None,
        };
        if let Some(kind) = kind {
            let is_taken = taken(row, kind, &self.payload, self.groups[place].key.as_ref())?;
            status = if is_taken { Status::Revealed } else { Status::Failed(OpenError::Corrupt) };
        }
        if status != Status::Revealed
            && let Some(failed) = &mut self.failed
        {
            failed.push((row, status));
        }
        let group = &mut self.groups[place];
        match group.others.iter_mut().find(|(known, _)| *known == status) {
            _ if status == Status::Revealed => group.revealed += 1,
            Some((_, count)) => *count += 1,
            None => group.others.push((status, 1)),
        }
        Ok(())
    }

    fn status(
        &mut self,
        row: usize,
        place: usize,
        text: &str,
        scalars: &RowScalars<'_>,
        opener: &mut Opener,
    ) -> Status {
        let owner = match &scalars.subject {
            None => Owner::Any,
            Some(subjects) => match self.reference(subjects, row) {
                Some(reference) => Owner::Subject(reference),
                None => return Status::Failed(OpenError::Binding),
            },
        };
        if !scalars.binding(row, &mut self.scalar, &mut self.binding) {
            return Status::Failed(OpenError::Binding);
        }
        let expected = Expected {
            fid: self.target.fid,
            tenant: &self.tenant,
            binding: (!scalars.bind.is_empty()).then_some(self.binding.as_slice()),
            owner,
        };
        let (token, payload) = (text.as_bytes(), &mut self.payload);
        let lookup = |_: &KeyId| self.groups[place].key.as_ref();
        let opened = if self.is_sealing {
            opener.open_to_seal(token, &expected, lookup, payload)
        } else {
            opener.open(token, &expected, lookup, payload)
        };
        match opened {
            Ok(PayloadKind::Json) => Status::Revealed,
            Ok(PayloadKind::Honey) => Status::Honey,
            // Of record keys and headers, which have no column.
            Ok(PayloadKind::Bytes) => Status::Failed(OpenError::Corrupt),
            Err(error) => Status::Failed(error),
        }
    }

    /// `None`: it is null or empty.
    fn reference(&mut self, subjects: &Scalars<'_>, row: usize) -> Option<SubjectRef> {
        if !subjects.write(row, &mut self.scalar) || self.scalar.is_empty() {
            return None;
        }
        if let Some(known) = self.references.get(&self.scalar) {
            return Some(*known);
        }
        let reference = self.referrer.as_ref()?.reference(&self.scalar);
        if self.references.len() >= REFERENCES {
            self.references.clear();
        }
        self.references.insert(self.scalar.clone(), reference);
        Some(reference)
    }

    /// Whether a honey token was met.
    pub(crate) fn met_honey(&self) -> bool {
        self.counts().any(|(_, status, _)| status == Status::Honey)
    }

    /// How many came to what, by key.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (Option<&Arc<Key>>, Status, u64)> {
        self.groups.iter().flat_map(|group| {
            let revealed = (group.revealed > 0).then_some((Status::Revealed, group.revealed));
            let all = revealed.into_iter().chain(group.others.iter().copied());
            all.map(|(status, count)| (group.key.as_ref(), status, count))
        })
    }

    /// The lines of what was opened.
    pub(crate) fn lines(&self, template: Entry) -> Vec<Entry> {
        let (schema, field) = (&*self.target.schema.name, self.target.audited.as_str());
        let alarm = self.met_honey().then(|| honey_entry(template.clone(), schema, field));
        let mut disclosure = Disclosure::new(template);
        self.told().iter().for_each(|told| told.add(self.target, &mut disclosure));
        disclosure.into_entries().into_iter().chain(alarm).collect()
    }

    /// What was opened, for a disclosure.
    pub(crate) fn told(&self) -> Vec<Told> {
        let told = |(key, status, count): (Option<&Arc<Key>>, Status, u64)| Told {
            subject: key.and_then(|key| subject_of(key)),
            status: status.as_str(),
            kid: key.map(|key| key.id),
            count,
        };
        self.counts().map(told).collect()
    }
}
