//! Where veilstream's keys come from and live: key-encrypting keys ([`provider`]), wrapped keys at rest ([`store`]), and the
//! [`Manager`] that mints, unwraps and replaces the keys in use. No Kafka, no HTTP server.
#![forbid(unsafe_code)]

pub mod directory;
mod error;
mod manager;
pub mod provider;
pub mod store;

pub use error::KeyError;
pub use manager::{Manager, SCHEMA_KEY_LIFE};
