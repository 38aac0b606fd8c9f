//! The veilstream sidecar: raw topics of Kafka in, sanitized topics out, exactly once.
//!
//! ```text
//!                      schema documents             key-encrypting key, key store
//!                            │                              │
//!                         registry                  keys (over veilstream-keys)
//!                            │     immutable snapshots      │
//!                            ▼                              ▼
//!  raw topic ──► kafka ──► pipeline: one lane ──► protect (over veilstream-engine)
//!                            ▲                     │                     │
//!                            │                     │ protected record    │ Reject{code}
//!                     pipeline::core               ▼                     ▼
//!               (starts, commits, aborts)       outgoing        dead_letters::letter
//!                                                  │                     │ sealed
//!                                                  ▼                     ▼
//!                                          sanitized topic      dead-letter topic
//!                                          (records, dead letters, offsets: one transaction)
//!                                                                        │
//!                              sanitized topic ◄── dead_letters::replay ◄┘
//! ```
//!
//! # Map
//!
//! From top to bottom; nothing imports from a floor above (CONTRIBUTING.md, "Floors").
//!
//! | module | has |
//! |---|---|
//! | [`cli`] | one file for each subcommand: arguments, progress, exit codes |
//! | [`app`] | the running sidecar: configuration to parts to threads, and the order in which they stop |
//! | [`pipeline`] | the polling thread, the lanes, and what they tell operators |
//! | [`pipeline::core`] | what is done when, without Kafka: where reading begins, when a transaction commits or aborts (`machine`) |
//! | `serve` | the reading service: listener, credentials, limits, and what it answers (`reading`) |
//! | `rotate` | tokens and indexes of a table or a topic under the newest keys |
//! | `demo` | the pipeline of `run` between an embedded broker's topics |
//! | [`http`] | `/livez`, `/readyz`, `/metrics`, `/status` |
//! | [`dead_letters`] | the letter's form, reading, replay |
//! | [`audit`] | the trace of what commands open and change (over veilstream-reading) |
//! | [`preflight`] | are the topics there, and do they fit each other? |
//! | `policy` | who may read what: policies, decisions, budgets |
//! | `client` | a caller of the reading service, for commands |
//! | [`outgoing`] | a record as it goes to its topic: key, value, copied headers, timestamp, size |
//! | [`sinks`] | what sinks must know of sanitized records: connector, table, JSON Schema |
//! | `migrate` | columns of older encryption, of hashes or in clear become tokens and indexes |
//! | `rows` | rows of a PostgreSQL table, read and rewritten a batch at a time |
//! | [`cases`], [`ephemeral`] | cases of a schema document, and the keys they run with |
//! | [`protect`] | a record through the engine, again with the keys it lacked |
//! | [`registry`] | the schemas in force |
//! | [`keys`] | the key manager of the sidecar; key store and erasure ledger in topics |
//! | [`kafka`] | librdkafka: clients, producers, settings, credentials, topics; the only `unsafe` |
//! | [`telemetry`], [`status`] | logs, metrics, readiness |
//! | [`config`], [`clock`], [`exit`], [`signals`], [`ticker`], [`progress`], [`processor`] | what everything else stands on |
//! | `inject` | faults that tests ask a running process for |
//!
//! Selecting, sealing and revealing are in [`veilstream_engine`], providers, stores and erasure in
//! [`veilstream_keys`].
#![deny(unsafe_code)]
#![deny(clippy::mod_module_files)]

pub mod app;
pub mod audit;
pub mod cases;
pub mod cli;
#[cfg(feature = "serve")]
pub mod client;
pub mod clock;
pub mod config;
pub mod dead_letters;
#[cfg(feature = "demo")]
pub mod demo;
pub mod ephemeral;
pub mod exit;
pub mod http;
#[cfg(feature = "inject")]
mod inject;
pub mod kafka;
pub mod keys;
#[cfg(feature = "postgres")]
pub mod migrate;
pub mod outgoing;
pub mod pipeline;
#[cfg(feature = "serve")]
pub mod policy;
pub mod preflight;
pub mod processor;
pub mod progress;
pub mod protect;
pub mod registry;
#[cfg(feature = "postgres")]
pub mod rotate;
#[cfg(feature = "postgres")]
pub mod rows;
#[cfg(feature = "serve")]
pub mod serve;
pub mod signals;
pub mod sinks;
pub mod status;
pub mod telemetry;
pub mod ticker;
