use super::facts::{AHEAD_MS, MAX_MESSAGE_BYTES, RETENTION_MS, in_unit};
use super::*;
use crate::kafka::ffi::admin::{TopicMetadata, TopicSetting};

fn setting(name: &str, value: &str, inherited: &[(&str, &str)]) -> TopicSetting {
    let pair = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let inherited = inherited.iter().map(pair).collect();
    TopicSetting { name: name.to_owned(), value: value.to_owned(), inherited }
}

#[test]
fn facts_come_from_metadata_and_settings() {
    let metadata = TopicMetadata { id: [7; 16], replicas: vec![3, 2] };
    let settings = [
        setting("cleanup.policy", "compact, delete", &[]),
        setting("retention.ms", "3600000", &[("log.retention.hours", "168")]),
        setting("retention.bytes", "100", &[("log.retention.bytes", "-1")]),
        setting("min.insync.replicas", "2", &[]),
        setting("message.timestamp.type", "LogAppendTime", &[]),
    ];
    let facts = TopicFacts::new(&metadata, Some(&settings));
    assert_eq!(
        (facts.partitions, facts.replicas, facts.min_in_sync, facts.assumed),
        (2, 2, 2, false)
    );
    assert_eq!((facts.cleanup_policy(), facts.log_append_time), ("compact,delete", true));
    assert_eq!(facts.retention, Retention { ms: 3_600_000, bytes: 100 });
    assert_eq!(facts.cluster_retention, Retention { ms: RETENTION_MS, bytes: -1 });
    let unknown = TopicFacts::new(&metadata, None);
    assert_eq!(
        (unknown.max_message_bytes, unknown.ahead_ms, unknown.assumed),
        (MAX_MESSAGE_BYTES, AHEAD_MS, true)
    );
    assert_eq!(TopicFacts::new(&TopicMetadata { id: [0; 16], replicas: vec![] }, None).id, None);
}

#[test]
fn no_limit_is_the_largest() {
    let (short, long) = (Retention { ms: 5, bytes: -1 }, Retention { ms: 7, bytes: 9 });
    assert_eq!(short.larger(long), Retention { ms: 7, bytes: -1 });
    assert_eq!(long.larger(Retention::UNLIMITED), Retention::UNLIMITED);
    assert_eq!(
        [
            in_unit("log.retention.minutes", "2"),
            in_unit("log.retention.hours", "-1"),
            in_unit("x", "y")
        ],
        [Some(120_000), Some(-1), None]
    );
}

/// Kafka's own text of an id: base64url, without padding.
#[test]
fn ids_are_written_as_kafka_writes_them() {
    let one = TopicUuid::new(std::array::from_fn(|i| u8::try_from(i * 17).unwrap())).unwrap();
    assert_eq!(one.to_string(), "ABEiM0RVZneImaq7zN3u_w");
    let high = TopicUuid::new([0xff; 16]).unwrap();
    assert_eq!(high.to_string(), "_____________________w");
}

#[test]
fn commands_carry_every_setting() {
    let settings = BTreeMap::from([
        ("cleanup.policy", "delete".to_owned()),
        ("retention.ms", "-1".to_owned()),
    ]);
    let topic = NewTopic { name: "t".to_owned(), partitions: 4, replicas: Some(3), settings };
    assert_eq!(
        topic.command("b:1"),
        "kafka-topics.sh --bootstrap-server b:1 --create --topic t --partitions 4 \
        --replication-factor 3 --config cleanup.policy=delete --config retention.ms=-1"
    );
    assert!(
        alter_command("b:1", "t", &[("a", "1"), ("b", "x,y")])
            .ends_with("--entity-name t --add-config a=1,b=[x,y]")
    );
}
