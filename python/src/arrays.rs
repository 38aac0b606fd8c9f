//! Columns in and out of Python.

use std::collections::BTreeMap;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema};
use arrow_array::{Array as _, ArrayRef};
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyString, PyTuple};
use veilstream_engine::{KeyId, token};

use crate::column::{BuiltColumn, ColumnCall, ColumnFault, GivenScalars, Texts};
use crate::engine::{Claims, Engine, purpose};
use crate::ffi;

/// A column that Arrow's users take over: it has `__arrow_c_array__`.
#[pyclass(frozen, module = "veilstream._native")]
pub(crate) struct Column {
    array: ArrayRef,
    /// How many rows came to what.
    #[pyo3(get)]
    counts: BTreeMap<&'static str, u64>,
    /// Tokens by the id of the key they are under, where keys were changed.
    #[pyo3(get)]
    key_ids: BTreeMap<String, u64>,
}

impl From<BuiltColumn> for Column {
    fn from(built: BuiltColumn) -> Self {
        let counts = built.counts.into_iter().collect();
        Self { array: built.array, counts, key_ids: BTreeMap::new() }
    }
}

#[pymethods]
impl Column {
    /// Schema and array, in capsules (the Arrow PyCapsule interface).
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyTuple>> {
        // As the interface allows: what was requested is the consumer's to convert.
        drop(requested_schema);
        let data = self.array.to_data();
        let schema = FFI_ArrowSchema::try_from(data.data_type())
            .map_err(|_| ColumnFault::Malformed.into_py())?;
        let schema = PyCapsule::new_with_value(py, schema, c"arrow_schema")?;
        let array = PyCapsule::new_with_value(py, FFI_ArrowArray::new(&data), c"arrow_array")?;
        PyTuple::new(py, [schema, array])
    }

    fn __len__(&self) -> usize {
        self.array.len()
    }

    fn __repr__(&self) -> String {
        format!("<Column of {} rows: {:?}>", self.array.len(), self.counts)
    }
}

type Bind<'py> = Vec<(String, Bound<'py, PyAny>)>;

/// Opens a column of tokens into one of texts.
#[pyfunction]
#[pyo3(signature = (engine, column, field, subject, bind, claims))]
pub(crate) fn reveal_column<'py>(
    engine: &Bound<'py, Engine>,
    column: Bound<'py, PyAny>,
    field: String,
    subject: Option<Bound<'py, PyAny>>,
    bind: Bind<'py>,
    claims: Claims,
) -> PyResult<Column> {
    let call = call(&column, field, subject.as_ref(), bind, claims)?;
    let opened = engine.get().detached(column.py(), |parts| parts.reveal_column(&call))?;
    Ok(opened.into())
}

/// Seals a column of values.
#[pyfunction]
#[pyo3(signature = (engine, column, field, subject, bind, claims))]
pub(crate) fn seal_column<'py>(
    engine: &Bound<'py, Engine>,
    column: Bound<'py, PyAny>,
    field: String,
    subject: Option<Bound<'py, PyAny>>,
    bind: Bind<'py>,
    claims: Claims,
) -> PyResult<Column> {
    let call = call(&column, field, subject.as_ref(), bind, claims)?;
    let sealed = engine.get().detached(column.py(), |parts| parts.seal_column(&call))?;
    Ok(sealed.into())
}

/// The index column of a column of values.
#[pyfunction]
pub(crate) fn index_column<'py>(
    engine: &Bound<'py, Engine>,
    column: Bound<'py, PyAny>,
    field: String,
    claims: Claims,
) -> PyResult<Column> {
    let call = call(&column, field, None, Vec::new(), claims)?;
    let indexed = engine.get().detached(column.py(), |parts| parts.index_column(&call))?;
    Ok(indexed.into())
}

/// Moves a column's tokens to the newest keys.
#[pyfunction]
#[pyo3(signature = (engine, column, field, subject, bind, claims))]
pub(crate) fn rotate_column<'py>(
    engine: &Bound<'py, Engine>,
    column: Bound<'py, PyAny>,
    field: String,
    subject: Option<Bound<'py, PyAny>>,
    bind: Bind<'py>,
    claims: Claims,
) -> PyResult<Column> {
    let call = call(&column, field, subject.as_ref(), bind, claims)?;
    let rotated = engine.get().detached(column.py(), |parts| parts.rotate_column(&call))?;
    let key_ids = rotated.kids.iter().map(|(kid, count)| (kid.to_string(), *count)).collect();
    Ok(Column { key_ids, ..rotated.column.into() })
}

/// How many tokens of a column are under which key, by its id. Nothing is opened; what is no token
/// counts as "".
#[pyfunction]
pub(crate) fn key_ids(column: &Bound<'_, PyAny>) -> PyResult<BTreeMap<String, u64>> {
    let chunks = ffi::import(column)?;
    column.py().detach(|| {
        let (mut counts, mut raw) = (BTreeMap::<_, u64>::new(), Vec::new());
        for chunk in &chunks {
            let texts = Texts::of(chunk).map_err(ColumnFault::into_py)?;
            for text in (0..texts.len()).filter_map(|row| texts.get(row)) {
                let header = token::decode(text.as_bytes(), &mut raw).ok();
                *counts.entry(header.map(|header| header.kid)).or_default() += 1;
            }
        }
        let name = |kid: Option<KeyId>| kid.map_or_else(String::new, |kid| kid.to_string());
        Ok(counts.into_iter().map(|(kid, count)| (name(kid), count)).collect())
    })
}

/// Takes arrays over while Python's lock is held: their producers may need it.
fn call(
    column: &Bound<'_, PyAny>,
    field: String,
    subject: Option<&Bound<'_, PyAny>>,
    bind: Bind<'_>,
    claims: Claims,
) -> PyResult<ColumnCall> {
    let bind = bind.into_iter().map(|(name, given)| Ok((name, scalars(&given)?)));
    Ok(ColumnCall {
        field,
        chunks: ffi::import(column)?,
        bind: bind.collect::<PyResult<_>>()?,
        subject: subject.map(scalars).transpose()?,
        is_json: false,
        purpose: purpose(claims),
    })
}

/// A JSON text, or a column.
fn scalars(given: &Bound<'_, PyAny>) -> PyResult<GivenScalars> {
    match given.cast::<PyString>() {
        Ok(json) => Ok(GivenScalars::One(json.to_str()?.to_owned())),
        Err(_) => Ok(GivenScalars::Column(ffi::import(given)?)),
    }
}
