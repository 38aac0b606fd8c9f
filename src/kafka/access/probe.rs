//! Asks a broker whether it takes a connection with these credentials, by a client that lives no
//! longer than the question.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::types::RDKafkaErrorCode as Code;

use super::fault::broker_of;
use super::report::{self, refined};
use super::{Access, AccessFault, AccessReason, Values, lock, translate};
use crate::config::Kafka;
use crate::exit::Exit;
use crate::kafka::ffi::{Listener, NativeProducer};
use crate::kafka::settings::Side;

/// The longest question.
const PATIENCE: Duration = Duration::from_secs(10);
/// One look at the answer, in milliseconds.
const LOOK: i32 = 100;
/// After a refusal another broker may still say yes.
const OTHERS: Duration = Duration::from_millis(1500);

/// Why there is no access.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// A broker refuses the connection.
    #[error(transparent)]
    Refused(#[from] AccessFault),
    /// librdkafka refuses the settings, a certificate or a key.
    #[error("kafka settings: {0}")]
    Settings(String),
}

impl AccessError {
    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Refused(_) => Exit::NotAuthorized,
            Self::Settings(_) => Exit::Usage,
        }
    }
}

/// What a broker says.
pub(super) enum ProbeAnswer {
    Accepted,
    Refused(AccessFault),
    /// No client can be made.
    Unusable(String),
    /// None answered.
    Unknown,
}

/// Asks the brokers whether they take connections of both sides. `Ok` too where none answers: that
/// is for others to find.
///
/// # Errors
/// [`AccessError`]: whose fault it is, and what to do.
pub fn check(kafka: &Kafka) -> Result<(), AccessError> {
    for side in [Side::Consumer, Side::Producer] {
        let access = Access::of(kafka, side);
        if lock(&access.state).is_proven {
            continue;
        }
        let values = lock(&access.state)
            .taken
            .as_ref()
            .map(|taken| taken.values.clone())
            .unwrap_or_default();
        match access.ask(&values, None, &|| true) {
            ProbeAnswer::Accepted => lock(&access.state).is_proven = true,
            ProbeAnswer::Refused(fault) => {
                report::refused_at_start(&fault);
                return Err(fault.into());
            }
            ProbeAnswer::Unusable(why) => return Err(AccessError::Settings(why)),
            ProbeAnswer::Unknown => {}
        }
    }
    Ok(())
}

impl Access {
    /// Asks with what the files hold (`values`), the broker at an address or any; as long as
    /// `go_on` says so.
    pub(super) fn ask(
        &self,
        values: &Values,
        broker: Option<&str>,
        go_on: &dyn Fn() -> bool,
    ) -> ProbeAnswer {
        self.prepare();
        #[cfg(feature = "aws-kms")]
        if self.tokens.as_ref().is_some_and(|tokens| !tokens.is_there()) {
            return ProbeAnswer::Refused(self.fault(super::tokens::MISSING, None));
        }
        let mut properties: BTreeMap<String, String> = self.key.properties.clone();
        properties.extend(values.iter().map(|(name, value)| (name.clone(), value.to_string())));
        translate(&mut properties);
        let own = [("client.id", "veilstream"), ("enable.metrics.push", "false")];
        properties.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        if let Some(broker) = broker {
            properties.insert("bootstrap.servers".to_owned(), broker.to_owned());
        }
        let heard = Arc::new(Heard::default());
        let client = match NativeProducer::unwatched(
            properties.iter().map(|(name, value)| (name.as_str(), value.as_str())),
            heard.clone(),
        ) {
            Ok(client) => client,
            Err(why) => return ProbeAnswer::Unusable(why.to_string()),
        };
        client.present(|handle| self.give_token(handle));
        let end = Instant::now() + PATIENCE;
        let mut refused: Option<Instant> = None;
        while go_on() {
            if client.ask_brokers(LOOK).is_ok() {
                return ProbeAnswer::Accepted;
            }
            let now = Instant::now();
            if let Some((reason, broker)) = heard.refusal() {
                if heard.is_down.load(Ordering::Acquire)
                    || now >= *refused.get_or_insert(now) + OTHERS
                {
                    return ProbeAnswer::Refused(self.fault(reason, broker));
                }
            } else if heard.is_down.load(Ordering::Acquire) || now >= end {
                return ProbeAnswer::Unknown;
            }
        }
        ProbeAnswer::Unknown
    }

    fn fault(&self, reason: AccessReason, broker: Option<String>) -> AccessFault {
        AccessFault {
            client: "kafka".to_owned(),
            mechanism: self.mechanism.clone(),
            broker,
            reason,
        }
    }

    fn give_token(&self, handle: &crate::kafka::ffi::Handle<'_>) {
        #[cfg(feature = "aws-kms")]
        if let Some(tokens) = &self.tokens {
            tokens.give(handle);
        }
        #[cfg(not(feature = "aws-kms"))]
        let _ = handle;
    }
}

/// What the question brings to light.
#[derive(Default)]
struct Heard {
    refusal: Mutex<Option<(AccessReason, Option<String>)>>,
    verdict: AtomicI32,
    has_hung_up: AtomicBool,
    is_down: AtomicBool,
}

impl Heard {
    fn refusal(&self) -> Option<(AccessReason, Option<String>)> {
        // What was said counts more than what was left unsaid.
        lock(&self.refusal).clone().or_else(|| {
            self.has_hung_up.load(Ordering::Acquire).then_some((AccessReason::Protocol, None))
        })
    }
}

impl Listener for Heard {
    fn error(&self, code: Code, text: &str) {
        if code == Code::AllBrokersDown {
            self.is_down.store(true, Ordering::Release);
        }
        if AccessReason::is_hang_up(code, text) {
            self.has_hung_up.store(true, Ordering::Release);
        }
        if let Some(reason) =
            refined(AccessReason::of(code, text), self.verdict.load(Ordering::Acquire))
        {
            lock(&self.refusal).get_or_insert((reason, broker_of(text)));
        }
    }

    fn certificate(&self, code: i32) {
        self.verdict.store(code, Ordering::Release);
    }
}
