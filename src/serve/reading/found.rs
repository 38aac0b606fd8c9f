//! What the items of a request are: which schema and fields, and what their tokens' headers say.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use smallvec::{SmallVec, smallvec};
use veilstream_engine::key::{KeyId, SubjectRef};
use veilstream_engine::reveal::{
    BareToken, Decision, Disclosure, DisclosureOptions, FoundToken, HeldKeys, ReadStatus, Revealer,
};
use veilstream_engine::schema::Schema;
use veilstream_engine::seal::PayloadKind;
use veilstream_engine::token::{Decoded, Suite};

use super::fault::RequestFault;
use super::request::{ItemKind, MOST_FIELDS, RevealRequest, TokenItem};
use super::target::{Asked, Target, Targets, TokenField};
use crate::policy::PolicySet;

/// The items of a request.
pub(super) struct Found<'r> {
    items: Vec<Item<'r>>,
    targets: Targets<'r>,
}

/// One item.
pub(super) struct Item<'r> {
    /// The caller's id of it, as JSON.
    pub(super) id: Option<&'r [u8]>,
    pub(super) kind: Kind<'r>,
    target: Rc<Target<'r>>,
    /// The place among the fields that it asks for, and the key.
    tokens: SmallVec<[(usize, KeyId); 1]>,
    /// Data subjects, as far as headers tell.
    subjects: Subjects,
}

/// What an item is.
pub(super) enum Kind<'r> {
    /// No item.
    Malformed,
    /// A record of a schema.
    Record { record: &'r [u8] },
    /// A token out of its record; `None`: it is none that decodes.
    Token { token: &'r TokenItem<'r>, decoded: Option<Decoded> },
}

/// How many data subjects, before keys are looked up.
enum Subjects {
    /// By the ids of their keys; some may stand there several times.
    Keys(SmallVec<[KeyId; 1]>),
    /// A record or token of its own.
    Anonymous,
    Nobody,
}

/// What came of an item.
#[derive(Default)]
pub(super) struct Read<'f> {
    pub(super) fields: SmallVec<[ReadField<'f>; 1]>,
    /// The record or value as JSON; empty: nothing of it is shown.
    pub(super) shown: Vec<u8>,
    /// It is raw bytes of a record key or header, and no JSON.
    pub(super) is_bytes: bool,
    /// Each once.
    pub(super) subjects: SmallVec<[SubjectRef; 1]>,
    /// Each once.
    pub(super) kids: SmallVec<[KeyId; 1]>,
    /// Ids of fields of which a honey token was opened.
    pub(super) honey: Vec<String>,
    /// Normalized paths of tokens in the record where its schema declares none.
    pub(super) unexpected: Vec<String>,
}

/// What came of a field.
pub(super) struct ReadField<'f> {
    /// As the caller named it within the item.
    pub(super) name: &'f str,
    /// As the audit names it.
    pub(super) audited: &'f str,
    /// For the caller.
    pub(super) status: &'static str,
    /// For the audit.
    pub(super) class: &'static str,
    /// Places with another status, by their paths.
    pub(super) places: Vec<(String, &'static str)>,
}

/// Keys of data subjects that a stream remembers; from then on others count each time.
const MOST_KNOWN: usize = 1 << 16;

/// Distinct data subjects, as far as headers tell.
#[derive(Default)]
pub(super) struct SubjectCount {
    keys: BTreeSet<KeyId>,
    others: u64,
}

impl SubjectCount {
    fn add(&mut self, key: KeyId) {
        if self.keys.len() < MOST_KNOWN {
            self.keys.insert(key);
        } else if !self.keys.contains(&key) {
            self.others += 1;
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.keys.len() as u64 + self.others
    }
}

impl<'r> Found<'r> {
    /// Looks at a request's items. No key is needed.
    ///
    /// # Errors
    /// They ask for too many fields.
    pub(super) fn of(
        request: &'r RevealRequest<'r>,
        policies: &'r PolicySet,
        revealer: &mut Revealer,
    ) -> Result<Self, RequestFault> {
        if !few_names(request) {
            return Err(RequestFault::TooMany { most: MOST_FIELDS, of: "fields" });
        }
        let mut targets = Targets::new(policies);
        let items = request.items.iter().map(|item| {
            let target = targets.of(item.what.as_ref());
            let found = match &item.what {
                None => Item::malformed(target),
                Some(ItemKind::Record { record, .. }) => Item::record(target, record, revealer),
                Some(ItemKind::Token(token)) => Item::token(target, token),
            };
            Item { id: item.id, ..found }
        });
        let found = Self { items: items.collect(), targets };
        if found.targets.named() > MOST_FIELDS {
            return Err(RequestFault::TooMany { most: MOST_FIELDS, of: "fields" });
        }
        Ok(found)
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &Item<'r>> {
        self.items.iter()
    }

    /// Ids of the fields asked for, each once.
    pub(super) fn fields(&self) -> &[Arc<str>] {
        self.targets.fields()
    }

    /// Names of the schemas that there are.
    pub(super) fn schemas(&self) -> impl Iterator<Item = &str> {
        self.targets.schemas().into_iter()
    }

    /// Whether a token of a schema with a subject came without it.
    pub(super) fn is_bare(&self) -> bool {
        self.items.iter().any(|item| match (&item.kind, &item.target.token) {
            (Kind::Token { token, .. }, Some(field)) => {
                field.has_subject && token.subject.is_none()
            }
            _ => false,
        })
    }

    /// Distinct data subjects: keys of theirs, and each record and token of all else.
    pub(super) fn subjects(&self) -> u64 {
        let mut counted = SubjectCount::default();
        self.count_subjects(&mut counted);
        counted.total()
    }

    /// Counts its data subjects to those of the parts of a stream before.
    pub(super) fn count_subjects(&self, counted: &mut SubjectCount) {
        for item in &self.items {
            match &item.subjects {
                Subjects::Keys(of) => of.iter().for_each(|key| counted.add(*key)),
                Subjects::Anonymous => counted.others += 1,
                Subjects::Nobody => {}
            }
        }
    }
}

/// Whether a request names as many fields as one may. Counted before tokens are matched with names:
/// a hundred thousand of each would take long.
fn few_names(request: &RevealRequest<'_>) -> bool {
    let mut known = BTreeSet::new();
    let records = request.items.iter().filter_map(|item| match &item.what {
        Some(ItemKind::Record { schema, fields: Some(fields), .. }) => Some((schema, fields)),
        _ => None,
    });
    let mut names = records.flat_map(|(schema, fields)| fields.iter().map(move |f| (schema, f)));
    names.all(|name| {
        known.insert(name);
        known.len() <= MOST_FIELDS
    })
}

impl<'r> Item<'r> {
    fn malformed(target: Rc<Target<'r>>) -> Self {
        let (tokens, subjects) = (SmallVec::new(), Subjects::Nobody);
        Self { id: None, kind: Kind::Malformed, target, tokens, subjects }
    }

    fn record(target: Rc<Target<'r>>, record: &'r [u8], revealer: &mut Revealer) -> Self {
        let schema = target.schema;
        let mut found: Vec<FoundToken> = Vec::new();
        if let Some(schema) = schema {
            // What is no record of the schema says so when it is opened.
            let _ = revealer.tokens(schema, record, &mut found);
        }
        let place = |token: &FoundToken| {
            let at = target.asked.iter().position(|asked| asked.field == Some(token.field))?;
            Some((at, token.header.kid))
        };
        let tokens = found.iter().filter_map(place).collect::<Vec<_>>().into();
        let subjects = if schema.is_some_and(|schema| !schema.subjects.is_empty()) {
            let subjects = found.iter().filter(|token| token.header.suite == Suite::XaesGcm);
            Subjects::Keys(subjects.map(|token| token.header.kid).collect::<Vec<_>>().into())
        } else {
            Subjects::Anonymous
        };
        Self { id: None, kind: Kind::Record { record }, target, tokens, subjects }
    }

    fn token(target: Rc<Target<'r>>, token: &'r TokenItem<'r>) -> Self {
        let decoded = Decoded::new(token.token.as_bytes()).ok();
        let header = decoded.as_ref().map(|decoded| decoded.header);
        let tokens = header.map(|header| (0, header.kid)).into_iter().collect();
        let subjects = match header {
            Some(header) if header.suite == Suite::XaesGcm && target.token.is_some() => {
                Subjects::Keys(smallvec![header.kid])
            }
            _ => Subjects::Anonymous,
        };
        Self { id: None, kind: Kind::Token { token, decoded }, target, tokens, subjects }
    }

    /// Whether it asks for the same as another.
    pub(super) fn shares_target(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.target, &other.target)
    }

    /// The fields asked for.
    pub(super) fn asked(&self) -> &[Asked<'r>] {
        &self.target.asked
    }

    /// Whether it asks for all of a schema. Fields that may not be read are not told then: a schema
    /// without any other looks like one that does not exist.
    pub(super) fn is_whole(&self) -> bool {
        self.target.is_whole
    }

    /// Fields and keys of its tokens, as headers name them.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (&Asked<'r>, &KeyId)> {
        self.tokens.iter().map(|(at, kid)| (&self.target.asked[*at], kid))
    }

    /// The name of its schema, for the audit; one that does not exist is the caller's text, and not
    /// for the log.
    pub(super) fn schema(&self) -> &str {
        self.target.schema_name
    }

    /// Opens it as far as `decide` lets.
    pub(super) fn open(
        &self,
        held: HeldKeys<'_>,
        decide: &dyn Fn(&Asked<'_>) -> Decision,
        revealer: &mut Revealer,
    ) -> Read<'_> {
        match &self.kind {
            Kind::Malformed => Read::default(),
            Kind::Record { record } => match self.target.schema {
                Some(schema) => self.open_record(schema, record, held, decide, revealer),
                None => self.denied(),
            },
            Kind::Token { token, decoded } => match &self.target.token {
                Some(field) => {
                    self.open_token(field, token, decoded.as_ref(), held, decide, revealer)
                }
                None => self.denied(),
            },
        }
    }

    /// Every field denied, as where nobody may read: nothing is said about what there is.
    fn denied(&self) -> Read<'_> {
        let fields = self.asked().iter().map(|asked| ReadField::new(asked, ReadStatus::Denied));
        Read { fields: fields.collect::<Vec<_>>().into(), ..Read::default() }
    }

    fn open_record(
        &self,
        schema: &Schema,
        record: &[u8],
        held: HeldKeys<'_>,
        decide: &dyn Fn(&Asked<'_>) -> Decision,
        revealer: &mut Revealer,
    ) -> Read<'_> {
        let mut decisions = vec![Decision::Withhold; schema.fields.len()];
        for (asked, field) in self.asked().iter().filter_map(|asked| Some((asked, asked.field?))) {
            decisions[field] = decide(asked);
        }
        if decisions.iter().all(|decision| *decision == Decision::Withhold) {
            return self.denied();
        }
        let options = DisclosureOptions { decisions: &decisions, strict: true };
        let (mut read, mut told) = (Read::default(), Disclosure::default());
        let mut fields = Vec::new();
        let opened = revealer.disclose(schema, held, record, &options, &mut read.shown, &mut told);
        for asked in self.asked() {
            let status = match asked.field {
                None => ReadStatus::Denied,
                Some(field) if decisions[field] == Decision::Withhold => ReadStatus::Denied,
                // It is no record of this schema, whatever it is.
                Some(_) if opened.is_err() => ReadStatus::Corrupt,
                Some(field) => told.fields.get(field).copied().unwrap_or(ReadStatus::Denied),
            };
            let mut field = ReadField::new(asked, status);
            for place in told.places.iter().filter(|place| Some(place.field) == asked.field) {
                let shown = ReadStatus::from(place.status);
                if shown == status {
                    field.class = place.status.as_str();
                }
                if let Some(path) = &place.path {
                    field.places.push((path.clone(), shown.as_str()));
                }
            }
            if asked.field.is_some_and(|field| told.honey.contains(&field)) {
                read.honey.push(asked.id.to_string());
            }
            fields.push(field);
        }
        read.fields = fields.into();
        read.unexpected = told.unexpected_tokens;
        read.kids = each_once(told.places.iter().filter_map(|place| place.kid));
        read.subjects = each_once(told.places.iter().filter_map(|place| place.subject));
        read
    }

    fn open_token(
        &self,
        field: &TokenField<'_>,
        token: &TokenItem<'_>,
        decoded: Option<&Decoded>,
        held: HeldKeys<'_>,
        decide: &dyn Fn(&Asked<'_>) -> Decision,
        revealer: &mut Revealer,
    ) -> Read<'_> {
        let [asked] = self.asked() else { return self.denied() };
        let bind: Vec<(&str, &[u8])> =
            token.bind.iter().map(|(name, json)| (&**name, *json)).collect();
        let item = BareToken {
            fid: field.fid,
            mask: field.mask,
            interop: field.interop,
            token: token.token.as_bytes(),
            decoded,
            bind: &bind,
            subject: token.subject,
            subject_domain: field.subject_domain,
        };
        let mut read = Read::default();
        let (_, place, kind) = revealer.disclose_token(held, &item, decide(asked), &mut read.shown);
        let mut told = ReadField::new(asked, place.status.into());
        told.class = place.status.as_str();
        read.fields.push(told);
        read.is_bytes = kind == PayloadKind::Bytes;
        read.kids.extend(place.kid);
        read.subjects.extend(place.subject);
        if kind == PayloadKind::Honey {
            read.honey.push(asked.id.to_string());
        }
        read
    }
}

/// Sorted, each once.
fn each_once<T: Ord>(values: impl Iterator<Item = T>) -> SmallVec<[T; 1]> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.dedup();
    values.into()
}

impl Read<'_> {
    /// The same after a first attempt, which opened more: for the audit, whose it was and under
    /// which keys.
    pub(super) fn after(self, first: Self) -> Self {
        Self { subjects: first.subjects, kids: first.kids, ..self }
    }

    /// Whether the audit tells the same of it as of another with the same target.
    pub(super) fn is_told_as(&self, other: &Self) -> bool {
        self.kids == other.kids
            && self.subjects == other.subjects
            && self.fields.iter().map(|f| f.class).eq(other.fields.iter().map(|f| f.class))
    }
}

impl<'f> ReadField<'f> {
    fn new(asked: &'f Asked<'_>, status: ReadStatus) -> Self {
        let (name, audited) = (asked.name(), asked.audited);
        let status = status.as_str();
        Self { name, audited, status, class: status, places: Vec::new() }
    }
}
