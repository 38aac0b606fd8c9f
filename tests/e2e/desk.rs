//! A folder with all that `veilstream serve` needs, for tests with servers beside it, and one who
//! asks it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::blocking::Client;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kafka::wait_for;
use crate::serve_process::ServeProcess;
use crate::stdin::feed;

pub(crate) const LIMIT: Duration = Duration::from_secs(120);
/// An answer waits two seconds (docs/operations.md); the rest is for a busy machine.
const DEADLINE: Duration = Duration::from_secs(5);
pub(crate) const POLICY: &str = r#"@id("desk-reads")
permit(principal in Role::"desk", action == Action::"reveal", resource == Field::"customers.email");
"#;
const EVENT: &str = r#"{"type":"customer.updated","customer":{"id":42,"email":"ada@example.com","ssn":"078-05-1120"}}"#;

pub(crate) fn veilstream(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
    command.args(args).env_remove("VEILSTREAM_KEYS").env("NO_COLOR", "1");
    command
}

pub(crate) fn done(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A folder with keys, a schema, a policy, an API key and sealed tokens.
pub(crate) struct Desk {
    pub(crate) dir: TempDir,
    key: String,
    /// Of as many people; first Ada's.
    pub(crate) tokens: Vec<String>,
}

/// More than a line for each may stand for.
pub(crate) const MANY: u64 = 150;

impl Desk {
    /// `audit`: the rest of that section. `kafka`: the brokers.
    pub(crate) fn new(kafka: &str, audit: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        done(veilstream(&["keys", "init", "--keys"]).arg(path("keys")));
        for folder in ["schemas", "policies"] {
            fs::create_dir(path(folder)).unwrap();
        }
        let schema = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/customers.json");
        fs::copy(schema, path("schemas/customers.json")).unwrap();
        fs::write(path("policies/desk.cedar"), POLICY).unwrap();
        let public = done(veilstream(&["audit", "keygen", "--out"]).arg(path("verifier.key")));
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{kafka}\"\n[audit]\nrecipient = \"{}\"\n{audit}\n\
            [[policy.purposes]]\nname = \"support\"\nreason_required = false\n[schemas]\ndomains = \
            [\"payment_card\"]\n[keys]\nstore = \"sqlite:keys/keys.db\"\n[keys.file]\npath = \
            \"keys/kek\"\n[http]\nlisten = \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[serve]\n\
            listen = \"127.0.0.1:0\"\ninsecure = true\n",
            public.trim()
        );
        fs::write(path("veilstream.toml"), text).unwrap();
        let mut desk = Self { dir, key: String::new(), tokens: Vec::new() };
        desk.take_keys(["--keys", &desk.path("keys")]);
        desk
    }

    /// One whose key store and erasure ledger are topics.
    pub(crate) fn with_keys_in_topics(kafka: &str, name: &str) -> Self {
        let mut desk = Self::new(kafka, "copy = \"none\"\n");
        let config = desk.path("veilstream.toml");
        let topics = format!("store = \"kafka:{name}.keys\"\nledger = \"kafka:{name}.erasures\"");
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("store = \"sqlite:keys/keys.db\"", &topics)).unwrap();
        done(&mut veilstream(&["keys", "init", "--config", &config]));
        desk.take_keys(["--config", &config]);
        desk
    }

    /// An API key, and everybody's tokens.
    fn take_keys(&mut self, store: [&str; 2]) {
        let mut create =
            veilstream(&["serve", "keys", "create", "--name", "desk", "--role", "desk"]);
        self.key = done(create.args(store)).trim().to_owned();
        let schema = self.path("schemas/customers.json");
        let mut transform = veilstream(&["transform", "--schema", &schema]);
        transform.args(store);
        let people = (0..MANY).map(|id| EVENT.replace("42", &(42 + id).to_string()) + "\n");
        let output = feed(transform, people.collect::<String>());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let sealed = String::from_utf8(output.stdout).unwrap();
        let sealed = sealed.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let tokens = sealed.map(|one| one["customer"]["email"].as_str().unwrap().to_owned());
        self.tokens = tokens.collect();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn audit(&self, args: &[&str]) -> Output {
        let config = self.path("veilstream.toml");
        veilstream(&["audit", args[0], "--config", &config]).args(&args[1..]).output().unwrap()
    }

    pub(crate) fn start(&self) -> Running<'_> {
        let config = self.path("veilstream.toml");
        Running {
            desk: self,
            process: ServeProcess::start(&mut veilstream(&["serve", "--config", &config])),
            asked: 0,
            answered: BTreeSet::new(),
            client: Client::builder().timeout(Duration::from_secs(60)).build().unwrap(),
        }
    }

    /// Lines of the file with their event.
    pub(crate) fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(self.path("audit.jsonl")).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    /// The copies are the log's lines, each once, and hold it to them.
    pub(crate) fn assert_same(&self, copies: &str) {
        let mut there: Vec<&str> = copies.lines().collect();
        let lines = self.lines();
        let mut here: Vec<&str> = lines.iter().map(String::as_str).collect();
        there.sort_unstable();
        here.sort_unstable();
        assert_eq!(there, here, "lines there, lines here");
        let file = self.path("copies.jsonl");
        fs::write(&file, copies).unwrap();
        let verified = self.audit(&["verify", "--copies", &file]);
        let said = String::from_utf8(verified.stdout).unwrap();
        assert!(verified.status.success() && said.contains("all is proved"), "{said}");
        // A log whose chain is not here is refused.
        let moved = self.path("moved");
        fs::rename(self.path("audit.jsonl"), &moved).unwrap();
        fs::write(self.path("audit.jsonl"), "").unwrap();
        let verified = self.audit(&["verify", "--copies", &file]);
        assert_eq!(verified.status.code(), Some(1));
        assert!(String::from_utf8(verified.stdout).unwrap().contains("is missing"));
        fs::rename(moved, self.path("audit.jsonl")).unwrap();
    }
}

pub(crate) struct Running<'d> {
    desk: &'d Desk,
    pub(crate) process: ServeProcess,
    asked: usize,
    /// Requests that were answered with a value.
    answered: BTreeSet<String>,
    client: Client,
}

impl Running<'_> {
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// Reads the first value.
    pub(crate) fn reads(&mut self) -> bool {
        self.reads_first(1)
    }

    /// Status and answer of a request for the first values.
    pub(crate) fn ask(&self, id: &str, count: usize) -> (StatusCode, Value) {
        let tokens = self.desk.tokens[..count].iter();
        let items: Vec<Value> = tokens
            .map(|token| json!({ "id": 1, "field": "customers.email", "token": token }))
            .collect();
        let body = json!({ "purpose": "support", "request_id": id, "items": items });
        let asked = self.client.post(format!("http://{}/v1/reveal", self.process.address));
        let answer = asked.bearer_auth(&self.desk.key).json(&body).send().unwrap();
        (answer.status(), answer.json().unwrap())
    }

    /// Reads the first values once; whether it was answered. It is refused in one way only.
    pub(crate) fn reads_first(&mut self, count: usize) -> bool {
        self.asked += 1;
        let id = format!("r-{}-{}", self.process.child.id(), self.asked);
        let begun = Instant::now();
        let (status, answer) = self.ask(&id, count);
        if status == StatusCode::OK {
            assert_eq!(answer["items"][0]["value"], "ada@example.com", "{answer}");
            self.answered.insert(id);
            return true;
        }
        assert_eq!((status.as_u16(), &answer["code"]), (503, &"audit_unavailable".into()));
        assert!(!answer.to_string().contains("ada@"), "{answer}");
        let took = begun.elapsed();
        assert!(took < DEADLINE, "refused after {took:?}");
        false
    }

    pub(crate) fn reads_until(&mut self, what: &str, is_answered: bool) {
        wait_for(LIMIT, what, || self.reads() == is_answered);
    }

    pub(crate) fn get(&self, path: &str) -> String {
        reqwest::blocking::get(format!("http://{}{path}", self.process.http))
            .unwrap()
            .text()
            .unwrap()
    }

    /// What an operator sees while a required place is away, and after.
    pub(crate) fn operator_sees(&self, place: &str, is_away: bool) {
        wait_for(LIMIT, "the operator to see it", || {
            self.get("/readyz").contains(&format!("audit {place}")) == is_away
        });
        let said = if is_away { "takes no lines, so" } else { "takes lines again" };
        let log = self.log();
        assert!(log.contains(said), "{log}");
    }

    /// Ends it as a crash does; who was answered.
    pub(crate) fn kill(mut self) -> BTreeSet<String> {
        self.process.child.kill().unwrap();
        self.process.child.wait().unwrap();
        std::mem::take(&mut self.answered)
    }

    /// Stops it as an orchestrator does; who was answered.
    pub(crate) fn stop(mut self) -> BTreeSet<String> {
        let code = self.process.stop();
        let log = self.log();
        assert_eq!(code, 0, "{log}");
        assert!(!log.contains("ada@") && !log.contains("s3cr3t"), "{log}");
        std::mem::take(&mut self.answered)
    }
}
