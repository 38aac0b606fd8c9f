//! The whole of it: a table is rotated, or a column migrated, while others write to it and the
//! process is killed. `VEILSTREAM_ROTATE_ROWS=1000000` and `VEILSTREAM_MIGRATE_ROWS=100000` are the
//! sizes that the documentation speaks of.

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
use veilstream_engine::interop::InteropKeySet;
use veilstream_engine::interop::fernet::{FernetKey, FernetKeys};
use veilstream_engine::normalize::{Input, Scratch};
use veilstream_engine::record::Record;
use veilstream_engine::reveal::{KeySource as Lookup, Revealer};
use veilstream_engine::seal::NoncePool;
use veilstream_keys::OsEntropy;

use crate::desk::{self, Desk, said};
use crate::migrate::fernet;

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
    fn seal(&mut self, id: u64, version: u64) -> [Option<String>; 3] {
        self.protector.take_snapshots(self.set.clone(), self.keys.keyring());
        let (email, phone) = values(id, version);
        let event = serde_json::json!({ "email": email, "phone": phone }).to_string();
        let value = Some(event.as_bytes());
        let record = Record { value, now: keys::now(), ..Record::default() };
        self.protector.protect(&record, std::iter::empty(), &*self.keys).unwrap().unwrap();
        let safe: Value = serde_json::from_slice(&self.protector.output().value).unwrap();
        ["email", "email_bidx", "phone"].map(|name| safe[name].as_str().map(ToOwned::to_owned))
    }
}

/// Random enough, and the same for a seed.
fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Rows of a test, by its environment variable, and the seed; it says both.
fn sizes(variable: &str, few: u64) -> (u64, u64) {
    let rows = std::env::var(variable).map_or(few, |rows| rows.parse().unwrap());
    let seed = std::env::var("VEILSTREAM_SEED").map_or_else(
        |_| SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 | 1,
        |seed| seed.parse().unwrap(),
    );
    println!("VEILSTREAM_SEED={seed} {variable}={rows}");
    (rows, seed)
}

fn event(id: u64) -> Value {
    let (email, phone) = values(id, 0);
    serde_json::json!({ "email": email, "phone": phone })
}

#[test]
fn a_table_is_rotated_beside_writers_and_kills() {
    let (rows, seed) = sizes("VEILSTREAM_ROTATE_ROWS", 20_000);
    let desk = Desk::new(DOCUMENT, TABLE);
    desk.fill(rows, &["email", "email_bidx", "phone"], event);
    let old: String = first(&mut desk.rows(), "SELECT substr(email, 5, 24) FROM people LIMIT 1");
    let is_old = format!("substr(email, 5, 24) = '{old}'");
    let writing = Writing::new(rows);
    std::thread::scope(|scope| {
        let (desk, writing) = (&desk, &writing);
        for writer in 1..=WRITERS {
            let random = seed.wrapping_mul(writer) | 1;
            scope.spawn(move || write(desk, random, writing, Application::seal));
        }
        // Whatever fails below, the writers end.
        let _ending = Ending(&writing.stop);
        desk.keys(&["rotate", "--shared"]);
        for kill in 1..=KILLS {
            killed(desk, &ROTATE, &is_old, rows, rows - rows * kill / (KILLS + 1));
        }
        let (started, written) = (Instant::now(), writing.writes());
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
            writing.writes() - written
        );
        assert!(writing.writes() > written, "nobody wrote");
    });
    println!("{} writes", writing.writes());
    assert_eq!(desk.count(&format!("'{old}' IN (substr(email, 5, 24), substr(phone, 5, 24))")), 0);
    let (whole, again, _) = desk.rotated("postgres", &[]);
    assert!(whole && again["written"] == 0 && again["walks"] == 1, "{again}");
    verify(&desk, &writing.latest);
}

/// Keys of the old application, and of rows that nobody can open.
const FERNET: [&str; 2] = [
    "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=",
    "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA=",
];
/// Rows under the other key, beyond those that are written.
const LOST: u64 = 100;

/// Half of the writers are the old application, and write Fernet tokens without an index; the others
/// write tokens. The old ones stop before the end.
#[test]
fn a_column_is_migrated_beside_writers_and_kills() {
    let (rows, seed) = sizes("VEILSTREAM_MIGRATE_ROWS", 20_000);
    let table = "CREATE TABLE people (id bigint PRIMARY KEY, email text COLLATE \"C\",
        email_bidx text, phone text COLLATE \"C\"); CREATE INDEX ON people (email_bidx);
        ALTER TABLE people OWNER TO veil";
    let desk = Desk::new(DOCUMENT, table);
    desk.fill(rows + LOST, &["email", "email_bidx", "phone"], event);
    let (own, lost) = (desk.secret("old.keys", FERNET[0]), desk.secret("lost.keys", FERNET[1]));
    let texts = |ids: std::ops::Range<u64>| ids.map(|id| values(id, 0).0).collect::<Vec<_>>();
    let sealed = [fernet(&own, &texts(0..rows)), fernet(&lost, &texts(rows..rows + LOST))].concat();
    let mut client = desk.rows();
    for (start, sealed) in (0_i64..).step_by(10_000).zip(sealed.chunks(10_000)) {
        let sql = "UPDATE people SET email = sealed, email_bidx = NULL
            FROM unnest($1::text[]) WITH ORDINALITY AS old (sealed, number)
            WHERE id = $2::int8 + number - 1";
        client.execute(sql, &[&sealed, &start]).unwrap();
    }
    let is_old = "email LIKE 'gAAAA%'";
    let (writing, newest) = (Writing::new(rows), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (desk, writing, newest) = (&desk, &writing, &newest);
        for writer in 1..=WRITERS {
            let random = seed.wrapping_mul(writer) | 1;
            let mut nonces = NoncePool::new(Box::new(OsEntropy));
            let keys = FernetKey::parse(FERNET[0].as_bytes()).unwrap();
            let keys = InteropKeySet::Fernet(FernetKeys::new(vec![keys]).unwrap());
            let seal = move |application: &mut Application, id, version| {
                let [mut email, mut index, phone] = application.seal(id, version);
                if writer % 2 == 0 && !newest.load(Ordering::Relaxed) {
                    let (text, mut out) = (values(id, version).0, Vec::new());
                    keys.seal(text.as_bytes(), 1, &mut nonces, &mut out).unwrap();
                    (email, index) = (String::from_utf8(out).ok(), None);
                }
                [email, index, phone]
            };
            scope.spawn(move || write(desk, random, writing, seal));
        }
        let _ending = Ending(&writing.stop);
        for kill in 1..=KILLS {
            killed(desk, &MIGRATE, is_old, rows, rows - rows * kill / (KILLS + 1));
        }
        newest.store(true, Ordering::Relaxed);
        let written = writing.writes();
        let (code, told, named) = desk.migrated(&MIGRATE);
        println!("{told}; {} writes beside it", writing.writes() - written);
        assert!(writing.writes() > written, "nobody wrote");
        assert_eq!((code, &told["stays"]), (1, &serde_json::json!({ "not_opened": LOST })));
        assert_eq!(told["sample"]["differs"], 0, "{told}");
        let lost = (rows..rows + LOST).map(|id| format!("id={id}"));
        assert_eq!(named, lost.collect());
    });
    println!("{} writes", writing.writes());
    assert_eq!(desk.count(is_old), LOST as i64, "the rows that do not open stay as they are");
    client.execute("DELETE FROM people WHERE id >= $1", &[&(rows as i64)]).unwrap();
    for _ in 0..2 {
        let (code, told, _) = desk.migrated(&MIGRATE);
        assert_eq!((code, &told["written"], &told["check"]["holds"]), (0, &0.into(), &true.into()));
    }
    verify(&desk, &writing.latest);
}

/// What writers did.
struct Writing {
    /// The version of each row that was written last.
    latest: Vec<Mutex<u64>>,
    stop: AtomicBool,
    writes: AtomicU64,
}

impl Writing {
    fn new(rows: u64) -> Self {
        let latest = (0..rows).map(|_| Mutex::new(0)).collect();
        Self { latest, stop: AtomicBool::new(false), writes: AtomicU64::new(0) }
    }

    fn writes(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

/// Ends the writers.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Writes to rows at random; `seal` gives e-mail address, index and telephone number as they are
/// stored.
fn write(
    desk: &Desk,
    mut random: u64,
    writing: &Writing,
    mut seal: impl FnMut(&mut Application, u64, u64) -> [Option<String>; 3],
) {
    let mut application = Application::new(desk);
    let keys = application.keys.clone();
    let _upkeep = keys::maintain(&keys).unwrap();
    let mut client = desk.rows();
    let update = "UPDATE people SET email = $2, email_bidx = $3, phone = $4 WHERE id = $1";
    let update = client.prepare(update).unwrap();
    while !writing.stop.load(Ordering::Relaxed) {
        let id = next(&mut random) % writing.latest.len() as u64;
        // Who writes last is known: one writer at a time to a row, not to the table.
        let mut version = writing.latest[id as usize].lock().unwrap();
        let [email, index, phone] = seal(&mut application, id, *version + 1);
        let row = i64::try_from(id).unwrap();
        assert_eq!(client.execute(&update, &[&row, &email, &index, &phone]).unwrap(), 1);
        *version += 1;
        writing.writes.fetch_add(1, Ordering::Relaxed);
    }
}

const ROTATE: [&str; 2] = ["rotate", "postgres"];
const MIGRATE: [&str; 8] =
    ["migrate", "postgres", "--field", "email", "--from", "fernet", "--keys-file", "old.keys"];

/// Starts a command and kills it when so many rows are old at most.
fn killed(desk: &Desk, what: &[&str], is_old: &str, rows: u64, left: u64) {
    let rate = (rows / 2).to_string();
    let more = ["--batch", "500", "--rows-per-second", &rate];
    let mut command = desk.command(&[what, &desk::TABLE, &more].concat());
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut client = desk.rows();
    let condition = format!("SELECT count(*) FROM people WHERE {is_old}");
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
