//! Refused logins and requests in the audit log.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use veilstream_reading::audit::{AuditError, AuditLog, Entry, Event};

use crate::serve::auth::{Refusal, RefusalAudit, RefusedRequest};
use crate::telemetry::lasting::Lasting;

/// Writes what is refused. Who is refused waits for nothing, and the lines are written before the
/// log stops. For tasks.
pub struct AuditedRefusals {
    audit: AuditLog,
    missed: Arc<Lasting>,
}

impl AuditedRefusals {
    /// Into this log.
    #[must_use]
    pub fn new(audit: AuditLog) -> Self {
        Self { audit, missed: Arc::default() }
    }

    fn append(&self, entry: Entry) {
        let missed = self.missed.clone();
        match self.audit.submit(vec![entry]) {
            Ok(pending) => {
                tokio::spawn(async move { told(&missed, pending.await.err().as_ref()) });
            }
            Err(error) => told(&missed, Some(&error)),
        }
    }
}

/// A caller that is refused can ask again without end.
fn told(missed: &Lasting, error: Option<&AuditError>) {
    let now = Instant::now();
    match error {
        Some(error) if missed.meet(&error.to_string(), now) => tracing::error!(
            %error,
            "refusals are not in the audit log; further ones are counted only"
        ),
        Some(_) => {}
        None => {
            if let Some(refusals) = missed.pass(now) {
                tracing::info!(refusals, "refusals are in the audit log again; so many are not");
            }
        }
    }
}

impl RefusalAudit for AuditedRefusals {
    fn login_refused(&self, address: IpAddr, refusal: &Refusal, before: u64) {
        self.append(Entry {
            actor: Some("unknown".to_owned()),
            credential: refusal.credential.clone(),
            ip: Some(address.to_string()),
            reason: Some(refusal.cause.as_str().to_owned()),
            items: (before > 0).then_some(before + 1),
            outcome: Some("denied".to_owned()),
            ..Entry::new(Event::LoginRefused)
        });
    }

    fn request_refused(&self, request: RefusedRequest<'_>, before: u64) {
        let RefusedRequest { principal, address, path, code } = request;
        self.append(Entry {
            actor: Some(principal.id.clone()),
            auth: Some(principal.audited_auth()),
            credential: Some(principal.credential.clone()),
            ip: Some(address.to_canonical().to_string()),
            reason: Some(format!("{path} {code}")),
            items: (before > 0).then_some(before + 1),
            outcome: Some("denied".to_owned()),
            ..Entry::new(Event::RequestRefused)
        });
    }
}
