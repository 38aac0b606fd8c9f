//! What the items of a request are: which schema and fields, and what their tokens' headers say.

use std::borrow::Cow;
use std::collections::BTreeSet;

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::kdf;
use veilstream_engine::key::{KeyId, SubjectRef};
use veilstream_engine::reveal::{
    BareToken, Decision, Disclosure, DisclosureOptions, FoundToken, HeldKeys, ReadStatus, Revealer,
};
use veilstream_engine::schema::{Field, Schema};
use veilstream_engine::seal::PayloadKind;
use veilstream_engine::token::{self, Suite};

use super::fault::RequestFault;
use super::request::{ItemKind, MOST_FIELDS, RevealRequest, TokenItem};
use crate::policy::{FieldFacts, PolicySet};

/// What stands in the audit for a schema or field that does not exist.
pub(super) const UNKNOWN: &str = "unknown";

/// The items of a request.
pub(super) struct Found<'r> {
    items: Vec<Item<'r>>,
}

/// One item.
pub(super) struct Item<'r> {
    /// The caller's id of it, as JSON.
    pub(super) id: Option<&'r [u8]>,
    pub(super) kind: Kind<'r>,
    /// The fields asked for, each once.
    asked: Vec<Asked<'r>>,
    /// Tokens: the place in `asked`, and the key.
    tokens: Vec<(usize, KeyId)>,
    /// Data subjects, as far as headers tell.
    subjects: Subjects,
}

/// What an item is.
pub(super) enum Kind<'r> {
    /// No item.
    Malformed,
    /// A record of a schema; `None`: there is no such schema.
    Record { schema: Option<&'r Schema>, record: &'r [u8] },
    /// A token out of its record; `None`: there is no such field.
    Token { field: Option<TokenField<'r>>, token: &'r TokenItem<'r> },
}

/// A field as asked for.
pub(super) struct Asked<'r> {
    /// `<schema>.<id>` and the like.
    pub(super) id: Cow<'r, str>,
    /// Where the caller's name of it within the item begins.
    name_at: usize,
    /// Its place in the schema of a record.
    field: Option<usize>,
    /// What the audit calls it: its name in its schema. A name that does not exist is the caller's
    /// text, and not for the log.
    audited: Cow<'r, str>,
}

/// The field of a bare token.
pub(super) struct TokenField<'r> {
    facts: &'r FieldFacts,
    subject_domain: Option<&'r str>,
    /// The field, where its form is another system's.
    interop: Option<&'r Field>,
    /// The schema has a subject, and the item does not say whose row it is.
    is_bare: bool,
}

/// How many data subjects, before keys are looked up.
enum Subjects {
    /// By the ids of their keys; some may stand there several times.
    Keys(Vec<KeyId>),
    /// A record or token of its own.
    Anonymous,
    Nobody,
}

/// What came of an item.
#[derive(Default)]
pub(super) struct Read<'f> {
    pub(super) fields: Vec<ReadField<'f>>,
    /// The record or value as JSON; empty: nothing of it is shown.
    pub(super) shown: Vec<u8>,
    /// It is raw bytes of a record key or header, and no JSON.
    pub(super) is_bytes: bool,
    /// Each once.
    pub(super) subjects: Vec<SubjectRef>,
    /// Each once.
    pub(super) kids: Vec<KeyId>,
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
        let items = request.items.iter().map(|item| {
            let found = match &item.what {
                None => Item::malformed(),
                Some(ItemKind::Record { schema, fields, record }) => {
                    Item::record(policies.schemas(), schema, fields.as_deref(), record, revealer)
                }
                Some(ItemKind::Token(token)) => Item::token(policies, token),
            };
            Item { id: item.id, ..found }
        });
        let found = Self { items: items.collect() };
        if found.fields().len() > MOST_FIELDS {
            return Err(RequestFault::TooMany { most: MOST_FIELDS, of: "fields" });
        }
        Ok(found)
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &Item<'r>> {
        self.items.iter()
    }

    /// Ids of the fields asked for, each once.
    pub(super) fn fields(&self) -> BTreeSet<&str> {
        self.items.iter().flat_map(Item::fields).collect()
    }

    /// Names of the schemas that there are.
    pub(super) fn schemas(&self) -> impl Iterator<Item = &str> {
        let names: BTreeSet<&str> = self.items.iter().map(Item::schema).collect();
        names.into_iter()
    }

    /// Whether a token of a schema with a subject came without it.
    pub(super) fn is_bare(&self) -> bool {
        self.items.iter().any(|item| match &item.kind {
            Kind::Token { field: Some(field), .. } => field.is_bare,
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
    fn malformed() -> Self {
        Self {
            id: None,
            kind: Kind::Malformed,
            asked: Vec::new(),
            tokens: Vec::new(),
            subjects: Subjects::Nobody,
        }
    }

    fn record(
        schemas: &'r SchemaSet,
        name: &str,
        fields: Option<&[Cow<'r, str>]>,
        record: &'r [u8],
        revealer: &mut Revealer,
    ) -> Self {
        let schema = schemas.schemas().iter().find(|schema| *schema.name == *name).map(|s| &**s);
        let all = schema.map_or(&[][..], |schema| &schema.fields);
        let names: BTreeSet<&str> = match fields {
            Some(fields) => fields.iter().map(|field| &**field).collect(),
            None => all.iter().map(|field| &*field.id).collect(),
        };
        let ask = |field: &str| Asked {
            id: format!("{name}.{field}").into(),
            name_at: name.len() + 1,
            field: all.iter().position(|known| *known.id == *field),
            audited: all
                .iter()
                .find(|known| *known.id == *field)
                .map_or(UNKNOWN, |known| &*known.id)
                .into(),
        };
        let asked: Vec<Asked<'r>> = names.into_iter().map(ask).collect();
        let mut found: Vec<FoundToken> = Vec::new();
        if let Some(schema) = schema {
            // What is no record of the schema says so when it is opened.
            let _ = revealer.tokens(schema, record, &mut found);
        }
        let place = |token: &FoundToken| {
            let at = asked.iter().position(|asked| asked.field == Some(token.field))?;
            Some((at, token.header.kid))
        };
        let tokens = found.iter().filter_map(place).collect();
        let subjects = if schema.is_some_and(|schema| !schema.subjects.is_empty()) {
            let subjects = found.iter().filter(|token| token.header.suite == Suite::XaesGcm);
            Subjects::Keys(subjects.map(|token| token.header.kid).collect())
        } else {
            Subjects::Anonymous
        };
        Self { id: None, kind: Kind::Record { schema, record }, asked, tokens, subjects }
    }

    fn token(policies: &'r PolicySet, token: &'r TokenItem<'r>) -> Self {
        let id = &*token.field;
        let facts = policies.facts().iter().find(|facts| *facts.id == *id || *facts.name == *id);
        let field = facts.map(|facts| {
            let mut schemas = policies.schemas().schemas().iter();
            let schema = schemas.find(|schema| schema.name == facts.schema);
            let has_subject = schema.is_some_and(|schema| !schema.subjects.is_empty());
            TokenField {
                facts,
                subject_domain: schema.and_then(|schema| schema.subject_domain.as_deref()),
                interop: schema
                    .and_then(|schema| schema.field(facts.name_in_schema()))
                    .filter(|field| field.interop.is_some()),
                is_bare: has_subject && token.subject.is_none(),
            }
        });
        let header = token::decode(token.token.as_bytes(), &mut Vec::new()).ok();
        let tokens = header.iter().map(|header| (0, header.kid)).collect();
        let subjects = match (&header, &field) {
            (Some(header), Some(_)) if header.suite == Suite::XaesGcm => {
                Subjects::Keys([header.kid].into())
            }
            _ => Subjects::Anonymous,
        };
        let audited = facts.map_or(UNKNOWN, FieldFacts::name_in_schema).into();
        let asked = vec![Asked { id: id.into(), name_at: 0, field: None, audited }];
        Self { id: None, kind: Kind::Token { field, token }, asked, tokens, subjects }
    }

    /// The fields asked for.
    pub(super) fn asked(&self) -> &[Asked<'r>] {
        &self.asked
    }

    /// Their ids.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().map(|asked| &*asked.id)
    }

    /// Fields and keys of its tokens, as headers name them.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (&str, &KeyId)> {
        self.tokens.iter().map(|(field, kid)| (&*self.asked[*field].id, kid))
    }

    /// The name of its schema, for the audit; one that does not exist is the caller's text, and not
    /// for the log.
    pub(super) fn schema(&self) -> &str {
        match &self.kind {
            Kind::Record { schema: Some(schema), .. } => &schema.name,
            Kind::Token { field: Some(field), .. } => &field.facts.schema,
            _ => UNKNOWN,
        }
    }

    /// Opens it as far as `decide` lets.
    pub(super) fn open(
        &self,
        held: HeldKeys<'_>,
        decide: &dyn Fn(&str) -> Decision,
        revealer: &mut Revealer,
    ) -> Read<'_> {
        match &self.kind {
            Kind::Malformed => Read::default(),
            Kind::Record { schema: Some(schema), record } => {
                self.open_record(schema, record, held, decide, revealer)
            }
            Kind::Token { field: Some(field), token } => {
                self.open_token(field, token, held, decide, revealer)
            }
            Kind::Record { schema: None, .. } | Kind::Token { field: None, .. } => self.denied(),
        }
    }

    /// Every field denied, as where nobody may read: nothing is said about what there is.
    fn denied(&self) -> Read<'_> {
        let fields = self.asked.iter().map(|asked| ReadField::new(asked, ReadStatus::Denied));
        Read { fields: fields.collect(), ..Read::default() }
    }

    fn open_record(
        &self,
        schema: &Schema,
        record: &[u8],
        held: HeldKeys<'_>,
        decide: &dyn Fn(&str) -> Decision,
        revealer: &mut Revealer,
    ) -> Read<'_> {
        let mut decisions = vec![Decision::Withhold; schema.fields.len()];
        for (asked, field) in self.asked.iter().filter_map(|asked| Some((asked, asked.field?))) {
            decisions[field] = decide(&asked.id);
        }
        if decisions.iter().all(|decision| *decision == Decision::Withhold) {
            return self.denied();
        }
        let options = DisclosureOptions { decisions: &decisions, strict: true };
        let (mut read, mut told) = (Read::default(), Disclosure::default());
        let opened = revealer.disclose(schema, held, record, &options, &mut read.shown, &mut told);
        for asked in &self.asked {
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
            read.fields.push(field);
        }
        read.unexpected = told.unexpected_tokens;
        read.kids = each_once(told.places.iter().filter_map(|place| place.kid));
        read.subjects = each_once(told.places.iter().filter_map(|place| place.subject));
        read
    }

    fn open_token(
        &self,
        field: &TokenField<'_>,
        token: &TokenItem<'_>,
        held: HeldKeys<'_>,
        decide: &dyn Fn(&str) -> Decision,
        revealer: &mut Revealer,
    ) -> Read<'_> {
        let id = &token.field;
        let bind: Vec<(&str, &[u8])> =
            token.bind.iter().map(|(name, json)| (&**name, *json)).collect();
        let item = BareToken {
            fid: kdf::field_id(&field.facts.name),
            mask: field.facts.mask,
            interop: field.interop,
            token: token.token.as_bytes(),
            decoded: None,
            bind: &bind,
            subject: token.subject,
            subject_domain: field.subject_domain,
        };
        let mut read = Read::default();
        let (_, place, kind) = revealer.disclose_token(held, &item, decide(id), &mut read.shown);
        let mut told = ReadField::new(&self.asked[0], place.status.into());
        told.class = place.status.as_str();
        read.fields.push(told);
        read.is_bytes = kind == PayloadKind::Bytes;
        read.kids.extend(place.kid);
        read.subjects.extend(place.subject);
        if kind == PayloadKind::Honey {
            read.honey.push(id.to_string());
        }
        read
    }
}

/// Sorted, each once.
fn each_once<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}

impl Asked<'_> {
    /// As the caller named it within the item.
    pub(super) fn name(&self) -> &str {
        &self.id[self.name_at..]
    }

    /// As the audit names it.
    pub(super) fn audited(&self) -> &str {
        &self.audited
    }
}

impl<'f> ReadField<'f> {
    fn new(asked: &'f Asked<'_>, status: ReadStatus) -> Self {
        let (name, audited) = (asked.name(), &*asked.audited);
        let status = status.as_str();
        Self { name, audited, status, class: status, places: Vec::new() }
    }
}
