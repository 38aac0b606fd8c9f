//! Why a credential was refused: for the log and the audit, never for who showed it.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use super::principal::Principal;
use crate::telemetry::events::{Event as _, LoginRefused};
use crate::telemetry::metrics::Metrics;

/// Addresses and principals that are told apart; the rest counts as one.
const SOURCES: usize = 10_000;

/// What is wrong with a credential. Codes are from a closed set: labels, log and audit have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// There is none.
    Nothing,
    /// There are two, or one header twice.
    Several,
    /// Its kind is not in `serve.principals`.
    Kind,
    /// It is no bearer token, JWT or header of the form.
    Malformed,
    /// Its certificate counts no more: expired, or revoked since the handshake.
    Certificate,
    /// The certificate has not exactly one name, or one that is neither URI nor DNS.
    CertificateName,
    /// `serve.clients` does not have the certificate's name.
    CertificateUnknown,
    /// The API key's checksum is wrong.
    KeyMistyped,
    /// No API key has this id, or its record was changed.
    KeyUnknown,
    /// Another secret has this id.
    KeyWrong,
    /// The API key was revoked.
    KeyRevoked,
    /// The API key is too old.
    KeyExpired,
    /// No issuer has the token's `iss`.
    TokenIssuer,
    /// The issuer has no such key, or several and the token names none.
    TokenKey,
    /// The issuer's keys were not fetched for a day.
    TokenKeysOld,
    /// The header's algorithm is not the key's.
    TokenAlgorithm,
    /// The signature does not hold.
    TokenSignature,
    /// It is for somebody else.
    TokenAudience,
    /// It has expired.
    TokenExpired,
    /// It does not count yet.
    TokenEarly,
    /// It lacks a claim, or has one of another form.
    TokenClaims,
    /// The proof of a person is another program's.
    NoPerson,
}

impl Cause {
    /// The code.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "no_credential",
            Self::Several => "several_credentials",
            Self::Kind => "kind_not_accepted",
            Self::Malformed => "malformed",
            Self::Certificate => "certificate_invalid",
            Self::CertificateName => "certificate_name",
            Self::CertificateUnknown => "certificate_unknown",
            Self::KeyMistyped => "key_mistyped",
            Self::KeyUnknown => "key_unknown",
            Self::KeyWrong => "key_wrong",
            Self::KeyRevoked => "key_revoked",
            Self::KeyExpired => "key_expired",
            Self::TokenIssuer => "token_issuer",
            Self::TokenKey => "token_key",
            Self::TokenKeysOld => "token_keys_old",
            Self::TokenAlgorithm => "token_algorithm",
            Self::TokenSignature => "token_signature",
            Self::TokenAudience => "token_audience",
            Self::TokenExpired => "token_expired",
            Self::TokenEarly => "token_early",
            Self::TokenClaims => "token_claims",
            Self::NoPerson => "no_person",
        }
    }
}

/// A refused login, for the audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub cause: Cause,
    /// Whether it is so of the proof in `Veilstream-On-Behalf-Of`.
    pub of_person: bool,
    /// Which credential it claims to be, where that names one of ours: id of an API key, SHA-256 of
    /// a certificate, name of an issuer. Nothing that the caller could choose freely.
    pub credential: Option<String>,
}

impl Refusal {
    pub(super) fn of(cause: Cause) -> Self {
        Self { cause, of_person: false, credential: None }
    }

    pub(super) fn naming(cause: Cause, credential: impl Into<String>) -> Self {
        Self { credential: Some(credential.into()), ..Self::of(cause) }
    }
}

/// A request of somebody who was let in, and that is refused as a whole.
#[derive(Debug, Clone, Copy)]
pub struct RefusedRequest<'a> {
    /// Whose.
    pub principal: &'a Principal,
    /// Where it came from.
    pub address: IpAddr,
    /// The path of a route.
    pub path: &'static str,
    /// The code of the problem that is answered.
    pub code: &'static str,
}

/// Who hears of what was refused beside the log: the audit.
pub trait RefusalAudit: Send + Sync {
    /// A login from this address was refused, and so many before it within the second, of which
    /// nobody was told.
    fn login_refused(&self, address: IpAddr, refusal: &Refusal, before: u64);

    /// A request was refused, and so many of its principal before it within the second.
    fn request_refused(&self, request: RefusedRequest<'_>, before: u64);
}

/// Tells of refused logins, one a second and address, and of refused requests, one a second and
/// principal. The rest is counted in the next.
pub struct Refusals {
    metrics: Arc<Metrics>,
    audit: Option<Arc<dyn RefusalAudit>>,
    logins: Mutex<Sources<IpAddr>>,
    requests: Mutex<Sources<String>>,
}

/// When each was last told of. `None`: all beyond the most that are told apart.
struct Sources<S> {
    told: HashMap<Option<S>, Told>,
    /// When old ones were last forgotten, in Unix seconds: not for each of a flood.
    pruned: u64,
}

/// When a source was last told of, in Unix seconds, and how many were refused since.
#[derive(Default)]
struct Told {
    at: u64,
    since: u64,
}

impl Refusals {
    /// Nobody was refused yet.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>, audit: Option<Arc<dyn RefusalAudit>>) -> Self {
        Self { metrics, audit, logins: Mutex::default(), requests: Mutex::default() }
    }

    /// Takes a refusal down.
    pub fn tell(&self, address: IpAddr, refusal: &Refusal, now: u64) {
        self.metrics.logins_refused.with_label_values(&[refusal.cause.as_str()]).inc();
        let Some(before) = due(&self.logins, address, now) else { return };
        LoginRefused {
            address,
            cause: refusal.cause.as_str(),
            of_person: refusal.of_person,
            credential: refusal.credential.as_deref().unwrap_or(""),
            before,
        }
        .emit(&self.metrics);
        if let Some(audit) = &self.audit {
            audit.login_refused(address, refusal, before);
        }
    }

    /// Counts a request that could not be answered, by the code of the problem.
    pub fn count_failed(&self, code: &str) {
        self.metrics.requests_failed.with_label_values(&[code]).inc();
    }

    /// Takes a refused request down.
    pub fn tell_request(&self, request: RefusedRequest<'_>, now: u64) {
        let Some(audit) = &self.audit else { return };
        if let Some(before) = due(&self.requests, request.principal.id.clone(), now) {
            audit.request_refused(request, before);
        }
    }
}

impl<S> Default for Sources<S> {
    fn default() -> Self {
        Self { told: HashMap::new(), pruned: 0 }
    }
}

/// How many were refused since the source was last told of, if it is to be told of now.
fn due<S: Eq + Hash>(sources: &Mutex<Sources<S>>, source: S, now: u64) -> Option<u64> {
    let mut sources = sources.lock().unwrap_or_else(PoisonError::into_inner);
    let Sources { told, pruned } = &mut *sources;
    let mut key = Some(source);
    if told.len() >= SOURCES && !told.contains_key(&key) {
        if *pruned != now {
            *pruned = now;
            // What was not told yet will be: its count is not lost.
            told.retain(|_, told| told.since > 0 || told.at == now);
        }
        if told.len() >= SOURCES {
            key = None;
        }
    }
    let told = told.entry(key).or_default();
    if told.at == now {
        told.since += 1;
        return None;
    }
    told.at = now;
    Some(std::mem::take(&mut told.since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_told_a_second_and_address_and_none_is_lost() {
        let sources = Mutex::default();
        let [a, b] = [[192, 0, 2, 1], [192, 0, 2, 2]].map(IpAddr::from);
        assert_eq!(due(&sources, a, 100), Some(0));
        assert_eq!(due(&sources, a, 100), None);
        assert_eq!(due(&sources, a, 100), None);
        assert_eq!(due(&sources, b, 100), Some(0));
        assert_eq!(due(&sources, a, 101), Some(2));
        assert_eq!(due(&sources, a, 102), Some(0));
    }

    #[test]
    fn a_flood_from_many_addresses_takes_bounded_memory() {
        let sources = Mutex::default();
        let told = (0..3 * u32::try_from(SOURCES).unwrap())
            .filter(|n| due(&sources, IpAddr::from(n.to_be_bytes()), 100).is_some())
            .count();
        assert_eq!(told, SOURCES + 1);
        assert!(sources.lock().unwrap().told.len() <= SOURCES + 1);
        assert_eq!(due(&sources, [192, 0, 2, 1].into(), 101), Some(0), "the old ones went");
    }
}
