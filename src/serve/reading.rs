//! What is answered: fields under policy, with the trace in the audit log before anything leaves.
//!
//! ```text
//!  body ── request ── tokens' headers ── policies ── keys ── budgets ── engine ── audit ── answer
//! ```
//!
//! The order is the promise. What is denied is settled before a key is looked up, what is opened was
//! reserved in a budget, and what is answered stands in the log.
//!
//! Small requests are answered on the threads of connections, and wait for the log as tasks (see
//! docs/design.md).

mod answer;
mod asker;
mod asking;
mod document;
mod explain;
mod failures;
mod fault;
mod found;
mod groups;
mod index;
mod key_threads;
mod outages;
mod prepared;
mod refused;
mod replays;
mod request;
mod reveal;
mod seal;
mod spent;
mod stream;
mod subject_ref;
mod target;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Extension;
use axum::body::Body;
use axum::http::{Response, header};
use axum::response::IntoResponse as _;
use veilstream_engine::Entropy as _;
use veilstream_engine::reveal::Revealer;
use veilstream_keys::OsEntropy;
use veilstream_reading::audit::AuditLog;

use self::asker::Asker;
use self::failures::KnownFailures;
use self::fault::RequestFault;
use self::key_threads::KeyThreads;
use self::outages::Outages;
use self::prepared::Prepared;
use self::replays::Replays;
use self::request::Claims;
use super::auth::Principal;
use super::body::Media;
use super::router::{Answer, Route, ServeRequest};
use crate::keys::KeySource;
use crate::policy::LivePolicies;
use crate::policy::budget::Budgets;
use crate::telemetry::metrics::Metrics;

pub use refused::AuditedRefusals;
pub use spent::spent_budgets;

/// The only path that takes streams.
const REVEAL: &str = "/v1/reveal";
/// Revealers that are kept for the next request.
const REVEALERS: usize = 16;
/// Bytes of a body that holds a thread of connections for some milliseconds at most.
const SMALL: usize = 128 << 10;

/// The reading side's parts, shared by all requests.
pub struct Reading {
    policies: Arc<LivePolicies>,
    keys: Arc<dyn KeySource>,
    audit: AuditLog,
    budgets: Mutex<Budgets>,
    replays: Replays,
    failures: KnownFailures,
    outages: Outages,
    revealers: Mutex<Vec<Revealer>>,
    key_threads: KeyThreads,
    metrics: Arc<Metrics>,
    /// Of the hashes that stand for searched values in this process.
    salt: [u8; 32],
    /// Unix seconds.
    clock: fn() -> u64,
    is_stopping: AtomicBool,
}

/// Answers one kind of request.
#[derive(Clone, Copy)]
struct Work {
    prepare: fn(&Reading, &Asker, &[u8]) -> Result<Prepared, RequestFault>,
    /// It may wait for a key store or a key service, whatever the request.
    blocks: bool,
}

impl Reading {
    /// Puts the parts together.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn new(
        policies: Arc<LivePolicies>,
        keys: Arc<dyn KeySource>,
        audit: AuditLog,
        budgets: Budgets,
        metrics: Arc<Metrics>,
        clock: fn() -> u64,
    ) -> Result<Self, veilstream_engine::EntropyError> {
        let mut salt = [0; 32];
        OsEntropy.fill(&mut salt)?;
        Ok(Self {
            policies,
            keys,
            audit,
            budgets: Mutex::new(budgets),
            replays: Replays::default(),
            failures: KnownFailures::default(),
            outages: Outages::default(),
            revealers: Mutex::default(),
            key_threads: KeyThreads::default(),
            metrics,
            salt,
            clock,
            is_stopping: AtomicBool::new(false),
        })
    }

    /// What it answers. `opens`: values too, not only what to search for.
    #[must_use]
    pub fn routes(self: &Arc<Self>, opens: bool) -> Vec<Route> {
        let always = [
            ("/v1/index", Work { prepare: Self::index, blocks: false }),
            ("/v1/subject-ref", Work { prepare: Self::subject_refs, blocks: true }),
        ];
        let values = [
            (REVEAL, Work { prepare: Self::reveal, blocks: false }),
            ("/v1/explain", Work { prepare: Self::explain, blocks: false }),
            ("/v1/seal", Work { prepare: Self::seal, blocks: true }),
        ];
        always
            .into_iter()
            .chain(values.into_iter().filter(|_| opens))
            .map(|(path, work)| self.route(path, work))
            .collect()
    }

    fn route(self: &Arc<Self>, path: &'static str, work: Work) -> Route {
        let reading = self.clone();
        let handler = move |principal: Principal, request: ServeRequest| -> Answer {
            let reading = reading.clone();
            Box::pin(async move {
                match request.body.media() {
                    Media::Json => reading.answer(principal, request, work).await,
                    Media::NdJson => reading.stream(principal, request).await,
                }
            })
        };
        let media: &[Media] =
            if path == REVEAL { &[Media::Json, Media::NdJson] } else { &[Media::Json] };
        Route::post(path, media, Arc::new(handler))
    }

    /// Key store and key service answer.
    pub fn keys_answer(&self) {
        self.outages.keys_answer();
    }

    /// Ends streams at their next part: the service stops.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
    }

    async fn answer(
        self: Arc<Self>,
        principal: Principal,
        request: ServeRequest,
        work: Work,
    ) -> Response<Body> {
        let ServeRequest { body, caller } = request;
        let body = match body.whole().await {
            Ok(body) => body,
            Err(problem) => return problem.into_response(),
        };
        let asker = Asker::new(principal, caller);
        // The body counts until the answer may leave.
        let (reading, body) = (self.clone(), Arc::new(body));
        let asked = body.clone();
        let prepare = move || (work.prepare)(&reading, &asker, &asked);
        let failed = |error: String| {
            tracing::error!(error, "a request failed; it was answered with 500");
            Err(RequestFault::Internal)
        };
        let prepared = if work.blocks {
            self.key_threads.run(prepare).await
        } else if body.len() > SMALL {
            let prepared = tokio::task::spawn_blocking(prepare).await;
            prepared.unwrap_or_else(|error| failed(error.to_string()))
        } else {
            // What it panicked with is on standard error.
            let prepared = catch_unwind(AssertUnwindSafe(prepare));
            prepared.unwrap_or_else(|_| failed("it panicked".to_owned()))
        };
        let answer = match prepared {
            Ok(prepared) => self.finish(prepared).await,
            Err(fault) => Err(fault),
        };
        match answer {
            Ok((json, asked)) => {
                let media = [(header::CONTENT_TYPE, "application/json")];
                (media, asked.map(Extension), json).into_response()
            }
            Err(fault) => {
                self.outages.tell(&fault);
                fault.into_response()
            }
        }
    }

    /// Which attempt of its id a request is, from 1.
    fn attempt(
        &self,
        asker: &Asker,
        claims: &Claims,
        path: &str,
        body: &[u8],
    ) -> Result<u64, RequestFault> {
        let id = claims.request_id.as_deref();
        self.replays.attempt(&asker.id, id, path, body, self.now())
    }

    fn now(&self) -> u64 {
        (self.clock)()
    }

    fn budgets(&self) -> MutexGuard<'_, Budgets> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works with a revealer: its key schedules are worth keeping.
    fn with_revealer<T>(&self, work: impl FnOnce(&mut Revealer) -> T) -> T {
        let lock = || self.revealers.lock().unwrap_or_else(PoisonError::into_inner);
        let mut revealer = lock().pop().unwrap_or_default();
        let done = work(&mut revealer);
        let mut kept = lock();
        if kept.len() < REVEALERS {
            kept.push(revealer);
        }
        done
    }
}
