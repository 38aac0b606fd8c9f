//! Columns of one SQL statement, as Python lists: opened together under one disclosure, or sealed
//! with the tags of their indexes.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray as _;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyInt, PyList, PyString};
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::reveal::ReadStatus;
use veilstream_reading::audit::{Disclosure, Event};

use crate::bare::honey_entry;
use crate::column::{ColumnCall, ColumnFault, GivenScalars, Taken, Told};
use crate::engine::{Claims, Engine, purpose};
use crate::fault::VeilFault;
use crate::held::Held;
use crate::parts::{CallPurpose, ReadingParts};
use crate::target::Target;

/// Field, tokens or JSON texts, subjects, names and columns of bound values.
type GivenColumn<'py> =
    (String, Bound<'py, PyList>, Option<Bound<'py, PyList>>, Vec<(String, Bound<'py, PyList>)>);
/// Values, the rows whose value is a JSON text, and the rows that did not open.
type OpenedLists<'py> = (Bound<'py, PyList>, Vec<usize>, Vec<(usize, &'static str)>);
/// Tokens, and the tags of an indexed column.
type SealedLists<'py> = (Bound<'py, PyList>, Option<Bound<'py, PyList>>);

/// Values from which on columns are opened side by side.
const MANY: usize = 2000;

/// A column that was opened.
struct OpenedColumn {
    values: Vec<Option<String>>,
    /// Rows whose value is no string, but JSON.
    json: Vec<usize>,
    failed: Vec<(usize, &'static str)>,
    met_honey: bool,
}

/// A column that was opened, of which field, and what is told of it.
type OpenedCall = (Target, (OpenedColumn, Vec<Told>));

/// A column that was sealed.
struct SealedColumn {
    tokens: ArrayRef,
    tags: Option<ArrayRef>,
}

impl ReadingParts {
    /// Opens the columns of a statement. When it returns, its lines are durable.
    fn open_statement(
        &self,
        calls: &[ColumnCall],
        purpose: &CallPurpose,
    ) -> Result<Vec<OpenedColumn>, VeilFault> {
        let template = self.entry(Event::Reveal, purpose)?;
        let mut disclosure = Disclosure::new(template.clone());
        let (mut opened, mut alarms) = (Vec::with_capacity(calls.len()), Vec::new());
        for (target, (column, told)) in self.open_all(calls)? {
            told.iter().for_each(|told| told.add(&target, &mut disclosure));
            if column.met_honey {
                alarms.push(honey_entry(template.clone(), &target.schema.name, &target.audited));
            }
            opened.push(column);
        }
        let lines = disclosure.into_entries().into_iter().chain(alarms).collect();
        self.append(lines)?;
        Ok(opened)
    }

    /// Opens columns, side by side where there is much to open: whoever waits for a statement waits
    /// for all of them. The threads end before it returns, so none is there when Python forks.
    fn open_all(&self, calls: &[ColumnCall]) -> Result<Vec<OpenedCall>, VeilFault> {
        let schemas = self.schemas();
        let one = |call: &ColumnCall| {
            let target = Target::of(&schemas, &call.field)?;
            let opened = self.open_one(call, &target)?;
            Ok((target, opened))
        };
        if calls.iter().map(ColumnCall::rows).sum::<usize>() < MANY {
            return calls.iter().map(one).collect();
        }
        std::thread::scope(|scope| {
            let threads: Vec<_> =
                calls.iter().skip(1).map(|call| scope.spawn(|| one(call))).collect();
            let first = calls.iter().take(1).map(one);
            let others = threads.into_iter().map(|thread| match thread.join() {
                Ok(opened) => opened,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            // Started first, asked last.
            let opened: Vec<_> = first.chain(others).collect();
            opened.into_iter().collect()
        })
    }

    /// A column, and what is told of it.
    fn open_one(
        &self,
        call: &ColumnCall,
        target: &Target,
    ) -> Result<(OpenedColumn, Vec<Told>), VeilFault> {
        let (texts, scalars) = (call.texts()?, call.scalars(target)?);
        let mut held = Held::of(&*self.keys);
        let mut opener = self.opener(target, &mut held, &scalars)?.recording();
        let mut values = vec![None; call.rows()];
        let mut json = Vec::new();
        {
            let taken: &mut Taken<'_> = &mut |row, payload, _| {
                let Some((value, is_json)) = shown(payload) else { return Ok(false) };
                values[row] = Some(value);
                if is_json {
                    json.push(row);
                }
                Ok(true)
            };
            self.with_opener(|ciphers| {
                texts
                    .iter()
                    .try_for_each(|part| opener.open((part.0, &part.1), &scalars, ciphers, taken))
            })?;
        }
        let told = opener.told();
        let mut failed: Vec<_> = opener
            .failed()
            .iter()
            .map(|(row, status)| (*row, ReadStatus::from(*status).as_str()))
            .collect();
        let met_honey = opener.met_honey();
        if met_honey {
            // A lone one among values would tell which it was.
            failed = (0..values.len()).map(|row| (row, "denied")).collect();
            values.fill(None);
            json.clear();
        }
        Ok((OpenedColumn { values, json, failed, met_honey }, told))
    }

    /// Seals the columns of a statement, with the tags of those that are indexed.
    fn seal_statement(&self, calls: &[(ColumnCall, bool)]) -> Result<Vec<SealedColumn>, VeilFault> {
        let (mut sealed, mut lines) = (Vec::with_capacity(calls.len()), Vec::new());
        for (call, is_indexed) in calls {
            let (column, line) = self.sealed_column(call)?;
            let target = Target::of(&self.schemas(), &call.field)?;
            let tags = is_indexed.then(|| self.tag_column(call, &target)).transpose()?;
            sealed.push(SealedColumn { tokens: column.array, tags: tags.map(|tags| tags.array) });
            lines.push(line);
        }
        self.append(lines)?;
        Ok(sealed)
    }
}

/// Opens the columns of a statement.
#[pyfunction]
pub(crate) fn open_statement<'py>(
    engine: &Bound<'py, Engine>,
    columns: Vec<GivenColumn<'py>>,
    claims: Claims,
) -> PyResult<Vec<OpenedLists<'py>>> {
    let (py, own) = (engine.py(), purpose(claims));
    let calls = columns.into_iter().map(|column| call(column, false, &own));
    let calls = calls.collect::<PyResult<Vec<_>>>()?;
    let opened = engine.get().detached(py, |parts| parts.open_statement(&calls, &own))?;
    let lists = opened
        .into_iter()
        .map(|column| Ok((PyList::new(py, column.values)?, column.json, column.failed)));
    lists.collect()
}

/// Seals the columns of a statement: values are JSON texts. Beside each, whether it is indexed.
#[pyfunction]
pub(crate) fn seal_statement<'py>(
    engine: &Bound<'py, Engine>,
    columns: Vec<(GivenColumn<'py>, bool)>,
    claims: Claims,
) -> PyResult<Vec<SealedLists<'py>>> {
    let (py, own) = (engine.py(), purpose(claims));
    let calls =
        columns.into_iter().map(|(column, is_indexed)| Ok((call(column, true, &own)?, is_indexed)));
    let calls = calls.collect::<PyResult<Vec<_>>>()?;
    let sealed = engine.get().detached(py, |parts| parts.seal_statement(&calls))?;
    let lists = sealed.into_iter().map(|column| {
        let tags = column.tags.map(|tags| list(py, &tags)).transpose()?;
        Ok((list(py, &column.tokens)?, tags))
    });
    lists.collect()
}

/// The form in which a field's index compares a value, which is a JSON text; `None`: nothing is
/// left of it.
#[pyfunction]
pub(crate) fn normalized<'py>(
    engine: &Bound<'py, Engine>,
    field: &str,
    json: &str,
) -> PyResult<Option<Bound<'py, PyBytes>>> {
    let normal = engine.get().detached(engine.py(), |parts| {
        let target = Target::of(&parts.schemas(), field)?;
        let (mut scratch, mut normal) = (Scratch::default(), Vec::new());
        let rule = &target.index()?.normalize;
        let is_left = rule.normalize(Input::Json(json.as_bytes()), &mut scratch, &mut normal);
        Ok(is_left.then_some(normal))
    })?;
    Ok(normal.map(|normal| PyBytes::new(engine.py(), &normal)))
}

/// A value as Python takes it: a string's text, or JSON. `None`: half of a pair of surrogates has
/// no UTF-8.
fn shown(payload: &[u8]) -> Option<(String, bool)> {
    let mut text = Vec::new();
    let is_json = match payload {
        [b'"', inner @ .., b'"'] => {
            if inner.contains(&b'\\') {
                veilstream_engine::scan::unescape(inner, &mut text).then_some(())?;
            } else {
                text.extend_from_slice(inner);
            }
            false
        }
        _ => {
            text.extend_from_slice(payload);
            true
        }
    };
    Some((String::from_utf8(text).ok()?, is_json))
}

fn call(
    (field, values, subjects, bind): GivenColumn<'_>,
    is_json: bool,
    purpose: &CallPurpose,
) -> PyResult<ColumnCall> {
    let bind = bind.into_iter().map(|(name, values)| Ok((name, scalars(&values)?)));
    Ok(ColumnCall {
        field,
        chunks: vec![texts(&values)?],
        bind: bind.collect::<PyResult<_>>()?,
        subject: subjects.as_ref().map(scalars).transpose()?,
        is_json,
        purpose: purpose.clone(),
    })
}

/// Strings, and `None`.
fn texts(values: &Bound<'_, PyList>) -> PyResult<ArrayRef> {
    let mut built = StringBuilder::with_capacity(values.len(), values.len() * 64);
    for value in values {
        if value.is_none() {
            built.append_null();
        } else {
            let text = value.cast::<PyString>().map_err(|_| ColumnFault::NotText.into_py())?;
            built.append_value(text.to_str().map_err(|_| ColumnFault::Malformed.into_py())?);
        }
    }
    Ok(Arc::new(built.finish()))
}

/// The scalar texts of strings, integers and booleans, and `None`.
fn scalars(values: &Bound<'_, PyList>) -> PyResult<GivenScalars> {
    let mut built = StringBuilder::with_capacity(values.len(), values.len() * 8);
    for value in values {
        if value.is_none() {
            built.append_null();
        } else if let Ok(text) = value.cast::<PyString>() {
            built.append_value(text.to_str().map_err(|_| ColumnFault::Malformed.into_py())?);
        } else if let Ok(is_true) = value.cast::<PyBool>() {
            built.append_value(if is_true.is_true() { "true" } else { "false" });
        } else if value.cast::<PyInt>().is_ok() {
            match value.extract::<i64>() {
                Ok(number) => built.append_value(number.to_string()),
                Err(_) => built.append_value(value.str()?.to_str()?),
            }
        } else {
            return Err(ColumnFault::NotScalars.into_py());
        }
    }
    Ok(GivenScalars::Column(vec![Arc::new(built.finish())]))
}

fn list<'py>(py: Python<'py>, array: &ArrayRef) -> PyResult<Bound<'py, PyList>> {
    match array.as_string_opt::<i32>() {
        Some(small) => PyList::new(py, small.iter()),
        None => PyList::new(py, array.as_string::<i64>().iter()),
    }
}
