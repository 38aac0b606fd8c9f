//! How speed and memory grow with what a deployment has more of, and a model of its capacity, which
//! is fitted to some of the points and checked against others.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{ClientConfig, Message as _, Offset, TopicPartitionList};

use crate::measure::{self, Monitor, Window};
use crate::report::median;
use crate::system::{Bench, Deployment};
use crate::workload::{Random, WORDS, send};
use crate::{delete_topics, kafka};

/// Members of every event of the series of fields.
const MEMBERS: u64 = 100;
/// Different events of a point; making one costs more than sending it.
const EVENTS: u64 = 1_000;
/// The most records of a point, and the least.
const RECORDS: (u64, u64) = (500_000, 200);
/// A started process has read its topics and has nothing to do.
const IDLE: Duration = Duration::from_secs(5);

/// One point.
#[derive(Debug, Clone, Copy)]
struct Shape {
    /// Protected values of an event.
    fields: u64,
    /// Of an event.
    bytes: u64,
    /// Of all raw topics.
    partitions: u64,
    schemas: u64,
    lanes: u64,
    instances: u64,
}

const USUAL: Shape =
    Shape { fields: 5, bytes: 1_000, partitions: 4, schemas: 1, lanes: 2, instances: 1 };

/// What grows, and to what.
struct Series {
    name: &'static str,
    points: &'static [u64],
    shape: fn(u64) -> Shape,
}

/// Each shape to check the model with is a point of its own.
const CHECKS: [Shape; 3] = [
    Shape { fields: 3, bytes: 400, ..USUAL },
    Shape { fields: 20, bytes: 2_000, ..USUAL },
    Shape { fields: 60, bytes: 30_000, ..USUAL },
];

const SERIES: [Series; 7] = [
    Series {
        name: "fields",
        points: &[0, 1, 5, 10, 20, 50, 100],
        shape: |fields| Shape { fields, bytes: 4_000, ..USUAL },
    },
    Series {
        name: "bytes",
        points: &[200, 1_000, 10_000, 100_000, 1_000_000],
        shape: |bytes| Shape { bytes, ..USUAL },
    },
    Series { name: "lanes", points: &[1, 2, 4], shape: |lanes| Shape { lanes, ..USUAL } },
    Series {
        name: "instances",
        points: &[1, 2, 4],
        shape: |instances| Shape { instances, lanes: 1, ..USUAL },
    },
    Series { name: "check", points: &[0, 1, 2], shape: |at| CHECKS[at as usize] },
    Series {
        name: "partitions",
        points: &[1, 10, 100, 1_000],
        shape: |partitions| Shape { partitions, ..USUAL },
    },
    Series {
        name: "schemas",
        points: &[1, 10, 100, 1_000],
        shape: |schemas| Shape { schemas, partitions: schemas.max(4), ..USUAL },
    },
];

/// What one run of a point gave.
struct Measured {
    series: &'static str,
    at: u64,
    shape: Shape,
    window: Window,
    /// Resident memory of a process: idle, and its peak under load, in MiB.
    idle: f64,
    peak: f64,
    /// Bytes on the broker's disk for each byte of an output value.
    stored: f64,
}

impl Measured {
    /// Microseconds of the sidecars' processor time for a record.
    fn micros(&self) -> f64 {
        self.window.client_per_million()
    }

    fn broker_micros(&self) -> f64 {
        self.window.broker_per_million()
    }
}

/// All series, or `only` one, `rounds` times: the tables. The runs go to `file` too, as CSV.
/// `budget`: bytes of a point's events.
pub(crate) fn run(
    bench: &Bench,
    only: Option<&str>,
    rounds: usize,
    budget: u64,
    file: &Path,
) -> anyhow::Result<String> {
    let mut all = Vec::new();
    // The broker's code is compiled while it runs: its first run is not measured.
    let usual = Series { name: "warm-up", points: &[0], shape: |_| USUAL };
    point(bench, &usual, 0, budget, "growth-warm-up").context("warm-up")?;
    for round in 1..=rounds {
        for series in SERIES.iter().filter(|series| only.is_none_or(|only| series.name == only)) {
            for at in series.points {
                let name = format!("growth-{}-{at}-{round}", series.name);
                let measured = point(bench, series, *at, budget, &name).context(name)?;
                println!("{}", line(&measured));
                all.push(measured);
                write_csv(&all, file)?;
            }
        }
    }
    Ok(report(&all))
}

fn line(m: &Measured) -> String {
    let Measured { series, at, window, idle, peak, stored, .. } = m;
    format!(
        "| {series} | {at} | {:.0} | {:.2} | {:.2} | {:.2} | {idle:.0} | {peak:.0} | {:.0} | \
        {stored:.2} |",
        window.rate(),
        m.micros(),
        m.micros() * 1000.0 / m.shape.bytes as f64,
        m.broker_micros(),
        window.out_bytes,
    )
}

/// One point from nothing: topics, events, an idle start, a run.
fn point(
    bench: &Bench,
    series: &Series,
    at: u64,
    budget: u64,
    name: &str,
) -> anyhow::Result<Measured> {
    let shape = (series.shape)(at);
    let each = shape.partitions / shape.schemas;
    let topics: Vec<(String, i32)> = (0..shape.schemas)
        .map(|n| Ok((format!("{name}-{n}.raw"), i32::try_from(each)?)))
        .collect::<anyhow::Result<_>>()?;
    create(&topics)?;
    let deployment = Deployment {
        schemas: topics.iter().map(|(raw, _)| document(raw, shape.fields)).collect(),
        lanes: usize::try_from(shape.lanes)?,
        instances: usize::try_from(shape.instances)?,
    };
    let mut running = bench.start_sidecars(name, &deployment, true)?;
    std::thread::sleep(IDLE);
    running.check()?;
    let idle = measure::memory(running.ids()[0], "VmRSS")?;
    running.stop()?;

    let records = (budget / shape.bytes).clamp(RECORDS.1, RECORDS.0);
    feed(&bench.bootstrap, &topics, shape, records)?;
    let monitor = Monitor::new(&bench.bootstrap, name, topics.clone())?;
    let mut running = bench.start_sidecars(name, &deployment, false)?;
    let mut window = measure::watch(&monitor, &mut running, records)?;
    let peak = measure::memory(running.ids()[0], "VmHWM")?;
    running.stop()?;
    window.out_bytes = first_output(&bench.bootstrap, &sanitized(&topics[0].0), shape)?;
    let on_disk: usize =
        topics.iter().map(|(raw, _)| kafka::kafka().segments(&sanitized(raw)).len()).sum();
    let stored = on_disk as f64 / (window.out_bytes * records as f64);
    let raw = topics.iter().map(|(raw, _)| raw.clone());
    delete_topics(&bench.bootstrap, raw.clone().chain(raw.map(|raw| sanitized(&raw))).collect())?;
    Ok(Measured { series: series.name, at, shape, window, idle, peak, stored })
}

fn create(topics: &[(String, i32)]) -> anyhow::Result<()> {
    let new: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|(name, partitions)| {
            NewTopic::new(name, *partitions, TopicReplication::Fixed(1))
                .set("max.message.bytes", "4194304")
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let admin = kafka::kafka().admin();
    for result in runtime.block_on(admin.create_topics(&new, &AdminOptions::new()))? {
        result.map_err(|(topic, error)| anyhow::anyhow!("{topic}: {error}"))?;
    }
    // A broker that deletes thousands of partitions shows new ones late.
    kafka::wait_for(Duration::from_secs(120), "the new topics", || {
        admin.inner().fetch_metadata(None, Duration::from_secs(10)).is_ok_and(|metadata| {
            topics.iter().all(|(name, _)| metadata.topics().iter().any(|t| t.name() == name))
        })
    });
    Ok(())
}

fn sanitized(raw: &str) -> String {
    raw.replace(".raw", ".out")
}

/// The name of a schema document that protects so many members, and its text.
fn document(raw: &str, fields: u64) -> (String, String) {
    let fields: Vec<String> =
        (0..fields).map(|n| format!(r#"{{ "id": "f{n}", "path": "$.f{n}" }}"#)).collect();
    let name = raw.trim_end_matches(".raw");
    let text = format!(
        r#"{{ "veilstream": 1, "name": "{name}", "version": 1, "topics": {{ "from": "{raw}", "to": "{}" }}, "fields": [{}] }}"#,
        sanitized(raw),
        fields.join(",")
    );
    (name.to_owned(), text)
}

/// An event of about `bytes`, with members that a document of its shape protects, and as many more
/// as fit, of the same length.
fn event(random: &mut Random, shape: Shape) -> String {
    let mut text = String::from("{");
    let members = MEMBERS.min(shape.bytes / 40).max(shape.fields);
    for n in 0..members {
        let _ = write!(text, r#""f{n}":"{:020}","#, random.below(u64::MAX));
    }
    text.push_str(r#""note":""#);
    let end = usize::try_from(shape.bytes).unwrap_or_default();
    while text.len() + 2 < end {
        text.push_str(random.of(&WORDS));
        text.push(' ');
    }
    text.push_str("\"}");
    text
}

/// Writes the events to all partitions in turns.
fn feed(
    bootstrap: &str,
    topics: &[(String, i32)],
    shape: Shape,
    records: u64,
) -> anyhow::Result<()> {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("message.max.bytes", "4000000")
        .set("delivery.report.only.error", "true")
        .create()?;
    let mut random = Random(shape.bytes ^ shape.fields);
    let kinds = EVENTS.min(100_000_000 / shape.bytes);
    let events: Vec<String> = (0..kinds).map(|_| event(&mut random, shape)).collect();
    let places: Vec<(&str, i32)> = topics
        .iter()
        .flat_map(|(topic, partitions)| (0..*partitions).map(move |p| (&**topic, p)))
        .collect();
    for i in 0..usize::try_from(records)? {
        let (topic, partition) = places[i % places.len()];
        let value = &events[i % events.len()];
        let record = BaseRecord::<[u8], str>::to(topic).partition(partition).payload(value);
        send(&producer, record)?;
    }
    producer.flush(Duration::from_secs(120)).context("the events could not be written")
}

/// Bytes of the first output record, which has a token for each protected value.
fn first_output(bootstrap: &str, topic: &str, shape: Shape) -> anyhow::Result<f64> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "bench-growth")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Beginning)?;
    consumer.assign(&list)?;
    let end = Instant::now() + Duration::from_secs(30);
    while Instant::now() < end {
        if let Some(message) = consumer.poll(Duration::from_secs(1)) {
            let message = message?;
            let value = message.payload().unwrap_or_default();
            let tokens = std::str::from_utf8(value)?.matches(r#""vs1."#).count();
            if tokens as u64 != shape.fields {
                bail!("an output of {} bytes has {tokens} tokens", value.len());
            }
            return Ok(value.len() as f64);
        }
    }
    bail!("{topic} has no output")
}

fn write_csv(all: &[Measured], file: &Path) -> anyhow::Result<()> {
    let mut text = String::from(
        "series,at,fields,bytes,records_per_s,client_us,broker_us,idle_mib,peak_mib,out_bytes,\
        stored\n",
    );
    for m in all {
        writeln!(
            text,
            "{},{},{},{},{:.0},{:.3},{:.3},{:.1},{:.1},{:.0},{:.3}",
            m.series,
            m.at,
            m.shape.fields,
            m.shape.bytes,
            m.window.rate(),
            m.micros(),
            m.broker_micros(),
            m.idle,
            m.peak,
            m.window.out_bytes,
            m.stored
        )?;
    }
    fs::write(file, text).with_context(|| format!("{}", file.display()))
}

/// A point's medians over the rounds.
struct Point {
    shape: Shape,
    rate: f64,
    micros: f64,
    broker: f64,
    idle: f64,
    peak: f64,
    out_bytes: f64,
    stored: f64,
}

fn points(all: &[Measured]) -> BTreeMap<(&'static str, u64), Point> {
    let mut points = BTreeMap::new();
    for m in all {
        let of = |figure: &dyn Fn(&Measured) -> f64| {
            let rounds = all.iter().filter(|o| (o.series, o.at) == (m.series, m.at));
            median(rounds.map(figure)).unwrap_or_default()
        };
        points.entry((m.series, m.at)).or_insert_with(|| Point {
            shape: m.shape,
            rate: of(&|m| m.window.rate()),
            micros: of(&Measured::micros),
            broker: of(&Measured::broker_micros),
            idle: of(&|m| m.idle),
            peak: of(&|m| m.peak),
            out_bytes: of(&|m| m.window.out_bytes),
            stored: of(&|m| m.stored),
        });
    }
    points
}

fn report(all: &[Measured]) -> String {
    let points = points(all);
    let mut text = String::from(
        "| series | | records/s | client CPU, us a record | ns a byte of input | broker CPU, us a \
        record | MiB idle | MiB at most | bytes out | stored |\n|---|---:|---:|---:|---:|---:|---:|\
        ---:|---:|---:|\n",
    );
    for series in &SERIES {
        for at in series.points {
            let Some(p) = points.get(&(series.name, *at)) else { continue };
            // Writing to a string never fails.
            let _ = writeln!(
                text,
                "| {} | {at} | {:.0} | {:.1} | {:.1} | {:.1} | {:.0} | {:.0} | {:.0} | {:.2} |",
                series.name,
                p.rate,
                p.micros,
                p.micros * 1000.0 / p.shape.bytes as f64,
                p.broker,
                p.idle,
                p.peak,
                p.out_bytes,
                p.stored
            );
        }
    }
    let fitted: Vec<&Point> = points
        .iter()
        .filter(|((series, _), _)| matches!(*series, "fields" | "bytes"))
        .map(|(_, point)| point)
        .collect();
    if fitted.is_empty() {
        return text;
    }
    let client = Model::fit(fitted.iter().map(|p| (client_terms(p), p.micros)));
    let broker = Model::fit(fitted.iter().map(|p| (broker_terms(p), p.broker)));
    let [record, byte, value] = client.0;
    let [broker_record, broker_byte, _] = broker.0;
    let _ = writeln!(
        text,
        "\nModel, fitted to the series of fields and bytes: a record takes the client {record:.2} \
        us, {:.2} ns for each byte of input and {value:.2} us for each protected value. It takes \
        the broker {broker_record:.2} us, and {:.2} ns for each byte of input and output.\n\n| \
        values | bytes | client us | model | | broker us | model | |\n|---:|---:|---:|---:|---:|\
        ---:|---:|---:|",
        byte * 1000.0,
        broker_byte * 1000.0
    );
    for at in 0..CHECKS.len() as u64 {
        let Some(p) = points.get(&("check", at)) else { continue };
        let (c, b) = (client.at(client_terms(p)), broker.at(broker_terms(p)));
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} | {c:.1} | {:.2} | {:.1} | {b:.1} | {:.2} |",
            p.shape.fields,
            p.shape.bytes,
            p.micros,
            c / p.micros,
            p.broker,
            b / p.broker
        );
    }
    text
}

fn client_terms(point: &Point) -> [f64; 3] {
    [1.0, point.shape.bytes as f64, point.shape.fields as f64]
}

fn broker_terms(point: &Point) -> [f64; 3] {
    [1.0, point.shape.bytes as f64 + point.out_bytes, 0.0]
}

/// Factors of three terms.
struct Model([f64; 3]);

impl Model {
    /// The least squares of the relative errors.
    fn fit(points: impl Iterator<Item = ([f64; 3], f64)>) -> Self {
        // The normal equations; a term that is always 0 gets the factor 0.
        let mut rows = [[0.0; 4]; 3];
        for (terms, measured) in points {
            let scaled = terms.map(|term| term / measured);
            for (row, factor) in rows.iter_mut().zip(scaled) {
                for (cell, other) in row.iter_mut().zip(scaled.into_iter().chain([1.0])) {
                    *cell += factor * other;
                }
            }
        }
        for pivot in 0..3 {
            if rows[pivot][pivot].abs() < 1e-12 {
                continue;
            }
            let own = rows[pivot];
            for (at, row) in rows.iter_mut().enumerate() {
                let times = row[pivot] / own[pivot];
                if at != pivot {
                    row.iter_mut().zip(own).for_each(|(cell, other)| *cell -= times * other);
                }
            }
        }
        Self([0, 1, 2].map(|at| {
            let factor = rows[at][at];
            if factor.abs() < 1e-12 { 0.0 } else { rows[at][3] / factor }
        }))
    }

    fn at(&self, terms: [f64; 3]) -> f64 {
        self.0.iter().zip(terms).map(|(factor, term)| factor * term).sum()
    }
}
