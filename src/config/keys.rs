//! `[keys]`: where keys come from and live.

mod provider;

use std::path::{Path, PathBuf};
use std::time::Duration;

use veilstream_keys::directory;
use veilstream_keys::interop::InteropFiles;
use veilstream_keys::provider::CachePolicy;

pub use provider::KeyProvider;
use provider::{provider, recovery};

use super::read::{Section, not_empty};
use super::secret::Secret;
use super::value_error::ValueError;
use super::{Kafka, duration_in, name, topic};

/// Where keys come from and live.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The tenant all keys and tokens belong to.
    pub tenant: String,
    /// Who holds the key-encrypting key.
    pub provider: KeyProvider,
    /// Who holds the key that opens everything where the other one is lost.
    pub recovery: Option<KeyProvider>,
    /// The key store.
    pub store: KeyStore,
    /// The erasure ledger.
    pub ledger: KeyLedger,
    /// Whether keys are rotated by themselves.
    pub rotation_enabled: bool,
    /// How old, in days, is old.
    pub rotation_interval_days: u32,
    /// How long keys that the provider unwrapped are kept.
    pub cache: CachePolicy,
    /// How long a key that was looked up is kept at most.
    pub lookup_max_age: Duration,
    /// Keys of data subjects kept at most.
    pub subject_cache: usize,
    /// Where keys of other systems stand (`[interop]`).
    pub interop: InteropFiles,
}

/// Where wrapped keys live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyStore {
    /// `sqlite:<path>`
    Sqlite(PathBuf),
    /// `kafka:<topic>`
    Kafka(KafkaTopic),
    /// `postgres://...`
    #[cfg(feature = "postgres")]
    Postgres {
        /// The URL, with its password.
        url: Secret,
        /// The authorities that count instead of the system's.
        ca: Option<PathBuf>,
        /// The schema in the database.
        schema: String,
    },
}

/// Where erasures are written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyLedger {
    /// `<path>`
    File(PathBuf),
    /// `kafka:<topic>`
    Kafka(KafkaTopic),
    /// `postgres://...`, of another database than the store's.
    #[cfg(feature = "postgres")]
    Postgres {
        /// The URL, with its password.
        url: Secret,
        /// The authorities that count instead of the system's.
        ca: Option<PathBuf>,
    },
}

/// A topic, and the brokers of `[kafka]` it is at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaTopic {
    /// Its name.
    pub topic: String,
    /// The brokers.
    pub kafka: Box<Kafka>,
}

pub(super) fn read(mut s: Section<'_, '_>, kafka: &Kafka) -> Keys {
    let provider =
        provider(&mut s, Some("file")).unwrap_or(KeyProvider::File { path: PathBuf::new() });
    let recovery = recovery(s.section("recovery"));
    let default = CachePolicy::default();
    let store = store(&mut s, kafka);
    let keys = Keys {
        tenant: s.parse("tenant", "default".to_owned(), name),
        provider,
        recovery,
        ledger: ledger(&mut s, kafka, &store),
        store,
        rotation_enabled: s.flag("rotation_enabled", true),
        rotation_interval_days: s.number("rotation_interval_days", 90, 1..=3650),
        cache: CachePolicy {
            refresh: s.parse("cache_refresh", default.refresh, |t| duration_in(t, "1s", "24h")),
            max_age: s.parse("cache_max_age", default.max_age, |t| duration_in(t, "1s", "168h")),
        },
        lookup_max_age: s
            .parse("lookup_max_age", Duration::from_secs(600), |t| duration_in(t, "1s", "24h")),
        subject_cache: s.number("subject_cache", 100_000, 1..=100_000_000),
        interop: InteropFiles::default(),
    };
    if keys.cache.refresh > keys.cache.max_age {
        s.missing(
            "cache_refresh",
            "is longer than cache_max_age; a key is refreshed before it is too old",
        );
    }
    s.finish();
    keys
}

fn store(s: &mut Section<'_, '_>, kafka: &Kafka) -> KeyStore {
    const NAMES: &str =
        "\"sqlite:keys.db\", \"postgres://host/database\" or \"kafka:veilstream.keys\"";
    let base = s.base().to_owned();
    #[cfg(feature = "postgres")]
    let ca = s.optional_path("store_ca_file");
    #[cfg(feature = "postgres")]
    let schema =
        s.parse("store_schema", veilstream_keys::store::DEFAULT_SCHEMA.to_owned(), pg_schema);
    // Secret, because a URL may hold a password: a fault does not quote it.
    let Some(text) = s.secret("store", "store_file") else {
        return KeyStore::Sqlite(base.join("keys.db"));
    };
    let found = match text.expose().split_once(':') {
        Some(("sqlite", path)) if !path.is_empty() => Ok(KeyStore::Sqlite(base.join(path))),
        Some(("kafka", name)) => kafka_topic(name, kafka).map(KeyStore::Kafka),
        #[cfg(feature = "postgres")]
        Some(("postgres" | "postgresql", _)) => Ok(KeyStore::Postgres { url: text, ca, schema }),
        _ => Err(ValueError::form("no store", NAMES)),
    };
    found.unwrap_or_else(|error| {
        s.missing("store", &error.to_string());
        KeyStore::Sqlite(PathBuf::new())
    })
}

/// The ledger stands outside the store, where every process that writes the store reaches it.
fn ledger(s: &mut Section<'_, '_>, kafka: &Kafka, store: &KeyStore) -> KeyLedger {
    const NAMES: &str = "write \"kafka:<topic>\" or the postgres:// URL of another database";
    let base = s.base().to_owned();
    #[cfg(feature = "postgres")]
    let ca = s.optional_path("ledger_ca_file");
    // Secret, because a URL may hold a password: a fault does not quote it.
    let text = s.secret("ledger", "ledger_file");
    let found = match text.as_ref().map(Secret::expose) {
        None => Ok(KeyLedger::File(beside(store, &base))),
        Some(text) => match text.split_once(':') {
            Some(("kafka", name)) => kafka_topic(name, kafka).map(KeyLedger::Kafka),
            #[cfg(feature = "postgres")]
            Some(("postgres" | "postgresql", _)) => {
                Ok(KeyLedger::Postgres { url: Secret::new(text.to_owned()), ca })
            }
            _ => not_empty(text).map(|path| KeyLedger::File(base.join(path))),
        },
    };
    let ledger = found.unwrap_or_else(|error| {
        s.missing("ledger", &error.to_string());
        KeyLedger::File(PathBuf::new())
    });
    match (store, &ledger) {
        (KeyStore::Sqlite(_), _) | (KeyStore::Kafka(_), KeyLedger::Kafka(_)) => {}
        (_, KeyLedger::File(_)) => s.missing(
            "ledger",
            &format!("is a file of this host, but other hosts erase in the same store; {NAMES}"),
        ),
        #[cfg(feature = "postgres")]
        (KeyStore::Postgres { url: store, .. }, KeyLedger::Postgres { url, .. })
            if database(store.expose()) == database(url.expose()) =>
        {
            s.missing(
                "ledger",
                &format!(
                    "is in the database of the store, so one backup would restore both; {NAMES}"
                ),
            );
        }
        #[cfg(feature = "postgres")]
        _ => {}
    }
    if let (KeyStore::Kafka(store), KeyLedger::Kafka(ledger)) = (store, &ledger)
        && store.topic == ledger.topic
    {
        s.missing("ledger", "is the topic of the store; name another one");
    }
    ledger
}

/// Beside the folder that the store is in; where that is the configuration's own, in it.
fn beside(store: &KeyStore, base: &Path) -> PathBuf {
    match store {
        KeyStore::Sqlite(path)
            if path
                .parent()
                .is_some_and(|folder| folder != base && folder.file_name().is_some()) =>
        {
            directory::ledger(path.parent().unwrap_or(base))
        }
        _ => base.join("erasures.jsonl"),
    }
}

/// Host and database of a URL, without who and how.
#[cfg(feature = "postgres")]
fn database(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    rest.split('?').next().unwrap_or(rest)
}

#[cfg(feature = "postgres")]
fn pg_schema(text: &str) -> Result<String, ValueError> {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_name = text.len() < 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(rest);
    if is_name {
        Ok(text.to_owned())
    } else {
        Err(ValueError::form("no name", "small letters, digits and _, a letter first, at most 63"))
    }
}

fn kafka_topic(name: &str, kafka: &Kafka) -> Result<KafkaTopic, ValueError> {
    Ok(KafkaTopic { topic: topic(name)?, kafka: Box::new(kafka.clone()) })
}
