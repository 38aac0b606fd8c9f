//! Where veilstream's keys come from and live: key-encrypting keys ([`provider`]), wrapped keys at rest ([`store`]), the [`Manager`] that mints, unwraps,
//! rotates and replaces the keys in use, and the erasure of a data subject by the end of its keys ([`erasure`]). No Kafka, no HTTP server.
#![forbid(unsafe_code)]

pub mod directory;
mod entropy;
pub mod erasure;
mod error;
pub mod escrow;
mod manager;
pub mod provider;
pub mod store;
mod time;

pub use entropy::OsEntropy;
pub use error::KeyError;
pub use manager::{Manager, Parts, Progress, RebuiltLedger, RetireError, Rewrapped, Rotate, Rotated, SCHEMA_KEY_LIFE, Settings};
