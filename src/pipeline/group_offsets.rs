//! Where a group stands, and how an operator moves it: for `veilstream offsets`.

use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;

use super::core::partition::TopicPartition;
use super::offsets;
use super::resolve::ids_of;
use crate::config::Kafka;
use crate::kafka::client::{self, Consumer, Registered};
use crate::kafka::error::is_authorization;
use crate::kafka::ffi;
use crate::kafka::ffi::admin::{ListedOffset, Requests};

/// One request to the brokers.
const REQUEST: Duration = Duration::from_secs(10);

/// Why offsets are not shown or moved.
#[derive(Debug, thiserror::Error)]
pub enum OffsetsError {
    /// librdkafka refuses the settings.
    #[error("kafka settings: {0}")]
    Settings(KafkaError),
    /// Kafka refuses it.
    #[error("{0}: grant Describe on the raw topics, and Read on the group")]
    NotAuthorized(RDKafkaErrorCode),
    /// The group has members.
    #[error("group {0} is running: stop every instance first, then try again")]
    Running(String),
    /// No such partition.
    #[error(
        "{0} is not there: name a partition of a raw topic, as `veilstream offsets show` prints \
        them"
    )]
    NotThere(TopicPartition),
    /// Outside of what the log holds.
    #[error("{at} holds offsets {start} to {end}; {wanted} is not one of them")]
    OutOfRange {
        /// The partition.
        at: TopicPartition,
        /// What was asked for.
        wanted: i64,
        /// Its first offset.
        start: i64,
        /// The offset behind its last record.
        end: i64,
    },
    /// The brokers do not answer, or answer something else.
    #[error("the brokers do not answer as they should ({0})")]
    Unanswered(String),
}

impl From<RDKafkaErrorCode> for OffsetsError {
    fn from(code: RDKafkaErrorCode) -> Self {
        if is_authorization(code) {
            Self::NotAuthorized(code)
        } else {
            Self::Unanswered(code.to_string())
        }
    }
}

impl From<KafkaError> for OffsetsError {
    fn from(error: KafkaError) -> Self {
        error.rdkafka_error_code().map_or_else(|| Self::Unanswered(error.to_string()), Self::from)
    }
}

/// One raw partition.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    /// The raw topic.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// The next offset to be read; `None`: nothing is committed.
    pub committed: Option<i64>,
    /// First offset that is there; `None`: its leader did not tell.
    pub log_start: Option<i64>,
    /// Offset behind the last record; `None`: its leader did not tell.
    pub end: Option<i64>,
}

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OffsetTarget {
    /// With the first record there is.
    Earliest,
    /// Here.
    At(i64),
}

/// A group as it stands, without a member of its own.
pub struct GroupOffsets {
    consumer: Registered<Consumer>,
    group: String,
}

impl GroupOffsets {
    /// Connects; joins nothing.
    ///
    /// # Errors
    /// [`OffsetsError::Settings`].
    pub fn connect(kafka: &Kafka) -> Result<Self, OffsetsError> {
        let consumer =
            client::consumer(kafka, "reader of offsets", &[]).map_err(OffsetsError::Settings)?;
        Ok(Self { consumer, group: kafka.group_id.clone() })
    }

    /// Every partition of these raw topics, by topic and number; topics that are not there are left
    /// out.
    ///
    /// # Errors
    /// [`OffsetsError`].
    pub fn show(&self, topics: &[&str]) -> Result<Vec<Standing>, OffsetsError> {
        let metadata = self.consumer.fetch_metadata(None, REQUEST)?;
        let mut partitions: Vec<(&str, i32)> = Vec::new();
        for topic in metadata.topics().iter().filter(|topic| topics.contains(&topic.name())) {
            partitions
                .extend(topic.partitions().iter().map(|partition| (topic.name(), partition.id())));
        }
        partitions.sort_unstable();
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in &partitions {
            list.add_partition(topic, *partition);
        }
        let committed = self.consumer.committed_offsets(list, REQUEST)?;
        let requests = Requests::of(self.consumer.client(), REQUEST);
        let starts = requests.offsets(&partitions, Offset::Beginning, false)?;
        let ends = requests.offsets(&partitions, Offset::End, false)?;
        let told = |offsets: &[(String, i32, Result<ListedOffset, RDKafkaErrorCode>)],
                    topic: &str,
                    partition: i32| {
            let (.., found) = offsets.iter().find(|(t, p, _)| t == topic && *p == partition)?;
            found.as_ref().ok().map(|listed| listed.offset)
        };
        let standing = |(topic, partition): &(&str, i32)| Standing {
            topic: (*topic).to_owned(),
            partition: *partition,
            committed: committed.find_partition(topic, *partition).and_then(
                |element| match element.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                },
            ),
            log_start: told(&starts, topic, *partition),
            end: told(&ends, topic, *partition),
        };
        Ok(partitions.iter().map(standing).collect())
    }

    /// Commits the place where the group goes on; returns it. The group must have no members.
    ///
    /// # Errors
    /// [`OffsetsError`]; nothing was changed.
    pub fn accept(&self, at: &TopicPartition, place: OffsetTarget) -> Result<i64, OffsetsError> {
        let names = [(&*at.topic, at.partition)];
        let requests = Requests::of(self.consumer.client(), REQUEST);
        let told = |end| -> Result<ListedOffset, OffsetsError> {
            match requests
                .offsets(&names, end, false)?
                .into_iter()
                .next()
                .map(|(.., answer)| answer)
            {
                Some(Ok(answer)) => Ok(answer),
                Some(Err(
                    RDKafkaErrorCode::UnknownTopicOrPartition
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownPartition,
                ))
                | None => Err(OffsetsError::NotThere(at.clone())),
                Some(Err(code)) => Err(code.into()),
            }
        };
        let (start, ListedOffset { offset: end, leader_epoch }) =
            (told(Offset::Beginning)?.offset, told(Offset::End)?);
        let offset = match place {
            OffsetTarget::Earliest => start,
            OffsetTarget::At(offset) if (start..=end).contains(&offset) => offset,
            OffsetTarget::At(wanted) => {
                return Err(OffsetsError::OutOfRange { at: at.clone(), wanted, start, end });
            }
        };
        // Where brokers know no ids the offset is trusted once.
        let id = match ids_of(requests.topics(&[&at.topic])?).into_iter().next() {
            Some((_, id)) => id?,
            None => return Err(OffsetsError::NotThere(at.clone())),
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&at.topic, at.partition, Offset::Offset(offset))?;
        if let Some(mut element) = list.find_partition(&at.topic, at.partition) {
            element.set_metadata(offsets::metadata(id.as_deref()));
        }
        if let Some(epoch) = leader_epoch {
            ffi::set_leader_epoch(&mut list, &at.topic, at.partition, epoch);
        }
        self.consumer.commit(&list, CommitMode::Sync).map_err(|error| {
            match error.rdkafka_error_code() {
                Some(
                    RDKafkaErrorCode::UnknownMemberId
                    | RDKafkaErrorCode::IllegalGeneration
                    | RDKafkaErrorCode::RebalanceInProgress,
                ) => OffsetsError::Running(self.group.clone()),
                _ => error.into(),
            }
        })?;
        Ok(offset)
    }
}
