//! The pipeline in a process of its own, so that it can be killed: this test's binary runs itself. Its keys are constant, because what is
//! judged here is what Kafka holds after a process was killed, not the key store.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use veilstream::config::Config;
use veilstream::kafka::{KeyFault, KeySource, Pipeline};
use veilstream::registry;
use veilstream::signals::{self, Request};
use veilstream::status::Status;
use veilstream::telemetry::{self, metrics::Metrics};
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{Budget, Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
use veilstream_engine::transform::NeededKey;
use veilstream_engine::{Keyring, kdf};

const CHILD: &str = "VEILSTREAM_E2E_CONFIG";

/// Keys that every process of a test has.
pub(crate) struct FixedKeys(Arc<Keyring>);

impl FixedKeys {
    /// Data keys of these schemas, and one root of each kind.
    pub(crate) fn new(schemas: &SchemaSet) -> Self {
        let mut keys = vec![
            key(KeyKind::Index, Scope::Version(1), 2),
            key(KeyKind::DeadLetter, Scope::Version(1), 3),
            key(KeyKind::SubjectRef, Scope::Version(1), 4),
            key(KeyKind::Deterministic, Scope::Version(1), 5),
        ];
        keys.extend(schemas.schemas().iter().map(|schema| key(KeyKind::Data, Scope::Schema(schema.name.as_ref().into()), 1)));
        Self(Arc::new(Keyring::new("default", keys)))
    }
}

impl KeySource for FixedKeys {
    fn keyring(&self) -> Arc<Keyring> {
        self.0.clone()
    }

    fn fetch(&self, needed: &[NeededKey]) -> Result<Vec<Arc<Key>>, KeyFault> {
        Ok(needed.iter().map(|k| key(k.kind, k.scope.clone(), 9)).collect())
    }

    fn lookup(&self, id: &KeyId) -> Result<Option<Arc<Key>>, KeyFault> {
        Ok(self.0.get(id).cloned())
    }

    fn prepare(&self, _: &SchemaSet) -> Result<(), KeyFault> {
        Ok(())
    }

    fn maintain(&self) {}
}

fn key(kind: KeyKind, scope: Scope, byte: u8) -> Arc<Key> {
    let secret = SecretKey::new([byte; 32]);
    let kcv = kdf::key_check_value(&secret);
    Arc::new(Key {
        id: kdf::key_id(&kcv),
        kcv,
        kind,
        tenant: "default".into(),
        scope,
        version: 1,
        state: KeyState::Active,
        seal_until: None,
        secret: Some(secret),
        budget: Budget::new(1 << 30),
    })
}

/// The files of one instance.
pub(crate) struct Instance {
    config: PathBuf,
    log: PathBuf,
}

/// A running instance; killed when dropped.
pub(crate) struct Running(Child, #[expect(dead_code, reason = "`Child::wait` would close it: the child ends when it closes")] ChildStdin);

impl Instance {
    /// Writes the configuration of instance `name` into `dir`, whose `schemas` folder holds the documents.
    pub(crate) fn new(dir: &Path, name: &str, bootstrap: &str, group: &str) -> Self {
        let config = dir.join(format!("{name}.toml"));
        // Not compressed: what is on disk is searched for clear text.
        let text = format!(
            "[kafka]\nbootstrap_servers = \"{bootstrap}\"\ngroup_id = \"{group}\"\ninstance = \"{name}\"\n\
             [kafka.consumer]\n\"session.timeout.ms\" = \"6000\"\n\"heartbeat.interval.ms\" = \"500\"\n\
             [kafka.producer]\n\"compression.type\" = \"none\"\n\
             [pipeline]\nlanes = 2\ndead_letter_topic = \"{group}.dead-letter\"\nreject_guard = \"off\"\n\
             [schemas]\ndir = \"schemas\"\n[keys]\nprovider = \"file\"\n[log]\nlevel = \"debug\"\n"
        );
        fs::write(&config, text).unwrap();
        Self { config, log: dir.join(format!("{name}.log")) }
    }

    /// Starts it; its output is appended to the log.
    pub(crate) fn start(&self) -> Running {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sidecar::runs_when_it_is_the_child", "--nocapture"])
            .env(CHILD, &self.config)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        Running(child, stdin)
    }

    /// Everything it said, metrics included.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// The configuration, for reading dead letters.
    pub(crate) fn config(&self) -> Config {
        Config::load(&self.config).unwrap()
    }
}

impl Running {
    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    /// SIGTERM, and the exit code.
    pub(crate) fn stop(mut self) -> Option<i32> {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
        self.0.wait().unwrap().code()
    }

    /// Its exit code, if it has ended.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        self.0.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Does nothing as a test.
#[test]
fn runs_when_it_is_the_child() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    // Without its parent it has nothing to do.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(9);
    });
    let config = Config::load(Path::new(&path)).unwrap();
    telemetry::start_logs(&config.log);
    let (registry, _) = registry::open_configured(&config.schemas).unwrap();
    let keys = Arc::new(FixedKeys::new(&registry.current()));
    let metrics = Arc::new(Metrics::new().unwrap());
    let pipeline = match Pipeline::start(&config, Arc::new(registry), keys, Arc::new(Status::new(&["kafka"])), metrics.clone(), true) {
        Ok(pipeline) => Arc::new(pipeline),
        Err(error) => {
            println!("{error}");
            std::process::exit(error.exit() as i32);
        }
    };
    let stopped = pipeline.clone();
    signals::watch(move |request| {
        if matches!(request, Request::Stop(_)) {
            stopped.stop(Instant::now() + Duration::from_secs(10));
        }
        true
    })
    .unwrap();
    let end = pipeline.wait().unwrap();
    println!("{end}\n{}", String::from_utf8(metrics.render().unwrap()).unwrap());
    std::process::exit(end.exit() as i32);
}
