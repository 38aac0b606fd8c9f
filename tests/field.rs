//! Documents, events and complaints as people who do this job have told them (`field/`), through
//! the commands that they would type.
#![allow(clippy::unwrap_used)]

#[path = "support/feed.rs"]
mod feed;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use feed::feed;
use serde_json::Value;

/// One case in a folder of its own.
struct Case {
    dir: tempfile::TempDir,
    expect: Value,
    /// Lines that go in, and come out of `transform`.
    events: Vec<Vec<u8>>,
    out: Vec<String>,
    wrong: String,
}

#[test]
fn every_case_holds() {
    let cases = std::fs::read_to_string(folder().join("cases.jsonl")).unwrap();
    let (mut count, mut wrong) = (0, String::new());
    for line in cases.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let found = Case::new(&case).judge();
        if !found.is_empty() {
            let _ = writeln!(wrong, "{}\n{found}", case["job"].as_str().unwrap());
        }
        count += 1;
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count > 30, "{count}");
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/field")
}

impl Case {
    fn new(case: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (schema, events) = match case["payload"].as_str() {
            Some(file) => {
                // On one line, otherwise as it is.
                let payload =
                    std::fs::read_to_string(folder().join("payloads").join(file)).unwrap();
                (
                    std::fs::read_to_string(folder().join("schemas").join(file)).unwrap(),
                    vec![payload.lines().collect::<String>().into_bytes()],
                )
            }
            None => (
                case["schema"].to_string(),
                case["events"]
                    .as_array()
                    .map_or_else(Vec::new, |events| events.iter().map(bytes).collect()),
            ),
        };
        std::fs::write(dir.path().join("s.json"), schema).unwrap();
        Self { dir, expect: case["expect"].clone(), events, out: Vec::new(), wrong: String::new() }
    }

    fn judge(mut self) -> String {
        let checked = self.run(&["schema", "check", "s.json"], b"");
        if self.expect["check"] == "faults" {
            let told = String::from_utf8(checked.stderr).unwrap();
            self.ask(checked.status.code() == Some(2), || format!("no fault: {told}"));
            for text in self.expect["message"].as_array().unwrap().clone() {
                self.ask(told.contains(text.as_str().unwrap()), || format!("no {text} in {told}"));
            }
            return self.wrong;
        }
        let told = String::from_utf8([checked.stdout, checked.stderr].concat()).unwrap();
        self.ask(checked.status.success() && !told.contains("warning"), || told);
        if !self.expect["cases"].is_null() {
            std::fs::write(
                self.dir.path().join("s.cases.json"),
                serde_json::json!({ "cases": self.expect["cases"] }).to_string(),
            )
            .unwrap();
            let tested = self.run(&["schema", "test", "s.json"], b"");
            self.ask(tested.status.success(), || String::from_utf8(tested.stdout).unwrap());
        }
        if self.wrong.is_empty() && !self.events.is_empty() {
            self.run(&["keys", "init", "--keys", "keys"], b"");
            self.transform();
        }
        self.wrong
    }

    fn transform(&mut self) {
        let input =
            self.events.iter().flat_map(|event| [event, &b"\n"[..]].concat()).collect::<Vec<u8>>();
        let done = self.run(&["transform", "--keys", "keys", "--schema", "s.json"], &input);
        let (text, told) =
            (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
        let rejects: Vec<Value> =
            told.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let wanted = self.list("rejects");
        let same = rejects.len() == wanted.len()
            && wanted
                .iter()
                .zip(&rejects)
                .all(|(w, r)| w["line"] == r["line"] && w["reason"] == r["reason"]);
        self.ask(same && done.status.success() == wanted.is_empty(), || format!("rejects: {told}"));
        let gone = |line: usize| rejects.iter().any(|r| r["line"] == line);
        let mut lines = text.lines();
        self.out = (1..=self.events.len())
            .map(|n| if gone(n) { "null" } else { lines.next().unwrap_or("null") }.to_owned())
            .collect();

        for hidden in self.list("hidden") {
            self.ask(!text.contains(hidden.as_str().unwrap()), || {
                format!("{hidden} shows: {text}")
            });
        }
        for clear in self.list("clear") {
            self.ask(text.contains(clear.as_str().unwrap()), || format!("{clear} is gone: {text}"));
        }
        for place in self.list("token") {
            let found = self.at(&place);
            self.ask(is(&found, |v| v.starts_with("vs1.")), || {
                format!("no token at {place}: {text}")
            });
        }
        for place in self.list("present") {
            self.ask(!self.at(&place).is_null(), || format!("nothing at {place}: {text}"));
        }
        for place in self.list("absent") {
            self.ask(self.at(&place).is_null(), || format!("something at {place}: {text}"));
        }
        for value in self.list("value") {
            let [line, place, wanted] = &value.as_array().unwrap()[..] else { panic!("{value}") };
            let found = self.at(&serde_json::json!([line, place]));
            self.ask(found == *wanted, || format!("{found} at {place}, not {wanted}"));
        }
        for (kind, equal) in [("same", true), ("differ", false)] {
            for pair in self.list(kind) {
                let (a, b) = (self.at(&pair[0]), self.at(&pair[1]));
                self.ask(!a.is_null() && !b.is_null() && (a == b) == equal, || {
                    format!("{kind} {pair}: {a} {b}")
                });
            }
        }
        self.find();
        if self.expect["roundtrip"] != false {
            self.reveal(&text, &gone);
        }
    }

    /// What `index` prints is what stands in the event.
    fn find(&mut self) {
        for find in self.list("find") {
            let wanted = self.at(&find["at"]);
            let index = self.index(&find);
            let hit = find["hit"] != false;
            self.ask(is(&wanted, |wanted| (wanted == index) == hit), || {
                format!("{find}: {index}, {wanted} stands there")
            });
        }
        for find in self.list("no_index") {
            let index = self.index(&find);
            self.ask(!index.contains('~'), || format!("{find}: {index}"));
        }
    }

    fn index(&self, find: &Value) -> String {
        let values: Vec<&str> = find["value"].as_str().map_or_else(
            || find["value"].as_array().unwrap().iter().map(|v| v.as_str().unwrap()).collect(),
            |v| vec![v],
        );
        let args = [
            "index",
            "--keys",
            "keys",
            "--schema",
            "s.json",
            "--field",
            find["field"].as_str().unwrap(),
            "--",
        ];
        let output = self.run(&[&args[..], &values].concat(), b"");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// The bytes come back.
    fn reveal(&mut self, text: &str, gone: &dyn Fn(usize) -> bool) {
        let back =
            self.run(&["reveal", "--keys", "keys", "--schema", "s.json"], text.as_bytes()).stdout;
        let kept: Vec<&Vec<u8>> = self
            .events
            .iter()
            .enumerate()
            .filter(|(i, _)| !gone(i + 1))
            .map(|(_, event)| event)
            .collect();
        let expected =
            kept.iter().flat_map(|event| [event, &b"\n"[..]].concat()).collect::<Vec<u8>>();
        self.ask(back == expected, || format!("came back: {}", String::from_utf8_lossy(&back)));
    }

    fn list(&self, name: &str) -> Vec<Value> {
        self.expect[name].as_array().cloned().unwrap_or_default()
    }

    /// A JSON pointer into the first event that comes out, or `[event, pointer]`.
    fn at(&self, place: &Value) -> Value {
        let (line, pointer) =
            if place.is_array() { (place[0].as_u64().unwrap(), &place[1]) } else { (1, place) };
        let event: Value = serde_json::from_str(&self.out[line as usize - 1]).unwrap();
        event.pointer(pointer.as_str().unwrap()).cloned().unwrap_or_default()
    }

    fn ask(&mut self, holds: bool, say: impl FnOnce() -> String) {
        if !holds {
            let _ = writeln!(self.wrong, "  {}", say());
        }
    }

    fn run(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
        command.current_dir(self.dir.path()).args(args).env_remove("VEILSTREAM_KEYS");
        feed(command, input)
    }
}

/// An event, as text or as `{"hex": ..}`.
fn bytes(event: &Value) -> Vec<u8> {
    match event.as_str() {
        Some(text) => text.as_bytes().to_vec(),
        None => event["hex"]
            .as_str()
            .unwrap()
            .as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect(),
    }
}

fn is(value: &Value, holds: impl Fn(&str) -> bool) -> bool {
    value.as_str().is_some_and(holds)
}
