//! The pure part of veilstream: bytes, schema documents and keys in, protected bytes out.
//!
//! No IO of any kind: no files, sockets, environment, clock or OS random. Time and randomness are arguments
//! ([`Entropy`], `now` in [`record::Record`]); a key the engine lacks is a result ([`transform::Outcome::NeedKeys`]),
//! fetched by the caller.
#![forbid(unsafe_code)]

mod append;
mod budget;
pub mod compile;
pub mod error;
pub mod index;
pub mod inspect;
pub mod kdf;
pub mod key;
pub mod keyring;
pub mod normalize;
mod protect;
pub mod record;
mod residue;
pub mod reveal;
pub mod scan;
pub mod schema;
pub mod seal;
pub mod select;
mod siblings;
mod strip;
pub mod subject;
pub mod token;
pub mod transform;
pub mod wrap;

pub use error::{Fault, OpenError, Reject, RejectCode};
pub use key::{Key, KeyId, KeyKind, KeyState, Scope, SecretKey};
pub use keyring::Keyring;

/// Where the engine's random bytes (nonces, nothing else) come from.
///
/// The shell implements it over the operating system's generator; tests over fixed bytes. An implementation that
/// cannot deliver must say so: the engine then refuses to seal (fail closed).
pub trait Entropy: Send {
    /// Fills `buf` with fresh random bytes. Called with blocks of at least 4 KiB.
    fn fill(&mut self, buf: &mut [u8]) -> Result<(), EntropyError>;
}

/// The random source failed; nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the random source failed")]
pub struct EntropyError;
