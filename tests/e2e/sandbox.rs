//! What one test has for itself: a raw topic, documents, keys, instances.

use std::fs;

use krafka::ConsumerRecord;
use tempfile::TempDir;

use crate::feed::{Feeder, people};
use crate::kafka::Kafka;
use crate::reader;
use crate::sidecar::Instance;

/// Topics `<name>.raw`, `<name>.clean` and `<name>.dead-letter`, group `<name>`.
pub(crate) struct Sandbox<'a> {
    pub(crate) broker: &'a Kafka,
    pub(crate) name: &'a str,
    pub(crate) partitions: i32,
    pub(crate) dir: TempDir,
}

impl<'a> Sandbox<'a> {
    /// With an empty raw topic and the document [`people`].
    pub(crate) fn new(broker: &'a Kafka, name: &'a str, partitions: i32) -> Self {
        Self::with(broker, name, partitions, &[("max.message.bytes", "4194304")])
    }

    /// The same with other settings of the raw topic.
    pub(crate) fn with(
        broker: &'a Kafka,
        name: &'a str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> Self {
        broker.create_topic_with(&format!("{name}.raw"), partitions, settings);
        Self::over(broker, name, partitions)
    }

    /// With a raw topic that is there.
    pub(crate) fn over(broker: &'a Kafka, name: &'a str, partitions: i32) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("schemas")).unwrap();
        let sandbox = Self { broker, name, partitions, dir };
        sandbox.document("people", &people(name));
        sandbox
    }

    /// Writes a schema document.
    pub(crate) fn document(&self, name: &str, text: &str) {
        // Renamed into place: a sidecar may be looking.
        let (new, place) =
            (self.dir.path().join("new"), self.dir.path().join(format!("schemas/{name}.json")));
        fs::write(&new, text).unwrap();
        fs::rename(new, place).unwrap();
    }

    /// An instance of the group.
    pub(crate) fn instance(&self, number: u32) -> Instance {
        Instance::new(
            self.dir.path(),
            &format!("{}-{number}", self.name),
            &self.broker.bootstrap,
            self.name,
        )
    }

    /// Feeds records `range` of the series.
    pub(crate) fn feed(&self, range: std::ops::Range<usize>, value: impl Fn(usize) -> String) {
        let feeder = Feeder::new(self.broker);
        for i in range {
            feeder.number(&format!("{}.raw", self.name), self.partitions, i, value(i).as_bytes());
        }
        feeder.finish();
    }

    /// What readers of the sanitized topic see.
    pub(crate) fn clean(&self) -> Vec<ConsumerRecord> {
        reader::committed(&self.broker.bootstrap, &format!("{}.clean", self.name), self.partitions)
    }

    /// What readers of the dead letters see.
    pub(crate) fn dead(&self) -> Vec<ConsumerRecord> {
        reader::committed(
            &self.broker.bootstrap,
            &format!("{}.dead-letter", self.name),
            self.partitions,
        )
    }

    /// Who sees how many of a numbered series, for the message of a failure: whether records are
    /// gone, aborted, or passed by.
    fn account(&self, all: usize) -> String {
        let bootstrap = &self.broker.bootstrap;
        let topic = |what: &str| format!("{}.{what}", self.name);
        let views = [
            ("raw", reader::committed(bootstrap, &topic("raw"), self.partitions)),
            ("with aborted ones", reader::uncommitted(bootstrap, &topic("clean"), self.partitions)),
            ("sanitized", self.clean()),
        ];
        let mut told = String::new();
        for (view, records) in views {
            let times = reader::times(&records, all);
            let missing: Vec<usize> = (0..all).filter(|n| times[*n] == 0).collect();
            let (first, last) = (missing.first(), missing.last());
            let count = missing.len();
            told += &format!("{view}: {count} of {all} missing, from {first:?} to {last:?}\n");
        }
        let console = self.broker.console_consumer(&topic("clean"), all).output().unwrap();
        let seen = console.stdout.iter().filter(|byte| **byte == b'\n').count();
        told += &format!("Kafka's console consumer sees {seen} of the sanitized topic\n");
        // Kafka's own fault: docs/operations.md, "Hanging transactions".
        let skipped = self.broker.logged("Couldn't find leader endpoint");
        told + &format!("brokers completed transactions without a partition: {skipped:#?}\n")
    }

    /// The sanitized topic holds every record of a series of `all` once, in order within its
    /// partition.
    pub(crate) fn assert_each_once(&self, all: usize) {
        let records = self.clean();
        let times = reader::times(&records, all);
        let (missing, repeated) =
            (times.iter().filter(|n| **n == 0).count(), times.iter().filter(|n| **n > 1).count());
        let is_each_once = (missing, repeated) == (0, 0);
        assert!(is_each_once, "{missing} missing, {repeated} repeated\n{}", self.account(all));
        for partition in 0..self.partitions {
            let numbers: Vec<usize> =
                records.iter().filter(|r| r.partition == partition).map(reader::number).collect();
            assert!(numbers.is_sorted(), "partition {partition} is out of order");
        }
    }
}
