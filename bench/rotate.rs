//! Rotation at rest beside the loop of the common guide, on one PostgreSQL server: rows a second.
//! `make bench-rotate` runs it.
//!
//! Arguments: rows (100,000) and rounds (3). `--profile` rotates once and leaves the guide out.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    missing_docs,
    dead_code,
    reason = "a bench prints and ends where it fails; the desk is that of the tests"
)]

#[path = "../tests/at_rest/desk.rs"]
mod desk;
#[path = "../tests/support/feed.rs"]
mod feed;
#[path = "../keys/tests/support/ports.rs"]
mod ports;
#[path = "../keys/tests/support/postgres.rs"]
mod postgres_server;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

use desk::{Desk, said};
use serde_json::{Value, json};

const BATCH: &str = "1000";
const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"fields":[
  {"id":"email","path":"$.email","index":{"normalize":"email"}},
  {"id":"phone","path":"$.phone"}]}"#;
const TABLE: &str =
    "CREATE TABLE people (id bigint PRIMARY KEY, email text, email_bidx text, phone text);
    CREATE INDEX ON people (email_bidx); GRANT CREATE ON SCHEMA public TO veil";

fn main() {
    let arguments: Vec<String> =
        std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number =
        |at: usize, or: usize| arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(or);
    let (rows, rounds) = (number(0, 100_000), number(1, 3));
    let desk = Desk::new(DOCUMENT, TABLE);
    let event = |id| json!({ "email": format!("person{id}@example.com"), "phone": format!("+31 6 {id:08}") });
    desk.fill(rows as u64, &["email", "email_bidx", "phone"], event);
    let is_profile = arguments.iter().any(|argument| argument == "--profile");
    let mut guide = (!is_profile).then(|| Guide::start(&desk, rows));
    println!("| round | veilstream rotate postgres, rows/s | the guide's loop, rows/s | ratio |");
    println!("|---|---|---|---|");
    let mut ratios = Vec::new();
    for round in 1..=if is_profile { 1 } else { rounds } {
        desk.keys(&["rotate", "--shared"]);
        settle(&desk, "people");
        let ours = rows as f64 / rotate(&desk, rows);
        let Some(guide) = &mut guide else {
            println!("| {round} | {ours:.0} | | |");
            break;
        };
        settle(&desk, "guide_customers");
        let theirs = rows as f64 / guide.rotate();
        ratios.push(ours / theirs);
        println!("| {round} | {ours:.0} | {theirs:.0} | {:.1} |", ours / theirs);
    }
    ratios.sort_by(f64::total_cmp);
    if let Some(median) = ratios.get(ratios.len() / 2) {
        println!("\n{rows} rows, two sealed columns; the median of the ratios is {median:.1}.");
    }
}

/// No dead rows and no unwritten pages of before.
fn settle(desk: &Desk, table: &str) {
    let mut rows = desk.rows();
    // Each by itself: VACUUM runs in no transaction.
    rows.batch_execute(&format!("VACUUM ANALYZE {table}")).unwrap();
    rows.batch_execute("CHECKPOINT").unwrap();
}

/// Seconds of the command, with its start, its second walk and its audit lines.
fn rotate(desk: &Desk, rows: usize) -> f64 {
    let start = Instant::now();
    let output = desk.rotate("postgres", &["--json", "--batch", BATCH]);
    let seconds = start.elapsed().as_secs_f64();
    assert!(output.status.success(), "{}", said(&output));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&done["written"], &done["old"]), (&rows.into(), &0.into()), "{done}");
    seconds
}

/// The guide's loop, in a process of its own.
struct Guide {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Guide {
    fn start(desk: &Desk, rows: usize) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(root.join("target/bench/venv/bin/python"));
        command.arg(root.join("bench/rotate.py")).arg(desk.database.url());
        command.args([&rows.to_string(), BATCH]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let mut guide = Self { child, input, output: BufReader::new(output) };
        assert_eq!(guide.line(), "filled");
        guide
    }

    /// Seconds of the loop alone.
    fn rotate(&mut self) -> f64 {
        writeln!(self.input, "again").unwrap();
        self.line().parse().unwrap()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Guide {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
