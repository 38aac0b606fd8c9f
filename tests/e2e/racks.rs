//! A cluster of three brokers in racks of their own, whose followers serve readers.

use std::time::Duration;

use veilstream::keys::topic::{KafkaLedger, KafkaStore};
use veilstream_engine::key::{KeyKind, KeyState};
use veilstream_keys::erasure::Ledger as _;

use crate::kafka::Kafka;
use crate::store_suite;

/// A follower's end lags behind a commit (KAFKA-9952): a reader that believed it would give a place
/// a second key, and write back the wraps of an erased one.
#[test]
fn keys_in_a_topic_are_read_to_the_leaders_end_from_every_rack() {
    let kafka = Kafka::start("racks", 3);
    let admin = kafka.admin();
    kafka.await_in_sync(Duration::from_secs(60), &admin);
    let writer =
        store_suite::authentic(Box::new(KafkaStore::create(&kafka.config(), "keys").unwrap()));
    KafkaLedger::create(&kafka.config(), "erasures").unwrap();
    let leader = |topic: &str| {
        admin.inner().fetch_metadata(Some(topic), Duration::from_secs(5)).unwrap().topics()[0]
            .partitions()[0]
            .leader()
    };
    let in_rack_of_a_follower = |topic: &str| {
        let mut config = kafka.config();
        let rack = format!("rack-{}", leader(topic) % 3 + 1);
        config.consumer.values = [("client.rack".to_owned(), rack)].into();
        config
    };
    let far = store_suite::authentic(Box::new(
        KafkaStore::open(&in_rack_of_a_follower("keys"), "keys").unwrap(),
    ));
    for number in 1..=8 {
        let (first, mut second) =
            (store_suite::subject_key(number, 1), store_suite::subject_key(number, 1));
        second.kid.0[0] ^= 1;
        assert_eq!(
            writer.insert(std::slice::from_ref(&first)).unwrap(),
            *std::slice::from_ref(&first)
        );
        assert_eq!(
            far.insert(&[second]).unwrap(),
            *std::slice::from_ref(&first),
            "round {number}: one place, one key"
        );
        store_suite::erase(
            &writer,
            &[store_suite::shred(number, KeyState::Shredded)],
            1_795_500_000,
        )
        .unwrap();
        far.save_uses(&[(first.kid, u64::from(number))]).unwrap();
        let found = far.find("default", KeyKind::Data, &[first.scope]).unwrap();
        assert!(
            found
                .iter()
                .all(|record| record.state == KeyState::Shredded && record.wraps.is_empty()),
            "round {number}: {found:?}"
        );
    }
    let (near, far) = (
        KafkaLedger::open(&kafka.config(), "erasures"),
        KafkaLedger::open(&in_rack_of_a_follower("erasures"), "erasures"),
    );
    let (near, far) = (near.unwrap(), far.unwrap());
    for number in 0..20 {
        near.append(number, &[format!("line {number}")]).unwrap();
        assert_eq!(far.read(0).unwrap().len() as u64, number + 1, "round {number}");
    }
}
