//! One row: which of its tokens and indexes move, opened, sealed and indexed again.

mod indexes;
mod lists;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use veilstream_engine::Keyring;
use veilstream_engine::error::OpenError;
use veilstream_engine::index::Indexer;
use veilstream_engine::key::{Key, KeyId, KeyKind, KeyState, Scope, SubjectRef};
use veilstream_engine::normalize::Scratch;
use veilstream_engine::schema::{Field, IndexRule, Schema};
use veilstream_engine::seal::{
    Expected, NoncePool, Opener, Owner, PayloadKind, SealError, Sealer, append_bound,
};
use veilstream_engine::subject::Referrer;
use veilstream_engine::token::{self, FieldId, Header, PREFIX, Suite};
use veilstream_keys::OsEntropy;

use self::indexes::index_roots;
use super::cells::{Cells, Places, elements};
use super::columns::Columns;
use super::counts::Tally;
use super::keys::PageKeys;
use crate::rows::Row;

/// Key schedules kept at most; more are forgotten all at once.
const SEALERS: usize = 4096;

/// What moves.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moves {
    /// Indexes too that are not under the newest root, of tokens that stay.
    pub(super) reindex: bool,
    /// Tokens get the binding and the data subject that their row says.
    pub(super) trust_rows: bool,
    /// Compromised keys open.
    pub(super) allow_compromised: bool,
}

/// Seals rows again, one after another.
pub(super) struct Resealer {
    schema: Arc<Schema>,
    cells: Cells,
    moves: Moves,
    opener: Opener,
    nonces: NoncePool,
    sealers: HashMap<(KeyId, FieldId), Sealer>,
    /// By field: under the newest root, and under the one before while both are written.
    indexers: Vec<[Option<Indexer>; 2]>,
    newest_root: Option<u32>,
    referrer: Option<Referrer>,
    raw: Vec<u8>,
    binding: Vec<u8>,
    payloads: Vec<Vec<u8>>,
    scratch: Scratch,
    normal: Vec<u8>,
}

/// What became of a row.
#[derive(Default)]
pub(super) struct Outcome {
    /// What is written in its place; `None`: it stays.
    pub(super) cells: Option<Vec<Option<String>>>,
    /// Tokens that were sealed again: their field, and the key that they leave.
    pub(super) resealed: Vec<(usize, KeyId)>,
    /// Tokens that got a data subject or a binding from their row.
    pub(super) trusted: u64,
    /// Values that do not open: their field, and the class.
    pub(super) failed: Vec<(usize, &'static str)>,
}

/// A token of a row, as far as its header and the key store tell.
struct Found<'k> {
    header: Header,
    key: &'k Arc<Key>,
    reseal: bool,
    open: bool,
    add_subject: Option<SubjectRef>,
    add_binding: bool,
}

impl Resealer {
    pub(super) fn new(
        schema: Arc<Schema>,
        columns: &Columns,
        moves: Moves,
        keyring: &Keyring,
    ) -> Self {
        let roots = index_roots(keyring);
        let indexers = columns.fields.iter().map(|columns| {
            let rule = schema.fields[columns.field].index.as_ref();
            let rule = rule.filter(|_| columns.index.is_some());
            let of = |root: Option<&Arc<Key>>| {
                rule.and_then(|rule| Indexer::of_rule(root?, keyring.tenant(), rule))
            };
            let previous = roots.get(1).copied().filter(|_| rule.is_some_and(IndexRule::is_unique));
            [of(roots.first().copied()), of(previous.filter(|_| columns.previous.is_some()))]
        });
        let indexers = indexers.collect();
        let mut opener = Opener::default();
        opener.allow_compromised = moves.allow_compromised;
        let referrer = keyring
            .sealing(KeyKind::SubjectRef, &Scope::Version(1))
            .and_then(|key| Referrer::new(key, keyring.tenant(), schema.subject_domain.as_deref()));
        Self {
            payloads: vec![Vec::new(); columns.fields.len()],
            schema,
            cells: Cells::new(columns),
            moves,
            opener,
            nonces: NoncePool::new(Box::new(OsEntropy)),
            sealers: HashMap::new(),
            indexers,
            newest_root: roots.first().map(|root| root.version),
            referrer,
            raw: Vec::new(),
            binding: Vec::new(),
            scratch: Scratch::default(),
            normal: Vec::new(),
        }
    }

    pub(super) fn cells(&self) -> &Cells {
        &self.cells
    }

    /// The version of the newest index root.
    pub(super) fn newest_root(&self) -> Option<u32> {
        self.newest_root
    }

    /// The keys that a row's tokens name, and the data subject that it says, where rows are
    /// trusted.
    pub(super) fn names(
        &mut self,
        row: &Row,
        kids: &mut BTreeSet<KeyId>,
        subjects: &mut BTreeSet<SubjectRef>,
    ) {
        for at in 0..self.cells.places.len() {
            let Places { token, is_list, .. } = self.cells.places[at];
            let Some(cell) = row.cells[token].as_deref() else { continue };
            let mut name = |token: &[u8]| {
                if let Ok(header) = token::decode(token, &mut self.raw) {
                    kids.insert(header.kid);
                }
            };
            if is_list {
                let tokens = elements(cell).unwrap_or_default();
                tokens.iter().flatten().for_each(|token| name(token.as_bytes()));
            } else {
                name(cell);
            }
        }
        if self.moves.trust_rows
            && let Some(subject) = self.subject_of(row)
        {
            subjects.insert(subject);
        }
    }

    fn subject_of(&self, row: &Row) -> Option<SubjectRef> {
        let id = row.cells[self.cells.subject?].as_deref()?;
        Some(self.referrer.as_ref()?.reference(id))
    }

    /// Counts what stands in a row, and seals what moves.
    ///
    /// # Errors
    /// A key does not seal: nothing of the page may be written.
    pub(super) fn row(
        &mut self,
        row: &Row,
        keys: &PageKeys,
        tallies: &mut [Tally],
    ) -> Result<Outcome, SealError> {
        let is_single = |places: &Places| !places.is_list;
        let mut outcome = self.fields(row, keys, tallies, is_single)?;
        for at in 0..self.cells.places.len() {
            if self.cells.places[at].is_list {
                self.list(at, row, keys, tallies, &mut outcome)?;
            }
        }
        Ok(outcome)
    }

    /// Some of a row's fields.
    fn fields(
        &mut self,
        row: &Row,
        keys: &PageKeys,
        tallies: &mut [Tally],
        is_asked: impl Fn(&Places) -> bool,
    ) -> Result<Outcome, SealError> {
        let mut outcome = Outcome::default();
        let mut found: Vec<Option<Found<'_>>> = Vec::with_capacity(self.cells.places.len());
        for (at, tally) in tallies.iter_mut().enumerate() {
            if !is_asked(&self.cells.places[at]) {
                found.push(None);
                continue;
            }
            let looked = self.look(at, row, keys, tally);
            found.push(looked.unwrap_or_else(|class| {
                *tally.counts.failed.entry(class).or_default() += 1;
                outcome.failed.push((at, class));
                None
            }));
        }
        if !found.iter().flatten().any(|found| found.open) {
            return Ok(outcome);
        }
        self.open_parts(&mut found);
        let opened = self.open_all(row, keys, &mut found, tallies, &mut outcome);
        let mut cells = None;
        self.nonces.begin_record();
        for at in 0..found.len() {
            let Some(found) = found[at].as_ref().filter(|_| opened[at].is_some()) else { continue };
            if let (true, Some(kind)) = (found.reseal, opened[at]) {
                let Some(token) = self.seal(at, row, keys, found, kind)? else {
                    *tallies[at].counts.failed.entry("erased_subject").or_default() += 1;
                    outcome.failed.push((at, "erased_subject"));
                    continue;
                };
                self.cells_of(row, &mut cells)[self.cells.places[at].token] = Some(token);
                outcome.resealed.push((at, found.header.kid));
                outcome.trusted += u64::from(found.add_subject.is_some() || found.add_binding);
            }
            if found.reseal || found.open {
                self.index(at, row, &opened, &mut cells);
            }
        }
        self.nonces.end_record();
        outcome.cells = cells;
        Ok(outcome)
    }

    /// What stands in a cell of tokens. The class, where it is none that opens.
    fn look<'k>(
        &mut self,
        at: usize,
        row: &Row,
        keys: &'k PageKeys,
        tally: &mut Tally,
    ) -> Result<Option<Found<'k>>, &'static str> {
        let places = &self.cells.places[at];
        let field = &self.schema.fields[places.field];
        let Some(cell) = row.cells[places.token].as_deref() else {
            tally.counts.nulls += 1;
            return Ok(None);
        };
        if !cell.starts_with(PREFIX) {
            return Err("clear");
        }
        let header = token::decode(cell, &mut self.raw).map_err(class)?;
        if header.fid != field.fid {
            return Err(class(OpenError::FieldMismatch));
        }
        let key = keys.get(&header.kid).ok_or(class(OpenError::KeyUnavailable))?;
        match key.state {
            KeyState::Shredded => {
                tally.counts.erased += 1;
                return Ok(None);
            }
            KeyState::Retired => return Err(class(OpenError::KeyUnavailable)),
            KeyState::Compromised if !self.moves.allow_compromised => {
                return Err(class(OpenError::KeyUnavailable));
            }
            KeyState::Active | KeyState::DecryptOnly | KeyState::Compromised => {}
        }
        if !header.suite.fits(key.kind) {
            return Err(class(OpenError::Corrupt));
        }
        let is_newest = keys.is_newest(key);
        let is_subjects = matches!(key.scope, Scope::Subject(_));
        if is_subjects {
            tally.subjects[usize::from(!is_newest)] += 1;
        } else {
            *tally.keys.entry(header.kid).or_default() += 1;
        }
        let bare = !self.schema.subjects.is_empty() && !is_subjects;
        let unbound = !field.bind.is_empty() && !header.bound();
        tally.counts.without_subject += u64::from(bare);
        tally.counts.without_binding += u64::from(unbound);
        let trusts = self.moves.trust_rows;
        let add_subject = if bare && trusts { self.subject_of(row) } else { None };
        let add_binding = unbound && trusts;
        let reseal = !is_newest || add_subject.is_some() || add_binding;
        let stale = self.count_index(at, row, tally);
        let open = reseal || (stale && self.moves.reindex);
        Ok(Some(Found { header, key, reseal, open, add_subject, add_binding }))
    }

    /// Opens what is to be opened: by field, the kind of its payload.
    fn open_all(
        &mut self,
        row: &Row,
        keys: &PageKeys,
        found: &mut [Option<Found<'_>>],
        tallies: &mut [Tally],
        outcome: &mut Outcome,
    ) -> Vec<Option<PayloadKind>> {
        let subject = self.subject_of(row);
        let mut opened = vec![None; found.len()];
        for (at, found) in found.iter().enumerate() {
            let Some(found) = found.as_ref().filter(|found| found.open) else { continue };
            match self.open(at, row, keys, found, subject) {
                Ok(kind) => opened[at] = Some(kind),
                Err(error) => {
                    let class = class(error);
                    *tallies[at].counts.failed.entry(class).or_default() += 1;
                    outcome.failed.push((at, class));
                }
            }
        }
        opened
    }

    fn open(
        &mut self,
        at: usize,
        row: &Row,
        keys: &PageKeys,
        found: &Found<'_>,
        subject: Option<SubjectRef>,
    ) -> Result<PayloadKind, OpenError> {
        let is_bound = found.header.bound();
        if is_bound && !self.bind(at, row) {
            return Err(OpenError::Binding);
        }
        // A token under a shared key names nobody, in any row.
        let owner = match (&found.key.scope, self.cells.subject, subject) {
            (Scope::Subject(_), Some(_), Some(subject)) => Owner::Subject(subject),
            (Scope::Subject(_), Some(_), None) => Owner::Nobody,
            _ => Owner::Any,
        };
        let places = &self.cells.places[at];
        let expected = Expected {
            fid: self.schema.fields[places.field].fid,
            tenant: keys.keyring.tenant(),
            binding: is_bound.then_some(&*self.binding),
            owner,
        };
        let token = row.cells[places.token].as_deref().unwrap_or_default();
        let key = found.key.clone();
        let kind =
            self.opener.open_to_seal(token, &expected, |_| Some(key), &mut self.payloads[at])?;
        // Fields hold JSON.
        if kind == PayloadKind::Bytes { Err(OpenError::Corrupt) } else { Ok(kind) }
    }

    /// Encodes the bound values of a row; `false`: one is not there, or the field has none.
    fn bind(&mut self, at: usize, row: &Row) -> bool {
        self.binding.clear();
        let places = &self.cells.places[at];
        for (name, cell) in &places.bind {
            let Some(value) = row.cells[*cell].as_deref() else { return false };
            append_bound(name, value, &mut self.binding);
        }
        !places.bind.is_empty()
    }

    /// The new token; `None`: its data subject was erased meanwhile.
    fn seal(
        &mut self,
        at: usize,
        row: &Row,
        keys: &PageKeys,
        found: &Found<'_>,
        kind: PayloadKind,
    ) -> Result<Option<String>, SealError> {
        let own = match found.key.scope {
            Scope::Subject(subject) => Some(subject),
            _ => found.add_subject,
        };
        let key = match own {
            Some(subject) => keys.of_subject(&subject).ok_or(SealError::Key)?,
            None => &keys.own,
        };
        if key.state == KeyState::Shredded {
            return Ok(None);
        }
        // What is not to be bound by this row stays as it was.
        let bound = (found.header.bound() || found.add_binding) && self.bind(at, row);
        let field: &Field = &self.schema.fields[self.cells.places[at].field];
        if self.sealers.len() >= SEALERS {
            self.sealers.clear();
        }
        let sealer = match self.sealers.entry((key.id, field.fid)) {
            std::collections::hash_map::Entry::Occupied(sealer) => sealer.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(Sealer::new(key.clone(), Suite::XaesGcm, field.fid)?)
            }
        };
        let mut out = Vec::new();
        let binding = bound.then_some(&*self.binding);
        let (payload, nonces) = (&self.payloads[at], &mut self.nonces);
        sealer.seal(kind, payload, field.pad, binding, nonces, &mut out)?;
        // Tokens are ASCII.
        String::from_utf8(out).map(Some).map_err(|_| SealError::Key)
    }

    /// What is written in the row's place, at first what stands there.
    fn cells_of<'c>(
        &self,
        row: &Row,
        cells: &'c mut Option<Vec<Option<String>>>,
    ) -> &'c mut Vec<Option<String>> {
        cells.get_or_insert_with(|| {
            let as_text = |cell: &Option<Vec<u8>>| {
                cell.as_ref().map(|cell| String::from_utf8_lossy(cell).into_owned())
            };
            row.cells[..self.cells.written].iter().map(as_text).collect()
        })
    }
}

/// The name of a class, as docs/formats.md has it.
fn class(error: OpenError) -> &'static str {
    veilstream_engine::reveal::Status::Failed(error).as_str()
}
