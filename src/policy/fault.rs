//! What is wrong with a set of policies.

use std::fmt;
use std::path::{Path, PathBuf};

/// One fault: where it is and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct PolicyFault {
    /// The policy's file; for a fault of the directory itself, the directory.
    pub file: PathBuf,
    /// Line of the cause, from 1; `None`: the whole file.
    pub line: Option<usize>,
    /// What is wrong and what to write instead.
    pub message: String,
}

impl PolicyFault {
    /// A fault of a whole file or directory.
    pub(super) fn whole(file: &Path, message: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line: None, message: message.into() }
    }

    /// A fault at an offset of a file's text.
    pub(super) fn at(file: &PolicyFile, offset: usize, message: impl Into<String>) -> Self {
        Self { file: file.path.clone(), line: Some(file.line_of(offset)), message: message.into() }
    }
}

impl fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        write!(f, ": {}", self.message)
    }
}

/// A file of policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PolicyFile {
    /// Its path, for messages; its name counts in the snapshot's hash.
    pub path: PathBuf,
    /// Policies in Cedar's syntax.
    pub text: String,
}

impl PolicyFile {
    /// Its name without folders.
    pub(super) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Line of a byte offset, from 1.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        let before = self.text.as_bytes().get(..offset).unwrap_or(self.text.as_bytes());
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// The files of a directory that hold policies by their name (`*.cedar`), sorted; never empty.
///
/// # Errors
/// The directory or a file cannot be read, or there is none.
pub fn read_dir(dir: &Path) -> Result<Vec<PolicyFile>, Vec<PolicyFault>> {
    let unreadable = |path: &Path, error: &std::io::Error, what: &str| {
        PolicyFault::whole(path, format!("cannot be read ({error}); {what}"))
    };
    let entries = std::fs::read_dir(dir)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| vec![unreadable(dir, &e, "name the folder of the policies")])?;
    let is_policy = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(".cedar") && !name.starts_with('.')
    };
    let mut paths: Vec<PathBuf> =
        entries.into_iter().map(|entry| entry.path()).filter(is_policy).collect();
    paths.sort();
    if paths.is_empty() {
        let message = "holds no policy; put one in, as <name>.cedar";
        return Err(vec![PolicyFault::whole(dir, message)]);
    }
    let (mut files, mut faults) = (Vec::new(), Vec::new());
    for path in paths {
        // A folder or a dangling link of such a name is a fault: it may have been a `forbid`.
        match std::fs::read_to_string(&path) {
            Ok(text) => files.push(PolicyFile { path, text }),
            Err(e) => faults.push(unreadable(&path, &e, "make it a readable file of UTF-8")),
        }
    }
    if faults.is_empty() { Ok(files) } else { Err(faults) }
}
