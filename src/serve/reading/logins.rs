//! Refused logins in the audit log.

use std::net::IpAddr;
use std::sync::mpsc::{SyncSender, sync_channel};

use veilstream_reading::audit::{AuditLog, Entry, Event};

use crate::serve::auth::{LoginAudit, Refusal};

/// Lines that wait for the log; more are dropped, and the log of the process has them.
const WAITING: usize = 1024;

/// Writes refused logins from a thread of its own: who is refused waits for nothing.
pub struct AuditedLogins(SyncSender<Entry>);

impl AuditedLogins {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(audit: AuditLog) -> std::io::Result<Self> {
        let (send, entries) = sync_channel::<Entry>(WAITING);
        std::thread::Builder::new().name("audit-logins".to_owned()).spawn(move || {
            for entry in entries {
                if let Err(error) = audit.append(vec![entry]) {
                    tracing::error!(%error, "a refused login is not in the audit log");
                }
            }
        })?;
        Ok(Self(send))
    }
}

impl LoginAudit for AuditedLogins {
    fn refused(&self, address: IpAddr, refusal: &Refusal, before: u64) {
        let entry = Entry {
            actor: Some("unknown".to_owned()),
            credential: refusal.credential.clone(),
            ip: Some(address.to_string()),
            reason: Some(refusal.cause.as_str().to_owned()),
            items: (before > 0).then_some(before + 1),
            outcome: Some("denied".to_owned()),
            ..Entry::new(Event::LoginRefused)
        };
        if self.0.try_send(entry).is_err() {
            tracing::error!(%address, "a refused login is not in the audit log, which is behind");
        }
    }
}
