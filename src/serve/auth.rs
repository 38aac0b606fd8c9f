//! Who asks: exactly one credential of a kind that the listener takes, and who that makes the
//! caller. Every refused one gets the same answer; the cause goes to log and audit.

mod api_keys;
mod certificate;
mod jwks;
mod jwt;
mod principal;
mod refusal;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use veilstream_keys::KeyError;
use veilstream_keys::credential::{ApiKey, Suspension};

use super::peer::Peer;
use crate::config::{CredentialKind, PrincipalKind, Serve};

pub use api_keys::{ApiKeys, Looked};
pub use certificate::ClientCertificate;
pub use jwks::{JwksFault, JwksTimes};
pub use jwt::Issuers;
pub use principal::{Person, Principal};
pub use refusal::{Cause, Refusal, RefusalAudit, Refusals, RefusedRequest};

/// The header with the JWT of the person for whom the caller asks.
const ON_BEHALF_OF: &str = "veilstream-on-behalf-of";

/// Tells callers apart.
pub struct Authenticator {
    takes: std::collections::BTreeSet<CredentialKind>,
    clients: BTreeMap<String, Vec<String>>,
    issuers: Issuers,
    keys: ApiKeys,
    /// Anyone who opens a honey token is suspended.
    suspends: bool,
}

/// Nobody was let in.
#[derive(Debug, PartialEq, Eq)]
pub enum Denied {
    /// For this reason.
    Refused(Refusal),
    /// The key store does not say which API keys are revoked.
    Unavailable,
}

impl From<Refusal> for Denied {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl Authenticator {
    /// Takes what the configuration names.
    #[must_use]
    pub fn new(settings: &Serve, issuers: Issuers, keys: ApiKeys) -> Self {
        Self {
            takes: settings.principals.clone(),
            clients: settings.clients.clone(),
            issuers,
            keys,
            suspends: settings.honey_suspends,
        }
    }

    /// Whether anyone who opens a honey token is suspended.
    #[must_use]
    pub fn suspends(&self) -> bool {
        self.suspends
    }

    /// Suspends somebody who opened a honey token: in this process, until the next look at the store
    /// brings it there.
    ///
    /// # Errors
    /// The system has no random bytes for an id.
    pub fn suspend(&self, principal: &Principal, now: u64) -> Result<(), KeyError> {
        let person = principal.proved_person.as_ref().map(|person| person.id.as_str());
        self.keys.suspend(Suspension::new(&principal.id, person, now)?);
        Ok(())
    }

    /// Whether somebody is denied everything. Where API keys are taken, a suspension counts whatever
    /// the setting says now. `None`: nobody knows now.
    #[must_use]
    pub fn is_suspended(&self, principal: &Principal, now: u64) -> Option<bool> {
        if !self.suspends && !self.takes(CredentialKind::Key) {
            // Nobody looks at the store, and nobody was told to.
            return Some(false);
        }
        let person = principal.proved_person.as_ref().map(|person| person.id.as_str());
        self.keys.is_suspended(&principal.id, person, now)
    }

    /// The API keys, to be looked at every now and then.
    #[must_use]
    pub fn api_keys(&self) -> &ApiKeys {
        &self.keys
    }

    /// The issuers, whose keys are to be kept fresh.
    #[must_use]
    pub fn issuers(&self) -> &Issuers {
        &self.issuers
    }

    /// Whether any caller may show this.
    #[must_use]
    pub fn takes(&self, kind: CredentialKind) -> bool {
        self.takes.contains(&kind)
    }

    /// Who sends a request with these headers. `now` in Unix seconds.
    ///
    /// # Errors
    /// [`Denied`].
    pub async fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        now: u64,
    ) -> Result<Principal, Denied> {
        let token = bearer(headers).map_err(Refusal::of)?;
        let caller = match (peer.certificate(), token) {
            (Some(_), Some(_)) => return Err(Refusal::of(Cause::Several).into()),
            (None, None) => return Err(Refusal::of(Cause::Nothing).into()),
            (Some(certificate), None) => {
                if !peer.certificate_holds(now) {
                    let sha256 = certificate.sha256.clone();
                    return Err(Refusal::naming(Cause::Certificate, sha256).into());
                }
                self.client(certificate)?
            }
            (None, Some(token)) => self.bearer_of(token, now).await?,
        };
        match self.person(headers, now).await {
            Ok(None) => Ok(caller),
            Ok(Some(person)) => Ok(caller.on_behalf_of(person)),
            Err(refusal) => Err(Refusal { of_person: true, ..refusal }.into()),
        }
    }

    /// Whether the credential of somebody who was let in still counts: asked between the parts of a
    /// stream.
    #[must_use]
    pub fn holds(&self, principal: &Principal, peer: &Peer, now: u64) -> bool {
        let credential = match principal.auth.split('+').next() {
            Some("key") => self.keys.holds(&principal.credential, now),
            Some("mtls") => peer.certificate_holds(now),
            _ => true,
        };
        credential && now < principal.expires
    }

    fn take(&self, kind: CredentialKind) -> Result<(), Refusal> {
        if self.takes(kind) { Ok(()) } else { Err(Refusal::of(Cause::Kind)) }
    }

    fn client(&self, certificate: &ClientCertificate) -> Result<Principal, Refusal> {
        self.take(CredentialKind::Certificate)?;
        let refused = |cause| Refusal::naming(cause, certificate.sha256.clone());
        let name = certificate.name.as_ref().ok_or_else(|| refused(Cause::CertificateName))?;
        let roles = self.clients.get(name).ok_or_else(|| refused(Cause::CertificateUnknown))?;
        Ok(Principal {
            id: format!("mtls:{name}"),
            kind: PrincipalKind::Service,
            roles: roles.iter().cloned().collect(),
            auth: "mtls",
            credential: certificate.sha256.clone(),
            expires: certificate.expires,
            proved_person: None,
        })
    }

    async fn bearer_of(&self, token: &str, now: u64) -> Result<Principal, Denied> {
        if ApiKey::is_meant(token) {
            self.take(CredentialKind::Key)?;
            return Ok(self.keys.check(token, now).ok_or(Denied::Unavailable)??);
        }
        self.take(CredentialKind::Jwt)?;
        Ok(self.issuers.check(token, now).await?)
    }

    /// The person whom a second token proves. A proof that does not hold refuses the request: to
    /// go on without it would decide something else than what was asked.
    async fn person(&self, headers: &HeaderMap, now: u64) -> Result<Option<Principal>, Refusal> {
        let Some(token) = single(headers, ON_BEHALF_OF).map_err(Refusal::of)? else {
            return Ok(None);
        };
        if self.issuers.is_empty() {
            return Err(Refusal::of(Cause::Kind));
        }
        let person = self.issuers.check(token, now).await?;
        if person.kind != PrincipalKind::User {
            return Err(Refusal::of(Cause::NoPerson));
        }
        Ok(Some(person))
    }
}

/// The bearer token of a request.
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Cause> {
    let Some(value) = single(headers, AUTHORIZATION.as_str())? else { return Ok(None) };
    let (scheme, token) = value.split_once(' ').ok_or(Cause::Malformed)?;
    let token = token.trim_start_matches(' ');
    let is_token = |c: char| c.is_ascii_alphanumeric() || "-._~+/=".contains(c);
    if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.chars().all(is_token) {
        Ok(Some(token))
    } else {
        Err(Cause::Malformed)
    }
}

/// A header's value, which is visible ASCII and stands there once.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Cause> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| Cause::Malformed),
        (Some(_), Some(_)) => Err(Cause::Several),
    }
}
