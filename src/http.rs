//! The HTTP listener, on its own thread with its own runtime: it answers while lanes are busy, and
//! a slow scrape costs no record.

mod listener;
mod problem;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::sync::oneshot;

#[cfg(feature = "serve")]
pub(crate) use listener::accept;
pub use problem::{ProblemCode, ProblemDetails};

use listener::{Bounded, CONNECTIONS, LIFE};

use crate::status::Status;
use crate::telemetry::metrics::Metrics;

/// What the handlers look at.
#[derive(Debug, Clone)]
struct Shared {
    status: Arc<Status>,
    metrics: Arc<Metrics>,
}

/// The running listener. Dropped, it stops.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts to listen and to answer.
    ///
    /// # Errors
    /// The address cannot be opened, or the thread or its runtime cannot be made.
    pub fn start(
        listen: SocketAddr,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        Self::start_bounded(listen, status, metrics, CONNECTIONS, LIFE)
    }

    fn start_bounded(
        listen: SocketAddr,
        status: Arc<Status>,
        metrics: Arc<Metrics>,
        connections: usize,
        life: Duration,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
        let (stop, stopped) = oneshot::channel();
        let router = router(Shared { status, metrics });
        let thread = std::thread::Builder::new().name("http".to_owned()).spawn(move || {
            let served = runtime.block_on(async {
                tokio::select! {
                    result = serve(listener, router, connections, life) => result,
                    // No waiting for open connections: a keep-alive scraper would hold up the stop.
                    _ = stopped => Ok(()),
                }
            });
            if let Err(error) = served {
                tracing::error!(%error, "HTTP listener ended");
            }
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The address it listens on, with the port that was free when port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // An error means that the thread has ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: TcpListener,
    router: Router,
    connections: usize,
    life: Duration,
) -> io::Result<()> {
    axum::serve(
        Bounded::new(tokio::net::TcpListener::from_std(listener)?, connections, life),
        router,
    )
    .await
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .fallback(|| async {
            ProblemDetails::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "There is nothing here; see /livez, /readyz, /metrics, /status.",
            )
        })
        .method_not_allowed_fallback(|| async {
            ProblemDetails::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Only GET is answered here.",
            )
        })
        .with_state(shared)
}

/// Alive is who answers: an orchestrator must not restart a process because Kafka or a key service
/// is away.
async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let reasons = shared.status.report().reasons;
    if reasons.is_empty() {
        return "ready\n".into_response();
    }
    let list: Vec<String> =
        reasons.iter().map(|(component, reason)| format!("{component}: {reason}")).collect();
    ProblemDetails::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", list.join("; "))
        .into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    match shared.metrics.render() {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(_) => ProblemDetails::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "metrics",
            "The metrics could not be encoded.",
        )
        .into_response(),
    }
}

async fn status(State(shared): State<Shared>) -> impl IntoResponse {
    Json(shared.status.report())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn start(components: &[&str]) -> (Server, Arc<Status>) {
        let status = Arc::new(Status::new(components));
        let server = Server::start(
            ([127, 0, 0, 1], 0).into(),
            status.clone(),
            Arc::new(Metrics::new().unwrap()),
        )
        .unwrap();
        (server, status)
    }

    /// Status code and the whole answer.
    fn request(server: &Server, method: &str, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(server.address()).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        (answer[9..12].parse().unwrap(), answer)
    }

    #[test]
    fn readiness_follows_its_components_and_liveness_does_not() {
        let (server, status) = start(&["keys", "kafka"]);
        let (code, answer) = request(&server, "GET", "/readyz");
        assert_eq!(code, 503);
        assert!(answer.contains("kafka: starting; keys: starting"), "{answer}");
        status.ready("keys");
        assert_eq!(request(&server, "GET", "/readyz").0, 503);
        status.ready("kafka");
        assert_eq!(request(&server, "GET", "/readyz").0, 200);
        status.unready("kafka", "no broker answers");
        let (code, answer) = request(&server, "GET", "/readyz");
        assert_eq!(code, 503);
        assert!(answer.contains("kafka: no broker answers"), "{answer}");
        assert_eq!(request(&server, "GET", "/livez").0, 200);
        status.ready("kafka");
        assert_eq!(request(&server, "GET", "/readyz").0, 200);
    }

    /// Two connections that say nothing take both places; the next answer comes when their time is
    /// over.
    #[test]
    fn connections_are_bounded_in_number_and_time() {
        let life = Duration::from_secs(2);
        let metrics = Arc::new(Metrics::new().unwrap());
        let server = Server::start_bounded(
            ([127, 0, 0, 1], 0).into(),
            Arc::new(Status::new(&[])),
            metrics,
            2,
            life,
        )
        .unwrap();
        let start = std::time::Instant::now();
        let mut silent = TcpStream::connect(server.address()).unwrap();
        let mut slow = TcpStream::connect(server.address()).unwrap();
        write!(slow, "GET /livez HTTP/1.1\r\nHost:").unwrap();
        // Both are accepted before the third comes.
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(request(&server, "GET", "/livez").0, 200);
        assert!(start.elapsed() >= life, "{:?}", start.elapsed());
        for stream in [&mut silent, &mut slow] {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let mut rest = Vec::new();
            // Closed, or reset: except for an answer that says so, nothing comes.
            let _ = stream.read_to_end(&mut rest);
            assert!(!String::from_utf8_lossy(&rest).contains("200 OK"));
        }
    }

    #[test]
    fn errors_are_problems() {
        let (server, _) = start(&[]);
        let (code, answer) = request(&server, "GET", "/v1/nothing");
        assert_eq!(code, 404);
        assert!(
            answer.contains("content-type: application/problem+json")
                && answer.contains(r#""code":"not_found""#),
            "{answer}"
        );
        let (code, answer) = request(&server, "POST", "/livez");
        assert_eq!(code, 405);
        assert!(answer.contains(r#""code":"method_not_allowed""#), "{answer}");
    }

    #[test]
    fn metrics_and_status_are_served() {
        let (server, status) = start(&["kafka"]);
        let (code, answer) = request(&server, "GET", "/metrics");
        assert_eq!(code, 200);
        assert!(answer.contains("veilstream_build_info{version="), "{answer}");
        status.detail("schemas", serde_json::json!(["people/1"]));
        let (code, answer) = request(&server, "GET", "/status");
        assert_eq!(code, 200);
        let body: serde_json::Value =
            serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        assert_eq!(body["ready"], false);
        assert_eq!(body["reasons"]["kafka"], "starting");
        assert_eq!(body["schemas"][0], "people/1");
    }

    #[test]
    fn dropping_stops_it_although_a_client_is_connected() {
        let (server, _) = start(&[]);
        let address = server.address();
        let _idle = TcpStream::connect(address).unwrap();
        drop(server);
        assert!(TcpListener::bind(address).is_ok());
    }
}
