//! The audit log (docs/formats.md, "Audit log"): who read what, in lines that nobody can change
//! unseen.
//!
//! ```text
//!  Entry ──► AuditLog ──► one writer thread ──► chain: seq, prev, mac, key ratchet
//!  (threads)  queue          one fsync a batch      │ checkpoint: Merkle root, signature
//!                                                   ▼
//!                                            locked file, then Durable{chain, seq}
//! ```
//!
//! # Map
//!
//! | module | has |
//! |---|---|
//! | `line`, `hex` | [`Entry`] and [`Line`]: members, canonical form, lines before their place is known |
//! | `disclosure` | [`Disclosure`]: what one request opened, as entries by data subject |
//! | `chain` | the next line of a chain; the ratchet of its key |
//! | `recipient` | the verifier's key pair, to which a chain's first key is sealed |
//! | `checkpoint`, `merkle` | signed roots (RFC 6962), inclusion paths |
//! | `file` | which file a process writes, its lock, its end, the files of a log |
//! | `parts` | the lines of a log's files, read again |
//! | `side_file` | references of bulk reads |
//! | `writer` | [`AuditLog`], the handle, and the threads behind it |
//! | `sink` | [`Sink`], what a second place of the lines does |
//! | [`follow`] | lines as they come |
//! | [`verify`] | is the log whole? |
//! | [`prove`], [`report`], [`prune`] | one line proved, lines for people, old lines removed |
//!
//! # Writing
//!
//! [`AuditLog::open`] starts the writer. The handle is cheap to clone and may be used from any
//! blocking thread. [`AuditLog::append`] returns when the lines are durable, or fails within the
//! deadline of [`Settings`]. It never hangs, and what it refused must not be disclosed:
//!
//! ```no_run
//! # use veilstream_reading::audit::{AuditError, AuditLog, Disclosure, Entry, Event};
//! # fn answer(log: &AuditLog, entries: Vec<Entry>, plaintext: &[u8]) -> Result<(), AuditError> {
//! let durable = log.append(entries)?; // an error is 503 `audit_unavailable`
//! // Only now may plaintext leave. `durable.chain` and `durable.seq` name the first line.
//! # Ok(())
//! # }
//! ```
//!
//! A task calls [`AuditLog::submit`] and awaits what it returns.
//!
//! Second places ([`Sink`]: a topic, a table) are copied to from the file, each by a thread of its
//! own. A required one is waited for; one that is not leaves a line `gap` where it missed some.

mod chain;
mod checkpoint;
mod disclosure;
mod error;
mod file;
pub mod follow;
mod hex;
mod line;
mod merkle;
mod parts;
pub mod prove;
pub mod prune;
mod recipient;
pub mod report;
mod side_file;
mod sink;
pub mod verify;
mod writer;

pub use checkpoint::{CheckpointKey, Signer};
pub use disclosure::Disclosure;
pub use error::AuditError;
pub use hex::{Hex, HexError};
pub use line::{
    Entry, Event, LedgerHead, Line, LineFault, MAX_REASON, Predecessor, SubjectPart, cut_reason,
};
pub use parts::LogParts;
pub use recipient::{KeyTextError, Recipient, VerifierKey};
pub use sink::{CopiedLine, Sink, SinkError, SinkObserver, SinkSettings};
pub use writer::{AuditLog, Clock, Durable, LedgerSource, Pending, Settings};
