//! What `krafka` does for the tests: it reads topics from their beginning to their end, and writes
//! what librdkafka cannot.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use krafka::admin::{GroupOffset, ListConsumerGroupOffsetsOptions};
use krafka::consumer::{AutoOffsetReset, Consumer, IsolationLevel};
use krafka::{ConsumerRecord, Kafka, Record};

/// How long the marks of a commit may take.
const MARKS: Duration = Duration::from_secs(2);

/// What readers see that skip aborted records, in partition order.
pub(crate) fn committed(bootstrap: &str, topic: &str, partitions: i32) -> Vec<ConsumerRecord> {
    read(bootstrap, topic, partitions, IsolationLevel::ReadCommitted)
}

/// Everything, aborted records included.
pub(crate) fn uncommitted(bootstrap: &str, topic: &str, partitions: i32) -> Vec<ConsumerRecord> {
    read(bootstrap, topic, partitions, IsolationLevel::ReadUncommitted)
}

fn read(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    isolation: IsolationLevel,
) -> Vec<ConsumerRecord> {
    patiently(|| try_read(bootstrap, topic, partitions, isolation)).unwrap()
}

/// What `attempt` gives. Brokers that do not know a leader yet are asked again.
fn patiently<T, F: Future<Output = krafka::Result<T>>>(
    attempt: impl Fn() -> F,
) -> krafka::Result<T> {
    let limit = Instant::now() + Duration::from_secs(30);
    block_on(async {
        loop {
            match attempt().await {
                Err(fault) if fault.is_retriable() && Instant::now() < limit => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                outcome => return outcome,
            }
        }
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

async fn try_read(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    isolation: IsolationLevel,
) -> krafka::Result<Vec<ConsumerRecord>> {
    let kafka = Kafka::builder(bootstrap).connect().await?;
    let consumer = assigned(&kafka, topic, partitions, isolation).await?;
    // Anyone who commits is answered before each partition has the mark of the commit: what stands
    // there now is readable in a moment. Not so what a killed process left open.
    let everything = assigned(&kafka, topic, partitions, IsolationLevel::ReadUncommitted).await?;
    let written = ends(&everything, topic, partitions).await?;
    everything.close().await?;
    let settled = Instant::now() + MARKS;
    let ends = loop {
        let ends = ends(&consumer, topic, partitions).await?;
        let is_settled = ends.iter().zip(&written).all(|(end, written)| end >= written);
        if is_settled || Instant::now() >= settled {
            break ends;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    for partition in 0..partitions {
        consumer.seek_to_beginning(topic, partition).await?;
    }
    let mut records = Vec::new();
    let limit = Instant::now() + Duration::from_secs(180);
    loop {
        records.extend(consumer.poll(Duration::from_millis(200)).await?);
        let mut open = Vec::new();
        for (partition, end) in (0..partitions).zip(&ends) {
            let position = consumer.position(topic, partition).await;
            if *end > 0 && position.is_none_or(|at| at < *end) {
                open.push((partition, position, end));
            }
        }
        if open.is_empty() {
            break;
        }
        assert!(
            Instant::now() < limit,
            "{topic} does not end: (partition, position, end) {open:?}"
        );
    }
    consumer.close().await?;
    Ok(records)
}

/// A consumer of all partitions, without a group.
async fn assigned(
    kafka: &Kafka,
    topic: &str,
    partitions: i32,
    isolation: IsolationLevel,
) -> krafka::Result<Consumer> {
    let consumer = kafka
        .consumer_without_group()
        .isolation_level(isolation)
        .auto_offset_reset(AutoOffsetReset::Earliest)
        .enable_auto_commit(false)
        .build()
        .await?;
    consumer.assign(topic, (0..partitions).collect()).await?;
    Ok(consumer)
}

/// Where each partition ends for this consumer.
async fn ends(consumer: &Consumer, topic: &str, partitions: i32) -> krafka::Result<Vec<i64>> {
    let mut ends = Vec::new();
    for partition in 0..partitions {
        ends.push(consumer.fetch_watermarks(topic, partition).await?.1);
    }
    Ok(ends)
}

/// The number of a record of a numbered series ([`crate::feed::Feeder::number`]).
pub(crate) fn number(record: &ConsumerRecord) -> usize {
    std::str::from_utf8(record.headers[0].1.as_deref().unwrap()).unwrap().parse().unwrap()
}

/// How often each record of a numbered series of `all` is among `records`.
pub(crate) fn times(records: &[ConsumerRecord], all: usize) -> Vec<u32> {
    let mut times = vec![0; all];
    for record in records {
        times[number(record)] += 1;
    }
    times
}

/// The committed offsets of a group, by partition.
pub(crate) fn committed_offsets(bootstrap: &str, group: &str, topic: &str) -> BTreeMap<i32, i64> {
    commits(bootstrap, group, topic)
        .into_iter()
        .filter_map(|(partition, commit)| Some((partition, commit.offset?)))
        .collect()
}

/// What a group has committed, by partition: offset, leader epoch and metadata.
pub(crate) fn commits(bootstrap: &str, group: &str, topic: &str) -> BTreeMap<i32, GroupOffset> {
    patiently(|| committed_by(bootstrap, group, topic)).unwrap()
}

/// The same while brokers may be down: asked once.
pub(crate) fn try_commits(
    bootstrap: &str,
    group: &str,
    topic: &str,
) -> krafka::Result<BTreeMap<i32, GroupOffset>> {
    block_on(committed_by(bootstrap, group, topic))
}

async fn committed_by(
    bootstrap: &str,
    group: &str,
    topic: &str,
) -> krafka::Result<BTreeMap<i32, GroupOffset>> {
    let kafka = Kafka::builder(bootstrap).connect().await?;
    let offsets = kafka
        .admin()
        .list_consumer_group_offsets(group, ListConsumerGroupOffsetsOptions::default())
        .await?;
    offsets
        .into_iter()
        .filter(|(of, _)| of.topic == topic)
        .map(|(of, commit)| Ok((of.partition, commit?)))
        .collect()
}

/// Whether the bytes stand there.
pub(crate) fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window[0] == needle[0] && window == needle)
}

/// Writes one record.
pub(crate) fn send(bootstrap: &str, record: Record) {
    block_on(async {
        let kafka = Kafka::builder(bootstrap).connect().await.unwrap();
        let producer = kafka.producer().build().await.unwrap();
        let _ = producer.send(record).await.unwrap();
        producer.close().await.unwrap();
    });
}
