//! One chain: the lines that a process writes into a file, each tied to the one before it and
//! authenticated under a key that is gone once the line is there.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use veilstream_engine::kdf;
use veilstream_keys::erasure::write_hex;
use zeroize::Zeroizing;

use super::checkpoint::{Covered, Signer};
use super::hex::Hex;
use super::line::{Draft, Entry, Event, Line, Predecessor, without_mac};
use super::merkle::{self, Node};

/// k_n. Wiped when the next one takes its place.
#[cfg_attr(test, derive(Clone))]
pub(super) struct LineKey(Zeroizing<[u8; 32]>);

impl LineKey {
    pub(super) fn new(k1: Zeroizing<[u8; 32]>) -> Self {
        Self(k1)
    }

    /// k_(n+1) = expand(k_n, "vs1/audit/next", 32)
    pub(super) fn advance(&mut self) {
        let mut next = Zeroizing::new([0; 32]);
        kdf::expand(&self.0, &[b"vs1/audit/next"], &mut *next);
        self.0 = next;
    }

    /// Whether a line's MAC is its own.
    pub(super) fn holds(&self, unsigned: [&[u8]; 2], mac: &Hex<32>) -> bool {
        self.keyed(unsigned).is_some_and(|keyed| keyed.verify_slice(&mac.0).is_ok())
    }

    /// `mac` = HMAC-SHA-256(k_seq, the canonical line without `mac`)
    fn mac(&self, unsigned: [&[u8]; 2]) -> Option<Hex<32>> {
        Some(Hex(self.keyed(unsigned)?.finalize().into_bytes().into()))
    }

    fn keyed(&self, unsigned: [&[u8]; 2]) -> Option<Hmac<Sha256>> {
        // A key of any length will do: never `None`.
        let mut keyed = Hmac::<Sha256>::new_from_slice(&*self.0).ok()?;
        unsigned.into_iter().for_each(|part| keyed.update(part));
        Some(keyed)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> [u8; 32] {
        *self.0
    }
}

/// What a chain begins with.
pub(super) struct Beginning {
    /// 16 random bytes.
    pub(super) id: [u8; 16],
    /// 32 random bytes.
    pub(super) k1: Zeroizing<[u8; 32]>,
    /// `k1` for the verifier.
    pub(super) sealed: String,
    /// The chain before.
    pub(super) predecessor: Option<Predecessor>,
}

/// A chain behind its last line.
pub(super) struct Chain {
    id: [u8; 16],
    seq: u64,
    prev: [u8; 32],
    /// Of the next line.
    key: LineKey,
    signer: Signer,
    /// The first line that the next checkpoint covers.
    from: u64,
    /// Leaf hashes from there on.
    leaves: Vec<Node>,
}

impl Chain {
    /// A new chain and its first line.
    pub(super) fn begin(
        beginning: Beginning,
        entry: Entry,
        time: &str,
        signer: Signer,
    ) -> (Self, Vec<u8>) {
        let Beginning { id, k1, sealed, predecessor } = beginning;
        let mut chain = Self {
            id,
            seq: 0,
            prev: [0; 32],
            key: LineKey::new(k1),
            signer,
            from: 1,
            leaves: Vec::new(),
        };
        let mut line = Line::new(id, 1, time, chain.prev, entry);
        (line.k1, line.predecessor) = (Some(sealed), predecessor);
        let mut bytes = Vec::new();
        let places = line.write_to(&mut bytes);
        chain.finish(&mut bytes, places.mac);
        (chain, bytes)
    }

    pub(super) fn id(&self) -> [u8; 16] {
        self.id
    }

    /// The number of its last line.
    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Lines that no checkpoint covers yet.
    pub(super) fn uncovered(&self) -> usize {
        self.leaves.len()
    }

    /// What a successor says of the chain as it is now.
    pub(super) fn as_predecessor(&self) -> Predecessor {
        Predecessor { chain: Hex(self.id), seq: self.seq, sha256: Hex(self.prev), torn: false }
    }

    /// Appends the next line, without its line feed.
    pub(super) fn line(&mut self, draft: Draft<'_>, time: &str, out: &mut Vec<u8>) {
        let from = out.len();
        let places = draft.write(self.seq + 1, time, out);
        let bytes = &mut out[from..];
        write_hex(&self.id, &mut bytes[places.chain..][..32]);
        write_hex(&self.prev, &mut bytes[places.prev..][..64]);
        self.finish(bytes, places.mac);
    }

    /// Appends a checkpoint line over what no checkpoint covers yet.
    pub(super) fn checkpoint(&mut self, time: &str, out: &mut Vec<u8>) {
        let covered = Covered {
            chain: self.id,
            from: self.from,
            to: self.seq,
            sha256: self.prev,
            root: merkle::root(&self.leaves),
        };
        let (signer, signature) = self.signer.sign(&covered);
        let entry = Entry::new(Event::Checkpoint);
        let mut line = Line::new(self.id, self.seq + 1, time, self.prev, entry);
        (line.from, line.root) = (Some(covered.from), Some(Hex(covered.root)));
        (line.signer, line.signature) = (Some(signer), Some(signature));
        self.leaves.clear();
        self.from = line.seq;
        let from = out.len();
        let places = line.write_to(out);
        self.finish(&mut out[from..], places.mac);
    }

    /// Gives the next line its MAC, takes it in and forgets its key.
    fn finish(&mut self, line: &mut [u8], mac_place: usize) {
        if let Some(mac) = self.key.mac(without_mac(line, mac_place)) {
            write_hex(&mac.0, &mut line[mac_place..][..64]);
        }
        self.key.advance();
        (self.seq, self.prev) = (self.seq + 1, Line::hash(line));
        self.leaves.push(merkle::leaf(line));
    }

    #[cfg(test)]
    pub(super) fn entry(&mut self, entry: Entry, time: &str, out: &mut Vec<u8>) {
        let drafts: super::line::Drafts = [entry].into_iter().collect();
        drafts.iter().for_each(|draft| self.line(draft, time, out));
    }

    #[cfg(test)]
    pub(super) fn key(&self) -> [u8; 32] {
        self.key.bytes()
    }
}
