//! A folder with a configuration, keys and an audit log, and a database whose table `people` is
//! filled through `transform`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use postgres::Client;
use serde_json::Value;

use crate::feed::feed;
use crate::postgres_server::{Database, server};

pub(crate) struct Desk {
    dir: tempfile::TempDir,
    pub(crate) database: Database,
}

impl Desk {
    /// With `people.json` as its schema document, and the table of that DDL.
    pub(crate) fn new(document: &str, ddl: &str) -> Self {
        let desk = Self { dir: tempfile::tempdir().unwrap(), database: server().database() };
        std::fs::write(desk.path("people.json"), document).unwrap();
        let public = desk.ok(&["audit", "keygen", "--out", &desk.name("verifier.key")], "");
        desk.configure(&format!(
            "[audit]\nfile = {:?}\nrecipient = \"{}\"\n",
            desk.name("audit.jsonl"),
            public.trim()
        ));
        std::fs::write(desk.path("app.url"), desk.database.url()).unwrap();
        desk.ok(&["keys", "init", "--config", &desk.name("veilstream.toml")], "");
        desk.database.sql(ddl);
        desk.database.sql("GRANT ALL ON ALL TABLES IN SCHEMA public TO veil");
        desk
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn secret(&self, name: &str, text: &str) -> PathBuf {
        secret_file(self.path(name), text)
    }

    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn configure(&self, audit: &str) {
        let text = format!(
            "[schemas]\ndir = {:?}\n[keys]\nstore = \"sqlite:{}\"\nledger = {:?}\n[keys.file]\npath = {:?}\n{audit}",
            self.dir.path(),
            self.name("keys.db"),
            self.name("erasures.jsonl"),
            self.name("kek"),
        );
        std::fs::write(self.path("veilstream.toml"), text).unwrap();
    }

    /// A configuration without `[audit]`.
    pub(crate) fn unaudited(&self) -> String {
        let text = std::fs::read_to_string(self.path("veilstream.toml")).unwrap();
        let text = text.split("[audit]").next().unwrap();
        std::fs::write(self.path("unaudited.toml"), text).unwrap();
        self.name("unaudited.toml")
    }

    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        // Another build of it, for figures.
        let program = std::env::var("VEILSTREAM_BIN");
        let program = program.unwrap_or_else(|_| env!("CARGO_BIN_EXE_veilstream").to_owned());
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.dir.path()).env_remove("VEILSTREAM_KEYS");
        command
    }

    pub(crate) fn run(&self, arguments: &[&str], stdin: &str) -> Output {
        feed(self.command(arguments), stdin)
    }

    /// What a command prints that ends well.
    pub(crate) fn ok(&self, arguments: &[&str], stdin: &str) -> String {
        let output = self.run(arguments, stdin);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// `rotate <what>` of the table, with more arguments.
    pub(crate) fn rotate(&self, what: &str, arguments: &[&str]) -> Output {
        self.run(&[&["rotate", what], &TABLE[..], arguments].concat(), "")
    }

    /// A migration of the table: its exit code, its JSON, and the rows that it named.
    pub(crate) fn migrated(&self, what: &[&str]) -> (i32, Value, BTreeSet<String>) {
        let output = self.run(&[what, &TABLE[..], &["--json"]].concat(), "");
        let json = serde_json::from_slice(&output.stdout);
        let json = json.unwrap_or_else(|_| panic!("{}", said(&output)));
        let named = named_rows(&said(&output)).into_keys().collect();
        (output.status.code().unwrap(), json, named)
    }

    /// Its JSON, and whether it ended well.
    pub(crate) fn rotated(&self, what: &str, arguments: &[&str]) -> (bool, Value, String) {
        let output = self.rotate(what, &[arguments, &["--json"]].concat());
        let json = serde_json::from_slice(&output.stdout);
        let json = json.unwrap_or_else(|_| panic!("{}", said(&output)));
        (output.status.success(), json, said(&output))
    }

    pub(crate) fn keys(&self, arguments: &[&str]) -> String {
        self.ok(&[&["keys"], arguments, &["--config", "veilstream.toml"]].concat(), "")
    }

    /// Events through `transform`, as JSON.
    pub(crate) fn protect(&self, events: &[Value]) -> Vec<Value> {
        let lines: Vec<String> = events.iter().map(Value::to_string).collect();
        let arguments = ["transform", "--config", "veilstream.toml", "--schema", "people.json"];
        let safe = self.ok(&arguments, &lines.join("\n"));
        safe.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Stores events, protected.
    pub(crate) fn store(&self, events: &[Value]) {
        self.insert(&self.protect(events));
    }

    /// Fills the table with rows 0 to `rows`: their id, then these columns of the protected event.
    pub(crate) fn fill(&self, rows: u64, columns: &[&str], event: impl Fn(u64) -> Value) {
        const AT_ONCE: usize = 100_000;
        let mut client = self.rows();
        let mut copy = client.copy_in("COPY people FROM STDIN").unwrap();
        for start in (0..rows).step_by(AT_ONCE) {
            let events: Vec<Value> =
                (start..rows.min(start + AT_ONCE as u64)).map(&event).collect();
            for (id, safe) in (start..).zip(self.protect(&events)) {
                write!(copy, "{id}").unwrap();
                for column in columns {
                    write!(copy, "\t{}", safe[column].as_str().unwrap()).unwrap();
                }
                writeln!(copy).unwrap();
            }
        }
        copy.finish().unwrap();
        client.batch_execute("ANALYZE people").unwrap();
    }

    /// Stores records as they are.
    pub(crate) fn insert(&self, records: &[Value]) {
        let mut rows = self.rows();
        for record in records {
            let text = record.to_string();
            rows.execute(
                "INSERT INTO people SELECT * FROM json_populate_record(NULL::people, $1::text::json)",
                &[&text],
            )
            .unwrap();
        }
    }

    pub(crate) fn rows(&self) -> Client {
        self.database.admin()
    }

    pub(crate) fn count(&self, condition: &str) -> i64 {
        let sql = format!("SELECT count(*) FROM people WHERE {condition}");
        self.rows().query_one(&sql, &[]).unwrap().get(0)
    }

    /// The rows as events, opened.
    pub(crate) fn reveal(&self) -> Vec<Value> {
        let sql = "SELECT json_strip_nulls(row_to_json(people))::text FROM people ORDER BY id";
        let rows = self.rows().query(sql, &[]).unwrap();
        let rows: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        let arguments = ["reveal", "--config", "veilstream.toml", "--schema", "people.json"];
        let output = self.run(&arguments, &rows.join("\n"));
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn audit_lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

pub(crate) const TABLE: [&str; 8] = [
    "--config",
    "veilstream.toml",
    "--postgres-file",
    "app.url",
    "--table",
    "people",
    "--schema",
    "people.json",
];

pub(crate) fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The text of a file, for canaries.
pub(crate) fn text(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned()
}

/// A file that nobody else may read.
pub(crate) fn secret_file(path: PathBuf, text: &str) -> PathBuf {
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

/// Rows that a migration named on its standard error, and why they stay.
pub(crate) fn named_rows(told: &str) -> BTreeMap<String, String> {
    let lines = told.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let named = lines.map(|line| {
        let of = |name: &str| line[name].as_str().unwrap().to_owned();
        (of("row"), of("reason"))
    });
    named.collect()
}
