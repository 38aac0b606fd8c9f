//! Lines that are durable in the file and wait to be copied: a range of its bytes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::audit::hex::Hex;
use crate::audit::line::Line;
use crate::audit::sink::CopiedLine;
use crate::audit::{file, side_file};

/// Bytes and lines that are read for one batch.
const BATCH: u64 = 1 << 20;
const BATCH_LINES: usize = 1000;

/// A range of a file. The open file stays the same when it is renamed.
#[derive(Clone)]
pub(super) struct Span {
    pub(super) file: Arc<File>,
    /// The name that the file is written under: the mark stands beside it.
    pub(super) slot: Arc<Path>,
    pub(super) from: u64,
    pub(super) to: u64,
    /// Line feeds in it.
    pub(super) lines: u64,
}

/// What was read of a span.
pub(super) struct Piece {
    pub(super) lines: Vec<CopiedLine>,
    /// Behind each of them: where it ends, and the line feeds up to there.
    pub(super) ends: Vec<(u64, u64)>,
    /// Behind the whole piece.
    pub(super) end: u64,
    /// Line feeds in the piece; those of half lines too.
    pub(super) count: u64,
}

impl Span {
    /// Takes another range of the same file in, if it follows.
    pub(super) fn join(&mut self, other: &Self) -> bool {
        let follows = Arc::ptr_eq(&self.file, &other.file) && self.to == other.from;
        if follows {
            self.to = other.to;
            self.lines += other.lines;
        }
        follows
    }

    /// Its first lines; half a line, which a crash left, is passed by. `base` is the log as
    /// configured.
    pub(super) fn read(&self, base: &Path) -> io::Result<Piece> {
        let mut wanted = BATCH;
        loop {
            let length = (self.to - self.from).min(wanted);
            let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
            self.file.read_exact_at(&mut bytes, self.from)?;
            let piece = self.piece(base, &bytes);
            if piece.count > 0 || length == self.to - self.from {
                return Ok(piece);
            }
            wanted *= 4;
        }
    }

    fn piece(&self, base: &Path, bytes: &[u8]) -> Piece {
        let mut piece = Piece { lines: Vec::new(), ends: Vec::new(), end: self.from, count: 0 };
        for raw in bytes.split_inclusive(|byte| *byte == b'\n') {
            let Some(line) = raw.strip_suffix(b"\n") else { break };
            piece.end += raw.len() as u64;
            piece.count += 1;
            if let Ok(read) = Line::read(line) {
                let named = read.entry.subjects_sha256.as_ref();
                let subjects = named.and_then(|name| side_file::bytes(base, name).ok());
                piece.lines.push(CopiedLine { line: read, bytes: line.to_vec(), subjects });
                piece.ends.push((piece.end, piece.count));
            }
            if piece.lines.len() == BATCH_LINES {
                break;
            }
        }
        if piece.count == 0 && piece.end + bytes.len() as u64 == self.to {
            // Half a line that nothing follows.
            piece.end = self.to;
        }
        piece
    }
}

/// What a place has of a log: `chain seq end`, at a fixed length, beside the file. It is no proof:
/// one that is lost only means that lines are copied again, or that what was written before this
/// place was configured is not.
pub(super) struct Mark {
    chain: Hex<16>,
    seq: u64,
    /// Behind the line's line feed.
    end: u64,
}

fn mark_path(slot: &Path, sink: &str) -> PathBuf {
    file::with_suffix(slot, &format!(".copied-{sink}"))
}

impl Mark {
    pub(super) fn of(line: &Line, end: u64) -> Self {
        Self { chain: line.chain, seq: line.seq, end }
    }

    /// Writes it in place: that needs no room on a full disk. A write that fails costs that lines
    /// are copied again.
    pub(super) fn write(&self, slot: &Path, sink: &str) {
        let text = format!("{} {:020} {:020}\n", self.chain, self.seq, self.end);
        let path = mark_path(slot, sink);
        let file =
            fs::OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let _ = file.and_then(|file| file.write_all_at(text.as_bytes(), 0));
    }

    fn read(slot: &Path, sink: &str) -> Option<Self> {
        let text = fs::read_to_string(mark_path(slot, sink)).ok()?;
        let mut words = text.split_whitespace();
        Some(Self {
            chain: words.next()?.parse().ok()?,
            seq: words.next()?.parse().ok()?,
            end: words.next()?.parse().ok()?,
        })
    }

    /// Whether the line that it names ends there in this file.
    fn is_in(&self, file: &File) -> io::Result<bool> {
        if file.metadata()?.len() < self.end {
            return Ok(false);
        }
        let mut wanted: u64 = 16 << 10;
        loop {
            let from = self.end.saturating_sub(wanted);
            let mut bytes = vec![0; usize::try_from(self.end - from).map_err(io::Error::other)?];
            file.read_exact_at(&mut bytes, from)?;
            let Some(line) = bytes.strip_suffix(b"\n") else { return Ok(false) };
            let start = line.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1);
            if start.is_none() && from > 0 {
                wanted *= 8;
                continue;
            }
            let line = Line::read(&line[start.unwrap_or(0)..]);
            return Ok(line.is_ok_and(|line| line.chain == self.chain && line.seq == self.seq));
        }
    }
}

/// What a place lacks of the files that were written under this name. Nothing, where it has no mark
/// or the file of its mark is gone.
pub(super) fn lacking(slot: &Path, sink: &str) -> io::Result<Vec<Span>> {
    let Some(mark) = Mark::read(slot, sink) else { return Ok(Vec::new()) };
    let mut spans = Vec::new();
    // The newest first: the mark is in one of the last most of the time.
    for path in file::of_slot(slot)?.into_iter().rev() {
        let opened = File::open(&path)?;
        let is_marked = mark.is_in(&opened)?;
        let span = whole(opened, slot, if is_marked { mark.end } else { 0 })?;
        if span.lines > 0 {
            spans.push(span);
        }
        if is_marked {
            spans.reverse();
            return Ok(spans);
        }
    }
    Ok(Vec::new())
}

/// A file from there to its last line feed.
fn whole(file: File, slot: &Path, from: u64) -> io::Result<Span> {
    let (mut to, mut lines, mut at) = (from, 0, from);
    let mut bytes = vec![0; 1 << 16];
    loop {
        let read = file.read_at(&mut bytes, at)?;
        if read == 0 {
            return Ok(Span { file: Arc::new(file), slot: slot.into(), from, to, lines });
        }
        for (n, _) in (1..).zip(&bytes[..read]).filter(|(_, byte)| **byte == b'\n') {
            (to, lines) = (at + n, lines + 1);
        }
        at += read as u64;
    }
}
