//! `Engine`: what Python calls.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::bare::{GivenToken, Opened};
use crate::fault::VeilFault;
use crate::gate::Gate;
use crate::parts::{CallPurpose, OpenSettings, ReadingParts};
use crate::rows::FieldOutcome;
use crate::target::{Facts, Target};

/// Keys in process. Opened at the first call, closed around forks.
#[pyclass(frozen, module = "veilstream._native")]
pub(crate) struct Engine {
    settings: OpenSettings,
    gate: Gate<ReadingParts>,
}

/// Purpose and reason.
pub(crate) type Claims = (Option<String>, Option<String>, Option<String>, Option<String>);
/// Names and JSON texts.
type Bind = Vec<(String, String)>;

impl Engine {
    /// Does work that takes no part of Python: other threads of Python run meanwhile.
    pub(crate) fn detached<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&ReadingParts) -> Result<T, VeilFault> + Send,
    ) -> PyResult<T> {
        Ok(py.detach(|| self.run(work))?)
    }

    /// Does work on a thread that does not hold Python's lock.
    pub(crate) fn run<T>(
        &self,
        work: impl FnOnce(&ReadingParts) -> Result<T, VeilFault>,
    ) -> Result<T, VeilFault> {
        self.gate.with(|| ReadingParts::open(&self.settings), work)
    }

    /// # Errors
    /// It is another process's.
    pub(crate) fn check_process(&self) -> Result<(), VeilFault> {
        self.gate.check_process()
    }
}

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (config, unaudited=false, query_id=None))]
    fn new(config: PathBuf, unaudited: bool, query_id: Option<String>) -> Self {
        let settings = OpenSettings { config, is_unaudited: unaudited, query_id };
        Self { settings, gate: Gate::new() }
    }

    /// Opens everything now, so that faults show.
    fn open(&self, py: Python<'_>) -> PyResult<()> {
        self.detached(py, |_| Ok(()))
    }

    /// Field and purpose of `[guide]`.
    fn guide(&self, py: Python<'_>) -> PyResult<(Option<String>, Option<String>)> {
        self.detached(py, |parts| Ok((parts.guide.field.clone(), parts.guide.purpose.clone())))
    }

    #[pyo3(signature = (field, token, bind, subject, claims))]
    fn reveal<'py>(
        &self,
        py: Python<'py>,
        field: &str,
        token: &str,
        bind: Bind,
        subject: Option<&str>,
        claims: Claims,
    ) -> PyResult<Bound<'py, PyAny>> {
        let given = GivenToken { field, token, bind: &bind, subject };
        let opened = self.detached(py, |parts| parts.reveal(&given, &purpose(claims)))?;
        Ok(match opened {
            Opened::Json(json) => PyString::new(py, &json).into_any(),
            Opened::Bytes(bytes) => PyBytes::new(py, &bytes).into_any(),
        })
    }

    #[pyo3(signature = (field, value, bind, subject, claims))]
    fn seal(
        &self,
        py: Python<'_>,
        field: &str,
        value: &str,
        bind: Bind,
        subject: Option<&str>,
        claims: Claims,
    ) -> PyResult<Option<String>> {
        let given = GivenToken { field, token: value, bind: &bind, subject };
        self.detached(py, |parts| parts.seal(&given, &purpose(claims)))
    }

    fn index(
        &self,
        py: Python<'_>,
        field: &str,
        parts: Vec<String>,
        claims: Claims,
    ) -> PyResult<(Option<String>, Vec<String>, bool)> {
        let found = self.detached(py, |own| own.index(field, &parts, &purpose(claims)))?;
        Ok((found.into, found.values, found.is_unique))
    }

    #[pyo3(signature = (schema, fields, rows, claims))]
    fn reveal_rows(
        &self,
        py: Python<'_>,
        schema: &str,
        fields: Option<Vec<String>>,
        rows: Vec<Option<String>>,
        claims: Claims,
    ) -> PyResult<Vec<(Option<String>, Vec<FieldOutcome>)>> {
        let opened = self.detached(py, |parts| {
            parts.reveal_rows(schema, fields.as_deref(), &rows, &purpose(claims))
        })?;
        Ok(opened.into_iter().map(|row| (row.record, row.fields)).collect())
    }

    fn transform(
        &self,
        py: Python<'_>,
        schema: &str,
        event: &str,
        claims: Claims,
    ) -> PyResult<String> {
        self.detached(py, |parts| parts.transform(schema, event, &purpose(claims)))
    }

    fn field(&self, py: Python<'_>, name: &str) -> PyResult<Facts> {
        self.detached(py, |parts| Ok(Target::of(&parts.schemas(), name)?.facts()))
    }

    fn before_fork(&self, py: Python<'_>) {
        py.detach(|| self.gate.before_fork());
    }

    fn after_fork(&self) {
        self.gate.after_fork();
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.gate.close());
    }
}

pub(crate) fn purpose((name, reason, on_behalf_of, request_id): Claims) -> CallPurpose {
    CallPurpose { name, reason, on_behalf_of, request_id }
}
