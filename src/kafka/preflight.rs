//! Looks before the first record flows: are the topics there, and do they fit each other? What is missing comes with the command that makes it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer as _;
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::types::RDKafkaErrorCode;
use veilstream_engine::compile::SchemaSet;

use super::client::{self, Context, Registered};
use super::error::is_authorization;
use crate::config::Kafka;

/// Kafka's defaults, where the brokers do not tell.
const MAX_MESSAGE_BYTES: usize = 1_048_588;
const AHEAD_MS: i64 = 3_600_000;
/// One question to the brokers.
const REQUEST: Duration = Duration::from_secs(10);

/// What the pipeline knows of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicFacts {
    /// How many partitions it has.
    pub partitions: i32,
    /// How many replicas the partition with the fewest has.
    pub replicas: usize,
    /// Largest batch it takes.
    pub max_message_bytes: usize,
    /// It takes no null keys.
    pub compacted: bool,
    /// How far ahead of now a timestamp may be, in milliseconds.
    pub ahead_ms: i64,
    /// The broker writes its own timestamps.
    pub log_append_time: bool,
    /// Its settings could not be read: the defaults stand here.
    pub assumed: bool,
}

/// A topic that `--create-topics` makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// Largest batch.
    pub max_message_bytes: usize,
}

/// What a look found.
#[derive(Debug, Default)]
pub struct Found {
    /// How many brokers there are.
    pub brokers: usize,
    /// Every topic that is there.
    pub facts: HashMap<String, TopicFacts>,
    /// Why `run` would refuse to start, each with what to do.
    pub problems: Vec<String>,
    /// What to know.
    pub warnings: Vec<String>,
    /// Topics to make.
    pub missing: Vec<Missing>,
    /// Permissions that are missing.
    pub denied: Vec<String>,
}

/// Asks the brokers about every topic of `schemas` and the dead-letter topic.
///
/// # Errors
/// The brokers do not answer.
pub fn examine(kafka: &Kafka, schemas: &SchemaSet, dead_letters: &str) -> Result<Found, String> {
    let routes: BTreeMap<&str, &str> = schemas.routes().collect();
    let mut names: Vec<&str> = routes.iter().flat_map(|(from, to)| [*from, *to]).chain([dead_letters]).collect();
    names.sort_unstable();
    names.dedup();
    let mut found = Found::default();
    ask(kafka, &names, &mut found)?;
    judge(kafka, &routes, dead_letters, &mut found);
    Ok(found)
}

pub(crate) fn admin(kafka: &Kafka) -> Result<Registered<AdminClient<Context>>, String> {
    client::admin(kafka).map_err(|e| e.to_string())
}

pub(crate) fn wait<T>(future: impl Future<Output = T>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
    Ok(runtime.block_on(future))
}

fn ask(kafka: &Kafka, names: &[&str], found: &mut Found) -> Result<(), String> {
    let admin = admin(kafka)?;
    // All topics: asking for one by name may create it.
    let metadata = admin.inner().fetch_metadata(None, REQUEST).map_err(|e| format!("{}: no broker answers ({e})", kafka.bootstrap_servers))?;
    let topics: HashMap<&str, &MetadataTopic> = metadata.topics().iter().map(|t| (t.name(), t)).collect();
    found.brokers = metadata.brokers().len();
    let resources: Vec<ResourceSpecifier<'_>> = names.iter().map(|n| ResourceSpecifier::Topic(n)).collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST));
    let configs = wait(admin.describe_configs(&resources, &options))?.unwrap_or_default();
    // Only when asked by name does a broker tell a topic that is not there from one that is not ours to see; a consumer that creates none asks.
    let consumer = client::consumer(kafka, "preflight", &[("allow.auto.create.topics", "false")]).map_err(|e| e.to_string())?;
    for (i, name) in names.iter().enumerate() {
        if let Some(topic) = topics.get(name) {
            // A resource that may not be described comes without a single entry.
            let config = configs.get(i).and_then(|c| c.as_ref().ok()).filter(|c| !c.entries.is_empty());
            found.facts.insert((*name).to_owned(), facts(topic.partitions(), config));
            continue;
        }
        let named = consumer.fetch_metadata(Some(name), REQUEST).map_err(|e| format!("{}: no broker answers ({e})", kafka.bootstrap_servers))?;
        if named.topics().iter().filter_map(MetadataTopic::error).any(|e| is_authorization(e.into())) {
            found.denied.push(format!("topic {name}: not authorized; grant Describe, and Read on raw, Write on sanitized and dead-letter topics"));
        }
    }
    Ok(())
}

fn facts(partitions: &[MetadataPartition], config: Option<&ConfigResource>) -> TopicFacts {
    let value = |name: &str| config.and_then(|c| c.get(name)).and_then(|e| e.value.clone());
    TopicFacts {
        partitions: i32::try_from(partitions.len()).unwrap_or(i32::MAX),
        replicas: partitions.iter().map(|p| p.replicas().len()).min().unwrap_or(0),
        max_message_bytes: value("max.message.bytes").and_then(|v| v.parse().ok()).unwrap_or(MAX_MESSAGE_BYTES),
        compacted: value("cleanup.policy").is_some_and(|v| v.split(',').any(|p| p.trim() == "compact")),
        ahead_ms: value("message.timestamp.after.max.ms").and_then(|v| v.parse().ok()).unwrap_or(AHEAD_MS),
        log_append_time: value("message.timestamp.type").is_some_and(|v| v == "LogAppendTime"),
        assumed: config.is_none(),
    }
}

/// A sealed dead letter of a record as large as its topic allows.
fn sealed_size(raw: usize) -> usize {
    raw.saturating_add(raw / 2)
}

fn judge(kafka: &Kafka, routes: &BTreeMap<&str, &str>, dead_letters: &str, found: &mut Found) {
    let Found { brokers, facts, problems, warnings, missing, denied } = found;
    let servers = &kafka.bootstrap_servers;
    let need = |missing: &mut Vec<Missing>, name: &str, partitions: i32, bytes: usize| match missing.iter_mut().find(|m| m.name == name) {
        Some(m) => (m.partitions, m.max_message_bytes) = (m.partitions.max(partitions), m.max_message_bytes.max(bytes)),
        None => missing.push(Missing { name: name.to_owned(), partitions, max_message_bytes: bytes }),
    };
    let (mut largest, mut most) = (MAX_MESSAGE_BYTES, 1);
    let is_denied = |denied: &[String], name: &str| denied.iter().any(|d| d.starts_with(&format!("topic {name}:")));
    for (from, to) in routes {
        if is_denied(denied, from) || is_denied(denied, to) {
            continue;
        }
        let Some(raw) = facts.get(*from) else {
            problems.push(format!(
                "raw topic {from} does not exist; create it: kafka-topics.sh --bootstrap-server {servers} --create --topic {from} --partitions 4"
            ));
            continue;
        };
        (largest, most) = (largest.max(raw.max_message_bytes), most.max(raw.partitions));
        // A little more than the input, for tokens and indexes; what is larger still is dead-lettered, not lost.
        let wanted = sealed_size(raw.max_message_bytes);
        let Some(clean) = facts.get(*to) else {
            need(missing, to, raw.partitions, wanted);
            continue;
        };
        if clean.partitions < raw.partitions {
            problems.push(format!(
                "{to} has {} partitions and {from} has {}; give it as many: kafka-topics.sh --bootstrap-server {servers} --alter --topic {to} --partitions {}",
                clean.partitions, raw.partitions, raw.partitions
            ));
        }
        if clean.max_message_bytes < raw.max_message_bytes {
            problems.push(format!("{to} takes {} bytes and {from} {}; {}", clean.max_message_bytes, raw.max_message_bytes, alter(servers, to, wanted)));
        }
        if clean.compacted && !raw.compacted {
            warnings.push(format!("{to} is compacted and {from} is not: records without a key become dead letters"));
        }
        if clean.log_append_time {
            warnings.push(format!("{to} has message.timestamp.type=LogAppendTime: records lose their timestamps"));
        }
        if clean.assumed {
            warnings.push(format!("the settings of {to} cannot be read; grant DescribeConfigs"));
        }
    }
    if is_denied(denied, dead_letters) {
        return;
    }
    match facts.get(dead_letters) {
        None => need(missing, dead_letters, most, sealed_size(largest)),
        Some(dead) => {
            let wanted = sealed_size(routes.keys().filter_map(|from| facts.get(*from)).map(|f| f.max_message_bytes).max().unwrap_or(MAX_MESSAGE_BYTES));
            if dead.max_message_bytes < wanted && !dead.assumed {
                problems.push(format!(
                    "{dead_letters} takes {} bytes; a sealed dead letter needs 1.5 times what the raw topics take; {}",
                    dead.max_message_bytes,
                    alter(servers, dead_letters, wanted)
                ));
            }
            if dead.compacted {
                problems.push(format!("{dead_letters} is compacted, which would lose dead letters; set cleanup.policy=delete"));
            }
        }
    }
    // One broker alone can have no second replica.
    let written = routes.values().copied().chain([dead_letters]).filter(|_| *brokers > 1);
    for name in written.filter(|name| facts.get(*name).is_some_and(|topic| topic.replicas == 1)) {
        warnings.push(format!(
            "{name} has one replica: when its broker stops, what is being committed may be left hanging (docs/operations.md, \"Hanging transactions\"); give it more with \
             kafka-reassign-partitions.sh"
        ));
    }
    for m in missing.iter() {
        problems.push(format!(
            "topic {} does not exist; create it, or run with --create-topics: kafka-topics.sh --bootstrap-server {servers} --create --topic {} --partitions {} --config max.message.bytes={}",
            m.name, m.name, m.partitions, m.max_message_bytes
        ));
    }
}

fn alter(servers: &str, topic: &str, bytes: usize) -> String {
    format!("kafka-configs.sh --bootstrap-server {servers} --alter --entity-type topics --entity-name {topic} --add-config max.message.bytes={bytes}")
}

/// Makes the missing topics, with the cluster's default replication.
///
/// # Errors
/// What Kafka refuses, by topic.
pub fn create(kafka: &Kafka, missing: &[Missing]) -> Result<(), String> {
    let admin = admin(kafka)?;
    let sizes: Vec<String> = missing.iter().map(|m| m.max_message_bytes.to_string()).collect();
    let topics: Vec<NewTopic<'_>> =
        missing.iter().zip(&sizes).map(|(m, size)| NewTopic::new(&m.name, m.partitions, TopicReplication::Fixed(-1)).set("max.message.bytes", size)).collect();
    let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
    let results = wait(admin.create_topics(&topics, &options))?.map_err(|e| e.to_string())?;
    let faults: Vec<String> = results
        .into_iter()
        .filter_map(Result::err)
        // Another instance was quicker.
        .filter(|(_, code)| *code != RDKafkaErrorCode::TopicAlreadyExists)
        .map(|(name, code)| format!("topic {name} cannot be created: {code}"))
        .collect();
    if faults.is_empty() { Ok(()) } else { Err(faults.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Input};

    fn topic(partitions: i32, max_message_bytes: usize) -> TopicFacts {
        TopicFacts { partitions, replicas: 3, max_message_bytes, compacted: false, ahead_ms: AHEAD_MS, log_append_time: false, assumed: false }
    }

    fn judged(topics: &[(&str, TopicFacts)]) -> Found {
        let input = Input { host_name: "h".to_owned(), ..Input::default() };
        let kafka = Config::parse(&input, &|_| unreachable!()).unwrap().kafka;
        let mut found = Found { brokers: 3, facts: topics.iter().map(|(n, f)| ((*n).to_owned(), f.clone())).collect(), ..Found::default() };
        judge(&kafka, &BTreeMap::from([("raw", "clean")]), "dead", &mut found);
        found
    }

    #[test]
    fn topics_that_fit_pass() {
        let found = judged(&[("raw", topic(4, 1000)), ("clean", topic(4, 1000)), ("dead", topic(1, 1500))]);
        assert!(found.problems.is_empty() && found.warnings.is_empty() && found.missing.is_empty(), "{found:?}");
    }

    #[test]
    fn each_misfit_is_said_with_its_remedy() {
        let compacted = TopicFacts { compacted: true, ..topic(4, 2000) };
        for (topics, expected) in [
            (vec![("clean", topic(4, 1000)), ("dead", topic(1, 2_000_000))], "raw topic raw does not exist"),
            (vec![("raw", topic(4, 1000)), ("clean", topic(3, 1000)), ("dead", topic(1, 1500))], "--alter --topic clean --partitions 4"),
            (vec![("raw", topic(4, 1000)), ("clean", topic(4, 999)), ("dead", topic(1, 1500))], "--entity-name clean --add-config max.message.bytes=1500"),
            (vec![("raw", topic(4, 1000)), ("clean", topic(4, 1000)), ("dead", topic(1, 1499))], "--entity-name dead --add-config max.message.bytes=1500"),
            (vec![("raw", topic(4, 1000)), ("clean", topic(4, 1000)), ("dead", compacted.clone())], "set cleanup.policy=delete"),
        ] {
            let found = judged(&topics);
            assert_eq!(found.problems.len(), 1, "{:?}", found.problems);
            assert!(found.problems[0].contains(expected), "{}", found.problems[0]);
        }
        let append = TopicFacts { log_append_time: true, ..compacted };
        let lone = TopicFacts { replicas: 1, ..topic(1, 1500) };
        let found = judged(&[("raw", topic(4, 1000)), ("clean", append), ("dead", lone)]);
        assert_eq!((found.problems.len(), found.warnings.len()), (0, 3), "{found:?}");
        assert!(found.warnings[2].starts_with("dead has one replica"), "{found:?}");
    }

    #[test]
    fn missing_topics_are_made_to_fit() {
        let found = judged(&[("raw", topic(6, 2_000_000))]);
        let expected = [("clean", 6, 3_000_000), ("dead", 6, 3_000_000)];
        let missing: Vec<_> = found.missing.iter().map(|m| (m.name.as_str(), m.partitions, m.max_message_bytes)).collect();
        assert_eq!(missing, expected);
        assert!(found.problems.iter().all(|p| p.contains("--create-topics")), "{:?}", found.problems);
    }
}
