//! `[audit]`: where it is written down who read what.

use std::path::PathBuf;
use std::time::Duration;

use veilstream_reading::audit::Recipient;

use super::read::Section;
use super::value_error::ValueError;

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
}

/// `None`: there is no such section.
pub(super) fn read(mut s: Section<'_, '_>) -> Option<Audit> {
    let is_there = !s.is_empty();
    let file = s.path("file", "audit.jsonl");
    let retain = s.parse("retain", Duration::from_secs(400 * DAY), days);
    let has_no_copy = s.parse("copy", false, |text| match text {
        "none" => Ok(true),
        _ => Err(ValueError::form("no second place of this version", "\"none\", or leave it out")),
    });
    for later in ["topic", "postgres"] {
        s.later(later, "remove it; the file is the only place");
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
    Some(Audit { file, recipient: recipient?, retain, has_no_copy })
}

/// `400d`
fn days(text: &str) -> Result<Duration, ValueError> {
    let days = text.strip_suffix('d').and_then(|n| n.trim().parse::<u64>().ok());
    match days.filter(|days| (1..=36_500).contains(days)) {
        Some(days) => Ok(Duration::from_secs(days * DAY)),
        None => Err(ValueError::form("no number of days", "\"400d\" (1d to 36500d)")),
    }
}
