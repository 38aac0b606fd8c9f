//! Who asks, as policies, budgets and the audit take it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use veilstream_reading::audit::{Entry, Event, Hex, cut_reason};

use super::fault::RequestFault;
use super::request::Claims;
use crate::keys::KeyFault;
use crate::policy::{self, Credential, Denial, PolicySet, PrincipalKind, RequestFacts, Want};
use crate::serve::auth;
use crate::serve::router::Caller;

/// Somebody who was let in, and where from.
pub(super) struct Asker {
    pub(super) id: Arc<str>,
    principal: auth::Principal,
    caller: Caller,
}

impl Asker {
    pub(super) fn new(principal: auth::Principal, caller: Caller) -> Self {
        Self { id: principal.id.as_str().into(), principal, caller }
    }

    /// An IPv4 address in an IPv6 one is that.
    fn ip(&self) -> IpAddr {
        self.caller.ip.to_canonical()
    }

    /// Takes items of its limit.
    pub(super) fn take_items(&self, items: usize) -> Result<(), RequestFault> {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        self.caller.take_items(&self.principal, items).map_err(RequestFault::Exceeded)
    }

    /// Waits until its limit has so many items left, and takes them.
    pub(super) async fn wait_for_items(&self, items: usize) {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        self.caller.wait_for_items(&self.principal, items).await;
    }

    /// Whether its credential still counts.
    pub(super) fn still_holds(&self) -> bool {
        self.caller.still_holds(&self.principal)
    }

    /// Takes down that its stream is refused.
    pub(super) fn refused(&self, path: &'static str, code: &'static str) {
        self.caller.refused(&self.principal, path, code);
    }

    /// What is known of one of its requests; it has no bare token and names nobody.
    pub(super) fn facts(&self, claims: &Claims, items: u64) -> RequestFacts {
        RequestFacts {
            purpose: claims.purpose.clone(),
            reason: claims.reason.clone(),
            ip: self.ip(),
            auth: self.credential(),
            items,
            bare: false,
            subjects: 0,
        }
    }

    /// The questions of one of its requests, of the person for whom it asks too.
    pub(super) fn questions<'p>(
        &self,
        policies: &'p PolicySet,
        facts: &RequestFacts,
        want: Want,
    ) -> Result<policy::Request<'p>, RequestFault> {
        let roles = |roles: &BTreeSet<String>| roles.iter().cloned().collect();
        let caller = policy::Principal {
            kind: self.principal.kind,
            id: self.principal.id.clone(),
            roles: roles(&self.principal.roles),
        };
        let person = self.principal.proved_person.as_ref().map(|person| policy::Principal {
            kind: PrincipalKind::User,
            id: person.id.clone(),
            roles: roles(&person.roles),
        });
        let request = policies.request(&caller, person.as_ref(), facts, want);
        let unknown = || KeyFault("nobody knows who is suspended".to_owned());
        let is_suspended = self.caller.is_suspended(&self.principal).ok_or_else(unknown)?;
        Ok(if is_suspended { request.denied(Denial::Suspended) } else { request })
    }

    /// Suspends the caller in this process, where that is what a honey token does; whether it did.
    pub(super) fn suspend(&self) -> Result<bool, RequestFault> {
        Ok(self.caller.suspend(&self.principal).map_err(|error| KeyFault(error.to_string()))?)
    }

    /// What brings suspensions into the store. It blocks.
    pub(super) fn write_suspensions(&self) -> impl FnOnce() + Send + 'static {
        self.caller.write_suspensions()
    }

    /// The kind of its own credential.
    fn credential(&self) -> Credential {
        match self.principal.auth.split('+').next() {
            Some("mtls") => Credential::Mtls,
            Some("jwt") => Credential::Jwt,
            _ => Credential::Key,
        }
    }

    /// The line of its suspension, of the credential that it opened honey with.
    pub(super) fn suspended(&self) -> Entry {
        Entry {
            actor: Some(self.principal.id.clone()),
            auth: Some(self.principal.audited_auth()),
            credential: Some(self.principal.credential.clone()),
            ip: Some(self.ip().to_string()),
            on_behalf_of: self.principal.proved_person.as_ref().map(|person| person.id.clone()),
            reason: Some("suspend".to_owned()),
            outcome: Some("ok".to_owned()),
            ..Entry::new(Event::Credentials)
        }
    }

    /// What all lines of one of its requests have.
    pub(super) fn entry(
        &self,
        event: Event,
        claims: &Claims,
        attempt: u64,
        policies: &PolicySet,
    ) -> Entry {
        // What a token proved goes before what the caller claims.
        let person = self.principal.proved_person.as_ref().map(|person| person.id.clone());
        Entry {
            actor: Some(self.principal.id.clone()),
            on_behalf_of: person.or_else(|| claims.on_behalf_of.clone()),
            auth: Some(self.principal.audited_auth()),
            credential: Some(self.principal.credential.clone()),
            // A purpose that nobody configured is the caller's text, and may be anything.
            purpose: policies.has_purpose(&claims.purpose).then(|| claims.purpose.clone()),
            reason: claims.reason.as_deref().map(cut_reason),
            ip: Some(self.ip().to_string()),
            request_id: claims.request_id.clone(),
            attempt: (attempt > 1).then_some(attempt),
            policy: policy_hash(policies),
            ..Entry::new(event)
        }
    }
}

fn policy_hash(policies: &PolicySet) -> Option<Hex<32>> {
    policies.hash().strip_prefix("sha256:")?.parse().ok()
}
