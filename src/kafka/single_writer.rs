//! A topic of one partition that many processes write, one after another. Every change is a transaction under one transactional id, which all of them share:
//! whoever writes fences the others first, then reads to the end, then writes. A change whose commit succeeds was made with everything before it in sight.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::client::{self, Consumer, Registered};
use super::error::Fault;
use super::ffi::{Destination, Headers};
use super::preflight::{admin, wait};
use super::producer::{Producer, Recipe};
use crate::config::Kafka;

/// One request to the brokers.
const REQUEST: Duration = Duration::from_secs(10);
/// No answer for so long, and the brokers are away.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a writer tries to get its turn.
const TURN: Duration = Duration::from_secs(30);

/// A record to be written: key and value.
pub(super) type Entry = (String, String);

/// What is made of the records.
pub(super) trait Reader {
    /// Takes the next committed record. What this process wrote itself comes at once, and again with the next look.
    fn take(&mut self, key: &[u8], value: Option<&[u8]>);
}

/// The topic, as far as it was read, and the turn to write it.
pub(super) struct SingleWriter {
    kafka: Kafka,
    topic: String,
    recipe: Recipe,
    consumer: Registered<Consumer>,
    /// The offset to read from.
    next: i64,
    /// When everything there was had been read.
    read: Option<Instant>,
    /// In a turn that nobody has taken over, as far as we know.
    writer: Option<Producer>,
}

impl SingleWriter {
    pub(super) fn new(kafka: &Kafka, topic: &str) -> Result<Self, String> {
        let consumer = consumer(kafka, topic)?;
        // Of the topic alone: whatever else differs between two processes, one of them writes.
        let recipe = Recipe::named(kafka, format!("veilstream-keys-{topic}"));
        Ok(Self { kafka: kafka.clone(), topic: topic.to_owned(), recipe, consumer, next: 0, read: None, writer: None })
    }

    /// How long ago everything there was had been read.
    pub(super) fn age(&self) -> Duration {
        self.read.map_or(Duration::MAX, |read| read.elapsed())
    }

    /// Whether nothing was ever written.
    pub(super) fn is_empty(&self) -> bool {
        self.next == 0
    }

    /// Hands over what was committed since the last look.
    pub(super) fn catch_up(&mut self, reader: &mut impl Reader) -> Result<(), String> {
        if self.consumer.is_outdated() {
            self.consumer = consumer(&self.kafka, &self.topic)?;
        }
        let mut from = TopicPartitionList::new();
        let start = if self.next == 0 { Offset::Beginning } else { Offset::Offset(self.next) };
        from.add_partition_offset(&self.topic, 0, start).and_then(|()| self.consumer.assign(&from)).map_err(|e| e.to_string())?;
        let read = self.read_to_end(reader);
        // Nothing is fetched between two looks.
        let _ = self.consumer.unassign();
        read?;
        self.read = Some(Instant::now());
        Ok(())
    }

    fn read_to_end(&mut self, reader: &mut impl Reader) -> Result<(), String> {
        let mut heard = Instant::now();
        loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    reader.take(message.key().unwrap_or_default(), message.payload());
                    self.next = message.offset() + 1;
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                // Records that were read are gone: another topic has the name.
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                    return Err("is not the topic that it was; was it deleted and made anew?".to_owned());
                }
                Some(Err(error)) if heard.elapsed() > SILENCE => return Err(error.to_string()),
                None if heard.elapsed() > SILENCE => return Err("no broker answers".to_owned()),
                _ => {}
            }
        }
    }

    /// Makes a change with everything before it in sight. `change` tells what to write, from what the reader has taken so far; it may be asked more than once.
    pub(super) fn write<R: Reader, T>(&mut self, reader: &mut R, change: impl Fn(&R) -> (Vec<Entry>, T)) -> Result<T, String> {
        let start = Instant::now();
        loop {
            self.writer = self.writer.take().filter(|writer| !writer.is_outdated());
            let is_new = self.writer.is_none();
            if is_new {
                self.turn(reader)?;
            }
            let (entries, done) = change(reader);
            if entries.is_empty() {
                if is_new {
                    return Ok(done);
                }
                // No commit will tell whether somebody has taken the turn over: look.
                self.catch_up(reader)?;
                match change(reader) {
                    (entries, done) if entries.is_empty() => return Ok(done),
                    _ => continue,
                }
            }
            match self.commit(&entries) {
                Ok(()) => {
                    // Nobody came between, or the commit would have been refused. They are read again with the next look.
                    entries.iter().for_each(|(key, value)| reader.take(key.as_bytes(), Some(value.as_bytes())));
                    return Ok(done);
                }
                Err(Fault::Blocked(code)) => return Err(self.denied(code)),
                Err(Fault::Refused) => return Err("the broker refuses a record; look at the topic's max.message.bytes".to_owned()),
                Err(_) if start.elapsed() > TURN => return Err("not written: other writers were quicker every time, or no broker answers".to_owned()),
                // Fenced by another writer, or nobody knows: the next turn sees what was done.
                Err(_) => std::thread::sleep(pause()),
            }
        }
    }

    /// Fences every other writer and reads what they wrote before.
    fn turn(&mut self, reader: &mut impl Reader) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let producer = self.recipe.create()?;
            match producer.fence_in(REQUEST) {
                Ok(()) => {
                    self.catch_up(reader)?;
                    self.writer = Some(producer);
                    return Ok(());
                }
                Err(error) => match error.fault() {
                    Fault::Blocked(code) => return Err(self.denied(code)),
                    _ if start.elapsed() > TURN => return Err(format!("no turn to write ({error})")),
                    _ => std::thread::sleep(pause()),
                },
            }
        }
    }

    /// One transaction; an error leaves no writer behind.
    fn commit(&mut self, entries: &[Entry]) -> Result<(), Fault> {
        let Some(mut producer) = self.writer.take() else { return Err(Fault::Fenced) };
        let topic = producer.topic(&self.topic).ok_or(Fault::Doubt)?;
        producer.begin().map_err(|e| e.fault())?;
        let until = Instant::now() + TURN;
        let go_on = || Instant::now() < until;
        for (key, value) in entries {
            let headers = Headers::new(0).ok_or(Fault::Doubt)?;
            let to = Destination { topic, partition: 0, timestamp: 0 };
            producer.produce(to, Some(key.as_bytes()), Some(value.as_bytes()), headers, go_on).map_err(|e| match e {
                super::producer::Unproduced::TooLarge => Fault::Refused,
                super::producer::Unproduced::Failed(fault) => fault,
            })?;
        }
        producer.flush(go_on)?;
        let is_tainted = producer.commit_records().map_err(|e| e.fault())?;
        if !is_tainted {
            self.writer = Some(producer);
        }
        Ok(())
    }

    fn denied(&self, code: RDKafkaErrorCode) -> String {
        format!("{code}; grant Read and Write on the topic, and Write on the transactional id {}", self.recipe.id())
    }
}

/// A consumer that nobody assigns partitions to: it is told where to read.
fn consumer(kafka: &Kafka, topic: &str) -> Result<Registered<Consumer>, String> {
    let own = [
        ("group.id", &*format!("{}.keys", kafka.group_id)),
        ("enable.partition.eof", "true"),
        // Read on demand: the end of the topic is what is waited for.
        ("fetch.wait.max.ms", "5"),
        ("auto.offset.reset", "error"),
    ];
    client::consumer(kafka, &format!("reader of {topic}"), &own).map_err(|e| e.to_string())
}

/// Somewhere up to 100 ms: writers that met must not meet again.
fn pause() -> Duration {
    Duration::from_millis(u64::from(getrandom::u32().unwrap_or(50) % 100))
}

/// How a topic is configured.
pub(super) struct Facts {
    pub(super) partitions: usize,
    replicas: usize,
    settings: BTreeMap<String, String>,
}

impl Facts {
    /// A setting of the topic.
    pub(super) fn value(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// What is wrong with it for being written by one after another, and lost by nobody.
    pub(super) fn judge(&self, kafka: &Kafka, topic: &str) -> Result<(), String> {
        if self.partitions != 1 {
            return Err(format!("has {} partitions; it must have one, because its records have one order", self.partitions));
        }
        let least = self.replicas.min(2);
        if self.value("min.insync.replicas").parse::<usize>().unwrap_or(0) < least {
            return Err(format!("could lose what is in it with one broker; set: {}", alter(kafka, topic, &format!("min.insync.replicas={least}"))));
        }
        Ok(())
    }
}

/// The command that sets what is wrong.
pub(super) fn alter(kafka: &Kafka, topic: &str, what: &str) -> String {
    format!("kafka-configs.sh --bootstrap-server {} --alter --entity-type topics --entity-name {topic} --add-config {what}", kafka.bootstrap_servers)
}

/// What the brokers say about a topic; `None`: it is not there.
pub(super) fn facts(kafka: &Kafka, topic: &str) -> Result<Option<Facts>, String> {
    let admin = admin(kafka)?;
    // All topics: asking for one by name may create it.
    let metadata = admin.inner().fetch_metadata(None, REQUEST).map_err(|e| format!("no broker answers ({e})"))?;
    let Some(found) = metadata.topics().iter().find(|found| found.name() == topic) else { return Ok(None) };
    let options = AdminOptions::new().request_timeout(Some(REQUEST));
    let described = wait(admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &options))?.unwrap_or_default();
    let entries = described.into_iter().next().and_then(Result::ok).map(|config| config.entries).filter(|entries| !entries.is_empty());
    let entries = entries.ok_or("its settings cannot be read; grant DescribeConfigs")?;
    let settings = entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect();
    let replicas = found.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or(0);
    Ok(Some(Facts { partitions: found.partitions().len(), replicas, settings }))
}

/// Makes a topic of one partition with these settings, replicated as well as the cluster can.
pub(super) fn make(kafka: &Kafka, topic: &str, settings: &[(&str, &str)]) -> Result<(), String> {
    let admin = admin(kafka)?;
    let brokers = admin.inner().fetch_metadata(None, REQUEST).map_err(|e| format!("no broker answers ({e})"))?.brokers().len();
    let (replication, in_sync) = if brokers >= 3 { (TopicReplication::Fixed(3), "2") } else { (TopicReplication::Fixed(-1), "1") };
    let new = settings.iter().fold(NewTopic::new(topic, 1, replication), |new, (name, value)| new.set(name, value)).set("min.insync.replicas", in_sync);
    let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
    let made = wait(admin.create_topics(&[new], &options))?.map_err(|e| e.to_string())?;
    match made.into_iter().next() {
        Some(Err((_, code))) if code != RDKafkaErrorCode::TopicAlreadyExists => Err(format!("cannot be made: {code}")),
        _ => Ok(()),
    }
}
