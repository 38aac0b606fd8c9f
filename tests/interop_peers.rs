//! Fields in the form of other systems, verified by those systems' own code: Python's cryptography
//! and PostgreSQL's pgcrypto. Ten thousand values of each form, each way.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends where it fails")]
#![cfg(feature = "postgres")]

#[path = "support/feed.rs"]
mod feed;
#[path = "../keys/tests/support/ports.rs"]
mod ports;
#[path = "../keys/tests/support/postgres.rs"]
mod postgres_server;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use feed::feed;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Values of each form, each way.
const VALUES: usize = 10_000;
const FERNET_KEYS: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=\n\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
const PASSPHRASES: &str = "correct horse ä\nbattery staple\n";

/// xorshift64*: the same values for the same seed.
struct Random(u64);

impl Random {
    fn new(test: &str) -> Self {
        let given = std::env::var("VEILSTREAM_SEED").ok().and_then(|seed| seed.parse().ok());
        let now = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = given.unwrap_or_else(now) | 1;
        eprintln!("{test}: VEILSTREAM_SEED={seed}");
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// Any character but those that PostgreSQL's text does not have.
    fn character(&mut self) -> char {
        let end = [0x80, 0x800, 0x1_0000, 0x11_0000][self.below(4) as usize];
        char::from_u32(self.below(end) as u32).filter(|c| *c != '\0').unwrap_or('ß')
    }

    fn text(&mut self, number: usize) -> String {
        match number {
            0 => String::new(),
            // A million bytes, of one byte each and of four.
            1 => "x".repeat(1 << 20),
            2 => "\u{1f600}".repeat(1 << 18),
            // Lengths around those at which OpenPGP writes others.
            3..=400 => "a".repeat(number),
            _ => {
                let length = self.below(40);
                (0..length).map(|_| self.character()).collect()
            }
        }
    }
}

/// Documents, keys and the program.
struct Desk(TempDir);

impl Desk {
    fn new(form: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let field = |id: &str, of: &str| json!({ "id": id, "path": format!("$.{id}"), "type": of, "format": form });
        let document = json!({ "veilstream": 1, "name": "people", "version": 1,
            "fields": [field("text", "string"), field("number", "number")] });
        fs::write(dir.path().join("people.json"), document.to_string()).unwrap();
        let desk = Self(dir);
        desk.run(&["keys", "init", "--keys", "keys"], "");
        for (name, keys) in [("fernet.keys", FERNET_KEYS), ("pgcrypto.passphrases", PASSPHRASES)] {
            let path = desk.0.path().join("keys").join(name);
            fs::write(&path, keys).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        }
        desk
    }

    fn run(&self, args: &[&str], input: &str) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
        command.args(args).current_dir(self.0.path()).env_remove("VEILSTREAM_KEYS");
        succeeded(feed(command, input))
    }

    /// Events through `transform`; what came out, line for line.
    fn transform(&self, events: &[Value]) -> Vec<Value> {
        let args = ["transform", "--keys", "keys", "--schema", "people.json"];
        parsed(&self.run(&args, &lines(events)))
    }

    fn reveal(&self, events: &[Value]) -> Vec<Value> {
        let args = ["reveal", "--keys", "keys", "--schema", "people.json"];
        parsed(&self.run(&args, &lines(events)))
    }
}

fn succeeded(output: std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn lines(values: &[Value]) -> String {
    values.iter().map(|value| format!("{value}\n")).collect()
}

fn parsed(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Events of texts, numbers and null; every number in its own spelling.
fn events(random: &mut Random) -> Vec<Value> {
    let event = |i| {
        let text = match random.below(10) {
            0 if i > 400 => Value::Null,
            _ => Value::String(random.text(i)),
        };
        let number = match random.below(3) {
            0 => json!(random.next() as i64),
            1 => json!(random.below(100_000) as f64 / 16.0),
            _ => Value::Null,
        };
        json!({ "text": text, "number": number })
    };
    (0..VALUES).map(event).collect()
}

/// The texts behind the places of events: of null nothing.
fn texts(events: &[Value]) -> Vec<Option<String>> {
    let places = events.iter().flat_map(|event| [&event["text"], &event["number"]]);
    places
        .map(|value| match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            number => Some(number.to_string()),
        })
        .collect()
}

fn python(task: &str, keys: &Path, texts: &[String]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("target/cryptography/bin/python");
    assert!(program.exists(), "no cryptography in target; run `make setup`");
    let mut command = Command::new(program);
    command.arg(root.join("tests/support/fernet.py")).arg(task).arg(keys);
    let input: String = texts.iter().map(|text| format!("{}\n", json!(text))).collect();
    let output = succeeded(feed(command, input));
    output.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Values that are there, by place; what others did with them, in the same places.
fn by_others(
    values: &[Option<String>],
    others: impl FnOnce(&[String]) -> Vec<String>,
) -> Vec<Option<String>> {
    let given: Vec<String> = values.iter().flatten().cloned().collect();
    let mut done = others(&given).into_iter();
    let all: Vec<_> = values.iter().map(|value| value.as_ref().and_then(|_| done.next())).collect();
    assert_eq!(all.iter().flatten().count(), given.len());
    all
}

/// Both ways between the program and other code.
fn there_and_back(
    form: &str,
    open: impl FnOnce(&Desk, &[String]) -> Vec<String>,
    seal: impl FnOnce(&Desk, &[String]) -> Vec<String>,
) {
    let (desk, mut random) = (Desk::new(form), Random::new(form));
    let events = events(&mut random);
    let clear = texts(&events);
    let sealed = desk.transform(&events);
    let opened = by_others(&texts(&sealed), |sealed| open(&desk, sealed));
    assert!(opened == clear, "{form}: the other side opens something else");
    let theirs = by_others(&clear, |clear| seal(&desk, clear));
    let theirs: Vec<Value> =
        theirs.chunks(2).map(|two| json!({ "text": two[0], "number": two[1] })).collect();
    assert!(desk.reveal(&theirs) == events, "{form}: what the other side sealed opens otherwise");
    assert!(desk.reveal(&sealed) == events, "{form}: there and back is something else");
    // Bare, line by line: the first texts and numbers.
    for (field, at) in [("text", 0), ("number", 1)] {
        let name = format!("people.{field}");
        let sealed = texts(&sealed).into_iter().skip(at).step_by(2).flatten();
        let lines: Vec<String> = sealed.take(50).map(|text| format!("{text}\n")).collect();
        let args =
            ["reveal", "--keys", "keys", "--token", "--field", &name, "--schema", "people.json"];
        let shown = desk.run(&args, &lines.concat());
        let shown: Vec<Value> = shown.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let expected: Vec<&Value> =
            events.iter().map(|event| &event[field]).filter(|v| !v.is_null()).take(50).collect();
        assert!(shown.iter().eq(expected), "{form}: bare texts open to something else");
    }
}

#[test]
fn fernet_by_python() {
    there_and_back(
        "fernet",
        |desk, sealed| python("open", &desk.0.path().join("keys/fernet.keys"), sealed),
        |desk, clear| {
            // Sealed with the second key: all open.
            let keys = desk.0.path().join("second.keys");
            fs::write(&keys, FERNET_KEYS.lines().nth(1).unwrap()).unwrap();
            python("seal", &keys, clear)
        },
    );
}

/// Asks PostgreSQL, a thousand values a statement.
fn sql(statement: &str, passphrase: &str, values: &[String]) -> Vec<String> {
    let mut client = postgres_server::server().admin("postgres");
    client.batch_execute("CREATE EXTENSION IF NOT EXISTS pgcrypto").unwrap();
    let mut done = Vec::new();
    for part in values.chunks(1000) {
        let rows = client.query(statement, &[&part, &passphrase]).unwrap();
        done.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    done
}

#[test]
fn pgcrypto_by_postgresql() {
    let passphrases: Vec<&str> = PASSPHRASES.lines().collect();
    there_and_back(
        "pgcrypto",
        |_, sealed| {
            let open = "SELECT pgp_sym_decrypt(decode(v, 'base64'), $2) \
                FROM unnest($1::text[]) WITH ORDINALITY AS of(v, i) ORDER BY i";
            sql(open, passphrases[0], sealed)
        },
        |_, clear| {
            // Shapes in turn, all within what fields are read with; lines as PostgreSQL breaks them.
            let seal = "SELECT encode(pgp_sym_encrypt(v, $2, (ARRAY['', 'cipher-algo=aes256', \
                'cipher-algo=aes192, s2k-digest-algo=sha256', 'sess-key=1', 's2k-mode=1', \
                's2k-count=65000000, s2k-mode=0', 'unicode-mode=1', 'convert-crlf=0, s2k-count=200000'])\
                [1 + i % 8]), 'base64') FROM unnest($1::text[]) WITH ORDINALITY AS of(v, i) ORDER BY i";
            sql(seal, passphrases[1], clear)
        },
    );
}
