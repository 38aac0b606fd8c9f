//! `[keys]`: where keys come from and live.

use std::path::{Path, PathBuf};
use std::time::Duration;

use veilstream_keys::directory;
#[cfg(feature = "aws-kms")]
use veilstream_keys::provider::AwsKmsSettings;
use veilstream_keys::provider::CachePolicy;
#[cfg(feature = "pkcs11")]
use veilstream_keys::provider::Pkcs11Settings;
#[cfg(any(feature = "pkcs11", feature = "vault"))]
use veilstream_keys::provider::SecretText;
#[cfg(feature = "vault")]
use veilstream_keys::provider::{VaultAuth, VaultSettings};

use super::read::{Section, not_empty};
use super::secret::Secret;
use super::{Kafka, duration_in, tenant, topic};

/// Where a Kubernetes pod finds its service account's token.
#[cfg(feature = "vault")]
const SERVICE_ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

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

/// Who holds a key-encrypting key.
#[derive(Debug, Clone)]
pub enum KeyProvider {
    /// 32 bytes in base64 or base64url, from `ENCRYPTION_KEY` or `[keys.env]`.
    Env {
        /// The encoded key.
        key: Secret,
    },
    /// A file of `<version> <base64>` lines.
    File {
        /// The file.
        path: PathBuf,
    },
    /// Derived from a password with PBKDF2.
    Password {
        /// The password.
        password: Secret,
        /// Iterations of new wraps.
        iterations: u32,
    },
    /// Transit of HashiCorp Vault or OpenBao.
    #[cfg(feature = "vault")]
    Vault(VaultSettings),
    /// AWS KMS.
    #[cfg(feature = "aws-kms")]
    AwsKms(AwsKmsSettings),
    /// A PKCS#11 token.
    #[cfg(feature = "pkcs11")]
    Pkcs11(Pkcs11Settings),
}

impl KeyProvider {
    /// Its name in the configuration.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Env { .. } => "env",
            Self::File { .. } => "file",
            Self::Password { .. } => "password",
            #[cfg(feature = "vault")]
            Self::Vault(_) => "vault",
            #[cfg(feature = "aws-kms")]
            Self::AwsKms(_) => "aws-kms",
            #[cfg(feature = "pkcs11")]
            Self::Pkcs11(_) => "pkcs11",
        }
    }
}

pub(super) fn read(mut s: Section<'_, '_>, kafka: &Kafka) -> Keys {
    let provider =
        provider(&mut s, Some("file")).unwrap_or(KeyProvider::File { path: PathBuf::new() });
    let recovery = recovery(s.section("recovery"));
    let default = CachePolicy::default();
    let store = store(&mut s, kafka);
    let keys = Keys {
        tenant: s.parse("tenant", "default".to_owned(), tenant),
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
        "write \"sqlite:keys.db\", \"postgres://host/database\" or \"kafka:veilstream.keys\"";
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
        _ => Err(format!("is no store; {NAMES}")),
    };
    found.unwrap_or_else(|message| {
        s.missing("store", &message);
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
    let ledger = found.unwrap_or_else(|message| {
        s.missing("ledger", &message);
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
fn pg_schema(text: &str) -> Result<String, String> {
    let rest = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let is_name = text.len() < 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.chars().all(rest);
    if is_name {
        Ok(text.to_owned())
    } else {
        Err("is no name; write small letters, digits and _, a letter first, at most 63".to_owned())
    }
}

fn kafka_topic(name: &str, kafka: &Kafka) -> Result<KafkaTopic, String> {
    Ok(KafkaTopic { topic: topic(name)?, kafka: Box::new(kafka.clone()) })
}

fn recovery(mut s: Section<'_, '_>) -> Option<KeyProvider> {
    if s.is_empty() {
        return None;
    }
    let found = provider(&mut s, None);
    s.finish();
    found
}

/// The chosen provider. The sections of the others may stay in the file.
fn provider(s: &mut Section<'_, '_>, default: Option<&str>) -> Option<KeyProvider> {
    const NAMES: &str = "write env, file, password, vault, aws-kms or pkcs11";
    let is_given = !s.is_empty();
    let name = s.parse("provider", default.map(str::to_owned), |text| match text {
        "env" | "file" | "password" => Ok(Some(text.to_owned())),
        "aws-kms" if cfg!(feature = "aws-kms") => Ok(Some(text.to_owned())),
        "pkcs11" if cfg!(feature = "pkcs11") => Ok(Some(text.to_owned())),
        "vault" if cfg!(feature = "vault") => Ok(Some(text.to_owned())),
        "aws-kms" | "pkcs11" | "vault" => {
            Err(format!("is not in this program; build it with --features {text}"))
        }
        _ => Err(format!("is no provider; {NAMES}")),
    });
    if name.is_none() && is_given {
        s.missing("provider", &format!("is missing; {NAMES}"));
    }
    let is = |other: &str| name.as_deref() == Some(other);
    let env = env(s.section("env"), is("env"));
    let file = file(s.section("file"));
    let password = password(s.section("password"), is("password"));
    #[cfg(feature = "vault")]
    let vault = vault(s.section("vault"), is("vault"));
    #[cfg(feature = "aws-kms")]
    let aws_kms = aws_kms(s.section("aws-kms"), is("aws-kms"));
    #[cfg(feature = "pkcs11")]
    let pkcs11 = pkcs11(s.section("pkcs11"), is("pkcs11"));
    match name.as_deref()? {
        "env" => Some(env),
        "password" => Some(password),
        #[cfg(feature = "vault")]
        "vault" => Some(vault),
        #[cfg(feature = "aws-kms")]
        "aws-kms" => Some(aws_kms),
        #[cfg(feature = "pkcs11")]
        "pkcs11" => Some(pkcs11),
        _ => Some(file),
    }
}

/// A missing secret is a fault already: the configuration is refused, whatever stands here.
fn or_none(secret: Option<Secret>) -> Secret {
    secret.unwrap_or_else(|| Secret::new(String::new()))
}

fn env(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let key = s.secret("key", "key_file");
    if is_chosen && key.is_none() {
        s.missing(
            "key",
            "is missing; set ENCRYPTION_KEY to 32 random bytes in base64 (openssl \
            rand -base64 32) or name a file with key_file",
        );
    }
    s.finish();
    KeyProvider::Env { key: or_none(key) }
}

fn file(mut s: Section<'_, '_>) -> KeyProvider {
    let path = s.path("path", "kek");
    s.finish();
    KeyProvider::File { path }
}

fn password(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let password = s.secret_whole("password", "password_file");
    let iterations = s.number("iterations", 600_000, 600_000..=10_000_000);
    if is_chosen && password.is_none() {
        s.missing("password", "is missing; name a file that holds it with password_file");
    }
    s.finish();
    KeyProvider::Password { password: or_none(password), iterations }
}

#[cfg(any(feature = "aws-kms", feature = "vault"))]
fn timeout(s: &mut Section<'_, '_>) -> Duration {
    s.parse("timeout", Duration::from_secs(5), |t| duration_in(t, "100ms", "60s"))
}

#[cfg(feature = "vault")]
fn vault(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let method = s.parse("auth", "token".to_owned(), |text| match text {
        "token" | "approle" | "jwt" | "kubernetes" => Ok(text.to_owned()),
        _ => Err("is no method; write token, approle, jwt or kubernetes".to_owned()),
    });
    let mount = s.parse("auth_mount", method.clone(), path_part);
    let (token, secret_id, jwt) = (
        s.secret_text("token", "token_file"),
        s.secret_text("secret_id", "secret_id_file"),
        s.secret_text("jwt", "jwt_file"),
    );
    let (role, role_id) = (s.optional("role"), s.optional("role_id"));
    let none = || SecretText::Given(String::new().into());
    let jwt =
        jwt.or_else(|| (method == "kubernetes").then(|| SecretText::File(SERVICE_ACCOUNT.into())));
    let needed: [(&str, bool, &str); 5] = [
        (
            "token",
            method == "token" && token.is_none(),
            "is missing; name a file that holds it with token_file",
        ),
        (
            "role_id",
            method == "approle" && role_id.is_none(),
            "is missing; write the AppRole's role_id",
        ),
        (
            "secret_id",
            method == "approle" && secret_id.is_none(),
            "is missing; name a file that holds it with secret_id_file",
        ),
        (
            "role",
            (method == "jwt" || method == "kubernetes") && role.is_none(),
            "is missing; write the role to log in as",
        ),
        (
            "jwt",
            method == "jwt" && jwt.is_none(),
            "is missing; name the file the platform puts it into with jwt_file",
        ),
    ];
    for (key, is_missing, message) in needed {
        if is_chosen && is_missing {
            s.missing(key, message);
        }
    }
    let auth = match method.as_str() {
        "approle" => VaultAuth::AppRole {
            mount,
            role_id: role_id.unwrap_or_default(),
            secret_id: secret_id.unwrap_or_else(none),
        },
        "jwt" | "kubernetes" => VaultAuth::Jwt {
            mount,
            role: role.unwrap_or_default(),
            token: jwt.unwrap_or_else(none),
        },
        _ => VaultAuth::Token(token.unwrap_or_else(none)),
    };
    let settings = VaultSettings {
        address: s.parse("address", "https://127.0.0.1:8200".to_owned(), not_empty),
        mount: s.parse("mount", "transit".to_owned(), path_part),
        key: s.parse("key", "veilstream".to_owned(), path_part),
        namespace: s.optional("namespace"),
        ca_file: s.optional_path("ca_file"),
        timeout: timeout(&mut s),
        batch: s.number("batch", 200, 1..=5000),
        auth,
    };
    s.finish();
    KeyProvider::Vault(settings)
}

/// A part of a path at Vault, which may have several segments.
#[cfg(feature = "vault")]
fn path_part(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let is_path = !text.is_empty()
        && text.chars().all(legal)
        && text.split('/').all(|part| !part.trim_matches('.').is_empty());
    if is_path {
        Ok(text.to_owned())
    } else {
        Err("is no path; write letters, digits, - and _, with / between parts".to_owned())
    }
}

#[cfg(feature = "aws-kms")]
fn aws_kms(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let key_arns = s.list("key_arns");
    if is_chosen && key_arns.is_empty() {
        s.missing("key_arns", "is missing; write [\"arn:aws:kms:REGION:ACCOUNT:key/ID\"]");
    }
    let settings = AwsKmsSettings {
        key_arns,
        endpoint: s.optional("endpoint"),
        profile: s.optional("profile"),
        timeout: timeout(&mut s),
    };
    s.finish();
    KeyProvider::AwsKms(settings)
}

#[cfg(feature = "pkcs11")]
fn pkcs11(mut s: Section<'_, '_>, is_chosen: bool) -> KeyProvider {
    let (module, pin) = (s.optional_path("module"), s.secret_text("pin", "pin_file"));
    for (key, is_missing, message) in [
        ("module", module.is_none(), "is missing; write the path of the vendor's shared library"),
        ("pin", pin.is_none(), "is missing; name a file that holds it with pin_file"),
    ] {
        if is_chosen && is_missing {
            s.missing(key, message);
        }
    }
    let settings = Pkcs11Settings {
        module: module.unwrap_or_default(),
        token_label: s.parse("token_label", "veilstream".to_owned(), not_empty),
        key_label: s.parse("key_label", "veilstream".to_owned(), not_empty),
        pin: pin.unwrap_or_else(|| SecretText::Given(String::new().into())),
    };
    s.finish();
    KeyProvider::Pkcs11(settings)
}
