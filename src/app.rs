//! The running sidecar: configuration to parts to threads, in this order: logs, HTTP (alive, not
//! ready), schemas, keys, pipeline. It stops in the other order: unready, pipeline drained, HTTP
//! last.

#[cfg(feature = "serve")]
pub mod serve;

use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use anyhow::Context;
use veilstream_engine::compile::SchemaSet;

use crate::config::Config;
use crate::exit::Exit;
use crate::http::Server;
use crate::kafka::access;
use crate::keys::{self, KeyFault};
use crate::pipeline::{End, RunningPipeline};
use crate::registry::{self, Change, Registry};
use crate::signals::{self, Request};
use crate::status::Status;
use crate::telemetry::events::{Event as _, SchemasLoaded, SchemasRefused, Stopping};
use crate::telemetry::lasting::Lasting;
use crate::telemetry::metrics::Metrics;

/// How long leaving the group may take after the lanes have stopped, and how long the end of a
/// request to a key service is waited for.
const LEAVE: Duration = Duration::from_secs(5);

/// What the command line says beside the configuration.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunOptions {
    /// Missing sanitized and dead-letter topics are created.
    pub create_topics: bool,
    /// Changed schema documents may protect less.
    pub allow_weaker: bool,
}

/// Runs until a signal or the pipeline ends it.
///
/// # Errors
/// A part does not start; [`Exit::of`] tells the exit code.
pub fn run(config: &Config, options: RunOptions) -> anyhow::Result<Exit> {
    disable_core_dumps().context("core dumps could not be disabled")?;
    let (send, events) = mpsc::channel::<AppEvent<End>>();
    let requests = send.clone();
    signals::watch(move |request| requests.send(AppEvent::Request(request)).is_ok())
        .context("signals could not be watched")?;

    let status = Arc::new(Status::new(&["schemas", "keys", "kafka"]));
    let metrics = Arc::new(Metrics::new()?);
    let listen = config.http.listen;
    let http = Server::start(listen, status.clone(), metrics.clone()).map_err(|e| {
        Exit::Usage.because(format!(
            "http.listen: {listen} cannot be opened ({e}); name a free address of this machine"
        ))
    })?;
    tracing::info!(address = %http.address(), "HTTP listens");

    announce(config);
    let schemas = LiveSchemas::open(config, options, status.clone(), metrics.clone())?;
    access::report_to(status.clone(), metrics.clone());
    // Before anything else asks the brokers: to that the answer would only be that none answers.
    access::check(&config.kafka).map_err(|e| e.exit().because(e.to_string()))?;
    let keys = keys::open(&config.keys, Some(metrics.clone()))
        .map_err(|e| Exit::Preflight.because(format!("keys: {e:#}")))?;
    keys.prepare(&schemas.registry.current())
        .map_err(|e| Exit::Preflight.because(format!("keys: {e}")))?;
    status.ready("keys");

    let pipeline = RunningPipeline::start(
        config,
        schemas.registry.clone(),
        keys.clone(),
        status.clone(),
        metrics.clone(),
        options.create_topics,
    )
    .map_err(|e| e.exit().because(e.to_string()))?;
    let pipeline = Arc::new(pipeline);
    let waiter = pipeline.clone();
    std::thread::Builder::new().name("pipeline-end".to_owned()).spawn(move || {
        if let Some(end) = waiter.wait() {
            // An error means that nobody is left to tell.
            let _ = send.send(AppEvent::Ended(end));
        }
    })?;
    let _upkeep = keys::maintain(&keys)?;
    let reloads = Reloads::start(config.schemas.reload_interval, move || {
        schemas.reload(|set| keys.prepare(set));
    })?;
    let end = match supervise(&events, &reloads) {
        Why::Ended(end) => end,
        Why::Signal(signal) => {
            status.unready("process", format!("stopping: {signal}"));
            Stopping { why: signal }.emit(&metrics);
            drain(&pipeline, &events, config.pipeline.drain_timeout)
        }
    };
    drop(http);
    if end == End::Stopped { Ok(Exit::Ok) } else { Err(end.exit().because(end.to_string())) }
}

/// What an operator should know of the configuration.
fn announce(config: &Config) {
    for warning in config.warnings() {
        tracing::warn!("{warning}");
    }
    if !config.overrides.is_empty() {
        tracing::info!(settings = config.overrides.join(", "), "set beside the configuration file");
    }
    if let Some(ignored) = &config.ignored_dotenv {
        tracing::warn!(file = %ignored.display(), "a .env of the working directory counts for \
            nothing; only the one beside the configuration file does");
    }
}

/// Lets the pipeline commit what it has; what does not end in time is aborted by the next start.
fn drain(pipeline: &RunningPipeline, events: &Receiver<AppEvent<End>>, timeout: Duration) -> End {
    let deadline = Instant::now() + timeout;
    pipeline.stop(deadline);
    // Leaving the group takes a moment more.
    let last = deadline + LEAVE;
    loop {
        match events.recv_timeout(last.saturating_duration_since(Instant::now())) {
            Ok(AppEvent::Ended(end)) => return end,
            Ok(AppEvent::Request(_)) => {}
            Err(_) => {
                return End::Failed(format!(
                    "the pipeline did not stop within {} s; the next start aborts what it left \
                    open",
                    timeout.as_secs()
                ));
            }
        }
    }
}

/// The schemas, announced in logs and `/status`.
struct LiveSchemas {
    registry: Arc<Registry>,
    postponed: Lasting,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
}

impl LiveSchemas {
    /// Loads the schemas for the first time: without them there is nothing to run.
    fn open(
        config: &Config,
        options: RunOptions,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let (registry, warnings) = registry::open_configured(&config.schemas)
            .map_err(|faults| crate::exit::faults_error(&faults))?;
        let registry = Arc::new(registry.allow_weaker(options.allow_weaker));
        let schemas = Self { registry, postponed: Lasting::default(), status, metrics };
        schemas.loaded(&warnings);
        schemas.status.ready("schemas");
        Ok(schemas)
    }

    /// Looks at the directory. A refused change is logged once and stays visible in `/status` until
    /// the next one.
    fn reload(&self, prepare: impl FnOnce(&SchemaSet) -> Result<(), KeyFault>) {
        let now = Instant::now();
        match self.registry.reload(prepare) {
            Change::None => {}
            Change::Postponed(reason) => {
                if self.postponed.meet(&reason.to_string(), now) {
                    tracing::warn!(%reason, "schema change postponed, the schemas in force stay");
                }
                return;
            }
            // The pipeline says what is in force: schemas wait for facts about their topics.
            Change::Loaded(loaded) => self.loaded(&loaded.warnings),
            Change::Refused(faults) => {
                let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
                self.status.detail(
                    "schemas",
                    serde_json::json!({ "in_force": self.labels(), "refused": faults }),
                );
                SchemasRefused { faults: &faults }.emit(&self.metrics);
            }
        }
        // What came into force says so itself.
        let _ = self.postponed.pass(now);
    }

    fn loaded(&self, warnings: &[registry::DocumentFault]) {
        for warning in warnings {
            tracing::warn!("{warning}");
        }
        SchemasLoaded { labels: &self.labels() }.emit(&self.metrics);
    }

    fn labels(&self) -> Vec<String> {
        self.registry.current().schemas().iter().map(|s| s.label.to_string()).collect()
    }
}

/// What can happen to a running sidecar. `E` is how the pipeline ended.
#[derive(Debug)]
enum AppEvent<E> {
    /// An operator asks for something.
    Request(Request),
    /// The pipeline ended by itself.
    Ended(E),
}

/// Why the sidecar stops.
#[derive(Debug, PartialEq, Eq)]
enum Why<E> {
    /// A signal, by name.
    Signal(&'static str),
    /// The pipeline ended by itself.
    Ended(E),
}

/// Waits for the end; hands requests to look at schemas on.
fn supervise<E>(events: &Receiver<AppEvent<E>>, reloads: &Reloads) -> Why<E> {
    loop {
        match events.recv() {
            Ok(AppEvent::Request(Request::Stop(signal))) => return Why::Signal(signal),
            Ok(AppEvent::Request(Request::Reload)) => reloads.ask(),
            Ok(AppEvent::Ended(end)) => return Why::Ended(end),
            // Nobody can tell us anything any more: stop as if asked to.
            Err(_) => return Why::Signal("no more signals"),
        }
    }
}

/// The thread that looks at schemas and policies. Keys are maintained by others: what lets those
/// wait holds up no reload.
struct Reloads {
    ask: Option<Sender<()>>,
    ended: Receiver<()>,
}

impl Reloads {
    /// Calls `reload` every `interval` or when asked to.
    fn start(
        interval: Duration,
        mut reload: impl FnMut() + Send + 'static,
    ) -> std::io::Result<Self> {
        let (ask, asked) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel();
        let run = move || {
            while asked.recv_timeout(interval) != Err(RecvTimeoutError::Disconnected) {
                reload();
            }
            // What it holds goes first: the end of the keys is written down by the last one that
            // drops them.
            drop(reload);
            let _ = end.send(());
        };
        std::thread::Builder::new().name("reload".to_owned()).spawn(run)?;
        Ok(Self { ask: Some(ask), ended })
    }

    fn ask(&self) {
        if let Some(ask) = &self.ask {
            // Its thread ends only with this.
            let _ = ask.send(());
        }
    }
}

impl Drop for Reloads {
    fn drop(&mut self) {
        self.ask = None;
        // It may be waiting for a key service that makes the keys of new schemas.
        let _ = self.ended.recv_timeout(LEAVE);
    }
}

/// Keeps secrets out of core dumps: none are written, and debuggers of the same user stay out.
fn disable_core_dumps() -> std::io::Result<()> {
    rlimit::setrlimit(rlimit::Resource::CORE, 0, 0)?;
    // A limit of 0 does not hold for dumps that the kernel pipes to a program (systemd-coredump);
    // this does.
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_served_in_order_until_the_end() {
        let (send, events) = mpsc::channel();
        let (reloaded, reloads) = mpsc::channel();
        let hour = Duration::from_secs(3600);
        let reloads_now = Reloads::start(hour, move || reloaded.send(()).unwrap()).unwrap();
        send.send(AppEvent::Request(Request::Reload)).unwrap();
        send.send(AppEvent::Request(Request::Stop("SIGTERM"))).unwrap();
        send.send(AppEvent::Ended("not reached")).unwrap();
        assert_eq!(supervise(&events, &reloads_now), Why::Signal("SIGTERM"));
        reloads.recv().unwrap();
        assert_eq!(supervise(&events, &reloads_now), Why::Ended("not reached"));
    }

    #[test]
    fn reloads_come_by_themselves_until_the_end() {
        let (reloaded, reloads) = mpsc::channel();
        let interval = Duration::from_millis(20);
        let running = Reloads::start(interval, move || reloaded.send(()).unwrap()).unwrap();
        for _ in 0..2 {
            reloads.recv().unwrap();
        }
        drop(running);
        // What it holds is dropped before the end is waited for no more.
        while reloads.try_recv().is_ok() {}
        assert_eq!(reloads.try_recv(), Err(mpsc::TryRecvError::Disconnected));
    }

    /// A key service that lets a reload wait must not let a signal wait.
    #[test]
    fn a_signal_does_not_wait_for_keys() {
        let (send, events) = mpsc::channel::<AppEvent<&str>>();
        let (entered, inside) = mpsc::channel();
        let (release, held) = mpsc::channel::<()>();
        let hanging = Reloads::start(Duration::from_secs(3600), move || {
            let _ = entered.send(());
            let _ = held.recv();
        })
        .unwrap();
        hanging.ask();
        inside.recv().unwrap();
        send.send(AppEvent::Request(Request::Stop("SIGTERM"))).unwrap();
        assert_eq!(supervise(&events, &hanging), Why::Signal("SIGTERM"));
        drop(release);
    }

    #[test]
    fn a_refused_schema_shows_in_the_status_until_it_is_mended() {
        const DOCUMENT: &str = r#"{"veilstream":1,"name":"people","version":1,"topics":{"from":"people.raw","to":"people"},"fields":[{"id":"email","path":"$.email"}]}"#;
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("people.json");
        std::fs::write(&file, DOCUMENT).unwrap();
        let (registry, _) =
            Registry::open(dir.path(), veilstream_engine::compile::Grants::default()).unwrap();
        let schemas = LiveSchemas {
            registry: Arc::new(registry),
            postponed: Lasting::default(),
            status: Arc::new(Status::new(&[])),
            metrics: Arc::new(Metrics::new().unwrap()),
        };
        let shown = || schemas.status.report().details["schemas"].clone();
        std::fs::write(&file, "{").unwrap();
        schemas.reload(|_| Ok(()));
        assert_eq!(shown()["in_force"], serde_json::json!(["people/1"]));
        assert_eq!(shown()["refused"].as_array().unwrap().len(), 1);
        assert!(schemas.status.is_ready());
        std::fs::write(&file, DOCUMENT.replace(r#""version":1"#, r#""version":2"#)).unwrap();
        schemas.reload(|_| Ok(()));
        assert_eq!(schemas.labels(), ["people/2"]);
    }
}
