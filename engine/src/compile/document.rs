//! The top level of a schema document.

mod connect_schema;
mod rules;

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Grants;
use super::field::{self, FieldPlaces};
use super::paths::Paths;
use super::read::{Reader, join, kind};
use crate::envelope::WrittenEnvelope;
use crate::index_member::has_members;
use crate::schema::{
    Envelope, Field, PathId, RequiredIn, Residue, Scalar, Schema, Undeclared, When,
};
use crate::select::{Program, Query, Selector, Step};
use rules::{header_rules, key_rule};

const MEMBERS: [&str; 17] = [
    "$schema",
    "veilstream",
    "name",
    "version",
    "description",
    "topics",
    "when",
    "subject",
    "subject_domain",
    "subject_optional",
    "envelope",
    "undeclared",
    "residue",
    "fields",
    "key",
    "headers",
    "clear",
];

/// Most places a subject is looked for at.
const MOST_SUBJECTS: usize = 16;

/// A schema as read, with what the cross checks need.
pub(super) struct ReadSchema {
    pub(super) schema: Schema,
    /// Query of every path, by id.
    pub(super) queries: Vec<Query>,
    /// Where each path stands in the document, by id.
    pub(super) pointers: Vec<String>,
    /// Paths that are read in clear: `when`, `subject`, `bind`.
    pub(super) clear_reads: Vec<PathId>,
    pub(super) places: Vec<FieldPlaces>,
}

pub(super) fn schema(
    value: &Value,
    digest: &str,
    grants: &Grants,
    reader: &mut Reader,
) -> Option<ReadSchema> {
    let map = reader.object("", value, &MEMBERS)?;
    if map.get("veilstream").and_then(Value::as_u64) != Some(1) {
        reader.error("/veilstream", "must be 1, the version of the document format");
    }
    let name: Arc<str> = schema_name(map, reader).into();
    let version = version(map, digest, reader);
    let (envelope, written) = envelope(map, reader);
    let mut paths = Paths::new(envelope);
    let (fields, places) = field::fields(map, &name, grants, &mut paths, reader);
    let when = when(map, &mut paths, reader);
    let subjects = subjects(map, &mut paths, reader);
    let subject_domain = subject_domain(map, reader);
    let subject_optional = reader.boolean("", map, "subject_optional");
    if subject_optional && !map.contains_key("subject") {
        reader.error(
            "/subject_optional",
            "says what happens without a subject, but the document \
            has none; add a \"subject\", or remove it",
        );
    }
    clear(map, &mut paths, reader);
    if envelope.is_some() {
        // The schema part is nobody's data, and no member that was not declared.
        paths.declare("$['schema']", reader);
    }
    let (from, to) = topics(map, reader);
    if paths.too_many {
        return None;
    }
    let key = map.get("key").and_then(|value| key_rule(value, &name, grants, reader));
    let headers = header_rules(map, &name, grants, reader);
    let program = Program::new(&paths.queries)
        .protecting(fields.len())
        .seeing_indexes(filters_see_indexes(&fields, &paths.queries));
    let schema = Schema {
        label: format!("{name}/{version}").into(),
        name,
        version,
        from,
        to,
        when,
        subjects,
        subject_domain,
        subject_optional,
        undeclared: reader
            .choice(
                "",
                map,
                "undeclared",
                &[
                    ("pass", Undeclared::Pass),
                    ("drop", Undeclared::Drop),
                    ("reject", Undeclared::Reject),
                ],
            )
            .unwrap_or_default(),
        residue: reader
            .choice(
                "",
                map,
                "residue",
                &[("count", Residue::Count), ("reject", Residue::Reject), ("off", Residue::Off)],
            )
            .unwrap_or_default(),
        indexes_selectable: indexes_selectable(&fields, &paths.queries)
            || program.filters_see_indexes(),
        required_in: required_in(&fields, &paths.queries),
        envelope,
        written,
        enveloped: envelope.map_or_else(Vec::new, |_| {
            paths.queries.iter().take(fields.len()).map(|query| query.steps().to_vec()).collect()
        }),
        fields,
        key,
        headers,
        rotation: false,
        members: paths.queries.iter().map(|query| members(query.steps(), envelope)).collect(),
        list_members: paths.queries.iter().map(|query| list_members(query, envelope)).collect(),
        program,
    };
    Some(ReadSchema {
        schema,
        queries: paths.queries,
        pointers: paths.pointers,
        clear_reads: paths.clear_reads,
        places,
    })
}

/// The members on the way to what a path of names selects.
fn members(steps: &[Step], envelope: Option<Envelope>) -> Option<Vec<String>> {
    let name = |step: &Step| match &step.selectors[..] {
        [Selector::Name(name)] if !step.descendant => Some(name.clone()),
        _ => None,
    };
    let names: Vec<String> = steps.iter().map(name).collect::<Option<_>>()?;
    let from = usize::from(envelope.is_some());
    names.get(from..).map(<[String]>::to_vec)
}

/// The members on the way to a list whose elements a path selects.
fn list_members(query: &Query, envelope: Option<Envelope>) -> Option<Vec<String>> {
    let (last, above) = query.steps().split_last()?;
    let is_all = !last.descendant && matches!(last.selectors[..], [Selector::Wildcard]);
    members(above, envelope).filter(|_| is_all)
}

/// Fields with an index beside the value. A document with a faulty path has fields without queries;
/// it is refused anyway.
fn indexed<'a>(
    fields: &'a [Field],
    queries: &'a [Query],
) -> impl Iterator<Item = (&'a Query, &'a Field)> {
    queries.iter().zip(fields).filter(|(_, field)| has_members(field))
}

fn all_index_places(fields: &[Field], queries: &[Query]) -> Vec<Vec<Step>> {
    indexed(fields, queries).flat_map(|(query, field)| index_places(field, query)).collect()
}

/// Whether an index may be selected like a value: by a wildcard, by `..`, by its name.
fn indexes_selectable(fields: &[Field], queries: &[Query]) -> bool {
    let places = all_index_places(fields, queries);
    indexed(fields, queries).any(|(query, _)| places.iter().any(|place| query.may_reach(place)))
}

/// Whether a filter may ask for a member an index is written to.
fn filters_see_indexes(fields: &[Field], queries: &[Query]) -> bool {
    let places = all_index_places(fields, queries);
    queries.iter().any(|query| places.iter().any(|place| query.filters_may_see(place)))
}

/// The envelope of values, and the one that is written around plain ones.
fn envelope(
    map: &Map<String, Value>,
    reader: &mut Reader,
) -> (Option<Envelope>, Option<WrittenEnvelope>) {
    const AT: &str = "/envelope";
    let Some(value @ Value::Object(_)) = map.get("envelope") else {
        return (reader.choice("", map, "envelope", &[("connect", Envelope::Connect)]), None);
    };
    let Some(map) = reader.object(AT, value, &["output", "schema"]) else { return (None, None) };
    reader.required_string(AT, map, "output", "\"connect\"");
    let envelope = reader.choice(AT, map, "output", &[("connect", Envelope::Connect)]);
    let Some(schema) = map.get("schema") else {
        reader.error(
            AT,
            "has no schema; `veilstream schema envelope` prints one that fits your events",
        );
        return (envelope, None);
    };
    connect_schema::check(schema, reader);
    (envelope, Some(WrittenEnvelope::new(&schema.to_string())))
}

/// The path with the payload in the place of the root. Outside of strings a `$` is nothing else.
pub(super) fn in_payload(path: &str) -> String {
    let (mut out, mut quote, mut escaped) = (String::with_capacity(path.len() + 11), None, false);
    for c in path.chars() {
        out.push(c);
        match quote {
            Some(_) if escaped => escaped = false,
            Some(_) if c == '\\' => escaped = true,
            Some(end) if c == end => quote = None,
            None if matches!(c, '\'' | '"') => quote = Some(c),
            None if c == '$' => out.push_str("['payload']"),
            _ => {}
        }
    }
    out
}

/// Required fields whose path may select in several objects.
fn required_in(fields: &[Field], queries: &[Query]) -> RequiredIn {
    let several = fields
        .iter()
        .zip(queries)
        .enumerate()
        .filter(|(_, (field, query))| field.required && !query.is_singular());
    let (parents, fields): (Vec<Query>, Vec<_>) = several
        .filter_map(|(i, (_, query))| {
            query.parent().map(|(parent, last)| (parent, (i as PathId, last)))
        })
        .unzip();
    if fields.is_empty() {
        RequiredIn::default()
    } else {
        RequiredIn { parents: Program::new(&parents), fields }
    }
}

/// Paths of the index members of a field.
pub(super) fn index_places(field: &Field, query: &Query) -> Vec<Vec<Step>> {
    let rule = field.index.as_ref().filter(|_| has_members(field));
    rule.map_or_else(Vec::new, |rule| query.index_places(rule.into.as_deref(), rule.is_unique()))
}

fn subjects(map: &Map<String, Value>, paths: &mut Paths, reader: &mut Reader) -> Vec<PathId> {
    let mut add = |at: &str, text: &str, reader: &mut Reader| {
        let path = paths.add_singular(at, text, reader);
        path.inspect(|path| paths.read_in_clear(*path))
    };
    match map.get("subject") {
        None => Vec::new(),
        Some(Value::String(text)) => add("/subject", text, reader).into_iter().collect(),
        Some(Value::Array(list)) if (1..=MOST_SUBJECTS).contains(&list.len()) => {
            let mut out = Vec::new();
            for (i, item) in list.iter().enumerate() {
                let at = format!("/subject/{i}");
                match item.as_str() {
                    Some(_) if list[..i].contains(item) => {
                        reader.error(&at, "stands twice; the first place that is there counts")
                    }
                    Some(text) => out.extend(add(&at, text, reader)),
                    None => reader.error(&at, format!("must be a path, not {}", kind(item))),
                }
            }
            out
        }
        Some(Value::Array(_)) => {
            reader.error(
                "/subject",
                format!("must be a path, or a list of 1 to {MOST_SUBJECTS} paths"),
            );
            Vec::new()
        }
        Some(other) => {
            reader.error(
                "/subject",
                format!(
                    "must be a string, not {}, or a list of paths of \
                which the first that is there counts",
                    kind(other)
                ),
            );
            Vec::new()
        }
    }
}

/// Whose ids the subjects are: a name, or `""`.
fn subject_domain(map: &Map<String, Value>, reader: &mut Reader) -> Option<String> {
    let domain = reader.string("", map, "subject_domain")?;
    if !map.contains_key("subject") {
        reader.error(
            "/subject_domain",
            "says whose ids the subjects are, but the document has \
            none; add a \"subject\", or remove it",
        );
    }
    if !domain.is_empty() {
        reader.name("/subject_domain", domain);
    }
    Some(domain.to_owned())
}

fn schema_name(map: &Map<String, Value>, reader: &mut Reader) -> String {
    let name = reader.required_string("", map, "name", "\"customers\"").unwrap_or_default();
    if map.get("name").is_some_and(Value::is_string)
        && reader.name("/name", name)
        && name == "dead_letter"
    {
        reader.error("/name", "dead_letter is reserved; choose another name");
    }
    name.to_owned()
}

fn version(map: &Map<String, Value>, digest: &str, reader: &mut Reader) -> String {
    if map.contains_key("version") {
        reader.integer("", map, "version", 1..=u64::from(u32::MAX), 1).to_string()
    } else {
        digest.to_owned()
    }
}

fn topics(map: &Map<String, Value>, reader: &mut Reader) -> (Option<String>, Option<String>) {
    let Some(topics) =
        map.get("topics").and_then(|value| reader.object("/topics", value, &["from", "to"]))
    else {
        return (None, None);
    };
    let mut topic = |name: &str| {
        let text = reader.required_string("/topics", topics, name, "\"customers.raw\"")?;
        let good = !text.is_empty()
            && text.len() <= 249
            && text != "."
            && text != ".."
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if !good {
            reader.error(
                &join("/topics", name),
                "is no Kafka topic name: 1 to 249 letters, digits, '.', '_' and '-'",
            );
        }
        Some(text.to_owned())
    };
    let (from, to) = (topic("from"), topic("to"));
    if from.is_some() && from == to {
        reader.error(
            "/topics/to",
            "is the raw topic itself; sanitized records need a topic of their own",
        );
    }
    (from, to)
}

fn when(map: &Map<String, Value>, paths: &mut Paths, reader: &mut Reader) -> Vec<When> {
    let Some(value) = map.get("when") else { return Vec::new() };
    let Some(clauses) = value.as_object() else {
        reader.error("/when", format!("must be an object of \"path\": value, not {}", kind(value)));
        return Vec::new();
    };
    let mut out = Vec::new();
    for (path, value) in clauses {
        let at = join("/when", path);
        let scalar = match value {
            Value::String(s) => Scalar::String(s.clone()),
            Value::Number(n) => Scalar::Number(n.to_string()),
            Value::Bool(b) => Scalar::Bool(*b),
            Value::Null => Scalar::Null,
            _ => {
                reader.error(&at, "compares with a string, number, boolean or null only");
                continue;
            }
        };
        if let Some(header) = path.strip_prefix("header:") {
            match scalar {
                Scalar::String(text) => {
                    out.push(When::Header(header.to_owned(), text.into_bytes()))
                }
                _ => reader.error(&at, "a header is bytes: compare with a string"),
            }
        } else if let Some(id) = paths.add_singular(&at, path, reader) {
            paths.read_in_clear(id);
            out.push(When::Value(id, scalar));
        }
    }
    out
}

fn clear(map: &Map<String, Value>, paths: &mut Paths, reader: &mut Reader) {
    let Some(value) = map.get("clear") else { return };
    let Some(list) = value.as_array() else {
        reader.error("/clear", format!("must be a list of paths, not {}", kind(value)));
        return;
    };
    for (i, item) in list.iter().enumerate() {
        let at = format!("/clear/{i}");
        match item.as_str() {
            Some(text) => {
                paths.add(&at, text, reader);
            }
            None => reader.error(&at, format!("must be a path, not {}", kind(item))),
        }
    }
}
