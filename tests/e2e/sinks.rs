//! From the raw topic to a table: the sidecar, Kafka Connect with the connector and the table that
//! `schema connect` and `schema ddl` print, PostgreSQL; and back from the table.

use std::fs;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use postgres::Client;
use serde_json::{Value, json};

use crate::connect_worker::{holding, worker};
use crate::feed::{Feeder, Input, TIME};
use crate::kafka::kafka;
use crate::postgres_server::server;
use crate::sandbox::Sandbox;
use crate::sidecar::{Instance, text, veilstream};
use crate::stdin::feed;

const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"topics":{"from":"sink.raw","to":"sink.clean"},"subject":"$.id","fields":[
  {"id":"email","path":"$.email","index":{"normalize":"email"}},
  {"id":"age","path":"$.age"},{"id":"vip","path":"$.vip"},
  {"id":"phones","path":"$.phones[*]","index":{"normalize":"phone-us","bits":24}},
  {"id":"city","path":"$.address.city"}]}"#;

/// Of one person. Numbers and booleans are protected too: a sink that took the types of the raw
/// event would store 0 and false.
fn person(id: usize) -> Value {
    json!({
        "id": id, "email": format!("person{id}@canary.example"), "age": 20 + id % 70, "vip": id.is_multiple_of(2),
        "phones": [format!("202-456-{:04}", id % 10_000)],
        "address": { "city": format!("Canaryville {id}"), "country": "NL" }, "score": 0.5,
    })
}

#[test]
fn a_table_holds_what_the_sanitized_topic_says() {
    let sandbox = Sandbox::new(kafka(), "sink", 2);
    sandbox.document("people", DOCUMENT);
    let instance = sandbox.instance(0);
    let mut sidecar = instance.start();
    sidecar.ready();
    let database = server().database();
    let printed = |what: &str| printed(&sandbox, &["schema", what, "--key", "person"]);
    let mut rows = database.admin();
    rows.batch_execute(&format!("{}ALTER TABLE people OWNER TO veil", printed("ddl"))).unwrap();
    rows.batch_execute(COMMITS).unwrap();
    let connect = worker();
    let _sink = connect.add("sink", &printed("connect"), &database);

    let feeder = Feeder::new(sandbox.broker);
    let send = |id: usize, value: Option<&Value>| send(&feeder, "sink.raw", id, value);
    (0..200).for_each(|id| send(id, Some(&person(id))));
    feeder.finish();
    connect.wait_for("the rows", || count(&mut rows, "true") == 200);

    assert_eq!(count(&mut rows, FORM), 200);
    let commits: String = rows
        .query_one("SELECT string_agg(DISTINCT commits, ',') FROM commits", &[])
        .unwrap()
        .get(0);
    assert_eq!(commits, "on", "a crash could lose rows whose offsets are committed");
    // What is no token does not get in by another way either.
    let clear = rows.execute("UPDATE people SET email = 'ada@example.com' WHERE id = 3", &[]);
    assert!(clear.unwrap_err().as_db_error().unwrap().message().contains("check constraint"));

    // Found by its blind index, opened, the same as it was.
    let found = search(&mut rows, &instance, " Person42@CANARY.example");
    assert_eq!(found, [42]);
    assert_eq!(revealed(&mut rows, &instance, 42), (true, person(42)));

    // An update, and a deletion.
    let moved = json!({ "id": 42, "email": "moved@canary.example", "age": 62, "vip": true,
        "phones": [], "address": { "city": "Canaryville", "country": "NL" }, "score": 1.5 });
    send(42, Some(&moved));
    send(43, None);
    feeder.finish();
    connect.wait_for("the update and the deletion", || {
        count(&mut rows, "score = 1.5") == 1 && count(&mut rows, "id = 43") == 0
    });
    assert_eq!(revealed(&mut rows, &instance, 42), (true, moved));
    assert_eq!(count(&mut rows, "true"), 199);

    // A person who is erased stays in the table and is never read again.
    let shred = instance.run(&["shred", "--subject", "42", "--reason", "request 1"]);
    assert!(shred.status.success(), "{}", text(&shred));
    let (opened, erased) = revealed(&mut rows, &instance, 42);
    assert!(!opened && erased["email"].as_str().unwrap().starts_with("vs1."), "{erased}");
    assert_eq!(revealed(&mut rows, &instance, 44), (true, person(44)));

    // An application reads it so too, and one who is erased hides nobody else.
    let [found, all] = entities(&instance, &database.url(), "PERSON44@canary.example ");
    assert_eq!(found, [entity(44)]);
    let withheld = json!({ "not revealed": "erased" });
    let erased = json!([42, withheld, withheld, withheld, withheld, "NL"]);
    let left = (0..200).filter(|id| *id != 43);
    let expected: Vec<Value> =
        left.map(|id| if id == 42 { erased.clone() } else { entity(id) }).collect();
    assert_eq!(all, expected);

    // Neither the table nor its log has a value in clear.
    rows.batch_execute("CHECKPOINT").unwrap();
    let data = database.server.dir.join("data");
    assert_ne!(holding("address_country", &data), Vec::<PathBuf>::new());
    for clear in ["Canaryville", "canary.example"] {
        assert_eq!(holding(clear, &data), Vec::<PathBuf>::new(), "{clear}");
    }
}

/// A worker before 4.2 knows no schema of its own: the schema stands in each record.
#[test]
fn an_older_worker_fills_the_same_table_from_envelopes() {
    let sandbox = Sandbox::new(kafka(), "sink-envelope", 2);
    let plain = DOCUMENT.replace("sink.", "sink-envelope.");
    sandbox.document("people", &plain);
    let envelope = printed(&sandbox, &["schema", "envelope"]);
    let (member, rest) = (envelope.trim().strip_suffix('}').unwrap(), &plain[1..]);
    sandbox.document("people", &format!("{member},{rest}"));
    let instance = sandbox.instance(0);
    let mut sidecar = instance.start();
    sidecar.ready();
    let database = server().database();
    let printed = |what: &str| printed(&sandbox, &["schema", what, "--key", "person"]);
    let mut rows = database.admin();
    rows.batch_execute(&format!("{}ALTER TABLE people OWNER TO veil", printed("ddl"))).unwrap();
    let connector = printed("connect");
    assert!(!connector.contains("schema.content") && connector.contains("schemas.enable"));
    let connect = worker();
    let _sink = connect.add("sink-envelope", &connector, &database);

    let feeder = Feeder::new(sandbox.broker);
    let send = |id: usize, value: Option<&Value>| send(&feeder, "sink-envelope.raw", id, value);
    (0..20).for_each(|id| send(id, Some(&person(id))));
    send(7, None);
    // A sink would store it as 0.
    send(8, Some(&json!({ "id": 8, "score": "high" })));
    feeder.finish();
    connect
        .wait_for("the rows", || count(&mut rows, FORM) == 19 && count(&mut rows, "id = 7") == 0);
    assert_eq!(revealed(&mut rows, &instance, 8), (true, person(8)));
    assert_eq!(search(&mut rows, &instance, "person9@canary.example"), [9]);

    // The record that did not fit is a dead letter, with its bytes as they came.
    sidecar.wait_for(Duration::from_secs(60), "the dead letter", |_| sandbox.dead().len() == 1);
    assert_eq!(sidecar.stop(), Some(0), "{}", instance.tail());
    let listed = text(&instance.run(&["dlq", "list"]));
    assert!(listed.contains("connect_envelope"), "{listed}");
    let place = format!("{}:0", sandbox.dead()[0].partition);
    let shown = text(&instance.run(&["dlq", "show", "--unaudited", &place]));
    assert!(shown.contains("high"), "{shown}");

    // The topic's own record comes back plain.
    let clean = sandbox.clean();
    let record = clean.iter().find(|record| record.key.as_deref() == Some(b"p5")).unwrap();
    let document = instance.folder().join("schemas/people.json");
    let asked = ["reveal", "--unaudited", "--schema", document.to_str().unwrap()];
    let output = feed(instance.command(&asked), record.value.as_deref().unwrap());
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim_end(), person(5).to_string());
}

/// Tokens stand where numbers and booleans stood, and the rest is as it was.
const FORM: &str = "age ~ '^vs1[.]' AND vip ~ '^vs1[.]' AND phones[1] ~ '^vs1[.]' AND address_city ~ \
    '^vs1[.]' AND phones_bidx[1] ~ '^1~' AND address_country = 'NL' AND score = 0.5";

/// What a command prints of the document, learnt from two people.
fn printed(sandbox: &Sandbox<'_>, command: &[&str]) -> String {
    let sample = sandbox.dir.path().join("sample.ndjson");
    fs::write(&sample, format!("{}\n{}\n", person(1), person(2))).unwrap();
    let document = sandbox.dir.path().join("schemas/people.json");
    let mut command = veilstream(command);
    let output = command.arg("--schema").arg(document).arg("--sample").arg(sample).output();
    let output = output.unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", text(&output));
    String::from_utf8(output.stdout).unwrap()
}

fn send(feeder: &Feeder, topic: &str, id: usize, value: Option<&Value>) {
    let (key, value) = (format!("p{id}"), value.map(Value::to_string));
    feeder.send(&Input {
        topic,
        partition: i32::try_from(id % 2).unwrap(),
        key: Some(key.as_bytes()),
        value: value.as_deref().map(str::as_bytes),
        timestamp: *TIME,
        headers: &[],
    });
}

/// How the sink's transactions commit. The server's default is off.
const COMMITS: &str = "CREATE TABLE commits (commits text);
    CREATE FUNCTION commits() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
        INSERT INTO commits VALUES (current_setting('synchronous_commit')); RETURN NULL; END $$;
    CREATE TRIGGER commits AFTER INSERT ON people EXECUTE FUNCTION commits()";

fn count(rows: &mut Client, which: &str) -> i64 {
    rows.query_one(&format!("SELECT count(*) FROM people WHERE {which}"), &[]).unwrap().get(0)
}

/// Ids of rows, by what `veilstream index` says to search for.
fn search(rows: &mut Client, instance: &Instance, email: &str) -> Vec<i64> {
    let document = instance.folder().join("schemas/people.json");
    let asked = ["index", "--schema", document.to_str().unwrap(), "--field", "email", email];
    let values = instance.run(&asked);
    assert!(values.status.success(), "{}", text(&values));
    let values: Vec<String> =
        String::from_utf8(values.stdout).unwrap().lines().map(ToOwned::to_owned).collect();
    let found = rows.query("SELECT id FROM people WHERE email_bidx = ANY($1)", &[&values]);
    found.unwrap().iter().map(|row| row.get(0)).collect()
}

/// A row of the table, as `entities` tells it.
fn entity(id: usize) -> Value {
    let person = person(id);
    let address = &person["address"];
    json!([id, person["email"], person["age"], person["vip"], address["city"], address["country"]])
}

/// Rows that SQLAlchemy finds by an address, and all rows.
fn entities(instance: &Instance, url: &str, email: &str) -> [Vec<Value>; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("target/python/bin/python");
    assert!(program.exists(), "no Python environment in target; run `make setup`");
    assert!(
        root.join("python/veilstream/_native.abi3.so").exists(),
        "the Python package has no native part; run `make native`"
    );
    let mut command = Command::new(program);
    command.env("PYTHONPATH", root.join("python"));
    command.arg(root.join("tests/support/people_table.py")).arg(instance.file());
    let output = command.args([url, email]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let mut lines = output.stdout.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap());
    [lines.next().unwrap(), lines.next().unwrap()]
}

/// The row as an event, opened; `false`: not everything opened.
fn revealed(rows: &mut Client, instance: &Instance, id: i64) -> (bool, Value) {
    let event: String = rows
        .query_one(
            "SELECT json_build_object('id', id, 'email', email, 'age', age, 'vip', vip, 'phones', \
            phones, 'address', json_build_object('city', address_city, 'country', \
            address_country), 'score', score)::text FROM people WHERE id = $1",
            &[&id],
        )
        .unwrap()
        .get(0);
    let document = instance.folder().join("schemas/people.json");
    let asked = ["reveal", "--unaudited", "--schema", document.to_str().unwrap()];
    let output = feed(instance.command(&asked), &event);
    (output.status.success(), serde_json::from_slice(&output.stdout).unwrap())
}
