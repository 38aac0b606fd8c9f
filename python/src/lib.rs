//! The native part of the Python package: keys in process, over the code of `serve` and the
//! command line.
#![deny(unsafe_code)]

use pyo3::prelude::*;

#[pymodule]
fn _native(_module: &Bound<'_, PyModule>) -> PyResult<()> {
    Ok(())
}
