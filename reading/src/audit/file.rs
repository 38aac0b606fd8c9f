//! The files of a log: which one a process writes, and how it ends.
//!
//! `<file>`, and `<file>.1` to `.63` for processes that find it locked, are written to. A file that
//! ended is renamed to `<name>.ended-<day>-<its last chain>`.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use veilstream_keys::files::{folder_of, sync_folder_of};
use veilstream_keys::time;

use super::hex::Hex;
use super::line::{LedgerHead, Line, Predecessor};

/// Files that are written to at once, at most.
const SLOTS: usize = 64;
const ENDED: &str = ".ended-";
/// How a file's first line begins: its members stand in order.
const FIRST: &[u8] = b"{\"actor\":";
/// Bytes that are looked at first for a file's last line.
const TAIL: u64 = 64 << 10;

/// A file that this process has locked and appends to.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// The same to read from: it outlives the lock, for lines that are still to be copied.
    reader: Arc<File>,
    /// Tells it from another file that takes its place.
    ino: u64,
    /// Bytes that are durable.
    len: u64,
}

/// How a file ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// Its last whole line.
    pub(super) last: Predecessor,
    /// When that was written, in Unix seconds.
    pub(super) seconds: u64,
    /// A line feed is missing at its end.
    pub(super) is_open: bool,
    /// Heads of erasure ledgers that the lines near the end name.
    pub(super) heads: Vec<LedgerHead>,
}

impl Tail {
    /// Whether a line knows more of a ledger than its head says, or another line of its number.
    pub(super) fn is_ahead_of(&self, head: &LedgerHead) -> bool {
        self.heads.iter().any(|known| known.is_ahead_of(head))
    }
}

impl LogFile {
    /// The first file of the log that nobody else writes to; made where it is not there.
    pub(super) fn acquire(base: &Path) -> io::Result<Self> {
        for slot in 0..SLOTS {
            if let Some(file) = Self::lock(&numbered(base, slot))? {
                return Ok(file);
            }
        }
        Err(io::Error::other(format!(
            "{SLOTS} processes write to it already; give this one a file of its own (audit.file)"
        )))
    }

    /// `None`: another process has it.
    fn lock(path: &Path) -> io::Result<Option<Self>> {
        loop {
            let file =
                OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
            if !file.metadata()?.is_file() {
                return Err(io::Error::other("it is no regular file; name another audit.file"));
            }
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // Its owner may have renamed it between the two calls.
            if standing(path, file.metadata()?.ino()).is_some() {
                sync_folder_of(path)?;
                return Self::of(path.to_owned(), file).map(Some);
            }
        }
    }

    fn of(path: PathBuf, file: File) -> io::Result<Self> {
        let (reader, opened) = (Arc::new(File::open(&path)?), file.metadata()?);
        Ok(Self { path, file, reader, ino: opened.ino(), len: opened.len() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// To read what was written.
    pub(super) fn reader(&self) -> Arc<File> {
        self.reader.clone()
    }

    /// Its durable bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How it ends; `None`: it has no whole line.
    pub(super) fn tail(&mut self) -> io::Result<Option<Tail>> {
        let mut wanted = TAIL;
        loop {
            let start = self.len.saturating_sub(wanted);
            self.file.seek(SeekFrom::Start(start))?;
            let mut bytes = Vec::new();
            (&self.file).take(self.len - start).read_to_end(&mut bytes)?;
            if let Some(tail) = last_line(&bytes) {
                return Ok(Some(tail));
            }
            if start == 0 {
                return Ok(None);
            }
            wanted *= 8;
        }
    }

    /// Empties a file that holds nothing but the beginning of a first line: its writer was killed,
    /// and nobody relied on it. Whether it was one.
    pub(super) fn clear_half_line(&mut self) -> io::Result<bool> {
        self.file.seek(SeekFrom::Start(0))?;
        let mut bytes = Vec::new();
        (&self.file).take(TAIL).read_to_end(&mut bytes)?;
        let is_half = bytes.len() as u64 == self.len
            && !bytes.contains(&b'\n')
            && (bytes.starts_with(FIRST) || FIRST.starts_with(&bytes));
        if is_half {
            self.file.set_len(0)?;
            self.len = 0;
        }
        Ok(is_half)
    }

    /// Appends, and returns when it is durable in the place where it is looked for.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_data()?;
        let len = self.len + bytes.len() as u64;
        // A rotation of log files, or a hand: what is written now would be looked for in vain.
        let why = match standing(&self.path, self.ino) {
            Some(there) if there.len() == len => {
                self.len = len;
                return Ok(());
            }
            Some(_) => "was written to or cut by somebody else",
            None => "was moved or removed",
        };
        let grown = self.file.metadata()?.len();
        self.file.set_len(grown.saturating_sub(bytes.len() as u64))?;
        Err(io::Error::other(format!(
            "it {why}, and the log goes on in a new file; `audit verify` tells what is missing, and \
            `audit prune` removes old files"
        )))
    }

    /// Takes away what a failed [`LogFile::write`] may have left. Nobody was told that it is there.
    /// Whether some of it stays.
    pub(super) fn take_back(&mut self) -> bool {
        let is_longer = self.file.metadata().map_or(true, |file| file.len() > self.len);
        is_longer && self.file.set_len(self.len).is_err()
    }

    /// Renames it: nobody writes to it any more. On an error it is still in its place. Where somebody
    /// else has moved it, it stays there.
    pub(super) fn end(&self, chain: &Hex<16>, now: u64) -> io::Result<()> {
        if standing(&self.path, self.ino).is_none() {
            return Ok(());
        }
        let day: String = time::text(now).chars().take(10).collect();
        let ended = with_suffix(&self.path, &format!("{ENDED}{day}-{chain}"));
        fs::rename(&self.path, &ended)?;
        sync_folder_of(&ended)
    }

    /// Removes it, where it holds nothing.
    pub(super) fn discard(self) -> io::Result<()> {
        let is_there = self.len == 0 && standing(&self.path, self.ino).is_some();
        if is_there { fs::remove_file(&self.path) } else { Ok(()) }
    }

    /// The end of the newest file that ended in this one's place.
    pub(super) fn last_ended(&self) -> io::Result<Option<Predecessor>> {
        let Some(path) = ended(&self.path)?.pop() else { return Ok(None) };
        let file = File::open(&path)?;
        Ok(Self::of(path, file)?.tail()?.map(|tail| tail.last))
    }
}

/// What stands at a path, if it is the file of this number.
fn standing(path: &Path, ino: u64) -> Option<fs::Metadata> {
    fs::metadata(path).ok().filter(|there| there.ino() == ino)
}

/// The files that ended in the place of this one, the oldest first.
fn ended(slot: &Path) -> io::Result<Vec<PathBuf>> {
    let prefix = with_suffix(slot, ENDED);
    let mut ended: Vec<(std::time::SystemTime, PathBuf)> = Vec::new();
    for path in files(slot)? {
        if path.as_os_str().as_encoded_bytes().starts_with(prefix.as_os_str().as_encoded_bytes()) {
            ended.push((fs::metadata(&path)?.modified()?, path));
        }
    }
    ended.sort();
    Ok(ended.into_iter().map(|(_, path)| path).collect())
}

/// The files that were written under a name: those that ended, the oldest first, and the present
/// one.
pub(super) fn of_slot(slot: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = ended(slot)?;
    if slot.exists() {
        files.push(slot.to_owned());
    }
    Ok(files)
}

/// The last whole line among these bytes, which end where the file does.
fn last_line(bytes: &[u8]) -> Option<Tail> {
    let is_open = bytes.last().is_some_and(|byte| *byte != b'\n');
    let mut torn = false;
    for line in bytes.rsplit(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let Ok(read) = Line::read(line) else {
            torn = true;
            continue;
        };
        let seconds = read.seconds();
        let sha256 = Hex(Line::hash(line));
        let last = Predecessor { chain: read.chain, seq: read.seq, sha256, torn };
        return Some(Tail { last, seconds, is_open, heads: heads(bytes) });
    }
    None
}

/// The heads that these lines name.
fn heads(bytes: &[u8]) -> Vec<LedgerHead> {
    const MEMBER: &[u8] = b"\"ledger\":{";
    let lines = bytes.split(|byte| *byte == b'\n');
    lines
        .filter(|line| line.windows(MEMBER.len()).any(|window| window == MEMBER))
        .filter_map(|line| Line::read(line).ok()?.entry.ledger)
        .collect()
}

/// The files of a log that are there: those that are written to, then those that ended; each group
/// by name.
pub(super) fn files(base: &Path) -> io::Result<Vec<PathBuf>> {
    let name = base.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut found = Vec::new();
    for entry in fs::read_dir(folder_of(base))? {
        let path = entry?.path();
        let other = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(rest) = other.strip_prefix(&name) else { continue };
        let (slot, ended) = rest.split_once(ENDED).map_or((rest, false), |(slot, _)| (slot, true));
        let is_slot = slot.is_empty()
            || slot.strip_prefix('.').is_some_and(|n| {
                n.parse().is_ok_and(|n: usize| (1..SLOTS).contains(&n) && format!(".{n}") == slot)
            });
        if is_slot {
            found.push((ended, other, path));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, _, path)| path).collect())
}

/// Whether nobody writes to a file of a log any more.
pub(super) fn is_ended(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains(ENDED))
}

fn numbered(base: &Path, slot: usize) -> PathBuf {
    if slot == 0 { base.to_owned() } else { with_suffix(base, &format!(".{slot}")) }
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}
