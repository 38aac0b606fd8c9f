//! The way back: what opening protected data leaves behind. No Kafka, no HTTP server.
//!
//! ```text
//!  reader of values    ──► audit::AuditLog::append ──► durable line ──► only then: plaintext
//!  (serve, command line, Python)          │
//!                                         ▼
//!                     <file>: chains of lines, a signed checkpoint every 1,000 lines
//!                                         │
//!            verifier's private key ──► verify, report, prove, prune
//! ```
//!
//! # Map
//!
//! | module | has |
//! |---|---|
//! | [`audit`] | the audit log: its lines, its writer, and what an auditor does with it |
#![forbid(unsafe_code)]
#![deny(clippy::mod_module_files)]

pub mod audit;
