//! The files of a log, read again line by line.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use veilstream_engine::key::SubjectRef;

use super::hex::Hex;
use super::line::Line;
use super::{AuditError, file, side_file};

/// A log that is read: its files.
#[derive(Debug, Clone)]
pub struct LogParts {
    base: PathBuf,
    /// Logs of other hosts, read as if they were part of this one.
    others: Vec<PathBuf>,
    files: Vec<PathBuf>,
}

impl LogParts {
    /// The files of the log that is configured as `base`: those that are written to, and those that
    /// ended.
    ///
    /// # Errors
    /// The folder cannot be read, or holds no file of this log.
    pub fn of(base: &Path) -> Result<Self, AuditError> {
        let files = file::files(base).map_err(|error| AuditError::read(base, error))?;
        if files.is_empty() {
            let error = std::io::Error::new(std::io::ErrorKind::NotFound, "there is no such log");
            return Err(AuditError::read(base, error));
        }
        Ok(Self { base: base.to_owned(), others: Vec::new(), files })
    }

    /// The same with the log of another host: hosts that share a second place are verified together.
    ///
    /// # Errors
    /// As [`LogParts::of`].
    pub fn with(mut self, other: &Path) -> Result<Self, AuditError> {
        let other = Self::of(other)?;
        self.files.extend(other.files);
        self.others.push(other.base);
        Ok(self)
    }

    /// The file as configured: side files stand beside it.
    #[must_use]
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The references of a side file; `None`: it is not here, or was changed.
    #[must_use]
    pub fn subjects(&self, sha256: &Hex<32>) -> Option<Vec<SubjectRef>> {
        let mut bases = std::iter::once(&self.base).chain(&self.others);
        bases.find_map(|base| side_file::read(base, sha256).ok())
    }

    /// Gives out every line that can be read, file by file, in the order of each.
    ///
    /// # Errors
    /// A file cannot be read, or what `each` says.
    pub fn each(
        &self,
        mut each: impl FnMut(&Path, &[u8], Line) -> Result<(), AuditError>,
    ) -> Result<(), AuditError> {
        for path in &self.files {
            let mut lines = RawLines::open(path)?;
            while let Some(raw) = lines.next()? {
                if let Ok(line) = Line::read(raw.bytes) {
                    each(path, raw.bytes, line)?;
                }
            }
        }
        Ok(())
    }
}

/// The lines of a file.
pub(super) struct RawLines {
    path: PathBuf,
    reader: BufReader<File>,
    buffer: Vec<u8>,
    number: u64,
}

/// One of them, without its line feed.
pub(super) struct RawLine<'b> {
    /// From 1.
    pub(super) number: u64,
    pub(super) bytes: &'b [u8],
    /// It has its line feed.
    pub(super) is_whole: bool,
}

impl RawLines {
    pub(super) fn open(path: &Path) -> Result<Self, AuditError> {
        let file = File::open(path).map_err(|error| AuditError::read(path, error))?;
        let reader = BufReader::with_capacity(256 << 10, file);
        Ok(Self { path: path.to_owned(), reader, buffer: Vec::new(), number: 0 })
    }

    pub(super) fn next(&mut self) -> Result<Option<RawLine<'_>>, AuditError> {
        self.buffer.clear();
        self.reader
            .read_until(b'\n', &mut self.buffer)
            .map_err(|error| AuditError::read(&self.path, error))?;
        if self.buffer.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        let whole = self.buffer.strip_suffix(b"\n");
        Ok(Some(RawLine {
            number: self.number,
            bytes: whole.unwrap_or(&self.buffer),
            is_whole: whole.is_some(),
        }))
    }
}
