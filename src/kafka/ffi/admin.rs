//! Requests of librdkafka's admin interface that rust-rdkafka has not: topics with their ids, settings with the
//! cluster's own, offsets at an isolation level.

use std::ffi::{CStr, CString, c_char, c_int};
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use rdkafka::types::RDKafkaErrorCode as Code;
use rdkafka::{Offset, TopicPartitionList};
use rdkafka_sys as sys;
use sys::rd_kafka_admin_op_t as Op;

use super::OK;

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
    /// What the brokers say where the topic says nothing, by their names: `log.retention.hours`. The first counts.
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
pub(crate) type EachPartition<T> = Vec<(String, i32, Result<T, Code>)>;

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
        let event = self.ask(Op::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER, false, |options, queue| unsafe {
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
        // SAFETY: the names live to the end of this function, and are copied; the collection is destroyed once.
        let event = self.ask(Op::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, false, |options, queue| unsafe {
            let collection = sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
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
        // SAFETY: names are copied; the resources are destroyed once, after the call that reads them.
        let event = self.ask(Op::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS, false, |options, queue| unsafe {
            let mut resources: Vec<_> = names.iter().map(|name| sys::rd_kafka_ConfigResource_new(kind, name.as_ptr())).collect();
            sys::rd_kafka_DescribeConfigs(self.rk, resources.as_mut_ptr(), resources.len(), options, queue);
            sys::rd_kafka_ConfigResource_destroy_array(resources.as_mut_ptr(), resources.len());
        })?;
        let mut count = 0;
        // SAFETY: as for topics.
        unsafe {
            let result = sys::rd_kafka_event_DescribeConfigs_result(event.0.as_ptr());
            if result.is_null() {
                return Err(Code::BadMessage);
            }
            let resources = sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
            Ok((0..count).map(|i| settings_of(*resources.add(i))).collect())
        }
    }

    /// Offsets of partitions, from their leaders. `at`: [`Offset::Beginning`] or [`Offset::End`], which at
    /// `read_committed` is the last stable offset. In the order of the answer.
    pub(crate) fn offsets(&self, partitions: &[(&str, i32)], at: Offset, read_committed: bool) -> Result<EachPartition<ListedOffset>, Code> {
        let mut list = TopicPartitionList::new();
        for (topic, partition) in partitions {
            list.add_partition_offset(topic, *partition, at).map_err(|_| Code::InvalidArgument)?;
        }
        // SAFETY: the list is alive and copied.
        let event = self.ask(Op::RD_KAFKA_ADMIN_OP_LISTOFFSETS, read_committed, |options, queue| unsafe {
            sys::rd_kafka_ListOffsets(self.rk, list.ptr(), options, queue);
        })?;
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
        let err = unsafe { sys::rd_kafka_get_watermark_offsets(self.rk, topic.as_ptr(), partition, &raw mut low, &raw mut high) };
        (err == OK && high >= 0).then_some(high)
    }

    fn ask(&self, op: Op, read_committed: bool, send: impl FnOnce(*mut sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t)) -> Result<Event, Code> {
        let ms = c_int::try_from(self.timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the client is alive; options, errors and queue are destroyed once. librdkafka answers a request
        // whose time is over with an event too; one that comes after the queue is gone goes with it.
        let event = unsafe {
            let options = sys::rd_kafka_AdminOptions_new(self.rk, op);
            sys::rd_kafka_AdminOptions_set_request_timeout(options, ms, std::ptr::null_mut(), 0);
            if read_committed {
                let level = sys::rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
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
unsafe fn topic(topic: *const sys::rd_kafka_TopicDescription_t) -> (String, Result<TopicMetadata, Code>) {
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
            id[..8].copy_from_slice(&sys::rd_kafka_Uuid_most_significant_bits(uuid).to_be_bytes());
            id[8..].copy_from_slice(&sys::rd_kafka_Uuid_least_significant_bits(uuid).to_be_bytes());
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
unsafe fn settings_of(resource: *const sys::rd_kafka_ConfigResource_t) -> (String, Result<Vec<TopicSetting>, Code>) {
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
            (!value.is_null()).then(|| (text(sys::rd_kafka_ConfigEntry_name(entry)), text(value)))
        };
        let (name, value) = pair(entry)?;
        let mut count = 0;
        let synonyms = sys::rd_kafka_ConfigEntry_synonyms(entry, &raw mut count);
        let of_topic = sys::rd_kafka_ConfigSource_t::RD_KAFKA_CONFIG_SOURCE_DYNAMIC_TOPIC_CONFIG;
        let inherited = (0..count).map(|i| *synonyms.add(i)).filter(|s| sys::rd_kafka_ConfigEntry_source(*s) != of_topic);
        Some(TopicSetting { name, value, inherited: inherited.filter_map(pair).collect() })
    }
}

/// # Safety
/// `info` is valid.
unsafe fn listed(info: *const sys::rd_kafka_ListOffsetsResultInfo_t) -> (String, i32, Result<ListedOffset, Code>) {
    // SAFETY: by the caller's promise; so is what belongs to it.
    unsafe {
        let partition = &*sys::rd_kafka_ListOffsetsResultInfo_topic_partition(info);
        let epoch = sys::rd_kafka_topic_partition_get_leader_epoch(partition);
        let offset = ListedOffset { offset: partition.offset, leader_epoch: (epoch >= 0).then_some(epoch) };
        let found = if partition.err == OK { Ok(offset) } else { Err(partition.err.into()) };
        (text(partition.topic), partition.partition, found)
    }
}

/// # Safety
/// `text` is null or NUL-terminated.
unsafe fn text(text: *const c_char) -> String {
    // SAFETY: by the caller's promise.
    if text.is_null() { String::new() } else { unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned() }
}

fn c_strings(texts: &[&str]) -> Result<Vec<CString>, Code> {
    texts.iter().map(|text| CString::new(*text)).collect::<Result<_, _>>().map_err(|_| Code::InvalidArgument)
}
