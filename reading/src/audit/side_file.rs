//! Files beside the log, named by their hash: the references of a bulk read, and sets of policies.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use veilstream_engine::key::SubjectRef;
use veilstream_keys::erasure::hex;
use veilstream_keys::files::{create_private, sync_folder_of};

use super::file::with_suffix;
use super::hex::Hex;

/// The side file of a hash, beside the log `base`.
pub(super) fn path(base: &Path, sha256: &Hex<32>) -> PathBuf {
    with_suffix(base, &format!(".subjects-{sha256}"))
}

/// References of a bulk read, on their way into their file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct References {
    /// Of 16 bytes each, sorted and each once.
    bytes: Vec<u8>,
    pub(super) sha256: Hex<32>,
}

impl References {
    pub(super) fn new(mut subjects: Vec<SubjectRef>) -> Self {
        subjects.sort_unstable();
        subjects.dedup();
        let bytes: Vec<u8> = subjects.iter().flat_map(|subject| subject.0).collect();
        let sha256 = Hex(Sha256::digest(&bytes).into());
        Self { bytes, sha256 }
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.bytes.len() as u64 / 16
    }

    /// Writes the file beside the log `base`. Durable when it returns.
    pub(super) fn write(&self, base: &Path) -> io::Result<()> {
        let place = path(base, &self.sha256);
        // A file of this name was renamed to it when it was whole.
        if place.exists() { Ok(()) } else { write_whole(base, &place, &self.bytes) }
    }
}

/// Writes a set of policies; its hash. Durable when it returns. It is named `<file>.policy-<hash>`.
pub(super) fn write_policy(base: &Path, document: &str) -> io::Result<Hex<32>> {
    let sha256 = Hex(Sha256::digest(document).into());
    let place = with_suffix(base, &format!(".policy-{sha256}"));
    if !place.exists() {
        write_whole(base, &place, document.as_bytes())?;
    }
    Ok(sha256)
}

/// The references of a side file, if it is what its name says.
pub(super) fn read(base: &Path, sha256: &Hex<32>) -> io::Result<Vec<SubjectRef>> {
    let bytes = bytes(base, sha256)?;
    Ok(bytes.as_chunks::<16>().0.iter().map(|bytes| SubjectRef(*bytes)).collect())
}

/// The same as the bytes of the file.
pub(super) fn bytes(base: &Path, sha256: &Hex<32>) -> io::Result<Vec<u8>> {
    let bytes = fs::read(path(base, sha256))?;
    let (refs, rest) = bytes.as_chunks::<16>();
    let is_sorted = refs.windows(2).all(|pair| pair[0] < pair[1]);
    if <[u8; 32]>::from(Sha256::digest(&bytes)) != sha256.0 || !rest.is_empty() || !is_sorted {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its content was changed"));
    }
    Ok(bytes)
}

fn write_whole(base: &Path, place: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let draft = with_suffix(base, &format!(".draft-{}", hex(&random)));
    let written = (|| {
        let mut file = create_private(&draft)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&draft, place)?;
        sync_folder_of(place)
    })();
    if written.is_err() {
        // A draft that stays is in nobody's way; the error is the one that counts.
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_sorted_and_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("audit.jsonl");
        let refs = References::new([3, 1, 2, 3].map(|n| SubjectRef([n; 16])).to_vec());
        let sha256 = refs.sha256;
        assert_eq!(refs.count(), 3);
        refs.write(&base).unwrap();
        refs.write(&base).unwrap();
        assert_eq!(read(&base, &sha256).unwrap(), [1, 2, 3].map(|n| SubjectRef([n; 16])));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no draft stays");
        fs::write(path(&base, &sha256), [0; 48]).unwrap();
        assert!(read(&base, &sha256).is_err());
    }

    #[test]
    fn a_set_of_policies_is_kept_once_under_its_hash() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("audit.jsonl");
        let hash = write_policy(&base, "{}").unwrap();
        assert_eq!(write_policy(&base, "{}").unwrap(), hash);
        let place = dir.path().join(format!("audit.jsonl.policy-{hash}"));
        assert_eq!(fs::read_to_string(place).unwrap(), "{}");
        assert!(super::super::file::files(&base).unwrap().is_empty(), "it is no file of lines");
    }
}
