//! The local commands as a user pipes them together, with a key directory and no Kafka.
#![allow(clippy::unwrap_used)]

#[path = "support/feed.rs"]
mod feed;

use feed::feed;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

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
        feed(self.command(args), stdin)
    }

    /// Runs a command on the shipped customers; its output, which must come with that exit code.
    fn customers(&self, args: &[&str], stdin: &str, code: i32) -> (String, String) {
        let schema = schema();
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain(["--keys", "keys", "--schema", schema.to_str().unwrap()])
            .collect();
        let output = self.run(&args, stdin);
        let (out, err) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!(output.status.code(), Some(code), "{err}");
        (out, err)
    }
}

/// What is told once about a key directory.
const UNAUDITED: &str = "veilstream: a key directory is for trying out: nothing is audited\n";

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
    assert_eq!((back.as_str(), err.as_str()), (EVENTS.replace("\n\n", "\n").as_str(), UNAUDITED));

    let (index, _) = local.customers(&["index", "--field", "email", " ada@EXAMPLE.com"], "", 0);
    assert!(
        safe.lines().next().unwrap().contains(&format!(r#""email_bidx":"{}""#, index.trim_end())),
        "{index}{safe}"
    );
    let (indexes, err) =
        local.customers(&["index", "--field", "ssn", "--stdin"], "219 09 9999\nunknown\n", 1);
    assert!(
        safe.lines().nth(1).unwrap().contains(indexes.lines().next().unwrap()),
        "{indexes}{safe}"
    );
    assert_eq!((indexes.lines().nth(1), err.lines().count()), (Some(""), 1));
    assert!(err.contains("line 2") && !err.contains("unknown"), "{err}");

    let card = safe.split(r#""card":""#).nth(1).unwrap().split('"').next().unwrap();
    let output = local.run(
        &["reveal", "--token", "--field", "@payment_card", "--keys", "keys"],
        &format!("{card}\n"),
    );
    assert_eq!(output.stdout, b"\"4111111111111111\"\n");
}

/// In the row of somebody who does not exist it looks like any other token, and gives nothing.
#[test]
fn a_honey_token_raises_an_alarm() {
    let local = Local::new();
    let event = r#"{"type":"customer.updated","customer":{"id":990017,"email":"jane.sample@example.org","ssn":"078-05-1120"}}"#;
    let (safe, _) = local.customers(&["transform"], event, 0);
    let create = ["honey", "create", "--field", "email", "--subject", "990017"];
    let values = "mary.sample@example.org\nmary.other@example.org\n";
    let (tokens, err) = local.customers(&[&create[..], &["--stdin"]].concat(), values, 0);
    assert_eq!((tokens.lines().count(), err.as_str()), (2, ""));
    let honey = tokens.lines().next().unwrap();
    let real = safe.split(r#""email":""#).nth(1).unwrap().split('"').next().unwrap();
    assert_eq!((&honey[..36], honey.len()), (&real[..36], real.len()), "header and length");
    let row = safe.replace(real, honey);
    let alarm = r#"{"alarm":"honey","field":"customers.email","line":1}"#;
    let problem = r#"{"fields":[{"field":"email","status":"denied"}],"line":1,"reason":"not_revealed","schema":"customers/3"}"#;
    let (out, err) = local.customers(&["reveal", "--status"], &row, 1);
    let unaudited = "veilstream: a key directory is for trying out: nothing is audited\n";
    assert_eq!(err, format!("{unaudited}{alarm}\n{problem}\n"));
    assert!(out.contains(honey) && !out.contains("mary") && out.contains("078-05-1120"), "{out}");
    let bare = ["reveal", "--keys", "keys", "--token", "--field", "customers.email"];
    let output = local.run(&bare, &format!("{honey}\n"));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stdout, format!("{honey}\n").as_bytes(), "bait stays where it is");
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        format!("{unaudited}{alarm}\n{{\"line\":1,\"reason\":\"denied\"}}\n")
    );
    let (_, err) = local.customers(&["honey", "create", "--field", "email", "x@y.z"], "", 2);
    assert!(err.contains("--subject"), "{err}");
}

#[test]
fn rejects_go_where_they_are_sent_and_nothing_of_them_anywhere() {
    let local = Local::new();
    let input = format!(
        "{EVENTS}{}\nAda, 078-05-1120\n",
        r#"{"type":"customer.updated","customer":{"id":17,"email":"ada@example.com"}}"#
    );
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
    let lines: Vec<&str> = err.strip_prefix(UNAUDITED).unwrap().lines().collect();
    assert_eq!(lines.len(), 2, "{err}");
    assert!(
        lines[0].contains(r#""line":1,"reason":"not_revealed","schema":"customers/3""#),
        "{err}"
    );
    assert!(
        lines.iter().all(|line| line.contains(r#"{"field":"ssn","status":"key_unavailable"}"#)),
        "{err}"
    );
}

/// Lines are protected together where they come together; one that comes alone waits for no other.
#[test]
fn a_line_typed_comes_out_before_the_next_one() {
    let local = Local::new();
    let schema = schema();
    let mut child = local
        .command(&["transform", "--keys", "keys", "--schema", schema.to_str().unwrap()])
        .spawn()
        .unwrap();
    let (mut input, out) =
        (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let (send, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || out.lines().all(|line| send.send(line.unwrap()).is_ok()));
    for _ in 0..3 {
        input.write_all(EVENTS.lines().next().unwrap().as_bytes()).unwrap();
        input.write_all(b"\n{\"type\":").unwrap();
        assert!(
            lines
                .recv_timeout(Duration::from_secs(60))
                .expect("the line, while its input is open")
                .contains("vs1.")
        );
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
    let mut child = local
        .command(&["transform", "--keys", "keys", "--schema", schema.to_str().unwrap()])
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer =
        std::thread::spawn(move || (0..2000).all(|_| input.write_all(EVENTS.as_bytes()).is_ok()));
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0]).unwrap();
    drop(out);
    let output = child.wait_with_output().unwrap();
    assert_eq!(
        (output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()),
        (Some(0), "")
    );
    assert!(!writer.join().unwrap(), "it read everything");
}

/// A command that stays up, fed line by line.
struct Fed {
    child: std::process::Child,
    input: std::process::ChildStdin,
    lines: BufReader<std::process::ChildStdout>,
}

impl Fed {
    fn start(local: &Local, args: &[&str]) -> Self {
        let mut child = local.command(args).stderr(Stdio::null()).spawn().unwrap();
        let (input, lines) =
            (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, input, lines }
    }

    fn ask(&mut self, line: &str) -> String {
        self.give(line);
        self.take()
    }

    fn give(&mut self, line: &str) {
        writeln!(self.input, "{}", line.trim_end()).unwrap();
    }

    fn take(&mut self) -> String {
        let mut answer = String::new();
        self.lines.read_line(&mut answer).unwrap();
        answer.trim_end().to_owned()
    }

    /// Asks the same until the answer is right.
    fn ask_until(&mut self, line: &str, is_right: impl Fn(&str) -> bool) {
        until(line, || is_right(&self.ask(line)));
    }

    fn end(self) -> Option<i32> {
        let Self { mut child, input, .. } = self;
        drop(input);
        child.wait().unwrap().code()
    }
}

/// Asks until the answer is right.
fn until(line: &str, mut is_right: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_right() {
        assert!(Instant::now() < deadline, "{line}: the answer does not change");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Erasures within two seconds, rotations within five, however long a stream lasts.
#[test]
fn commands_that_stay_up_hear_of_erasures_and_rotations() {
    let local = Local::new();
    let write = |name: &str, text: &str| {
        let path = local.0.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let schema = write(
        "people.json",
        r#"{"veilstream":1,"name":"people","version":1,"subject":"$.id","subject_optional":true,"fields":[{"id":"name","path":"$.name"}]}"#,
    );
    let source = ["--keys", "keys", "--schema", &schema];
    let of = |command: &'static str| [&[command][..], &source].concat();
    let (ada, bob, nobody) =
        (r#"{"id":7,"name":"Ada"}"#, r#"{"id":8,"name":"Bob"}"#, r#"{"name":"Eve"}"#);
    let (mut transform, mut reveal) =
        (Fed::start(&local, &of("transform")), Fed::start(&local, &of("reveal")));
    let (sealed, of_bob, of_nobody) =
        (transform.ask(ada), transform.ask(bob), transform.ask(nobody));
    assert_eq!((reveal.ask(&sealed), reveal.ask(&of_bob)), (ada.to_owned(), bob.to_owned()));

    let shred =
        local.run(&["shred", "--keys", "keys", "--subject", "7", "--reason", "request 1"], "");
    assert_eq!(shred.status.code(), Some(0), "{}", String::from_utf8_lossy(&shred.stderr));
    // Until it is as it stands: erased.
    reveal.ask_until(&sealed, |answer| answer == sealed);
    assert_eq!(reveal.ask(&of_bob), bob);
    // What is rejected is not written: the next answer is the next line's. Each process hears of
    // an erasure in its own time.
    until(ada, || {
        transform.give(ada);
        let is_rejected = transform.ask(bob).contains(r#""id":8"#);
        if !is_rejected {
            transform.take();
        }
        is_rejected
    });

    let kid = |line: &str| line.split(r#""name":"vs1."#).nth(1).unwrap()[..20].to_owned();
    assert_eq!(kid(&transform.ask(nobody)), kid(&of_nobody));
    assert_eq!(
        local.run(&["keys", "rotate", "--keys", "keys", "--shared"], "").status.code(),
        Some(0)
    );
    transform.ask_until(nobody, |answer| kid(answer) != kid(&of_nobody));
    assert_eq!((transform.end(), reveal.end()), (Some(1), Some(1)));
}

#[test]
fn nobody_is_erased_by_a_mistyped_id() {
    let local = Local::new();
    local.customers(&["transform"], EVENTS, 0);
    let shred = |args: &[&str], stdin: &str| {
        let args: Vec<&str> = ["shred", "--keys", "keys", "--reason", "request 1"]
            .iter()
            .chain(args)
            .copied()
            .collect();
        let output = local.run(&args, stdin);
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, out, err) = shred(&["--subject", "170000000000017"], "");
    assert_eq!((code, out.as_str()), (Some(1), ""), "{err}");
    assert!(
        err.contains("nobody was erased")
            && err.contains("0 erased, 1 unknown")
            && !err.contains("170000000000017"),
        "{err}"
    );
    let (code, out, _) = shred(&["--subject", "170000000000017", "--allow-unknown"], "");
    assert_eq!((code, out.as_str()), (Some(0), ""));
    // In another domain 17 is somebody else.
    assert_eq!(shred(&["--subject", "17", "--domain", "staff"], "").0, Some(1));
    // The known among many get their receipts, each once.
    let (code, out, err) = shred(&["--subjects", "-"], "17\n171\n17\n18\n");
    assert_eq!((code, out.lines().count()), (Some(1), 2), "{err}");
    assert!(out.lines().all(|line| line.contains(r#""kids":[""#)), "{out}");
    assert!(err.contains("id 2 of 4") && err.contains("2 erased, 1 unknown"), "{err}");
    // Later records of whom nobody knew are rejected all the same.
    let (_, err) = local.customers(
        &["transform"],
        r#"{"type":"customer.updated","customer":{"id":170000000000017,"ssn":"219-09-9999"}}"#,
        1,
    );
    assert!(err.contains("erased_subject"), "{err}");
    let (code, ..) = shred(&["--subject", "ADA", "--reason", "asked by ada"], "");
    assert_eq!(code, Some(2), "the id in other case");
}

/// The domain of a schema is the domain that an erasure names.
#[test]
fn an_erasure_reaches_its_domain_and_no_other() {
    let local = Local::new();
    let document = |name: &str, domain: &str| {
        let path = local.0.path().join(format!("{name}.json"));
        let text = format!(
            r#"{{"veilstream":1,"name":"{name}","version":1,"subject":"$.id","subject_domain":"{domain}",
              "fields":[{{"id":"name","path":"$.name"}}]}}"#
        );
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let event = "{\"id\":42,\"name\":\"Ada Lovelace\"}\n";
    let schemas = ["", "staff"]
        .map(|domain| document(if domain.is_empty() { "customers" } else { domain }, domain));
    let run = |command: &str, schema: &str, input: &str| {
        let output = local.run(&[command, "--keys", "keys", "--schema", schema], input);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let [customer, employee] = [0, 1].map(|i| run("transform", &schemas[i], event).1);
    let shred = local.run(
        &[
            "shred",
            "--keys",
            "keys",
            "--subject",
            "42",
            "--domain",
            "staff",
            "--reason",
            "request 1",
        ],
        "",
    );
    assert_eq!(shred.status.code(), Some(0), "{}", String::from_utf8_lossy(&shred.stderr));
    assert!(String::from_utf8_lossy(&shred.stdout).contains(r#""domain":"staff""#));
    assert_eq!(run("reveal", &schemas[0], &customer), (Some(0), event.to_owned()));
    assert_eq!(run("reveal", &schemas[1], &employee), (Some(1), employee.clone()));
}

#[test]
fn a_compromised_key_opens_for_whoever_says_so() {
    let local = Local::new();
    let schema = local.0.path().join("notes.json");
    std::fs::write(
        &schema,
        r#"{"veilstream":1,"name":"notes","version":1,"fields":[{"id":"note","path":"$.note"}]}"#,
    )
    .unwrap();
    let with = |args: &[&str], stdin: &str| {
        let args: Vec<&str> = args
            .iter()
            .copied()
            .chain(["--keys", "keys", "--schema", schema.to_str().unwrap()])
            .collect();
        let output = local.run(&args, stdin);
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let clear = "{\"note\":\"ring back\"}\n";
    let sealed = with(&["transform"], clear).1;
    let list =
        String::from_utf8(local.run(&["keys", "list", "--keys", "keys", "--json"], "").stdout)
            .unwrap();
    let keys: Vec<serde_json::Value> =
        list.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(keys.iter().all(|key| key["verified"] == true) && keys[0]["kind"] == "store", "{list}");
    let of = |scope: &str| {
        keys.iter().find(|key| key["scope"] == scope).unwrap()["kid"].as_str().unwrap()
    };
    let compromise = |kid: &str| local.run(&["keys", "compromise", "--keys", "keys", kid], "");
    assert_eq!(compromise(of("shared:notes")).status.code(), Some(0));
    assert_eq!(with(&["reveal"], &sealed), (Some(1), sealed.clone()));
    assert_eq!(with(&["reveal", "--allow-compromised"], &sealed), (Some(0), clear.to_owned()));
    // Sealing goes on, under another key.
    let again = with(&["transform"], clear);
    assert_eq!((again.0, with(&["reveal"], &again.1).1), (Some(0), clear.to_owned()));
    let refused = compromise(keys[0]["kid"].as_str().unwrap());
    assert_eq!(refused.status.code(), Some(1));
}

#[test]
fn keys_are_listed_unverified_where_the_store_key_does_not_open() {
    let local = Local::new();
    std::fs::remove_file(local.0.path().join("keys/kek")).unwrap();
    let list = local.run(&["keys", "list", "--keys", "keys", "--json"], "");
    let (out, err) =
        (String::from_utf8(list.stdout).unwrap(), String::from_utf8(list.stderr).unwrap());
    assert_eq!((list.status.code(), out.lines().count()), (Some(0), 6), "{err}");
    assert!(out.lines().all(|line| line.contains(r#""verified":false"#)), "{out}");
    assert!(
        err.contains("not verified")
            && err.contains("restore it")
            && err.contains("rewrap --recover")
            && !err.contains("keys init"),
        "{err}"
    );
}

#[test]
fn the_environment_beside_the_configuration_decides_about_no_key() {
    let local = Local::new();
    let dir = local.0.path().join("conf");
    std::fs::create_dir_all(dir.join("schemas")).unwrap();
    std::fs::write(
        dir.join("schemas/notes.json"),
        r#"{"veilstream":1,"name":"notes","version":1,"fields":[{"id":"note","path":"$.note"}]}"#,
    )
    .unwrap();
    std::fs::write(dir.join("veilstream.toml"), "[kafka]\ninstance = \"0\"\n").unwrap();
    let check = || {
        let output = local.run(&["check", "--config", "conf/veilstream.toml"], "");
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap(),
        )
    };
    // One of the working directory counts for nothing.
    std::fs::write(
        local.0.path().join(".env"),
        "VEILSTREAM__KAFKA__GROUP_ID=stranger\nVEILSTREAM__KEYS__TENANT=stranger\n",
    )
    .unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(".env of the working directory counts for nothing")
            && !said.contains("VEILSTREAM__"),
        "{said}"
    );
    assert!(
        said.contains("no schema names topics, so `veilstream run` has nothing to do"),
        "{said}"
    );
    // The one beside the configuration counts, and what it sets is said.
    std::fs::write(
        dir.join(".env"),
        "VEILSTREAM__KAFKA__GROUP_ID=ours\nENCRYPTION_KEY_ROTATION_ENABLED=false\n",
    )
    .unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("VEILSTREAM__KAFKA__GROUP_ID (.env)")
            && said.contains("ENCRYPTION_KEY_ROTATION_ENABLED (.env)")
            && !said.contains("ours"),
        "{said}"
    );
    for section in ["KEYS__TENANT", "POLICY__DIR", "AUDIT__FILE"] {
        std::fs::write(
            dir.join(".env"),
            format!(
                "VEILSTREAM__KAFKA__GROUP_ID=ours\n\nexport VEILSTREAM__{section}=canary-5a1f\n"
            ),
        )
        .unwrap();
        let (code, said) = check();
        assert_eq!(code, Some(2), "{said}");
        assert!(
            said.contains(&format!(".env, line 3: VEILSTREAM__{section}: may not stand in .env"))
                && !said.contains("canary-5a1f"),
            "{said}"
        );
    }
}
