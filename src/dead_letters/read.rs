//! The dead-letter topic read by an operator: listed, shown. Not on the data path.

use std::fmt;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use veilstream_engine::seal::Opener;

use super::error::{DeadLetterError, LetterFault};
use super::letter::{Letter, Opened};
use super::origin::Origins;
use crate::config::Config;
use crate::kafka::client::{Consumer, Registered};
use crate::kafka::reader::{self, OffsetRange, REQUEST, SILENCE, is_expired, reader};
use crate::keys::KeySource;

/// Where a record stands in the dead-letter topic: `PARTITION:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LetterPlace {
    /// Partition of the dead-letter topic.
    pub partition: i32,
    /// Offset in the dead-letter topic.
    pub offset: i64,
}

impl fmt::Display for LetterPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

/// One record of the dead-letter topic.
#[derive(Debug)]
pub struct FoundLetter {
    /// Where it is.
    pub place: LetterPlace,
    /// What it says; `None`: no dead letter of a version known here.
    pub letter: Option<Letter>,
}

/// A consumer of the configuration's topics.
pub(super) fn consumer(
    config: &Config,
    group: &str,
) -> Result<Registered<Consumer>, DeadLetterError> {
    Ok(reader(&config.kafka, group, "reader of dead letters")?)
}

/// What each partition of a topic holds now.
pub(super) fn ranges(
    consumer: &Consumer,
    topic: &str,
) -> Result<Vec<OffsetRange>, DeadLetterError> {
    reader::ranges(consumer, topic)?.ok_or_else(|| DeadLetterError::NoTopic(topic.to_owned()))
}

/// Reads every committed dead letter there is now, partition by partition in order of offset.
/// `from`: only that partition, from that offset on. `each` says whether to go on.
///
/// # Errors
/// [`DeadLetterError`], `each`'s included.
pub fn read(
    config: &Config,
    from: Option<LetterPlace>,
    mut each: impl FnMut(FoundLetter) -> Result<bool, DeadLetterError>,
) -> Result<(), DeadLetterError> {
    let topic = &config.pipeline.dead_letter_topic;
    let consumer = consumer(config, "dlq-list")?;
    let mut list = TopicPartitionList::new();
    for OffsetRange { partition, low, high } in ranges(&consumer, topic)? {
        let start = match from {
            Some(place) if place.partition != partition => continue,
            Some(place) => place.offset.max(low),
            None => low,
        };
        if start < high {
            list.add_partition_offset(topic, partition, Offset::Offset(start))?;
        }
    }
    let mut open = list.count();
    if open == 0 {
        return Ok(());
    }
    consumer.assign(&list)?;
    let mut heard = Instant::now();
    while open > 0 {
        match consumer.poll(Duration::from_millis(200)) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let place =
                    LetterPlace { partition: message.partition(), offset: message.offset() };
                if !each(FoundLetter { place, letter: message.payload().and_then(Letter::parse) })?
                {
                    return Ok(());
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => open -= 1,
            Some(Err(error)) if is_expired(&error) => return Err(DeadLetterError::Expired),
            Some(Err(error)) if heard.elapsed() > REQUEST => return Err(error.into()),
            None if heard.elapsed() > SILENCE => return Err(DeadLetterError::Silent),
            _ => {}
        }
    }
    Ok(())
}

/// The dead letter at a place.
///
/// # Errors
/// [`DeadLetterError`]; there is none at that place.
pub fn find(config: &Config, place: LetterPlace) -> Result<Letter, DeadLetterError> {
    let mut result = None;
    read(config, Some(place), |found| {
        result = (found.place == place).then_some(found);
        Ok(false)
    })?;
    let found = result.ok_or(DeadLetterError::Nothing(place))?;
    found.letter.ok_or(DeadLetterError::Letter { place, fault: LetterFault::NotALetter })
}

/// The record of a letter; of a stub the one in the raw topic, if that still has it.
///
/// # Errors
/// [`DeadLetterError::Letter`], or the brokers do not answer.
pub fn record(
    config: &Config,
    place: LetterPlace,
    letter: &Letter,
    keys: &dyn KeySource,
) -> Result<Opened, DeadLetterError> {
    let record = Origins::new(config).record(letter, &keys.keyring(), &mut Opener::default())?;
    record.map_err(|fault| DeadLetterError::Letter { place, fault })
}

/// Opens a letter that holds its record.
///
/// # Errors
/// [`DeadLetterError::Letter`]; of a stub `origin_gone`.
pub fn open(
    found: &FoundLetter,
    letter: &Letter,
    keys: &dyn KeySource,
) -> Result<Opened, DeadLetterError> {
    let fault = |fault| DeadLetterError::Letter { place: found.place, fault };
    let opened = letter
        .open(&keys.keyring(), &mut Opener::default())
        .map_err(|error| fault(LetterFault::Open(error)))?;
    opened.ok_or_else(|| fault(LetterFault::OriginGone))
}
