//! Every metric, in one table. Names and labels are an API (docs/metrics.md); labels come from
//! closed sets: topics, schemas and fields of the configuration, codes of this program. Nothing of
//! a payload becomes a label.

use prometheus::core::Collector;
use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

/// Buckets of a transaction: 1 ms to 10 s.
const TRANSACTION: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Buckets from a record's timestamp to its commit: 5 ms to 10 min, because a start with lag is
/// normal.
const LATENCY: &[f64] =
    &[0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 600.0];
/// Buckets of a request to the key provider: 0.1 ms to 10 s.
const KEYS: &[f64] = &[0.0001, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0];

/// Declares the struct of handles and its constructor from one table: name, handle, labels or
/// buckets, help.
macro_rules! metrics {
    ($($field:ident: $kind:ident $name:literal [$($extra:tt)*] $help:literal;)*) => {
        /// Handles of every metric. Cheap to share behind an `Arc`; lanes count locally
        /// ([`super::counters`]).
        #[derive(Debug)]
        pub struct Metrics {
            registry: Registry,
            $(#[doc = $help] pub $field: $kind,)*
        }

        impl Metrics {
            /// Registers every metric.
            ///
            /// # Errors
            /// A name or label that Prometheus refuses: a fault of the table.
            pub fn new() -> Result<Self, prometheus::Error> {
                let registry = Registry::new();
                $(let $field = register(&registry, metrics!(@make $kind $name [$($extra)*] $help)?)?;)*
                let metrics = Self { registry, $($field),* };
                metrics.build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
                // What may never happen is there from the start: an alert on it needs something to
                // look at.
                metrics.producer_recycles.with_label_values(&["fenced"]);
                metrics.reveals.with_label_values(&["revealed"]);
                metrics.requests_failed.with_label_values(&["audit_unavailable"]);
                metrics.requests_failed.with_label_values(&["keys_unavailable"]);
                metrics.searches.with_label_values(&["ok"]);
                metrics.seals.with_label_values(&["sealed"]);
                metrics.audit_lines.with_label_values(&["file", "failed"]);
                metrics.audit_gap_lines.with_label_values(&["topic"]);
                metrics.audit_gap_lines.with_label_values(&["postgres"]);
                metrics.budget_denials.with_label_values(&[""]);
                metrics.authentication_errors.with_label_values(&["credentials"]);
                metrics.logins_refused.with_label_values(&["no_credential"]);
                Ok(metrics)
            }

            /// Every name, in the order of the table.
            pub const NAMES: &[&str] = &[$($name),*];

            /// Name, type, and labels or buckets of every metric, as the table has them.
            #[cfg(test)]
            const TABLE: &[(&str, &str, &str)] = &[$(($name, stringify!($kind), stringify!($($extra)*))),*];
        }
    };
    (@make IntCounterVec $name:literal [$($label:literal)*] $help:literal) => { IntCounterVec::new(Opts::new($name, $help), &[$($label),*]) };
    (@make IntGaugeVec $name:literal [$($label:literal)*] $help:literal) => { IntGaugeVec::new(Opts::new($name, $help), &[$($label),*]) };
    (@make IntCounter $name:literal [] $help:literal) => { IntCounter::new($name, $help) };
    (@make IntGauge $name:literal [] $help:literal) => { IntGauge::new($name, $help) };
    (@make Gauge $name:literal [] $help:literal) => { Gauge::new($name, $help) };
    (@make Histogram $name:literal [$buckets:ident] $help:literal) => { Histogram::with_opts(HistogramOpts::new($name, $help).buckets($buckets.to_vec())) };
}

metrics! {
    records_consumed: IntCounterVec "veilstream_records_consumed_total" ["topic"]
        "Records read from raw topics and committed.";
    records_produced: IntCounterVec "veilstream_records_produced_total" ["topic"]
        "Records committed to sanitized topics.";
    records_dead_lettered: IntCounterVec "veilstream_records_dead_lettered_total" ["topic" "reason"]
        "Records committed to the dead-letter topic, by raw topic and reject code.";
    fields_protected: IntCounterVec "veilstream_fields_protected_total" ["schema" "field" "outcome"]
        "What happened to the fields of committed records.";
    residue: IntCounterVec "veilstream_residue_total" ["schema" "field"]
        "Protected values found in clear elsewhere in the same record.";
    residue_capped: IntCounterVec "veilstream_residue_capped_total" ["schema"]
        "Protected values that were not looked for elsewhere in their record, because it has too many.";
    transactions: IntCounterVec "veilstream_transactions_total" ["outcome"]
        "Kafka transactions by outcome.";
    transaction_duration: Histogram "veilstream_transaction_duration_seconds" [TRANSACTION]
        "From the first record of a transaction to the end of its commit.";
    commit_duration: Histogram "veilstream_commit_duration_seconds" [TRANSACTION]
        "From the flush of a transaction to the end of its commit; its lane protects nothing.";
    record_latency: Histogram "veilstream_record_latency_seconds" [LATENCY]
        "From a record's timestamp to the commit of its sanitized form.";
    consumer_lag: IntGaugeVec "veilstream_consumer_lag" ["topic" "partition"]
        "Records between the committed offset and the end of an assigned partition.";
    partitions_blocked: IntGaugeVec "veilstream_partitions_blocked" ["topic" "reason"]
        "Assigned partitions that are not read, by reason.";
    records_missed: IntCounterVec "veilstream_records_missed_total" ["topic" "reason"]
        "Records that were gone before they were read, as far as it is known.";
    rebalances: IntCounter "veilstream_rebalances_total" [] "Changes of this member's partitions.";
    producer_recycles: IntCounterVec "veilstream_producer_recycles_total" ["reason"]
        "Producers dropped and fenced again.";
    inflight_bytes: IntGauge "veilstream_inflight_bytes" [] "Input bytes of the open transactions.";
    key_requests: IntCounterVec "veilstream_key_requests_total" ["provider" "operation" "outcome"]
        "Requests to the key provider.";
    key_request_seconds: Histogram "veilstream_key_request_seconds" [KEYS]
        "Time of requests to the key provider.";
    data_key_uses: IntGaugeVec "veilstream_data_key_uses" ["schema"]
        "Values sealed with the schema's present data key, in reserved blocks.";
    key_age: Gauge "veilstream_key_age_seconds" [] "Age of the oldest data key that still seals.";
    reveals: IntCounterVec "veilstream_reveals_total" ["status"]
        "Fields that callers of the reading service asked for, by what they were told.";
    requests_failed: IntCounterVec "veilstream_requests_failed_total" ["code"]
        "Requests to the reading service that it could not answer, by the code of the problem.";
    searches: IntCounterVec "veilstream_searches_total" ["outcome"]
        "Values that callers asked the index values of.";
    seals: IntCounterVec "veilstream_seals_total" ["status"]
        "Values that callers of the reading service sealed, by what they were told.";
    audit_lines: IntCounterVec "veilstream_audit_lines_total" ["sink" "outcome"]
        "Lines of the audit log that requests wrote, and their copies in second places.";
    audit_gap_lines: IntCounterVec "veilstream_audit_gap_lines_total" ["sink"]
        "Lines of the audit log that a second place never had.";
    budget_denials: IntCounterVec "veilstream_budget_denials_total" ["purpose"]
        "Records and tokens denied because a disclosure budget was spent.";
    honey_opened: IntCounter "veilstream_honey_opened_total" []
        "Requests that opened a honey token.";
    policy_errors: IntCounter "veilstream_policy_errors_total" []
        "Fields and schemas denied because a policy failed while it was evaluated.";
    engine_panics: IntCounter "veilstream_engine_panics_total" []
        "Records on which the engine failed, and which were rejected as internal.";
    authentication_errors: IntCounterVec "veilstream_authentication_errors_total" ["reason"]
        "Connections to brokers that failed for authentication or TLS.";
    logins_refused: IntCounterVec "veilstream_logins_refused_total" ["cause"]
        "Requests and handshakes that the reading service refused for their credential.";
    credentials_corrupt: IntGauge "veilstream_credentials_corrupt" []
        "Records of API keys that somebody changed who does not hold the store key.";
    build_info: IntGaugeVec "veilstream_build_info" ["version"] "1; the version is a label.";
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

impl Metrics {
    /// The metrics in Prometheus' text format.
    ///
    /// # Errors
    /// An encoder's fault; nothing a caller can mend.
    pub fn render(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::with_capacity(16 << 10);
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use veilstream_engine::RejectCode;
    use veilstream_engine::record::FieldOutcome;

    use super::super::counters::label;
    use super::*;

    /// The names of the interface: scripts and dashboards outside the project use them.
    #[test]
    fn names_are_those_of_the_interface() {
        let names = [
            "records_consumed_total",
            "records_produced_total",
            "records_dead_lettered_total",
            "fields_protected_total",
            "residue_total",
            "residue_capped_total",
            "transactions_total",
            "transaction_duration_seconds",
            "commit_duration_seconds",
            "record_latency_seconds",
            "consumer_lag",
            "partitions_blocked",
            "records_missed_total",
            "rebalances_total",
            "producer_recycles_total",
            "inflight_bytes",
            "key_requests_total",
            "key_request_seconds",
            "data_key_uses",
            "key_age_seconds",
            "reveals_total",
            "requests_failed_total",
            "searches_total",
            "seals_total",
            "audit_lines_total",
            "audit_gap_lines_total",
            "budget_denials_total",
            "honey_opened_total",
            "policy_errors_total",
            "engine_panics_total",
            "authentication_errors_total",
            "logins_refused_total",
            "credentials_corrupt",
            "build_info",
        ];
        assert_eq!(Metrics::NAMES, names.map(|n| format!("veilstream_{n}")));
    }

    const DOCUMENT: &str = include_str!("../../docs/metrics.md");

    /// The rows below a table's head, as cells without backticks.
    fn rows<'t>(document: &'t str, head: &str) -> Vec<Vec<&'t str>> {
        let tables = document.split(head).skip(1);
        let lines =
            tables.flat_map(|table| table.lines().skip(2).take_while(|line| line.starts_with('|')));
        lines
            .map(|line| {
                line.trim_matches('|')
                    .split(" | ")
                    .map(|cell| cell.trim_matches([' ', '`']))
                    .collect()
            })
            .collect()
    }

    #[test]
    fn the_document_holds_every_metric_with_its_labels() {
        let coded = Metrics::TABLE.iter().map(|(name, kind, extra)| {
            let labels: Vec<&str> = extra.split('"').skip(1).step_by(2).collect();
            let kind = match *kind {
                "IntCounter" | "IntCounterVec" => "counter",
                "Histogram" => "histogram",
                _ => "gauge",
            };
            vec![
                (*name).to_owned(),
                kind.to_owned(),
                if labels.is_empty() { "none".to_owned() } else { labels.join("`, `") },
            ]
        });
        let documented = rows(DOCUMENT, "| metric | type | labels | meaning |");
        assert!(documented.iter().all(|row| row.len() == 4 && !row[3].is_empty()));
        let documented = documented
            .iter()
            .map(|row| row[..3].iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
        let (mut documented, mut coded) =
            (documented.collect::<Vec<_>>(), coded.collect::<Vec<_>>());
        documented.sort();
        coded.sort();
        assert_eq!(documented, coded, "left: docs/metrics.md, right: the code");
    }

    #[test]
    fn the_documents_hold_every_value_of_closed_labels() {
        use crate::dead_letters::letter::DeadLetterReason;
        use crate::pipeline::core::partition::BlockReason;
        use crate::pipeline::core::start::Loss;

        let first = |document: &'static str, head| {
            rows(document, head).iter().map(|row| row[0]).collect::<Vec<_>>()
        };
        let rejected = RejectCode::ALL.map(RejectCode::as_str);
        let same = |mut documented: Vec<&'static str>, mut coded: Vec<&'static str>| {
            documented.sort_unstable();
            coded.sort_unstable();
            assert_eq!(documented, coded, "left: the document, right: the code");
        };
        same(
            first(DOCUMENT, "| reason | the record |"),
            [&rejected[..], &[DeadLetterReason::BrokerRefused.as_str()]].concat(),
        );
        let operations = include_str!("../../docs/operations.md");
        let blocked = operations
            .split("`veilstream_partitions_blocked{topic,reason}` counts:")
            .nth(1)
            .unwrap();
        same(
            first(
                blocked.split("\n## ").next().unwrap(),
                "| Reason | What it means | What to do |",
            ),
            BlockReason::ALL.map(BlockReason::as_str).to_vec(),
        );

        let values = rows(DOCUMENT, "| metric | label | values |");
        let of = |metric: &str| {
            values
                .iter()
                .find(|row| row[0] == metric)
                .map(|row| row[2].split("`, `").collect::<Vec<_>>())
                .unwrap()
        };
        same(of("veilstream_records_missed_total"), Loss::ALL.map(Loss::as_str).to_vec());
        same(of("veilstream_fields_protected_total"), FieldOutcome::ALL.map(label).to_vec());
    }

    #[test]
    fn help_and_labels_are_rendered() {
        let metrics = Metrics::new().unwrap();
        metrics.records_dead_lettered.with_label_values(&["people.raw", "not_json"]).inc();
        let text = String::from_utf8(metrics.render().unwrap()).unwrap();
        assert!(
            text.contains(
                "# HELP veilstream_rebalances_total Changes of this member's partitions.
# TYPE veilstream_rebalances_total counter
"
            ),
            "{text}"
        );
        assert!(text.contains("veilstream_records_dead_lettered_total{reason=\"not_json\",topic=\"people.raw\"} 1\n"), "{text}");
        assert!(
            text.contains(&format!(
                "veilstream_build_info{{version=\"{}\"}} 1\n",
                env!("CARGO_PKG_VERSION")
            )),
            "{text}"
        );
    }
}
