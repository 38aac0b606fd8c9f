//! A log that is followed: its lines as they come, whatever becomes of its files.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::line::Line;
use super::{AuditError, file};

/// Bytes that are read at once.
const CHUNK: u64 = 1 << 20;

/// Follows the files of a log. A file is known by what it is, not by its name: it is renamed when
/// it ends, and the next chain has another one.
pub struct Follower {
    base: PathBuf,
    files: HashMap<Identity, Followed>,
}

/// Device and inode.
type Identity = (u64, u64);

struct Followed {
    name: PathBuf,
    file: File,
    /// Behind the last whole line that was given out.
    at: u64,
}

impl Follower {
    /// Follows the log that is configured as `base`, from its oldest line on. It need not be there
    /// yet.
    #[must_use]
    pub fn new(base: &Path) -> Self {
        Self { base: base.to_owned(), files: HashMap::new() }
    }

    /// Gives out every whole line that came since the last time, file by file, and in each in its
    /// order. Half a line is left for later.
    ///
    /// # Errors
    /// A file cannot be read, or what `each` says.
    pub fn poll<E: From<AuditError>>(
        &mut self,
        mut each: impl FnMut(&[u8], Line) -> Result<(), E>,
    ) -> Result<(), E> {
        self.look().map_err(|error| AuditError::read(&self.base, error))?;
        let mut files: Vec<&mut Followed> = self.files.values_mut().collect();
        files.sort_by(|a, b| a.name.cmp(&b.name));
        for followed in files {
            loop {
                let read = followed.read();
                let bytes = read.map_err(|error| AuditError::read(&followed.name, error))?;
                if bytes.is_empty() {
                    break;
                }
                for line in bytes.split(|byte| *byte == b'\n') {
                    if let Ok(read) = Line::read(line) {
                        each(line, read)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Finds the files that are there now.
    fn look(&mut self) -> io::Result<()> {
        let mut there = HashMap::new();
        for name in file::files(&self.base)? {
            let file = match File::open(&name) {
                Ok(file) => file,
                // Renamed in between: the next look finds it under its new name.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let metadata = file.metadata()?;
            let identity = (metadata.dev(), metadata.ino());
            let followed = match self.files.remove(&identity) {
                Some(known) => Followed { name, ..known },
                None => {
                    // Written again without old lines (`audit prune`): nothing in it is new.
                    let is_rewritten = file::is_ended(&name)
                        && self.files.values().any(|known| known.name == name);
                    let at = if is_rewritten { metadata.len() } else { 0 };
                    Followed { name, file, at }
                }
            };
            there.insert(identity, followed);
        }
        // What was renamed away and is not found under its new name yet may still hold lines.
        for (identity, gone) in self.files.drain() {
            if !file::is_ended(&gone.name) {
                there.entry(identity).or_insert(gone);
            }
        }
        self.files = there;
        Ok(())
    }
}

impl Followed {
    /// Whole lines behind the last ones; empty: there are none.
    fn read(&mut self) -> io::Result<Vec<u8>> {
        // Cut back to what is durable, after a write that failed.
        self.at = self.at.min(self.file.metadata()?.len());
        let mut wanted = CHUNK;
        loop {
            self.file.seek(SeekFrom::Start(self.at))?;
            let mut bytes = Vec::new();
            (&self.file).take(wanted).read_to_end(&mut bytes)?;
            if let Some(end) = bytes.iter().rposition(|byte| *byte == b'\n') {
                bytes.truncate(end + 1);
                self.at += bytes.len() as u64;
                return Ok(bytes);
            }
            if (bytes.len() as u64) < wanted {
                return Ok(Vec::new());
            }
            wanted *= 4;
        }
    }
}
