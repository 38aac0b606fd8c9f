//! The running service, over real connections.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use axum::http::StatusCode;
use axum::response::IntoResponse as _;
use rcgen::SanType;
use reqwest::blocking::{Client, Response};
use tempfile::TempDir;

use super::body::Media;
use super::testing::{Authority, Keys, Leaf, until};
use super::*;
use crate::config::Input;

/// A service with a route `/v1/echo`, which answers with who asked and what came.
struct Running {
    service: RunningService,
    keys: Arc<Keys>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
    /// Requests whose whole body was read.
    read: Arc<AtomicUsize>,
}

fn patience() -> Patience {
    Patience {
        handshake: Duration::from_secs(1),
        head: Duration::from_secs(1),
        body: Duration::from_secs(1),
        ..Patience::default()
    }
}

fn start(section: &str, dir: &TempDir, echo: Option<Route>) -> Running {
    let input = Input {
        path: dir.path().join("veilstream.toml"),
        text: format!("[serve]\nlisten = \"127.0.0.1:0\"\n{section}"),
        ..Input::default()
    };
    let config = Config::parse(&input, &|_| unreachable!()).unwrap();
    let (keys, read) = (Arc::new(Keys::default()), Arc::new(AtomicUsize::new(0)));
    let status = Arc::new(Status::new(&[]));
    let metrics = Arc::new(Metrics::new().unwrap());
    let service = RunningService::start(ServiceParts {
        settings: config.serve.as_ref().unwrap(),
        credentials: keys.clone(),
        routes: vec![echo.unwrap_or_else(|| echoing(read.clone()))],
        audit: None,
        status: status.clone(),
        metrics: metrics.clone(),
        patience: patience(),
        jwks: JwksTimes::default(),
    })
    .unwrap();
    Running { service, keys, status, metrics, read }
}

fn echoing(read: Arc<AtomicUsize>) -> Route {
    Route::post(
        "/v1/echo",
        &[Media::Json, Media::NdJson],
        Arc::new(move |principal, request| {
            let read = read.clone();
            Box::pin(async move {
                if let Err(limit) = request.caller.take_items(&principal, 1) {
                    return limit.into_response();
                }
                match request.body.whole().await {
                    Ok(body) => {
                        read.fetch_add(1, Ordering::SeqCst);
                        format!("{} {}", principal.id, body.len()).into_response()
                    }
                    Err(problem) => problem.into_response(),
                }
            })
        }),
    )
}

impl Running {
    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://127.0.0.1:{}{path}", self.service.address().port())
    }

    /// An API key that the service knows.
    fn key(&self) -> String {
        self.key_of("reports")
    }

    /// One of a principal of that name.
    fn key_of(&self, name: &str) -> String {
        let key = self.keys.make(name).expose().to_owned();
        let client = Client::new();
        until("the key is known", || {
            // Not by guessing: that is limited.
            std::thread::park_timeout(Duration::from_secs(1));
            let asked = client.get(self.url("http", "/openapi.json")).bearer_auth(&key);
            asked.send().unwrap().status() == StatusCode::OK
        });
        key
    }

    /// A request that is answered once its body comes. The service asks for the body when the request
    /// has its place: a probe that came between would take it.
    fn held(&self, key: &str, length: usize) -> TcpStream {
        let mut stream = TcpStream::connect(self.service.address()).unwrap();
        write!(
            stream,
            "POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: \
            application/json\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
        )
        .unwrap();
        let mut asked_for = [0; 25];
        stream.read_exact(&mut asked_for).unwrap();
        assert_eq!(&asked_for, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream
    }

    /// What comes back for these bytes, until the other end closes.
    fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.service.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The other end may have enough before the last byte.
        let _ = stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut part = [0; 4096];
        loop {
            match stream.read(&mut part) {
                Ok(n) if n > 0 => answer.extend_from_slice(&part[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("not closed within a minute")
                }
                // Closed, or reset.
                Ok(_) | Err(_) => break,
            }
        }
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn insecure() -> (Running, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (start("insecure = true", &dir, None), dir)
}

fn code(answer: Response) -> (u16, String) {
    assert_eq!(answer.headers()["cache-control"], "no-store");
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/problem+json", "{status}");
    let body: serde_json::Value = answer.json().unwrap();
    assert_eq!(body["status"], status);
    (status, body["code"].as_str().unwrap().to_owned())
}

#[test]
fn every_refused_credential_gets_the_same_answer() {
    let (running, _dir) = insecure();
    let key = running.key();
    running.keys.revoke_all();
    let client = Client::new();
    let wrong = key.replace("vsk_", "vsk_0");
    until("the key is refused", || {
        std::thread::park_timeout(Duration::from_secs(1));
        let asked = client.get(running.url("http", "/openapi.json")).bearer_auth(&key);
        asked.send().unwrap().status() == StatusCode::UNAUTHORIZED
    });
    let mut answers = Vec::new();
    for path in ["/openapi.json", "/v1/echo", "/nothing"] {
        for header in [
            None,
            Some(format!("Bearer {key}")),
            Some(format!("Bearer {wrong}")),
            Some("Basic eA".into()),
        ] {
            let mut asked = client.get(running.url("http", path));
            if let Some(header) = header {
                asked = asked.header("authorization", header);
            }
            let answer = asked.send().unwrap();
            let mut headers = answer.headers().clone();
            headers.remove("date");
            answers.push((answer.status(), headers, answer.text().unwrap()));
        }
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
    let (status, headers, body) = &answers[0];
    assert_eq!(
        (*status, &headers["www-authenticate"]),
        (StatusCode::UNAUTHORIZED, &"Bearer".parse().unwrap())
    );
    assert!(body.contains(r#""code":"unauthorized""#), "{body}");
    let metrics = String::from_utf8(running.metrics.render().unwrap()).unwrap();
    for cause in ["no_credential", "key_revoked", "key_mistyped", "malformed"] {
        assert!(
            metrics.contains(&format!("logins_refused_total{{cause=\"{cause}\"}}")),
            "{metrics}"
        );
    }
}

#[test]
fn requests_are_looked_at_before_their_bodies() {
    let (running, _dir) = insecure();
    let (key, client) = (running.key(), Client::new());
    let get = |path: &str| client.get(running.url("http", path)).bearer_auth(&key).send().unwrap();
    let post = |media: &str, body: Vec<u8>| {
        let asked = client.post(running.url("http", "/v1/echo")).bearer_auth(&key);
        asked.header("content-type", media).body(body)
    };
    let document = get("/openapi.json");
    assert_eq!(document.headers()["cache-control"], "no-store");
    assert_eq!(document.text().unwrap(), router::OPENAPI);
    assert_eq!(code(get("/nothing")), (404, "not_found".into()));
    assert_eq!(code(get("/v1/echo")), (405, "method_not_allowed".into()));
    let good = post("application/json; charset=UTF-8", vec![b' '; 10]).send().unwrap();
    assert_eq!(good.text().unwrap(), "key:reports 10");
    let largest = post("application/json", vec![b' '; body::BODY_MAX]).send().unwrap();
    assert_eq!(largest.text().unwrap(), format!("key:reports {}", body::BODY_MAX));
    for media in ["text/plain", "application/json; charset=latin1", "application/jsonx", ""] {
        let answer = post(media, vec![b' ']).send().unwrap();
        assert_eq!(code(answer), (415, "content_type".into()), "{media}");
    }
    let zipped = post("application/json", vec![b' ']).header("content-encoding", "gzip");
    assert_eq!(code(zipped.send().unwrap()), (415, "content_encoding".into()));
    let before = running.read.load(Ordering::SeqCst);
    // The length alone: nothing of the body is sent.
    let head = |length: &str| {
        running.raw(
            format!(
                "POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
                Content-Type: application/json\r\n{length}\r\n\r\n"
            )
            .as_bytes(),
        )
    };
    for length in ["Content-Length: 8388609", "Content-Length: 99999999999999"] {
        let answer = head(length);
        assert!(
            answer.starts_with("HTTP/1.1 413") && answer.contains("body_too_large"),
            "{answer}"
        );
    }
    // Without a length it is counted while it comes.
    let reader = std::io::Cursor::new(vec![b' '; body::BODY_MAX + 1]);
    let asked = client.post(running.url("http", "/v1/echo")).bearer_auth(&key);
    let chunked = asked.header("content-type", "application/json");
    let answer = chunked.body(reqwest::blocking::Body::new(reader)).send();
    // The other end may close before the client has written all.
    if let Ok(answer) = answer {
        assert_eq!(code(answer), (413, "body_too_large".into()));
    }
    assert_eq!(running.read.load(Ordering::SeqCst), before);
    // A body that does not come.
    let slow = head("Content-Length: 10");
    assert!(slow.starts_with("HTTP/1.1 408") && slow.contains("body_slow"), "{slow}");
    for smuggled in ["Content-Length: x", "Content-Length: 1\r\nContent-Length: 2"] {
        assert!(head(smuggled).starts_with("HTTP/1.1 400"), "{smuggled}");
    }
    assert_eq!(post("application/json", vec![]).send().unwrap().text().unwrap(), "key:reports 0");
}

#[test]
fn header_floods_are_refused() {
    let (running, _dir) = insecure();
    let key = running.key();
    let with = |lines: &str| {
        running.raw(
            format!("GET /openapi.json HTTP/1.1\r\nHost: x\r\nConnection: close\r\nAuthorization: Bearer {key}\r\n{lines}\r\n")
                .as_bytes(),
        )
    };
    assert!(with(&format!("X: {}\r\n", "a".repeat(15 << 10))).starts_with("HTTP/1.1 200"));
    let long = with(&format!("X: {}\r\n", "a".repeat(17 << 10)));
    assert!(long.starts_with("HTTP/1.1 431") && long.contains("headers_too_large"), "{long}");
    assert!(with(&"X: a\r\n".repeat(200)).starts_with("HTTP/1.1 431"));
    let endless = with(&format!("X: {}\r\n", "a".repeat(1 << 20)));
    assert!(endless.is_empty() || endless.starts_with("HTTP/1.1 431"), "{endless}");
}

/// Who sends a byte now and then loses the connection; others are answered meanwhile.
#[test]
fn slow_clients_hold_nobody_up() {
    let (running, _dir) = insecure();
    let key = running.key();
    let address = running.service.address();
    let (send, closed) = mpsc::channel();
    for _ in 0..100 {
        let send = send.clone();
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            for byte in b"GET /openapi.json HTTP/1.1\r\nHost: x\r\nX: "
                .iter()
                .chain(std::iter::repeat(&b'a'))
            {
                let is_closed = stream.write_all(&[*byte]).is_err()
                    || matches!(stream.read(&mut [0; 64]), Ok(0));
                if is_closed {
                    break;
                }
            }
            send.send(()).unwrap();
        });
    }
    let client = Client::new();
    let asked = client.get(running.url("http", "/openapi.json")).bearer_auth(&key);
    assert_eq!(asked.send().unwrap().status(), StatusCode::OK);
    for _ in 0..100 {
        closed.recv_timeout(Duration::from_secs(60)).expect("a slow client is still connected");
    }
}

#[test]
fn whoever_guesses_is_told_to_come_again_later() {
    let (running, _dir) = insecure();
    let client = Client::new();
    let mut refused = 0;
    let answer = loop {
        let asked = client.get(running.url("http", "/openapi.json")).bearer_auth("vsk_guess");
        let answer = asked.send().unwrap();
        if answer.status() != StatusCode::UNAUTHORIZED {
            break answer;
        }
        refused += 1;
        assert!(refused < 100);
    };
    assert_eq!(refused, 30);
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=60).contains(&wait));
    assert_eq!(code(answer), (429, "too_many_requests".into()));
}

#[test]
fn items_are_limited_by_principal() {
    let dir = tempfile::tempdir().unwrap();
    let route = Route::post(
        "/v1/echo",
        &[Media::Json],
        Arc::new(|principal, request| {
            Box::pin(async move {
                match request.caller.take_items(&principal, 900) {
                    Ok(()) => "ok".into_response(),
                    Err(limit) => limit.into_response(),
                }
            })
        }),
    );
    let running = start("insecure = true\nitems_per_second = 1000", &dir, Some(route));
    let (key, client) = (running.key(), Client::new());
    let asked = || {
        let asked = client.post(running.url("http", "/v1/echo")).bearer_auth(&key);
        asked.header("content-type", "application/json").body("{}").send().unwrap()
    };
    let mut answer = asked();
    while answer.status() == StatusCode::OK {
        answer = asked();
    }
    assert_eq!(answer.headers()["retry-after"], "1");
    assert_eq!(code(answer), (429, "too_many_requests".into()));
}

/// Requests and bytes of bodies that are held are bounded, and come back.
#[test]
fn requests_and_bytes_at_once_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let section = "insecure = true\nmax_requests = 2\nmax_request_bytes = \"8MiB\"";
    let running = start(section, &dir, None);
    let (key, client) = (running.key(), Client::new());
    let held = |length| running.held(&key, length);
    let asked = || {
        let asked = client.post(running.url("http", "/v1/echo")).bearer_auth(&key);
        asked.header("content-type", "application/json").body(vec![b' '; 4096]).send().unwrap()
    };
    let large = held(body::BODY_MAX);
    assert_eq!(asked().status(), StatusCode::TOO_MANY_REQUESTS);
    drop(large);
    until("the room is back", || asked().status() == StatusCode::OK);
    let both = [held(1), held(1)];
    let document = || client.get(running.url("http", "/openapi.json")).bearer_auth(&key).send();
    assert_eq!(document().unwrap().status(), StatusCode::TOO_MANY_REQUESTS);
    drop(both);
    until("the places are back", || document().unwrap().status() == StatusCode::OK);
}

/// A principal that holds all it may leaves places and bytes to others.
#[test]
fn one_principal_keeps_no_other_out() {
    let dir = tempfile::tempdir().unwrap();
    let section = "insecure = true\nmax_requests = 8\nmax_request_bytes = \"32MiB\"";
    let running = start(section, &dir, None);
    let (greedy, other, client) = (running.key(), running.key_of("other"), Client::new());
    let asked = |key: &str| {
        let asked = client.post(running.url("http", "/v1/echo")).bearer_auth(key);
        let asked = asked.header("content-type", "application/json").body("{}").send();
        asked.unwrap().status()
    };
    for (count, length) in [(6, 1), (3, body::BODY_MAX)] {
        let held: Vec<TcpStream> = (0..count).map(|_| running.held(&greedy, length)).collect();
        assert_eq!(asked(&greedy), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(asked(&other), StatusCode::OK);
        drop(held);
        until("its places are back", || asked(&greedy) == StatusCode::OK);
    }
}

/// A route that says when it is asked, and answers when it is told to.
fn held_route() -> (Route, mpsc::Receiver<()>, Arc<tokio::sync::Notify>) {
    let (entered, inside) = mpsc::channel();
    let release = Arc::new(tokio::sync::Notify::new());
    let held = release.clone();
    let route = Route::post(
        "/v1/echo",
        &[Media::Json],
        Arc::new(move |_, _| {
            let (entered, held) = (entered.clone(), held.clone());
            Box::pin(async move {
                let released = held.notified();
                let mut released = std::pin::pin!(released);
                // It hears of what comes after this.
                released.as_mut().enable();
                let _ = entered.send(());
                released.await;
                "answered".into_response()
            })
        }),
    );
    (route, inside, release)
}

#[test]
fn a_stop_answers_what_was_asked_and_takes_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (route, inside, release) = held_route();
    let running = start("insecure = true", &dir, Some(route));
    let (key, url, address) =
        (running.key(), running.url("http", "/v1/echo"), running.service.address());
    // One that idles must not hold the stop up.
    let _idle = TcpStream::connect(address).unwrap();
    let asked = std::thread::spawn(move || {
        let asked = Client::new().post(url).bearer_auth(key);
        asked.header("content-type", "application/json").body("{}").send().unwrap().text().unwrap()
    });
    inside.recv().unwrap();
    let stop = std::thread::spawn(move || drop(running));
    until("no connection is accepted", || TcpStream::connect(address).is_err());
    release.notify_waiters();
    assert_eq!(asked.join().unwrap(), "answered");
    stop.join().unwrap();
}

/// Certificates of a service in a folder.
struct Tls {
    dir: TempDir,
    servers: Authority,
    clients: Authority,
}

impl Tls {
    fn new() -> Self {
        let tls = Self {
            dir: tempfile::tempdir().unwrap(),
            servers: Authority::new(),
            clients: Authority::new(),
        };
        tls.put_server(&tls.servers.server());
        fs::write(tls.dir.path().join("clients.pem"), tls.clients.pem()).unwrap();
        tls.revoke(&[]);
        tls
    }

    fn put_server(&self, leaf: &Leaf) {
        fs::write(self.dir.path().join("server.key"), &leaf.key).unwrap();
        fs::write(self.dir.path().join("server.pem"), &leaf.certificate).unwrap();
    }

    fn revoke(&self, serials: &[u64]) {
        fs::write(self.dir.path().join("revoked.pem"), self.clients.revoked(serials)).unwrap();
    }

    fn start(&self, principals: &str) -> Running {
        let section = format!(
            "principals = {principals}\ncertificate_file = \"server.pem\"\nkey_file = \
            \"server.key\"\nclient_ca_file = \"clients.pem\"\nclient_crl_file = \
            \"revoked.pem\"\nclients = {{ \"spiffe://corp/fraud\" = [\"fraud\"], \"reports.corp\" = \
            [\"analyst\"] }}"
        );
        start(&section, &self.dir, None)
    }
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

#[test]
fn client_certificates_are_principals() {
    let tls = Tls::new();
    let running = tls.start("[\"certificate\", \"key\"]");
    let fraud = tls.clients.leaf(vec![uri("spiffe://corp/fraud")], 7, false);
    let asked = |leaf: Option<&Leaf>| {
        let asked = tls.servers.client(leaf).post(running.url("https", "/v1/echo"));
        asked.header("content-type", "application/json").body("{}")
    };
    let who = |leaf: &Leaf| asked(Some(leaf)).send().unwrap().text().unwrap();
    assert_eq!(who(&fraud), "mtls:spiffe://corp/fraud 2");
    let reports = tls.clients.leaf(vec![dns("Reports.corp")], 8, false);
    assert_eq!(who(&reports), "mtls:reports.corp 2");
    // Verified, but nobody.
    for names in [
        vec![],
        vec![uri("spiffe://corp/other")],
        vec![uri("spiffe://corp/fraud"), dns("reports.corp")],
    ] {
        let leaf = tls.clients.leaf(names, 9, false);
        let answer = asked(Some(&leaf)).send().unwrap();
        assert_eq!(code(answer), (401, "unauthorized".into()));
    }
    // Not verified: the handshake ends.
    let other = Authority::new().leaf(vec![uri("spiffe://corp/fraud")], 7, false);
    let expired = tls.clients.leaf(vec![uri("spiffe://corp/fraud")], 10, true);
    for leaf in [&other, &expired] {
        assert!(asked(Some(leaf)).send().is_err());
    }
    // A certificate and a key at once.
    let both = asked(Some(&fraud)).bearer_auth("vsk_x").send().unwrap();
    assert_eq!(code(both), (401, "unauthorized".into()));
    let none = asked(None).send().unwrap();
    assert_eq!(code(none), (401, "unauthorized".into()));
    let metrics = String::from_utf8(running.metrics.render().unwrap()).unwrap();
    for (cause, count) in [
        ("certificate_name", 2),
        ("certificate_unknown", 1),
        ("certificate_invalid", 2),
        ("several_credentials", 1),
        ("no_credential", 1),
    ] {
        let line = format!("logins_refused_total{{cause=\"{cause}\"}} {count}");
        assert!(metrics.contains(&line), "{line}\n{metrics}");
    }
    // Without TLS nothing is answered.
    assert!(!running.raw(b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n").contains("HTTP/1.1 2"));
}

/// Who connects and says nothing, or nonsense, is gone before long.
#[test]
fn a_handshake_that_does_not_come_ends() {
    let tls = Tls::new();
    let running = tls.start("[\"certificate\", \"key\"]");
    assert_eq!(running.raw(b""), "");
    assert!(!running.raw(&[0xff; 64]).contains("HTTP"));
    let fraud = tls.clients.leaf(vec![uri("spiffe://corp/fraud")], 7, false);
    let asked = tls.servers.client(Some(&fraud)).get(running.url("https", "/openapi.json"));
    assert_eq!(asked.send().unwrap().status(), StatusCode::OK);
}

/// A quarter of eight: a third connection of one address is closed at once.
#[test]
fn one_address_has_some_connections_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let (route, inside, release) = held_route();
    let running = start("insecure = true\nmax_connections = 8", &dir, Some(route));
    let key = running.key();
    // The connection that waited for the key may hold its place a little longer than its client.
    let hold = || loop {
        let mut stream = TcpStream::connect(running.service.address()).unwrap();
        let asked = write!(
            stream,
            "POST /v1/echo HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nContent-Type: \
            application/json\r\nContent-Length: 0\r\n\r\n"
        );
        if asked.is_ok() && inside.recv_timeout(Duration::from_secs(5)).is_ok() {
            return stream;
        }
    };
    let held = [hold(), hold()];
    let asked = || running.raw(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(asked(), "");
    release.notify_waiters();
    drop(held);
    until("there is room again", || asked().starts_with("HTTP/1.1 401"));
}

/// On a connection that was open before, too.
#[test]
fn a_certificate_that_was_revoked_is_refused() {
    let tls = Tls::new();
    let running = tls.start("[\"certificate\", \"key\"]");
    let fraud = tls.clients.leaf(vec![uri("spiffe://corp/fraud")], 7, false);
    let open = tls.servers.client(Some(&fraud));
    let asked = |client: &Client| client.get(running.url("https", "/openapi.json")).send();
    assert_eq!(asked(&open).unwrap().status(), StatusCode::OK);
    tls.revoke(&[7]);
    until("the open connection is refused", || {
        // Not by guessing: that is limited.
        std::thread::park_timeout(Duration::from_millis(500));
        asked(&open).unwrap().status() == StatusCode::UNAUTHORIZED
    });
    assert!(asked(&tls.servers.client(Some(&fraud))).is_err(), "a new one gets no handshake");
    let other = tls.clients.leaf(vec![uri("spiffe://corp/fraud")], 8, false);
    assert_eq!(asked(&tls.servers.client(Some(&other))).unwrap().status(), StatusCode::OK);
    tls.revoke(&[]);
    until("the certificate counts again", || {
        std::thread::park_timeout(Duration::from_millis(500));
        asked(&tls.servers.client(Some(&fraud)))
            .is_ok_and(|answer| answer.status() == StatusCode::OK)
    });
}

/// New certificates come into force without a lost request; bad ones do not.
#[test]
fn certificates_are_read_again_while_requests_come() {
    let tls = Tls::new();
    let running = tls.start("[\"certificate\", \"key\"]");
    let fraud = tls.clients.leaf(vec![uri("spiffe://corp/fraud")], 7, false);
    let url = running.url("https", "/openapi.json");
    let done = AtomicUsize::new(0);
    // With these the next server certificate is trusted, and the first is not.
    let next = Tls::new();
    std::thread::scope(|scope| {
        // Also where this fails: the scope waits for those who ask.
        let _ends = Ends(&done);
        for _ in 0..2 {
            let open = tls.servers.client(Some(&fraud));
            let (done, url) = (&done, &url);
            scope.spawn(move || {
                while done.load(Ordering::SeqCst) == 0 {
                    assert_eq!(open.get(url).send().unwrap().status(), StatusCode::OK);
                    std::thread::park_timeout(Duration::from_millis(5));
                }
            });
        }
        tls.put_server(&next.servers.server());
        let new = Tls { clients: Authority::new(), ..next };
        until("the new certificate is in force", || {
            new.servers.client(Some(&fraud)).get(&url).send().is_ok()
        });
        assert!(tls.servers.client(Some(&fraud)).get(&url).send().is_err(), "the old one is not");
        fs::write(tls.dir.path().join("server.pem"), "none").unwrap();
        until("the fault is told", || {
            running.status.report().details.get("certificates").is_some_and(|shown| {
                shown["refused"]
                    .as_str()
                    .is_some_and(|fault| fault.contains("holds no certificate"))
            })
        });
        assert!(
            new.servers.client(Some(&fraud)).get(&url).send().is_ok(),
            "the last good one stays"
        );
    });
}

/// Ends a loop when it is dropped.
struct Ends<'a>(&'a AtomicUsize);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(1, Ordering::SeqCst);
    }
}

#[test]
fn files_that_are_of_no_use_are_named() {
    let tls = Tls::new();
    let path = |name: &str| tls.dir.path().join(name);
    let open = || {
        let input = Input {
            path: path("veilstream.toml"),
            text: "[serve]\nprincipals = [\"certificate\"]\ncertificate_file = \
                \"server.pem\"\nkey_file = \"server.key\"\nclient_ca_file = \
                \"clients.pem\"\nclient_crl_file = \"revoked.pem\"\nclients = { \"a.corp\" = \
                [\"a\"] }\n"
                .to_owned(),
            ..Input::default()
        };
        let config = Config::parse(&input, &|_| unreachable!()).unwrap();
        TlsFiles::open(config.serve.as_ref().unwrap()).map(drop)
    };
    open().unwrap();
    for (name, what) in [
        ("server.pem", "holds no certificate"),
        ("server.key", "holds no private key"),
        ("clients.pem", "holds no certificate"),
        ("revoked.pem", "holds no revocation list"),
    ] {
        let good = fs::read(path(name)).unwrap();
        fs::write(path(name), "canary-5a1f").unwrap();
        let fault = open().unwrap_err().to_string();
        assert!(fault.contains(name) && fault.contains(what), "{fault}");
        assert!(!fault.contains("canary"), "{fault}");
        fs::remove_file(path(name)).unwrap();
        assert!(open().unwrap_err().to_string().contains("cannot be read"));
        fs::write(path(name), good).unwrap();
    }
    fs::write(path("server.key"), &tls.servers.server().key).unwrap();
    assert!(open().unwrap_err().to_string().contains("does not fit its key"));
}

/// The document is committed; what is answered stands in it, and nothing else.
#[test]
fn the_document_has_the_routes() {
    let document: serde_json::Value = serde_json::from_str(router::OPENAPI).unwrap();
    let mut paths: Vec<&String> = document["paths"].as_object().unwrap().keys().collect();
    paths.sort();
    assert_eq!(
        paths,
        ["/openapi.json", "/v1/explain", "/v1/index", "/v1/reveal", "/v1/seal", "/v1/subject-ref"]
    );
    assert_eq!(document["openapi"], "3.1.0");
}
