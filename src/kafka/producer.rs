//! One lane's transactional producer.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::types::RDKafkaErrorCode;

use super::access::{Access, Member};
use super::error::{Fault, TxnError, of_delivery};
use super::ffi::{Destination, GroupMetadata, Headers, NativeProducer, TopicId};
use super::settings::{self, Side};
use crate::config::Kafka;

/// A transactional call may take so long; longer is a doubt.
const CALL: i32 = 10_000;
/// A call that should have ended after [`CALL`] and has not by now will not.
const HANGS: Duration = Duration::from_secs(15);
/// How long one look at the delivery lasts (rust-rdkafka's own flush waits at least 100 ms each time).
const FLUSH: i32 = 20;

/// What a lane's producers are made of.
#[derive(Clone)]
pub(crate) struct Recipe {
    properties: BTreeMap<String, String>,
    access: Arc<Access>,
    id: String,
}

impl Recipe {
    /// The producer of a lane: `<prefix>-<group>-<instance>-<lane>`, stable over restarts, so that a restarted process aborts its own orphan.
    /// `limits`: the least and the greatest `max.message.bytes` of the topics it writes to.
    pub(crate) fn new(kafka: &Kafka, lane: &str, limits: Option<(usize, usize)>) -> Self {
        Self::of_id(kafka, format!("{}-{}-{}-{lane}", kafka.transactional_id_prefix, kafka.group_id, kafka.instance), limits)
    }

    /// A producer that all instances share, so that the newest fences the others: `<prefix>-<group>-<name>`.
    pub(crate) fn shared(kafka: &Kafka, name: &str, limits: Option<(usize, usize)>) -> Self {
        Self::of_id(kafka, format!("{}-{}-{name}", kafka.transactional_id_prefix, kafka.group_id), limits)
    }

    /// A producer of exactly this id, for what is written beside the pipeline.
    pub(crate) fn named(kafka: &Kafka, id: String) -> Self {
        Self::of_id(kafka, id, None)
    }

    fn of_id(kafka: &Kafka, id: String, limits: Option<(usize, usize)>) -> Self {
        Self { properties: settings::producer(kafka, &id, limits), access: Access::of(kafka, Side::Producer), id }
    }

    /// How long the coordinator lets a transaction stay open.
    pub(crate) fn transaction_timeout(&self) -> Duration {
        let ms = self.properties.get("transaction.timeout.ms").and_then(|ms| ms.parse().ok()).unwrap_or(30_000);
        Duration::from_millis(ms)
    }

    /// A producer, not fenced in yet.
    pub(crate) fn create(&self) -> Result<Producer, String> {
        self.access.prepare();
        let generation = self.access.generation();
        let mut properties = self.properties.clone();
        self.access.apply(&mut properties);
        let reporter = self.access.reporter(format!("producer {}", self.id));
        let mut native = NativeProducer::new(properties.iter().map(|(n, v)| (n.as_str(), v.as_str())), reporter)?;
        let member = self.access.register_producer(&mut native, generation);
        Ok(Producer { native, member })
    }

    /// Fences every producer of this id, the lane's own included: nothing of theirs can commit afterwards.
    pub(crate) fn fence(&self, within: Duration) -> Result<(), TxnError> {
        let ms = i32::try_from(within.as_millis()).unwrap_or(i32::MAX);
        match self.create() {
            Ok(producer) => producer.native.init_transactions(ms),
            Err(_) => Err(TxnError { code: RDKafkaErrorCode::Fail, fatal: true, abortable: false, retriable: false }),
        }
    }

    /// The transactional id.
    pub(crate) fn id(&self) -> &str {
        &self.id
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

/// A producer of one lane.
pub(crate) struct Producer {
    native: NativeProducer,
    member: Member,
}

impl Producer {
    /// Whether certificates have changed since it was made, which librdkafka reads once: between two transactions another one takes its place.
    pub(crate) fn is_outdated(&self) -> bool {
        self.member.is_outdated()
    }

    /// Fences older producers of this id; waits up to `within`.
    pub(crate) fn fence_in(&self, within: Duration) -> Result<(), TxnError> {
        self.native.init_transactions(i32::try_from(within.as_millis()).unwrap_or(i32::MAX))
    }

    pub(crate) fn begin(&self) -> Result<(), TxnError> {
        self.native.begin()
    }

    /// The handle of a topic of this producer.
    pub(crate) fn topic(&mut self, name: &str) -> Option<TopicId> {
        self.native.topic(name)
    }

    /// Queues one record. On a full queue it drains and tries the same record again, as long as `go_on` says so: never dropped, never
    /// reordered.
    pub(crate) fn produce(
        &self,
        to: Destination,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        mut headers: Headers,
        go_on: impl Fn() -> bool,
    ) -> Result<(), Unproduced> {
        loop {
            match self.native.produce(to, key, value, headers) {
                Ok(()) => return Ok(()),
                Err((RDKafkaErrorCode::QueueFull, back)) if go_on() => {
                    headers = back;
                    self.native.flush(FLUSH);
                }
                Err((RDKafkaErrorCode::QueueFull, _)) => return Err(Unproduced::Failed(Fault::Abortable)),
                Err((RDKafkaErrorCode::MessageSizeTooLarge, _)) => return Err(Unproduced::TooLarge),
                // A transaction that failed refuses every record: the one it failed for was reported as not delivered.
                Err((code, _)) => return Err(Unproduced::Failed(self.delivery_fault().unwrap_or_else(|| self.cause(of_delivery(code))))),
            }
        }
    }

    /// Why records were not delivered, if some were not; each is told once.
    pub(crate) fn delivery_fault(&self) -> Option<Fault> {
        self.native.flush(0);
        self.native.watch().take_failure().map(|code| self.cause(of_delivery(code)))
    }

    /// What the transaction failed for, where its records only say that it did: a refused permission reaches them as "purged". A transaction
    /// that is open or failed refuses to begin, with the error that it failed for.
    fn cause(&self, fault: Fault) -> Fault {
        if fault != Fault::Abortable {
            return fault;
        }
        match self.native.begin().err().map(|e| e.fault()) {
            Some(known @ (Fault::Blocked(_) | Fault::Refused | Fault::Fenced)) => known,
            _ => fault,
        }
    }

    /// Waits until everything produced is delivered, as long as `go_on` says so.
    pub(crate) fn flush(&self, go_on: impl Fn() -> bool) -> Result<(), Fault> {
        loop {
            let clear = self.native.flush(FLUSH);
            if let Some(code) = self.native.watch().take_failure() {
                return Err(self.cause(of_delivery(code)));
            }
            if clear {
                return Ok(());
            }
            if !go_on() {
                return Err(Fault::Doubt);
            }
        }
    }

    /// Adds the offsets to the transaction and commits it: `Ok(tainted)`, and the producer, unless the call did not return. librdkafka 2.12 may wait for ever for a
    /// group coordinator that crashed (its issue 5511), whatever time-out it is given; the call is left alone then, and its producer ends when it does.
    pub(crate) fn commit(self, offsets: TopicPartitionList, group: Arc<GroupMetadata>) -> (Option<Self>, Result<bool, TxnError>) {
        let (sender, answer) = mpsc::sync_channel(1);
        let call = move || {
            let sent = self.native.send_offsets(&offsets, &group, CALL);
            // Too late, and nobody waits any more.
            let _ = sender.send((self, sent));
        };
        let started = thread::Builder::new().name("send-offsets".to_owned()).spawn(call);
        match started.ok().and_then(|_| answer.recv_timeout(HANGS).ok()) {
            Some((producer, sent)) => {
                let committed = sent.and_then(|()| producer.native.commit(CALL)).map(|()| producer.native.watch().tainted());
                (Some(producer), committed)
            }
            None => (None, Err(TxnError { code: RDKafkaErrorCode::OperationTimedOut, fatal: false, abortable: false, retriable: false })),
        }
    }

    /// Commits a transaction without offsets. `Ok(tainted)`.
    pub(crate) fn commit_records(&self) -> Result<bool, TxnError> {
        self.native.commit(CALL)?;
        Ok(self.native.watch().tainted())
    }

    pub(crate) fn abort(&self) -> Result<bool, TxnError> {
        self.native.abort(CALL)?;
        // What the abort purged reports as failed: not the next transaction's failure.
        self.native.flush(0);
        self.native.watch().take_failure();
        Ok(self.native.watch().tainted())
    }
}

/// A pause that grows from one failure to the next, up to a bound.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    until: Option<Instant>,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(10);

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
