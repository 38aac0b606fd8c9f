//! Requests to the server, with a token that is had, renewed and had again. An answer's body goes
//! into no message: it may hold a key.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::blocking::Client as Http;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Certificate, Method, StatusCode, Url, tls};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::super::{ProviderError, SecretText};
use super::answer::{Answer, RequestFailure, passes};
use super::{NAME, VaultAuth, VaultSettings};

/// The body of a request that has none.
#[derive(Serialize)]
pub(super) struct Nothing {}

pub(super) struct Client {
    http: Http,
    /// `https://host:port/v1/`
    base: Url,
    namespace: Option<HeaderValue>,
    timeout: Duration,
    auth: VaultAuth,
    leased: Mutex<Option<TokenLease>>,
}

/// A token in hand.
struct TokenLease {
    token: Zeroizing<String>,
    /// Seconds the server granted at the login; zero: for ever.
    lease: u64,
    renewable: bool,
    /// Since when the lease counts.
    since: Instant,
}

impl TokenLease {
    /// With two thirds of the lease over there is time for another try.
    fn is_old(&self) -> bool {
        self.lease > 0 && self.since.elapsed() >= Duration::from_secs(self.lease) * 2 / 3
    }

    fn is_over(&self) -> bool {
        self.lease > 0 && self.since.elapsed() >= Duration::from_secs(self.lease)
    }
}

#[derive(Deserialize)]
struct Login {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: Zeroizing<String>,
    lease_duration: u64,
    renewable: bool,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Credentials<'a> {
    AppRole { role_id: &'a str, secret_id: &'a str },
    Jwt { role: &'a str, jwt: &'a str },
}

impl Client {
    pub(super) fn new(settings: VaultSettings) -> Result<Self, ProviderError> {
        let unusable = |message: String| ProviderError::Unusable { provider: NAME, message };
        let base = base(&settings.address).map_err(|error| unusable(error.to_string()))?;
        let mut http = Http::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(settings.timeout)
            .min_tls_version(tls::Version::TLS_1_2)
            .user_agent(concat!("veilstream/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &settings.ca_file {
            http = http
                .tls_certs_only(certificates(path).map_err(|error| unusable(error.to_string()))?);
        }
        let http = http.build().map_err(|_| {
            unusable(
                "the system's certificates cannot be read; name yours as keys.vault.ca_file"
                    .to_owned(),
            )
        })?;
        let namespace = settings.namespace.as_deref().map(HeaderValue::from_str).transpose();
        let namespace =
            namespace.map_err(|_| unusable("keys.vault.namespace is no namespace".to_owned()))?;
        Ok(Self {
            http,
            base,
            namespace,
            timeout: settings.timeout,
            auth: settings.auth,
            leased: Mutex::default(),
        })
    }

    /// One request; with a new token once more where the server does not know this one any more.
    /// `read` takes the body of a good answer.
    pub(super) fn ask<T>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        read: impl FnOnce(&[u8]) -> Option<T>,
    ) -> Result<T, RequestFailure> {
        let token = self.token().map_err(RequestFailure::Other)?;
        let mut answer =
            self.send(&method, path, Some(&token), body).map_err(RequestFailure::Other)?;
        if answer.status == StatusCode::FORBIDDEN {
            // Expired, revoked and not allowed look the same.
            let renewed = self.token_but(&token).map_err(RequestFailure::Other)?;
            if *renewed != *token {
                answer = self
                    .send(&method, path, Some(&renewed), body)
                    .map_err(RequestFailure::Other)?;
            }
        }
        answer.read(path, read)
    }

    fn leased(&self) -> MutexGuard<'_, Option<TokenLease>> {
        self.leased.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A token that should do.
    fn token(&self) -> Result<Zeroizing<String>, ProviderError> {
        let mut leased = self.leased();
        if let Some(present) = leased.as_mut()
            && (!present.is_old() || self.renew(present))
        {
            return Ok(present.token.clone());
        }
        match (self.login(), leased.as_ref()) {
            (Ok(new), _) => Ok(leased.insert(new).token.clone()),
            // It may still do until then.
            (Err(error), Some(present)) if error.is_retryable() && !present.is_over() => {
                Ok(present.token.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// A token other than one that did not do, if there is another.
    fn token_but(&self, failed: &Zeroizing<String>) -> Result<Zeroizing<String>, ProviderError> {
        let mut leased = self.leased();
        match leased.as_ref() {
            // Another thread was here.
            Some(present) if present.token != *failed => Ok(present.token.clone()),
            _ => Ok(leased.insert(self.login()?).token.clone()),
        }
    }

    /// Whether the lease is as long again as it was at first. Near the end of what a token may
    /// live, the server grants less, and says so only in this number.
    fn renew(&self, present: &mut TokenLease) -> bool {
        if !present.renewable {
            return false;
        }
        let answer =
            self.send(&Method::POST, "auth/token/renew-self", Some(&present.token), &Nothing {});
        let granted = answer.ok().and_then(|answer| {
            answer
                .read("", |body| {
                    Some(serde_json::from_slice::<Login>(body).ok()?.auth.lease_duration)
                })
                .ok()
        });
        let is_whole = granted.is_some_and(|seconds| seconds >= present.lease);
        if is_whole {
            present.since = Instant::now();
        }
        is_whole
    }

    fn login(&self) -> Result<TokenLease, ProviderError> {
        let read = |secret: &SecretText| {
            secret.read().map_err(|error| ProviderError::Unusable {
                provider: NAME,
                message: error.to_string(),
            })
        };
        let (mount, credentials, secret);
        match &self.auth {
            VaultAuth::Token(token) => {
                return Ok(TokenLease {
                    token: read(token)?,
                    lease: 0,
                    renewable: false,
                    since: Instant::now(),
                });
            }
            VaultAuth::AppRole { mount: at, role_id, secret_id } => {
                secret = read(secret_id)?;
                (mount, credentials) = (at, Credentials::AppRole { role_id, secret_id: &secret });
            }
            VaultAuth::Jwt { mount: at, role, token } => {
                secret = read(token)?;
                (mount, credentials) = (at, Credentials::Jwt { role, jwt: &secret });
            }
        }
        let path = format!("auth/{mount}/login");
        let since = Instant::now();
        let answer = self.send(&Method::POST, &path, None, &credentials)?;
        let auth = answer
            .read(&path, |body| Some(serde_json::from_slice::<Login>(body).ok()?.auth))
            .map_err(|failure| match failure {
                RequestFailure::Other(error) => error,
                RequestFailure::Status(status, retry_after, known) => {
                    passes(status, retry_after, &known).unwrap_or_else(|| ProviderError::Denied {
                        provider: NAME,
                        message: format!(
                            "the login at auth/{mount} fails (status {status}); check role \
                    and secret, and that the method is enabled there"
                        ),
                    })
                }
            })?;
        Ok(TokenLease {
            token: auth.client_token,
            lease: auth.lease_duration,
            renewable: auth.renewable,
            since,
        })
    }

    fn send(
        &self,
        method: &Method,
        path: &str,
        token: Option<&str>,
        body: &impl Serialize,
    ) -> Result<Answer, ProviderError> {
        let unusable =
            |message: &str| ProviderError::Unusable { provider: NAME, message: message.to_owned() };
        let url = self.base.join(path).map_err(|_| unusable("mount and key do not make a path"))?;
        let mut headers = HeaderMap::new();
        headers.insert("X-Vault-Request", HeaderValue::from_static("true"));
        if let Some(namespace) = &self.namespace {
            headers.insert("X-Vault-Namespace", namespace.clone());
        }
        if let Some(token) = token {
            let mut value = HeaderValue::from_str(token)
                .map_err(|_| unusable("the token holds characters that no token has"))?;
            value.set_sensitive(true);
            headers.insert("X-Vault-Token", value);
        }
        let mut request = self.http.request(method.clone(), url).headers(headers);
        if *method != Method::GET {
            // The text may hold a key: it is wiped as soon as it is sent. What TLS and the system
            // keep of it is theirs.
            let mut text = Zeroizing::new(Vec::with_capacity(1024));
            serde_json::to_writer(&mut *text, body)
                .map_err(|_| unusable("the request does not make JSON"))?;
            request =
                request.header(CONTENT_TYPE, "application/json").body(Bytes::from_owner(text));
        }
        Answer::of(request.send().map_err(|error| self.unanswered(&error))?)
            .map_err(|error| self.unanswered(&error))
    }

    fn unanswered(&self, error: &(dyn std::error::Error + 'static)) -> ProviderError {
        let address = self.base.origin().ascii_serialization();
        let timed_out =
            error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout);
        let message = if timed_out {
            format!("no answer from {address} within {:?}", self.timeout)
        } else {
            // The innermost cause says it: refused, reset, unknown issuer.
            let cause =
                std::iter::successors(Some(error), |error| std::error::Error::source(*error))
                    .last()
                    .map(ToString::to_string)
                    .unwrap_or_default();
            format!("no answer from {address}: {cause}")
        };
        ProviderError::Unavailable { provider: NAME, message, retry_after: None }
    }
}

/// The address is not one to send keys to. The operator writes another.
#[derive(Debug, thiserror::Error)]
enum VaultAddressError {
    /// It is no URL of a host, or holds a user.
    #[error("keys.vault.address is no address; write \"https://host:8200\"")]
    Malformed,
    /// It is `http` to another host.
    #[error("{0} would send keys in the clear; use https, or an agent on this host")]
    Clear(String),
}

/// `https://host:port/v1/`.
fn base(address: &str) -> Result<Url, VaultAddressError> {
    let base = Url::parse(&format!("{}/v1/", address.trim_end_matches('/')))
        .ok()
        .filter(|url| {
            url.has_host()
                && matches!(url.scheme(), "http" | "https")
                && url.username().is_empty()
                && url.password().is_none()
        })
        .ok_or(VaultAddressError::Malformed)?;
    let is_here =
        base.host_str().is_some_and(|host| ["127.0.0.1", "[::1]", "localhost"].contains(&host));
    if base.scheme() == "http" && !is_here {
        return Err(VaultAddressError::Clear(address.to_owned()));
    }
    Ok(base)
}

/// The file of keys.vault.ca_file names no authority. The operator mends it; the message says
/// where.
#[derive(Debug, thiserror::Error)]
enum CertificateError {
    /// It is not there, or this process may not read it.
    #[error("{} cannot be read ({source})", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// It is no PEM, or has no certificate in it.
    #[error("{} holds no certificates in PEM", path.display())]
    Empty { path: PathBuf },
}

fn certificates(path: &Path) -> Result<Vec<Certificate>, CertificateError> {
    let pem = std::fs::read(path)
        .map_err(|source| CertificateError::Unreadable { path: path.to_owned(), source })?;
    Certificate::from_pem_bundle(&pem)
        .ok()
        .filter(|found| !found.is_empty())
        .ok_or_else(|| CertificateError::Empty { path: path.to_owned() })
}
