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
    /// The caller may ask about it.
    is_explained: bool,
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
        return Told { is_explained: false, status: "denied", policies: None };
    }
    let policies = reads.is_permitted().then(|| {
        json!({
            "policies": decision.policies.iter().map(|id| &**id).collect::<Vec<_>>(),
            "denial": decision.denial.map(policy::Denial::code),
        })
    });
    Told { is_explained: true, status: decision.answer.name(), policies }
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

/// The fields of an item that are told of.
fn shown<'t>(
    item: &'t Item<'t>,
    told: &'t [Told],
) -> impl Iterator<Item = (&'t Asked<'t>, &'t Told)> {
    let of = item.asked().iter().filter_map(|asked| Some((asked, told.get(asked.place)?)));
    of.filter(|(_, told)| told.is_explained || !item.is_whole())
}

fn count(item: &Item<'_>, told: &[Told], summary: &mut Summary) {
    for (_, Told { status, .. }) in shown(item, told) {
        *summary.entry(status).or_default() += 1;
    }
    if matches!(item.kind, Kind::Malformed) {
        *summary.entry("malformed").or_default() += 1;
    }
}

fn explain(out: &mut Vec<u8>, item: &Item<'_>, told: &[Told]) {
    begin(out, item.id);
    let field = |Told { status, policies, .. }: &Told| {
        let mut value = json!({ "status": status });
        if let (Some(Value::Object(more)), Some(object)) = (policies, value.as_object_mut()) {
            object.extend(more.clone());
        }
        value
    };
    let mut shown = shown(item, told);
    match item.kind {
        Kind::Malformed => member(out, "status", b"\"malformed\""),
        Kind::Record { .. } => {
            let fields: Map<String, Value> =
                shown.map(|(asked, told)| (asked.name().to_owned(), field(told))).collect();
            member(out, "fields", Value::from(fields).to_string().as_bytes());
        }
        Kind::Token { .. } => {
            if let Some(Value::Object(members)) = shown.next().map(|(_, told)| field(told)) {
                for (name, value) in members {
                    member(out, &name, value.to_string().as_bytes());
                }
            }
        }
    }
    out.push(b'}');
}
