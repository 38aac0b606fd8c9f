//! Is the log whole? With the verifier's private key every line is checked; with the public key of
//! checkpoints alone, everything up to the last checkpoint that a second place holds.
//!
//! What no key shows: anyone who holds a chain's live key and the signing key can write another
//! history from here on. Only copies in a second place refuse it.

mod chain;
mod log;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

pub use log::verify;

use super::checkpoint::CheckpointKey;
use super::hex::Hex;
use super::line::{Line, LineFault};
use super::recipient::VerifierKey;

/// What a log is verified with.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The public key of checkpoints.
    pub checkpoint: CheckpointKey,
    /// The verifier's private keys: the current one and those of before. Empty: the public key
    /// alone.
    pub verifier: Vec<VerifierKey>,
}

/// What is wrong with a line, in the order in which it is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// It is no line in canonical form.
    #[error("is no audit line in canonical form")]
    Form,
    /// It is of another chain, or its chain is here twice.
    #[error("is of another chain, or its chain is here twice")]
    Chain,
    /// Its number is not the next one.
    #[error("has another number (seq) than its place")]
    Seq,
    /// It does not name the line before it.
    #[error("does not follow the line before it (prev)")]
    Prev,
    /// None of the private keys opens the chain's first key.
    #[error("begins a chain whose key (k1) none of the given private keys opens")]
    Recipient,
    /// Its MAC does not hold.
    #[error("was not written by this chain's writer (mac)")]
    Mac,
    /// It follows a chain that is not here, or not as it says.
    #[error("names a chain before it that is not here, or ends otherwise (predecessor)")]
    Predecessor,
    /// The erasure ledger goes back, or is another one.
    #[error("names an erasure ledger that goes back, or another line of the same number (ledger)")]
    Ledger,
    /// The checkpoint begins elsewhere.
    #[error("is a checkpoint that does not begin where the last one ended (from)")]
    From,
    /// The checkpoint is of other lines.
    #[error("is a checkpoint of other lines (root)")]
    Root,
    /// The checkpoint names another key.
    #[error("is a checkpoint of another signing key (signer)")]
    Signer,
    /// The checkpoint's signature does not hold.
    #[error("is a checkpoint with a wrong signature (signature)")]
    Signature,
    /// The second place has another line of this number.
    #[error("is another line than the second place has (copy)")]
    Copy,
    /// Its side file is missing or was changed.
    #[error("names a side file that is missing or was changed (subjects_sha256)")]
    SideFile,
    /// It is not there.
    #[error("is missing")]
    Missing,
}

impl Wrong {
    /// The word for machines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Chain => "chain",
            Self::Seq => "seq",
            Self::Prev => "prev",
            Self::Recipient => "recipient",
            Self::Mac => "mac",
            Self::Predecessor => "predecessor",
            Self::Ledger => "ledger",
            Self::From => "from",
            Self::Root => "root",
            Self::Signer => "signer",
            Self::Signature => "signature",
            Self::Copy => "copy",
            Self::SideFile => "side_file",
            Self::Missing => "missing",
        }
    }
}

/// The first line of a file, or of a chain that should be there, that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The file; `None`: the line is named by its chain, as no file has it or what is wrong is
    /// elsewhere.
    pub file: Option<PathBuf>,
    /// Its place in the file, from 1; in the chain where there is no file.
    pub line: u64,
    /// The chain that was expected there.
    pub chain: Option<Hex<16>>,
    /// What is wrong.
    pub why: Wrong,
}

/// A chain that was found, up to the first fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Which.
    pub chain: Hex<16>,
    /// The file it is in.
    pub file: PathBuf,
    /// The number of its last line.
    pub lines: u64,
    /// Up to this line everything is proved; 0: nothing.
    pub known_to: u64,
    /// Lines from 2 up to before this one were pruned.
    pub pruned_to: Option<u64>,
    /// Time of its first and last line.
    pub times: (String, String),
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The chains, in the order in which they follow each other.
    pub chains: Vec<ChainReport>,
    /// The faults; none: the log is whole.
    pub faults: Vec<Fault>,
}

/// Lines that a second place holds, as they are.
#[derive(Debug, Clone, Default)]
pub struct Copies(HashMap<Hex<16>, BTreeMap<u64, CopyHash>>);

/// SHA-256 of a copied line; `None`: the place holds two lines of one number, so somebody wrote it
/// who is not the log's writer, and it is nobody's copy.
type CopyHash = Option<[u8; 32]>;

impl Copies {
    /// Takes a copied line. The same line may come several times.
    ///
    /// # Errors
    /// It is no line.
    pub fn add(&mut self, bytes: &[u8]) -> Result<(), LineFault> {
        let line = Line::read(bytes)?;
        let hash = Line::hash(bytes);
        let copy = self.0.entry(line.chain).or_default().entry(line.seq).or_insert(Some(hash));
        // A later one must not take the place of the first.
        if *copy != Some(hash) {
            *copy = None;
        }
        Ok(())
    }

    fn of(&self, chain: Hex<16>) -> Option<&BTreeMap<u64, CopyHash>> {
        self.0.get(&chain)
    }
}
