//! Columns of one SQL statement, opened together under one disclosure.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::ops::Range;
use std::thread;

use arrow_array::ArrayRef;
use arrow_array::cast::AsArray as _;
use pyo3::pybacked::PyBackedStr;
use veilstream_engine::reveal::{ReadStatus, Status};
use veilstream_reading::audit::{Disclosure, Entry, Event};

use crate::bare::honey_entry;
use crate::column::{
    GivenScalars, RowScalars, Taken, TextBuilder, Texts, Told, append_text, row_scalars,
};
use crate::fault::VeilFault;
use crate::held::Held;
use crate::parts::{CallPurpose, ReadingParts};
use crate::target::Target;

/// Tokens for each thread at least.
const MANY: usize = 2000;

/// Tokens of a field, as a caller gives them.
pub(super) struct TokenColumn {
    pub(super) field: String,
    /// `None`: the row has none.
    pub(super) tokens: Vec<Option<PyBackedStr>>,
    pub(super) bind: Vec<(String, GivenScalars)>,
    pub(super) subject: Option<GivenScalars>,
}

impl TokenColumn {
    /// Whether there is no token in it.
    pub(super) fn is_empty(&self) -> bool {
        self.tokens.iter().all(Option::is_none)
    }
}

/// A column that was opened.
#[derive(Default)]
pub(super) struct OpenedColumn {
    /// Texts of rows in sequence, and where these begin.
    parts: Vec<(usize, ArrayRef)>,
    /// Rows whose text is JSON, and no string.
    pub(super) json: Vec<usize>,
    /// Rows that did not open, and why.
    pub(super) failed: Vec<(usize, &'static str)>,
}

/// A column that was opened and that nobody is told of yet.
pub(super) struct UntoldColumn {
    target: Target,
    parts: Vec<OpenedPart>,
}

/// What came of rows in sequence, and what is told of it.
struct OpenedPart {
    base: usize,
    texts: ArrayRef,
    json: Vec<usize>,
    failed: Vec<(usize, Status)>,
    told: Vec<Told>,
    met_honey: bool,
}

impl OpenedColumn {
    /// Texts with their rows.
    pub(super) fn texts(&self) -> impl Iterator<Item = (usize, &str)> {
        self.parts.iter().flat_map(|(base, texts)| {
            let texts = texts.as_string::<i64>().iter().enumerate();
            texts.filter_map(move |(row, text)| Some((base + row, text?)))
        })
    }
}

impl ReadingParts {
    /// Opens the columns of a statement. When it returns, its lines are durable.
    pub(super) fn open_statement(
        &self,
        columns: &[TokenColumn],
        purpose: &CallPurpose,
    ) -> Result<Vec<OpenedColumn>, VeilFault> {
        Ok(self.open_rest(Vec::new(), columns, purpose)?.pop().unwrap_or_default())
    }

    /// Opens the first columns of a statement, of which nobody is told yet.
    pub(super) fn open_ahead(
        &self,
        columns: &[TokenColumn],
        purpose: &CallPurpose,
    ) -> Result<Vec<UntoldColumn>, VeilFault> {
        if !columns.iter().all(TokenColumn::is_empty) {
            self.entry(Event::Reveal, purpose)?;
        }
        self.open_columns(columns, 1)
    }

    /// Opens the last columns of a statement and gives them out with those that were opened ahead:
    /// one disclosure, whose lines are durable when it returns.
    pub(super) fn open_rest(
        &self,
        ahead: Vec<(&[TokenColumn], Vec<UntoldColumn>)>,
        rest: &[TokenColumn],
        purpose: &CallPurpose,
    ) -> Result<Vec<Vec<OpenedColumn>>, VeilFault> {
        let template = self.entry(Event::Reveal, purpose)?;
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
        let last = (rest, self.open_columns(rest, threads)?);
        self.disclose(template, ahead.into_iter().chain([last]).collect())
    }

    /// Gives out columns once their lines are durable. Of a field with a honey token nothing is.
    fn disclose(
        &self,
        template: Entry,
        batches: Vec<(&[TokenColumn], Vec<UntoldColumn>)>,
    ) -> Result<Vec<Vec<OpenedColumn>>, VeilFault> {
        let mut disclosure = Disclosure::new(template.clone());
        let mut alarms = BTreeMap::new();
        for (column, UntoldColumn { target, parts }) in
            batches.iter().flat_map(|(given, opened)| given.iter().zip(opened))
        {
            let told = parts.iter().flat_map(|part| &part.told);
            told.for_each(|told| told.add(target, &mut disclosure));
            if parts.iter().any(|part| part.met_honey) {
                let alarm = || honey_entry(template.clone(), &target.schema.name, &target.audited);
                alarms.entry(column.field.clone()).or_insert_with(alarm);
            }
        }
        let given = batches.into_iter().map(|(given, opened)| {
            let columns = given.iter().zip(opened).map(|(column, opened)| {
                if alarms.contains_key(&column.field) {
                    denied(column)
                } else {
                    joined(opened.parts)
                }
            });
            columns.collect()
        });
        let given = given.collect();
        self.append(disclosure.into_entries().into_iter().chain(alarms.into_values()).collect())?;
        Ok(given)
    }

    /// Opens columns, their parts side by side where there is much to open: a statement waits for
    /// all of it. The threads end before it returns, so none is there when Python forks.
    fn open_columns(
        &self,
        columns: &[TokenColumn],
        threads: usize,
    ) -> Result<Vec<UntoldColumn>, VeilFault> {
        let schemas = self.schemas();
        let targets = columns.iter().map(|column| Target::of(&schemas, &column.field));
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let given = columns.iter().zip(&targets).map(|(column, target)| {
            let rows = column.tokens.len();
            let scalars = row_scalars(target, &column.bind, column.subject.as_ref(), rows)?;
            Ok((target, column.tokens.as_slice(), scalars))
        });
        let given = given.collect::<Result<Vec<_>, VeilFault>>()?;
        let tokens: usize = columns.iter().map(|column| column.tokens.len()).sum();
        let parts = (tokens / MANY).clamp(1, threads);
        let open = |part: usize| {
            let of_column = |(target, tokens, scalars): &(&Target, &[_], RowScalars<'_>)| {
                let rows = tokens.len() * part / parts..tokens.len() * (part + 1) / parts;
                self.open_part(target, tokens, rows, scalars)
            };
            given.iter().map(of_column).collect::<Result<Vec<_>, VeilFault>>()
        };
        let opened: Vec<_> = thread::scope(|scope| {
            let open = &open;
            let others: Vec<_> = (1..parts).map(|part| scope.spawn(move || open(part))).collect();
            let first = std::iter::once(open(0));
            let others = others.into_iter().map(|other| match other.join() {
                Ok(opened) => opened,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            first.chain(others).collect()
        });
        drop(given);
        let untold = |target| UntoldColumn { target, parts: Vec::new() };
        let mut untold: Vec<_> = targets.into_iter().map(untold).collect();
        for part in opened {
            let part = part?.into_iter();
            untold.iter_mut().zip(part).for_each(|(column, part)| column.parts.push(part));
        }
        Ok(untold)
    }

    fn open_part(
        &self,
        target: &Target,
        tokens: &[Option<PyBackedStr>],
        rows: Range<usize>,
        scalars: &RowScalars<'_>,
    ) -> Result<OpenedPart, VeilFault> {
        let (base, tokens) = (rows.start, &tokens[rows]);
        let mut held = Held::of(&*self.keys);
        let mut opener = self.opener(target, &mut held, scalars)?.recording();
        let mut built = TextBuilder::new(tokens.len(), 0, false);
        let mut json = Vec::new();
        let taken: &mut Taken<'_> = &mut |row, _, payload, _| {
            let is_text = built.set(row - base, |out| append_text(payload, out));
            if is_text && !payload.starts_with(b"\"") {
                json.push(row);
            }
            Ok(is_text)
        };
        let texts = Texts::Python(tokens);
        self.with_opener(|ciphers| opener.open((base, &texts), scalars, ciphers, taken))?;
        Ok(OpenedPart {
            base,
            failed: opener.failed().to_vec(),
            told: opener.told(),
            met_honey: opener.met_honey(),
            texts: built.finish()?,
            json,
        })
    }
}

/// The parts of a column, one after the other.
fn joined(parts: Vec<OpenedPart>) -> OpenedColumn {
    let mut column = OpenedColumn::default();
    for OpenedPart { base, texts, json, failed, .. } in parts {
        let failed = failed.into_iter();
        column.failed.extend(failed.map(|(row, why)| (row, ReadStatus::from(why).as_str())));
        column.json.extend(json);
        column.parts.push((base, texts));
    }
    column
}

/// A column with a honey token: a lone one among values would tell which it was.
fn denied(column: &TokenColumn) -> OpenedColumn {
    let rows = column.tokens.iter().enumerate();
    let failed = rows.filter_map(|(row, token)| token.as_ref().map(|_| (row, "denied")));
    OpenedColumn { failed: failed.collect(), ..OpenedColumn::default() }
}
