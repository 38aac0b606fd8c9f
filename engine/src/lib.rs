//! The pure part of veilstream: bytes, schema documents and keys in, protected bytes out.
//!
//! ```text
//!  schema documents ──► compile ──► SchemaSet        Keyring ◄── Key, Scope
//!                                      │                │
//!                                      ▼                ▼
//!  record ──► scan ──► select ──► transform ──► seal, index, mask ──► splice ──► protected record
//!              │         │            │                                  │
//!          node table  spans          ├──► NeedKeys(scopes): fetch, call again
//!                                     └──► Reject{code}: the record is a dead letter
//!
//!  protected record ──► scan ──► select ──► reveal ──► open tokens, strip indexes ──► record
//! ```
//!
//! # Map
//!
//! | module | has |
//! |---|---|
//! | [`compile`], [`schema`] | schema documents, every fault at once; what they become |
//! | [`scan`] | one pass over the bytes into a flat table of nodes |
//! | [`select`] | the JSONPaths of a schema over that table: grammar, filters, patterns |
//! | [`record`] | what goes in and what comes out: borrowed bytes, reused buffers |
//! | [`transform`] | one record in, one protected record out; `required`, `undeclared`, envelopes, headers |
//! | [`seal`], [`token`], [`inspect`] | sealing and opening a value; a token's text, and what it says without a key |
//! | [`interop`] | values in the form of other systems: Fernet, pgcrypto |
//! | [`index`], [`normalize`] | blind indexes, and what two spellings of a value have in common |
//! | [`envelope`] | Kafka Connect's envelopes: found, and written around plain values |
//! | `coarsen` | protection without a key: mask and generalize |
//! | `residue` | protected values in clear elsewhere in the record |
//! | [`reveal`] | the way back |
//! | [`mask`] | what those see of a value who may only mask |
//! | `index_member` | names of index members, names that are taken, finding a member by its name, the document without indexes |
//! | `splice`, `binding` | the input with spans replaced; the values a token is tied to |
//! | [`key`], [`keyring`], [`kdf`], [`mac`], [`wrap`] | keys as handles, a batch's snapshot of them, the formulas, tags under a key, keys wrapped with keys |
//! | [`subject`] | data subjects: scalar text and reference |
//! | `budget` | how much work one record may cost |
//! | [`uniform`] | maps by names that are hashes |
//! | `append` | formatted text at the end of bytes |
//! | [`error`] | rejects, faults of documents, why a token does not open |
//!
//! No IO of any kind: no files, sockets, environment, clock or OS random. Time and randomness are
//! arguments ([`Entropy`], `now` in [`record::Record`]); a key the engine lacks is a result
//! ([`transform::Outcome::NeedKeys`]), fetched by the caller.
#![forbid(unsafe_code)]

mod append;
mod binding;
mod budget;
mod coarsen;
pub mod compile;
pub mod envelope;
pub mod error;
pub mod index;
mod index_member;
pub mod inspect;
pub mod interop;
pub mod kdf;
pub mod key;
pub mod keyring;
pub mod mac;
pub mod mask;
pub mod normalize;
pub mod record;
mod residue;
pub mod reveal;
pub mod scan;
pub mod schema;
pub mod seal;
pub mod select;
mod splice;
pub mod subject;
pub mod token;
pub mod transform;
pub mod uniform;
pub mod wrap;

pub use error::{Fault, OpenError, Reject, RejectCode};
pub use key::{Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
pub use keyring::Keyring;

/// Where the engine's random bytes (nonces, nothing else) come from.
///
/// The shell implements it over the operating system's generator; tests over fixed bytes. An
/// implementation that cannot deliver must say so: the engine then refuses to seal (fail closed).
pub trait Entropy: Send {
    /// Fills `buf` with fresh random bytes. Called with blocks of at least 4 KiB.
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EntropyError>;
}

/// The random source failed; nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the random source failed")]
pub struct EntropyError;
