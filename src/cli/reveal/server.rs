//! `veilstream reveal --server`: the service opens, and what it withholds stays as it is.

use std::collections::HashMap;
use std::io::{self, BufWriter, Read, Write};
use std::ops::Range;

use serde_json::json;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::reveal::{Answered, Answers, Report, RevealOptions, Revealer, Status};
use veilstream_engine::schema::{Field, Schema};
use veilstream_engine::token::{self, FieldId};
use veilstream_engine::transform::Limits;
use veilstream_engine::{OpenError, Reject, RejectCode, kdf};

use super::{RevealArgs, Told, claim, problem, unquoted, write_line};
use crate::cli::lines::{Line, LineBatch, Lines};
use crate::cli::sorted;
use crate::client::{Client, Node};
use crate::exit::Exit;

const PATH: &str = "/v1/reveal";
/// Bytes of a line that fits a request of 8 MiB with those before it and all that is said of them.
const LINE_MAX: usize = 6 << 20;

/// The reading service that was named.
///
/// # Errors
/// The arguments are of no use, or are about keys.
pub(super) fn client(args: &RevealArgs) -> anyhow::Result<Option<Client>> {
    let client = args.server.client()?;
    let is_about_keys = args.keys.keys.is_some()
        || args.keys.config.is_some()
        || args.allow_compromised
        || args.audit.unaudited;
    if client.is_some() && is_about_keys {
        return Err(Exit::Usage.because(
            "--server: the service has the keys and the audit; leave out --keys, --config, \
            --allow-compromised and --unaudited",
        ));
    }
    Ok(client)
}

/// Does over HTTP what the command does with keys.
///
/// # Errors
/// The service does not answer, or a stream fails.
pub(super) fn run(
    args: &RevealArgs,
    client: &Client,
    set: Option<&SchemaSet>,
    input: impl Read,
    errors: impl Write,
) -> anyhow::Result<Exit> {
    let mut out = BufWriter::new(io::stdout().lock());
    let whole = match (set, &args.field) {
        (set, Some(name)) => {
            let field = set.and_then(|set| super::interop_field(set, name));
            open_tokens(client, (name, field), input, &mut out, errors)
        }
        (Some(set), None) => {
            let options =
                RevealOptions { fields: args.fields.as_deref(), keep_indexes: args.keep_indexes };
            let told = Told { status: args.status, allow_clear: args.allow_clear };
            reveal(set, client, &options, told, input, &mut out, errors)
        }
        (None, None) => unreachable!("what is opened was named"),
    };
    // What was opened before a fault leaves too.
    out.flush()?;
    Ok(if whole? { Exit::Ok } else { Exit::Failed })
}

/// Reveals line after line; whether everything asked for was opened.
fn reveal(
    set: &SchemaSet,
    client: &Client,
    options: &RevealOptions<'_>,
    told: Told,
    input: impl Read,
    out: &mut impl Write,
    mut errors: impl Write,
) -> anyhow::Result<bool> {
    let mut lines = Lines::new(input, Limits::default().output);
    let (mut batch, mut revealer, mut whole) = (LineBatch::default(), Revealer::default(), true);
    loop {
        lines.batch(&mut batch)?;
        if batch.lines().next().is_none() {
            return Ok(whole);
        }
        let claimed: Vec<Option<Result<&Schema, Reject>>> = batch
            .lines()
            .map(|(_, line)| match line {
                Line::Text(text) => Some(claimed(set, &mut revealer, text)),
                Line::TooLong => None,
            })
            .collect();
        let mut items = Vec::new();
        for ((_, line), claimed) in batch.lines().zip(&claimed) {
            if let (Line::Text(text), Some(Ok(schema))) = (line, claimed) {
                items.push(item(schema, options, text));
            }
        }
        let answer = if items.is_empty() { None } else { Some(client.ask(PATH, "items", &items)?) };
        let mut answers = answer.iter().flat_map(|answer| answer.items());
        for ((number, line), claimed) in batch.lines().zip(claimed) {
            let (Line::Text(text), Some(claimed)) = (line, claimed) else {
                // It cannot be kept, so it cannot stay: the one case in which it is not written.
                whole = false;
                let problem = json!({ "line": number, "reason": RejectCode::TooLarge.as_str() });
                writeln!(errors, "{}", sorted(problem))?;
                continue;
            };
            let (mut event, mut report) = (Vec::new(), Report::default());
            let revealed = claimed.and_then(|schema| {
                let answer = answers.next().map(|item| LineAnswer::read(schema, item));
                let answer = answer.unwrap_or_default();
                revealer
                    .reveal_answered(schema, &answer, text, options, &mut event, &mut report)
                    .map(|()| schema)
            });
            let (shown, schema, problem) = match &revealed {
                Ok(schema) => (&*event, Some(*schema), problem(schema, &report, told.allow_clear)),
                Err(reject) => (text, None, Some(json!({ "reason": reject.code.as_str() }))),
            };
            write_line(out, &told, shown, schema, &report)?;
            if let Some(mut problem) = problem {
                whole = false;
                problem["line"] = number.into();
                writeln!(errors, "{}", sorted(problem))?;
            }
        }
        out.flush()?;
    }
}

fn claimed<'s>(
    set: &'s SchemaSet,
    revealer: &mut Revealer,
    text: &[u8],
) -> Result<&'s Schema, Reject> {
    if text.len() > LINE_MAX {
        return Err(Reject::new(RejectCode::TooLarge));
    }
    claim(set, revealer, text)
}

/// A record, and the fields of it that have tokens and are asked for.
fn item(schema: &Schema, options: &RevealOptions<'_>, record: &[u8]) -> Vec<u8> {
    let fields: Vec<&str> = schema
        .fields
        .iter()
        .filter(|field| field.protect.is_reversible())
        .map(|field| &*field.id)
        .filter(|id| options.fields.is_none_or(|asked| asked.iter().any(|field| field == id)))
        .collect();
    let mut item = json!({ "fields": fields, "schema": &*schema.name }).to_string().into_bytes();
    item.pop();
    item.extend_from_slice(b",\"record\":");
    item.extend_from_slice(record.trim_ascii());
    item.push(b'}');
    item
}

/// What the service says of a line.
#[derive(Default)]
struct LineAnswer<'a> {
    record: &'a [u8],
    /// Where values stand in it, by their normalized paths.
    values: HashMap<String, Range<usize>>,
    /// By index of the field.
    fields: HashMap<usize, FieldAnswer>,
}

struct FieldAnswer {
    status: Status,
    /// Places, by their normalized paths, where they differ.
    places: HashMap<String, Status>,
}

impl<'a> LineAnswer<'a> {
    fn read(schema: &Schema, item: Node<'a>) -> Self {
        let record = item.member("record").map_or(&b"null"[..], Node::json);
        let places = Revealer::default().places(schema, record).unwrap_or_default();
        let values = places.into_iter().map(|place| (place.path, place.span)).collect();
        let of = |id: &str| item.member("fields").and_then(|fields| fields.member(id));
        let fields = schema
            .fields
            .iter()
            .enumerate()
            .filter_map(|(at, field)| Some((at, FieldAnswer::read(of(&field.id)?))));
        Self { record, values, fields: fields.collect() }
    }
}

impl FieldAnswer {
    fn read(field: Node<'_>) -> Self {
        let places = field.member("places").into_iter().flat_map(Node::elements);
        let places =
            places.filter_map(|place| Some((place.member("path")?.text()?, status(place))));
        Self { status: status(field), places: places.collect() }
    }
}

impl Answers for LineAnswer<'_> {
    fn of(&self, field: usize, path: &str) -> Answered<'_> {
        // What nothing is said of is withheld.
        let status = self.fields.get(&field).map_or(Status::Withheld, |field| {
            field.places.get(path).copied().unwrap_or(field.status)
        });
        Answered { status, value: self.values.get(path).map(|span| &self.record[span.clone()]) }
    }
}

/// A status as the service says it. One that is no disclosure and none of these is a denial.
fn status(of: Node<'_>) -> Status {
    match of.member("status").and_then(Node::text).as_deref() {
        Some("revealed") => Status::Revealed,
        Some("masked") => Status::Masked,
        Some("erased") => Status::Failed(OpenError::Erased),
        Some("key_unavailable") => Status::Failed(OpenError::KeyUnavailable),
        Some("corrupt") => Status::Failed(OpenError::Corrupt),
        _ => Status::Withheld,
    }
}

/// Opens bare tokens of a field; whether all opened.
fn open_tokens(
    client: &Client,
    (name, field): (&str, Option<&Field>),
    input: impl Read,
    out: &mut impl Write,
    mut errors: impl Write,
) -> anyhow::Result<bool> {
    let mut lines = Lines::new(input, Limits::default().output);
    let (mut batch, mut whole) = (LineBatch::default(), true);
    let expected = (kdf::field_id(name), field);
    loop {
        lines.batch(&mut batch)?;
        if batch.lines().next().is_none() {
            return Ok(whole);
        }
        let tokens: Vec<Result<&[u8], OpenError>> =
            batch.lines().map(|(_, line)| checked(line, &expected)).collect();
        let items: Vec<Vec<u8>> = tokens
            .iter()
            .flatten()
            // What was looked at is ASCII.
            .map(|token| json!({ "field": name, "token": String::from_utf8_lossy(token) }))
            .map(|item| item.to_string().into_bytes())
            .collect();
        let answer = if items.is_empty() { None } else { Some(client.ask(PATH, "items", &items)?) };
        let mut answers = answer.iter().flat_map(|answer| answer.items());
        for ((number, line), token) in batch.lines().zip(tokens) {
            let answer = token.map_err(Status::Failed).and_then(|_| {
                let item = answers.next().ok_or(Status::Withheld)?;
                shown(item).ok_or_else(|| status(item))
            });
            match answer {
                Ok(shown) => out.write_all(&shown)?,
                Err(class) => {
                    whole = false;
                    if let Line::Text(text) = line {
                        out.write_all(unquoted(text.trim_ascii()))?;
                    }
                    let problem = json!({ "line": number, "reason": class.as_str() });
                    writeln!(errors, "{}", sorted(problem))?;
                }
            }
            out.write_all(b"\n")?;
        }
        out.flush()?;
    }
}

/// A line's token, if it can be one of that field.
fn checked<'l>(
    line: Line<'l>,
    (fid, field): &(FieldId, Option<&Field>),
) -> Result<&'l [u8], OpenError> {
    let Line::Text(text) = line else { return Err(OpenError::Malformed) };
    let token = unquoted(text.trim_ascii());
    if let Some(interop) = field.and_then(|field| field.interop.as_ref()) {
        return interop.form.recognises(token).then_some(token).ok_or(OpenError::Malformed);
    }
    let header = token::decode(token, &mut Vec::new())?;
    if header.fid == *fid { Ok(token) } else { Err(OpenError::FieldMismatch) }
}

/// What was opened, on one line; `None`: it was not.
fn shown(item: Node<'_>) -> Option<Vec<u8>> {
    if !matches!(status(item), Status::Revealed | Status::Masked) {
        return None;
    }
    if let Some(base64) = item.member("base64") {
        return Some([b"{\"base64\":", base64.json(), b"}"].concat());
    }
    let mut value = item.member("value")?.json().to_vec();
    // White space between the members of an object may hold line feeds.
    value.iter_mut().filter(|b| matches!(b, b'\n' | b'\r')).for_each(|b| *b = b' ');
    Some(value)
}
