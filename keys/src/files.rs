//! New files and folders: private from the start, and durable under their names.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes a file that its owner alone may read (mode 0600), to write to. Never touches one that is
/// there.
///
/// # Errors
/// [`io::Error`]: it is there, or cannot be made.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Makes the folder that `file` will stand in, mode 0700, unless it is there.
///
/// # Errors
/// [`io::Error`]: the folder cannot be made.
pub fn create_folder_of(file: &Path) -> io::Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => {
            DirBuilder::new().recursive(true).mode(0o700).create(folder)
        }
        _ => Ok(()),
    }
}

/// The folder that `file` stands in.
#[must_use]
pub fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a new name of `file` survive a crash, or that it is gone.
///
/// # Errors
/// [`io::Error`]: the folder cannot be opened or synced.
pub fn sync_folder_of(file: &Path) -> io::Result<()> {
    File::open(folder_of(file))?.sync_all()
}
