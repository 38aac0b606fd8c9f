//! Reading under decisions: of each field its values, masked ones or nothing.

use std::cell::RefCell;
use std::sync::Arc;

use super::paths::Paths;
use super::{FoundPlace, Keys, Revealer, Rules, Status, Withheld};
use crate::error::{OpenError, Reject, RejectCode};
use crate::key::{Key, KeyId, KeyKind, SubjectRef};
use crate::keyring::Keyring;
use crate::scan::Kind;
use crate::schema::{Field, Schema};
use crate::token::{self, Header};
use crate::uniform::UniformMap;

/// Bytes of the paths of a record's places, for small records.
const PATHS_BASE: usize = 4 << 10;
/// What each byte of the record adds. Paths of more come of names that are there to be repeated.
const PATHS_PER_BYTE: usize = 4;

/// What a caller gets of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Decision {
    /// Its values.
    Reveal,
    /// What its mask shows of them. Nothing, where it has none.
    Mask,
    /// Nothing; no key of it is looked for.
    #[default]
    Withhold,
}

impl Decision {
    /// What it comes to for this field.
    pub(super) fn of(self, field: &Field) -> Self {
        if self == Self::Mask && field.mask().is_none() { Self::Withhold } else { self }
    }
}

/// What a caller is told of a field or place, from least to most disclosed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ReadStatus {
    /// Withheld; nothing is said about what is there.
    Denied,
    /// Nothing to open: not there, null, or protected without a way back.
    Absent,
    /// A token where the schema declares none.
    UnexpectedToken,
    /// A token that does not open for any other reason.
    Corrupt,
    /// The key is not available, now or ever here.
    KeyUnavailable,
    /// The key was destroyed.
    Erased,
    /// A value in clear where only tokens are written.
    Clear,
    /// Shown under the field's mask.
    Masked,
    /// Shown.
    Revealed,
}

impl ReadStatus {
    /// Every status, from least to most disclosed.
    pub const ALL: [Self; 9] = [
        Self::Denied,
        Self::Absent,
        Self::UnexpectedToken,
        Self::Corrupt,
        Self::KeyUnavailable,
        Self::Erased,
        Self::Clear,
        Self::Masked,
        Self::Revealed,
    ];

    /// The name in answers and audit.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Absent => "absent",
            Self::UnexpectedToken => "unexpected_token",
            Self::Corrupt => "corrupt",
            Self::KeyUnavailable => "key_unavailable",
            Self::Erased => "erased",
            Self::Clear => "clear",
            Self::Masked => "masked",
            Self::Revealed => "revealed",
        }
    }
}

impl From<Status> for ReadStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Revealed => Self::Revealed,
            Status::Masked => Self::Masked,
            Status::NotText | Status::Withheld | Status::Skipped | Status::Honey => Self::Denied,
            Status::NoToken => Self::Absent,
            Status::Clear => Self::Clear,
            Status::Failed(OpenError::KeyUnavailable) => Self::KeyUnavailable,
            Status::Failed(OpenError::Erased) => Self::Erased,
            Status::Failed(
                OpenError::Malformed
                | OpenError::Unsupported
                | OpenError::FieldMismatch
                | OpenError::Corrupt
                | OpenError::Binding,
            ) => Self::Corrupt,
        }
    }
}

/// How a record is read.
#[derive(Debug, Clone, Copy)]
pub struct DisclosureOptions<'a> {
    /// By index of the field in the schema; a field without one is withheld.
    pub decisions: &'a [Decision],
    /// A value in clear in a token's place is withheld. Else it stays, masked where the field is.
    pub strict: bool,
}

/// Keys that were fetched by their ids; `None`: there is no such key.
pub type FetchedKeys = UniformMap<KeyId, Option<Arc<Key>>>;

/// Keys of a request: its snapshot, and what was fetched by id.
#[derive(Clone, Copy)]
pub struct HeldKeys<'a> {
    /// The snapshot.
    pub keyring: &'a Keyring,
    /// Fetched after the snapshot was taken. Anyone who fetches unwraps no key of kind
    /// `dead_letter` and no compromised one.
    pub fetched: &'a FetchedKeys,
}

impl HeldKeys<'_> {
    /// The key, if it may open a field's token. What is not known goes to `missing`.
    pub(super) fn get(&self, id: &KeyId, missing: &RefCell<Vec<KeyId>>) -> Option<Arc<Key>> {
        let known = self.keyring.get(id).map(|key| Some(key.clone()));
        let Some(known) = known.or_else(|| self.fetched.get(id).cloned()) else {
            let mut missing = missing.borrow_mut();
            if !missing.contains(id) {
                missing.push(*id);
            }
            return None;
        };
        known.filter(|key| key.kind != KeyKind::DeadLetter)
    }
}

/// How far it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Disclosed {
    /// Done.
    Whole,
    /// Nothing was disclosed: fetch these keys, then call again.
    NeedKeys(Vec<KeyId>),
}

/// What became of a record.
#[derive(Debug, Default)]
pub struct Disclosure {
    /// By index of the field in the schema; of several places of a field the status that discloses
    /// most.
    pub fields: Vec<ReadStatus>,
    /// In document order.
    pub places: Vec<Place>,
    /// Normalized paths of tokens where the schema declares none; they were left. Together no
    /// longer than the document: the rest is not named.
    pub unexpected_tokens: Vec<String>,
    /// Fields of which a honey token was opened: raise the alarm, and withhold them in the whole
    /// request. Here all of their places are withheld already.
    pub honey: Vec<usize>,
}

/// What became of one protected place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Index of the field in the schema.
    pub field: usize,
    /// The exact class, for the audit; callers get its [`ReadStatus`].
    pub status: Status,
    /// The key that its token asked for; `None`: no key was looked for.
    pub kid: Option<KeyId>,
    /// Whose key that is, when it is a data subject's and was there.
    pub subject: Option<SubjectRef>,
    /// Its node; 0 of a bare token.
    pub(super) node: u32,
    /// Normalized path (RFC 9535), where the places of the field differ in what callers get.
    pub path: Option<String>,
}

/// A token at a place the schema declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FoundToken {
    /// Index of the field in the schema.
    pub field: usize,
    /// What it says without a key.
    pub header: Header,
}

impl Revealer {
    /// The tokens of a document, as their headers tell of them; no key is needed. Counts subjects
    /// before anything is decided, and tells afterwards which keys to fetch.
    ///
    /// # Errors
    /// As [`Revealer::reveal`].
    pub fn tokens(
        &mut self,
        schema: &Schema,
        doc: &[u8],
        found: &mut Vec<FoundToken>,
    ) -> Result<(), Reject> {
        found.clear();
        self.selected(schema, &schema.enveloped_value(doc), false, |this, doc| {
            let mut covered_to = 0;
            for hit in &this.selection.hits {
                let field = usize::from(hit.path);
                if field >= schema.fields.len() || hit.node < covered_to {
                    continue;
                }
                let node = this.tape.nodes()[hit.node as usize];
                covered_to = node.next;
                if node.kind == Kind::String
                    && let Ok(header) = token::decode(&doc[node.inner()], &mut this.payload)
                {
                    found.push(FoundToken { field, header });
                }
            }
        })
    }

    /// Reads a protected document into `out` (whose content is replaced): each protected place
    /// holds its value, its masked value or `null`, index members are gone.
    ///
    /// # Errors
    /// As [`Revealer::reveal`], and [`RejectCode::TooComplex`] where the paths of a field's places
    /// are much longer than the document. The report has what was opened all the same.
    pub fn disclose(
        &mut self,
        schema: &Schema,
        keys: HeldKeys<'_>,
        doc: &[u8],
        options: &DisclosureOptions<'_>,
        out: &mut Vec<u8>,
        report: &mut Disclosure,
    ) -> Result<Disclosed, Reject> {
        out.clear();
        *report = Disclosure::default();
        let missing = RefCell::default();
        let lookup = |id: &KeyId| keys.get(id, &missing);
        let keys = Keys { keyring: keys.keyring, lookup: &lookup };
        let mut named = Ok(());
        self.selected(schema, &schema.enveloped_value(doc), false, |this, doc| {
            while this.disclose_once(schema, &keys, doc, options, out, report) {}
            named = this.name_places(schema, doc, report);
        })?;
        named.inspect_err(|_| out.clear())?;
        schema.strip_envelope(out);
        let missing = missing.into_inner();
        if missing.is_empty() {
            return Ok(Disclosed::Whole);
        }
        out.clear();
        *report = Disclosure::default();
        Ok(Disclosed::NeedKeys(missing))
    }

    /// One attempt; whether it met honey that it did not know of.
    fn disclose_once(
        &mut self,
        schema: &Schema,
        keys: &Keys<'_>,
        doc: &[u8],
        options: &DisclosureOptions<'_>,
        out: &mut Vec<u8>,
        report: &mut Disclosure,
    ) -> bool {
        let Disclosure { fields, places, honey, .. } = report;
        let decide = |index: usize, field: &Field| {
            let decision = options.decisions.get(index).copied().unwrap_or_default();
            if honey.contains(&index) { Decision::Withhold } else { decision.of(field) }
        };
        fields.clear();
        fields.extend(schema.fields.iter().enumerate().map(|(i, field)| match decide(i, field) {
            Decision::Withhold => ReadStatus::Denied,
            Decision::Mask | Decision::Reveal => ReadStatus::Absent,
        }));
        let (mut met, before) = (Vec::new(), std::mem::take(places));
        out.clear();
        let rules = Rules {
            decide: &decide,
            withheld: Withheld::Null { strict: options.strict },
            answers: None,
        };
        self.open_all(schema, keys, doc, &rules, out, &mut |place: FoundPlace| {
            let FoundPlace { field, node, status, kid, subject, .. } = place;
            if status == Status::Honey && !met.contains(&field) {
                met.push(field);
            }
            places.push(Place { field, status, kid, subject, node, path: None });
        });
        // What a first attempt opened was opened: the audit has its keys and its honey.
        for (place, first) in places.iter_mut().zip(before) {
            if first.status == Status::Honey {
                place.status = Status::Honey;
            }
            (place.kid, place.subject) = (place.kid.or(first.kid), place.subject.or(first.subject));
        }
        // Denied is the least: where a field has places, they alone count.
        places.iter().for_each(|place| fields[place.field] = ReadStatus::Denied);
        for place in &*places {
            fields[place.field] = fields[place.field].max(place.status.into());
        }
        honey.extend(&met);
        !met.is_empty()
    }

    /// Gives each place its path whose field has places that differ, and names tokens where none
    /// should be.
    ///
    /// # Errors
    /// The places have no room for their paths. The report has what was opened all the same.
    fn name_places(
        &mut self,
        schema: &Schema,
        doc: &[u8],
        report: &mut Disclosure,
    ) -> Result<(), Reject> {
        let mut elsewhere = Vec::new();
        self.undeclared_tokens(schema, doc, &mut |node| elsewhere.push(node));
        let Disclosure { fields, places, unexpected_tokens, .. } = report;
        let mut differs = vec![false; fields.len()];
        for place in &*places {
            differs[place.field] |= ReadStatus::from(place.status) != fields[place.field];
        }
        let mut paths =
            Paths::new(schema, &self.tape, doc, PATHS_BASE + PATHS_PER_BYTE * doc.len());
        let mut named = places.iter_mut().filter(|place| differs[place.field]);
        let fits = named.all(|place| {
            place.path = paths.of(place.node);
            place.path.is_some()
        });
        if !fits {
            places.iter_mut().for_each(|place| place.path = None);
            return Err(Reject::new(RejectCode::TooComplex));
        }
        let mut paths = Paths::new(schema, &self.tape, doc, doc.len());
        *unexpected_tokens = elsewhere.into_iter().map_while(|node| paths.of(node)).collect();
        Ok(())
    }
}
