//! Memory while catching up: a backlog that is far larger than the process, compressed, over many
//! partitions, or all headers.

use std::fs;
use std::time::Duration;

use crate::feed::{Feeder, Input, TIME};
use crate::kafka::kafka;
use crate::sandbox::Sandbox;
use crate::sidecar::Running;

/// The limits in MiB (the bound: docs/operations.md, "Memory"; the small backlog stays below it).
/// With librdkafka's own fetches the small backlog took 335.
const LIMIT: usize = 256;
const LARGE_LIMIT: usize = 512;
const PARTITIONS: i32 = 100;
/// Bytes of a record of the compressed backlog.
const RECORD: usize = 10_000;

/// The most memory the process ever had, in MiB.
fn peak(running: &Running<'_>) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", running.pid())).unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    kib.trim().trim_end_matches(" kB").parse::<usize>().unwrap() >> 10
}

/// JSON that compresses 25 to 1.
fn record(i: usize) -> String {
    let mut random = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut value = format!("{{\"id\":{i},\"email\":\"user{i}@example.com\",\"rows\":[");
    while value.len() < RECORD {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        value.push_str(&format!(
            "{{\"kind\":\"measurement of an ordinary device\",\"unit\":\"degrees \
            Celsius\",\"comment\":\"within the limits\",\"value\":{}}},",
            random >> 44
        ));
    }
    value.push_str("0]}");
    value
}

/// So many megabytes of zstd over 100 partitions, then as many records whose headers have 500 KB.
fn drained(name: &str, megabytes: usize, with_headers: usize, limit: usize) {
    let sandbox = Sandbox::new(kafka(), name, PARTITIONS);
    let raw = format!("{name}.raw");
    let count = megabytes * 1_000_000 / RECORD;
    let zstd = Feeder::compressed(kafka(), "zstd");
    // One partition after another: large batches, as a backlog has them.
    for partition in 0..PARTITIONS {
        let share = count / PARTITIONS as usize;
        for i in 0..share {
            let number = (partition as usize * share + i).to_string();
            let value = record(partition as usize * share + i);
            let headers = [("n", Some(number.as_bytes()))];
            zstd.send(&Input {
                topic: &raw,
                partition,
                key: None,
                value: Some(value.as_bytes()),
                timestamp: *TIME,
                headers: &headers,
            });
        }
    }
    zstd.finish();
    let plain = Feeder::new(kafka());
    let padding = vec![b'x'; 500_000];
    for i in 0..with_headers {
        let number = (count + i).to_string();
        let headers = [("n", Some(number.as_bytes())), ("padding", Some(&padding[..]))];
        let partition = i32::try_from(i).unwrap() % PARTITIONS;
        plain.send(&Input {
            topic: &raw,
            partition,
            key: None,
            value: Some(br#"{"id":1,"email":"a@example.com"}"#),
            timestamp: *TIME,
            headers: &headers,
        });
        if i % 50 == 49 {
            plain.finish();
        }
    }
    plain.finish();
    let instance = sandbox.instance(0);
    let all = (count + with_headers) as f64;
    let mut running = instance.start();
    running.wait_for(Duration::from_secs(540), "the backlog", |r| {
        r.metric("veilstream_records_produced_total", &raw.replace(".raw", ".clean")) >= all
    });
    let peak = peak(&running);
    println!(
        "{name}: {count} records of {RECORD} bytes and {with_headers} with 500 KB of headers: \
        {peak} MiB at most"
    );
    assert!(peak < limit, "{peak} MiB");
    assert_eq!(running.stop(), Some(0), "{}", instance.tail());
}

#[test]
fn catching_up_stays_within_its_memory() {
    drained("memory", 200, 300, LIMIT);
}

/// `cargo test --release --test e2e memory -- --ignored --nocapture`
#[test]
#[ignore = "two gigabytes and 2,000 large records: minutes"]
fn catching_up_with_gigabytes_stays_within_its_memory() {
    drained("memory-large", 2000, 2000, LARGE_LIMIT);
}
