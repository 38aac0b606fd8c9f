//! Refused logins and requests in the audit log.

use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, sync_channel};

use veilstream_reading::audit::{AuditLog, Entry, Event};

use crate::serve::auth::{Refusal, RefusalAudit, RefusedRequest};

/// Lines that wait for the log; more are dropped, and the log of the process has them.
const WAITING: usize = 1024;

/// Writes what is refused from a thread of its own: who is refused waits for nothing.
pub struct AuditedRefusals(SyncSender<Entry>);

impl AuditedRefusals {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(audit: AuditLog) -> std::io::Result<Self> {
        let (send, entries) = sync_channel::<Entry>(WAITING);
        std::thread::Builder::new().name("audit-refusals".to_owned()).spawn(move || {
            for entry in entries {
                if let Err(error) = audit.append(vec![entry]) {
                    tracing::error!(%error, "a refusal is not in the audit log");
                }
            }
        })?;
        Ok(Self(send))
    }
}

impl AuditedRefusals {
    fn append(&self, entry: Entry) {
        if self.0.try_send(entry).is_err() {
            tracing::error!("a refusal is not in the audit log, which is behind");
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
