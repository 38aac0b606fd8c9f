//! Workers of Kafka Connect, with sinks.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kafka::{Kafka, kafka};
use crate::ports::free_port;
use crate::postgres_server::{Database, PASSWORD};
use crate::reader;

/// Runs the worker until its standard input ends, also after a panic of the test. The folder of one
/// that is started without a connector goes with it.
const SUPERVISOR: &str = r#"trap : INT TERM HUP
java -Xms64m -Xmx384m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "$1/libs/*" org.apache.kafka.connect.cli.ConnectStandalone "$2/connect.properties" $3 >>"$2/connect.log" 2>&1 &
worker=$!
cat >/dev/null
kill -KILL "$worker"
wait "$worker" 2>/dev/null
[ -n "$3" ] || rm -rf "$2""#;

/// The worker of this suite, for tests that leave it running. They add their connectors to it.
pub(crate) fn worker() -> &'static Connect {
    static WORKER: LazyLock<Connect> = LazyLock::new(|| {
        let dir =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("connect-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let port = free_port();
        Connect::spawn(&dir, port, &properties(&dir, port, kafka()), &[], "")
    });
    &WORKER
}

/// A running worker; killed when dropped.
pub(crate) struct Connect {
    dir: PathBuf,
    port: u16,
    supervisor: Child,
}

impl Connect {
    /// With this connector, and the database's user. Its offsets and its log stay in the folder.
    pub(crate) fn start(dir: &Path, broker: &Kafka, database: &Database, connector: &str) -> Self {
        let port = free_port();
        let properties = properties(dir, port, broker);
        let url = format!("jdbc:{}", database.url_without_user());
        let user = [("SINK_URL", &*url), ("SINK_USER", "veil"), ("SINK_PASSWORD", PASSWORD)];
        Self::with(dir, port, &properties, connector, &user)
    }

    /// With these settings, which listen on the port, and this environment.
    pub(crate) fn with(
        dir: &Path,
        port: u16,
        properties: &str,
        connector: &str,
        environment: &[(&str, &str)],
    ) -> Self {
        fs::write(dir.join("connector.json"), connector).unwrap();
        Self::spawn(dir, port, properties, environment, "connector.json")
    }

    /// `connector`: its file in the folder; empty: none.
    fn spawn(
        dir: &Path,
        port: u16,
        properties: &str,
        environment: &[(&str, &str)],
        connector: &str,
    ) -> Self {
        fs::write(dir.join("connect.properties"), properties).unwrap();
        let supervisor = Command::new("sh")
            .args(["-c", SUPERVISOR, "sh"])
            .args([&home(), dir])
            .arg(connector)
            .current_dir(dir)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        Self { dir: dir.to_owned(), port, supervisor }
    }

    /// Adds a connector that is printed, under a name of its own, to write into this database.
    pub(crate) fn add(&self, name: &str, connector: &str, database: &Database) -> Added<'_> {
        let url = format!("jdbc:{}", database.url_without_user());
        let mut connector: Value = serde_json::from_str(connector).unwrap();
        connector["name"] = name.into();
        for (setting, variable, value) in [
            ("connection.url", "${env:SINK_URL}", &*url),
            ("connection.username", "${env:SINK_USER}", "veil"),
            ("connection.password", "${env:SINK_PASSWORD}", PASSWORD),
        ] {
            assert_eq!(connector["config"][setting], variable);
            connector["config"][setting] = value.into();
        }
        self.wait_for("the worker to take a connector", || {
            let answer = self.ask("POST", "/connectors", &connector.to_string());
            answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 201 "))
        });
        Added { worker: self, name: name.to_owned() }
    }

    /// What workers of this folder said.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.join("connect.log")).unwrap_or_default()
    }

    /// Waits for up to two minutes, as long as no task failed.
    pub(crate) fn wait_for(&self, what: &str, mut holds: impl FnMut() -> bool) {
        self.wait_until(what, || {
            let log = self.log();
            assert!(!log.contains(" ERROR "), "{log}");
            holds()
        });
    }

    /// The same, whatever becomes of tasks.
    pub(crate) fn wait_until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(120);
        while !holds() {
            assert!(Instant::now() < end, "waited 120 s for {what}\n{}", self.tail());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The end of its log.
    fn tail(&self) -> String {
        let log = self.log();
        log.char_indices().rev().nth(8000).map_or(log.as_str(), |(i, _)| &log[i..]).to_owned()
    }

    /// Whether a task of the connector failed: it does nothing until it is started again.
    pub(crate) fn has_failed(&self, connector: &str) -> bool {
        let status = self.ask("GET", &format!("/connectors/{connector}/status"), "");
        status.is_some_and(|status| status.contains("\"FAILED\""))
    }

    /// Starts tasks that failed again, as docs/storage.md tells operators to; whether one had.
    pub(crate) fn restart_failed(&self, connector: &str) -> bool {
        let failed = self.has_failed(connector);
        if failed {
            let restart = "restart?includeTasks=true&onlyFailed=true";
            let _ = self.ask("POST", &format!("/connectors/{connector}/{restart}"), "");
        }
        failed
    }

    /// The answer of the worker's REST interface; `None` while it does not listen.
    fn ask(&self, method: &str, path: &str, body: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: connect\r\nContent-Type: application/json\r\n\
            Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }
}

impl Drop for Connect {
    fn drop(&mut self) {
        drop(self.supervisor.stdin.take());
        let _ = self.supervisor.wait();
    }
}

/// A connector that was added; taken away when dropped.
pub(crate) struct Added<'c> {
    worker: &'c Connect,
    name: String,
}

impl Drop for Added<'_> {
    fn drop(&mut self) {
        let _ = self.worker.ask("DELETE", &format!("/connectors/{}", self.name), "");
    }
}

/// Settings of a worker that listens on the port.
fn properties(dir: &Path, port: u16, broker: &Kafka) -> String {
    format!(
        "bootstrap.servers={}\nlisteners=http://127.0.0.1:{port}\noffset.storage.file.filename={}\n\
        plugin.path={}\nplugin.discovery=service_load\nkey.converter=\
        org.apache.kafka.connect.storage.StringConverter\nvalue.converter=\
        org.apache.kafka.connect.json.JsonConverter\nconsumer.auto.offset.reset=earliest\n\
        consumer.metadata.max.age.ms=2000\nconsumer.session.timeout.ms=6000\n\
        consumer.heartbeat.interval.ms=500\noffset.flush.interval.ms=1000\n\
        config.providers=env\nconfig.providers.env.class=\
        org.apache.kafka.common.config.provider.EnvVarConfigProvider\n",
        broker.bootstrap,
        dir.join("connect.offsets").display(),
        home().join("plugins").display()
    )
}

/// Connect's jars, and the plugins.
pub(crate) fn home() -> PathBuf {
    let home = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/connect");
    assert!(home.is_dir(), "no Connect in {}: run `make setup`", home.display());
    home
}

/// Files below a folder that hold a text.
pub(crate) fn holding(text: &str, folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(text, &path));
        } else if let Ok(bytes) = fs::read(&path)
            && reader::contains(&bytes, text.as_bytes())
        {
            found.push(path);
        }
    }
    found
}
