//! One life of the Kafka clients: preflight, producers fenced, consumer, threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::guard::Guard;
use super::lane::{self, Fetcher, LaneThread};
use super::observe::Observer;
use super::poll::{self, KafkaConsumer, Poller};
use super::resolve::Resolver;
use super::runtime::{Announced, LaneHandle, Membership, Runtime, ToPoll};
use super::snapshot::Snapshot;
use super::{End, Plan, StartError};
use crate::config::{self, Config};
use crate::kafka::client::Registered;
use crate::kafka::error::TxnError;
use crate::kafka::ffi::Queue;
use crate::kafka::producer::{Producer, Recipe};
use crate::kafka::settings;
use crate::kafka::topics::{TopicError, Topics};
use crate::preflight::{self, Findings, Refusal};
use crate::registry::Registry;

/// How long the start waits for the coordinator; a transaction that another process left open is
/// aborted within its time-out.
const FENCE: Duration = Duration::from_secs(60);

/// All threads of one session.
pub(super) struct Session {
    poller: Poller,
    lanes: Vec<LaneThread>,
    to_poll: Sender<ToPoll>,
    stop: Sender<Instant>,
    resolver: Resolver,
    observer: Observer,
    is_over: Arc<AtomicBool>,
}

impl Session {
    /// Makes the clients; nothing runs yet.
    pub(super) fn start(plan: &Plan, create_topics: bool) -> Result<Self, StartError> {
        let config = &*plan.config;
        let topics = Topics::connect(&config.kafka)?;
        let found = look(&topics, config, &plan.registry, create_topics)?;
        let lanes = match config.pipeline.lanes {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let runtime = Arc::new(Runtime {
            guard: Guard::new(config.pipeline.reject_guard),
            kafka: config.kafka.clone(),
            pipeline: config.pipeline.clone(),
            options: plan.options,
            snapshots: ArcSwap::from_pointee(Snapshot::of(plan.registry.current(), found)),
            registry: plan.registry.clone(),
            keys: plan.keys.clone(),
            status: plan.status.clone(),
            metrics: plan.metrics.clone(),
            membership: Membership::default(),
            raised_timestamps: AtomicU64::new(0),
            last_failures: (0..lanes).map(|_| Mutex::default()).collect(),
        });
        let producers = producers(&runtime, lanes)?;
        let consumer = poll::create(&runtime).map_err(StartError::Settings)?;
        let (to_poll, requests) = mpsc::channel();
        let (stop, stops) = mpsc::channel();
        let (questions, asked) = mpsc::channel();
        let (handles, threads) = lane_threads(&runtime, producers, &consumer, &to_poll)?;
        let owned = Arc::new(Mutex::new(Vec::new()));
        let is_over = Arc::new(AtomicBool::new(false));
        Ok(Self {
            resolver: Resolver {
                runtime: runtime.clone(),
                consumer: consumer.shared().clone(),
                questions: asked,
                poll: to_poll.clone(),
            },
            observer: Observer {
                runtime: runtime.clone(),
                consumer: consumer.shared().clone(),
                topics,
                owned: owned.clone(),
                poll: to_poll.clone(),
                is_over: is_over.clone(),
            },
            poller: Poller::new(poll::PollParts {
                consumer,
                runtime,
                requests,
                stop: stops,
                questions,
                owned,
                lanes: handles,
            }),
            lanes: threads,
            to_poll,
            stop,
            is_over,
        })
    }

    /// Runs until the end; `stops` brings the deadline of a stop.
    pub(super) fn run(self, stops: &Receiver<Instant>) -> End {
        let Self { poller, lanes, to_poll, stop, resolver, observer, is_over } = self;
        let count = lanes.len();
        let mut threads = Vec::new();
        let mut spawn = |name: String, run: Box<dyn FnOnce() + Send>| {
            let ended = to_poll.clone();
            let label = name.clone();
            let guarded = move || {
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err() {
                    // Without this word the others would wait for it for ever.
                    let _ = ended
                        .send(ToPoll::Ended(End::Failed(format!("the thread {label} panicked"))));
                }
            };
            std::thread::Builder::new().name(name).spawn(guarded).map(|thread| threads.push(thread))
        };
        for (number, lane) in lanes.into_iter().enumerate() {
            if spawn(format!("lane-{number}"), Box::new(move || lane.run())).is_err() {
                return End::Failed("a thread cannot be started".to_owned());
            }
        }
        let asking = spawn("resolve".to_owned(), Box::new(move || resolver.run()))
            .and_then(|()| spawn("observe".to_owned(), Box::new(move || observer.run())));
        if asking.is_err() {
            return End::Failed("a thread cannot be started".to_owned());
        }
        drop(to_poll);
        let polling = std::thread::Builder::new().name("kafka-poll".to_owned()).spawn(move || {
            let end = poller.run(count);
            is_over.store(true, Ordering::Release);
            end
        });
        let Ok(polling) = polling else {
            return End::Failed("a thread cannot be started".to_owned());
        };
        let end = wait(polling, stops, &stop);
        // The queues of lanes and the requests of the others go before the consumer does.
        for thread in threads {
            if thread.join().is_err() {
                return End::Failed("a thread panicked".to_owned());
            }
        }
        end
    }
}

/// Waits for the polling thread; hands a stop on.
fn wait(polling: JoinHandle<End>, stops: &Receiver<Instant>, stop: &Sender<Instant>) -> End {
    while !polling.is_finished() {
        match stops.recv_timeout(Duration::from_millis(50)) {
            Ok(deadline) => {
                // An error means that it has ended already.
                let _ = stop.send(deadline);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break,
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
    }
    polling.join().unwrap_or_else(|_| End::Failed("the polling thread panicked".to_owned()))
}

/// What there is to run, or why nothing is. One route that can run is enough.
fn look(
    topics: &Topics,
    config: &Config,
    registry: &Registry,
    create_topics: bool,
) -> Result<Findings, StartError> {
    let look =
        || preflight::examine(topics, &registry.current(), &config.pipeline.dead_letter_topic);
    let mut found = look()?;
    if create_topics && !found.missing.is_empty() {
        let refused = topics.create(&found.missing).err().unwrap_or_default();
        let is_refused = |name: &str| {
            refused
                .iter()
                .any(|e| matches!(e, TopicError::NotCreated { topic, .. } if topic == name))
        };
        for made in found.missing.iter().filter(|made| !is_refused(&made.name)) {
            tracing::info!(topic = made.name, partitions = made.partitions, "topic created");
        }
        for error in &refused {
            tracing::warn!("{error}");
        }
        found = look()?;
        if let (Err(_), [first, ..]) = (found.runnable(), &*refused) {
            let texts: Vec<String> = refused.iter().map(ToString::to_string).collect();
            return Err(StartError::Routes(if first.is_authorization() {
                Refusal::NotAuthorized(texts)
            } else {
                Refusal::Unfit(texts)
            }));
        }
    }
    for warning in &found.warnings {
        tracing::warn!("{warning}");
    }
    for route in found.unfit() {
        for problem in &route.problems {
            tracing::warn!(topic = route.raw, "route waits: {problem}");
        }
    }
    found.runnable()?;
    Ok(found)
}

/// A thread for each producer, and what the poll thread holds of it.
fn lane_threads(
    runtime: &Arc<Runtime>,
    producers: Vec<(Recipe, Producer)>,
    consumer: &Registered<KafkaConsumer>,
    to_poll: &Sender<ToPoll>,
) -> Result<(Vec<LaneHandle>, Vec<LaneThread>), StartError> {
    let (mut handles, mut threads) = (Vec::new(), Vec::new());
    for (number, (recipe, producer)) in producers.into_iter().enumerate() {
        let queue = Arc::new(Queue::new(consumer.shared()).ok_or(StartError::Queue)?);
        let (inbox, messages) = mpsc::channel();
        let is_overrun = Arc::new(AtomicBool::new(false));
        let is_called = Arc::new(AtomicBool::new(false));
        let announced = Arc::new(Announced::default());
        handles.push(LaneHandle {
            inbox,
            is_overrun: is_overrun.clone(),
            is_called: is_called.clone(),
            announced: announced.clone(),
            queue: queue.clone(),
            recipe: recipe.clone(),
        });
        let fetcher = Fetcher::start(number, runtime.keys.clone()).map_err(StartError::Thread)?;
        let parts = lane::LaneParts {
            number,
            runtime: runtime.clone(),
            recipe,
            queue,
            inbox: messages,
            poll: to_poll.clone(),
            is_overrun,
            is_called,
            announced,
            producer,
            fetcher,
        };
        threads.push(LaneThread::new(parts));
    }
    Ok((handles, threads))
}

/// The lanes' producers, older ones of their names fenced before the group is joined: whatever an
/// earlier process left open is over then.
fn producers(runtime: &Runtime, lanes: usize) -> Result<Vec<(Recipe, Producer)>, StartError> {
    let limits = runtime.snapshots.load().limits(&runtime.pipeline.dead_letter_topic);
    fence_former(&runtime.kafka, lanes, limits)?;
    let make = |lane: usize| -> Result<(Recipe, Producer), StartError> {
        let recipe = Recipe::new(&runtime.kafka, lane, limits);
        let producer = recipe.create()?;
        producer.init_transactions(FENCE).map_err(|error| not_fenced(&recipe, error))?;
        Ok((recipe, producer))
    };
    (0..lanes).map(make).collect()
}

fn not_fenced(recipe: &Recipe, error: TxnError) -> StartError {
    StartError::Producer { id: recipe.id().to_owned(), error }
}

/// On the first start under its ids, a process ends what it left open under those it had before.
/// Only then: another group's instance may have them.
fn fence_former(
    kafka: &config::Kafka,
    lanes: usize,
    limits: Option<(usize, usize)>,
) -> Result<(), StartError> {
    if settings::former_transactional_id(kafka, 0).is_none() {
        return Ok(());
    }
    let first = Recipe::new(kafka, 0, limits);
    match first.fence_first(FENCE).map_err(|e| not_fenced(&first, e))? {
        Some(true) => {}
        Some(false) => return Ok(()),
        None => {
            tracing::warn!(
                id = first.id(),
                "it cannot be told whether this id is new; what was left open under the former one \
                ends with transaction.timeout.ms"
            );
            return Ok(());
        }
    }
    for former in (0..lanes).filter_map(|lane| settings::former_transactional_id(kafka, lane)) {
        match Recipe::named(kafka, former.clone()).fence(FENCE) {
            Ok(()) => tracing::info!(id = former, "the former transactional id is fenced"),
            // Anyone who had it and lost the permission can have left nothing open for long.
            Err(error) => {
                tracing::warn!(id = former, code = %error, "the former transactional id cannot be \
                    fenced; what was left open under it ends with transaction.timeout.ms");
            }
        }
    }
    Ok(())
}
