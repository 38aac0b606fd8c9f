//! What rust-rdkafka has no safe way for, and the only `unsafe` of the project: batch consumption
//! from forwarded partition queues, native header copies (rust-rdkafka panics on names that are not
//! UTF-8), produce by topic handle, transactions without the wrapper's 100 ms waits, an interceptor
//! that sees requests end without an answer, and new credentials for clients that are in use. Every
//! wrapper owns its native object and frees it once.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::admin::AdminClient;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::producer::{BaseProducer, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as RespErr;
use veilstream_engine::record::Header;

use super::error::{ClientError, Fault, TxnError, of_delivery};

const OK: RespErr = RespErr::RD_KAFKA_RESP_ERR_NO_ERROR;

/// A client whose native handle stays alive as long as something is read from its queues, or it is
/// given new credentials.
pub(crate) trait Alive: Send + Sync {
    /// Its native handle.
    fn rk(&self) -> *mut sys::rd_kafka_t;
}

impl<C: ConsumerContext + 'static> Alive for BaseConsumer<C> {
    fn rk(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl<C: ProducerContext + 'static> Alive for BaseProducer<C> {
    fn rk(&self) -> *mut sys::rd_kafka_t {
        self.client().native_ptr()
    }
}

impl<C: ClientContext + 'static> Alive for AdminClient<C> {
    fn rk(&self) -> *mut sys::rd_kafka_t {
        self.inner().native_ptr()
    }
}

/// A queue that partitions of one consumer are forwarded to. Only this library batch-consumes it;
/// the consumer's main queue never is.
pub(crate) struct Queue {
    ptr: NonNull<sys::rd_kafka_queue_t>,
    rk: *mut sys::rd_kafka_t,
    /// The native queue must go before the native consumer.
    _consumer: Arc<dyn Alive>,
}

// SAFETY: librdkafka's queues and client handles are thread-safe.
unsafe impl Send for Queue {}
// SAFETY: as above.
unsafe impl Sync for Queue {}

impl Queue {
    /// A new, empty queue of `consumer`.
    pub(crate) fn new<C: ConsumerContext + 'static>(
        consumer: &Arc<BaseConsumer<C>>,
    ) -> Option<Self> {
        let rk = consumer.client().native_ptr();
        // SAFETY: `rk` lives as long as `_consumer`.
        let ptr = NonNull::new(unsafe { sys::rd_kafka_queue_new(rk) })?;
        Some(Self { ptr, rk, _consumer: consumer.clone() })
    }

    /// Sends the records of a partition here. Ends when the partition is stopped (at the latest
    /// when it is revoked); call it before the partition is assigned, so that no record takes
    /// another way.
    pub(crate) fn take_partition(&self, topic: &str, partition: i32) -> bool {
        let Ok(topic) = CString::new(topic) else { return false };
        // SAFETY: `rk` is alive, the name is NUL-terminated; forwarding keeps its own reference, so
        // both handles may be destroyed.
        unsafe {
            let source = sys::rd_kafka_queue_get_partition(self.rk, topic.as_ptr(), partition);
            if source.is_null() {
                return false;
            }
            sys::rd_kafka_queue_forward(source, self.ptr.as_ptr());
            sys::rd_kafka_queue_destroy(source);
        }
        true
    }

    /// Fills in the positions of partitions: the offset after the last record read, control records
    /// included; local, no request.
    pub(crate) fn positions(&self, partitions: &TopicPartitionList) -> bool {
        // SAFETY: the client is alive; the list's offsets are written.
        unsafe { sys::rd_kafka_position(self.rk, partitions.ptr()) == OK }
    }

    /// Ends a wait of [`Batch::fill`] on this queue, now or the next one.
    pub(crate) fn wake(&self) {
        // SAFETY: the queue is alive.
        unsafe { sys::rd_kafka_queue_yield(self.ptr.as_ptr()) }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: made by rd_kafka_queue_new, destroyed once; the consumer is still alive.
        unsafe { sys::rd_kafka_queue_destroy(self.ptr.as_ptr()) }
    }
}

/// Records read together. Their bytes are librdkafka's and go with the batch.
#[derive(Default)]
pub(crate) struct Batch {
    messages: Vec<*mut sys::rd_kafka_message_t>,
    len: usize,
}

// SAFETY: messages belong to nobody else and may be read and destroyed on any thread.
unsafe impl Send for Batch {}

impl Batch {
    /// Replaces the content by up to `max` records; waits `timeout_ms` for the first, not for more.
    pub(crate) fn fill(&mut self, queue: &Queue, max: usize, timeout_ms: i32) {
        self.clear();
        self.messages.resize(max.max(1), ptr::null_mut());
        self.len = self.read(queue, 0, max.max(1), 0);
        if self.len == 0 && timeout_ms > 0 {
            // librdkafka waits until the array is full: ask for one, then take what else is there.
            self.len = self.read(queue, 0, 1, timeout_ms);
            if self.len == 1 && max > 1 {
                self.len += self.read(queue, 1, max, 0);
            }
        }
    }

    fn read(&mut self, queue: &Queue, from: usize, to: usize, timeout_ms: i32) -> usize {
        let space = &mut self.messages[from..to];
        // SAFETY: `space` has room for the count given; the pointers written are ours until
        // destroyed.
        let n = unsafe {
            sys::rd_kafka_consume_batch_queue(
                queue.ptr.as_ptr(),
                timeout_ms,
                space.as_mut_ptr(),
                space.len(),
            )
        };
        usize::try_from(n).unwrap_or(0)
    }

    /// How many records there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The record at `i`.
    pub(crate) fn get(&self, i: usize) -> Option<Message<'_>> {
        let ptr = *self.messages[..self.len].get(i)?;
        // SAFETY: entries below `len` are valid messages until `clear`, which needs `&mut self`.
        NonNull::new(ptr).map(|ptr| Message { ptr, _batch: PhantomData })
    }

    /// Frees the records.
    pub(crate) fn clear(&mut self) {
        for message in self.messages.drain(..).take(self.len) {
            // SAFETY: each was written by librdkafka and is destroyed once: it is drained.
            unsafe { sys::rd_kafka_message_destroy(message) }
        }
        self.len = 0;
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        self.clear();
    }
}

/// One consumed record, or an event of its partition ([`Message::error`]).
#[derive(Clone, Copy)]
pub(crate) struct Message<'a> {
    ptr: NonNull<sys::rd_kafka_message_t>,
    _batch: PhantomData<&'a Batch>,
}

impl<'a> Message<'a> {
    fn raw(&self) -> &'a sys::rd_kafka_message_t {
        // SAFETY: valid as long as the batch is borrowed.
        unsafe { self.ptr.as_ref() }
    }

    /// What went wrong instead of a record.
    pub(crate) fn error(&self) -> Option<RDKafkaErrorCode> {
        let err = self.raw().err;
        if err == OK { None } else { Some(err.into()) }
    }

    /// Identifies the topic among the records of one batch.
    pub(crate) fn topic_id(&self) -> usize {
        self.raw().rkt as usize
    }

    /// The topic's name.
    pub(crate) fn topic(&self) -> &'a str {
        let rkt = self.raw().rkt;
        if rkt.is_null() {
            return "";
        }
        // SAFETY: the message holds a reference to its topic, whose name is NUL-terminated.
        unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(rkt)) }.to_str().unwrap_or("")
    }

    pub(crate) fn partition(&self) -> i32 {
        self.raw().partition
    }

    pub(crate) fn offset(&self) -> i64 {
        self.raw().offset
    }

    /// Epoch of the leader that wrote it; `None`: the broker does not tell.
    pub(crate) fn leader_epoch(&self) -> Option<i32> {
        // SAFETY: the message is valid.
        let epoch = unsafe { sys::rd_kafka_message_leader_epoch(self.ptr.as_ptr()) };
        (epoch >= 0).then_some(epoch)
    }

    /// librdkafka's words about [`Message::error`]: names, codes and offsets, nothing of a record.
    pub(crate) fn error_text(&self) -> String {
        self.error().map_or_else(String::new, |_| {
            self.value().map_or_else(String::new, |text| String::from_utf8_lossy(text).into_owned())
        })
    }

    pub(crate) fn key(&self) -> Option<&'a [u8]> {
        // SAFETY: librdkafka gives pointer and length of one buffer that lives as long as the
        // message.
        unsafe { slice(self.raw().key, self.raw().key_len) }
    }

    pub(crate) fn value(&self) -> Option<&'a [u8]> {
        // SAFETY: as above.
        unsafe { slice(self.raw().payload, self.raw().len) }
    }

    /// Bytes of key, value, header names and header values.
    pub(crate) fn bytes(&self) -> usize {
        let mut sum = self.raw().key_len + self.raw().len;
        self.each_header(|(name, value)| sum += name.len() + value.map_or(0, <[u8]>::len));
        sum
    }

    /// Milliseconds since the epoch; `None` when the record has none.
    pub(crate) fn timestamp(&self) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is valid; `kind` is written.
        let time = unsafe { sys::rd_kafka_message_timestamp(self.ptr.as_ptr(), &mut kind) };
        if kind == sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE {
            None
        } else {
            Some(time)
        }
    }

    /// Appends the headers: names and values as they are, null values as `None`. A name ends at its
    /// first NUL byte (librdkafka's API).
    pub(crate) fn headers(&self, into: &mut Vec<Header<'a>>) {
        self.each_header(|header| into.push(header));
    }

    fn each_header(&self, mut take: impl FnMut(Header<'a>)) {
        let Some(headers) = self.native_headers() else { return };
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        let mut i = 0;
        // SAFETY: the out-pointers are valid; what they receive lives as long as the message.
        while unsafe { sys::rd_kafka_header_get_all(headers, i, &mut name, &mut value, &mut size) }
            == OK
        {
            // SAFETY: as above; names are NUL-terminated.
            take(unsafe { (CStr::from_ptr(name).to_bytes(), slice(value, size)) });
            i += 1;
        }
    }

    /// A copy of all headers, byte for byte, made by librdkafka; empty ones where there are none.
    pub(crate) fn copy_headers(&self) -> Option<Headers> {
        match self.native_headers() {
            // SAFETY: the headers are valid; the copy is ours.
            Some(headers) => NonNull::new(unsafe { sys::rd_kafka_headers_copy(headers) })
                .map(|copy| Headers(copy.as_ptr())),
            None => Headers::new(1),
        }
    }

    fn native_headers(&self) -> Option<*const sys::rd_kafka_headers_t> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is valid; headers stay the message's property.
        let err = unsafe { sys::rd_kafka_message_headers(self.ptr.as_ptr(), &mut headers) };
        if err == OK && !headers.is_null() { Some(headers) } else { None }
    }
}

/// # Safety
/// `data` is null or points to `len` bytes that live for `'a`.
unsafe fn slice<'a>(data: *const c_void, len: usize) -> Option<&'a [u8]> {
    // SAFETY: by the caller's promise.
    if data.is_null() {
        None
    } else {
        Some(unsafe { std::slice::from_raw_parts(data.cast(), len) })
    }
}

/// Headers of a record to be produced; null where it has none.
pub(crate) struct Headers(*mut sys::rd_kafka_headers_t);

impl Headers {
    /// No headers, with room for some.
    pub(crate) fn new(room: usize) -> Option<Self> {
        // SAFETY: allocates; null only without memory.
        NonNull::new(unsafe { sys::rd_kafka_headers_new(room) }).map(|made| Self(made.as_ptr()))
    }

    /// No headers, for a record that gets none.
    pub(crate) fn none() -> Self {
        Self(ptr::null_mut())
    }

    /// Appends a header, byte for byte.
    pub(crate) fn add(&mut self, name: &[u8], value: Option<&[u8]>) {
        debug_assert!(!self.0.is_null(), "made to have none");
        let (data, size) = value.map_or((ptr::null(), 0), |v| (v.as_ptr(), v.len() as isize));
        // SAFETY: librdkafka copies name and value of the sizes given; a null value is a null
        // header value.
        unsafe {
            sys::rd_kafka_header_add(
                self.0,
                name.as_ptr().cast(),
                name.len() as isize,
                data.cast(),
                size,
            )
        };
    }
}

impl Drop for Headers {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: ours: headers that were produced are forgotten, not dropped.
            unsafe { sys::rd_kafka_headers_destroy(self.0) }
        }
    }
}

/// Who this process is to its group, as of one moment: read it on the thread that polls the
/// consumer.
pub(crate) struct GroupMetadata(NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: immutable once made.
unsafe impl Send for GroupMetadata {}
// SAFETY: as above.
unsafe impl Sync for GroupMetadata {}

impl GroupMetadata {
    /// As the consumer knows it now.
    pub(crate) fn of<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> Option<Self> {
        // SAFETY: the consumer is alive; the result is ours.
        NonNull::new(unsafe {
            sys::rd_kafka_consumer_group_metadata(consumer.client().native_ptr())
        })
        .map(Self)
    }

    /// Whether it names a member: the broker accepts an empty member id unchecked, so that one must
    /// never commit.
    pub(crate) fn has_member(&self) -> bool {
        // SAFETY: the metadata is valid and owns the string.
        let member = unsafe { sys::rd_kafka_consumer_group_metadata_member_id(self.0.as_ptr()) };
        // SAFETY: as above, NUL-terminated.
        !member.is_null() && !unsafe { CStr::from_ptr(member) }.is_empty()
    }

    /// Whether the group has taken the member in. Under the consumer protocol it has an id before
    /// that, and the client a protocol.
    pub(crate) fn has_joined(&self) -> bool {
        // SAFETY: the metadata is valid. -1: never; 0: is about to, in the consumer protocol.
        let generation =
            unsafe { sys::rd_kafka_consumer_group_metadata_generation_id(self.0.as_ptr()) };
        generation > 0
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}

/// The leader epoch of an element of a list; `None`: not known.
pub(crate) fn leader_epoch(list: &TopicPartitionList, topic: &str, partition: i32) -> Option<i32> {
    let topic = CString::new(topic).ok()?;
    // SAFETY: the list is alive; the element, if there, belongs to it.
    let epoch = unsafe {
        let element =
            sys::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition);
        if element.is_null() { -1 } else { sys::rd_kafka_topic_partition_get_leader_epoch(element) }
    };
    (epoch >= 0).then_some(epoch)
}

/// Gives an element of a list the leader epoch of the record before its offset.
pub(crate) fn set_leader_epoch(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: i32,
    epoch: i32,
) {
    let Ok(topic) = CString::new(topic) else { return };
    // SAFETY: as above; the list is borrowed mutably.
    unsafe {
        let element =
            sys::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition);
        if !element.is_null() {
            sys::rd_kafka_topic_partition_set_leader_epoch(element, epoch);
        }
    }
}

/// What librdkafka's threads report about one producer.
pub(crate) struct ProducerWatch {
    /// Requests AddOffsetsToTxn, EndTxn or TxnOffsetCommit that ended without an answer: the broker
    /// may still act on them.
    unanswered: AtomicU32,
    /// Why records were not delivered: the first code, but a refused record's before any other.
    failure: Mutex<Option<RDKafkaErrorCode>>,
    /// Hears the errors of its connections.
    listener: Arc<dyn Listener>,
}

/// API keys of the requests that a transaction ends with.
const ADD_OFFSETS_TO_TXN: i16 = 25;
const END_TXN: i16 = 26;
const TXN_OFFSET_COMMIT: i16 = 28;

impl ProducerWatch {
    /// Whether a request of the transaction ended without an answer.
    pub(crate) fn tainted(&self) -> bool {
        self.unanswered.load(Ordering::Acquire) > 0
    }

    /// Takes the failure of the first undelivered record since the last call.
    pub(crate) fn take_failure(&self) -> Option<RDKafkaErrorCode> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn failed(&self, code: RDKafkaErrorCode) {
        let mut first = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if first.is_none() || of_delivery(code) == Fault::Refused {
            *first = Some(code);
        }
    }
}

unsafe extern "C" fn on_response(
    _: *mut sys::rd_kafka_t,
    _: c_int,
    _: *const c_char,
    _: i32,
    api: i16,
    _: i16,
    _: i32,
    _: usize,
    _: i64,
    err: RespErr,
    watch: *mut c_void,
) -> RespErr {
    if err != OK && [ADD_OFFSETS_TO_TXN, END_TXN, TXN_OFFSET_COMMIT].contains(&api) {
        // SAFETY: `watch` is the producer's box, which outlives the native handle.
        unsafe { &*watch.cast::<ProducerWatch>() }.unanswered.fetch_add(1, Ordering::AcqRel);
    }
    OK
}

unsafe extern "C" fn on_new(
    rk: *mut sys::rd_kafka_t,
    _: *const sys::rd_kafka_conf_t,
    watch: *mut c_void,
    _: *mut c_char,
    _: usize,
) -> RespErr {
    // SAFETY: called by rd_kafka_new with its new handle.
    unsafe {
        sys::rd_kafka_interceptor_add_on_response_received(
            rk,
            c"veilstream".as_ptr(),
            Some(on_response),
            watch,
        )
    }
}

unsafe extern "C" fn on_delivery(
    _: *mut sys::rd_kafka_t,
    message: *const sys::rd_kafka_message_t,
    watch: *mut c_void,
) {
    // SAFETY: librdkafka passes a valid message; `watch` as in `on_response`.
    let (err, watch) = unsafe { ((*message).err, &*watch.cast::<ProducerWatch>()) };
    if err != OK {
        watch.failed(err.into());
    }
}

/// The least serious level that librdkafka reports as an error, too.
const LOG_ERR: c_int = 3;

unsafe extern "C" fn on_log(
    rk: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    text: *const c_char,
) {
    // SAFETY: librdkafka passes NUL-terminated strings. Its log lines carry names and codes, never
    // record bytes.
    let (facility, text) = unsafe {
        (CStr::from_ptr(facility).to_string_lossy(), CStr::from_ptr(text).to_string_lossy())
    };
    match level {
        0..=4 => tracing::warn!(target: "veilstream::librdkafka", %facility, "{text}"),
        _ => tracing::debug!(target: "veilstream::librdkafka", %facility, "{text}"),
    }
    // A listener that hangs up on us is no error to librdkafka: what it makes of it stands in the
    // log alone.
    if level > LOG_ERR && !rk.is_null() && facility.trim() == "FAIL" {
        // SAFETY: only our own producers' handles come here, and their opaque is a `Watch` (as in
        // `on_response`).
        unsafe { &*sys::rd_kafka_opaque(rk).cast::<ProducerWatch>() }
            .listener
            .error(RDKafkaErrorCode::BrokerTransportFailure, &text);
    }
}

/// A topic of one producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicId(usize);

/// A native client of one producer, alive as long as somebody holds it: a call that does not return
/// does.
pub(crate) struct ProducerHandle {
    rk: NonNull<sys::rd_kafka_t>,
    /// Takes it off the list of those that get new credentials, before the handle goes.
    registration: Mutex<Option<Registration>>,
    /// Callbacks hold its address: it goes after the handle.
    watch: Box<ProducerWatch>,
}

// SAFETY: librdkafka's handles are thread-safe; `Watch` is made of atomics and locks.
unsafe impl Send for ProducerHandle {}
// SAFETY: as above.
unsafe impl Sync for ProducerHandle {}

/// A native producer. One lane owns it; calls that may not return take its handle to a thread of
/// their own.
pub(crate) struct NativeProducer {
    topics: Vec<NonNull<sys::rd_kafka_topic_t>>,
    names: Vec<CString>,
    handle: Arc<ProducerHandle>,
}

// SAFETY: librdkafka's topic handles may move between threads.
unsafe impl Send for NativeProducer {}

impl NativeProducer {
    /// A producer with these librdkafka properties. What its connections fail for comes to
    /// `listener`, from the thread that calls [`NativeProducer::flush`].
    ///
    /// # Errors
    /// [`ClientError::Property`], [`ClientError::Settings`].
    pub(crate) fn new<'p>(
        properties: impl IntoIterator<Item = (&'p str, &'p str)>,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, ClientError> {
        Self::make(properties, listener, true)
    }

    /// A producer for a question: [`ProducerWatch::tainted`] tells nothing. May fail as often as it
    /// likes.
    ///
    /// # Errors
    /// As [`NativeProducer::new`].
    pub(crate) fn unwatched<'p>(
        properties: impl IntoIterator<Item = (&'p str, &'p str)>,
        listener: Arc<dyn Listener>,
    ) -> Result<Self, ClientError> {
        Self::make(properties, listener, false)
    }

    fn make<'p>(
        properties: impl IntoIterator<Item = (&'p str, &'p str)>,
        listener: Arc<dyn Listener>,
        is_watched: bool,
    ) -> Result<Self, ClientError> {
        let watch = Box::new(ProducerWatch {
            unanswered: AtomicU32::new(0),
            failure: Mutex::default(),
            listener,
        });
        let opaque = ptr::from_ref::<ProducerWatch>(&watch).cast_mut().cast::<c_void>();
        let mut error = [0 as c_char; 512];
        // SAFETY: the configuration is ours until rd_kafka_new succeeds, which takes it; strings
        // are NUL-terminated and copied.
        unsafe {
            let conf = sys::rd_kafka_conf_new();
            for (name, value) in properties {
                let set = match (CString::new(name), CString::new(value)) {
                    (Ok(n), Ok(v)) => sys::rd_kafka_conf_set(
                        conf,
                        n.as_ptr(),
                        v.as_ptr(),
                        error.as_mut_ptr(),
                        error.len(),
                    ),
                    _ => sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_INVALID,
                };
                if set != sys::rd_kafka_conf_res_t::RD_KAFKA_CONF_OK {
                    sys::rd_kafka_conf_destroy(conf);
                    return Err(ClientError::Property(name.to_owned()));
                }
            }
            sys::rd_kafka_conf_set_opaque(conf, opaque);
            sys::rd_kafka_conf_set_dr_msg_cb(conf, Some(on_delivery));
            sys::rd_kafka_conf_set_log_cb(conf, Some(on_log));
            sys::rd_kafka_conf_set_error_cb(conf, Some(on_error));
            sys::rd_kafka_conf_set_ssl_cert_verify_cb(conf, Some(on_certificate));
            // Whatever asks the application for a token is answered on librdkafka's own thread:
            // nobody polls a producer that has nothing to do.
            sys::rd_kafka_conf_enable_sasl_queue(conf, 1);
            if is_watched {
                sys::rd_kafka_conf_interceptor_add_on_new(
                    conf,
                    c"veilstream".as_ptr(),
                    Some(on_new),
                    opaque,
                );
            }
            match NonNull::new(sys::rd_kafka_new(
                sys::rd_kafka_type_t::RD_KAFKA_PRODUCER,
                conf,
                error.as_mut_ptr(),
                error.len(),
            )) {
                Some(rk) => {
                    // Refused where the mechanism asks for nothing.
                    let refused = sys::rd_kafka_sasl_background_callbacks_enable(rk.as_ptr());
                    if !refused.is_null() {
                        sys::rd_kafka_error_destroy(refused);
                    }
                    let handle = ProducerHandle { rk, registration: Mutex::default(), watch };
                    Ok(Self { topics: Vec::new(), names: Vec::new(), handle: Arc::new(handle) })
                }
                None => {
                    // librdkafka 2.12 has freed the interceptors and left them in the
                    // configuration, whose end would free them again. It is leaked: a few
                    // kilobytes, for settings that `unwatched` has passed before.
                    if !is_watched {
                        sys::rd_kafka_conf_destroy(conf);
                    }
                    Err(ClientError::Settings(
                        CStr::from_ptr(error.as_ptr()).to_string_lossy().into_owned(),
                    ))
                }
            }
        }
    }

    /// For calls on another thread.
    pub(crate) fn handle(&self) -> Arc<ProducerHandle> {
        self.handle.clone()
    }

    /// What its threads report.
    pub(crate) fn watch(&self) -> &ProducerWatch {
        &self.handle.watch
    }

    /// The handle of a topic, made on first use.
    pub(crate) fn topic(&mut self, name: &str) -> Option<TopicId> {
        if let Some(i) = self.names.iter().position(|n| n.to_bytes() == name.as_bytes()) {
            return Some(TopicId(i));
        }
        let name = CString::new(name).ok()?;
        // SAFETY: the handle is alive; no topic configuration is given.
        let topic = NonNull::new(unsafe {
            sys::rd_kafka_topic_new(self.handle.rk.as_ptr(), name.as_ptr(), ptr::null_mut())
        })?;
        self.names.push(name);
        self.topics.push(topic);
        Some(TopicId(self.topics.len() - 1))
    }

    /// Queues one record; its bytes are copied. `timestamp` in milliseconds, 0 is "now". The
    /// headers are taken only on success.
    pub(crate) fn produce(
        &self,
        to: Destination,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Headers,
    ) -> Result<(), (RDKafkaErrorCode, Headers)> {
        use sys::rd_kafka_vtype_t as V;
        let parts =
            |bytes: Option<&[u8]>| bytes.map_or((ptr::null(), 0), |b| (b.as_ptr(), b.len()));
        let ((key, key_len), (value, value_len)) = (parts(key), parts(value));
        // SAFETY: the tags tell librdkafka the types of the arguments that follow each; F_COPY
        // copies key and value before returning; the headers become librdkafka's on success only.
        let err = unsafe {
            sys::rd_kafka_producev(
                self.handle.rk.as_ptr(),
                V::RD_KAFKA_VTYPE_RKT,
                self.topics[to.topic.0].as_ptr(),
                V::RD_KAFKA_VTYPE_PARTITION,
                to.partition,
                V::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                V::RD_KAFKA_VTYPE_VALUE,
                value,
                value_len,
                V::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                V::RD_KAFKA_VTYPE_TIMESTAMP,
                to.timestamp,
                V::RD_KAFKA_VTYPE_HEADERS,
                headers.0,
                V::RD_KAFKA_VTYPE_END,
            )
        };
        if err != OK {
            return Err((err.into(), headers));
        }
        std::mem::forget(headers);
        Ok(())
    }

    /// Waits up to `ms` for everything queued; `true` when all of it was delivered or has failed.
    /// Also runs delivery callbacks.
    pub(crate) fn flush(&self, ms: i32) -> bool {
        // SAFETY: the handle is alive.
        unsafe {
            let done = sys::rd_kafka_flush(self.handle.rk.as_ptr(), ms) == OK;
            sys::rd_kafka_poll(self.handle.rk.as_ptr(), 0);
            done
        }
    }
}

impl Drop for NativeProducer {
    fn drop(&mut self) {
        for topic in &self.topics {
            // SAFETY: each was made by rd_kafka_topic_new and is destroyed once; the handle is
            // alive.
            unsafe { sys::rd_kafka_topic_destroy(topic.as_ptr()) }
        }
    }
}

impl ProducerHandle {
    pub(crate) fn init_transactions(&self, ms: i32) -> Result<(), TxnError> {
        // SAFETY: the handle is alive; so below.
        check(unsafe { sys::rd_kafka_init_transactions(self.rk.as_ptr(), ms) })
    }

    pub(crate) fn begin(&self) -> Result<(), TxnError> {
        // SAFETY: see above.
        check(unsafe { sys::rd_kafka_begin_transaction(self.rk.as_ptr()) })
    }

    pub(crate) fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &GroupMetadata,
        ms: i32,
    ) -> Result<(), TxnError> {
        // SAFETY: see above; both arguments are only read during the call.
        check(unsafe {
            sys::rd_kafka_send_offsets_to_transaction(
                self.rk.as_ptr(),
                offsets.ptr(),
                group.0.as_ptr(),
                ms,
            )
        })
    }

    pub(crate) fn commit(&self, ms: i32) -> Result<(), TxnError> {
        // SAFETY: see above.
        check(unsafe { sys::rd_kafka_commit_transaction(self.rk.as_ptr(), ms) })
    }

    pub(crate) fn abort(&self, ms: i32) -> Result<(), TxnError> {
        // SAFETY: see above.
        check(unsafe { sys::rd_kafka_abort_transaction(self.rk.as_ptr(), ms) })
    }

    /// Asks the brokers for the topics that this producer writes to: a kept producer sees a topic
    /// that was made or grown only after minutes.
    pub(crate) fn refresh(&self, ms: i32) {
        let mut metadata: *const sys::rd_kafka_metadata = ptr::null();
        // SAFETY: the handle is alive; the result, if any, is ours and destroyed once.
        unsafe {
            if sys::rd_kafka_metadata(self.rk.as_ptr(), 0, ptr::null_mut(), &mut metadata, ms) == OK
            {
                sys::rd_kafka_metadata_destroy(metadata);
            }
        }
    }
}

/// How long the end of a producer waits for its purged requests, in milliseconds. They do not wait
/// for a broker.
const PURGED: c_int = 5_000;

impl Drop for ProducerHandle {
    fn drop(&mut self) {
        // Nobody else has the handle after this.
        drop(self.registration.get_mut().unwrap_or_else(PoisonError::into_inner).take());
        // SAFETY: the handle is destroyed once, its topics before it; what is queued is purged, so
        // that nothing waits for an absent broker. No request may be in flight when the handle
        // goes: librdkafka 2.12 frees the text of a failed transaction before the threads that read
        // answers end, and an answer that fails it again frees that text once more. The callbacks'
        // `watch` is dropped after this.
        unsafe {
            sys::rd_kafka_purge(
                self.rk.as_ptr(),
                (sys::RD_KAFKA_PURGE_F_QUEUE
                    | sys::RD_KAFKA_PURGE_F_INFLIGHT
                    | sys::RD_KAFKA_PURGE_F_NON_BLOCKING) as c_int,
            );
            sys::rd_kafka_flush(self.rk.as_ptr(), PURGED);
            sys::rd_kafka_destroy(self.rk.as_ptr());
        }
    }
}

// ---- access: errors that no call returns, and new credentials for clients in use ----

/// Hears what no call of a client returns: why its connections fail. Called by the thread that
/// polls the client, and by librdkafka's threads.
pub(crate) trait Listener: Send + Sync {
    /// A connection failed. `text` is librdkafka's and the broker's: names, addresses and codes,
    /// never a secret.
    fn error(&self, code: RDKafkaErrorCode, text: &str);

    /// OpenSSL refuses the broker's certificate with this `X509_V_ERR_...` code.
    fn certificate(&self, code: i32);
}

unsafe extern "C" fn on_error(
    _: *mut sys::rd_kafka_t,
    code: c_int,
    text: *const c_char,
    watch: *mut c_void,
) {
    // SAFETY: librdkafka passes a NUL-terminated string; `watch` as in `on_response`.
    let (text, watch) =
        unsafe { (CStr::from_ptr(text).to_string_lossy(), &*watch.cast::<ProducerWatch>()) };
    watch
        .listener
        .error(RespErr::try_from(code).map_or(RDKafkaErrorCode::Unknown, Into::into), &text);
}

/// Leaves OpenSSL's verdict as it is, and tells it: librdkafka's error does not say why a
/// certificate is refused.
unsafe extern "C" fn on_certificate(
    _: *mut sys::rd_kafka_t,
    _: *const c_char,
    _: i32,
    verdict: *mut c_int,
    _: c_int,
    _: *const c_char,
    _: usize,
    error: *mut c_char,
    error_size: usize,
    watch: *mut c_void,
) -> c_int {
    // SAFETY: librdkafka passes a valid verdict, and a buffer of `error_size` bytes for a
    // NUL-terminated text; `watch` as in `on_response`.
    let (verdict, watch) = unsafe { (*verdict, &*watch.cast::<ProducerWatch>()) };
    if verdict == 0 {
        return 1;
    }
    watch.listener.certificate(verdict);
    let text = c"refused by OpenSSL".to_bytes_with_nul();
    if text.len() <= error_size {
        // SAFETY: as above.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr().cast(), error, text.len()) }
    }
    0
}

/// A client that is in use. Handles are valid while their entry is in the list: see
/// [`Registration`].
struct Live {
    id: u64,
    /// Whose credentials it has.
    access: u64,
    rk: NonNull<sys::rd_kafka_t>,
    /// Of clients whose main queue nobody polls: its errors and logs are read from here.
    unpolled: Option<Arc<dyn Listener>>,
}

// SAFETY: librdkafka's client handles are thread-safe.
unsafe impl Send for Live {}

static LIVE: Mutex<Vec<Live>> = Mutex::new(Vec::new());
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

fn live() -> MutexGuard<'static, Vec<Live>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Calls `each` with every client in use that has the credentials `access`. None of them ends
/// meanwhile.
pub(crate) fn for_each_client(access: u64, mut each: impl FnMut(&Handle<'_>)) {
    for client in live().iter().filter(|client| client.access == access) {
        each(&Handle { rk: client.rk, unpolled: client.unpolled.as_deref(), _list: PhantomData });
    }
}

/// Keeps a client in the list of those that get new credentials.
pub(crate) struct Registration {
    id: u64,
    /// The client ends after its entry. `None`: its owner sees to that ([`NativeProducer`]).
    _client: Option<Arc<dyn Alive>>,
}

impl Registration {
    /// Enters a client of rust-rdkafka. `first` gives it what has changed since its properties were
    /// read; `unpolled`: nobody polls it.
    pub(crate) fn new(
        client: Arc<dyn Alive>,
        access: u64,
        unpolled: Option<Arc<dyn Listener>>,
        first: impl FnOnce(&Handle<'_>),
    ) -> Option<Self> {
        let rk = NonNull::new(client.rk())?;
        Some(Self::enter(rk, Some(client), access, unpolled, first))
    }

    fn enter(
        rk: NonNull<sys::rd_kafka_t>,
        client: Option<Arc<dyn Alive>>,
        access: u64,
        unpolled: Option<Arc<dyn Listener>>,
        first: impl FnOnce(&Handle<'_>),
    ) -> Self {
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let mut list = live();
        // Under the lock: no change of the credentials falls between.
        first(&Handle { rk, unpolled: None, _list: PhantomData });
        list.push(Live { id, access, rk, unpolled });
        Self { id, _client: client }
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        live().retain(|client| client.id != self.id);
    }
}

/// A client in use, as long as the list of them is held.
pub(crate) struct Handle<'a> {
    rk: NonNull<sys::rd_kafka_t>,
    unpolled: Option<&'a dyn Listener>,
    _list: PhantomData<&'a Live>,
}

impl Handle<'_> {
    /// Its next connections authenticate with these (PLAIN and SCRAM).
    pub(crate) fn set_credentials(&self, username: &CStr, password: &CStr) {
        // SAFETY: the handle is alive; both strings are copied.
        let error = unsafe {
            sys::rd_kafka_sasl_set_credentials(
                self.rk.as_ptr(),
                username.as_ptr(),
                password.as_ptr(),
            )
        };
        if !error.is_null() {
            // SAFETY: a non-null error is ours. It can only say that one of the two is null.
            unsafe { sys::rd_kafka_error_destroy(error) }
        }
    }

    /// Its next connections, and those that authenticate again, do so with this token
    /// (OAUTHBEARER). `expires` in milliseconds since the epoch. `false`: refused, because the time
    /// is past or the mechanism is another one.
    #[cfg(feature = "aws-kms")]
    pub(crate) fn set_token(&self, token: &CStr, expires: i64, principal: &CStr) -> bool {
        let mut error = [0 as c_char; 512];
        // SAFETY: the handle is alive, the strings are copied; there are no extensions.
        let set = unsafe {
            sys::rd_kafka_oauthbearer_set_token(
                self.rk.as_ptr(),
                token.as_ptr(),
                expires,
                principal.as_ptr(),
                ptr::null_mut(),
                0,
                error.as_mut_ptr(),
                error.len(),
            )
        };
        set == OK
    }

    /// There is no token, and why.
    #[cfg(feature = "aws-kms")]
    pub(crate) fn set_token_failure(&self, why: &CStr) {
        // SAFETY: the handle is alive, the string is copied.
        unsafe { sys::rd_kafka_oauthbearer_set_token_failure(self.rk.as_ptr(), why.as_ptr()) };
    }

    /// Reads the errors and logs of a client that nobody polls. Does nothing for others: their
    /// owners see the events.
    pub(crate) fn serve(&self) {
        let Some(listener) = self.unpolled else { return };
        // SAFETY: the handle is alive; the queue and each event are ours, read while they are
        // valid, and destroyed once.
        unsafe {
            let queue = sys::rd_kafka_queue_get_main(self.rk.as_ptr());
            while let Some(event) = NonNull::new(sys::rd_kafka_queue_poll(queue, 0)) {
                match sys::rd_kafka_event_type(event.as_ptr()) {
                    sys::RD_KAFKA_EVENT_ERROR => {
                        let text = CStr::from_ptr(sys::rd_kafka_event_error_string(event.as_ptr()));
                        listener.error(
                            sys::rd_kafka_event_error(event.as_ptr()).into(),
                            &text.to_string_lossy(),
                        );
                    }
                    sys::RD_KAFKA_EVENT_LOG => {
                        let (mut facility, mut text, mut level) = (ptr::null(), ptr::null(), 0);
                        if sys::rd_kafka_event_log(
                            event.as_ptr(),
                            &mut facility,
                            &mut text,
                            &mut level,
                        ) == 0
                        {
                            on_log(ptr::null(), level, facility, text);
                        }
                    }
                    _ => {}
                }
                sys::rd_kafka_event_destroy(event.as_ptr());
            }
            sys::rd_kafka_queue_destroy(queue);
        }
    }
}

impl NativeProducer {
    /// Enters it in the list of clients that get new credentials; see [`Registration::new`].
    pub(crate) fn register(&mut self, access: u64, first: impl FnOnce(&Handle<'_>)) {
        let registration = Registration::enter(self.handle.rk, None, access, None, first);
        *self.handle.registration.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(registration);
    }

    /// Gives it what [`Handle`] can give, without entering it in the list.
    pub(crate) fn present(&self, give: impl FnOnce(&Handle<'_>)) {
        give(&Handle { rk: self.handle.rk, unpolled: None, _list: PhantomData });
    }

    /// Asks a broker who there is, waits up to `ms` for the answer, and hears its errors.
    ///
    /// # Errors
    /// The code of a question without an answer.
    pub(crate) fn ask_brokers(&self, ms: i32) -> Result<(), RDKafkaErrorCode> {
        let rk = self.handle.rk.as_ptr();
        // SAFETY: the handle is alive.
        let answer = unsafe { ask_metadata(rk, ms) };
        // SAFETY: as above.
        unsafe { sys::rd_kafka_poll(rk, 0) };
        answer
    }
}

/// Asks a broker for metadata, waits up to `ms` for the answer, and drops it.
///
/// # Safety
/// The client is alive.
unsafe fn ask_metadata(rk: *mut sys::rd_kafka_t, ms: i32) -> Result<(), RDKafkaErrorCode> {
    let mut metadata = ptr::null();
    // SAFETY: by the caller's promise; what is answered is ours and freed once.
    unsafe {
        let err = sys::rd_kafka_metadata(rk, 0, ptr::null_mut(), &raw mut metadata, ms);
        if err != OK {
            return Err(err.into());
        }
        sys::rd_kafka_metadata_destroy(metadata);
    }
    Ok(())
}

/// Where a record goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Destination {
    pub(crate) topic: TopicId,
    pub(crate) partition: i32,
    /// Milliseconds; 0 is "now".
    pub(crate) timestamp: i64,
}

fn check(error: *mut sys::rd_kafka_error_t) -> Result<(), TxnError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: a non-null error is ours; read, then destroyed once.
    unsafe {
        let result = TxnError {
            code: sys::rd_kafka_error_code(error).into(),
            fatal: sys::rd_kafka_error_is_fatal(error) != 0,
            abortable: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            retriable: sys::rd_kafka_error_is_retriable(error) != 0,
        };
        sys::rd_kafka_error_destroy(error);
        Err(result)
    }
}

/// Requests of librdkafka's admin interface that rust-rdkafka has not: topics with their ids,
/// settings with the cluster's own, offsets at an isolation level.
pub(crate) mod admin {
    use std::ffi::{CStr, CString, c_char, c_int};
    use std::marker::PhantomData;
    use std::ptr::NonNull;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use rdkafka::client::{Client, ClientContext};
    use rdkafka::types::RDKafkaErrorCode as Code;
    use rdkafka::{Offset, TopicPartitionList};
    use rdkafka_sys as sys;
    use sys::rd_kafka_admin_op_t as Op;

    use super::{OK, ask_metadata};

    /// A topic as a broker's metadata have it.
    #[derive(Debug)]
    pub(crate) struct TopicMetadata {
        /// All zeros on clusters older than Kafka 2.8.
        pub(crate) id: [u8; 16],
        /// Replicas of each partition.
        pub(crate) replicas: Vec<usize>,
    }

    /// A setting of a topic.
    #[derive(Debug)]
    pub(crate) struct TopicSetting {
        pub(crate) name: String,
        pub(crate) value: String,
        /// What the brokers say where the topic says nothing, by their names:
        /// `log.retention.hours`. The first counts.
        pub(crate) inherited: Vec<(String, String)>,
    }

    /// Where a partition begins or ends.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct ListedOffset {
        /// The offset.
        pub offset: i64,
        /// The leader's epoch at that offset; `None` where the brokers do not tell.
        pub leader_epoch: Option<i32>,
    }

    /// An answer for each of several things asked about at once.
    pub(crate) type Each<T> = Vec<(String, Result<T, Code>)>;
    /// An answer for each of several partitions.
    pub(crate) type PartitionAnswers<T> = Vec<(String, i32, Result<T, Code>)>;

    /// A request of this process had no answer, and no broker has answered since.
    static WAS_UNANSWERED: AtomicBool = AtomicBool::new(false);

    /// Requests of one client. Each blocks until the answer comes.
    pub(crate) struct Requests<'c> {
        rk: *mut sys::rd_kafka_t,
        timeout: Duration,
        _client: PhantomData<&'c ()>,
    }

    impl<'c> Requests<'c> {
        /// Requests through `client`, each with this time-out.
        pub(crate) fn of<C: ClientContext>(client: &'c Client<C>, timeout: Duration) -> Self {
            Self { rk: client.native_ptr(), timeout, _client: PhantomData }
        }

        /// How many brokers there are.
        pub(crate) fn brokers(&self) -> Result<usize, Code> {
            // SAFETY: the client is alive; options and queue are only read during the call.
            let event =
                self.ask(Op::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER, false, |options, queue| unsafe {
                    sys::rd_kafka_DescribeCluster(self.rk, options, queue);
                })?;
            let mut count = 0;
            // SAFETY: the event holds this result, or null.
            unsafe {
                let result = sys::rd_kafka_event_DescribeCluster_result(event.0.as_ptr());
                if result.is_null() {
                    return Err(Code::BadMessage);
                }
                sys::rd_kafka_DescribeCluster_result_nodes(result, &raw mut count);
            }
            Ok(count)
        }

        /// Topics by name; never makes one.
        pub(crate) fn topics(&self, names: &[&str]) -> Result<Each<TopicMetadata>, Code> {
            let names = c_strings(names)?;
            let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
            // SAFETY: the names live to the end of this function, and are copied; the collection is
            // destroyed once.
            let event =
                self.ask(Op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, false, |options, queue| unsafe {
                    let collection = sys::rd_kafka_TopicCollection_of_topic_names(
                        pointers.as_mut_ptr(),
                        pointers.len(),
                    );
                    sys::rd_kafka_DescribeTopics(self.rk, collection, options, queue);
                    sys::rd_kafka_TopicCollection_destroy(collection);
                })?;
            let mut count = 0;
            // SAFETY: the event holds this result, or null; what is read belongs to the event.
            unsafe {
                let result = sys::rd_kafka_event_DescribeTopics_result(event.0.as_ptr());
                if result.is_null() {
                    return Err(Code::BadMessage);
                }
                let topics = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
                Ok((0..count).map(|i| topic(*topics.add(i))).collect())
            }
        }

        /// The settings of topics.
        pub(crate) fn settings(&self, names: &[&str]) -> Result<Each<Vec<TopicSetting>>, Code> {
            let names = c_strings(names)?;
            let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
            // SAFETY: names are copied; the resources are destroyed once, after the call that reads
            // them.
            let event =
                self.ask(Op::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, false, |options, queue| unsafe {
                    let mut resources: Vec<_> = names
                        .iter()
                        .map(|name| sys::rd_kafka_ConfigResource_new(kind, name.as_ptr()))
                        .collect();
                    sys::rd_kafka_DescribeConfigs(
                        self.rk,
                        resources.as_mut_ptr(),
                        resources.len(),
                        options,
                        queue,
                    );
                    sys::rd_kafka_ConfigResource_destroy_array(
                        resources.as_mut_ptr(),
                        resources.len(),
                    );
                })?;
            let mut count = 0;
            // SAFETY: as for topics.
            unsafe {
                let result = sys::rd_kafka_event_DescribeConfigs_result(event.0.as_ptr());
                if result.is_null() {
                    return Err(Code::BadMessage);
                }
                let resources =
                    sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
                Ok((0..count).map(|i| settings_of(*resources.add(i))).collect())
            }
        }

        /// Offsets of partitions, from their leaders. `at`: [`Offset::Beginning`] or
        /// [`Offset::End`], which at `read_committed` is the last stable offset. In the order of
        /// the answer.
        pub(crate) fn offsets(
            &self,
            partitions: &[(&str, i32)],
            at: Offset,
            read_committed: bool,
        ) -> Result<PartitionAnswers<ListedOffset>, Code> {
            let mut list = TopicPartitionList::new();
            for (topic, partition) in partitions {
                list.add_partition_offset(topic, *partition, at)
                    .map_err(|_| Code::InvalidArgument)?;
            }
            // SAFETY: the list is alive and copied.
            let event = self.ask(
                Op::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
                read_committed,
                |options, queue| unsafe {
                    sys::rd_kafka_ListOffsets(self.rk, list.ptr(), options, queue);
                },
            )?;
            let mut count = 0;
            // SAFETY: as for topics.
            unsafe {
                let result = sys::rd_kafka_event_ListOffsets_result(event.0.as_ptr());
                if result.is_null() {
                    return Err(Code::BadMessage);
                }
                let infos = sys::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
                Ok((0..count).map(|i| listed(*infos.add(i))).collect())
            }
        }

        /// The end of a partition as the broker said with the last fetch; no request.
        pub(crate) fn fetched_end(&self, topic: &str, partition: i32) -> Option<i64> {
            let topic = CString::new(topic).ok()?;
            let (mut low, mut high) = (-1, -1);
            // SAFETY: the client is alive; both offsets are written.
            let err = unsafe {
                sys::rd_kafka_get_watermark_offsets(
                    self.rk,
                    topic.as_ptr(),
                    partition,
                    &raw mut low,
                    &raw mut high,
                )
            };
            (err == OK && high >= 0).then_some(high)
        }

        /// Whether a broker answers. While none does, an admin request that waits for one keeps two
        /// of librdkafka's threads waking each other: a whole core. This question does not. While
        /// all is well it would only wait behind a fetch, so it is not asked.
        fn is_reachable(&self, ms: c_int) -> bool {
            // SAFETY: the client is alive.
            unsafe { ask_metadata(self.rk, ms) }.is_ok()
        }

        fn ask(
            &self,
            op: Op,
            read_committed: bool,
            send: impl FnOnce(*mut sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
        ) -> Result<Event, Code> {
            let ms = c_int::try_from(self.timeout.as_millis()).unwrap_or(c_int::MAX);
            if WAS_UNANSWERED.load(Ordering::Acquire) {
                if !self.is_reachable(ms) {
                    return Err(Code::OperationTimedOut);
                }
                WAS_UNANSWERED.store(false, Ordering::Release);
            }
            let answer = self.answer(op, read_committed, ms, send);
            if matches!(answer, Err(Code::OperationTimedOut | Code::BrokerTransportFailure)) {
                WAS_UNANSWERED.store(true, Ordering::Release);
            }
            answer
        }

        fn answer(
            &self,
            op: Op,
            read_committed: bool,
            ms: c_int,
            send: impl FnOnce(*mut sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
        ) -> Result<Event, Code> {
            // SAFETY: the client is alive; options, errors and queue are destroyed once. librdkafka
            // answers a request whose time is over with an event too; one that comes after the
            // queue is gone goes with it.
            let event = unsafe {
                let options = sys::rd_kafka_AdminOptions_new(self.rk, op);
                sys::rd_kafka_AdminOptions_set_request_timeout(
                    options,
                    ms,
                    std::ptr::null_mut(),
                    0,
                );
                if read_committed {
                    let level =
                        sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
                    let error = sys::rd_kafka_AdminOptions_set_isolation_level(options, level);
                    if !error.is_null() {
                        sys::rd_kafka_error_destroy(error);
                    }
                }
                let queue = sys::rd_kafka_queue_new(self.rk);
                send(options, queue);
                let event = sys::rd_kafka_queue_poll(queue, ms.saturating_add(1000));
                sys::rd_kafka_AdminOptions_destroy(options);
                sys::rd_kafka_queue_destroy(queue);
                NonNull::new(event).map(Event).ok_or(Code::OperationTimedOut)?
            };
            // SAFETY: the event is alive.
            let err = unsafe { sys::rd_kafka_event_error(event.0.as_ptr()) };
            if err == OK { Ok(event) } else { Err(err.into()) }
        }
    }

    /// An answer; what is read of it belongs to it.
    struct Event(NonNull<sys::rd_kafka_event_t>);

    impl Drop for Event {
        fn drop(&mut self) {
            // SAFETY: ours, destroyed once.
            unsafe { sys::rd_kafka_event_destroy(self.0.as_ptr()) }
        }
    }

    /// # Safety
    /// `topic` is valid.
    unsafe fn topic(
        topic: *const sys::rd_kafka_TopicDescription_t,
    ) -> (String, Result<TopicMetadata, Code>) {
        // SAFETY: by the caller's promise; so is what belongs to it.
        unsafe {
            let name = text(sys::rd_kafka_TopicDescription_name(topic));
            let error = sys::rd_kafka_TopicDescription_error(topic);
            if !error.is_null() && sys::rd_kafka_error_code(error) != OK {
                return (name, Err(sys::rd_kafka_error_code(error).into()));
            }
            let mut id = [0; 16];
            let uuid = sys::rd_kafka_TopicDescription_topic_id(topic);
            if !uuid.is_null() {
                id[..8]
                    .copy_from_slice(&sys::rd_kafka_Uuid_most_significant_bits(uuid).to_be_bytes());
                id[8..].copy_from_slice(
                    &sys::rd_kafka_Uuid_least_significant_bits(uuid).to_be_bytes(),
                );
            }
            let mut count = 0;
            let partitions = sys::rd_kafka_TopicDescription_partitions(topic, &raw mut count);
            let replicas = |i: usize| {
                let mut replicas = 0;
                sys::rd_kafka_TopicPartitionInfo_replicas(*partitions.add(i), &raw mut replicas);
                replicas
            };
            (name, Ok(TopicMetadata { id, replicas: (0..count).map(replicas).collect() }))
        }
    }

    /// # Safety
    /// `resource` is valid.
    unsafe fn settings_of(
        resource: *const sys::rd_kafka_ConfigResource_t,
    ) -> (String, Result<Vec<TopicSetting>, Code>) {
        // SAFETY: by the caller's promise; so is what belongs to it.
        unsafe {
            let name = text(sys::rd_kafka_ConfigResource_name(resource));
            let err = sys::rd_kafka_ConfigResource_error(resource);
            if err != OK {
                return (name, Err(err.into()));
            }
            let mut count = 0;
            let entries = sys::rd_kafka_ConfigResource_configs(resource, &raw mut count);
            (name, Ok((0..count).filter_map(|i| setting(*entries.add(i))).collect()))
        }
    }

    /// # Safety
    /// `entry` is valid.
    unsafe fn setting(entry: *const sys::rd_kafka_ConfigEntry_t) -> Option<TopicSetting> {
        // SAFETY: by the caller's promise; so is what belongs to it.
        unsafe {
            let pair = |entry| {
                let value = sys::rd_kafka_ConfigEntry_value(entry);
                (!value.is_null())
                    .then(|| (text(sys::rd_kafka_ConfigEntry_name(entry)), text(value)))
            };
            let (name, value) = pair(entry)?;
            let mut count = 0;
            let synonyms = sys::rd_kafka_ConfigEntry_synonyms(entry, &raw mut count);
            let of_topic =
                sys::rd_kafka_ConfigSource_t::RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG;
            let inherited = (0..count)
                .map(|i| *synonyms.add(i))
                .filter(|s| sys::rd_kafka_ConfigEntry_source(*s) != of_topic);
            Some(TopicSetting { name, value, inherited: inherited.filter_map(pair).collect() })
        }
    }

    /// # Safety
    /// `info` is valid.
    unsafe fn listed(
        info: *const sys::rd_kafka_ListOffsetsResultInfo_t,
    ) -> (String, i32, Result<ListedOffset, Code>) {
        // SAFETY: by the caller's promise; so is what belongs to it.
        unsafe {
            let partition = &*sys::rd_kafka_ListOffsetsResultInfo_topic_partition(info);
            let epoch = sys::rd_kafka_topic_partition_get_leader_epoch(partition);
            let offset = ListedOffset {
                offset: partition.offset,
                leader_epoch: (epoch >= 0).then_some(epoch),
            };
            let found = if partition.err == OK { Ok(offset) } else { Err(partition.err.into()) };
            (text(partition.topic), partition.partition, found)
        }
    }

    /// # Safety
    /// `text` is null or NUL-terminated.
    unsafe fn text(text: *const c_char) -> String {
        // SAFETY: by the caller's promise.
        if text.is_null() {
            String::new()
        } else {
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        }
    }

    fn c_strings(texts: &[&str]) -> Result<Vec<CString>, Code> {
        texts
            .iter()
            .map(|text| CString::new(*text))
            .collect::<Result<_, _>>()
            .map_err(|_| Code::InvalidArgument)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Deaf;

    impl Listener for Deaf {
        fn error(&self, _: RDKafkaErrorCode, _: &str) {}
        fn certificate(&self, _: i32) {}
    }

    /// The list is what keeps a handle from being used after its client.
    #[test]
    fn a_client_that_ended_is_not_in_the_list() {
        let count = |access: u64| {
            let mut count = 0;
            for_each_client(access, |_| count += 1);
            count
        };
        let mut producer = NativeProducer::new([], Arc::new(Deaf)).unwrap();
        producer.register(u64::MAX, |_| ());
        assert_eq!((count(u64::MAX), count(u64::MAX - 1)), (1, 0));
        drop(producer);
        assert_eq!(count(u64::MAX), 0);
    }

    /// librdkafka fails late here, when it reads the files: with the process, before the
    /// configuration was left alone.
    #[test]
    fn certificates_that_cannot_be_read_are_an_error() {
        for make in [NativeProducer::new, NativeProducer::unwatched] {
            let properties = [("security.protocol", "ssl"), ("ssl.ca.location", "/nowhere/ca.pem")];
            let error = make(properties, Arc::new(Deaf)).err().unwrap();
            assert!(error.to_string().contains("ssl.ca.location"), "{error}");
        }
    }

    #[test]
    fn headers_keep_every_byte() {
        // Made natively, read natively: what rust-rdkafka panics on.
        let mut headers = Headers::new(4).unwrap();
        let given: [Header<'_>; 5] = [
            (b"\xff\xfex", Some(b"v")),
            (b"twice", Some(b"1")),
            (b"twice", Some(b"")),
            (b"null", None),
            (b"", Some(b"\0bytes\xff")),
        ];
        for (name, value) in given {
            headers.add(name, value);
        }
        // SAFETY: `headers` lives to the end of the test.
        let copy = Headers(unsafe { sys::rd_kafka_headers_copy(headers.0) });
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        for (i, expected) in given.iter().enumerate() {
            // SAFETY: out-pointers are valid, what they receive belongs to `copy`.
            unsafe {
                assert_eq!(
                    sys::rd_kafka_header_get_all(copy.0, i, &mut name, &mut value, &mut size),
                    OK
                );
                assert_eq!((CStr::from_ptr(name).to_bytes(), slice(value, size)), *expected);
            }
        }
    }

    #[test]
    fn a_refused_property_is_named_without_its_value() {
        let error =
            NativeProducer::new([("linger.ms", "canary-value")], Arc::new(Deaf)).err().unwrap();
        assert_eq!(error.to_string(), "linger.ms is refused");
    }
}
