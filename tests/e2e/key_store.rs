//! The key store in a topic keeps the promises of every store.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use veilstream::keys::topic::KafkaStore;
use veilstream_engine::key::{KeyId, KeyKind, KeyState};
use veilstream_keys::store::{KeyRecord, RecordJson, Store};

use crate::feed::{Feeder, Input as Raw, TIME};
use crate::kafka::{kafka, wait_for};
use crate::reader::contains;
use crate::store_suite::{self, Place, store_suite};

struct Topic(String);

impl Topic {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let topic = Self(format!("store-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        KafkaStore::create(&kafka().config(), &topic.0).unwrap();
        topic
    }

    fn store(&self) -> KafkaStore {
        KafkaStore::open(&kafka().config(), &self.0).unwrap()
    }

    /// Writes the record of a key past the store.
    fn overwrite(&self, kid: &KeyId, value: &str) {
        let feeder = Feeder::new(kafka());
        let key = kid.to_string();
        feeder.send(&Raw {
            topic: &self.0,
            partition: 0,
            key: Some(key.as_bytes()),
            value: Some(value.as_bytes()),
            timestamp: *TIME,
            headers: &[],
        });
        feeder.finish();
    }
}

impl Place for Topic {
    fn open(&self) -> Box<dyn Store> {
        Box::new(self.store())
    }

    fn damage(&self, kid: &KeyId, column: &str) {
        let record = self.store().get(&[*kid]).unwrap().remove(0);
        let mut json: Value = serde_json::to_value(RecordJson::from(&record)).unwrap();
        json[column] = if column == "version" { json!(-1) } else { json!("fine") };
        self.overwrite(kid, &json.to_string());
    }

    fn activate(&self, kid: &KeyId) {
        let record = self.store().get(&[*kid]).unwrap().remove(0);
        let edited = KeyRecord { state: KeyState::Active, retired: None, ..record };
        self.overwrite(kid, &serde_json::to_string(&RecordJson::from(&edited)).unwrap());
    }
}

store_suite!(Topic::new());

/// The broker's cleaner at work: what was overwritten goes from the disk, with it the wraps of the
/// erased, and what counts stays.
#[test]
fn compaction_takes_the_wraps_of_the_erased_and_leaves_every_key() {
    let settings = [
        ("cleanup.policy", "compact"),
        ("max.compaction.lag.ms", "1000"),
        ("segment.ms", "1000"),
        ("min.cleanable.dirty.ratio", "0.01"),
        // What is on disk is searched.
        ("compression.type", "uncompressed"),
    ];
    kafka().create_topic_with("compacted", 1, &settings);
    drop(KafkaStore::create(&kafka().config(), "compacted").unwrap());
    let store = store_suite::open(&Topic("compacted".to_owned()));
    let (dead, alive) = (store_suite::subject_key(1, 1), store_suite::subject_key(2, 1));
    store.insert(&[dead.clone(), alive.clone()]).unwrap();
    let wrapped = serde_json::to_value(RecordJson::from(&dead)).unwrap()["wraps"][0]["wrapped"]
        .as_str()
        .unwrap()
        .to_owned();
    let is_on_disk = || contains(&kafka().segments("compacted"), wrapped.as_bytes());
    assert!(is_on_disk(), "or its absence proves nothing");
    store_suite::erase(&store, &[store_suite::shred(1, KeyState::Shredded)], 1_795_500_000)
        .unwrap();
    let uses = AtomicU32::new(0);
    wait_for(Duration::from_secs(120), "the cleaner", || {
        // The segment that is being written is not cleaned: writing goes on.
        store.save_uses(&[(alive.kid, u64::from(uses.fetch_add(1, Ordering::Relaxed)))]).unwrap();
        std::thread::sleep(Duration::from_millis(500));
        !is_on_disk()
    });
    let fresh = KafkaStore::open(&kafka().config(), "compacted").unwrap();
    assert_eq!(fresh.get(&[alive.kid]).unwrap()[0].wraps, alive.wraps);
    let erased = fresh.find("default", KeyKind::Data, &[dead.scope]).unwrap();
    assert!(
        erased.len() == 2
            && erased
                .iter()
                .all(|record| record.state == KeyState::Shredded && record.wraps.is_empty()),
        "{erased:?}"
    );
}
