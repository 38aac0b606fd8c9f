//! The listener: our own accept loop, so that the peer's certificate stays in sight. Handshakes,
//! headers and answers have their times, and connections their number; nobody waits for a slow one.

mod connections;
mod stall;
mod tls;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::peer::Peer;
use crate::config::{Network, ServeLimits};
use crate::http::accept;
use connections::{Connections, Held};
use stall::Stalling;

pub use tls::{PeerCertificate, TlsFault, TlsFiles};

/// Bytes of a request's head that are read: what is over the limit of [`super::router`] and below
/// this gets an answer with a body.
const HEAD_READ: usize = 64 << 10;
/// Header lines of a request.
const LINES: usize = 100;

/// How long a peer may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For the TLS handshake.
    pub handshake: Duration,
    /// For the head of a request, and between two requests.
    pub head: Duration,
    /// For the next bytes of a body; a whole one has three times as long.
    pub body: Duration,
    /// To take a part of an answer.
    pub answer: Duration,
    /// Age at which a connection is closed when its request is answered. A stream ends after ten
    /// minutes.
    pub life: Duration,
    /// For requests that are being answered when the service stops.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(5),
            head: Duration::from_secs(10),
            body: Duration::from_secs(10),
            answer: Duration::from_secs(30),
            life: Duration::from_secs(900),
            drain: Duration::from_secs(30),
        }
    }
}

/// What answers requests.
pub trait Service: Send + Sync + 'static {
    /// Answers one.
    fn answer(
        self: Arc<Self>,
        peer: Arc<Peer>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Body>> + Send;

    /// A handshake with this address failed.
    fn handshake_failed(&self, address: SocketAddr, error: &io::Error);
}

/// What a listener is made of.
pub struct Parts<S> {
    /// Answers.
    pub service: Arc<S>,
    /// `None`: without TLS.
    pub tls: Option<Arc<TlsFiles>>,
    /// Peers of whom many connections may come.
    pub proxies: Vec<Network>,
    /// How many connections.
    pub limits: ServeLimits,
    /// How long they may take.
    pub patience: Patience,
}

/// The running listener. Dropped, it stops: no new connections, and those that are open end with
/// the request that they are at.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Starts to listen. `beside` runs on the listener's runtime until the listener stops.
    ///
    /// # Errors
    /// The address cannot be opened, or the thread or its runtime cannot be made.
    pub fn start<S: Service>(
        listen: SocketAddr,
        parts: Parts<S>,
        beside: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads())
            .thread_name("serve")
            .enable_io()
            .enable_time()
            .build()?;
        let (stop, stopped) = watch::channel(false);
        let thread =
            std::thread::Builder::new().name("serve-accept".to_owned()).spawn(move || {
                runtime.block_on(async {
                    let beside = tokio::spawn(beside);
                    if let Err(error) = run(listener, parts, stopped).await {
                        tracing::error!(%error, "the listener of the reading service ended");
                    }
                    beside.abort();
                });
                // What blocks is not waited for: it has no answer to give any more.
                runtime.shutdown_background();
            })?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// The address it listens on, with the port that was free when port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Threads that accept, read, write and open what is small: one a core, and two at least.
fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

impl Drop for Listener {
    fn drop(&mut self) {
        // An error means that the thread has ended already.
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn run<S: Service>(
    listener: std::net::TcpListener,
    parts: Parts<S>,
    mut stopped: watch::Receiver<bool>,
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    let connections = Arc::new(Connections::new(parts.limits.connections, parts.proxies.clone()));
    let parts = Arc::new(parts);
    loop {
        let (stream, address, permit) = tokio::select! {
            accepted = accept(&listener, connections.all()) => accepted,
            _ = stopped.changed() => break,
        };
        // An address with too many is closed at once; others do not wait for it.
        let Some(held) = connections.hold(address.ip(), permit) else { continue };
        let (parts, stopped) = (parts.clone(), stopped.clone());
        tokio::spawn(async move { connection(&parts, stream, address, held, stopped).await });
    }
    // Or the system would go on to accept for nobody.
    drop(listener);
    // Every permit is back when the last connection has ended.
    let all = u32::try_from(parts.limits.connections).unwrap_or(u32::MAX);
    let _ = timeout(parts.patience.drain, connections.all().acquire_many(all)).await;
    Ok(())
}

async fn connection<S: Service>(
    parts: &Parts<S>,
    stream: TcpStream,
    address: SocketAddr,
    held: Held,
    stopped: watch::Receiver<bool>,
) {
    // Small answers must not wait for more.
    let _ = stream.set_nodelay(true);
    let Some(files) = &parts.tls else {
        let peer = Peer::new(address, None);
        return requests(parts, stream, peer, held, stopped).await;
    };
    let tls = files.current();
    let acceptor = TlsAcceptor::from(tls.config.clone());
    let stream = match timeout(parts.patience.handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return parts.service.handshake_failed(address, &error),
        Err(_) => {
            return parts.service.handshake_failed(address, &io::ErrorKind::TimedOut.into());
        }
    };
    let chain = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
    let now = crate::keys::now();
    let certificate = chain.map(|chain| {
        let chain = chain.into_iter().map(|one| one.into_owned()).collect();
        PeerCertificate::new(chain, files.clone(), tls, now)
    });
    requests(parts, stream, Peer::new(address, certificate), held, stopped).await;
}

/// Answers the requests of a connection until it ends, gets old or the service stops.
async fn requests<S: Service>(
    parts: &Parts<S>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    _held: Held,
    mut stopped: watch::Receiver<bool>,
) {
    let (peer, patience) = (Arc::new(peer), parts.patience);
    let service = service_fn(|request| {
        let (service, peer) = (parts.service.clone(), peer.clone());
        async move { Ok::<_, Infallible>(service.answer(peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(HEAD_READ)
        .max_headers(LINES)
        .serve_connection(TokioIo::new(Stalling::new(stream, patience.answer)), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        // How a client leaves is its own affair.
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => {}
        () = tokio::time::sleep(patience.life) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(patience.drain, connection).await;
}
