//! `veilstream demo`: the pipeline of `run`, in process, between an embedded broker's topics.

mod broker;

use std::fmt::Write as _;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use krafka::ConsumerRecord;
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use veilstream_engine::compile::Grants;
use veilstream_engine::error::OpenError;
use veilstream_engine::index::Indexer;
use veilstream_engine::key::{KeyKind, Scope};
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::reveal::{
    KeySource as Lookup, Report, RevealOptions, Revealer, Status as Opened,
};
use veilstream_engine::schema::Schema;
use veilstream_keys::erasure::Terms;

use crate::config::{self, Config};
use crate::dead_letters::read;
use crate::keys::{self, KeySource, KeysSource};
use crate::pipeline::RunningPipeline;
use crate::registry::Registry;
use crate::status::Status;
use crate::telemetry::metrics::Metrics;
use broker::Broker;

const SCHEMA: &str = include_str!("../schemas/customers.json");
const EVENTS: &str = include_str!("demo/events.ndjson");
const RAW: &str = "customers.raw";
const SANITIZED: &str = "customers.sanitized";
const DEAD: &str = "veilstream.dead-letter";
const PARTITIONS: i32 = 2;
/// What somebody types who looks for a customer.
const SOUGHT: &str = " Ada.Lovelace@EXAMPLE.com";
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs the demo and writes what happens to `out`.
///
/// # Errors
/// A part does not start, or does not do within 40 s what it shows.
pub fn run(out: &mut dyn Write, colour: bool, keep: bool) -> anyhow::Result<()> {
    let dir = Folder::new()?;
    let schemas = dir.0.join("schemas");
    std::fs::create_dir(&schemas)?;
    std::fs::write(schemas.join("customers.json"), SCHEMA)?;
    let broker = Broker::start()?;
    for topic in [RAW, SANITIZED, DEAD] {
        broker.inner.create_topic(topic, PARTITIONS);
    }
    let config = config(&dir.0, &broker.address)?;
    let grants = Grants { domains: vec!["payment_card".to_owned()], any_domain: false };
    let (registry, _) = Registry::open(&schemas, grants).map_err(|faults| {
        anyhow::anyhow!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })?;
    let set = registry.current();
    let schema = set.get("customers").context("the shipped schema has another name")?.clone();
    let directory = KeysSource { keys: Some(dir.0.join("keys")), config: None };
    let (settings, _) = keys::init(&directory, false)?;
    let keys = keys::open(&settings, None)?;
    keys.prepare(&set)?;
    let show = Show { colour };

    show.title(
        out,
        &format!("An embedded broker listens on {}; {RAW} goes to {SANITIZED}", broker.address),
    )?;
    let pipeline = RunningPipeline::start(
        &config,
        Arc::new(registry),
        keys.clone(),
        Arc::new(Status::new(&["kafka"])),
        Arc::new(Metrics::new()?),
        false,
    )?;
    let events: Vec<&str> = EVENTS.lines().collect();
    feed(&broker.address, &events)?;
    let (clean, dead) = arrived(&broker, events.len())?;
    for record in &clean {
        let raw = events[usize::try_from(record.timestamp - FIRST)?];
        show.line(out, "raw      ", RED, raw)?;
        show.line(out, "sanitized", GREEN, &text(record))?;
    }
    let found = search(out, show, &schema, &*keys, &clean)?;
    show.title(out, "Revealed with the keys")?;
    let (opened, _) = reveal(&schema, &*keys, found)?;
    show.line(out, "revealed ", RED, &opened)?;
    check(&opened, events[usize::try_from(found.timestamp - FIRST)?])?;
    show.title(out, "An event without its required ssn: a sealed dead letter")?;
    show.line(out, "dead     ", GREEN, &text(&dead[0]))?;
    show_letters(out, show, &config, &*keys)?;
    erase(out, show, &schema, &settings, &*keys, found)?;
    if keep {
        show.title(
            out,
            &format!("Still up: bootstrap.servers={} (Ctrl-C ends it)", broker.address),
        )?;
        loop {
            std::thread::park();
        }
    }
    pipeline.stop(Instant::now() + Duration::from_secs(5));
    if let Some(end) = pipeline.wait() {
        ensure!(end == crate::pipeline::End::Stopped, "{end}");
    }
    Ok(())
}

/// The sanitized records, in the order of their events, and the dead letters, once all are there.
fn arrived(
    broker: &Broker,
    events: usize,
) -> anyhow::Result<(Vec<ConsumerRecord>, Vec<ConsumerRecord>)> {
    let (mut clean, mut dead) = (Vec::new(), Vec::new());
    let end = Instant::now() + PATIENCE;
    while clean.len() + dead.len() < events {
        ensure!(
            Instant::now() < end,
            "{} of {events} events arrived within {} s",
            clean.len() + dead.len(),
            PATIENCE.as_secs()
        );
        std::thread::sleep(Duration::from_millis(50));
        clean = broker.inner.committed_records(SANITIZED)?;
        dead = broker.inner.committed_records(DEAD)?;
    }
    clean.sort_by_key(|record| record.timestamp);
    ensure!(!dead.is_empty(), "the event that breaks its schema is no dead letter");
    Ok((clean, dead))
}

/// Shows what the dead letters hold.
fn show_letters(
    out: &mut dyn Write,
    show: Show,
    config: &Config,
    keys: &dyn KeySource,
) -> anyhow::Result<()> {
    read::read(config, None, |found| {
        if let Some(letter) = &found.letter {
            let opened = read::open(&found, letter, keys)?;
            let _ = show.line(
                out,
                "opened   ",
                RED,
                &String::from_utf8_lossy(opened.value.as_deref().unwrap_or_default()),
            );
        }
        Ok(false)
    })?;
    Ok(())
}

/// Timestamp of the first event; the next has the next millisecond.
const FIRST: i64 = 1_795_400_000_000;
const RED: &str = "\x1b[31m";
const GREEN: &str = "\x1b[32m";
const BOLD: &str = "\x1b[1m";

/// Writes lines, in colour or not.
#[derive(Clone, Copy)]
struct Show {
    colour: bool,
}

impl Show {
    fn title(self, out: &mut dyn Write, title: &str) -> std::io::Result<()> {
        if self.colour {
            writeln!(out, "\n{BOLD}{title}\x1b[0m")
        } else {
            writeln!(out, "\n{title}")
        }
    }

    fn line(
        self,
        out: &mut dyn Write,
        label: &str,
        colour: &str,
        text: &str,
    ) -> std::io::Result<()> {
        if self.colour {
            writeln!(out, "{label}  {colour}{text}\x1b[0m")
        } else {
            writeln!(out, "{label}  {text}")
        }
    }
}

/// Finds the record whose e-mail address is [`SOUGHT`], without opening any.
fn search<'r>(
    out: &mut dyn Write,
    show: Show,
    schema: &Schema,
    keys: &dyn KeySource,
    clean: &'r [ConsumerRecord],
) -> anyhow::Result<&'r ConsumerRecord> {
    let rule = schema
        .fields
        .iter()
        .find(|f| &*f.id == "email")
        .and_then(|f| f.index.as_ref())
        .context("the shipped schema indexes no email")?;
    let keyring = keys.keyring();
    let root =
        keyring.sealing(KeyKind::Index, &Scope::Version(1)).context("there is no index root")?;
    let indexer = Indexer::new(
        root,
        keyring.tenant(),
        &rule.domain,
        &rule.normalize.to_string(),
        rule.bits,
        1,
    )
    .context("the root does not fit")?;
    let (mut normal, mut index) = (Vec::new(), Vec::new());
    ensure!(
        rule.normalize.normalize(
            Input::Raw(SOUGHT.as_bytes()),
            &mut Scratch::default(),
            &mut normal
        ),
        "{SOUGHT} has no index"
    );
    indexer.write([normal.as_slice()], &mut index);
    let index = String::from_utf8(index)?;
    show.title(out, &format!("Search for \"{SOUGHT}\": its blind index is {index}"))?;
    let found = clean
        .iter()
        .find(|record| text(record).contains(&index))
        .context("the search found nothing")?;
    show.line(
        out,
        "found    ",
        GREEN,
        &format!("partition {} offset {}", found.partition, found.offset),
    )?;
    Ok(found)
}

/// Opens a record; also what became of each protected place.
fn reveal(
    schema: &Schema,
    keys: &dyn KeySource,
    found: &ConsumerRecord,
) -> anyhow::Result<(String, Vec<Opened>)> {
    let keyring = keys.keyring();
    let lookup = |id: &_| keys.lookup(id).ok().flatten();
    let (mut opened, mut report) = (Vec::new(), Report::default());
    let value = found.value.as_deref().unwrap_or_default();
    Revealer::default()
        .reveal(
            schema,
            Lookup { keyring: &keyring, lookup: &lookup },
            value,
            &RevealOptions::default(),
            &mut opened,
            &mut report,
        )
        .map_err(|reject| anyhow::anyhow!("the record does not open: {reject:?}"))?;
    Ok((String::from_utf8(opened)?, report.fields.iter().map(|(_, status)| *status).collect()))
}

/// Compares with the input what was encrypted.
fn check(opened: &str, event: &str) -> anyhow::Result<()> {
    let (raw, opened): (serde_json::Value, serde_json::Value) =
        (serde_json::from_str(event)?, serde_json::from_str(opened)?);
    for member in ["email", "ssn", "address"] {
        ensure!(
            opened["customer"][member] == raw["customer"][member],
            "customer.{member} does not open to what came in"
        );
    }
    Ok(())
}

/// Destroys the keys of the person who was found, as `veilstream shred` does beside a running
/// sidecar; the same record then opens nowhere any more.
fn erase(
    out: &mut dyn Write,
    show: Show,
    schema: &Schema,
    settings: &config::Keys,
    keys: &dyn KeySource,
    found: &ConsumerRecord,
) -> anyhow::Result<()> {
    let value: serde_json::Value =
        serde_json::from_slice(found.value.as_deref().unwrap_or_default())?;
    let id = value["customer"]["id"]
        .as_str()
        .context("the shipped schema's subject is not in the record")?;
    show.title(out, &format!("{id} asks to be erased: their keys are destroyed"))?;
    let manager = keys::manager(settings)?;
    let terms = Terms {
        reason: "demo",
        domain: None,
        may_return: false,
        backups_until: None,
        remains: &[],
    };
    let outcome = manager
        .shred(&[manager.subject_ref(id, None, keys::now())?], &terms, keys::now())?
        .remove(0);
    let receipt = outcome.receipt.context("the person had a key")?;
    show.line(out, "receipt  ", GREEN, &receipt.to_json().to_string())?;
    // What a running sidecar does every second.
    keys.follow();
    let (left, statuses) = reveal(schema, keys, found)?;
    ensure!(statuses.contains(&Opened::Failed(OpenError::Erased)), "the record still opens");
    show.line(out, "erased   ", GREEN, &left)?;
    Ok(())
}

fn config(dir: &Path, bootstrap: &str) -> anyhow::Result<Config> {
    let mut text = String::new();
    write!(
        text,
        "[kafka]\nbootstrap_servers = \"{bootstrap}\"\ngroup_id = \"demo\"\ninstance = \
        \"demo\"\n[pipeline]\nlanes = 1\nreject_guard = \"off\"\ndead_letter_topic = \
        \"{DEAD}\"\n[schemas]\ndir = \"schemas\"\ndomains = [\"payment_card\"]\n"
    )?;
    let file = dir.join("veilstream.toml");
    std::fs::write(&file, text)?;
    config::load_config(&file)
}

fn feed(bootstrap: &str, events: &[&str]) -> anyhow::Result<()> {
    let producer: BaseProducer =
        ClientConfig::new().set("bootstrap.servers", bootstrap).set("log_level", "0").create()?;
    for (i, event) in events.iter().enumerate() {
        let i = i32::try_from(i)?;
        let headers = OwnedHeaders::new().insert(Header { key: "source", value: Some("demo") });
        let key = format!("customer-{i}");
        let record = BaseRecord::to(RAW)
            .partition(i % PARTITIONS)
            .key(&key)
            .payload(*event)
            .timestamp(FIRST + i64::from(i))
            .headers(headers);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(Duration::from_secs(10))?)
}

fn text(record: &ConsumerRecord) -> String {
    String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned()
}

/// A folder of its own, removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("veilstream-demo-{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
