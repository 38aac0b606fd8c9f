//! `veilstream migrate postgres` on a real server: columns of other systems, written by those
//! systems' own code.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use postgres::Client;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::desk::{Desk as People, named_rows, secret_file};
use crate::feed::feed;
use crate::postgres_server::{Database, server};
use crate::servers::{bao, kms};

const FERNET_KEYS: &str = "cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4=\n\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n";
const OTHER_KEY: &str = "BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA=\n";
const PASSPHRASE: &str = "correct horse ä";
/// In every value.
const CANARY: &str = "canary-4711";

/// Rows of the large table; 100,000 where the whole is asked for.
fn rows() -> usize {
    std::env::var("VEILSTREAM_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(2000)
}

fn value(row: usize) -> String {
    format!("{CANARY}.{row}.\u{1f600}@Example.com")
}

/// Rows by their form, and tokens by their key.
type Rows = BTreeMap<(String, Option<String>), u64>;

/// A configuration, keys, documents, and a database.
struct Desk {
    dir: TempDir,
    database: Database,
}

impl Desk {
    fn new(fields: &Value, more: &Value) -> Self {
        let (dir, database) = (tempfile::tempdir().unwrap(), server().database());
        let mut document = json!({ "veilstream": 1, "name": "users", "version": 1 });
        document["fields"] = fields.clone();
        for (name, value) in more.as_object().into_iter().flatten() {
            document[name] = value.clone();
        }
        let desk = Self { dir, database };
        desk.private("users.json", &document.to_string());
        desk.private("app.url", &desk.database.url());
        desk.private("old.keys", FERNET_KEYS);
        desk.private("old.pass", &format!("not this\n{PASSPHRASE}\n"));
        desk.private("old.words", "another\na key of the guide\n");
        desk.done(&["keys", "init", "--keys", "keys"], "");
        let public = desk.done(&["audit", "keygen", "--out", "verifier.key"], "");
        desk.private(
            "veilstream.toml",
            &format!(
                "[keys]\nstore = \"sqlite:keys/keys.db\"\n[keys.file]\npath = \"keys/kek\"\n[audit]\n\
                recipient = \"{}\"\ncopy = \"none\"\n",
                public.trim()
            ),
        );
        desk
    }

    fn private(&self, name: &str, text: &str) -> PathBuf {
        secret_file(self.dir.path().join(name), text)
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
        command.args(args).current_dir(self.dir.path()).env_remove("VEILSTREAM_KEYS");
        // LocalStack believes any.
        command.envs([("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")]);
        command
    }

    fn done(&self, args: &[&str], input: &str) -> String {
        let output = feed(self.command(args), input);
        assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    fn migration(&self, args: &[&str]) -> Command {
        let fixed = [
            "migrate",
            "postgres",
            "--config",
            "veilstream.toml",
            "--postgres-file",
            "app.url",
            "--table",
            "users",
            "--schema",
            "users.json",
            "--field",
            "email",
            "--json",
        ];
        let mut command = self.command(&fixed);
        command.args(args);
        command
    }

    /// Runs a migration: its exit code, what it told, and the rows it named.
    fn migrate(&self, args: &[&str]) -> (i32, Value, BTreeMap<String, String>) {
        let before = self.database.log().len();
        // Every statement and its parameters, as a careless administrator logs them.
        let all = [
            "log_statement = 'all'",
            "log_min_duration_statement = 0",
            "log_parameter_max_length = -1",
        ];
        let name = &self.database.name;
        all.iter().for_each(|one| self.database.sql(&format!("ALTER DATABASE {name} SET {one}")));
        let Output { status, stdout, stderr } = self.migration(args).output().unwrap();
        // Not what a test itself writes.
        self.database.sql(&format!("ALTER DATABASE {name} RESET ALL"));
        let (stdout, stderr) = (text(&stdout), text(&stderr));
        for told in [&stdout, &stderr] {
            assert!(!told.contains(CANARY), "a value is on an output: {told}");
        }
        self.is_clean(&self.database.log()[before..]);
        let told = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
        (status.code().unwrap(), told, named_rows(&stderr))
    }

    /// Neither a value nor a key is in a part of the server's log, and none of pgcrypto's functions.
    fn is_clean(&self, log: &str) {
        assert!(log.contains("\"public\".\"users\""), "statements are not logged: {log}");
        let kek = fs::read_to_string(self.dir.path().join("keys/kek")).unwrap();
        let keys = FERNET_KEYS.lines().chain(kek.lines().filter(|line| line.len() > 30));
        for hidden in keys.chain([CANARY, PASSPHRASE, "a key of the guide", "pgp_"]) {
            assert!(!log.contains(hidden), "{hidden} is in the server's log");
        }
    }

    /// Erases a person: the receipt, and what is said beside it.
    fn erased(&self, subject: &str) -> (String, String) {
        let args = ["shred", "--config", "veilstream.toml", "--subject", subject];
        let command = self.command(&[&args[..], &["--reason", "request 2"]].concat());
        let Output { status, stdout, stderr } = feed(command, "");
        assert!(status.success(), "{}", text(&stderr));
        (text(&stdout), text(&stderr))
    }

    /// Opens tokens, in their order.
    fn opened(&self, tokens: &[String]) -> Vec<Value> {
        let args = ["reveal", "--config", "veilstream.toml", "--token", "--field", "users.email"];
        let opened = self.done(&args, &tokens.join("\n"));
        opened.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn admin(&self) -> Client {
        self.database.admin()
    }

    /// `(id, column)` of rows whose column is not null, in their order.
    fn column(&self, column: &str) -> Vec<(i64, String)> {
        let sql = format!("SELECT id, {column} FROM users WHERE {column} IS NOT NULL ORDER BY id");
        self.admin().query(&sql, &[]).unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    /// Every token opens to the value of its row, and its index is the value's.
    fn holds_values(&self, expected: usize) {
        let tokens = self.column("email");
        assert_eq!(tokens.len(), expected);
        let texts: Vec<String> = tokens.iter().map(|(_, token)| token.clone()).collect();
        for ((id, _), opened) in tokens.iter().zip(self.opened(&texts)) {
            assert_eq!(opened, value(*id as usize), "row {id}");
        }
        let indexes = self.column("email_bidx");
        assert_eq!(indexes.len(), expected);
        for (id, index) in indexes.iter().step_by(expected / 5 + 1) {
            let searched = value(*id as usize);
            let args = ["index", "--config", "veilstream.toml", "--schema", "users.json"];
            let found = self.done(&[&args[..], &["--field", "email", &searched]].concat(), "");
            assert_eq!(found.trim(), index, "row {id}");
        }
    }

    /// What the audit log has of each migration: its outcome, and what the column holds.
    fn audited(&self) -> Vec<(String, Rows)> {
        let log = fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap();
        assert!(!log.contains(CANARY));
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let mut runs: Vec<(String, Rows)> = Vec::new();
        for line in lines.filter(|line| line["event"] == "migrate") {
            let Some(rows) = line["items"].as_u64() else {
                runs.push(Default::default());
                continue;
            };
            let (outcome, counts) = runs.last_mut().unwrap();
            line["outcome"].as_str().unwrap().clone_into(outcome);
            let kid = line["kids"][0].as_str().map(ToOwned::to_owned);
            counts.insert((line["fields"]["email"].as_str().unwrap().to_owned(), kid), rows);
        }
        runs
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn python(script: &str, args: &[&str], texts: &[String]) -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = root.join("target/cryptography/bin/python");
    assert!(program.exists(), "no cryptography in target; run `make setup`");
    let mut command = Command::new(program);
    command.arg(root.join("tests/support").join(script)).args(args);
    let input: String = texts.iter().map(|text| format!("{}\n", json!(text))).collect();
    let output = feed(command, input);
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

pub(crate) fn fernet(keys: &Path, values: &[String]) -> Vec<String> {
    python("fernet.py", &["seal", keys.to_str().unwrap()], values)
}

fn fields() -> Value {
    json!([{ "id": "email", "path": "$.email", "type": "string", "index": { "normalize": "email" } }])
}

const TABLE: &str = "CREATE TABLE users (id bigint PRIMARY KEY, email text, email_bidx text);
    ALTER TABLE users OWNER TO veil";

fn insert(client: &mut Client, column: &str, first: usize, values: &[String]) {
    let ids: Vec<i64> = (first..first + values.len()).map(|id| id as i64).collect();
    let sql =
        format!("INSERT INTO users (id, {column}) SELECT * FROM unnest($1::int8[], $2::text[])");
    for (ids, values) in ids.chunks(1000).zip(values.chunks(1000)) {
        client.execute(&sql, &[&ids, &values]).unwrap();
    }
}

fn values(rows: std::ops::Range<usize>) -> Vec<String> {
    rows.map(value).collect()
}

#[test]
fn fernet_and_clear_rows_become_tokens_and_what_does_not_open_stays() {
    let (desk, rows) = (Desk::new(&fields(), &Value::Null), rows());
    let mut client = desk.admin();
    client.batch_execute(TABLE).unwrap();
    insert(&mut client, "email", 0, &fernet(&desk.dir.path().join("old.keys"), &values(0..rows)));
    let clear = values(rows..rows + 3);
    insert(&mut client, "email", rows, &clear);
    client.execute("INSERT INTO users VALUES (-1, NULL, NULL)", &[]).unwrap();
    let lost = fernet(&desk.private("lost.keys", OTHER_KEY), &values(0..2));
    insert(&mut client, "email", rows + 3, &lost);

    let from = ["--from", "fernet", "--keys-file", "old.keys"];
    let (code, told, named) = desk.migrate(&[&from[..], &["--dry-run"]].concat());
    assert_eq!((code, told["written"].as_u64()), (1, Some(0)), "{told}");
    assert_eq!((named.len(), &told["done"]), (5, &json!(false)), "{told}");
    let (code, told, named) = desk.migrate(&from);
    assert_eq!(code, 1, "{told}");
    assert_eq!(told["found"], json!({ "fernet": rows + 2, "null": 1, "other": 3 }));
    assert_eq!(told["now"], json!({ "fernet": 2, "null": 1, "other": 3, "token": rows }));
    assert_eq!(told["stays"], json!({ "not_opened": 2, "other_form": 3 }));
    assert_eq!(told["written"].as_u64(), Some(rows as u64));
    assert_eq!(told["sample"]["differs"].as_u64(), Some(0));
    assert!(told["sample"]["equal"].as_u64().unwrap() >= 1000.min(rows as u64 / 2), "{told}");
    assert_eq!(told["check"], Value::Null, "nothing is promised while the old form is there");
    let expected = (rows..rows + 5).map(|id| {
        let why = if id < rows + 3 { "other_form" } else { "not_opened" };
        (format!("id={id}"), why.to_owned())
    });
    assert_eq!(named, expected.collect());
    let stays: Vec<String> = desk.column("email").into_iter().skip(rows).map(|of| of.1).collect();
    assert_eq!(stays, [clear, lost].concat(), "what does not open is left alone");

    // Mixed rows: the values in clear too.
    let mixed = [&from[..], &["--from", "clear"]].concat();
    let (code, told, named) = desk.migrate(&mixed);
    assert_eq!((code, told["written"].as_u64(), named.len()), (1, Some(3), 2), "{told}");
    client.execute("DELETE FROM users WHERE id >= $1", &[&(rows as i64 + 3)]).unwrap();
    let (code, told, _) = desk.migrate(&mixed);
    assert_eq!((code, &told["check"]), (0, &json!({ "holds": true })), "{told}");
    assert_eq!((&told["done"], told["written"].as_u64()), (&json!(true), Some(0)));
    desk.holds_values(rows + 3);
    // A writer that nobody stopped.
    let old = client.execute("INSERT INTO users VALUES (-2, 'gAAAA', NULL)", &[]).unwrap_err();
    assert_eq!(old.code().unwrap().code(), "23514");
    let (code, ..) = desk.migrate(&mixed);
    assert_eq!(code, 0, "the CHECK is there already");

    // `suite | flags | kid` of a token.
    let token = URL_SAFE_NO_PAD.decode(&desk.column("email")[0].1[4..28]).unwrap();
    let kid = token[2..].iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let form = |name: &str, rows: usize| ((name.to_owned(), None), rows as u64);
    let tokens = |rows: usize| (("token".to_owned(), Some(kid.clone())), rows as u64);
    let (old, none) = ([form("fernet", 2), form("null", 1)], form("null", 1));
    let expected = [
        ("dry_run", vec![form("fernet", rows + 2), form("other", 3), none.clone()]),
        ("failed", [&old[..], &[form("other", 3), tokens(rows)]].concat()),
        ("failed", [&old[..], &[tokens(rows + 3)]].concat()),
        ("ok", vec![none.clone(), tokens(rows + 3)]),
        ("ok", vec![none, tokens(rows + 3)]),
    ];
    let expected =
        expected.map(|(outcome, counts)| (outcome.to_owned(), counts.into_iter().collect()));
    assert_eq!(desk.audited(), expected);
    assert!(desk.database.log().contains("UPDATE \"public\".\"users\""));
}

/// Shapes that `pgp_sym_encrypt` writes by its options.
const SHAPES: [&str; 14] = [
    "",
    "cipher-algo=aes256, s2k-digest-algo=sha256",
    "cipher-algo=aes192, compress-algo=1",
    "compress-algo=2, compress-level=9",
    "disable-mdc=1",
    "disable-mdc=1, cipher-algo=3des",
    "cipher-algo=3des",
    "s2k-mode=0",
    "s2k-mode=1, s2k-digest-algo=md5",
    "sess-key=1",
    "sess-key=1, s2k-cipher-algo=aes256, cipher-algo=aes192",
    "unicode-mode=1",
    "cipher-algo=bf",
    "cipher-algo=cast5",
];

#[test]
fn every_shape_of_pgcrypto_is_read_and_what_is_in_clear_is_reported() {
    let more = json!({ "subject": "$.id" });
    let desk = Desk::new(&fields(), &more);
    let mut client = desk.admin();
    client
        .batch_execute(&format!(
            "CREATE EXTENSION pgcrypto; {TABLE}; ALTER TABLE users ADD old bytea;"
        ))
        .unwrap();
    let rows = rows() / 10 / SHAPES.len() * SHAPES.len();
    insert(&mut client, "email_bidx", 0, &values(0..rows));
    for (number, shape) in SHAPES.iter().enumerate() {
        let sql = "UPDATE users SET old = pgp_sym_encrypt(email_bidx, $1, $2), email_bidx = NULL
            WHERE id % $3 = $4";
        let number = [SHAPES.len() as i64, number as i64];
        client.execute(sql, &[&PASSPHRASE, shape, &number[0], &number[1]]).unwrap();
    }
    // Damaged; a bomb; a person who was erased.
    let bomb = "UPDATE users SET old = pgp_sym_encrypt(repeat('0', 200000000), $1, \
        'compress-algo=1, compress-level=9') WHERE id = 1";
    client.execute(bomb, &[&PASSPHRASE]).unwrap();
    client.batch_execute("UPDATE users SET old = set_byte(old, 40, 0) WHERE id = 0").unwrap();
    // As much hashing as a message can ask for: `migrate` reads it all the same.
    let slow = "UPDATE users SET old = pgp_sym_encrypt($2, $1, 's2k-count=65011712') WHERE id = 2";
    client.execute(slow, &[&PASSPHRASE, &value(2)]).unwrap();
    desk.done(
        &["transform", "--config", "veilstream.toml", "--schema", "users.json"],
        "{\"id\":7,\"email\":\"a\"}",
    );
    desk.done(
        &["shred", "--config", "veilstream.toml", "--subject", "7", "--reason", "request 1"],
        "",
    );

    let args = [
        "--from",
        "pgcrypto",
        "--passphrases-file",
        "old.pass",
        "--column",
        "old",
        "--to",
        "email",
        "--subject",
        "id",
    ];
    let (code, told, named) = desk.migrate(&args);
    assert_eq!(code, 1, "{told}");
    let expected = [("id=0", "not_opened"), ("id=1", "not_opened"), ("id=7", "erased_subject")];
    assert_eq!(named, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    assert_eq!(told["written"].as_u64(), Some(rows as u64 - 3));
    // This server's library has neither Blowfish nor CAST5, and pgcrypto went on without.
    let in_clear = client
        .query_one("SELECT pgp_sym_decrypt(pgp_sym_encrypt('a', 'x', 'cipher-algo=bf'), 'y')", &[])
        .map_or(0, |_| rows / SHAPES.len() * 2);
    assert_eq!(told["opens_without_passphrase"].as_u64(), Some(in_clear as u64), "{told}");
    if in_clear > 0 {
        assert!(told["findings"][0].as_str().unwrap().contains("CVE-2026-14663"), "{told}");
    }

    // Who is erased now is told that a table may still have them; counting again changes nothing.
    let unfinished = "public.users.old: its migration is unfinished";
    desk.migrate(&[&args[..], &["--dry-run"]].concat());
    let (receipt, said) = desk.erased("8");
    assert!(receipt.contains(unfinished) && said.contains(unfinished), "{receipt}{said}");

    let (code, told, named) = desk.migrate(&[&args[..], &["--erase"]].concat());
    assert_eq!((code, told["erased"].as_u64(), named.len()), (1, Some(1), 2), "{told}");
    client.batch_execute("DELETE FROM users WHERE id < 2").unwrap();
    let (code, told, _) = desk.migrate(&args);
    assert_eq!((code, &told["check"]), (0, &json!({ "holds": true })), "{told}");
    let (code, told, _) = desk.migrate(&[&args[..], &["--dry-run"]].concat());
    assert_eq!((code, &told["done"]), (0, &json!(true)), "{told}");
    let (receipt, said) = desk.erased("9");
    assert!(!receipt.contains("migration") && !said.contains("migration"), "{receipt}{said}");
    client.batch_execute("DELETE FROM users WHERE id IN (8, 9)").unwrap();
    desk.holds_values(rows - 5);
    assert!(desk.column("old::text").is_empty());
    // Each under its person's key: a token of another row does not open here.
    let kids: i64 = client
        .query_one("SELECT count(DISTINCT substr(email, 5, 24)) FROM users", &[])
        .unwrap()
        .get(0);
    assert_eq!(kids, rows as i64 - 5);
    assert!(client.batch_execute("UPDATE users SET old = 'x' WHERE id = 2").is_err());
}

#[test]
fn hashes_give_way_to_blind_indexes() {
    let desk = Desk::new(&fields(), &Value::Null);
    let mut client = desk.admin();
    client.batch_execute(&format!("{TABLE}; ALTER TABLE users ADD email_hash text")).unwrap();
    insert(&mut client, "email", 0, &values(0..50));
    client
        .batch_execute(
            "UPDATE users SET email_hash = encode(sha256(convert_to(lower(email), 'UTF8')), 'hex');
             UPDATE users SET email_hash = encode(sha256(convert_to(email, 'UTF8')), 'hex') WHERE id < 10;
             UPDATE users SET email_hash = encode(sha256('else'), 'hex') WHERE id = 49;
             INSERT INTO users VALUES (50, NULL, NULL, encode(sha256('gone'), 'hex'))",
        )
        .unwrap();
    // First the values themselves.
    let (code, ..) = desk.migrate(&["--from", "clear"]);
    assert_eq!(code, 0);
    client.batch_execute("UPDATE users SET email_bidx = NULL").unwrap();
    let args = ["--from", "sha256-hash", "--column", "email_hash", "--to", "email"];
    let (code, told, named) = desk.migrate(&args);
    assert_eq!((code, told["written"].as_u64()), (1, Some(49)), "{told}");
    let expected = [("id=49", "hash_differs"), ("id=50", "no_value")];
    assert_eq!(named, expected.map(|(a, b)| (a.to_owned(), b.to_owned())).into());
    client.batch_execute("DELETE FROM users WHERE id >= 49").unwrap();
    let (code, told, _) = desk.migrate(&args);
    assert_eq!((code, &told["check"]), (0, &json!({ "holds": true })), "{told}");
    desk.holds_values(49);
}

/// A honey token gets the index of what it holds, and no output tells it from its neighbours.
#[test]
fn a_honey_token_beside_a_hash_does_not_stand_out() {
    let desk = Desk::new(&fields(), &Value::Null);
    let mut client = desk.admin();
    client.batch_execute(&format!("{TABLE}; ALTER TABLE users ADD email_hash text")).unwrap();
    insert(&mut client, "email", 0, &values(0..5));
    let (code, ..) = desk.migrate(&["--from", "clear"]);
    assert_eq!(code, 0);
    let create = ["honey", "create", "--config", "veilstream.toml", "--schema", "users.json"];
    let bait = desk.done(&[&create[..], &["--field", "email", &value(3)]].concat(), "");
    let bait = bait.trim();
    client
        .execute("UPDATE users SET email = $1, email_bidx = NULL WHERE id = 3", &[&bait])
        .unwrap();
    let hash =
        "UPDATE users SET email_hash = encode(sha256(convert_to($1, 'UTF8')), 'hex') WHERE id = 3";
    client.execute(hash, &[&value(3)]).unwrap();
    let args = ["--from", "sha256-hash", "--column", "email_hash", "--to", "email"];
    let (code, told, named) = desk.migrate(&args);
    assert_eq!((code, told["written"].as_u64(), named.len()), (0, Some(1), 0), "{told}");
    let row = client.query_one("SELECT email, email_bidx FROM users WHERE id = 3", &[]).unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, Option<&str>>(1).is_some()), (bait, true));
}

/// Two values that no key opens, in the place of the last two.
fn with_strangers(sealed: &mut [String], strangers: [String; 2]) {
    let last = sealed.len() - 2;
    sealed[last..].clone_from_slice(&strangers);
}

#[test]
fn transit_opens_a_page_at_a_time() {
    let (desk, bao, rows) = (Desk::new(&fields(), &Value::Null), bao(), 300);
    bao.api(Method::POST, "transit/keys/app", &json!({}));
    bao.api(Method::POST, "transit/keys/else", &json!({}));
    let seal = |key: &str, values: &[String]| -> Vec<String> {
        let input: Vec<Value> =
            values.iter().map(|text| json!({ "plaintext": STANDARD.encode(text) })).collect();
        let path = format!("transit/encrypt/{key}");
        let answer = bao.api(Method::POST, &path, &json!({ "batch_input": input }));
        let results = answer["data"]["batch_results"].as_array().unwrap();
        results.iter().map(|one| one["ciphertext"].as_str().unwrap().to_owned()).collect()
    };
    let mut sealed = seal("app", &values(0..rows));
    let stranger = seal("else", &values(0..1)).remove(0);
    with_strangers(&mut sealed, [stranger, "vault:v1:AAAA".to_owned()]);
    let mut client = desk.admin();
    client.batch_execute(TABLE).unwrap();
    insert(&mut client, "email", 0, &sealed);
    desk.private("token", "root");
    desk.private(
        "vault.toml",
        &format!(
            "[keys]\nprovider = \"vault\"\n[keys.vault]\naddress = \"{}\"\nkey = \"app\"\n\
            token_file = \"token\"\n",
            bao.address()
        ),
    );
    opens_all_but_two(&desk, &["--from", "vault", "--source-config", "vault.toml"], rows);
}

#[test]
fn kms_opens_each_value() {
    const REGION: &str = "eu-central-1";
    let (desk, kms, rows) = (Desk::new(&fields(), &Value::Null), kms(), 60);
    let (key, other) = (kms.key(REGION), kms.key(REGION));
    let seal = |key: &str, text: &String| {
        let body = json!({ "KeyId": key, "Plaintext": STANDARD.encode(text) });
        kms.api(REGION, "Encrypt", &body)["CiphertextBlob"].as_str().unwrap().to_owned()
    };
    let mut sealed: Vec<String> = values(0..rows).iter().map(|text| seal(&key, text)).collect();
    let damaged = STANDARD.encode([7; 120]);
    with_strangers(&mut sealed, [seal(&other, &value(0)), damaged]);
    let mut client = desk.admin();
    client.batch_execute(TABLE).unwrap();
    insert(&mut client, "email", 0, &sealed);
    desk.private(
        "kms.toml",
        &format!(
            "[keys]\nprovider = \"aws-kms\"\n[keys.aws-kms]\nkey_arns = [\"{key}\"]\n\
            endpoint = \"http://127.0.0.1:{}\"\n",
            kms.port
        ),
    );
    opens_all_but_two(&desk, &["--from", "aws-kms", "--source-config", "kms.toml"], rows);
}

fn opens_all_but_two(desk: &Desk, args: &[&str], rows: usize) {
    let (code, told, named) = desk.migrate(args);
    assert_eq!((code, told["written"].as_u64()), (1, Some(rows as u64 - 2)), "{told}");
    let expected = [rows - 2, rows - 1].map(|id| (format!("id={id}"), "not_opened".to_owned()));
    assert_eq!(named, expected.into());
    let last = format!("DELETE FROM users WHERE id >= {}", rows - 2);
    desk.admin().batch_execute(&last).unwrap();
    let (code, told, _) = desk.migrate(args);
    assert_eq!((code, &told["check"]), (0, &json!({ "holds": true })), "{told}");
    desk.holds_values(rows - 2);
}

#[test]
fn sqlalchemy_utils_is_read_and_its_static_vector_reported() {
    for padding in ["pkcs5", "naive"] {
        let desk = Desk::new(&fields(), &Value::Null);
        let mut client = desk.admin();
        client.batch_execute(TABLE).unwrap();
        let sealed =
            python("string_encrypted_type.py", &["a key of the guide", padding], &values(0..40));
        insert(&mut client, "email", 0, &sealed);
        insert(&mut client, "email", 40, &sealed[..4]);
        let args = [
            "--from",
            "sqlalchemy-utils",
            "--sqlalchemy-keys-file",
            "old.words",
            "--padding",
            padding,
        ];
        let (code, told, _) = desk.migrate(&args);
        assert_eq!((code, told["written"].as_u64()), (0, Some(44)), "{told}");
        assert_eq!(told["repeated_ciphertexts"].as_u64(), Some(4));
        assert!(told["findings"][0].as_str().unwrap().contains("initialisation vector"));
        client.batch_execute("DELETE FROM users WHERE id >= 40").unwrap();
        desk.holds_values(40);
    }
}

#[test]
fn typed_bound_and_deterministic_columns_open_in_their_rows() {
    let document = json!({ "veilstream": 1, "name": "people", "version": 1, "fields": [
        { "id": "age", "path": "$.age", "type": "integer", "bind": [{ "name": "id", "path": "$.id" }] },
        { "id": "plan", "path": "$.plan", "type": "string", "protect": "deterministic", "root": 1 },
    ] });
    let table = "CREATE TABLE people (id bigint PRIMARY KEY, age text, plan text);
        ALTER TABLE people OWNER TO veil;
        INSERT INTO people VALUES (1, '42', 'gold'), (2, '-7', 'gold'), (3, 'forty', 'blue')";
    let desk = People::new(&document.to_string(), table);
    let clear = |field, more: &[&str]| {
        let fixed = ["migrate", "postgres", "--field", field, "--from", "clear"];
        desk.migrated(&[&fixed[..], more].concat())
    };
    let (code, told, named) = clear("age", &["--bind", "id=id"]);
    assert_eq!((code, &told["stays"]), (1, &json!({ "wrong_type": 1 })), "{told}");
    assert_eq!(named, ["id=3".to_owned()].into());
    desk.rows().execute("DELETE FROM people WHERE id = 3", &[]).unwrap();
    for (field, more) in [("age", &["--bind", "id=id"][..]), ("plan", &[])] {
        let (code, told, _) = clear(field, more);
        assert_eq!((code, &told["check"]), (0, &json!({ "holds": true })), "{told}");
    }
    let expected = [
        json!({ "id": 1, "age": 42, "plan": "gold" }),
        json!({ "id": 2, "age": -7, "plan": "gold" }),
    ];
    assert_eq!(desk.reveal(), expected);
    let plans = "SELECT count(DISTINCT plan) FROM people";
    assert_eq!(desk.rows().query_one(plans, &[]).unwrap().get::<_, i64>(0), 1);
    // A token that was put into another row does not open there.
    let planted = "UPDATE people SET age = (SELECT age FROM people WHERE id = 2) WHERE id = 1";
    desk.rows().execute(planted, &[]).unwrap();
    assert_ne!(desk.reveal().first(), Some(&expected[0]));
}

/// What a person reads, and a role that may not add the CHECK.
#[test]
fn what_was_done_and_what_is_left_to_do_is_said() {
    let desk = Desk::new(&fields(), &Value::Null);
    let mut client = desk.admin();
    client.batch_execute(&format!("{TABLE}; ALTER TABLE users OWNER TO postgres")).unwrap();
    client.batch_execute("GRANT ALL ON users TO veil").unwrap();
    insert(&mut client, "email", 0, &values(0..3));
    let said = |args: &[&str]| {
        let mut command = desk.migration(&[&["--from", "clear"], args].concat());
        let words: Vec<_> = command.get_args().filter(|word| *word != "--json").collect();
        let words: Vec<_> = words.into_iter().map(ToOwned::to_owned).collect();
        command = desk.command(&[]);
        let output = command.args(words).output().unwrap();
        (output.status.code().unwrap(), text(&output.stdout))
    };
    let held = "public.users.email held: 3 clear\n";
    let (code, counted) = said(&["--dry-run"]);
    let expected = "a dry run: 3 rows would be written\n";
    assert_eq!((code, counted), (0, format!("{held}{expected}")));

    let (code, told) = said(&[]);
    let first = format!("{held}3 rows written, 3 of a sample opened again\n");
    assert!(code == 1 && told.starts_with(&first), "{told}");
    let advice = [
        "the CHECK does not hold yet: ",
        "a CHECK takes the owner of the table (SQLSTATE 42501)",
        "run as the owner of the table:\nALTER TABLE \"public\".\"users\" ADD CONSTRAINT",
        "VALIDATE CONSTRAINT",
        "none of the old form is left",
        "what still holds the old form: dead rows until VACUUM FULL, the write-ahead log",
    ];
    advice.iter().for_each(|one| assert!(told.contains(one), "{one}: {told}"));
    // The owner does as it was told.
    let sql: Vec<&str> = told.lines().filter(|line| line.starts_with("ALTER")).collect();
    client.batch_execute(&sql.concat()).unwrap();
    let (code, told, _) = desk.migrate(&["--from", "clear"]);
    assert_eq!((code, &told["check"]), (0, &json!({ "holds": true })), "{told}");
}

#[test]
fn what_does_not_fit_is_refused_before_anything_is_opened() {
    let desk = Desk::new(&fields(), &json!({ "subject": "$.id" }));
    desk.admin().batch_execute(&format!("{TABLE}; ALTER TABLE users DROP email_bidx")).unwrap();
    let refused = |args: &[&str]| {
        let output = desk.migration(args).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", text(&output.stderr));
        text(&output.stderr)
    };
    assert!(refused(&["--from", "clear", "--subject", "id"]).contains("no column email_bidx"));
    assert!(refused(&["--from", "fernet", "--subject", "id"]).contains("--keys-file"));
    desk.admin().batch_execute("ALTER TABLE users ADD email_bidx text").unwrap();
    desk.admin().batch_execute("ALTER TABLE users ADD mails text[]").unwrap();
    let list = ["--from", "clear", "--subject", "id", "--to", "mails", "--index", "email_bidx"];
    let said = refused(&list);
    assert!(said.contains("users.mails is text[]"), "{said}");
    let list = ["--from", "clear", "--subject", "id", "--column", "mails", "--to", "email"];
    assert!(refused(&list).contains("users.mails is a list"));
    assert!(refused(&["--from", "clear"]).contains("--subject"));
    assert!(refused(&["--from", "clear", "--subject", "no"]).contains("no column no"));
    assert!(refused(&["--from", "clear", "--subject", "id", "--bind", "a=id"]).contains("bound"));
    assert!(refused(&["--from", "sha256-hash", "--subject", "id"]).contains("--to"));
    let config = fs::read_to_string(desk.dir.path().join("veilstream.toml")).unwrap();
    desk.private("veilstream.toml", config.split("[audit]").next().unwrap());
    assert!(refused(&["--from", "clear", "--subject", "id"]).contains("[audit]"));
}
