//! Arrow arrays of other libraries, over the Arrow C data interface: the only unsafe code of this
//! crate.
//!
//! Both sides hand over structures in capsules (the Arrow PyCapsule interface). Handing ours out
//! needs nothing unsafe. Taking theirs does: what their pointers lead to is their word. Offsets,
//! lengths, validity and UTF-8 are checked by Arrow's full validation before anything is read.
#![allow(unsafe_code, reason = "the Arrow C data interface is pointers")]

use std::ptr::NonNull;

use arrow_array::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi};
use arrow_array::ffi_stream::FFI_ArrowArrayStream;
use arrow_array::{ArrayRef, make_array};
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
        return Ok(vec![import_array(&schema, &array)?]);
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
    // SAFETY: capsules of these names hold these structures, initialised by their producer, and
    // outlive this function. The array is moved: its place is left as released, so that the
    // capsule's destructor does not release it again.
    let (schema, array) = unsafe { (schema.as_ref(), FFI_ArrowArray::from_raw(array.as_ptr())) };
    checked(array, schema).map_err(ColumnFault::into_py)
}

fn import_stream(capsule: &Bound<'_, PyCapsule>) -> PyResult<Vec<ArrayRef>> {
    let stream: NonNull<FFI_ArrowArrayStream> =
        capsule.pointer_checked(Some(c"arrow_array_stream"))?.cast();
    // SAFETY: as in `import_array`.
    let stream = unsafe { FFI_ArrowArrayStream::from_raw(stream.as_ptr()) };
    chunks(stream).map_err(ColumnFault::into_py)
}

fn chunks(mut stream: FFI_ArrowArrayStream) -> Result<Vec<ArrayRef>, ColumnFault> {
    let callbacks = (stream.release(), stream.get_schema(), stream.get_next());
    let (Some(_), Some(get_schema), Some(get_next)) = callbacks else {
        return Err(ColumnFault::Released);
    };
    let mut schema = FFI_ArrowSchema::empty();
    // SAFETY: the callbacks are those of this stream, which is not released. They fill what they
    // are given, which has a place of its own here, and leave it empty when they fail.
    if unsafe { get_schema(&raw mut stream, &raw mut schema) } != 0 {
        return Err(ColumnFault::Producer);
    }
    let mut chunks = Vec::new();
    loop {
        let mut array = FFI_ArrowArray::empty();
        // SAFETY: as above.
        if unsafe { get_next(&raw mut stream, &raw mut array) } != 0 {
            return Err(ColumnFault::Producer);
        }
        if array.is_released() {
            return Ok(chunks);
        }
        chunks.push(checked(array, &schema)?);
    }
}

/// An array whose offsets, lengths, validity and UTF-8 are right.
fn checked(array: FFI_ArrowArray, schema: &FFI_ArrowSchema) -> Result<ArrayRef, ColumnFault> {
    if array.is_released() {
        return Err(ColumnFault::Released);
    }
    if !is_simple(schema) {
        return Err(ColumnFault::Type);
    }
    if !has_lengths(&array, schema) {
        return Err(ColumnFault::Malformed);
    }
    // SAFETY: the array is not released, and comes with its schema. That its buffers are as long as
    // length and offsets say is its producer's word, which the interface has no way to check.
    let data = unsafe { from_ffi(array, schema) }.map_err(|_| ColumnFault::Malformed)?;
    data.validate_full().map_err(|_| ColumnFault::Malformed)?;
    Ok(make_array(data))
}

/// Whether it is a column of strings, integers, floats, booleans or nulls, or a dictionary of them.
/// Nothing else is read here.
fn is_simple(schema: &FFI_ArrowSchema) -> bool {
    const FORMATS: [&str; 15] =
        ["n", "b", "c", "C", "s", "S", "i", "I", "l", "L", "f", "g", "u", "U", "vu"];
    FORMATS.contains(&schema.format()) && schema.dictionary().is_none_or(is_simple)
}

/// Whether lengths are such that memory can have them: they come as signed numbers, also the ends
/// that texts' bytes are measured by.
fn has_lengths(array: &FFI_ArrowArray, schema: &FFI_ArrowSchema) -> bool {
    const MOST: usize = isize::MAX as usize / 64;
    let (len, offset) = (array.len(), array.offset());
    if len > MOST || offset > MOST || array.num_children() > 0 {
        return false;
    }
    let dictionary = match (array.dictionary(), schema.dictionary()) {
        (Some(array), Some(schema)) => has_lengths(array, schema),
        (None, None) => true,
        _ => false,
    };
    let buffers = array.num_buffers();
    // SAFETY: of a string array of that format, buffer 1 has one more offset than it has rows, and
    // the last buffer of a string view the lengths of those between. Both are the producer's word.
    let are_lengths = unsafe {
        match schema.format() {
            "u" => buffers == 3 && last_is_length::<i32>(array.buffer(1), offset + len),
            "U" => buffers == 3 && last_is_length::<i64>(array.buffer(1), offset + len),
            "vu" => {
                buffers >= 3
                    && (0..buffers - 3)
                        .all(|at| last_is_length::<i64>(array.buffer(buffers - 1), at))
            }
            _ => true,
        }
    };
    dictionary && are_lengths
}

/// Whether the number at that place is a length. Empty arrays may have no offsets at all.
///
/// # Safety
/// `numbers` is null, or has so many.
unsafe fn last_is_length<N: Copy + TryInto<usize>>(numbers: *const u8, at: usize) -> bool {
    const MOST: usize = isize::MAX as usize;
    // SAFETY: the caller's. A foreign buffer need not be aligned.
    let number = || unsafe { numbers.cast::<N>().add(at).read_unaligned() };
    (numbers.is_null() && at == 0)
        || !numbers.is_null() && number().try_into().is_ok_and(|length| length <= MOST)
}
