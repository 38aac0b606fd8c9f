//! Answers as JSON. Records and values are written as the engine gave them.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prometheus::IntCounterVec;
use serde_json::{Map, Value, json};
use veilstream_reading::audit::Durable;

use super::found::{Found, Item, Kind, Read, ReadField};
use super::request::Claims;
use crate::policy::PolicySet;
use crate::serve::router::Asked;
use crate::telemetry::metrics::Metrics;

/// Bytes of an item beside its record or value, mostly.
const ROOM: usize = 64;

/// An answer's members before its items.
pub(super) struct Head<'a> {
    pub(super) claims: &'a Claims,
    /// Hash of the policy set.
    pub(super) policy: &'a str,
}

/// An answer as JSON without its end: where the request stands in the log is not known yet.
pub(super) struct OpenAnswer {
    json: Vec<u8>,
    asked: Option<Asked>,
}

impl OpenAnswer {
    /// The answer, and what the log has of it. `audit`: for those who may see it.
    pub(super) fn close(self, audit: Option<Durable>) -> (Vec<u8>, Option<Asked>) {
        let Self { json: mut out, asked } = self;
        if let Some(durable) = audit {
            member(&mut out, "audit", place(durable).to_string().as_bytes());
        }
        out.push(b'}');
        (out, asked)
    }
}

/// Where a request stands in the log.
fn place(durable: Durable) -> Value {
    json!({ "chain": durable.chain.to_string(), "seq": durable.seq })
}

impl Head<'_> {
    /// `audit`: for those who may see it.
    pub(super) fn members(&self, audit: Option<Durable>) -> Map<String, Value> {
        let mut members = Map::new();
        if let Some(id) = &self.claims.request_id {
            members.insert("request_id".to_owned(), json!(id));
        }
        members.insert("policy".to_owned(), json!(self.policy));
        if let Some(durable) = audit {
            members.insert("audit".to_owned(), place(durable));
        }
        members
    }

    /// The answer; `write` appends an item as JSON.
    pub(super) fn with<T>(
        &self,
        summary: &Summary,
        name: &str,
        items: impl Iterator<Item = T>,
        write: impl Fn(&mut Vec<u8>, T),
    ) -> OpenAnswer {
        let mut members = self.members(None);
        members.insert("summary".to_owned(), json!(summary));
        let mut out = Value::from(members).to_string().into_bytes();
        out.pop();
        out.extend_from_slice(format!(",\"{name}\":[").as_bytes());
        let mut count = 0;
        for item in items {
            if count > 0 {
                out.push(b',');
            }
            count += 1;
            write(&mut out, item);
        }
        out.push(b']');
        OpenAnswer { json: out, asked: asked(self.claims, count, summary) }
    }
}

/// What the log has of a request at `debug`. `None`: it has nothing.
pub(super) fn asked(claims: &Claims, items: u64, summary: &Summary) -> Option<Asked> {
    tracing::enabled!(tracing::Level::DEBUG).then(|| Asked {
        request_id: claims.request_id.clone(),
        items,
        outcome: json!(summary).to_string(),
    })
}

/// Items for which a budget had no room, by a purpose that is configured; for metrics.
pub(super) struct Spent(Option<(String, u64)>);

impl Spent {
    pub(super) fn new(policies: &PolicySet, purpose: &str, items: usize) -> Self {
        // A purpose that nobody configured is the caller's text, and no label.
        let is_told = items > 0 && policies.has_purpose(purpose);
        Self(is_told.then(|| (purpose.to_owned(), items as u64)))
    }

    pub(super) fn add_to(&self, metrics: &Metrics) {
        if let Some((purpose, items)) = &self.0 {
            metrics.budget_denials.with_label_values(&[purpose]).inc_by(*items);
        }
    }
}

/// How many there are of each status.
pub(super) type Summary = BTreeMap<&'static str, u64>;

/// Counts statuses.
pub(super) fn summary(statuses: impl Iterator<Item = &'static str>) -> Summary {
    let mut summary = Summary::new();
    for status in statuses {
        *summary.entry(status).or_default() += 1;
    }
    summary
}

/// Adds a summary to a counter with a label for the status.
pub(super) fn add(counter: &IntCounterVec, summary: &Summary) {
    for (status, count) in summary {
        counter.with_label_values(&[*status]).inc_by(*count);
    }
}

/// What came of the fields of the items of `/v1/reveal`.
pub(super) fn fields(read: &[Read<'_>]) -> Summary {
    summary(read.iter().flat_map(|read| read.fields.iter().map(|field| field.status)))
}

/// Adds what came of fields, and the items that are none.
pub(super) fn count(found: &Found<'_>, fields: &Summary, summary: &mut Summary) {
    for (status, count) in fields {
        *summary.entry(status).or_default() += count;
    }
    for _ in found.items().filter(|item| matches!(item.kind, Kind::Malformed)) {
        *summary.entry("malformed").or_default() += 1;
    }
}

/// Bytes that the items take, mostly.
pub(super) fn room(read: &[Read<'_>]) -> usize {
    read.iter().map(|read| read.shown.len() + 2 * ROOM).sum()
}

/// Appends an item of `/v1/reveal` as JSON. What was shown is dropped item by item: large ones are
/// not held twice.
pub(super) fn item(out: &mut Vec<u8>, (item, read): (&Item<'_>, Read<'_>)) {
    begin(out, item.id);
    match item.kind {
        Kind::Malformed => member(out, "status", b"\"malformed\""),
        Kind::Record { .. } => {
            let record: &[u8] = if read.shown.is_empty() { b"null" } else { &read.shown };
            member(out, "record", record);
            let fields: Map<String, Value> =
                read.fields.iter().map(|f| (f.name.to_owned(), field(f))).collect();
            member(out, "fields", Value::from(fields).to_string().as_bytes());
            if !read.unexpected.is_empty() {
                let paths = read.unexpected.iter().map(|path| (path, "unexpected_token"));
                member(out, "places", places(paths).to_string().as_bytes());
            }
        }
        Kind::Token { .. } => {
            if let Some(field) = read.fields.first() {
                // A word of ours.
                member(out, "status", b"\"");
                out.extend_from_slice(field.status.as_bytes());
                out.push(b'"');
            }
            if !read.shown.is_empty() {
                value(out, &read);
            }
        }
    }
    out.push(b'}');
}

fn field(field: &ReadField<'_>) -> Value {
    let mut told = json!({ "status": field.status });
    if !field.places.is_empty() {
        told["places"] = places(field.places.iter().map(|(path, status)| (path, *status)));
    }
    told
}

fn places<'a>(places: impl Iterator<Item = (&'a String, &'static str)>) -> Value {
    places.map(|(path, status)| json!({ "path": path, "status": status })).collect()
}

/// A bare token's value: JSON, or the raw bytes of a record key or header.
fn value(out: &mut Vec<u8>, read: &Read) {
    if !read.is_bytes {
        return member(out, "value", &read.shown);
    }
    match std::str::from_utf8(&read.shown) {
        Ok(text) => member(out, "value", json!(text).to_string().as_bytes()),
        Err(_) => {
            let text = json!(STANDARD.encode(&read.shown));
            member(out, "base64", text.to_string().as_bytes());
        }
    }
}

/// Appends an item's JSON up to its id.
pub(super) fn begin(out: &mut Vec<u8>, id: Option<&[u8]>) {
    out.push(b'{');
    if let Some(id) = id {
        member(out, "id", id);
    }
}

/// Appends a member whose value is JSON already.
pub(super) fn member(out: &mut Vec<u8>, name: &str, json: &[u8]) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    out.push(b'"');
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\":");
    out.extend_from_slice(json);
}
