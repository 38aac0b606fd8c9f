//! `veilstream reveal`

#[cfg(feature = "serve")]
mod server;

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::error::OpenError;
use veilstream_engine::reveal::{
    self as engine, BareToken, Decision, FetchedKeys, HeldKeys, Report, RevealOptions, Revealer,
    Status,
};
use veilstream_engine::schema::{Field, Schema};
use veilstream_engine::seal::PayloadKind;
use veilstream_engine::transform::Limits;
use veilstream_engine::{Reject, RejectCode, kdf};

use super::lines::{Line, Lines};
use super::{Documents, KeysSource};
use crate::audit::{self, AuditFlags, Opened, Outlet, Trail};
#[cfg(feature = "serve")]
use crate::client::ServerArgs;
use crate::exit::Exit;
use crate::keys;
use crate::keys::{KeyFault, KeyLookup, KeySource};

const AFTER_HELP: &str = "Tokens are opened at the paths the documents declare, each as its own field, and nowhere else. Of several schemas the first whose \"when\" \
holds opens a line; conditions on headers are taken as met.
What does not open stays as it is, and the line is reported on standard error, without any of its content:
{\"line\":2,\"reason\":\"not_revealed\",\"schema\":\"customers/3\",\"fields\":[{\"field\":\"ssn\",\"status\":\"key_unavailable\"}]}
With --status each line becomes {\"event\":..,\"schema\":..,\"fields\":[{\"field\":..,\"status\":..}],\"unexpected_tokens\":0}, one entry for each protected place; \
statuses are revealed, skipped, no_token, clear, denied, malformed, unsupported, field_mismatch, key_unavailable, erased, corrupt and binding.
A honey token is \"denied\" and raises an alarm on standard error: {\"alarm\":\"honey\",\"line\":2,\"field\":\"customers.email\"}
A value in clear where only tokens are written is told as \"clear\": it was never protected, or somebody put it there. --allow-clear takes it as it is.
With --token each line is one token. Its field is <schema>.<id>, @<domain>, <schema>#key or <schema>#header:<name>. What was JSON is printed as JSON; the bytes of \
keys and headers as a JSON string, or {\"base64\":..}. Tokens bound to other members of their record open only in it. \
Texts of a field in the form of Fernet or pgcrypto open with its document (--schema).

Examples:
  veilstream reveal --keys keys --schema schemas/customers.json < safe.ndjson
  veilstream reveal --keys keys --schema schemas/customers.json --fields email,phone --status < safe.ndjson
  psql -Atc 'select email from customers' | veilstream reveal --keys keys --token --field customers.email
  veilstream reveal --server https://reveal.internal:8788 --token-file key --purpose support --schema schemas/customers.json < safe.ndjson

Exit code: 0 everything asked for was opened, 1 something was not or keys are not available, 2 wrong usage or documents";

/// Arguments of `reveal`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct RevealArgs {
    /// Schema document; may be given several times
    #[arg(long = "schema", value_name = "FILE", required_unless_present = "token")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    keys: KeysSource,
    /// Open only these fields
    #[arg(long, value_name = "ID,..", value_delimiter = ',', conflicts_with = "token")]
    fields: Option<Vec<String>>,
    /// Leave index members in
    #[arg(long, conflicts_with = "token")]
    keep_indexes: bool,
    /// Take values in clear where only tokens are written
    #[arg(long, conflicts_with = "token")]
    allow_clear: bool,
    /// Tell what became of each protected place
    #[arg(long, conflicts_with = "token")]
    status: bool,
    /// Open also what was sealed with keys that are marked compromised
    #[arg(long)]
    allow_compromised: bool,
    /// Open bare tokens, one a line
    #[arg(long, requires = "field")]
    token: bool,
    /// The tokens' field
    #[arg(long, value_name = "NAME", requires = "token")]
    field: Option<String>,
    #[command(flatten)]
    audit: AuditFlags,
    #[cfg(feature = "serve")]
    #[command(flatten)]
    server: ServerArgs,
}

/// Runs the command.
///
/// # Errors
/// Faults of the documents, an unknown field, keys that are not available, a stream that fails.
pub fn run(args: &RevealArgs) -> anyhow::Result<Exit> {
    let (input, errors) = (io::stdin().lock(), io::stderr());
    let set = match &args.field {
        Some(_) if args.files.is_empty() => None,
        Some(name) => {
            let set = Documents::of(&args.files).load()?;
            known_name(&set, name)?;
            Some(set)
        }
        None => {
            let set = Documents::of(&args.files).load()?;
            known_fields(&set, args.fields.as_deref().unwrap_or_default())?;
            Some(set)
        }
    };
    #[cfg(feature = "serve")]
    if let Some(client) = server::client(args)? {
        return server::run(args, &client, set.as_deref(), input, errors);
    }
    let settings = keys::settings(&args.keys)?;
    let audit = audit::for_values(&args.keys, args.audit)?;
    let (keys, manager) = keys::open_managed(&settings, None)?;
    let keys: Arc<dyn KeySource> = keys;
    if let Some(set) = &set {
        keys.take_interop(set)?;
    }
    let _upkeep = keys::maintain(&keys)?;
    let trail = Trail::open(audit.as_ref(), &manager)?;
    let mut out = Outlet::new(io::stdout().lock(), &trail);
    let mut keys = RevealKeys::new(&*keys).allowing(args.allow_compromised);
    let whole = match (&set, &args.field) {
        (set, Some(name)) => {
            let field = set.as_deref().and_then(|set| interop_field(set, name));
            open_tokens(&mut keys, (name, field), input, &mut out, errors)
        }
        (Some(set), None) => {
            let options =
                RevealOptions { fields: args.fields.as_deref(), keep_indexes: args.keep_indexes };
            let output = Told { status: args.status, allow_clear: args.allow_clear };
            reveal(set, &mut keys, &options, output, input, &mut out, errors)
        }
        (None, None) => unreachable!("what is opened was named"),
    };
    // What was opened before a fault leaves too, with its lines.
    out.release()?;
    Ok(if whole? { Exit::Ok } else { Exit::Failed })
}

/// Refuses ids that no document has.
fn known_fields(set: &SchemaSet, ids: &[String]) -> anyhow::Result<()> {
    let unknown: Vec<&str> = ids
        .iter()
        .filter(|id| set.schemas().iter().all(|s| s.field(id).is_none()))
        .map(String::as_str)
        .collect();
    if unknown.is_empty() {
        return Ok(());
    }
    let known: Vec<&str> = set.schemas().iter().flat_map(|s| &s.fields).map(|f| &*f.id).collect();
    Err(Exit::Usage.because(format!(
        "--fields: no field {}; there are {}",
        unknown.join(", "),
        known.join(", ")
    )))
}

/// Refuses a name that no document has.
fn known_name(set: &SchemaSet, name: &str) -> anyhow::Result<()> {
    let names = || set.schemas().iter().flat_map(|schema| schema.names().map(|(_, name)| name));
    if names().any(|known| known == name) {
        return Ok(());
    }
    let known: Vec<&str> = names().collect();
    let known = known.join(", ");
    Err(Exit::Usage
        .because(format!("--field: no field {name} in the documents; there are {known}")))
}

/// The field of that name, where it has the form of another system.
fn interop_field<'s>(set: &'s SchemaSet, name: &str) -> Option<&'s Field> {
    let mut fields = set.schemas().iter().flat_map(|schema| &schema.fields);
    fields.find(|field| field.name == name && field.interop.is_some())
}

/// Keys, and whose they were.
struct RevealKeys<'a> {
    keys: KeyLookup<'a>,
    /// The keys of data subjects that were found since the last look.
    opened: RefCell<Opened>,
    /// Compromised keys open too.
    allow_compromised: bool,
}

impl<'a> RevealKeys<'a> {
    fn new(source: &'a dyn KeySource) -> Self {
        Self { keys: KeyLookup::new(source), opened: RefCell::default(), allow_compromised: false }
    }

    fn allowing(self, allow_compromised: bool) -> Self {
        Self { allow_compromised, ..self }
    }

    fn revealer(&self) -> Revealer {
        let mut revealer = Revealer::default();
        revealer.allow_compromised(self.allow_compromised);
        revealer
    }

    /// Does what needs keys.
    fn with<T>(&mut self, work: impl FnOnce(engine::KeySource<'_>) -> T) -> Result<T, KeyFault> {
        // As it is now: a stream may last for days.
        self.keys.refresh();
        self.keys.with(|key| self.opened.borrow_mut().found(key), work)
    }
}

/// What is told of each line.
#[derive(Debug, Clone, Copy, Default)]
struct Told {
    /// What became of each protected place.
    status: bool,
    /// A value in clear where only tokens are written is no problem.
    allow_clear: bool,
}

/// Reveals line after line; whether everything asked for was opened.
fn reveal(
    set: &SchemaSet,
    keys: &mut RevealKeys<'_>,
    options: &RevealOptions<'_>,
    told: Told,
    input: impl Read,
    out: &mut Outlet<'_, impl Write>,
    mut errors: impl Write,
) -> anyhow::Result<bool> {
    let mut lines = Lines::new(input, Limits::default().output);
    let (mut revealer, mut report, mut event, mut whole) =
        (keys.revealer(), Report::default(), Vec::new(), true);
    loop {
        if lines.may_wait() {
            out.release()?;
        }
        let Some((number, line)) = lines.next()? else { break };
        let text = match line {
            Line::Text(text) => text,
            // It cannot be kept, so it cannot stay: the one case in which a line is not written.
            Line::TooLong => {
                whole = false;
                writeln!(
                    errors,
                    "{}",
                    super::sorted(
                        json!({ "line": number, "reason": RejectCode::TooLarge.as_str() })
                    )
                )?;
                continue;
            }
        };
        let revealed = match claim(set, &mut revealer, text) {
            Ok(schema) => keys
                .with(|keys| revealer.reveal(schema, keys, text, options, &mut event, &mut report))
                .with_context(|| format!("line {number}"))?
                .map(|()| schema),
            Err(reject) => Err(reject),
        };
        let (shown, schema, problem) = match revealed {
            Ok(schema) => (&*event, Some(schema), problem(schema, &report, told.allow_clear)),
            Err(reject) => (text, None, Some(json!({ "reason": reject.code.as_str() }))),
        };
        write_line(out, &told, shown, schema, &report)?;
        let opened = keys.opened.take();
        if let Some(schema) = schema {
            for (index, _) in report.fields.iter().filter(|(_, s)| *s == Status::Honey) {
                alarm(&mut errors, number, &schema.fields[*index].name)?;
            }
            let fields = report.fields.iter().map(|(at, s)| (&*schema.fields[*at].id, traced(s)));
            out.add(&schema.name, &opened, fields.filter_map(|(id, s)| Some((id, s?))));
        }
        out.end_record()?;
        if let Some(mut problem) = problem {
            whole = false;
            problem["line"] = number.into();
            writeln!(errors, "{}", super::sorted(problem))?;
        }
    }
    Ok(whole)
}

/// A status as the audit has it; `None`: nothing was to be opened there.
fn traced(status: &Status) -> Option<&'static str> {
    match status {
        Status::Skipped | Status::NoToken => None,
        Status::Honey => Some("honey"),
        status => Some(status.as_str()),
    }
}

/// The schema a line was protected under.
fn claim<'s>(
    set: &'s SchemaSet,
    revealer: &mut Revealer,
    text: &[u8],
) -> Result<&'s Schema, Reject> {
    for schema in set.schemas() {
        if schema.when.is_empty() || revealer.claims(schema, text)? {
            return Ok(schema);
        }
    }
    Err(Reject::new(RejectCode::NoSchema))
}

/// What is told about a line of which something stays.
fn problem(schema: &Schema, report: &Report, allow_clear: bool) -> Option<Value> {
    let failed = report.fields.iter().filter(|(_, status)| match status {
        Status::Failed(_) | Status::Honey | Status::NotText | Status::Withheld => true,
        Status::Clear => !allow_clear,
        Status::Revealed | Status::Masked | Status::Skipped | Status::NoToken => false,
    });
    let fields: Vec<Value> = failed.map(|place| field(schema, place)).collect();
    if fields.is_empty() && report.unexpected_tokens == 0 {
        return None;
    }
    let mut problem =
        json!({ "reason": "not_revealed", "schema": &*schema.label, "fields": fields });
    if report.unexpected_tokens > 0 {
        problem["unexpected_tokens"] = report.unexpected_tokens.into();
    }
    Some(problem)
}

/// Somebody opened what nobody has a reason to open.
fn alarm(errors: &mut impl Write, line: u64, field: &str) -> io::Result<()> {
    let alarm = json!({ "alarm": "honey", "line": line, "field": field });
    writeln!(errors, "{}", super::sorted(alarm))
}

fn field(schema: &Schema, (index, status): &(usize, Status)) -> Value {
    json!({ "field": &*schema.fields[*index].id, "status": status.as_str() })
}

/// A line as it was asked for: the event, or what is told about it too.
fn write_line(
    out: &mut impl Write,
    told: &Told,
    event: &[u8],
    schema: Option<&Schema>,
    report: &Report,
) -> io::Result<()> {
    if told.status {
        return write_status(out, event, schema, report);
    }
    out.write_all(event)?;
    out.write_all(b"\n")
}

/// `event` as it stands between members that tell about it; null where it is no JSON text.
fn write_status(
    out: &mut impl Write,
    event: &[u8],
    schema: Option<&Schema>,
    report: &Report,
) -> io::Result<()> {
    let Some(schema) = schema else {
        let event =
            if veilstream_engine::scan::is_json_text(event) { event.trim_ascii() } else { b"null" };
        out.write_all(b"{\"event\":")?;
        out.write_all(event)?;
        return out.write_all(b",\"schema\":null,\"fields\":[],\"unexpected_tokens\":0}\n");
    };
    let fields: Vec<Value> = report.fields.iter().map(|place| field(schema, place)).collect();
    out.write_all(b"{\"event\":")?;
    out.write_all(event.trim_ascii())?;
    writeln!(
        out,
        ",\"schema\":{},\"fields\":{},\"unexpected_tokens\":{}}}",
        json!(&*schema.label),
        super::sorted(Value::from(fields)),
        report.unexpected_tokens
    )
}

/// Opens one bare token of the field called `name`; `field`: where its form is another system's.
fn open_token(
    revealer: &mut Revealer,
    keys: engine::KeySource<'_>,
    (name, field): (&str, Option<&Field>),
    token: &[u8],
    payload: &mut Vec<u8>,
) -> Result<PayloadKind, OpenError> {
    if field.is_none() {
        return revealer.open(name, keys, token, payload);
    }
    let item = BareToken {
        fid: kdf::field_id(name),
        mask: None,
        interop: field,
        token,
        decoded: None,
        bind: &[],
        subject: None,
        subject_domain: None,
    };
    let held = HeldKeys { keyring: keys.keyring, fetched: &FetchedKeys::default() };
    let (_, place, kind) = revealer.disclose_token(held, &item, Decision::Reveal, payload);
    match place.status {
        Status::Revealed => Ok(kind),
        Status::Failed(error) => Err(error),
        _ => Err(OpenError::Malformed),
    }
}

/// Opens bare tokens of a field; whether all opened.
fn open_tokens(
    keys: &mut RevealKeys<'_>,
    (name, field): (&str, Option<&Field>),
    input: impl Read,
    out: &mut Outlet<'_, impl Write>,
    mut errors: impl Write,
) -> anyhow::Result<bool> {
    let mut lines = Lines::new(input, Limits::default().output);
    let (mut revealer, mut payload, mut whole) = (keys.revealer(), Vec::new(), true);
    loop {
        if lines.may_wait() {
            out.release()?;
        }
        let Some((number, line)) = lines.next()? else { break };
        let token = match line {
            Line::Text(text) => unquoted(text.trim_ascii()),
            Line::TooLong => b"",
        };
        let opened = keys
            .with(|keys| open_token(&mut revealer, keys, (name, field), token, &mut payload))
            .with_context(|| format!("line {number}"))?;
        let class = match opened {
            Ok(PayloadKind::Json) => {
                // White space between the members of a token's object may hold line feeds; inside
                // its strings there are none.
                payload.iter_mut().filter(|b| matches!(b, b'\n' | b'\r')).for_each(|b| *b = b' ');
                out.write_all(&payload)?;
                None
            }
            Ok(PayloadKind::Bytes) => {
                write!(out, "{}", super::text_or_base64(Some(&payload)))?;
                None
            }
            Ok(PayloadKind::Honey) => {
                alarm(&mut errors, number, name)?;
                Some(Status::Honey)
            }
            Err(error) => Some(Status::Failed(error)),
        };
        let status = class.as_ref().map_or(Some("revealed"), traced);
        let (schema, opened) = (schema_of(name), keys.opened.take());
        if let Some(class) = class {
            whole = false;
            out.write_all(token)?;
            let problem = json!({ "line": number, "reason": class.as_str() });
            writeln!(errors, "{}", super::sorted(problem))?;
        }
        out.write_all(b"\n")?;
        out.add(schema, &opened, status.map(|status| (name, status)).into_iter());
        out.end_record()?;
    }
    Ok(whole)
}

/// The schema that a token's field is of; a domain stands for itself.
fn schema_of(field: &str) -> &str {
    field.split(['.', '#']).next().unwrap_or(field)
}

/// Without the quotes that a JSON tool may have left.
fn unquoted(token: &[u8]) -> &[u8] {
    token.strip_prefix(b"\"").and_then(|t| t.strip_suffix(b"\"")).unwrap_or(token)
}

#[cfg(test)]
mod tests;
