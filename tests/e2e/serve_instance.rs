//! A folder with all that `veilstream serve` needs.

#[path = "../support/serve_process.rs"]
mod serve_process;

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use reqwest::StatusCode;
use reqwest::blocking::Client;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) use self::serve_process::ServeProcess;
use crate::testing::TestIssuer;

pub(crate) fn veilstream(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_veilstream"));
    command.args(args).env_remove("VEILSTREAM_KEYS").env("NO_COLOR", "1");
    command
}

pub(crate) fn done(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// What a command prints for this input.
pub(crate) fn fed(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// A file of the repository.
pub(crate) fn shipped(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// An analyst reads e-mail addresses, sees the mask of telephone numbers and finds both.
const POLICY: &str = r#"
@id("analyst-reads")
permit(principal in Role::"analyst", action in [Action::"reveal", Action::"search", Action::"explain"],
  resource == Field::"customers.email") when { context.purpose == "support" };
@id("analyst-masks")
permit(principal in Role::"analyst", action in [Action::"mask", Action::"explain"],
  resource == Field::"customers.phone") when { context.purpose == "support" };
"#;

/// One purpose, for which no reason is needed.
pub(crate) const SUPPORT: &str =
    "[[policy.purposes]]\nname = \"support\"\nreason_required = false\n";

/// The section of an issuer whose tokens the service accepts.
pub(crate) fn corp(issuer: &TestIssuer) -> String {
    format!(
        "[serve.jwt.corp]\nissuer = \"https://login.corp\"\naudience = \"veilstream\"\njwks = \
        \"{}\"\nca_file = \"{}\"\n",
        issuer.url,
        issuer.ca().display()
    )
}

/// What an instance is made of.
pub(crate) struct Setup<'a> {
    /// Members of `[serve]`, and sections below it.
    pub(crate) serve: &'a str,
    /// Names of shipped schema documents.
    pub(crate) schemas: &'a [&'a str],
    /// Sections `[[policy.purposes]]` and `[[policy.budgets]]`.
    pub(crate) policy: &'a str,
    /// The file `policies/all.cedar`; empty: none.
    pub(crate) cedar: &'a str,
    /// The second place of `[audit]`.
    pub(crate) audit: &'a str,
}

impl Default for Setup<'_> {
    fn default() -> Self {
        let serve = "insecure = true\n";
        let audit = "copy = \"none\"\n";
        Self { serve, schemas: &["customers"], policy: SUPPORT, cedar: POLICY, audit }
    }
}

/// A folder with keys, schemas, policies and a configuration.
pub(crate) struct Instance {
    dir: TempDir,
}

impl Instance {
    pub(crate) fn new(serve: &str) -> Self {
        Self::of(&Setup { serve, ..Setup::default() })
    }

    pub(crate) fn of(setup: &Setup<'_>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        done(veilstream(&["keys", "init", "--keys"]).arg(dir.path().join("keys")));
        fs::create_dir(dir.path().join("schemas")).unwrap();
        for name in setup.schemas {
            let file = format!("schemas/{name}.json");
            fs::copy(shipped(&file), dir.path().join(file)).unwrap();
        }
        let instance = Self { dir };
        let mut keygen = veilstream(&["audit", "keygen", "--out", &instance.path("verifier.key")]);
        instance.write("audit.pub", std::str::from_utf8(&done(&mut keygen).stdout).unwrap());
        fs::create_dir(instance.path("policies")).unwrap();
        if !setup.cedar.is_empty() {
            instance.write("policies/all.cedar", setup.cedar);
        }
        let Setup { serve, policy, audit, .. } = setup;
        let text = format!(
            "[audit]\nrecipient_file = \"audit.pub\"\n{audit}{policy}\n[schemas]\ndomains = \
            [\"payment_card\"]\nreload_interval = \"1s\"\n[keys]\nstore = \
            \"sqlite:keys/keys.db\"\n[keys.file]\npath = \"keys/kek\"\n[http]\nlisten = \
            \"127.0.0.1:0\"\n[log]\nformat = \"json\"\n[serve]\nlisten = \"127.0.0.1:0\"\n{serve}"
        );
        instance.write("veilstream.toml", &text);
        instance
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap()
    }

    pub(crate) fn keys(&self, args: &[&str]) -> Command {
        let (name, rest) = args.split_first().unwrap();
        let config = self.path("veilstream.toml");
        let mut command = veilstream(&["serve", "keys", name, "--config", &config]);
        command.args(rest);
        command
    }

    /// The id and the whole text of a new key of an analyst.
    pub(crate) fn make_key(&self, name: &str) -> (String, String) {
        self.make_key_of(name, "analyst")
    }

    pub(crate) fn make_key_of(&self, name: &str, role: &str) -> (String, String) {
        let args = ["create", "--name", name, "--role", role, "--json"];
        let output = done(&mut self.keys(&args));
        let made: Value = serde_json::from_slice(&output.stdout).unwrap();
        (made["id"].as_str().unwrap().to_owned(), made["key"].as_str().unwrap().to_owned())
    }

    /// Records of a shipped schema as a pipeline would write them, one JSON text a line.
    pub(crate) fn seal(&self, schema: &str, records: &str) -> Vec<Value> {
        let schema = self.path(&format!("schemas/{schema}.json"));
        let keys = self.path("keys");
        let mut transform = veilstream(&["transform", "--keys", &keys, "--schema", &schema]);
        let sealed = fed(&mut transform, records);
        sealed.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(crate) fn start(&self) -> ServeProcess {
        self.start_with(|_| ())
    }

    /// Starts it after a change of its command.
    pub(crate) fn start_with(&self, change: impl FnOnce(&mut Command)) -> ServeProcess {
        let mut command = veilstream(&["serve", "--config", &self.path("veilstream.toml")]);
        change(&mut command);
        ServeProcess::start(&mut command)
    }

    /// Exit code and messages of a start that fails.
    pub(crate) fn refused(&self) -> (i32, String) {
        let output =
            veilstream(&["serve", "--config", &self.path("veilstream.toml")]).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The lines of the audit log, file by file.
    pub(crate) fn audited(&self) -> Vec<Value> {
        let mut files: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap())
            .filter(|entry| entry.file_type().unwrap().is_file())
            .map(|entry| entry.file_name().into_string().unwrap())
            .filter(|name| name.starts_with("audit.jsonl"))
            .filter(|name| !name.contains(".subjects-") && !name.contains(".policy-"))
            .collect();
        files.sort();
        let texts = files.iter().map(|file| self.read(file));
        texts
            .flat_map(|text| {
                let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
                lines.collect::<Vec<Value>>()
            })
            .collect()
    }

    /// `audit verify` with the auditor's key.
    pub(crate) fn verify(&self) -> Output {
        self.verify_with(&[])
    }

    pub(crate) fn verify_with(&self, args: &[&str]) -> Output {
        let (config, key) = (self.path("veilstream.toml"), self.path("verifier.key"));
        let mut command = veilstream(&["audit", "verify", "--config", &config, "--key", &key]);
        command.args(args).output().unwrap()
    }
}

impl ServeProcess {
    /// Lines of the log whose message begins so.
    pub(crate) fn told(&self, message: &str) -> Vec<Value> {
        let is_it = |line: &Value| line["message"].as_str().is_some_and(|m| m.starts_with(message));
        let log = self.log();
        log.lines().filter_map(|line| serde_json::from_str(line).ok()).filter(is_it).collect()
    }

    pub(crate) fn status(&self, client: &Client, scheme: &str, token: &str) -> StatusCode {
        let asked = client.get(format!("{scheme}://{}/openapi.json", self.address));
        asked.bearer_auth(token).send().unwrap().status()
    }

    /// Status and answer of a request without TLS.
    pub(crate) fn post(
        &self,
        client: &Client,
        token: &str,
        path: &str,
        body: &Value,
    ) -> (u16, Value) {
        let asked = client.post(format!("http://{}{path}", self.address));
        let answer = asked.bearer_auth(token).json(body).send().unwrap();
        (answer.status().as_u16(), answer.json().unwrap())
    }

    pub(crate) fn metrics(&self) -> String {
        reqwest::blocking::get(format!("http://{}/metrics", self.http)).unwrap().text().unwrap()
    }

    /// What `/status` says.
    pub(crate) fn report(&self) -> Value {
        reqwest::blocking::get(format!("http://{}/status", self.http)).unwrap().json().unwrap()
    }
}
