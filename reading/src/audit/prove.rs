//! One line proved to somebody who sees no others: the line, its checkpoint, and the way between
//! them in the Merkle tree.

use serde::{Deserialize, Serialize};

use super::AuditError;
use super::checkpoint::{CheckpointKey, Covered};
use super::hex::Hex;
use super::line::{Event, Line};
use super::merkle::{self, Node};
use super::parts::LogParts;

/// A line and what proves it. The line is whole: names and reasons stand in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The line.
    pub line: String,
    /// The checkpoint line that covers it.
    pub checkpoint: String,
    /// The first line that the checkpoint covers.
    pub from: u64,
    /// The line's place among them, from 0.
    pub index: u64,
    /// How many they are.
    pub size: u64,
    /// Its path (RFC 6962, section 2.1.1).
    pub path: Vec<Hex<32>>,
}

/// Why a line is not proved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProofFault {
    /// Line or checkpoint is no line, or of another chain.
    #[error("line and checkpoint are no lines of one chain")]
    Form,
    /// The checkpoint is of other lines.
    #[error("the checkpoint does not cover this line at this place")]
    Place,
    /// The path leads elsewhere.
    #[error("the line is not in the checkpoint's tree")]
    Root,
    /// The checkpoint was signed with another key.
    #[error("the checkpoint was not signed with this key")]
    Signature,
}

impl Proof {
    /// The proof of a line. `None`: it is not in the log, or no checkpoint covers it yet.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(log: &LogParts, chain: Hex<16>, seq: u64) -> Result<Option<Self>, AuditError> {
        let (mut from, mut found) = (1, None::<Vec<u8>>);
        let (mut leaves, mut proof): (Vec<Node>, Option<Self>) = (Vec::new(), None);
        log.each(|_, bytes, line| {
            if line.chain != chain || proof.is_some() {
                return Ok(());
            }
            if let (Some(covered), Some(found)) = (Covered::of(&line), &found)
                && covered.from == from
            {
                proof = Some(Self::with(found, bytes, seq, &covered, &leaves));
            }
            if line.entry.event == Event::Checkpoint {
                (from, leaves) = (line.seq, Vec::new());
            }
            leaves.push(merkle::leaf(bytes));
            if line.seq == seq {
                found = Some(bytes.to_vec());
            }
            Ok(())
        })?;
        Ok(proof)
    }

    fn with(line: &[u8], checkpoint: &[u8], seq: u64, covered: &Covered, leaves: &[Node]) -> Self {
        let index = seq - covered.from;
        let path = merkle::path(usize::try_from(index).unwrap_or(usize::MAX), leaves);
        Self {
            line: String::from_utf8_lossy(line).into_owned(),
            checkpoint: String::from_utf8_lossy(checkpoint).into_owned(),
            from: covered.from,
            index,
            size: covered.to + 1 - covered.from,
            path: path.into_iter().map(Hex).collect(),
        }
    }

    /// Checks it, and gives out the line that it proves.
    ///
    /// # Errors
    /// [`ProofFault`].
    pub fn check(&self, key: &CheckpointKey) -> Result<Line, ProofFault> {
        let line = Line::read(self.line.as_bytes()).map_err(|_| ProofFault::Form)?;
        let checkpoint = Line::read(self.checkpoint.as_bytes()).map_err(|_| ProofFault::Form)?;
        let covered = Covered::of(&checkpoint).ok_or(ProofFault::Form)?;
        if line.chain != checkpoint.chain {
            return Err(ProofFault::Form);
        }
        let is_placed = covered.from == self.from
            && line.seq.checked_sub(self.from) == Some(self.index)
            && checkpoint.seq.checked_sub(self.from) == Some(self.size);
        if !is_placed {
            return Err(ProofFault::Place);
        }
        let path: Vec<Node> = self.path.iter().map(|node| node.0).collect();
        let leaf = merkle::leaf(self.line.as_bytes());
        if merkle::root_of_path(leaf, self.index, self.size, &path) != Some(covered.root) {
            return Err(ProofFault::Root);
        }
        let is_ours = checkpoint.signer == Some(Hex(key.id()));
        let signature = checkpoint.signature.filter(|_| is_ours).ok_or(ProofFault::Signature)?;
        if key.holds(&covered, &signature) { Ok(line) } else { Err(ProofFault::Signature) }
    }
}
