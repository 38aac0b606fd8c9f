//! What operators are told: readiness with its reasons, lag, blocked partitions.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode;
use serde_json::{Value, json};

use crate::pipeline::core::assignment::Assignment;
use crate::pipeline::core::partition::{BlockReason, TopicPartition};
use crate::pipeline::core::progress::{Progress, Stall};
use crate::pipeline::core::start::Loss;
use crate::pipeline::runtime::Runtime;

/// No refusal for so long: what was missing has been granted.
const GRANTED: Duration = Duration::from_secs(30);
/// Brokers that do not answer for so long are away.
const SILENCE: Duration = Duration::from_secs(8);
/// Most partitions named in a reason.
const NAMED: usize = 8;

/// Remembers what was told, so that it is taken back.
pub(super) struct PartitionReport {
    runtime: Arc<Runtime>,
    /// Components that are unready because of this.
    told: BTreeMap<&'static str, String>,
    lags: Vec<TopicPartition>,
    blocked: BTreeMap<(Arc<str>, BlockReason), i64>,
    denied: Option<(Instant, RDKafkaErrorCode)>,
    /// Since when questions to brokers fail, and the last words.
    silence: Option<(Instant, String)>,
}

impl PartitionReport {
    pub(super) fn new(runtime: Arc<Runtime>) -> Self {
        Self {
            runtime,
            told: BTreeMap::new(),
            lags: Vec::new(),
            blocked: BTreeMap::new(),
            denied: None,
            silence: None,
        }
    }

    /// What the last look at the brokers did not answer.
    pub(super) fn failures(&mut self, failures: Vec<String>) {
        self.silence = if failures.is_empty() {
            None
        } else {
            let since = self.silence.take().map_or_else(Instant::now, |(since, _)| since);
            Some((since, failures.join("; ")))
        };
    }

    /// Tells the state as it is now.
    pub(super) fn look(
        &mut self,
        assignment: &Assignment,
        progress: &mut Progress,
        denied: Option<RDKafkaErrorCode>,
        are_brokers_down: bool,
        now: Instant,
    ) {
        if let Some(code) = denied {
            self.denied = Some((now, code));
        }
        self.denied = self.denied.filter(|(at, _)| now.duration_since(*at) < GRANTED);
        progress.retain(|at| assignment.iter().any(|seen| seen.at == at));
        for seen in assignment.iter() {
            progress.committed(seen.at, seen.committed, now);
        }
        let denied = self.denied.map(|(_, code)| denial(&self.runtime, code));
        self.tell("authorization", denied);
        let silence = self
            .silence
            .as_ref()
            .filter(|(since, _)| are_brokers_down || now.duration_since(*since) >= SILENCE);
        let brokers = silence
            .map(|(_, words)| format!("no broker answers ({words})"))
            .or_else(|| are_brokers_down.then(|| "no broker answers".to_owned()));
        self.tell("brokers", brokers);
        self.tell("partitions", blocked(assignment));
        let stalled = stalled(&self.runtime, assignment, progress, now);
        self.tell("progress", stalled);
        self.count(assignment, progress);
        self.runtime.status.detail("kafka", self.detail(assignment, progress, now));
    }

    fn tell(&mut self, component: &'static str, reason: Option<String>) {
        match reason {
            Some(reason) => {
                if self.told.get(component) != Some(&reason) {
                    tracing::warn!(component, "not ready: {reason}");
                    self.runtime.status.unready(component, &*reason);
                    self.told.insert(component, reason);
                }
            }
            None => {
                if self.told.remove(component).is_some() {
                    tracing::info!(component, "ready again");
                    self.runtime.status.ready(component);
                }
            }
        }
    }

    fn count(&mut self, assignment: &Assignment, progress: &Progress) {
        let metrics = &self.runtime.metrics;
        let mut lags = Vec::new();
        let mut blocked: BTreeMap<(Arc<str>, BlockReason), i64> = BTreeMap::new();
        for seen in assignment.iter() {
            if let Some(lag) = progress.lag(seen.at) {
                metrics
                    .consumer_lag
                    .with_label_values(&[&*seen.at.topic, seen.at.partition.to_string().as_str()])
                    .set(lag);
                lags.push(seen.at.clone());
            }
            if let Some((block, _)) = seen.block {
                *blocked.entry((seen.at.topic.clone(), block.reason)).or_default() += 1;
            }
        }
        for gone in self.lags.iter().filter(|at| !lags.contains(at)) {
            // Absent when it was never set.
            let _ = metrics
                .consumer_lag
                .remove_label_values(&[&*gone.topic, gone.partition.to_string().as_str()]);
        }
        for (topic, reason) in self.blocked.keys().filter(|key| !blocked.contains_key(key)) {
            metrics.partitions_blocked.with_label_values(&[topic, reason.as_str()]).set(0);
        }
        for ((topic, reason), count) in &blocked {
            metrics.partitions_blocked.with_label_values(&[topic, reason.as_str()]).set(*count);
        }
        (self.lags, self.blocked) = (lags, blocked);
    }

    fn detail(&self, assignment: &Assignment, progress: &Progress, now: Instant) -> Value {
        let blocked: Vec<Value> = assignment
            .iter()
            .filter_map(|seen| {
                let (block, since) = seen.block?;
                let seconds = now.duration_since(since).as_secs();
                Some(json!({
                    "topic": &*seen.at.topic,
                    "partition": seen.at.partition,
                    "reason": block.reason.as_str(),
                    "text": &*block.text,
                    "seconds": seconds,
                    "lag": progress.lag(seen.at),
                }))
            })
            .collect();
        let raised = self.runtime.raised_timestamps.load(Ordering::Relaxed);
        let reading = assignment.iter().filter(|seen| seen.is_read).count();
        json!({ "partitions": assignment.len(), "reading": reading, "lanes": self.runtime.lanes(), "blocked": blocked, "timestamps_raised_to_1": raised })
    }

    /// The session is over: what it said is not so any more.
    pub(super) fn clear(&mut self) {
        for component in std::mem::take(&mut self.told).into_keys() {
            self.runtime.status.ready(component);
        }
        for at in std::mem::take(&mut self.lags) {
            let _ = self
                .runtime
                .metrics
                .consumer_lag
                .remove_label_values(&[&*at.topic, at.partition.to_string().as_str()]);
        }
        for (topic, reason) in std::mem::take(&mut self.blocked).into_keys() {
            self.runtime
                .metrics
                .partitions_blocked
                .with_label_values(&[&*topic, reason.as_str()])
                .set(0);
        }
    }
}

/// What Kafka refuses the consumer, and what to grant.
pub(super) fn denial(runtime: &Runtime, code: RDKafkaErrorCode) -> String {
    let grant = match code {
        RDKafkaErrorCode::GroupAuthorizationFailed => {
            format!("grant Read on group {}", runtime.kafka.group_id)
        }
        RDKafkaErrorCode::TopicAuthorizationFailed => {
            "grant Read and Describe on the raw topics".to_owned()
        }
        _ => format!("grant Read on the raw topics and on group {}", runtime.kafka.group_id),
    };
    format!("{code}: {grant}")
}

/// What may never happen is there from the start: an alert on it needs something to look at.
pub(super) fn begin(runtime: &Runtime, topics: &[String]) {
    for topic in topics {
        for reason in BlockReason::ALL {
            runtime
                .metrics
                .partitions_blocked
                .with_label_values(&[topic.as_str(), reason.as_str()]);
        }
        for loss in Loss::ALL {
            runtime.metrics.records_missed.with_label_values(&[topic.as_str(), loss.as_str()]);
        }
    }
}

/// Which schemas records go by now.
pub(super) fn in_force(runtime: &Runtime) {
    let snapshot = runtime.snapshots.load();
    let labels: Vec<String> =
        snapshot.schemas.schemas().iter().map(|schema| schema.label.to_string()).collect();
    runtime.status.detail("schemas", json!({ "in_force": labels }));
}

/// Partitions of one reason together, the first few by name.
fn list(reasons: BTreeMap<String, Vec<&TopicPartition>>) -> Option<String> {
    let mut parts = Vec::new();
    for (text, partitions) in reasons {
        let names: Vec<String> = partitions.iter().take(NAMED).map(ToString::to_string).collect();
        let more = if partitions.len() > NAMED {
            format!(" and {} more", partitions.len() - NAMED)
        } else {
            String::new()
        };
        parts.push(format!("{}{more}: {text}", names.join(", ")));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

fn blocked(assignment: &Assignment) -> Option<String> {
    let mut reasons: BTreeMap<String, Vec<&TopicPartition>> = BTreeMap::new();
    for seen in assignment.iter() {
        if let Some((block, _)) = seen.block {
            reasons.entry(block.text.to_string()).or_default().push(seen.at);
        }
    }
    list(reasons)
}

fn stalled(
    runtime: &Runtime,
    assignment: &Assignment,
    progress: &Progress,
    now: Instant,
) -> Option<String> {
    let stall_after = runtime.pipeline.stall_after;
    let seconds = stall_after.as_secs_f64();
    let mut reasons: BTreeMap<String, Vec<&TopicPartition>> = BTreeMap::new();
    for (at, stall) in progress.stalled(stall_after, now) {
        let Some(seen) = assignment.iter().find(|seen| seen.at == at && seen.block.is_none())
        else {
            continue;
        };
        let text = match stall {
            Stall::OpenTransaction => {
                format!(
                    "records wait behind a transaction that its producer has not ended for \
                    {seconds} s (docs/operations.md, \"Hanging transactions\")"
                )
            }
            Stall::Records { .. } if !seen.is_read => {
                format!("has records, and where it begins cannot be found out for {seconds} s")
            }
            Stall::Records { .. } => {
                let last = assignment
                    .lane_of(at)
                    .and_then(|lane| runtime.last_failure(lane))
                    .unwrap_or_else(|| "none".to_owned());
                format!("has records and has not moved for {seconds} s (last error: {last})")
            }
        };
        reasons.entry(text).or_default().push(seen.at);
    }
    list(reasons)
}
