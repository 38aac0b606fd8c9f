//! Logs and metrics.

pub mod counters;
pub mod events;
pub mod lasting;
pub mod metrics;
pub mod panics;

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};

use crate::config::{Log, LogFormat};

/// Starts logging to standard error (standard output belongs to results). Later calls change
/// nothing.
pub fn start_logs(log: &Log) {
    // librdkafka's and hyper's own lines only when something is wrong: at info they drown ours.
    let filter = Targets::new()
        .with_default(log.level.min(tracing::Level::WARN))
        .with_target("veilstream", log.level)
        .with_target("veilstream_keys", log.level);
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = match log.format {
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
        LogFormat::Text => layer
            .with_ansi(std::io::stderr().is_terminal() && !no_color())
            .with_target(false)
            .boxed(),
    };
    // An error means that a subscriber is set already, by a test or an embedding program.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}

/// Whether the user asked for no colour (<https://no-color.org>).
#[must_use]
pub fn no_color() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty())
}
