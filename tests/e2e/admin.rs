//! What an administrator does to the cluster while a test runs, by `krafka`.

use std::future::Future;
use std::time::Duration;

use krafka::admin::{
    AclBinding, AclFilter, AclOperation as Op, AclPatternType, AclPermissionType as Permission,
    AclResourceType as Kind, AdminClient, AlterConsumerGroupOffsetsOptions, ConfigOp,
    ConfigResource, CreateAclsOptions, CreatePartitionsOptions, CreateTopicsOptions,
    DeleteAclsOptions, DeleteConsumerGroupOffsetsOptions, DeleteRecordsOptions,
    DeleteTopicsOptions, IncrementalAlterConfigsOptions, NewTopic, TopicPartition,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::kafka::{Kafka, LIMITED, wait_for};

/// How long a change may take to be in every broker's metadata.
const SEEN: Duration = Duration::from_secs(20);

impl Kafka {
    /// Creates a topic whose partitions have their replicas on these brokers, the leader first.
    pub(crate) fn create_topic_on(&self, name: &str, replicas: &[&[i32]]) {
        let placed =
            (0..).zip(replicas).map(|(partition, brokers)| (partition, brokers.to_vec())).collect();
        let topic = NewTopic::with_replica_assignment(name, placed).unwrap();
        self.administer(async |admin| {
            all(admin.create_topics([topic], CreateTopicsOptions::default()).await)
        });
        self.await_partitions(name, replicas.len());
    }

    /// Deletes a topic.
    pub(crate) fn delete_topic(&self, name: &str) {
        self.administer(async |admin| {
            all(admin.delete_topics([name], DeleteTopicsOptions::default()).await)
        });
        self.await_partitions(name, 0);
    }

    /// Deletes a topic and makes it again at once, before a client hears that it was away.
    pub(crate) fn recreate_topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, -1)
            .unwrap()
            .with_config("max.message.bytes", "4194304");
        self.administer(async |admin| {
            all(admin.delete_topics([name], DeleteTopicsOptions::default()).await);
            all(admin.create_topics([topic], CreateTopicsOptions::default()).await);
        });
        self.await_partitions(name, usize::try_from(partitions).unwrap());
    }

    /// Gives a topic more partitions: `total` in all.
    pub(crate) fn grow_topic(&self, name: &str, total: i32) {
        self.administer(async |admin| {
            all(admin.create_partitions([(name, total)], CreatePartitionsOptions::default()).await)
        });
        self.await_partitions(name, usize::try_from(total).unwrap());
    }

    /// Changes a setting of a topic.
    pub(crate) fn alter_topic(&self, name: &str, setting: &str, value: &str) {
        let change = (ConfigResource::topic(name), vec![ConfigOp::set(setting, value)]);
        self.administer(async |admin| {
            all(admin
                .incremental_alter_configs([change], IncrementalAlterConfigsOptions::default())
                .await)
        });
    }

    /// Deletes what a partition holds before an offset, as retention does.
    pub(crate) fn delete_records(&self, topic: &str, partition: i32, before: i64) {
        let place = (TopicPartition::new(topic, partition), before);
        self.administer(async |admin| {
            all(admin.delete_records([place], DeleteRecordsOptions::default()).await)
        });
    }

    /// Forgets what a group without members has committed for a topic, as Kafka does seven days
    /// after its last member.
    pub(crate) fn forget_offsets(&self, group: &str, topic: &str, partitions: i32) {
        let places: Vec<_> =
            (0..partitions).map(|partition| TopicPartition::new(topic, partition)).collect();
        self.administer(async |admin| {
            all(admin
                .delete_consumer_group_offsets(
                    group,
                    places,
                    DeleteConsumerGroupOffsetsOptions::default(),
                )
                .await)
        });
    }

    /// Commits offsets for a group without members, with nothing but the offsets, as tools do.
    pub(crate) fn commit_offsets(&self, group: &str, topic: &str, offsets: &[i64]) {
        let places: Vec<_> = (0..)
            .zip(offsets)
            .map(|(partition, offset)| (TopicPartition::new(topic, partition), *offset))
            .collect();
        self.administer(async |admin| {
            all(admin
                .alter_consumer_group_offsets(
                    group,
                    places,
                    AlterConsumerGroupOffsetsOptions::default(),
                )
                .await)
        });
    }

    /// Where a partition begins and ends: its log start offset and the offset after its last
    /// record.
    pub(crate) fn bounds(&self, topic: &str, partition: i32) -> (i64, i64) {
        let client: BaseConsumer = self.client().create().unwrap();
        client.fetch_watermarks(topic, partition, Duration::from_secs(10)).unwrap()
    }

    /// Allows [`LIMITED`] something.
    pub(crate) fn allow(&self, kind: Kind, operation: Op, names: &[&str]) {
        self.create_acls(
            names.iter().map(|name| entry(kind, name, operation, Permission::Allow)).collect(),
        );
    }

    /// Forbids [`LIMITED`] something, whatever else is allowed.
    pub(crate) fn deny(&self, kind: Kind, operation: Op, name: &str) {
        self.create_acls(vec![entry(kind, name, operation, Permission::Deny)]);
    }

    /// Takes back every [`Kafka::deny`] of a name.
    pub(crate) fn undo_deny(&self, kind: Kind, name: &str) {
        let filter = AclFilter::for_resource(kind, name)
            .pattern_type(AclPatternType::Any)
            .operation(Op::Any)
            .permission_type(Permission::Deny);
        self.administer(async |admin| {
            admin.delete_acls(vec![filter], DeleteAclsOptions::default()).await.unwrap()
        });
    }

    fn create_acls(&self, bindings: Vec<AclBinding>) {
        self.administer(async |admin| {
            for (_, result) in
                admin.create_acls(bindings, CreateAclsOptions::default()).await.unwrap()
            {
                result.unwrap();
            }
        });
    }

    fn await_partitions(&self, topic: &str, count: usize) {
        let client: BaseConsumer = self.client().set("log_level", "0").create().unwrap();
        wait_for(SEEN, &format!("{topic} to have {count} partitions"), || {
            client.fetch_metadata(None, Duration::from_secs(5)).is_ok_and(|metadata| {
                let found = metadata.topics().iter().find(|t| t.name() == topic);
                found.map_or(0, |t| t.partitions().iter().filter(|p| p.leader() >= 0).count())
                    == count
            })
        });
    }

    fn administer<T, F: Future<Output = T>>(&self, work: impl FnOnce(AdminClient) -> F) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(
            async {
                let kafka = krafka::Kafka::builder(&self.bootstrap).connect().await.unwrap();
                work(kafka.admin()).await
            },
        )
    }
}

/// Every answer is a success.
fn all<K: std::hash::Hash + Eq, T>(
    answers: krafka::Result<std::collections::HashMap<K, krafka::Result<T>>>,
) {
    for answer in answers.unwrap().into_values() {
        answer.unwrap();
    }
}

/// An entry for one name. krafka 0.28.1 numbers the pattern types one too low: what it calls
/// prefixed, Kafka reads as literal.
fn entry(kind: Kind, name: &str, operation: Op, permission: Permission) -> AclBinding {
    AclBinding::new(kind, name, format!("User:{}", LIMITED.0), "*", operation, permission)
        .with_pattern_type(AclPatternType::Prefixed)
}
