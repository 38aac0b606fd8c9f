//! The key manager as the parts of the sidecar use it: opened from the configuration or a key
//! directory, timed by the system's clock, metered.

mod health;
mod lookup;
mod source;
pub mod topic;
mod upkeep;

pub use lookup::KeyLookup;
pub use upkeep::{Upkeep, maintain};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Args;
use veilstream_engine::Keyring;
use veilstream_engine::compile::SchemaSet;
use veilstream_engine::key::{Key, KeyId, KeyKind};
use veilstream_engine::transform::NeededKey;
use veilstream_keys::credential::{Credentials, Suspension};
#[cfg(feature = "postgres")]
use veilstream_keys::erasure::PostgresLedger;
use veilstream_keys::erasure::{FileLedger, Ledger, LedgerError};
use veilstream_keys::escrow::EscrowError;
use veilstream_keys::interop::{self, InteropFiles};
#[cfg(feature = "aws-kms")]
use veilstream_keys::provider::AwsKmsProvider;
#[cfg(feature = "pkcs11")]
use veilstream_keys::provider::Pkcs11Provider;
#[cfg(feature = "vault")]
use veilstream_keys::provider::VaultProvider;
use veilstream_keys::provider::{
    CachePolicy, Clock, EnvProvider, FileProvider, Observer, PasswordProvider, Provider,
    ProviderError, RetryPolicy, SystemClock, create_kek_file, layered,
};
#[cfg(feature = "postgres")]
use veilstream_keys::store::PostgresStore;
use veilstream_keys::store::{SqliteStore, Store};
use veilstream_keys::{KeyError, Manager, Parts, RebuiltLedger, Settings, directory, files};

use crate::config::{self, KeyLedger, KeyProvider, KeyStore};
use crate::exit::Exit;
use crate::kafka::access;
use crate::keys::health::{Duty, KeyHealth};
use crate::keys::topic::{KafkaLedger, KafkaStore};
use crate::telemetry::metrics::Metrics;
pub use source::{CredentialSource, KeyFault, KeySource};

/// The tenant of a key directory: `keys init --keys` knows no other.
const DIRECTORY_TENANT: &str = "default";

/// Opens the keys a configuration names. With `metrics`, requests to the provider, uses and ages
/// are counted.
///
/// # Errors
/// The store or the provider cannot be opened.
pub fn open(
    config: &config::Keys,
    metrics: Option<Arc<Metrics>>,
) -> anyhow::Result<Arc<dyn KeySource>> {
    Ok(open_managed(config, metrics)?.0)
}

/// As [`open`], and the key manager behind it: the audit log takes its signing key and the erasure
/// ledger's head from there.
///
/// # Errors
/// As [`open`].
pub fn open_managed(
    config: &config::Keys,
    metrics: Option<Arc<Metrics>>,
) -> anyhow::Result<(Arc<ManagedKeys>, Arc<Manager>)> {
    open_with(manager_settings(config), config, metrics)
}

/// As [`open_managed`], for the reading service. It replaces no keys, and unwraps only the kinds
/// that it needs. `opens`: values, not only what to search for.
///
/// # Errors
/// As [`open`].
pub fn open_reading(
    config: &config::Keys,
    metrics: Option<Arc<Metrics>>,
    opens: bool,
) -> anyhow::Result<(Arc<ManagedKeys>, Arc<Manager>)> {
    const SEARCHES: &[KeyKind] =
        &[KeyKind::DeadLetter, KeyKind::Data, KeyKind::Deterministic, KeyKind::Wrapping];
    let wrapped = if opens { &[KeyKind::DeadLetter][..] } else { SEARCHES };
    open_with(Settings { rotation: None, wrapped, ..manager_settings(config) }, config, metrics)
}

fn open_with(
    settings: Settings,
    config: &config::Keys,
    metrics: Option<Arc<Metrics>>,
) -> anyhow::Result<(Arc<ManagedKeys>, Arc<Manager>)> {
    let parts = parts(config, store(config)?, metrics.clone())?;
    let manager = Arc::new(Manager::open(settings, parts, now())?);
    warn_of_revived(&manager);
    let keys = ManagedKeys {
        manager: manager.clone(),
        metrics,
        interop: config.interop.clone(),
        health: KeyHealth::default(),
    };
    Ok((Arc::new(keys), manager))
}

/// The key manager itself, for what changes keys.
///
/// # Errors
/// The store or the provider cannot be opened.
pub fn manager(config: &config::Keys) -> anyhow::Result<Manager> {
    Ok(Manager::open(manager_settings(config), parts(config, store(config)?, None)?, now())?)
}

/// Keys of erased subjects that were there again: a backup was restored, or somebody put rows back.
fn warn_of_revived(manager: &Manager) {
    if manager.revived() > 0 {
        tracing::warn!(
            keys = manager.revived(),
            "keys of erased data subjects were in the key store again and are destroyed; was a \
            backup restored?"
        );
    }
}

/// The key manager where the provider may not open what the store holds.
///
/// # Errors
/// The store cannot be opened, or a provider is not usable.
pub fn manager_to_recover(config: &config::Keys) -> anyhow::Result<Manager> {
    Ok(Manager::open_to_recover(
        manager_settings(config),
        parts(config, store(config)?, None)?,
        now(),
    )?)
}

/// Writes a new erasure ledger for one that is lost.
///
/// # Errors
/// The ledger is whole, or store, ledger or provider cannot be opened.
pub fn rebuild_ledger(config: &config::Keys, reason: &str) -> anyhow::Result<RebuiltLedger> {
    make_ledger(config)?;
    Ok(Manager::rebuild_ledger(
        manager_settings(config),
        parts(config, store(config)?, None)?,
        reason,
        now(),
    )?)
}

/// Imports an export of keys.
///
/// # Errors
/// Store, ledger or provider cannot be opened, or the export is none for them.
pub fn import(config: &config::Keys, export: &[u8]) -> anyhow::Result<usize> {
    match Manager::import(
        manager_settings(config),
        parts(config, store(config)?, None)?,
        export,
        now(),
    ) {
        Ok(count) => Ok(count),
        Err(EscrowError::Keys(error)) => Err(error.into()),
        Err(error) => Err(error.into()),
    }
}

/// The key store, for what only looks at it.
///
/// # Errors
/// It cannot be opened.
pub fn store(config: &config::Keys) -> anyhow::Result<Box<dyn Store>> {
    match &config.store {
        KeyStore::Sqlite(path) => Ok(Box::new(SqliteStore::open(path)?)),
        KeyStore::Kafka(at) => {
            access::check(&at.kafka).map_err(|e| e.exit().because(e.to_string()))?;
            Ok(Box::new(KafkaStore::open(&at.kafka, &at.topic)?))
        }
        #[cfg(feature = "postgres")]
        KeyStore::Postgres { url, ca, schema } => {
            Ok(Box::new(PostgresStore::open_in(url.expose(), ca.as_deref(), schema)?))
        }
    }
}

fn create_store(config: &config::Keys) -> anyhow::Result<Box<dyn Store>> {
    match &config.store {
        KeyStore::Sqlite(path) => Ok(Box::new(SqliteStore::create(path)?)),
        KeyStore::Kafka(at) => {
            access::check(&at.kafka).map_err(|e| e.exit().because(e.to_string()))?;
            Ok(Box::new(KafkaStore::create(&at.kafka, &at.topic)?))
        }
        #[cfg(feature = "postgres")]
        KeyStore::Postgres { url, ca, schema } => {
            Ok(Box::new(PostgresStore::create_in(url.expose(), ca.as_deref(), schema)?))
        }
    }
}

fn ledger(config: &config::Keys) -> Result<Arc<dyn Ledger>, LedgerError> {
    Ok(match &config.ledger {
        KeyLedger::File(path) => Arc::new(FileLedger::new(path.clone())),
        KeyLedger::Kafka(at) => Arc::new(KafkaLedger::open(&at.kafka, &at.topic)?),
        #[cfg(feature = "postgres")]
        KeyLedger::Postgres { url, ca } => {
            Arc::new(PostgresLedger::open(url.expose(), ca.as_deref())?)
        }
    })
}

/// Makes what the ledger is kept in, unless it is there; never a line of it.
fn make_ledger(config: &config::Keys) -> anyhow::Result<()> {
    match &config.ledger {
        KeyLedger::File(path) => files::create_folder_of(path)
            .with_context(|| format!("the folder of {} cannot be made", path.display())),
        KeyLedger::Kafka(at) => Ok(KafkaLedger::create(&at.kafka, &at.topic)?),
        #[cfg(feature = "postgres")]
        KeyLedger::Postgres { url, ca } => Ok(PostgresLedger::create(url.expose(), ca.as_deref())?),
    }
}

fn manager_settings(config: &config::Keys) -> Settings {
    let rotation =
        config.rotation_enabled.then_some(u64::from(config.rotation_interval_days) * 86400);
    Settings {
        rotation,
        subject_cache: config.subject_cache,
        lookup_age: config.lookup_max_age.as_secs(),
        ..Settings::of(&config.tenant)
    }
}

fn parts(
    config: &config::Keys,
    store: Box<dyn Store>,
    metrics: Option<Arc<Metrics>>,
) -> anyhow::Result<Parts> {
    let (clock, observer): (Arc<dyn Clock>, Arc<dyn Observer>) =
        (Arc::new(SystemClock::default()), Arc::new(Metered(metrics)));
    for named in std::iter::once(&config.provider).chain(&config.recovery) {
        missing_kek(config, named)?;
    }
    let open = |named: &KeyProvider| {
        Ok::<_, ProviderError>(layered(
            provider(named)?,
            observer.clone(),
            RetryPolicy::default(),
            config.cache,
            &clock,
        ))
    };
    let recovery = config.recovery.as_ref().map(open).transpose()?;
    Ok(Parts { provider: open(&config.provider)?, recovery, store, ledger: ledger(config)? })
}

/// A file of key-encrypting keys that is gone while the store is there: another one in its place
/// would open nothing.
fn missing_kek(config: &config::Keys, named: &KeyProvider) -> anyhow::Result<()> {
    let KeyProvider::File { path } = named else { return Ok(()) };
    let is_store_there = !matches!(&config.store, KeyStore::Sqlite(store) if !store.exists());
    anyhow::ensure!(
        path.exists() || !is_store_there,
        "the file of key-encrypting keys {} is not there, but the key store is: restore it. With \
        keys.recovery: make a new one (a line `1 <base64 of 32 bytes>`, mode 0600) and run \
        `veilstream keys rewrap --recover`",
        path.display()
    );
    Ok(())
}

/// Opens the keys a one-shot command was pointed at: `--keys DIR`, or the `[keys]` section of
/// `--config FILE`.
///
/// # Errors
/// None was named, or as [`open`].
pub fn open_local(source: &KeysSource) -> anyhow::Result<Arc<dyn KeySource>> {
    open(&settings(source)?, None)
}

/// Where a local command finds its keys: a directory, or what a configuration says.
#[derive(Debug, Clone, Args)]
#[group(required = false, multiple = false)]
pub struct KeysSource {
    /// Directory made by `veilstream keys init` [env: VEILSTREAM_KEYS]
    #[arg(long, value_name = "DIR")]
    pub keys: Option<PathBuf>,
    /// Configuration file
    #[arg(long, value_name = "FILE", help = "Configuration file whose [keys] section counts")]
    pub config: Option<PathBuf>,
}

/// The `[keys]` section a command was pointed at; a key directory stands for one.
///
/// # Errors
/// None was named, or the configuration has faults.
pub fn settings(source: &KeysSource) -> anyhow::Result<config::Keys> {
    // Read here and not by clap, for which the variable would be at odds with a --config that was
    // typed.
    let keys = source.keys.clone().or_else(|| {
        std::env::var_os("VEILSTREAM_KEYS").filter(|dir| !dir.is_empty()).map(PathBuf::from)
    });
    match (&source.config, keys) {
        (Some(file), _) => Ok(config::load_config(file)?.keys),
        (None, Some(dir)) => Ok(of_directory(&dir)),
        (None, None) => Err(Exit::Usage.because(
            "no keys: name their directory with --keys DIR (or \
            VEILSTREAM_KEYS), or a configuration with --config FILE",
        )),
    }
}

/// The provider a configuration names.
fn provider(named: &KeyProvider) -> Result<Box<dyn Provider>, ProviderError> {
    Ok(match named {
        KeyProvider::Env { key } => Box::new(EnvProvider::new(key.expose())?),
        KeyProvider::File { path } => Box::new(FileProvider::new(path.clone())?),
        KeyProvider::Password { password, iterations } => {
            Box::new(PasswordProvider::new(password.expose(), *iterations)?)
        }
        #[cfg(feature = "vault")]
        KeyProvider::Vault(settings) => Box::new(VaultProvider::new(settings.clone())?),
        #[cfg(feature = "aws-kms")]
        KeyProvider::AwsKms(settings) => Box::new(AwsKmsProvider::new(settings)?),
        #[cfg(feature = "pkcs11")]
        KeyProvider::Pkcs11(settings) => Box::new(Pkcs11Provider::new(settings.clone())?),
    })
}

/// Makes what a configuration or directory lacks: files of key-encrypting keys (provider `file`),
/// the store, and, unless it is to stay `empty`, the roots in it. A file of key-encrypting keys
/// that is there is used and not changed. Returns the place of the store too.
///
/// # Errors
/// There is a store already, or something cannot be made.
pub fn init(source: &KeysSource, empty: bool) -> anyhow::Result<(config::Keys, String)> {
    let keys = settings(source)?;
    if let KeyStore::Sqlite(path) = &keys.store {
        anyhow::ensure!(!path.exists(), "{} is there already; nothing was changed", path.display());
        // It would belong to a store that is gone.
        if let KeyLedger::File(ledger) = &keys.ledger
            && !empty
        {
            anyhow::ensure!(
                !ledger.exists(),
                "the erasure ledger {} is there already; nothing was changed",
                ledger.display()
            );
        }
        files::create_folder_of(path)
            .with_context(|| format!("the folder of {} cannot be made", path.display()))?;
    }
    make_ledger(&keys)?;
    for named in std::iter::once(&keys.provider).chain(&keys.recovery) {
        if let KeyProvider::File { path } = named
            && !path.exists()
        {
            files::create_folder_of(path)
                .and_then(|()| create_kek_file(path))
                .with_context(|| format!("{} cannot be made", path.display()))?;
        }
        // The key-encrypting keys must be usable before there is a store.
        provider(named)?.health()?;
    }
    let parts = parts(&keys, create_store(&keys)?, None)?;
    if empty {
        let place = parts.store.place();
        return Ok((keys, place));
    }
    let manager = Manager::init(manager_settings(&keys), parts, now())?;
    manager.prepare_roots(now())?;
    let place = manager.store().place();
    Ok((keys, place))
}

fn of_directory(dir: &Path) -> config::Keys {
    config::Keys {
        tenant: DIRECTORY_TENANT.to_owned(),
        provider: KeyProvider::File { path: directory::kek(dir) },
        recovery: None,
        store: KeyStore::Sqlite(directory::store(dir)),
        ledger: KeyLedger::File(directory::ledger(dir)),
        rotation_enabled: true,
        rotation_interval_days: 90,
        cache: CachePolicy::default(),
        lookup_max_age: Duration::from_secs(600),
        subject_cache: 100_000,
        interop: InteropFiles {
            base: dir.to_owned(),
            fernet: Some(directory::fernet_keys(dir)),
            pgcrypto: Some(directory::passphrases(dir)),
        },
    }
}

/// A manager with a clock.
pub struct ManagedKeys {
    manager: Arc<Manager>,
    metrics: Option<Arc<Metrics>>,
    interop: InteropFiles,
    health: KeyHealth,
}

impl KeySource for ManagedKeys {
    fn keyring(&self) -> Arc<Keyring> {
        self.manager.keyring()
    }

    fn fetch(&self, needed: &[NeededKey]) -> Result<Vec<Arc<Key>>, KeyFault> {
        self.manager.fetch(needed, now()).map_err(fault)
    }

    fn lookup(&self, id: &KeyId) -> Result<Option<Arc<Key>>, KeyFault> {
        self.manager.lookup(id, now()).map_err(fault)
    }

    fn lookup_for_reading(&self, id: &KeyId) -> Result<Option<Arc<Key>>, KeyFault> {
        let found = self.manager.lookup_for_reading(id, now());
        self.health.looked_up(id, found.as_ref().err());
        found.map_err(fault)
    }

    fn held_for_reading(&self, id: &KeyId) -> Option<Arc<Key>> {
        self.manager.held_for_reading(id, now())
    }

    fn take_interop(&self, schemas: &SchemaSet) -> Result<(), KeyFault> {
        // A new snapshot costs every lane its key schedules: only for schemas with such fields.
        let places = interop::places(schemas);
        let held = self.manager.keyring().interop().clone();
        if places.is_empty() || places.iter().all(|place| held.get(place).is_some()) {
            return Ok(());
        }
        let keys = self.interop.load(schemas).map_err(|error| KeyFault(error.to_string()))?;
        self.manager.take_interop(Arc::new(held.joined(keys)));
        Ok(())
    }

    fn prepare(&self, schemas: &SchemaSet) -> Result<(), KeyFault> {
        self.take_interop(schemas)?;
        self.manager.prepare(schemas, now()).map_err(fault)
    }

    fn follow(&self) {
        self.health.watch(Duty::Follow, || self.manager.follow(now()));
    }

    fn renew(&self) {
        self.health.watch(Duty::Renew, || self.manager.renew(now()));
        if let Some(metrics) = &self.metrics {
            self.measure(metrics);
        }
    }
}

impl CredentialSource for ManagedKeys {
    fn credentials(&self) -> Result<Credentials, KeyFault> {
        self.manager.store().credentials().map_err(|error| KeyFault(error.to_string()))
    }

    fn suspend(&self, suspension: &Suspension) -> Result<(), KeyFault> {
        let store = self.manager.store();
        // An id that is taken is this suspension, written by an attempt whose answer was lost.
        store.suspend(suspension).map(drop).map_err(|error| KeyFault(error.to_string()))
    }
}

impl ManagedKeys {
    /// Whether key store and key service answer. A key that a caller did not get is asked for again:
    /// a service that is not ready has no callers who would. Blocks.
    ///
    /// # Errors
    /// [`KeyFault`]: they do not, so keys may be missing.
    pub fn check(&self) -> Result<(), KeyFault> {
        if let Some(outage) = self.health.outage() {
            return Err(KeyFault(outage));
        }
        match self.health.awaited() {
            Some(kid) => self.lookup_for_reading(&kid).map(drop),
            None => Ok(()),
        }
    }

    fn measure(&self, metrics: &Metrics) {
        let usage = self.manager.usage();
        for (schema, uses, _) in &usage {
            metrics
                .data_key_uses
                .with_label_values(&[schema])
                .set(i64::try_from(*uses).unwrap_or(i64::MAX));
        }
        if let Some(oldest) = usage.iter().map(|(_, _, created)| *created).min() {
            // Below 2^53 for another 285 million years.
            #[expect(clippy::cast_precision_loss)]
            metrics.key_age.set(now().saturating_sub(oldest) as f64);
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn fault(error: KeyError) -> KeyFault {
    KeyFault(error.to_string())
}

/// Unix seconds.
pub fn now() -> u64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_secs())
}

/// Counts and times what the provider is asked.
struct Metered(Option<Arc<Metrics>>);

impl Observer for Metered {
    fn asked(
        &self,
        provider: &'static str,
        operation: &'static str,
        outcome: &'static str,
        took: Duration,
    ) {
        if let Some(metrics) = &self.0 {
            metrics.key_requests.with_label_values(&[provider, operation, outcome]).inc();
            metrics.key_request_seconds.observe(took.as_secs_f64());
        }
    }
}
