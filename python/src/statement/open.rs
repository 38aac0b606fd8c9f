//! Columns of one SQL statement, opened together under one disclosure.

use std::num::NonZero;
use std::ops::Range;
use std::thread;

use pyo3::pybacked::PyBackedStr;
use veilstream_engine::reveal::{ReadStatus, Status};
use veilstream_engine::scan;
use veilstream_reading::audit::{Disclosure, Event};

use crate::bare::honey_entry;
use crate::column::{GivenScalars, RowScalars, Taken, Texts, Told, row_scalars};
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
    parts: Vec<OpenedPart>,
    /// Rows that did not open, and why.
    pub(super) failed: Vec<(usize, &'static str)>,
}

/// Rows in sequence, opened.
struct OpenedPart {
    base: usize,
    texts: String,
    rows: Vec<Option<Shown>>,
}

/// Where the text of a value stands, and whether it is JSON instead of a string.
#[derive(Clone)]
struct Shown {
    place: Range<usize>,
    is_json: bool,
}

/// What came of rows in sequence, and what is told of it.
struct PartOutcome {
    part: OpenedPart,
    failed: Vec<(usize, Status)>,
    told: Vec<Told>,
    met_honey: bool,
}

impl OpenedColumn {
    /// Values with their rows, and whether each is a JSON text.
    pub(super) fn values(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        self.parts.iter().flat_map(|part| {
            part.rows.iter().enumerate().filter_map(|(row, shown)| {
                let shown = shown.as_ref()?;
                Some((part.base + row, part.texts.get(shown.place.clone())?, shown.is_json))
            })
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
        let template = self.entry(Event::Reveal, purpose)?;
        let schemas = self.schemas();
        let targets = columns.iter().map(|column| Target::of(&schemas, &column.field));
        let targets = targets.collect::<Result<Vec<_>, _>>()?;
        let mut disclosure = Disclosure::new(template.clone());
        let (mut opened, mut alarms) = (Vec::with_capacity(columns.len()), Vec::new());
        let outcomes = self.open_all(columns, &targets)?;
        for ((column, target), outcomes) in columns.iter().zip(&targets).zip(outcomes) {
            let told = outcomes.iter().flat_map(|outcome| &outcome.told);
            told.for_each(|told| told.add(target, &mut disclosure));
            let met_honey = outcomes.iter().any(|outcome| outcome.met_honey);
            if met_honey {
                alarms.push(honey_entry(template.clone(), &target.schema.name, &target.audited));
            }
            opened.push(if met_honey { denied(column) } else { joined(outcomes) });
        }
        self.append(disclosure.into_entries().into_iter().chain(alarms).collect())?;
        Ok(opened)
    }

    /// Opens columns, their parts side by side where there is much to open: whoever waits for a
    /// statement waits for all of it. The threads end before it returns, so none is there when
    /// Python forks.
    fn open_all(
        &self,
        columns: &[TokenColumn],
        targets: &[Target],
    ) -> Result<Vec<Vec<PartOutcome>>, VeilFault> {
        let given = columns.iter().zip(targets).map(|(column, target)| {
            let rows = column.tokens.len();
            let scalars = row_scalars(target, &column.bind, column.subject.as_ref(), rows)?;
            Ok((target, column.tokens.as_slice(), scalars))
        });
        let given = given.collect::<Result<Vec<_>, VeilFault>>()?;
        let tokens: usize = columns.iter().map(|column| column.tokens.len()).sum();
        let threads = thread::available_parallelism().map_or(1, NonZero::get);
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
        let mut of_columns: Vec<Vec<PartOutcome>> = columns.iter().map(|_| Vec::new()).collect();
        for part in opened {
            of_columns.iter_mut().zip(part?).for_each(|(column, outcome)| column.push(outcome));
        }
        Ok(of_columns)
    }

    fn open_part(
        &self,
        target: &Target,
        tokens: &[Option<PyBackedStr>],
        rows: Range<usize>,
        scalars: &RowScalars<'_>,
    ) -> Result<PartOutcome, VeilFault> {
        let (base, tokens) = (rows.start, &tokens[rows]);
        let mut held = Held::of(&*self.keys);
        let mut opener = self.opener(target, &mut held, scalars)?.recording();
        let mut part = OpenedPart { base, texts: String::new(), rows: vec![None; tokens.len()] };
        let mut scratch = Vec::new();
        let taken: &mut Taken<'_> = &mut |row, payload, _| {
            let shown = part.show(payload, &mut scratch);
            let is_shown = shown.is_some();
            part.rows[row - base] = shown;
            Ok(is_shown)
        };
        let texts = Texts::Python(tokens);
        self.with_opener(|ciphers| opener.open((base, &texts), scalars, ciphers, taken))?;
        let (failed, told) = (opener.failed().to_vec(), opener.told());
        Ok(PartOutcome { met_honey: opener.met_honey(), part, failed, told })
    }
}

impl OpenedPart {
    /// Appends a value as Python takes it: a string's text, or JSON. `None`: half of a pair of
    /// surrogates has no UTF-8.
    fn show(&mut self, payload: &[u8], scratch: &mut Vec<u8>) -> Option<Shown> {
        let (text, is_json) = match payload {
            [b'"', inner @ .., b'"'] if inner.contains(&b'\\') => {
                scratch.clear();
                scan::unescape(inner, scratch).then_some(())?;
                (scratch.as_slice(), false)
            }
            [b'"', inner @ .., b'"'] => (inner, false),
            _ => (payload, true),
        };
        let start = self.texts.len();
        self.texts.push_str(std::str::from_utf8(text).ok()?);
        Some(Shown { place: start..self.texts.len(), is_json })
    }
}

/// The parts of a column, one after the other.
fn joined(outcomes: Vec<PartOutcome>) -> OpenedColumn {
    let mut column = OpenedColumn::default();
    for PartOutcome { part, failed, .. } in outcomes {
        let failed = failed.into_iter();
        column.failed.extend(failed.map(|(row, why)| (row, ReadStatus::from(why).as_str())));
        column.parts.push(part);
    }
    column
}

/// A column with a honey token: a lone one among values would tell which it was.
fn denied(column: &TokenColumn) -> OpenedColumn {
    let rows = column.tokens.iter().enumerate();
    let failed = rows.filter_map(|(row, token)| token.as_ref().map(|_| (row, "denied")));
    OpenedColumn { parts: Vec::new(), failed: failed.collect() }
}
