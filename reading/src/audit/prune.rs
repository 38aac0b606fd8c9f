//! Old lines removed: whole checkpointed segments of files that ended. Line 1 of a chain and the
//! checkpoint that covers the last pruned line stay, so that what follows can still be verified.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use veilstream_keys::files::sync_folder_of;

use super::file::{is_ended, with_suffix};
use super::hex::Hex;
use super::line::{Entry, Event, Line};
use super::parts::{LogParts, RawLines};
use super::{AuditError, AuditLog, side_file};

/// Chains that one line `prune` names at most.
const CHAINS: usize = 500;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Lines.
    pub lines: u64,
    /// Chains that have fewer lines now.
    pub chains: u64,
    /// Side files.
    pub side_files: u64,
}

/// Removes lines of before `before` (Unix seconds). The lines `prune` that tell of it are durable
/// before anything is removed. An interrupted run is completed by the next.
///
/// # Errors
/// The log cannot be read, or not be written.
pub fn prune(log: &AuditLog, actor: &Entry, before: u64) -> Result<Pruned, AuditError> {
    let parts = LogParts::of(log.file())?;
    let mut plan = Plan::default();
    for path in parts.files().iter().filter(|path| is_ended(path)) {
        plan.look(path, before)?;
    }
    let mut pruned = Pruned { chains: plan.kept.len() as u64, ..Pruned::default() };
    if plan.kept.is_empty() {
        return Ok(pruned);
    }
    let named: Vec<(&Hex<16>, &u64)> = plan.kept.iter().chain(&plan.earlier).collect();
    let lines = named.chunks(CHAINS).map(|chains| Entry {
        fields: chains.iter().map(|(chain, seq)| (chain.to_string(), seq.to_string())).collect(),
        outcome: Some("ok".to_owned()),
        event: Event::Prune,
        ..actor.clone()
    });
    log.append(lines.collect())?;
    for path in &plan.files {
        pruned.lines += plan.rewrite(path).map_err(|error| AuditError::read(path, error))?;
    }
    pruned.side_files = plan.remove_side_files(&parts)?;
    Ok(pruned)
}

/// What stays.
#[derive(Default)]
struct Plan {
    /// The checkpoint line that stays behind line 1, by chain.
    kept: BTreeMap<Hex<16>, u64>,
    /// Gaps of earlier runs whose lines `prune` go now.
    earlier: BTreeMap<Hex<16>, u64>,
    /// Files that get shorter.
    files: Vec<PathBuf>,
    /// Side files of lines that go.
    side_files: Vec<Hex<32>>,
}

impl Plan {
    /// Looks at an ended file: of each chain the last checkpoint of before the time.
    fn look(&mut self, path: &Path, before: u64) -> Result<(), AuditError> {
        let mut found: BTreeMap<Hex<16>, u64> = BTreeMap::new();
        each(path, |_, line| {
            // Behind a line of a later time nothing goes, whatever the clock did.
            if line.entry.event == Event::Checkpoint && line.seconds() < before && line.seq > 2 {
                found.insert(line.chain, line.seq);
            }
            Ok(())
        })?;
        let mut goes = false;
        each(path, |_, line| {
            let Some(kept) = found.get(&line.chain) else { return Ok(()) };
            if line.seq > 1 && line.seq < *kept {
                goes = true;
                self.kept.insert(line.chain, *kept);
                self.side_files.extend(line.entry.subjects_sha256);
                if line.entry.event == Event::Prune {
                    let gaps = line.entry.fields.iter();
                    self.earlier.extend(gaps.filter_map(|(chain, seq)| {
                        Some((chain.parse::<Hex<16>>().ok()?, seq.parse::<u64>().ok()?))
                    }));
                }
            }
            Ok(())
        })?;
        self.earlier.retain(|chain, _| !self.kept.contains_key(chain));
        if goes {
            self.files.push(path.to_owned());
        }
        Ok(())
    }

    /// Writes a file again without what goes; how many lines went.
    fn rewrite(&self, path: &Path) -> io::Result<u64> {
        let draft = with_suffix(path, ".pruned");
        let file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        let (mut out, mut went) = (BufWriter::new(file), 0);
        let mut lines = RawLines::open(path).map_err(io::Error::other)?;
        while let Some(raw) = lines.next().map_err(io::Error::other)? {
            let goes = Line::read(raw.bytes).is_ok_and(|line| {
                line.seq > 1 && self.kept.get(&line.chain).is_some_and(|kept| line.seq < *kept)
            });
            if goes {
                went += 1;
                continue;
            }
            out.write_all(raw.bytes)?;
            if raw.is_whole {
                out.write_all(b"\n")?;
            }
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
        fs::rename(&draft, path)?;
        sync_folder_of(path)?;
        Ok(went)
    }

    /// Removes side files that no line names any more.
    fn remove_side_files(&mut self, parts: &LogParts) -> Result<u64, AuditError> {
        parts.each(|_, _, line| {
            self.side_files.retain(|sha256| Some(*sha256) != line.entry.subjects_sha256);
            Ok(())
        })?;
        let mut removed = 0;
        for sha256 in &self.side_files {
            removed += u64::from(fs::remove_file(side_file::path(parts.base(), sha256)).is_ok());
        }
        Ok(removed)
    }
}

fn each(
    path: &Path,
    mut each: impl FnMut(&[u8], Line) -> Result<(), AuditError>,
) -> Result<(), AuditError> {
    let mut lines = RawLines::open(path)?;
    while let Some(raw) = lines.next()? {
        if let Ok(line) = Line::read(raw.bytes) {
            each(raw.bytes, line)?;
        }
    }
    Ok(())
}
