//! `veilstream schema connect|ddl|envelope|sanitized`: what a sink must know of sanitized records.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::json;
use veilstream_engine::schema::Schema;

use crate::cases::Runner;
use crate::cli::faults_error;
use crate::exit::Exit;
use crate::sinks::{self, Columns, ConnectOptions, Shape};

/// Where the shape of sanitized records is learnt.
#[derive(Debug, Args)]
pub(super) struct Sample {
    /// Schema document
    #[arg(long, value_name = "FILE")]
    schema: PathBuf,
    /// Raw events to learn from, one a line; without it the document's cases
    #[arg(long, value_name = "FILE")]
    sample: Option<PathBuf>,
}

/// The table of a sink.
#[derive(Debug, Args)]
pub(super) struct Table {
    /// The table; without it the schema's name
    #[arg(long, value_name = "NAME")]
    table: Option<String>,
    /// Column of the record key, the primary key
    #[arg(long, value_name = "NAME", default_value = "record_key")]
    key: String,
}

/// Databases whose tables are printed.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Dialect {
    /// PostgreSQL 14 or later
    Postgres,
}

const NO_MEMBERS: &str = "the events have no members that Connect can describe";

/// Prints the configuration of a sink connector.
///
/// # Errors
/// Faults of the document or the sample; a stream that fails.
pub(super) fn connect(
    sample: &Sample,
    table: &Table,
    topic: Option<&str>,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let (schema, shape) = learnt(sample)?;
    told(&columns(&shape)?)?;
    let topic = topic.map(ToOwned::to_owned).or_else(|| schema.to.clone()).ok_or_else(|| {
        Exit::Usage.because("the document routes no topic; name the sanitized topic with --topic")
    })?;
    let options = ConnectOptions { table: table.name(&schema), key: table.key.clone(), topic };
    let connector = sinks::connector(&schema, &shape, &options);
    writeln!(out, "{}", serde_json::to_string_pretty(&connector)?)?;
    Ok(Exit::Ok)
}

/// Prints the table of a sink.
///
/// # Errors
/// As [`connect`].
pub(super) fn ddl(
    sample: &Sample,
    table: &Table,
    dialect: Dialect,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let (schema, shape) = learnt(sample)?;
    let columns = columns(&shape)?;
    told(&columns)?;
    match dialect {
        Dialect::Postgres => {
            let sql = sinks::table(&schema, &columns, &table.name(&schema), &table.key);
            write!(out, "{sql}")?;
        }
    }
    Ok(Exit::Ok)
}

/// Prints the JSON Schema of sanitized records.
///
/// # Errors
/// As [`connect`].
pub(super) fn sanitized(sample: &Sample, out: &mut impl Write) -> anyhow::Result<Exit> {
    let (schema, shape) = learnt(sample)?;
    let document = sinks::json_schema(&schema, &shape);
    writeln!(out, "{}", serde_json::to_string_pretty(&document)?)?;
    Ok(Exit::Ok)
}

/// Prints what a document says to have its values written in envelopes.
///
/// # Errors
/// As [`connect`].
pub(super) fn envelope(sample: &Sample, out: &mut impl Write) -> anyhow::Result<Exit> {
    let (_, shape) = learnt(sample)?;
    let columns = columns(&shape)?;
    told(&columns)?;
    let envelope =
        sinks::envelope(&shape).ok_or_else(|| Exit::Usage.because(NO_MEMBERS.to_owned()))?;
    writeln!(out, "{}", serde_json::to_string_pretty(&json!({ "envelope": envelope }))?)?;
    Ok(Exit::Ok)
}

impl Table {
    fn name(&self, schema: &Schema) -> String {
        self.table.clone().unwrap_or_else(|| schema.name.to_string())
    }
}

fn columns(shape: &Shape) -> anyhow::Result<Columns> {
    Columns::of(shape).map_err(|error| Exit::Usage.because(error.to_string()))
}

/// Says what no column is made for.
fn told(columns: &Columns) -> io::Result<()> {
    let mut err = io::stderr().lock();
    for (path, reason) in &columns.left_out {
        writeln!(err, "left out: {path}: {reason}")?;
    }
    Ok(())
}

/// The document, and the shape of its sanitized records.
fn learnt(sample: &Sample) -> anyhow::Result<(Arc<Schema>, Shape)> {
    let (schema, cases) =
        super::test::suite(&sample.schema).map_err(|faults| faults_error(&faults))?;
    let mut runner = Runner::new(schema.clone())?;
    let mut shape = Shape::new(&schema);
    if let Some(file) = &sample.sample {
        learn_events(&schema, file, &mut runner, &mut shape)?;
    } else {
        for case in cases.iter().flat_map(|cases| &cases.cases) {
            if let Some(record) = runner.sanitize_case(case)? {
                shape.learn(&schema, &record).map_err(|error| {
                    Exit::Usage.because(format!("case \"{}\": {error}", case.name))
                })?;
            }
        }
    }
    shape.complete(&schema).map_err(|error| Exit::Usage.because(error.to_string()))?;
    Ok((schema, shape))
}

fn learn_events(
    schema: &Schema,
    file: &Path,
    runner: &mut Runner,
    shape: &mut Shape,
) -> anyhow::Result<()> {
    let fault = |line: usize, what: String| {
        Exit::Usage.because(format!("{}: line {line}: {what}", file.display()))
    };
    let text = std::fs::read_to_string(file).map_err(|error| {
        Exit::Usage.because(format!("{}: cannot be read ({error})", file.display()))
    })?;
    for (line, event) in (1..).zip(text.lines()).filter(|(_, event)| !event.trim().is_empty()) {
        let record = runner
            .sanitize(event)?
            .map_err(|code| fault(line, format!("is rejected as {}", code.as_str())))?;
        shape.learn(schema, &record).map_err(|error| fault(line, error.to_string()))?;
    }
    Ok(())
}
