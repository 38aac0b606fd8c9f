//! The embedded broker: krafka's, behind a small translator for the two requests that librdkafka
//! speaks in older versions than it.
//!
//! librdkafka sends EndTxn v1 and TxnOffsetCommit v3. The broker answers EndTxn from v3 on and
//! TxnOffsetCommit from v5 on; their bodies differ by the compact encoding of one string, and not
//! at all.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use krafka::testing::{ApiKey, FakeBroker};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

const TXN_OFFSET_COMMIT: i16 = 28;
const END_TXN: i16 = 26;
/// A longer frame is no request of a demo.
const MAX_FRAME: usize = 64 << 20;

/// A broker of this process.
pub(super) struct Broker {
    /// Its topics and records.
    pub(super) inner: FakeBroker,
    /// `host:port` for clients.
    pub(super) address: String,
    _runtime: Runtime,
}

impl Broker {
    /// Starts it on free ports of the loopback interface.
    pub(super) fn start() -> anyhow::Result<Self> {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let inner = runtime.block_on(FakeBroker::start())?;
        let broker: SocketAddr = inner.bootstrap_servers().parse()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let address = listener.local_addr()?;
        inner.with_state(|state| {
            for node in &mut state.brokers {
                "127.0.0.1".clone_into(&mut node.host);
                node.port = i32::from(address.port());
            }
        });
        inner.set_api_versions(ApiKey::EndTxn, 0, 1);
        inner.set_api_versions(ApiKey::TxnOffsetCommit, 0, 3);
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(translate(client, broker));
            }
        });
        Ok(Self { inner, address: address.to_string(), _runtime: runtime })
    }
}

/// Serves one connection until either side closes it.
async fn translate(client: TcpStream, broker: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(broker).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // Answers name only the correlation id.
    let asked: Arc<Mutex<HashMap<i32, i16>>> = Arc::default();
    let answers = asked.clone();
    let requests = async move {
        loop {
            let mut frame = read_frame(&mut from_client).await?;
            let Some((api, id)) = raise(&mut frame) else {
                return Err(io::ErrorKind::InvalidData.into());
            };
            asked.lock().unwrap_or_else(PoisonError::into_inner).insert(id, api);
            write_frame(&mut to_server, &frame).await?;
        }
    };
    let responses = async move {
        loop {
            let mut frame = read_frame(&mut from_server).await?;
            let api = i32_at(&frame, 0)
                .and_then(|id| answers.lock().unwrap_or_else(PoisonError::into_inner).remove(&id));
            if api == Some(END_TXN) && frame.len() >= 11 {
                // Without the tagged fields of the header (byte 4) and the body (the end).
                frame.remove(4);
                frame.truncate(10);
            }
            write_frame(&mut to_client, &frame).await?;
        }
    };
    tokio::select! { end = requests => end, end = responses => end }
}

/// Rewrites a request to the version the broker has. Its API key and correlation id; `None` when it
/// is too short.
fn raise(frame: &mut Vec<u8>) -> Option<(i16, i32)> {
    let (api, version, id) = (i16_at(frame, 0)?, i16_at(frame, 2)?, i32_at(frame, 4)?);
    if api == TXN_OFFSET_COMMIT {
        frame[2..4].copy_from_slice(&5_i16.to_be_bytes());
    } else if api == END_TXN && version <= 2 {
        let client_id = usize::try_from(i16_at(frame, 8)?.max(0)).ok()?;
        let body = 10 + client_id;
        let name = usize::try_from(i16_at(frame, body)?).ok()?;
        let mut raised = frame.get(..body)?.to_vec();
        raised[2..4].copy_from_slice(&3_i16.to_be_bytes());
        // No tagged fields in the header; the compact string's length; the rest; no tagged fields
        // in the body.
        raised.push(0);
        varint(name + 1, &mut raised);
        raised.extend_from_slice(frame.get(body + 2..)?);
        raised.push(0);
        *frame = raised;
    }
    Some((api, id))
}

fn varint(mut n: usize, into: &mut Vec<u8>) {
    while n >= 0x80 {
        into.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    into.push(n as u8);
}

async fn read_frame(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let length = usize::try_from(from.read_i32().await?)
        .ok()
        .filter(|n| *n <= MAX_FRAME)
        .ok_or(io::ErrorKind::InvalidData)?;
    let mut frame = vec![0; length];
    from.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn write_frame(to: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> io::Result<()> {
    let length = i32::try_from(frame.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(frame);
    to.write_all(&bytes).await
}

fn i16_at(bytes: &[u8], at: usize) -> Option<i16> {
    Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_end_of_a_transaction_becomes_a_flexible_one() {
        let mut frame = vec![
            0, 26, 0, 1, 0, 0, 0, 7, 0, 1, b'c', 0, 2, b't', b'x', 0, 0, 0, 0, 0, 0, 0, 9, 0, 3, 1,
        ];
        assert_eq!(raise(&mut frame), Some((END_TXN, 7)));
        assert_eq!(
            frame,
            [
                0, 26, 0, 3, 0, 0, 0, 7, 0, 1, b'c', 0, 3, b't', b'x', 0, 0, 0, 0, 0, 0, 0, 9, 0,
                3, 1, 0
            ]
        );
        assert_eq!(raise(&mut vec![0, 26, 0]), None);
        assert_eq!(raise(&mut vec![0, 26, 0, 1, 0, 0, 0, 7, 0, 9]), None);
    }

    #[test]
    fn lengths_are_varints() {
        let mut bytes = Vec::new();
        varint(300, &mut bytes);
        assert_eq!(bytes, [0xac, 0x02]);
    }
}
