//! librdkafka's settings: what exactly-once forces, what we set where the user does not, and what passes through.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

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
];

const FORCED_CONSUMER: &[Forced] = &[
    Forced("group.id", None, "write kafka.group_id instead"),
    Forced("enable.auto.commit", Some("false"), "offsets commit inside the transactions; remove it"),
    Forced("auto.commit.enable", Some("false"), "offsets commit inside the transactions; remove it"),
    Forced("enable.auto.offset.store", Some("false"), "offsets commit inside the transactions; remove it"),
    Forced("isolation.level", Some("read_committed"), "records of aborted transactions must not be read; remove it"),
    Forced("enable.partition.eof", Some("false"), "the end of a partition is read from its position; remove it"),
];

const FORCED_PRODUCER: &[Forced] = &[
    Forced("transactional.id", None, "it is made of kafka.transactional_id_prefix, group_id, instance and the lane; remove it"),
    Forced("enable.idempotence", Some("true"), "transactions need it; remove it"),
    Forced("acks", Some("all"), "transactions need it; remove it"),
    Forced("request.required.acks", Some("all"), "transactions need it; remove it"),
    Forced("delivery.report.only.error", Some("true"), "the commit reports success; remove it"),
];

const DEFAULTS_BOTH: &[(&str, &str)] =
    &[("client.id", "veilstream"), ("enable.metrics.push", "false"), ("retry.backoff.ms", "20"), ("socket.keepalive.enable", "true")];

const DEFAULTS_CONSUMER: &[(&str, &str)] = &[
    ("allow.auto.create.topics", "false"),
    ("auto.offset.reset", "earliest"),
    // librdkafka's default of 1 s stalls a partition that was full once.
    ("fetch.queue.backoff.ms", "50"),
    ("partition.assignment.strategy", "cooperative-sticky"),
];

const DEFAULTS_PRODUCER: &[(&str, &str)] = &[("compression.type", "lz4"), ("linger.ms", "5"), ("transaction.timeout.ms", "30000")];

/// librdkafka's own default of `socket.timeout.ms`.
const SOCKET_TIMEOUT_MS: u64 = 60_000;

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
        return (!cfg!(feature = "aws-kms")).then(|| "is AWS_MSK_IAM, which this build does not have; build it with the feature aws-kms".to_owned());
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Some("is no librdkafka property; see librdkafka's CONFIGURATION.md for the names".to_owned())
        }
        Err(_) => Some("has a value that librdkafka refuses, or that this build does not support; see librdkafka's CONFIGURATION.md".to_owned()),
        Ok(_) => None,
    }
}

/// All properties of the consumer.
#[must_use]
pub fn consumer(kafka: &Kafka, pipeline: &Pipeline) -> BTreeMap<String, String> {
    let mut all = properties(kafka, Side::Consumer);
    // All partitions of a lane share its queue: this is what a lane holds ahead of its batch.
    let ahead = (pipeline.max_inflight_bytes / 2 / 1024).max(1);
    all.entry("queued.max.messages.kbytes".to_owned()).or_insert_with(|| ahead.to_string());
    all
}

/// All properties of the producer `id`. `limits`: the least and the greatest `max.message.bytes` of the topics it writes to.
#[must_use]
pub fn producer(kafka: &Kafka, id: &str, limits: Option<(usize, usize)>) -> BTreeMap<String, String> {
    let mut all = properties(kafka, Side::Producer);
    all.insert("transactional.id".to_owned(), id.to_owned());
    if let Some((least, greatest)) = limits {
        // The broker refuses a batch beyond the topic's limit with all its records; the client refuses a message beyond its own.
        all.entry("batch.size".to_owned()).or_insert_with(|| least.min(1_000_000).to_string());
        all.entry("message.max.bytes".to_owned()).or_insert_with(|| greatest.clamp(1_000_000, 1_000_000_000).to_string());
    }
    all
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
            // The group protocol of KIP-848 assigns on the broker and refuses a strategy of the client.
            if all.get("group.protocol").is_some_and(|p| p == "consumer") && !user.contains_key("partition.assignment.strategy") {
                all.remove("partition.assignment.strategy");
            }
        }
        Side::Producer => {
            // librdkafka refuses a socket time-out beyond the transaction's.
            let transaction = all.get("transaction.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(SOCKET_TIMEOUT_MS);
            all.entry("socket.timeout.ms".to_owned()).or_insert_with(|| transaction.min(SOCKET_TIMEOUT_MS).to_string());
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
        assert!(refused(Side::Consumer, "fetch.min.byte", "1").unwrap().contains("no librdkafka property"));
        assert!(refused(Side::Consumer, "fetch.min.bytes", "few").unwrap().contains("librdkafka refuses"));
        for (name, value) in [("fetch.min.bytes", "1"), ("security.protocol", "SASL_SSL"), ("sasl.mechanism", "SCRAM-SHA-512"), ("compression.type", "zstd")] {
            assert_eq!(refused(Side::Producer, name, value), None, "{name}");
        }
    }

    /// librdkafka checks settings against each other only when a client is made.
    #[test]
    fn clients_can_be_made_of_them() {
        for text in [
            "",
            "[kafka.consumer]\n\"group.protocol\" = \"consumer\"\n\"enable.auto.commit\" = false\n\"auto.commit.enable\" = false",
            "[kafka.producer]\n\"transaction.timeout.ms\" = 5000\n\"request.required.acks\" = \"all\"",
            "[kafka.producer]\n\"transaction.timeout.ms\" = 600000",
        ] {
            let kafka = kafka(text);
            client(&kafka, Side::Consumer).create::<BaseConsumer>().unwrap();
            client(&kafka, Side::Producer).create::<BaseProducer>().unwrap();
        }
    }

    #[test]
    fn the_users_settings_win_over_defaults() {
        let kafka = kafka("[kafka.client]\n\"client.id\" = \"mine\"\n[kafka.producer]\n\"linger.ms\" = 1");
        assert_eq!(properties(&kafka, Side::Consumer)["client.id"], "mine");
        assert_eq!(properties(&kafka, Side::Producer)["linger.ms"], "1");
        assert_eq!(properties(&kafka, Side::Consumer)["isolation.level"], "read_committed");
    }
}
