//! Keys as handles: secret bytes that never print, an identity that commits to them, a budget that
//! refuses when spent.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zeroize::Zeroizing;

/// 32 secret bytes, boxed and zeroized on drop. `Debug` prints `SecretKey(..)`.
#[derive(Clone)]
pub struct SecretKey(Box<Zeroizing<[u8; 32]>>);

impl SecretKey {
    /// Takes the bytes; the caller's copy is its own to zeroize.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Box::new(Zeroizing::new(bytes)))
    }

    /// The bytes, for a key derivation or a wrap; never for a log.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

/// The name of a key: the first 16 bytes of its check value. Prints as lower-case hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 16]);

/// What a key is for. A key of one kind never does another kind's work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyKind {
    /// Seals field values (suites 1 and 2).
    Data,
    /// Seals deterministic fields (suite 3).
    Deterministic,
    /// Root of blind indexes.
    Index,
    /// Seals dead letters.
    DeadLetter,
    /// Turns subject ids into references.
    SubjectRef,
    /// Wraps subject keys.
    Wrapping,
    /// Authenticates the audit log.
    Audit,
    /// Authenticates the key store and the erasure ledger. Never sees a record.
    Store,
}

/// Where a key is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyState {
    /// Seals and opens.
    Active,
    /// Opens.
    DecryptOnly,
    /// Answers `key_unavailable`.
    Retired,
    /// No wraps left; answers `erased`.
    Shredded,
    /// Opens only behind an explicit flag.
    Compromised,
}

/// What a key covers. Text form as in the key store: `schema:customers`, `shared:customers`,
/// `subject:<32 hex>`, `epoch:3`, `v1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scope {
    /// One process start and schema (suite 1).
    Schema(Arc<str>),
    /// A name shared by several processes or runs (suite 2).
    Shared(Arc<str>),
    /// One data subject, by reference (suite 2).
    Subject(SubjectRef),
    /// A wrapping key's epoch.
    Epoch(u32),
    /// A version of an index root, deterministic root, or single key.
    Version(u32),
}

/// Reference of a data subject: HMAC of its id under the `subject_ref` key (docs/formats.md).
/// Prints as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubjectRef(pub [u8; 16]);

/// One key, ready to use. Immutable but for its use counter; shared as `Arc<Key>`.
pub struct Key {
    /// Names the key.
    pub id: KeyId,
    /// Check value, 32 bytes; `id` is its first half.
    pub kcv: [u8; 32],
    /// What it is for.
    pub kind: KeyKind,
    /// Whose it is.
    pub tenant: Arc<str>,
    /// What it covers.
    pub scope: Scope,
    /// Version within (tenant, kind, scope).
    pub version: u32,
    /// Where it is in its life.
    pub state: KeyState,
    /// Unix seconds after which it no longer seals (suite 1: 24 h after it was made); `None`: no
    /// limit.
    pub seal_until: Option<u64>,
    /// The bytes; `None` when the key is not available here (shredded, retired).
    pub secret: Option<SecretKey>,
    /// Uses left to hand out. Shared by every process thread that seals with this key.
    pub budget: Budget,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("scope", &self.scope)
            .field("version", &self.version)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// A count of uses that is reserved in blocks and refused when spent.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// A budget of `limit` uses, none spent.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    /// Reserves up to `block` uses; returns how many were granted, 0 when spent.
    #[must_use]
    pub fn reserve(&self, block: u64) -> u64 {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let grant = block.min(self.limit.saturating_sub(used));
            if grant == 0 {
                return 0;
            }
            match self.used.compare_exchange_weak(
                used,
                used + grant,
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return grant,
                Err(now) => used = now,
            }
        }
    }

    /// Uses handed out so far.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The most uses it hands out.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.limit
    }
}

impl KeyKind {
    /// The name in key records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Deterministic => "deterministic",
            Self::Index => "index",
            Self::DeadLetter => "dead_letter",
            Self::SubjectRef => "subject_ref",
            Self::Wrapping => "wrapping",
            Self::Audit => "audit",
            Self::Store => "store",
        }
    }
}

impl KeyState {
    /// The name in key records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::DecryptOnly => "decrypt_only",
            Self::Retired => "retired",
            Self::Shredded => "shredded",
            Self::Compromised => "compromised",
        }
    }
}

/// A text that is not the name of a key kind, state, scope or id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a {0}")]
pub struct ParseKeyError(pub &'static str);

impl FromStr for KeyKind {
    type Err = ParseKeyError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [
            Self::Data,
            Self::Deterministic,
            Self::Index,
            Self::DeadLetter,
            Self::SubjectRef,
            Self::Wrapping,
            Self::Audit,
            Self::Store,
        ]
        .into_iter()
        .find(|k| k.as_str() == s)
        .ok_or(ParseKeyError("key kind"))
    }
}

impl FromStr for KeyState {
    type Err = ParseKeyError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        [Self::Active, Self::DecryptOnly, Self::Retired, Self::Shredded, Self::Compromised]
            .into_iter()
            .find(|k| k.as_str() == s)
            .ok_or(ParseKeyError("key state"))
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Schema(name) => write!(f, "schema:{name}"),
            Self::Shared(name) => write!(f, "shared:{name}"),
            Self::Subject(subject) => write!(f, "subject:{subject}"),
            Self::Epoch(n) => write!(f, "epoch:{n}"),
            Self::Version(n) => write!(f, "v{n}"),
        }
    }
}

impl FromStr for Scope {
    type Err = ParseKeyError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        const ERR: ParseKeyError = ParseKeyError("key scope");
        if let Some(name) = s.strip_prefix("schema:") {
            return Ok(Self::Schema(name.into()));
        }
        if let Some(name) = s.strip_prefix("shared:") {
            return Ok(Self::Shared(name.into()));
        }
        if let Some(hex) = s.strip_prefix("subject:") {
            return parse_hex16(hex).map(|b| Self::Subject(SubjectRef(b))).ok_or(ERR);
        }
        if let Some(n) = s.strip_prefix("epoch:") {
            return n.parse().map(Self::Epoch).map_err(|_| ERR);
        }
        s.strip_prefix('v').and_then(|n| n.parse().ok()).map(Self::Version).ok_or(ERR)
    }
}

impl FromStr for KeyId {
    type Err = ParseKeyError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        parse_hex16(s).map(Self).ok_or(ParseKeyError("key id"))
    }
}

macro_rules! hex_display {
    ($($t:ty),*) => {$(
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    )*};
}
hex_display!(KeyId, SubjectRef);

fn parse_hex16(s: &str) -> Option<[u8; 16]> {
    if s.len() != 32 || !s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
        return None;
    }
    let mut out = [0; 16];
    for (i, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).ok()?;
    }
    Some(out)
}
