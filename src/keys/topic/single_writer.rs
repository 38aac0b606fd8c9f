//! A topic of one partition that many processes write, one after another. Every change is a
//! transaction under one transactional id, which all of them share: a writer fences the others
//! first, then reads to the end, then writes. A change whose commit succeeds was made with
//! everything before it in sight.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::error::KeyTopicError;
use crate::config::Kafka;
use crate::kafka::client::{self, Consumer, Registered};
use crate::kafka::error::{Fault, Obstacle, is_authorization};
use crate::kafka::ffi::admin::Requests;
use crate::kafka::ffi::{Destination, Headers};
use crate::kafka::producer::{Producer, Recipe};
use crate::kafka::topics::{NewTopic, TopicError, TopicFacts, Topics, alter_command};

/// One request to the brokers.
const REQUEST: Duration = Duration::from_secs(10);
/// No answer for so long, and the brokers are away.
const SILENCE: Duration = Duration::from_secs(30);
/// How long a writer tries to get its turn.
const TURN: Duration = Duration::from_secs(30);

/// How long a marker takes, about.
const MARKER: Duration = Duration::from_millis(2);

/// A record to be written: key and value.
pub(super) type Entry = (String, String);

/// What is made of the records.
pub(super) trait Reader {
    /// Takes the next committed record. What this process wrote itself comes at once, and again
    /// with the next look.
    fn take(&mut self, key: &[u8], value: Option<&[u8]>);
}

/// The topic, as far as it was read, and the turn to write it.
pub(super) struct SingleWriter {
    topic: String,
    recipe: Recipe,
    kafka: Kafka,
    consumer: Registered<Consumer>,
    /// The offset to read from.
    next: i64,
    /// Where the topic ends at least: behind what this process committed. A commit is answered
    /// before its marker stands in the partition, so for a moment the last stable offset is the one
    /// before; to read up to there would show the topic as it was, and this process has moved on.
    floor: i64,
    /// No record was seen.
    empty: bool,
    /// In a turn that nobody has taken over, as far as we know.
    writer: Option<Producer>,
}

impl SingleWriter {
    pub(super) fn new(kafka: &Kafka, topic: &str) -> Result<Self, KeyTopicError> {
        let consumer = consumer(kafka, topic).map_err(KeyTopicError::Settings)?;
        // Of the topic alone: whatever else differs between two processes, one of them writes.
        let recipe = Recipe::named(kafka, format!("veilstream-keys-{topic}"));
        Ok(Self {
            kafka: kafka.clone(),
            topic: topic.to_owned(),
            recipe,
            consumer,
            next: 0,
            floor: 0,
            empty: true,
            writer: None,
        })
    }

    /// Whether no record was ever seen.
    pub(super) fn is_empty(&self) -> bool {
        self.empty
    }

    /// Hands over what was committed since the last look, up to the leader's last stable offset.
    pub(super) fn catch_up(&mut self, reader: &mut impl Reader) -> Result<(), KeyTopicError> {
        if self.consumer.is_outdated() {
            self.consumer = consumer(&self.kafka, &self.topic).map_err(KeyTopicError::Settings)?;
        }
        let end = self.end()?;
        // Records that were read are gone: another topic has the name.
        if end < self.next {
            return Err(KeyTopicError::Replaced);
        }
        if end > self.next {
            let mut from = TopicPartitionList::new();
            let start = if self.next == 0 { Offset::Beginning } else { Offset::Offset(self.next) };
            from.add_partition_offset(&self.topic, 0, start)
                .and_then(|()| self.consumer.assign(&from))
                .map_err(KeyTopicError::Settings)?;
            let read = self.read_to(end, reader);
            // Nothing is fetched between two looks.
            let _ = self.consumer.unassign();
            read?;
        }
        self.floor = self.next;
        Ok(())
    }

    /// The last stable offset as the leader knows it: what was committed before the question stands
    /// before it.
    fn end(&self) -> Result<i64, KeyTopicError> {
        let start = Instant::now();
        loop {
            let listed = Requests::of(self.consumer.client(), REQUEST).offsets(
                &[(&self.topic, 0)],
                Offset::End,
                true,
            );
            let code = match listed.map(|mut listed| listed.pop().map(|(_, _, found)| found)) {
                Ok(Some(Ok(listed)))
                    if listed.offset >= self.floor || listed.offset < self.next =>
                {
                    return Ok(listed.offset);
                }
                Ok(Some(Ok(_))) => RDKafkaErrorCode::OperationTimedOut,
                Ok(Some(Err(code))) | Err(code) => code,
                Ok(None) => RDKafkaErrorCode::BadMessage,
            };
            if is_authorization(code) {
                return Err(self.denied(Obstacle::TopicDenied));
            }
            // Leaders move, and markers follow.
            if start.elapsed() > SILENCE {
                return Err(KeyTopicError::NoAnswer(code));
            }
            std::thread::sleep(MARKER);
        }
    }

    fn read_to(&mut self, end: i64, reader: &mut impl Reader) -> Result<(), KeyTopicError> {
        let mut heard = Instant::now();
        while self.next < end {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    reader.take(message.key().unwrap_or_default(), message.payload());
                    (self.next, self.empty) = (message.offset() + 1, false);
                }
                // The end of what this broker has. It may be a leader that has just become one and
                // does not know how far the last one was; then there is more to come.
                Some(Err(KafkaError::PartitionEOF(_))) => {
                    heard = Instant::now();
                    if Requests::of(self.consumer.client(), REQUEST)
                        .fetched_end(&self.topic, 0)
                        .is_some_and(|fetched| fetched >= end)
                    {
                        self.next = end;
                    }
                }
                Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                    return Err(KeyTopicError::Replaced);
                }
                Some(Err(error)) if heard.elapsed() > SILENCE => {
                    return Err(KeyTopicError::NoAnswer(
                        error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
                    ));
                }
                None if heard.elapsed() > SILENCE => {
                    return Err(KeyTopicError::NoAnswer(RDKafkaErrorCode::OperationTimedOut));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives the turn back: the next change begins with a new one, so that nobody else is in the
    /// middle of one when it looks.
    pub(super) fn yield_turn(&mut self) {
        self.writer = None;
    }

    /// Makes a change with everything before it in sight. `change` tells what to write, from what
    /// the reader has taken so far; it may be asked more than once.
    pub(super) fn write<R: Reader, T>(
        &mut self,
        reader: &mut R,
        change: impl Fn(&R) -> (Vec<Entry>, T),
    ) -> Result<T, KeyTopicError> {
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
                    // Nobody came between, or the commit would have been refused. They are read
                    // again with the next look. Their marker stands behind them.
                    self.floor +=
                        i64::try_from(entries.len()).unwrap_or(i64::MAX).saturating_add(1);
                    entries.iter().for_each(|(key, value)| {
                        reader.take(key.as_bytes(), Some(value.as_bytes()))
                    });
                    // Who asks after this change was answered has to see it, and others know no
                    // floor. The change is made even where the leader does not answer: nobody reads
                    // the topic then.
                    let _ = self.end();
                    return Ok(done);
                }
                Err(Fault::Blocked(obstacle)) => return Err(self.denied(obstacle)),
                Err(Fault::Refused) => return Err(KeyTopicError::RecordRefused),
                Err(_) if start.elapsed() > TURN => return Err(KeyTopicError::NotWritten),
                // Fenced by another writer, or nobody knows: the next turn sees what was done.
                Err(_) => std::thread::sleep(pause()),
            }
        }
    }

    /// Fences every other writer and reads what they wrote before.
    fn turn(&mut self, reader: &mut impl Reader) -> Result<(), KeyTopicError> {
        let start = Instant::now();
        loop {
            let producer = self.recipe.create().map_err(KeyTopicError::Producer)?;
            match producer.init_transactions(REQUEST) {
                Ok(()) => {
                    self.catch_up(reader)?;
                    self.writer = Some(producer);
                    return Ok(());
                }
                Err(error) => match error.fault() {
                    Fault::Blocked(obstacle) => return Err(self.denied(obstacle)),
                    _ if start.elapsed() > TURN => return Err(KeyTopicError::NoTurn(error)),
                    _ => std::thread::sleep(pause()),
                },
            }
        }
    }

    /// One transaction; an error leaves no writer behind.
    fn commit(&mut self, entries: &[Entry]) -> Result<(), Fault> {
        let Some(mut producer) = self.writer.take() else { return Err(Fault::Fenced) };
        let topic = producer.topic(&self.topic).ok_or(Fault::OutcomeUnknown)?;
        producer.begin().map_err(|e| e.fault())?;
        let until = Instant::now() + TURN;
        let go_on = || Instant::now() < until;
        for (key, value) in entries {
            let headers = Headers::new(0).ok_or(Fault::OutcomeUnknown)?;
            let to = Destination { topic, partition: 0, timestamp: 0 };
            producer
                .produce(to, Some(key.as_bytes()), Some(value.as_bytes()), headers, go_on)
                .map_err(|e| match e {
                    crate::kafka::producer::Unproduced::TooLarge => Fault::Refused,
                    crate::kafka::producer::Unproduced::Failed(fault) => fault,
                })?;
        }
        producer.flush(go_on)?;
        let is_tainted = producer.commit_records().map_err(|e| e.fault())?;
        if !is_tainted {
            self.writer = Some(producer);
        }
        Ok(())
    }

    fn denied(&self, obstacle: Obstacle) -> KeyTopicError {
        KeyTopicError::Denied { obstacle, id: self.recipe.id().to_owned() }
    }
}

/// A consumer that nobody assigns partitions to: it is told where to read.
fn consumer(kafka: &Kafka, topic: &str) -> Result<Registered<Consumer>, KafkaError> {
    let group = format!("{}.keys", kafka.group_id);
    let own = [
        ("group.id", &*group),
        ("enable.partition.eof", "true"),
        // Read on demand: the end of the topic is what is waited for.
        ("fetch.wait.max.ms", "5"),
        // A broker sends readers of another rack to a follower, whose end lags behind the leader's:
        // the topic would look as it was before a key was made, or erased.
        ("client.rack", ""),
    ];
    client::consumer(kafka, &format!("reader of {topic}"), &own)
}

/// Somewhere up to 100 ms: writers that met must not meet again.
fn pause() -> Duration {
    Duration::from_millis(u64::from(getrandom::u32().unwrap_or(50) % 100))
}

/// What is known of a topic that can be written by one after another and is lost by nobody.
pub(super) fn described(topics: &Topics, topic: &str) -> Result<TopicFacts, KeyTopicError> {
    let facts = topics.describe_one(topic)?;
    if facts.assumed {
        return Err(KeyTopicError::Unreadable);
    }
    if facts.partitions != 1 {
        return Err(KeyTopicError::Partitions(facts.partitions));
    }
    let least = facts.replicas.min(2);
    if facts.min_in_sync < least {
        return Err(KeyTopicError::Unreplicated(alter_command(
            topics.servers(),
            topic,
            &[("min.insync.replicas", &least.to_string())],
        )));
    }
    Ok(facts)
}

/// Makes a topic of one partition with these settings, replicated as well as the cluster can,
/// unless it is there.
pub(super) fn make(
    topics: &Topics,
    topic: &str,
    settings: &[(&'static str, &str)],
) -> Result<(), KeyTopicError> {
    match topics.describe_one(topic) {
        Err(TopicError::Missing { .. }) => {}
        Ok(_) => return Ok(()),
        Err(error) => return Err(error.into()),
    }
    let (replicas, in_sync) = if topics.brokers()? >= 3 { (Some(3), "2") } else { (None, "1") };
    let settings = settings
        .iter()
        .copied()
        .chain([("min.insync.replicas", in_sync)])
        .map(|(name, value)| (name, value.to_owned()));
    let new =
        NewTopic { name: topic.to_owned(), partitions: 1, replicas, settings: settings.collect() };
    topics
        .create(&[new])
        .map_err(|errors| errors.into_iter().next().map_or(KeyTopicError::Missing, Into::into))
}
