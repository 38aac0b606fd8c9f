//! Topics: asked about, made, and the commands that make or alter them. What topics must be like is
//! judged by the modules that need them: routes in [`crate::preflight`], key store and ledger in
//! [`crate::keys::topic`].

mod facts;

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::admin::{AdminClient, AdminOptions, TopicReplication};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode as Code;

use super::client::{self, Context, Registered};
use super::error::is_authorization;
pub use super::ffi::admin::ListedOffset;
use super::ffi::admin::Requests;
use crate::config::Kafka;
pub use facts::{Retention, TopicFacts, TopicUuid};

/// One request to the brokers.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a topic that was made may be unknown to some broker.
const SPREAD: Duration = Duration::from_secs(10);

/// What is wrong with a topic, or with asking about it; says whose fault it is and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// The cluster's, or the network's.
    #[error("{servers}: no broker answers ({code})")]
    NoAnswer {
        /// The brokers asked.
        servers: String,
        /// librdkafka's code.
        code: Code,
    },
    /// Of the person who grants permissions.
    #[error(
        "topic {topic}: not authorized; grant Describe, and Read on raw, Write on sanitized and \
        dead-letter topics"
    )]
    NotAuthorized {
        /// The topic.
        topic: String,
    },
    /// Of the person who makes topics.
    #[error("topic {topic} does not exist")]
    Missing {
        /// The topic.
        topic: String,
    },
    /// Kafka does not make it.
    #[error(
        "topic {topic} cannot be created ({code}); grant Create on it, or let an administrator \
        create it: {command}"
    )]
    NotCreated {
        /// The topic.
        topic: String,
        /// Kafka's code.
        code: Code,
        /// What makes it.
        command: String,
    },
    /// The brokers answer with something else.
    #[error("topic {topic}: the brokers answer {code}; look at their logs")]
    Refused {
        /// The topic.
        topic: String,
        /// Kafka's code.
        code: Code,
    },
    /// Of the configuration: librdkafka's own words, without values.
    #[error("kafka settings: {0}")]
    Settings(KafkaError),
    /// Of this machine.
    #[error("a request to the brokers cannot be made ({0})")]
    System(std::io::ErrorKind),
}

impl TopicError {
    /// Whether a permission is missing.
    #[must_use]
    pub fn is_authorization(&self) -> bool {
        match self {
            Self::NotAuthorized { .. } => true,
            Self::NotCreated { code, .. } => is_authorization(*code),
            _ => false,
        }
    }
}

/// A topic to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas; `None`: the cluster's default.
    pub replicas: Option<i32>,
    /// Its settings.
    pub settings: BTreeMap<&'static str, String>,
}

impl NewTopic {
    /// The command that makes it.
    #[must_use]
    pub fn command(&self, servers: &str) -> String {
        let Self { name, partitions, .. } = self;
        let mut command = format!(
            "kafka-topics.sh --bootstrap-server {servers} --create --topic {name} --partitions \
            {partitions}"
        );
        if let Some(replicas) = self.replicas {
            command += &format!(" --replication-factor {replicas}");
        }
        for (setting, value) in &self.settings {
            command += &format!(" --config {setting}={value}");
        }
        command
    }
}

/// The command that changes settings of a topic. A value of several parts, separated by commas, is
/// put in brackets, as Kafka's tool wants it.
#[must_use]
pub fn alter_command(servers: &str, topic: &str, settings: &[(&str, &str)]) -> String {
    let one = |(name, value): &(&str, &str)| {
        if value.contains(',') { format!("{name}=[{value}]") } else { format!("{name}={value}") }
    };
    let settings: Vec<String> = settings.iter().map(one).collect();
    let settings = settings.join(",");
    format!(
        "kafka-configs.sh --bootstrap-server {servers} --alter --entity-type topics --entity-name \
        {topic} --add-config {settings}"
    )
}

/// The command that gives a topic more partitions.
#[must_use]
pub fn grow_command(servers: &str, topic: &str, partitions: i32) -> String {
    format!(
        "kafka-topics.sh --bootstrap-server {servers} --alter --topic {topic} --partitions \
        {partitions}"
    )
}

/// An answer for each topic asked about, or what is wrong with it.
pub type EachTopic<T> = BTreeMap<String, Result<T, TopicError>>;
/// An answer for each partition asked about, or what is wrong with it.
pub type EachPartition<T> = BTreeMap<(String, i32), Result<T, TopicError>>;

/// A client for questions about topics. It keeps its connections: make one, and ask it again and
/// again. Every call blocks, up to 10 seconds for each request to the brokers.
pub struct Topics {
    admin: Registered<AdminClient<Context>>,
    servers: String,
}

impl Topics {
    /// A client; no broker is asked yet.
    ///
    /// # Errors
    /// [`TopicError::Settings`].
    pub fn connect(kafka: &Kafka) -> Result<Self, TopicError> {
        let admin = client::admin(kafka).map_err(TopicError::Settings)?;
        Ok(Self { admin, servers: kafka.bootstrap_servers.clone() })
    }

    /// The brokers it asks, as configured.
    #[must_use]
    pub fn servers(&self) -> &str {
        &self.servers
    }

    /// How many brokers there are.
    ///
    /// # Errors
    /// [`TopicError::NoAnswer`].
    pub fn brokers(&self) -> Result<usize, TopicError> {
        self.requests().brokers().map_err(|code| self.no_answer(code))
    }

    /// Asks about topics by name, all at once; makes none. What is wrong with one of them stands in
    /// its own entry.
    ///
    /// # Errors
    /// [`TopicError::NoAnswer`]: nothing is known of any.
    pub fn describe<'n>(
        &self,
        names: impl IntoIterator<Item = &'n str>,
    ) -> Result<EachTopic<TopicFacts>, TopicError> {
        let mut names: Vec<&str> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return Ok(BTreeMap::new());
        }
        let metadata = self.requests().topics(&names).map_err(|code| self.no_answer(code))?;
        let there: Vec<&str> = metadata
            .iter()
            .filter(|(_, found)| found.is_ok())
            .map(|(name, _)| name.as_str())
            .collect();
        let settings = match there.is_empty() {
            true => Vec::new(),
            false => match self.requests().settings(&there) {
                Ok(settings) => settings,
                Err(Code::OperationTimedOut) => return Err(self.no_answer(Code::OperationTimedOut)),
                // Brokers that do not tell: Kafka's defaults count, and the facts say so.
                Err(_) => Vec::new(),
            },
        };
        // A resource that may not be described may also come without a single entry.
        let readable = |name: &str| {
            let found = settings
                .iter()
                .find(|(of, _)| of == name)
                .and_then(|(_, found)| found.as_deref().ok());
            found.filter(|entries| !entries.is_empty())
        };
        let described = metadata.iter().map(|(name, found)| {
            let topic = || name.clone();
            let facts = match found {
                Ok(metadata) => Ok(TopicFacts::new(metadata, readable(name))),
                Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                    Err(TopicError::Missing { topic: topic() })
                }
                Err(code) if is_authorization(*code) => {
                    Err(TopicError::NotAuthorized { topic: topic() })
                }
                Err(code) => Err(TopicError::Refused { topic: topic(), code: *code }),
            };
            (topic(), facts)
        });
        Ok(described.collect())
    }

    /// [`Topics::describe`] of one.
    ///
    /// # Errors
    /// Any.
    pub fn describe_one(&self, name: &str) -> Result<TopicFacts, TopicError> {
        self.describe([name])?
            .remove(name)
            .unwrap_or_else(|| Err(TopicError::Missing { topic: name.to_owned() }))
    }

    /// Ends of partitions as their leaders know them, with the leaders' epochs: the last stable
    /// offset, behind which readers at `read_committed` see nothing. What cannot be told of one
    /// partition stands in its own entry.
    ///
    /// # Errors
    /// [`TopicError::NoAnswer`].
    pub fn stable_ends(
        &self,
        partitions: &[(&str, i32)],
    ) -> Result<EachPartition<ListedOffset>, TopicError> {
        self.offsets(partitions, Offset::End)
    }

    /// Where the logs of partitions begin.
    ///
    /// # Errors
    /// As [`Topics::stable_ends`].
    pub fn starts(
        &self,
        partitions: &[(&str, i32)],
    ) -> Result<EachPartition<ListedOffset>, TopicError> {
        self.offsets(partitions, Offset::Beginning)
    }

    fn offsets(
        &self,
        partitions: &[(&str, i32)],
        at: Offset,
    ) -> Result<EachPartition<ListedOffset>, TopicError> {
        if partitions.is_empty() {
            return Ok(BTreeMap::new());
        }
        let listed =
            self.requests().offsets(partitions, at, true).map_err(|code| self.no_answer(code))?;
        let listed = listed.into_iter().map(|(topic, partition, found)| {
            let found = found.map_err(|code| match code {
                Code::UnknownTopicOrPartition | Code::UnknownTopic => {
                    TopicError::Missing { topic: topic.clone() }
                }
                code if is_authorization(code) => {
                    TopicError::NotAuthorized { topic: topic.clone() }
                }
                code => TopicError::Refused { topic: topic.clone(), code },
            });
            ((topic, partition), found)
        });
        Ok(listed.collect())
    }

    /// Makes topics and waits until the brokers know them. Those that are there already, because
    /// another instance was quicker, are as well.
    ///
    /// # Errors
    /// What Kafka refuses, topic by topic; the others are made.
    pub fn create(&self, topics: &[NewTopic]) -> Result<(), Vec<TopicError>> {
        use rdkafka::admin::NewTopic as Request;
        let requests: Vec<Request<'_>> = topics
            .iter()
            .map(|topic| {
                let replication = TopicReplication::Fixed(topic.replicas.unwrap_or(-1));
                let new = Request::new(&topic.name, topic.partitions, replication);
                topic.settings.iter().fold(new, |new, (name, value)| new.set(name, value))
            })
            .collect();
        let options =
            AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| vec![TopicError::System(e.kind())])?;
        let results = runtime.block_on(self.admin.create_topics(&requests, &options));
        let results = results
            .map_err(|e| vec![self.no_answer(e.rdkafka_error_code().unwrap_or(Code::Fail))])?;
        let refused: Vec<TopicError> = results
            .into_iter()
            .filter_map(Result::err)
            .filter(|(_, code)| *code != Code::TopicAlreadyExists)
            .map(|(name, code)| {
                let command =
                    topics.iter().find(|t| t.name == name).map(|t| t.command(&self.servers));
                TopicError::NotCreated { topic: name, code, command: command.unwrap_or_default() }
            })
            .collect();
        self.wait_for(
            topics
                .iter()
                .map(|t| t.name.as_str())
                .filter(|name| !refused.iter().any(|e| is_of(e, name))),
        );
        if refused.is_empty() { Ok(()) } else { Err(refused) }
    }

    /// Metadata follow a creation; the next question finds the topics, or that they are missing
    /// still.
    fn wait_for<'n>(&self, names: impl Iterator<Item = &'n str>) {
        let names: Vec<&str> = names.collect();
        let end = std::time::Instant::now() + SPREAD;
        while std::time::Instant::now() < end {
            let described = self.describe(names.iter().copied());
            if described.is_ok_and(|found| {
                found.values().all(|facts| facts.as_ref().is_ok_and(|f| f.partitions > 0))
            }) {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    fn requests(&self) -> Requests<'_> {
        Requests::of(self.admin.inner(), REQUEST)
    }

    fn no_answer(&self, code: Code) -> TopicError {
        TopicError::NoAnswer { servers: self.servers.clone(), code }
    }
}

fn is_of(error: &TopicError, name: &str) -> bool {
    matches!(error, TopicError::NotCreated { topic, .. } if topic == name)
}

#[cfg(test)]
mod tests;
