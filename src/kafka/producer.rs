//! One lane's transactional producer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Statistics, TopicPartitionList};

use super::access::{Access, Member};
use super::calls::Calls;
use super::client;
use super::error::{ClientError, Fault, TxnError, of_delivery};
use super::ffi::{Destination, GroupMetadata, Headers, NativeProducer, ProducerHandle, TopicId};
use super::settings::{self, Side};
use crate::config::Kafka;

/// A transactional call may take so long, in milliseconds; then its outcome is unknown.
const CALL: i32 = 10_000;
/// How much longer than its time-out a call may take before it is left behind: librdkafka 2.12 does
/// not always return (its issues 4420, 5347, 5511).
const GRACE: Duration = Duration::from_secs(5);
/// How long the end of a producer is waited for.
const CLOSE: Duration = Duration::from_secs(6);
/// How long one look at the delivery lasts (rust-rdkafka's own flush waits at least 100 ms each
/// time).
const FLUSH: i32 = 20;

/// What a lane's producers are made of.
#[derive(Clone)]
pub(crate) struct Recipe {
    kafka: Kafka,
    properties: BTreeMap<String, String>,
    access: Arc<Access>,
    id: String,
}

impl Recipe {
    /// The producer of a lane ([`settings::transactional_id`]), stable over restarts, so that a
    /// restarted process aborts its own orphan. `limits`: the least and the greatest
    /// `max.message.bytes` of the topics it writes to.
    pub(crate) fn new(kafka: &Kafka, lane: usize, limits: Option<(usize, usize)>) -> Self {
        Self::of_id(kafka, settings::transactional_id(kafka, lane), limits)
    }

    /// A producer that all instances share, so that the newest fences the others:
    /// `<prefix>-<group>-<name>`.
    pub(crate) fn shared(kafka: &Kafka, name: &str, limits: Option<(usize, usize)>) -> Self {
        Self::of_id(
            kafka,
            format!("{}-{}-{name}", kafka.transactional_id_prefix, kafka.group_id),
            limits,
        )
    }

    /// A producer of exactly this id, for what is written beside the pipeline.
    pub(crate) fn named(kafka: &Kafka, id: String) -> Self {
        Self::of_id(kafka, id, None)
    }

    fn of_id(kafka: &Kafka, id: String, limits: Option<(usize, usize)>) -> Self {
        Self {
            kafka: kafka.clone(),
            properties: settings::producer(kafka, &id, limits),
            access: Access::of(kafka, Side::Producer),
            id,
        }
    }

    /// What the topics take may have changed since the last producer was made.
    pub(crate) fn set_limits(&mut self, limits: Option<(usize, usize)>) {
        self.properties = settings::producer(&self.kafka, &self.id, limits);
    }

    /// How long the coordinator lets a transaction stay open.
    pub(crate) fn transaction_timeout(&self) -> Duration {
        let ms = self
            .properties
            .get("transaction.timeout.ms")
            .and_then(|ms| ms.parse().ok())
            .unwrap_or(30_000);
        Duration::from_millis(ms)
    }

    /// A producer that has not fenced the ones before it yet.
    pub(crate) fn create(&self) -> Result<Producer, ClientError> {
        self.access.prepare();
        let generation = self.access.generation();
        let mut properties = self.properties.clone();
        self.access.apply(&mut properties);
        let reporter = self.access.reporter(format!("producer {}", self.id));
        let mut native = NativeProducer::new(
            properties.iter().map(|(n, v)| (n.as_str(), v.as_str())),
            reporter,
        )?;
        let member = self.access.register_producer(&mut native, generation);
        let calls = Calls::start(&format!("calls {}", self.id)).map_err(ClientError::Thread)?;
        Ok(Producer { native: Some(native), member, calls })
    }

    /// Fences every producer of this id, the lane's own included: nothing of theirs can commit
    /// afterwards.
    pub(crate) fn fence(&self, within: Duration) -> Result<(), TxnError> {
        let unusable = |_: ClientError| TxnError {
            code: RDKafkaErrorCode::Fail,
            fatal: true,
            abortable: false,
            retriable: false,
        };
        self.create().map_err(unusable)?.init_transactions(within)
    }

    /// Fences every producer of this id; whether there never was one: the coordinator gives the
    /// first one epoch 0. `None`: librdkafka, which says it only in its statistics, did not within
    /// two seconds.
    pub(crate) fn fence_first(&self, within: Duration) -> Result<Option<bool>, TxnError> {
        let mut properties = self.properties.clone();
        properties.insert("statistics.interval.ms".to_owned(), "50".to_owned());
        let producer = client::producer_with(&self.kafka, properties, Epoch::default())
            .map_err(|e| error_of(&e))?;
        producer.init_transactions(within).map_err(|e| error_of(&e))?;
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            producer.poll(Duration::from_millis(20));
            let epoch = producer.context().0.load(Ordering::Relaxed);
            if epoch >= 0 {
                return Ok(Some(epoch == 0));
            }
        }
        Ok(None)
    }

    /// The transactional id.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

/// The epoch of a producer as its statistics tell it.
struct Epoch(AtomicI64);

impl Default for Epoch {
    fn default() -> Self {
        Self(AtomicI64::new(-1))
    }
}

impl ClientContext for Epoch {
    fn stats(&self, statistics: Statistics) {
        if let Some(eos) = statistics.eos {
            self.0.store(eos.producer_epoch, Ordering::Relaxed);
        }
    }
}

impl ProducerContext for Epoch {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}

fn error_of(error: &KafkaError) -> TxnError {
    match error {
        KafkaError::Transaction(error) => TxnError {
            code: error.code(),
            fatal: error.is_fatal(),
            abortable: error.txn_requires_abort(),
            retriable: error.is_retriable(),
        },
        error => TxnError {
            code: error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail),
            fatal: true,
            abortable: false,
            retriable: false,
        },
    }
}

/// Why a record was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unproduced {
    /// It is larger than any topic of this producer takes.
    TooLarge,
    /// The transaction has failed.
    Failed(Fault),
}

/// A producer of one lane. Calls that may not return run on a thread of its own.
pub(crate) struct Producer {
    /// `None` only while it is dropped.
    native: Option<NativeProducer>,
    member: Member,
    calls: Calls,
}

impl Drop for Producer {
    fn drop(&mut self) {
        let native = self.native.take();
        // A call that is left behind keeps the client until it returns.
        let _ = self.calls.run(CLOSE, move || drop(native));
    }
}

impl Producer {
    /// Makes a call; one that does not return within its time-out and a grace leaves the outcome
    /// unknown, and the producer cannot be used again.
    fn call<T: Send + 'static>(
        &self,
        ms: i32,
        call: impl FnOnce(&ProducerHandle) -> Result<T, TxnError> + Send + 'static,
    ) -> Result<T, TxnError> {
        let unanswered = TxnError {
            code: RDKafkaErrorCode::OperationTimedOut,
            fatal: true,
            abortable: false,
            retriable: false,
        };
        let handle = self.native()?.handle();
        let limit = Duration::from_millis(u64::try_from(ms).unwrap_or(0)) + GRACE;
        self.calls.run(limit, move || call(&handle)).unwrap_or(Err(unanswered))
    }

    fn native(&self) -> Result<&NativeProducer, TxnError> {
        self.native.as_ref().ok_or(TxnError {
            code: RDKafkaErrorCode::Fail,
            fatal: true,
            abortable: false,
            retriable: false,
        })
    }

    /// A call did not return: everything of this producer is unknown.
    pub(crate) fn is_hung(&self) -> bool {
        self.calls.is_hung()
    }

    /// Whether certificates have changed since it was made, which librdkafka reads once: make a new
    /// producer.
    pub(crate) fn is_outdated(&self) -> bool {
        self.member.is_outdated()
    }

    /// Fences older producers of this id; waits up to `within`.
    pub(crate) fn init_transactions(&self, within: Duration) -> Result<(), TxnError> {
        let ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        self.call(ms, move |handle| handle.init_transactions(ms))
    }

    pub(crate) fn begin(&self) -> Result<(), TxnError> {
        self.call(CALL, ProducerHandle::begin)
    }

    /// Asks the brokers for the topics written so far: one may have been made or grown.
    pub(crate) fn refresh(&self) {
        // Without an answer the next record finds out.
        let _ = self.call(CALL, |handle| {
            handle.refresh(CALL);
            Ok(())
        });
    }

    /// The handle of a topic of this producer.
    pub(crate) fn topic(&mut self, name: &str) -> Option<TopicId> {
        self.native.as_mut()?.topic(name)
    }

    /// Queues one record. On a full queue it drains and tries the same record again, as long as
    /// `go_on` says so: never dropped, never reordered.
    pub(crate) fn produce(
        &self,
        to: Destination,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        mut headers: Headers,
        go_on: impl Fn() -> bool,
    ) -> Result<(), Unproduced> {
        let native = self.native().map_err(|e| Unproduced::Failed(e.fault()))?;
        loop {
            match native.produce(to, key, value, headers) {
                Ok(()) => return Ok(()),
                Err((RDKafkaErrorCode::QueueFull, back)) if go_on() => {
                    headers = back;
                    native.flush(FLUSH);
                }
                Err((RDKafkaErrorCode::QueueFull, _)) => {
                    return Err(Unproduced::Failed(Fault::Abortable));
                }
                Err((RDKafkaErrorCode::MessageSizeTooLarge, _)) => {
                    return Err(Unproduced::TooLarge);
                }
                // A transaction that failed refuses every record: the one it failed for was
                // reported as not delivered.
                Err((code, _)) => {
                    return Err(Unproduced::Failed(
                        self.delivery_fault().unwrap_or_else(|| self.cause(of_delivery(code))),
                    ));
                }
            }
        }
    }

    /// Why records were not delivered, if some were not; each is told once.
    pub(crate) fn delivery_fault(&self) -> Option<Fault> {
        let native = self.native().ok()?;
        native.flush(0);
        native.watch().take_failure().map(|code| self.cause(of_delivery(code)))
    }

    /// What the transaction failed for, where its records only say that it did: a refused
    /// permission reaches them as "purged". A transaction that is open or failed refuses to begin,
    /// with the error that it failed for.
    fn cause(&self, fault: Fault) -> Fault {
        if fault != Fault::Abortable {
            return fault;
        }
        match self.begin().err().map(|e| e.fault()) {
            Some(known @ (Fault::Blocked(_) | Fault::Refused | Fault::Fenced)) => known,
            _ => fault,
        }
    }

    /// Waits until everything produced is delivered, as long as `go_on` says so.
    pub(crate) fn flush(&self, mut go_on: impl FnMut() -> bool) -> Result<(), Fault> {
        let native = self.native().map_err(|e| e.fault())?;
        loop {
            let clear = native.flush(FLUSH);
            if let Some(code) = native.watch().take_failure() {
                return Err(self.cause(of_delivery(code)));
            }
            if clear {
                return Ok(());
            }
            if !go_on() {
                return Err(Fault::OutcomeUnknown);
            }
        }
    }

    /// Adds the offsets to the transaction and commits it; `true`: a request of it ended without an
    /// answer and may still arrive.
    pub(crate) fn commit(
        &self,
        offsets: TopicPartitionList,
        group: Arc<GroupMetadata>,
    ) -> Result<bool, TxnError> {
        self.call(CALL * 2, move |handle| {
            handle.send_offsets(&offsets, &group, CALL).and_then(|()| handle.commit(CALL))
        })?;
        self.is_tainted()
    }

    /// Commits a transaction without offsets; otherwise as [`Producer::commit`].
    pub(crate) fn commit_records(&self) -> Result<bool, TxnError> {
        self.call(CALL, |handle| handle.commit(CALL))?;
        self.is_tainted()
    }

    /// Aborts the transaction; otherwise as [`Producer::commit`].
    pub(crate) fn abort(&self) -> Result<bool, TxnError> {
        self.call(CALL, |handle| handle.abort(CALL))?;
        let native = self.native()?;
        // What the abort purged reports as failed: not the next transaction's failure.
        native.flush(0);
        native.watch().take_failure();
        self.is_tainted()
    }

    fn is_tainted(&self) -> Result<bool, TxnError> {
        Ok(self.native()?.watch().tainted())
    }
}

/// A pause that grows from one failure to the next. It is bounded: a cure is seen within 10
/// seconds, the try included.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    until: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(4);

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST, until: None }
    }

    /// Failed: wait before the next try.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.until = Some(now + self.next);
        self.next = (self.next * 2).min(Self::LONGEST);
    }

    pub(crate) fn worked(&mut self) {
        *self = Self::new();
    }

    /// How long to wait still.
    pub(crate) fn left(&self, now: Instant) -> Option<Duration> {
        self.until.map(|until| until.saturating_duration_since(now)).filter(|left| !left.is_zero())
    }
}
