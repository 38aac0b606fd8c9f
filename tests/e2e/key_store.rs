//! The key store in a topic keeps the promises of every store.

use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use veilstream::config::{Config, Input, Kafka};
use veilstream::kafka::KafkaStore;
use veilstream_engine::key::KeyId;
use veilstream_keys::store::{RecordJson, Store};

use crate::feed::{Feeder, Input as Raw, TIME};
use crate::kafka::kafka;
use crate::store_suite::{self, Place, store_suite};

struct Topic(String);

impl Topic {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let topic = Self(format!("store-{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        KafkaStore::create(&brokers(), &topic.0).unwrap();
        topic
    }

    fn store(&self) -> KafkaStore {
        KafkaStore::open(&brokers(), &self.0).unwrap()
    }
}

fn brokers() -> Kafka {
    let text = format!("[kafka]\nbootstrap_servers = \"{}\"\n", kafka().bootstrap);
    Config::parse(&Input { text, host_name: "h".to_owned(), ..Input::default() }, &|_| unreachable!()).unwrap().kafka
}

impl Place for Topic {
    fn open(&self) -> Box<dyn Store> {
        Box::new(self.store())
    }

    fn damage(&self, kid: &KeyId, column: &str) {
        let record = self.store().get(&[*kid]).unwrap().remove(0);
        let mut json: Value = serde_json::to_value(RecordJson::from(&record)).unwrap();
        json[column] = if column == "version" { json!(-1) } else { json!("fine") };
        let feeder = Feeder::new(kafka());
        let (key, value) = (kid.to_string(), json.to_string());
        feeder.send(&Raw { topic: &self.0, partition: 0, key: Some(key.as_bytes()), value: Some(value.as_bytes()), timestamp: TIME, headers: &[] });
        feeder.finish();
    }
}

store_suite!(Topic::new());
