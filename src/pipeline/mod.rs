//! The pipeline: raw topics in, sanitized topics and sealed dead letters out, exactly once.
//!
//! One thread polls the one consumer (`poll.rs`); N lanes (`lane.rs`, `records.rs`), each with a transactional producer of its own, read the
//! partitions forwarded to their queue. What a lane may do when is a pure state machine ([`core`]). `docs/design.md` says why.

pub mod core;
mod guard;
mod lane;
mod poll;
mod records;
mod shared;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

pub(crate) use shared::unix_seconds;
pub use shared::{KeyFault, KeySource};

use crate::config::Config;
use crate::exit::Exit;
use crate::kafka::error::{Fault, is_authorization};
use crate::kafka::ffi::Queue;
use crate::kafka::preflight;
use crate::kafka::producer::{Producer, Recipe};
use crate::registry::Registry;
use crate::status::Status;
use crate::telemetry::metrics::Metrics;
use lane::{Fetcher, Worker};
use poll::Poller;
use shared::{LaneHandle, Membership, Shared};

/// How long the start waits for the coordinator; a transaction that another process left open is aborted within its time-out.
const FENCE_IN: Duration = Duration::from_secs(60);

/// What tests change and users do not.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Replace a producer one of whose requests ended without an answer. `tests/`: with `false` the held EndTxn frame does its damage, so
    /// that the test proves that it can fail ([`Pipeline::start_with`]).
    pub recycle_tainted: bool,
    /// How long a rebalance waits for a lane to commit, before its producer is fenced.
    pub revoke_wait: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { recycle_tainted: true, revoke_wait: Duration::from_secs(15) }
    }
}

/// Why the pipeline did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Topics are missing or do not fit, or no broker answers.
    #[error("preflight: {}", .0.join("\n  "))]
    Preflight(Vec<String>),
    /// Kafka refuses something.
    #[error("not authorized: {0}")]
    NotAuthorized(String),
    /// librdkafka refuses the settings.
    #[error("kafka settings: {0}")]
    Settings(String),
    /// A thread or a queue cannot be had.
    #[error("{0}")]
    System(String),
}

impl StartError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Preflight(_) => Exit::Preflight,
            Self::NotAuthorized(_) => Exit::NotAuthorized,
            Self::Settings(_) => Exit::Usage,
            Self::System(_) => Exit::Failed,
        }
    }
}

/// How the pipeline ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was told to.
    Stopped,
    /// Another process runs under this instance name.
    Fenced,
    /// Kafka refuses something this process needs.
    NotAuthorized(String),
    /// A fault of this program or machine.
    Failed(String),
}

impl End {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Stopped => Exit::Ok,
            Self::Fenced => Exit::Fenced,
            Self::NotAuthorized(_) => Exit::NotAuthorized,
            Self::Failed(_) => Exit::Failed,
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Fenced => f.write_str("another process runs under this instance name; give each its own kafka.instance"),
            Self::NotAuthorized(what) => write!(f, "not authorized: {what}"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

/// The running pipeline.
pub struct Pipeline {
    stop: Mutex<Sender<Instant>>,
    poller: Mutex<Option<JoinHandle<End>>>,
}

impl Pipeline {
    /// Looks at the topics, fences in the lanes' producers, joins the group.
    ///
    /// # Errors
    /// [`StartError`], with its exit code.
    pub fn start(
        config: &Config,
        registry: Arc<Registry>,
        keys: Arc<dyn KeySource>,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
        create_topics: bool,
    ) -> Result<Self, StartError> {
        Self::start_with(config, registry, keys, status, metrics, create_topics, Options::default())
    }

    /// [`Pipeline::start`] with what only tests change.
    ///
    /// # Errors
    /// As [`Pipeline::start`].
    #[doc(hidden)]
    pub fn start_with(
        config: &Config,
        registry: Arc<Registry>,
        keys: Arc<dyn KeySource>,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
        create_topics: bool,
        options: Options,
    ) -> Result<Self, StartError> {
        let facts = preflight(config, &registry, create_topics)?;
        let shared = Arc::new(Shared {
            guard: guard::Guard::new(config.pipeline.reject_guard),
            pipeline: config.pipeline.clone(),
            options,
            registry,
            keys,
            status,
            metrics,
            facts: ArcSwap::from_pointee(facts),
            membership: Membership::default(),
            raised_timestamps: AtomicU64::new(0),
        });
        let producers = producers(config, &shared)?;
        let consumer = poll::create(&config.kafka, &shared).map_err(|e| StartError::Settings(e.to_string()))?;
        let system = |e: std::io::Error| StartError::System(format!("no thread can be had ({e})"));
        let (to_poll, requests) = mpsc::channel();
        let (stop, stops) = mpsc::channel();
        let (mut routes, mut workers) = (Vec::new(), Vec::new());
        for (lane, (recipe, producer)) in producers.into_iter().enumerate() {
            let queue = Arc::new(Queue::new(consumer.shared()).ok_or_else(|| StartError::System("no queue can be had".to_owned()))?);
            let (inbox, messages) = mpsc::channel();
            let overrun = Arc::new(AtomicBool::new(false));
            routes.push((LaneHandle { inbox, overrun: overrun.clone() }, queue.clone(), recipe.clone()));
            let fetcher = Fetcher::start(lane, shared.keys.clone()).map_err(system)?;
            workers.push(Worker::new(lane, shared.clone(), recipe, queue, messages, to_poll.clone(), overrun, producer, fetcher));
        }
        let poller = Poller::new(consumer, shared, config.kafka.clone(), requests, stops);
        poller.route(routes);
        let lanes = workers.len();
        let mut threads = Vec::new();
        for (lane, worker) in workers.into_iter().enumerate() {
            let ended = to_poll.clone();
            let run = move || {
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| worker.run())).is_err() {
                    // Its transaction is aborted by the next start; without this word the others would wait for it for ever.
                    let _ = ended.send(shared::ToPoll::Ended(End::Failed(format!("lane {lane} panicked"))));
                }
            };
            threads.push(std::thread::Builder::new().name(format!("lane-{lane}")).spawn(run).map_err(system)?);
        }
        let run = move || {
            let end = poller.run(lanes);
            // Their queues go before the consumer does.
            for thread in threads {
                if thread.join().is_err() {
                    return End::Failed("a lane panicked".to_owned());
                }
            }
            end
        };
        let poller = std::thread::Builder::new().name("kafka-poll".to_owned()).spawn(run).map_err(system)?;
        Ok(Self { stop: Mutex::new(stop), poller: Mutex::new(Some(poller)) })
    }

    /// Asks for the end: lanes commit what they have, or abort it at the deadline. Returns at once.
    pub fn stop(&self, deadline: Instant) {
        // An error means that it has ended already.
        let _ = self.stop.lock().unwrap_or_else(PoisonError::into_inner).send(deadline);
    }

    /// Waits for the end; `None` when somebody else has waited.
    pub fn wait(&self) -> Option<End> {
        let poller = self.poller.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(poller.join().unwrap_or_else(|_| End::Failed("the polling thread panicked".to_owned())))
    }
}

/// Facts about the topics, or why not to start.
fn preflight(config: &Config, registry: &Registry, create_topics: bool) -> Result<HashMap<String, preflight::TopicFacts>, StartError> {
    let look = || preflight::examine(&config.kafka, &registry.current(), &config.pipeline.dead_letter_topic).map_err(|e| StartError::Preflight(vec![e]));
    let mut found = look()?;
    if create_topics && !found.missing.is_empty() {
        preflight::create(&config.kafka, &found.missing).map_err(|e| StartError::Preflight(vec![e]))?;
        for missing in &found.missing {
            tracing::info!(topic = missing.name, partitions = missing.partitions, "topic created");
        }
        // Metadata follows a creation.
        let end = Instant::now() + Duration::from_secs(10);
        found = look()?;
        while !found.missing.is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(100));
            found = look()?;
        }
    }
    for warning in &found.warnings {
        tracing::warn!("{warning}");
    }
    if !found.denied.is_empty() {
        return Err(StartError::NotAuthorized(found.denied.join("; ")));
    }
    if found.problems.is_empty() { Ok(found.facts) } else { Err(StartError::Preflight(found.problems)) }
}

/// The lanes' producers, fenced in before the group is joined: whatever an earlier process of this name left open is over then.
fn producers(config: &Config, shared: &Shared) -> Result<Vec<(Recipe, Producer)>, StartError> {
    let lanes = match config.pipeline.lanes {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let facts = shared.facts.load();
    let set = shared.registry.current();
    let written: Vec<usize> =
        set.routes().map(|(_, to)| to).chain([config.pipeline.dead_letter_topic.as_str()]).filter_map(|t| facts.get(t)).map(|f| f.max_message_bytes).collect();
    let limits = written.iter().min().copied().zip(written.iter().max().copied());
    let make = |lane: usize| -> Result<(Recipe, Producer), StartError> {
        let recipe = Recipe::new(&config.kafka, &lane.to_string(), limits);
        let producer = recipe.create().map_err(StartError::Settings)?;
        match producer.fence_in(FENCE_IN) {
            Ok(()) => Ok((recipe, producer)),
            Err(e) if matches!(e.fault(), Fault::Blocked(code) if is_authorization(code)) => {
                Err(StartError::NotAuthorized(format!("transactional id {}: grant Write and Describe on it ({e})", recipe.id())))
            }
            Err(e) => Err(StartError::Preflight(vec![format!("transactional id {} cannot be had within {} s ({e})", recipe.id(), FENCE_IN.as_secs())])),
        }
    };
    (0..lanes).map(make).collect()
}
