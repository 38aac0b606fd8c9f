//! The veilstream sidecar: configuration, pipeline, command line.
#![deny(unsafe_code)]

pub mod app;
pub mod cases;
pub mod cli;
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod ephemeral;
pub mod exit;
pub mod http;
pub mod kafka;
pub mod keys;
pub mod pipeline;
pub mod preflight;
pub mod registry;
pub mod signals;
pub mod status;
pub mod telemetry;
