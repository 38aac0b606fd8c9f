//! Arrow arrays of other libraries, over the Arrow C data interface: the only unsafe code of this
//! crate.
//!
//! Both sides hand over structures in capsules (the Arrow PyCapsule interface). Handing ours out
//! needs nothing unsafe. Taking theirs does: what their pointers lead to is their word. Offsets,
//! lengths, validity and UTF-8 are checked by Arrow's full validation before anything is read.
#![allow(unsafe_code, reason = "the Arrow C data interface is pointers")]

use std::ptr::NonNull;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi};
use arrow_array::ffi_stream::{ArrayStreamReader, FFI_ArrowArrayStream};
use arrow_array::{Array, ArrayRef, make_array};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyTuple};

use crate::column::ColumnFault;

/// The chunks of an object that has `__arrow_c_array__` or `__arrow_c_stream__`, checked.
///
/// # Errors
/// It has neither, or what comes is no well-formed array.
pub(crate) fn import(object: &Bound<'_, PyAny>) -> PyResult<Vec<ArrayRef>> {
    if object.hasattr("__arrow_c_array__")? {
        let pair = object.call_method0("__arrow_c_array__")?.cast_into::<PyTuple>()?;
        let schema = pair.get_item(0)?.cast_into::<PyCapsule>()?;
        let array = pair.get_item(1)?.cast_into::<PyCapsule>()?;
        return Ok(vec![checked(import_array(&schema, &array)?)?]);
    }
    if object.hasattr("__arrow_c_stream__")? {
        let capsule = object.call_method0("__arrow_c_stream__")?.cast_into::<PyCapsule>()?;
        return import_stream(&capsule);
    }
    Err(PyTypeError::new_err(
        "no Arrow column: it has neither __arrow_c_array__ nor __arrow_c_stream__",
    ))
}

fn import_array(schema: &Bound<'_, PyCapsule>, array: &Bound<'_, PyCapsule>) -> PyResult<ArrayRef> {
    let schema: NonNull<FFI_ArrowSchema> = schema.pointer_checked(Some(c"arrow_schema"))?.cast();
    let array: NonNull<FFI_ArrowArray> = array.pointer_checked(Some(c"arrow_array"))?.cast();
    // SAFETY: capsules of these names hold these structures, initialised by their producer, until
    // they are moved out. The capsules outlive this function. The array is moved: its place is left
    // as released, so the capsule's destructor does not release it again. A released one, which
    // has no release callback, is refused first.
    let data = unsafe {
        if array.as_ref().is_released() {
            return Err(ColumnFault::Released.into_py());
        }
        from_ffi(FFI_ArrowArray::from_raw(array.as_ptr()), schema.as_ref())
    };
    data.map(make_array).map_err(|_| ColumnFault::Malformed.into_py())
}

fn import_stream(capsule: &Bound<'_, PyCapsule>) -> PyResult<Vec<ArrayRef>> {
    let stream: NonNull<FFI_ArrowArrayStream> =
        capsule.pointer_checked(Some(c"arrow_array_stream"))?.cast();
    // SAFETY: as above; the stream is moved out of its capsule, which is left with a released one.
    let reader = unsafe { ArrayStreamReader::from_raw(stream.as_ptr()) };
    let reader = reader.map_err(|_| ColumnFault::Released.into_py())?;
    reader.map(|array| checked(array.map_err(|_| ColumnFault::Malformed.into_py())?)).collect()
}

/// An array whose offsets, lengths, validity and UTF-8 are right.
fn checked(array: ArrayRef) -> PyResult<ArrayRef> {
    array.to_data().validate_full().map_err(|_| ColumnFault::Malformed.into_py())?;
    Ok(array)
}
