//! All rows of a table, page by page, and what is written in their place.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use postgres::types::ToSql;
use veilstream_keys::store::PostgresAddress;

use super::connection::Connection;
use super::error::RowsError;
use super::layout::{Layout, Row};
use crate::progress::Progress;

/// Pages between reader and work, and between work and writer.
const AHEAD: usize = 2;
/// Tries at a batch whose rows others hold.
const TRIES: u32 = 10;
/// Before the second try, and so much longer before each next one.
const PAUSE: Duration = Duration::from_millis(100);

/// What stands in the place of the cells of a row.
#[derive(Clone, PartialEq, Eq)]
pub struct Change {
    /// Index of the row in its page.
    pub row: usize,
    /// One for each column that the layout writes. `None`: null.
    pub cells: Vec<Option<String>>,
}

/// Work on rows.
pub trait Work {
    /// What stops the work.
    type Error;

    /// What is to be written in the place of these rows, in their order; none for those that stay.
    ///
    /// # Errors
    /// Nothing of the page is written, and the walk ends.
    fn changes(&mut self, rows: &[Row]) -> Result<Vec<Change>, Self::Error>;
}

/// How a table is walked through.
#[derive(Clone, Copy)]
pub struct WalkOptions<'a> {
    /// Rows of a page, and of an UPDATE at most.
    pub batch: usize,
    /// Rows read a second at most; `None`: as fast as it goes.
    pub rate: Option<NonZeroU32>,
    /// Work, and write nothing.
    pub dry_run: bool,
    /// The walk ends behind the page that finds it set.
    pub stop: &'a AtomicBool,
}

/// What became of a walk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Walked {
    /// Rows that were read.
    pub rows: u64,
    /// Rows that were written.
    pub written: u64,
    /// Rows that somebody else changed between reading and writing: another walk finds them.
    pub missed: u64,
    /// It was stopped.
    pub stopped: bool,
}

/// What ended a walk.
#[derive(Debug, thiserror::Error)]
pub enum WalkError<E> {
    /// The table.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// The work.
    #[error(transparent)]
    Work(E),
}

/// Walks through a table: every row that is there from start to end is worked on. What others
/// write meanwhile may be seen or not; a row that they change between reading and writing stays as
/// they left it and is counted in [`Walked::missed`].
///
/// # Errors
/// [`WalkError`]; what was written stays written.
pub fn walk<W: Work>(
    address: &PostgresAddress,
    layout: &Layout,
    options: &WalkOptions<'_>,
    work: &mut W,
    progress: &mut dyn FnMut(Progress),
) -> Result<Walked, WalkError<W::Error>> {
    // Both are made before anything is read.
    let (reader, writer) = (Connection::open(address)?, Connection::open(address)?);
    thread::scope(|scope| {
        let (read, pages) = sync_channel(AHEAD);
        let (write, batches) = sync_channel::<Batch>(AHEAD);
        let reading = scope.spawn(move || read_pages(reader, layout, options, &read));
        let writing = scope.spawn(move || write_batches(writer, layout, &batches));
        let worked = work_pages(layout, options, work, pages, &write, progress);
        // The writer ends when nothing comes any more, the reader when nobody listens.
        drop(write);
        let read = reading.join().map_err(|_| RowsError::Thread)?;
        let (written, missed) = writing.join().map_err(|_| RowsError::Thread)??;
        let worked = worked?;
        read?;
        Ok(Walked { written, missed, ..worked })
    })
}

/// Rows to write, as the arrays of the statement.
struct Batch {
    rows: usize,
    arrays: Vec<Vec<Option<String>>>,
}

fn read_pages(
    mut connection: Connection,
    layout: &Layout,
    options: &WalkOptions<'_>,
    pages: &SyncSender<Vec<Row>>,
) -> Result<(), RowsError> {
    let first = connection.prepare(&layout.select(true, options.batch))?;
    let next = connection.prepare(&layout.select(false, options.batch))?;
    let mut page = layout.page(&mut connection, &first, &[])?;
    while let Some(last) = page.last().map(|row| row.key.clone()) {
        if pages.send(page).is_err() {
            break;
        }
        page = layout.page(&mut connection, &next, &last)?;
    }
    Ok(())
}

fn work_pages<W: Work>(
    layout: &Layout,
    options: &WalkOptions<'_>,
    work: &mut W,
    pages: Receiver<Vec<Row>>,
    batches: &SyncSender<Batch>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Walked, WalkError<W::Error>> {
    let (start, mut walked) = (Instant::now(), Walked::default());
    for mut page in pages {
        if options.stop.load(Ordering::Relaxed) {
            walked.stopped = true;
            break;
        }
        let changes = work.changes(&page).map_err(WalkError::Work)?;
        walked.rows += page.len() as u64;
        if !options.dry_run && !changes.is_empty() {
            let batch = Batch::new(layout, &mut page, changes);
            // It is gone because it failed, and says so when it is joined.
            if batches.send(batch).is_err() {
                break;
            }
        }
        let elapsed = start.elapsed();
        progress(Progress {
            items: "rows",
            done: walked.rows,
            estimate: layout.table().estimate,
            elapsed,
        });
        if let Some(rate) = options.rate {
            let due = Duration::from_secs_f64(walked.rows as f64 / f64::from(rate.get()));
            thread::sleep(due.saturating_sub(elapsed));
        }
    }
    Ok(walked)
}

/// Rows written, and rows that somebody else had changed.
fn write_batches(
    mut connection: Connection,
    layout: &Layout,
    batches: &Receiver<Batch>,
) -> Result<(u64, u64), RowsError> {
    let (mut statement, mut written, mut missed) = (None, 0, 0);
    for batch in batches {
        let statement = match &statement {
            Some(known) => known,
            None => statement.insert(connection.prepare(&layout.update())?),
        };
        let done = batch.write(&mut connection, statement)?;
        written += done;
        missed += (batch.rows as u64).saturating_sub(done);
    }
    Ok((written, missed))
}

impl Batch {
    fn new(layout: &Layout, page: &mut [Row], changes: Vec<Change>) -> Self {
        let keys = layout.table().key.len();
        let (writes, compared) = (layout.writes(), layout.compared());
        let rows = changes.len();
        let arrays = keys + writes + compared.len();
        let mut arrays: Vec<Vec<Option<String>>> =
            (0..arrays).map(|_| Vec::with_capacity(rows)).collect();
        let mut versions = Vec::new();
        for Change { row, cells } in changes {
            let row = &mut page[row];
            let old = compared.iter().map(|index| {
                // It came as a text.
                row.cells[*index].take().and_then(|bytes| String::from_utf8(bytes).ok())
            });
            let cells = row.key.drain(..).map(Some).chain(cells).chain(old);
            for (array, cell) in arrays.iter_mut().zip(cells) {
                array.push(cell);
            }
            versions.extend(row.version.take().map(Some));
        }
        if !versions.is_empty() {
            arrays.push(versions);
        }
        Self { rows, arrays }
    }

    /// The rows that were written. What others hold is tried again: the comparison keeps it safe.
    fn write(
        &self,
        connection: &mut Connection,
        statement: &postgres::Statement,
    ) -> Result<u64, RowsError> {
        let parameters: Vec<&(dyn ToSql + Sync)> =
            self.arrays.iter().map(|array| array as &(dyn ToSql + Sync)).collect();
        let mut tries = 1;
        loop {
            let error = match connection.client().execute(statement, &parameters) {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if tries >= TRIES || !is_contended(&error) {
                return Err(connection.refused(&error));
            }
            thread::sleep(PAUSE * tries);
            tries += 1;
        }
    }
}

/// Whether others were in the way: a deadlock, a lock that took too long.
fn is_contended(error: &postgres::Error) -> bool {
    let code = error.code().map(postgres::error::SqlState::code);
    matches!(code, Some("40001" | "40P01" | "55P03"))
}
