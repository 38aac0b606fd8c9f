//! The running reading service: logs, HTTP (alive, not ready), schemas, keys, listener. It stops in
//! the other order: unready, requests answered, HTTP last.

mod changes;

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::{
    AppEvent, LiveSchemas, Reloads, RunOptions, Why, announce, disable_core_dumps, supervise,
};
use veilstream_reading::audit::LogParts;

use self::changes::Changes;
use crate::audit::sinks::{self, SinkReport};
use crate::config::{Audit, Config, Serve};
use crate::exit::Exit;
use crate::http::Server;
use crate::kafka::access;
use crate::keys::{KeySource, ManagedKeys};
use crate::policy::budget::{BudgetLimits, Budgets};
use crate::policy::{LivePolicies, PolicyChange, PolicySet};
use crate::serve::auth::JwksTimes;
use crate::serve::listener::Patience;
use crate::serve::reading::{AuditedRefusals, Reading, spent_budgets};
use crate::serve::{RunningService, ServiceParts, StartFault, required_sections};
use crate::signals;
use crate::status::Status;
use crate::telemetry::events::{Event as _, Stopping};
use crate::telemetry::lasting::Lasting;
use crate::telemetry::metrics::Metrics;
use crate::ticker::Ticker;

/// Who writes the lines `start` and `stop`.
const SERVICE: &str = "veilstream serve";
/// A line that is not durable by then is a refused request.
const AUDIT_DEADLINE: Duration = Duration::from_secs(2);
/// Between two looks at whether keys are there.
const KEYS_LOOK: Duration = Duration::from_secs(1);

/// Serves until a signal.
///
/// # Errors
/// A part does not start; [`Exit::of`] tells the exit code.
pub fn run(config: &Config) -> anyhow::Result<Exit> {
    let (settings, audit) = required_sections(config)?;
    disable_core_dumps().context("core dumps could not be disabled")?;
    let (send, events) = mpsc::channel::<AppEvent<()>>();
    signals::watch(move |request| send.send(AppEvent::Request(request)).is_ok())
        .context("signals could not be watched")?;

    let status = Arc::new(Status::new(&["schemas", "keys", "policies", "serve"]));
    let metrics = Arc::new(Metrics::new()?);
    let http = Server::start(config.http.listen, status.clone(), metrics.clone()).map_err(|e| {
        Exit::Usage.because(format!(
            "http.listen: {} cannot be opened ({e}); name a free address of this machine",
            config.http.listen
        ))
    })?;
    tracing::info!(address = %http.address(), "HTTP listens");
    announce(config);
    let schemas =
        LiveSchemas::open(config, RunOptions::default(), status.clone(), metrics.clone())?;
    access::report_to(status.clone(), metrics.clone());
    let opened = crate::keys::open_reading(&config.keys, Some(metrics.clone()), settings.reveal);
    let (keys, manager) = opened.map_err(|e| Exit::Preflight.because(format!("keys: {e:#}")))?;
    status.ready("keys");
    keys.take_interop(&schemas.registry.current())
        .map_err(|e| Exit::Preflight.because(format!("keys: {e}")))?;
    let policies = LivePolicies::open(&config.policy, schemas.registry.current())
        .map_err(|faults| crate::exit::faults_error(&faults))?;
    let policies = Arc::new(policies);
    status.ready("policies");
    check_topic(audit)?;
    let budgets = budgets(config, settings, audit)?;
    let report = SinkReport { metrics: Some(metrics.clone()), status: Some(status.clone()) };
    let log = crate::audit::open(audit, &manager, SERVICE, AUDIT_DEADLINE, report)?;
    if !audit.has_second_place() {
        tracing::warn!(
            "audit.copy is \"none\": anyone who can write to the audit log can drop its end"
        );
    }
    let (changes, ending) = (Changes::new(log.clone()), log.clone());
    changes.policies(&policies.current(), "start")?;
    let logins = AuditedRefusals::new(log.clone());
    let reading = Reading::new(
        policies.clone(),
        keys.clone(),
        log,
        budgets,
        metrics.clone(),
        crate::keys::now,
    )?;

    let reading = Arc::new(reading);
    let service = RunningService::start(ServiceParts {
        settings,
        credentials: keys.clone(),
        routes: reading.routes(settings.reveal),
        audit: Some(Arc::new(logins)),
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
    let health = watch_keys(keys.clone(), reading.clone(), status.clone())?;
    let _upkeep = crate::keys::maintain(&(keys.clone() as Arc<dyn KeySource>))?;
    let (looks, told, postponed) = (policies, status.clone(), Lasting::default());
    let reloads = Reloads::start(config.schemas.reload_interval, move || {
        // Nothing is sealed here: no key is made before schemas come into force.
        let before = schemas.registry.current();
        schemas.reload(|set| keys.take_interop(set));
        if !Arc::ptr_eq(&before, &schemas.registry.current()) {
            changes.schemas(&schemas.labels());
        }
        reload_policies(&looks, &schemas, &told, &changes, &postponed);
    })?;
    if let Why::Signal(signal) = supervise(&events, &reloads) {
        status.unready("process", format!("stopping: {signal}"));
        Stopping { why: signal }.emit(&metrics);
    }
    // Answers what has been asked; streams end at their next part.
    reading.stop();
    drop((service, health));
    // The last lines and their copies: nothing that was answered is without its checkpoint.
    if let Err(error) = ending.stop() {
        tracing::warn!(%error, "the audit log has no end line of this service");
    }
    drop(http);
    Ok(Exit::Ok)
}

/// Says in `/readyz` whether the keys that callers need are there.
fn watch_keys(
    keys: Arc<ManagedKeys>,
    reading: Arc<Reading>,
    status: Arc<Status>,
) -> std::io::Result<Ticker> {
    Ticker::start("keys-health", KEYS_LOOK, move || match keys.check() {
        Ok(()) => {
            status.ready("keys");
            reading.keys_answer();
        }
        Err(fault) => status.unready("keys", fault.to_string()),
    })
}

/// Refuses a required topic that would lose lines.
fn check_topic(audit: &Audit) -> anyhow::Result<()> {
    let (problems, warnings) = sinks::examine_topic(audit);
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    if problems.is_empty() { Ok(()) } else { Err(Exit::Preflight.because(problems.join("\n"))) }
}

/// What each principal has spent, as the audit log tells it. A first start has no log.
fn budgets(config: &Config, settings: &Serve, audit: &Audit) -> anyhow::Result<Budgets> {
    let limits = BudgetLimits::new(
        &config.policy,
        NonZeroU32::new(settings.instances).unwrap_or(NonZeroU32::MIN),
    );
    match LogParts::of(&audit.file) {
        Ok(log) => Ok(spent_budgets(limits, &log, crate::keys::now())?),
        Err(_) if !audit.file.exists() => Ok(Budgets::new(limits)),
        Err(error) => Err(error.into()),
    }
}

/// Takes changed policies over, or says why the last good ones stay.
fn reload_policies(
    policies: &LivePolicies,
    schemas: &LiveSchemas,
    status: &Status,
    changes: &Changes,
    postponed: &Lasting,
) {
    let now = Instant::now();
    let keep = |set: &PolicySet| changes.policies(set, "reload");
    match policies.reload_with(&schemas.registry.current(), keep) {
        PolicyChange::None => {}
        PolicyChange::Postponed(reason) => {
            if postponed.meet(&reason, now) {
                tracing::warn!(%reason, "new policies are postponed, the policies in force stay");
            }
            return;
        }
        PolicyChange::Loaded(set) => {
            tracing::info!(policies = &**set.hash(), "new policies are in force");
            status.detail("policies", serde_json::json!({ "in_force": &**set.hash() }));
        }
        PolicyChange::Refused(faults) => {
            let mut files: Vec<&Path> = faults.iter().map(|fault| &*fault.file).collect();
            files.dedup();
            changes.policies_refused(&files);
            let faults: Vec<String> = faults.iter().map(ToString::to_string).collect();
            let hash = policies.current().hash().clone();
            let detail = serde_json::json!({ "in_force": &*hash, "refused": &faults });
            status.detail("policies", detail);
            tracing::error!(?faults, "the new policies are refused, so the last good ones stay");
        }
    }
    // What came into force says so itself.
    let _ = postponed.pass(now);
}

fn exit_of(fault: &StartFault) -> Exit {
    match fault {
        StartFault::Tls(_) | StartFault::Jwks { .. } | StartFault::Listen { .. } => Exit::Usage,
        StartFault::Keys(_) => Exit::Preflight,
        StartFault::Thread(_) => Exit::Failed,
    }
}
