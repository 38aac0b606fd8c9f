//! The audit log of the command line: who opened what, and nothing without a line.

#![allow(clippy::unwrap_used, reason = "a test ends here")]

#[path = "support/feed.rs"]
mod feed;

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use feed::feed;
use serde_json::{Value, json};
use veilstream_engine::key::SubjectRef;
use veilstream_reading::audit::{AuditLog, Entry, Event, Settings, Signer};

const EVENTS: &str = r#"{"type":"customer.updated","customer":{"id":42,"email":"ada@example.com","ssn":"123-45-6789"}}
{"type":"customer.updated","customer":{"id":43,"email":"bob@example.com","ssn":"987-65-4321"}}
"#;

/// A folder with a configuration, keys and an audit log.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        Self::of(&[])
    }

    /// `init`: how its keys are made.
    fn of(init: &[&str]) -> Self {
        let host = Self(tempfile::tempdir().unwrap());
        let schemas = host.path().join("schemas");
        std::fs::create_dir(&schemas).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/customers.json");
        std::fs::copy(root, schemas.join("customers.json")).unwrap();
        let public = host.ok(&["audit", "keygen", "--out", "verifier.key"], "");
        host.configure(&format!("[audit]\nrecipient = \"{}\"\n", public.trim()));
        host.ok(&[&["keys", "init"], init].concat(), "");
        host
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn configure(&self, audit: &str) {
        let text = format!(
            "[schemas]\ndomains = [\"payment_card\"]\n[keys]\nledger = \"erasures.jsonl\"\n{audit}"
        );
        std::fs::write(self.path().join("veilstream.toml"), text).unwrap();
    }

    fn run(&self, arguments: &[&str], stdin: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
        command.args(arguments).current_dir(self.path()).env_remove("VEILSTREAM_KEYS");
        if !arguments.contains(&"keygen") {
            command.args(["--config", "veilstream.toml"]);
        }
        feed(command, stdin)
    }

    /// What a command prints that ends well.
    fn ok(&self, arguments: &[&str], stdin: &str) -> String {
        let output = self.run(arguments, stdin);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn protect(&self) -> String {
        self.ok(&["transform", "--schema", "schemas/customers.json"], EVENTS)
    }

    fn lines(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.path().join("audit.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

const REVEAL: [&str; 3] = ["reveal", "--schema", "schemas/customers.json"];

#[test]
fn each_command_leaves_its_lines_and_no_value() {
    let host = Host::new();
    let safe = host.protect();
    assert_eq!(host.ok(&REVEAL, &safe), EVENTS);
    let token = safe.split('"').find(|text| text.starts_with("vs1.")).unwrap();
    let other = host.run(&["reveal", "--token", "--field", "customers.email"], token);
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(said.is_empty() || said.contains("\"line\":1"), "its own status, and no other: {said}");
    host.ok(&["shred", "--subject", "43", "--reason", "request 2026-117"], "");
    host.ok(&["keys", "rotate", "--index"], "");
    host.ok(&["keys", "export", "--out", "escrow.json"], "");
    let lines = host.lines();
    let of = |event: &str| lines.iter().filter(|l| l["event"] == event).collect::<Vec<_>>();
    let reveals = of("reveal");
    assert_eq!(reveals.len(), 3, "one for each person, one for the token: {reveals:#?}");
    for line in &reveals[..2] {
        assert_eq!(line["fields"]["email"], "revealed", "{line}");
        assert_eq!((&line["schema"], &line["outcome"]), (&"customers".into(), &"ok".into()));
        assert!(line["subject"].is_string() && line["kids"][0].is_string(), "{line}");
        assert!(line["actor"].as_str().unwrap().contains('@') && line["auth"] == "os", "{line}");
    }
    let shred = of("shred");
    assert_eq!((shred.len(), &shred[0]["reason"]), (1, &Value::from("request 2026-117")));
    assert_eq!((&shred[0]["actor"], &shred[0]["auth"]), (&reveals[0]["actor"], &"os".into()));
    assert_eq!(shred[0]["ledger"]["seq"], 1);
    let people = reveals[..2].iter().filter(|line| line["subject"] == shred[0]["subject"]);
    assert_eq!(people.count(), 1, "one of the two");
    let changes: Vec<&str> =
        of("keys").iter().map(|line| line["reason"].as_str().unwrap()).collect();
    assert_eq!(changes, ["init", "rotate", "export"]);
    let text = std::fs::read_to_string(host.path().join("audit.jsonl")).unwrap();
    for value in ["ada@", "123-45", "bob@", "987-65"] {
        assert!(!text.contains(value), "{value} stands in the log");
    }
    let said = host.ok(&["audit", "verify", "--key", "verifier.key"], "");
    assert!(said.contains("the log is whole") && !said.contains("nothing"), "{said}");
    let said = host.ok(&["audit", "report", "--for", "subject", "--subject", "43"], "");
    let report: Value = serde_json::from_str(&said).unwrap();
    let events: Vec<&str> =
        report["lines"].as_array().unwrap().iter().map(|l| l["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["reveal", "shred"]);
    assert_eq!(host.lines().iter().filter(|line| line["event"] == "audit_read").count(), 1);
}

#[test]
fn each_change_of_keys_and_credentials_has_a_line() {
    let host = Host::new();
    let notes =
        r#"{"veilstream":1,"name":"notes","version":1,"fields":[{"id":"note","path":"$.note"}]}"#;
    std::fs::write(host.path().join("notes.json"), notes).unwrap();
    host.ok(&["transform", "--schema", "notes.json"], "{\"note\":\"ring back\"}\n");
    host.protect();
    host.ok(&["keys", "rewrap"], "");
    host.ok(&["keys", "replay-ledger"], "");
    let listed = host.ok(&["keys", "list", "--json"], "");
    let keys: Vec<Value> = listed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let shared = keys.iter().find(|key| key["scope"] == "shared:notes").unwrap();
    host.ok(&["keys", "compromise", shared["kid"].as_str().unwrap()], "");
    let wrapping = keys.iter().find(|key| key["kind"] == "wrapping").unwrap();
    let wrapping = wrapping["kid"].as_str().unwrap();
    host.ok(&["keys", "rotate", "--wrapping"], "");
    host.ok(&["keys", "rewrap"], "");
    host.ok(&["keys", "retire", wrapping], "");
    host.ok(&["keys", "retire", wrapping, "--undo"], "");
    host.ok(&["keys", "export", "--out", "escrow.json"], "");
    // Another store becomes the exported one.
    let other = Host::of(&["--empty"]);
    assert!(!other.path().join("audit.jsonl").exists(), "nothing that could sign a line");
    for file in ["kek", "erasures.jsonl", "escrow.json"] {
        std::fs::copy(host.path().join(file), other.path().join(file)).unwrap();
    }
    other.ok(&["keys", "import", "escrow.json"], "");
    let changes = |host: &Host| -> Vec<Value> {
        let lines = host.lines().into_iter().filter(|line| line["event"] == "keys");
        lines.map(|line| json!([line["reason"], line["actor"], line["auth"]])).collect()
    };
    // The user of the system and the machine.
    let says = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let actor = format!("{}@{}", says("id", "-un"), says("uname", "-n"));
    let told = |words: &[&str]| -> Vec<Value> {
        words.iter().map(|word| json!([word, actor, "os"])).collect()
    };
    let done = [
        "init",
        "rewrap",
        "replay-ledger",
        "compromise",
        "rotate",
        "rewrap",
        "retire",
        "retire --undo",
        "export",
    ];
    assert_eq!(changes(&host), told(&done));
    assert_eq!(changes(&other), told(&["import"]));
    let retired = host.lines().into_iter().find(|line| line["reason"] == "retire").unwrap();
    assert_eq!(retired["kids"], json!([wrapping]));
    // A section may be missing where nothing is opened: keys change all the same.
    host.configure("");
    host.ok(&["keys", "rotate", "--index"], "");
    assert_eq!(changes(&host), told(&done));
}

#[cfg(feature = "serve")]
#[test]
fn a_key_that_the_log_does_not_know_is_never_shown() {
    let host = Host::new();
    let create = ["serve", "keys", "create", "--name", "desk", "--role", "analyst", "--json"];
    let made: Value = serde_json::from_str(&host.ok(&create, "")).unwrap();
    let id = made["id"].as_str().unwrap();
    host.ok(&["serve", "keys", "revoke", id], "");
    // Revoked before: nothing was changed.
    host.ok(&["serve", "keys", "revoke", id], "");
    let lines = host.lines();
    let of: Vec<&Value> = lines.iter().filter(|line| line["event"] == "credentials").collect();
    assert_eq!(of.len(), 2, "{of:#?}");
    assert!(of.iter().all(|line| line["credential"] == id), "{of:#?}");
    assert_eq!(of[0]["reason"], "create desk: analyst, 90 days");
    assert_eq!(of[1]["reason"], "revoke");
    let text = std::fs::read_to_string(host.path().join("audit.jsonl")).unwrap();
    assert!(!text.contains(made["key"].as_str().unwrap()));
    let file = host.path().join("audit.jsonl");
    std::fs::rename(&file, host.path().join("kept")).unwrap();
    std::fs::create_dir(&file).unwrap();
    let output = host.run(&create, "");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &[][..]));
}

/// `tail --follow` prints what other processes write, over the end of a file, until a signal.
#[test]
fn what_comes_is_printed_until_a_signal() {
    use std::io::{BufRead as _, BufReader};
    use std::process::Stdio;

    let host = Host::new();
    let safe = host.protect();
    let mut child = Command::new(env!("CARGO_BIN_EXE_veilstream"))
        .args(["audit", "tail", "--file", "audit.jsonl", "-n", "1", "--follow"])
        .current_dir(host.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    let first = next();
    assert_eq!(first["event"], "checkpoint", "the newest, of `keys init`: {first}");
    host.ok(&REVEAL, &safe);
    let events: Vec<Value> = (0..5).map(|_| next()["event"].clone()).collect();
    assert_eq!(events, ["start", "reveal", "reveal", "stop", "checkpoint"]);
    // As at the end of a day.
    let ended = format!("audit.jsonl.ended-2026-11-29-{}", first["chain"].as_str().unwrap());
    std::fs::rename(host.path().join("audit.jsonl"), host.path().join(ended)).unwrap();
    host.ok(&REVEAL, &safe);
    let start = next();
    assert_eq!((&start["event"], &start["seq"]), (&"start".into(), &1.into()));
    let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_bulk_read_names_everybody_in_a_side_file() {
    let host = Host::new();
    let events: String = (0..150)
        .map(|n| {
            format!(
                "{{\"type\":\"customer.updated\",\"customer\":{{\"id\":{n},\"email\":\"c{n}@x.org\",\"ssn\":\"{n:09}\"}}}}\n"
            )
        })
        .collect();
    let safe = host.ok(&["transform", "--schema", "schemas/customers.json"], &events);
    let file = host.path().join("safe.ndjson");
    std::fs::write(&file, safe).unwrap();
    // From a file, so that all of it is one batch.
    let output = Command::new(env!("CARGO_BIN_EXE_veilstream"))
        .args(REVEAL)
        .args(["--config", "veilstream.toml"])
        .current_dir(host.path())
        .stdin(std::fs::File::open(&file).unwrap())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), events);
    let lines = host.lines();
    let bulk: Vec<&Value> = lines.iter().filter(|line| line["event"] == "reveal").collect();
    assert_eq!(
        (bulk.len(), &bulk[0]["subjects"], &bulk[0]["items"]),
        (1, &150.into(), &150.into())
    );
    let report = |id: &str| -> Value {
        let said = host.ok(&["audit", "report", "--for", "hipaa", "--subject", id], "");
        serde_json::from_str(&said).unwrap()
    };
    assert_eq!(report("77")["lines"][0]["fields"], "email ssn");
    assert_eq!(report("150")["lines"], Value::Array(vec![]));
    assert!(host.ok(&["audit", "verify", "--key", "verifier.key"], "").contains("log is whole"));
}

#[test]
fn a_change_of_the_log_is_told_by_its_line() {
    let host = Host::new();
    let safe = host.protect();
    host.ok(&REVEAL, &safe);
    let file = host.path().join("audit.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replacen("\"revealed\"", "\"denied\"", 1)).unwrap();
    let output = host.run(&["audit", "verify", "--key", "verifier.key", "--json"], "");
    assert_eq!(output.status.code(), Some(1));
    let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&verdict["whole"], &verdict["faults"][0]["why"]), (&false.into(), &"mac".into()));
}

#[test]
fn without_a_log_nothing_is_opened_and_the_next_command_heals() {
    let host = Host::new();
    let safe = host.protect();
    let file = host.path().join("audit.jsonl");
    std::fs::rename(&file, host.path().join("kept")).ok();
    std::fs::create_dir(&file).unwrap();
    let output = host.run(&REVEAL, &safe);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &[][..]), "{said}");
    assert!(said.contains("is unavailable"), "{said}");
    let shred = ["shred", "--subject", "42", "--reason", "request 2026-117"];
    assert_eq!(host.run(&shred, "").status.code(), Some(1));
    std::fs::remove_dir(&file).unwrap();
    assert_eq!(host.ok(&REVEAL, &safe), EVENTS, "nobody was erased either");
}

#[test]
fn the_way_round_the_audit_is_said_aloud() {
    let host = Host::new();
    let safe = host.protect();
    let with_flag = [&REVEAL[..], &["--unaudited"]].concat();
    assert_eq!(host.run(&with_flag, &safe).status.code(), Some(2), "where [audit] stands");
    host.configure("");
    let output = host.run(&REVEAL, &safe);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &[][..]));
    assert_eq!(host.ok(&with_flag, &safe), EVENTS);
}

/// Writes to the host's log on these days, as a process would: its clock is an argument.
fn write_on(host: &Host, days: &[u64]) {
    let config = veilstream::config::load_config(&host.path().join("veilstream.toml")).unwrap();
    let keys = veilstream::keys::manager(&config.keys).unwrap();
    let recipient = config.audit.unwrap().recipient;
    for (day, people) in days.iter().copied().zip(0..) {
        let signer = Signer::new(keys.checkpoint_signing_key(day).unwrap());
        let file = host.path().join("audit.jsonl");
        let settings = Settings::new(file, recipient.clone(), signer, "test".to_owned());
        let log = AuditLog::open(Settings { clock: Arc::new(move || day), ..settings }).unwrap();
        let bulk = (0..=100).map(|n| SubjectRef([n + people; 16])).collect();
        let entry = |bulk| Entry { bulk, ..Entry::new(Event::Reveal) };
        log.append((0..20).map(|_| entry(Vec::new())).chain([entry(bulk)]).collect()).unwrap();
        log.stop().unwrap();
    }
}

#[test]
fn lines_older_than_audit_retain_are_pruned_and_the_rest_verifies() {
    const DAY: u64 = 86_400;
    let host = Host::new();
    // What `keys init` wrote is of today; other days go before it.
    std::fs::remove_file(host.path().join("audit.jsonl")).unwrap();
    let now = veilstream::keys::now();
    write_on(&host, &[500, 450, 10].map(|days| now - days * DAY));
    let count = |part: &str| {
        let names = std::fs::read_dir(host.path()).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.contains(part)).count()
    };
    let verified = || {
        let said = host.ok(&["audit", "verify", "--key", "verifier.key"], "");
        assert!(said.contains("the log is whole"), "{said}");
        said
    };
    assert!(!verified().contains("pruned"));
    let refused = |before: &str| {
        let output = host.run(&["audit", "prune", "--before", before], "");
        assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &[][..]));
        String::from_utf8(output.stderr).unwrap()
    };
    let today = veilstream_keys::time::text(now - DAY).chars().take(10).collect::<String>();
    assert!(refused(&today).contains("younger than audit.retain (400 days)"));
    assert!(refused("yesterday").contains("write it as"));
    assert_eq!(count(".subjects-"), 3);
    // Of each chain of 24 lines the first one and the checkpoint stay.
    assert_eq!(
        host.ok(&["audit", "prune"], ""),
        "44 lines of 2 chains and 2 side files are gone\n"
    );
    assert_eq!((count(".subjects-"), count(".pruned")), (1, 0));
    assert_eq!(verified().matches("lines 2 to 23 pruned").count(), 2);
    let lines = host.lines();
    let told: Vec<&Value> = lines.iter().filter(|line| line["event"] == "prune").collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["fields"].as_object().unwrap().len(), 2, "{}", told[0]);
    assert!(told[0]["actor"].as_str().unwrap().contains('@'), "{}", told[0]);
    assert_eq!(host.ok(&["audit", "prune"], ""), "0 lines of 0 chains and 0 side files are gone\n");
    host.configure("");
    assert_eq!(host.run(&["audit", "prune"], "").status.code(), Some(2), "there is no log");
}
