//! `veilstream schema`

mod diff;
#[cfg(feature = "serve")]
mod readers;
mod sinks;
mod test;
mod widths;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use veilstream_engine::compile::{Grants, SchemaSet};
use veilstream_engine::mask::ReadMask;
use veilstream_engine::schema::{Generalize, IndexRule, Protect, Schema};

use crate::exit::Exit;
use crate::registry;

const TEST_HELP: &str = "Runs the cases of customers.json, which stand in customers.cases.json beside it, with keys made for the run. Of a folder, every document that has cases is \
tested. schemas/README.md tells how cases are written. What the readers of a case see is asked of the policies, where --policies or --config names them.

Examples:
  veilstream schema test
  veilstream schema test schemas/customers.json --config veilstream.toml

Exit code: 0 every case holds, 1 some do not, 2 wrong documents or cases";

const DIFF_HELP: &str = "Documents of one name are compared. A version protects less when a field, a tag, a binding or the subject is gone, a kind of protection or an \
index tells more, or a mask shows more. A path that selects less is not found.

Examples:
  git show main:schemas/customers.json > old.json && veilstream schema diff old.json schemas/customers.json
  veilstream schema diff --allow-weaker old schemas

Exit code: 0 it protects as much, or may protect less; 1 it protects less, or changes its subject domain; 2 wrong documents";

const LIST_HELP: &str = "With --widths: the characters that stand in the place of values of so many bytes, as they stand in JSON (a string counts its quotes \
and escapes, and characters count their bytes), and the characters of an index. The longest of them is the width of a column.

Examples:
  veilstream schema list
  veilstream schema list --widths
  veilstream schema list --config veilstream.toml --json";

const CONNECT_HELP: &str = "The shape of sanitized records is learnt from events: names and types, never values. Everything protected is declared as a string. A sink would store a \
token in a column of numbers as 0, without an error. Needs Debezium's JDBC sink, and Kafka Connect 4.2 unless the document has an envelope; the worker reads SINK_URL, SINK_USER and \
SINK_PASSWORD from its environment (config.providers=env).

Examples:
  veilstream schema connect --schema schemas/customers.json > connector.json
  veilstream schema connect --schema schemas/customers.json --sample raw.ndjson --table people

Exit code: 0 printed, 2 the document or the sample does not do";

const DDL_HELP: &str = "Columns of tokens and blind indexes have a CHECK of their form, and compare by their bytes. Blind indexes are indexed.

Examples:
  veilstream schema ddl --schema schemas/customers.json | psql
  veilstream schema ddl --schema schemas/customers.json --sample raw.ndjson --table people

Exit code: 0 printed, 2 the document or the sample does not do";

const ENVELOPE_HELP: &str = "For Kafka Connect before 4.2, whose JsonConverter needs a schema in each record. Put what is printed into the document: sanitized values then come \
as {\"schema\":..,\"payload\":..}. Compare the types of what is not protected with what your events may have; a value of another type is rejected.

Examples:
  veilstream schema envelope --schema schemas/customers.json --sample raw.ndjson

Exit code: 0 printed, 2 the document or the sample does not do";

const SANITIZED_HELP: &str = "For schema registries, and for those who read the sanitized topic.

Examples:
  veilstream schema sanitized --schema schemas/customers.json

Exit code: 0 printed, 2 the document or the sample does not do";

/// Arguments of `schema`.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    #[command(subcommand)]
    command: SchemaCommand,
}

#[derive(Debug, Subcommand)]
enum SchemaCommand {
    /// Check documents, every fault at once
    #[command(
        after_help = "Documents that are named together must also fit together. Files named \
            *.cases.json and *.schema.json are no documents and are skipped.\n\nExamples:\n  \
            veilstream schema check schemas/customers.json\n  veilstream schema check \
            schemas/*.json\n\nExit code: 0 good (warnings do not count), 2 faults"
    )]
    Check {
        /// Schema documents
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Run the cases of documents
    #[command(after_help = TEST_HELP)]
    Test(test::TestArgs),
    /// Tell what a later version of documents protects less
    #[command(after_help = DIFF_HELP)]
    Diff {
        /// Schema document or folder as it was
        #[arg(value_name = "OLD")]
        old: PathBuf,
        /// Schema document or folder as it shall be
        #[arg(value_name = "NEW")]
        new: PathBuf,
        /// Let it protect less
        #[arg(long)]
        allow_weaker: bool,
    },
    /// Print the configuration of a sink connector (Kafka Connect, JDBC)
    #[command(after_help = CONNECT_HELP)]
    Connect {
        #[command(flatten)]
        sample: sinks::Sample,
        #[command(flatten)]
        table: sinks::Table,
        /// The sanitized topic; without it the document's
        #[arg(long, value_name = "NAME")]
        topic: Option<String>,
    },
    /// Print the table of a sink: columns, CHECKs, indexes
    #[command(after_help = DDL_HELP)]
    Ddl {
        #[command(flatten)]
        sample: sinks::Sample,
        #[command(flatten)]
        table: sinks::Table,
        /// The database
        #[arg(long, value_enum, default_value = "postgres")]
        dialect: sinks::Dialect,
    },
    /// Print the member of a document that has values written in Connect's envelopes
    #[command(after_help = ENVELOPE_HELP)]
    Envelope {
        #[command(flatten)]
        sample: sinks::Sample,
    },
    /// Print the JSON Schema of sanitized records
    #[command(after_help = SANITIZED_HELP)]
    Sanitized {
        #[command(flatten)]
        sample: sinks::Sample,
    },
    /// List documents: topics, fields, what happens to them
    #[command(after_help = LIST_HELP)]
    List {
        /// Folder of the documents
        #[arg(value_name = "DIR", default_value = "schemas", conflicts_with = "config")]
        dir: PathBuf,
        /// Configuration file whose [schemas] section counts
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// How many characters a column needs for each field and its index
        #[arg(long)]
        widths: bool,
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
}

/// Runs the command.
///
/// # Errors
/// Faults of the documents or cases; a stream that fails.
pub fn run(args: &SchemaArgs) -> anyhow::Result<Exit> {
    let mut out = io::stdout().lock();
    match &args.command {
        SchemaCommand::Check { files } => check(files, &mut out),
        SchemaCommand::Test(args) => test::test(args, &mut out),
        SchemaCommand::Diff { old, new, allow_weaker } => {
            diff::diff(old, new, *allow_weaker, &mut out)
        }
        SchemaCommand::Connect { sample, table, topic } => {
            sinks::connect(sample, table, topic.as_deref(), &mut out)
        }
        SchemaCommand::Ddl { sample, table, dialect } => {
            sinks::ddl(sample, table, *dialect, &mut out)
        }
        SchemaCommand::Envelope { sample } => sinks::envelope(sample, &mut out),
        SchemaCommand::Sanitized { sample } => sinks::sanitized(sample, &mut out),
        SchemaCommand::List { dir, config, widths, json } => {
            let loaded = match config {
                Some(config) => registry::open_configured(&super::load_config(config)?.schemas)
                    .map(|(registry, _)| registry.current()),
                None => registry::documents_in(dir)
                    .and_then(|files| registry::open_files(&files, &Grants::local()))
                    .map(|loaded| loaded.set),
            };
            let set = loaded.map_err(|faults| super::faults_error(&faults))?;
            if *widths { widths::list(&set, *json, &mut out) } else { list(&set, *json, &mut out) }
        }
    }
}

fn check(files: &[PathBuf], out: &mut impl Write) -> anyhow::Result<Exit> {
    let (documents, others): (Vec<PathBuf>, Vec<PathBuf>) =
        files.iter().cloned().partition(|f| registry::is_document(f));
    for other in others {
        writeln!(out, "{}: skipped, no schema document by its name", other.display())?;
    }
    let loaded = registry::open_files(&documents, &Grants::local())
        .map_err(|faults| super::faults_error(&faults))?;
    for warning in &loaded.warnings {
        writeln!(out, "warning: {warning}")?;
    }
    for (file, schema) in documents.iter().zip(loaded.set.schemas()) {
        writeln!(
            out,
            "{}: ok, {} with {} fields",
            file.display(),
            schema.label,
            schema.fields.len()
        )?;
    }
    Ok(Exit::Ok)
}

fn list(set: &SchemaSet, as_json: bool, out: &mut impl Write) -> anyhow::Result<Exit> {
    for schema in set.schemas() {
        if as_json {
            writeln!(out, "{}", super::sorted(described(schema)))?;
            continue;
        }
        let topic = |name: &Option<String>| name.clone().unwrap_or_else(|| "(no topic)".to_owned());
        writeln!(out, "{}  {} -> {}", schema.label, topic(&schema.from), topic(&schema.to))?;
        let rows = rows(schema);
        let width = |column: fn(&FieldRow) -> &str| {
            rows.iter().map(|row| column(row).len()).max().unwrap_or_default()
        };
        let (id, protect, path) = (width(|r| &r.id), width(|r| &r.protect), width(|r| &r.path));
        for row in &rows {
            let line = format!(
                "  {:<id$}  {:<protect$}  {:<path$}  {}",
                row.id,
                row.protect,
                row.path,
                row.index.as_deref().unwrap_or_default()
            );
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    Ok(Exit::Ok)
}

/// One protected place of a schema.
struct FieldRow {
    id: String,
    protect: String,
    path: String,
    index: Option<String>,
    mask: Option<ReadMask>,
    tags: Vec<Arc<str>>,
}

fn rows(schema: &Schema) -> Vec<FieldRow> {
    let row = |id: String, rule: &Protect, path: &str, index: Option<&IndexRule>| FieldRow {
        id,
        protect: protect(rule),
        path: path.to_owned(),
        index: index.map(index_of),
        mask: None,
        tags: Vec::new(),
    };
    let fields = schema.fields.iter().map(|f| FieldRow {
        mask: f.mask(),
        tags: f.tags().to_vec(),
        protect: match &f.interop {
            Some(interop) => format!("encrypt {interop}"),
            None => protect(&f.protect),
        },
        ..row(f.id.to_string(), &f.protect, &f.path, f.index.as_ref())
    });
    let key = schema.key.iter().map(|k| row("#key".to_owned(), &k.protect, "", k.index.as_ref()));
    let headers = schema
        .headers
        .iter()
        .map(|h| row(format!("#header:{}", h.header), &h.protect, "", h.index.as_ref()));
    fields.chain(key).chain(headers).collect()
}

fn described(schema: &Schema) -> Value {
    let mask =
        |mask: ReadMask| json!({ "keep_first": mask.keep_first, "keep_last": mask.keep_last });
    let fields: Vec<Value> = rows(schema).into_iter().map(|row| {
        let tags: Vec<&str> = row.tags.iter().map(AsRef::as_ref).collect();
        json!({ "id": row.id, "path": row.path, "protect": row.protect, "index": row.index, "mask": row.mask.map(mask), "tags": tags })
    }).collect();
    json!({ "name": &*schema.name, "version": schema.version, "from": schema.from, "to": schema.to, "fields": fields })
}

fn protect(protect: &Protect) -> String {
    match protect {
        Protect::Encrypt => "encrypt".to_owned(),
        Protect::Deterministic(root) => format!("deterministic v{root}"),
        Protect::Hash => "hash".to_owned(),
        Protect::Mask(_) => "mask".to_owned(),
        Protect::Generalize(Generalize::Year(_)) => "generalize year".to_owned(),
        Protect::Generalize(Generalize::Month(_)) => "generalize month".to_owned(),
        Protect::Generalize(Generalize::Bucket(width)) => format!("generalize bucket:{width}"),
        Protect::Redact(_) => "redact".to_owned(),
        Protect::Drop => "drop".to_owned(),
    }
}

fn index_of(rule: &IndexRule) -> String {
    let mut text = format!("{} {}", rule.normalize, rule.bits);
    if rule.of.len() > 1 {
        let _ = write!(text, " of {}", rule.of.len());
    }
    if let Some(into) = &rule.into {
        let _ = write!(text, " into {into}");
    }
    if let Some(root) = rule.root {
        let _ = write!(text, " v{root}");
    }
    text
}
