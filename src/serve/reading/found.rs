//! What the items of a request are: which schema and fields, and what their tokens' headers say.

use std::collections::BTreeSet;
use std::sync::Arc;

use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{KeyId, SubjectRef};
use veilstream_engine::reveal::{
    BareToken, Decision, Disclosure, DisclosureOptions, FoundToken, HeldKeys, ReadStatus, Revealer,
};
use veilstream_engine::schema::Schema;
use veilstream_engine::seal::PayloadKind;
use veilstream_engine::token::{self, Suite};

use super::request::{ItemKind, RevealRequest};
use crate::policy::FieldFacts;

/// The items of a request.
pub(super) struct Found<'r> {
    items: Vec<Item<'r>>,
}

/// One item.
pub(super) struct Item<'r> {
    /// The caller's id of it, as JSON.
    pub(super) id: Option<&'r [u8]>,
    pub(super) kind: Kind<'r>,
    /// Ids of the fields asked for: `<schema>.<id>` and the like.
    asked: Vec<String>,
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
    Record { schema: Option<Arc<Schema>>, name: String, record: &'r [u8] },
    /// A token out of its record; `None`: there is no such field.
    Token { field: Option<TokenField>, asked: &'r TokenAsked<'r> },
}

/// The field of a bare token.
pub(super) struct TokenField {
    facts: FieldFacts,
    subject_domain: Option<String>,
    /// The schema has a subject, and the item does not say whose row it is.
    is_bare: bool,
}

/// A bare token as asked for.
pub(super) struct TokenAsked<'r> {
    token: &'r [u8],
    bind: Vec<(&'r str, &'r [u8])>,
    subject: Option<&'r [u8]>,
}

/// How many data subjects, before keys are looked up.
enum Subjects {
    /// By the ids of their keys.
    Keys(BTreeSet<KeyId>),
    /// A record or token of its own.
    Anonymous,
    Nobody,
}

/// What came of an item.
#[derive(Default)]
pub(super) struct Read {
    pub(super) fields: Vec<ReadField>,
    /// The record or value as JSON; empty: nothing of it is shown.
    pub(super) shown: Vec<u8>,
    /// It is raw bytes of a record key or header, and no JSON.
    pub(super) is_bytes: bool,
    pub(super) subjects: BTreeSet<SubjectRef>,
    pub(super) kids: BTreeSet<KeyId>,
    /// Ids of fields of which a honey token was opened.
    pub(super) honey: Vec<String>,
}

/// What came of a field.
pub(super) struct ReadField {
    /// As the caller named it within the item.
    pub(super) name: String,
    /// For the caller.
    pub(super) status: &'static str,
    /// For the audit.
    pub(super) class: &'static str,
    /// Places with another status, by their paths.
    pub(super) places: Vec<(String, &'static str)>,
}

impl<'r> Found<'r> {
    /// Looks at a request's items. No key is needed.
    pub(super) fn of(
        request: &'r RevealRequest<'r>,
        tokens: &'r [Option<TokenAsked<'r>>],
        schemas: &SchemaSet,
        facts: &[FieldFacts],
        revealer: &mut Revealer,
    ) -> Self {
        let items = request.items.iter().zip(tokens).map(|(item, token)| {
            let found = match &item.what {
                None => Item::malformed(),
                Some(ItemKind::Record { schema, fields, record }) => {
                    Item::record(schemas, schema, fields.as_deref(), record, revealer)
                }
                Some(ItemKind::Token { field, .. }) => match token {
                    Some(token) => Item::token(schemas, facts, field, token),
                    None => Item::malformed(),
                },
            };
            Item { id: item.id, ..found }
        });
        Self { items: items.collect() }
    }

    pub(super) fn items(&self) -> impl Iterator<Item = &Item<'r>> {
        self.items.iter()
    }

    /// Ids of the fields asked for, each once.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        let fields: BTreeSet<&str> = self.items.iter().flat_map(Item::fields).collect();
        fields.into_iter()
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
        let mut keys: BTreeSet<KeyId> = BTreeSet::new();
        let mut anonymous = 0;
        for item in &self.items {
            match &item.subjects {
                Subjects::Keys(of) => keys.extend(of),
                Subjects::Anonymous => anonymous += 1,
                Subjects::Nobody => {}
            }
        }
        keys.len() as u64 + anonymous
    }
}

/// Tokens of a request in the form that the engine takes; by item.
pub(super) fn tokens_of<'r>(request: &'r RevealRequest<'r>) -> Vec<Option<TokenAsked<'r>>> {
    let of = |what: &'r Option<ItemKind<'r>>| match what {
        Some(ItemKind::Token { token, bind, subject, .. }) => Some(TokenAsked {
            token,
            bind: bind.iter().map(|(name, json)| (name.as_str(), *json)).collect(),
            subject: *subject,
        }),
        _ => None,
    };
    request.items.iter().map(|item| of(&item.what)).collect()
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
        schemas: &SchemaSet,
        name: &str,
        fields: Option<&[String]>,
        record: &'r [u8],
        revealer: &mut Revealer,
    ) -> Self {
        let schema = schemas.schemas().iter().find(|schema| *schema.name == *name).cloned();
        let ids: Vec<String> = match (fields, &schema) {
            (Some(fields), _) => {
                let distinct: BTreeSet<&String> = fields.iter().collect();
                distinct.into_iter().map(|field| format!("{name}.{field}")).collect()
            }
            (None, Some(schema)) => {
                schema.fields.iter().map(|field| format!("{name}.{}", field.id)).collect()
            }
            (None, None) => Vec::new(),
        };
        let mut found: Vec<FoundToken> = Vec::new();
        if let Some(schema) = &schema {
            // What is no record of the schema says so when it is opened.
            let _ = revealer.tokens(schema, record, &mut found);
        }
        let place = |token: &FoundToken| {
            let field = &schema.as_ref()?.fields.get(token.field)?.id;
            let at = ids.iter().position(|id| id[name.len() + 1..] == **field)?;
            Some((at, token.header.kid))
        };
        let tokens = found.iter().filter_map(place).collect();
        let subjects = match &schema {
            Some(schema) if !schema.subjects.is_empty() => Subjects::Keys(
                found
                    .iter()
                    .filter(|token| token.header.suite == Suite::XaesGcm)
                    .map(|token| token.header.kid)
                    .collect(),
            ),
            _ => Subjects::Anonymous,
        };
        let kind = Kind::Record { schema, name: name.to_owned(), record };
        Self { id: None, kind, asked: ids, tokens, subjects }
    }

    fn token(
        schemas: &SchemaSet,
        facts: &[FieldFacts],
        id: &str,
        asked: &'r TokenAsked<'r>,
    ) -> Self {
        let facts = facts.iter().find(|facts| *facts.id == *id || *facts.name == *id);
        let field = facts.map(|facts| {
            let schema = schemas.schemas().iter().find(|schema| schema.name == facts.schema);
            let has_subject = schema.is_some_and(|schema| !schema.subjects.is_empty());
            TokenField {
                facts: facts.clone(),
                subject_domain: schema.and_then(|schema| schema.subject_domain.clone()),
                is_bare: has_subject && asked.subject.is_none(),
            }
        });
        let header = token::decode(asked.token, &mut Vec::new()).ok();
        let tokens = header.iter().map(|header| (0, header.kid)).collect();
        let subjects = match (&header, &field) {
            (Some(header), Some(_)) if header.suite == Suite::XaesGcm => {
                Subjects::Keys([header.kid].into())
            }
            _ => Subjects::Anonymous,
        };
        let kind = Kind::Token { field, asked };
        Self { id: None, kind, asked: vec![id.to_owned()], tokens, subjects }
    }

    /// Ids of the fields asked for.
    pub(super) fn fields(&self) -> impl Iterator<Item = &str> {
        self.asked.iter().map(String::as_str)
    }

    /// Fields and keys of its tokens, as headers name them.
    pub(super) fn tokens(&self) -> impl Iterator<Item = (&str, &KeyId)> {
        self.tokens.iter().map(|(field, kid)| (self.asked[*field].as_str(), kid))
    }

    /// The name of its schema, for the audit; one that does not exist is the caller's text, and not
    /// for the log.
    pub(super) fn schema(&self) -> &str {
        match &self.kind {
            Kind::Record { schema: Some(schema), .. } => &schema.name,
            Kind::Token { field: Some(field), .. } => &field.facts.schema,
            _ => "unknown",
        }
    }

    /// Opens it as far as `decide` lets.
    pub(super) fn open(
        &self,
        held: HeldKeys<'_>,
        decide: &dyn Fn(&str) -> Decision,
        revealer: &mut Revealer,
    ) -> Read {
        match &self.kind {
            Kind::Malformed => Read::default(),
            Kind::Record { schema, name, record } => match schema {
                Some(schema) => self.open_record(schema, name, record, held, decide, revealer),
                None => self.denied(name.len() + 1),
            },
            Kind::Token { field: Some(field), asked } => {
                self.open_token(field, asked, held, decide, revealer)
            }
            Kind::Token { field: None, .. } => self.denied(0),
        }
    }

    /// Every field denied, as where nobody may read: nothing is said about what there is.
    fn denied(&self, skip: usize) -> Read {
        let fields = self.asked.iter().map(|id| ReadField::new(&id[skip..], ReadStatus::Denied));
        Read { fields: fields.collect(), ..Read::default() }
    }

    fn open_record(
        &self,
        schema: &Schema,
        name: &str,
        record: &[u8],
        held: HeldKeys<'_>,
        decide: &dyn Fn(&str) -> Decision,
        revealer: &mut Revealer,
    ) -> Read {
        let decision =
            |id: &str| self.asked.iter().find(|asked| **asked == id).map(|id| decide(id));
        let decisions: Vec<Decision> = schema
            .fields
            .iter()
            .map(|field| decision(&format!("{name}.{}", field.id)).unwrap_or_default())
            .collect();
        if decisions.iter().all(|decision| *decision == Decision::Withhold) {
            return self.denied(name.len() + 1);
        }
        let options = DisclosureOptions { decisions: &decisions, strict: true };
        let (mut read, mut told) = (Read::default(), Disclosure::default());
        let opened = revealer.disclose(schema, held, record, &options, &mut read.shown, &mut told);
        let index = |id: &str| schema.fields.iter().position(|field| *field.id == *id);
        for id in &self.asked {
            let id = &id[name.len() + 1..];
            let status = match index(id) {
                None => ReadStatus::Denied,
                Some(i) if decisions[i] == Decision::Withhold => ReadStatus::Denied,
                // It is no record of this schema, whatever it is.
                Some(_) if opened.is_err() => ReadStatus::Corrupt,
                Some(i) => told.fields.get(i).copied().unwrap_or(ReadStatus::Denied),
            };
            let mut field = ReadField::new(id, status);
            if let Some(i) = index(id) {
                let places = told.places.iter().filter(|place| place.field == i);
                for place in places {
                    let shown = ReadStatus::from(place.status);
                    if shown == status {
                        field.class = place.status.as_str();
                    }
                    if let Some(path) = &place.path {
                        field.places.push((path.clone(), shown.as_str()));
                    }
                }
            }
            read.fields.push(field);
        }
        read.honey =
            told.honey.iter().map(|i| format!("{name}.{}", schema.fields[*i].id)).collect();
        for place in &told.places {
            read.kids.extend(place.kid);
            read.subjects.extend(place.subject);
        }
        read
    }

    fn open_token(
        &self,
        field: &TokenField,
        asked: &TokenAsked<'_>,
        held: HeldKeys<'_>,
        decide: &dyn Fn(&str) -> Decision,
        revealer: &mut Revealer,
    ) -> Read {
        let id = &self.asked[0];
        let item = BareToken {
            field: &field.facts.name,
            mask: field.facts.mask,
            token: asked.token,
            bind: &asked.bind,
            subject: asked.subject,
            subject_domain: field.subject_domain.as_deref(),
        };
        let mut read = Read::default();
        let (_, place, kind) = revealer.disclose_token(held, &item, decide(id), &mut read.shown);
        let mut told = ReadField::new(id, place.status.into());
        told.class = place.status.as_str();
        read.fields.push(told);
        read.is_bytes = kind == PayloadKind::Bytes;
        read.kids.extend(place.kid);
        read.subjects.extend(place.subject);
        if kind == PayloadKind::Honey {
            read.honey.push(id.clone());
        }
        read
    }
}

impl ReadField {
    fn new(name: &str, status: ReadStatus) -> Self {
        let (name, status) = (name.to_owned(), status.as_str());
        Self { name, status, class: status, places: Vec::new() }
    }
}
