//! A topic as a second place: the chain is the key, so that its lines stand in one partition and in
//! order.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers as _, Message as _, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use veilstream_reading::audit::{CopiedLine, Hex, Sink, SinkError};

use crate::config::Kafka;
use crate::kafka::access::Reporter;
use crate::kafka::client::{self, Registered};
use crate::kafka::settings;
use crate::kafka::topics::Topics;

/// One look at what was delivered.
const LOOK: Duration = Duration::from_millis(50);
/// A broker that sends nothing for so long is away.
const SILENCE: Duration = Duration::from_secs(30);
/// Names the side file that a record holds instead of a line.
const SUBJECTS: &str = "veilstream-audit-subjects";

/// Copies lines to a topic.
pub(super) struct TopicSink {
    kafka: Kafka,
    topic: String,
    /// `None`: not made yet, or given up after an error.
    producer: Option<Registered<BaseProducer<Deliveries>>>,
}

impl TopicSink {
    pub(super) fn new(kafka: &Kafka, topic: &str) -> Self {
        Self { kafka: kafka.clone(), topic: topic.to_owned(), producer: None }
    }

    fn producer(&mut self) -> Result<&BaseProducer<Deliveries>, SinkError> {
        // Certificates are read when it is made; nothing is under way between two batches.
        if self.producer.as_ref().is_some_and(Registered::is_outdated) {
            self.producer = None;
        }
        let made = match self.producer.take() {
            Some(producer) => producer,
            None => client::reporting_producer(
                &self.kafka,
                "producer of the audit topic",
                settings::audit_producer(&self.kafka),
                Deliveries::new,
            )
            .map_err(|error| SinkError::none_copied(format!("{}: {error}", self.topic)))?,
        };
        Ok(self.producer.insert(made))
    }

    /// Sends everything and waits until it is there: how many records are, and what went wrong.
    fn send(
        &mut self,
        lines: &[CopiedLine],
        goes_on: &dyn Fn() -> bool,
    ) -> Result<(), (usize, String)> {
        let topic = self.topic.clone();
        let producer = self.producer().map_err(|error| (error.copied, error.message))?;
        let deliveries = producer.context();
        *deliveries.state() = Delivered::default();
        let mut sent = 0;
        for line in lines {
            let chain = line.line.chain.to_string();
            if let (Some(subjects), Some(name)) = (&line.subjects, line.line.entry.subjects_sha256)
            {
                queue(producer, &topic, &chain, subjects, Some(name), goes_on)?;
                sent += 1;
            }
            queue(producer, &topic, &chain, &line.bytes, None, goes_on)?;
            sent += 1;
        }
        loop {
            producer.poll(LOOK);
            let Delivered { records, failed } = *deliveries.state();
            if let Some(code) = failed {
                return Err((records, refused(&topic, code)));
            }
            if records == sent {
                return Ok(());
            }
            if !goes_on() {
                return Err((records, format!("{topic}: this process ends")));
            }
        }
    }
}

impl Sink for TopicSink {
    fn name(&self) -> &'static str {
        "topic"
    }

    fn copy(&mut self, lines: &[CopiedLine], goes_on: &dyn Fn() -> bool) -> Result<(), SinkError> {
        self.send(lines, goes_on).map_err(|(records, message)| {
            // What it still has in hand must not arrive beside what is sent again.
            self.producer = None;
            SinkError { copied: whole_lines(lines, records), message }
        })
    }
}

/// Lines of which all records are there.
fn whole_lines(lines: &[CopiedLine], records: usize) -> usize {
    let mut left = records;
    let is_there = |line: &&CopiedLine| {
        let needs = 1 + usize::from(line.subjects.is_some());
        let is_there = left >= needs;
        left = left.saturating_sub(needs);
        is_there
    };
    lines.iter().take_while(is_there).count()
}

/// Queues a record; on a full queue as soon as there is room.
fn queue(
    producer: &BaseProducer<Deliveries>,
    topic: &str,
    chain: &str,
    value: &[u8],
    subjects: Option<Hex<32>>,
    goes_on: &dyn Fn() -> bool,
) -> Result<(), (usize, String)> {
    let name = subjects.map(|name| name.to_string());
    let mut record = BaseRecord::to(topic).key(chain).payload(value);
    if let Some(name) = &name {
        let header = Header { key: SUBJECTS, value: Some(name) };
        record = record.headers(OwnedHeaders::new().insert(header));
    }
    loop {
        match producer.send(record) {
            Ok(()) => return Ok(()),
            Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                if goes_on() =>
            {
                record = back;
                producer.poll(LOOK);
            }
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                return Err((producer.context().state().records, refused(topic, code)));
            }
        }
    }
}

fn refused(topic: &str, code: RDKafkaErrorCode) -> String {
    let what = match code {
        RDKafkaErrorCode::TopicAuthorizationFailed => "the brokers do not let us write to it",
        RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition => {
            "it does not exist"
        }
        RDKafkaErrorCode::MessageSizeTooLarge => "it takes no record of this size",
        _ => "it takes no records",
    };
    format!("{topic}: {what} ({code})")
}

/// What became of the records of a batch.
#[derive(Debug, Clone, Copy, Default)]
struct Delivered {
    /// There, from the first on without a gap.
    records: usize,
    failed: Option<RDKafkaErrorCode>,
}

/// Counts deliveries.
struct Deliveries {
    reporter: Arc<Reporter>,
    state: Mutex<Delivered>,
}

impl Deliveries {
    fn new(reporter: Arc<Reporter>) -> Self {
        Self { reporter, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, Delivered> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        client::log(level, facility, text);
    }

    fn error(&self, error: KafkaError, text: &str) {
        client::report(&self.reporter, &error, text);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let mut state = self.state();
        match result {
            Ok(_) if state.failed.is_none() => state.records += 1,
            Ok(_) => {}
            Err((error, _)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                state.failed.get_or_insert(code);
            }
        }
    }
}

/// Gives out every line that a topic holds, as it is.
///
/// # Errors
/// The topic cannot be read to its end, or what `each` says.
pub fn read_topic(
    kafka: &Kafka,
    topic: &str,
    mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let topics = Topics::connect(kafka)?;
    let partitions: Vec<(&str, i32)> =
        (0..topics.describe_one(topic)?.partitions).map(|partition| (topic, partition)).collect();
    let (starts, ends) = (topics.starts(&partitions)?, topics.stable_ends(&partitions)?);
    let own = [("group.id", "veilstream-audit"), ("enable.partition.eof", "false")];
    let consumer = client::consumer(kafka, "reader of the audit topic", &own)?;
    let mut open = std::collections::BTreeMap::new();
    let mut assignment = TopicPartitionList::new();
    for (place, end) in ends {
        let (end, start) = (end?.offset, starts.get(&place).cloned());
        let start = start.transpose()?.map_or(0, |start| start.offset);
        if start < end {
            assignment.add_partition_offset(topic, place.1, Offset::Offset(start))?;
            open.insert(place.1, end);
        }
    }
    consumer.assign(&assignment)?;
    let mut heard = Instant::now();
    while !open.is_empty() {
        match consumer.poll(LOOK) {
            Some(Ok(message)) => {
                heard = Instant::now();
                let is_line = message
                    .headers()
                    .is_none_or(|headers| headers.iter().all(|header| header.key != SUBJECTS));
                if let (true, Some(line)) = (is_line, message.payload()) {
                    each(line)?;
                }
                if open.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                    open.remove(&message.partition());
                }
            }
            Some(Err(error)) if heard.elapsed() > SILENCE => return Err(error.into()),
            _ => anyhow::ensure!(heard.elapsed() < SILENCE, "{topic}: no broker answers"),
        }
    }
    Ok(())
}
