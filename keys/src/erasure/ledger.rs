//! Who was erased, written down outside the key store: what a restored backup brings back is erased again by it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use veilstream_engine::key::{KeyId, SubjectRef};

use crate::time;

/// One erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erasure {
    /// Unix seconds.
    pub time: u64,
    /// Whose keys.
    pub tenant: String,
    /// Who.
    pub subject: SubjectRef,
    /// The keys that were destroyed.
    pub kids: Vec<KeyId>,
    /// Whether a later record gets a new key.
    pub may_return: bool,
    /// Why.
    pub reason: String,
}

/// An erasure in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recorded {
    /// From 1, without gaps.
    pub position: u64,
    /// The erasure.
    pub erasure: Erasure,
}

/// Where erasures are written down. Blocks; what returns `Ok` is durable.
pub trait Ledger: Send + Sync {
    /// Where it is, for messages.
    fn place(&self) -> String;

    /// Adds erasures; their positions.
    ///
    /// # Errors
    /// [`LedgerError`]; some may have been added.
    fn append(&self, erasures: &[Erasure]) -> Result<Vec<u64>, LedgerError>;

    /// All of them, in their order.
    ///
    /// # Errors
    /// [`LedgerError`].
    fn read(&self) -> Result<Vec<Recorded>, LedgerError>;
}

/// The ledger does not do it.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// It cannot be read or written.
    #[error("erasure ledger {place}: {message}")]
    Unusable {
        /// Where it is.
        place: String,
        /// What is wrong.
        message: String,
    },
    /// It is not what this program wrote.
    #[error("erasure ledger {place}, entry {position}: {what}; restore the ledger from its copy, an erasure must not be forgotten")]
    Damaged {
        /// Where it is.
        place: String,
        /// The entry.
        position: u64,
        /// What is wrong.
        what: &'static str,
    },
}

/// An entry as a line of JSON. `prev` is the SHA-256 of the line before, 64 zeros in the first.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    veilstream_erasure: u32,
    position: u64,
    time: String,
    tenant: String,
    subject: String,
    kids: Vec<String>,
    may_return: bool,
    reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    prev: Option<String>,
}

impl Recorded {
    /// As one line of JSON, without a line feed.
    #[must_use]
    pub fn to_line(&self, prev: Option<String>) -> String {
        let Erasure { time, tenant, subject, kids, may_return, reason } = &self.erasure;
        let line = Line {
            veilstream_erasure: 1,
            position: self.position,
            time: time::text(*time),
            tenant: tenant.clone(),
            subject: subject.to_string(),
            kids: kids.iter().map(KeyId::to_string).collect(),
            may_return: *may_return,
            reason: reason.clone(),
            prev,
        };
        // Texts and numbers: nothing that could fail.
        serde_json::to_string(&line).unwrap_or_default()
    }

    /// From a line; with what it says the line before was.
    #[must_use]
    pub fn from_line(text: &str) -> Option<(Self, Option<String>)> {
        let line: Line = serde_json::from_str(text).ok().filter(|line: &Line| line.veilstream_erasure == 1)?;
        let erasure = Erasure {
            time: time::seconds(&line.time)?,
            tenant: line.tenant,
            subject: SubjectRef(line.subject.parse::<KeyId>().ok()?.0),
            kids: line.kids.iter().map(|kid| kid.parse().ok()).collect::<Option<_>>()?,
            may_return: line.may_return,
            reason: line.reason,
        };
        Some((Self { position: line.position, erasure }, line.prev))
    }
}

/// Entries that follow each other, each with the hash of the one before: one that was taken out or changed shows.
#[derive(Default)]
pub struct Chain {
    recorded: Vec<Recorded>,
    /// Hash of the last line; `None`: there is none.
    last: Option<String>,
    /// The first entry that does not follow, and why.
    damage: Option<(u64, &'static str)>,
}

impl Chain {
    /// Takes the next line, without its line feed. Nothing after one that does not follow counts.
    pub fn take(&mut self, line: &str) {
        if self.damage.is_none() {
            let position = self.recorded.len() as u64 + 1;
            match Recorded::from_line(line) {
                None => self.damage = Some((position, "is no entry")),
                Some((entry, _)) if entry.position != position => self.damage = Some((position, "has another position")),
                Some((_, prev)) if prev.as_deref() != Some(self.prev()) => self.damage = Some((position, "does not follow the entry before it")),
                Some((entry, _)) => {
                    self.recorded.push(entry);
                    self.last = Some(hash(line));
                }
            }
        }
    }

    /// What was taken.
    #[must_use]
    pub fn recorded(&self) -> &[Recorded] {
        &self.recorded
    }

    /// Lines for these erasures, to follow what was taken.
    #[must_use]
    pub fn following(&self, erasures: &[Erasure]) -> Vec<String> {
        let (mut position, mut prev) = (self.recorded.len() as u64, self.prev().to_owned());
        let line = |erasure: &Erasure| {
            position += 1;
            let line = Recorded { position, erasure: erasure.clone() }.to_line(Some(prev.clone()));
            prev = hash(&line);
            line
        };
        erasures.iter().map(line).collect()
    }

    /// # Errors
    /// [`LedgerError::Damaged`].
    pub fn check(&self, place: &str) -> Result<(), LedgerError> {
        match self.damage {
            Some((position, what)) => Err(LedgerError::Damaged { place: place.to_owned(), position, what }),
            None => Ok(()),
        }
    }

    fn prev(&self) -> &str {
        const NONE: &str = "0000000000000000000000000000000000000000000000000000000000000000";
        self.last.as_deref().unwrap_or(NONE)
    }
}

/// A file of JSON lines. Mode 0600.
pub struct FileLedger(PathBuf);

impl FileLedger {
    /// The file at `path`; it is made with the first erasure.
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn unusable(&self, error: &io::Error) -> LedgerError {
        LedgerError::Unusable { place: self.place(), message: error.to_string() }
    }

    /// What stands behind the last line feed was broken off before it was said to be written.
    fn parse(&self, text: &str) -> Result<Chain, LedgerError> {
        let mut chain = Chain::default();
        text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).for_each(|line| chain.take(line));
        chain.check(&self.place())?;
        Ok(chain)
    }
}

impl Ledger for FileLedger {
    fn place(&self) -> String {
        self.0.display().to_string()
    }

    fn append(&self, erasures: &[Erasure]) -> Result<Vec<u64>, LedgerError> {
        let open = || {
            let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&self.0)?;
            file.lock()?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok((file, text))
        };
        let (mut file, text) = open().map_err(|e| self.unusable(&e))?;
        let chain = self.parse(&text)?;
        let lines: String = chain.following(erasures).into_iter().map(|line| line + "\n").collect();
        let end = text.rfind('\n').map_or(0, |at| at + 1) as u64;
        let mut write = || {
            file.set_len(end)?;
            file.seek(SeekFrom::Start(end))?;
            file.write_all(lines.as_bytes())?;
            file.sync_all()?;
            sync_folder(&self.0)
        };
        write().map_err(|e| self.unusable(&e))?;
        Ok((1..=erasures.len()).map(|i| (chain.recorded.len() + i) as u64).collect())
    }

    fn read(&self) -> Result<Vec<Recorded>, LedgerError> {
        let read = || {
            let mut file = File::open(&self.0)?;
            file.lock_shared()?;
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            Ok(text)
        };
        match read() {
            Ok(text) => Ok(self.parse(&text)?.recorded),
            Err(e) if io::Error::kind(&e) == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(e) => Err(self.unusable(&e)),
        }
    }
}

fn hash(line: &str) -> String {
    Sha256::digest(line.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn erasure(n: u8) -> Erasure {
        Erasure {
            time: 1_795_500_000 + u64::from(n),
            tenant: "default".to_owned(),
            subject: SubjectRef([n; 16]),
            kids: vec![KeyId([n; 16])],
            may_return: false,
            reason: "asked for \"it\"\nby post".to_owned(),
        }
    }

    fn ledger() -> (tempfile::TempDir, FileLedger) {
        let dir = tempfile::tempdir().unwrap();
        let ledger = FileLedger::new(dir.path().join("erasures.jsonl"));
        (dir, ledger)
    }

    #[test]
    fn what_is_written_is_read() {
        let (_dir, ledger) = ledger();
        assert!(ledger.read().unwrap().is_empty());
        assert_eq!(ledger.append(&[erasure(1), erasure(2)]).unwrap(), [1, 2]);
        assert_eq!(ledger.append(&[erasure(3)]).unwrap(), [3]);
        let expected: Vec<Recorded> = (1..=3).map(|n| Recorded { position: u64::from(n), erasure: erasure(n) }).collect();
        assert_eq!(ledger.read().unwrap(), expected);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&ledger.0).unwrap());
        assert_eq!(mode & 0o7777, 0o600);
    }

    #[test]
    fn a_torn_last_line_was_never_written() {
        let (_dir, ledger) = ledger();
        ledger.append(&[erasure(1), erasure(2)]).unwrap();
        let whole = std::fs::read(&ledger.0).unwrap();
        for cut in [1, 40, 200] {
            std::fs::write(&ledger.0, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(ledger.read().unwrap().len(), 1, "{cut}");
        }
        assert_eq!(ledger.append(&[erasure(2)]).unwrap(), [2]);
        assert_eq!(std::fs::read(&ledger.0).unwrap(), whole);
    }

    #[test]
    fn a_changed_or_missing_line_shows() {
        let (_dir, ledger) = ledger();
        ledger.append(&[erasure(1), erasure(2), erasure(3)]).unwrap();
        let text = std::fs::read_to_string(&ledger.0).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        for (changed, position) in [
            (text.replace(&"01".repeat(16), &"04".repeat(16)), 2),
            (format!("{}\n{}\n", lines[0], lines[2]), 2),
            (format!("{}\n{}\n", lines[1], lines[2]), 1),
            (text.replace("default", ""), 2),
            (format!("\n{text}"), 1),
        ] {
            std::fs::write(&ledger.0, changed).unwrap();
            let error = ledger.read().unwrap_err().to_string();
            assert!(error.contains(&format!("entry {position}:")), "{error}");
            assert!(ledger.append(&[erasure(4)]).is_err());
        }
    }
}
