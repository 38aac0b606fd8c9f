//! The veilstream sidecar: configuration, pipeline, command line.
#![deny(unsafe_code)]

pub mod app;
pub mod cases;
pub mod cli;
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
pub mod outgoing;
pub mod pipeline;
pub mod preflight;
pub mod protect;
pub mod registry;
pub mod signals;
pub mod status;
pub mod telemetry;
