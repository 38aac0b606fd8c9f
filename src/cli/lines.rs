//! Lines of a stream, one after another, in bounded memory.

use std::io::{self, BufRead, BufReader, Read};
use std::ops::Range;

/// What is read at once; a pipe gives less.
const BUFFER: usize = 256 << 10;
/// Most lines of a batch, and bytes after which it takes no further line.
const BATCH_LINES: usize = 1000;
const BATCH_BYTES: usize = 1 << 20;

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Its bytes without the line feed. A carriage return before it stays: to JSON it is white
    /// space.
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
        Self {
            input: BufReader::with_capacity(BUFFER, input),
            longest,
            line: Vec::new(),
            number: 0,
        }
    }

    /// Whether the next line may have to be waited for: what was written so far should be flushed.
    pub(super) fn may_wait(&self) -> bool {
        !self.input.buffer().contains(&b'\n')
    }

    /// The next line that is not blank, with its number from 1; `None` at the end. Blank lines
    /// count, but are nobody's record.
    pub(super) fn next(&mut self) -> io::Result<Option<(u64, Line<'_>)>> {
        let mut line = std::mem::take(&mut self.line);
        line.clear();
        let read = self.append(&mut line);
        self.line = line;
        Ok(read?
            .map(|kept| (self.number, if kept { Line::Text(&self.line) } else { Line::TooLong })))
    }

    /// The next line that is not blank, and those after it that need not be waited for. None: the
    /// end.
    pub(super) fn batch(&mut self, batch: &mut LineBatch) -> io::Result<()> {
        batch.bytes.clear();
        batch.lines.clear();
        loop {
            let start = batch.bytes.len();
            let Some(kept) = self.append(&mut batch.bytes)? else { return Ok(()) };
            batch.lines.push((self.number, kept.then_some(start..batch.bytes.len())));
            if batch.lines.len() >= BATCH_LINES
                || batch.bytes.len() >= BATCH_BYTES
                || self.may_wait()
            {
                return Ok(());
            }
        }
    }

    /// Appends the next line that is not blank; `false`: it is too long and was left out. `None` at
    /// the end.
    fn append(&mut self, to: &mut Vec<u8>) -> io::Result<Option<bool>> {
        let start = to.len();
        loop {
            to.truncate(start);
            let limit = self.longest as u64 + 1;
            if self.input.by_ref().take(limit).read_until(b'\n', to)? == 0 {
                return Ok(None);
            }
            self.number += 1;
            if to.last() == Some(&b'\n') {
                to.pop();
            } else if to.len() - start > self.longest {
                to.truncate(start);
                self.input.skip_until(b'\n')?;
                return Ok(Some(false));
            }
            if !to[start..].trim_ascii().is_empty() {
                return Ok(Some(true));
            }
        }
    }
}

/// Lines that are worked on together.
#[derive(Default)]
pub(super) struct LineBatch {
    bytes: Vec<u8>,
    /// Number and place in `bytes`; no place: too long.
    lines: Vec<(u64, Option<Range<usize>>)>,
}

impl LineBatch {
    /// The lines with their numbers.
    pub(super) fn lines(&self) -> impl Iterator<Item = (u64, Line<'_>)> + Clone {
        self.lines.iter().map(|(number, place)| {
            (*number, place.clone().map_or(Line::TooLong, |place| Line::Text(&self.bytes[place])))
        })
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
        assert_eq!(
            read("a\n\n  \r\nb\r\nc", 9),
            [(1, Some("a".into())), (4, Some("b\r".into())), (5, Some("c".into()))]
        );
        assert_eq!(read("", 9), []);
    }

    /// Gives its pieces one by one, as a pipe would.
    struct Pipe<'a>(std::collections::VecDeque<&'a [u8]>);

    impl Read for Pipe<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let Some(piece) = self.0.pop_front() else { return Ok(0) };
            buf[..piece.len()].copy_from_slice(piece);
            Ok(piece.len())
        }
    }

    #[test]
    fn a_batch_is_what_need_not_be_waited_for() {
        let pipe = Pipe([&b"1\n"[..], b"2\n\n4\n5", b"5\n6\n", b"7"].into());
        let (mut lines, mut batch, mut read) =
            (Lines::new(pipe, 9), LineBatch::default(), Vec::new());
        while lines.batch(&mut batch).is_ok() && !batch.lines.is_empty() {
            let text = |(number, line)| match line {
                Line::Text(text) => format!("{number}:{}", String::from_utf8_lossy(text)),
                Line::TooLong => panic!("no line is"),
            };
            read.push(batch.lines().map(text).collect::<Vec<_>>().join(" "));
        }
        // Of the second piece the last line is not whole yet.
        assert_eq!(read, ["1:1", "2:2 4:4", "5:55 6:6", "7:7"]);
    }

    #[test]
    fn a_batch_is_bounded() {
        let text = format!("{}\n", "x".repeat(99)).repeat(2500)
            + &format!("{}\n", "y".repeat(600 << 10)).repeat(3)
            + &"z".repeat(700 << 10);
        let (mut lines, mut batch, mut sizes) =
            (Lines::new(text.as_bytes(), 650 << 10), LineBatch::default(), Vec::new());
        while lines.batch(&mut batch).is_ok() && batch.lines().next().is_some() {
            sizes.push((batch.lines().count(), batch.bytes.len()));
        }
        assert!(
            sizes
                .iter()
                .all(|(lines, bytes)| *lines <= BATCH_LINES && *bytes < BATCH_BYTES + (650 << 10)),
            "{sizes:?}"
        );
        assert_eq!(sizes.iter().map(|(lines, _)| lines).sum::<usize>(), 2504);
        assert!(sizes[0] == (BATCH_LINES, 99 * BATCH_LINES), "{sizes:?}");
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_whole() {
        assert_eq!(
            read("123\n1234\n12345\n123", 3),
            [(1, Some("123".into())), (2, None), (3, None), (4, Some("123".into()))]
        );
        assert_eq!(read("1234", 3), [(1, None)]);
    }
}
