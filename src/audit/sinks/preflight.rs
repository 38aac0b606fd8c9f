//! Does the audit's topic keep what it is given?

use crate::config::{Audit, AuditTopic, Delivery};
use crate::kafka::topics::{NewTopic, TopicError, TopicFacts, Topics, alter_command};

/// What is wrong with the topic, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditTopicProblem {
    /// Nobody knows.
    #[error("audit.topic: {0}")]
    Topic(TopicError),
    /// It is not there.
    #[error("audit.topic: {topic} does not exist; create it: {command}")]
    Missing {
        /// Its name.
        topic: String,
        /// What makes it.
        command: String,
    },
    /// It would forget all but the last line of each chain.
    #[error("audit.topic: {topic} is compacted, which loses lines; {command}")]
    Compacted {
        /// Its name.
        topic: String,
        /// What mends it.
        command: String,
    },
    /// A line could stand on one disk alone.
    #[error(
        "audit.topic: {topic} has min.insync.replicas {has}, so that a line could stand on one \
        broker alone; {command}"
    )]
    Unreplicated {
        /// Its name.
        topic: String,
        /// What it has.
        has: usize,
        /// What mends it.
        command: String,
    },
    /// It forgets lines too soon.
    #[error("audit.topic: {topic} forgets lines before audit.retain is over; {command}")]
    Forgets {
        /// Its name.
        topic: String,
        /// What mends it.
        command: String,
    },
    /// Its settings are not told.
    #[error("audit.topic: the settings of {topic} cannot be read; allow DescribeConfigs on it")]
    Unreadable {
        /// Its name.
        topic: String,
    },
}

/// What is wrong with the audit's topic: faults of a required one, and what an operator should know
/// of one that is not. Without a topic nothing is.
#[must_use]
pub fn examine_topic(audit: &Audit) -> (Vec<AuditTopicProblem>, Vec<AuditTopicProblem>) {
    let Some(topic) = &audit.topic else { return (Vec::new(), Vec::new()) };
    let problems = match Topics::connect(&topic.kafka) {
        Err(error) => vec![AuditTopicProblem::Topic(error)],
        Ok(topics) => judge(audit, topic, topics.servers(), topics.describe_one(&topic.name)),
    };
    match topic.delivery {
        Delivery::Required => (problems, Vec::new()),
        Delivery::BestEffort => (Vec::new(), problems),
    }
}

fn judge(
    audit: &Audit,
    topic: &AuditTopic,
    servers: &str,
    described: Result<TopicFacts, TopicError>,
) -> Vec<AuditTopicProblem> {
    let name = || topic.name.clone();
    let retain = i64::try_from(audit.retain.as_millis()).unwrap_or(i64::MAX);
    let alter = |settings: &[(&str, &str)]| alter_command(servers, &topic.name, settings);
    let facts = match described {
        Ok(facts) => facts,
        Err(TopicError::Missing { .. }) => {
            let settings = [("min.insync.replicas", "2".to_owned())];
            let keeps = [("retention.ms", retain.to_string())];
            let new = NewTopic {
                name: name(),
                partitions: 4,
                replicas: Some(3),
                settings: settings.into_iter().chain(keeps).collect(),
            };
            let command = new.command(servers);
            return vec![AuditTopicProblem::Missing { topic: name(), command }];
        }
        Err(error) => return vec![AuditTopicProblem::Topic(error)],
    };
    if facts.assumed {
        return vec![AuditTopicProblem::Unreadable { topic: name() }];
    }
    let mut problems = Vec::new();
    if facts.compacted {
        let command = alter(&[("cleanup.policy", "delete")]);
        problems.push(AuditTopicProblem::Compacted { topic: name(), command });
    }
    if facts.min_in_sync < 2 {
        let command = alter(&[("min.insync.replicas", "2")]);
        let has = facts.min_in_sync;
        problems.push(AuditTopicProblem::Unreplicated { topic: name(), has, command });
    }
    let keeps = facts.keeps();
    // A size says nothing of how long that is.
    if (0..retain).contains(&keeps.ms) || keeps.bytes >= 0 {
        let command = alter(&[("retention.ms", &retain.to_string()), ("retention.bytes", "-1")]);
        problems.push(AuditTopicProblem::Forgets { topic: name(), command });
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use veilstream_reading::audit::VerifierKey;

    use super::*;
    use crate::config::{Config, Input};
    use crate::kafka::topics::Retention;

    fn audit() -> (Audit, AuditTopic) {
        let input = Input { host_name: "h".to_owned(), ..Input::default() };
        let kafka = Config::parse(&input, &|_| unreachable!()).unwrap().kafka;
        let topic = AuditTopic { kafka, name: "audit".to_owned(), delivery: Delivery::Required };
        let audit = Audit {
            file: "audit.jsonl".into(),
            recipient: VerifierKey::generate().unwrap().recipient().unwrap(),
            retain: Duration::from_secs(400 * 86_400),
            has_no_copy: false,
            topic: Some(topic.clone()),
            postgres: None,
            queue: 1,
        };
        (audit, topic)
    }

    fn facts() -> TopicFacts {
        TopicFacts {
            id: None,
            partitions: 1,
            replicas: 3,
            max_message_bytes: 1 << 20,
            compacted: false,
            deletes: true,
            retention: Retention { ms: 400 * 86_400_000, bytes: -1 },
            cluster_retention: Retention { ms: 0, bytes: 0 },
            min_in_sync: 2,
            max_compaction_lag_ms: 0,
            ahead_ms: 0,
            log_append_time: false,
            assumed: false,
        }
    }

    #[test]
    fn a_topic_that_would_lose_lines_is_refused() {
        let (audit, topic) = audit();
        let problems = |facts| judge(&audit, &topic, "b:9092", facts);
        assert_eq!(problems(Ok(facts())), []);
        assert_eq!(problems(Ok(TopicFacts { deletes: false, ..facts() })), []);
        for (facts, word) in [
            (TopicFacts { compacted: true, ..facts() }, "cleanup.policy=delete"),
            (TopicFacts { min_in_sync: 1, ..facts() }, "min.insync.replicas=2"),
            (
                TopicFacts { retention: Retention { ms: 86_400_000, bytes: -1 }, ..facts() },
                "retention.ms=34560000000",
            ),
            (
                TopicFacts { retention: Retention { ms: -1, bytes: 1 << 30 }, ..facts() },
                "retention.bytes=-1",
            ),
            (TopicFacts { assumed: true, ..facts() }, "DescribeConfigs"),
        ] {
            let found = problems(Ok(facts));
            assert!(found.len() == 1 && found[0].to_string().contains(word), "{found:?}");
        }
        let missing = problems(Err(TopicError::Missing { topic: "audit".to_owned() }));
        assert!(missing[0].to_string().contains("--create"), "{missing:?}");
    }
}
