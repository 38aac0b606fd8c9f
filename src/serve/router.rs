//! From a request to its handler: limits, credential, path, method, body, in this order. What a
//! handler gets comes from somebody who was let in, and its body is read when the handler reads it.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{ALLOW, CACHE_CONTROL, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use axum::response::IntoResponse;
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::rustls;
use veilstream_keys::KeyError;

use super::auth::{Authenticator, Cause, Denied, Principal, Refusal, Refusals, RefusedRequest};
use super::body::{Media, RequestBody, Unread, admit};
use super::limits::{Exceeded, Limits};
use super::listener::Service;
use super::peer::Peer;
use crate::config::Network;
use crate::http::{ProblemCode, ProblemDetails};

/// The document of this interface, which `/openapi.json` answers.
pub const OPENAPI: &str = include_str!("openapi.json");
/// Bytes of a request's line and header lines.
const HEAD_MAX: usize = 16 << 10;

/// A future answer.
pub type Answer = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
/// Answers requests of somebody who was let in.
pub type Handler = Arc<dyn Fn(Principal, ServeRequest) -> Answer + Send + Sync>;

/// What is answered at a path.
#[derive(Clone)]
pub struct Route {
    path: &'static str,
    action: Action,
}

#[derive(Clone)]
enum Action {
    /// `GET` of a document.
    Document(&'static str),
    /// `POST`, with bodies of these kinds.
    Post(&'static [Media], Handler),
}

impl Route {
    /// Answers `POST` with a handler.
    pub fn post(path: &'static str, media: &'static [Media], handler: Handler) -> Self {
        Self { path, action: Action::Post(media, handler) }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &'static str {
        self.path
    }

    fn method(&self) -> Method {
        match self.action {
            Action::Document(_) => Method::GET,
            Action::Post(..) => Method::POST,
        }
    }
}

/// A request whose caller was let in.
pub struct ServeRequest {
    /// Still to be read.
    pub body: RequestBody,
    /// Where it came from, and what its limits are.
    pub caller: Caller,
}

/// The connection of a caller who was let in, and what is left of its limits.
pub struct Caller {
    /// Whose address it came from; what a proxy says, where the peer is one.
    pub ip: IpAddr,
    peer: Arc<Peer>,
    shared: Arc<Shared>,
}

impl Caller {
    /// Takes items of the caller's limit, before any of them is decided.
    ///
    /// # Errors
    /// There are no more for now; it makes the answer.
    pub fn take_items(&self, principal: &Principal, items: u32) -> Result<(), Exceeded> {
        self.shared.limits.items(&principal.id, items)
    }

    /// Waits until the caller's limit has so many items left, and takes them: for the parts of a
    /// stream.
    pub async fn wait_for_items(&self, principal: &Principal, items: u32) {
        while let Err(Exceeded { retry_after }) = self.shared.limits.items(&principal.id, items) {
            tokio::time::sleep(retry_after).await;
        }
    }

    /// Whether the caller is denied everything since it opened a honey token. `None`: nobody knows
    /// now.
    #[must_use]
    pub fn is_suspended(&self, principal: &Principal) -> Option<bool> {
        self.shared.authenticator.is_suspended(principal, (self.shared.clock)())
    }

    /// Suspends the caller in this process, where the configuration says so; whether it did.
    ///
    /// # Errors
    /// The system has no random bytes.
    pub fn suspend(&self, principal: &Principal) -> Result<bool, KeyError> {
        let Shared { authenticator, clock, .. } = &*self.shared;
        if authenticator.suspends() {
            authenticator.suspend(principal, clock())?;
        }
        Ok(authenticator.suspends())
    }

    /// Takes down that a request is refused as a whole after its answer began.
    pub fn refused(&self, principal: &Principal, path: &'static str, code: &'static str) {
        let request = RefusedRequest { principal, address: self.ip, path, code };
        self.shared.refusals.tell_request(request, (self.shared.clock)());
    }

    /// What brings suspensions into the store. It blocks.
    pub fn write_suspensions(&self) -> impl FnOnce() + Send + 'static {
        let shared = self.shared.clone();
        move || {
            // Until the store has them, this process remembers them. That it does not answer is told
            // by who looks every two seconds.
            let _ = shared.authenticator.api_keys().look((shared.clock)());
        }
    }

    /// Whether the caller's credential still counts: asked before each part of a stream.
    #[must_use]
    pub fn still_holds(&self, principal: &Principal) -> bool {
        self.shared.authenticator.holds(principal, &self.peer, (self.shared.clock)())
    }
}

/// What every request meets.
pub struct Shared {
    /// Tells callers apart.
    pub authenticator: Arc<Authenticator>,
    /// Tells of those refused.
    pub refusals: Refusals,
    /// What is left.
    pub limits: Arc<Limits>,
    /// Peers whose forwarded addresses count.
    pub proxies: Vec<Network>,
    /// For the next bytes of a body.
    pub body_patience: Duration,
    /// Unix seconds.
    pub clock: fn() -> u64,
}

/// What a request was about, for the log at `debug`: an extension of its answer. No value of the
/// request stands in it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The caller's name of the request, as in the audit.
    pub request_id: Option<String>,
    /// Number of items.
    pub items: u64,
    /// How many there are of each status, as JSON.
    pub outcome: String,
}

/// Somebody who was let in, and what they ask for.
struct Met {
    principal: Principal,
    address: IpAddr,
    path: &'static str,
}

/// The routes, and what stands before them.
pub struct Router {
    shared: Arc<Shared>,
    routes: Vec<Route>,
}

impl Router {
    /// These routes and `/openapi.json`.
    #[must_use]
    pub fn new(shared: Shared, mut routes: Vec<Route>) -> Self {
        routes.push(Route { path: "/openapi.json", action: Action::Document(OPENAPI) });
        Self { shared: Arc::new(shared), routes }
    }

    /// `met`: who asked for which route, once that is known.
    async fn dispatch(
        &self,
        peer: Arc<Peer>,
        request: Request<Incoming>,
        met: &mut Option<Met>,
    ) -> Result<Response<Body>, Response<Body>> {
        let shared = &self.shared;
        let (head, incoming) = request.into_parts();
        if head_bytes(&head) > HEAD_MAX {
            return Err(ProblemDetails::new(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "The header lines are longer than 16 KiB.",
            )
            .into_response());
        }
        let permit = shared.limits.all().request().map_err(exceeded)?;
        let now = (shared.clock)();
        let ip = peer.ip(&head.headers, &shared.proxies);
        shared.limits.credentials(ip, now).map_err(exceeded)?;
        let principal = match shared.authenticator.authenticate(&head.headers, &peer, now).await {
            Ok(principal) => principal,
            Err(Denied::Unavailable) => return Err(keys_unavailable()),
            Err(Denied::Refused(refusal)) => {
                shared.limits.refused(ip, now);
                shared.refusals.tell(ip, &refusal, now);
                return Err(unauthorized());
            }
        };
        let share = shared.limits.share(&principal.id);
        let own = share.request().map_err(exceeded)?;
        let route = self.routes.iter().find(|route| route.path == head.uri.path());
        let route = route.ok_or_else(not_found)?;
        *met = Some(Met { principal: principal.clone(), address: ip, path: route.path });
        if route.method() != head.method {
            return Err(method_not_allowed(&route.method()));
        }
        let answer = match &route.action {
            Action::Document(document) => {
                ([(header::CONTENT_TYPE, "application/json")], *document).into_response()
            }
            Action::Post(media, handler) => {
                let (shares, patience) = ([&share, shared.limits.all()], shared.body_patience);
                let body =
                    admit(&head, incoming, media, shares, patience).map_err(
                        |unread| match unread {
                            Unread::Problem(problem) => problem.into_response(),
                            Unread::Exceeded(limit) => exceeded(limit),
                        },
                    )?;
                let shared = shared.clone();
                let caller = Caller { ip, peer, shared };
                handler(principal, ServeRequest { body, caller }).await
            }
        };
        // The place is taken until the last byte is sent: an answer may be a stream.
        Ok(answer.map(|body| Body::new(Holding { body, _permits: [own, permit] })))
    }
}

impl Service for Router {
    async fn answer(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let (mut met, begun) = (None, Instant::now());
        let method = known(request.method());
        let mut answer = match self.dispatch(peer, request, &mut met).await {
            Ok(answer) | Err(answer) => answer,
        };
        let refusals = &self.shared.refusals;
        match (&met, answer.extensions().get()) {
            (_, Some(ProblemCode(code))) if answer.status().is_server_error() => {
                refusals.count_failed(code);
            }
            (Some(Met { principal, address, path }), Some(ProblemCode(code)))
                if answer.status().is_client_error() =>
            {
                let request = RefusedRequest { principal, address: *address, path, code };
                refusals.tell_request(request, (self.shared.clock)());
            }
            _ => {}
        }
        trace(method, begun, met.as_ref(), &answer);
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        answer
    }

    /// A client certificate that does not verify ends the handshake: there is no request to answer.
    fn handshake_failed(&self, address: SocketAddr, error: &io::Error) {
        let is_certificate = error
            .get_ref()
            .and_then(|error| error.downcast_ref::<rustls::Error>())
            .is_some_and(|error| {
                matches!(
                    error,
                    rustls::Error::InvalidCertificate(_)
                        | rustls::Error::NoCertificatesPresented
                        | rustls::Error::InvalidCertRevocationList(_)
                )
            });
        if is_certificate {
            let now = (self.shared.clock)();
            let refusal = Refusal { cause: Cause::Certificate, of_person: false, credential: None };
            self.shared.limits.refused(address.ip(), now);
            self.shared.refusals.tell(address.ip(), &refusal, now);
        } else {
            tracing::debug!(%address, %error, "TLS handshake failed");
        }
    }
}

/// A method by its name; callers may make up others, which show nowhere.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// One line a request at `debug`: who, what and how it ended. A stream ends later, with a line of
/// its own.
fn trace(method: &str, begun: Instant, met: Option<&Met>, answer: &Response<Body>) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    let asked = answer.extensions().get::<Asked>();
    tracing::debug!(
        method,
        route = met.map_or("none", |met| met.path),
        status = answer.status().as_u16(),
        code = answer.extensions().get().map(|ProblemCode(code)| *code),
        took_ms = millis(begun),
        actor = met.map(|met| &*met.principal.id),
        request_id = asked.and_then(|asked| asked.request_id.as_deref()),
        items = asked.map(|asked| asked.items),
        outcome = asked.map(|asked| &*asked.outcome),
        "request answered"
    );
}

/// Milliseconds since then.
pub(in crate::serve) fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Bytes of the head as it came, about: the line, and each header line with its separators.
fn head_bytes(head: &axum::http::request::Parts) -> usize {
    let line = head.method.as_str().len() + head.uri.to_string().len() + "  HTTP/1.1\r\n".len();
    head.headers.iter().fold(line, |sum, (name, value)| sum + name.as_str().len() + value.len() + 4)
}

/// One answer for every credential that is refused: which it was, and why, is nobody's business.
fn unauthorized() -> Response<Body> {
    let problem = ProblemDetails::new(
        StatusCode::UNAUTHORIZED,
        "unauthorized",
        "Send one credential that is accepted here.",
    );
    ([(WWW_AUTHENTICATE, "Bearer")], problem).into_response()
}

fn keys_unavailable() -> Response<Body> {
    let problem = ProblemDetails::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "keys_unavailable",
        "The key store does not answer; try again later.",
    );
    ([(RETRY_AFTER, "5")], problem).into_response()
}

fn not_found() -> Response<Body> {
    ProblemDetails::new(
        StatusCode::NOT_FOUND,
        "not_found",
        "There is nothing here; see /openapi.json.",
    )
    .into_response()
}

fn method_not_allowed(allowed: &Method) -> Response<Body> {
    let problem = ProblemDetails::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        "This method is not answered here; see /openapi.json.",
    );
    ([(ALLOW, allowed.to_string())], problem).into_response()
}

impl IntoResponse for Exceeded {
    fn into_response(self) -> Response<Body> {
        exceeded(self)
    }
}

impl Exceeded {
    /// What is told of it.
    #[must_use]
    pub fn problem(self) -> ProblemDetails {
        ProblemDetails::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_requests",
            "That is more than is answered at once; come again after the time in Retry-After.",
        )
    }
}

fn exceeded(limit: Exceeded) -> Response<Body> {
    let after = limit.retry_after.as_secs().to_string();
    ([(RETRY_AFTER, after)], limit.problem()).into_response()
}

/// A body that keeps its request's place.
struct Holding {
    body: Body,
    _permits: [OwnedSemaphorePermit; 2],
}

impl hyper::body::Body for Holding {
    type Data = axum::body::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
