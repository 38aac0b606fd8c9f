//! What a lane has read and not yet processed. The client counts the values in its own queue and
//! nothing else, so that queue is short. What makes up for the delay of a fetch is held here, where
//! keys and headers count.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::kafka::ffi::{Batch, Message, Queue};
use crate::pipeline::runtime::Announced;

/// Records read at once: few enough to be in the processor's caches still when they are freed.
const CHUNK: usize = 100;
/// Bytes that the client needs for a record besides its content.
const RECORD_OVERHEAD: usize = 512;

/// Records read together, and how far they are processed.
#[derive(Default)]
pub(crate) struct ReadBatch {
    records: Batch,
    /// Shared, so that headers of one record and the next can use one buffer.
    cursor: Cell<usize>,
    number: u64,
    bytes: usize,
}

impl ReadBatch {
    /// Its number among the lane's batches, from 1: partitions assigned later do not own its
    /// records.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The first record that is not processed.
    pub(crate) fn current(&self) -> Option<Message<'_>> {
        self.records.get(self.cursor.get())
    }

    /// The records behind the current one.
    pub(crate) fn following(&self) -> impl Iterator<Item = Message<'_>> {
        (self.cursor.get() + 1..self.records.len()).filter_map(|i| self.records.get(i))
    }

    /// The current record is processed, or skipped.
    pub(crate) fn advance(&self) {
        self.cursor.set(self.cursor.get() + 1);
    }

    /// How many records are processed.
    pub(crate) fn cursor(&self) -> usize {
        self.cursor.get()
    }

    fn is_done(&self) -> bool {
        self.cursor.get() >= self.records.len()
    }
}

/// The batches of a lane, in the order in which they were read.
pub(super) struct ReadAhead {
    batches: VecDeque<ReadBatch>,
    /// The last batch that was done: its memory serves the next.
    spare: ReadBatch,
    /// Number of the newest batch.
    number: u64,
    bytes: usize,
    /// It reads no further batch while it holds so many bytes.
    limit: usize,
    announced: Arc<Announced>,
}

impl ReadAhead {
    /// Nothing is read yet. `limit`: bytes of keys, values, headers and the client's overhead.
    pub(super) fn new(limit: usize, announced: Arc<Announced>) -> Self {
        let (batches, spare) = (VecDeque::new(), ReadBatch::default());
        Self { batches, spare, number: 0, bytes: 0, limit, announced }
    }

    /// Number of the newest batch; 0: there was none.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The batch to be processed.
    pub(super) fn current(&self) -> Option<&ReadBatch> {
        self.batches.front()
    }

    /// Frees the current batch if it is done, and reads what the queue holds, up to the limit.
    /// Waits `timeout_ms` for records if it holds none. Does nothing while an assignment is
    /// announced.
    pub(super) fn refill(&mut self, queue: &Queue, timeout_ms: i32) {
        let announced = self.announced.clone();
        announced.unless_any(|| self.read(queue, timeout_ms));
    }

    /// The assignment that was announced has been taken.
    pub(super) fn assigned(&self) {
        self.announced.take();
    }

    fn read(&mut self, queue: &Queue, timeout_ms: i32) {
        if let Some(mut done) = self.batches.pop_front_if(|batch| batch.is_done()) {
            self.bytes -= done.bytes;
            done.records.clear();
            self.spare = done;
        }
        while self.bytes < self.limit {
            let timeout_ms = if self.batches.is_empty() { timeout_ms } else { 0 };
            let mut records = std::mem::take(&mut self.spare).records;
            records.fill(queue, CHUNK, timeout_ms);
            let count = records.len();
            if count == 0 {
                self.spare.records = records;
                return;
            }
            let bytes = (0..count)
                .filter_map(|i| records.get(i))
                .map(|record| record.bytes() + RECORD_OVERHEAD)
                .sum();
            self.number += 1;
            self.bytes += bytes;
            self.batches.push_back(ReadBatch {
                records,
                cursor: Cell::new(0),
                number: self.number,
                bytes,
            });
            if count < CHUNK {
                return;
            }
        }
    }
}
