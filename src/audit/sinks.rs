//! Second places of the audit log: a topic, a table.

mod ddl;
#[cfg(feature = "postgres")]
mod postgres;
mod preflight;
mod topic;

use std::sync::Arc;

use veilstream_reading::audit::{Sink, SinkObserver, SinkSettings};

use crate::config::{Audit, Delivery};
use crate::status::Status;
use crate::telemetry::metrics::Metrics;

pub use ddl::{DDL, grant};
#[cfg(feature = "postgres")]
pub use postgres::read_table;
pub use preflight::{AuditTopicProblem, examine_topic};
pub use topic::read_topic;

/// The places that a configuration names. Nothing is asked of them yet.
///
/// # Errors
/// A URL is none.
pub fn of(config: &Audit) -> anyhow::Result<Vec<SinkSettings>> {
    let mut sinks = Vec::new();
    let mut add = |sink: Box<dyn Sink>, delivery| {
        let is_required = delivery == Delivery::Required;
        sinks.push(SinkSettings { sink, is_required, most_waiting: config.queue });
    };
    if let Some(topic) = &config.topic {
        add(Box::new(topic::TopicSink::new(&topic.kafka, &topic.name)), topic.delivery);
    }
    #[cfg(feature = "postgres")]
    if let Some(table) = &config.postgres {
        add(Box::new(postgres::PostgresSink::new(table)?), table.delivery);
    }
    Ok(sinks)
}

/// Tells operators how second places do.
#[derive(Default)]
pub struct SinkReport {
    /// `None`: for a command, which has no metrics.
    pub metrics: Option<Arc<Metrics>>,
    /// `None`: for a command, which is asked by nobody.
    pub status: Option<Arc<Status>>,
}

impl SinkReport {
    fn count(&self, sink: &str, outcome: &str, lines: u64) {
        if let Some(metrics) = &self.metrics {
            metrics.audit_lines.with_label_values(&[sink, outcome]).inc_by(lines);
        }
    }
}

impl SinkObserver for SinkReport {
    fn copied(&self, sink: &'static str, lines: u64) {
        self.count(sink, "ok", lines);
    }

    fn missed(&self, sink: &'static str, lines: u64) {
        self.count(sink, "failed", lines);
        if let Some(metrics) = &self.metrics {
            metrics.audit_gap_lines.with_label_values(&[sink]).inc_by(lines);
        }
    }

    fn away(&self, sink: &'static str, is_required: bool, why: &str) {
        let component = format!("audit {sink}");
        if is_required {
            tracing::error!(
                sink,
                why,
                "a required place of the audit log takes no lines, so \
                nothing is opened until it does"
            );
            if let Some(status) = &self.status {
                status.unready(&component, why);
            }
        } else {
            tracing::warn!(sink, why, "a place of the audit log takes no lines; they wait");
            if let Some(status) = &self.status {
                status.detail(&component, serde_json::json!({ "away": why }));
            }
        }
    }

    fn back(&self, sink: &'static str) {
        tracing::info!(sink, "the place of the audit log takes lines again");
        let component = format!("audit {sink}");
        if let Some(status) = &self.status {
            status.ready(&component);
            status.detail(&component, serde_json::json!("takes lines"));
        }
    }
}
