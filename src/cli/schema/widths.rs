//! `veilstream schema list --widths`: how wide the columns of a sink must be.

use std::io::Write;

use serde_json::{Value, json};
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::index;
use veilstream_engine::interop::InteropForm;
use veilstream_engine::schema::{Generalize, IndexRule, Protect, Schema};
use veilstream_engine::token::Suite;

use crate::exit::Exit;

/// Lengths of values, in bytes of JSON.
const VALUES: [usize; 6] = [16, 32, 64, 128, 256, 1024];
/// Digits of the version of a root: a century of weekly rotations.
const VERSION_DIGITS: usize = 4;
/// Pad of suite 3, whatever the field says.
const DETERMINISTIC_PAD: u16 = 16;

/// What stands in the place of a value.
enum Width {
    /// A token, as long as the value has it.
    Token(Suite, u16),
    /// A text in the form of another system.
    Interop(InteropForm),
    /// So many characters.
    Fixed(usize),
    /// No more than before.
    Same,
    /// Nothing.
    Gone,
}

struct WidthRow {
    id: String,
    width: Width,
    /// Characters of the index beside the value.
    index: Option<usize>,
}

/// Prints the widths of every document.
///
/// # Errors
/// A stream that fails.
pub(super) fn list(set: &SchemaSet, as_json: bool, out: &mut impl Write) -> anyhow::Result<Exit> {
    for schema in set.schemas() {
        let rows = rows(schema);
        if as_json {
            let fields: Vec<Value> = rows.iter().map(|row| json!({ "id": row.id, "value": row.width.described(), "index": row.index })).collect();
            writeln!(
                out,
                "{}",
                crate::cli::sorted(
                    json!({ "name": &*schema.name, "version": schema.version, "fields": fields })
                )
            )?;
            continue;
        }
        writeln!(out, "{}", schema.label)?;
        let id = rows
            .iter()
            .map(|row| row.id.len())
            .chain(["value of bytes".len()])
            .max()
            .unwrap_or_default();
        let head = VALUES.map(|bytes| format!("{bytes:>5}")).join(" ");
        writeln!(out, "  {:<id$}  {head}  index", "value of bytes")?;
        for row in &rows {
            let index = row.index.map_or_else(|| "-".to_owned(), |chars| chars.to_string());
            writeln!(
                out,
                "  {:<id$}  {}  {index:>5}",
                row.id,
                VALUES.map(|bytes| format!("{:>5}", row.width.cell(bytes))).join(" ")
            )?;
        }
    }
    Ok(Exit::Ok)
}

fn rows(schema: &Schema) -> Vec<WidthRow> {
    let row = |id: String, protect: &Protect, pad: u16, rule: Option<&IndexRule>| {
        let index = rule.map(|rule| index::tag_chars(rule.bits, VERSION_DIGITS));
        match (protect, index) {
            // The index is the value.
            (Protect::Hash, Some(chars)) => {
                WidthRow { id, width: Width::Fixed(chars), index: None }
            }
            _ => WidthRow { id, width: Width::of(protect, pad), index },
        }
    };
    let fields = schema.fields.iter().map(|f| {
        let row = row(f.id.to_string(), &f.protect, f.pad, f.index.as_ref());
        match &f.interop {
            Some(interop) => WidthRow { width: Width::Interop(interop.form), ..row },
            None => row,
        }
    });
    let key = schema
        .key
        .iter()
        .map(|k| row("#key".to_owned(), &k.protect, DETERMINISTIC_PAD, k.index.as_ref()));
    let headers = schema.headers.iter().map(|h| {
        row(format!("#header:{}", h.header), &h.protect, DETERMINISTIC_PAD, h.index.as_ref())
    });
    fields.chain(key).chain(headers).collect()
}

impl Width {
    fn of(protect: &Protect, pad: u16) -> Self {
        match protect {
            // Tokens of suite 1 are shorter; inside the minute of a restart a value gets one of
            // suite 2.
            Protect::Encrypt => Self::Token(Suite::XaesGcm, pad),
            Protect::Deterministic(_) => Self::Token(Suite::AesSiv, DETERMINISTIC_PAD),
            Protect::Generalize(Generalize::Year(_)) => Self::Fixed("1974".len()),
            Protect::Generalize(Generalize::Month(_)) => Self::Fixed("1974-12".len()),
            Protect::Redact(with) => Self::Fixed(
                serde_json::from_slice::<Value>(with)
                    .ok()
                    .map_or(with.len(), |with| characters(&with)),
            ),
            Protect::Mask(_) | Protect::Generalize(Generalize::Bucket(_)) => Self::Same,
            Protect::Drop | Protect::Hash => Self::Gone,
        }
    }

    fn cell(&self, bytes: usize) -> String {
        match self {
            Self::Token(suite, pad) => suite.token_chars(*pad, bytes).to_string(),
            Self::Interop(form) => form.chars(bytes).to_string(),
            Self::Fixed(chars) => chars.to_string(),
            Self::Same => "same".to_owned(),
            Self::Gone => "-".to_owned(),
        }
    }

    fn described(&self) -> Value {
        match self {
            Self::Token(suite, pad) => VALUES
                .iter()
                .map(|bytes| (bytes.to_string(), json!(suite.token_chars(*pad, *bytes))))
                .collect(),
            Self::Interop(form) => {
                VALUES.iter().map(|bytes| (bytes.to_string(), json!(form.chars(*bytes)))).collect()
            }
            Self::Fixed(chars) => json!(chars),
            Self::Same => json!("same"),
            Self::Gone => Value::Null,
        }
    }
}

fn characters(value: &Value) -> usize {
    value.as_str().map_or_else(|| value.to_string().len(), |text| text.chars().count())
}
