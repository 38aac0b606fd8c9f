//! The local commands as a user pipes them together, with a key directory and no Kafka.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

const EVENTS: &str = concat!(
    r#"{"type":"customer.updated","customer":{"id":17,"email":"Ada@Example.com", "ssn":"078-05-1120"},"payments":[{"card":"4111111111111111"}],"n":1.10}"#,
    "\r\n\n",
    r#"{"type":"customer.updated","customer":{"id":"18","ssn":"219-09-9999"}}"#,
    "\n",
);

/// A folder with keys in it.
struct Local(tempfile::TempDir);

impl Local {
    fn new() -> Self {
        let local = Self(tempfile::tempdir().unwrap());
        assert_eq!(local.run(&["keys", "init", "--keys", "keys"], "").status.code(), Some(0));
        local
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
        command.args(args).current_dir(self.0.path()).env_remove("VEILSTREAM_KEYS");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, args: &[&str], stdin: &str) -> Output {
        let mut child = self.command(args).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        let stdin = stdin.to_owned();
        let writer = std::thread::spawn(move || input.write_all(stdin.as_bytes()));
        let output = child.wait_with_output().unwrap();
        // A command that refuses its arguments does not read.
        let _ = writer.join().unwrap();
        output
    }

    /// Runs a command on the shipped customers; its output, which must come with that exit code.
    fn customers(&self, args: &[&str], stdin: &str, code: i32) -> (String, String) {
        let schema = schema();
        let args: Vec<&str> = args.iter().copied().chain(["--keys", "keys", "--schema", schema.to_str().unwrap()]).collect();
        let output = self.run(&args, stdin);
        let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{err}");
        (out, err)
    }
}

fn schema() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/customers.json")
}

#[test]
fn what_goes_in_comes_back_and_is_found_in_between() {
    let local = Local::new();
    let (safe, err) = local.customers(&["transform"], EVENTS, 0);
    assert_eq!(err, "");
    for clear in ["Ada", "078-05-1120", "219-09-9999", "4111"] {
        assert!(!safe.contains(clear), "{safe}");
    }
    let (back, err) = local.customers(&["reveal"], &safe, 0);
    assert_eq!((back.as_str(), err.as_str()), (EVENTS.replace("\n\n", "\n").as_str(), ""));

    let (index, _) = local.customers(&["index", "--field", "email", " ada@EXAMPLE.com"], "", 0);
    assert!(safe.lines().next().unwrap().contains(&format!(r#""email_bidx":"{}""#, index.trim_end())), "{index}{safe}");
    let (indexes, err) = local.customers(&["index", "--field", "ssn", "--stdin"], "219 09 9999\nunknown\n", 1);
    assert!(safe.lines().nth(1).unwrap().contains(indexes.lines().next().unwrap()), "{indexes}{safe}");
    assert_eq!((indexes.lines().nth(1), err.lines().count()), (Some(""), 1));
    assert!(err.contains("line 2") && !err.contains("unknown"), "{err}");

    let card = safe.split(r#""card":""#).nth(1).unwrap().split('"').next().unwrap();
    let output = local.run(&["reveal", "--token", "--field", "@payment_card", "--keys", "keys"], &format!("{card}\n"));
    assert_eq!(output.stdout, b"\"4111111111111111\"\n");
}

#[test]
fn rejects_go_where_they_are_sent_and_nothing_of_them_anywhere() {
    let local = Local::new();
    let input = format!("{EVENTS}{}\nAda, 078-05-1120\n", r#"{"type":"customer.updated","customer":{"id":17,"email":"ada@example.com"}}"#);
    let expected = concat!(
        r#"{"field":"ssn","line":4,"reason":"missing_required","schema":"customers/3"}"#,
        "\n",
        r#"{"field":null,"line":5,"offset":0,"reason":"not_json","schema":null}"#,
        "\n"
    );
    let (safe, err) = local.customers(&["transform"], &input, 1);
    assert_eq!((safe.lines().count(), err.as_str()), (2, expected));
    let (_, err) = local.customers(&["transform", "--rejects", "rejects.ndjson"], &input, 1);
    assert_eq!(err, "");
    assert_eq!(std::fs::read_to_string(local.0.path().join("rejects.ndjson")).unwrap(), expected);
}

#[test]
fn other_keys_open_nothing_and_say_so() {
    let (safe, _) = Local::new().customers(&["transform"], EVENTS, 0);
    let (out, err) = Local::new().customers(&["reveal", "--keep-indexes"], &safe, 1);
    assert_eq!(out, safe);
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(lines[0].contains(r#""line":1,"reason":"not_revealed","schema":"customers/3""#), "{err}");
    assert!(lines.iter().all(|line| line.contains(r#"{"field":"ssn","status":"key_unavailable"}"#)), "{err}");
}

/// Lines are protected together where they come together; one that comes alone waits for no other.
#[test]
fn a_line_typed_comes_out_before_the_next_one() {
    let local = Local::new();
    let schema = schema();
    let mut child = local.command(&["transform", "--keys", "keys", "--schema", schema.to_str().unwrap()]).spawn().unwrap();
    let (mut input, out) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || out.lines().all(|line| send.send(line.unwrap()).is_ok()));
    for _ in 0..3 {
        input.write_all(EVENTS.lines().next().unwrap().as_bytes()).unwrap();
        input.write_all(b"\n{\"type\":").unwrap();
        assert!(lines.recv_timeout(Duration::from_secs(60)).expect("the line, while its input is open").contains("vs1."));
        // The half of a line is another line's beginning.
        input.write_all(b"0}\n").unwrap();
    }
    drop(input);
    assert_eq!(child.wait().unwrap().code(), Some(1), "a type that is none is rejected");
}

/// `veilstream transform | head -1`: more is written than a pipe holds, so it must notice.
#[test]
fn a_reader_that_has_enough_ends_it_quietly() {
    let local = Local::new();
    let schema = schema();
    let mut child = local.command(&["transform", "--keys", "keys", "--schema", schema.to_str().unwrap()]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || (0..2000).all(|_| input.write_all(EVENTS.as_bytes()).is_ok()));
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    assert!(!writer.join().unwrap(), "it read everything");
}
