//! A proxy in front of one listener of the broker. Asked to, it holds one EndTxn request, cuts its
//! connection as a failing network does, and delivers the request while the next transaction is
//! running; or it cuts everything until it is told otherwise.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

const PRODUCE: i16 = 0;
const ADD_PARTITIONS_TO_TXN: i16 = 24;
const END_TXN: i16 = 26;

/// Where the held request is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Everything passes.
    Off,
    /// The next EndTxn is held.
    Armed,
    /// Held, until the transaction after it has produced something (`true`: it has begun).
    Held(Vec<u8>, bool),
    /// Delivered; the broker answered with this error code.
    Delivered(i16),
}

/// The clients that are connected; `None`: nobody gets through.
type Clients = Arc<Mutex<Option<Vec<TcpStream>>>>;

/// The running proxy; ends with the process.
pub(crate) struct Proxy {
    port: u16,
    hold: Arc<Mutex<Hold>>,
    clients: Clients,
}

impl Proxy {
    /// Passes connections on to a port of this machine.
    pub(crate) fn start((listener, to): &(TcpListener, u16)) -> Self {
        let (listener, to) = (listener.try_clone().unwrap(), *to);
        let port = listener.local_addr().unwrap().port();
        let hold = Arc::new(Mutex::new(Hold::Off));
        let clients: Clients = Arc::new(Mutex::new(Some(Vec::new())));
        let (shared, connected) = (hold.clone(), clients.clone());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, hold) = (client.unwrap(), shared.clone());
                let Some(connected) = &mut *connected.lock().unwrap() else { continue };
                connected.push(client.try_clone().unwrap());
                std::thread::spawn(move || {
                    if let Ok(broker) = TcpStream::connect(local(to)) {
                        // A connection that ends is no fault of the proxy's.
                        let _ = connection(&client, &broker, &hold);
                    }
                    let _ = client.shutdown(Shutdown::Both);
                });
            }
        });
        Self { port, hold, clients }
    }

    /// Ends every connection, and every new one at once.
    pub(crate) fn cut(&self) {
        for client in self.clients.lock().unwrap().take().into_iter().flatten() {
            let _ = client.shutdown(Shutdown::Both);
        }
    }

    /// Lets clients through again.
    pub(crate) fn restore(&self) {
        *self.clients.lock().unwrap() = Some(Vec::new());
    }

    /// Where clients connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Holds the next EndTxn.
    pub(crate) fn arm(&self) {
        *self.hold.lock().unwrap() = Hold::Armed;
    }

    /// Where the request is.
    pub(crate) fn hold(&self) -> Hold {
        self.hold.lock().unwrap().clone()
    }
}

fn local(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// Both directions of one connection, until either ends.
fn connection(client: &TcpStream, broker: &TcpStream, hold: &Arc<Mutex<Hold>>) -> io::Result<()> {
    client.set_nodelay(true)?;
    broker.set_nodelay(true)?;
    let asked: Mutex<HashMap<i32, i16>> = Mutex::default();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = requests(client, broker, hold, &asked);
            let _ = (broker.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
        });
        let result = answers(client, broker, hold, &asked);
        let _ = (broker.shutdown(Shutdown::Both), client.shutdown(Shutdown::Both));
        result
    })
}

fn requests(
    mut client: &TcpStream,
    mut broker: &TcpStream,
    hold: &Mutex<Hold>,
    asked: &Mutex<HashMap<i32, i16>>,
) -> io::Result<()> {
    loop {
        let frame = read(&mut client)?;
        let api = i16::from_be_bytes([frame[0], frame[1]]);
        {
            let mut hold = hold.lock().unwrap();
            match (&mut *hold, api) {
                (Hold::Armed, END_TXN) => {
                    *hold = Hold::Held(frame, false);
                    return Ok(());
                }
                (Hold::Held(_, next), ADD_PARTITIONS_TO_TXN) => *next = true,
                _ => {}
            }
        }
        asked.lock().unwrap().insert(correlation(&frame[4..]), api);
        write(&mut broker, &frame)?;
    }
}

fn answers(
    mut client: &TcpStream,
    mut broker: &TcpStream,
    hold: &Mutex<Hold>,
    asked: &Mutex<HashMap<i32, i16>>,
) -> io::Result<()> {
    loop {
        let frame = read(&mut broker)?;
        let api = asked.lock().unwrap().remove(&correlation(&frame));
        if api == Some(PRODUCE) {
            let mut hold = hold.lock().unwrap();
            if let Hold::Held(held, true) = &*hold {
                *hold = Hold::Delivered(deliver(held, broker.peer_addr()?)?);
            }
        }
        write(&mut client, &frame)?;
    }
}

/// Sends the held request on a connection of its own; returns the broker's error code.
fn deliver(request: &[u8], broker: SocketAddr) -> io::Result<i16> {
    let mut connection = TcpStream::connect(broker)?;
    write(&mut connection, request)?;
    let answer = read(&mut connection)?;
    // Correlation id, throttle time, error code; from version 3 on with the tag byte of flexible
    // headers.
    let at = if i16::from_be_bytes([request[2], request[3]]) >= 3 { 9 } else { 8 };
    Ok(i16::from_be_bytes([answer[at], answer[at + 1]]))
}

fn correlation(bytes: &[u8]) -> i32 {
    i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn read(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let mut frame = vec![0; usize::try_from(i32::from_be_bytes(length)).map_err(io::Error::other)?];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

fn write(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = i32::try_from(frame.len()).map_err(io::Error::other)?;
    to.write_all(&[&length.to_be_bytes()[..], frame].concat())
}
