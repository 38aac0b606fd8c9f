//! Who is told of refused connections: the log, the metric, readiness.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::types::RDKafkaErrorCode as Code;

use super::fault::broker_of;
use super::{Access, AccessFault, AccessReason, lock};
use crate::kafka::ffi::Listener;
use crate::status::Status;
use crate::telemetry::events::{AccessRefused, Event as _};
use crate::telemetry::metrics::Metrics;

/// The component of `/readyz`.
const COMPONENT: &str = "authentication";
/// So many clients are named in a reason; the rest is counted.
const NAMED: usize = 3;

/// What stands between clients and brokers now.
struct Board {
    faults: BTreeMap<u64, Raised>,
    report: Option<(Arc<Status>, Arc<Metrics>)>,
    was_refused: bool,
}

/// A fault that has not gone.
struct Raised {
    access: u64,
    /// Of the client's certificates ([`Access::generation`]).
    generation: u64,
    fault: AccessFault,
    /// `false`: the client may have been refused with credentials that it no longer has.
    is_confirmed: bool,
}

static BOARD: Mutex<Board> =
    Mutex::new(Board { faults: BTreeMap::new(), report: None, was_refused: false });
/// Ids of reporters; those of accesses themselves stand in the upper half.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);
#[cfg(feature = "aws-kms")]
const OF_ACCESS: u64 = 1 << 63;

/// From now on refused connections make `status` unready and count in `metrics`.
pub fn report_to(status: Arc<Status>, metrics: Arc<Metrics>) {
    let mut board = lock(&BOARD);
    board.report = Some((status, metrics));
    board.publish();
}

impl Board {
    fn raise(&mut self, id: u64, access: &Access, generation: u64, fault: AccessFault) {
        count(self.report.as_ref(), &fault);
        let is_confirmed = !access.has_new_credentials();
        self.faults.insert(id, Raised { access: access.id, generation, fault, is_confirmed });
        self.publish();
    }

    /// What `/readyz` says.
    fn publish(&mut self) {
        let Some((status, _)) = &self.report else { return };
        let mut reasons: Vec<String> = self
            .faults
            .values()
            .filter(|raised| raised.is_confirmed)
            .map(|raised| raised.fault.to_string())
            .collect();
        if reasons.is_empty() {
            if std::mem::take(&mut self.was_refused) {
                tracing::info!("brokers take our connections again");
            }
            return status.ready(COMPONENT);
        }
        self.was_refused = true;
        reasons.dedup();
        let more = reasons.len().saturating_sub(NAMED);
        reasons.truncate(NAMED);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        status.unready(COMPONENT, format!("{}{more}", reasons.join("; ")));
    }
}

fn count(report: Option<&(Arc<Status>, Arc<Metrics>)>, fault: &AccessFault) {
    let refused = AccessRefused { fault: &fault.to_string(), reason: fault.reason.label() };
    match report {
        Some((_, metrics)) => refused.emit(metrics),
        None => refused.log(),
    }
}

/// Logs and counts a fault that ends the start.
pub(super) fn refused_at_start(fault: &AccessFault) {
    let report = lock(&BOARD).report.clone();
    if let Some((_, metrics)) = report {
        metrics.authentication_errors.with_label_values(&[fault.reason.label()]).inc();
    }
}

/// Where clients of an access were refused; `None`: it is not known at which broker.
pub(super) fn refused_brokers(access: &Access) -> Vec<Option<String>> {
    let board = lock(&BOARD);
    let mut brokers: Vec<Option<String>> = board
        .faults
        .values()
        .filter(|raised| raised.access == access.id)
        .map(|raised| raised.fault.broker.clone())
        .collect();
    brokers.sort();
    brokers.dedup();
    brokers
}

/// A broker takes these credentials now. Clients that have older ones stay refused until others
/// take their places.
pub(super) fn accepted(access: &Access, broker: Option<&str>) {
    let mut board = lock(&BOARD);
    let generation = access.generation();
    board.faults.retain(|_, raised| {
        raised.access != access.id
            || raised.fault.broker.as_deref() != broker
            || raised.generation != generation
    });
    board.publish();
}

/// No broker says that these credentials are taken. `reason`: what one that refuses says, which may
/// be more than was known.
pub(super) fn still_refused(access: &Access, broker: Option<&str>, reason: Option<AccessReason>) {
    let mut board = lock(&BOARD);
    for raised in board
        .faults
        .values_mut()
        .filter(|raised| raised.access == access.id && raised.fault.broker.as_deref() == broker)
    {
        raised.fault.reason = reason.unwrap_or(raised.fault.reason);
        raised.is_confirmed = true;
    }
    board.publish();
}

#[cfg(feature = "aws-kms")]
pub(super) fn token_renewed(access: &Access) {
    tracing::debug!(mechanism = access.mechanism, "token made");
    let mut board = lock(&BOARD);
    board.faults.remove(&(OF_ACCESS | access.id));
    board.publish();
}

#[cfg(feature = "aws-kms")]
pub(super) fn token_missing(access: &Access, is_there: bool, why: &super::msk_iam::NoToken) {
    tracing::warn!(mechanism = access.mechanism, %why, "no token can be made; tried again");
    let fault = AccessFault {
        client: "all clients".to_owned(),
        mechanism: access.mechanism.clone(),
        broker: None,
        reason: super::tokens::MISSING,
    };
    let mut board = lock(&BOARD);
    if is_there {
        return count(board.report.as_ref(), &fault);
    }
    board.raise(OF_ACCESS | access.id, access, access.generation(), fault);
}

/// Hears the errors of one client, and forgets them when the client ends.
pub(crate) struct Reporter {
    id: u64,
    access: Arc<Access>,
    /// Of the client's certificates.
    generation: u64,
    client: String,
    /// OpenSSL's last verdict on a broker's certificate; 0: none.
    verdict: AtomicI32,
}

impl Reporter {
    pub(super) fn new(access: Arc<Access>, client: String) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            generation: access.generation(),
            access,
            client,
            verdict: AtomicI32::new(0),
        }
    }
}

impl Listener for Reporter {
    fn error(&self, code: Code, text: &str) {
        let Some(reason) =
            refined(AccessReason::of(code, text), self.verdict.load(Ordering::Acquire))
        else {
            return;
        };
        let fault = AccessFault {
            client: self.client.clone(),
            mechanism: self.access.mechanism.clone(),
            broker: broker_of(text),
            reason,
        };
        let mut board = lock(&BOARD);
        if AccessReason::is_renewal(text) {
            return count(board.report.as_ref(), &fault);
        }
        board.raise(self.id, &self.access, self.generation, fault);
    }

    fn certificate(&self, code: i32) {
        self.verdict.store(code, Ordering::Release);
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        let mut board = lock(&BOARD);
        if board.faults.remove(&self.id).is_some() {
            board.publish();
        }
    }
}

/// librdkafka's error says that a certificate is refused, OpenSSL's verdict why.
pub(super) fn refined(reason: Option<AccessReason>, verdict: i32) -> Option<AccessReason> {
    match reason {
        Some(AccessReason::BrokerCertificateUntrusted) if verdict != 0 => {
            Some(AccessReason::of_certificate(verdict))
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::Key;
    use super::*;

    /// Lanes read the errors of their former password when the new one is long in use.
    #[test]
    fn a_refusal_after_new_credentials_makes_unready_once_it_is_confirmed() {
        let key = Key { properties: BTreeMap::new(), files: BTreeMap::new(), region: None };
        let access = Arc::new(Access::new(key));
        let reporter = access.reporter("producer");
        let text = "sasl_plaintext://h:1/1: SASL authentication error";
        // Other tests have faults of their own.
        let is_ready = || {
            !lock(&BOARD)
                .faults
                .values()
                .any(|raised| raised.access == access.id && raised.is_confirmed)
        };

        reporter.error(Code::Authentication, text);
        assert!(!is_ready());
        accepted(&access, Some("h:1"));
        assert!(is_ready());

        lock(&access.state).taken_at = Some(Instant::now());
        reporter.error(Code::Authentication, text);
        assert!(is_ready());
        assert_eq!(refused_brokers(&access), [Some("h:1".to_owned())]);
        still_refused(&access, Some("h:1"), None);
        assert!(!is_ready());
        accepted(&access, Some("h:1"));
        assert!(is_ready());
    }
}
