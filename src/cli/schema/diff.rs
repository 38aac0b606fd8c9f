//! `veilstream schema diff`: what a later version of documents protects less.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use veilstream_engine::compile::{Grants, SchemaSet};

use crate::exit::Exit;
use crate::registry;

/// Compares the documents of the same names.
///
/// # Errors
/// Faults of the documents; a stream that fails.
pub(super) fn diff(
    old: &Path,
    new: &Path,
    allow_weaker: bool,
    out: &mut impl Write,
) -> anyhow::Result<Exit> {
    let (before, after) = (load(old)?, load(new)?);
    let mut found = after.refused_changes(&before);
    let never = found.len();
    found.extend(after.weaker_than(&before));
    for fault in &found {
        writeln!(out, "weaker: {fault}")?;
    }
    if found.is_empty() {
        writeln!(out, "protects as much as before")?;
    }
    Ok(if never > 0 || !(found.is_empty() || allow_weaker) { Exit::Failed } else { Exit::Ok })
}

fn load(path: &Path) -> anyhow::Result<Arc<SchemaSet>> {
    let files: Result<Vec<PathBuf>, _> =
        if path.is_dir() { registry::documents_in(path) } else { Ok(vec![path.to_owned()]) };
    files
        .and_then(|files| registry::open_files(&files, &Grants::local()))
        .map(|loaded| loaded.set)
        .map_err(|faults| crate::cli::faults_error(&faults))
}
