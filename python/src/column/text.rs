//! Columns as they are read: of strings, of scalars that subjects and bound values are.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowDictionaryKeyType, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type,
    UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, LargeStringArray, StringArray, StringViewArray};
use arrow_schema::DataType;
use pyo3::pybacked::PyBackedStr;

use super::ColumnFault;

/// A chunk of strings, in whatever layout.
pub(crate) enum Texts<'a> {
    Small(&'a StringArray),
    Large(&'a LargeStringArray),
    View(&'a StringViewArray),
    /// Of each row its place among the values, or none.
    Dictionary(Vec<Option<usize>>, Box<Texts<'a>>),
    /// A column of nulls.
    Nulls(usize),
    /// Strings that Python holds.
    Python(&'a [Option<PyBackedStr>]),
}

impl<'a> Texts<'a> {
    /// The strings of an array.
    ///
    /// # Errors
    /// It has none.
    pub(crate) fn of(array: &'a ArrayRef) -> Result<Self, ColumnFault> {
        match array.data_type() {
            DataType::Utf8 => Ok(Self::Small(array.as_string())),
            DataType::LargeUtf8 => Ok(Self::Large(array.as_string())),
            DataType::Utf8View => Ok(Self::View(array.as_string_view())),
            DataType::Null => Ok(Self::Nulls(array.len())),
            DataType::Dictionary(key, _) => match **key {
                DataType::Int8 => dictionary::<Int8Type>(array),
                DataType::Int16 => dictionary::<Int16Type>(array),
                DataType::Int32 => dictionary::<Int32Type>(array),
                DataType::Int64 => dictionary::<Int64Type>(array),
                DataType::UInt8 => dictionary::<UInt8Type>(array),
                DataType::UInt16 => dictionary::<UInt16Type>(array),
                DataType::UInt32 => dictionary::<UInt32Type>(array),
                DataType::UInt64 => dictionary::<UInt64Type>(array),
                _ => Err(ColumnFault::NotText),
            },
            _ => Err(ColumnFault::NotText),
        }
    }

    /// Rows.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Small(array) => array.len(),
            Self::Large(array) => array.len(),
            Self::View(array) => array.len(),
            Self::Dictionary(keys, _) => keys.len(),
            Self::Nulls(len) => *len,
            Self::Python(strings) => strings.len(),
        }
    }

    /// The string of a row; `None`: null.
    #[inline]
    pub(crate) fn get(&self, row: usize) -> Option<&str> {
        match self {
            Self::Small(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Large(array) => array.is_valid(row).then(|| array.value(row)),
            Self::View(array) => array.is_valid(row).then(|| array.value(row)),
            Self::Dictionary(keys, values) => keys[row].and_then(|key| values.get(key)),
            Self::Nulls(_) => None,
            Self::Python(strings) => strings[row].as_deref(),
        }
    }

    /// Whether results of this chunk have small offsets, as it has.
    pub(crate) fn is_small(&self) -> bool {
        !matches!(self, Self::Large(_) | Self::View(_))
    }
}

fn dictionary<K: ArrowDictionaryKeyType>(array: &ArrayRef) -> Result<Texts<'_>, ColumnFault> {
    let dictionary = array.as_dictionary::<K>();
    let keys = (0..dictionary.len()).map(|row| dictionary.key(row)).collect();
    Ok(Texts::Dictionary(keys, Box::new(Texts::of(dictionary.values())?)))
}

/// Scalars of the rows: of a column, in its chunks, or one for all.
pub(crate) enum Scalars<'a> {
    One(Vec<u8>),
    /// Chunks, and the row that each ends before.
    Column(Vec<Chunk<'a>>, Vec<usize>),
}

/// A chunk of scalars.
pub(crate) enum Chunk<'a> {
    Texts(Texts<'a>),
    Integers(Vec<Option<i128>>),
}

impl<'a> Scalars<'a> {
    /// The scalars of a column.
    ///
    /// # Errors
    /// It has others.
    pub(crate) fn of(chunks: &'a [ArrayRef]) -> Result<Self, ColumnFault> {
        let (mut of, mut ends, mut end) = (Vec::new(), Vec::new(), 0);
        for array in chunks {
            of.push(match integers(array) {
                Some(integers) => Chunk::Integers(integers),
                None => Chunk::Texts(Texts::of(array).map_err(|_| ColumnFault::NotScalars)?),
            });
            end += array.len();
            ends.push(end);
        }
        Ok(Self::Column(of, ends))
    }

    /// Rows; `None`: of every number.
    pub(crate) fn len(&self) -> Option<usize> {
        match self {
            Self::One(_) => None,
            Self::Column(_, ends) => Some(ends.last().copied().unwrap_or_default()),
        }
    }

    /// Writes the scalar text of a row in the place of `out`'s content; `false`: it is null.
    pub(crate) fn write(&self, row: usize, out: &mut Vec<u8>) -> bool {
        out.clear();
        let (chunks, ends) = match self {
            Self::One(text) => {
                out.extend_from_slice(text);
                return true;
            }
            Self::Column(chunks, ends) => (chunks, ends),
        };
        let at = ends.partition_point(|end| *end <= row);
        let row = row - at.checked_sub(1).map_or(0, |before| ends[before]);
        match &chunks[at] {
            Chunk::Texts(texts) => match texts.get(row) {
                Some(text) => out.extend_from_slice(text.as_bytes()),
                None => return false,
            },
            Chunk::Integers(values) => match values[row] {
                Some(value) => out.extend_from_slice(value.to_string().as_bytes()),
                None => return false,
            },
        }
        true
    }
}

/// The integers of an array; `None`: it has others.
pub(crate) fn integers(array: &ArrayRef) -> Option<Vec<Option<i128>>> {
    macro_rules! of {
        ($type:ty) => {
            array.as_primitive::<$type>().iter().map(|v| v.map(i128::from)).collect()
        };
    }
    Some(match array.data_type() {
        DataType::Int8 => of!(Int8Type),
        DataType::Int16 => of!(Int16Type),
        DataType::Int32 => of!(Int32Type),
        DataType::Int64 => of!(Int64Type),
        DataType::UInt8 => of!(UInt8Type),
        DataType::UInt16 => of!(UInt16Type),
        DataType::UInt32 => of!(UInt32Type),
        DataType::UInt64 => of!(UInt64Type),
        _ => return None,
    })
}
