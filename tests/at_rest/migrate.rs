//! `veilstream migrate postgres` on a real server: columns of other systems, written by those
//! systems' own code.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use postgres::Client;
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

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
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
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
        let Output { status, stdout, stderr } = self.migration(args).output().unwrap();
        let (stdout, stderr) = (text(&stdout), text(&stderr));
        for told in [&stdout, &stderr] {
            assert!(!told.contains(CANARY), "a value is on an output: {told}");
        }
        let told = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
        let lines = stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let named = lines.map(|line| {
            let of = |name: &str| line[name].as_str().unwrap().to_owned();
            (of("row"), of("reason"))
        });
        (status.code().unwrap(), told, named.collect())
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

    /// What the audit log has of migrations: reasons, by outcome.
    fn audited(&self) -> Vec<(String, String)> {
        let log = fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap();
        assert!(!log.contains(CANARY));
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines
            .filter(|line| line["event"] == "migrate")
            .map(|line| {
                let of = |name: &str| line[name].as_str().unwrap().to_owned();
                (of("reason"), of("outcome"))
            })
            .collect()
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

fn fernet(keys: &Path, values: &[String]) -> Vec<String> {
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

/// Every statement and its parameters, as a careless administrator logs them.
fn log_everything(database: &Database) {
    for setting in
        ["log_statement = 'all'", "log_min_duration_statement = 0", "log_parameter_max_length = -1"]
    {
        database.sql(&format!("ALTER DATABASE {} SET {setting}", database.name));
    }
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
    log_everything(&desk.database);

    let from = ["--from", "fernet", "--keys-file", "old.keys"];
    let (code, told, named) = desk.migrate(&[&from[..], &["--dry-run"]].concat());
    assert_eq!((code, told["written"].as_u64()), (1, Some(0)), "{told}");
    assert_eq!(named.len(), 5);
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

    let audited = desk.audited();
    assert_eq!(audited.len(), 10, "two lines of each run: {audited:?}");
    assert!(audited[3].0.contains("end: public.users.email from fernet"), "{audited:?}");
    assert_eq!((&*audited[3].1, &*audited[7].1), ("failed", "ok"));
    let log = server().log();
    assert!(log.contains("UPDATE \"public\".\"users\""), "statements are not logged");
    assert!(!log.contains(&format!("{CANARY}.1.")), "a value is in the server's log");
    let kek = fs::read_to_string(desk.dir.path().join("keys/kek")).unwrap();
    for key in FERNET_KEYS.lines().chain(kek.lines().filter(|line| line.len() > 30)) {
        assert!(!log.contains(key), "a key is in the server's log");
    }
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
    log_everything(&desk.database);

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

    // Who is erased now is told that a table may still have them.
    let shred = ["shred", "--config", "veilstream.toml", "--subject", "8", "--reason", "request 2"];
    let receipt = desk.done(&shred, "");
    assert!(receipt.contains("public.users.old: its migration is unfinished"), "{receipt}");

    let (code, told, named) = desk.migrate(&[&args[..], &["--erase"]].concat());
    assert_eq!((code, told["erased"].as_u64(), named.len()), (1, Some(1), 2), "{told}");
    client.batch_execute("DELETE FROM users WHERE id < 2").unwrap();
    let (code, told, _) = desk.migrate(&args);
    assert_eq!((code, &told["check"]), (0, &json!({ "holds": true })), "{told}");
    let receipt = desk.done(&[&shred[..4], &["9", "--reason", "request 3"]].concat(), "");
    assert!(!receipt.contains("migration"), "{receipt}");
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
    assert!(!server().log().contains(&format!("{CANARY}.2.")), "a value is in the server's log");
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

/// A kill at any time: what was written stays, and the next run continues; a writer meanwhile loses
/// nothing.
#[test]
fn a_killed_migration_continues_beside_a_writer() {
    let desk = Desk::new(&fields(), &Value::Null);
    let mut client = desk.admin();
    client.batch_execute(TABLE).unwrap();
    let rows = 600;
    insert(&mut client, "email", 0, &fernet(&desk.dir.path().join("old.keys"), &values(0..rows)));
    let later = fernet(&desk.dir.path().join("old.keys"), &values(9000..9001)).remove(0);
    let from = ["--from", "fernet", "--keys-file", "old.keys", "--batch", "20"];
    let tokens = "SELECT count(*) FROM users WHERE email LIKE 'vs1.%'";
    for kill in 1..=3 {
        let slow = [&from[..], &["--rows-per-second", "200"]].concat();
        let mut child = Stopped(
            desk.migration(&slow).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(),
        );
        let before: i64 = client.query_one(tokens, &[]).unwrap().get(0);
        while client.query_one(tokens, &[]).unwrap().get::<_, i64>(0) < before + 40 {
            assert!(child.0.try_wait().unwrap().is_none(), "it ended before it was killed");
            // The old application goes on.
            client.execute("UPDATE users SET email = $1 WHERE id = 599", &[&later]).unwrap();
        }
        drop(child);
        let done: i64 = client.query_one(tokens, &[]).unwrap().get(0);
        assert!(done < rows as i64, "kill {kill} came too late");
    }
    client.execute("UPDATE users SET email = $1 WHERE id = 599", &[&later]).unwrap();
    let (code, told, _) = desk.migrate(&from);
    assert_eq!((code, &told["check"]), (0, &json!({ "holds": true })), "{told}");
    let last = desk.column("email").pop().unwrap();
    assert_eq!(desk.opened(&[last.1]), [json!(value(9000))], "the writer's value is lost");
    client.batch_execute("DELETE FROM users WHERE id = 599").unwrap();
    desk.holds_values(rows - 1);
}

struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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
