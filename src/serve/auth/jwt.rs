//! JWTs: signed by a key of a configured issuer, for this audience, within their time.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Validation;
use jsonwebtoken::errors::ErrorKind;
use lru::LruCache;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::jwks::{Jwks, JwksFault, JwksTimes, SigningKey};
use super::principal::Principal;
use super::refusal::{Cause, Refusal};
use crate::config::JwtIssuer;

/// Seconds that clocks may differ.
const LEEWAY: u64 = 60;
/// Seconds that a verified token is remembered.
const REMEMBERED: u64 = 60;
/// Tokens that are remembered at most: some 10 MB.
const TOKENS: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
/// Bytes of a subject, and of a role.
const SUBJECT_MAX: usize = 256;
const ROLE_MAX: usize = 128;
/// Roles of one token.
const ROLES_MAX: usize = 200;

/// The configured issuers.
pub struct Issuers {
    issuers: Vec<Issuer>,
    /// Told of each fetch of their keys.
    fetched: Arc<Notify>,
    verified: Mutex<LruCache<[u8; 32], Verified>>,
}

struct Issuer {
    settings: JwtIssuer,
    keys: Arc<Jwks>,
}

struct Verified {
    principal: Principal,
    /// In Unix seconds.
    until: u64,
}

/// What is read of a header. `jku`, `x5u`, `jwk` and `x5c` say where a key is: anyone who wrote the
/// token.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    crit: Option<Value>,
}

/// What is read before the signature is checked: which issuer's key is to check it.
#[derive(Deserialize)]
struct Unverified {
    iss: String,
}

impl Issuers {
    /// Issuers whose keys nobody has fetched yet.
    ///
    /// # Errors
    /// `ca_file` of an issuer is of no use; with the issuer's name.
    pub fn new(settings: &[JwtIssuer], times: JwksTimes) -> Result<Self, (String, JwksFault)> {
        let fetched = Arc::<Notify>::default();
        let issuer = |settings: &JwtIssuer| {
            let ca_file = settings.ca_file.as_ref();
            let keys = Jwks::new(&settings.jwks, ca_file, times, fetched.clone())
                .map_err(|fault| (settings.name.clone(), fault))?;
            Ok(Issuer { settings: settings.clone(), keys: Arc::new(keys) })
        };
        Ok(Self {
            issuers: settings.iter().map(issuer).collect::<Result<_, _>>()?,
            fetched,
            verified: Mutex::new(LruCache::new(TOKENS)),
        })
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.issuers.is_empty()
    }

    /// Keeps the keys of all issuers fresh for as long as it is polled; tells `heard` of each
    /// fetch, also of one that a request caused, with the issuer's name. No issuer waits for another.
    pub async fn keep_fresh(
        &self,
        pause: Duration,
        heard: impl Fn(&str, Result<(), JwksFault>) + Clone,
    ) {
        loop {
            for issuer in &self.issuers {
                let keys = issuer.keys.clone();
                tokio::spawn(async move { keys.refresh().await });
            }
            let next = Instant::now() + pause;
            while timeout_at(next, self.fetched.notified()).await.is_ok() {
                for issuer in &self.issuers {
                    if let Some(outcome) = issuer.keys.take_untold() {
                        heard(&issuer.settings.name, outcome);
                    }
                }
            }
        }
    }

    /// Whose token it is.
    pub(super) async fn check(&self, token: &str, now: u64) -> Result<Principal, Refusal> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(principal) = self.remembered(&hash, now) {
            return Ok(principal);
        }
        let (header, claimed) = read(token).ok_or_else(|| Refusal::of(Cause::Malformed))?;
        let issuer = self
            .issuers
            .iter()
            .find(|issuer| issuer.settings.issuer == claimed.iss)
            .ok_or_else(|| Refusal::of(Cause::TokenIssuer))?;
        let refused = |cause| Refusal::naming(cause, issuer.settings.name.clone());
        let key = issuer.keys.key(header.kid.as_deref()).await.map_err(refused)?;
        if header.alg != key.name {
            return Err(refused(Cause::TokenAlgorithm));
        }
        let claims = verified(token, &key, &issuer.settings).map_err(refused)?;
        let principal = principal(&claims, &header, &issuer.settings)
            .ok_or_else(|| refused(Cause::TokenClaims))?;
        // Where the leeway alone lets it in, it is verified each time.
        let until = (principal.expires - LEEWAY).min(now + REMEMBERED);
        if until > now {
            let remembered = Verified { principal: principal.clone(), until };
            self.lock().put(hash, remembered);
        }
        Ok(principal)
    }

    fn remembered(&self, hash: &[u8; 32], now: u64) -> Option<Principal> {
        let mut verified = self.lock();
        let known = verified.get(hash)?;
        // A clock that went back must not lengthen it.
        if now < known.until && known.until - now <= REMEMBERED {
            return Some(known.principal.clone());
        }
        verified.pop(hash);
        None
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Header and issuer of a token, of which nothing is verified yet.
fn read(token: &str) -> Option<(Header, Unverified)> {
    let mut parts = token.split('.');
    let (Some(header), Some(claims), Some(_), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return None;
    };
    let header: Header = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
    let is_typed = header.typ.as_deref().is_none_or(|typ| {
        let typ = typ.to_ascii_lowercase();
        ["jwt", "at+jwt"].contains(&typ.strip_prefix("application/").unwrap_or(&typ))
    });
    // An extension that must be understood, and is not.
    if !is_typed || header.crit.is_some() {
        return None;
    }
    let claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    Some((header, claims))
}

fn verified(token: &str, key: &SigningKey, issuer: &JwtIssuer) -> Result<Value, Cause> {
    let mut validation = Validation::new(key.algorithm);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    validation.set_issuer(&[&issuer.issuer]);
    validation.set_audience(&[&issuer.audience]);
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    match jsonwebtoken::decode::<Value>(token, &key.key, &validation) {
        Ok(token) => Ok(token.claims),
        Err(error) => Err(match error.kind() {
            ErrorKind::InvalidSignature => Cause::TokenSignature,
            ErrorKind::ExpiredSignature => Cause::TokenExpired,
            ErrorKind::ImmatureSignature => Cause::TokenEarly,
            ErrorKind::InvalidIssuer => Cause::TokenIssuer,
            ErrorKind::InvalidAudience => Cause::TokenAudience,
            ErrorKind::InvalidAlgorithm => Cause::TokenAlgorithm,
            ErrorKind::MissingRequiredClaim(_) | ErrorKind::InvalidClaimFormat(_) => {
                Cause::TokenClaims
            }
            _ => Cause::Malformed,
        }),
    }
}

fn principal(claims: &Value, header: &Header, issuer: &JwtIssuer) -> Option<Principal> {
    let subject = claims.get("sub")?.as_str()?;
    if subject.is_empty() || subject.len() > SUBJECT_MAX || subject.chars().any(char::is_control) {
        return None;
    }
    let expires = claims.get("exp")?;
    // A time with a fraction ends with its second.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
    let expires = expires.as_u64().or_else(|| expires.as_f64().map(|seconds| seconds as u64))?;
    let kid = header.kid.as_deref().unwrap_or("");
    Some(Principal {
        id: format!("jwt:{}:{subject}", issuer.name),
        kind: issuer.kind,
        roles: roles(claims, &issuer.roles_claim),
        auth: "jwt",
        credential: kid.chars().filter(|c| !c.is_control()).take(SUBJECT_MAX).collect(),
        expires: expires.saturating_add(LEEWAY),
        proved_person: None,
    })
}

/// The roles of a claim: a list, or a text with spaces. A name with dots that is no claim leads
/// into objects.
fn roles(claims: &Value, name: &str) -> BTreeSet<String> {
    let claim = claims
        .get(name)
        .or_else(|| name.split('.').try_fold(claims, |within, part| within.get(part)));
    let roles: Vec<&str> = match claim {
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let is_role = |role: &&&str| {
        role.len() <= ROLE_MAX && !role.is_empty() && !role.chars().any(char::is_control)
    };
    roles.iter().filter(is_role).take(ROLES_MAX).map(|role| (*role).to_owned()).collect()
}

#[cfg(test)]
mod tests;
