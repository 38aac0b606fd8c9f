//! The local key directory: `DIR/kek` and `DIR/keys.db` (docs/formats.md, "On disk").

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use crate::provider::create_kek_file;

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

/// Makes the directory (mode 0700, if it is not there) and a fresh `kek` in it; the store is made by whoever calls.
///
/// # Errors
/// It cannot be made, or holds a `kek` or a store already: neither is ever replaced.
pub fn create(dir: &Path) -> io::Result<()> {
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    // A new key beside an old store would open none of it.
    if store(dir).exists() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it holds keys already (keys.db)"));
    }
    create_kek_file(&kek(dir))
}
