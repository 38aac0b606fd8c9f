//! One run's figures: between the first and the last sample of the group's committed offsets.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::system::{Running, System};
use crate::workload::{EVENT_BYTES, INDEXED, OUT, PARTITIONS, SEALED};

/// How often committed offsets are looked at.
const LOOK: Duration = Duration::from_millis(25);
/// No progress for so long is a failure.
const STALL: Duration = Duration::from_secs(60);
/// What `/proc` counts processor time in (`sysconf(_SC_CLK_TCK)`, 100 on every Linux).
const TICKS: f64 = 100.0;

/// What happened within the window.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Window {
    pub(crate) records: f64,
    pub(crate) seconds: f64,
    /// Processor seconds of the system's processes.
    pub(crate) client: f64,
    /// Processor seconds of the broker.
    pub(crate) broker: f64,
    /// Cores that were busy with something else on average.
    pub(crate) elsewhere: f64,
    /// Bytes of an output value, on average.
    pub(crate) out_bytes: f64,
}

impl Window {
    pub(crate) fn rate(&self) -> f64 {
        self.records / self.seconds
    }

    /// Processor seconds of the client for a million records.
    pub(crate) fn client_per_million(&self) -> f64 {
        self.client * 1e6 / self.records
    }

    pub(crate) fn broker_per_million(&self) -> f64 {
        self.broker * 1e6 / self.records
    }
}

/// Looks at a group from outside.
pub(crate) struct Monitor {
    client: BaseConsumer,
    /// Raw topics and their partitions.
    topics: Vec<(String, i32)>,
}

impl Monitor {
    pub(crate) fn new(
        bootstrap: &str,
        group: &str,
        topics: Vec<(String, i32)>,
    ) -> anyhow::Result<Self> {
        let mut config = ClientConfig::new();
        // Not stable offsets but committed ones: those of open transactions do not count either
        // way, and nothing is waited for.
        config
            .set("bootstrap.servers", bootstrap)
            .set("group.id", group)
            .set("isolation.level", "read_uncommitted");
        Ok(Self { client: config.create()?, topics })
    }

    /// Records whose transactions have committed.
    pub(crate) fn committed(&self) -> anyhow::Result<u64> {
        let mut list = TopicPartitionList::new();
        for (topic, partitions) in &self.topics {
            list.add_partition_range(topic, 0, partitions - 1);
        }
        let committed = self
            .client
            .committed_offsets(list, Duration::from_secs(10))
            .context("committed offsets cannot be read")?;
        let offsets = committed
            .elements()
            .into_iter()
            .map(|e| if let Offset::Offset(at) = e.offset() { at.unsigned_abs() } else { 0 });
        Ok(offsets.sum())
    }
}

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    committed: u64,
    client: f64,
    broker: f64,
    own: f64,
    machine: f64,
}

impl Sample {
    fn take(committed: u64, clients: &[u32], broker: u32) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            committed,
            client: clients.iter().map(|id| used(*id)).sum::<anyhow::Result<f64>>()?,
            broker: used(broker)?,
            own: used(std::process::id())?,
            machine: busy()?,
        })
    }
}

/// Watches a started system until `target` records are committed.
pub(crate) fn watch(
    monitor: &Monitor,
    running: &mut Running,
    target: u64,
) -> anyhow::Result<Window> {
    let (ids, broker) = (running.ids(), broker_process()?);
    let mut first: Option<Sample> = None;
    let (mut last, mut moved) = (0, Instant::now());
    let end = loop {
        running.check()?;
        // A young broker has no coordinator yet.
        let looked = monitor.committed();
        let committed = *looked.as_ref().unwrap_or(&last);
        if committed > last {
            (last, moved) = (committed, Instant::now());
        } else if moved.elapsed() > STALL {
            looked?;
            bail!(
                "no progress for {} s at {committed} of {target} records:\n{}",
                STALL.as_secs(),
                running.said()
            );
        }
        if committed > 0 && (first.is_none() || committed >= target) {
            let sample = Sample::take(committed, &ids, broker)?;
            if committed >= target {
                break sample;
            }
            first = Some(sample);
        }
        std::thread::sleep(LOOK);
    };
    let start = first.context("all records were committed at once: too few of them")?;
    let seconds = (end.at - start.at).as_secs_f64();
    let (client, broker) = (end.client - start.client, end.broker - start.broker);
    let elsewhere =
        (end.machine - start.machine - client - broker - (end.own - start.own)) / seconds;
    Ok(Window {
        records: (end.committed - start.committed) as f64,
        seconds,
        client,
        broker,
        elsewhere,
        out_bytes: 0.0,
    })
}

/// Reads the output as read_committed shows it: `expected` records, and the first of each partition
/// as they should be. Bytes of a value on average.
pub(crate) fn verify(bootstrap: &str, system: System, expected: u64) -> anyhow::Result<f64> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "bench-verify")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.set("isolation.level", "read_committed").create()?;
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(OUT, partition, Offset::Beginning)?;
    }
    consumer.assign(&list)?;
    let (mut open, mut records, mut bytes) = (PARTITIONS, 0, 0);
    while open > 0 {
        match consumer.poll(Duration::from_secs(30)).context("the output does not end")? {
            Ok(message) => {
                let value = message.payload().unwrap_or_default();
                if records % 1000 == 0 {
                    look_at(system, value)?;
                }
                (records, bytes) = (records + 1, bytes + value.len());
            }
            Err(KafkaError::PartitionEOF(_)) => open -= 1,
            Err(error) => return Err(error.into()),
        }
    }
    if records != expected {
        bail!("{} committed offsets of {expected} records and wrote {records}", system.name());
    }
    Ok(bytes as f64 / records as f64)
}

fn look_at(system: System, value: &[u8]) -> anyhow::Result<()> {
    let text = std::str::from_utf8(value)?;
    let tokens = text.matches(r#""vs1."#).count() + text.matches(r#""enc1."#).count();
    let indexes = text.matches("_bidx\":").count();
    let clear = text.contains("@example.com");
    let right = if system.copies() {
        value.len() == EVENT_BYTES && clear
    } else {
        (tokens, indexes) == (SEALED, INDEXED) && !clear
    };
    if right {
        Ok(())
    } else {
        bail!(
            "{} wrote {tokens} tokens and {indexes} indexes into one of {} bytes",
            system.name(),
            value.len()
        )
    }
}

/// Processor seconds of a process so far.
fn used(id: u32) -> anyhow::Result<f64> {
    let stat =
        fs::read_to_string(format!("/proc/{id}/stat")).with_context(|| format!("process {id}"))?;
    // The second field is a name in parentheses that may hold anything.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|f| f.parse::<f64>().ok())
            .with_context(|| format!("/proc/{id}/stat"))
    };
    Ok((ticks(11)? + ticks(12)?) / TICKS)
}

/// A line of `/proc/<pid>/status` that says memory, in MiB.
pub(crate) fn memory(id: u32, line: &str) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix(line)?.strip_prefix(':')?.trim().strip_suffix(" kB"))
        .with_context(|| format!("/proc/{id}/status has no {line}"))?;
    Ok(kib.parse::<f64>()? / 1024.0)
}

/// Processor seconds of the whole machine so far.
fn busy() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let fields: Vec<f64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    // user, nice, system, (idle, iowait), irq, softirq, steal
    Ok([0, 1, 2, 5, 6, 7].iter().filter_map(|i| fields.get(*i)).sum::<f64>() / TICKS)
}

/// The broker that this process started.
fn broker_process() -> anyhow::Result<u32> {
    let folder = format!("/kafka-{}-1/server.properties", std::process::id());
    for entry in fs::read_dir("/proc")? {
        let Some(id) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let command = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
        if command.starts_with("java\0") && command.contains(&folder) {
            return Ok(id);
        }
    }
    bail!("no process of the broker")
}
