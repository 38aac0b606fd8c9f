//! A column of strings as it is made: rows may come in any order.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, LargeStringArray, StringArray};
use arrow_buffer::{Buffer, NullBuffer, OffsetBuffer};

use super::ColumnFault;

/// A column that is done.
pub(crate) struct BuiltColumn {
    pub(crate) array: ArrayRef,
    /// How many rows came to what.
    pub(crate) counts: Vec<(&'static str, u64)>,
}

/// Texts of rows. A row without one is null.
pub(crate) struct TextBuilder {
    texts: Vec<u8>,
    rows: Vec<Range<usize>>,
    /// Texts stand in the order of their rows.
    in_order: bool,
    last: usize,
    is_small: bool,
}

/// A row that is null.
const NULL: Range<usize> = usize::MAX..usize::MAX;

impl TextBuilder {
    /// A column of so many nulls. `is_small`: with offsets of 32 bits, as long as they do.
    pub(crate) fn new(rows: usize, bytes: usize, is_small: bool) -> Self {
        let texts = Vec::with_capacity(bytes);
        Self { texts, rows: vec![NULL; rows], in_order: true, last: 0, is_small }
    }

    /// Gives a row the text that `write` appends; where it appends none, the row stays null.
    pub(crate) fn set(&mut self, row: usize, write: impl FnOnce(&mut Vec<u8>) -> bool) -> bool {
        let start = self.texts.len();
        if !write(&mut self.texts) {
            self.texts.truncate(start);
            return false;
        }
        self.rows[row] = start..self.texts.len();
        self.in_order &= row >= self.last;
        self.last = row;
        true
    }

    /// All rows are null.
    pub(crate) fn clear(&mut self) {
        self.texts.clear();
        self.rows.fill(NULL);
        self.in_order = true;
    }

    /// The column.
    ///
    /// # Errors
    /// The texts are no UTF-8: never, as far as the engine's are.
    pub(crate) fn finish(self) -> Result<ArrayRef, ColumnFault> {
        let Self { mut texts, rows, in_order, is_small, .. } = self;
        if !in_order {
            let mut sorted = Vec::with_capacity(texts.len());
            rows.iter().filter(|row| **row != NULL).for_each(|row| {
                sorted.extend_from_slice(&texts[row.clone()]);
            });
            texts = sorted;
        }
        let lengths = rows.iter().map(ExactSizeIterator::len);
        let nulls: NullBuffer = rows.iter().map(|row| *row != NULL).collect();
        let nulls = Some(nulls).filter(|nulls| nulls.null_count() > 0);
        let is_small = is_small && i32::try_from(texts.len()).is_ok();
        let values = Buffer::from_vec(texts);
        Ok(if is_small {
            let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
            let array = StringArray::try_new(offsets, values, nulls);
            Arc::new(array.map_err(|_| ColumnFault::Malformed)?)
        } else {
            let offsets = OffsetBuffer::<i64>::from_lengths(lengths);
            let array = LargeStringArray::try_new(offsets, values, nulls);
            Arc::new(array.map_err(|_| ColumnFault::Malformed)?)
        })
    }
}
