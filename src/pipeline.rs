//! The pipeline: raw topics in, sanitized topics and sealed dead letters out, exactly once.
//!
//! One thread polls the one consumer (`poll.rs`); N lanes (`lane.rs`, `records.rs`), each with a
//! transactional producer of its own, read the partitions forwarded to their queue. Two threads ask
//! brokers: where partitions begin (`resolve.rs`), and how far they go (`observe.rs`). What is done
//! when is decided in [`core`], without Kafka. `docs/design.md` says why.

pub mod core;
pub mod group_offsets;
mod guard;
mod lane;
mod observe;
mod offsets;
mod poll;
mod records;
mod resolve;
mod runtime;
mod session;
mod snapshot;

use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::error::KafkaError;

use crate::config::Config;
use crate::exit::Exit;
use crate::kafka::error::{ClientError, TxnError};
use crate::kafka::topics::TopicError;
use crate::keys::KeySource;
use crate::preflight::Refusal;
use crate::registry::Registry;
use crate::status::Status;
use crate::telemetry::metrics::Metrics;
use session::Session;

/// The first pause before everything is made again, and the longest.
const RESTART: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(10));

/// A member that was killed has its name so long: the longest session that brokers allow by default
/// (`group.consumer.max.session.timeout.ms`), and a try more.
const SESSION: Duration = Duration::from_secs(75);

/// What tests change and users do not.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Replace a producer one of whose requests ended without an answer. `tests/`: with `false` the
    /// held EndTxn frame does its damage, so that the test proves that it can fail
    /// ([`RunningPipeline::start_with`]).
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
    /// No broker tells of topics.
    #[error("preflight: {0}")]
    Unanswered(TopicError),
    /// No route can run, or the topics that one needs cannot be made.
    #[error(transparent)]
    Routes(#[from] Refusal),
    /// A lane gets no producer.
    #[error("{}: transactional id {id}: {} ({error})", if .error.fault().is_authorization() { "not authorized" } else { "preflight" }, .error.init_remedy())]
    Producer {
        /// Its transactional id.
        id: String,
        /// What its coordinator says.
        error: TxnError,
    },
    /// librdkafka refuses the consumer's settings.
    #[error("kafka settings: {0}")]
    Settings(KafkaError),
    /// No client can be made.
    #[error("kafka settings: {0}")]
    Client(#[from] ClientError),
    /// A thread cannot be started.
    #[error("a thread cannot be started ({0})")]
    Thread(std::io::Error),
    /// librdkafka gives no queue.
    #[error("a queue cannot be made")]
    Queue,
}

impl StartError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Routes(Refusal::NotAuthorized(_)) => Exit::NotAuthorized,
            Self::Producer { error, .. } if error.fault().is_authorization() => Exit::NotAuthorized,
            Self::Unanswered(_) | Self::Routes(_) | Self::Producer { .. } => Exit::Preflight,
            Self::Client(ClientError::Thread(_)) | Self::Thread(_) | Self::Queue => Exit::Failed,
            Self::Settings(_) | Self::Client(_) => Exit::Usage,
        }
    }
}

impl From<TopicError> for StartError {
    fn from(error: TopicError) -> Self {
        match error {
            TopicError::Settings(error) => Self::Settings(error),
            error => Self::Unanswered(error),
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
    /// Another process is this static member of the group.
    MemberFenced(String),
    /// Another member of the group has this process's `group.instance.id`: a stranger, or this
    /// process itself before it was killed.
    MemberTaken(String),
    /// Kafka refuses something this process needs.
    NotAuthorized(String),
    /// The Kafka clients cannot be used again: new ones are made.
    Restart(String),
    /// A fault of this program or machine.
    Failed(String),
}

impl End {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Stopped => Exit::Ok,
            Self::Fenced | Self::MemberFenced(_) | Self::MemberTaken(_) => Exit::Fenced,
            Self::NotAuthorized(_) => Exit::NotAuthorized,
            Self::Restart(_) | Self::Failed(_) => Exit::Failed,
        }
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => f.write_str("stopped"),
            Self::Fenced => f.write_str(
                "another process runs under this instance name; give each its own kafka.instance",
            ),
            Self::MemberFenced(id) | Self::MemberTaken(id) => {
                write!(
                    f,
                    "another process is the static member {id} of the group; give each its own \
                    group.instance.id in [kafka.consumer]"
                )
            }
            Self::NotAuthorized(what) => write!(f, "not authorized: {what}"),
            Self::Restart(why) | Self::Failed(why) => f.write_str(why),
        }
    }
}

/// What a session is made of, each time again.
#[derive(Clone)]
struct Plan {
    config: Arc<Config>,
    registry: Arc<Registry>,
    keys: Arc<dyn KeySource>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    options: Options,
}

/// The running pipeline.
pub struct RunningPipeline {
    stop: Mutex<Sender<Instant>>,
    thread: Mutex<Option<JoinHandle<End>>>,
}

impl RunningPipeline {
    /// Looks at the topics, fences older producers of the lanes' names, joins the group.
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

    /// [`RunningPipeline::start`] with what only tests change.
    ///
    /// # Errors
    /// As [`RunningPipeline::start`].
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
        let plan =
            Plan { config: Arc::new(config.clone()), registry, keys, status, metrics, options };
        let session = Session::start(&plan, create_topics)?;
        let (stop, stops) = mpsc::channel();
        let run = move || supervise(&plan, session, &stops);
        let thread = std::thread::Builder::new().name("pipeline".to_owned()).spawn(run);
        let thread = thread.map_err(StartError::Thread)?;
        Ok(Self { stop: Mutex::new(stop), thread: Mutex::new(Some(thread)) })
    }

    /// Asks for the end: lanes commit what they have, or abort it at the deadline. Returns at once.
    pub fn stop(&self, deadline: Instant) {
        // An error means that it has ended already.
        let _ = self.stop.lock().unwrap_or_else(PoisonError::into_inner).send(deadline);
    }

    /// Waits for the end; `None` when somebody else has waited.
    pub fn wait(&self) -> Option<End> {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(
            thread
                .join()
                .unwrap_or_else(|_| End::Failed("the pipeline's thread panicked".to_owned())),
        )
    }
}

/// Runs sessions until one ends for good. Clients that cannot be used again are replaced; the
/// process stays alive and says why it is not ready.
fn supervise(plan: &Plan, first: Session, stops: &Receiver<Instant>) -> End {
    let mut session = first;
    let mut pause = RESTART.0;
    let mut taken: Option<Instant> = None;
    let mut is_start = true;
    loop {
        let started = Instant::now();
        let end = session.run(stops);
        if started.elapsed() > RESTART.1 * 2 {
            (pause, taken) = (RESTART.0, None);
        }
        let mut reason = match &end {
            End::Restart(why) => why.clone(),
            // What was granted before and is not any more is waited for.
            End::NotAuthorized(_) if !is_start => end.to_string(),
            End::MemberTaken(_) if taken.get_or_insert_with(Instant::now).elapsed() < SESSION => {
                end.to_string()
            }
            _ => return end,
        };
        is_start = false;
        session = loop {
            tracing::warn!(seconds = pause.as_secs(), "the Kafka clients are made again: {reason}");
            plan.status.unready("kafka", &*reason);
            match stops.recv_timeout(pause) {
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return End::Stopped,
                Err(RecvTimeoutError::Timeout) => {}
            }
            pause = (pause * 2).min(RESTART.1);
            match Session::start(plan, false) {
                Ok(session) => break session,
                Err(error) => reason = error.to_string(),
            }
        };
    }
}
