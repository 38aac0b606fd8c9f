//! `POST /v1/index`: what to search for. A dictionary oracle, so each value spends a budget.

use std::sync::Arc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use veilstream_engine::Keyring;
use veilstream_engine::index::Indexer;
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::schema::{IndexRule, Schema};
use veilstream_reading::audit::{Entry, Event};

use super::Reading;
use super::answer::{self, Head, Spent, begin, member};
use super::asker::Asker;
use super::document::Document;
use super::fault::RequestFault;
use super::groups::Groups;
use super::prepared::Prepared;
use super::request::{IndexRequest, Query, QueryValue};
use super::target::UNKNOWN;
use crate::keys::KeyFault;
use crate::policy::budget::{Counted, Unit};
use crate::policy::{self, Action, FieldFacts, PolicySet, Want};
use crate::telemetry::metrics::Metrics;

/// What came of a query.
enum Searched {
    Malformed,
    Denied,
    /// Denied, because the budget has no room.
    Budget,
    /// No row can have it.
    NoIndex,
    Values {
        into: Option<String>,
        values: Vec<String>,
        bits: u16,
    },
}

impl Reading {
    pub(super) fn index(&self, asker: &Asker, body: &[u8]) -> Result<Prepared, RequestFault> {
        let document = Document::read(body)?;
        let request = IndexRequest::read(&document)?;
        asker.take_items(request.queries.len())?;
        let claims = &request.claims;
        let attempt = self.attempt(asker, claims, "/v1/index", body)?;
        let policies = self.policies.current();
        let keyring = self.keys.keyring();
        let facts = asker.facts(claims, request.queries.len() as u64);
        let mut questions = asker.questions(&policies, &facts, Want::Auto)?;
        let search = Search { asker, policies: &policies, keyring: &keyring, reading: self };
        let searched: Vec<Searched> = request
            .queries
            .iter()
            .map(|query| search.answer(query, &claims.purpose, &mut questions))
            .collect::<Result<_, _>>()?;
        self.tell_failures(&policies, &questions);
        let template = asker.entry(Event::Search, claims, attempt, &policies);
        let entries = entries(&template, &policies, &request.queries, &searched);
        let trace = self.submit(entries)?;
        let summary = answer::summary(searched.iter().map(Searched::outcome));
        let queries = request.queries.iter().zip(&searched);
        let write = |out: &mut Vec<u8>, (query, searched): (&Query<'_>, &Searched)| {
            searched.write(out, query.id);
        };
        let answer =
            Head { claims, policy: policies.hash() }.with(&summary, "queries", queries, write);
        let spent = searched.iter().filter(|one| matches!(one, Searched::Budget)).count();
        let spent = Spent::new(&policies, &claims.purpose, spent);
        let count = move |metrics: &Metrics| {
            answer::add(&metrics.searches, &summary);
            spent.add_to(metrics);
        };
        // Nobody has `audit` here: a search is of no schema as a whole.
        Ok(Prepared { trace, answer, shows_audit: false, count: Box::new(count) })
    }
}

impl Reading {
    /// Reserves one unit of the budget for a distinct value of a field, whether or not it has an
    /// index. `false`: there is no room.
    pub(super) fn reserve_value(
        &self,
        asker: &Asker,
        purpose: &str,
        field: &str,
        values: &[&[u8]],
    ) -> bool {
        // Kept in memory for a day: by a hash, so that no value is.
        let mut hash = Sha256::new().chain_update(self.salt).chain_update(field);
        for value in values {
            hash = hash.chain_update(value.len().to_be_bytes()).chain_update(value);
        }
        let mut unit = [0; 16];
        unit.copy_from_slice(&hash.finalize()[..16]);
        let (now, purpose) = (self.now(), Arc::from(purpose));
        let unit = Unit::Reference(unit);
        self.budgets().reserve(now, &asker.id, &purpose, Counted::Values, unit).is_ok()
    }
}

struct Search<'a> {
    reading: &'a Reading,
    asker: &'a Asker,
    policies: &'a PolicySet,
    keyring: &'a Keyring,
}

impl Search<'_> {
    fn answer(
        &self,
        query: &Query<'_>,
        purpose: &str,
        questions: &mut policy::Request<'_>,
    ) -> Result<Searched, RequestFault> {
        let Some((field, value)) = &query.what else { return Ok(Searched::Malformed) };
        if !questions.permits(Action::Search, field).is_permitted() {
            return Ok(Searched::Denied);
        }
        let Some((facts, schema, rule)) = self.rule(field) else { return Ok(Searched::Denied) };
        // Nobody knows here which fields the parts of a compound index are: all of them count.
        let read = if rule.of.is_empty() { &[][..] } else { &schema.fields };
        let mut read = read.iter().map(|field| format!("{}.{}", schema.name, field.id));
        if !read.all(|part| questions.permits(Action::Search, &part).is_permitted()) {
            return Ok(Searched::Denied);
        }
        let values: Vec<&[u8]> = match value {
            QueryValue::One(value) => vec![value],
            QueryValue::Several(values) => values.clone(),
        };
        if values.len() != rule.of.len().max(1) {
            return Ok(Searched::Malformed);
        }
        if !self.reading.reserve_value(self.asker, purpose, &facts.id, &values) {
            return Ok(Searched::Budget);
        }
        self.write(rule, &values)
    }

    /// A field's index, and where it stands.
    fn rule(&self, id: &str) -> Option<(&FieldFacts, &Schema, &IndexRule)> {
        let facts = self.policies.facts().iter().find(|facts| *facts.id == *id)?;
        let schema = self.policies.schemas().schemas().iter().find(|s| s.name == facts.schema)?;
        let (_, rule) = schema.indexes().find(|(of, _)| of == facts.name_in_schema())?;
        Some((facts, schema, rule))
    }

    fn write(&self, rule: &IndexRule, values: &[&[u8]]) -> Result<Searched, RequestFault> {
        let (mut scratch, mut parts) = (Scratch::default(), Vec::with_capacity(values.len()));
        for value in values {
            let mut normal = Vec::new();
            if !rule.normalize.normalize(Input::Json(value), &mut scratch, &mut normal) {
                return Ok(Searched::NoIndex);
            }
            parts.push(normal);
        }
        let indexers = Indexer::to_search(rule, self.keyring);
        if indexers.is_empty() {
            // No values would mean no row.
            return Err(KeyFault("there is no index root".to_owned()).into());
        }
        let values = indexers
            .iter()
            .map(|indexer| {
                let mut out = Vec::new();
                indexer.write(parts.iter().map(Vec::as_slice), &mut out);
                String::from_utf8(out).unwrap_or_default()
            })
            .collect();
        Ok(Searched::Values { into: rule.into.clone(), values, bits: rule.bits })
    }
}

impl Searched {
    fn outcome(&self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Denied | Self::Budget => "denied",
            Self::NoIndex => "no_index",
            Self::Values { .. } => "ok",
        }
    }

    fn write(&self, out: &mut Vec<u8>, id: Option<&[u8]>) {
        begin(out, id);
        match self {
            Self::Values { into, values, bits } => {
                if let Some(into) = into {
                    member(out, "into", json!(into).to_string().as_bytes());
                }
                member(out, "values", json!(values).to_string().as_bytes());
                member(out, "bits", bits.to_string().as_bytes());
                // Equal values have equal tags; under few bits others have them too.
                member(out, "recheck", Value::from(*bits < 128).to_string().as_bytes());
            }
            other => {
                member(out, "status", json!(other.outcome()).to_string().as_bytes());
                // The caller writes `IN`: of nothing, which finds no row.
                member(out, "values", b"[]");
            }
        }
        out.push(b'}');
    }
}

/// One line a schema and outcome.
fn entries(
    template: &Entry,
    policies: &PolicySet,
    queries: &[Query<'_>],
    searched: &[Searched],
) -> Vec<Entry> {
    let mut lines = Groups::new(template);
    for (query, searched) in queries.iter().zip(searched) {
        let field = query.what.as_ref().map(|(field, _)| field.as_str());
        // A field that does not exist is the caller's text, and not for the log.
        let facts = field.and_then(|id| policies.facts().iter().find(|facts| *facts.id == *id));
        let schema = facts.map_or(UNKNOWN, |facts| &*facts.schema);
        let outcome = match searched {
            Searched::Budget => "budget",
            Searched::Values { .. } | Searched::NoIndex => "ok",
            Searched::Denied => "denied",
            Searched::Malformed => "failed",
        };
        let entry = lines.count(Event::Search, schema, outcome);
        if let Some(facts) = facts {
            let status = if outcome == "ok" { "revealed" } else { "denied" };
            entry.fields.insert(facts.name_in_schema().to_owned(), status.to_owned());
        }
    }
    lines.into_entries()
}
