//! Counters of one lane: plain additions, added to the shared ones when the transaction that holds
//! the records commits.

use prometheus::local::LocalIntCounter;
use veilstream_engine::RejectCode;
use veilstream_engine::record::{FieldOutcome, Output};

use super::metrics::Metrics;

impl Metrics {
    /// Local counters of one route, for one lane.
    #[must_use]
    pub fn topic_counters(&self, from: &str, to: &str) -> TopicCounters {
        TopicCounters {
            consumed: self.records_consumed.with_label_values(&[from]).local(),
            produced: self.records_produced.with_label_values(&[to]).local(),
            dead_lettered: RejectCode::ALL.map(|code| {
                self.records_dead_lettered.with_label_values(&[from, code.as_str()]).local()
            }),
        }
    }

    /// Local counters of one schema, for one lane. `fields`: ids in the schema's order, the order
    /// of the engine's field indexes.
    #[must_use]
    pub fn schema_counters<'a>(
        &self,
        schema: &str,
        fields: impl Iterator<Item = &'a str>,
    ) -> SchemaCounters {
        let counters = |field: &str| FieldCounters {
            outcomes: OUTCOMES.map(|outcome| {
                self.fields_protected.with_label_values(&[schema, field, label(outcome)]).local()
            }),
            residue: self.residue.with_label_values(&[schema, field]).local(),
        };
        SchemaCounters {
            fields: fields.map(counters).collect(),
            residue_capped: self.residue_capped.with_label_values(&[schema]).local(),
        }
    }
}

/// Counts of one route within one lane: plain additions until [`TopicCounters::flush`] after a
/// commit, or [`TopicCounters::forget`] after an abort.
#[derive(Debug)]
pub struct TopicCounters {
    consumed: LocalIntCounter,
    produced: LocalIntCounter,
    dead_lettered: [LocalIntCounter; RejectCode::ALL.len()],
}

impl TopicCounters {
    /// Records read.
    pub fn consumed(&self, n: u64) {
        self.consumed.inc_by(n);
    }

    /// Records produced.
    pub fn produced(&self, n: u64) {
        self.produced.inc_by(n);
    }

    /// One record dead-lettered.
    pub fn dead_lettered(&self, code: RejectCode) {
        if let Some(i) = RejectCode::ALL.iter().position(|c| *c == code) {
            self.dead_lettered[i].inc();
        }
    }

    /// The transaction committed: add to the shared counters.
    pub fn flush(&self) {
        self.all().for_each(LocalIntCounter::flush);
    }

    /// The transaction aborted: its records will come again.
    pub fn forget(&self) {
        self.all().for_each(LocalIntCounter::reset);
    }

    fn all(&self) -> impl Iterator<Item = &LocalIntCounter> {
        [&self.consumed, &self.produced].into_iter().chain(&self.dead_lettered)
    }
}

const OUTCOMES: [FieldOutcome; 6] = [
    FieldOutcome::Encrypted,
    FieldOutcome::Indexed,
    FieldOutcome::Masked,
    FieldOutcome::Dropped,
    FieldOutcome::Absent,
    FieldOutcome::Null,
];

pub(super) fn label(outcome: FieldOutcome) -> &'static str {
    match outcome {
        FieldOutcome::Encrypted => "encrypted",
        FieldOutcome::Indexed => "indexed",
        FieldOutcome::Masked => "masked",
        FieldOutcome::Dropped => "dropped",
        FieldOutcome::Absent => "absent",
        FieldOutcome::Null => "null",
    }
}

/// Counts of one schema within one lane; like [`TopicCounters`].
#[derive(Debug)]
pub struct SchemaCounters {
    fields: Vec<FieldCounters>,
    residue_capped: LocalIntCounter,
}

#[derive(Debug)]
struct FieldCounters {
    outcomes: [LocalIntCounter; OUTCOMES.len()],
    residue: LocalIntCounter,
}

impl SchemaCounters {
    /// Adds what the engine counted for one record.
    pub fn add(&self, output: &Output) {
        self.residue_capped.inc_by(u64::from(output.residue_capped));
        for (field, outcome, n) in &output.counts {
            if let (Some(field), Some(i)) =
                (self.fields.get(*field), OUTCOMES.iter().position(|o| o == outcome))
            {
                field.outcomes[i].inc_by(u64::from(*n));
            }
        }
        for (field, n) in &output.residue {
            if let Some(field) = self.fields.get(*field) {
                field.residue.inc_by(u64::from(*n));
            }
        }
    }

    /// The transaction committed: add to the shared counters.
    pub fn flush(&self) {
        self.all().for_each(LocalIntCounter::flush);
    }

    /// The transaction aborted: its records will come again.
    pub fn forget(&self) {
        self.all().for_each(LocalIntCounter::reset);
    }

    fn all(&self) -> impl Iterator<Item = &LocalIntCounter> {
        self.fields
            .iter()
            .flat_map(|f| f.outcomes.iter().chain([&f.residue]))
            .chain([&self.residue_capped])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_show_after_a_commit_and_not_after_an_abort() {
        let metrics = Metrics::new().unwrap();
        let topic = metrics.topic_counters("people.raw", "people");
        let schema = metrics.schema_counters("people", ["email", "ssn"].into_iter());
        let output = Output {
            counts: vec![(1, FieldOutcome::Encrypted, 2), (1, FieldOutcome::Indexed, 1)],
            residue: vec![(0, 1)],
            residue_capped: 5,
            ..Output::default()
        };
        let count = |flush: bool| {
            topic.consumed(3);
            topic.produced(2);
            topic.dead_lettered(RejectCode::NotJson);
            schema.add(&output);
            if flush {
                topic.flush();
                schema.flush();
            } else {
                topic.forget();
                schema.forget();
            }
        };
        count(false);
        assert_eq!(metrics.records_consumed.with_label_values(&["people.raw"]).get(), 0);
        count(true);
        count(false);
        count(true);
        assert_eq!(metrics.records_consumed.with_label_values(&["people.raw"]).get(), 6);
        assert_eq!(metrics.records_produced.with_label_values(&["people"]).get(), 4);
        assert_eq!(
            metrics.records_dead_lettered.with_label_values(&["people.raw", "not_json"]).get(),
            2
        );
        assert_eq!(
            metrics.fields_protected.with_label_values(&["people", "ssn", "encrypted"]).get(),
            4
        );
        assert_eq!(
            metrics.fields_protected.with_label_values(&["people", "ssn", "indexed"]).get(),
            2
        );
        assert_eq!(metrics.residue.with_label_values(&["people", "email"]).get(), 2);
        assert_eq!(metrics.residue_capped.with_label_values(&["people"]).get(), 10);
    }
}
