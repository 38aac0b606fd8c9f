//! The local key directory: `DIR/kek`, `DIR/keys.db`, and `DIR.erasures.jsonl` beside it
//! (docs/formats.md, "The key directory on disk"); keys of other systems, where there are some.

use std::path::{Path, PathBuf};

/// The key-encrypting keys of a key directory.
#[must_use]
pub fn kek(dir: &Path) -> PathBuf {
    dir.join("kek")
}

/// The key store of a key directory.
#[must_use]
pub fn store(dir: &Path) -> PathBuf {
    dir.join("keys.db")
}

/// Fernet keys of a key directory, where schemas have fields in that form.
#[must_use]
pub fn fernet_keys(dir: &Path) -> PathBuf {
    dir.join("fernet.keys")
}

/// Passphrases of pgcrypto of a key directory, where schemas have fields in that form.
#[must_use]
pub fn passphrases(dir: &Path) -> PathBuf {
    dir.join("pgcrypto.passphrases")
}

/// The erasure ledger of a key directory: beside it, not in it, so that a copy of the directory put
/// back does not take the ledger back with it.
#[must_use]
pub fn ledger(dir: &Path) -> PathBuf {
    // `.` has no name to stand beside.
    let dir = if dir.file_name().is_some() {
        dir.to_owned()
    } else {
        dir.canonicalize().unwrap_or_else(|_| dir.to_owned())
    };
    let mut name = dir.file_name().unwrap_or_default().to_owned();
    name.push(".erasures.jsonl");
    dir.with_file_name(name)
}
