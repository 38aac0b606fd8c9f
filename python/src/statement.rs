//! Columns of one SQL statement, as Python lists or attributes of entities: opened together under
//! one disclosure, or sealed with the tags of their indexes.

mod attributes;
mod open;

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::StringBuilder;
use arrow_array::cast::AsArray as _;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyBool, PyBytes, PyInt, PyList, PyString};
use veilstream_engine::normalize::{Input, Scratch};

pub(crate) use self::attributes::AttributeOpener;
use self::open::{OpenedColumn, TokenColumn};
use crate::column::{ColumnCall, ColumnFault, GivenScalars};
use crate::engine::{Claims, Engine, purpose};
use crate::fault::VeilFault;
use crate::parts::{CallPurpose, ReadingParts};
use crate::target::Target;

/// Names, and columns of bound values.
type GivenBind<'py> = Vec<(String, Bound<'py, PyList>)>;
/// Field, tokens or JSON texts, subjects, bound values.
type GivenColumn<'py> = (String, Bound<'py, PyList>, Option<Bound<'py, PyList>>, GivenBind<'py>);
/// Values, the rows whose value is a JSON text, and the rows that did not open.
type OpenedLists<'py> = (Bound<'py, PyList>, Vec<usize>, Vec<(usize, &'static str)>);
/// Tokens, and the tags of an indexed column.
type SealedLists<'py> = (Bound<'py, PyList>, Option<Bound<'py, PyList>>);

/// A column that was sealed.
struct SealedColumn {
    tokens: ArrayRef,
    tags: Option<ArrayRef>,
}

impl ReadingParts {
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
    let lengths: Vec<usize> = columns.iter().map(|(_, tokens, ..)| tokens.len()).collect();
    let columns = columns.into_iter().map(|(field, tokens, subjects, bind)| {
        let tokens = tokens.iter().map(|token| text(&token)).collect::<PyResult<_>>()?;
        token_column(field, tokens, subjects, bind)
    });
    let opened = opened(engine, columns.collect::<PyResult<_>>()?, claims)?;
    let lists = opened.into_iter().zip(lengths).map(|(column, length)| {
        let mut values = vec![None; length];
        column.texts().for_each(|(row, text)| values[row] = Some(text));
        Ok((PyList::new(engine.py(), values)?, column.json, column.failed))
    });
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
        columns.into_iter().map(|(column, is_indexed)| Ok((call(column, &own)?, is_indexed)));
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

/// Opens columns while other threads of Python run. Nothing is told where there is no token.
fn opened(
    engine: &Bound<'_, Engine>,
    columns: Vec<TokenColumn>,
    claims: Claims,
) -> PyResult<Vec<OpenedColumn>> {
    if columns.iter().all(TokenColumn::is_empty) {
        return Ok(columns.iter().map(|_| OpenedColumn::default()).collect());
    }
    let own = purpose(claims);
    engine.get().detached(engine.py(), |parts| parts.open_statement(&columns, &own))
}

fn token_column(
    field: String,
    tokens: Vec<Option<PyBackedStr>>,
    subjects: Option<Bound<'_, PyList>>,
    bind: GivenBind<'_>,
) -> PyResult<TokenColumn> {
    let subject = subjects.as_ref().map(scalars).transpose()?;
    Ok(TokenColumn { field, tokens, bind: bound(bind)?, subject })
}

/// A column of JSON texts to seal.
fn call(
    (field, values, subjects, bind): GivenColumn<'_>,
    purpose: &CallPurpose,
) -> PyResult<ColumnCall> {
    Ok(ColumnCall {
        field,
        chunks: vec![texts(&values)?],
        bind: bound(bind)?,
        subject: subjects.as_ref().map(scalars).transpose()?,
        is_json: true,
        purpose: purpose.clone(),
    })
}

fn bound(bind: GivenBind<'_>) -> PyResult<Vec<(String, GivenScalars)>> {
    bind.into_iter().map(|(name, values)| Ok((name, scalars(&values)?))).collect()
}

/// Strings, and `None`.
fn texts(values: &Bound<'_, PyList>) -> PyResult<ArrayRef> {
    let mut built = StringBuilder::with_capacity(values.len(), values.len() * 64);
    for value in values {
        built.append_option(text(&value)?);
    }
    Ok(Arc::new(built.finish()))
}

/// A string, or `None`.
fn text(value: &Bound<'_, PyAny>) -> PyResult<Option<PyBackedStr>> {
    if value.is_none() {
        return Ok(None);
    }
    let text = value.cast::<PyString>().map_err(|_| ColumnFault::NotText.into_py())?;
    text.clone().try_into().map(Some).map_err(|_| ColumnFault::Malformed.into_py())
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
