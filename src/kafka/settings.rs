//! librdkafka's settings: what exactly-once forces, what we set where the user does not, and what
//! passes through.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;
use sha2::{Digest as _, Sha256};

use super::access::{AWS_MSK_IAM, Access};
use crate::config::{Kafka, Pipeline};

/// Whose settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one consumer.
    Consumer,
    /// The producers, one a lane.
    Producer,
}

/// A setting that is not the user's: `None` where its value is made at run time.
struct Forced(&'static str, Option<&'static str>, &'static str);

const FORCED_BOTH: &[Forced] = &[
    Forced("bootstrap.servers", None, "write kafka.bootstrap_servers instead"),
    Forced("metadata.broker.list", None, "write kafka.bootstrap_servers instead"),
    Forced(
        "enable.ssl.certificate.verification",
        Some("true"),
        "anyone on the way could pose as the broker and read raw records; name its authority with \
        ssl.ca.location",
    ),
    Forced(
        "ssl.endpoint.identification.algorithm",
        Some("https"),
        "any holder of a certificate could pose as the broker and read raw records; connect to the \
        names in its certificate",
    ),
];

const FORCED_CONSUMER: &[Forced] = &[
    Forced("group.id", None, "write kafka.group_id instead"),
    Forced(
        "enable.auto.commit",
        Some("false"),
        "offsets commit inside the transactions; remove it",
    ),
    Forced(
        "auto.commit.enable",
        Some("false"),
        "offsets commit inside the transactions; remove it",
    ),
    Forced(
        "enable.auto.offset.store",
        Some("false"),
        "offsets commit inside the transactions; remove it",
    ),
    Forced(
        "isolation.level",
        Some("read_committed"),
        "records of aborted transactions must not be read; remove it",
    ),
    Forced(
        "enable.partition.eof",
        Some("false"),
        "the end of a partition is read from its position; remove it",
    ),
    Forced(
        "auto.offset.reset",
        Some("error"),
        "write kafka.on_missing_offset and kafka.on_offset_lost instead",
    ),
    Forced(
        "check.crcs",
        Some("true"),
        "damaged records must not be sealed as if they were whole; remove it",
    ),
];

const FORCED_PRODUCER: &[Forced] = &[
    Forced(
        "transactional.id",
        None,
        "it is made of kafka.transactional_id_prefix, group_id, instance and the lane; remove it",
    ),
    Forced("enable.idempotence", Some("true"), "transactions need it; remove it"),
    Forced("acks", Some("all"), "transactions need it; remove it"),
    Forced("request.required.acks", Some("all"), "transactions need it; remove it"),
    Forced("delivery.report.only.error", Some("true"), "the commit reports success; remove it"),
];

const DEFAULTS_BOTH: &[(&str, &str)] = &[
    ("client.id", "veilstream"),
    ("enable.metrics.push", "false"),
    ("retry.backoff.ms", "20"),
    ("socket.keepalive.enable", "true"),
];

const DEFAULTS_CONSUMER: &[(&str, &str)] = &[
    ("allow.auto.create.topics", "false"),
    // librdkafka's default of 1 s stalls a partition that was full once, and with a short queue one
    // often is.
    ("fetch.queue.backoff.ms", "2"),
    ("partition.assignment.strategy", "cooperative-sticky"),
];

const DEFAULTS_PRODUCER: &[(&str, &str)] =
    &[("compression.type", "lz4"), ("transaction.timeout.ms", "30000")];

/// librdkafka's own default of `socket.timeout.ms`.
const SOCKET_TIMEOUT_MS: u64 = 60_000;
/// Beyond the longest `pipeline.commit_interval`.
const LINGER_MOST_MS: u64 = 15_000;

fn forced(side: Side) -> impl Iterator<Item = &'static Forced> {
    FORCED_BOTH.iter().chain(if side == Side::Consumer { FORCED_CONSUMER } else { FORCED_PRODUCER })
}

/// Why the user may not set `name` to `value`, and what to do instead; never quotes the value.
#[must_use]
pub fn refused(side: Side, name: &str, value: &str) -> Option<String> {
    if let Some(Forced(_, only, why)) = forced(side).find(|f| f.0 == name)
        && *only != Some(value)
    {
        return Some(format!("cannot be set: {why}"));
    }
    if ["sasl.mechanism", "sasl.mechanisms"].contains(&name) && value == AWS_MSK_IAM {
        // Not librdkafka's, but ours.
        return (!cfg!(feature = "aws-kms")).then(|| {
            "is AWS_MSK_IAM, which this build does not have; build it with the feature aws-kms"
                .to_owned()
        });
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => Some(
            "is no librdkafka property; see librdkafka's CONFIGURATION.md for the names".to_owned(),
        ),
        Err(_) => Some(
            "has a value that librdkafka refuses, or that this build does not support; \
            see librdkafka's CONFIGURATION.md"
                .to_owned(),
        ),
        Ok(_) => None,
    }
}

/// The smallest `fetch.max.bytes`: librdkafka's default of `message.max.bytes`, below which it
/// refuses it.
const FETCH_LEAST: usize = 1_000_000;
/// librdkafka's defaults, the largest that are derived.
const FETCH_MOST: usize = 50 << 20;
const PARTITION_FETCH_MOST: usize = 1 << 20;
const QUEUED_MOST: usize = 100_000;
/// A lane that holds so many bytes holds a record.
const BYTES_A_RECORD: usize = 128 << 10;

/// All properties of the consumer. What bounds its memory follows from
/// `pipeline.max_inflight_bytes` (docs/operations.md, "Memory"): librdkafka counts the values in
/// its queues and nothing else, so headers and keys are bounded by the number of records, and what
/// a fetch grows to when it is decompressed by the size of the fetch.
#[must_use]
pub fn consumer(kafka: &Kafka, pipeline: &Pipeline) -> BTreeMap<String, String> {
    let mut all = properties(kafka, Side::Consumer);
    let held = pipeline.max_inflight_bytes;
    let largest =
        all.get("message.max.bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(FETCH_LEAST);
    let fetch = (held / 8).clamp(FETCH_LEAST, FETCH_MOST).max(largest);
    let mut derive = |names: &[&str], value: usize| {
        if !names.iter().any(|name| all.contains_key(*name)) {
            all.insert(names[0].to_owned(), value.to_string());
        }
    };
    // All partitions of a lane share its queue.
    derive(&["queued.max.messages.kbytes"], (held / 4 / 1024).max(1));
    derive(&["queued.min.messages"], (held / BYTES_A_RECORD).clamp(1, QUEUED_MOST));
    derive(&["fetch.max.bytes"], fetch);
    derive(
        &["max.partition.fetch.bytes", "fetch.message.max.bytes"],
        fetch.min(PARTITION_FETCH_MOST),
    );
    all
}

/// Bytes that a lane reads ahead of the batch in hand: more than a transaction of ordinary records,
/// so that fetches go on while one commits.
#[must_use]
pub fn read_ahead(pipeline: &Pipeline) -> usize {
    pipeline.max_inflight_bytes / 4
}

/// All properties of the producer `id`. `limits`: the least and the greatest `max.message.bytes` of
/// the topics it writes to.
#[must_use]
pub fn producer(
    kafka: &Kafka,
    id: &str,
    limits: Option<(usize, usize)>,
) -> BTreeMap<String, String> {
    let mut all = properties(kafka, Side::Producer);
    all.insert("transactional.id".to_owned(), id.to_owned());
    if let Some((least, greatest)) = limits {
        // The broker refuses a batch beyond the topic's limit with all its records; the client
        // refuses a message beyond its own.
        all.entry("batch.size".to_owned()).or_insert_with(|| least.min(1_000_000).to_string());
        all.entry("message.max.bytes".to_owned())
            .or_insert_with(|| greatest.clamp(1_000_000, 1_000_000_000).to_string());
    }
    all
}

/// All properties of the producer that copies the audit log: it gives no record up for want of an
/// answer, which keeps their order and each of them once, and it says of each that it is there.
#[must_use]
pub fn audit_producer(kafka: &Kafka) -> BTreeMap<String, String> {
    let mut all = properties(kafka, Side::Producer);
    for alias in ["delivery.timeout.ms", "queue.buffering.max.ms", "transaction.timeout.ms"] {
        all.remove(alias);
    }
    let own =
        [("delivery.report.only.error", "false"), ("linger.ms", "1"), ("message.timeout.ms", "0")];
    all.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    // A leader that hangs is asked again, or its successor, before callers have given up for long.
    for name in ["socket.timeout.ms", "request.timeout.ms"] {
        if !kafka.producer.contains_key(name) {
            all.insert(name.to_owned(), "5000".to_owned());
        }
    }
    all
}

/// The transactional id of a lane: `<prefix>-<group>-<instance>-<lane>`. Behind an instance with a
/// hyphen stand a hyphen and 8 hexadecimal digits, the beginning of SHA-256(LP(group) |
/// LP(instance)): without them group `a` with instance `b-1` and group `a-b` with instance `1`
/// would fence each other.
#[must_use]
pub fn transactional_id(kafka: &Kafka, lane: usize) -> String {
    let Kafka { transactional_id_prefix: prefix, group_id: group, instance, .. } = kafka;
    if !instance.contains('-') {
        return format!("{prefix}-{group}-{instance}-{lane}");
    }
    let mut hash = Sha256::new();
    for part in [group, instance] {
        // Longer ones than LP can say are no names of Kafka's.
        hash.update(u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        hash.update(part);
    }
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    format!("{prefix}-{group}-{instance}-{:08x}-{lane}", u32::from_be_bytes([a, b, c, d]))
}

/// The id that a lane had before instances with a hyphen had digits; `None` where it is the same.
#[must_use]
pub fn former_transactional_id(kafka: &Kafka, lane: usize) -> Option<String> {
    let Kafka { transactional_id_prefix: prefix, group_id: group, instance, .. } = kafka;
    instance.contains('-').then(|| format!("{prefix}-{group}-{instance}-{lane}"))
}

/// Defaults, the user's and forced properties of one side.
#[must_use]
pub fn properties(kafka: &Kafka, side: Side) -> BTreeMap<String, String> {
    let (defaults, user) = match side {
        Side::Consumer => (DEFAULTS_CONSUMER, &kafka.consumer),
        Side::Producer => (DEFAULTS_PRODUCER, &kafka.producer),
    };
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut all: BTreeMap<String, String> = DEFAULTS_BOTH.iter().chain(defaults).map(own).collect();
    all.extend(user.iter().map(|(name, value)| (name.clone(), value.clone())));
    all.extend(forced(side).filter_map(|Forced(name, value, _)| Some(own(&(*name, (*value)?)))));
    all.insert("bootstrap.servers".to_owned(), kafka.bootstrap_servers.clone());
    // Aliases of what is set by its proper name; librdkafka would warn about both.
    for alias in ["auto.commit.enable", "request.required.acks"] {
        all.remove(alias);
    }
    match side {
        Side::Consumer => {
            all.insert("group.id".to_owned(), kafka.group_id.clone());
            // The group protocol of KIP-848 assigns on the broker and refuses a strategy of the
            // client.
            if all.get("group.protocol").is_some_and(|p| p == "consumer")
                && !user.contains_key("partition.assignment.strategy")
            {
                all.remove("partition.assignment.strategy");
            }
        }
        Side::Producer => {
            // librdkafka refuses a socket time-out beyond the transaction's, and a linger beyond
            // the message's.
            let ms = |name: &str| all.get(name).and_then(|ms| ms.parse::<u64>().ok());
            let transaction = ms("transaction.timeout.ms").unwrap_or(SOCKET_TIMEOUT_MS);
            let message = ms("message.timeout.ms")
                .or_else(|| ms("delivery.timeout.ms"))
                .filter(|ms| *ms > 0)
                .unwrap_or(transaction);
            // Full batches go at once, and the end of a transaction flushes the rest. A batch that
            // has lingered and has to wait for its turn makes the client poll without a pause. So
            // batches linger for longer than a transaction is open.
            if !all.contains_key("queue.buffering.max.ms") {
                all.entry("linger.ms".to_owned()).or_insert_with(|| {
                    (message.min(transaction) / 2).min(LINGER_MOST_MS).to_string()
                });
            }
            all.entry("socket.timeout.ms".to_owned())
                .or_insert_with(|| transaction.min(SOCKET_TIMEOUT_MS).to_string());
        }
    }
    Access::of(kafka, side).apply(&mut all);
    all
}

#[cfg(test)]
mod tests {
    use rdkafka::consumer::BaseConsumer;
    use rdkafka::producer::BaseProducer;

    use super::*;
    use crate::config::{Config, Input};

    fn kafka(text: &str) -> Kafka {
        let input = Input { text: text.to_owned(), host_name: "h".to_owned(), ..Input::default() };
        Config::parse(&input, &|_| unreachable!()).unwrap().kafka
    }

    fn client(kafka: &Kafka, side: Side) -> ClientConfig {
        let mut config: ClientConfig = properties(kafka, side).into_iter().collect();
        if side == Side::Producer {
            config.set("transactional.id", "t");
        }
        config
    }

    #[test]
    fn forced_settings_are_refused_and_said_why() {
        for (side, name, value) in [
            (Side::Consumer, "enable.auto.commit", "true"),
            (Side::Consumer, "auto.commit.enable", "true"),
            (Side::Consumer, "isolation.level", "read_uncommitted"),
            (Side::Consumer, "group.id", "g"),
            (Side::Producer, "acks", "1"),
            (Side::Producer, "transactional.id", "t"),
            (Side::Producer, "bootstrap.servers", "b:1"),
        ] {
            let message = refused(side, name, value).unwrap();
            assert!(message.starts_with("cannot be set: "), "{name}: {message}");
        }
        assert_eq!(refused(Side::Consumer, "enable.auto.commit", "false"), None);
        assert_eq!(refused(Side::Producer, "enable.auto.commit", "true"), None);
    }

    #[test]
    fn librdkafka_judges_the_rest() {
        assert!(
            refused(Side::Consumer, "fetch.min.byte", "1")
                .unwrap()
                .contains("no librdkafka property")
        );
        assert!(
            refused(Side::Consumer, "fetch.min.bytes", "few")
                .unwrap()
                .contains("librdkafka refuses")
        );
        for (name, value) in [
            ("fetch.min.bytes", "1"),
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "SCRAM-SHA-512"),
            ("compression.type", "zstd"),
        ] {
            assert_eq!(refused(Side::Producer, name, value), None, "{name}");
        }
    }

    #[test]
    fn what_a_fetch_may_hold_follows_from_what_a_lane_may_hold() {
        let derived = |text: &str| {
            let input =
                Input { text: text.to_owned(), host_name: "h".to_owned(), ..Input::default() };
            let config = Config::parse(&input, &|_| unreachable!()).unwrap();
            let all = consumer(&config.kafka, &config.pipeline);
            let client: ClientConfig = all.clone().into_iter().collect();
            client.create::<BaseConsumer>().unwrap();
            [
                "queued.max.messages.kbytes",
                "queued.min.messages",
                "fetch.max.bytes",
                "max.partition.fetch.bytes",
            ]
            .map(|name| all.get(name).map_or(0, |value| value.parse::<usize>().unwrap()))
        };
        assert_eq!(derived(""), [8192, 256, 4 << 20, 1 << 20]);
        assert_eq!(
            derived("[pipeline]\nmax_inflight_bytes = \"64KiB\""),
            [16, 1, 1_000_000, 1_000_000]
        );
        assert_eq!(
            derived("[pipeline]\nmax_inflight_bytes = \"1GiB\""),
            [262_144, 8192, 50 << 20, 1 << 20]
        );
        let own = "[kafka.consumer]\n\"fetch.message.max.bytes\" = 7\n\"queued.min.messages\" = \
            9\n\"message.max.bytes\" = 8000000";
        assert_eq!(derived(own), [8192, 9, 8_000_000, 0]);
    }

    #[test]
    fn no_two_instances_have_one_transactional_id() {
        let of = |group: &str, instance: &str| {
            kafka(&format!("[kafka]\ngroup_id = \"{group}\"\ninstance = \"{instance}\""))
        };
        let (one, other) = (of("a", "b-1"), of("a-b", "1"));
        assert_eq!(former_transactional_id(&one, 0).unwrap(), transactional_id(&other, 0));
        // printf '\0\0\0\1a\0\0\0\3b-1' | sha256sum
        assert_eq!(transactional_id(&one, 0), "veilstream-a-b-1-0975f3c1-0");
        assert_eq!(
            (transactional_id(&other, 3), former_transactional_id(&other, 3)),
            ("veilstream-a-b-1-3".to_owned(), None)
        );
        assert_ne!(transactional_id(&of("a", "b-c-1"), 0), transactional_id(&of("a-b", "c-1"), 0));
    }

    /// librdkafka checks settings against each other only when a client is made.
    #[test]
    fn clients_can_be_made_of_them() {
        for text in [
            "",
            "[kafka.consumer]\n\"group.protocol\" = \"consumer\"\n\"enable.auto.commit\" = \
            false\n\"auto.commit.enable\" = false",
            "[kafka.producer]\n\"transaction.timeout.ms\" = 5000\n\"request.required.acks\" = \
            \"all\"",
            "[kafka.producer]\n\"queue.buffering.max.ms\" = 7",
            "[kafka.producer]\n\"delivery.timeout.ms\" = 4000",
            "[kafka.producer]\n\"transaction.timeout.ms\" = 600000",
        ] {
            let kafka = kafka(text);
            client(&kafka, Side::Consumer).create::<BaseConsumer>().unwrap();
            client(&kafka, Side::Producer).create::<BaseProducer>().unwrap();
        }
    }

    #[test]
    fn the_users_settings_win_over_defaults() {
        let kafka =
            kafka("[kafka.client]\n\"client.id\" = \"mine\"\n[kafka.producer]\n\"linger.ms\" = 1");
        assert_eq!(properties(&self::kafka(""), Side::Producer)["linger.ms"], "15000");
        assert_eq!(properties(&kafka, Side::Consumer)["client.id"], "mine");
        assert_eq!(properties(&kafka, Side::Producer)["linger.ms"], "1");
        assert_eq!(properties(&kafka, Side::Consumer)["isolation.level"], "read_committed");
    }
}
