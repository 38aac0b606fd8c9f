//! Attributes of entities, opened in their place. Those of a statement's first entities are opened
//! while SQLAlchemy makes the next ones, which takes Python's lock and several times as long.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedStr;
use pyo3::types::{PyDict, PyList, PyString};

use super::open::{OpenedColumn, TokenColumn, UntoldColumn};
use super::{GivenBind, token_column};
use crate::engine::{Claims, Engine, purpose};
use crate::fault::VeilFault;
use crate::parts::CallPurpose;
use crate::sealed::{holds, token_of};

/// Field, the attribute's name, subjects, bound values.
type GivenAttribute<'py> =
    (String, Bound<'py, PyString>, Option<Bound<'py, PyList>>, GivenBind<'py>);
/// Dicts of entities, and their attributes.
type GivenEntities<'py> = (Bound<'py, PyList>, Vec<GivenAttribute<'py>>);
/// The rows whose value is a JSON text, and the rows that did not open.
type OpenedAttribute = (Vec<usize>, Vec<(usize, &'static str)>);
/// What the thread of a batch ends with.
type Ahead = Result<Vec<UntoldColumn>, VeilFault>;

/// Opens the attributes of a statement's entities, in batches: one disclosure.
#[pyclass(module = "veilstream._native")]
pub(crate) struct AttributeOpener {
    engine: Py<Engine>,
    purpose: CallPurpose,
    batches: Vec<Batch>,
    /// Of the batches that were opened ahead.
    opened: Vec<Vec<UntoldColumn>>,
    /// Opens the last batch. One at most: batches that come faster wait.
    running: Option<JoinHandle<Ahead>>,
}

/// Entities that are opened together.
struct Batch {
    places: Vec<Places>,
    columns: Arc<Vec<TokenColumn>>,
}

/// Dicts of entities, and the names of what is opened in each.
struct Places {
    entities: Vec<Py<PyDict>>,
    names: Vec<Py<PyString>>,
}

#[pymethods]
impl AttributeOpener {
    #[new]
    fn new(engine: Py<Engine>, claims: Claims) -> Self {
        let (batches, opened) = (Vec::new(), Vec::new());
        Self { engine, purpose: purpose(claims), batches, opened, running: None }
    }

    /// Begins to open these, and returns. A fault shows later.
    fn begin(&mut self, py: Python<'_>, given: Vec<GivenEntities<'_>>) -> PyResult<()> {
        self.wait(py)?;
        let batch = Batch::of(given)?;
        let (engine, purpose) = (self.engine.clone_ref(py), self.purpose.clone());
        let columns = Arc::clone(&batch.columns);
        let open = move || engine.get().run(|parts| parts.open_ahead(&columns, &purpose));
        self.running = Some(thread::Builder::new().name("veil-open".to_owned()).spawn(open)?);
        self.batches.push(batch);
        Ok(())
    }

    /// Opens these, and puts values in the place of all that are still sealed, JSON as its text.
    fn finish(
        &mut self,
        py: Python<'_>,
        given: Vec<GivenEntities<'_>>,
    ) -> PyResult<Vec<OpenedAttribute>> {
        let rest = Batch::of(given)?;
        self.wait(py)?;
        let batches = std::mem::take(&mut self.batches);
        let columns = || batches.iter().chain([&rest]).flat_map(|batch| &*batch.columns);
        if columns().all(TokenColumn::is_empty) {
            return Ok(columns().map(|_| OpenedAttribute::default()).collect());
        }
        let ahead = std::mem::take(&mut self.opened);
        let ahead = batches.iter().map(|batch| batch.columns.as_slice()).zip(ahead).collect();
        let (engine, purpose) = (self.engine.get(), &self.purpose);
        let opened = engine.detached(py, |parts| parts.open_rest(ahead, &rest.columns, purpose))?;
        let mut told = Vec::new();
        for (batch, opened) in batches.iter().chain([&rest]).zip(opened) {
            told.extend(batch.put(py, opened)?);
        }
        Ok(told)
    }
}

impl AttributeOpener {
    /// Waits for the batch that is being opened.
    fn wait(&mut self, py: Python<'_>) -> PyResult<()> {
        let Some(running) = self.running.take() else { return Ok(()) };
        // A fork has left its thread behind.
        self.engine.get().check_process()?;
        let opened = py.detach(|| running.join()).unwrap_or_else(|panic| resume_unwind(panic));
        self.opened.push(opened?);
        Ok(())
    }
}

impl Batch {
    fn of(given: Vec<GivenEntities<'_>>) -> PyResult<Self> {
        let (mut places, mut columns) = (Vec::with_capacity(given.len()), Vec::new());
        for (entities, attributes) in given {
            let entities = entities.iter().map(|entity| Ok(entity.cast_into::<PyDict>()?));
            let entities = entities.collect::<PyResult<Vec<_>>>()?;
            let mut names = Vec::with_capacity(attributes.len());
            for (field, name, subjects, bind) in attributes {
                let tokens = Vec::with_capacity(entities.len());
                columns.push(token_column(field, tokens, subjects, bind)?);
                names.push(name);
            }
            let of_these = columns.len() - names.len();
            // Entity by entity: each is in the processor's cache for all its attributes.
            for entity in &entities {
                for (name, column) in names.iter().zip(&mut columns[of_these..]) {
                    let value = entity.get_item(name)?;
                    column.tokens.push(value.map_or(Ok(None), |value| token_of(&value))?);
                }
            }
            let entities = entities.into_iter().map(Bound::unbind).collect();
            places.push(Places { entities, names: names.into_iter().map(Bound::unbind).collect() });
        }
        Ok(Self { places, columns: Arc::new(columns) })
    }

    /// Puts values in the place of their tokens. Where something else stands by now, it stays.
    fn put(&self, py: Python<'_>, opened: Vec<OpenedColumn>) -> PyResult<Vec<OpenedAttribute>> {
        let mut columns = opened.into_iter().zip(&*self.columns);
        let mut told = Vec::new();
        for Places { entities, names } in &self.places {
            let own: Vec<_> = columns.by_ref().take(names.len()).collect();
            let mut texts: Vec<_> = own.iter().map(|(one, _)| one.texts().peekable()).collect();
            let mut gone = vec![Vec::new(); names.len()];
            for (row, entity) in entities.iter().enumerate() {
                for (at, texts) in texts.iter_mut().enumerate() {
                    let Some((_, text)) = texts.next_if(|(at, _)| *at == row) else { continue };
                    let (entity, name) = (entity.bind(py), names[at].bind(py));
                    if has(entity, name, own[at].1.tokens[row].as_ref())? {
                        entity.set_item(name, text)?;
                    } else {
                        gone[at].push(row);
                    }
                }
            }
            drop(texts);
            for ((column, given), (name, gone)) in own.into_iter().zip(names.iter().zip(gone)) {
                let json = column.json.into_iter().filter(|row| !gone.contains(row)).collect();
                let mut failed = Vec::with_capacity(column.failed.len());
                for (row, why) in column.failed {
                    let entity = entities[row].bind(py);
                    if has(entity, name.bind(py), given.tokens[row].as_ref())? {
                        failed.push((row, why));
                    }
                }
                told.push((json, failed));
            }
        }
        Ok(told)
    }
}

/// Whether that token stands in an entity.
fn has(
    entity: &Bound<'_, PyDict>,
    name: &Bound<'_, PyString>,
    token: Option<&PyBackedStr>,
) -> PyResult<bool> {
    Ok(entity.get_item(name)?.is_some_and(|value| holds(&value, token)))
}
