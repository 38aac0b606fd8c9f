//! What the budgets have spent, as the audit log tells it.

use std::sync::Arc;

use veilstream_engine::key::SubjectRef;
use veilstream_reading::audit::{AuditError, Event, Line, LogParts};

use crate::policy::budget::{BudgetLimits, Budgets, Counted, Disclosure, Unit};

/// Seconds that count.
const DAY: u64 = 86_400;

/// Budgets as the last 24 hours of the log left them. A request that was made again counts once.
///
/// # Errors
/// The log cannot be read.
pub fn spent_budgets(
    limits: BudgetLimits,
    log: &LogParts,
    now: u64,
) -> Result<Budgets, AuditError> {
    let mut past = Vec::new();
    log.each(|_, _, line| {
        if line.seconds() >= now.saturating_sub(DAY) {
            past.extend(disclosure(&line, log));
        }
        Ok(())
    })?;
    Ok(Budgets::rebuild(limits, past, now))
}

/// `None`: the line spends nothing.
fn disclosure(line: &Line, log: &LogParts) -> Option<Disclosure> {
    let entry = &line.entry;
    let counted = match entry.event {
        Event::Reveal => Counted::Subjects,
        Event::Search => Counted::Values,
        _ => return None,
    };
    if entry.attempt.is_some_and(|attempt| attempt > 1)
        || !matches!(entry.outcome.as_deref(), Some("ok" | "failed"))
    {
        return None;
    }
    let anonymous =
        || vec![Unit::Anonymous; usize::try_from(entry.items.unwrap_or(1)).unwrap_or(1)];
    let units = match (entry.subject, entry.subjects_sha256) {
        (Some(subject), _) => vec![Unit::Reference(subject.0)],
        // Who is named in a side file that is gone is counted all the same.
        (None, Some(name)) => log.subjects(&name).map_or_else(
            || vec![Unit::Anonymous; usize::try_from(entry.subjects.unwrap_or(1)).unwrap_or(1)],
            |subjects| subjects.iter().map(|SubjectRef(s)| Unit::Reference(*s)).collect(),
        ),
        (None, None) => anonymous(),
    };
    Some(Disclosure {
        time: line.seconds(),
        principal: Arc::from(entry.actor.as_deref()?),
        purpose: Arc::from(entry.purpose.as_deref()?),
        counted,
        units,
    })
}
