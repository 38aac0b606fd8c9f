//! Refused logins and requests in the audit log.

use std::net::IpAddr;

use veilstream_reading::audit::{AuditError, AuditLog, Entry, Event};

use crate::serve::auth::{Refusal, RefusalAudit, RefusedRequest};

/// Writes what is refused. Who is refused waits for nothing, and the lines are written before the
/// log stops. For tasks.
pub struct AuditedRefusals(AuditLog);

impl AuditedRefusals {
    /// Into this log.
    #[must_use]
    pub fn new(audit: AuditLog) -> Self {
        Self(audit)
    }

    fn append(&self, entry: Entry) {
        match self.0.submit(vec![entry]) {
            Ok(pending) => {
                tokio::spawn(async {
                    if let Err(error) = pending.await {
                        missed(&error);
                    }
                });
            }
            Err(error) => missed(&error),
        }
    }
}

fn missed(error: &AuditError) {
    tracing::error!(%error, "a refusal is not in the audit log");
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
