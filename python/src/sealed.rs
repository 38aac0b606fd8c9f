//! `Sealed`: a token in the place of a value.
//!
//! A statement loads tens of thousands of them and drops them again once they are opened. So they
//! are made here, of memory that is kept for the next statement.

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{IntoPyDict as _, PyDict, PyString, PyTuple, PyType};

use crate::fault::exceptions::{ConfigError, NotPicklable, NotRevealed, NotSealed};

/// A protected value as its token. ``reveal`` opens it; nothing else does.
///
/// It shows ``<sealed customers.iban>`` in texts, logs and tracebacks, and pickles as its token.
/// ``json`` refuses it.
// 3 MB for 10,000 entities with three columns. What is taken from there is not tracked by Python's
// cycle collector, and does not make it run more often. What it refers to (texts, scalars, a `Veil`,
// which knows no rows) does not lead back to it.
#[pyclass(module = "veilstream", freelist = 32_768)]
pub(crate) struct Sealed {
    /// ``<schema>.<id>``.
    #[pyo3(get)]
    field: Py<PyString>,
    /// `None`: the value waits to be sealed.
    #[pyo3(get, set, name = "_token")]
    token: Option<Py<PyString>>,
    /// The value that waits.
    #[pyo3(get, set, name = "_clear")]
    clear: Option<Py<PyAny>>,
    /// `None`: nobody said.
    place: Option<Box<Place>>,
}

/// Whose row a token stands in, and who can open it.
#[derive(Default)]
struct Place {
    bind: Option<Py<PyAny>>,
    subject: Option<Py<PyAny>>,
    veil: Option<Py<PyAny>>,
}

impl Place {
    fn new(
        bind: Option<Py<PyAny>>,
        subject: Option<Py<PyAny>>,
        veil: Option<Py<PyAny>>,
    ) -> Option<Box<Self>> {
        let is_said = bind.is_some() || subject.is_some() || veil.is_some();
        is_said.then(|| Box::new(Self { bind, subject, veil }))
    }
}

#[pymethods]
impl Sealed {
    #[new]
    #[pyo3(signature = (field, token, bind=None, subject=None, veil=None))]
    fn new(
        field: Py<PyString>,
        token: Py<PyString>,
        bind: Option<Py<PyAny>>,
        subject: Option<Py<PyAny>>,
        veil: Option<Py<PyAny>>,
    ) -> Self {
        Self { field, token: Some(token), clear: None, place: Place::new(bind, subject, veil) }
    }

    /// A value that is sealed when its row is written.
    #[staticmethod]
    fn waiting(field: Py<PyString>, value: Py<PyAny>) -> Self {
        Self { field, token: None, clear: Some(value), place: None }
    }

    /// What stands in the database.
    #[getter]
    fn token<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyString>> {
        self.token.as_ref().map(|token| token.bind(py).clone()).ok_or_else(|| {
            let advice = "the value is sealed when its row is written; flush it";
            NotSealed::new_err(format!("{}: {advice}", self.field))
        })
    }

    /// The value. Row and ``Veil`` are those that it was loaded with, where none are given.
    ///
    /// Raises ``NotRevealed`` with the status where it does not open.
    #[pyo3(signature = (veil=None, *, bind=None, subject=None))]
    fn reveal<'py>(
        slf: &Bound<'py, Self>,
        veil: Option<Bound<'py, PyAny>>,
        bind: Option<Bound<'py, PyAny>>,
        subject: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let (veil, arguments) = {
            let own = slf.try_borrow()?;
            let of_own = |given, own: &Option<Py<PyAny>>| {
                Option::or(given, own.as_ref().map(|own| own.bind(py).clone()))
            };
            let Some(token) = &own.token else {
                return Ok(of_own(None, &own.clear).unwrap_or_else(|| py.None().into_bound(py)));
            };
            let nowhere = Place::default();
            let place = own.place.as_deref().unwrap_or(&nowhere);
            let veil = of_own(veil, &place.veil).ok_or_else(|| {
                let advice = "reveal needs a Veil: none came with the value";
                ConfigError::new_err(format!("{}: {advice}", own.field))
            })?;
            let (bind, subject) = (of_own(bind, &place.bind), of_own(subject, &place.subject));
            (veil, (&own.field, token, bind, subject).into_pyobject(py)?)
        };
        veil.call_method1("reveal", arguments)
    }

    /// The value, without holding up the event loop.
    #[pyo3(signature = (veil=None, *, bind=None, subject=None))]
    fn reveal_async<'py>(
        slf: &Bound<'py, Self>,
        veil: Option<Bound<'py, PyAny>>,
        bind: Option<Bound<'py, PyAny>>,
        subject: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let by = veil.map(|veil| veil.getattr("veil")).transpose()?;
        let of_row = [("bind", bind), ("subject", subject)].into_py_dict(slf.py())?;
        let to_thread = slf.py().import("asyncio")?.getattr("to_thread")?;
        to_thread.call((slf.getattr("reveal")?, by), Some(&of_row))
    }

    #[getter]
    fn _bind(&self) -> Option<&Py<PyAny>> {
        self.place.as_ref()?.bind.as_ref()
    }

    #[getter]
    fn _subject(&self) -> Option<&Py<PyAny>> {
        self.place.as_ref()?.subject.as_ref()
    }

    /// Whether it says whose row it stands in, or who can open it.
    fn _is_placed(&self) -> bool {
        self.place.is_some()
    }

    /// Says both.
    fn _place(
        &mut self,
        veil: Option<Py<PyAny>>,
        bind: Option<Py<PyAny>>,
        subject: Option<Py<PyAny>>,
    ) {
        self.place = Place::new(bind, subject, veil);
    }

    fn __repr__(&self) -> String {
        format!("<sealed {}>", self.field)
    }

    fn __str__(&self) -> String {
        self.__repr__()
    }

    fn __format__(&self, _form: &Bound<'_, PyAny>) -> String {
        self.__repr__()
    }

    /// Whether it is the same token. Tokens of equal values differ.
    fn __eq__(slf: &Bound<'_, Self>, other: &Bound<'_, PyAny>) -> PyResult<bool> {
        if slf.is(other) {
            return Ok(true);
        }
        let Ok(other) = other.cast::<Self>() else { return Ok(false) };
        let (own, other) = (slf.try_borrow()?, other.try_borrow()?);
        let (Some(token), Some(of_other)) = (&own.token, &other.token) else { return Ok(false) };
        let (field, token) = (own.field.bind(slf.py()).as_any(), token.bind(slf.py()).as_any());
        Ok(field.eq(&other.field)? && token.eq(of_other)?)
    }

    fn __hash__(slf: &Bound<'_, Self>) -> PyResult<isize> {
        let own = slf.try_borrow()?;
        match &own.token {
            Some(token) => (&own.field, token).into_pyobject(slf.py())?.hash(),
            None => Ok(slf.as_ptr().addr().cast_signed()),
        }
    }

    fn __copy__<'py>(slf: &Bound<'py, Self>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __deepcopy__<'py>(slf: &Bound<'py, Self>, _known: &Bound<'py, PyAny>) -> Bound<'py, Self> {
        slf.clone()
    }

    fn __reduce__<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyTuple>> {
        let (py, own) = (slf.py(), slf.try_borrow()?);
        let Some(token) = &own.token else {
            let what = "a value that waits to be sealed does not pickle";
            return Err(NotPicklable::new_err(format!("{}: {what}", own.field)));
        };
        // Some mappings do not pickle.
        let bind = own._bind().map(|bind| py.get_type::<PyDict>().call1((bind,)));
        let parts = (&own.field, token, bind.transpose()?, own._subject());
        (slf.get_type(), parts).into_pyobject(py)
    }

    fn __iter__(&self) -> PyResult<()> {
        Err(NotRevealed::new_err((self.field.to_string(), "sealed")))
    }

    #[classmethod]
    fn __class_getitem__<'py>(
        cls: &Bound<'py, PyType>,
        of: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        cls.py().import("types")?.getattr("GenericAlias")?.call1((cls, of))
    }

    #[classmethod]
    fn __get_pydantic_core_schema__<'py>(
        cls: &Bound<'py, PyType>,
        _source: &Bound<'py, PyAny>,
        _handler: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        cls.py().import("veilstream.pydantic")?.getattr("sealed_schema")?.call0()
    }
}

/// Makes ``Sealed`` of the tokens of a column as they are read.
#[pyclass(frozen, module = "veilstream._native")]
pub(crate) struct ColumnReader {
    field: Py<PyString>,
}

#[pymethods]
impl ColumnReader {
    #[new]
    fn new(field: Py<PyString>) -> Self {
        Self { field }
    }

    /// A value as it stands in the database; ``None`` stays.
    fn read<'py>(&self, value: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        if value.is_none() {
            return Ok(value);
        }
        let (py, token) = (value.py(), value.cast_into::<PyString>()?.unbind());
        let sealed = Sealed::new(self.field.clone_ref(py), token, None, None, None);
        Ok(Bound::new(py, sealed)?.into_any())
    }
}

/// The token that an object holds; `None`: it is no sealed value, or waits to be one.
pub(crate) fn token_of(object: &Bound<'_, PyAny>) -> PyResult<Option<PyBackedStr>> {
    let Ok(sealed) = object.cast::<Sealed>() else { return Ok(None) };
    let sealed = sealed.try_borrow()?;
    let token = sealed.token.as_ref().map(|token| token.bind(object.py()).clone());
    token.map(PyBackedStr::try_from).transpose()
}

/// Whether an object is a sealed value with that very token.
pub(crate) fn holds(object: &Bound<'_, PyAny>, token: Option<&PyBackedStr>) -> bool {
    let Ok(sealed) = object.cast::<Sealed>() else { return false };
    let Ok(sealed) = sealed.try_borrow() else { return false };
    match (&sealed.token, token) {
        (Some(own), Some(token)) => own.as_ptr() == token.as_py_str().as_ptr(),
        _ => false,
    }
}
