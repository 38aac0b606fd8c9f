//! The yardstick: a transactional copier that does nothing to a record, as bare as librdkafka
//! allows.
//!
//! It has the sidecar's client settings (`kafka::settings`, of the same configuration file), its
//! threads (one that polls, two lanes), its reads (batches from forwarded partition queues), its
//! writes (`producev` by topic handle, bytes copied, headers copied when there are some), its rule
//! for commits and its fast way to commit. It has no rebalancing, no recovery, no counters:
//! partitions are assigned by hand. With `--seal` it protects values on the way, as cheaply as that
//! can be done ([`Sealing`]).
#![allow(unsafe_code, reason = "batch reads and produce by handle have no safe form")]

use std::ffi::{CString, c_void};
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, Producer as _};
use rdkafka::types::RDKafkaRespErr as RespErr;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use rdkafka_sys as sys;
use rdkafka_sys::rd_kafka_vtype_t as V;
use veilstream::config::{Config, Pipeline};
use veilstream::kafka::settings;

use crate::sealing::Sealing;
use crate::workload::{OUT, PARTITIONS, RAW};

const OK: RespErr = RespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
/// Ten times the sidecar's, which transforms what it has read while that is still in the
/// processor's caches.
const CHUNK: usize = 1000;
const DRAINED: Duration = Duration::from_millis(10);
const FLUSH: i32 = 20;
/// What [`super::kafka::Kafka::create_topic`] gives the output topic.
const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Copies until it is killed.
pub(crate) fn run(config: &Path, seal: bool) -> anyhow::Result<()> {
    let config = Config::load(config).map_err(|faults| anyhow::anyhow!("{faults:?}"))?;
    let consumer: BaseConsumer = settings::consumer(&config.kafka, &config.pipeline)
        .into_iter()
        .collect::<ClientConfig>()
        .create()?;
    let consumer = Arc::new(consumer);
    let lanes = config.pipeline.lanes.max(1);
    let mut assignment = TopicPartitionList::new();
    let mut threads = Vec::new();
    let topic = CString::new(RAW)?;
    for lane in 0..lanes {
        // SAFETY: the client outlives all threads, which never end; the queue is never destroyed.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        for partition in (0..PARTITIONS).skip(lane).step_by(lanes) {
            // SAFETY: the handle is alive, the name NUL-terminated; forwarding keeps its own
            // reference.
            unsafe {
                let source = sys::rd_kafka_queue_get_partition(
                    consumer.client().native_ptr(),
                    topic.as_ptr(),
                    partition,
                );
                sys::rd_kafka_queue_forward(source, queue);
                sys::rd_kafka_queue_destroy(source);
            }
            assignment.add_partition_offset(RAW, partition, Offset::Beginning)?;
        }
        let id = format!("copier-{}-{lane}", config.kafka.group_id);
        let producer: BaseProducer =
            settings::producer(&config.kafka, &id, Some((MAX_MESSAGE_BYTES, MAX_MESSAGE_BYTES)))
                .into_iter()
                .collect::<ClientConfig>()
                .create()?;
        producer.init_transactions(Duration::from_secs(30))?;
        let sealing = seal.then(Sealing::new).transpose()?;
        let (consumer, pipeline) = (consumer.clone(), config.pipeline.clone());
        let lane = Lane {
            queue: Queue(queue),
            producer,
            consumer,
            pipeline,
            next: [None; PARTITIONS as usize],
            sealing,
        };
        threads.push(std::thread::spawn(move || lane.run()));
    }
    consumer.assign(&assignment)?;
    while !threads.iter().any(std::thread::JoinHandle::is_finished) {
        let _ = consumer.poll(Duration::from_millis(20));
    }
    for thread in threads.into_iter().filter(std::thread::JoinHandle::is_finished) {
        thread.join().map_err(|_| anyhow::anyhow!("a lane panicked"))??;
    }
    Ok(())
}

struct Queue(*mut sys::rd_kafka_queue_t);

// SAFETY: librdkafka's queues are thread-safe.
unsafe impl Send for Queue {}

struct Lane {
    queue: Queue,
    producer: BaseProducer,
    consumer: Arc<BaseConsumer>,
    pipeline: Pipeline,
    /// The offsets to commit.
    next: [Option<i64>; PARTITIONS as usize],
    sealing: Option<Sealing>,
}

impl Lane {
    fn run(mut self) -> anyhow::Result<()> {
        let out = CString::new(OUT)?;
        // SAFETY: the producer is alive, the name NUL-terminated, no configuration is given.
        let topic = unsafe {
            sys::rd_kafka_topic_new(
                self.producer.client().native_ptr(),
                out.as_ptr(),
                ptr::null_mut(),
            )
        };
        let mut messages: Vec<*mut sys::rd_kafka_message_t> = vec![ptr::null_mut(); CHUNK];
        let (mut begun, mut records) = (None::<Instant>, 0);
        loop {
            let room = CHUNK.min(self.pipeline.max_batch_records - records);
            let mut n = self.read(&mut messages[..room], 0);
            if n == 0 {
                // librdkafka waits until the array is full: wait for one.
                n = self.read(&mut messages[..1], if begun.is_some() { 10 } else { 100 });
            }
            if n > 0 && begun.is_none() {
                self.producer.begin_transaction()?;
                begun = Some(Instant::now());
            }
            for message in &messages[..n] {
                let copied = self.copy(topic, *message);
                // SAFETY: the message is ours and destroyed once.
                unsafe { sys::rd_kafka_message_destroy(*message) };
                copied?;
            }
            records += n;
            let age = begun.map_or(Duration::ZERO, |b| b.elapsed());
            if records >= self.pipeline.max_batch_records
                || age >= self.pipeline.commit_interval
                || (n == 0 && age >= DRAINED)
            {
                self.commit()?;
                (begun, records) = (None, 0);
            }
        }
    }

    fn read(&self, into: &mut [*mut sys::rd_kafka_message_t], timeout_ms: i32) -> usize {
        // SAFETY: `into` has room for the count given.
        let n = unsafe {
            sys::rd_kafka_consume_batch_queue(
                self.queue.0,
                timeout_ms,
                into.as_mut_ptr(),
                into.len(),
            )
        };
        usize::try_from(n).unwrap_or(0)
    }

    fn copy(
        &mut self,
        to: *mut sys::rd_kafka_topic_t,
        from: *mut sys::rd_kafka_message_t,
    ) -> anyhow::Result<()> {
        // SAFETY: librdkafka gave this message, it is alive.
        let message = unsafe { &*from };
        if message.err != OK {
            bail!("partition {}: {:?}", message.partition, message.err);
        }
        let rk = self.producer.client().native_ptr();
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive, the out-pointers are written; a copy of the headers is ours
        // until produced.
        let time = unsafe { sys::rd_kafka_message_timestamp(from, &mut kind) };
        // SAFETY: as above.
        if unsafe { sys::rd_kafka_message_headers(from, &mut headers) } == OK && !headers.is_null()
        {
            // SAFETY: as above.
            headers = unsafe { sys::rd_kafka_headers_copy(headers) };
        }
        let (value, v_len) = match &mut self.sealing {
            None => (message.payload.cast_const(), message.len),
            Some(sealing) => {
                // SAFETY: the message's value, which is not null: the bench writes no tombstones.
                let sealed = sealing.protect(unsafe {
                    std::slice::from_raw_parts(message.payload.cast(), message.len)
                })?;
                (sealed.as_ptr().cast::<c_void>(), sealed.len())
            }
        };
        loop {
            // SAFETY: the tags tell the types of what follows; F_COPY copies key and value; headers
            // are librdkafka's on success.
            let err = unsafe {
                let (rkt, part, flags, copy) = (
                    V::RD_KAFKA_VTYPE_RKT,
                    V::RD_KAFKA_VTYPE_PARTITION,
                    V::RD_KAFKA_VTYPE_MSGFLAGS,
                    sys::RD_KAFKA_MSG_F_COPY,
                );
                let (key, k_len) = (message.key.cast_const(), message.key_len);
                let (v, k, t, h, end) = (
                    V::RD_KAFKA_VTYPE_VALUE,
                    V::RD_KAFKA_VTYPE_KEY,
                    V::RD_KAFKA_VTYPE_TIMESTAMP,
                    V::RD_KAFKA_VTYPE_HEADERS,
                    V::RD_KAFKA_VTYPE_END,
                );
                if headers.is_null() {
                    sys::rd_kafka_producev(
                        rk,
                        rkt,
                        to,
                        part,
                        message.partition,
                        flags,
                        copy,
                        v,
                        value,
                        v_len,
                        k,
                        key,
                        k_len,
                        t,
                        time,
                        end,
                    )
                } else {
                    let headers = headers.cast::<c_void>();
                    sys::rd_kafka_producev(
                        rk,
                        rkt,
                        to,
                        part,
                        message.partition,
                        flags,
                        copy,
                        v,
                        value,
                        v_len,
                        k,
                        key,
                        k_len,
                        t,
                        time,
                        h,
                        headers,
                        end,
                    )
                }
            };
            match err {
                OK => break,
                RespErr::RD_KAFKA_RESP_ERR__QUEUE_FULL => {
                    self.flush();
                }
                err => bail!("produce: {err:?}"),
            }
        }
        self.next[usize::try_from(message.partition)?] = Some(message.offset + 1);
        Ok(())
    }

    /// `true`: everything is delivered.
    fn flush(&self) -> bool {
        // SAFETY: the producer is alive.
        let done = unsafe { sys::rd_kafka_flush(self.producer.client().native_ptr(), FLUSH) } == OK;
        self.producer.poll(Duration::ZERO);
        done
    }

    fn commit(&mut self) -> anyhow::Result<()> {
        while !self.flush() {}
        let mut offsets = TopicPartitionList::new();
        for (partition, next) in (0..).zip(&mut self.next) {
            if let Some(next) = next.take() {
                offsets.add_partition_offset(RAW, partition, Offset::Offset(next))?;
            }
        }
        let group = self.consumer.group_metadata().context("no group metadata")?;
        self.producer.send_offsets_to_transaction(&offsets, &group, Duration::from_secs(10))?;
        // Nothing is left to flush: rust-rdkafka's wait does not happen.
        Ok(self.producer.commit_transaction(Duration::from_secs(10))?)
    }
}
