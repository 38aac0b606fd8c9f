//! `POST /v1/seal`: tokens of values, for rows that callers write themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use veilstream_engine::Keyring;
use veilstream_engine::index::Indexer;
use veilstream_engine::interop::{self, SealTextError};
use veilstream_engine::key::{Key, KeyKind, KeyState, Scope};
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::schema::{Field, IndexRule, Protect, Schema};
use veilstream_engine::seal::{BarePayload, NoncePool, PayloadKind, Sealer};
use veilstream_engine::token::Suite;
use veilstream_engine::transform::NeededKey;
use veilstream_keys::OsEntropy;
use veilstream_reading::audit::{Entry, Event};

use super::Reading;
use super::answer::{self, Head, Spent, begin, member};
use super::asker::Asker;
use super::document::Document;
use super::fault::RequestFault;
use super::groups::Groups;
use super::prepared::Prepared;
use super::request::{MOST_FIELDS, SealItem, SealRequest, SealValue};
use super::subject_ref::Subjects;
use super::target::UNKNOWN;
use crate::keys::KeyFault;
use crate::policy::{Action, PolicySet, Request, RequestFacts, Want};
use crate::telemetry::metrics::Metrics;

/// The key of what has no data subject's: the instances of the service share it.
const SHARED: &str = "serve";

/// What came of an item.
enum Sealed {
    Malformed,
    Denied,
    /// Denied, because the budget has no room.
    Budget,
    /// The data subject was erased.
    Erased,
    /// No token stands in the place of such a field.
    Unsupported,
    /// Nothing is left of a value to hash: null stands in its place.
    Null,
    /// What stands in the value's place.
    Token(Vec<u8>),
}

/// What is to be done for an item.
enum Plan<'p> {
    Done(Sealed),
    /// A token under the key of that place among those needed.
    Seal {
        field: &'p Field,
        payload: BarePayload,
        key: usize,
        suite: Suite,
    },
    /// The value in the form of another system.
    Interop {
        field: &'p Field,
        payload: BarePayload,
    },
    /// The index of the value.
    Hash {
        rule: &'p IndexRule,
        value: &'p [u8],
    },
}

impl Reading {
    pub(super) fn seal(&self, asker: &Asker, body: &[u8]) -> Result<Prepared, RequestFault> {
        let document = Document::read(body)?;
        let request = SealRequest::read(&document)?;
        asker.take_items(request.items.len())?;
        let claims = &request.claims;
        let attempt = self.attempt(asker, claims, "/v1/seal", body)?;
        let policies = self.policies.current();
        let facts = RequestFacts {
            bare: is_bare(&request, &policies),
            subjects: subjects(&request),
            ..asker.facts(claims, request.items.len() as u64)
        };
        let mut questions = asker.questions(&policies, &facts, Want::Auto)?;
        let purpose = &claims.purpose;
        let mut planner = Planner {
            reading: self,
            asker,
            purpose,
            policies: &policies,
            subjects: Subjects::default(),
            needed: Vec::new(),
        };
        let plans = planner.plan(&request, &mut questions)?;
        self.tell_failures(&policies, &questions);
        let keys = if planner.needed.is_empty() {
            Vec::new()
        } else {
            self.keys.fetch(&planner.needed)?
        };
        let keyring = self.keys.keyring();
        let sealed = Sealing::new(&keys, &keyring).all(plans)?;
        let template = asker.entry(Event::Seal, claims, attempt, &policies);
        let trace = self.submit(entries(&template, &policies, &request.items, &sealed))?;
        let summary = answer::summary(sealed.iter().map(Sealed::status));
        let items = request.items.iter().zip(&sealed);
        let write = |out: &mut Vec<u8>, (item, sealed): (&SealItem<'_>, &Sealed)| {
            sealed.write(out, item.id);
        };
        let answer = Head { claims, policy: policies.hash() }.with(&summary, "items", items, write);
        let spent = sealed.iter().filter(|one| matches!(one, Sealed::Budget)).count();
        let spent = Spent::new(&policies, &claims.purpose, spent);
        let count = move |metrics: &Metrics| {
            answer::add(&metrics.seals, &summary);
            spent.add_to(metrics);
        };
        Ok(Prepared { trace, answer, shows_audit: false, count: Box::new(count) })
    }
}

/// The schema and the field of that id; `None`: a record key, a header, or nothing.
fn field_of<'p>(policies: &'p PolicySet, id: &str) -> Option<(&'p Schema, &'p Field)> {
    let facts = policies.facts().iter().find(|facts| *facts.id == *id)?;
    let schemas = policies.schemas().schemas();
    let schema: &Schema = schemas.iter().find(|schema| schema.name == facts.schema)?;
    Some((schema, schema.field(facts.name_in_schema())?))
}

/// Distinct data subjects; what names none counts as one each.
fn subjects(request: &SealRequest<'_>) -> u64 {
    let values = || request.items.iter().filter_map(|item| item.what.as_ref());
    let named: BTreeSet<&[u8]> = values().filter_map(|value| value.subject).collect();
    named.len() as u64 + values().filter(|value| value.subject.is_none()).count() as u64
}

/// Whether a value of a schema with a subject came without it.
fn is_bare(request: &SealRequest<'_>, policies: &PolicySet) -> bool {
    let values = request.items.iter().filter_map(|item| item.what.as_ref());
    values.filter(|value| value.subject.is_none()).any(|value| {
        field_of(policies, &value.field).is_some_and(|(schema, _)| !schema.subjects.is_empty())
    })
}

struct Planner<'a> {
    reading: &'a Reading,
    asker: &'a Asker,
    purpose: &'a str,
    policies: &'a PolicySet,
    subjects: Subjects,
    /// Each once.
    needed: Vec<NeededKey>,
}

impl<'a> Planner<'a> {
    fn plan(
        &mut self,
        request: &'a SealRequest<'a>,
        questions: &mut Request<'_>,
    ) -> Result<Vec<Plan<'a>>, RequestFault> {
        let values = request.items.iter().filter_map(|item| item.what.as_ref());
        let fields: BTreeSet<&str> = values.map(|value| value.field.as_str()).collect();
        if fields.len() > MOST_FIELDS {
            return Err(RequestFault::TooMany { most: MOST_FIELDS, of: "fields" });
        }
        request.items.iter().map(|item| self.item(item, questions)).collect()
    }

    fn item(
        &mut self,
        item: &'a SealItem<'a>,
        questions: &mut Request<'_>,
    ) -> Result<Plan<'a>, RequestFault> {
        let Some(value) = &item.what else { return Ok(Plan::Done(Sealed::Malformed)) };
        // Of a deterministic or hashed field it asks for `search` too.
        if !questions.permits(Action::Seal, &value.field).is_permitted() {
            return Ok(Plan::Done(Sealed::Denied));
        }
        let Some((schema, field)) = field_of(self.policies, &value.field) else {
            return Ok(Plan::Done(Sealed::Unsupported));
        };
        let bind: Vec<(&str, &[u8])> =
            value.bind.iter().map(|(name, json)| (&**name, *json)).collect();
        let Ok(payload) = BarePayload::new(field, value.value, &bind) else {
            return Ok(Plan::Done(Sealed::Malformed));
        };
        match field.protect {
            Protect::Encrypt if field.interop.is_some() => Ok(match value.subject {
                // It would tell the caller that an erasure reaches the value.
                Some(_) => Plan::Done(Sealed::Malformed),
                None => Plan::Interop { field, payload },
            }),
            Protect::Encrypt => self.encrypted(schema, field, value, payload),
            Protect::Deterministic(root) if value.subject.is_none() => {
                let scope = Scope::Version(root);
                let needed = NeededKey { kind: KeyKind::Deterministic, scope };
                Ok(self.equal(value).unwrap_or_else(|| Plan::Seal {
                    field,
                    payload,
                    key: self.key(needed),
                    suite: Suite::AesSiv,
                }))
            }
            Protect::Hash if value.subject.is_none() => {
                let Some(rule) = field.index.as_ref().filter(|rule| rule.of.is_empty()) else {
                    return Ok(Plan::Done(Sealed::Unsupported));
                };
                let hash = Plan::Hash { rule, value: value.value };
                Ok(self.equal(value).unwrap_or(hash))
            }
            Protect::Deterministic(_) | Protect::Hash => Ok(Plan::Done(Sealed::Malformed)),
            _ => Ok(Plan::Done(Sealed::Unsupported)),
        }
    }

    fn encrypted(
        &mut self,
        schema: &Schema,
        field: &'a Field,
        value: &SealValue<'_>,
        payload: BarePayload,
    ) -> Result<Plan<'a>, RequestFault> {
        let scope = match value.subject {
            Some(subject) if !schema.subjects.is_empty() => {
                let reference = self.subjects.reference(self.reading, schema, subject)?;
                let Some(reference) = reference else { return Ok(Plan::Done(Sealed::Malformed)) };
                Scope::Subject(reference)
            }
            // Whose it is must be said where others of the field say it, and nowhere else.
            None if schema.subjects.is_empty() || schema.subject_optional => {
                Scope::Shared(SHARED.into())
            }
            Some(_) | None => return Ok(Plan::Done(Sealed::Malformed)),
        };
        let key = self.key(NeededKey { kind: KeyKind::Data, scope });
        Ok(Plan::Seal { field, payload, key, suite: Suite::XaesGcm })
    }

    /// What equal values show as equal is a search, and spends its budget. `Some`: no room.
    fn equal(&self, value: &SealValue<'_>) -> Option<Plan<'a>> {
        let Self { reading, asker, purpose, .. } = self;
        let has_room = reading.reserve_value(asker, purpose, &value.field, &[value.value]);
        (!has_room).then_some(Plan::Done(Sealed::Budget))
    }

    fn key(&mut self, needed: NeededKey) -> usize {
        let same = |known: &NeededKey| known.kind == needed.kind && known.scope == needed.scope;
        self.needed.iter().position(same).unwrap_or_else(|| {
            self.needed.push(needed);
            self.needed.len() - 1
        })
    }
}

struct Sealing<'k> {
    keys: &'k [Arc<Key>],
    keyring: &'k Keyring,
    nonces: NoncePool,
    /// By key and field.
    sealers: BTreeMap<(usize, [u8; 6]), Sealer>,
}

impl<'k> Sealing<'k> {
    fn new(keys: &'k [Arc<Key>], keyring: &'k Keyring) -> Self {
        let nonces = NoncePool::new(Box::new(OsEntropy));
        Self { keys, keyring, nonces, sealers: BTreeMap::new() }
    }

    fn all(mut self, plans: Vec<Plan<'_>>) -> Result<Vec<Sealed>, KeyFault> {
        plans
            .into_iter()
            .map(|plan| match plan {
                Plan::Done(done) => Ok(done),
                Plan::Seal { field, payload, key, suite } => {
                    self.token(field, &payload, key, suite)
                }
                Plan::Interop { field, payload } => self.of_others(field, &payload),
                Plan::Hash { rule, value } => self.hash(rule, value),
            })
            .collect()
    }

    fn token(
        &mut self,
        field: &Field,
        payload: &BarePayload,
        key: usize,
        suite: Suite,
    ) -> Result<Sealed, KeyFault> {
        let fault = |what: String| KeyFault(format!("a key does not seal: {what}"));
        let known = self.keys.get(key).ok_or_else(|| fault("it is not there".to_owned()))?;
        if known.state == KeyState::Shredded {
            return Ok(Sealed::Erased);
        }
        if known.state != KeyState::Active {
            return Err(fault(format!("it is {}", known.state.as_str())));
        }
        let sealer = match self.sealers.entry((key, field.fid)) {
            std::collections::btree_map::Entry::Occupied(sealer) => sealer.into_mut(),
            std::collections::btree_map::Entry::Vacant(place) => {
                let sealer = Sealer::new(known.clone(), suite, field.fid);
                place.insert(sealer.map_err(|error| fault(error.to_string()))?)
            }
        };
        let pad = if suite == Suite::AesSiv { 16 } else { field.pad };
        let (mut token, binding) = (Vec::new(), payload.binding.as_deref());
        // Each will stand in a row of its own.
        self.nonces.begin_record();
        sealer
            .seal(PayloadKind::Json, &payload.payload, pad, binding, &mut self.nonces, &mut token)
            .map_err(|error| fault(error.to_string()))?;
        Ok(Sealed::Token(token))
    }

    fn of_others(&mut self, field: &Field, payload: &BarePayload) -> Result<Sealed, KeyFault> {
        let fault = |what: &str| KeyFault(format!("a key does not seal: {what}"));
        let keys = field.interop.as_ref().and_then(|of| self.keyring.interop().get(of));
        let keys = keys.ok_or_else(|| fault("it is not there"))?;
        let (mut token, time) = (Vec::new(), crate::keys::now());
        match interop::seal_value(field, keys, &payload.payload, time, &mut self.nonces, &mut token)
        {
            Ok(()) => Ok(Sealed::Token(token)),
            Err(SealTextError::Unsupported) => Ok(Sealed::Unsupported),
            Err(error @ SealTextError::Entropy(_)) => Err(fault(&error.to_string())),
        }
    }

    fn hash(&self, rule: &IndexRule, value: &[u8]) -> Result<Sealed, KeyFault> {
        let (mut scratch, mut normal, mut tag) = (Scratch::default(), Vec::new(), Vec::new());
        if !rule.normalize.normalize(Input::Json(value), &mut scratch, &mut normal) {
            return Ok(Sealed::Null);
        }
        let newest = self.keyring.of_kind(KeyKind::Index).filter(|root| {
            root.state == KeyState::Active
                && rule.root.is_none_or(|pinned| root.scope == Scope::Version(pinned))
        });
        newest
            .max_by_key(|root| root.version)
            .and_then(|root| Indexer::of_rule(root, self.keyring.tenant(), rule))
            .ok_or_else(|| KeyFault("there is no index root".to_owned()))?
            .write([normal.as_slice()], &mut tag);
        Ok(Sealed::Token(tag))
    }
}

impl Sealed {
    fn status(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Denied | Self::Budget => "denied",
            Self::Erased => "erased",
            Self::Unsupported => "unsupported",
            Self::Null | Self::Token(_) => "sealed",
        }
    }

    fn outcome(&self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Budget => "budget",
            Self::Null | Self::Token(_) => "ok",
            Self::Malformed | Self::Erased | Self::Unsupported => "failed",
        }
    }

    fn write(&self, out: &mut Vec<u8>, id: Option<&[u8]>) {
        begin(out, id);
        member(out, "status", json!(self.status()).to_string().as_bytes());
        match self {
            Self::Token(token) => {
                let token = json!(String::from_utf8_lossy(token));
                member(out, "token", token.to_string().as_bytes());
            }
            Self::Null => member(out, "token", b"null"),
            _ => {}
        }
        out.push(b'}');
    }
}

/// One line a schema and outcome. What tells equality is a search as well.
fn entries(
    template: &Entry,
    policies: &PolicySet,
    items: &[SealItem<'_>],
    sealed: &[Sealed],
) -> Vec<Entry> {
    let mut lines = Groups::new(template);
    for (item, sealed) in items.iter().zip(sealed) {
        let field = item.what.as_ref().map(|value| value.field.as_str());
        // A field that does not exist is the caller's text, and not for the log.
        let facts = field.and_then(|id| policies.facts().iter().find(|facts| *facts.id == *id));
        let schema = facts.map_or(UNKNOWN, |facts| &*facts.schema);
        let outcome = sealed.outcome();
        let tells = outcome == "ok" && facts.is_some_and(|facts| facts.tells_equality);
        for is_search in [false, true].into_iter().filter(|is_search| tells || !is_search) {
            let event = if is_search { Event::Search } else { Event::Seal };
            let entry = lines.count(event, schema, outcome);
            if let Some(facts) = facts {
                let status = if is_search { "revealed" } else { sealed.status() };
                entry.fields.insert(facts.name_in_schema().to_owned(), status.to_owned());
            }
        }
    }
    lines.into_entries()
}
