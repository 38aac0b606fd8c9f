//! Where veilstream's keys come from and live. No Kafka, no HTTP server.
//!
//! ```text
//!  key-encrypting key                       wrapped keys, authenticated
//!  (file, env, password, Vault,             (SQLite, PostgreSQL, or the
//!   AWS KMS, PKCS#11)                        caller's store)
//!         │                                        │
//!      provider                                  store
//!   observed, retried, one request for            │
//!   equal ones, cached                            │
//!         │            ┌───────────┐              │
//!         └─ unwrap ─► │  Manager  │ ◄─ records ──┘
//!         ┌─ wrap ──── │           │ ── records ──►
//!         ▼            └─────┬─────┘
//!                            ├──► Keyring, Key: to the engine
//!                            ├──► erasure: ledger outside the store, signed receipt
//!                            └──► escrow: signed export, without keys of data subjects
//! ```
//!
//! # Map
//!
//! | module | has |
//! |---|---|
//! | [`provider`] | who wraps and unwraps keys, and the layers that all providers get |
//! | [`store`] | records of wrapped keys; `authentic` checks each one's MAC |
//! | `manager` | [`Manager`], a facade, and the owners of shared, process and subjects' keys |
//! | [`credential`] | API keys of the reading service, and their records |
//! | [`erasure`] | the end of a data subject's keys: ledger, receipt |
//! | [`escrow`] | keys to a safe place and back |
//! | [`directory`], [`files`] | a local key directory; new files, private and durable |
//! | [`interop`] | keys of other systems, in files |
//! | `wraps` | whose a wrap is, and the secret that it holds |
//! | `error` | [`KeyError`]: whose fault it is and what to do |
//! | `entropy`, [`time`] | [`OsEntropy`]; times as they are written down |
//!
//! The formulas and the wrapping of keys with keys are in [`veilstream_engine::kdf`] and
//! [`veilstream_engine::wrap`].
#![forbid(unsafe_code)]

pub mod credential;
pub mod directory;
mod entropy;
pub mod erasure;
mod error;
pub mod escrow;
pub mod files;
pub mod interop;
mod manager;
pub mod provider;
pub mod store;
pub mod time;
mod wraps;

pub use entropy::OsEntropy;
pub use error::KeyError;
pub use manager::{
    Manager, Parts, Progress, RebuiltLedger, RetireError, Rewrapped, Rotate, Rotated,
    SCHEMA_KEY_LIFE, Settings, opens_for_others,
};
