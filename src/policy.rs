//! Who may read what: Cedar policies over the fields of the schema documents.
//!
//! ```text
//!  schema documents ──► facts ──► vocabulary (Cedar schema)     [policy] purposes, budgets
//!                         │            │ strict validation            │
//!  policies/*.cedar ──► compile ◄──────┘◄─── names that must exist ◄──┤
//!                         ▼                                           ▼
//!                     PolicySet (one snapshot, one hash)           Budgets
//!                         │ request(principal, person, facts)         │ reserve(subject or value)
//!                         ▼                                           ▼
//!                     Request: decide, permits ──────────────► revealed, masked or denied
//! ```
//!
//! A snapshot is immutable; [`LivePolicies`] replaces it as a whole and keeps the last good one. No
//! clock, no network. What is not permitted is denied, and so is everything that a failing policy
//! touches.

pub mod budget;
pub mod cases;
mod compile;
mod context;
mod decide;
mod entities;
mod facts;
mod fault;
mod kept;
mod live;
mod names;
mod request;
mod set;
mod text;
mod vocabulary;
mod warnings;

#[cfg(test)]
mod tests;

pub use decide::Request;
pub use facts::{FieldFacts, IndexFacts, facts};
pub use fault::{PolicyFault, PolicyFile, read_dir};
pub use live::{LivePolicies, PolicyChange};
pub use request::{
    Answer, Credential, Decision, Denial, Permission, Principal, PrincipalKind, RequestFacts, Want,
};
pub use set::{PolicyPlace, PolicySet};
pub use vocabulary::{Action, CREDENTIALS, cedar_schema};
pub use warnings::{PolicyWarning, warnings};
