//! The route from the raw topic to the table, while sidecar, Connect worker and PostgreSQL are
//! killed in turn. `VEILSTREAM_SINK_RECORDS` makes it larger (100,000 before a release),
//! `VEILSTREAM_SINK_SEED` repeats a series.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use postgres::{Client, NoTls};
use serde_json::{Value, json};

use crate::chaos::{next, seed_of};
use crate::connect_worker::{Connect, holding};
use crate::feed::{Feeder, Input, TIME};
use crate::kafka::{kafka, wait_for};
use crate::postgres_server::{Database, Server};
use crate::reader;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, Running, text, veilstream};
use crate::stdin::feed;

const NAME: &str = "sink-kills";
const PARTITIONS: i32 = 4;
/// Writes of one key, at the average.
const WRITES: usize = 8;
/// One write in so many deletes.
const DELETES: u64 = 8;
/// The round in which nothing is on its way when PostgreSQL crashes: the sink tries again, more
/// often than it would without our settings.
const IDLE: usize = 2;
const RETRIES: usize = 7;
const CONNECTOR: &str = "people-sink";

const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"topics":{"from":"sink-kills.raw","to":"sink-kills.clean"},"subject":"$.id","fields":[
  {"id":"email","path":"$.email","index":{"normalize":"email"}},
  {"id":"age","path":"$.age"},
  {"id":"city","path":"$.address.city"}]}"#;

/// One write of a key; `None` deletes it.
#[derive(Debug, Clone, Copy)]
struct Write {
    key: usize,
    number: Option<usize>,
}

fn person(key: usize, number: usize) -> Value {
    json!({
        "id": key, "number": number, "email": format!("person{key}.{number}@canary.example"),
        "age": number, "address": { "city": format!("Canaryville {number}"), "country": "Plainland" },
    })
}

#[test]
fn a_table_holds_the_latest_of_each_key_after_kills_of_all_that_is_on_the_way() {
    let all = std::env::var("VEILSTREAM_SINK_RECORDS").map_or(5_000, |n| n.parse().unwrap());
    let seed = seed_of("VEILSTREAM_SINK_SEED");
    println!("sink kills: VEILSTREAM_SINK_SEED={seed}, {all} records");
    let writes = series(all, seed);
    let sandbox = Sandbox::new(kafka(), NAME, PARTITIONS);
    sandbox.document("people", DOCUMENT);
    let instance = sandbox.instance(0);
    let server: &Server = Box::leak(Box::new(Server::start()));
    let database = server.database();
    let connector = connector(&sandbox, &database);
    let route = Route { sandbox: &sandbox, instance: &instance, database: &database, connector };

    let rounds = if all > 50_000 { 12 } else { 6 };
    let mut processes = route.start();
    let size = all.div_ceil(rounds);
    for (round, chunk) in writes.chunks(size).enumerate() {
        let start = round * size;
        let (before, after) = chunk.split_at(chunk.len() / 2);
        send(before);
        // The first of them have arrived, and others are on their way.
        let from = before.iter().find_map(|write| write.number).unwrap();
        processes.wait_for("rows of this round", |rows| newest(rows) >= Some(from));
        if round == IDLE {
            let so_far = totals_of(&latest(&writes[..start + before.len()]));
            processes.wait_for("the rows so far", |rows| totals(rows) == Some(so_far));
        }
        processes = route.kill(processes, round, || send(after));
    }
    let live = latest(&writes);
    let whole = totals_of(&live);
    processes.wait_for("the latest of each key", |rows| totals(rows) == Some(whole));
    println!(
        "sink kills: {} keys live, {} restarts of a failed task",
        live.len(),
        processes.failed
    );
    let logs = [processes.connect.log(), instance.log()];
    assert_eq!(processes.sidecar.stop(), Some(0), "{}", instance.tail());
    drop(processes.connect);

    assert_opens(&mut database.admin(), &instance, live);
    assert_eq!(sandbox.dead().len(), 0);
    nothing_in_clear(&database, &logs);
}

/// Writes of keys, with deletions among them. The same for one seed.
fn series(all: usize, mut seed: u64) -> Vec<Write> {
    let keys = u64::try_from(all / WRITES).unwrap();
    let mut write = |i| Write {
        key: usize::try_from(next(&mut seed) % keys).unwrap(),
        number: (!next(&mut seed).is_multiple_of(DELETES)).then_some(i),
    };
    (0..all).map(&mut write).collect()
}

/// What stands in the table in the end.
fn latest(writes: &[Write]) -> BTreeMap<usize, usize> {
    let all: BTreeMap<usize, Option<usize>> =
        writes.iter().map(|write| (write.key, write.number)).collect();
    all.into_iter().filter_map(|(key, number)| Some((key, number?))).collect()
}

fn send(writes: &[Write]) {
    let feeder = Feeder::new(kafka());
    for write in writes {
        let key = format!("k{}", write.key);
        let value = write.number.map(|number| person(write.key, number).to_string());
        feeder.send(&Input {
            topic: "sink-kills.raw",
            partition: i32::try_from(write.key).unwrap() % PARTITIONS,
            key: Some(key.as_bytes()),
            value: value.as_deref().map(str::as_bytes),
            timestamp: *TIME,
            headers: &[],
        });
    }
    feeder.finish();
}

/// Makes the table; returns the connector that is printed.
fn connector(sandbox: &Sandbox<'_>, database: &Database) -> String {
    let sample = sandbox.dir.path().join("sample.ndjson");
    fs::write(&sample, person(1, 2).to_string()).unwrap();
    let document = sandbox.dir.path().join("schemas/people.json");
    let printed = |what: &str| {
        let mut command = veilstream(&["schema", what]);
        let output = command.arg("--schema").arg(&document).arg("--sample").arg(&sample).output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    database.sql(&format!("{}ALTER TABLE people OWNER TO veil", printed("ddl")));
    printed("connect")
}

/// From the raw topic to the table.
struct Route<'a> {
    sandbox: &'a Sandbox<'a>,
    instance: &'a Instance,
    database: &'a Database,
    connector: String,
}

/// What of it runs, besides the broker and PostgreSQL.
struct Processes<'a> {
    route: &'a Route<'a>,
    sidecar: Running<'a>,
    connect: Connect,
    /// How often a failed task was started again.
    failed: usize,
}

impl Route<'_> {
    fn start(&self) -> Processes<'_> {
        let (sidecar, connect) = (self.instance.start(), self.connect());
        Processes { route: self, sidecar, connect, failed: 0 }
    }

    fn connect(&self) -> Connect {
        Connect::start(self.sandbox.dir.path(), kafka(), self.database, &self.connector)
    }

    /// Kills one after another; `meanwhile` runs before it is started again.
    fn kill<'a>(
        &'a self,
        mut processes: Processes<'a>,
        round: usize,
        meanwhile: impl Fn(),
    ) -> Processes<'a> {
        match round % 3 {
            0 => {
                processes.sidecar.kill();
                meanwhile();
                processes.sidecar = self.instance.start();
            }
            1 => {
                drop(processes.connect);
                meanwhile();
                processes.connect = self.connect();
            }
            _ => {
                let told = |connect: &Connect| connect.log().matches("Retry to ").count();
                let before = told(&processes.connect);
                self.database.server.crash();
                meanwhile();
                // A connection that breaks within a commit fails the task at once.
                processes.connect.wait_until("the sink to notice", || {
                    told(&processes.connect) >= before + RETRIES
                        || round != IDLE && processes.connect.has_failed(CONNECTOR)
                });
                self.database.server.up();
            }
        }
        processes
    }
}

impl Processes<'_> {
    /// Waits until it holds; an operator starts failed tasks again meanwhile.
    fn wait_for(&mut self, what: &str, holds: impl Fn(&mut Client) -> bool) {
        let url = self.route.database.url();
        wait_for(Duration::from_secs(300), what, || {
            assert_eq!(self.sidecar.ended(), None, "{}", self.sidecar.tail());
            self.failed += usize::from(self.connect.restart_failed(CONNECTOR));
            Client::connect(&url, NoTls).is_ok_and(|mut rows| holds(&mut rows))
        });
    }
}

/// The latest write that arrived.
fn newest(rows: &mut Client) -> Option<usize> {
    let newest: Option<i64> = rows.query_one("SELECT max(number) FROM people", &[]).ok()?.get(0);
    usize::try_from(newest?).ok()
}

/// How many rows there are to be, and the sum of their numbers.
fn totals_of(live: &BTreeMap<usize, usize>) -> (usize, usize) {
    (live.len(), live.values().sum())
}

/// How many rows there are, and the sum of their numbers.
fn totals(rows: &mut Client) -> Option<(usize, usize)> {
    let sql = "SELECT count(*), coalesce(sum(number), 0)::bigint FROM people";
    let row = rows.query_one(sql, &[]).ok()?;
    Some((usize::try_from(row.get::<_, i64>(0)).ok()?, usize::try_from(row.get::<_, i64>(1)).ok()?))
}

/// Every row opens to what was written last, and there is no other.
fn assert_opens(rows: &mut Client, instance: &Instance, live: BTreeMap<usize, usize>) {
    let sql = "SELECT json_build_object('id', id, 'number', number, 'email', email, 'age', age, \
        'address', json_build_object('city', address_city, 'country', address_country))::text, \
        record_key FROM people ORDER BY id";
    let rows = rows.query(sql, &[]).unwrap();
    assert!(
        rows.iter().zip(live.keys()).all(|(row, key)| row.get::<_, &str>(1) == format!("k{key}"))
    );
    let events: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    let document = instance.folder().join("schemas/people.json");
    let asked = ["reveal", "--unaudited", "--schema", document.to_str().unwrap()];
    let output = feed(instance.command(&asked), events.join("\n"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let opened = String::from_utf8(output.stdout).unwrap();
    let opened: Vec<Value> = opened.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let expected: Vec<Value> = live.into_iter().map(|(key, n)| person(key, n)).collect();
    assert!(opened == expected, "{} rows, {} expected", opened.len(), expected.len());
}

/// Neither the topic, nor the table and its log, nor what the processes said has a protected value.
fn nothing_in_clear(database: &Database, logs: &[String]) {
    database.sql("CHECKPOINT");
    let data = database.server.dir.join("data");
    let wal = data.join("pg_wal");
    assert_ne!(holding("Plainland", &wal), Vec::<PathBuf>::new(), "the log of writes has rows");
    let (raw, clean) = (kafka().segments("sink-kills.raw"), kafka().segments("sink-kills.clean"));
    assert!(reader::contains(&clean, b"Plainland"));
    for clear in ["Canaryville", "canary.example"] {
        assert!(reader::contains(&raw, clear.as_bytes()));
        assert!(!reader::contains(&clean, clear.as_bytes()), "{clear} stands in the topic");
        assert_eq!(holding(clear, &data), Vec::<PathBuf>::new(), "{clear}");
        assert!(!logs.iter().any(|log| log.contains(clear)), "{clear} stands in a log");
    }
}
