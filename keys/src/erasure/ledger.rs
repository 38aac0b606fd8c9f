//! Who was erased, written down outside the key store: what a restored backup brings back is erased
//! again by it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use veilstream_engine::key::{KeyId, SubjectRef};

use super::line::Position;
use crate::files::sync_folder_of;

/// What a line of the ledger says of one data subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// When it was asked for, in Unix seconds.
    pub time: u64,
    /// Tenant of the destroyed keys.
    pub tenant: String,
    /// The domain that the subject's id counts in; `None`: the one without a name.
    pub domain: Option<String>,
    /// Reference of the data subject.
    pub subject: SubjectRef,
    /// The keys that were destroyed, sorted, each once.
    pub kids: Vec<KeyId>,
    /// Whether a later record gets a new key.
    pub may_return: bool,
    /// Why, in words that name nobody.
    pub reason: String,
}

/// An erasure with the place of its line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// Number and hash of its line.
    pub position: Position,
    /// What the line says.
    pub erasure: Erasure,
}

/// Where erasures are written down: lines, none of which is ever changed. Blocks; what returns `Ok`
/// is durable.
pub trait Ledger: Send + Sync {
    /// File, topic or table, for messages; without secrets.
    fn place(&self) -> String;

    /// The whole lines from number `from` on, without their line feeds. What stands behind the last
    /// line feed had no effect and is left out.
    ///
    /// # Errors
    /// [`LedgerError`].
    fn read(&self, from: u64) -> Result<Vec<Vec<u8>>, LedgerError>;

    /// Adds lines behind the first `count`; half a line that stands there is cut off.
    ///
    /// # Errors
    /// [`LedgerError::Moved`]: there are more or fewer lines, and nothing was added. Any other:
    /// they may have been added.
    fn append(&self, count: u64, lines: &[String]) -> Result<(), LedgerError>;

    /// Sets aside what is there and begins again with these lines; where the old one is, if there
    /// was one.
    ///
    /// # Errors
    /// [`LedgerError`].
    fn replace(&self, lines: &[String], now: u64) -> Result<Option<String>, LedgerError>;
}

/// What is wrong with a line of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is no line of form 2 in its canonical form.
    #[error("is no line of form 2")]
    Form,
    /// It has another number than its place.
    #[error("has another number (seq) than its place")]
    Seq,
    /// It is of another store's ledger.
    #[error("is of another store's ledger")]
    Store,
    /// It does not name the line before it.
    #[error("does not follow the line before it (prev)")]
    Prev,
    /// Its MAC does not hold.
    #[error("was not written under this store's key (mac)")]
    Mac,
    /// The store's head names another line in its place.
    #[error("is another line than the key store's head names")]
    Head,
    /// It is not there.
    #[error("is missing")]
    Missing,
}

/// The erasure ledger cannot be read, extended or believed.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read or written.
    #[error("erasure ledger {place}: {message}")]
    Unusable {
        /// [`Ledger::place`].
        place: String,
        /// The cause, and what to do where somebody can do something.
        message: String,
    },
    /// A line is not what this program wrote.
    #[error(
        "erasure ledger {place}: line {line} {why} (lines count from 0). Restore the ledger from \
        its copy: an erasure must not be forgotten. If it is lost: `veilstream keys ledger rebuild \
        --reason TEXT`"
    )]
    Wrong {
        /// [`Ledger::place`].
        place: String,
        /// The first line that is not as it should be, from 0.
        line: u64,
        /// The first thing that does not hold of the line.
        why: Wrong,
    },
    /// The store's head is not what this program wrote.
    #[error(
        "key store {place}: its head (the last line of the erasure ledger that it knows) was \
        changed; restore the store from a backup"
    )]
    Head {
        /// `Store::place`.
        place: String,
    },
    /// Somebody else added lines, or took some away.
    #[error("erasure ledger {place}: another process wrote to it at the same time; run it again")]
    Moved {
        /// [`Ledger::place`].
        place: String,
    },
    /// It is there already.
    #[error(
        "erasure ledger {place}: is there already; nothing was changed. Name another place as \
        keys.ledger, or keep it for the store it belongs to"
    )]
    Exists {
        /// [`Ledger::place`].
        place: String,
    },
}

/// A file of JSON lines. Mode 0600.
pub struct FileLedger(PathBuf);

impl FileLedger {
    /// The file at `path`.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn unusable(&self, error: &io::Error) -> LedgerError {
        LedgerError::Unusable { place: self.place(), message: error.to_string() }
    }

    fn add(&self, count: u64, lines: &[String]) -> io::Result<bool> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(count == 0)
            .truncate(false)
            .mode(0o600)
            .open(&self.0)?;
        file.lock()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        if whole(&bytes).count() as u64 != count {
            return Ok(false);
        }
        let end = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1) as u64;
        file.set_len(end)?;
        file.seek(SeekFrom::Start(end))?;
        file.write_all(text_of(lines).as_bytes())?;
        file.sync_all()?;
        sync_folder_of(&self.0)?;
        Ok(true)
    }

    fn rewrite(&self, lines: &[String], now: u64) -> io::Result<Option<PathBuf>> {
        let beside = |suffix: String| {
            let mut name = self.0.clone().into_os_string();
            name.push(suffix);
            PathBuf::from(name)
        };
        let (new, old) = (beside(".new".to_owned()), beside(format!(".replaced-{now}")));
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text_of(lines).as_bytes())?;
        file.sync_all()?;
        let kept = self.0.exists();
        if kept {
            std::fs::rename(&self.0, &old)?;
        }
        std::fs::rename(&new, &self.0)?;
        sync_folder_of(&self.0)?;
        Ok(kept.then_some(old))
    }
}

impl Ledger for FileLedger {
    fn place(&self) -> String {
        self.0.display().to_string()
    }

    fn read(&self, from: u64) -> Result<Vec<Vec<u8>>, LedgerError> {
        let read = || {
            let mut file = File::open(&self.0)?;
            file.lock_shared()?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        match read() {
            Ok(bytes) => Ok(whole(&bytes)
                .skip(usize::try_from(from).unwrap_or(usize::MAX))
                .map(<[u8]>::to_vec)
                .collect()),
            Err(e) if io::Error::kind(&e) == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(self.unusable(&e)),
        }
    }

    fn append(&self, count: u64, lines: &[String]) -> Result<(), LedgerError> {
        match self.add(count, lines) {
            Ok(true) => Ok(()),
            Ok(false) if count == 0 => Err(LedgerError::Exists { place: self.place() }),
            Ok(false) => Err(LedgerError::Moved { place: self.place() }),
            Err(error) => Err(self.unusable(&error)),
        }
    }

    fn replace(&self, lines: &[String], now: u64) -> Result<Option<String>, LedgerError> {
        let kept = self.rewrite(lines, now).map_err(|error| self.unusable(&error))?;
        Ok(kept.map(|path| path.display().to_string()))
    }
}

/// The lines that have their line feed.
fn whole(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.split_inclusive(|byte| *byte == b'\n').filter_map(|line| line.strip_suffix(b"\n"))
}

fn text_of(lines: &[String]) -> String {
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> (tempfile::TempDir, FileLedger) {
        let dir = tempfile::tempdir().unwrap();
        let ledger = FileLedger::new(dir.path().join("erasures.jsonl"));
        (dir, ledger)
    }

    fn lines(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, ledger) = ledger();
        assert!(ledger.read(0).unwrap().is_empty());
        ledger.append(0, &lines(&["a"])).unwrap();
        ledger.append(1, &lines(&["b", "c"])).unwrap();
        assert_eq!(ledger.read(1).unwrap(), [b"b".to_vec(), b"c".to_vec()]);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&ledger.0).unwrap());
        assert_eq!(mode & 0o7777, 0o600);
        assert!(matches!(ledger.append(2, &lines(&["d"])), Err(LedgerError::Moved { .. })));
        assert!(matches!(ledger.append(0, &lines(&["a"])), Err(LedgerError::Exists { .. })));
        assert_eq!(ledger.read(0).unwrap().len(), 3);
    }

    #[test]
    fn half_a_line_is_cut_off_by_the_next() {
        let (_dir, ledger) = ledger();
        ledger.append(0, &lines(&["a", "b"])).unwrap();
        std::fs::write(&ledger.0, "a\nb\nhalf").unwrap();
        assert_eq!(ledger.read(0).unwrap().len(), 2);
        ledger.append(2, &lines(&["c"])).unwrap();
        assert_eq!(std::fs::read_to_string(&ledger.0).unwrap(), "a\nb\nc\n");
    }

    #[test]
    fn what_is_replaced_is_kept() {
        let (_dir, ledger) = ledger();
        assert_eq!(ledger.replace(&lines(&["a"]), 7).unwrap(), None);
        let kept = ledger.replace(&lines(&["b"]), 8).unwrap().unwrap();
        assert_eq!(
            (std::fs::read_to_string(kept).unwrap().as_str(), ledger.read(0).unwrap()),
            ("a\n", vec![b"b".to_vec()])
        );
    }
}
