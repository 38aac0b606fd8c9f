//! A proxy for plain HTTP that lets requests pass, counts them, and does to them what networks and
//! tired servers do.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "every test binary takes what it needs; a test ends where it fails"
)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[derive(Clone)]
pub(crate) enum Mode {
    Pass,
    /// Every connection is closed at once.
    Down,
    /// The answer comes late.
    Slow(Duration),
    /// Status, further header lines, body: in place of the server's answer.
    Answer(u16, &'static str, String),
    /// That, but only to requests whose body holds a text.
    AnswerIf(String, u16, String),
    /// So many times, then requests pass.
    Times(u32, Box<Mode>),
}

pub(crate) struct Proxy {
    pub(crate) address: String,
    mode: Arc<Mutex<Mode>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    /// In front of a `host:port`.
    pub(crate) fn before(server: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let (mode, requests) = (Arc::new(Mutex::new(Mode::Pass)), Arc::new(Mutex::new(Vec::new())));
        let (shared, server) = ((mode.clone(), requests.clone()), server.to_owned());
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server, (mode, requests)) =
                    (client.unwrap(), server.clone(), shared.clone());
                // Clients go away when they like.
                thread::spawn(move || drop(serve(client, &server, &mode, &requests)));
            }
        });
        Self { address, mode, requests }
    }

    pub(crate) fn set(&self, mode: Mode) {
        *self.mode.lock().unwrap() = mode;
    }

    /// Request lines since the last call.
    pub(crate) fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

fn serve(
    mut client: TcpStream,
    server: &str,
    mode: &Mutex<Mode>,
    requests: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let (head, body) = read_request(&mut client)?;
    requests.lock().unwrap().push(head.lines().next().unwrap_or_default().to_owned());
    let mut now = mode.lock().unwrap().clone();
    if let Mode::Times(left, inner) = now {
        let next = if left > 1 { Mode::Times(left - 1, inner.clone()) } else { Mode::Pass };
        *mode.lock().unwrap() = next;
        now = *inner;
    }
    match now {
        Mode::Down => return Ok(()),
        Mode::Slow(delay) => thread::sleep(delay),
        Mode::Answer(status, headers, text) => return answer(&mut client, status, headers, &text),
        Mode::AnswerIf(needle, status, text)
            if String::from_utf8_lossy(&body).contains(&needle) =>
        {
            return answer(&mut client, status, "", &text);
        }
        _ => {}
    }
    let mut upstream = TcpStream::connect(server)?;
    let kept: Vec<&str> = head
        .lines()
        .filter(|line| !line.to_ascii_lowercase().starts_with("connection:") && !line.is_empty())
        .collect();
    upstream.write_all(format!("{}\r\nConnection: close\r\n\r\n", kept.join("\r\n")).as_bytes())?;
    upstream.write_all(&body)?;
    io::copy(&mut upstream, &mut client)?;
    Ok(())
}

fn answer(client: &mut TcpStream, status: u16, headers: &str, body: &str) -> io::Result<()> {
    write!(
        client,
        "HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n{headers}\r\n{body}",
        body.len()
    )
}

fn read_request(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut read = Vec::new();
    let end = loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        let mut some = [0; 4096];
        match client.read(&mut some)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => read.extend_from_slice(&some[..n]),
        }
    };
    let mut body = read.split_off(end);
    let head = String::from_utf8_lossy(&read).into_owned();
    let length = head
        .lines()
        .find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
        })
        .unwrap_or(0);
    let already = body.len();
    body.resize(length, 0);
    client.read_exact(&mut body[already.min(length)..])?;
    Ok((head, body))
}
