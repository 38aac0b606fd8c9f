//! What a caller asks: bodies of `/v1/reveal`, `/v1/explain` and `/v1/index`.

use std::borrow::Cow;

use super::document::{Document, Object, Value};
use super::fault::RequestFault;
use crate::policy::Want;

/// Items of one request, and of a part of a stream.
pub(super) const MOST_ITEMS: usize = 1000;
/// Distinct fields of one request.
pub(super) const MOST_FIELDS: usize = 200;
/// Characters of ids, purposes and names that a caller makes up.
const MOST_TEXT: usize = 200;
/// Characters of `request_id`.
const MOST_ID: usize = 64;

/// What every request says of itself.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    /// What for.
    pub(super) purpose: String,
    /// Why.
    pub(super) reason: Option<String>,
    /// For whom, as the caller says. It stands in the audit and grants nothing.
    pub(super) on_behalf_of: Option<String>,
    /// The caller's name of the request.
    pub(super) request_id: Option<String>,
}

/// A request to read.
pub(super) struct RevealRequest<'d> {
    pub(super) claims: Claims,
    pub(super) want: Want,
    pub(super) items: Vec<Item<'d>>,
}

/// One item: its id as JSON, echoed, and what it is.
pub(super) struct Item<'d> {
    pub(super) id: Option<&'d [u8]>,
    /// `None`: it is no item.
    pub(super) what: Option<ItemKind<'d>>,
}

/// What an item asks for.
pub(super) enum ItemKind<'d> {
    /// Fields of a record; `None`: all of its schema.
    Record { schema: Cow<'d, str>, fields: Option<Vec<Cow<'d, str>>>, record: &'d [u8] },
    /// A token out of its record.
    Token(TokenItem<'d>),
}

/// A token out of its record, as asked for.
pub(super) struct TokenItem<'d> {
    pub(super) field: Cow<'d, str>,
    pub(super) token: Cow<'d, str>,
    /// Names and values, as JSON.
    pub(super) bind: Vec<(Cow<'d, str>, &'d [u8])>,
    /// Whose row it stands in, as JSON.
    pub(super) subject: Option<&'d [u8]>,
}

/// What a stream says of itself in its first line.
pub(super) struct StreamHeader {
    pub(super) claims: Claims,
    pub(super) want: Want,
}

/// A request for what to search for.
pub(super) struct IndexRequest<'d> {
    pub(super) claims: Claims,
    pub(super) queries: Vec<Query<'d>>,
}

/// One query.
pub(super) struct Query<'d> {
    pub(super) id: Option<&'d [u8]>,
    /// `None`: it is no query.
    pub(super) what: Option<(String, QueryValue<'d>)>,
}

/// What is searched for, as JSON texts of scalars.
pub(super) enum QueryValue<'d> {
    /// One value.
    One(&'d [u8]),
    /// The parts of a compound index, by the ids of the fields or paths that it reads, in order.
    Several(Vec<&'d [u8]>),
}

/// A request to seal.
pub(super) struct SealRequest<'d> {
    pub(super) claims: Claims,
    pub(super) items: Vec<SealItem<'d>>,
}

/// One value.
pub(super) struct SealItem<'d> {
    pub(super) id: Option<&'d [u8]>,
    /// `None`: it is no item.
    pub(super) what: Option<SealValue<'d>>,
}

/// A value of a field, as JSON.
pub(super) struct SealValue<'d> {
    pub(super) field: String,
    pub(super) value: &'d [u8],
    /// Names and values, as JSON.
    pub(super) bind: Vec<(Cow<'d, str>, &'d [u8])>,
    /// Whose row it will stand in, as JSON.
    pub(super) subject: Option<&'d [u8]>,
}

/// A request for references of data subjects.
pub(super) struct SubjectRequest<'d> {
    pub(super) claims: Claims,
    pub(super) items: Vec<SubjectItem<'d>>,
}

/// One data subject: the schema whose subjects it is one of, and its id as JSON.
pub(super) struct SubjectItem<'d> {
    pub(super) id: Option<&'d [u8]>,
    /// `None`: it is no item.
    pub(super) what: Option<(String, &'d [u8])>,
}

impl<'d> RevealRequest<'d> {
    pub(super) fn read(document: &'d Document<'d>) -> Result<Self, RequestFault> {
        let [purpose, reason, on_behalf_of, want, request_id, items] = root(document)?
            .members(["purpose", "reason", "on_behalf_of", "want", "request_id", "items"])?;
        let claims = Claims::read(purpose, reason, on_behalf_of, request_id)?;
        let want = wanted(want)?;
        let items = elements("items", items)?.into_iter().map(Item::read).collect();
        Ok(Self { claims, want, items })
    }
}

impl StreamHeader {
    pub(super) fn read(document: &Document<'_>) -> Result<Self, RequestFault> {
        let [purpose, reason, on_behalf_of, want, request_id] =
            root(document)?.members(["purpose", "reason", "on_behalf_of", "want", "request_id"])?;
        let claims = Claims::read(purpose, reason, on_behalf_of, request_id)?;
        Ok(Self { claims, want: wanted(want)? })
    }
}

impl<'d> IndexRequest<'d> {
    pub(super) fn read(document: &'d Document<'d>) -> Result<Self, RequestFault> {
        let [purpose, reason, on_behalf_of, request_id, queries] = root(document)?.members([
            "purpose",
            "reason",
            "on_behalf_of",
            "request_id",
            "queries",
        ])?;
        let claims = Claims::read(purpose, reason, on_behalf_of, request_id)?;
        let queries = elements("queries", queries)?.into_iter().map(Query::read).collect();
        Ok(Self { claims, queries })
    }
}

impl<'d> SealRequest<'d> {
    pub(super) fn read(document: &'d Document<'d>) -> Result<Self, RequestFault> {
        let (claims, items) = claims_and_items(document)?;
        let items = items.into_iter().map(SealItem::read).collect();
        Ok(Self { claims, items })
    }
}

impl<'d> SubjectRequest<'d> {
    pub(super) fn read(document: &'d Document<'d>) -> Result<Self, RequestFault> {
        let (claims, items) = claims_and_items(document)?;
        let items = items.into_iter().map(SubjectItem::read).collect();
        Ok(Self { claims, items })
    }
}

fn claims_and_items<'d>(
    document: &'d Document<'d>,
) -> Result<(Claims, Vec<Value<'d>>), RequestFault> {
    let [purpose, reason, on_behalf_of, request_id, items] =
        root(document)?.members(["purpose", "reason", "on_behalf_of", "request_id", "items"])?;
    let claims = Claims::read(purpose, reason, on_behalf_of, request_id)?;
    Ok((claims, elements("items", items)?))
}

impl Claims {
    fn read(
        purpose: Option<Value<'_>>,
        reason: Option<Value<'_>>,
        on_behalf_of: Option<Value<'_>>,
        request_id: Option<Value<'_>>,
    ) -> Result<Self, RequestFault> {
        let purpose = optional("purpose", purpose)?
            .ok_or(RequestFault::Member { name: "purpose", wanted: "is missing" })?;
        let request_id = optional("request_id", request_id)?;
        let is_id = |id: &String| {
            (1..=MOST_ID).contains(&id.len())
                && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
        };
        if request_id.as_ref().is_some_and(|id| !is_id(id)) {
            let wanted = "must be 1 to 64 characters of A-Z, a-z, 0-9, _ and -";
            return Err(RequestFault::Member { name: "request_id", wanted });
        }
        Ok(Self {
            purpose,
            reason: optional("reason", reason)?,
            on_behalf_of: optional("on_behalf_of", on_behalf_of)?,
            request_id,
        })
    }
}

impl<'d> Item<'d> {
    /// A line of a stream; `None`: it is no JSON text.
    pub(super) fn of_line(line: Option<&'d Document<'d>>) -> Self {
        line.map_or(Self { id: None, what: None }, |line| Self::read(line.root()))
    }

    fn read(value: Value<'d>) -> Self {
        let Some(object) = value.object() else { return Self { id: None, what: None } };
        Self { id: id_of(object), what: kind_of(object) }
    }
}

impl<'d> SealItem<'d> {
    fn read(value: Value<'d>) -> Self {
        let Some(object) = value.object() else { return Self { id: None, what: None } };
        Self { id: id_of(object), what: seal_value_of(object) }
    }
}

impl<'d> SubjectItem<'d> {
    fn read(value: Value<'d>) -> Self {
        let Some(object) = value.object() else { return Self { id: None, what: None } };
        Self { id: id_of(object), what: subject_of(object) }
    }
}

impl<'d> Query<'d> {
    fn read(value: Value<'d>) -> Self {
        let Some(object) = value.object() else { return Self { id: None, what: None } };
        Self { id: id_of(object), what: query_of(object) }
    }
}

/// The id, echoed whatever else is wrong: a text or an integer.
fn id_of(object: Object<'_>) -> Option<&[u8]> {
    let mut ids = object.iter().filter(|(name, _)| name.as_deref() == Some("id"));
    let (_, id) = ids.next()?;
    (ids.next().is_none() && id.is_scalar() && id.json().len() <= MOST_TEXT).then(|| id.json())
}

fn kind_of(object: Object<'_>) -> Option<ItemKind<'_>> {
    let [_, schema, fields, record, field, token, bind, subject] = object
        .members(["id", "schema", "fields", "record", "field", "token", "bind", "subject"])
        .ok()?;
    match (schema, record, field, token) {
        (Some(schema), Some(record), None, None) if bind.is_none() && subject.is_none() => {
            let fields = match fields {
                None => None,
                Some(fields) => Some(fields.array()?.map(Value::text).collect::<Option<_>>()?),
            };
            record.object()?;
            Some(ItemKind::Record { schema: schema.text()?, fields, record: record.json() })
        }
        (None, None, Some(field), Some(token)) if fields.is_none() => {
            Some(ItemKind::Token(TokenItem {
                field: field.text()?,
                token: token.text()?,
                bind: bound(bind)?,
                subject: subject.map(Value::json),
            }))
        }
        _ => None,
    }
}

fn bound(bind: Option<Value<'_>>) -> Option<Vec<(Cow<'_, str>, &[u8])>> {
    let mut bound = Vec::new();
    if let Some(bind) = bind {
        for (name, value) in bind.object()?.iter() {
            bound.push((name?, value.json()));
        }
    }
    Some(bound)
}

fn seal_value_of(object: Object<'_>) -> Option<SealValue<'_>> {
    let [_, field, value, bind, subject] =
        object.members(["id", "field", "value", "bind", "subject"]).ok()?;
    Some(SealValue {
        field: field?.text()?.into_owned(),
        value: value?.json(),
        bind: bound(bind)?,
        subject: subject.map(Value::json),
    })
}

fn subject_of(object: Object<'_>) -> Option<(String, &[u8])> {
    let [_, schema, subject] = object.members(["id", "schema", "subject"]).ok()?;
    Some((schema?.text()?.into_owned(), subject?.json()))
}

fn query_of(object: Object<'_>) -> Option<(String, QueryValue<'_>)> {
    let [_, field, value, values] = object.members(["id", "field", "value", "values"]).ok()?;
    let value = match (value, values) {
        (Some(value), None) => QueryValue::One(value.json()),
        (None, Some(values)) => QueryValue::Several(values.array()?.map(Value::json).collect()),
        _ => return None,
    };
    Some((field?.text()?.into_owned(), value))
}

fn root<'d>(document: &'d Document<'d>) -> Result<Object<'d>, RequestFault> {
    document
        .root()
        .object()
        .ok_or(RequestFault::Member { name: "The body", wanted: "must be an object" })
}

fn elements<'d>(
    name: &'static str,
    value: Option<Value<'d>>,
) -> Result<Vec<Value<'d>>, RequestFault> {
    let elements: Vec<Value<'d>> = value
        .and_then(Value::array)
        .ok_or(RequestFault::Member { name, wanted: "must be an array" })?
        .collect();
    if elements.len() > MOST_ITEMS {
        return Err(RequestFault::TooMany { most: MOST_ITEMS, of: name });
    }
    Ok(elements)
}

fn wanted(want: Option<Value<'_>>) -> Result<Want, RequestFault> {
    match optional("want", want)?.as_deref() {
        None | Some("auto") => Ok(Want::Auto),
        Some("reveal") => Ok(Want::Reveal),
        Some("mask") => Ok(Want::Mask),
        Some(_) => {
            let wanted = "must be auto, reveal or mask";
            Err(RequestFault::Member { name: "want", wanted })
        }
    }
}

fn optional(name: &'static str, value: Option<Value<'_>>) -> Result<Option<String>, RequestFault> {
    let Some(value) = value else { return Ok(None) };
    let wanted = "must be a text of at most 200 characters";
    value
        .text()
        .filter(|text| text.chars().count() <= MOST_TEXT)
        .map(|text| Some(text.into_owned()))
        .ok_or(RequestFault::Member { name, wanted })
}
