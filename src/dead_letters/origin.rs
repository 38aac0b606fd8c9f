//! The record that a stub stands for, read from the raw topic as long as that keeps it.

use std::time::Instant;

use rdkafka::consumer::Consumer as _;
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use veilstream_engine::Keyring;
use veilstream_engine::seal::{LetterRecord, Opener};

use super::error::{DeadLetterError, LetterFault};
use super::letter::{Letter, Opened};
use super::read::consumer;
use crate::config::Config;
use crate::kafka::client::{Consumer, Registered};
use crate::kafka::error::is_authorization;
use crate::kafka::ffi::{Batch, Message, Queue};
use crate::kafka::reader::{REQUEST, SILENCE};

/// One wait for records, in milliseconds.
const WAIT: i32 = 200;

/// Reads records by topic, partition and offset. The client is made when the first is asked for.
pub(super) struct Origins<'c> {
    config: &'c Config,
    client: Option<(Registered<Consumer>, Queue)>,
}

/// What one look at the queue showed.
enum Polled {
    Record(Opened),
    Fault(LetterFault),
    Nothing,
}

impl<'c> Origins<'c> {
    pub(super) fn new(config: &'c Config) -> Self {
        Self { config, client: None }
    }

    /// The record of a letter, from the letter itself or, for a stub, from its origin; checked
    /// either way. `Err` within: this letter does not go.
    ///
    /// # Errors
    /// [`DeadLetterError`]: no letter goes.
    pub(super) fn record(
        &mut self,
        letter: &Letter,
        keys: &Keyring,
        opener: &mut Opener,
    ) -> Result<Result<Opened, LetterFault>, DeadLetterError> {
        match letter.open(keys, opener) {
            Ok(Some(opened)) => return Ok(Ok(opened)),
            Ok(None) => {}
            Err(error) => return Ok(Err(LetterFault::Open(error))),
        }
        let found = match self.read(&letter.topic, letter.partition, letter.offset)? {
            Ok(found) => found,
            Err(fault) => return Ok(Err(fault)),
        };
        let headers = found.headers();
        let record = LetterRecord {
            key: found.key.as_deref(),
            value: found.value.as_deref(),
            headers: &headers,
        };
        Ok(match letter.verify(&record, keys, opener) {
            Ok(()) => Ok(found),
            Err(veilstream_engine::OpenError::Corrupt) => Err(LetterFault::OriginDiffers),
            Err(error) => Err(LetterFault::Open(error)),
        })
    }

    fn read(
        &mut self,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<Result<Opened, LetterFault>, DeadLetterError> {
        let (consumer, queue) = self.client()?;
        // A forged stub may name anything: what is not there is this letter's fault, and an offset
        // outside is never asked for.
        match consumer.fetch_watermarks(topic, partition, REQUEST) {
            Ok((low, high)) if (low..high).contains(&offset) => {}
            Ok(_) => return Ok(Err(LetterFault::OriginGone)),
            Err(error) => {
                return fault_of(error.rdkafka_error_code())
                    .map_or_else(|| Err(error.into()), |fault| Ok(Err(fault)));
            }
        }
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        if !queue.take_partition(topic, partition) {
            return Err(DeadLetterError::OutOfMemory);
        }
        consumer.assign(&list)?;
        let result = wait_for(queue, (topic, partition, offset));
        consumer.unassign()?;
        result
    }

    fn client(&mut self) -> Result<&(Registered<Consumer>, Queue), DeadLetterError> {
        if self.client.is_none() {
            let consumer = consumer(self.config, "dlq-origin")?;
            let queue = Queue::new(consumer.shared()).ok_or(DeadLetterError::OutOfMemory)?;
            self.client = Some((consumer, queue));
        }
        self.client.as_ref().ok_or(DeadLetterError::OutOfMemory)
    }
}

fn wait_for(
    queue: &Queue,
    wanted: (&str, i32, i64),
) -> Result<Result<Opened, LetterFault>, DeadLetterError> {
    let (mut batch, asked) = (Batch::default(), Instant::now());
    while asked.elapsed() < SILENCE {
        batch.fill(queue, 1, WAIT);
        if let Some(message) = batch.get(0) {
            match look(&message, wanted)? {
                Polled::Record(record) => return Ok(Ok(record)),
                Polled::Fault(fault) => return Ok(Err(fault)),
                Polled::Nothing => {}
            }
        }
    }
    Err(DeadLetterError::Silent)
}

fn look(
    message: &Message<'_>,
    (topic, partition, offset): (&str, i32, i64),
) -> Result<Polled, DeadLetterError> {
    if (message.topic(), message.partition()) != (topic, partition) {
        return Ok(Polled::Nothing);
    }
    match message.error() {
        Some(code) => match fault_of(Some(code)) {
            Some(fault) => Ok(Polled::Fault(fault)),
            // librdkafka goes on by itself.
            None => Ok(Polled::Nothing),
        },
        None if message.offset() < offset => Ok(Polled::Nothing),
        // Compaction took it.
        None if message.offset() > offset => Ok(Polled::Fault(LetterFault::OriginGone)),
        None => {
            let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
            let mut headers = Vec::new();
            message.headers(&mut headers);
            let headers =
                headers.into_iter().map(|(name, value)| (name.to_vec(), owned(value))).collect();
            Ok(Polled::Record(Opened {
                key: owned(message.key()),
                value: owned(message.value()),
                headers,
            }))
        }
    }
}

/// What an error says of the letter; `None`: nothing, the brokers are at fault.
fn fault_of(code: Option<Code>) -> Option<LetterFault> {
    match code? {
        code if is_authorization(code) => Some(LetterFault::OriginDenied),
        Code::UnknownTopic
        | Code::UnknownPartition
        | Code::UnknownTopicOrPartition
        | Code::InvalidTopic => Some(LetterFault::OriginGone),
        Code::OffsetOutOfRange | Code::AutoOffsetReset | Code::PartitionEOF => {
            Some(LetterFault::OriginGone)
        }
        _ => None,
    }
}
