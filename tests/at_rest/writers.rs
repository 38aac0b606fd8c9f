//! The whole of it: a table is rotated while others write to it and the process is killed.
//! `VEILSTREAM_ROTATE_ROWS=1000000` is the size that the documentation speaks of.

use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use postgres::Client;
use serde_json::Value;
use veilstream::config::load_config;
use veilstream::keys::{self, KeySource};
use veilstream::protect::Protector;
use veilstream_engine::compile::{Grants, SchemaSet, compile};
use veilstream_engine::index::Indexer;
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::record::Record;
use veilstream_engine::reveal::{KeySource as Lookup, Revealer};

use crate::desk::{Desk, said};

const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"fields":[
  {"id":"email","path":"$.email","index":{"normalize":"email"}},
  {"id":"phone","path":"$.phone"}]}"#;
const TABLE: &str = "CREATE TABLE people (id bigint PRIMARY KEY,
    email text COLLATE \"C\" CHECK (email ~ '^vs1[.][A-Za-z0-9_-]{91,}$'), email_bidx text,
    phone text COLLATE \"C\" CHECK (phone ~ '^vs1[.][A-Za-z0-9_-]{91,}$'));
    CREATE INDEX ON people (email_bidx)";
const WRITERS: u64 = 4;
const KILLS: u64 = 5;

/// A row as it was last written.
fn values(id: u64, version: u64) -> (String, String) {
    (format!("canary{id}.{version}@example.com"), format!("+31 6 {id:08} {version}"))
}

/// The keys of the desk, as an application in a process of its own has them.
struct Application {
    keys: Arc<dyn KeySource>,
    set: Arc<SchemaSet>,
    protector: Protector,
}

impl Application {
    fn new(desk: &Desk) -> Self {
        let config = load_config(&desk.path("veilstream.toml")).unwrap();
        let keys = keys::open(&config.keys, None).unwrap();
        let schema = compile(DOCUMENT.as_bytes(), &Grants::local()).unwrap().schema;
        let set = Arc::new(SchemaSet::new(vec![Arc::new(schema)]).unwrap());
        let protector = Protector::new(set.clone(), keys.keyring()).one_shot();
        Self { keys, set, protector }
    }

    /// Tokens of e-mail address and telephone number, and the index.
    fn seal(&mut self, id: u64, version: u64) -> [String; 3] {
        self.protector.take_snapshots(self.set.clone(), self.keys.keyring());
        let (email, phone) = values(id, version);
        let event = serde_json::json!({ "email": email, "phone": phone }).to_string();
        let value = Some(event.as_bytes());
        let record =
            Record { key: None, value, headers: &[], topic: None, now: keys::now(), time: None };
        self.protector.protect(&record, std::iter::empty(), &*self.keys).unwrap().unwrap();
        let safe: Value = serde_json::from_slice(&self.protector.output().value).unwrap();
        ["email", "email_bidx", "phone"].map(|name| safe[name].as_str().unwrap().to_owned())
    }
}

/// Random enough, and the same for a seed.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

#[test]
fn a_table_is_rotated_beside_writers_and_kills() {
    let rows = std::env::var("VEILSTREAM_ROTATE_ROWS").map_or(20_000, |rows| rows.parse().unwrap());
    let seed = std::env::var("VEILSTREAM_SEED").map_or_else(
        |_| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
        |seed| seed.parse().unwrap(),
    );
    println!("VEILSTREAM_SEED={seed} VEILSTREAM_ROTATE_ROWS={rows}");
    let desk = Desk::new(DOCUMENT, TABLE);
    let event = |id| {
        let (email, phone) = values(id, 0);
        serde_json::json!({ "email": email, "phone": phone })
    };
    desk.fill(rows, &["email", "email_bidx", "phone"], event);
    let old: String = first(&mut desk.rows(), "SELECT substr(email, 5, 24) FROM people LIMIT 1");
    let latest: Vec<Mutex<u64>> = (0..rows).map(|_| Mutex::new(0)).collect();
    let (stop, writes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for writer in 1..=WRITERS {
            let (desk, latest, stop, writes) = (&desk, &latest, &stop, &writes);
            let random = seed.wrapping_mul(writer) | 1;
            scope.spawn(move || write(desk, random, latest, stop, writes));
        }
        // Whatever fails below, the writers end.
        let _ending = Ending(&stop);
        desk.keys(&["rotate", "--shared"]);
        for kill in 1..=KILLS {
            killed(&desk, &old, rows, rows - rows * kill / (KILLS + 1));
        }
        let (started, written) = (Instant::now(), writes.load(Ordering::Relaxed));
        // Writers hear of the new key within seconds, and write under the old one until then.
        let whole = (0..5).find_map(|_| {
            let (whole, done, told) = desk.rotated("postgres", &[]);
            println!("{done} {told}");
            whole.then_some(done)
        });
        let done = whole.expect("old tokens are left");
        println!(
            "the last run: {} rows, {} written, {:?}; {} writes beside it",
            done["counts"]["rows"],
            done["written"],
            started.elapsed(),
            writes.load(Ordering::Relaxed) - written
        );
        assert!(writes.load(Ordering::Relaxed) > written, "nobody wrote");
    });
    println!("{} writes", writes.load(Ordering::Relaxed));
    assert_eq!(desk.count(&format!("'{old}' IN (substr(email, 5, 24), substr(phone, 5, 24))")), 0);
    let (whole, again, _) = desk.rotated("postgres", &[]);
    assert!(whole && again["written"] == 0 && again["walks"] == 1, "{again}");
    verify(&desk, &latest);
}

/// Ends the writers.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn write(
    desk: &Desk,
    mut random: u64,
    latest: &[Mutex<u64>],
    stop: &AtomicBool,
    writes: &AtomicU64,
) {
    let mut application = Application::new(desk);
    let keys = application.keys.clone();
    let _upkeep = keys::maintain(&keys).unwrap();
    let mut client = desk.rows();
    let update = "UPDATE people SET email = $2, email_bidx = $3, phone = $4 WHERE id = $1";
    let update = client.prepare(update).unwrap();
    while !stop.load(Ordering::Relaxed) {
        let id = next(&mut random) % latest.len() as u64;
        // Who writes last is known: one writer at a time to a row, not to the table.
        let mut version = latest[id as usize].lock().unwrap();
        let [email, index, phone] = application.seal(id, *version + 1);
        let row = i64::try_from(id).unwrap();
        assert_eq!(client.execute(&update, &[&row, &email, &index, &phone]).unwrap(), 1);
        *version += 1;
        writes.fetch_add(1, Ordering::Relaxed);
    }
}

/// Starts a rotation and kills it when so many rows are old at most.
fn killed(desk: &Desk, old: &str, rows: u64, left: u64) {
    let rate = (rows / 2).to_string();
    let arguments = [
        "rotate",
        "postgres",
        "--config",
        "veilstream.toml",
        "--postgres-file",
        "app.url",
        "--table",
        "people",
        "--schema",
        "people.json",
        "--batch",
        "500",
        "--rows-per-second",
        &rate,
    ];
    let mut command = desk.command(&arguments);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut client = desk.rows();
    let condition = format!("SELECT count(*) FROM people WHERE substr(email, 5, 24) = '{old}'");
    while first::<i64>(&mut client, &condition) as u64 > left {
        if child.try_wait().unwrap().is_some() {
            panic!("it ended by itself: {}", said(&child.wait_with_output().unwrap()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), None, "it was not killed: {}", said(&output));
    println!("killed with {} old rows left", first::<i64>(&mut client, &condition));
}

/// Every value opens to its latest, and is found by its index.
fn verify(desk: &Desk, latest: &[Mutex<u64>]) {
    let application = Application::new(desk);
    let keyring = application.keys.keyring();
    let mut revealer = Revealer::default();
    let rule = application.set.schemas()[0].field("email").unwrap().index.as_ref().unwrap();
    let indexer = Indexer::to_search(rule, &keyring).remove(0);
    let (mut scratch, mut normal, mut opened) = (Scratch::default(), Vec::new(), Vec::new());
    let mut client = desk.rows();
    let mut transaction = client.transaction().unwrap();
    let sql = "SELECT id, email, phone, email_bidx FROM people ORDER BY id";
    let portal = transaction.bind(sql, &[]).unwrap();
    let mut id = 0;
    loop {
        let page = transaction.query_portal(&portal, 10_000).unwrap();
        if page.is_empty() {
            break;
        }
        for row in page {
            assert_eq!(row.get::<_, i64>(0), i64::try_from(id).unwrap(), "a row is lost");
            let (email, phone) = values(id, *latest[id as usize].lock().unwrap());
            for (column, name, value) in [(1, "people.email", &email), (2, "people.phone", &phone)]
            {
                let token: &str = row.get(column);
                revealer.open(name, Lookup::of(&keyring), token.as_bytes(), &mut opened).unwrap();
                assert_eq!(opened, serde_json::json!(value).to_string().as_bytes(), "{id}");
            }
            assert!(rule.normalize.normalize(
                Input::Raw(email.as_bytes()),
                &mut scratch,
                &mut normal
            ));
            let mut index = Vec::new();
            indexer.write([normal.as_slice()], &mut index);
            assert_eq!(row.get::<_, &str>(3).as_bytes(), index, "{id}");
            id += 1;
        }
    }
    assert_eq!(id, latest.len() as u64);
}

fn first<T: for<'a> postgres::types::FromSql<'a>>(client: &mut Client, sql: &str) -> T {
    client.query_one(sql, &[]).unwrap().get(0)
}
