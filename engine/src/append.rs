//! Formatted text at the end of bytes, without `std::io`: the engine names no IO, not even in
//! memory (`tests/layering.rs`).

use std::fmt;

/// Appends what is formatted into it; never fails.
pub(crate) struct Text<'a>(pub(crate) &'a mut Vec<u8>);

impl fmt::Write for Text<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}
