//! A connection that sends the same request again and again, and hardly costs anything: the machine
//! is the server's.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

/// A request, ready to be sent.
#[derive(Clone)]
pub(crate) struct Request {
    address: String,
    bytes: Vec<u8>,
}

impl Request {
    /// `POST` of a JSON text, with one more header line.
    pub(crate) fn post(address: &str, path: &str, header: &str, body: &str) -> Self {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n{header}\r\n\
            Content-Length: {}\r\n\r\n",
            body.len()
        );
        Self { address: address.to_owned(), bytes: [head.as_bytes(), body.as_bytes()].concat() }
    }

    pub(crate) fn connect(&self) -> Connection {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, read: Vec::new() }
    }
}

pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    /// Sends the request and reads the answer, whose status must be 200. The body as it came;
    /// chunked bodies with their chunks' sizes.
    pub(crate) fn ask(&mut self, request: &Request) -> &[u8] {
        self.stream.write_all(&request.bytes).unwrap();
        self.read.clear();
        let mut body = None;
        loop {
            let before = self.read.len();
            self.read.resize(before + (64 << 10), 0);
            let count = self.stream.read(&mut self.read[before..]).unwrap();
            self.read.truncate(before + count);
            assert!(count > 0, "{}", String::from_utf8_lossy(&self.read));
            body = body.or_else(|| head(&self.read));
            match body {
                Some((start, Some(length))) if self.read.len() >= start + length => {
                    return &self.read[start..start + length];
                }
                Some((start, None)) if self.read.ends_with(b"\r\n0\r\n\r\n") => {
                    return &self.read[start..];
                }
                _ => {}
            }
        }
    }
}

/// Where the body begins, and its length; `None`: it is chunked.
fn head(read: &[u8]) -> Option<(usize, Option<usize>)> {
    let end = read.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200"), "{}", String::from_utf8_lossy(read));
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    Some((end + 4, length.map(|length| length.trim().parse().unwrap())))
}
