//! What a lane counts of an open transaction, and tells when it ends.

use std::sync::Arc;
use std::time::Instant;

use veilstream_engine::record::Header;

use super::{LaneRoute, RecordPath};
use crate::clock::unix_millis;
use crate::dead_letters::letter::DeadLetterReason;
use crate::kafka::ffi::Message;
use crate::telemetry::events::{Event as _, RouteStopped};

/// What the open transaction holds.
#[derive(Default)]
pub(in crate::pipeline) struct OpenTransaction {
    pub(in crate::pipeline) records: usize,
    pub(in crate::pipeline) bytes: usize,
    pub(in crate::pipeline) dead_letters: usize,
    pub(in crate::pipeline) begun: Option<Instant>,
    /// When its flush began.
    pub(in crate::pipeline) flushed: Option<Instant>,
    pub(super) times: Vec<i64>,
    pub(super) refused: Vec<Arc<str>>,
}

impl OpenTransaction {
    fn clear(&mut self) {
        (self.records, self.bytes, self.dead_letters) = (0, 0, 0);
        (self.begun, self.flushed) = (None, None);
        self.times.clear();
        self.refused.clear();
    }
}

impl RecordPath {
    pub(super) fn count(
        &mut self,
        route: &LaneRoute,
        message: &Message<'_>,
        headers: &[Header<'_>],
        dead_letter: bool,
    ) {
        let topic = &mut self.topics[route.counters];
        topic.counters.consumed(1);
        if dead_letter {
            self.transaction.dead_letters += 1;
        } else {
            topic.counters.produced(1);
        }
        topic.outcomes.push(dead_letter);
        self.transaction.records += 1;
        let of_headers = headers
            .iter()
            .map(|(name, value)| name.len() + value.map_or(0, <[u8]>::len))
            .sum::<usize>();
        self.transaction.bytes += message.value().map_or(0, <[u8]>::len)
            + message.key().map_or(0, <[u8]>::len)
            + of_headers;
    }

    pub(super) fn schema_counters(&mut self, schema: usize) {
        if self.counters.len() <= schema {
            self.counters.resize_with(schema + 1, || None);
        }
        let counters = self.counters[schema].get_or_insert_with(|| {
            let schema = &self.snapshot.schemas.schemas()[schema];
            self.runtime.metrics.schema_counters(&schema.name, schema.fields.iter().map(|f| &*f.id))
        });
        counters.add(self.protector.output());
    }

    /// Tells the guard what became of the records.
    pub(super) fn judge(&mut self) {
        for topic in self.topics.iter_mut().filter(|t| !t.outcomes.is_empty()) {
            if let Some(tripped) = self.runtime.guard.add(
                &topic.name,
                topic.outcomes.drain(..),
                &self.snapshot.schemas,
            ) {
                RouteStopped {
                    topic: &topic.name,
                    rejected: tripped.rejected,
                    window: tripped.window,
                }
                .emit(&self.runtime.metrics);
            }
        }
    }

    pub(in crate::pipeline) fn committed(&mut self) {
        let now = unix_millis();
        for time in &self.transaction.times {
            self.latency.observe((now - time).max(0) as f64 / 1000.0);
        }
        self.latency.flush();
        for topic in &self.topics {
            topic.counters.flush();
        }
        for counters in self.counters.iter().flatten() {
            counters.flush();
        }
        for topic in &self.transaction.refused {
            self.runtime
                .metrics
                .records_dead_lettered
                .with_label_values(&[topic, DeadLetterReason::BrokerRefused.as_str()])
                .inc();
        }
        self.runtime.metrics.inflight_bytes.sub(self.transaction.bytes as i64);
        self.transaction.clear();
    }

    pub(in crate::pipeline) fn aborted(&mut self) {
        for topic in &mut self.topics {
            topic.counters.forget();
            topic.outcomes.clear();
        }
        for counters in self.counters.iter().flatten() {
            counters.forget();
        }
        self.runtime.metrics.inflight_bytes.sub(self.transaction.bytes as i64);
        self.transaction.clear();
    }
}
