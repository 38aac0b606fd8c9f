//! A request to end a transaction that arrives late must not end a later one (docs/design.md).
//! librdkafka's protocol cannot tell the two apart, so the pipeline drops a producer one of whose
//! requests ended without an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use veilstream::pipeline::{End, Options, RunningPipeline};
use veilstream::status::Status;
use veilstream::telemetry::metrics::Metrics;
use veilstream::{keys, registry};

use crate::feed::person;
use crate::kafka::{kafka, wait_for};
use crate::proxy::{Hold, Proxy};
use crate::reader;
use crate::sandbox::Sandbox;

const BEFORE: usize = 50;
const HELD: usize = 10;
/// Far more than the 5 requests that librdkafka has in flight: the late request meets the middle of
/// the transaction.
const AFTER: usize = 3000;
const ALL: usize = BEFORE + HELD + AFTER;

/// How often each record is in the sanitized topic, and what the broker said to the late request.
struct Outcome {
    missing: usize,
    repeated: usize,
    answer: i16,
}

#[test]
fn a_late_request_ends_no_later_transaction() {
    // Kafka's codes for a producer that another has replaced.
    const FENCED: [i16; 2] = [47, 90];
    let proxy = Proxy::start(&kafka().proxied);
    let with = deliver_late(&proxy, true);
    assert!(FENCED.contains(&with.answer), "the broker's answer was {}", with.answer);
    assert_eq!((with.missing, with.repeated), (0, 0), "missing, repeated");
    // The same without the remedy: the test sees the damage, so it can fail.
    let without = deliver_late(&proxy, false);
    assert_eq!(without.answer, 0, "the broker refused the late request: this run proved nothing");
    assert!(
        without.missing + without.repeated > 0,
        "a late request did no harm: the test cannot see it"
    );
    println!(
        "held frame: without recycling {} missing, {} repeated",
        without.missing, without.repeated
    );
}

fn deliver_late(proxy: &Proxy, recycle_tainted: bool) -> Outcome {
    let kafka = kafka();
    let name = format!("held-{recycle_tainted}");
    let sandbox = Sandbox::new(kafka, &name, 1);
    let mut config = sandbox.instance(0).config();
    config.kafka.bootstrap_servers = format!("127.0.0.1:{}", proxy.port());
    config.pipeline.lanes = 1;
    config.pipeline.commit_interval = Duration::from_secs(10);
    config.kafka.producer.values.insert("batch.size".to_owned(), "16384".to_owned());
    let (registry, _) = registry::open_configured(&config.schemas).unwrap();
    let keys = keys::open(&config.keys, None).unwrap();
    keys.prepare(&registry.current()).unwrap();
    let (status, metrics) = (Arc::new(Status::new(&["kafka"])), Arc::new(Metrics::new().unwrap()));
    let options = Options { recycle_tainted, ..Options::default() };
    let pipeline = RunningPipeline::start_with(
        &config,
        Arc::new(registry),
        keys,
        status,
        metrics,
        true,
        options,
    )
    .unwrap();

    sandbox.feed(0..BEFORE, person);
    wait_for(Duration::from_secs(30), "the first records", || sandbox.clean().len() == BEFORE);
    proxy.arm();
    sandbox.feed(BEFORE..BEFORE + HELD, person);
    wait_for(Duration::from_secs(30), "a request to hold", || proxy.hold() != Hold::Armed);
    sandbox.feed(BEFORE + HELD..ALL, person);
    let mut times = Vec::new();
    wait_for(Duration::from_secs(60), "all records", || {
        times = reader::times(&sandbox.clean(), ALL);
        // The last one comes after whatever was lost.
        times[ALL - 1] > 0
    });
    pipeline.stop(Instant::now() + Duration::from_secs(10));
    assert_eq!(pipeline.wait(), Some(End::Stopped));
    let Hold::Delivered(answer) = proxy.hold() else {
        panic!("the request was not delivered: {:?}", proxy.hold())
    };
    Outcome {
        missing: times.iter().filter(|n| **n == 0).count(),
        repeated: times.iter().filter(|n| **n > 1).count(),
        answer,
    }
}
