//! A search by blind index in SQL finds what a search of the clear values finds, while the index
//! root rotates. `VEILSTREAM_SEARCH_SEED` repeats the records.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use postgres::Client;
use serde_json::{Value, json};

use crate::chaos::{next, seed_of};
use crate::postgres_server::server;
use crate::sidecar::{text, veilstream};
use crate::stdin::feed;

const RECORDS: usize = 10_000;
/// Distinct addresses: a bucket of 10 bits holds about two of them.
const ADDRESSES: u64 = 2_000;
/// Searches, some of them for addresses that nobody has.
const SEARCHES: u64 = 400;

const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"fields":[
  {"id":"email","path":"$.email","index":{"normalize":"email","bits":10}},
  {"id":"phone","path":"$.phone","index":{"normalize":"digits"}}]}"#;

/// Keys, a document, a table, and what was written in clear.
struct World {
    dir: tempfile::TempDir,
    rows: Client,
    random: u64,
    /// By id: the numbers of the address and the telephone.
    clear: BTreeMap<i64, (u64, u64)>,
    /// Rows whose bucket was searched and whose address is another.
    dropped: usize,
}

#[test]
fn a_search_finds_what_a_clear_search_finds_while_the_index_root_rotates() {
    let mut world = World::new();
    world.write(RECORDS / 2);
    world.assert_found(1);
    world.rotate();
    // All of the table is from before the new root.
    world.assert_found(2);
    world.write(RECORDS / 2);
    world.assert_found(2);
    assert_eq!(world.versions(), ["1", "2"]);
    // Without the values of the root before, rows from before it are not found.
    let missed = world.found_under("2~");
    assert!(missed < world.found_under(""), "{missed}");
    assert!(world.dropped > 100, "buckets held one address each: {}", world.dropped);
}

impl World {
    fn new() -> Self {
        let random = seed_of("VEILSTREAM_SEARCH_SEED");
        println!("search: VEILSTREAM_SEARCH_SEED={random}");
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("people.json"), DOCUMENT).unwrap();
        let world = Self {
            dir,
            rows: server().database().admin(),
            random,
            clear: BTreeMap::new(),
            dropped: 0,
        };
        world.run(&["keys", "init", "--keys", "keys"], "");
        world
    }

    fn run(&self, arguments: &[&str], input: &str) -> String {
        let mut command = veilstream(arguments);
        command.current_dir(self.dir.path());
        let output = feed(command, input);
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    fn with_keys(&self, arguments: &[&str], input: &str) -> String {
        self.run(&[arguments, &["--keys", "keys", "--schema", "people.json"]].concat(), input)
    }

    fn random(&mut self, below: u64) -> u64 {
        next(&mut self.random) % below
    }

    /// Protects so many records more, and puts them into the table.
    fn write(&mut self, records: usize) {
        let mut events = String::new();
        let first = i64::try_from(self.clear.len()).unwrap();
        for id in first..first + i64::try_from(records).unwrap() {
            let (email, phone) = (self.random(ADDRESSES), self.random(1_000_000));
            let spelling = self.random(4);
            let event = json!({ "id": id, "email": address(email, spelling), "phone": telephone(phone, spelling) });
            events += &format!("{event}\n");
            self.clear.insert(id, (email, phone));
        }
        if first == 0 {
            let sample = self.dir.path().join("sample.ndjson");
            fs::write(&sample, events.lines().next().unwrap()).unwrap();
            let sql = self.run(
                &["schema", "ddl", "--schema", "people.json", "--sample", "sample.ndjson"],
                "",
            );
            self.rows.batch_execute(&sql).unwrap();
        }
        let safe = self.with_keys(&["transform"], &events);
        assert!(!safe.contains("example"));
        let mut writing = self.rows.transaction().unwrap();
        let insert = writing
            .prepare("INSERT INTO people SELECT id::text, id, email, email_bidx, phone, phone_bidx \
                FROM json_to_record($1::text::json) AS row (id bigint, email text, email_bidx text, phone text, phone_bidx text)")
            .unwrap();
        for record in safe.lines() {
            writing.execute(&insert, &[&record]).unwrap();
        }
        writing.commit().unwrap();
    }

    fn rotate(&self) {
        self.run(&["keys", "rotate", "--keys", "keys", "--index"], "");
    }

    /// Both fields: what is found by index and then compared is what a clear search finds.
    fn assert_found(&mut self, roots: usize) {
        let opened = self.opened();
        let asked: Vec<(u64, String)> = (0..SEARCHES)
            .map(|_| (self.random(ADDRESSES * 11 / 10), self.random(4)))
            .map(|(number, spelling)| (number, address(number, spelling)))
            .collect();
        let found = self.search("email", &asked, roots);
        for ((number, _), rows) in asked.iter().zip(found) {
            let clear = self.ids(|(email, _)| email == *number);
            let compared: BTreeSet<i64> = rows
                .iter()
                .copied()
                .filter(|id| opened[id].0.trim().eq_ignore_ascii_case(&address(*number, 0)))
                .collect();
            assert_eq!(compared, clear, "address {number}");
            self.dropped += rows.len() - compared.len();
        }
        // A unique index needs no comparison.
        let asked: Vec<(u64, String)> = self
            .clear
            .values()
            .step_by(37)
            .map(|(_, phone)| (*phone, telephone(*phone, phone % 4)))
            .collect();
        let found = self.search("phone", &asked, roots);
        for ((number, _), rows) in asked.iter().zip(found) {
            assert_eq!(rows, self.ids(|(_, phone)| phone == *number), "telephone {number}");
        }
    }

    /// Ids of the rows that the index values of each value find.
    fn search(&mut self, field: &str, asked: &[(u64, String)], roots: usize) -> Vec<BTreeSet<i64>> {
        let values: Vec<&str> = asked.iter().map(|(_, value)| &**value).collect();
        let indexes =
            self.with_keys(&["index", "--field", field, "--stdin"], &(values.join("\n") + "\n"));
        let sql = format!("SELECT id FROM people WHERE {field}_bidx = ANY($1)");
        let found: Vec<BTreeSet<i64>> = indexes
            .lines()
            .map(|line| {
                let values: Vec<&str> = line.split('\t').collect();
                assert_eq!(values.len(), roots, "one for each root in use: {line}");
                self.rows.query(&sql, &[&values]).unwrap().iter().map(|row| row.get(0)).collect()
            })
            .collect();
        assert_eq!(found.len(), asked.len());
        found
    }

    /// The rows of the table, opened: address and telephone.
    fn opened(&mut self) -> BTreeMap<i64, (String, String)> {
        let sql =
            "SELECT json_build_object('id', id, 'email', email, 'phone', phone)::text FROM people";
        let rows = self.rows.query(sql, &[]).unwrap();
        let rows: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
        let opened = self.with_keys(&["reveal"], &rows.join("\n"));
        let of = |event: &Value, name: &str| event[name].as_str().unwrap().to_owned();
        let opened: BTreeMap<i64, (String, String)> = opened
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|event| {
                (event["id"].as_i64().unwrap(), (of(&event, "email"), of(&event, "phone")))
            })
            .collect();
        assert_eq!(opened.len(), self.clear.len());
        opened
    }

    /// What a search of the clear values finds.
    fn ids(&self, is_it: impl Fn((u64, u64)) -> bool) -> BTreeSet<i64> {
        self.clear.iter().filter(|(_, clear)| is_it(**clear)).map(|(id, _)| *id).collect()
    }

    /// Versions of the root in the table.
    fn versions(&mut self) -> Vec<String> {
        let sql = "SELECT DISTINCT split_part(email_bidx, '~', 1) FROM people ORDER BY 1";
        self.rows.query(sql, &[]).unwrap().iter().map(|row| row.get(0)).collect()
    }

    /// How many rows all addresses find by values that begin so.
    fn found_under(&mut self, prefix: &str) -> usize {
        let all: Vec<String> = (0..ADDRESSES).map(|number| address(number, 0)).collect();
        let indexes =
            self.with_keys(&["index", "--field", "email", "--stdin"], &(all.join("\n") + "\n"));
        let values: Vec<&str> =
            indexes.split_whitespace().filter(|value| value.starts_with(prefix)).collect();
        let sql = "SELECT count(*) FROM people WHERE email_bidx = ANY($1)";
        let count: i64 = self.rows.query_one(sql, &[&values]).unwrap().get(0);
        usize::try_from(count).unwrap()
    }
}

/// One address, as people spell it.
fn address(number: u64, spelling: u64) -> String {
    match spelling {
        0 => format!("person{number}@mail.example"),
        1 => format!("Person{number}@Mail.Example"),
        2 => format!(" person{number}@mail.example "),
        _ => format!("PERSON{number}@MAIL.EXAMPLE"),
    }
}

/// One telephone number, as people spell it.
fn telephone(number: u64, spelling: u64) -> String {
    let (head, tail) = (number / 1000, number % 1000);
    match spelling {
        0 => format!("202{head:04}{tail:03}"),
        1 => format!("(202) {head:04}-{tail:03}"),
        2 => format!("202.{head:04}.{tail:03}"),
        _ => format!("202 {head:04} {tail:03}"),
    }
}
