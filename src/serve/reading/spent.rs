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
    let outcome = entry.outcome.as_deref();
    let names_somebody = entry.subject.is_some() || entry.subjects_sha256.is_some();
    let counted = match entry.event {
        // What was reserved stays spent, whatever came of it; what is denied before names nobody.
        Event::Reveal if names_somebody || matches!(outcome, Some("ok" | "failed")) => {
            Counted::Subjects
        }
        Event::Search if outcome == Some("ok") => Counted::Values,
        _ => return None,
    };
    if entry.attempt.is_some_and(|attempt| attempt > 1) {
        return None;
    }
    let anonymous = |count: Option<u64>| {
        vec![Unit::Anonymous; usize::try_from(count.unwrap_or(1)).unwrap_or(1)]
    };
    let units = match (entry.subject, entry.subjects_sha256) {
        (Some(subject), _) => vec![Unit::Reference(subject.0)],
        // Who is named in a side file that is gone is counted all the same.
        (None, Some(name)) => log.subjects(&name).map_or_else(
            || anonymous(entry.subjects),
            |subjects| subjects.iter().map(|SubjectRef(s)| Unit::Reference(*s)).collect(),
        ),
        (None, None) => anonymous(entry.items),
    };
    Some(Disclosure {
        time: line.seconds(),
        principal: Arc::from(entry.actor.as_deref()?),
        purpose: Arc::from(entry.purpose.as_deref()?),
        counted,
        units,
    })
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use ed25519_dalek::SigningKey;
    use veilstream_reading::audit::{AuditLog, Entry, Hex, Settings, Signer, VerifierKey};

    use super::*;
    use crate::config::{Budget, Limit, Policy, Purpose};

    fn limits(most: u64) -> BudgetLimits {
        let purpose = Purpose { name: "support".to_owned(), reason_required: false, pattern: None };
        let most = Limit::Count(most);
        let budget = Budget { purpose: None, subjects: most, values: most };
        let budgets =
            vec![budget.clone(), Budget { purpose: Some("support".to_owned()), ..budget }];
        let policy = Policy { dir: "policies".into(), purposes: vec![purpose], budgets };
        BudgetLimits::new(&policy, NonZeroU32::MIN)
    }

    #[test]
    fn what_was_reserved_stays_spent_over_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("audit.jsonl");
        let recipient = VerifierKey::generate().unwrap().recipient().unwrap();
        let signer = Signer::new(SigningKey::from_bytes(&[7; 32]));
        let log = AuditLog::open(Settings::new(file.clone(), recipient, signer, "test".to_owned()));
        let log = log.unwrap();
        let line = |event, outcome: &str| Entry {
            actor: Some("key:crm".to_owned()),
            purpose: Some("support".to_owned()),
            outcome: Some(outcome.to_owned()),
            items: Some(3),
            ..Entry::new(event)
        };
        let of = |n: u8, entry| Entry { subject: Some(Hex([n; 16])), ..entry };
        log.append(vec![
            of(1, line(Event::Reveal, "ok")),
            // Opened, and nothing of it shown.
            of(2, line(Event::Reveal, "denied")),
            // Denied by policy, and beyond a budget: nothing was reserved.
            line(Event::Reveal, "denied"),
            line(Event::Reveal, "budget"),
            // The same request again.
            Entry { attempt: Some(2), ..line(Event::Reveal, "ok") },
            // Three values; and three that were none.
            line(Event::Search, "ok"),
            line(Event::Search, "failed"),
        ])
        .unwrap();
        let now = crate::keys::now();
        let parts = LogParts::of(&file).unwrap();
        let has_room = |most: u64, counted| {
            let mut budgets = spent_budgets(limits(most), &parts, now).unwrap();
            let unit = Unit::Reference([9; 16]);
            budgets.reserve(now, &"key:crm".into(), &"support".into(), counted, unit).is_ok()
        };
        for (counted, spent) in [(Counted::Subjects, 2), (Counted::Values, 3)] {
            assert!(!has_room(spent, counted), "{counted:?}");
            assert!(has_room(spent + 1, counted), "{counted:?}");
        }
    }
}
