//! The least that five tokens and two indexes cost: values are found by the first `"name":` in the
//! bytes, the rest is copied. No JSON is read, no schema compiled, nothing checked; wrong for any
//! event but the bench's. What an encrypting pipeline needs beyond this is its own work.

use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use memchr::memmem::Finder;
use sha2::Sha256;
use veilstream_engine::seal::NoncePool;
use veilstream_keys::OsEntropy;

use crate::workload::{INDEXED, SEALED};

/// In the order of the event; the sidecar's lengths, so that all write as many bytes.
const NAMES: [&str; SEALED] = ["\"name\":", "\"email\":", "\"phone\":", "\"ssn\":", "\"street\":"];
const INDEXES: [Option<&str>; SEALED] = [None, Some("email_bidx"), Some("phone_bidx"), None, None];
const HEADER: [u8; 24] = [1; 24];
const AAD: &[u8] = b"vs1/aad....012345678901234567890123....default....";

pub(crate) struct Sealing {
    names: [Finder<'static>; SEALED],
    ciphers: Vec<Aes256Gcm>,
    mac: Hmac<Sha256>,
    nonces: NoncePool,
    raw: Vec<u8>,
    out: Vec<u8>,
}

impl Sealing {
    pub(crate) fn new() -> anyhow::Result<Self> {
        const { assert!(INDEXED == 2) };
        let mut ciphers = Vec::new();
        let mut key = [0; 32];
        for _ in NAMES {
            getrandom::fill(&mut key)?;
            ciphers.push(Aes256Gcm::new(&key.into()));
        }
        getrandom::fill(&mut key)?;
        let nonces = NoncePool::new(Box::new(OsEntropy));
        Ok(Self {
            names: NAMES.map(Finder::new),
            ciphers,
            mac: Hmac::new_from_slice(&key)?,
            nonces,
            raw: Vec::new(),
            out: Vec::new(),
        })
    }

    /// The protected event.
    pub(crate) fn protect(&mut self, event: &[u8]) -> anyhow::Result<&[u8]> {
        self.out.clear();
        let mut at = 0;
        for (field, index) in INDEXES.into_iter().enumerate() {
            let name = &self.names[field];
            let start =
                at + name.find(&event[at..]).context("a member is missing")? + name.needle().len();
            let end = start
                + 2
                + memchr::memchr(b'"', &event[start + 1..]).context("a string has no end")?;
            self.out.extend_from_slice(&event[at..start]);
            self.seal(field, &event[start..end])?;
            if let Some(name) = index {
                let mut mac = self.mac.clone();
                mac.update(&event[start + 1..end - 1]);
                self.out.extend_from_slice(b",\"");
                self.out.extend_from_slice(name.as_bytes());
                self.out.extend_from_slice(b"\":\"1~");
                append_base64(&mac.finalize().into_bytes()[..16], &mut self.out)?;
                self.out.push(b'"');
            }
            at = end;
        }
        self.out.extend_from_slice(&event[at..]);
        Ok(&self.out)
    }

    fn seal(&mut self, field: usize, value: &[u8]) -> anyhow::Result<()> {
        self.raw.clear();
        self.raw.extend_from_slice(&HEADER);
        self.nonces.short(&mut self.raw)?;
        let front = self.raw.len();
        self.raw.push(b'J');
        self.raw.extend_from_slice(value);
        self.raw.push(0x80);
        let framed = self.raw.len() - front;
        self.raw.resize(front + framed.next_multiple_of(16), 0);
        let (prefix, text) = self.raw.split_at_mut(front);
        let nonce = prefix[HEADER.len()..].try_into()?;
        let tag = self.ciphers[field]
            .encrypt_inout_detached(nonce, AAD, text.into())
            .map_err(|e| anyhow::anyhow!("{e}"))?;
        self.raw.extend_from_slice(&tag);
        self.out.extend_from_slice(b"\"vs1.");
        append_base64(&self.raw, &mut self.out)?;
        self.out.push(b'"');
        Ok(())
    }
}

fn append_base64(bytes: &[u8], out: &mut Vec<u8>) -> anyhow::Result<()> {
    let start = out.len();
    out.resize(start + bytes.len().div_ceil(3) * 4, 0);
    let written = URL_SAFE_NO_PAD.encode_slice(bytes, &mut out[start..])?;
    out.truncate(start + written);
    Ok(())
}
