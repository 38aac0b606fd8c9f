//! Walks over a table until nothing old is left, and the sample that is opened again.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::AtomicBool;

use sha2::{Digest as _, Sha256};
use veilstream_engine::Entropy as _;
use veilstream_keys::OsEntropy;
use veilstream_keys::store::PostgresAddress;

use super::error::MigrateError;
use super::forms::{Form, Forms};
use super::target::{Target, TargetColumns};
use super::work::{Cells, Counts, Migration, Stays};
use crate::keys::KeySource;
use crate::progress::Progress;
use crate::rows::{Compare, Layout, Table, WalkOptions, walk};

/// Walks at most. A writer that nobody stopped may write the old form for ever.
const MOST_WALKS: u32 = 10;

/// The column.
#[derive(Clone, Copy)]
pub struct MigratedColumn<'a> {
    /// The database.
    pub address: &'a PostgresAddress,
    /// The table.
    pub table: &'a Table,
    /// Its columns.
    pub columns: &'a TargetColumns,
}

/// How a column is migrated.
#[derive(Clone, Copy)]
pub struct MigrationOptions<'a> {
    /// Rows of a batch.
    pub batch: usize,
    /// Rows read a second at most; `None`: as fast as it goes.
    pub rate: Option<NonZeroU32>,
    /// Count, and write nothing.
    pub dry_run: bool,
    /// Set cells of erased persons to null.
    pub erase: bool,
    /// Rows that are opened again at the end.
    pub sample: usize,
    /// Ends the walk behind its page.
    pub stop: &'a AtomicBool,
}

/// What became of a column.
#[derive(Debug, Default)]
pub struct Migrated {
    /// What stood there at first.
    pub found: Counts,
    /// What stands there now; of a dry run what stood there at first.
    pub now: Counts,
    /// Rows that were written.
    pub written: u64,
    /// Rows set to null, because their person was erased.
    pub erased: u64,
    /// Rows that stay as they are, by their keys.
    pub stays: Vec<(String, Stays)>,
    /// Rows of the sample that were opened again and hold what they held.
    pub sampled: u64,
    /// Rows of the sample that do not.
    pub differs: u64,
    /// Nothing more was to be written.
    pub is_settled: bool,
}

impl Migrated {
    /// Whether none of the old form is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.is_settled && self.now.old() == 0 && self.differs == 0
    }
}

/// Hashes of what a row held, and of its token.
struct Written {
    text: [u8; 32],
    token: [u8; 32],
}

/// Rows that are opened again, and what was written to them.
pub(super) struct Sample {
    salt: [u8; 32],
    /// One of so many rows.
    every: u64,
    offered: u64,
    rows: HashMap<Vec<String>, Written>,
    checked: HashSet<Vec<String>>,
    equal: u64,
    differs: u64,
}

impl Sample {
    fn new(rows: u64, size: usize) -> Result<Self, MigrateError> {
        let mut salt = [0; 32];
        OsEntropy.fill(&mut salt).map_err(|_| MigrateError::Random)?;
        let every = if size == 0 { u64::MAX } else { (rows / size as u64).max(1) };
        Ok(Self {
            salt,
            every,
            offered: 0,
            rows: HashMap::new(),
            checked: HashSet::new(),
            equal: 0,
            differs: 0,
        })
    }

    fn hash(&self, text: &[u8]) -> [u8; 32] {
        Sha256::new().chain_update(self.salt).chain_update(text).finalize().into()
    }

    /// Takes a row that is about to be written, now and then.
    pub(super) fn offer(&mut self, key: &[String], text: &[u8], token: &[u8]) {
        self.offered += 1;
        if (self.offered - 1).is_multiple_of(self.every) && self.every != u64::MAX {
            let written = Written { text: self.hash(text), token: self.hash(token) };
            self.rows.insert(key.to_vec(), written);
        }
    }

    /// Whether a row is to be opened again.
    pub(super) fn has(&self, key: &[String]) -> bool {
        self.rows.contains_key(key) && !self.checked.contains(key)
    }

    /// Compares what a row holds now. Another token that opens is what others wrote meanwhile.
    pub(super) fn check(&mut self, key: &[String], token: &[u8], text: Option<&[u8]>) {
        let Some(written) = self.rows.get(key) else { return };
        let is_equal = text.is_some_and(|text| self.hash(text) == written.text);
        let is_of_others = text.is_some() && self.hash(token) != written.token;
        self.checked.insert(key.to_vec());
        self.equal += u64::from(is_equal);
        self.differs += u64::from(!is_equal && !is_of_others);
    }
}

/// Migrates a column.
///
/// # Errors
/// [`MigrateError`]; what was written stays written, and the next run continues.
pub fn migrate(
    column: MigratedColumn<'_>,
    target: &mut Target,
    forms: &Forms,
    keys: &dyn KeySource,
    options: &MigrationOptions<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Migrated, MigrateError> {
    let MigratedColumn { address, table, columns } = column;
    let layout = layout(table, columns, forms)?;
    let (_, cells) = Cells::read(columns);
    let mut sample = Sample::new(table.estimate, options.sample)?;
    let mut done = Migrated::default();
    let walks = WalkOptions {
        batch: options.batch,
        rate: options.rate,
        dry_run: options.dry_run,
        stop: options.stop,
    };
    for number in 0..MOST_WALKS {
        let mut work = Migration {
            layout: &layout,
            target,
            forms,
            keys,
            cells: cells.clone(),
            has_index: columns.index.is_some(),
            erase: options.erase,
            sample: &mut sample,
            counts: Counts::default(),
            stays: Vec::new(),
            seen: HashSet::new(),
        };
        let walked = walk(address, &layout, &walks, &mut work, progress)?;
        let (counts, stays) = (work.counts, work.stays);
        if number == 0 {
            done.found = counts.clone();
        }
        done.written += walked.written;
        done.erased += counts.erased;
        (done.now, done.stays) = (counts, stays);
        done.is_settled = walked.written == 0 && walked.missed == 0 && !walked.stopped;
        if done.is_settled || walked.stopped || options.dry_run {
            break;
        }
    }
    (done.sampled, done.differs) = (sample.equal, sample.differs);
    Ok(done)
}

/// What is read and written of the table.
fn layout(table: &Table, columns: &TargetColumns, forms: &Forms) -> Result<Layout, MigrateError> {
    let (read, _) = Cells::read(columns);
    let is_hash = forms.has(Form::Sha256Hash);
    let token = (!is_hash).then_some(&*columns.target);
    let write: Vec<&str> = token.into_iter().chain(columns.index.as_deref()).collect();
    if table.column(&columns.source)?.is_list() {
        let (table, column) = (table.shown.clone(), columns.source.clone());
        return Err(MigrateError::List { table, column });
    }
    for column in &write {
        table.check_text(column)?;
    }
    let layout = Layout::new(table.clone(), &read, &write, Compare::Version, &[])?;
    Ok(if columns.target == columns.source { layout } else { layout.clearing(&columns.source)? })
}

#[cfg(test)]
mod tests {
    use super::Sample;

    #[test]
    fn a_row_of_the_sample_differs_unless_others_wrote_it() {
        let told = |token: &[u8], text: Option<&[u8]>| {
            let mut sample = Sample::new(1, 1).unwrap();
            let key = ["7".to_owned()];
            sample.offer(&key, b"ada", b"token of ada");
            assert!(sample.has(&key));
            sample.check(&key, token, text);
            (sample.equal, sample.differs)
        };
        assert_eq!(told(b"token of ada", Some(b"ada")), (1, 0));
        assert_eq!(told(b"token of ada", Some(b"eve")), (0, 1), "another row's value");
        assert_eq!(told(b"token of eve", Some(b"eve")), (0, 0), "somebody wrote it");
        assert_eq!(told(b"token of ada", None), (0, 1));
        assert_eq!(told(b"TOKEN OF ADA", None), (0, 1), "a trigger changed it");
    }
}
