//! What tests write to raw topics.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};

use crate::kafka::Kafka;

/// The timestamp of every record that has no better one: a day before now. A date written here
/// would in time be older than what a topic keeps, and the broker would delete the record.
pub(crate) static TIME: LazyLock<i64> = LazyLock::new(|| {
    i64::try_from((UNIX_EPOCH.elapsed().unwrap() - Duration::from_hours(24)).as_millis()).unwrap()
});

/// How long a call about a transaction may take.
const TRANSACTION: Duration = Duration::from_secs(30);

/// Writes input records.
pub(crate) struct Feeder(BaseProducer<Undelivered>);

/// How many records did not arrive: a test that waits for them would blame the sidecar.
#[derive(Default)]
struct Undelivered(AtomicUsize);

impl ClientContext for Undelivered {}

impl ProducerContext for Undelivered {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        self.0.fetch_add(usize::from(result.is_err()), Ordering::Relaxed);
    }
}

/// An input record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) topic: &'a str,
    pub(crate) partition: i32,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) timestamp: i64,
    pub(crate) headers: &'a [(&'a str, Option<&'a [u8]>)],
}

impl Feeder {
    /// Idempotent, in order.
    pub(crate) fn new(kafka: &Kafka) -> Self {
        Self::up_to(kafka, 4_000_000)
    }

    /// For records of up to so many bytes.
    pub(crate) fn up_to(kafka: &Kafka, bytes: usize) -> Self {
        let mut client = kafka.client();
        client
            .set("enable.idempotence", "true")
            .set("linger.ms", "20")
            .set("message.max.bytes", bytes.to_string());
        Self(client.create_with_context(Undelivered::default()).unwrap())
    }

    /// For records in transactions of this id, open until [`Feeder::commit`] or [`Feeder::abort`].
    /// Offsets count their control records too.
    pub(crate) fn transactional(kafka: &Kafka, id: &str) -> Self {
        let mut client = kafka.client();
        client
            .set("transactional.id", id)
            .set("transaction.timeout.ms", "300000")
            .set("linger.ms", "20");
        let feeder = Self(client.create_with_context(Undelivered::default()).unwrap());
        feeder.0.init_transactions(TRANSACTION).unwrap();
        feeder
    }

    /// Opens a transaction.
    pub(crate) fn begin(&self) {
        self.0.begin_transaction().unwrap();
    }

    /// Commits what was fed since [`Feeder::begin`].
    pub(crate) fn commit(&self) {
        self.0.commit_transaction(TRANSACTION).unwrap();
    }

    /// Aborts it; the broker has its records, and shows them to anyone who reads uncommitted ones.
    pub(crate) fn abort(&self) {
        self.finish();
        self.0.abort_transaction(TRANSACTION).unwrap();
    }

    /// The same, compressed, in large batches.
    pub(crate) fn compressed(kafka: &Kafka, codec: &str) -> Self {
        let mut client = kafka.client();
        client
            .set("enable.idempotence", "true")
            .set("compression.type", codec)
            .set("message.max.bytes", "4000000")
            .set("batch.size", "2000000")
            .set("linger.ms", "100");
        Self(client.create_with_context(Undelivered::default()).unwrap())
    }

    /// Queues a record; waits while the queue is full.
    pub(crate) fn send(&self, input: &Input<'_>) {
        let headers = input.headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| {
            all.insert(Header { key, value: *value })
        });
        let mut record = BaseRecord::<[u8], [u8]>::to(input.topic)
            .partition(input.partition)
            .timestamp(input.timestamp)
            .headers(headers);
        record.key = input.key;
        record.payload = input.value;
        loop {
            match self.0.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    self.0.poll(Duration::from_millis(5));
                    record = back;
                }
                Err((error, _)) => panic!("{error}"),
            }
        }
    }

    /// Queues record `i` of a numbered series: over `partitions` in turn, its number in the header
    /// `n`.
    pub(crate) fn number(&self, topic: &str, partitions: i32, i: usize, value: &[u8]) {
        let (key, number) = (format!("k{}", i % 1000), i.to_string());
        self.send(&Input {
            topic,
            partition: i32::try_from(i).unwrap() % partitions,
            key: Some(key.as_bytes()),
            value: Some(value),
            timestamp: *TIME,
            headers: &[("n", Some(number.as_bytes()))],
        });
    }

    /// Waits until the broker has everything.
    pub(crate) fn finish(&self) {
        self.0.flush(Duration::from_secs(60)).unwrap();
        assert_eq!(
            self.0.context().0.load(Ordering::Relaxed),
            0,
            "records the broker did not take"
        );
    }
}

/// A person whose address and number are to be protected.
pub(crate) fn person(i: usize) -> String {
    format!(
        "{{\"id\":{i},\"email\":\"user{i}@example.com\",\"ssn\":\"123-45-{:04}\",\"note\":\"ordinary\"}}",
        i % 10_000
    )
}

/// A person with so many bytes that are not protected.
pub(crate) fn large(i: usize, bytes: usize) -> String {
    person(i).replace("ordinary", &"x".repeat(bytes))
}

/// A person whose protected number has so many bytes: sealed, it has a third more.
pub(crate) fn growing(i: usize, bytes: usize) -> String {
    person(i).replace("123-45", &"1".repeat(bytes))
}

/// The document for [`person`], from `<name>.raw` to `<name>.clean`.
pub(crate) fn people(name: &str) -> String {
    format!(
        r#"{{"veilstream":1,"name":"people","version":1,"topics":{{"from":"{name}.raw","to":"{name}.clean"}},
  "fields":[{{"id":"email","path":"$.email","index":{{"normalize":"email","bits":24}}}},{{"id":"ssn","path":"$.ssn"}}]}}"#
    )
}
