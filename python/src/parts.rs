//! The parts behind a `Veil`: schemas, keys, audit log.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use veilstream::audit::Trail;
use veilstream::config::{self, Config, Guide, KeyLedger, KeyStore, Purpose};
use veilstream::keys::{self, KeySource, Upkeep};
use veilstream::registry::{self, Registry};
use veilstream::ticker::Ticker;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::reveal::Revealer;
use veilstream_engine::seal::Opener;
use veilstream_reading::audit::{Entry, Event, MAX_REASON};

use crate::fault::VeilFault;

/// Openers and revealers that are kept for the next call.
const KEPT: usize = 16;

/// What `Veil.open` was given.
#[derive(Debug, Clone)]
pub(crate) struct OpenSettings {
    /// The configuration file.
    pub(crate) config: PathBuf,
    /// A configuration without `[audit]` will do.
    pub(crate) is_unaudited: bool,
    /// Stands in each line of the audit log.
    pub(crate) query_id: Option<String>,
}

/// What a caller reads for.
#[derive(Debug, Clone, Default)]
pub(crate) struct CallPurpose {
    pub(crate) name: Option<String>,
    pub(crate) reason: Option<String>,
    /// As the caller claims: nobody proves it in process.
    pub(crate) on_behalf_of: Option<String>,
    pub(crate) request_id: Option<String>,
}

/// Everything that calls work with.
pub(crate) struct ReadingParts {
    pub(crate) keys: Arc<dyn KeySource>,
    registry: Arc<Registry>,
    trail: Trail,
    purposes: Vec<Purpose>,
    pub(crate) guide: Guide,
    query_id: Option<String>,
    /// Key schedules are worth keeping.
    openers: Mutex<Vec<Opener>>,
    revealers: Mutex<Vec<Revealer>>,
    _upkeep: (Ticker, Upkeep),
}

impl ReadingParts {
    /// Opens what the configuration names.
    ///
    /// # Errors
    /// The configuration has faults or names keys in Kafka, there is no audit, or keys, schemas or
    /// log cannot be opened.
    pub(crate) fn open(settings: &OpenSettings) -> Result<Self, VeilFault> {
        let config = config::load_config(&settings.config).map_err(VeilFault::Config)?;
        check(&config, settings)?;
        let (registry, _) = registry::open_configured(&config.schemas)
            .map_err(|faults| VeilFault::Config(veilstream::exit::faults_error(&faults)))?;
        let registry = Arc::new(registry);
        let (keys, manager) = keys::open_managed(&config.keys, None)
            .map_err(|error| VeilFault::Config(error.context("keys")))?;
        let keys: Arc<dyn KeySource> = keys;
        keys.take_interop(&registry.current())
            .map_err(|fault| VeilFault::Config(anyhow::Error::new(fault).context("keys")))?;
        let trail = Trail::open(config.audit.as_ref(), &manager).map_err(VeilFault::Audit)?;
        let upkeep = upkeep(&keys, &registry, config.schemas.reload_interval)
            .map_err(|error| VeilFault::Config(error.into()))?;
        Ok(Self {
            keys,
            registry,
            trail,
            purposes: config.policy.purposes,
            guide: config.guide,
            query_id: settings.query_id.clone(),
            openers: Mutex::default(),
            revealers: Mutex::default(),
            _upkeep: upkeep,
        })
    }

    /// The schemas in force.
    pub(crate) fn schemas(&self) -> Arc<SchemaSet> {
        self.registry.current()
    }

    /// What all lines of a call have in common.
    ///
    /// # Errors
    /// The purpose is none of those configured, or its reason does not do.
    pub(crate) fn entry(&self, event: Event, purpose: &CallPurpose) -> Result<Entry, VeilFault> {
        self.check_purpose(purpose)?;
        Ok(Entry {
            purpose: purpose.name.clone(),
            reason: purpose.reason.clone(),
            on_behalf_of: purpose.on_behalf_of.clone(),
            request_id: purpose.request_id.clone(),
            query_id: self.query_id.clone(),
            ..self.trail.entry(event)
        })
    }

    /// Makes lines durable. What they tell of may be handed out when this returned.
    ///
    /// # Errors
    /// The log is unavailable.
    pub(crate) fn append(&self, entries: Vec<Entry>) -> Result<(), VeilFault> {
        self.trail.append(entries).map_err(VeilFault::Audit)
    }

    /// Works with an opener that may have the key schedules already.
    pub(crate) fn with_opener<T>(&self, work: impl FnOnce(&mut Opener) -> T) -> T {
        with_kept(&self.openers, work)
    }

    /// Works with a revealer that may have the key schedules already.
    pub(crate) fn with_revealer<T>(&self, work: impl FnOnce(&mut Revealer) -> T) -> T {
        with_kept(&self.revealers, work)
    }

    /// Policies bind the reading service alone. The list of purposes counts here too, where there
    /// is one: a misspelt purpose would stand in the log for good.
    fn check_purpose(&self, purpose: &CallPurpose) -> Result<(), VeilFault> {
        let reason = purpose.reason.as_deref();
        if reason.is_some_and(|reason| reason.chars().count() > MAX_REASON) {
            return Err(VeilFault::Reason);
        }
        for claim in [&purpose.on_behalf_of, &purpose.request_id].into_iter().flatten() {
            if claim.chars().count() > MAX_REASON {
                return Err(VeilFault::Claim);
            }
        }
        let Some(name) = purpose.name.as_deref().filter(|_| !self.purposes.is_empty()) else {
            return Ok(());
        };
        let known = self.purposes.iter().find(|known| known.name == *name);
        let known = known.ok_or(VeilFault::UnknownPurpose)?;
        let reason = reason.filter(|reason| !reason.is_empty());
        match (reason, &known.pattern) {
            (None, _) if known.reason_required => Err(VeilFault::NoReason),
            (Some(reason), Some(pattern)) if !pattern.matches(reason) => Err(VeilFault::Reason),
            _ => Ok(()),
        }
    }
}

impl Drop for ReadingParts {
    fn drop(&mut self) {
        // No thread may be left that holds the key store: a fork that follows would copy SQLite's
        // locks as that thread has them.
        if let Some(log) = self.trail.log() {
            // On an error the chain has no end line, which those who verify it are told.
            let _ = log.end();
        }
    }
}

fn with_kept<W: Default, T>(kept: &Mutex<Vec<W>>, work: impl FnOnce(&mut W) -> T) -> T {
    let lock = || kept.lock().unwrap_or_else(PoisonError::into_inner);
    let mut worker = lock().pop().unwrap_or_default();
    let done = work(&mut worker);
    let mut kept = lock();
    if kept.len() < KEPT {
        kept.push(worker);
    }
    done
}

fn check(config: &Config, settings: &OpenSettings) -> Result<(), VeilFault> {
    if matches!(config.keys.store, KeyStore::Kafka(_)) {
        return Err(VeilFault::KeysInKafka("keys.store"));
    }
    if matches!(config.keys.ledger, KeyLedger::Kafka(_)) {
        return Err(VeilFault::KeysInKafka("keys.ledger"));
    }
    if config.audit.is_none() && !settings.is_unaudited {
        return Err(VeilFault::Unaudited(name(&settings.config)));
    }
    Ok(())
}

fn name(path: &Path) -> String {
    path.display().to_string()
}

/// Hears of erasures, rotations and changed schemas as the sidecar does.
fn upkeep(
    keys: &Arc<dyn KeySource>,
    registry: &Arc<Registry>,
    reload: Duration,
) -> std::io::Result<(Ticker, Upkeep)> {
    let (of_reload, registry) = (keys.clone(), registry.clone());
    let reloads = Ticker::start("veil", reload, move || {
        // Nothing is sealed before it is asked for: no key is made in advance. Faults of documents
        // keep the schemas that are in force; so do other systems' keys that are not there.
        let _ = registry.reload(|set| of_reload.take_interop(set));
    })?;
    Ok((reloads, keys::maintain(keys)?))
}
