//! Lines of a stream, one after another, in bounded memory.

use std::io::{self, BufRead, BufReader, Read};

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its bytes without the line feed. A carriage return before it stays: to JSON it is white space.
    Text(&'a [u8]),
    /// It is longer than the limit; its bytes were skipped.
    TooLong,
}

/// Reads lines and counts them.
pub(super) struct Lines<R> {
    input: BufReader<R>,
    longest: usize,
    line: Vec<u8>,
    number: u64,
}

impl<R: Read> Lines<R> {
    /// Lines of at most `longest` bytes.
    pub(super) fn new(input: R, longest: usize) -> Self {
        Self { input: BufReader::with_capacity(64 << 10, input), longest, line: Vec::new(), number: 0 }
    }

    /// Whether the next line may have to be waited for: what was written so far should be flushed.
    pub(super) fn may_wait(&self) -> bool {
        !self.input.buffer().contains(&b'\n')
    }

    /// The next line that is not blank, with its number from 1; `None` at the end. Blank lines count, but are nobody's record.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        loop {
            self.line.clear();
            let limit = self.longest as u64 + 1;
            if self.input.by_ref().take(limit).read_until(b'\n', &mut self.line)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if self.line.last() == Some(&b'\n') {
                self.line.pop();
            } else if self.line.len() > self.longest {
                self.input.skip_until(b'\n')?;
                return Ok(Some((self.number, Line::TooLong)));
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(Some((self.number, Line::Text(&self.line))));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, longest: usize) -> Vec<(u64, Option<String>)> {
        let (mut lines, mut out) = (Lines::new(text.as_bytes(), longest), Vec::new());
        while let Some((number, line)) = lines.next().unwrap() {
            let text = match line {
                Line::Text(text) => Some(String::from_utf8(text.to_vec()).unwrap()),
                Line::TooLong => None,
            };
            out.push((number, text));
        }
        out
    }

    #[test]
    fn blank_lines_count_and_are_left_out() {
        assert_eq!(read("a\n\n  \r\nb\r\nc", 9), [(1, Some("a".into())), (4, Some("b\r".into())), (5, Some("c".into()))]);
        assert_eq!(read("", 9), []);
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_whole() {
        assert_eq!(read("123\n1234\n12345\n123", 3), [(1, Some("123".into())), (2, None), (3, None), (4, Some("123".into()))]);
        assert_eq!(read("1234", 3), [(1, None)]);
    }
}
