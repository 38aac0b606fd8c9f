//! What a good engineer writes in an afternoon with the same libraries: rust-rdkafka,
//! `serde_json::Value`, jsonpath-rust, aes-gcm, hmac.
//!
//! Paths, ciphers and HMAC states are made once; one transaction a batch, offsets inside, the slow
//! wait of `commit_transaction` avoided by polling first. One process is one lane; partitions are
//! assigned by hand, a failure ends the process. Not done here and in the sidecar done:
//! rebalancing, recovery, dead letters, key rotation, padding, bytes kept as they were, wrong
//! input, metrics.

use std::time::{Duration, Instant};

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use jsonpath_rust::parser::model::JpQuery;
use jsonpath_rust::parser::parse_json_path;
use jsonpath_rust::query::js_path_process;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};
use serde_json::Value;
use sha2::Sha256;

use crate::workload::{OUT, PARTITIONS, RAW};

/// The first two are indexed.
const PATHS: [&str; 5] = [
    "$.customer.email",
    "$.customer.phone",
    "$.customer.name",
    "$.customer.ssn",
    "$.customer.address.street",
];
/// The sidecar's defaults.
const BATCH: usize = 5000;
const INTERVAL: Duration = Duration::from_millis(100);
const CALL: Duration = Duration::from_secs(10);

/// Protects the partitions of lane `lane` of `lanes` until it is killed.
pub(crate) fn run(bootstrap: &str, group: &str, lane: usize, lanes: usize) -> anyhow::Result<()> {
    let mut common = ClientConfig::new();
    common.set("bootstrap.servers", bootstrap);
    let mut reading = common.clone();
    reading
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .set("auto.offset.reset", "earliest");
    let consumer: BaseConsumer = reading.create()?;
    common
        .set("transactional.id", format!("{group}-{lane}"))
        .set("compression.type", "lz4")
        .set("linger.ms", "5");
    let producer: BaseProducer = common.create()?;
    producer.init_transactions(CALL)?;
    let mut assignment = TopicPartitionList::new();
    for partition in (0..PARTITIONS).skip(lane).step_by(lanes) {
        assignment.add_partition_offset(RAW, partition, Offset::Stored)?;
    }
    consumer.assign(&assignment)?;

    let protector = Protector::new()?;
    loop {
        let (begun, mut records) = (Instant::now(), 0);
        producer.begin_transaction()?;
        while records < BATCH && begun.elapsed() < INTERVAL {
            let Some(message) = consumer.poll(Duration::from_millis(10)) else { continue };
            let message = message?;
            let value = protector.protect(message.payload().context("no value")?)?;
            let mut record = BaseRecord::to(OUT)
                .partition(message.partition())
                .payload(&value)
                .key(message.key().unwrap_or_default());
            if let Some(time) = message.timestamp().to_millis() {
                record = record.timestamp(time);
            }
            while let Err((error, back)) = producer.send(record) {
                if !matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)) {
                    return Err(error.into());
                }
                producer.poll(Duration::from_millis(5));
                record = back;
            }
            records += 1;
        }
        producer.poll(Duration::ZERO);
        if records == 0 {
            producer.abort_transaction(CALL)?;
            continue;
        }
        while producer.in_flight_count() > 0 {
            producer.poll(Duration::from_millis(1));
        }
        let metadata = consumer.group_metadata().context("no group metadata")?;
        producer.send_offsets_to_transaction(&consumer.position()?, &metadata, CALL)?;
        producer.commit_transaction(CALL)?;
    }
}

struct Protector {
    queries: Vec<JpQuery>,
    cipher: Aes256Gcm,
    mac: Hmac<Sha256>,
}

impl Protector {
    fn new() -> anyhow::Result<Self> {
        let (mut data, mut index) = ([0; 32], [0; 32]);
        getrandom::fill(&mut data)?;
        getrandom::fill(&mut index)?;
        let queries = PATHS.iter().map(|p| parse_json_path(p)).collect::<Result<_, _>>()?;
        Ok(Self {
            queries,
            cipher: Aes256Gcm::new(&data.into()),
            mac: Hmac::new_from_slice(&index)?,
        })
    }

    fn protect(&self, event: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mut value: Value = serde_json::from_slice(event)?;
        let mut found = Vec::new();
        for (field, query) in self.queries.iter().enumerate() {
            found.extend(
                js_path_process(query, &value)?
                    .into_iter()
                    .map(|node| (field, pointer(&node.path()))),
            );
        }
        for (field, pointer) in found {
            let target = value.pointer_mut(&pointer).context("the path is gone")?;
            let text = target.as_str().context("no string")?.to_owned();
            *target = Value::String(self.seal(PATHS[field], &text)?);
            if field < 2 {
                let (parent, name) = pointer.rsplit_once('/').context("no member")?;
                let index = self.index(field, &text);
                value.pointer_mut(parent).context("the parent is gone")?[format!("{name}_bidx")] =
                    Value::String(index);
            }
        }
        Ok(serde_json::to_vec(&value)?)
    }

    fn seal(&self, field: &str, text: &str) -> anyhow::Result<String> {
        let mut token = vec![0; 12];
        getrandom::fill(&mut token)?;
        token.extend_from_slice(text.as_bytes());
        let (nonce, body) = token.split_at_mut(12);
        let nonce = <[u8; 12]>::try_from(&*nonce)?;
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce.into(), field.as_bytes(), body.into())
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        token.extend_from_slice(&tag);
        Ok(format!("enc1.{}", URL_SAFE_NO_PAD.encode(token)))
    }

    fn index(&self, field: usize, text: &str) -> String {
        let normal: String = if field == 0 {
            text.trim().to_lowercase()
        } else {
            text.chars().filter(char::is_ascii_digit).collect()
        };
        let mut mac = self.mac.clone();
        mac.update(PATHS[field].as_bytes());
        mac.update(normal.as_bytes());
        URL_SAFE_NO_PAD.encode(&mac.finalize().into_bytes()[..16])
    }
}

/// `$['a']['b']` as `/a/b`.
fn pointer(path: &str) -> String {
    path.replace("$['", "/").replace("']['", "/").replace("']", "")
}
