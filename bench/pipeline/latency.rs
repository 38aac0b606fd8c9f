//! Latency under load: records are due at even intervals, whether or not earlier ones have arrived,
//! and a reader of committed records says when each is there.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::report::median;
use crate::system::{Bench, System};
use crate::workload::{OUT, PARTITIONS, RAW, Random, event, send};
use crate::{delete_topic, kafka};

/// Shares of the ceiling, in percent.
const LOADS: [u64; 3] = [10, 50, 80];
/// So long a system runs under its load before anything is measured, in seconds.
const WARM: u64 = 5;
/// Different events; making one costs more than sending it.
const EVENTS: usize = 10_000;
/// All records arrive within this time, or the system does not keep up.
const ARRIVAL: Duration = Duration::from_secs(30);

/// One system under one load.
struct Measured {
    system: System,
    load: u64,
    /// Microseconds from when a record was due to when a reader had it, sorted.
    latencies: Vec<u64>,
    /// Milliseconds of a commit, on average; the sidecar says it.
    commit: Option<f64>,
}

impl Measured {
    fn quantile(&self, q: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = (last as f64 * q).round() as usize;
        self.latencies.get(at).map_or(0.0, |micros| *micros as f64 / 1000.0)
    }
}

/// Measures copier and sidecar in turns; the table.
pub(crate) fn run(bench: &Bench, rounds: usize, seconds: u64) -> anyhow::Result<String> {
    let mut random = Random(1);
    let events: Vec<String> = (0..EVENTS).map(|_| event(&mut random)).collect();
    let (mut all, mut ceilings) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let (full, _) =
            flow(bench, System::Sidecar, &events, None, seconds, &format!("full-{round}"))?;
        let ceiling = full.len() as f64 / seconds as f64;
        println!("round {round}: at most {ceiling:.0} records/s pass through the sidecar");
        ceilings.push(ceiling);
        for load in LOADS {
            let rate = ceiling * load as f64 / 100.0;
            let mut systems = [System::Copier, System::Sidecar];
            if round % 2 == 0 {
                systems.reverse();
            }
            for system in systems {
                let group = format!("latency-{}-{load}-{round}", system.is_sidecar());
                let (mut latencies, commit) =
                    flow(bench, system, &events, Some(rate), seconds, &group)?;
                latencies.sort_unstable();
                let measured = Measured { system, load, latencies, commit };
                println!("{}", line(&measured, rate));
                all.push(measured);
            }
        }
    }
    Ok(table(&all, &ceilings, seconds))
}

fn line(measured: &Measured, rate: f64) -> String {
    let Measured { system, load, latencies, commit } = measured;
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| measured.quantile(q));
    format!(
        "| {load} % | {} | {rate:.0} | {} | {p50:.1} | {p99:.1} | {p999:.1} | {} |",
        system.name(),
        latencies.len(),
        commit.map(|ms| format!("{ms:.1}")).unwrap_or_default()
    )
}

fn table(all: &[Measured], ceilings: &[f64], seconds: u64) -> String {
    let ceiling = median(ceilings.iter().copied()).unwrap_or_default();
    let mut text = format!(
        "Of {ceiling:.0} records/s, the most that pass through the sidecar while feeder and reader \
        run; {} rounds of {seconds} s, medians. Milliseconds from when a record was due to when a \
        reader of committed records had it, and in which a lane was blocked by a commit on \
        average.\n\n| load | | p50 | p99 | p99.9 | a commit |\n|---|---|---|---|---|---|\n",
        ceilings.len()
    );
    for load in LOADS {
        let of = |system: System, q: f64| {
            let rounds = all.iter().filter(|m| m.system == system && m.load == load);
            median(rounds.map(|measured| measured.quantile(q))).unwrap_or_default()
        };
        let commit = |system: System| {
            let rounds = all.iter().filter(|m| m.system == system && m.load == load);
            median(rounds.filter_map(|measured| measured.commit))
        };
        for system in [System::Copier, System::Sidecar] {
            let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|q| of(system, q));
            // Writing to a string never fails.
            let _ = writeln!(
                text,
                "| {load} % | {} | {p50:.1} | {p99:.1} | {p999:.1} | {} |",
                system.name(),
                commit(system).map(|ms| format!("{ms:.1}")).unwrap_or_default()
            );
        }
        let added = of(System::Sidecar, 0.99) - of(System::Copier, 0.99);
        let _ = writeln!(text, "| {load} % | added | | {added:.1} | | |");
    }
    text
}

/// A system from nothing, under a load for `seconds`; `None`: as much as it takes. The latencies of
/// the records that arrived after the warm-up, and what a commit took.
fn flow(
    bench: &Bench,
    system: System,
    events: &[String],
    rate: Option<f64>,
    seconds: u64,
    group: &str,
) -> anyhow::Result<(Vec<u64>, Option<f64>)> {
    delete_topic(&bench.bootstrap, RAW)?;
    delete_topic(&bench.bootstrap, OUT)?;
    kafka::kafka().create_topic(RAW, PARTITIONS);
    if !system.is_sidecar() {
        kafka::kafka().create_topic(OUT, PARTITIONS);
    }
    let mut running = bench.start(system, group)?;
    let reader = Reader::start(&bench.bootstrap)?;
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &bench.bootstrap)
        .set("enable.idempotence", "true")
        .set("linger.ms", "1")
        .set("queue.buffering.max.messages", "20000")
        .create()?;
    let mut feeder = Feeder { producer, events, sent: 0 };
    feeder.send(micros())?;
    let begun = Instant::now();
    while reader.arrived() < 1 {
        running.check()?;
        if begun.elapsed() > Duration::from_secs(60) {
            bail!("{}: its first record does not come:\n{}", system.name(), running.said());
        }
        feeder.producer.poll(Duration::from_millis(5));
    }
    let start = Instant::now();
    let measured_from = micros() + WARM * 1_000_000;
    let end = Duration::from_secs(WARM + seconds);
    reader.measure(measured_from, measured_from + seconds * 1_000_000, rate.is_none());
    match rate {
        Some(rate) => feeder.at(rate, start, end)?,
        None => feeder.without_pause(&reader, start, end)?,
    }
    let fed = Instant::now();
    while rate.is_some() && reader.arrived() < feeder.sent {
        running.check()?;
        if fed.elapsed() > ARRIVAL {
            bail!(
                "{}: {} of {} records arrived; it does not keep up with the load",
                system.name(),
                reader.arrived(),
                feeder.sent
            );
        }
        thread::sleep(Duration::from_millis(20));
    }
    let latencies = reader.stop()?;
    let commits = running.metric("veilstream_commit_duration_seconds_count")?;
    let seconds = running.metric("veilstream_commit_duration_seconds_sum")?;
    running.stop()?;
    Ok((latencies, seconds.zip(commits).map(|(seconds, commits)| seconds * 1000.0 / commits)))
}

/// Sends records; the key of each is when it was due, in microseconds since the epoch.
struct Feeder<'e> {
    producer: BaseProducer,
    events: &'e [String],
    sent: usize,
}

impl Feeder<'_> {
    fn send(&mut self, due: u64) -> anyhow::Result<()> {
        let key = due.to_string();
        let value = &self.events[self.sent % self.events.len()];
        let partition = i32::try_from(self.sent)? % PARTITIONS;
        let record = BaseRecord::to(RAW).partition(partition).key(&key).payload(value);
        send(&self.producer, record)?;
        self.sent += 1;
        Ok(())
    }

    fn at(&mut self, rate: f64, start: Instant, end: Duration) -> anyhow::Result<()> {
        let (first, before) = (micros(), self.sent);
        loop {
            let elapsed = start.elapsed();
            if elapsed > end {
                return Ok(());
            }
            let due = (elapsed.as_secs_f64() * rate) as usize;
            while self.sent - before < due {
                let after = (self.sent - before) as f64 / rate;
                self.send(first + (after * 1e6) as u64)?;
            }
            self.producer.poll(Duration::from_micros(500));
        }
    }

    /// Only so far ahead of the reader that every system finds work.
    fn without_pause(
        &mut self,
        reader: &Reader,
        start: Instant,
        end: Duration,
    ) -> anyhow::Result<()> {
        while start.elapsed() < end {
            if self.sent - reader.arrived() > 100_000 {
                self.producer.poll(Duration::from_millis(1));
            } else {
                for _ in 0..100 {
                    self.send(micros())?;
                }
                self.producer.poll(Duration::ZERO);
            }
        }
        Ok(())
    }
}

#[derive(Default)]
struct Seen {
    arrived: AtomicUsize,
    stop: AtomicBool,
    /// From when to when a record is due, or arrives, that is measured.
    measured: Mutex<(u64, u64, bool)>,
}

/// Reads what is committed, as soon as it is.
struct Reader {
    seen: Arc<Seen>,
    thread: thread::JoinHandle<anyhow::Result<Vec<u64>>>,
}

impl Reader {
    fn start(bootstrap: &str) -> anyhow::Result<Self> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", bootstrap)
            .set("group.id", "bench-latency")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("topic.metadata.refresh.interval.ms", "500")
            .create()?;
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset(OUT, partition, Offset::Beginning)?;
        }
        consumer.assign(&list)?;
        let seen = Arc::new(Seen::default());
        let shared = seen.clone();
        Ok(Self { seen, thread: thread::spawn(move || read(&consumer, &shared)) })
    }

    fn arrived(&self) -> usize {
        self.seen.arrived.load(Ordering::Relaxed)
    }

    /// `arriving`: by when records arrive, and not by when they are due.
    fn measure(&self, from: u64, to: u64, arriving: bool) {
        *self.seen.measured.lock().unwrap_or_else(PoisonError::into_inner) = (from, to, arriving);
    }

    fn stop(self) -> anyhow::Result<Vec<u64>> {
        self.seen.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?
    }
}

fn read(consumer: &BaseConsumer, seen: &Seen) -> anyhow::Result<Vec<u64>> {
    let mut latencies = Vec::new();
    while !seen.stop.load(Ordering::Relaxed) {
        let message = match consumer.poll(Duration::from_millis(50)) {
            None => continue,
            Some(Ok(message)) => message,
            // The sidecar makes the topic while it starts.
            Some(Err(_)) => continue,
        };
        let now = micros();
        let due = message.key().and_then(|key| std::str::from_utf8(key).ok()?.parse().ok());
        let due: u64 = due.context("a record has lost its key")?;
        seen.arrived.fetch_add(1, Ordering::Relaxed);
        let (from, to, arriving) = *seen.measured.lock().unwrap_or_else(PoisonError::into_inner);
        let counted = if arriving { now } else { due };
        if (from..to).contains(&counted) {
            latencies.push(now.saturating_sub(due));
        }
    }
    Ok(latencies)
}

fn micros() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or_default()
}
