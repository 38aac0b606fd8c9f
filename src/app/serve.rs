//! The running reading service: logs, HTTP (alive, not ready), schemas, keys, listener. It stops in
//! the other order: unready, requests answered, HTTP last.

use std::sync::Arc;
use std::sync::mpsc;

use anyhow::Context as _;

use super::{AppEvent, LiveSchemas, Maintenance, Why, announce, disable_core_dumps, supervise};
use crate::config::Config;
use crate::exit::Exit;
use crate::http::Server;
use crate::kafka::access;
use crate::keys::KeySource as _;
use crate::serve::auth::JwksTimes;
use crate::serve::listener::Patience;
use crate::serve::{RunningService, ServiceParts, StartFault, required_sections};
use crate::signals;
use crate::status::Status;
use crate::telemetry::events::{Event as _, Stopping};
use crate::telemetry::metrics::Metrics;

/// Serves until a signal.
///
/// # Errors
/// A part does not start; [`Exit::of`] tells the exit code.
pub fn run(config: &Config) -> anyhow::Result<Exit> {
    let settings = required_sections(config)?;
    disable_core_dumps().context("core dumps could not be disabled")?;
    let (send, events) = mpsc::channel::<AppEvent<()>>();
    signals::watch(move |request| send.send(AppEvent::Request(request)).is_ok())
        .context("signals could not be watched")?;

    let status = Arc::new(Status::new(&["schemas", "keys", "serve"]));
    let metrics = Arc::new(Metrics::new()?);
    let http = Server::start(config.http.listen, status.clone(), metrics.clone()).map_err(|e| {
        Exit::Usage.because(format!(
            "http.listen: {} cannot be opened ({e}); name a free address of this machine",
            config.http.listen
        ))
    })?;
    tracing::info!(address = %http.address(), "HTTP listens");
    announce(config);
    let schemas = LiveSchemas::open(config, status.clone(), metrics.clone())?;
    access::report_to(status.clone(), metrics.clone());
    let keys = crate::keys::open_managed(&config.keys, Some(metrics.clone()))
        .map_err(|e| Exit::Preflight.because(format!("keys: {e:#}")))?;
    status.ready("keys");

    let service = RunningService::start(ServiceParts {
        settings,
        credentials: keys.clone(),
        routes: Vec::new(),
        audit: None,
        status: status.clone(),
        metrics: metrics.clone(),
        patience: Patience::default(),
        jwks: JwksTimes::default(),
    })
    .map_err(|fault| exit_of(&fault).because(fault.to_string()))?;
    status.ready("serve");
    tracing::info!(address = %service.address(), tls = !settings.insecure, "the reading service \
        listens");
    if settings.insecure {
        tracing::warn!(
            "serve.insecure is true: credentials and values are in clear on the \
            loopback"
        );
    }
    let upkeep = Maintenance::start(
        config.schemas.reload_interval,
        move || keys.maintain(),
        // Nothing is sealed here: no key is made before schemas come into force.
        move || schemas.reload(|_| Ok(())),
    )?;
    if let Why::Signal(signal) = supervise(&events, &upkeep) {
        status.unready("process", format!("stopping: {signal}"));
        Stopping { why: signal }.emit(&metrics);
    }
    // Answers what has been asked.
    drop(service);
    drop(http);
    Ok(Exit::Ok)
}

fn exit_of(fault: &StartFault) -> Exit {
    match fault {
        StartFault::Tls(_) | StartFault::Jwks { .. } | StartFault::Listen { .. } => Exit::Usage,
        StartFault::Keys(_) => Exit::Preflight,
        StartFault::Thread(_) => Exit::Failed,
    }
}
