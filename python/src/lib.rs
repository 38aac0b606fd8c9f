//! The native part of the Python package: keys in process, over the code of `serve` and the
//! command line.
//!
//! ```text
//!  veilstream/_open.py ──► engine ──► gate (closed around forks) ──► parts: schemas, keys, audit log
//!                                                                      │
//!        bare (one value) · rows (records) · column (Arrow) · statement (SQL) ──┘
//!                                             │
//!                                            ffi: arrays in and out
//! ```
//!
//! Each call makes its lines in the audit log durable before it returns. Python's lock is not held
//! meanwhile.
#![deny(unsafe_code)]
#![deny(clippy::mod_module_files)]

mod arrays;
mod bare;
mod column;
mod engine;
mod fault;
mod ffi;
mod gate;
mod held;
mod interop;
mod parts;
mod rows;
mod sealed;
mod statement;
mod target;

use pyo3::pymodule;

#[pymodule]
mod _native {
    #[pymodule_export]
    use crate::arrays::{Column, index_column, key_ids, reveal_column, rotate_column, seal_column};
    #[pymodule_export]
    use crate::engine::Engine;
    #[pymodule_export]
    use crate::sealed::{ColumnReader, Sealed};
    #[pymodule_export]
    use crate::statement::{AttributeOpener, normalized, open_statement, seal_statement};
}
