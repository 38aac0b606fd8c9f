//! The events: 861 bytes each, made from a seed, and the schema that protects five of their fields
//! and indexes two.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::ToBytes;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};

/// Where the events are.
pub(crate) const RAW: &str = "bench.raw";
/// Where they go.
pub(crate) const OUT: &str = "bench.out";
pub(crate) const PARTITIONS: i32 = 4;
pub(crate) const EVENT_BYTES: usize = 861;
pub(crate) const SEALED: usize = 5;
pub(crate) const INDEXED: usize = 2;

/// Settings that are not named here are what a user gets without asking.
pub(crate) const SCHEMA: &str = r#"{
  "veilstream": 1, "name": "customers", "version": 1, "topics": { "from": "bench.raw", "to": "bench.out" },
  "fields": [
    { "id": "email", "path": "$.customer.email", "index": { "normalize": "email" } },
    { "id": "phone", "path": "$.customer.phone", "index": { "normalize": "digits" } },
    { "id": "name", "path": "$.customer.name" },
    { "id": "ssn", "path": "$.customer.ssn" },
    { "id": "street", "path": "$.customer.address.street" }
  ]
}"#;

const FIRST: [&str; 8] =
    ["Ada", "Grace", "Edsger", "Barbara", "Niklaus", "Frances", "Donald", "Radia"];
const LAST: [&str; 8] =
    ["Lovelace", "Hopper", "Dijkstra", "Liskov", "Wirth", "Allen", "Knuth", "Perlman"];
const STREETS: [&str; 4] = ["Harbour Road", "Mill Lane", "Station Street", "Chestnut Avenue"];
pub(crate) const WORDS: [&str; 16] = [
    "leave",
    "parcel",
    "door",
    "please",
    "ring",
    "twice",
    "neighbour",
    "garden",
    "fragile",
    "invoice",
    "morning",
    "after",
    "noon",
    "call",
    "first",
    "gate",
];

/// splitmix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(crate) fn of<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words[self.below(words.len() as u64) as usize]
    }
}

/// An order event of exactly [`EVENT_BYTES`].
pub(crate) fn event(random: &mut Random) -> String {
    let (first, last, id) =
        (random.of(&FIRST), random.of(&LAST), random.below(90_000_000) + 10_000_000);
    let mut items = Vec::new();
    for _ in 0..3 {
        let (sku, quantity, cents) =
            (random.below(90_000) + 10_000, random.below(9) + 1, random.below(90_000) + 100);
        items.push(format!(
            r#"{{"sku":"SKU-{sku}","quantity":{quantity},"price":{}.{:02},"gift":false}}"#,
            cents / 100,
            cents % 100
        ));
    }
    let mut text = format!(
        concat!(
            r#"{{"id":"{:016x}{:016x}","type":"order.created","time":"2026-11-24T{:02}:{:02}:{:02}.{:03}Z","customer":{{"id":{},"name":"{} {}","#,
            r#""email":"{}.{}.{}@example.com","phone":"+1 {} 555 {:04}","ssn":"{:03}-{:02}-{:04}","tier":"gold","address":{{"street":"{} {}","#,
            r#""city":"Springfield","zip":"{:05}","country":"US"}}}},"items":[{}],"shipping":{{"method":"ground","weight":{}.5,"insured":true}},"#,
            r#""currency":"USD","meta":{{"source":"web","trace":"{:016x}{:016x}","attempt":1,"flags":[true,false,null]}},"comment":""#
        ),
        random.next(),
        random.next(),
        random.below(24),
        random.below(60),
        random.below(60),
        random.below(1000),
        id,
        first,
        last,
        first.to_lowercase(),
        last.to_lowercase(),
        id,
        random.below(800) + 200,
        random.below(10_000),
        random.below(899) + 1,
        random.below(99) + 1,
        random.below(9999) + 1,
        random.below(999) + 1,
        random.of(&STREETS),
        random.below(100_000),
        items.join(","),
        random.below(40),
        random.next(),
        random.next(),
    );
    while text.len() < EVENT_BYTES - 2 {
        text.push_str(random.of(&WORDS));
        text.push(' ');
    }
    text.truncate(EVENT_BYTES - 2);
    text.push_str("\"}");
    text
}

/// Sends a record, and waits while the client's queue is full.
pub(crate) fn send<K, P>(
    producer: &BaseProducer,
    record: BaseRecord<'_, K, P>,
) -> anyhow::Result<()>
where
    K: ToBytes + ?Sized,
    P: ToBytes + ?Sized,
{
    let mut record = record;
    while let Err((error, back)) = producer.send(record) {
        if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
            return Err(error).context("an event could not be written");
        }
        producer.poll(Duration::from_millis(1));
        record = back;
    }
    Ok(())
}

/// Writes the events, one partition after the other, with keys and the time of now.
pub(crate) fn feed(bootstrap: &str, records: u64, seed: u64) -> anyhow::Result<()> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "20");
    let producer: BaseProducer = config.set("delivery.report.only.error", "true").create()?;
    let mut random = Random(seed);
    let mut next_poll = Instant::now();
    for i in 0..records {
        let value = event(&mut random);
        if value.len() != EVENT_BYTES {
            bail!("the generator made an event of {} bytes", value.len());
        }
        let key = format!("customer-{}", i % 100_000);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let partition = i32::try_from(i % u64::from(PARTITIONS.unsigned_abs()))?;
        let record = BaseRecord::to(RAW)
            .partition(partition)
            .key(&key)
            .payload(&value)
            .timestamp(i64::try_from(now)?);
        send(&producer, record)?;
        if Instant::now() >= next_poll {
            producer.poll(Duration::ZERO);
            next_poll = Instant::now() + Duration::from_millis(20);
        }
    }
    producer.flush(Duration::from_secs(60)).context("the events could not be written")
}
