//! An issuer's signing keys: fetched over https, without redirects, one fetch at a time, and of no
//! use a day after the last that succeeded.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use reqwest::redirect::Policy;
use serde_json::Value;
use tokio::sync::{Mutex, Notify, Semaphore};

use super::refusal::Cause;

/// Bytes of an answer that are read at most.
const ANSWER_MAX: usize = 1 << 20;
/// Keys of an issuer that are looked at.
const KEYS_MAX: usize = 100;
/// Requests that wait for a fetch; others with an unknown key are refused at once, or anyone could
/// fill the service with them while the issuer is slow.
const WAITING: usize = 16;
/// Bytes of a modulus: 2048 bits.
const RSA_MIN: usize = 256;

/// How often, and how long.
#[derive(Debug, Clone, Copy)]
pub struct JwksTimes {
    /// Age at which keys are fetched again.
    pub refresh: Duration,
    /// Between two fetches at least, whoever asks.
    pub pause: Duration,
    /// Age at which keys are of no use any more.
    pub oldest: Duration,
    /// How long a fetch may take.
    pub request: Duration,
}

impl Default for JwksTimes {
    fn default() -> Self {
        Self {
            refresh: Duration::from_secs(600),
            pause: Duration::from_secs(60),
            oldest: Duration::from_secs(86_400),
            request: Duration::from_secs(5),
        }
    }
}

/// A key, and the only algorithm that it verifies.
pub(super) struct SigningKey {
    /// As a token's header names it.
    pub(super) name: &'static str,
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// The keys of one issuer.
pub(super) struct Jwks {
    url: String,
    http: reqwest::Client,
    times: JwksTimes,
    known: ArcSwap<KeySet>,
    /// When the last fetch began; held while one goes on.
    turn: Arc<Mutex<Option<Instant>>>,
    waiting: Semaphore,
    /// What the last fetch came to, until somebody tells it.
    untold: std::sync::Mutex<Option<Result<(), JwksFault>>>,
    /// Wakes the task that tells it.
    fetched: Arc<Notify>,
}

#[derive(Default)]
struct KeySet {
    keys: Vec<Arc<SigningKey>>,
    by_id: HashMap<String, Arc<SigningKey>>,
    /// `None`: never.
    fetched: Option<Instant>,
}

/// Why keys could not be fetched.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JwksFault {
    /// No client for it can be made.
    #[error("{0}; correct ca_file and jwks")]
    Client(String),
    /// It does not answer in time, or its certificate is not one that counts.
    #[error("the issuer does not answer ({0})")]
    Unreachable(String),
    /// It answers with another status than 200; redirects are not followed.
    #[error("the issuer answers {0} and not 200; name the address of the keys itself")]
    Status(u16),
    /// The answer is too large, no set of keys, or has none that is of use.
    #[error("the issuer's answer {0}")]
    Answer(&'static str),
}

impl Jwks {
    pub(super) fn new(
        url: &str,
        ca_file: Option<&PathBuf>,
        times: JwksTimes,
        fetched: Arc<Notify>,
    ) -> Result<Self, JwksFault> {
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .timeout(times.request)
            .connect_timeout(times.request);
        if let Some(path) = ca_file {
            let pem = std::fs::read(path).map_err(|e| {
                JwksFault::Client(format!("{} cannot be read ({e})", path.display()))
            })?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .ok()
                .filter(|certificates| !certificates.is_empty())
                .ok_or_else(|| {
                    JwksFault::Client(format!("{} has no certificate in PEM", path.display()))
                })?;
            http = http.tls_certs_only(certificates);
        }
        let http = http.build().map_err(|e| JwksFault::Client(e.without_url().to_string()))?;
        Ok(Self {
            url: url.to_owned(),
            http,
            times,
            known: ArcSwap::default(),
            turn: Arc::default(),
            waiting: Semaphore::new(WAITING),
            untold: std::sync::Mutex::default(),
            fetched,
        })
    }

    /// The key that a token names; where it names none, the issuer's only one. An unknown one
    /// fetches, at most once a `pause`.
    pub(super) async fn key(self: &Arc<Self>, id: Option<&str>) -> Result<Arc<SigningKey>, Cause> {
        match self.find(id) {
            Err(Cause::TokenKey) if id.is_none() => return Err(Cause::TokenKey),
            Err(Cause::TokenKey | Cause::TokenKeysOld) => {}
            found => return found,
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return self.find(id) };
        self.fetch_if(|| self.find(id).is_err()).await;
        self.find(id)
    }

    fn find(&self, id: Option<&str>) -> Result<Arc<SigningKey>, Cause> {
        let known = self.known.load();
        if known.fetched.is_none_or(|fetched| fetched.elapsed() > self.times.oldest) {
            return Err(Cause::TokenKeysOld);
        }
        let key = match (id, &known.keys[..]) {
            (Some(id), _) => known.by_id.get(id),
            (None, [only]) => Some(only),
            (None, _) => None,
        };
        key.cloned().ok_or(Cause::TokenKey)
    }

    /// Fetches again what is old. Called every now and then.
    pub(super) async fn refresh(self: &Arc<Self>) {
        let is_old = || {
            let fetched = self.known.load().fetched;
            fetched.is_none_or(|fetched| fetched.elapsed() >= self.times.refresh)
        };
        self.fetch_if(is_old).await;
    }

    /// What the last fetch came to, no matter who asked for it; once.
    pub(super) fn take_untold(&self) -> Option<Result<(), JwksFault>> {
        self.untold.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// One fetch at a time; anyone who waited for another one's looks at what it brought first.
    async fn fetch_if(self: &Arc<Self>, is_due: impl Fn() -> bool) {
        let mut turn = self.turn.clone().lock_owned().await;
        if !is_due() || turn.is_some_and(|last| last.elapsed() < self.times.pause) {
            return;
        }
        let began = Instant::now();
        *turn = Some(began);
        let keys = self.clone();
        // A task of its own: anyone who shows a token and hangs up would cancel the fetch, and with
        // it all others for the next `pause`.
        let fetching = tokio::spawn(async move {
            let outcome = keys.fetch().await.map(|set| {
                keys.known.store(Arc::new(KeySet { fetched: Some(began), ..set }));
            });
            *keys.untold.lock().unwrap_or_else(PoisonError::into_inner) = Some(outcome);
            keys.fetched.notify_one();
            drop(turn);
        });
        // It fails only where it panics, and then there are no new keys.
        let _ = fetching.await;
    }

    async fn fetch(&self) -> Result<KeySet, JwksFault> {
        let lost = |e: reqwest::Error| {
            let e = e.without_url();
            let mut text = e.to_string();
            let mut source = std::error::Error::source(&e);
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            JwksFault::Unreachable(text)
        };
        let mut response = self.http.get(&self.url).send().await.map_err(lost)?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(JwksFault::Status(response.status().as_u16()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            if body.len() + chunk.len() > ANSWER_MAX {
                return Err(JwksFault::Answer("is larger than 1 MiB"));
            }
            body.extend_from_slice(&chunk);
        }
        key_set(&body)
    }
}

/// The keys of a JWK set that are of use.
fn key_set(body: &[u8]) -> Result<KeySet, JwksFault> {
    let set: Value = serde_json::from_slice(body).map_err(|_| JwksFault::Answer("is no JSON"))?;
    let listed = set.get("keys").and_then(Value::as_array);
    let listed = listed.ok_or(JwksFault::Answer("is no set of keys"))?;
    let mut keys = KeySet::default();
    let mut twice = Vec::new();
    for jwk in listed.iter().take(KEYS_MAX) {
        let Some(key) = signing_key(jwk).map(Arc::new) else { continue };
        keys.keys.push(key.clone());
        if let Some(id) = text(jwk, "kid")
            && keys.by_id.insert(id.to_owned(), key).is_some()
        {
            twice.push(id.to_owned());
        }
    }
    // Nobody could say which of them is meant.
    twice.iter().for_each(|id| drop(keys.by_id.remove(id)));
    if keys.keys.is_empty() {
        return Err(JwksFault::Answer("has no public key for signatures"));
    }
    Ok(keys)
}

/// The key, if it is a public one that verifies signatures by an algorithm that counts here. The
/// algorithm is the key's: what a token says of itself decides nothing.
fn signing_key(jwk: &Value) -> Option<SigningKey> {
    let for_signatures = match jwk.get("use") {
        None => true,
        Some(of) => of.as_str() == Some("sig"),
    };
    let verifies = match jwk.get("key_ops") {
        None => true,
        Some(operations) => operations.as_array()?.iter().any(|one| one.as_str() == Some("verify")),
    };
    // A published private key is everybody's.
    if !for_signatures || !verifies || jwk.get("d").is_some() {
        return None;
    }
    let algorithm = match jwk.get("alg") {
        None => None,
        Some(name) => Some(name.as_str()?),
    };
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(jwk, name)?).ok();
    let curve = text(jwk, "crv");
    let (name, algorithm, key) = match (text(jwk, "kty")?, curve, algorithm) {
        ("RSA", _, algorithm) => {
            let (name, algorithm) = rsa(algorithm.unwrap_or("RS256"))?;
            let (modulus, exponent) = (bytes("n")?, bytes("e")?);
            if modulus.iter().skip_while(|b| **b == 0).count() < RSA_MIN {
                return None;
            }
            (name, algorithm, DecodingKey::from_rsa_raw_components(&modulus, &exponent))
        }
        ("EC", Some("P-256"), None | Some("ES256")) => {
            ("ES256", Algorithm::ES256, ec(&bytes("x")?, &bytes("y")?, 32)?)
        }
        ("EC", Some("P-384"), None | Some("ES384")) => {
            ("ES384", Algorithm::ES384, ec(&bytes("x")?, &bytes("y")?, 48)?)
        }
        ("OKP", Some("Ed25519"), None | Some("EdDSA")) if bytes("x")?.len() == 32 => {
            ("EdDSA", Algorithm::EdDSA, DecodingKey::from_ed_components(text(jwk, "x")?).ok()?)
        }
        _ => return None,
    };
    Some(SigningKey { name, algorithm, key })
}

fn rsa(name: &str) -> Option<(&'static str, Algorithm)> {
    [
        ("RS256", Algorithm::RS256),
        ("RS384", Algorithm::RS384),
        ("RS512", Algorithm::RS512),
        ("PS256", Algorithm::PS256),
        ("PS384", Algorithm::PS384),
        ("PS512", Algorithm::PS512),
    ]
    .into_iter()
    .find(|(known, _)| *known == name)
}

fn ec(x: &[u8], y: &[u8], length: usize) -> Option<DecodingKey> {
    if (x.len(), y.len()) != (length, length) {
        return None;
    }
    let encoded = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    DecodingKey::from_ec_components(&encoded(x), &encoded(y)).ok()
}

fn text<'v>(jwk: &'v Value, name: &str) -> Option<&'v str> {
    jwk.get(name)?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";

    fn is_key(change: impl FnOnce(&mut Value)) -> bool {
        let mut jwk = json!({"kty":"EC","crv":"P-256","x":X,"y":Y,"kid":"a"});
        change(&mut jwk);
        signing_key(&jwk).is_some()
    }

    #[test]
    fn only_public_keys_for_signatures_count() {
        assert!(is_key(|_| ()));
        assert!(is_key(|jwk| jwk["use"] = "sig".into()));
        assert!(is_key(|jwk| jwk["alg"] = "ES256".into()));
        assert!(is_key(|jwk| jwk["key_ops"] = json!(["sign", "verify"])));
        assert!(!is_key(|jwk| jwk["use"] = "enc".into()));
        assert!(!is_key(|jwk| jwk["use"] = json!(5)));
        assert!(!is_key(|jwk| jwk["alg"] = "HS256".into()));
        assert!(!is_key(|jwk| jwk["alg"] = "none".into()));
        assert!(!is_key(|jwk| jwk["alg"] = "ES384".into()));
        assert!(!is_key(|jwk| jwk["key_ops"] = json!(["encrypt"])));
        assert!(!is_key(|jwk| jwk["d"] = X.into()), "a published private key");
        assert!(!is_key(|jwk| jwk["x"] = "AAAA".into()));
        assert!(!is_key(|jwk| jwk["crv"] = "secp256k1".into()));
        assert!(signing_key(&json!({"kty":"oct","k":X,"alg":"HS256"})).is_none());
        let short = URL_SAFE_NO_PAD.encode([0xff; 128]);
        assert!(signing_key(&json!({"kty":"RSA","n":short,"e":"AQAB"})).is_none(), "1024 bits");
        let long = URL_SAFE_NO_PAD.encode([0xff; 256]);
        let name = |alg: &str| {
            Some(signing_key(&json!({"kty":"RSA","n":long,"e":"AQAB","alg":alg}))?.name)
        };
        assert_eq!(
            (name("RS256"), name("PS512"), name("HS256")),
            (Some("RS256"), Some("PS512"), None)
        );
    }

    #[test]
    fn garbage_is_no_set() {
        for body in
            ["", "<html>", "[]", "{}", r#"{"keys":{}}"#, r#"{"keys":[]}"#, r#"{"keys":[1]}"#]
        {
            assert!(key_set(body.as_bytes()).is_err(), "{body}");
        }
        let key = json!({"kty":"EC","crv":"P-256","x":X,"y":Y,"kid":"a"});
        let one = key_set(json!({"keys":[key, {"kty":"new"}]}).to_string().as_bytes()).unwrap();
        assert_eq!((one.keys.len(), one.by_id.len()), (1, 1));
        let twice = key_set(json!({"keys":[key, key]}).to_string().as_bytes()).unwrap();
        assert!(twice.by_id.is_empty(), "nobody could say which is meant");
    }
}
