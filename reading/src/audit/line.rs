//! A line of the audit log: its members and its canonical form (RFC 8785).

mod canonical;
mod draft;

pub(super) use canonical::Places;
pub(super) use draft::{Draft, Drafts};

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};
use veilstream_engine::key::SubjectRef;
use veilstream_keys::erasure::Position;
use veilstream_keys::time;

use super::hex::Hex;

/// Characters that a reason has at most.
pub const MAX_REASON: usize = 200;
/// The form of the lines that this program writes.
const FORM: u8 = 1;
/// Stands in a line until its MAC is known.
const NO_MAC: Hex<32> = Hex([0; 32]);

/// What a line tells of.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "their names are the format's words")]
pub enum Event {
    Reveal,
    Search,
    Seal,
    Explain,
    Update,
    Delete,
    Rotate,
    Shred,
    Keys,
    Policy,
    Schema,
    LoginRefused,
    RequestRefused,
    AuditRead,
    Start,
    Stop,
    Gap,
    Clock,
    Honey,
    Checkpoint,
    Credentials,
    Migrate,
    Prune,
}

impl Event {
    /// The word in lines.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reveal => "reveal",
            Self::Search => "search",
            Self::Seal => "seal",
            Self::Explain => "explain",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Rotate => "rotate",
            Self::Shred => "shred",
            Self::Keys => "keys",
            Self::Policy => "policy",
            Self::Schema => "schema",
            Self::LoginRefused => "login_refused",
            Self::RequestRefused => "request_refused",
            Self::AuditRead => "audit_read",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Gap => "gap",
            Self::Clock => "clock",
            Self::Honey => "honey",
            Self::Checkpoint => "checkpoint",
            Self::Credentials => "credentials",
            Self::Migrate => "migrate",
            Self::Prune => "prune",
        }
    }
}

/// The head of an erasure ledger, as the writer knew it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerHead {
    /// Its last line.
    pub seq: u64,
    /// SHA-256 of that line.
    pub sha256: Hex<32>,
    /// The key store whose ledger it is.
    pub store: Hex<16>,
}

impl LedgerHead {
    /// Whether it is a later line of the same ledger, or another line of the same number: then
    /// `other` went back.
    #[must_use]
    pub fn is_ahead_of(&self, other: &Self) -> bool {
        self.store == other.store
            && (self.seq > other.seq || (self.seq == other.seq && self.sha256 != other.sha256))
    }
}

impl From<Position> for LedgerHead {
    fn from(head: Position) -> Self {
        Self { seq: head.seq, sha256: Hex(head.sha256), store: Hex(head.store) }
    }
}

/// The chain that a chain follows.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Predecessor {
    /// Which.
    pub chain: Hex<16>,
    /// Its last whole line.
    pub seq: u64,
    /// SHA-256 of that line.
    pub sha256: Hex<32>,
    /// Half a line follows it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub torn: bool,
}

/// What a caller writes into a line. It has names, references and words of the configuration; never
/// a value that was protected.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Entry {
    /// What happened.
    pub event: Event,
    /// Who did it: a principal's id, or user@host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actor: Option<String>,
    /// For whom, as the caller claims.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<String>,
    /// How the actor was authenticated: `mtls`, `jwt`, `api_key`, `os`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<String>,
    /// The visible id of the credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Whose data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Hex<16>>,
    /// The schema's name; `dead_letter` for dead letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// What became of each field.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fields: BTreeMap<String, String>,
    /// What for, one of the configured purposes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<String>,
    /// Why; at most [`MAX_REASON`] characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<String>,
    /// The request, as its caller names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// The query within a request, or a task of a larger job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_id: Option<String>,
    /// How often the request was made, from 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// Records, tokens or values that the line stands for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub items: Option<u64>,
    /// Data subjects in the side file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects: Option<u64>,
    /// SHA-256 of the side file, which is its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subjects_sha256: Option<Hex<32>>,
    /// Keys that were used or changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kids: Vec<Hex<16>>,
    /// Hash of the policy set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Hex<32>>,
    /// Ids of the policies that decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// `ok`, `denied`, `failed`, `budget`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// The erasure ledger's head.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerHead>,
    /// Data subjects of a bulk read; never in the line. [`super::AuditLog::append`] writes them to
    /// a side file and sets `subjects` and `subjects_sha256`.
    #[serde(skip)]
    pub bulk: Vec<SubjectRef>,
    /// Lines of a request that differ in these only: it becomes one for each of them, in their
    /// order; never in a line. Empty: it becomes one line.
    #[serde(skip)]
    pub each: Vec<SubjectPart>,
}

/// What a line of one data subject has for itself; the rest is its request's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectPart {
    /// Whose data; `None`: nobody's.
    pub subject: Option<Hex<16>>,
    /// As [`Entry::fields`].
    pub fields: BTreeMap<String, String>,
    /// As [`Entry::items`].
    pub items: u64,
    /// As [`Entry::kids`].
    pub kids: Vec<Hex<16>>,
    /// As [`Entry::outcome`].
    pub outcome: &'static str,
}

impl Entry {
    /// An entry of an event, with nothing else in it.
    #[must_use]
    pub fn new(event: Event) -> Self {
        Self {
            event,
            actor: None,
            on_behalf_of: None,
            auth: None,
            credential: None,
            subject: None,
            schema: None,
            fields: BTreeMap::new(),
            purpose: None,
            reason: None,
            ip: None,
            request_id: None,
            query_id: None,
            attempt: None,
            items: None,
            subjects: None,
            subjects_sha256: None,
            kids: Vec::new(),
            policy: None,
            policies: Vec::new(),
            outcome: None,
            ledger: None,
            bulk: Vec::new(),
            each: Vec::new(),
        }
    }

    /// How many lines it becomes.
    #[must_use]
    pub fn lines(&self) -> usize {
        self.each.len().max(1)
    }

    /// Without what each [`SubjectPart`] has for itself.
    fn without_parts(self) -> Self {
        Self {
            subject: None,
            fields: BTreeMap::new(),
            items: None,
            kids: Vec::new(),
            outcome: None,
            ..self
        }
    }

    /// What forbids it in a line.
    ///
    /// # Errors
    /// [`LineFault`].
    pub fn check(&self) -> Result<(), LineFault> {
        let is_long = |reason: &String| reason.chars().count() > MAX_REASON;
        if self.reason.as_ref().is_some_and(is_long) {
            return Err(LineFault::Reason);
        }
        if self.subjects.is_some() != self.subjects_sha256.is_some() {
            return Err(LineFault::Members);
        }
        Ok(())
    }
}

/// What is wrong with a line's content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineFault {
    /// It is no JSON object of these members, or not in its canonical form.
    #[error("is no audit line in canonical form")]
    Form,
    /// Its reason is too long.
    #[error("has a reason of more than {MAX_REASON} characters; say it shorter")]
    Reason,
    /// It has members that do not go together.
    #[error("has members that do not belong to its event")]
    Members,
}

/// A reason that fits: its first characters.
#[must_use]
pub fn cut_reason(reason: &str) -> String {
    reason.chars().take(MAX_REASON).collect()
}

/// A whole line.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Line {
    /// The form, 1.
    pub v: u8,
    /// The chain that it is of.
    pub chain: Hex<16>,
    /// Its number in the chain, from 1.
    pub seq: u64,
    /// `YYYY-MM-DDTHH:MM:SSZ`.
    pub time: String,
    /// What the caller wrote.
    #[serde(flatten)]
    pub entry: Entry,
    /// The chain's first key, sealed to the verifier; in line 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub k1: Option<String>,
    /// The chain before this one; in line 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predecessor: Option<Predecessor>,
    /// The first line that a checkpoint covers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<u64>,
    /// The Merkle root of the covered lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<Hex<32>>,
    /// The key that signed the checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signer: Option<Hex<16>>,
    /// Its signature.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Hex<64>>,
    /// SHA-256 of the line before.
    pub prev: Hex<32>,
    /// Authenticates the line under the chain's key of this number.
    pub mac: Hex<32>,
}

impl Line {
    /// A line of an entry, without what only some lines have.
    pub(super) fn new(chain: [u8; 16], seq: u64, time: &str, prev: [u8; 32], entry: Entry) -> Self {
        Self {
            v: FORM,
            chain: Hex(chain),
            seq,
            time: time.to_owned(),
            entry,
            k1: None,
            predecessor: None,
            from: None,
            root: None,
            signer: None,
            signature: None,
            prev: Hex(prev),
            mac: NO_MAC,
        }
    }

    /// Reads a line, without its line feed. Anything but its canonical form is refused: two readers
    /// could read two things under one MAC.
    ///
    /// # Errors
    /// [`LineFault`].
    pub fn read(bytes: &[u8]) -> Result<Self, LineFault> {
        let line: Self = serde_json::from_slice(bytes).map_err(|_| LineFault::Form)?;
        if line.v != FORM || line.to_bytes() != bytes || time::seconds(&line.time).is_none() {
            return Err(LineFault::Form);
        }
        line.entry.check()?;
        line.check_members()?;
        Ok(line)
    }

    fn check_members(&self) -> Result<(), LineFault> {
        let is_first = self.seq == 1;
        let of_checkpoints = [
            self.from.is_some(),
            self.root.is_some(),
            self.signer.is_some(),
            self.signature.is_some(),
        ];
        let is_checkpoint = self.entry.event == Event::Checkpoint;
        let belongs = self.seq > 0
            && self.k1.is_some() == is_first
            && (is_first || self.predecessor.is_none())
            && of_checkpoints.iter().all(|is_there| *is_there == is_checkpoint);
        if belongs { Ok(()) } else { Err(LineFault::Members) }
    }

    /// The canonical form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        self.write_to(&mut bytes);
        bytes
    }

    /// Appends the canonical form; where in it stands what only the chain says.
    pub(super) fn write_to(&self, out: &mut Vec<u8>) -> Places {
        canonical::write(self, out)
    }

    /// Unix seconds.
    #[must_use]
    pub fn seconds(&self) -> u64 {
        time::seconds(&self.time).unwrap_or(0)
    }

    /// `prev` of the line that follows these bytes.
    #[must_use]
    pub fn hash(bytes: &[u8]) -> [u8; 32] {
        Sha256::digest(bytes).into()
    }
}

/// The name of the MAC's member, up to its digits.
const MAC_MEMBER: &[u8] = b"\"mac\":\"";

/// Where the digits of the MAC stand in a canonical line. No member behind them holds names of a
/// caller's choice, so the last place is the right one.
pub(super) fn mac_place(line: &[u8]) -> Option<usize> {
    let digits = memchr::memmem::rfind(line, MAC_MEMBER)? + MAC_MEMBER.len();
    (line.get(digits + 64..digits + 66)? == b"\",").then_some(digits)
}

/// A canonical line without its MAC, whose digits stand there, and its comma: what the MAC is of.
pub(super) fn without_mac(line: &[u8], digits: usize) -> [&[u8]; 2] {
    [&line[..digits - MAC_MEMBER.len()], &line[digits + 66..]]
}

#[cfg(test)]
mod tests;
