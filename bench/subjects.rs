//! Keys of many data subjects: made, looked up cold and warm, erased; rates and bytes per subject.
//! `make bench-subjects` runs it.
//!
//! Arguments: the number of subjects (1,000,000) and the store: `sqlite`, a file in a new temporary
//! folder with the settings that `keys init` gives it, `postgres`, a database of a new server on
//! this host, or `kafka`, a topic of a new broker on this host.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    reason = "a bench prints and ends where it fails"
)]

#[path = "../tests/e2e/kafka.rs"]
#[allow(dead_code, reason = "the broker of the tests")]
mod broker;
#[path = "../keys/tests/support/ports.rs"]
mod ports;
#[cfg(feature = "postgres")]
#[path = "../keys/tests/support/postgres.rs"]
mod server;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use veilstream::keys::topic::KafkaStore;
use veilstream_engine::key::{KeyKind, Scope, SubjectRef};
use veilstream_engine::transform::NeededKey;
use veilstream_keys::erasure::{FileLedger, Terms};
use veilstream_keys::provider::{FileProvider, create_kek_file};
use veilstream_keys::store::{SqliteStore, Store};
use veilstream_keys::{Manager, Parts, Settings, directory};

const NOW: u64 = 1_795_500_000;
/// A poll batch.
const BATCH: u64 = 1000;
const COLD: u64 = 100_000;
const SHREDDED: u64 = 1000;

/// References are HMACs: spread evenly, in no order.
fn subject(n: u64) -> SubjectRef {
    let mut reference = [0; 16];
    let mixed = n.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    reference[..8].copy_from_slice(
        &(mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9).to_be_bytes(),
    );
    reference[8..].copy_from_slice(&n.to_be_bytes());
    SubjectRef(reference)
}

fn batch(from: u64, step: u64) -> Vec<NeededKey> {
    (0..BATCH)
        .map(|i| NeededKey { kind: KeyKind::Data, scope: Scope::Subject(subject(from + i * step)) })
        .collect()
}

fn measured(what: &str, count: u64, work: impl FnOnce()) {
    let start = Instant::now();
    work();
    let seconds = start.elapsed().as_secs_f64();
    println!("| {what} | {count} | {seconds:.2} s | {:.0} |", count as f64 / seconds);
}

/// How the store is opened, and how many bytes it takes.
struct Bench {
    open: Box<dyn Fn() -> Box<dyn Store>>,
    bytes: Box<dyn Fn() -> u64>,
}

fn sqlite(file: &Path) -> Bench {
    SqliteStore::create(file).unwrap();
    let (opened, measured) = (file.to_owned(), file.to_owned());
    Bench {
        open: Box::new(move || Box::new(SqliteStore::open(&opened).unwrap())),
        bytes: Box::new(move || std::fs::metadata(&measured).unwrap().len()),
    }
}

#[cfg(feature = "postgres")]
fn postgres() -> Bench {
    use veilstream_keys::store::PostgresStore;
    let database = server::server().database();
    let url = database.url();
    PostgresStore::create(&url, None).unwrap();
    let sizes = "SELECT sum(pg_total_relation_size(oid))::bigint FROM pg_class WHERE relnamespace \
        = 'veilstream'::regnamespace AND relkind = 'r'";
    Bench {
        open: Box::new(move || Box::new(PostgresStore::open(&url, None).unwrap())),
        bytes: Box::new(move || {
            database.admin().query_one(sizes, &[]).unwrap().get::<_, i64>(0).unsigned_abs()
        }),
    }
}

fn kafka() -> Bench {
    const TOPIC: &str = "veilstream-keys";
    let brokers = broker::kafka().config();
    KafkaStore::create(&brokers, TOPIC).unwrap();
    Bench {
        open: Box::new(move || Box::new(KafkaStore::open(&brokers, TOPIC).unwrap())),
        bytes: Box::new(|| broker::kafka().segments(TOPIC).len() as u64),
    }
}

/// Memory of this process, in KiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

fn main() {
    let subjects: u64 =
        std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let dir = tempfile::tempdir().unwrap();
    create_kek_file(&directory::kek(dir.path())).unwrap();
    let name = std::env::args()
        .skip(1)
        .find(|arg| arg.starts_with(char::is_alphabetic))
        .unwrap_or_else(|| "sqlite".to_owned());
    let store = match &*name {
        "sqlite" => sqlite(&directory::store(dir.path())),
        #[cfg(feature = "postgres")]
        "postgres" => postgres(),
        "kafka" => kafka(),
        _ => panic!("{name} is no store"),
    };
    let parts = || Parts {
        provider: Box::new(FileProvider::new(directory::kek(dir.path())).unwrap()),
        recovery: None,
        store: (store.open)(),
        ledger: Arc::new(FileLedger::new(dir.path().join("erasures.jsonl"))),
    };
    Manager::init(Settings::of("default"), parts(), NOW).unwrap();
    let open = || Manager::open(Settings::of("default"), parts(), NOW).unwrap();
    println!("| {name} | subjects | took | subjects/s |\n|---|---|---|---|");
    let first = open();
    first.prepare_roots(NOW).unwrap();
    measured("made, 1000 at once", subjects, || {
        for from in (0..subjects).step_by(BATCH as usize) {
            first.fetch(&batch(from, 1), NOW).unwrap();
        }
    });
    let (start, before) = (Instant::now(), memory());
    let manager = open();
    let opened = start.elapsed().as_secs_f64();
    let grown = memory().saturating_sub(before);
    // Not before: memory that it gave back would be taken for free.
    drop(first);
    let cold = COLD.min(subjects);
    measured("looked up cold, 1000 at once", cold, || {
        for from in 0..cold / BATCH {
            // From all over the store.
            manager.fetch(&batch(from, subjects / BATCH), NOW).unwrap();
        }
    });
    let warm = batch(0, subjects / BATCH);
    measured("looked up warm, 1000 at once", 1000 * BATCH, || {
        for _ in 0..1000 {
            manager.fetch(&warm, NOW).unwrap();
        }
    });
    let gone: Vec<SubjectRef> =
        (0..SHREDDED.min(subjects)).map(|n| subject(n * (subjects / SHREDDED).max(1))).collect();
    let before = (store.open)().count_subjects("default").unwrap();
    measured("erased, all at once", gone.len() as u64, || {
        manager
            .shred(
                &gone,
                &Terms {
                    reason: "bench",
                    domain: None,
                    may_return: false,
                    backups_until: None,
                    remains: &[],
                },
                NOW,
            )
            .unwrap();
    });
    let after = (store.open)().count_subjects("default").unwrap();
    assert_eq!(before.keys - after.keys, gone.len() as u64);
    let bytes = (store.bytes)();
    println!(
        "\n{bytes} bytes in the store, {:.0} a subject; opened in {opened:.2} s, with {grown} KiB \
        more memory",
        bytes as f64 / subjects as f64
    );
}
