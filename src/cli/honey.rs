//! `veilstream honey`

use std::io::{self, BufWriter, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::Value;
use veilstream_engine::compile::Grants;
use veilstream_engine::key::{Key, KeyState};
use veilstream_engine::scan::Tape;
use veilstream_engine::schema::{Field, Protect, Schema, ValueType};
use veilstream_engine::seal::{NoncePool, PayloadKind, Sealer, append_bound, canonical_json};
use veilstream_engine::token::Suite;
use veilstream_engine::transform::{Limits, NeededKey};
use veilstream_engine::{KeyKind, Scope, subject};
use veilstream_keys::OsEntropy;

use super::KeysSource;
use super::argument::ArgumentError;
use super::lines::{Line, Lines};
use crate::exit::Exit;
use crate::keys::KeySource;
use crate::{keys, registry};

const CREATE_HELP: &str = "Prints one honey token for each VALUE. Put it into rows of people who do not exist. Nobody has a reason to open it, so anyone who does is told \"denied\", and an alarm \
is raised.
A honey token has the suite, pad and binding of the field's other tokens, and of a schema with \"subject\" the subject's key: give each made-up person an id with \
--subject. Without \"subject\" the tokens of one run share a key that seals nothing else; make them in several runs.
VALUE is what a token of the field could hold: the longer it is, the longer the token. Nobody ever sees it. Make it up: a search for a real person's would find the row.
It is a text, or where the field's type is another, or with --json, a JSON text. On the command line it stands in the shell's history; with --stdin values are read, one a line.
A row needs the index of the same value too, if the field has one: `veilstream index`.

Examples:
  veilstream honey create --keys keys --schema schemas/customers.json --field email --subject 990017 mary.sample@example.org
  veilstream honey create --config veilstream.toml --schema schemas/customers.json --field ssn --subject 990017 --bind customer=990017 --stdin < values.txt

Exit code: 0 done, 1 keys are not available, 2 wrong usage or document";

/// Arguments of `honey`.
#[derive(Debug, Args)]
pub struct HoneyArgs {
    #[command(subcommand)]
    command: HoneyCommand,
}

#[derive(Debug, Subcommand)]
enum HoneyCommand {
    /// Make honey tokens of a field
    #[command(after_help = CREATE_HELP)]
    Create(CreateArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Schema document
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
    #[command(flatten)]
    keys: KeysSource,
    /// Field of the document
    #[arg(long, value_name = "ID")]
    field: String,
    /// The made-up data subject in whose row the tokens will stand
    #[arg(long, value_name = "ID")]
    subject: Option<String>,
    /// A value the field is bound to, as it will stand in the row; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = bound)]
    bind: Vec<(String, String)>,
    /// Values are JSON texts
    #[arg(long)]
    json: bool,
    /// What the tokens hold
    #[arg(value_name = "VALUE", required_unless_present = "stdin", conflicts_with = "stdin")]
    values: Vec<String>,
    /// Read the values from standard input, one a line
    #[arg(long)]
    stdin: bool,
}

/// Runs the command.
///
/// # Errors
/// Faults of the document, a field that has no tokens, keys that are not available.
pub fn run(args: &HoneyArgs) -> anyhow::Result<Exit> {
    let HoneyCommand::Create(args) = &args.command;
    let loaded = registry::open_files(std::slice::from_ref(&args.schema), &Grants::local())
        .map_err(|faults| super::faults_error(&faults))?;
    let schema = &loaded.set.schemas()[0];
    // Everything that may be refused, before a key is made.
    let field = field(schema, &args.field)?;
    let binding = binding(field, &args.bind)?;
    check_subject(schema, field, args.subject.as_deref())?;
    let values = args.values()?;
    let payloads = values
        .iter()
        .map(|value| payload(field, value, args.json))
        .collect::<Result<Vec<_>, _>>()?;
    let keys = keys::open_local(&args.keys)?;
    let _upkeep = keys::maintain(&keys)?;
    let mut out = BufWriter::new(io::stdout().lock());
    create(
        schema,
        field,
        args.subject.as_deref(),
        binding.as_deref(),
        &*keys,
        &payloads,
        &mut out,
    )?;
    out.flush()?;
    Ok(Exit::Ok)
}

impl CreateArgs {
    fn values(&self) -> anyhow::Result<Vec<String>> {
        if self.stdin { read_values(io::stdin().lock()) } else { Ok(self.values.clone()) }
    }
}

fn read_values(input: impl Read) -> anyhow::Result<Vec<String>> {
    let mut lines = Lines::new(input, Limits::default().input);
    let mut values = Vec::new();
    while let Some((number, line)) = lines.next()? {
        let Line::Text(text) = line else {
            return Err(Exit::Usage.because(format!("line {number} is too long for a value")));
        };
        let text = std::str::from_utf8(text.strip_suffix(b"\r").unwrap_or(text))
            .map_err(|_| Exit::Usage.because(format!("line {number} is not UTF-8")))?;
        values.push(text.to_owned());
    }
    Ok(values)
}

/// `NAME=VALUE`.
fn bound(text: &str) -> Result<(String, String), ArgumentError> {
    text.split_once('=')
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .ok_or(ArgumentError::Form("NAME=VALUE"))
}

/// The field of that id, if tokens stand in its place.
fn field<'s>(schema: &'s Schema, id: &str) -> anyhow::Result<&'s Field> {
    // A text in the form of another system cannot say that it is honey.
    let sealed = |f: &&Field| f.takes_key() || matches!(f.protect, Protect::Deterministic(_));
    if let Some(field) = schema.field(id).filter(sealed) {
        return Ok(field);
    }
    let known: Vec<&str> = schema.fields.iter().filter(sealed).map(|f| &*f.id).collect();
    Err(Exit::Usage.because(format!(
        "--field: {} has no field {id} with tokens; there are {}",
        schema.name,
        known.join(", ")
    )))
}

/// The encoded bound values: exactly those that the field names.
fn binding(field: &Field, given: &[(String, String)]) -> anyhow::Result<Option<Vec<u8>>> {
    let mut names: Vec<&str> = given.iter().map(|(name, _)| &**name).collect();
    names.sort_unstable();
    let bound: Vec<&str> = field.bind.iter().map(|bind| &*bind.name).collect();
    if names != bound {
        return Err(Exit::Usage.because(if bound.is_empty() {
            format!("--bind: the field {} is bound to nothing; leave it out", field.id)
        } else {
            format!(
                "--bind: the field {} is bound to {}; give each once",
                field.id,
                bound.join(", ")
            )
        }));
    }
    let mut encoded = Vec::new();
    for name in bound {
        let value = given.iter().find(|(given, _)| given == name).map(|(_, value)| value);
        append_bound(name, value.map_or(b"", |value| value.as_bytes()), &mut encoded);
    }
    Ok((!encoded.is_empty()).then_some(encoded))
}

/// A subject is given where the field's other tokens have its key, and nowhere else.
fn check_subject(schema: &Schema, field: &Field, subject: Option<&str>) -> anyhow::Result<()> {
    let sealed_for_subjects = field.protect == Protect::Encrypt && !schema.subjects.is_empty();
    let fault = match subject {
        Some("") => "--subject is empty".to_owned(),
        None if sealed_for_subjects && !schema.subject_optional => {
            format!("--subject: tokens of {} have their subject's key; make somebody up", field.id)
        }
        Some(_) if !sealed_for_subjects => {
            format!("--subject: tokens of {} have no subject's key; leave it out", field.id)
        }
        _ => return Ok(()),
    };
    Err(Exit::Usage.because(fault))
}

/// A value as a record would hold it: one JSON text.
fn payload(field: &Field, value: &str, json: bool) -> anyhow::Result<Vec<u8>> {
    let is_text = !json && field.value_type.is_none_or(|t| t == ValueType::String);
    let parsed = if is_text { Some(Value::from(value)) } else { serde_json::from_str(value).ok() };
    let text = if is_text { Value::from(value).to_string() } else { value.trim().to_owned() };
    // Not which one: values are nobody's to log.
    if !parsed.is_some_and(|value| field.value_type.is_none_or(|t| is_of(t, &value))) {
        return Err(Exit::Usage.because(format!(
            "a value is no JSON text of the type of {}; write one that an event could hold",
            field.id
        )));
    }
    if !matches!(field.protect, Protect::Deterministic(_)) {
        return Ok(text.into_bytes());
    }
    let mut canonical = Vec::new();
    if canonical_json(text.as_bytes(), &mut Tape::default(), &mut canonical) {
        Ok(canonical)
    } else {
        Err(Exit::Usage.because(format!(
            "a value is none that {} takes: deterministic fields take texts and integers",
            field.id
        )))
    }
}

fn is_of(value_type: ValueType, value: &Value) -> bool {
    match value_type {
        ValueType::String => value.is_string(),
        ValueType::Number => value.is_number(),
        ValueType::Integer => value.is_i64() || value.is_u64(),
        ValueType::Boolean => value.is_boolean(),
        ValueType::Object => value.is_object(),
        ValueType::Array => value.is_array(),
    }
}

/// Writes one token for each payload.
fn create(
    schema: &Schema,
    field: &Field,
    subject: Option<&str>,
    binding: Option<&[u8]>,
    keys: &dyn KeySource,
    payloads: &[Vec<u8>],
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let (key, suite) = sealing_key(schema, field, subject, keys)?;
    let mut sealer = Sealer::new(key, suite, field.fid)
        .context("the key does not seal; see `veilstream keys list`")?;
    let pad = if suite == Suite::AesSiv { 16 } else { field.pad };
    let (mut nonces, mut token) = (NoncePool::new(Box::new(OsEntropy)), Vec::new());
    for payload in payloads {
        token.clear();
        // Each will stand in a row of its own.
        nonces.begin_record();
        sealer.seal(PayloadKind::Honey, payload, pad, binding, &mut nonces, &mut token)?;
        out.write_all(&token)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// The key that a value of the field would be sealed with, in a row of that subject.
fn sealing_key(
    schema: &Schema,
    field: &Field,
    subject: Option<&str>,
    keys: &dyn KeySource,
) -> anyhow::Result<(Arc<Key>, Suite)> {
    let (kind, scope, suite) = match (&field.protect, subject) {
        (Protect::Deterministic(root), _) => {
            (KeyKind::Deterministic, Scope::Version(*root), Suite::AesSiv)
        }
        (_, Some(subject)) => {
            (KeyKind::Data, subject_scope(schema, subject, keys)?, Suite::XaesGcm)
        }
        (_, None) => (KeyKind::Data, Scope::Schema(schema.name.clone()), Suite::AesGcm),
    };
    let fetched = keys.fetch(&[NeededKey { kind, scope }])?;
    let key = fetched.into_iter().next().context("the key store gave no key")?;
    if key.state == KeyState::Shredded {
        return Err(
            Exit::Failed.because("--subject: this data subject was erased; make up another")
        );
    }
    // Shortly after another process of the schema began, there is the shared key only.
    let suite = if matches!(key.scope, Scope::Shared(_)) { Suite::XaesGcm } else { suite };
    Ok((key, suite))
}

fn subject_scope(schema: &Schema, id: &str, keys: &dyn KeySource) -> anyhow::Result<Scope> {
    let (kind, scope) = (KeyKind::SubjectRef, Scope::Version(1));
    keys.fetch(&[NeededKey { kind, scope: scope.clone() }])?;
    let keyring = keys.keyring();
    keyring
        .sealing(kind, &scope)
        .and_then(|key| {
            let domain = schema.subject_domain.as_deref();
            subject::subject_reference(key, keyring.tenant(), domain, id.as_bytes())
        })
        .map(Scope::Subject)
        .context("the key that makes references of subjects is not available")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::transform::tests::{run as protect, set};
    use crate::ephemeral::EphemeralKeys;
    use veilstream_engine::inspect;
    use veilstream_engine::reveal::{KeySource as Lookup, Report, RevealOptions, Revealer, Status};

    const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"subject":"$.id","fields":[
        {"id":"email","path":"$.email"},{"id":"ssn","path":"$.ssn","bind":[{"name":"id","path":"$.id"}]},
        {"id":"age","path":"$.age","type":"integer","pad":32},{"id":"card","path":"$.card","protect":"deterministic","root":1},
        {"id":"gone","path":"$.gone","protect":"drop"}]}"#;

    /// A honey token stands in a row like its neighbours: its header and length are theirs, and it
    /// opens as honey there.
    #[test]
    fn neither_header_nor_length_tells_honey_from_its_neighbours() {
        let (set, keys) = (set(&[DOCUMENT]), EphemeralKeys::default());
        let schema = &set.schemas()[0];
        let row = r#"{"id":"990017","email":"jane@example.com","ssn":"078-05-1120","age":44,"card":"4242424242424242"}"#;
        let (real, ..) = protect(&set, &keys, row);
        let mut row: Value = serde_json::from_str(&real).unwrap();
        for (id, value) in [
            ("email", "mary@example.org"),
            ("ssn", "219-09-9999"),
            ("age", "51"),
            ("card", "4000000000000002"),
        ] {
            let field = field(schema, id).unwrap();
            let of_subject = (id != "card").then_some("990017");
            check_subject(schema, field, of_subject).unwrap();
            let bind = [("id".to_owned(), "990017".to_owned())];
            let binding = binding(field, if id == "ssn" { &bind } else { &[] }).unwrap();
            let (mut out, payload) = (Vec::new(), payload(field, value, false).unwrap());
            create(schema, field, of_subject, binding.as_deref(), &keys, &[payload], &mut out)
                .unwrap();
            let honey = String::from_utf8(out).unwrap();
            let (honey, neighbour) = (honey.trim_end(), row[id].as_str().unwrap());
            let header = |token: &str| inspect::inspect(token.as_bytes()).unwrap();
            assert_eq!(header(honey), header(neighbour), "{id}");
            assert_eq!(honey.len(), neighbour.len(), "{id}");
            assert_ne!(honey, neighbour);
            row[id] = honey.into();
        }
        let row = row.to_string();
        let (mut out, mut report) = (Vec::new(), Report::default());
        let keyring = keys.keyring();
        let lookup = |id: &_| keys.lookup(id).unwrap();
        Revealer::default()
            .reveal(
                schema,
                Lookup { keyring: &keyring, lookup: &lookup },
                row.as_bytes(),
                &RevealOptions::default(),
                &mut out,
                &mut report,
            )
            .unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), row, "nothing opens");
        assert_eq!(report.fields.len(), 4);
        assert!(report.fields.iter().all(|(_, status)| *status == Status::Honey), "{report:?}");
    }

    #[test]
    fn what_makes_no_honey_is_refused_with_what_to_write() {
        let set = set(&[DOCUMENT]);
        let schema = &set.schemas()[0];
        let said = |error: anyhow::Error| {
            assert_eq!(Exit::of(&error), Exit::Usage);
            error.to_string()
        };
        let get = |id| field(schema, id).unwrap();
        assert!(said(field(schema, "gone").unwrap_err()).ends_with("email, ssn, age, card"));
        assert!(said(field(schema, "mail").unwrap_err()).contains("has no field mail"));
        let bind = |name: &str| [(name.to_owned(), "1".to_owned())];
        assert!(said(binding(get("ssn"), &[]).unwrap_err()).contains("bound to id; give each"));
        assert!(said(binding(get("ssn"), &bind("di")).unwrap_err()).contains("bound to id"));
        assert!(said(binding(get("email"), &bind("id")).unwrap_err()).contains("bound to nothing"));
        let subject = |id, subject| said(check_subject(schema, get(id), subject).unwrap_err());
        assert!(subject("email", None).contains("make somebody up"));
        assert!(subject("email", Some("")).contains("is empty"));
        assert!(subject("card", Some("17")).contains("leave it out"));
        for (id, value, json) in [
            ("age", "44 years", false),
            ("age", "4.5", false),
            ("email", "{", true),
            ("card", "1.5", true),
        ] {
            let error = said(payload(get(id), value, json).unwrap_err());
            assert!(error.contains(id) && !error.contains(value), "{error}");
        }
    }

    #[test]
    fn values_are_read_one_a_line() {
        assert_eq!(read_values("a b\r\n\n\"c\"\n".as_bytes()).unwrap(), ["a b", "\"c\""]);
        assert!(read_values(&b"\xff\n"[..]).is_err());
    }
}
