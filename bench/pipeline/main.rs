//! The pipeline beside a bare copier, on a real Kafka: `make bench`, or `cargo bench --bench
//! pipeline -- --help`. What it is and is not: `bench/README.md`.
#![allow(clippy::print_stdout, missing_docs, reason = "a bench")]

mod by_hand;
mod copier;
mod growth;
#[path = "../../tests/e2e/kafka.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "the broker of the tests")]
mod kafka;
mod latency;
mod measure;
#[path = "../../keys/tests/support/ports.rs"]
mod ports;
mod report;
mod sealing;
mod system;
mod workload;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::{Parser, Subcommand};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

use measure::{Monitor, Window};
use system::{Bench, System};
use workload::{OUT, PARTITIONS, RAW};

/// The pipeline beside a bare copier that does nothing, a Rust and a Python pipeline written by
/// hand, on a real Kafka.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    part: Option<Part>,
    /// Rounds of the copiers and the sidecar
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Rounds that also run the pipelines written by hand
    #[arg(long, default_value_t = 1)]
    by_hand: usize,
    /// Events of a run; the pipelines written by hand get a fifth
    #[arg(long, default_value_t = 4_000_000)]
    records: u64,
    /// Seed of the events
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The build of `veilstream` that is measured, in place of the one that `cargo bench` made
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Another build of `veilstream`: each round measures the two builds and nothing else
    #[arg(long, value_name = "FILE")]
    other: Option<PathBuf>,
    /// Latency at shares of the most that passes, in place of throughput
    #[arg(long)]
    latency: bool,
    /// How speed and memory grow, in place of throughput
    #[arg(long, conflicts_with = "latency")]
    growth: bool,
    /// Only one series of `--growth`
    #[arg(long, value_name = "NAME", requires = "growth")]
    series: Option<String>,
    /// Seconds of each measurement of latency
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// One short round: shows that everything works, its figures mean nothing
    #[arg(long)]
    smoke: bool,
    /// What `cargo bench` says to every bench
    #[arg(long, hide = true)]
    bench: bool,
}

/// The processes that this program starts of itself.
#[derive(Debug, Subcommand)]
enum Part {
    #[command(hide = true)]
    Copier {
        #[arg(long)]
        seal: bool,
        config: PathBuf,
    },
    #[command(hide = true)]
    ByHand { bootstrap: String, group: String, lane: usize, lanes: usize },
}

fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    match &args.part {
        Some(Part::Copier { seal, config }) => return copier::run(config, *seal),
        Some(Part::ByHand { bootstrap, group, lane, lanes }) => {
            return by_hand::run(bootstrap, group, *lane, *lanes);
        }
        None => {}
    }
    if args.smoke {
        (args.runs, args.by_hand, args.records) = (1, 1, args.records.min(200_000));
        args.seconds = args.seconds.min(2);
    }
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let python = root.join("target/bench/venv/bin/python");
    if !args.latency && !args.growth && args.other.is_none() && args.by_hand > 0 && !python.exists()
    {
        bail!(
            "no Python with confluent-kafka in {}: run `make bench`, or leave it out with \
            --by-hand 0",
            python.display()
        );
    }
    let dir = tempfile::tempdir()?;
    let kafka = kafka::kafka();
    let bench = Bench {
        bootstrap: kafka.bootstrap.clone(),
        dir: dir.path().to_owned(),
        python,
        program: args.program.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_veilstream").into()),
        other: args.other.clone(),
    };
    if args.latency {
        let text = latency::run(&bench, args.runs, args.seconds)?;
        return written(&root, "target/bench/latency.md", &text);
    }
    if args.growth {
        let budget = if args.smoke { 20_000_000 } else { 300_000_000 };
        let file = root.join("target/bench/growth.csv");
        let text = growth::run(&bench, args.series.as_deref(), args.runs, budget, &file)?;
        return written(&root, "target/bench/growth.md", &text);
    }
    kafka.create_topic(RAW, PARTITIONS);
    println!("{} events of {} bytes are written", args.records, workload::EVENT_BYTES);
    workload::feed(&bench.bootstrap, args.records, args.seed)?;

    // The broker's code is compiled while it runs: its first run is not measured.
    one(&bench, System::Copier, "warm-up", args.records / 4)?;
    let mut runs: Vec<(usize, System, Window)> = Vec::new();
    for round in 1..=args.runs {
        let mut systems = System::ALL.to_vec();
        if args.other.is_some() {
            systems.retain(|s| s.is_sidecar());
        } else {
            systems.retain(|s| {
                *s != System::OtherSidecar
                    && (round <= args.by_hand || s.share(args.records) == args.records)
            });
        }
        if round % 2 == 0 {
            // What comes first finds the broker in another state than what comes last.
            systems.reverse();
        }
        for system in systems {
            let group = format!("{}-{round}", system.name().to_lowercase().replace(' ', "-"));
            let window = one(&bench, system, &group, system.share(args.records))?;
            println!("{}", report::line(round, system, &window));
            runs.push((round, system, window));
        }
    }
    let text = report::report(&root, &args, &runs)?;
    written(&root, "target/bench/pipeline.md", &text)
}

fn written(root: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let file = root.join(name);
    std::fs::create_dir_all(root.join("target/bench"))?;
    std::fs::write(&file, text).with_context(|| format!("{}", file.display()))?;
    println!("\n{text}\nwritten to {}", file.display());
    Ok(())
}

/// One system over the first `target` records, from nothing to a verified output.
fn one(bench: &Bench, system: System, group: &str, target: u64) -> anyhow::Result<Window> {
    let run = || -> anyhow::Result<Window> {
        delete_topic(&bench.bootstrap, OUT)?;
        // The sidecar makes its topics itself.
        if !system.is_sidecar() {
            kafka::kafka().create_topic(OUT, PARTITIONS);
        }
        let monitor = Monitor::new(&bench.bootstrap, group, vec![(RAW.to_owned(), PARTITIONS)])?;
        let mut running = bench.start(system, group)?;
        let mut window = measure::watch(&monitor, &mut running, target)?;
        running.stop()?;
        window.out_bytes = measure::verify(&bench.bootstrap, system, monitor.committed()?)?;
        Ok(window)
    };
    run().with_context(|| format!("{} ({group})", system.name()))
}

fn delete_topic(bootstrap: &str, topic: &str) -> anyhow::Result<()> {
    delete_topics(bootstrap, vec![topic.to_owned()])
}

/// Those that are there.
fn delete_topics(bootstrap: &str, topics: Vec<String>) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // An error means that there is none.
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let _ = runtime.block_on(admin.delete_topics(&names, &AdminOptions::new()))?;
    let end = Instant::now() + Duration::from_secs(30);
    while admin
        .inner()
        .fetch_metadata(None, Duration::from_secs(5))?
        .topics()
        .iter()
        .any(|t| names.contains(&t.name()))
    {
        if Instant::now() > end {
            bail!("old topics stay: {}", topics.join(", "));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}
