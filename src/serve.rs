//! The reading service: who asks, and how much. What they may read, and the trace that it leaves,
//! are the policy's and the audit's.
//!
//! ```text
//!  connection ── listener (TLS, times, number) ── router ── auth ── limits ── handler
//! ```

pub mod auth;
pub mod body;
pub mod limits;
pub mod listener;
pub mod peer;
pub mod reading;
pub mod router;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::config::{Audit, Config, CredentialKind, Serve};
use crate::exit::Exit;
use crate::keys::{self, CredentialSource, KeyFault};
use crate::status::Status;
use crate::telemetry::events::{CredentialsCorrupt, Event as _};
use crate::telemetry::metrics::Metrics;
use crate::ticker::Ticker;

use auth::{ApiKeys, Authenticator, Issuers, JwksFault, JwksTimes, RefusalAudit, Refusals};
use limits::Limits;
use listener::{Listener, Parts, Patience, TlsFault, TlsFiles};
use router::{Route, Router, Shared};

/// Between two looks at the API keys: a revoked one is refused within five seconds.
const KEYS_LOOK: Duration = Duration::from_secs(2);
/// Between two looks at the files of certificates.
const FILES_LOOK: Duration = Duration::from_secs(2);
/// Between two looks at who may be forgotten.
const PRUNE: Duration = Duration::from_secs(60);

/// The sections without which nothing is served.
///
/// # Errors
/// One is missing, with [`Exit::Usage`].
pub fn required_sections(config: &Config) -> anyhow::Result<(&Serve, &Audit)> {
    let missing = |section: &str, why: &str| {
        Exit::Usage.because(format!(
            "there is no section [{section}], and {why}; docs/configuration.md shows one"
        ))
    };
    let serve =
        config.serve.as_ref().ok_or_else(|| missing("serve", "nothing says who may ask"))?;
    let audit = config
        .audit
        .as_ref()
        .ok_or_else(|| missing("audit", "nobody would know what was opened"))?;
    if config.policy.purposes.is_empty() {
        return Err(Exit::Usage.because(
            "policy.purposes is empty, so nothing may be read; name the purposes that callers may \
            have (docs/configuration.md, \"Policy\")",
        ));
    }
    if !audit.has_no_copy && !audit.has_second_place() {
        return Err(Exit::Usage.because(
            "the audit log has no second place, so anyone who can write to its file can drop its \
            end. Name one with audit.topic or audit.postgres, or write audit.copy = \"none\" to \
            accept that",
        ));
    }
    Ok((serve, audit))
}

/// What a service is made of.
pub struct ServiceParts<'a> {
    /// `[serve]`
    pub settings: &'a Serve,
    /// Where API keys are.
    pub credentials: Arc<dyn CredentialSource>,
    /// What is answered, beside `/openapi.json`.
    pub routes: Vec<Route>,
    /// Hears of refused logins and requests.
    pub audit: Option<Arc<dyn RefusalAudit>>,
    /// For `/readyz` and `/status`.
    pub status: Arc<Status>,
    /// For `/metrics`.
    pub metrics: Arc<Metrics>,
    /// How long peers may take.
    pub patience: Patience,
    /// How often issuers' keys are fetched.
    pub jwks: JwksTimes,
}

/// Why the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartFault {
    /// A certificate, key or revocation list.
    #[error(transparent)]
    Tls(#[from] TlsFault),
    /// The authorities of an issuer.
    #[error("serve.jwt.{name}: {fault}")]
    Jwks {
        /// The issuer's name.
        name: String,
        /// What is wrong.
        fault: JwksFault,
    },
    /// The key store does not tell its API keys.
    #[error("API keys: {0}")]
    Keys(#[from] KeyFault),
    /// The address is not free, or is none of this machine.
    #[error(
        "serve.listen: {address} cannot be opened ({error}); name a free address of this machine"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The system gives no thread.
    #[error("a thread cannot be started ({0})")]
    Thread(std::io::Error),
}

/// The running service. Dropped, it stops: requests that are being answered are answered.
pub struct RunningService {
    // First: nobody asks any more when the others stop.
    listener: Listener,
    _tickers: Vec<Ticker>,
}

impl RunningService {
    /// Starts it.
    ///
    /// # Errors
    /// [`StartFault`].
    pub fn start(parts: ServiceParts<'_>) -> Result<Self, StartFault> {
        let ServiceParts { settings, credentials, routes, audit, status, metrics, .. } = parts;
        let tls = TlsFiles::open(settings)?;
        let issuers = Issuers::new(&settings.issuers, parts.jwks)
            .map_err(|(name, fault)| StartFault::Jwks { name, fault })?;
        let authenticator =
            Arc::new(Authenticator::new(settings, issuers, ApiKeys::new(credentials)));
        let limits = Arc::new(Limits::new(&settings.limits));
        let mut tickers = vec![pruning(limits.clone()).map_err(StartFault::Thread)?];
        if authenticator.takes(CredentialKind::Key) || authenticator.suspends() {
            authenticator.api_keys().look(keys::now())?;
            let looking = looking(authenticator.clone(), status.clone(), metrics.clone());
            tickers.push(looking.map_err(StartFault::Thread)?);
        }
        if let Some(files) = &tls {
            let watching = watching(files.clone(), status.clone());
            tickers.push(watching.map_err(StartFault::Thread)?);
        }
        let shared = Shared {
            authenticator: authenticator.clone(),
            refusals: Refusals::new(metrics, audit),
            limits,
            proxies: settings.proxies.clone(),
            body_patience: parts.patience.body,
            clock: keys::now,
        };
        let listener_parts = Parts {
            service: Arc::new(Router::new(shared, routes)),
            tls,
            proxies: settings.proxies.clone(),
            limits: settings.limits,
            patience: parts.patience,
        };
        let pause = parts.jwks.pause;
        let beside = async move {
            let heard = |name: &str, outcome| fetched(name, outcome, &status);
            authenticator.issuers().keep_fresh(pause, heard).await;
        };
        let listener = Listener::start(settings.listen, listener_parts, beside)
            .map_err(|error| StartFault::Listen { address: settings.listen, error })?;
        Ok(Self { listener, _tickers: tickers })
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.listener.address()
    }
}

fn pruning(limits: Arc<Limits>) -> std::io::Result<Ticker> {
    Ticker::start("serve-limits", PRUNE, move || limits.prune(keys::now()))
}

/// Looks at the API keys. A store that does not answer is told of once.
fn looking(
    authenticator: Arc<Authenticator>,
    status: Arc<Status>,
    metrics: Arc<Metrics>,
) -> std::io::Result<Ticker> {
    let mut is_away = false;
    Ticker::start("serve-keys", KEYS_LOOK, move || {
        match authenticator.api_keys().look(keys::now()) {
            Ok(looked) => {
                metrics.credentials_corrupt.set(i64::try_from(looked.corrupt).unwrap_or(i64::MAX));
                if !looked.newly_corrupt.is_empty() {
                    CredentialsCorrupt { ids: &looked.newly_corrupt }.emit(&metrics);
                }
                if is_away {
                    tracing::info!("the key store tells its API keys again");
                    status.ready("api_keys");
                }
                is_away = false;
            }
            Err(fault) if !is_away => {
                is_away = true;
                tracing::error!(reason = %fault, "the key store does not tell its API keys, so \
                    none is accepted until it does");
                status.unready("api_keys", fault.to_string());
            }
            Err(_) => {}
        }
    })
}

/// Looks at the files of certificates.
fn watching(files: Arc<TlsFiles>, status: Arc<Status>) -> std::io::Result<Ticker> {
    Ticker::start("serve-files", FILES_LOOK, move || match files.reload() {
        Ok(false) => {}
        Ok(true) => {
            tracing::info!("certificates were read again");
            status.detail("certificates", serde_json::json!("in force"));
        }
        Err(fault) => {
            tracing::error!(%fault, "the new certificates are of no use, so the last good ones \
                stay in force");
            let refused = serde_json::json!({ "refused": fault.to_string() });
            status.detail("certificates", refused);
        }
    })
}

/// The keys of an issuer were fetched, or not.
fn fetched(name: &str, outcome: Result<(), JwksFault>, status: &Status) {
    let shown = match outcome {
        Ok(()) => serde_json::json!("fetched"),
        Err(fault) => {
            tracing::warn!(issuer = name, %fault, "the issuer's keys could not be fetched");
            serde_json::json!({ "not_fetched": fault.to_string() })
        }
    };
    status.detail(&format!("issuer {name}"), shown);
}
