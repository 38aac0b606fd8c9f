//! Provider `vault`: a key in the Transit engine of HashiCorp Vault or OpenBao. The key is a
//! derived one, and what a wrap is tied to is its `context`: of all that Transit offers, that alone
//! is checked on `rewrap` too.

mod answer;
mod client;
mod reader;

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Method;
use serde::{Deserialize, Serialize};
use veilstream_engine::key::SecretKey;
use veilstream_engine::wrap::WrapContext;
use zeroize::Zeroizing;

use super::{Kek, Provider, ProviderError, Rotation, SecretText, decode_key};
use crate::store::Wrap;
use answer::RequestFailure;
use client::{Client, Nothing};
pub use reader::TransitReader;

const NAME: &str = "vault";

/// Where the key is and who asks for it.
#[derive(Debug, Clone)]
pub struct VaultSettings {
    /// `https://host:port`; `http` only to this host.
    pub address: String,
    /// Path at which the Transit engine is mounted.
    pub mount: String,
    /// Name of the Transit key that wraps.
    pub key: String,
    /// Namespace of the engine and of the login; `None`: no request names one.
    pub namespace: Option<String>,
    /// PEM file of the certificate authorities that count; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// How long one request may take.
    pub timeout: Duration,
    /// Wraps sent in one request at most; servers refuse too many.
    pub batch: usize,
    /// How this process proves who it is.
    pub auth: VaultAuth,
}

/// How a process proves who it is.
#[derive(Debug, Clone)]
pub enum VaultAuth {
    /// A token that somebody else made and renews, such as an agent beside this process.
    Token(SecretText),
    /// `AppRole`.
    AppRole {
        /// Path of the method below `auth/`.
        mount: String,
        /// Id of the role, as the server made it.
        role_id: String,
        /// Secret id of the role, read at each login.
        secret_id: SecretText,
    },
    /// A signed token of the platform, for the methods `jwt` and `kubernetes`.
    Jwt {
        /// Path of the method below `auth/`.
        mount: String,
        /// Name of the role that the token may take.
        role: String,
        /// The platform's token, read at each login.
        token: SecretText,
    },
}

/// Asks the server at each use.
pub struct VaultProvider {
    client: Client,
    mount: String,
    key: String,
    uri: String,
    batch: usize,
}

impl VaultProvider {
    /// Over the key that the settings name. Asks nobody yet.
    ///
    /// # Errors
    /// The address is none, or the certificates cannot be read.
    pub fn new(settings: VaultSettings) -> Result<Self, ProviderError> {
        let place = [settings.namespace.as_deref(), Some(&settings.mount), Some(&settings.key)];
        let uri = format!("{NAME}:{}", place.into_iter().flatten().collect::<Vec<_>>().join("/"));
        let (mount, key, batch) = (settings.mount.clone(), settings.key.clone(), settings.batch);
        Ok(Self { client: Client::new(settings)?, mount, key, uri, batch })
    }

    fn ask<T>(
        &self,
        operation: &'static str,
        body: &impl Serialize,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, ProviderError> {
        self.client
            .ask(Method::POST, &format!("{}/{operation}/{}", self.mount, self.key), body, read)
            .map_err(|failure| self.of_key(failure, None))
    }

    /// A failure, with the key's place and, if it is known, the wrapped key's name.
    fn of_key(&self, failure: RequestFailure, context: Option<&WrapContext<'_>>) -> ProviderError {
        let (mount, key) = (&self.mount, &self.key);
        failure.of(
            || {
                format!(
                    "no key {key} at {mount}; make it with: vault write -f {mount}/keys/{key} \
                derived=true"
                )
            },
            || {
                format!(
                    "allow read on {mount}/keys/{key} and update on {mount}/encrypt/{key}, \
                {mount}/decrypt/{key}, {mount}/rewrap/{key} and, for rotation, \
                {mount}/keys/{key}/rotate"
                )
            },
            context,
        )
    }

    fn wrap_of(&self, ciphertext: &str) -> Result<Wrap, ProviderError> {
        let version = version_of(ciphertext).ok_or_else(|| malformed("a ciphertext of Transit"))?;
        Ok(Wrap {
            kek_uri: self.uri.clone(),
            kek_version: version.to_owned(),
            wrapped: ciphertext.as_bytes().to_vec(),
        })
    }
}

fn malformed(expected: &str) -> ProviderError {
    ProviderError::Malformed { provider: NAME, message: format!("it should be {expected}") }
}

/// What a wrap is tied to, as Transit takes it.
fn context_of(context: &WrapContext<'_>) -> String {
    STANDARD.encode(context.associated_data())
}

fn ciphertext_of<'w>(wrap: &'w Wrap, context: &WrapContext<'_>) -> Result<&'w str, ProviderError> {
    let text = std::str::from_utf8(&wrap.wrapped).ok().filter(|text| version_of(text).is_some());
    text.ok_or(ProviderError::Refused {
        provider: NAME,
        kid: context.kid,
        what: "something else than Transit",
    })
}

/// The number in `vault:v<number>:<base64>`.
fn version_of(ciphertext: &str) -> Option<&str> {
    let (version, rest) = ciphertext.strip_prefix("vault:v")?.split_once(':')?;
    (version.parse::<u32>().is_ok() && !rest.is_empty()).then_some(version)
}

#[derive(Serialize)]
struct Plain<'a> {
    plaintext: &'a str,
    context: String,
}

#[derive(Serialize)]
struct Cipher<'a> {
    ciphertext: &'a str,
    context: String,
}

#[derive(Serialize)]
struct Batch<'a> {
    batch_input: Vec<Cipher<'a>>,
}

#[derive(Deserialize)]
struct Data<T> {
    data: T,
}

#[derive(Deserialize)]
struct Encrypted {
    ciphertext: String,
}

#[derive(Deserialize)]
struct Decrypted<'a> {
    /// Borrowed from the answer, which is wiped.
    #[serde(borrow)]
    plaintext: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Results {
    batch_results: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    ciphertext: Option<String>,
    error: Option<String>,
}

#[derive(Deserialize)]
struct Description {
    latest_version: u32,
    derived: bool,
    supports_encryption: bool,
    #[serde(default)]
    soft_deleted: bool,
    /// Seconds, or zero.
    #[serde(default)]
    auto_rotate_period: u64,
    /// Unix seconds of each version that still opens.
    keys: HashMap<String, serde_json::Value>,
}

impl Provider for VaultProvider {
    fn name(&self) -> &'static str {
        NAME
    }

    fn opens(&self, kek_uri: &str) -> bool {
        kek_uri == self.uri
    }

    fn describe(&self) -> Result<Kek, ProviderError> {
        let path = format!("{}/keys/{}", self.mount, self.key);
        let answer = self.client.ask(Method::GET, &path, &Nothing {}, |body| {
            Some(serde_json::from_slice::<Data<Description>>(body).ok()?.data)
        });
        let found = answer.map_err(|failure| self.of_key(failure, None))?;
        if !found.derived || !found.supports_encryption {
            let message = format!(
                "key {} at {} is not derived, or of a type that does not encrypt, so wraps would \
                not be tied to their keys; make another with: vault write -f {}/keys/NAME \
                derived=true",
                self.key, self.mount, self.mount
            );
            return Err(ProviderError::Unusable { provider: NAME, message });
        }
        if found.soft_deleted {
            return Err(ProviderError::Disabled {
                provider: NAME,
                message: format!("key {} at {} is deleted; restore it there", self.key, self.mount),
            });
        }
        let version = found.latest_version.to_string();
        let since = found.keys.get(&version).and_then(serde_json::Value::as_u64);
        // A key that the server rotates by itself needs nobody to do it.
        let rotation =
            if found.auto_rotate_period == 0 { Rotation::Here } else { Rotation::Elsewhere };
        Ok(Kek { uri: self.uri.clone(), version, since, rotation })
    }

    fn wrap(&self, key: &SecretKey, context: &WrapContext<'_>) -> Result<Wrap, ProviderError> {
        let mut plaintext = Zeroizing::new(String::with_capacity(44));
        STANDARD.encode_string(key.expose(), &mut plaintext);
        let read = |body: &[u8]| {
            Some(serde_json::from_slice::<Data<Encrypted>>(body).ok()?.data.ciphertext)
        };
        self.wrap_of(&self.ask(
            "encrypt",
            &Plain { plaintext: &plaintext, context: context_of(context) },
            read,
        )?)
    }

    fn unwrap(&self, wrap: &Wrap, context: &WrapContext<'_>) -> Result<SecretKey, ProviderError> {
        let ask =
            Cipher { ciphertext: ciphertext_of(wrap, context)?, context: context_of(context) };
        let read = |body: &[u8]| {
            decode_key(&serde_json::from_slice::<Data<Decrypted<'_>>>(body).ok()?.data.plaintext)
        };
        let path = format!("{}/decrypt/{}", self.mount, self.key);
        self.client
            .ask(Method::POST, &path, &ask, read)
            .map_err(|failure| self.of_key(failure, Some(context)))
    }

    fn rewrap(
        &self,
        wraps: &[(&Wrap, WrapContext<'_>)],
    ) -> Result<Vec<Result<Wrap, ProviderError>>, ProviderError> {
        let mut moved = Vec::with_capacity(wraps.len());
        for chunk in wraps.chunks(self.batch) {
            let items = chunk.iter().map(|(wrap, context)| {
                Ok(Cipher {
                    ciphertext: ciphertext_of(wrap, context)?,
                    context: context_of(context),
                })
            });
            let batch_input = items.collect::<Result<Vec<_>, ProviderError>>()?;
            let results = self.ask("rewrap", &Batch { batch_input }, |body| {
                Some(serde_json::from_slice::<Data<Results>>(body).ok()?.data.batch_results)
            })?;
            if results.len() != chunk.len() {
                return Err(malformed("as many results as there were wraps"));
            }
            for (item, (_, context)) in results.into_iter().zip(chunk) {
                moved.push(match (item.ciphertext, item.error.filter(|error| !error.is_empty())) {
                    (Some(ciphertext), None) => self.wrap_of(&ciphertext),
                    (_, Some(error)) => {
                        Err(self.of_key(RequestFailure::refused(&[error]), Some(context)))
                    }
                    (None, None) => Err(malformed("a ciphertext or an error")),
                });
            }
        }
        Ok(moved)
    }

    fn rotate(&self, _: u64) -> Result<Kek, ProviderError> {
        let path = format!("{}/keys/{}/rotate", self.mount, self.key);
        self.client
            .ask(Method::POST, &path, &Nothing {}, |_| Some(()))
            .map_err(|failure| self.of_key(failure, None))?;
        self.describe()
    }
}
