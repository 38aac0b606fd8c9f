//! Lines of the log for people: the person whose data it is, an auditor of HIPAA or of PCI DSS.

mod write;

use std::collections::HashMap;
use std::str::FromStr;

use veilstream_engine::key::SubjectRef;

use super::AuditError;
use super::hex::Hex;
use super::line::{Event, Line};
use super::parts::LogParts;

pub use write::{csv, json};

/// Whom a report is for: that decides what stands in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audience {
    /// The data subject: when, what for, which categories, what kind of recipient. No employees'
    /// names unless asked for, and no reasons.
    Subject,
    /// An accounting of disclosures (45 CFR 164.528): date, recipient, what, why.
    Hipaa,
    /// PCI DSS 10.2.2: who, what, when, success, whence, which data. Of everybody.
    Pci,
}

impl FromStr for Audience {
    type Err = AudienceError;

    fn from_str(text: &str) -> Result<Self, AudienceError> {
        match text {
            "subject" => Ok(Self::Subject),
            "hipaa" => Ok(Self::Hipaa),
            "pci" => Ok(Self::Pci),
            _ => Err(AudienceError),
        }
    }
}

/// No audience has that name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write subject, hipaa or pci")]
pub struct AudienceError;

/// What is reported.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Whom the report is for.
    pub audience: Audience,
    /// Whose data; `None`: everybody's.
    pub subject: Option<SubjectRef>,
    /// Names of actors also for the data subject.
    pub names: bool,
}

/// A report.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The rows, by time.
    pub rows: Vec<Row>,
    /// Disclosures whose lines name nobody: their schema has no subject. They may be of the person.
    pub nobody: u64,
    /// Bulk reads whose side file is not here or was changed: whom they name is unknown.
    pub unread_side_files: u64,
}

/// One line as a report has it: names of columns and their texts.
pub type Row = Vec<(&'static str, String)>;

impl Report {
    /// Collects the lines. A repeated request is one disclosure.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn of(log: &LogParts, wanted: &Wanted) -> Result<Self, AuditError> {
        let mut report = Self::default();
        let mut bulk: HashMap<Hex<32>, bool> = HashMap::new();
        let mut rows: Vec<(String, Row)> = Vec::new();
        log.each(|_, _, line| {
            if !is_told(wanted.audience, line.entry.event) {
                return Ok(());
            }
            let is_of = match (wanted.subject, line.entry.subject, line.entry.subjects_sha256) {
                (None, ..) => true,
                (Some(wanted), Some(subject), _) => subject.0 == wanted.0,
                (Some(wanted), None, Some(sha256)) => *bulk.entry(sha256).or_insert_with(|| {
                    let Some(refs) = log.subjects(&sha256) else {
                        report.unread_side_files += 1;
                        return false;
                    };
                    refs.binary_search(&wanted).is_ok()
                }),
                (Some(_), None, None) => {
                    report.nobody += u64::from(discloses(line.entry.event));
                    false
                }
            };
            let is_retry = line.entry.attempt.is_some_and(|attempt| attempt > 1);
            if is_of && !(is_retry && wanted.audience != Audience::Pci) {
                rows.push((line.time.clone(), row(wanted, &line)));
            }
            Ok(())
        })?;
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        report.rows = rows.into_iter().map(|(_, row)| row).collect();
        Ok(report)
    }
}

fn discloses(event: Event) -> bool {
    matches!(event, Event::Reveal | Event::Search | Event::Honey)
}

fn is_told(audience: Audience, event: Event) -> bool {
    match audience {
        Audience::Subject | Audience::Hipaa => {
            discloses(event) || matches!(event, Event::Update | Event::Delete | Event::Shred)
        }
        Audience::Pci => event != Event::Checkpoint,
    }
}

fn row(wanted: &Wanted, line: &Line) -> Row {
    let entry = &line.entry;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let fields = |status: bool| {
        let shown = entry.fields.iter().filter(|(_, s)| status || is_disclosed(s));
        let words =
            shown.map(|(field, s)| if status { format!("{field}={s}") } else { field.clone() });
        words.collect::<Vec<_>>().join(" ")
    };
    let mut row = vec![("time", line.time.clone()), ("event", entry.event.as_str().to_owned())];
    match wanted.audience {
        Audience::Subject => {
            row.push(("purpose", text(&entry.purpose)));
            row.push(("schema", text(&entry.schema)));
            row.push(("fields", fields(false)));
            row.push(("recipient", text(&entry.auth)));
            if wanted.names {
                row.push(("actor", text(&entry.actor)));
                row.push(("on_behalf_of", text(&entry.on_behalf_of)));
            }
        }
        Audience::Hipaa => {
            row.push(("actor", text(&entry.actor)));
            row.push(("on_behalf_of", text(&entry.on_behalf_of)));
            row.push(("purpose", text(&entry.purpose)));
            row.push(("reason", text(&entry.reason)));
            row.push(("schema", text(&entry.schema)));
            row.push(("fields", fields(false)));
            row.push(("outcome", text(&entry.outcome)));
        }
        Audience::Pci => {
            row.push(("actor", text(&entry.actor)));
            row.push(("auth", text(&entry.auth)));
            row.push(("credential", text(&entry.credential)));
            row.push(("outcome", text(&entry.outcome)));
            row.push(("ip", text(&entry.ip)));
            row.push(("schema", text(&entry.schema)));
            row.push(("fields", fields(true)));
            row.push(("subject", entry.subject.map(|s| s.to_string()).unwrap_or_default()));
            row.push(("items", entry.items.map(|n| n.to_string()).unwrap_or_default()));
        }
    }
    row.push(("line", format!("{}:{}", line.chain, line.seq)));
    row
}

fn is_disclosed(status: &str) -> bool {
    matches!(status, "revealed" | "masked")
}
