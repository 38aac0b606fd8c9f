//! `POST /v1/explain`: what `/v1/reveal` would answer, by policy alone. No key is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use veilstream_reading::audit::{Entry, Event};

use super::Reading;
use super::answer::{Summary, begin, member};
use super::asker::Asker;
use super::asking::Asking;
use super::fault::RequestFault;
use super::found::{Item, Kind};
use super::prepared::Prepared;
use super::target::Asked;
use crate::policy::{self, Action, Permission};

/// What is told of a field.
struct Told {
    status: &'static str,
    /// For those who may read policies.
    policies: Option<Value>,
}

impl Reading {
    pub(super) fn explain(&self, asker: &Asker, body: &[u8]) -> Result<Prepared, RequestFault> {
        self.with_items(asker, "/v1/explain", body, |asking, _| {
            let mut questions = asking.questions()?;
            let decided = asking.decide(&mut questions);
            let tell_of = |(field, decision): (&Arc<str>, &policy::Decision)| {
                let explains = questions.permits(Action::Explain, field);
                let reads = questions.permits(Action::PolicyRead, field);
                tell(decision, &explains, &reads)
            };
            let told: Vec<Told> =
                asking.found.fields().iter().zip(&decided.fields).map(tell_of).collect();
            self.tell_failures(asking.policies, &questions);
            let trace = self.submit(entries(&asking, &told))?;
            let mut summary = Summary::new();
            asking.found.items().for_each(|item| count(item, &told, &mut summary));
            let explain = |out: &mut Vec<u8>, item: &Item<'_>| explain(out, item, &told);
            Ok(Prepared {
                trace,
                answer: asking.head().with(&summary, "items", asking.found.items(), explain),
                shows_audit: decided.shows_audit,
                count: Box::new(|_| {}),
            })
        })
    }
}

fn tell(decision: &policy::Decision, explains: &Permission, reads: &Permission) -> Told {
    if !explains.is_permitted() {
        return Told { status: "denied", policies: None };
    }
    let policies = reads.is_permitted().then(|| {
        json!({
            "policies": decision.policies.iter().map(|id| &**id).collect::<Vec<_>>(),
            "denial": decision.denial.map(policy::Denial::code),
        })
    });
    Told { status: decision.answer.name(), policies }
}

/// One line a schema.
fn entries(asking: &Asking<'_>, told: &[Told]) -> Vec<Entry> {
    let template = asking.entry(Event::Explain);
    let mut schemas: BTreeMap<&str, Entry> = BTreeMap::new();
    for item in asking.found.items() {
        let entry = schemas.entry(item.schema()).or_insert_with(|| Entry {
            schema: Some(item.schema().to_owned()),
            items: Some(0),
            outcome: Some("ok".to_owned()),
            ..template.clone()
        });
        entry.items = entry.items.map(|items| items + 1);
        for asked in item.asked() {
            let status = told.get(asked.place).map_or("denied", |told| told.status);
            entry.fields.insert(asked.audited.to_owned(), status.to_owned());
        }
    }
    if schemas.is_empty() {
        return vec![Entry { items: Some(0), ..template }];
    }
    schemas.into_values().collect()
}

fn count(item: &Item<'_>, told: &[Told], summary: &mut Summary) {
    for asked in item.asked() {
        let status = told.get(asked.place).map_or("denied", |told| told.status);
        *summary.entry(status).or_default() += 1;
    }
    if matches!(item.kind, Kind::Malformed) {
        *summary.entry("malformed").or_default() += 1;
    }
}

fn explain(out: &mut Vec<u8>, item: &Item<'_>, told: &[Told]) {
    begin(out, item.id);
    let field = |asked: &Asked<'_>| match told.get(asked.place) {
        Some(Told { status, policies }) => {
            let mut value = json!({ "status": status });
            if let (Some(Value::Object(more)), Some(object)) = (policies, value.as_object_mut()) {
                object.extend(more.clone());
            }
            value
        }
        None => json!({ "status": "denied" }),
    };
    match item.kind {
        Kind::Malformed => member(out, "status", b"\"malformed\""),
        Kind::Record { .. } => {
            let fields: Map<String, Value> =
                item.asked().iter().map(|f| (f.name().to_owned(), field(f))).collect();
            member(out, "fields", Value::from(fields).to_string().as_bytes());
        }
        Kind::Token { .. } => {
            if let Some(Value::Object(members)) = item.asked().first().map(field) {
                for (name, value) in members {
                    member(out, &name, value.to_string().as_bytes());
                }
            }
        }
    }
    out.push(b'}');
}
