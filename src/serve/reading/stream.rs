//! `POST /v1/reveal` as a stream: a line that says what for, then one item a line. The answer comes
//! part by part, each decided under the newest policies, keys and credential, and durable in the
//! audit log before its first byte leaves.
//!
//! One part is in memory at a time: the next is read when the connection took the last. So a
//! caller that does not read is not read from, and the listener ends it.

mod lines;
mod parts;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{Response, header};
use axum::response::IntoResponse as _;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use self::lines::StreamLines;
use self::parts::Parts;
use super::Reading;
use super::answer::{self, Summary};
use super::asker::Asker;
use super::asking::{Asking, Totals};
use super::document::{self, Document};
use super::fault::RequestFault;
use super::found::{Found, SubjectCount};
use super::request::{Item, RevealRequest, StreamHeader};
use crate::serve::auth::Principal;
use crate::serve::router::{ServeRequest, millis};

/// A stream ends then.
const LONGEST: Duration = Duration::from_secs(600);

#[cfg(not(feature = "inject"))]
fn longest() -> Duration {
    LONGEST
}

#[cfg(feature = "inject")]
fn longest() -> Duration {
    crate::inject::stream_life().unwrap_or(LONGEST)
}

/// A stream that is being answered.
struct Stream {
    reading: Arc<Reading>,
    asker: Arc<Asker>,
    lines: StreamLines,
    begun: std::time::Instant,
    until: Instant,
    progress: Progress,
    /// Its last line is on its way, and more may come all the same.
    is_over: bool,
}

/// What a stream has asked for so far.
struct Progress {
    header: StreamHeader,
    items: u64,
    subjects: SubjectCount,
    is_bare: bool,
    /// Fields of which a honey token was met: withheld from its part on.
    honey: BTreeSet<String>,
    summary: Summary,
}

impl Reading {
    /// Answers a stream: its first line at once, the rest while the answer is sent.
    pub(super) async fn stream(
        self: Arc<Self>,
        principal: Principal,
        request: ServeRequest,
    ) -> Response<Body> {
        let ServeRequest { body, caller } = request;
        let mut lines = StreamLines::new(body);
        let header =
            lines.first().await.and_then(|line| StreamHeader::read(&Document::read(&line)?));
        let header = match header {
            Ok(header) => header,
            Err(fault) => {
                lines.drain().await;
                return fault.into_response();
            }
        };
        let stream = Stream {
            reading: self,
            asker: Arc::new(Asker::new(principal, caller)),
            lines,
            begun: std::time::Instant::now(),
            until: Instant::now() + longest(),
            progress: Progress {
                header,
                items: 0,
                subjects: SubjectCount::default(),
                is_bare: false,
                honey: BTreeSet::new(),
                summary: Summary::new(),
            },
            is_over: false,
        };
        let parts = Parts::new(stream, |stream| Box::pin(stream.next()));
        ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(parts)).into_response()
    }

    /// Answers a part of a stream, on a thread that may block.
    fn answer_part(
        &self,
        asker: &Asker,
        progress: &mut Progress,
        part: &[u8],
    ) -> Result<Vec<u8>, RequestFault> {
        document::bounded(part)?;
        let documents: Vec<Option<Document<'_>>> =
            lines::items(part).map(|line| Document::read(line).ok()).collect();
        let request = RevealRequest {
            claims: progress.header.claims.clone(),
            want: progress.header.want,
            items: documents.iter().map(|line| Item::of_line(line.as_ref())).collect(),
        };
        let policies = self.policies.current();
        self.with_revealer(|revealer| {
            let found = Found::of(&request, &policies, revealer)?;
            let totals = progress.take(&found, request.items.len());
            let (request, policies, attempt) = (&request, &*policies, None);
            let asking = Asking { asker, request, attempt, policies, found, totals };
            let opened = self.open_asked(&asking, &mut progress.honey, revealer)?;
            let durable = self.wait(opened.trace)?;
            opened.counts.add_to(&self.metrics);
            let head = asking.head().members(opened.shows_audit.then_some(durable));
            let mut out = json!({ "part": head }).to_string().into_bytes();
            out.push(b'\n');
            out.reserve(answer::room(&opened.read));
            answer::count(&asking.found, &opened.counts.fields, &mut progress.summary);
            for item in asking.found.items().zip(opened.read) {
                let start = out.len();
                answer::item(&mut out, item);
                // A sealed object may have line feeds between its members; strings have none.
                let line_feeds = out[start..].iter_mut().filter(|b| matches!(b, b'\n' | b'\r'));
                line_feeds.for_each(|b| *b = b' ');
                out.push(b'\n');
            }
            Ok(out)
        })
    }
}

impl Progress {
    /// Adds a part.
    fn take(&mut self, found: &Found<'_>, items: usize) -> Totals {
        self.items += items as u64;
        found.count_subjects(&mut self.subjects);
        self.is_bare |= found.is_bare();
        let subjects = self.subjects.total();
        Totals { items: self.items, subjects, is_bare: self.is_bare }
    }
}

impl Stream {
    /// The next bytes of the answer, and the stream unless they are its last.
    async fn next(mut self) -> (Bytes, Option<Self>) {
        if self.is_over {
            self.lines.drain().await;
            return (Bytes::new(), None);
        }
        loop {
            match self.part().await {
                // Nothing but blank lines.
                Ok(Some(part)) if lines::items(&part).next().is_none() => {}
                Ok(Some(part)) => return self.answer(part).await,
                Ok(None) => {
                    self.trace(None);
                    return (end("summary", &json!(self.progress.summary)), None);
                }
                Err(fault) => return self.failed(fault),
            }
        }
    }

    /// The next part, when it may be answered. `None`: there are no more.
    async fn part(&mut self) -> Result<Option<Vec<u8>>, RequestFault> {
        let ended = |_| RequestFault::StreamTime;
        let part = timeout_at(self.until, self.lines.part()).await.map_err(ended)??;
        let Some(part) = part else { return Ok(None) };
        let items = self.asker.wait_for_items(lines::items(&part).count());
        timeout_at(self.until, items).await.map_err(ended)?;
        // What is ready at once is not timed: a caller that never pauses would never be ended.
        if Instant::now() >= self.until {
            return Err(RequestFault::StreamTime);
        }
        if self.reading.is_stopping.load(Ordering::Relaxed) {
            return Err(RequestFault::Stopping);
        }
        if !self.asker.still_holds() {
            let caller = &*self.asker.id;
            tracing::warn!(caller, "the credential of a stream counts no more; the stream ends");
            return Err(RequestFault::Credential);
        }
        Ok(Some(part))
    }

    /// Answers a part, on a thread that may block.
    async fn answer(self, part: Vec<u8>) -> (Bytes, Option<Self>) {
        let answering = tokio::task::spawn_blocking(move || {
            let mut stream = self;
            let Self { reading, asker, progress, .. } = &mut stream;
            (reading.answer_part(asker, progress, &part), stream)
        });
        match answering.await {
            Ok((Ok(answer), stream)) => (answer.into(), Some(stream)),
            Ok((Err(fault), stream)) => stream.failed(fault),
            Err(error) => {
                tracing::error!(%error, "a part of a stream failed; the stream was ended");
                (end("problem", &json!(RequestFault::Internal.problem())), None)
            }
        }
    }

    /// One line at `debug`, as each request has one.
    fn trace(&self, code: Option<&str>) {
        let Progress { header, items, summary, .. } = &self.progress;
        if let Some(asked) = answer::asked(&header.claims, *items, summary) {
            tracing::debug!(
                route = super::REVEAL,
                code,
                took_ms = millis(self.begun),
                actor = &*self.asker.id,
                request_id = asked.request_id,
                items = asked.items,
                outcome = asked.outcome,
                "stream ended"
            );
        }
    }

    /// The last line of a stream that is not answered to its end.
    fn failed(self, fault: RequestFault) -> (Bytes, Option<Self>) {
        self.reading.outages.tell(&fault);
        let problem = fault.problem();
        match problem.failure() {
            Some(code) => self.reading.metrics.requests_failed.with_label_values(&[code]).inc(),
            None => self.asker.refused(super::REVEAL, problem.code()),
        }
        self.trace(Some(problem.code()));
        (end("problem", &json!(problem)), Some(Self { is_over: true, ..self }))
    }
}

/// The last line. A stream without it was cut.
fn end(name: &str, value: &Value) -> Bytes {
    let line = json!({ "end": { name: value } });
    format!("{line}\n").into()
}
