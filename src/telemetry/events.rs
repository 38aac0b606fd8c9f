//! What can happen: one struct per occurrence, whose `emit` writes the log line and counts the
//! metric together, so that neither is forgotten. Fields are names, numbers and codes of this
//! program; never anything of a record.

use super::metrics::Metrics;

/// Something that happened.
pub trait Event {
    /// Logs and counts it.
    fn emit(self, metrics: &Metrics);
}

/// A producer was dropped and fenced again.
#[derive(Debug)]
pub struct ProducerRecycled {
    /// The lane it belongs to.
    pub lane: usize,
    /// Code of the reason, from a closed set.
    pub reason: &'static str,
}

impl Event for ProducerRecycled {
    fn emit(self, metrics: &Metrics) {
        tracing::info!(lane = self.lane, reason = self.reason, "producer recycled");
        metrics.producer_recycles.with_label_values(&[self.reason]).inc();
    }
}

/// The partitions of this member changed.
#[derive(Debug)]
pub struct Rebalanced {
    /// Partitions that came.
    pub assigned: usize,
    /// Partitions that went, committed or aborted.
    pub revoked: usize,
    /// Whether they went without a chance to commit.
    pub lost: bool,
}

impl Event for Rebalanced {
    fn emit(self, metrics: &Metrics) {
        tracing::info!(
            assigned = self.assigned,
            revoked = self.revoked,
            lost = self.lost,
            "partitions changed"
        );
        metrics.rebalances.inc();
    }
}

/// Reading goes on although records between the committed offset and the log are gone.
#[derive(Debug)]
pub struct OffsetLost<'a> {
    /// The raw topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// How: `retention`, `truncation`, `recreated`, `expired`.
    pub reason: &'static str,
    /// Records that are known to be gone.
    pub missed: u64,
    /// The committed offset; `None`: it is gone too.
    pub committed: Option<i64>,
    /// Where reading goes on.
    pub goes_on: i64,
}

impl Event for OffsetLost<'_> {
    fn emit(self, metrics: &Metrics) {
        let Self { topic, partition, reason, missed, committed, goes_on } = self;
        tracing::warn!(
            topic,
            partition,
            reason,
            missed,
            committed,
            goes_on,
            "the committed offset is lost, reading goes on"
        );
        metrics.records_missed.with_label_values(&[self.topic, self.reason]).inc_by(self.missed);
    }
}

/// A transaction committed.
#[derive(Debug)]
pub struct TransactionCommitted {
    /// The lane.
    pub lane: usize,
    /// Records it holds.
    pub records: usize,
    /// Of them dead letters.
    pub dead_letters: usize,
    /// From the first record to the end of the commit, in seconds.
    pub seconds: f64,
    /// From the flush to the end of the commit, in seconds: the lane protected nothing.
    pub commit_seconds: f64,
}

impl Event for TransactionCommitted {
    fn emit(self, metrics: &Metrics) {
        tracing::debug!(
            lane = self.lane,
            records = self.records,
            dead_letters = self.dead_letters,
            seconds = self.seconds,
            commit_seconds = self.commit_seconds,
            "transaction committed"
        );
        metrics.transactions.with_label_values(&["committed"]).inc();
        metrics.transaction_duration.observe(self.seconds);
        metrics.commit_duration.observe(self.commit_seconds);
    }
}

/// A transaction was aborted; its records come again.
#[derive(Debug)]
pub struct TransactionAborted {
    /// The lane.
    pub lane: usize,
    /// Code of the reason.
    pub reason: &'static str,
}

impl Event for TransactionAborted {
    fn emit(self, metrics: &Metrics) {
        tracing::info!(
            lane = self.lane,
            reason = self.reason,
            "transaction aborted, its records come again"
        );
        metrics.transactions.with_label_values(&["aborted"]).inc();
    }
}

/// A route stopped because too much of it was rejected.
#[derive(Debug)]
pub struct RouteStopped<'a> {
    /// The raw topic.
    pub topic: &'a str,
    /// Records rejected within the window.
    pub rejected: u32,
    /// Size of the window.
    pub window: u32,
}

impl Event for RouteStopped<'_> {
    fn emit(self, _: &Metrics) {
        tracing::warn!(
            topic = self.topic,
            rejected = self.rejected,
            window = self.window,
            "route stopped: too many records rejected; mend the schema"
        );
    }
}

/// The schemas in force changed.
#[derive(Debug)]
pub struct SchemasLoaded<'a> {
    /// `name/version` of each.
    pub labels: &'a [String],
}

impl Event for SchemasLoaded<'_> {
    fn emit(self, _: &Metrics) {
        tracing::info!(schemas = self.labels.join(" "), "schemas loaded");
    }
}

/// A new state of the schema directory was refused; the schemas in force stay.
#[derive(Debug)]
pub struct SchemasRefused<'a> {
    /// Every fault, with its file.
    pub faults: &'a [String],
}

impl Event for SchemasRefused<'_> {
    fn emit(self, _: &Metrics) {
        tracing::error!(
            faults = self.faults.join("; "),
            "schema change refused, the schemas in force stay"
        );
    }
}

/// Connections of a client are refused: authentication or TLS.
#[derive(Debug)]
pub struct AccessRefused<'a> {
    /// Whose, where, why, and what to do.
    pub fault: &'a str,
    /// Code of the reason, from a closed set.
    pub reason: &'static str,
}

impl AccessRefused<'_> {
    /// Logs it, where nothing is counted.
    pub fn log(self) {
        tracing::warn!(reason = self.reason, "connection refused: {}", self.fault);
    }
}

impl Event for AccessRefused<'_> {
    fn emit(self, metrics: &Metrics) {
        metrics.authentication_errors.with_label_values(&[self.reason]).inc();
        self.log();
    }
}

/// The reading service refused a credential.
#[derive(Debug)]
pub struct LoginRefused<'a> {
    /// Whose request.
    pub address: std::net::IpAddr,
    /// Code of the cause, from a closed set.
    pub cause: &'static str,
    /// Whether it is the proof of a person.
    pub of_person: bool,
    /// Which credential it claims to be; empty: none that is known here.
    pub credential: &'a str,
    /// Refused before it from there, of which nobody was told.
    pub before: u64,
}

impl Event for LoginRefused<'_> {
    /// Counted by who calls, as not each is told.
    fn emit(self, _: &Metrics) {
        tracing::warn!(
            address = %self.address,
            cause = self.cause,
            of_person = self.of_person,
            credential = self.credential,
            before = self.before,
            "login refused"
        );
    }
}

/// Records of API keys were changed.
#[derive(Debug)]
pub struct CredentialsCorrupt<'a> {
    /// Their ids, as they stand there.
    pub ids: &'a [String],
}

impl Event for CredentialsCorrupt<'_> {
    fn emit(self, _: &Metrics) {
        tracing::error!(
            ids = ?self.ids,
            "records of API keys were changed by somebody who does not hold the store key; they \
            open nothing. Find out who writes to the key store"
        );
    }
}

/// A honey token was opened, which nobody has a reason for.
#[derive(Debug)]
pub struct HoneyOpened<'a> {
    /// Whose request.
    pub actor: &'a str,
    /// Ids of the fields.
    pub fields: &'a std::collections::BTreeSet<String>,
}

impl Event for HoneyOpened<'_> {
    fn emit(self, metrics: &Metrics) {
        metrics.honey_opened.inc();
        tracing::error!(
            actor = self.actor,
            fields = ?self.fields,
            "a honey token was opened: somebody reads what was stolen or planted. Look at what this \
            actor read in the audit log"
        );
    }
}

/// A policy failed while it was evaluated: what it touches is denied.
#[derive(Debug)]
pub struct PolicyFailed<'a> {
    /// Ids of the policies. Empty: the question could not be asked.
    pub policies: &'a std::collections::BTreeSet<std::sync::Arc<str>>,
    /// Id of the field, or name of the schema, that was asked about.
    pub resource: &'a str,
    /// Whether the log has it already.
    pub is_known: bool,
}

impl Event for PolicyFailed<'_> {
    /// Each is counted; the log has each policy once.
    fn emit(self, metrics: &Metrics) {
        metrics.policy_errors.inc();
        if !self.is_known {
            tracing::error!(
                policies = ?self.policies,
                resource = self.resource,
                "policies failed while they were evaluated, so what they are about is denied; mend \
                them. What else they deny is counted only"
            );
        }
    }
}

/// The process stops.
#[derive(Debug)]
pub struct Stopping<'a> {
    /// Why: a signal's name or how the pipeline ended.
    pub why: &'a str,
}

impl Event for Stopping<'_> {
    fn emit(self, _: &Metrics) {
        tracing::info!(why = self.why, "stopping");
    }
}
