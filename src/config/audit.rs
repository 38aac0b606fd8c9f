//! `[audit]`: where it is written down who read what.

use std::path::PathBuf;
use std::time::Duration;

use veilstream_reading::audit::Recipient;

use super::read::{Section, not_empty};
use super::value_error::ValueError;
use super::{Kafka, Secret};

const DAY: u64 = 86_400;

/// Where it is written down who read what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// The file; processes that find it locked write beside it.
    pub file: PathBuf,
    /// The verifier's public key: whom the keys of chains are sealed to.
    pub recipient: Recipient,
    /// How long lines are kept.
    pub retain: Duration,
    /// The operator has said that there is no second place.
    pub has_no_copy: bool,
    /// A second place of the lines.
    pub topic: Option<AuditTopic>,
    /// Another one.
    pub postgres: Option<AuditPostgres>,
    /// Lines that wait at most for a place that is not required.
    pub queue: u64,
}

impl Audit {
    /// Whether lines are copied anywhere.
    #[must_use]
    pub fn has_second_place(&self) -> bool {
        self.topic.is_some() || self.postgres.is_some()
    }
}

/// A topic that lines are copied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditTopic {
    /// How its cluster is reached.
    pub kafka: Kafka,
    /// Its name.
    pub name: String,
    /// What follows when it takes no lines.
    pub delivery: Delivery,
}

/// A table that lines are copied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPostgres {
    /// `postgres://...`, of a role that may INSERT and nothing else.
    pub url: Secret,
    /// Authorities of the server; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// What follows when it takes no lines.
    pub delivery: Delivery,
}

/// What follows when a second place takes no lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delivery {
    /// Nothing is opened.
    Required,
    /// Lines wait for it, and a line says how many it never had.
    BestEffort,
}

/// `None`: there is no such section.
pub(super) fn read(mut s: Section<'_, '_>, kafka: &Kafka) -> Option<Audit> {
    let is_there = !s.is_empty();
    let file = s.path("file", "audit.jsonl");
    let retain = s.parse("retain", Duration::from_secs(400 * DAY), days);
    let has_no_copy = s.parse("copy", false, |text| match text {
        "none" => Ok(true),
        _ => Err(ValueError::form(
            "no second place",
            "\"none\", or name one with audit.topic or audit.postgres",
        )),
    });
    let topic_delivery = s.parse("topic_delivery", Delivery::Required, delivery);
    let topic = s.parse("topic", None, |text| not_empty(text).map(Some)).map(|name| AuditTopic {
        kafka: kafka.clone(),
        name,
        delivery: topic_delivery,
    });
    let postgres = postgres(&mut s);
    let queue = s.number("queue", 10_000, 1..=1_000_000);
    if has_no_copy && (topic.is_some() || postgres.is_some()) {
        s.missing("copy", "says that there is no second place, and one is named; leave it out");
    }
    let recipient = s.secret("recipient", "recipient_file").map(|text| text.expose().parse());
    let recipient = match recipient {
        Some(Ok(recipient)) => Some(recipient),
        Some(Err(_)) => {
            s.missing("recipient", "is no public key; `veilstream audit keygen` makes one");
            None
        }
        None if is_there => {
            s.missing(
                "recipient",
                "is missing; name the verifier's public key, which `veilstream audit keygen` makes",
            );
            None
        }
        None => None,
    };
    s.finish();
    Some(Audit { file, recipient: recipient?, retain, has_no_copy, topic, postgres, queue })
}

fn postgres(s: &mut Section<'_, '_>) -> Option<AuditPostgres> {
    let url = s.secret("postgres", "postgres_file");
    let ca_file = s.optional_path("postgres_ca_file");
    let delivery = s.parse("postgres_delivery", Delivery::Required, delivery);
    if url.is_some() && !cfg!(feature = "postgres") {
        s.missing("postgres", "is not in this build; build it with the feature postgres");
    }
    Some(AuditPostgres { url: url?, ca_file, delivery })
}

fn delivery(text: &str) -> Result<Delivery, ValueError> {
    match text {
        "required" => Ok(Delivery::Required),
        "best_effort" => Ok(Delivery::BestEffort),
        _ => Err(ValueError::form("no delivery", "required or best_effort")),
    }
}

/// `400d`
fn days(text: &str) -> Result<Duration, ValueError> {
    let days = text.strip_suffix('d').and_then(|n| n.trim().parse::<u64>().ok());
    match days.filter(|days| (1..=36_500).contains(days)) {
        Some(days) => Ok(Duration::from_secs(days * DAY)),
        None => Err(ValueError::form("no number of days", "\"400d\" (1d to 36500d)")),
    }
}
