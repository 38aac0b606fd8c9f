//! A table, walked through until nothing in it is old.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use veilstream_engine::key::KeyId;
use veilstream_engine::schema::Schema;
use veilstream_engine::seal::SealError;
use veilstream_keys::store::PostgresAddress;
use veilstream_keys::{KeyError, Manager};

use super::columns::Columns;
use super::counts::{Counts, KeyGroup, Tally};
use super::keys::{RotationKeys, is_newest};
use super::reseal::{Moves, Outcome, Resealer};
use crate::progress::Progress;
use crate::rows::{
    Change, Compare, Layout, Row, RowsError, Table, WalkError, WalkOptions, Work, walk,
};

/// Walks through a table at most: writers who keep writing under old keys would keep it going.
const WALKS: u32 = 8;
/// Rows named at most.
const NAMED: usize = 1000;
/// What the counts call the scope of data subjects' keys.
pub(super) const SUBJECTS: &str = "subject";

/// How a table is rotated.
pub struct RotationOptions<'a> {
    /// Rows of a page.
    pub batch: usize,
    /// Rows read a second at most.
    pub rate: Option<NonZeroU32>,
    /// Count, and write nothing.
    pub dry_run: bool,
    /// Write indexes that are missing or under an old root.
    pub reindex: bool,
    /// Tie tokens to the data subject and the bound values of their row.
    pub trust_rows: bool,
    /// Open what compromised keys sealed.
    pub allow_compromised: bool,
    /// The rotation ends soon after it is set.
    pub stop: &'a AtomicBool,
}

/// What became of a table.
#[derive(Debug, Default)]
pub struct Rotated {
    /// What stands in it, as the last walk saw it.
    pub counts: Counts,
    /// Tokens that were sealed again, by field and by the key they left. Those of a row that
    /// somebody else changed meanwhile were not written and count all the same.
    pub left: BTreeMap<(String, KeyId), u64>,
    /// Rows that were written.
    pub written: u64,
    /// Rows that somebody else changed between reading and writing, all walks together.
    pub missed: u64,
    /// Tokens that got a data subject or a binding from their row.
    pub trusted: u64,
    /// Walks through the table.
    pub walks: u32,
    /// Rows with a value that does not open: name of the row, field, class. At most a thousand.
    pub failed: Vec<(String, String, &'static str)>,
    /// Indexes that are not under the newest root, where they were to be.
    pub old_indexes: u64,
    /// It was stopped.
    pub stopped: bool,
}

/// What ends a rotation.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The table.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// Keys are not available.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// A key is there and does not seal.
    #[error("the newest key does not seal ({0}); see `veilstream keys list`")]
    Seal(#[from] SealError),
}

impl From<WalkError<Self>> for RotationError {
    fn from(error: WalkError<Self>) -> Self {
        match error {
            WalkError::Rows(error) => error.into(),
            WalkError::Work(error) => error,
        }
    }
}

impl Rotated {
    /// Whether nothing old is left, and everything opens.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let nothing_old = self.counts.old() == 0 && self.old_indexes == 0;
        !self.stopped && nothing_old && self.counts.failures() == 0
    }
}

/// Walks through a table until a walk finds nothing to write.
///
/// # Errors
/// [`RotationError`]; what was written stays written, and another run continues.
pub fn rotate(
    address: &PostgresAddress,
    table: &Table,
    schema: &Arc<Schema>,
    columns: &Columns,
    manager: &Arc<Manager>,
    options: &RotationOptions<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Rotated, RotationError> {
    let moves = Moves {
        reindex: options.reindex,
        trust_rows: options.trust_rows,
        allow_compromised: options.allow_compromised,
    };
    let mut rotated = Rotated::default();
    loop {
        let keys = RotationKeys::new(manager.clone(), &schema.name);
        let resealer = Resealer::new(schema.clone(), columns, moves, &keys.keyring());
        let layout = layout(table, &resealer)?;
        let mut work = Rotation::new(keys, resealer, &layout, columns.fields.len());
        let walking = WalkOptions {
            batch: options.batch,
            rate: options.rate,
            dry_run: options.dry_run,
            stop: options.stop,
        };
        let walked = walk(address, &layout, &walking, &mut work, progress)?;
        rotated.walks += 1;
        rotated.written += walked.written;
        rotated.missed += walked.missed;
        rotated.stopped = walked.stopped;
        work.end(schema, columns, manager, options, &mut rotated)?;
        let is_done = walked.written == 0 && walked.missed == 0;
        if is_done || options.dry_run || rotated.stopped || rotated.walks >= WALKS {
            return Ok(rotated);
        }
        if options.stop.load(Ordering::Relaxed) {
            rotated.stopped = true;
            return Ok(rotated);
        }
    }
}

fn layout(table: &Table, resealer: &Resealer) -> Result<Layout, RowsError> {
    let cells = resealer.cells();
    let read: Vec<&str> = cells.read.iter().map(String::as_str).collect();
    let tokens: Vec<&str> = cells.tokens.iter().map(String::as_str).collect();
    Layout::new(table.clone(), &read, &read[..cells.written], Compare::Cells, &tokens)
}

/// One walk.
struct Rotation<'l> {
    keys: RotationKeys,
    resealer: Resealer,
    layout: &'l Layout,
    rows: u64,
    tallies: Vec<Tally>,
    left: HashMap<(usize, KeyId), u64>,
    trusted: u64,
    failed: Vec<(String, usize, &'static str)>,
}

impl<'l> Rotation<'l> {
    fn new(keys: RotationKeys, resealer: Resealer, layout: &'l Layout, fields: usize) -> Self {
        Self {
            keys,
            resealer,
            layout,
            rows: 0,
            tallies: std::iter::repeat_with(Tally::default).take(fields).collect(),
            left: HashMap::new(),
            trusted: 0,
            failed: Vec::new(),
        }
    }

    /// Adds up what the walk saw.
    fn end(
        self,
        schema: &Schema,
        columns: &Columns,
        manager: &Manager,
        options: &RotationOptions<'_>,
        rotated: &mut Rotated,
    ) -> Result<(), RotationError> {
        let id = |at: usize| schema.fields[columns.fields[at].field].id.to_string();
        if !options.dry_run {
            for ((at, kid), count) in self.left {
                *rotated.left.entry((id(at), kid)).or_default() += count;
            }
        }
        rotated.trusted += self.trusted;
        rotated.failed =
            self.failed.into_iter().map(|(row, at, class)| (row, id(at), class)).collect();
        rotated.counts = Counts { rows: self.rows, ..Counts::default() };
        rotated.old_indexes = 0;
        let newest_root = self.resealer.newest_root();
        for (at, mut tally) in self.tallies.into_iter().enumerate() {
            for (kid, tokens) in tally.keys {
                let group = group(manager, kid)?;
                *tally.counts.keys.entry(group).or_default() += tokens;
            }
            for (is_newest, tokens) in [(true, tally.subjects[0]), (false, tally.subjects[1])] {
                if tokens > 0 {
                    let scope = SUBJECTS.to_owned();
                    tally.counts.keys.insert(KeyGroup { is_newest, scope, kid: None }, tokens);
                }
            }
            let is_old = |version: &u32| options.reindex && Some(*version) != newest_root;
            let old = tally.counts.indexes.iter().filter(|(version, _)| is_old(version));
            rotated.old_indexes += old.map(|(_, count)| count).sum::<u64>();
            rotated.counts.fields.insert(id(at), tally.counts);
        }
        Ok(())
    }

    fn take(&mut self, row: &Row, outcome: &Outcome) {
        for (at, kid) in &outcome.resealed {
            *self.left.entry((*at, *kid)).or_default() += 1;
        }
        self.trusted += outcome.trusted;
        for (at, class) in &outcome.failed {
            if self.failed.len() < NAMED {
                self.failed.push((self.layout.name_of(row), *at, class));
            }
        }
    }
}

/// How the counts name a key that is no data subject's.
pub(super) fn group(manager: &Manager, kid: KeyId) -> Result<KeyGroup, KeyError> {
    let record = manager.store().get(std::slice::from_ref(&kid)).map_err(KeyError::from)?.pop();
    let Some(record) = record else {
        return Ok(KeyGroup { is_newest: false, scope: "unknown".to_owned(), kid: Some(kid) });
    };
    let is_newest = is_newest(manager, &record)?;
    Ok(KeyGroup { is_newest, scope: record.scope.to_string(), kid: Some(kid) })
}

impl Work for Rotation<'_> {
    type Error = RotationError;

    fn changes(&mut self, rows: &[Row]) -> Result<Vec<Change>, RotationError> {
        let (mut kids, mut subjects) = (BTreeSet::new(), BTreeSet::new());
        for row in rows {
            self.resealer.names(row, &mut kids, &mut subjects);
        }
        let keys = self.keys.page(&kids, &subjects)?;
        let mut changes = Vec::new();
        for (at, row) in rows.iter().enumerate() {
            let mut outcome = self.resealer.row(row, &keys, &mut self.tallies)?;
            self.take(row, &outcome);
            if let Some(cells) = outcome.cells.take() {
                changes.push(Change { row: at, cells });
            }
        }
        self.rows += rows.len() as u64;
        Ok(changes)
    }
}
